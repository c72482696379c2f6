"""Looking at a folder that others change meanwhile; what is found there otherwise is tested through the CLI."""

from __future__ import annotations

import shutil
from unittest import mock

import jessy_mem as jm
from jessy_mem import doctor


def region(base, dimension: int):
    return (
        jm.RegionBuilder(dimension, "Kept").add_layer(jm.LayerSpec(text="kept")).write(jm.region_path(base, dimension))
    )


def test_examine_while_a_region_is_forgotten(tmp_path):
    region(tmp_path, 15)
    forgotten = region(tmp_path, 16).parent
    seen = []

    def forget(done_bytes, total_bytes):
        seen.append(done_bytes)
        shutil.rmtree(forgotten, ignore_errors=True)

    assert jm.examine(tmp_path, forget) == []
    assert seen


def test_examine_while_a_folder_goes(tmp_path):
    region(tmp_path, 15)
    gone = region(tmp_path, 16).parent
    folders = doctor._folders(tmp_path)
    shutil.rmtree(gone)
    with mock.patch.object(doctor, "_folders", return_value=folders):
        assert jm.examine(tmp_path) == []
