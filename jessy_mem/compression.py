"""The one place that knows where zstd comes from: the standard library from Python 3.14, its backport before."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

__all__ = ["RAW", "ZSTD", "compress", "decompress"]

RAW, ZSTD = 0, 1  # codecs of the format

_LEVEL = 3


@cache
def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"compressed layers need {name}: pip install 'jessy-mem[zstd]'") from error


def compress(raw: bytes | bytearray | memoryview) -> tuple[bytes | bytearray | memoryview, int]:
    """`raw` compressed, and the codec; `raw` itself where compression does not make it smaller."""
    packed = _zstd().compress(raw, _LEVEL)
    return (packed, ZSTD) if len(packed) < len(raw) else (raw, RAW)


def decompress(stored: bytes | memoryview, target: memoryview) -> int:
    """Decompress one frame into `target`; returns the bytes written, or -1 if the frame holds more, or is damaged."""
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor()
    try:
        raw = decompressor.decompress(stored, max_length=len(target) + 1)
    except zstd.ZstdError:
        return -1
    if len(raw) > len(target) or not decompressor.eof:
        return -1
    target[: len(raw)] = raw
    return len(raw)
