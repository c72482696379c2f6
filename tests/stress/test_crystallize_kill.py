"""Killed at any point: what was acknowledged is complete, what was interrupted is whole or absent, nothing is stray."""

from __future__ import annotations

import signal
from itertools import count

import pytest
from learner import Learner, Ledger


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
