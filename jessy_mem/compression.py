"""The one place that knows where zstd comes from: the standard library from Python 3.14, its backport before."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from jessy_mem.forking import imported

__all__ = ["RAW", "ZSTD", "compress", "decompress", "is_available"]

RAW, ZSTD = 0, 1  # codecs of the format

_LEVEL = 3
_PIECE_BYTES = 1 << 20


@cache
def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return imported(name)
    except ImportError as error:
        raise ImportError(f"compressed layers need {name}: pip install 'jessy-mem[zstd]'") from error


def is_available() -> bool:
    """Whether there is a decoder."""
    try:
        _zstd()
    except ImportError:
        return False
    return True


def compress(raw: bytes | bytearray | memoryview) -> tuple[bytes | bytearray | memoryview, int]:
    """`raw` compressed, and the codec; `raw` itself where compression does not make it smaller."""
    packed = _zstd().compress(raw, _LEVEL)
    return (packed, ZSTD) if len(packed) < len(raw) else (raw, RAW)


def decompress(stored: bytes | memoryview, raw_bytes: int, target: memoryview | None = None) -> bool:
    """Whether `stored` is one whole frame of `raw_bytes` bytes; they are written to `target` if it is given.

    Works piece by piece, so that a frame that holds more than it should costs no memory.
    """
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor()
    done_bytes = 0
    try:
        while True:
            left_bytes = raw_bytes - done_bytes
            piece = decompressor.decompress(stored if done_bytes == 0 else b"", min(left_bytes + 1, _PIECE_BYTES))
            if len(piece) > left_bytes:
                return False
            if target is not None:
                target[done_bytes : done_bytes + len(piece)] = piece
            done_bytes += len(piece)
            if decompressor.eof:
                return done_bytes == raw_bytes and not decompressor.unused_data
            if not piece:
                return False
    except zstd.ZstdError:
        return False
