"""Whatever call of the system fails, in whichever public call: a typed error, nothing changed, nothing leaked.

One table of calls, and one of faults, in tests/sweeper.py: the first `open` fails, then the second, until there is none
left; and so with the others. Each fault asserts that it was reached.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import sweeper
from failing import COMPILER, compiled, swept

pytestmark = [
    pytest.mark.thread_unsafe(reason="all of it is another process"),
    pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("failing"))


def sweep(library, step: int, *names: str) -> list[dict]:
    return swept(library, "sweeper", step, *names)


def check(found: list[dict]) -> Counter:
    """How many faults of each kind there were."""
    assert [each for each in found if each["wrong"]] == []
    assert {each["call"] for each in found} == set(sweeper.CALLS)
    return sum((Counter({each["kind"]: each["n"]}) for each in found), Counter())


def test_some_calls_of_the_system_fail_in_every_public_call(library):
    assert check(sweep(library, 6)).total() > 40


@pytest.mark.slow
def test_each_call_of_the_system_fails_in_every_public_call(library):
    n_faults = check(sweep(library, 1))
    assert set(n_faults) == set(sweeper.KINDS)
    assert n_faults.total() > 300


def test_what_is_wrong_is_told(library):
    """The sweep can fail: with a table that allows nothing, what a call leaves behind is seen."""
    (forgetting,) = [each for each in sweep(library, 1, "forget, strictly") if each["kind"] == "fsync"]
    assert any("changed files" in text for texts in forgetting["wrong"].values() for text in texts)
