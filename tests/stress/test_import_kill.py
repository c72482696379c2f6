"""Killed in the middle of an import: each dimension is what it was or was to become, and the next import goes on."""

from __future__ import annotations

import shutil
import signal
from itertools import count
from unittest import mock

import pytest
from learner import Learner
from world import content_of, manager

import jessy_mem as jm
from helpers import HUNG_S

Contents = dict[int, dict[int, bytes]]  # dimension -> layer -> content


def learn(base, **layers: int) -> None:
    """Dimensions by name, each with that many layers, of which all but the first are deltas."""
    with manager(base) as memory:
        for key, (name, n_layers) in enumerate(layers.items()):
            dimension = memory.ensure_dimension(name)
            for layer in range(n_layers):
                content = content_of(key, layer, n_layers, n_bytes=100 if layer else 5000)
                memory.append_layer(dimension, jm.LayerSpec(content=content))


def contents(base) -> Contents:
    found: Contents = {}
    with manager(base) as memory:
        memory.load_all()
        for layer_id, view in memory.items():
            found.setdefault(layer_id.dimension, {})[layer_id.layer] = bytes(view)
        assert all(memory.region(dimension).verify() == [] for dimension in found)
    return found


@pytest.fixture
def archive(tmp_path):
    learn(tmp_path / "other", same=2, other=3, new=3, single=1)
    jm.export_base(tmp_path / "other", tmp_path / "other.tar")
    return tmp_path / "other.tar"


@pytest.mark.parametrize("step", [199, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_a_system_call_of_an_import(tmp_path, archive, step):
    learn(tmp_path / "before", same=2, other=5)
    before, after = contents(tmp_path / "before"), contents(tmp_path / "other")
    assert before[15] == after[15]
    assert before[16] != after[16]
    seen = set()
    with Learner(timeout_s=HUNG_S + 2000 // step) as learner:
        for kill_at in count(0, step):
            base = tmp_path / "base"
            shutil.copytree(tmp_path / "before", base)
            learner.begin(base, 0, archive=str(archive), kill_at=kill_at)
            status, _ = learner.end()
            found = contents(base)
            for dimension in after:
                assert found.get(dimension) in (before.get(dimension), after[dimension]), "it is half there"
            jm.clean(jm.examine(base))
            assert jm.examine(base) == []
            assert contents(base) == found
            seen.add(tuple(found.get(dimension) == after[dimension] for dimension in after))
            with mock.patch("os.fsync"):
                done = jm.import_base(archive, base, replace_existing=True)
            assert contents(base) == after
            assert sorted(done.added + done.replaced + done.unchanged) == sorted(after)
            assert jm.examine(base) == []
            shutil.rmtree(base)
            if status == 0:
                break
            assert status == -signal.SIGKILL
    assert kill_at > 500
    nothing, all_of_it = (True, False, False, False), (True,) * 4
    between = {(True, True, False, False), (True, True, True, False)}
    assert seen == {nothing, all_of_it, *between} if step == 1 else {nothing, all_of_it} <= seen
