"""The lock of a base folder: one writer at a time, whatever process; and whether a process that wrote is still there.

The lock is flock on one file. It belongs to the open file, which a forked child shares: so the descriptor is closed in
each child, where that unlocks nothing, and the lock goes with the process that took it, however that ends. Who has
taken it once keeps the file open, for to open it takes longer than to lock it; each time it is looked at whether it is
still the one of that name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from jessy_mem._core.folder import facts_at
from jessy_mem._core.whole import Descriptor, Lock, whole
from jessy_mem.errors import LinkRefused, LockTimeout, MappingError
from jessy_mem.forking import fork_lock

__all__ = [
    "FolderLock",
    "OwnFile",
    "after_release",
    "is_alive",
    "is_busy",
    "open_file",
    "process_key",
    "renew_in_child",
]

_OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO is not waited for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.01
_LONGEST_S = threading.TIMEOUT_MAX  # 292 years: for more than that no thread can wait


class Renewable(Protocol):
    """What holds a lock of threads, which a child may find locked by a thread that it does not have."""

    def _renew(self) -> None: ...


# A fork waits until no descriptor is just being opened: one that nobody knows of yet could not be closed in the child.
_own_files: WeakSet[OwnFile] = WeakSet()
_renewables: WeakSet[Renewable] = WeakSet()


def renew_in_child(it: Renewable) -> None:
    """Call ``it._renew()`` in each child that is forked from now on."""
    with fork_lock:
        _renewables.add(it)


def _forked() -> None:
    for file in list(_own_files):
        file.leave()
    _busy.clear()
    _waiting.clear()
    for it in list(_renewables):
        it._renew()
    _process_key.cache_clear()
    fork_lock.release()


# What must not wait for a thread that may wait for it, or be itself: it asks, and is called when that thread is done.
_busy: set[FolderLock] = set()  # which a thread of this process has, or waits for
_waiting: dict[FolderLock, int] = {}  # those that were refused, first come first, and the inode of the file
_after_release: list[Callable[[], object]] = []


def is_busy(folder: str | os.PathLike[str]) -> bool:
    """Whether a thread of this process has the lock of `folder`, or waits for it; by whatever path."""
    return any(_is_same(os.path.dirname(lock.path), folder) for lock in list(_busy))


def after_release(act: Callable[[], object]) -> None:
    """Call `act` whenever a thread of this process has let go of a lock, from now on. It must raise nothing."""
    _after_release.append(act)


def _is_same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samefile(one or ".", other or ".")
    return False


os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=_forked)


class FolderLock(Lock):
    """The lock on a file of a folder, made if it is missing. A context manager that gives the descriptor.

    A thread may take it again while it has it. Safe between threads, processes and forks. A child that was forked
    inside has not got it. The file stays open until `close`, or the lock's end.
    """

    def __init__(self, path: str, timeout_s: float | None = 10.0) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.excludes = True  # False on a file system whose locks do nothing; known when it was taken once
        self.inode = -1  # of the file
        self.n_bytes = -1  # of it, when it was locked; -1: it is held longer, and may have grown
        self._is_tried = False
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        self._mutex = threading.RLock()
        self._depth = 0
        self._file: OwnFile | None = None

    def __enter__(self) -> int:
        """Wait for the lock. LockTimeout after `timeout_s`, LinkRefused, MappingError; FileNotFoundError: no folder."""
        if self._mutex._is_owned():  # type: ignore[attr-defined]
            fd = self._fd
            self._depth += 1
            self.n_bytes = -1
            return fd
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        try:
            if not self._mutex.acquire(timeout=-1 if self.timeout_s is None else min(self.timeout_s, _LONGEST_S)):
                raise LockTimeout(self.path, self.timeout_s or 0, os.getpid())
            _busy.add(self)
            self._take(deadline)
            self._depth = 1
            return self._fd
        except BaseException:
            if self._mutex._is_owned():  # type: ignore[attr-defined]
                try:
                    whole(self._drop)
                finally:
                    self.__exit__(None, None, None)
            raise

    def _leave(self) -> None:
        if self._depth > 1:
            self._depth -= 1
        elif self._mutex._is_owned():  # type: ignore[attr-defined]
            self._let_in()  # else this is a child that was forked inside

    def _let_in(self) -> None:
        """Unlock the file, and let other threads in; begun again, it goes on where it was."""
        if self._file is not None:
            self._file.unlock()
        self._depth = 0
        _busy.discard(self)
        _waiting.pop(self, None)
        if self._mutex._is_owned():  # type: ignore[attr-defined]
            self._mutex.release()
        for act in _after_release:
            act()

    def close(self) -> None:
        """Let go of the file, unless a thread has the lock just now."""
        if not (self._depth and self._mutex._is_owned()):  # type: ignore[attr-defined]
            whole(self._let_go)

    def _let_go(self) -> None:
        """Begun again, it goes on where it was."""
        if self._mutex._is_owned() or self._mutex.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                self._drop()
            finally:
                self._mutex.release()

    def adopt(self, file: OwnFile) -> None:
        """Go on with another open file, locked already, that takes the place of this one. The lock is held."""
        inode = os.fstat(file.fd).st_ino
        old, self._file = self._file, file
        self.inode = inode
        if old is not None:
            old.close()

    @property
    def descriptor(self) -> int:
        """That of the file, while the lock is held; -1: it is not."""
        return self._fd if self._depth else -1

    @property
    def _fd(self) -> int:
        return -1 if self._file is None else self._file.fd

    def is_current(self) -> bool:
        """Whether the file that is held is still the one of that name; LinkRefused if it has other names, too."""
        facts = facts_at(self.path)
        if facts is None or facts[0] != self.inode:
            return False
        if facts[1] > 1:
            raise LinkRefused(self.path)
        self.n_bytes = facts[2]
        return True

    def renew(self) -> None:
        """Hold the file that has the name now, instead of the one that had it."""
        self._drop()
        self._take(None if self.timeout_s is None else time.monotonic() + self.timeout_s)

    def _take(self, deadline: float | None) -> None:
        while True:
            if self._file is None:
                self._open()
            self._wait(deadline)
            if self.is_current():
                break
            self._drop()  # the file was replaced meanwhile
        if not self._is_tried:
            self.excludes = self._is_refused_to_another()
            self._is_tried = True

    def _is_refused_to_another(self) -> bool:
        with open_file(self.path, _OPEN_FLAGS) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _open(self) -> None:
        """Open the file, which is made if it is missing."""
        try:
            try:
                self._file = open_file(self.path, _OPEN_FLAGS)
            except FileNotFoundError:
                with suppress(FileExistsError):  # another was faster
                    self._file = open_file(self.path, _OPEN_FLAGS | os.O_CREAT | os.O_EXCL)
                    share(self._fd, os.path.dirname(self.path))
                if self._file is None:
                    self._file = open_file(self.path, _OPEN_FLAGS)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):  # the latter on BSD
                raise LinkRefused(self.path) from error
            raise
        facts = os.fstat(self._fd)
        if not stat.S_ISREG(facts.st_mode):
            raise MappingError(errno.EINVAL, "it is no regular file", self.path)
        if facts.st_nlink > 1:
            raise LinkRefused(self.path)
        self.inode = facts.st_ino

    def _wait(self, deadline: float | None) -> None:
        """Lock the file, after those of this process that wait for it already.

        Who asks again and again would else keep them out for ever: they get to run while it has the lock, and waits.
        """
        pause_s = _FIRST_PAUSE_S
        while (_waiting and not self._is_next()) or not self._is_locked():
            left_s = pause_s if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                raise LockTimeout(self.path, self.timeout_s or 0, _holder_of(self._fd))
            _waiting.setdefault(self, self.inode)
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1)))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        _waiting.pop(self, None)

    def _is_next(self) -> bool:
        return next((each for each, inode in list(_waiting.items()) if inode == self.inode), self) is self

    def _is_locked(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            whole(file.close)


class OwnFile(Descriptor):
    """An open file that no child keeps: unlocked and closed by `close`, by leaving it, or with its last reference.

    Closing alone would leave it locked while a child of a bare fork() of C has it.
    """

    def unlock(self) -> None:
        if self.fd >= 0:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_UN)
            except OSError:
                return  # it goes with the descriptor

    def close(self) -> None:
        self.unlock()
        with fork_lock:
            super().close()

    def leave(self) -> None:
        """Close it in a child: the lock is the parent's."""
        with suppress(OSError):
            super().close()


def open_file(path: str, flags: int, mode: int = 0o666) -> OwnFile:
    """Open a file whose descriptor no child keeps."""
    with fork_lock:
        file = OwnFile(path, flags | os.O_CLOEXEC, mode)
        _own_files.add(file)
    return file


def share(fd: int, folder: str) -> None:
    """Let whoever may write into `folder` write a new file of it, whatever the umask."""
    facts = os.stat(folder or ".")
    with suppress(OSError):  # not a member of that group
        if os.fstat(fd).st_gid != facts.st_gid:
            os.fchown(fd, -1, facts.st_gid)
    with suppress(OSError):  # a file system without modes
        os.fchmod(fd, (facts.st_mode & 0o666) | 0o600)


def _holder_of(fd: int) -> int | None:
    """The process that has the lock on an open file, as far as the system tells."""
    facts = os.fstat(fd)
    device = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}"
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines():
            words = line.split()
            if words[1] != "FLOCK":  # or "->": it waits
                continue
            where, _, inode = words[5].rpartition(":")
            if inode == str(facts.st_ino) and int(words[4]) > 0:
                found.append((where == device, int(words[4])))
    # On some file systems the device is not the one that stat tells.
    exact = [pid for is_same, pid in found if is_same] or [pid for _, pid in found]
    return exact[0] if len(exact) == 1 else None


# Processes ------------------------------------------------------------------------------------------------------------


def process_key() -> str:
    """This process, told apart from every other that had or will have its number."""
    return _process_key()


@cache
def _process_key() -> str:
    pid = os.getpid()
    return f"{pid}.{_started(pid) or 0}.{_surroundings()}"


def is_alive(key: str) -> bool:
    """Whether the process of that key runs. One in another container of this machine is taken to."""
    if key == process_key():
        return True
    pid, _, rest = key.partition(".")
    started, _, surroundings = rest.partition(".")
    if not (pid.isascii() and pid.isdecimal() and started.isascii() and started.isdecimal()):
        return False
    if surroundings != _surroundings():
        return surroundings.partition(".")[0] == _surroundings().partition(".")[0]
    found = _started(int(pid))
    if found is not None or os.path.isdir("/proc/self"):
        return found == int(started)
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the system was; None if it has ended, or nobody knows."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return None if words[0] in "ZX" else int(words[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _surroundings() -> str:
    """What a process number is true in: this run of the system, and this container."""
    boot = space = "0"
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{boot}.{space}"
