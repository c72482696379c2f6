"""Whatever allocation gets no memory, in whichever call of a manager: it happened, or it did not, and all goes on.

tests/shortage.py lets the first allocation fail, then the second, until none is reached: Python's, Cython's, C's and
those of the libraries, for Python is told to ask malloc for everything. Each trial is a process of its own.
"""

from __future__ import annotations

import sys
import sysconfig
from collections import Counter

import pytest
from deeds import DEEDS
from failing import COMPILER, compiled, swept

ONE_EACH, MANY_EACH = 100_000, 23

pytestmark = [
    pytest.mark.thread_unsafe(reason="all of it is another process"),
    pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler"),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it does not ask malloc without the GIL"
    ),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("failing"))


def sweep(library, step: int, *names: str) -> list[dict]:
    return swept(library, "shortage", step, *names, PYTHONMALLOC="malloc")


def check(found: list[dict]) -> Counter:
    """How many allocations failed in each call; those that were spared (tests/failing.h) are none of them."""
    assert [each for each in found if each["wrong"]] == []
    assert set(DEEDS) - {each["call"] for each in found} <= {"sync"}, "which on 3.14 asks for nothing"
    return Counter(each["call"] for each in found if not each["spared"])


def test_a_call_that_gets_no_memory_happens_or_not(library):
    assert check(sweep(library, ONE_EACH)).total() > len(DEEDS) // 2


@pytest.mark.slow
def test_a_call_that_gets_no_memory_anywhere_happens_or_not(library):
    n_failed = check(sweep(library, MANY_EACH))
    assert len(n_failed) > 0.9 * len(DEEDS)  # where hardly anything is asked for, all of it may be spared
    assert n_failed.total() > 600
