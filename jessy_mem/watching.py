"""Watching for memory pressure of the whole system: who is told by the kernel, or by systemd, gives memory back.

A source is a file that becomes ready when memory is short: one of the kernel's pressure stall information, such as
``/proc/pressure/memory`` or the ``memory.pressure`` of a cgroup, which is told first what is short enough; or a FIFO or
a socket that somebody writes to. One daemon thread waits for it. It keeps nobody alive, and a forked child has neither
it nor its descriptors.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from jessy_mem.errors import MappingError
from jessy_mem.locking import renew_in_child

__all__ = ["Watch", "source_of"]

logger = logging.getLogger("jessy_mem")

SYSTEM_FILE = "/proc/pressure/memory"
TRIGGER = b"some 200000 2000000\0"  # somebody waited for memory for 0.2 s of 2 s, the shortest that anybody may ask for


class Source(NamedTuple):
    """Where pressure is told, and what is written there first."""

    path: str
    request: bytes


def source_of(name: str) -> Source | None:
    """What `pressure_source` of a configuration names; None: nothing. MappingError for "systemd" where it is silent."""
    if name == "none":
        return None
    if name in ("systemd", "auto"):
        path = os.environ.get("MEMORY_PRESSURE_WATCH", "")
        if path == os.devnull:  # systemd's word for: do not
            return None
        if path:
            return Source(path, _request())
        if name == "systemd":
            raise MappingError(errno.ENOENT, "pressure_source: MEMORY_PRESSURE_WATCH is not set", name)
    return Source(SYSTEM_FILE if name in ("psi", "auto") else name, TRIGGER)


def _request() -> bytes:
    try:
        return base64.b64decode(os.environ.get("MEMORY_PRESSURE_WRITE", ""), validate=True)
    except binascii.Error as error:
        raise MappingError(errno.EINVAL, f"MEMORY_PRESSURE_WRITE: {error}", "systemd") from None


def _open(source: Source) -> tuple[int, int]:
    """A source that was told what is wanted: its descriptor, and what to wait for; MappingError."""
    fd = -1
    try:
        if stat.S_ISSOCK(os.stat(source.path).st_mode):
            fd = _connected(source)
            return fd, select.POLLIN
        # For reading and writing: nobody may have a FIFO's other end yet, or whoever has it may leave.
        fd = os.open(source.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        facts = os.fstat(fd)
        if stat.S_ISFIFO(facts.st_mode):
            return fd, select.POLLIN
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > 0:  # what the kernel makes up has no size
            raise OSError(errno.EINVAL, "it is no file that reports memory pressure")
        os.write(fd, source.request)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise MappingError(error.errno or errno.EIO, f"pressure_source: {error.strerror}", source.path) from None
    return fd, select.POLLPRI


def _connected(source: Source) -> int:
    """The descriptor of a socket that was told what is wanted, as systemd's protocol has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.connect(source.path)
        made.sendall(source.request)
        made.setblocking(False)
        return made.detach()


class Watch:
    """A thread that calls `act` each time that `source` reports pressure, until `close`; MappingError.

    `act` says whether to go on; what it raises is logged. Thread-safe.
    """

    def __init__(self, source: Source, act: Callable[[], bool]) -> None:
        fd, events = _open(source)
        end, ended = os.pipe()  # closed at one side, it wakes who waits at the other
        self._ended, self._waited = [ended], [fd, end]  # whoever takes a descriptor out of a list closes it
        renew_in_child(self)
        arguments = source.path, fd, events, end, act, self._waited
        self._thread = threading.Thread(target=_watch, args=arguments, name="jessy_mem pressure", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            _close(self._ended)
            _close(self._waited)
            raise MappingError(errno.EAGAIN, f"pressure_source: {error}", source.path) from None

    def stop(self) -> None:
        """Call `act` no more; waits for nothing, so an `act` may be at work."""
        _close(self._ended)

    def close(self) -> None:
        """The same, and wait until the thread has ended."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _renew(self) -> None:
        """In a child: its copies of the descriptors go, and there is no thread that could."""
        _close(self._ended)
        _close(self._waited)


def _close(descriptors: list[int]) -> None:
    with suppress(IndexError):
        while True:
            os.close(descriptors.pop())


def _watch(path: str, fd: int, events: int, end: int, act: Callable[[], bool], waited: list[int]) -> None:
    waiting = select.poll()
    waiting.register(fd, events)
    waiting.register(end, 0)  # its other side is closed
    try:
        while True:
            ready = dict(waiting.poll())
            if end in ready:
                return
            found = ready[fd]
            if events == select.POLLIN and found & select.POLLIN:
                with suppress(BlockingIOError):
                    os.read(fd, 4096)
            if found & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                logger.warning("%s is gone: memory pressure is not watched any more", path)
                return
            if not _acted(act):
                return
    finally:
        _close(waited)


def _acted(act: Callable[[], bool]) -> bool:
    try:
        return act()
    except Exception:
        logger.exception("what memory pressure asks for failed")
        return True
