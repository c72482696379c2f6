"""ProtoTable: proto-dimensions in the pool, and how they become region files.

A proto-dimension is a region in the file format, in one block of the pool, read by the same code as a mapped file. To
crystallize is to publish those very bytes, map the file and put it in the table by one assignment:

    specs --> RegionBuilder --> block of the pool --> temporary file --> region.mmap --> mapping
                                  source "pool"          fsync, rename, fsync           source "mmap"

HAZARD: publishing takes milliseconds and may fail at each step. It runs under `_learning`, a lock that no reader and no
load takes unless the budget is full; `_lock` of the table is taken inside it, never around it. Until the assignment the
table has not changed, and what fails before it takes the file away again; after it the file stays. Who holds a view of
an old generation holds its block, and the charge.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from jessy_mem._core.image import Image
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import now_ticks
from jessy_mem.builder import LayerSpec, PackedRegion, RegionBuilder
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import ImmutableDimension, LimitExceeded, MappingError, RegionNotFound
from jessy_mem.ids import IdRegister
from jessy_mem.publish import NewFile
from jessy_mem.stats import format_bytes
from jessy_mem.table import Evicted, RegionTable

__all__ = ["ProtoTable", "packed_region", "specs_of"]


class ProtoTable(RegionTable):
    """A table of regions some of which have no file yet."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__(config)
        self._learning = threading.RLock()
        self._ids = IdRegister(os.fspath(config.base_path), self.layout)
        self._protos: dict[int, int] = {}  # the bytes of their blocks, in the order of their creation
        self._left_behind: dict[int, NewFile] = {}  # files of proto-dimensions that could not be taken away again
        self._crystallizations = LatencyHistogram()

    def _proto(self, dimension: int) -> MmapRegion:
        """The proto-dimension; ImmutableDimension or RegionNotFound if it is something else."""
        self._check_open()
        region: MmapRegion | None = self._regions.get(dimension)
        if region is not None and region.source == "pool":
            return region
        if self.layout.is_immutable(dimension) or (region is not None and region.immutable):
            raise ImmutableDimension(dimension)
        raise RegionNotFound(dimension, "it is not a proto-dimension, and only those are changed or crystallized")

    def _block_for(self, packed: PackedRegion, dimension: int) -> Block:
        """Room in the pool; LimitExceeded also for what could never be loaded from a file."""
        segment, slot_bytes = self.layout.segment_of(dimension).name, self.layout.slot_bytes(dimension)
        if packed.n_bytes > slot_bytes:
            hint = f"one dimension may have {format_bytes(slot_bytes)}"
            raise LimitExceeded(0, slot_bytes, packed.n_bytes, segment, hint=hint)
        return self._allocate(packed.n_bytes, segment)

    def _introduce(self, dimension: int, packed: PackedRegion, block: Block, old: MmapRegion | None = None) -> bool:
        """Make `packed`, copied to `block`, a proto-dimension in place of `old`; False if something else is there."""
        packed.renumber(dimension)
        packed.fill(memoryview(block))
        image = Image(block, f"<proto-dimension D{dimension:02d}>", dimension, "pool", trusted=True)
        image.charged_bytes = block.capacity
        region = self._region_around(image, dimension)
        with self._lock:
            if self._closed or self._regions.get(dimension) is not old or dimension in self._evicted:
                return False
            self._protos[dimension] = block.capacity
            self._install(dimension, region)
            return True

    def _drop_from_table(self, dimension: int) -> None:
        self._protos.pop(dimension, None)
        self._left_behind.pop(dimension, None)
        self._evicted.pop(dimension, None)
        if dimension in self._regions:
            self._uninstall(dimension)
        self._forget_facts(dimension)

    # From the pool to the file

    def _publish(self, dimension: int) -> Path:
        """Write the file of a proto-dimension and let it take its place; undone on any failure. Under `_learning`."""
        begin_ticks = now_ticks()
        self._proto(dimension)
        path = Path(self._place_of(dimension).path)
        with self._ids.locked():
            if dimension in self._left_behind:
                self._left_behind.pop(dimension).take_back()
            file = NewFile(path)
            proto = self._proto(dimension)
            try:
                with memoryview(proto) as whole:
                    file.publish([whole])
                self._take_place(dimension, proto, self._open_if_it_fits(dimension))
            except BaseException:
                if self._regions.get(dimension) is proto:
                    self._take_back(dimension, file)
                raise
            finally:
                del proto  # the traceback of an error would keep it, and its block
        self.finish(self._crystallizations, begin_ticks)
        return path

    def _open_if_it_fits(self, dimension: int) -> MmapRegion | None:
        try:
            return self._open_region(dimension)
        except LimitExceeded:
            return None

    def _take_place(self, dimension: int, proto: MmapRegion, region: MmapRegion | None) -> None:
        """Let the file of a proto-dimension, mapped as `region` if there was room, take its place in the table."""
        with self._lock:
            if self._regions.get(dimension) is not proto:  # closed meanwhile; with the file nothing is lost
                return
            if region is not None:
                self._install(dimension, region)
            else:  # no room for both: the first access maps the file, when the block is gone
                self._evicted[dimension] = Evicted(proto.generation, proto.n_layers, "mmap")
                self._index_now(dimension)
                self._uninstall(dimension)
            del self._protos[dimension]

    def _take_back(self, dimension: int, file: NewFile) -> None:
        """Remove the file of a proto-dimension that could not take its place, or remember that it is ours."""
        with contextlib.suppress(MappingError):
            file.take_back()
        if file.is_there():
            self._left_behind[dimension] = file


def packed_region(dimension: int, name: str, specs: Sequence[LayerSpec]) -> PackedRegion:
    """The first generation of a dimension, as it will be stored."""
    builder = RegionBuilder(dimension, name)
    for spec in specs:
        builder.add_layer(spec)
    return builder.pack(1)


def specs_of(region: MmapRegion) -> dict[int, LayerSpec]:
    """The layers of a region as they would be built again."""
    return {
        layer: LayerSpec(
            content=region.layer(layer),
            depth=depth,
            frequency=frequency,
            keywords=keywords,
            layer=layer,
            compress=stored_bytes != raw_bytes,
        )
        for layer, depth, frequency, keywords, stored_bytes, raw_bytes in region.layer_facts()
    }
