"""Dimension ids that are given once in a base folder, whatever process asks, and the lock that publishing takes.

The register is one small file, ``BASE/.jessy_mem.lock``: it is locked (flock, exclusive) while an id is given or a file
published, and it holds the next free id of each dynamic segment. Readers never touch it. If it is lost, the ids start
behind the highest dimension folder there is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jessy_mem.errors import LimitExceeded, MappingError
from jessy_mem.layout import MAX_DIMENSION, MemoryLayout, dimension_folder

__all__ = ["LOCK_NAME", "IdRegister", "dimensions_in"]

LOCK_NAME = ".jessy_mem.lock"

_LINE_BYTES = 44  # two numbers of up to 20 digits


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
        # The first dynamic segment ends where the next begins; the last one ends nowhere.
        dynamic = layout.segments[1:]
        self._names = [segment.name for segment in dynamic]
        self._first = [segment.first_dimension for segment in dynamic]
        self._end = [*self._first[1:], MAX_DIMENSION + 1]

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock, exclusively; gives the register's descriptor. MappingError if the folder cannot be written."""
        path = os.path.join(self._base_path, LOCK_NAME)
        try:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                Path(self._base_path).mkdir(parents=True, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MappingError.of(error, path) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                raise MappingError.of(error, path) from error
            yield fd
        finally:
            os.close(fd)  # which unlocks

    def give(self, segment: str) -> int:
        """The next id of `segment`, never to be given again in this folder; LimitExceeded when there is none left."""
        which = self._names.index(segment)
        with self.locked() as fd:
            free = self._read(fd)
            given = free[which]
            while os.path.lexists(os.path.join(self._base_path, dimension_folder(given))):
                given += 1
            if given >= self._end[which]:
                n_ids = self._end[which] - self._first[which]
                hint = f"the ids {self._first[which]}..{self._end[which] - 1} of this base folder are used up"
                raise LimitExceeded(n_ids, n_ids, 1, segment, hint=hint)
            free[which] = given + 1
            os.pwrite(fd, " ".join(f"{number:>20}" for number in free).encode(), 0)
        return given

    def _read(self, fd: int) -> list[int]:
        """The next free id of each segment."""
        try:
            free = [int(number) for number in os.pread(fd, _LINE_BYTES, 0).split()]
        except ValueError:
            free = []
        if len(free) == len(self._first) and all(map(int.__ge__, free, self._first)):
            return free
        found = dimensions_in(self._base_path)
        bounds = zip(self._first, self._end, strict=True)
        return [max((n + 1 for n in found if first <= n < end), default=first) for first, end in bounds]
