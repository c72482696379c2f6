"""What kills a process at a system call, and what looks at a folder after kills, shown to work and to fail."""

from __future__ import annotations

import os
import signal
import threading
from itertools import count

import mixture
import pytest
import stopping
from mixture import place, spec
from world import manager

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def killed_at(deed, number: int) -> int:
    """Do it in a child whose status is 3 at its end."""
    pid = os.fork()
    if pid == 0:
        with stopping.half_writes(), stopping.calls_are_stops():
            deed()
        os._exit(3)
    status = stopping.kill_at(pid, number)
    if status == stopping.REFUSED:
        pytest.skip("nobody may trace a child here")
    return status


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.thread_unsafe(reason="a forked child keeps the pipes of all threads open")
def test_child_is_killed_before_and_after_each_call_and_amid_a_write(tmp_path):
    found, status = [], -signal.SIGKILL
    for number in count():
        fd = os.open(tmp_path / f"{number}", os.O_WRONLY | os.O_CREAT)
        status = killed_at(lambda fd=fd: os.write(fd, b"abcd"), number)
        os.close(fd)
        found.append((tmp_path / f"{number}").read_bytes())
        if status != -signal.SIGKILL:
            break
    assert status == 3
    assert sorted(set(found)) == [b"", b"ab", b"abcd"]
    assert found == sorted(found)
    assert found.count(b"ab") == 2, "after the first half, and before the second"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.thread_unsafe(reason="a forked child keeps the pipes of all threads open")
def test_calls_of_other_threads_are_stops():
    def call():
        thread = threading.Thread(target=lambda: [os.getppid() for _ in range(1000)])
        thread.start()
        thread.join()

    assert killed_at(call, 1900) == -signal.SIGKILL
    assert killed_at(call, 10_000) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.thread_unsafe(reason="a forked child keeps the pipes of all threads open")
def test_signal_that_is_not_of_the_tracing_reaches_the_child():
    assert killed_at(lambda: os.kill(os.getpid(), signal.SIGUSR1), 10_000) == -signal.SIGUSR1


@pytest.fixture
def record(tmp_path):
    """Of a folder with D1000, which has one layer of key 5."""
    with manager(tmp_path) as memory:
        memory.append_layer(memory.ensure_dimension("shared 0", user=True), spec(5))
    record = mixture.Record(tmp_path)
    record.enter([("shared", 1000, 0), ("appended", place(1000, 0), 5)])
    return record


def test_record_of_what_is_there_is_content(record):
    record.check()
    record.enter([("removing", place(1000, 0), 0), ("updating", place(1000, 0), 6), ("extending", 1000, 7)])
    record.enter([("created", 1001, 8), ("forgetting", 1000, 0)])  # all of it interrupted before it was done
    record.check()
    record.check()


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([("shared", 1000, 1)], "id 1000 was given twice"),
        ([("appended", place(1000, 0), 6)], "layer 0 of D1000 was given twice"),
        ([("appended", place(1000, 1), 6)], "an acknowledged layer is gone"),
        ([("updated", place(1000, 0), 6)], "another layer than was acknowledged"),
        ([("removing", place(1000, 0), 0), ("removed", place(1000, 0), 0)], "a removed layer is back"),
        ([("extending", 1000, 4)], "half of an extend"),
        ([("created", 1001, 9), ("crystallized", 1001, 9)], "an acknowledged dimension is gone"),
        ([("shared", 1001, 1)], "a name is gone"),
        ([("forgetting", 1000, 0), ("forgotten", 1000, 0)], "a forgotten dimension is back"),
        ([("imported", 0, 0)], "what was imported is gone"),
    ],
)
def test_record_of_what_is_not_there_says_so(record, told, problem):
    def look():
        record.enter(told)
        record.check()

    with pytest.raises(AssertionError, match=problem):
        look()
