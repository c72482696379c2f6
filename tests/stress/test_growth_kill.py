"""Killed in the middle of any change: what was acknowledged is there, what was interrupted is there or not, whole."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from itertools import count

import grower
import mixture
import pytest
from learner import Learner
from survivors import check_survived, last_told

from helpers import HUNG_S


@pytest.mark.parametrize(
    ("durability", "step"),
    [
        ("each", 97),
        ("batch", 89),
        pytest.param("each", 1, marks=pytest.mark.slow),
        pytest.param("batch", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_at_a_system_call_of_a_life(tmp_path, durability, step):
    """Before each call and after it, in the slow form; else at some of them."""
    lives, seen = grower.lives(), set()
    with Learner(timeout_s=HUNG_S + 2000 // step) as learner:
        for kill_at in count(0, step):
            base = tmp_path / "base"
            learner.begin(base, 0, kill_at=kill_at, durability=durability)
            status, told = learner.end()
            n_done, n_begun, dimension = last_told(told)
            if base.exists():
                check_survived(base, dimension, lives[n_done], lives[n_begun], seen)
                shutil.rmtree(base)
            if status == 0:
                break
            assert status == -signal.SIGKILL
    assert n_done == len(grower.STEPS)
    assert seen == {"before", "after"}, "the kills came all before, or all after, what they interrupted"
    assert kill_at > 1000


def kill_a_mixture_at_random(tmp_path, n_kills: int) -> mixture.Record:
    """Four writers do everything at once; one after the other is killed and begins anew, `n_kills` times in all."""
    chance = random.Random(n_kills)
    archives = [str(mixture.archive(tmp_path, key)) for key in (7, 11)]
    record = mixture.Record(tmp_path / "base")
    keys = count(0, 1_000_000)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Learner(timeout_s=HUNG_S + 4 * n_kills)) for _ in range(4)]

        def begin(writer: Learner) -> None:
            mixed = "batch" if writer is writers[0] else "each"
            writer.begin(record.base, next(keys), archives=archives, mixed=mixed)

        def kill(writer: Learner) -> None:
            os.kill(writer.worker, signal.SIGKILL)
            status, told = writer.end()
            assert status == -signal.SIGKILL
            record.enter(told)

        for _ in range(n_kills // 12):
            for writer in writers:
                begin(writer)
            for writer in chance.sample(2 * writers, 8):  # while the others go on
                time.sleep(chance.uniform(0.02, 0.2))
                kill(writer)
                begin(writer)
            time.sleep(chance.uniform(0.02, 0.2))
            for writer in writers:
                kill(writer)
            record.check()
    return record


def test_a_mixture_is_killed_at_random_moments(tmp_path):
    kill_a_mixture_at_random(tmp_path, 12)


@pytest.mark.slow
def test_a_mixture_is_killed_at_many_random_moments(tmp_path):
    record = kill_a_mixture_at_random(tmp_path, 300)
    done = {"shared", "created", "appended", "updated", "removed", "crystallized", "forgotten", "imported"}
    assert all(record.n_told[word] > 10 for word in done)
