"""Trace files: what is written is read back; what is cut off or damaged is said."""

import errno
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import manager

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem.trace import Access, CallSites, TraceWriter, read_trace

HEADER = b"jessy-mem trace 1\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "day.trace"


@pytest.fixture
def small(path):
    """A trace of three accesses; its records begin at 18 (size), 34, 42, 50 (size) and 66."""
    with TraceWriter(path) as trace:
        trace.record(1, 0, 4096)
        trace.record(1, 65535, 4096)
        trace.record(4_000_000_000, 2, 1 << 40)
    return path


@given(
    accesses=st.lists(
        st.builds(Access, st.integers(1, 2**32 - 1), st.integers(0, 65535), st.integers(0, 2**64 - 1)), max_size=50
    )
)
@settings(deadline=None)
def test_round_trip(tmp_path_factory, accesses):
    path = tmp_path_factory.mktemp("round") / "a.trace"
    with TraceWriter(path) as trace:
        for access in accesses:
            trace.record(*access)
        assert trace.n_accesses == len(accesses)
    assert read_trace(path) == accesses
    assert read_trace(str(path)) == accesses


def test_bytes_of_the_format(small):
    assert small.read_bytes() == (
        HEADER
        + bytes.fromhex("01000000 0000 0100 0010000000000000")  # D01 has 4096 bytes
        + bytes.fromhex("01000000 0000 0000 01000000 ffff 0000")
        + bytes.fromhex("00286bee 0000 0100 0000000000010000")
        + bytes.fromhex("00286bee 0200 0000")
    )


def test_size_is_written_once_for_each_generation(path):
    with TraceWriter(path) as trace:
        for n_bytes in (100, 100, 100, 200, 200, 100):
            trace.record(1, 0, n_bytes)
    assert [access.n_bytes for access in read_trace(path)] == [100, 100, 100, 200, 200, 100]
    assert path.stat().st_size == len(HEADER) + 6 * 8 + 3 * 16


def test_equal_accesses_are_one_object(path):
    with TraceWriter(path) as trace:
        for _ in range(3):
            trace.record(1, 0, 4096)
    assert len({id(access) for access in read_trace(path)}) == 1


def test_empty_trace(path):
    TraceWriter(path).close()
    assert read_trace(path) == []
    path.write_bytes(b"")
    assert read_trace(path) == []


def test_every_prefix_is_readable(small):
    data, whole = small.read_bytes(), read_trace(small)
    n_read = []
    for n_bytes in range(len(data) + 1):
        small.write_bytes(data[:n_bytes])
        accesses = read_trace(small)
        assert accesses == whole[: len(accesses)]
        n_read.append(len(accesses))
    assert n_read == [0] * 42 + [1] * 8 + [2] * 24 + [3]


@pytest.mark.parametrize(
    ("offset", "replacement", "named"),
    [
        (0, b"J", "offset 0: not an access trace"),
        (16, b"2", "offset 0: not an access trace of version 1"),
        (24, b"\x07", "offset 18: expected .* kind 7"),
        (18, b"\x02", "offset 34: .* dimension 1, layer 0, kind 0"),
        (34, b"\x09", "offset 34: .* dimension 9, layer 0, kind 0"),
        (50, bytes(8), "offset 50: .* dimension 0"),
        (18, bytes(16), "offset 18: .* dimension 0"),
    ],
)
def test_damage_is_named_with_path_and_offset(small, offset, replacement, named):
    data = bytearray(small.read_bytes())
    data[offset : offset + len(replacement)] = replacement
    small.write_bytes(data)
    with pytest.raises(ValueError, match=named) as caught:
        read_trace(small)
    assert str(small) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "noise.trace"
    path.write_bytes(HEADER + data)
    try:
        read_trace(path)
    except ValueError as error:
        assert "damaged at offset" in str(error)  # noqa: PT017


def test_missing_file(path):
    with pytest.raises(FileNotFoundError):
        read_trace(path)
    with pytest.raises(FileNotFoundError):
        TraceWriter(path / "deeper")


def test_writer_replaces_an_older_trace(small):
    TraceWriter(small).close()
    assert read_trace(small) == []


def test_flush_makes_what_was_recorded_readable(path):
    with TraceWriter(path) as trace:
        trace.record(1, 0, 4096)
        assert read_trace(path) == []
        trace.flush()
        assert read_trace(path) == [(1, 0, 4096)]


def test_long_trace_is_written_in_parts(path):
    with TraceWriter(path) as trace:
        for i in range(50_000):
            trace.record(1 + i % 100, i % 7, 4096)
        assert 40_000 < len(read_trace(path)) < 50_000  # the rest is kept, and is no more than 64 KiB
    assert read_trace(path) == [(1 + i % 100, i % 7, 4096) for i in range(50_000)]


def test_record_after_close_does_nothing(path):
    trace = TraceWriter(path)
    trace.record(1, 0, 4096)
    trace.close()
    trace.record(1, 1, 4096)
    trace.flush()
    trace.close()
    assert read_trace(path) == [(1, 0, 4096)]


def test_threads_lose_no_access(path):
    n_threads, n_accesses = 4, 20_000

    def read(dimension):
        for i in range(n_accesses):
            trace.record(dimension, i % 65536, dimension * 4096 + i % 3)

    with TraceWriter(path) as trace:
        threads = [threading.Thread(target=read, args=(1 + i,)) for i in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    accesses = read_trace(path)
    assert len(accesses) == n_threads * n_accesses
    for dimension in range(1, 1 + n_threads):
        own = [access for access in accesses if access.dimension == dimension]
        assert own == [(dimension, i % 65536, dimension * 4096 + i % 3) for i in range(n_accesses)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_fails_the_close_and_no_access():
    trace = TraceWriter("/dev/full")
    for _ in range(20_000):
        trace.record(1, 0, 4096)
    assert trace.n_accesses < 20_000  # what cannot be written is not kept
    with pytest.raises(OSError, match="No space left") as caught:
        trace.close()
    assert caught.value.errno == errno.ENOSPC
    trace.close()


def test_crash_leaves_a_readable_beginning(path):
    script = f"""
import os
from jessy_mem.trace import TraceWriter
trace = TraceWriter({str(path)!r})
for i in range(20_000):
    trace.record(1, i, 4096)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    accesses = read_trace(path)
    assert 10_000 < len(accesses) < 20_000
    assert accesses == [(1, i, 4096) for i in range(len(accesses))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_writes_nothing_and_does_not_hang(path):
    script = f"""
import os
from jessy_mem.trace import TraceWriter
with TraceWriter({str(path)!r}) as trace:
    trace.record(1, 0, 4096)
    with trace._lock:  # as another thread might, at a moment that no test can choose
        child = os.fork()
    if child == 0:
        trace.record(1, 1, 4096)
        trace.flush()
    else:
        assert os.waitpid(child, 0)[1] == 0
        trace.record(1, 2, 4096)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HUNG_S)
    assert read_trace(path) == [(1, 0, 4096), (1, 2, 4096)]


def test_manager_writes_the_accesses_inside_the_context(world, path):
    world.write_all(1, 2)
    sizes = {dimension: world.path(dimension).stat().st_size for dimension in (1, 2)}
    with manager(world) as memory:
        memory.load_all()
        memory.access_layer((1, 0))
        with memory.record_trace(path) as trace:
            memory.access_layer((2, 3))
            memory.access_layer((1, 1))
            assert trace.n_accesses == 2
        memory.access_layer((1, 2))
    assert read_trace(path) == [(2, 3, sizes[2]), (1, 1, sizes[1])]


def test_manager_stops_to_write_when_the_context_is_left_by_an_error(world, path):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        with pytest.raises(jm.LayerNotFound), memory.record_trace(path):
            memory.load_context((1, 0)) and memory.access_layer((2, 0))
        memory.access_layer((1, 1))
    assert [access.layer for access in read_trace(path)] == [0]
    with pytest.raises(jm.ManagerClosed), memory.record_trace(path):
        pass


def test_places_are_noted_by_many_threads_while_others_look():
    """Which of two places at once is kept is not promised; that nothing fails is."""
    sites, stop, failed = CallSites(), threading.Event(), []
    source = "def many(record):\n" + "    record()\n" * 40

    def note(number):
        names = {}
        exec(compile(source, f"place {number}", "exec"), names)
        record = lambda: (lambda: sites.record(1, 0, 100))()  # noqa: E731
        while not stop.is_set():
            try:
                names["many"](record)
            except Exception as error:
                failed.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=note, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2000):
            assert len(sites.of(1)) <= 16
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
