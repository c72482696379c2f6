"""What a process knows of the register of a base folder, and how that file is read and written.

Readers take no lock: lines only come at the end, and a register that was written anew has another token. One of the
same token that is shorter, or says something else, was damaged: what was read before is told anew. Writers hold
the lock, append in one piece, and write a short register in the place of one that has grown, which keeps the lock.

HAZARD: on some file systems locks do nothing. There a line is appended (O_APPEND) and read back, and what stands first
in the file counts; who writes the register anew carries over what was appended meanwhile, and takes his back if another
was faster; who has appended to a file that was replaced does so again; and who has told the name of a file that is gone
by then takes that back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NoReturn, Self

from jessy_mem import journal
from jessy_mem._core.folder import is_there
from jessy_mem._core.whole import Lock, whole
from jessy_mem.durable import make_folder, sync_folder
from jessy_mem.errors import ConsciousnessError, MappingError
from jessy_mem.journal import Event
from jessy_mem.layout import MemoryLayout, region_file
from jessy_mem.locking import FolderLock, is_alive, open_file, process_key, renew_in_child, share
from jessy_mem.names import NameMap, dimensions_in
from jessy_mem.publish import exchange

__all__ = ["FOR_ALL", "LOCK_NAME", "Register"]

LOCK_NAME = ".jessy_mem.lock"
FOR_ALL = "-"  # the owner of what belongs to no process alone

_JOURNAL = journal.FIRST_LINE_BYTES
_OLD_RANGES = ((15, 1000), (1000, 2**31))  # of the first line: first id, and the end
_TAIL_BYTES = 32  # enough to know a line again
_MAX_BYTES = 256 << 20  # a register that is larger is none
_READ_BYTES = 64 << 10  # at a time: what is larger, malloc asks the system for, and gives back, each time
_MOST_MEANWHILE_BYTES = 8 << 20
_WIDE_GAP = 1 << 24  # ids are given one after the other: what lies behind such a gap was numbered by somebody else
_SMALL_BYTES, _BYTES_EACH = 64 << 10, 256  # written anew from there on, when it has more than that for each name


class Register(Lock):
    """The register of one base folder: IdRegister (ids.py) without what is asked of it.

    As a context manager: inside, the folder is locked, and what others wrote was read. MappingError if the folder
    cannot be written, LockTimeout.
    """

    __slots__ = ("__dict__", "__weakref__", "_is_asked", "_names", "_seen")  # what a load reads; see MmapManager

    def __init__(self, base_path: str, layout: MemoryLayout, lock_timeout_s: float | None = 10.0) -> None:
        self._base_path = base_path
        self._path = os.path.join(base_path, LOCK_NAME)
        self._layout = layout
        self._planned = {planned.name: planned.id for planned in layout.dimensions.values()}
        self._lock = FolderLock(self._path, lock_timeout_s)
        self._leave = self._lock._leave
        self._names = NameMap()
        self._given: dict[int, int] = {}  # what the journal says is given: first id -> the one behind the last
        self._nonces: dict[int, str] = {}  # of the claims of what has no file yet
        self._floor: dict[int, int] = {}  # the same, of what else this process knows
        self._unsure: set[int] = set()  # dimensions whose name may be free: of who may have ended, or told it late
        self._unwritten: dict[int, str] = {}  # what the journal does not tell: names of files; "": it has none any more
        self._seen: set[int] = set()  # of whom the file was looked at before anybody asked for names
        self._own_line = b""  # the first line, as this process wrote it last
        self._numbers = count()
        self._mutex = threading.RLock()
        self._start_again()
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        # The map is changed under it; inside the folder's lock, if both are taken. What another thread was changing
        # when a child was forked is read anew there.
        if not self._mutex.acquire(blocking=False):
            self._start_again()
        self._mutex = threading.RLock()
        self._unsure = set(self._names.owner_of)
        self._stem = secrets.token_hex(4)  # of this process's claims
        self._claims: dict[str, bool] = {}  # those being made, and whether they count: any thread may read that first

    def _start_again(self) -> None:
        self._token: str | None = None
        self._head = b""  # the first line and the token, as they were read last
        self._end = _JOURNAL  # of the last whole line that was read
        self._tail = b""  # what stands before that
        self._is_torn = self._is_cut = False
        self._inode = self._size = -1  # as the file was when it was read last
        self._seen_ns = -1  # when it had been written last, as who only reads saw it
        self._has_scanned = False
        self._is_asked = False  # whether a scan was begun

    def __enter__(self) -> Self:
        try:
            try:
                fd = self._lock.__enter__()
            except FileNotFoundError:
                make_folder(Path(self._base_path))
                fd = self._lock.__enter__()
        except OSError as error:
            self._raise(error)
        try:
            self._follow(fd, None if self._lock.n_bytes < 0 else (self._lock.inode, self._lock.n_bytes))
            self._read_first_line()
        except BaseException as error:
            self._lock.__exit__(None, None, None)
            if isinstance(error, OSError):
                self._raise(error)
            raise
        return self

    def close(self) -> None:
        """Keep no file open; it can be used again."""
        self._lock.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._raise(error)

    def _raise(self, error: OSError) -> NoReturn:
        if isinstance(error, ConsciousnessError):
            raise error
        raise MappingError.of(error, self._path) from error

    def _follow(self, fd: int, facts: tuple[int, int] | None = None) -> None:
        """Read what is new in the journal; `facts` are its inode and its bytes, if they are known."""
        with self._mutex:
            try:
                token, names, nonces = self._token, self._names, self._nonces
                if self._is_journal(fd, facts) and self._size != self._end:
                    self._read_on(fd)
                if self._names is not names and self._token == token:
                    self._keep(names, nonces)
            except BaseException:
                self._start_again()  # with all of it, for what was applied in part
                raise

    def _keep(self, names: NameMap, nonces: dict[int, str]) -> None:
        """Of a journal that was cut: what was read of it before still holds, and who writes next tells it anew."""
        for dimension, name in names.of.items():
            is_free = dimension not in self._names.of and name not in self._names.by_name
            owner = names.owner_of.get(dimension, "")
            is_kept = owner == FOR_ALL or is_alive(owner)
            if is_free and (is_kept or is_there(region_file(self._base_path, dimension))):
                self._names.put(dimension, name, owner if is_kept else "")
                self._nonces[dimension] = nonces.get(dimension, "-")
                self._is_cut = True

    def _follow_own(self, fd: int, events: list[Event], data: bytes) -> None:
        """The same, where this process has written all that is new: `events`, in these bytes."""
        with self._mutex:
            if self._token is None or self._size != self._end:
                self._follow(fd)
                return
            try:
                self._apply(events)
                self._end = self._size = self._end + len(data)
                self._tail = data[-_TAIL_BYTES:]
            except BaseException:
                self._start_again()
                raise

    def _is_journal(self, fd: int, facts: tuple[int, int] | None) -> bool:
        """Whether there is a journal; the state is made that of one that was not read yet, if it is another."""
        is_locked = facts is not None
        inode, size = self._inode, self._size = _facts_of(fd) if facts is None else facts
        head = os.pread(fd, _JOURNAL + journal.HEAD_BYTES, 0)
        token = self._token if head[_JOURNAL:] == self._head[_JOURNAL:] else journal.token_of(head)
        self._head = head
        if token is None or self._size > _MAX_BYTES:  # lost: what was read of it still holds, but may not be all
            self._token, self._is_torn, self._has_scanned = None, False, False
            return False
        # Who holds the lock may trust that what has not grown is the same.
        is_same = is_locked and size == self._end
        if token != self._token or size < self._end or not (is_same or self._goes_on(fd)):
            for first, behind in self._given.items():
                _extend(self._floor, first, behind)
            self._start_again()
            self._token, self._head = token, head
            self._inode, self._size = inode, size
            self._given, self._names, self._nonces = {}, NameMap(), {}
        return True

    def _goes_on(self, fd: int) -> bool:
        """Whether what is new stands behind what was read: an older register that was put back may have grown again."""
        n_bytes = len(self._tail)
        return os.pread(fd, n_bytes, self._end - n_bytes) == self._tail

    def _read_on(self, fd: int) -> None:
        at, rest, n_bytes = self._end, b"", _READ_BYTES
        while n_bytes == _READ_BYTES:
            data = os.pread(fd, _READ_BYTES, at)
            n_bytes = len(data)
            at += n_bytes
            lines, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                self._apply(journal.events(lines))
                self._tail = lines[-_TAIL_BYTES:] + newline
            if len(rest) >= 1024:  # no line is that long
                rest, self._tail = b"\0", b""
        self._is_torn = bool(rest)
        self._end = at - len(rest)
        self._size = at

    def _apply(self, events: Iterable[Event]) -> None:
        names, me = self._names, process_key()
        for event in events:
            dimension = event.dimension
            if event.kind == "+":
                if _end_of(self._given, dimension) is not None:
                    continue  # another claim of it came first
                taken = event.name and event.name in names.by_name
                self._mark(dimension)
                if taken:
                    continue
                if event.nonce in self._claims:
                    self._claims[event.nonce] = True
                if event.name:
                    self._nonces[dimension] = event.nonce
                    names.put(dimension, event.name, event.owner)
                    if event.owner not in (me, FOR_ALL):
                        self._unsure.add(dimension)
                    self._unwritten.pop(dimension, None)
            elif event.kind == "=":
                names.put(dimension, event.name)
                self._unwritten.pop(dimension, None)
                if not self._lock.excludes:  # who had it from the file may have told it when that was gone
                    self._unsure.add(dimension)
            elif event.kind == "-":
                names.remove(dimension)
                self._unwritten.pop(dimension, None)
                if _end_of(self._given, dimension) is None:
                    self._given[dimension] = dimension + 1
            else:
                _extend(self._given, dimension, event.last)

    def _mark(self, dimension: int) -> None:
        """An id is given: so are those before it in its range."""
        first = next((first for first, last in self._layout.id_ranges if first <= dimension <= last), dimension)
        _extend(self._given, first, dimension + 1)

    def _read_first_line(self) -> None:
        """What processes that know only the first line gave; if it is lost, what lies in the folder."""
        if self._own_line and self._head.startswith(self._own_line):
            return
        free = journal.free_ids(self._head)
        if free is not None and all(number <= end for number, (_, end) in zip(free, _OLD_RANGES, strict=True)):
            for number, (first, _) in zip(free, _OLD_RANGES, strict=True):
                _extend(self._floor, first, number)
        else:
            found = dimensions_in(self._base_path)
            for first, last in self._layout.id_ranges:
                _extend(self._floor, first, _behind_those_given(found, first, last))

    def _behind(self, dimension: int) -> int | None:
        """The id behind those given that an id lies among; None if it was not given."""
        behind = _end_of(self._given, dimension)
        return behind if behind is not None else _end_of(self._floor, dimension)

    def _is_given(self, dimension: int) -> bool:
        """Whether the journal says that an id was given; it may say so of more than were, never of less."""
        return _end_of(self._given, dimension) is not None

    def _is_kept(self, dimension: int) -> bool:
        """Whether a dimension keeps its name without a file."""
        owner = self._names.owner_of.get(dimension, "")
        return owner == FOR_ALL or is_alive(owner)

    def _claim(self, dimension: int, owner: str, name: str) -> bool:
        """Append that an id, and a name, are given; whether no other claim came first."""
        nonce = f"{self._stem}{next(self._numbers):x}"
        self._claims[nonce] = False
        try:
            self._append(Event("+", dimension, 0, owner, nonce, name))
        finally:
            counts = self._claims.pop(nonce)
        self._shorten()
        return counts

    def _append(self, *told: Event) -> None:
        """Append what happened, after what else is not told yet, and take it as read."""
        while not self._is_appended(told):  # another wrote it anew meanwhile, and may not have seen it
            self._claims |= {event.nonce: False for event in told if event.nonce in self._claims}
            self._lock.renew()
            self._follow(self._lock.descriptor)

    def _is_appended(self, told: tuple[Event, ...]) -> bool:
        """Append; whether that is in the register, which another may replace where locks do nothing."""
        fd, before = self._lock.descriptor, []
        if self._token is None:
            self._follow(fd)  # where locks do nothing, another may have begun one
        if self._is_cut or (self._token is None and self._size > _JOURNAL):  # whatever it is, it is no journal
            fd = self._write_anew()
        if self._token is None:
            before = [journal.line("!", secrets.token_hex(8)), *self._everything()]
        events = [*self._unwritten_events(), *told] if self._unwritten else list(told)
        self._own_line = b""  # if this is interrupted nothing is known of it
        own_line = self._first_line(max([event.dimension for event in told if event.kind == "+"], default=0))
        _write_all(fd, own_line, 0)
        data = b"".join([b"\n" * self._is_torn, *before, *[event.line() for event in events]])
        if self._lock.excludes:
            _write_all(fd, data, max(self._size, _JOURNAL))
            self._own_line = own_line
            whole(self._follow_own, fd, events, data)  # it is given
            return True
        _append_all(fd, data)
        whole(self._follow, fd)
        # Who forgets a dimension tells so when its file has gone; it may have been told of before that.
        named = [event.dimension for event in events if event.kind == "="]
        gone = [each for each in named if not is_there(region_file(self._base_path, each))]
        if gone:
            self._append(*[Event("-", each) for each in gone])
        return self._lock.is_current()

    def _unwritten_events(self) -> list[Event]:
        """What the journal does not tell; a file that has gone since it was seen has no name any more."""
        events = []
        with self._mutex:
            for dimension, name in list(self._unwritten.items()):
                if name and not is_there(region_file(self._base_path, dimension)):
                    del self._unwritten[dimension]
                    self._names.remove(dimension)
                else:
                    events.append(Event("=" if name else "-", dimension, name=name))
        return events

    def _first_line(self, given: int = 0) -> bytes:
        """What a process of before may give next."""
        free = []
        for first, end in _OLD_RANGES:
            behind = max(self._floor.get(first, 0), self._given.get(first, 0), first)
            free.append(min(max(behind, given + 1) if first <= given < end else behind, end))
        return journal.first_line((free[0], free[1]))

    def _everything(self) -> list[bytes]:
        """What is known, as the shortest journal that says it."""
        lines = []
        with self._mutex:
            for dimension, name in sorted(self._names.of.items()):
                is_kept = self._is_kept(dimension)
                if is_there(region_file(self._base_path, dimension)):
                    lines.append(journal.line("=", dimension, name))
                elif is_kept:
                    owner, nonce = self._names.owner_of[dimension], self._nonces.get(dimension, "-")
                    lines.append(journal.line("+", dimension, owner, nonce, name))
            lines += [journal.line("^", *each) for each in sorted({*self._floor.items(), *self._given.items()})]
        return lines

    def _shorten(self) -> None:
        """Write the register anew if most of it is of the past."""
        if self._end > max(_SMALL_BYTES, _BYTES_EACH * len(self._names.of)):
            self._write_anew()

    def _write_anew(self) -> int:
        """Put a short register in the place of this one, under the same lock; its descriptor."""
        old, token = self._lock.descriptor, secrets.token_hex(8)
        temporary = os.path.join(self._base_path, f".{LOCK_NAME}.{token}.tmp")
        file = open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        new = file.fd
        try:
            share(new, self._base_path)
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end = self._end if self._token is not None else _JOURNAL + journal.HEAD_BYTES
            _write_all(new, b"".join([self._first_line(), journal.line("!", token), *self._everything()]))
            os.fsync(new)
            if self._lock.excludes:
                os.rename(temporary, self._path)
                is_done = True
            else:
                own_end = os.fstat(new).st_size
                is_done = self._lock.is_current() and whole(self._is_replaced, new, own_end, old, end, temporary)
            if is_done:
                sync_folder(Path(self._base_path))
                self._unwritten.clear()  # it was part of everything
                self._lock.adopt(file)
        except BaseException:
            if self._lock.descriptor != new:
                file.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if self._lock.descriptor != new:  # another was faster
            file.close()
            os.unlink(temporary)
            self._lock.renew()
        self._follow(self._lock.descriptor)
        return self._lock.descriptor

    def _is_replaced(self, new: int, own_end: int, old: int, end: int, temporary: str) -> bool:
        """Put the file `new`, named `temporary`, in the place of `old`, where locks do nothing; it may be begun again.

        What others wrote behind `end` of `old` meanwhile is carried over. False if another was faster: then that one
        stays, for a short register does not tell which names were released since; and it is told what was appended
        behind `own_end` of `new` in the moment in which it was there.
        """
        info = os.stat(self._path, follow_symlinks=False)
        if not os.path.samestat(info, os.fstat(new)) and not exchange(temporary, self._path):
            os.rename(temporary, self._path)
        try:
            found = open_file(temporary, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:  # it was renamed
            found = None
        if found is not None:
            with found as fd:
                if not os.path.samestat(os.fstat(fd), os.fstat(old)):
                    exchange(temporary, self._path)
                    _append_from(new, own_end, fd)
                    return False
        if journal.token_of(os.pread(old, end, 0)) is not None:
            _append_from(old, end, new)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        return True


def _write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    n_bytes = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    if n_bytes != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _append_all(fd: int, data: bytes) -> None:
    """Append in one piece, whoever else appends."""
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
    try:
        _write_all(fd, data)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR)


def _append_from(fd: int, offset: int, to: int) -> None:
    """Append what stands behind `offset` in another file; the last line may be half written."""
    if data := os.pread(fd, _MOST_MEANWHILE_BYTES, offset):
        _append_all(to, data + b"\n")


def _facts_of(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_ino, info.st_size


def _behind_those_given(found: Iterable[int], first: int, last: int) -> int:
    """The id behind the dimensions of a range, which are ascending, that may have been given."""
    behind = first
    for dimension in found:
        if first <= dimension <= last:
            if dimension - behind >= _WIDE_GAP:
                break
            behind = dimension + 1
    return behind


def _end_of(given: dict[int, int], dimension: int) -> int | None:
    """The end of a range of given ids that an id lies in; None if it was not given."""
    for first, behind in given.items():
        if first <= dimension < behind:
            return behind
    return None


def _extend(given: dict[int, int], first: int, behind: int) -> None:
    if given.get(first, 0) < behind:
        given[first] = behind
