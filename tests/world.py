"""A base folder whose files are known to the last byte, for tests of what reads them.

Files are those of `helpers.extended_file`, and they are published the way every writer must: beside the target, then
renamed over it, so that who has the old one mapped keeps it.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jessy_mem as jm
from helpers import Layer, extended_file, plain_file

MIB = 1 << 20
PLANNED = tuple(jm.default_layout().dimensions)
IMMUTABLE = (9, 14)


_LETTERS = bytes(b"etaoin shrdlucmfwypvbgkjqxz ETAOINSHRDLU,"[i % 41] for i in range(256))


@cache
def content_of(dimension: int, layer: int, generation: int = 1, n_bytes: int = 1000) -> bytes:
    """The text that `World.write` puts into a layer; those of two layers or generations differ in every 32 bytes."""
    stamp = f"D{dimension}/{layer}/{generation};".encode().ljust(16, b".")
    content = bytearray(random.Random(stamp).randbytes(n_bytes).translate(_LETTERS))
    for at, letter in enumerate(stamp):
        content[at::32] = bytes([letter]) * len(content[at::32])
    return bytes(content)


def generation_of(content: bytes) -> int:
    """The generation of which `content` is a whole layer; ValueError if it is none, or a mixture of two."""
    stamp = bytes(content[:16])
    dimension, layer, generation = stamp.rstrip(b".").lstrip(b"D").rstrip(b";").split(b"/")
    if bytes(content) != content_of(int(dimension), int(layer), int(generation), len(content)):
        raise ValueError(f"a mixture: {stamp!r} begins it")
    return int(generation)


class World:
    """A base folder for managers."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def path(self, dimension: int) -> Path:
        return Path(jm.region_path(self.base, dimension))

    def write(
        self,
        dimension: int,
        n_layers: int = 4,
        n_bytes: int = 1000,
        generation: int = 1,
        immutable: bool | None = None,
        keywords: tuple[bytes, ...] = (),
    ) -> Path:
        """Publish a region of layers with `content_of`; layer i has depth i and (i + 1) / 2 Hz."""
        layers = [
            Layer(i, content_of(dimension, i, generation, n_bytes), i % 256, (i + 1) / 2, keywords)
            for i in range(n_layers)
        ]
        if immutable is None:
            immutable = dimension in IMMUTABLE
        data = extended_file(layers, dimension, b"dimension %d" % dimension, immutable=immutable, generation=generation)
        return self.publish(dimension, data)

    def write_all(self, *dimensions: int, **options) -> None:
        for dimension in dimensions:
            self.write(dimension, **options)

    def write_sparse(self, dimension: int, n_bytes: int) -> Path:
        """Publish a plain file of `n_bytes`, nearly all of them a hole, with one short layer at its end."""
        content = b"the end of %d" % dimension
        head = plain_file([Layer(0, content)], dimension, offsets=[300])[:300]
        data = bytearray(head)
        data[72:80] = n_bytes.to_bytes(8, "little")
        record_end = 256 + 23
        data[record_end - 12 : record_end - 4] = (n_bytes - len(content)).to_bytes(8, "little")
        path = self.publish(dimension, bytes(data))
        with path.open("r+b") as file:
            file.truncate(n_bytes - len(content))
            file.seek(0, os.SEEK_END)
            file.write(content)
        return path

    def delta_path(self, dimension: int, generation: int) -> Path:
        return self.path(dimension).with_name(f"delta-{generation:016}.mmap")

    def grow(
        self,
        dimension: int,
        generation: int,
        put: Iterable[int] = (),
        removed: Iterable[int] = (),
        n_bytes: int = 1000,
        name: bytes | None = None,
        **options: Any,
    ) -> Path:
        """Publish a delta: layers `put` have `content_of` that generation, those `removed` a tombstone."""
        layers = [
            Layer(i, content_of(dimension, i, generation, n_bytes), i % 256, (i + 1) / 2, (b"delta",), **options)
            for i in put
        ]
        layers += [Layer(i, b"", text_flags=4) for i in removed]
        name = b"dimension %d" % dimension if name is None else name
        layers.sort(key=lambda layer: layer.layer)
        data = extended_file(layers, dimension, name, generation=generation, version=2, delta=True)
        return publish(self.delta_path(dimension, generation), data)

    def compact(self, dimension: int, generation: int, layers: Mapping[int, int], n_bytes: int = 1000) -> None:
        """Publish a base with `layers` (number -> generation of its content), then remove the deltas it replaces."""
        found = [
            Layer(i, content_of(dimension, i, made, n_bytes), i % 256, (i + 1) / 2, (b"delta",))
            for i, made in sorted(layers.items())
        ]
        self.publish(dimension, extended_file(found, dimension, b"dimension %d" % dimension, generation=generation))
        for path in sorted(self.path(dimension).parent.glob("delta-*.mmap")):
            if int(path.stem[6:]) <= generation:
                path.unlink()

    def publish(self, dimension: int, data: bytes) -> Path:
        return publish(self.path(dimension), data)

    def damage(self, dimension: int, offset: int = -1) -> None:
        """Publish the file again with one bit turned at `offset`."""
        data = bytearray(self.path(dimension).read_bytes())
        data[offset] ^= 1
        self.publish(dimension, bytes(data))


def publish(path: Path, data: bytes) -> Path:
    """Write `data` beside `path`, and rename it over that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{random.getrandbits(64):x}")
    temporary.write_bytes(data)
    temporary.rename(path)
    return path


def manager(world: World | Path, total_memory_mb=280, **overrides) -> jm.MmapManager:
    """A manager that simulates nothing unless it is told to."""
    base = world.base if isinstance(world, World) else world
    return jm.MmapManager(total_memory_mb, base_path=base, **{"simulation": "never", **overrides})


def mapped_dimensions(memory: jm.MmapManager) -> set[int]:
    """Those that are loaded and not evicted."""
    return {int(dimension) for dimension in memory.dump_state()["regions"]}


def evicted_dimensions(memory: jm.MmapManager) -> set[int]:
    return {int(dimension) for dimension in memory.dump_state()["evicted"]}


def check_reading(memory: jm.MmapManager, dimension: int, generation: int = 1, n_layers: int = 4, n_bytes=1000) -> None:
    """Every layer of `dimension` is what `World.write` put there."""
    for layer in range(n_layers):
        view = memory.access_layer((dimension, layer))
        assert bytes(view) == content_of(dimension, layer, generation, n_bytes), f"D{dimension:02d}/L{layer}"
        assert (view.id, view.depth, view.frequency) == ((dimension, layer), layer, (layer + 1) / 2)


def check_states(stats: jm.MemoryStats) -> None:
    """The numbers of one snapshot add up."""
    states = (stats.leased_bytes, stats.evictable_bytes, stats.pinned_bytes, stats.available_bytes)
    assert min(states) >= 0, states
    assert sum(states) == stats.limit_bytes, states
    assert stats.total_allocated_bytes + stats.available_bytes == stats.limit_bytes
    assert sum(segment.used_bytes for segment in stats.segments.values()) == stats.total_allocated_bytes
    for name, segment in stats.segments.items():
        assert segment.used_bytes <= segment.limit_bytes, name
        assert segment.used_bytes <= segment.peak_bytes <= segment.limit_bytes, name
    assert stats.total_allocated_bytes <= stats.peak_usage_bytes <= stats.limit_bytes
    assert stats.total_used_bytes <= stats.total_allocated_bytes
    assert math.isclose(stats.utilization, 100 * stats.total_allocated_bytes / stats.limit_bytes)
