"""Ctrl-C at any point where CPython can take one, in every call of a manager: it is as before, or done, and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from deeds import DEEDS, Trial, make_template, quick
from interrupts import Interrupt

pytestmark = [
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="some functions are not traced by instruction from 3.12 on"),
    pytest.mark.thread_unsafe(reason="descriptors are of the process, and a trace function of its thread"),
    pytest.mark.filterwarnings("ignore:.*ended, and lost:ResourceWarning"),
]

STRIDE = 97  # of the points tried by default: a prime, so that loops are not met at the same place each time


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_template(tmp_path_factory.mktemp("interrupts") / "base")


def sweep(name: str, stride: int, template: Path, root: Path) -> list[str]:
    """What is wrong after an interrupt at each point (but see `Interrupt.distinct`), or at some."""
    found = []
    with quick():
        clean = Trial(name, Interrupt(), template, root / "clean")
        assert clean.problems == []
        assert clean.fault.n_points
        for number in clean.fault.distinct() if stride == 1 else range(0, clean.fault.n_points, stride):
            interrupt = Interrupt(number)
            trial = Trial(name, interrupt, template, root / str(number), clean)
            found += [f"{number}, {interrupt.where}: {problem}" for problem in trial.problems]
    return found


@pytest.mark.parametrize("name", DEEDS)
def test_an_interrupt_leaves_a_manager_that_works(name, template, tmp_path):
    assert sweep(name, STRIDE, template, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEDS)
def test_an_interrupt_at_every_point(name, template, tmp_path):
    assert sweep(name, 1, template, tmp_path) == []
