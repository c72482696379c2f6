"""Several processes learn in one base folder at once: no id twice, no file overwritten, nothing whole removed."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from learner import Learner, Ledger
from world import manager

import jessy_mem as jm

N_DIMENSIONS = 60


@pytest.mark.parametrize("n_processes", [2, 4])
def test_processes_learn_at_once(tmp_path, n_processes):
    ledger = Ledger(tmp_path)
    with ExitStack() as stack:
        learners = [stack.enter_context(Learner()) for _ in range(n_processes)]
        for number, learner in enumerate(learners):
            learner.begin(tmp_path, number * 1000, user=number == 3, n=N_DIMENSIONS)
        ends = [learner.end() for learner in learners]
    assert [status for status, _ in ends] == [0] * n_processes
    told = [each for _, each in ends]
    ids = [{dimension for _, dimension, _ in each} for each in told]
    assert [len(each) for each in ids] == [N_DIMENSIONS] * n_processes
    assert len(set().union(*ids)) == N_DIMENSIONS * n_processes, "an id was given twice"
    for each in told:
        ledger.enter(each)
    assert len(ledger.durable) == N_DIMENSIONS * n_processes * 2 / 3
    assert jm.examine(tmp_path) == []
    ledger.check()
    ledger.check_loading()


def test_others_read_and_clean_while_two_processes_learn(tmp_path):
    """Reading takes no lock, and cleaning takes nothing that is just being written."""
    ledger = Ledger(tmp_path)
    n_seen = 0
    with Learner() as one, Learner() as other, manager(tmp_path) as memory:
        one.begin(tmp_path, 0, n=N_DIMENSIONS)
        other.begin(tmp_path, 1000, n=N_DIMENSIONS)
        dimension = memory.create_proto_dimension("Mine", [jm.LayerSpec(text="mine")])
        memory.crystallize(dimension)
        while n_seen < N_DIMENSIONS:
            jm.clean(jm.examine(tmp_path))
            report = memory.load_all()
            # Not yet written, or forgotten again: that, and nothing else.
            errors = {type(error) for found, error in report.skipped.items() if found >= 15}
            assert errors <= {jm.DimensionNotFound}
            n_seen = len(report.loaded)
        ends = [one.end(), other.end()]
    assert [status for status, _ in ends] == [0, 0]
    for _, told in ends:
        ledger.enter(told)
    assert dimension not in ledger.keys
    for each in ledger.durable:
        ledger.check_file(each)
    assert jm.examine(tmp_path) == []
