"""Whatever call of the system fails, in whichever public call: a typed error, nothing changed, nothing leaked.

One table of calls, and one of faults, in tests/sweeper.py: the first `open` fails, then the second, until there is none
left; and so with the others. Each fault asserts that it was reached.
"""

from __future__ import annotations

import os
import subprocess
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


SEALED = """
import ctypes, errno, os, sys
from jessy_mem._core.mapping import Mapping
fd = os.memfd_create("sealed")
os.write(fd, b"x" * 5000)
library = ctypes.CDLL(os.environ["LD_PRELOAD"])
library.failing_arm(int(sys.argv[1]), 0, errno.EPERM)
mapping = Mapping(5000, fd)
library.failing_disarm()
assert bytes(memoryview(mapping)) == b"x" * 5000
print(*[line for line in open("/proc/self/maps") if "memfd:sealed" in line])
"""


def test_sealed_memory_is_mapped_privately_where_it_cannot_be_shared(library):
    """Linux before 6.7 refuses a shared mapping of write-sealed memory, even a read-only one."""
    number = str(list(sweeper.KINDS).index("mmap"))
    environment = os.environ | {"LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", SEALED, number], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "r--p"


def test_what_is_wrong_is_told(library):
    """The sweep can fail: with a table that allows nothing, what a call leaves behind is seen."""
    (forgetting,) = [each for each in sweep(library, 1, "forget, strictly") if each["kind"] == "fsync"]
    assert any("changed files" in text for texts in forgetting["wrong"].values() for text in texts)
