"""All errors of jessy_mem, as one tree under :class:`ConsciousnessError`.

Each error carries its numbers as attributes and also derives from the built-in kind that a Python user would catch:
``except LookupError`` catches :class:`LayerNotFound`, ``except OSError`` catches :class:`MappingError`.
Nothing here imports anything else of the package.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "AllocationFailed",
    "AlreadyPublished",
    "ChecksumMismatch",
    "ConsciousnessError",
    "DimensionAlreadyLoaded",
    "DimensionExists",
    "DimensionNotFound",
    "DoubleFree",
    "ImmutableDimension",
    "ImportConflict",
    "InvalidArchive",
    "InvalidRegion",
    "LayerNotFound",
    "LimitExceeded",
    "LinkRefused",
    "LockTimeout",
    "ManagerClosed",
    "MappingError",
    "MemoryError",
    "OutOfBounds",
    "ReadOnly",
    "RegionNotFound",
    "RegionTruncated",
    "UnsavedLearning",
]


def legible(text: str) -> str:
    r"""`text` as any stream and log takes it: what of a path is not UTF-8 is written out.

    >>> print(legible("notes/\udcff"))
    notes/\udcff
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class ConsciousnessError(Exception):
    """The root of every error that jessy_mem raises on purpose."""

    def __str__(self) -> str:
        # The message alone: of itself a KeyError shows a repr of it, an OSError its number.
        return legible(str(self.args[0]) if len(self.args) == 1 else super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        # The parameters of each constructor are attributes too, so an error travels through pickle with its numbers.
        init = type(self).__init__
        if init is Exception.__init__ or not hasattr(init, "__code__"):
            return type(self), self.args, self.__dict__
        names = init.__code__.co_varnames[1 : init.__code__.co_argcount]
        return type(self), tuple(getattr(self, name) for name in names), self.__dict__


class MemoryError(ConsciousnessError, builtins.MemoryError):
    """The general kind of every failure to get memory."""


class AllocationFailed(MemoryError):
    """The pool has no free block (or run of blocks) for a request that its limit would allow."""

    def __init__(self, requested_bytes: int, largest_free_bytes: int, free_blocks: Mapping[int, int]) -> None:
        self.requested_bytes = requested_bytes
        self.largest_free_bytes = largest_free_bytes
        self.free_blocks = dict(free_blocks)
        free = ", ".join(f"{n} of {size}" for size, n in self.free_blocks.items())
        super().__init__(
            f"no room in the pool for {requested_bytes} bytes: the largest free piece has {largest_free_bytes} bytes "
            f"(free blocks: {free}); free blocks or crystallize a proto-dimension"
        )


class LimitExceeded(MemoryError):
    """A request does not fit into what its segment, or the whole budget, has left. Nothing was changed.

    `unit` is what the numbers count: "bytes", or "ids" when a base folder has no id left to give, or "generations".
    """

    def __init__(
        self,
        current_bytes: int,
        limit_bytes: int,
        requested_bytes: int,
        segment: str,
        holders: Iterable[str] = (),
        hint: str = "",
        unit: str = "bytes",
    ) -> None:
        self.current_bytes = current_bytes
        self.limit_bytes = limit_bytes
        self.requested_bytes = requested_bytes
        self.segment = segment
        self.holders = tuple(holders)
        self.hint = hint
        self.unit = unit
        message = f"{segment}: {requested_bytes} {unit} do not fit, {current_bytes} of {limit_bytes} {unit} are in use"
        if self.holders:
            message += f"; held by {', '.join(self.holders)}"
        super().__init__(f"{message}; {hint}" if hint else message)


class LayerNotFound(ConsciousnessError, KeyError):
    """There is no such layer, or its dimension is not loaded. A LookupError, and of a Mapping the KeyError."""

    def __init__(self, dimension: int, layer: int, hint: str = "") -> None:
        self.dimension = dimension
        self.layer = layer
        self.hint = hint
        message = f"no layer D{dimension:02d}/L{layer}"
        super().__init__(f"{message}: {hint}" if hint else message)


class RegionNotFound(ConsciousnessError, LookupError):
    """The dimension is not loaded, or is not of the kind that a call is for; then `hint` says what it is."""

    def __init__(self, dimension: int, hint: str = "") -> None:
        self.dimension = dimension
        self.hint = hint
        why = f": {hint}" if hint else f" is not loaded; load_dimension({dimension}) loads it"
        super().__init__(f"dimension D{dimension:02d}{why}")


class DimensionNotFound(ConsciousnessError, FileNotFoundError):
    """The dimension has no region file where it was looked for."""

    def __init__(self, dimension: int, path: str | os.PathLike[str]) -> None:
        self.dimension = dimension
        self.path = os.fspath(path)
        super().__init__(f"dimension D{dimension:02d} has no region file at {self.path}")
        self.errno = errno.ENOENT
        self.filename = self.path


class DimensionAlreadyLoaded(ConsciousnessError, ValueError):
    """The dimension is loaded; ``reload_dimension`` takes a new file.

    `loaded_from` is where from, if another path was asked for: a path, or "simulated" or "pool"; else empty.
    """

    def __init__(self, dimension: int, loaded_from: str = "") -> None:
        self.dimension = dimension
        self.loaded_from = loaded_from
        already = f"dimension D{dimension:02d} is already loaded"
        if loaded_from:
            hint = f" from {loaded_from}; unload_dimension({dimension}) makes room for another file"
        else:
            hint = f"; reload_dimension({dimension}) takes a new file, exist_ok=True what is loaded"
        super().__init__(already + hint)


class DimensionExists(ConsciousnessError, FileExistsError):
    """There is a dimension of that name in the base folder. Nothing was changed."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.dimension = dimension
        super().__init__(f"dimension {name!r} exists: it is D{dimension:02d}; ensure_dimension({name!r}) gives its id")
        self.errno = errno.EEXIST


class OutOfBounds(ConsciousnessError, IndexError):
    """A slice that does not lie inside its region, or an address outside the plan."""

    def __init__(self, offset: int, size: int, region_size: int) -> None:
        self.offset = offset
        self.size = size
        self.region_size = region_size
        super().__init__(f"{size} bytes at offset {offset} do not lie inside the {region_size} bytes there are")


class InvalidRegion(ConsciousnessError, ValueError):
    """A region file breaks a rule of the format. ``field`` names the header field or the part that does.

    `hint` says what else the file may be, and what can be done.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        field: str,
        found: object,
        expected: object,
        layer: int | None = None,
        hint: str = "",
    ) -> None:
        self.path = os.fspath(path)
        self.field = field
        self.found = found
        self.expected = expected
        self.layer = layer
        self.hint = hint
        where = field if layer is None else f"{field} of layer {layer}"
        message = f"{self.path}: {where}: found {found}, expected {expected}"
        super().__init__(f"{message}; {hint}" if hint else message)


class RegionTruncated(InvalidRegion):
    """The file is shorter than it says, or than a header."""


class ChecksumMismatch(InvalidRegion):
    """The bytes are not the ones that were written."""


class InvalidArchive(ConsciousnessError, ValueError):
    """An archive is not what `export_base` writes. ``member`` names the file in it, empty for the archive itself."""

    def __init__(self, path: str | os.PathLike[str], member: str, reason: str) -> None:
        self.path = os.fspath(path)
        self.member = member
        self.reason = reason
        super().__init__(f"{self.path}:{member}: {reason}" if member else f"{self.path}: {reason}")


class ImportConflict(ConsciousnessError, FileExistsError):
    """Dimensions of an archive are in the base folder and differ, or their ids or names are those of others there.

    Nothing of them was changed.

    ``dimensions`` is a dict of the id to what is in the way.
    """

    def __init__(self, dimensions: Mapping[int, str]) -> None:
        self.dimensions = dict(dimensions)
        told = "; ".join(f"D{dimension:02d}: {reason}" for dimension, reason in self.dimensions.items())
        super().__init__(f"not imported: {told}")
        self.errno = errno.EEXIST


class ImmutableDimension(ConsciousnessError, PermissionError):
    """The dimension may not be changed, by the plan or by its file's flag."""

    def __init__(self, dimension: int, refused: str = "changing it") -> None:
        self.dimension = dimension
        self.refused = refused
        super().__init__(f"dimension D{dimension:02d} is immutable: {refused} is refused")
        self.errno = errno.EPERM


class ReadOnly(ConsciousnessError, PermissionError):
    """The manager was made with ``read_only=True``, and the call would have written into its base folder."""

    def __init__(self, base_path: str | os.PathLike[str]) -> None:
        self.base_path = os.fspath(base_path)
        super().__init__(f"the manager of {self.base_path} is read only: nothing is learned or forgotten with it")
        self.errno = errno.EROFS
        self.filename = self.base_path


class UnsavedLearning(ConsciousnessError, RuntimeError):
    """There are proto-dimensions without a file, and ``on_close="raise"``, or the manager was to be pickled."""

    def __init__(self, dimensions: Iterable[int]) -> None:
        self.dimensions = tuple(dimensions)
        named = ", ".join(f"D{dimension:02d}" for dimension in self.dimensions)
        super().__init__(f"not saved: {named}; crystallize or forget them first")


class DoubleFree(ConsciousnessError, ValueError):
    """The block was freed before. Nothing was changed."""

    def __init__(self, block_size: int, index: int) -> None:
        self.block_size = block_size
        self.index = index
        super().__init__(f"block {index} of the {block_size} byte class was freed before")


class ManagerClosed(ConsciousnessError, ValueError):
    """The manager (or pool) was closed before this call."""

    def __init__(self, what: str = "the manager") -> None:
        self.what = what
        super().__init__(f"{what} is closed")


class MappingError(MemoryError, OSError):
    """The operating system refused: no descriptor left, no permission, disk full. ``errno`` and ``filename`` tell.

    `requested_bytes` is the memory or address space that was asked for, 0 if it was none; `hint` says what to change.
    """

    def __init__(
        self,
        errno: int | None,
        strerror: str,
        filename: str | os.PathLike[str],
        requested_bytes: int = 0,
        hint: str = "",
    ) -> None:
        OSError.__init__(self, errno, strerror, os.fspath(filename))
        self.requested_bytes = requested_bytes
        self.hint = hint

    @classmethod
    def of(cls, error: OSError, path: str | os.PathLike[str], requested_bytes: int = 0) -> MappingError:
        """The same failure as `error`, as this library's kind, about `path`, when `requested_bytes` were wanted."""
        number, strerror = error.errno, error.strerror or str(error)
        if number != errno.ENOMEM or not requested_bytes:
            return cls(number, strerror, path)
        hint = f"{requested_bytes} bytes of address space were asked for; {NO_MEMORY_HINT}"
        return cls(number, strerror, path, requested_bytes, hint)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {self.hint}" if self.hint else text


NO_MEMORY_HINT = (
    "raise what bounds this process (ulimit -v, RLIMIT_AS, its container) or the system (vm.overcommit_memory, "
    "vm.max_map_count), or lower total_memory_mb"
)


class AlreadyPublished(MappingError, FileExistsError):
    """Another published a file in that place first. It was not overwritten."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        MappingError.__init__(self, errno.EEXIST, "another published a file in this place, and it stays", self.path)


class LinkRefused(MappingError):
    """A link in a base folder, symbolic or hard, that something would be written, removed or read through.

    `option` is the field of MemoryConfig that allows it; empty if nothing does.
    """

    def __init__(self, path: str | os.PathLike[str], option: str = "") -> None:
        self.path = os.fspath(path)
        self.option = option
        reason = "it is a link, and nothing outside the base folder is written or removed"
        if option:
            reason = f"it is a link, and links in a base folder are not followed; {option}=True allows it for reading"
        MappingError.__init__(self, errno.ELOOP, reason, self.path)


class LockTimeout(ConsciousnessError, TimeoutError):
    """Another held the lock of the base folder all the time. ``holder_pid`` is its process, None if nobody knows."""

    def __init__(self, path: str | os.PathLike[str], timeout_s: float, holder_pid: int | None) -> None:
        self.path = os.fspath(path)
        self.timeout_s = timeout_s
        self.holder_pid = holder_pid
        holder = "another process" if holder_pid is None else f"process {holder_pid}"
        super().__init__(
            f"{self.path}: {holder} held the lock for {timeout_s:g} s; lock_timeout_s says how long to wait"
        )
        self.errno = errno.ETIMEDOUT
        self.filename = self.path


BY_STATUS: tuple[type[ConsciousnessError] | None, ...] = (
    None,  # OK
    OutOfBounds,
    LimitExceeded,
    AllocationFailed,  # NO_FREE_BLOCK
    DoubleFree,
)
"""What a kernel's Status (_core/c/typedefs.pxd), which is its index here, becomes in Python."""


def error_of(status: int, *numbers: Any) -> ConsciousnessError:
    """The error for a status that is not OK, made of the numbers that its class takes."""
    kind = BY_STATUS[status]
    assert kind is not None
    return kind(*numbers)
