"""Memory pressure of the system: who reports it, what is done then, and when the watching ends."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import queue
import select
import socket
import threading
from pathlib import Path

import pytest
from world import manager

import jessy_mem as jm
from helpers import HAS_PROC, HUNG_S
from jessy_mem.cgroups import GroupMemory, group_memory
from jessy_mem.cooling import watch_for
from jessy_mem.watching import Watch, source_of

pytestmark = pytest.mark.thread_unsafe(reason="threads are of the process")

THREAD = "jessy_mem pressure"


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "pressure"
    os.mkfifo(path)
    return path


def press(path: Path) -> None:
    """Tell of pressure as systemd does by a FIFO."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def watchers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == THREAD]


def told_by(watch_of, path):
    """A Watch of `path` and the queue that its calls come to."""
    calls: queue.Queue[int] = queue.Queue()

    def act() -> bool:
        calls.put(1)
        return True

    return watch_of(source_of(str(path)), act), calls


def test_each_telling_is_acted_upon_until_the_end(fifo):
    watch, calls = told_by(Watch, fifo)
    for _ in range(3):
        press(fifo)
        assert calls.get(timeout=HUNG_S) == 1
    watch.close()
    watch.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):  # nobody reads it any more
        press(fifo)
    assert calls.empty()


def test_a_socket_is_told_what_is_wanted_and_tells(tmp_path, caplog):
    """The third kind of file that systemd may name."""
    path = tmp_path / "pressure"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        watch, calls = told_by(Watch, path)
        teller, _ = listening.accept()
        with teller:
            assert teller.recv(100) == source_of(str(path)).request
            for _ in range(2):
                teller.sendall(b"1")
                assert calls.get(timeout=HUNG_S) == 1
            (thread,) = watchers()
        thread.join(HUNG_S)
    assert caplog.messages == [f"{path} is gone: memory pressure is not watched any more"]
    with pytest.raises(jm.MappingError, match="pressure_source: Connection refused"):
        Watch(source_of(str(path)), bool)
    watch.close()


def test_an_error_is_logged_and_ends_nothing(fifo, caplog):
    calls: queue.Queue[int] = queue.Queue()

    def act() -> bool:
        calls.put(1)
        raise ZeroDivisionError

    watch = Watch(source_of(str(fifo)), act)
    for _ in range(2):
        press(fifo)
        calls.get(timeout=HUNG_S)
    watch.close()
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 2


def test_source_that_goes_is_told_of_once_and_ends_it(fifo, inject, caplog):
    read, write = os.pipe()
    # Private: as a cgroup that is removed, whose file the kernel then calls broken.
    with inject.instead("jessy_mem.watching._open", lambda source: (read, select.POLLIN)):
        watch = Watch(source_of(str(fifo)), lambda: True)
    (thread,) = watchers()
    os.close(write)
    thread.join(HUNG_S)
    assert caplog.messages == [f"{fifo} is gone: memory pressure is not watched any more"]
    watch.close()


def test_watch_of_a_closed_manager_ends_by_itself(fifo, world):
    with manager(world, pressure_source=str(fifo)) as memory:
        watch = watch_for(memory)  # another, which the manager does not stop
    (thread,) = watchers()
    press(fifo)
    thread.join(HUNG_S)
    assert not thread.is_alive()
    watch.close()


def test_who_says_no_is_not_asked_again(fifo):
    watch = Watch(source_of(str(fifo)), lambda: False)
    (thread,) = watchers()
    press(fifo)
    thread.join(HUNG_S)
    assert not thread.is_alive()
    watch.close()


@pytest.fixture
def told():
    """What is logged of bytes that were given back, as it comes."""
    found: queue.Queue[int] = queue.Queue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg.startswith("memory of the system is short"):
                found.put(record.args[0])

    handler, logger = Handler(), logging.getLogger("jessy_mem")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.parametrize("name", ["systemd", "auto", "path"])
def test_manager_gives_back_what_is_more_than_it_keeps(world, fifo, told, name, monkeypatch):
    if name == "path":
        name = fifo
    else:
        monkeypatch.setenv("MEMORY_PRESSURE_WATCH", str(fifo))
        monkeypatch.setenv("MEMORY_PRESSURE_WRITE", "c29tZSAyMDAwMDAgMjAwMDAwMAA=")
    world.write_all(1, 2, n_layers=1, n_bytes=1 << 20)
    ids = [(1, 0), (2, 0)]
    with manager(world, pressure_source=name, pressure_keep_mb=1.5) as memory:
        memory.load_all()
        views = [memory[each] for each in ids]
        before = bytes(memory.read_many(ids).data)
        (thread,) = watchers()
        press(fifo)
        assert told.get(timeout=HUNG_S) > 0
        press(fifo)
        assert told.get(timeout=HUNG_S) == 0  # it has no more than it may keep
        assert bytes(memory.read_many(ids).data) == before == b"".join(map(bytes, views))
    assert not thread.is_alive()
    assert watchers() == []


def test_last_reference_ends_the_watching(world, fifo):
    memory = manager(world, pressure_source=fifo)
    (thread,) = watchers()
    del memory
    gc.collect()
    thread.join(HUNG_S)
    assert not thread.is_alive()


def links() -> list[str]:
    """What each descriptor of this process is open for."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


@pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
def test_child_has_neither_thread_nor_descriptors(world, fifo):
    before = links()
    with manager(world, pressure_source=fifo) as memory:
        (thread,) = watchers()
        opened = [link for link in links() if link not in before and (link.startswith("pipe:") or link == str(fifo))]
        assert len(opened) == 3  # the source, and the pipe to end it
        pid = os.fork()
        if pid == 0:
            try:  # a child may have closed what other objects opened, too
                os._exit(2 * (not set(opened).isdisjoint(links())) + bool(watchers()))
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert thread.is_alive()
        assert memory.trim() >= 0


@pytest.mark.parametrize(("name", "error"), [("missing", errno.ENOENT), ("file", errno.EINVAL), (".", errno.EISDIR)])
def test_source_that_cannot_tell_is_an_error_and_nothing_is_written_to_it(world, tmp_path, name, error):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(jm.MappingError, match="pressure_source") as refused:
        manager(world, pressure_source=tmp_path / name)
    assert refused.value.errno == error
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert watchers() == []


def test_watch_without_a_thread_is_an_error_and_leaves_no_descriptor(world, fifo, inject):
    before = links()
    no_thread = inject(RuntimeError("can't start new thread"), "threading.Thread.start")
    with no_thread, pytest.raises(jm.MappingError, match="pressure_source: can't start new thread") as refused:
        manager(world, pressure_source=fifo)
    assert (refused.value.errno, refused.value.filename) == (errno.EAGAIN, str(fifo))
    assert links() == before


def test_systemd_that_is_silent_is_an_error_and_its_no_is_none(world, monkeypatch):
    monkeypatch.delenv("MEMORY_PRESSURE_WATCH", raising=False)
    with pytest.raises(jm.MappingError, match="MEMORY_PRESSURE_WATCH is not set"):
        manager(world, pressure_source="systemd")
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/dev/null")
    for name in ("systemd", "auto"):
        with manager(world, pressure_source=name):
            assert watchers() == []
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/dev/full")
    monkeypatch.setenv("MEMORY_PRESSURE_WRITE", "no base64")
    with pytest.raises(jm.MappingError, match="MEMORY_PRESSURE_WRITE"):
        manager(world, pressure_source="systemd")


def test_auto_without_any_source_is_logged(world, monkeypatch, caplog):
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/nowhere/memory.pressure")
    with caplog.at_level("INFO", "jessy_mem"), manager(world, pressure_source="auto"):
        assert watchers() == []
    assert [each.message for each in caplog.records if "not watched" in each.message] != []


def test_kernel_is_asked_where_it_can_be(world):
    try:
        os.close(os.open("/proc/pressure/memory", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"this system does not tell: {error}")
    with manager(world, pressure_source="psi"):
        assert len(watchers()) == 1
    assert watchers() == []


def group(root: Path, **values: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (root / f"memory.{name}").write_text(f"{value}\n")


def test_lowest_limit_up_the_hierarchy_counts(tmp_path):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    group(root, current="9")
    group(root / "a.slice", max="4000", high="max", current="3000")
    group(root / "a.slice" / "b.service", max="max", high="2000", current="1000")
    membership.write_text("3:cpu:/else\n0::/a.slice/b.service\n")
    assert group_memory(root, membership) == GroupMemory(4000, 2000, 1000)
    membership.write_text("0::/\n")
    assert group_memory(root, membership) == GroupMemory(None, None, 9)
    for text in ("0::/../other\n", "4:memory:/v1\n", ""):
        membership.write_text(text)
        assert group_memory(root, membership) == GroupMemory(None, None, None)
    assert group_memory(root, tmp_path / "missing") == GroupMemory(None, None, None)


def test_statistics_tell_of_the_group(world):
    with manager(world) as memory:
        residency = memory.get_stats(residency=True).residency
    assert (residency.group_limit_bytes, residency.group_high_bytes) == group_memory()[:2]
