"""Names of dimensions: what a name is, which dimension has it, and what the region files say.

A name is 1 to 64 bytes of UTF-8, normalised (NFC) and compared exactly: two users whose names differ in case have two
memories.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator

from jessy_mem._core.head import MAX_NAME_BYTES, N_HEADER_BYTES, stored_name
from jessy_mem._core.mapped import read_beneath
from jessy_mem._core.whole import Descriptor
from jessy_mem.layout import MAX_DIMENSION, dimension_folder

__all__ = [
    "EXHAUSTED",
    "MAX_NAME_BYTES",
    "NameMap",
    "checked_name",
    "dimensions_in",
    "dimensions_of",
    "stored_names",
]

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # says nothing about the file


def checked_name(name: str) -> str:
    """`name` as it is kept and compared; TypeError or ValueError if it cannot be one.

    >>> checked_name("customer:ann")
    'customer:ann'
    """
    if not isinstance(name, str):
        raise TypeError(f"name: {type(name).__name__} is not a str")
    normalised = unicodedata.normalize("NFC", name)
    n_bytes = len(normalised.encode())  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if not 0 < n_bytes <= MAX_NAME_BYTES:
        raise ValueError(f"name: {name!r} has {n_bytes} bytes, a name has 1..{MAX_NAME_BYTES}")
    return normalised


def dimensions_in(base_path: str | os.PathLike[str]) -> list[int]:
    """The dimensions that have a folder in `base_path`, ascending; none if it cannot be read."""
    try:
        return dimensions_of(os.listdir(base_path))
    except OSError:
        return []


def dimensions_of(names: Iterable[str]) -> list[int]:
    """The dimensions that have their folder among `names`, ascending."""
    found = {name: int(name[1:]) for name in names if name[:1] == "D" and name[1:].isascii() and name[1:].isdecimal()}
    return sorted(n for name, n in found.items() if 0 < n <= MAX_DIMENSION and name == dimension_folder(n))


class NameMap:
    """Names and dimensions, both ways, in memory. One thread changes it; others may read `by_name` meanwhile."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}  # the lower one, where several have the name
        self.of: dict[int, str] = {}
        self.owner_of: dict[int, str] = {}
        self._more: dict[str, set[int]] = {}  # all that have a name that several have

    def put(self, dimension: int, name: str, owner: str = "") -> None:
        """Let `dimension` have `name`, and no other."""
        if self.of.get(dimension) != name:
            self.remove(dimension)
            self.of[dimension] = name
            holder = self.by_name.get(name)
            if holder is not None:
                self._more.setdefault(name, {holder}).add(dimension)
            self.by_name[name] = dimension if holder is None else min(holder, dimension)
        if owner:
            self.owner_of[dimension] = owner
        else:
            self.owner_of.pop(dimension, None)

    def remove(self, dimension: int) -> None:
        """Take the name from `dimension`, if it has one."""
        name = self.of.pop(dimension, None)
        self.owner_of.pop(dimension, None)
        if name is None:
            return
        others = self._more.get(name, set()) - {dimension}
        if others:
            self.by_name[name] = min(others)
        else:
            del self.by_name[name]
        if len(others) > 1:
            self._more[name] = others
        else:
            self._more.pop(name, None)

    def duplicates(self) -> dict[str, list[int]]:
        """The names that several dimensions have, and which."""
        return {name: sorted(dimensions) for name, dimensions in self._more.items()}


def stored_names(base_path: str, dimensions: Iterable[int]) -> Iterator[tuple[int, str]]:
    """The names that region files say, without mapping them; what has no sound header is passed over.

    OSError if the folder cannot be opened, or no file can.
    """
    with Descriptor(base_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as base:
        for dimension in dimensions:
            try:
                header = read_beneath(base, f"{dimension_folder(dimension)}/region.mmap", N_HEADER_BYTES)
            except OSError as error:  # there is none, or it is a folder, a FIFO or a link
                if error.errno in EXHAUSTED:
                    raise
                continue
            name = _decoded(stored_name(header, dimension))
            if name:
                yield dimension, name


def _decoded(encoded: bytes) -> str:
    try:
        name = encoded.decode()
    except UnicodeDecodeError:
        return ""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
