"""Leases of mapped files (Linux): who wants to shorten or write one waits until its bytes were copied.

A read lease makes the system ask before it lets anybody open the file for writing, or truncate it. It asks by SIGIO,
sent to one thread of this module, which copies the bytes to memory that nobody can change, maps that at the address
that they have, and gives the lease back. What points to them points to the same bytes as before.

HAZARD: who waits is waiting for that thread. It takes the GIL, so who truncates a mapped file and holds the GIL
meanwhile waits for `/proc/sys/fs/lease-break-time` (45 s); the system then goes on, and the file is guarded as others
are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import resource
import signal
import struct
import threading
import weakref

from jessy_mem._core.mapping import Mapping
from jessy_mem.errors import RegionTruncated
from jessy_mem.forking import fork_lock
from jessy_mem.sealed import unchangeable_copy

__all__ = ["Lease", "take_lease"]

logger = logging.getLogger("jessy_mem")

_F_SETOWN_EX, _F_OWNER_TID = 15, 0


class Lease:
    """A lease of one file, until it is asked for or the last reference goes. Thread-safe."""

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        self.moved = False  # the bytes are a copy by now
        self._fd = fd  # of its own; -1: given back
        self._mapping: Mapping | None = None

    @property
    def holds(self) -> bool:
        """Whether the file waits for us."""
        return self._fd >= 0

    def cover(self, mapping: Mapping) -> None:
        """What the file is mapped as: its bytes are copied when somebody asks for the lease."""
        with _lock:
            self._mapping = mapping if self._fd >= 0 else None

    def serve(self) -> None:
        """Give the lease back if somebody asks for it, after the bytes were copied."""
        with _lock:
            if self._fd < 0 or fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                return
            reason = ""
            try:
                self.moved = self._move()
            except (OSError, MemoryError, RegionTruncated) as error:
                reason = f": {error}"
            finally:
                self._give_back()
        how = "its bytes were copied" if self.moved else f"they could not be copied{reason}"
        logger.info("%s is opened for writing or truncated while it is mapped: %s", self.path, how)

    def _move(self) -> bool:
        """Put a copy in the place of the file's bytes; False if there are none, or some are gone."""
        if self._mapping is None:
            return False
        with fork_lock:  # a child that is forked meanwhile would keep the copy, and the descriptor of it
            copy, sealed = unchangeable_copy(self._fd, self.path, self._mapping.n_bytes)
            if sealed is not None:
                os.close(sealed)
            return self._mapping.move(copy)

    def _give_back(self) -> None:
        fd, self._fd, self._mapping = self._fd, -1, None
        _held.pop(fd, None)
        if fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(fd)

    def __del__(self) -> None:
        self._give_back()


_lock = threading.RLock()
_held: dict[int, weakref.ref[Lease]] = {}
_watcher: list[int] = []  # the number that the system gave to the thread


def take_lease(fd: int, path: str) -> Lease:
    """A lease of the open file `fd`, which stays the caller's; OSError where the system does not give one.

    It gives none of a file that somebody has open for writing, that is another user's, or that lies on a file system
    that knows no leases. No more than half of the descriptors that a process may have are used.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        raise OSError(errno.ENOSYS, "this system gives no leases of files")
    if 2 * len(_held) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        raise OSError(errno.EMFILE, "no lease: half of the descriptors of this process are leases")
    thread_id = _thread_id()
    own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
    try:
        fcntl.fcntl(own, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, thread_id))
        fcntl.fcntl(own, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        os.close(own)
        raise OSError(error.errno, f"no lease: {os.strerror(error.errno or 0)}") from None
    lease = Lease(own, path)
    _held[own] = weakref.ref(lease)
    lease.serve()  # of who asked before it could be found, nobody is told again
    return lease


def _thread_id() -> int:
    """The thread that SIGIO is sent to, which is there from the first lease on; OSError if none can be started."""
    with _lock:
        if not _watcher:
            ready = threading.Event()
            try:
                threading.Thread(target=_watch, args=(ready,), name="jessy_mem leases", daemon=True).start()
            except RuntimeError as error:  # there are too many, or the interpreter ends
                raise OSError(errno.EAGAIN, f"no lease: {error}") from None
            ready.wait()
        return _watcher[0]


def _watch(ready: threading.Event) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    _watcher.append(threading.get_native_id())
    ready.set()
    while True:
        signal.sigwait({signal.SIGIO})
        for reference in list(_held.values()):
            lease = reference()
            if lease is not None:
                with contextlib.suppress(OSError):
                    lease.serve()
            del lease


def _in_child() -> None:
    """The parent's leases stay its own; what the child has mapped is guarded as other files are."""
    global _lock
    _lock = threading.RLock()
    _watcher.clear()
    for reference in list(_held.values()):
        lease = reference()
        if lease is not None:
            os.close(lease._fd)
            lease._fd, lease._mapping = -1, None
    _held.clear()


os.register_at_fork(after_in_child=_in_child)
