"""Folders that others change meanwhile, that are no base, and links that lead nowhere; the rest through the CLI."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from commands import run

import jessy_mem as jm


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


def test_examine_while_a_folder_goes(tmp_path, inject):
    """Both folders were listed; the second goes when the first is looked at."""
    first = region(tmp_path, 15)
    gone = region(tmp_path, 16).parent
    lexists = os.path.lexists

    def look(path):
        if path == first:
            shutil.rmtree(gone)
        return lexists(path)

    with inject.instead("os.path.lexists", look):
        assert jm.examine(tmp_path) == []
    assert not gone.exists()


def kinds(base) -> list[tuple[str, str]]:
    return [(str(finding.path.relative_to(base)), finding.kind) for finding in jm.examine(base)]


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize("leftover", ["", "notes.txt", "d15/region.mmap", "sub/D15/region.mmap"])
def test_a_folder_without_dimensions_is_no_base(leftover, tmp_path):
    if leftover:
        (tmp_path / leftover).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / leftover).write_text("x")
    (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path, finding.removable) == ("no dimension", tmp_path, False)
    assert "Dnn/region.mmap" in finding.detail
    assert "build" in finding.detail
    for command in ("doctor", "verify", "inspect"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "Dnn/region.mmap" in result.output
    assert run("doctor", tmp_path, "--clean").exit_code == 1


def test_a_base_whose_last_dimension_was_forgotten_is_sound(tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        dimension = memory.create_proto_dimension("Gone", [jm.LayerSpec(text="x")])
        memory.crystallize(dimension)
        memory.forget(dimension)
    assert jm.examine(tmp_path) == []


BROKEN = {
    "a link of the folder": ("D32", "nowhere"),
    "a link of the file": ("D32/region.mmap", "../gone"),
    "a loop": ("D32", "D32"),
    "a link to a file": ("D32", "D15/region.mmap"),
}


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize(("place", "target"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_named(place, target, tmp_path):
    region(tmp_path, 15)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(target)
    assert kinds(tmp_path) == [(place, "unreadable")]
    for command in ("doctor", "verify", "inspect"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "D32" in result.output
        assert "D00" not in result.output
    if target in ("nowhere", "../gone"):
        assert f"a link to {target}, which is not there" in run("verify", tmp_path).output
    assert run("verify", tmp_path / "D15").exit_code == 0


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    region(tmp_path, 15)
    (tmp_path / "D32").write_text("x")
    assert kinds(tmp_path) == [("D32", "unreadable")]
    assert "D32" in run("verify", tmp_path).stdout


def test_verify_of_a_file_that_is_not_there(tmp_path):
    (error,) = jm.verify_region(tmp_path / "region.mmap")
    assert error.errno == errno.ENOENT
    (error,) = jm.verify_region(tmp_path / "region.mmap", 32)
    assert isinstance(error, jm.DimensionNotFound)
    assert error.dimension == 32


def test_folder_that_cannot_be_looked_at_is_a_finding(tmp_path, inject):
    path = region(tmp_path, 15)
    with inject(OSError(errno.EIO, "I/O error"), "os.path.lexists", for_good=False):
        (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path, finding.detail) == ("unreadable", path.parent, "I/O error")
    assert str(finding) == f"{path.parent}: unreadable: I/O error"
