"""Proto-dimensions: learned, in the pool, and how they become region files.

A proto-dimension is a region in the file format, in one block of the pool, read by the same code as a mapped file. To
crystallize is to publish those very bytes, map the file and put it in the table by one assignment:

    specs --> RegionBuilder --> block of the pool --> temporary file --> region.mmap --> mapping
                                  source "pool"          fsync, rename, fsync           source "mmap"

HAZARD: publishing takes milliseconds and may fail at each step. It runs under `lock`, a lock that no reader and no load
takes unless the budget is full; the table's own lock is taken inside it, never around it. Until the assignment the
table has not changed, and what fails before it takes the file away again; after it the file stays. Who holds a view of
an old generation holds its block, and the charge.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jessy_mem._core.image import Image
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import now_ticks, record_since
from jessy_mem.builder import LayerSpec, PackedRegion, RegionBuilder
from jessy_mem.errors import AllocationFailed, ImmutableDimension, LimitExceeded, MappingError, RegionNotFound
from jessy_mem.evicted import Evicted
from jessy_mem.ids import IdRegister
from jessy_mem.layout import MemoryLayout
from jessy_mem.opening import Place
from jessy_mem.publish import NewFile
from jessy_mem.stats import format_bytes

__all__ = ["Protos", "Table", "packed_region", "specs_of"]


class Table(Protocol):
    """What learning asks of the table of regions. Each call is thread-safe; none leaves a lock held."""

    def _check_open(self) -> None:
        """ManagerClosed if it is closed."""

    def _known(self, dimension: int) -> MmapRegion | Evicted | None:
        """The region of a loaded dimension, or what is remembered of one that is evicted."""

    def _place_of(self, dimension: int) -> Place:
        """Where the file of a dimension is, or would be."""

    def _allocate(self, n_bytes: int, segment: str) -> Block:
        """A block of the pool, after making room if that is needed; LimitExceeded, AllocationFailed."""

    def _open_image(self, dimension: int) -> Image:
        """The file of a dimension, mapped and charged; LimitExceeded if there is no room."""

    def _exchange(self, dimension: int, old: MmapRegion | None, image: Image | None) -> bool:
        """Let `image` take the place of `old` for all readers; without one, it is mapped on the next access.

        False if something else is there.
        """

    def _remove(self, dimension: int) -> None:
        """Let go of a dimension and of all that is remembered of it."""

    def _helpful(
        self, protos: Mapping[int, int], segment: str, refusal: AllocationFailed | LimitExceeded, for_block: bool
    ) -> list[int] | None:
        """Those of `protos` that free something of what was refused; empty if all would not do, None if room came."""

    def _settle(self) -> None:
        """What follows a charge; with no lock held."""


class Protos:
    """The proto-dimensions of a table: put into the pool, and published as files."""

    def __init__(self, table: Table, ids: IdRegister, layout: MemoryLayout, timed: bool) -> None:
        self.lock = threading.RLock()
        self.n_bytes: dict[int, int] = {}  # of their blocks, in the order of their creation
        self.crystallizations = LatencyHistogram()
        self._table = table
        self._ids = ids
        self._layout = layout
        self._timed = timed
        self._left_behind: dict[int, NewFile] = {}  # files of ours that could not be taken away again

    def get(self, dimension: int) -> MmapRegion:
        """The proto-dimension; ImmutableDimension or RegionNotFound if it is something else."""
        self._table._check_open()
        region = self._table._known(dimension)
        if isinstance(region, MmapRegion):
            if region.source == "pool":
                return region
            if region.immutable:
                raise ImmutableDimension(dimension)
        if self._layout.is_immutable(dimension):
            raise ImmutableDimension(dimension)
        raise RegionNotFound(dimension, "it is not a proto-dimension, and only those are changed or crystallized")

    def owns_file(self, dimension: int) -> bool:
        """Whether a file in the place of a proto-dimension's is its own: one that could not be taken away again."""
        return dimension in self._left_behind

    def block_for(self, packed: PackedRegion, dimension: int) -> Block:
        """Room in the pool; LimitExceeded also for what could never be loaded from a file."""
        segment, slot_bytes = self._layout.segment_of(dimension).name, self._layout.slot_bytes(dimension)
        if packed.n_bytes > slot_bytes:
            hint = f"one dimension may have {format_bytes(slot_bytes)}"
            raise LimitExceeded(0, slot_bytes, packed.n_bytes, segment, hint=hint)
        return self._table._allocate(packed.n_bytes, segment)

    def put(self, dimension: int, packed: PackedRegion, block: Block, old: MmapRegion | None = None) -> bool:
        """Make `packed`, copied to `block`, a proto-dimension in place of `old`; False if something else is there."""
        packed.renumber(dimension)
        packed.fill(memoryview(block))
        image = Image(block, f"<proto-dimension D{dimension:02d}>", dimension, "pool", trusted=True)
        image.charged_bytes = block.capacity
        known = self.n_bytes.get(dimension)
        self.n_bytes[dimension] = block.capacity  # before others can find it, and remove it
        done = False
        try:
            done = self._table._exchange(dimension, old, image)
        finally:
            if not done and known is not None:
                self.n_bytes[dimension] = known
            elif not done:
                del self.n_bytes[dimension]
        return done

    def remove(self, dimension: int) -> None:
        self.n_bytes.pop(dimension, None)
        self._left_behind.pop(dimension, None)
        self._table._remove(dimension)

    def publish(self, dimension: int) -> Path:
        """Write the file of a proto-dimension and let it take its place; undone on any failure. Under `lock`."""
        begin_ticks = now_ticks()
        self.get(dimension)
        path = Path(self._table._place_of(dimension).path)
        with self._ids.locked():
            if dimension in self._left_behind:
                self._left_behind.pop(dimension).take_back()
            file = NewFile(path)
            proto = self.get(dimension)
            try:
                with memoryview(proto) as whole:
                    file.publish([whole])
                # If it was closed meanwhile: with the file nothing is lost.
                self._table._exchange(dimension, proto, self._open_if_it_fits(dimension))
            except BaseException:
                if self._table._known(dimension) is proto:
                    self._take_back(dimension, file)
                raise
            finally:
                del proto  # the traceback of an error would keep it, and its block
        self.n_bytes.pop(dimension, None)
        self._left_behind.pop(dimension, None)
        record_since(self.crystallizations, begin_ticks, self._timed)
        return path

    def _open_if_it_fits(self, dimension: int) -> Image | None:
        """None if there is no room for both: the first access maps the file, when the block is gone."""
        try:
            return self._table._open_image(dimension)
        except LimitExceeded:
            return None

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
