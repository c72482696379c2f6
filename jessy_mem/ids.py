"""Ids that are given once in a base folder, and names that are unique in it, whatever process asks.

The register is one small file, ``BASE/.jessy_mem.lock``: it is locked (locking.py) while something is given or a file
published, and tells what was given (journal.py). Readers never lock it. The truth about names are the region files: the
register saves reading all of them, and knows what has no file yet.

    a name is taken    while its dimension has a file, or a process that made it and lives, or was made for all

Claims are appended, and what was appended first counts: so two processes on a file system whose locks do nothing do
not get the same id either. If the register is lost, the ids start behind the highest dimension folder that there is,
and the names are read from the files: a power cut may bring back the id of a proto-dimension that had no file, and died
with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jessy_mem import journal
from jessy_mem.errors import ConsciousnessError, LimitExceeded, MappingError
from jessy_mem.layout import MemoryLayout, dimension_folder, region_file
from jessy_mem.locking import FolderLock, is_alive, process_key, renew_in_child, share
from jessy_mem.names import NameMap, checked_name, dimensions_in, dimensions_of, stored_names
from jessy_mem.publish import make_folder, sync_folder

__all__ = ["LOCK_NAME", "IdRegister", "Reservation", "dimensions_in"]

LOCK_NAME = ".jessy_mem.lock"

_JOURNAL = journal.FIRST_LINE_BYTES
_OLD_RANGES = ((15, 1000), (1000, 2**31))  # of the first line: first id, and the end
_MAX_BYTES = 256 << 20  # a register that is larger is none
_READ_BYTES = 8 << 20
_SMALL_BYTES, _BYTES_EACH = 64 << 10, 256  # written anew from there on, when it has more than that for each name
_FOR_ALL = "-"


class Reservation(NamedTuple):
    """The dimension that has a name, and whether it was given just now."""

    dimension: int
    is_new: bool


class IdRegister:
    """Gives the ids and names of one base folder. Safe between threads, processes and forks."""

    def __init__(self, base_path: str, layout: MemoryLayout, lock_timeout_s: float | None = 10.0) -> None:
        self._base_path = base_path
        self._path = os.path.join(base_path, LOCK_NAME)
        self._layout = layout
        self._planned = {planned.name: planned.id for planned in layout.dimensions.values()}
        self._lock = FolderLock(self._path, lock_timeout_s)
        self._names = NameMap()
        self._given: dict[int, int] = {}  # what the journal says is given: first id -> the one behind the last
        self._nonces: dict[int, str] = {}  # of the claims of what has no file yet
        self._floor: dict[int, int] = {}  # the same, of what else this process knows
        self._unsure: set[int] = set()  # dimensions whose name may be free: made by a process that may have ended
        self._unwritten: dict[int, str] = {}  # what the journal does not tell: names of files; "": it has none any more
        self._mutex = threading.RLock()
        self._start_again()
        renew_in_child(self)

    def _renew(self) -> None:
        # The map is changed under it; inside the folder's lock, if both are taken. What another thread was changing
        # when a child was forked is read anew there.
        if not self._mutex.acquire(blocking=False):
            self._start_again()
        self._mutex = threading.RLock()
        self._unsure = set(self._names.owner_of)

    def _start_again(self) -> None:
        self._token: str | None = None
        self._end = _JOURNAL  # of the last whole line that was read
        self._is_torn = False
        self._seen: tuple[int, int] | None = None  # inode and size
        self._has_scanned = False

    # Ids

    @contextmanager
    def locked(self, durable: bool = False) -> Iterator[None]:
        """Hold the folder's lock; MappingError if the folder cannot be written, LockTimeout.

        `durable`: what was given is on the disk before, so that an id does not come back when its folder is removed.
        """
        with self._writing():
            if durable:
                with self._errors():
                    self._append([])
                    os.fsync(self._lock.descriptor)
            yield

    def give(self, segment: str) -> int:
        """The next id of "reserve" or "user", never to be given again in this folder; it has no name yet.

        LimitExceeded when there is none left, LockTimeout, MappingError.
        """
        with self._writing(), self._errors():
            while True:
                dimension = self._free_id(segment)
                if self._claim(dimension, _FOR_ALL, ""):
                    return dimension

    def reserve(self, name: str, segment: str, for_all: bool = False) -> Reservation:
        """The dimension of that name; a new id of "reserve" or "user" for it if there is none.

        It keeps the name while this process lives or it has a region file, or, with `for_all`, until it is released. Of
        any number of processes and threads that ask at once, one gets a new id, and the others the same one. Durable
        with the file, or with `locked(durable=True)`. Raises ValueError, TypeError, LimitExceeded, LockTimeout,
        MappingError.
        """
        name = checked_name(name)
        self.refresh()  # mostly all that there is to read is read without the lock
        with self._writing(), self._errors():
            if not self._has_scanned:
                self.scan()
            while True:
                holder = self._holder(name)
                if holder is None:
                    holder = self._planned.get(name)
                if holder is not None:
                    return Reservation(holder, False)
                dimension = self._free_id(segment)
                if self._claim(dimension, _FOR_ALL if for_all else process_key(), name):
                    return Reservation(dimension, True)

    def release(self, dimension: int, durable: bool = True) -> None:
        """Let the name of a dimension be free, and its id stay given, before its file is removed."""
        with self._writing(), self._errors():
            self._append([journal.line("-", dimension)])
            with self._mutex:
                self._names.remove(dimension)
            if durable:
                os.fsync(self._lock.descriptor)
            self._shorten()

    # Names

    def find(self, name: str) -> int | None:
        """The dimension that has the name, the lowest if several files do; None if there is none.

        What other processes did since is seen by `refresh`, or when the name is not known. Takes no lock of the folder.
        """
        found = self._names.by_name.get(name)
        if found is not None and found not in self._unsure:
            return found
        name = checked_name(name)
        self.refresh()
        return self._holder(name)

    def names(self) -> dict[str, int]:
        """All names of the folder, and which dimension has each."""
        self.refresh()
        with self._mutex:
            found = dict(self._names.by_name)
            unsure = [name for name, dimension in found.items() if dimension in self._unsure]
        for name in unsure:
            if self._holder(name) is None:
                del found[name]
        return found

    @property
    def excludes(self) -> bool:
        """Whether the lock keeps others out: on some file systems it does nothing."""
        return self._lock.excludes

    def is_empty(self, dimension: int) -> bool:
        """Whether a dimension was made for all and waits for its first layer. Under the lock."""
        name = self._names.of.get(dimension)
        return name is not None and self._names.owner_of.get(dimension) == _FOR_ALL and self._holder(name) == dimension

    def name_of(self, dimension: int) -> str | None:
        """The name of a dimension; None if it has none, or is not known."""
        return self._names.of.get(dimension)

    def duplicates(self) -> dict[str, list[int]]:
        """Names that several dimensions have, because files came with them: ids ascending."""
        self.refresh()
        with self._mutex:
            return self._names.duplicates()

    def note(self, dimension: int, name: str) -> None:
        """Tell the name that the file of a dimension was just seen to have; others hear of it with the next claim."""
        with self._mutex:
            if self._names.of.get(dimension) != name:
                self._names.put(dimension, name)
                self._unwritten[dimension] = name
            self._unsure.discard(dimension)

    def refresh(self) -> None:
        """Read what others appended to the register; the first time also the names of files it does not know."""
        try:
            facts = os.stat(self._path, follow_symlinks=False)
            if self._has_scanned and self._seen == (facts.st_ino, facts.st_size):
                return
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # none, or not for this user: then the files are asked
            if not self._has_scanned:
                self.scan()
            return
        try:
            with self._errors():
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    self._follow(fd)
        finally:
            os.close(fd)
        if not self._has_scanned:
            self.scan()

    def scan(self) -> None:
        """Look at the folders: names of files that the register does not know, names that have lost their files.

        MappingError if that cannot be done now.
        """
        with self._mutex, self._errors():
            try:
                there = set(dimensions_of(os.listdir(self._base_path)))
            except FileNotFoundError:  # the folder is not made yet
                return
            for dimension, name in stored_names(self._base_path, sorted(there - self._names.of.keys())):
                self._names.put(dimension, name)
                self._unwritten[dimension] = name
            for dimension in self._names.of.keys() - there:
                if not self._is_kept(dimension):
                    self._names.remove(dimension)
                    self._unwritten[dimension] = ""
            self._has_scanned = True

    def _holder(self, name: str) -> int | None:
        """The dimension that has the name and keeps it."""
        with self._mutex:
            while (dimension := self._names.by_name.get(name)) is not None:
                is_kept = self._is_kept(dimension)  # asked first: its last deed may have been the file
                if os.path.lexists(region_file(self._base_path, dimension)):
                    self._unsure.discard(dimension)
                elif not is_kept:
                    self._names.remove(dimension)
                    self._unwritten[dimension] = ""
                    continue
                return dimension
        return None

    def _is_kept(self, dimension: int) -> bool:
        """Whether a dimension keeps its name without a file."""
        owner = self._names.owner_of.get(dimension, "")
        return owner == _FOR_ALL or is_alive(owner)

    # The file

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The register is locked, and was read to its end."""
        with self._errors():
            try:
                fd = self._lock.__enter__()
            except FileNotFoundError:
                make_folder(Path(self._base_path))
                fd = self._lock.__enter__()
        try:
            with self._errors():
                self._follow(fd)
                self._read_first_line(fd)
            yield
        finally:
            self._lock.__exit__(None, None, None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, ConsciousnessError):
                raise
            raise MappingError.of(error, self._path) from error

    def _follow(self, fd: int) -> set[str]:
        """Read what is new in the journal; returns the nonces of the claims that count."""
        with self._mutex:
            try:
                facts = os.fstat(fd)
                token = journal.token_of(os.pread(fd, _JOURNAL + journal.HEAD_BYTES, 0))
                if token is None or facts.st_size > _MAX_BYTES:  # lost: what was read of it still holds
                    self._token, self._is_torn, self._seen = None, False, (facts.st_ino, facts.st_size)
                    return set()
                if token != self._token or facts.st_size < self._end:
                    self._floor = _joined(self._floor, self._given)
                    self._start_again()
                    self._token, self._given, self._names, self._nonces = token, {}, NameMap(), {}
                return self._read_on(fd, facts.st_ino)
            except BaseException:
                self._start_again()  # with all of it, for what was applied in part
                raise

    def _read_on(self, fd: int, inode: int) -> set[str]:
        accepted = set()
        at, rest = self._end, b""
        while data := os.pread(fd, _READ_BYTES, at):
            at += len(data)
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                accepted |= self._apply(whole)
            rest = rest if len(rest) < 1024 else b"\0"  # no line is that long
        self._is_torn = bool(rest)
        self._end = at - len(rest)
        self._seen = (inode, at)
        return accepted

    def _apply(self, data: bytes) -> set[str]:
        accepted = set()
        names, me = self._names, process_key()
        for event in journal.events(data):
            dimension = event.dimension
            if event.kind == "+":
                if _end_of(self._given, dimension) is not None:
                    continue  # another claim of it came first
                taken = event.name and event.name in names.by_name
                self._mark(dimension)
                if taken:
                    continue
                accepted.add(event.nonce)
                if event.name:
                    self._nonces[dimension] = event.nonce
                    names.put(dimension, event.name, event.owner)
                    if event.owner not in (me, _FOR_ALL):
                        self._unsure.add(dimension)
                    self._unwritten.pop(dimension, None)
            elif event.kind == "=":
                names.put(dimension, event.name)
                self._unwritten.pop(dimension, None)
            elif event.kind == "-":
                names.remove(dimension)
                self._unwritten.pop(dimension, None)
                if _end_of(self._given, dimension) is None:
                    self._given[dimension] = dimension + 1
            elif event.kind == "^":
                self._given[dimension] = max(self._given.get(dimension, 0), event.last)
        return accepted

    def _mark(self, dimension: int) -> None:
        """An id is given: so are those before it in its range."""
        first = next((first for first, last in self._layout.id_ranges if first <= dimension <= last), dimension)
        self._given[first] = max(self._given.get(first, 0), dimension + 1)

    def _read_first_line(self, fd: int) -> None:
        """What processes that know only the first line gave; if it is lost, what lies in the folder."""
        free = journal.free_ids(os.pread(fd, journal.FIRST_LINE_BYTES, 0))
        if free is None or any(number > end for number, (_, end) in zip(free, _OLD_RANGES, strict=True)):
            found = dimensions_in(self._base_path)
            for first, last in self._layout.id_ranges:
                behind = max((n + 1 for n in found if first <= n <= last), default=first)
                self._floor = _joined(self._floor, {first: behind})
        else:
            self._floor = _joined(self._floor, {first: n for n, (first, _) in zip(free, _OLD_RANGES, strict=True)})

    def _free_id(self, segment: str) -> int:
        ranges = self._layout.ids_of(segment)
        given = _joined(self._floor, self._given)
        for first, last in ranges:
            free = first
            while free <= last:
                behind = _end_of(given, free)
                if behind is not None:
                    free = behind
                elif free in self._layout.dimensions or os.path.lexists(f"{self._base_path}/{dimension_folder(free)}"):
                    free += 1
                else:
                    return free
        n_ids = sum(last + 1 - first for first, last in ranges)
        hint = f"the ids {', '.join(f'{first}..{last}' for first, last in ranges)} of this base folder are used up"
        raise LimitExceeded(n_ids, n_ids, 1, segment, hint=hint)

    def _claim(self, dimension: int, owner: str, name: str) -> bool:
        """Append that an id, and a name, are given; whether no other claim came first."""
        nonce = secrets.token_hex(6)
        accepted = self._append([journal.line("+", dimension, owner, nonce, name)], dimension)
        self._shorten()
        return nonce in accepted

    def _append(self, lines: list[bytes], given: int | None = None) -> set[str]:
        """Append lines, `given` being an id that they give, and read them: the nonces of the claims that count."""
        fd, before = self._lock.descriptor, []
        if self._token is None and os.fstat(fd).st_size > _JOURNAL:  # whatever it is, it is no journal
            fd = self._write_anew()
        elif self._token is None:
            before = [journal.line("!", secrets.token_hex(8)), *self._everything()]
        with self._mutex:
            for dimension, name in self._unwritten.items():
                before.append(journal.line("=", dimension, name) if name else journal.line("-", dimension))
        _write_all(fd, self._first_line(given), 0)
        if before or lines:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)  # in one piece, whoever else appends
            try:
                _write_all(fd, b"".join([b"\n" * self._is_torn, *before, *lines]))
            finally:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR)
        accepted = self._follow(fd)
        if not self._lock.is_current():  # where locks do nothing, another wrote it anew meanwhile
            self._lock.renew()
            accepted = self._follow(self._lock.descriptor)
        return accepted

    def _first_line(self, given: int | None = None) -> bytes:
        """What a process of before may give next."""
        marks = _joined(self._floor, self._given)
        free = []
        for first, end in _OLD_RANGES:
            at = first
            while (behind := _end_of(marks, at)) is not None:
                at = behind
            if given is not None and at <= given < end:
                at = given + 1
            free.append(min(at, end))
        return journal.first_line((free[0], free[1]))

    def _everything(self) -> list[bytes]:
        """What is known, as the shortest journal that says it."""
        lines = []
        with self._mutex:
            for dimension, name in sorted(self._names.of.items()):
                is_kept = self._is_kept(dimension)
                if os.path.lexists(region_file(self._base_path, dimension)):
                    lines.append(journal.line("=", dimension, name))
                elif is_kept:
                    owner, nonce = self._names.owner_of[dimension], self._nonces.get(dimension, "-")
                    lines.append(journal.line("+", dimension, owner, nonce, name))
            lines += [journal.line("^", *each) for each in sorted(_joined(self._floor, self._given).items())]
        return lines

    def _shorten(self) -> None:
        """Write the register anew if most of it is of the past."""
        if os.fstat(self._lock.descriptor).st_size > max(_SMALL_BYTES, _BYTES_EACH * len(self._names.of)):
            self._write_anew()

    def _write_anew(self) -> int:
        """Put a short register in the place of this one, under the same lock; its descriptor."""
        old, token = self._lock.descriptor, secrets.token_hex(8)
        temporary = os.path.join(self._base_path, f".{LOCK_NAME}.{token}.tmp")
        new = self._lock.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        try:
            share(new, self._base_path)
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end = self._end if self._token is not None else _JOURNAL + journal.HEAD_BYTES
            _write_all(new, b"".join([self._first_line(), journal.line("!", token), *self._everything()]))
            os.fsync(new)
            os.rename(temporary, self._path)
            sync_folder(Path(self._base_path))
            if journal.token_of(os.pread(old, end, 0)) is not None:
                # What another appended meanwhile, where locks do nothing.
                _write_all(new, os.pread(old, _READ_BYTES, end))
            self._unwritten.clear()  # it was part of everything
            self._lock.adopt(new)
        except BaseException:
            if self._lock.descriptor != new:
                self._lock.close_file(new)
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._follow(new)
        return new


def _write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    n_bytes = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    if n_bytes != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _end_of(given: dict[int, int], dimension: int) -> int | None:
    """The id behind the range of given ones that an id lies in; None if it is not given."""
    return max((end for first, end in given.items() if first <= dimension < end), default=None)


def _joined(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {first: max(one.get(first, 0), other.get(first, 0)) for first in one.keys() | other.keys()}
