"""guard="lease": who wants to change a mapped file waits until its bytes were copied to the address that they have."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import jessy_mem as jm
from helpers import HAS_PROC, open_files
from jessy_mem import forking, leases

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
TEXTS = [f"layer {number} " * 3000 for number in range(4)]


@functools.cache
def region_bytes() -> bytes:
    builder = jm.RegionBuilder(15, "Humor")
    for text in TEXTS:
        builder.add_layer(jm.LayerSpec(text=text))
    return builder.to_bytes()


def lease_is_given(folder) -> bool:
    path = folder / "asked"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_RDONLY)
    try:
        leases.take_lease(fd, str(path))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def await_watcher() -> None:
    """Who changed a file goes on just before the watcher closes its descriptor."""
    with leases._lock:  # private: it is held until that is done
        pass


@pytest.fixture
def path(tmp_path):
    if not lease_is_given(tmp_path):
        pytest.skip("the system gives no lease here")
    path = tmp_path / "D15" / "region.mmap"
    path.parent.mkdir()
    path.write_bytes(region_bytes())
    yield path
    await_watcher()


def test_file_that_is_opened_for_writing_as_it_is_mapped_is_not_leased(path, inject):
    def and_open(plain):
        def taken(fd, name):
            lease = plain(fd, name)
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            lease.serve()
            return lease

        return taken

    # Private: the moment between the lease and the mapping.
    with inject.around("jessy_mem._core.mapped.take_lease", and_open):
        with pytest.raises(jm.MappingError, match="no lease: somebody opens it for writing"):
            jm.MmapRegion(15, path, guard="lease")
        with jm.MmapRegion(15, path, guard="auto") as region:
            assert region.guard == "reads"


def other(source: str) -> None:
    subprocess.run([sys.executable, "-c", f"import os; {source}"], check=True, timeout=600)


@pytest.mark.parametrize(
    "change",
    [
        "os.truncate({!r}, 0)",
        "os.truncate({!r}, 5000)",
        "open({!r}, 'wb').write(b'z' * 9)",
        "open({!r}, 'r+b').write(b'z' * 999)",
    ],
)
def test_everything_keeps_its_bytes(change, path):
    with jm.MmapRegion(15, path, guard="lease") as region:
        assert region.guard == "lease"
        touched = region.layer(0)
        raw, array = memoryview(region), np.frombuffer(touched, np.uint8)
        address = array.ctypes.data
        other(change.format(str(path)))
        assert region.guard == "copy"
        assert bytes(raw) == region_bytes()
        assert (array.ctypes.data, array.tobytes().decode()) == (address, TEXTS[0])
        assert [region.layer(number).text for number in range(4)] == TEXTS
        assert region.verify() == []


def line_of(address: int) -> str:
    """What /proc/self/maps says of the memory there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(each, 16) for each in line.split()[0].split("-"))
        if begin <= address < end:
            return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


def address_of(region) -> int:
    return np.frombuffer(region, np.uint8).ctypes.data


NO_MEMFD = [errno.EMFILE, errno.ENFILE, errno.ENOSYS, errno.EPERM]


@needs_proc
@pytest.mark.parametrize("refusal", [None, *NO_MEMFD], ids=["sealed", *(errno.errorcode[each] for each in NO_MEMFD)])
def test_bytes_move_to_sealed_memory_or_to_memory_of_this_process(refusal, path, inject):
    before = open_files()
    with jm.MmapRegion(15, path, guard="lease") as region:
        raw, address, was = memoryview(region), address_of(region), line_of(address_of(region))
        assert was.endswith("/region.mmap")
        refused = inject(OSError(refusal, os.strerror(refusal)), "os.memfd_create") if refusal else nullcontext()
        with refused:
            other(f"os.truncate({str(path)!r}, 0)")
        await_watcher()
        assert (region.guard, address_of(region), bytes(raw)) == ("copy", address, region_bytes())
        kind, line = ("r--p", "") if refusal else ("r--s", "/memfd:jessy_mem (deleted)")
        assert line_of(address).split(maxsplit=5)[1::4] == [kind, *[line] * bool(line)]
        assert open_files() == before, "the lease is given back, and the copy has no descriptor"
        del raw


def test_copy_for_which_there_is_no_memory(path, inject, caplog):
    caplog.set_level("INFO", "jessy_mem")
    with jm.MmapRegion(15, path, guard="lease") as region:
        # Private: where nothing else of the process asks for memory.
        with inject(OSError(errno.ENOMEM, "no memory"), "jessy_mem.sealed.Mapping"):
            other(f"os.truncate({str(path)!r}, 0)")
        await_watcher()
        assert region.guard == "reads"
        while not caplog.messages:  # the last that the watcher does
            time.sleep(0.001)
        assert caplog.messages[-1].endswith("they could not be copied: [Errno 12] no memory")
        with pytest.raises(jm.RegionTruncated):
            bytes(region.layer(3))


def test_charge_of_what_moved_stays_and_goes_with_it(path, tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never", guard="lease") as memory:
        region = memory.load_dimension(15)
        charged = memory.get_stats().total_allocated_bytes
        os.truncate(path, 0)
        assert (region.guard, memory.get_stats().total_allocated_bytes) == ("copy", charged)
        del region
        memory.unload_dimension(15)
        assert memory.get_stats().total_allocated_bytes == charged - len(region_bytes())


def test_fork_waits_for_a_copy(path, inject):
    """A child would keep the half of it, and its descriptor, that no thread of its own lets go of."""
    free = []

    def asking(plain):
        def sendfile(*args):
            asker = threading.Thread(target=lambda: free.append(forking.fork_lock.acquire(blocking=False)))
            asker.start()
            asker.join()
            return plain(*args)

        return sendfile

    with jm.MmapRegion(15, path, guard="lease") as region:
        with inject.around("os.sendfile", asking):
            other(f"os.truncate({str(path)!r}, 0)")
        assert (region.guard, free) == ("copy", [False])


def test_own_process_may_change_the_file(path):
    with jm.MmapRegion(15, path, guard="lease") as region:
        raw = memoryview(region)
        os.truncate(path, 0)
        assert (region.guard, bytes(raw)) == ("copy", region_bytes())


def test_whole_manager_is_leased(path, tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never", guard="lease") as memory:
        memory.load_dimension(15)
        memory.append_layer(15, jm.LayerSpec(text="more"))
        files = sorted(path.parent.glob("*.mmap"))
        assert (len(files), memory.region(15).guard) == (2, "lease")
        for file in files:
            os.truncate(file, 1)
        assert memory.region(15).guard == "copy"
        assert [memory.access_layer((15, number)).text for number in range(5)] == [*TEXTS, "more"]


def test_rename_and_unlink_wait_for_nobody(path):
    with jm.MmapRegion(15, path, guard="lease") as region:
        path.rename(path.with_name("elsewhere"))
        path.with_name("elsewhere").unlink()
        assert (region.guard, region.layer(3).text) == ("lease", TEXTS[3])


@needs_proc
def test_descriptor_goes_with_the_region(path):
    before = open_files()
    region = jm.MmapRegion(15, path, guard="lease")
    view = region.layer(0)
    assert len(open_files()) == len(before) + 1
    region.close()
    assert len(open_files()) == len(before) + 1
    del region, view
    assert open_files() == before
    other(f"os.truncate({str(path)!r}, 0)")


def test_file_that_is_being_written_is_leased_to_nobody(path):
    with path.open("r+b"):
        with jm.MmapRegion(15, path, guard="auto") as region:
            assert region.guard == "reads"
        with pytest.raises(jm.MappingError, match="no lease") as caught:
            jm.MmapRegion(15, path, guard="lease")
        assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, str(path))
    with jm.MmapRegion(15, path, guard="auto") as region:
        assert region.guard == "lease"


def test_half_of_the_descriptors_are_left(path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2, 2))
    held = jm.MmapRegion(15, path, guard="lease")
    with pytest.raises(jm.MappingError, match="half of the descriptors"):
        jm.MmapRegion(15, path, guard="lease")
    with jm.MmapRegion(15, path, guard="auto") as region:
        assert (region.guard, held.guard) == ("reads", "lease")
    held.close()


def test_system_without_leases(path, monkeypatch):
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    with pytest.raises(jm.MappingError, match="gives no leases"):
        jm.MmapRegion(15, path, guard="lease")
    with jm.MmapRegion(15, path, guard="auto") as region:
        assert region.guard == "reads"


@needs_proc
@pytest.mark.thread_unsafe(reason="no thread of the process can start another")
def test_process_that_can_start_no_thread(path, monkeypatch, inject):
    """There are too many, or the interpreter ends."""
    monkeypatch.setattr(leases, "_watcher", [])  # private: as before the first lease
    before = open_files()
    with inject(RuntimeError("can't start new thread"), "threading.Thread.start"):
        with pytest.raises(jm.MappingError, match="no lease: can't start new thread") as caught:
            jm.MmapRegion(15, path, guard="lease")
        assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, str(path))
        with jm.MmapRegion(15, path, guard="auto") as region:
            assert region.guard == "reads"
    assert open_files() == before


def test_forked_child_leaves_the_lease_to_its_parent(path):
    with jm.MmapRegion(15, path, guard="lease") as region:
        raw = memoryview(region)
        pid = os.fork()
        if pid == 0:
            try:
                with jm.MmapRegion(15, path, guard="lease") as own:
                    found = region.guard, own.guard
            finally:
                os._exit(found != ("reads", "lease"))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert region.guard == "lease"
        other(f"os.truncate({str(path)!r}, 0)")
        assert (region.guard, bytes(raw)) == ("copy", region_bytes())
