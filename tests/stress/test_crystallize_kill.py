"""Killed at any point: what was acknowledged is complete, what was interrupted is whole or absent, nothing is stray."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time

import pytest
from learner import Learner, Ledger

ROUNDS_OF_ONE_FOLDER = 10


def kill_at_random(tmp_path, n_rounds: int) -> Ledger:
    """Let a process learn and kill it, `n_rounds` times; returns what is known of the last folder.

    More often, if each time it was killed before it had written anything.
    """
    chance = random.Random(n_rounds)
    n_durable = 0
    with Learner() as learner:
        for number in itertools.count():
            if number >= n_rounds and n_durable:
                break
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
    return ledger


def test_killed_at_random_moments(tmp_path):
    kill_at_random(tmp_path, 40)


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path):
    kill_at_random(tmp_path, 300)


@pytest.mark.parametrize("user", [False, True])
def test_killed_before_each_system_call(tmp_path, user):
    """Before the first call of crystallize and of forget, before the second, and so on, and amid a write."""
    n_killed = 0
    ledger = Ledger(tmp_path)
    outcomes = set()
    with Learner() as learner:
        while True:
            learner.begin(tmp_path, 2 * n_killed, user, kill_before=n_killed)
            status, told = learner.end()
            ledger.enter([each for each in told if each[0] != "calls"])
            interrupted = set(ledger.open)
            ledger.check()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            (dimension,) = interrupted
            outcomes.add((told[-1][0], dimension in ledger.durable))
            n_killed += 1
    assert told[-1][0] == "calls"
    assert n_killed == told[-1][1] > 30
    ledger.check_loading()
    # Both came to both ends: the file was there in time, or it was not.
    assert outcomes == {("created", False), ("created", True), ("forgetting", False), ("forgetting", True)}
