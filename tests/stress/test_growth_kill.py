"""Killed in the middle of any change: what was acknowledged is there, what was interrupted is there or not, whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time

import grower
import pytest
from learner import Learner
from survivors import check_survived, last_told
from world import content_of, manager

import jessy_mem as jm
from helpers import HUNG_S


@pytest.mark.parametrize(
    ("durability", "step"),
    [
        ("each", 8),
        ("batch", 9),
        pytest.param("each", 1, marks=pytest.mark.slow),
        pytest.param("batch", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_before_a_system_call_of_a_life(tmp_path, durability, step):
    """Before each `step`th of them; before every one in the slow form."""
    lives, seen = grower.lives(), set()
    with Learner() as learner:
        for kill_before in range(0, 10_000, step):
            base = tmp_path / f"{kill_before}"
            learner.begin(base, 0, kill_before=kill_before, durability=durability)
            status, told = learner.end()
            n_done, n_begun, dimension = last_told(told)
            if base.exists():
                check_survived(base, dimension, lives[n_done], lives[n_begun], seen)
            if status == 0:
                break
    assert n_done == len(grower.STEPS)
    assert seen == {"before", "after"}, "the kills came all before, or all after, what they interrupted"


def kill_writers_at_random(tmp_path, n_rounds: int) -> None:
    """Four processes append to one dimension and remove from it, and are killed, `n_rounds` times each.

    More often, if each time they were killed before they had written anything.
    """
    chance = random.Random(n_rounds)
    appended: dict[int, int] = {}  # layer -> key, acknowledged
    gone: set[int] = set()
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Learner(timeout_s=HUNG_S + 20 * n_rounds)) for _ in range(4)]
        for number in itertools.count():
            if number >= n_rounds and appended.keys() - gone:
                break
            pids = [
                writer.begin(tmp_path, 1_000_000 * i + 1000 * number, shared="Shared")
                for i, writer in enumerate(writers)
            ]
            time.sleep(chance.uniform(0.05, 0.3))
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # what ended by itself is told by its status
                    os.kill(pid, signal.SIGKILL)
            for writer in writers:
                status, told = writer.end()
                assert status == -signal.SIGKILL
                for word, layer, key in told:
                    if word == "appended":
                        assert layer not in appended, "a number was given twice"
                        appended[layer] = key
                    else:  # from when it begins it may be gone
                        gone.add(layer)
    jm.clean(jm.examine(tmp_path))
    with manager(tmp_path) as memory:
        dimension = memory.find("Shared")
        region = memory.load_dimension(dimension)
        assert region.verify() == []
        there = {layer.layer for layer in region.layers()}
        assert there >= appended.keys() - gone, "what was acknowledged is gone"
        for layer in there & appended.keys():
            key = appended[layer]
            assert bytes(memory.access_layer((dimension, layer))) == content_of(key, key, n_bytes=grower.N_BYTES)
        del region


def test_writers_killed_at_random_moments(tmp_path):
    kill_writers_at_random(tmp_path, 5)


@pytest.mark.slow
def test_writers_killed_at_many_random_moments(tmp_path):
    kill_writers_at_random(tmp_path, 75)
