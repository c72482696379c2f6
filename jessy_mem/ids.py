"""Dimension ids that are given once in a base folder, whatever process asks, and the lock that publishing takes.

The register is one small file, ``BASE/.jessy_mem.lock``: it is locked (flock, exclusive) while an id is given or a file
published, and it holds the next free id of each dynamic segment. Readers never touch it. It is written in place and in
one piece, and fsynced before a folder is removed. If it is lost, the ids start behind the highest dimension folder that
there is: a power cut may bring back the id of a proto-dimension that had no file, and died with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import gt
from pathlib import Path

from jessy_mem.errors import LimitExceeded, MappingError
from jessy_mem.layout import MAX_DIMENSION, MemoryLayout, dimension_folder
from jessy_mem.publish import make_folder

__all__ = ["LOCK_NAME", "IdRegister", "dimensions_in"]

LOCK_NAME = ".jessy_mem.lock"

_LINE_BYTES = 44  # two numbers of up to 20 digits
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW  # what a link leads to is not ours to write


def dimensions_in(base_path: str | os.PathLike[str]) -> list[int]:
    """The dimensions that have a folder in `base_path`, ascending; none if it cannot be read."""
    try:
        names = os.listdir(base_path)
    except OSError:
        return []
    numbers = (int(name[1:]) for name in names if name[:1] == "D" and name[1:].isascii() and name[1:].isdecimal())
    return sorted(number for number in numbers if 0 < number <= MAX_DIMENSION and dimension_folder(number) in names)


class IdRegister:
    """Gives ids of the dynamic segments of one base folder. Safe between threads and processes."""

    def __init__(self, base_path: str, layout: MemoryLayout) -> None:
        self._base_path = base_path
        self._path = os.path.join(base_path, LOCK_NAME)
        # The first dynamic segment ends where the next begins; the last one ends nowhere.
        dynamic = layout.segments[1:]
        self._names = [segment.name for segment in dynamic]
        self._first = [segment.first_dimension for segment in dynamic]
        self._end = [*self._first[1:], MAX_DIMENSION + 1]
        self._free = list(self._first)  # no id below was left when this register was last looked at

    @contextmanager
    def locked(self, durable: bool = False) -> Iterator[None]:
        """Hold the lock, exclusively; MappingError if the folder cannot be written.

        `durable`: what was given is on the disk before, so that an id does not come back when its folder is removed.
        """
        fd = self._lock()
        try:
            if durable:
                try:
                    self._write(fd, self._read(fd))
                    os.fsync(fd)
                except OSError as error:
                    raise MappingError.of(error, self._path) from error
            yield
        finally:
            _unlock(fd)

    def give(self, segment: str) -> int:
        """The next id of `segment`, never to be given again in this folder; LimitExceeded when there is none left."""
        which = self._names.index(segment)
        fd = self._lock()
        try:
            free = self._read(fd)
            given = free[which]
            while os.path.lexists(os.path.join(self._base_path, dimension_folder(given))):
                given += 1
            if given >= self._end[which]:
                raise self._used_up(which)
            free[which] = given + 1
            self._write(fd, free)
        except OSError as error:
            raise MappingError.of(error, self._path) from error
        finally:
            _unlock(fd)
        return given

    def _lock(self) -> int:
        """The register's descriptor, locked until it is closed."""
        try:
            try:
                fd = os.open(self._path, _OPEN_FLAGS, 0o666)
            except FileNotFoundError:
                make_folder(Path(self._base_path))
                fd = os.open(self._path, _OPEN_FLAGS, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise MappingError.of(error, self._path) from error
        return fd

    def _read(self, fd: int) -> list[int]:
        """The next free id of each segment. What this process gave is not forgotten if the file is lost."""
        try:
            free = [int(number) for number in os.pread(fd, _LINE_BYTES, 0).split()]
        except ValueError:
            free = []
        if len(free) != len(self._first) or any(map(gt, free, self._end)):
            found = dimensions_in(self._base_path)
            bounds = zip(self._first, self._end, strict=True)
            free = [max((n + 1 for n in found if first <= n < end), default=first) for first, end in bounds]
        return list(map(max, free, self._free))

    def _write(self, fd: int, free: list[int]) -> None:
        line = b"%20d %20d" % tuple(free)
        if os.pwrite(fd, line, 0) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._free = free

    def _used_up(self, which: int) -> LimitExceeded:
        n_ids = self._end[which] - self._first[which]
        hint = f"the ids {self._first[which]}..{self._end[which] - 1} of this base folder are used up"
        hint += ", for an id is never given twice, whatever was forgotten; another base folder begins anew"
        if which == 0:
            hint += ", and user=True gives ids of the next segment"
        return LimitExceeded(n_ids, n_ids, 1, self._names[which], hint=hint, unit="ids")


def _unlock(fd: int) -> None:
    """Unlock and close. Closing alone would leave it locked as long as a child lives that was forked meanwhile."""
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)
