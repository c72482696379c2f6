"""Access traces: which layers were read, in which order, written to a file that a replay can read.

The file is a line of text and then words of 8 bytes, little-endian::

    "jessy-mem trace 1\\n"                                       so that `head -1` tells what it is
    dimension u32 | layer u16 | kind u16 = 0                     an access
    dimension u32 | 0     u16 | kind u16 = 1,  n_bytes u64       the dimension's region has n_bytes, from here on

The size of a dimension stands before its first access, and again when it changed (a new generation). A trace grows by
whole buffers, so a process that dies leaves a readable beginning; the reader leaves out a record cut off at the end.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import threading
import weakref
from codecs import BOM_UTF8
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Protocol

from jessy_mem.errors import LinkRefused

__all__ = ["Access", "CallSites", "TraceWriter", "Tracer", "Tracers", "read_trace"]

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
_HEADER = b"jessy-mem trace 1\n"
_WORD = struct.Struct("<IHH")
_SIZED = struct.Struct("<IHHQ")
_ACCESS, _SIZE = 0, 1  # kinds
_BUFFER_BYTES = 1 << 16
_N_SITES = 16  # kept for each dimension


class Access(NamedTuple):
    """One access: the layer that was read, and the bytes of its dimension's region, which come and go as one."""

    dimension: int
    layer: int
    n_bytes: int


class Tracer(Protocol):
    """Called for each access, from any thread."""

    def record(self, dimension: int, layer: int, n_bytes: int) -> None: ...


class Tracers:
    """Tracers that come and go, told through one that stays.

    `add` and `remove` return what the read path is to tell: this, or nobody. For both the owner locks.
    """

    def __init__(self) -> None:
        self._told: tuple[Tracer, ...] = ()

    def add(self, tracer: Tracer) -> tuple[Tracer, ...]:
        self._told = (*self._told, tracer)
        return (self,)

    def remove(self, tracer: Tracer) -> tuple[Tracer, ...]:
        self._told = tuple(each for each in self._told if each is not tracer)
        return (self,) if self._told else ()

    def record(self, dimension: int, layer: int, n_bytes: int) -> None:
        for tracer in self._told:
            tracer.record(dimension, layer, n_bytes)


class CallSites:
    """Where views of each dimension were taken, for ``leases()``: the last few places in the caller's code."""

    def __init__(self) -> None:
        self._sites: dict[int, tuple[str, ...]] = {}  # replaced as a whole: of two threads at once one may be lost

    def record(self, dimension: int, layer: int, n_bytes: int) -> None:
        frame = sys._getframe(2)  # compiled frames are none, so behind Tracers.record is the caller of access_layer
        site = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        others = [each for each in self._sites.get(dimension, ()) if each != site]
        self._sites[dimension] = (*others[1 - _N_SITES :], site)

    def of(self, dimension: int) -> tuple[str, ...]:
        """The places for `dimension`, oldest first."""
        return self._sites.get(dimension, ())


class TraceWriter:
    """Writes a trace to `path`, replacing a file that is there; LinkRefused if that is a link, symbolic or hard.

    A context manager.

    Recording never fails an access: when the file cannot be written (a full disk), recording stops, and `close` raises
    the OSError. A forked child has a closed writer. Thread-safe; accesses that race are written in either order.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "day.trace"
    >>> with TraceWriter(path) as trace:
    ...     trace.record(1, 0, n_bytes=4096)
    ...     trace.record(1, 3, n_bytes=4096)
    >>> read_trace(path)
    [Access(dimension=1, layer=0, n_bytes=4096), Access(dimension=1, layer=3, n_bytes=4096)]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.n_accesses = 0
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._buffer = bytearray(_HEADER)
        self._failure: OSError | None = None
        self._file = _opened_empty(self.path)
        _writers.add(self)
        self._write()

    def record(self, dimension: int, layer: int, n_bytes: int) -> None:
        """Add an access to `layer` of `dimension`, whose region has `n_bytes`. Does nothing after `close`."""
        with self._lock:
            if self._file.closed or self._failure is not None:
                return
            if self._sizes.get(dimension) != n_bytes:
                self._buffer += _SIZED.pack(dimension, 0, _SIZE, n_bytes)
                self._sizes[dimension] = n_bytes
            self._buffer += _WORD.pack(dimension, layer, _ACCESS)
            self.n_accesses += 1
            if len(self._buffer) >= _BUFFER_BYTES:
                self._write()

    def flush(self) -> None:
        """Hand what was recorded so far to the operating system."""
        with self._lock:
            if not self._file.closed:
                self._write()

    def close(self) -> None:
        """Write the rest and close the file; raises the OSError that stopped recording, if one did.

        May be called twice.
        """
        with self._lock:
            if self._file.closed:
                return
            self._write()
            self._file.close()
            if self._failure is not None:
                raise self._failure

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self) -> None:
        rest, self._buffer = self._buffer, bytearray()
        if self._failure is not None:
            return
        try:
            while rest:
                del rest[: self._file.write(rest)]
        except OSError as error:
            self._failure = error


def _opened_empty(path: Path) -> FileIO:
    """The file at `path`, made or emptied. Not through a link: what would be emptied then may lie anywhere."""
    try:
        file = FileIO(path, "wb", opener=lambda path, _: os.open(path, _FLAGS, 0o666))  # which closes it, come what may
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # the latter on BSD
            raise LinkRefused(path) from error
        raise
    try:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode):
            if facts.st_nlink > 1:
                raise LinkRefused(path)
            file.truncate(0)
    except BaseException:
        file.close()
        raise
    return file


_writers: weakref.WeakSet[TraceWriter] = weakref.WeakSet()


def _close_in_child() -> None:
    for writer in _writers:
        writer._lock = threading.Lock()  # a thread that is not in the child may hold the old one
        writer._file.close()  # nothing is written: the buffer belongs to the parent


os.register_at_fork(after_in_child=_close_in_child)


def read_trace(path: str | os.PathLike[str]) -> list[Access]:
    """The accesses of the trace in `path`, in order; equal ones are one object, so a long trace stays small.

    ValueError names the file and the byte offset where it is not a trace; OSError if it cannot be read.
    """
    data = Path(path).read_bytes().removeprefix(BOM_UTF8)
    if not data.startswith(_HEADER):
        if _HEADER.startswith(data):
            return []  # cut off before the first access
        raise ValueError(f"{path}: damaged at offset 0: not an access trace of version 1")
    n_words = (len(data) - len(_HEADER)) // _WORD.size
    words = enumerate(_WORD.iter_unpack(memoryview(data)[len(_HEADER) :][: n_words * _WORD.size]))
    sizes: dict[int, int] = {}
    known: dict[tuple[int, int, int], Access] = {}
    accesses: list[Access] = []
    for i, (dimension, layer, kind) in words:
        if kind == _ACCESS and dimension in sizes:
            key = (dimension, layer, sizes[dimension])
            accesses.append(known.get(key) or known.setdefault(key, Access(*key)))
        elif kind == _SIZE and dimension > 0 and layer == 0:
            if i + 1 == n_words:
                break
            _, (low, middle, high) = next(words)
            sizes[dimension] = low | middle << 32 | high << 48
        else:
            where = f"{path}: damaged at offset {len(_HEADER) + i * _WORD.size}"
            found = f"dimension {dimension}, layer {layer}, kind {kind}"
            raise ValueError(f"{where}: expected a size, or an access after one, found {found}")
    return accesses
