"""A fuzz target: any bytes as a region file, read by the library and by `helpers.read_region`, which must agree.

`.ci/sanitizers fuzz` compiles the library so that it counts the edges it passes, and runs this under libFuzzer
(atheris). The judge knows docs/format.md and nothing of the library. What one of them takes and the other refuses, what
a reader gets that the judge does not, and any error without a type ends the run, as does a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import random
import struct
import sys

from helpers import HEADER_BYTES, MAGIC, read_region, redigest, redigest_content

MAX_BYTES = 8192
zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def judged(data: bytes) -> list[object] | None:
    """What a file says by docs/format.md alone; None if it breaks a rule."""
    try:
        region = read_region(data)
        found: list[object] = [region.dimension_id, region.name.decode(), region.generation, region.immutable]
        for layer in region.layers:
            content = layer.content
            if layer.codec:
                frame = zstd.ZstdDecompressor()
                content = frame.decompress(layer.content, max_length=layer.raw_size + 1)
                assert (frame.eof, frame.unused_data, len(content)) == (True, b"", layer.raw_size), "codec"
            if not layer.is_tombstone:
                words = tuple(word.decode() for word in layer.keywords)
                facts = layer.depth, words, layer.n_tokens, layer.created_ns or 0, json.loads(layer.attributes or b"{}")
                found.append((layer.layer, content, *facts))
    except (AssertionError, UnicodeDecodeError, struct.error, ValueError, zstd.ZstdError):
        return None
    return found


def read(path: str) -> list[object] | None:
    """What the library reads of a file, all of it; None if it refuses any part."""
    import jessy_mem as jm

    try:
        with jm.MmapRegion(None, path) as region:
            found: list[object] = [region.dimension_id, region.name, region.generation, region.immutable]
            for layer_id in region.layers():
                view = region.layer(layer_id.layer)
                with contextlib.suppress(UnicodeDecodeError):
                    assert view.text == bytes(view).decode()
                facts = view.depth, view.keywords, view.n_tokens, view.created_ns, dict(view.attributes)
                found.append((layer_id.layer, bytes(view), *facts))
            return None if region.verify() else found
    except (jm.InvalidRegion, jm.LimitExceeded):
        return None


class Target:
    """Feeds a memfd, so that no disk is waited for."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("region")
        self.n_sound = 0

    def __call__(self, data: bytes) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)
        found, expected = read(f"/proc/self/fd/{self.fd}"), judged(data)
        assert found == expected, f"the library reads {found}, docs/format.md says {expected}"
        self.n_sound += found is not None


def dressed(data: bytes, seed: int) -> bytes:
    """Mostly with the sizes and checksums that the rest asks for: without them all would end at the first rule."""
    chance, dress = random.Random(seed), bytearray(data)
    if len(dress) < HEADER_BYTES or chance.random() < 0.1:
        return data
    struct.pack_into("<Q", dress, 72, len(dress))
    dress[84:100] = MAGIC
    with contextlib.suppress(Exception):  # what no reader would get that far with stays as it is
        if chance.random() < 0.7:
            mend_contents(dress)
        redigest(dress)
    return bytes(dress)


def mend_contents(data: bytearray) -> None:
    """The checksums of the contents, wherever the records say that they are, if they are all there."""
    with contextlib.suppress(AssertionError):
        redigest_content(data, read_region(bytes(data), checksums=False))


def main() -> None:
    coverage = ctypes.CDLL(os.environ["JESSY_MEM_COVERAGE"])
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)  # what the library calls when it compares is in there
    import atheris
    import atheris.core_with_libfuzzer as fuzzer

    sys.setdlopenflags(flags)
    coverage.register_with(ctypes.c_void_p(ctypes.CDLL(fuzzer.__file__)._handle))  # as dlopen gave it
    target = Target()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return dressed(atheris.Mutate(data, min(max_size, MAX_BYTES)), seed)[:max_size]

    atheris.Setup(sys.argv, target, custom_mutator=mutate, internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
