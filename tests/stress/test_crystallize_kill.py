"""Killed at any point: what was acknowledged is complete, what was interrupted is whole or absent, nothing is stray."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import count

import pytest
from learner import Learner, Ledger

ROUNDS_OF_ONE_FOLDER = 10


def kill_at_random(tmp_path, n_rounds: int) -> Ledger:
    """Let a process learn and kill it, `n_rounds` times; returns what is known of the last folder."""
    chance = random.Random(n_rounds)
    n_durable = 0
    with Learner() as learner:
        for number in range(n_rounds):
            if number % ROUNDS_OF_ONE_FOLDER == 0:
                ledger = Ledger(tmp_path / f"{number}")
            pid = learner.begin(ledger.base, number * 100_000, user=number % 4 == 3, n=None)
            time.sleep(chance.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            status, told = learner.end()
            assert status == -signal.SIGKILL
            ledger.enter(told)
            if ledger.base.exists():
                ledger.check()
                n_durable += len(ledger.durable)
            if number % ROUNDS_OF_ONE_FOLDER == ROUNDS_OF_ONE_FOLDER - 1:
                ledger.check_loading()
    assert n_durable, "killed before anything was written, each time"
    return ledger


def test_killed_at_random_moments(tmp_path):
    kill_at_random(tmp_path, 40)


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path):
    kill_at_random(tmp_path, 300)


@pytest.mark.parametrize(("user", "step"), [(False, 17), pytest.param(False, 1, marks=pytest.mark.slow), (True, 19)])
def test_killed_at_a_system_call(tmp_path, user, step):
    """Before each call of crystallize and of forget, amid a write, and after it, in the slow form; else at some."""
    ledger = Ledger(tmp_path)
    outcomes = set()
    with Learner() as learner:
        for n_killed in count():
            learner.begin(tmp_path, 2 * n_killed, user, kill_at=step * n_killed)
            status, told = learner.end()
            ledger.enter(told)
            interrupted = set(ledger.open)
            ledger.check()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            outcomes |= {(told[-1][0], dimension in ledger.durable) for dimension in interrupted}
    assert step * n_killed > 100
    ledger.check_loading()
    # Both came to both ends: the file was there in time, or it was not.
    assert outcomes == {("created", False), ("created", True), ("forgetting", False), ("forgetting", True)}
