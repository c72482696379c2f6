"""Sizes as users give them, and the classes that a pool may have: one set of rules for configurations and pools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jessy_mem import given

__all__ = [
    "DEFAULT_POOLS",
    "MAX_SIZE_MB",
    "check_guard_sample",
    "check_pools",
    "check_total_mb",
    "parse_size_mb",
    "size_bytes",
]

DEFAULT_POOLS = ((32, 4096), (128, 16384), (80, 65536), (40, 262144))
MAX_SIZE_MB = 1 << 26  # 64 TiB
MAX_GUARD_SAMPLE = 2**32 - 1
MIN_BLOCK_BYTES = 64
MAX_CLASSES = 32  # as in _core/arena.pxd, checked at import

_MIB = 1 << 20
_UNITS_MB = {"": 1.0, "b": 2.0**-20, "k": 2.0**-10, "m": 1.0, "g": 2.0**10, "t": 2.0**20}


def parse_size_mb(size: int | float | str) -> int | float:
    """A size in MiB: numbers are MiB already, text such as ``"280MB"``, ``"280MiB"`` or ``"1.5 GiB"`` is read.

    >>> parse_size_mb("280MB"), parse_size_mb(16), parse_size_mb("512 KiB")
    (280, 16, 0.5)
    """
    if not isinstance(size, str):
        try:
            return given.amount(size)
        except (TypeError, ValueError):
            raise ValueError(f"{size!r} is not a size") from None
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b?|b|)\s*", size.lower())
    if match is None:
        raise ValueError(f"{size!r} is not a size: expected a number of MiB, or text such as '280MB'")
    size_mb = float(match[1]) * _UNITS_MB[match[2][:1]]
    return int(size_mb) if size_mb.is_integer() else size_mb


def check_total_mb(total_mb: int | float | str) -> int | float:
    """The limit of a pool or a budget in MiB; ValueError if it is no size of at least a byte and at most 64 TiB."""
    size_mb = parse_size_mb(total_mb)
    if not 0 < size_mb <= MAX_SIZE_MB or size_mb * _MIB < 1:
        raise ValueError(f"{total_mb!r} is not a size above 0 and at most {MAX_SIZE_MB} MiB")
    return size_mb


def check_guard_sample(value: object) -> int:
    """One in how many blocks of a pool is guarded, 0 for none; ValueError if it is no integer of 0..2**32 - 1."""
    try:
        n = -1 if isinstance(given.scalar(value), bool) else given.integer(value)
    except TypeError:
        n = -1
    if not 0 <= n <= MAX_GUARD_SAMPLE:
        raise ValueError(f"{value!r} is not in 0..{MAX_GUARD_SAMPLE}")
    return n


def size_bytes(field: str, size_mb: int | float | str) -> int:
    """A size as users give it, in bytes; ValueError names the field.

    >>> size_bytes("max_metadata_mb", "16MB")
    16777216
    """
    try:
        return int(check_total_mb(size_mb) * _MIB)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_pools(pools: Iterable[tuple[int | float | str, int]]) -> tuple[tuple[int | float, int], ...]:
    """The classes of a pool as (size in MiB, block size in bytes), smallest blocks first; ValueError says what is not.

    >>> check_pools([("16MB", 16384), (0.5, 4096)])
    ((0.5, 4096), (16, 16384))
    """
    if isinstance(pools, (str, bytes, Mapping)):
        raise ValueError(f"{pools!r} is not a sequence of pairs (size in MiB, block size in bytes)")
    try:
        classes = sorted(
            ((parse_size_mb(size), given.integer(block)) for size, block in pools), key=lambda each: each[1]
        )
    except TypeError as error:
        raise ValueError(str(error)) from None
    if not 0 < len(classes) <= MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes, expected 1 to {MAX_CLASSES}")
    if len({block_bytes for _, block_bytes in classes}) < len(classes):
        raise ValueError("two classes have the same block size")
    for size_mb, block_bytes in classes:
        if block_bytes < MIN_BLOCK_BYTES or block_bytes & (block_bytes - 1):
            raise ValueError(f"block size {block_bytes} is not a power of two of at least {MIN_BLOCK_BYTES}")
        if not block_bytes <= size_mb * _MIB <= MAX_SIZE_MB * _MIB or size_mb * _MIB % block_bytes:
            raise ValueError(f"{size_mb} MiB is not a whole number of blocks of {block_bytes} bytes")
    return tuple(classes)
