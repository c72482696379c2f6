"""Learning: proto-dimensions in the pool, which crystallize into region files.

A proto-dimension is a region in the file format, in one block of the pool, read by the same code as a mapped file. To
crystallize is to publish those very bytes, map the file and put it in the table by one assignment:

    specs --> RegionBuilder --> block of the pool --> temporary file --> region.mmap --> mapping
                                  source "pool"          fsync, rename, fsync           source "mmap"

HAZARD: publishing takes milliseconds and may fail at each step. It runs under `_learning`, a lock that no reader and no
load takes; `_lock` of the table is taken inside it, never around it. Until the assignment nothing has changed, and what
was written before a failure is removed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from jessy_mem._core.image import Image
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import now_ticks
from jessy_mem.builder import LayerSpec, PackedRegion, RegionBuilder, publish, sync_folder
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import (
    AllocationFailed,
    ImmutableDimension,
    LimitExceeded,
    MappingError,
    RegionNotFound,
)
from jessy_mem.ids import IdRegister
from jessy_mem.layout import LayerId
from jessy_mem.table import Evicted, RegionTable, logger

__all__ = ["LearningTable"]

EvictCallback = Callable[[int, str, int], object]


class LearningTable(RegionTable):
    """A table of regions that can grow: the part of MmapManager that learns."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__(config)
        self._learning = threading.RLock()
        self._ids = IdRegister(os.fspath(config.base_path), self.layout)
        self._protos: dict[int, None] = {}  # in the order of their creation
        self._evict_callbacks: tuple[EvictCallback, ...] = ()
        self._crystallizations = LatencyHistogram()
        self._n_drops = 0

    def create_proto_dimension(self, name: str, layers: Sequence[LayerSpec], user: bool = False) -> int:
        """Put a new dimension into the pool; returns its id: 15.., or 1000.. with `user`.

        Its layers are readable at once (source "pool") and found by keyword and frequency. The id is never given again
        in this base folder. When the pool is full, `on_full` of the configuration decides. Raises LimitExceeded,
        AllocationFailed, ValueError for what a RegionBuilder refuses, MappingError if the base folder cannot be
        written. Thread-safe.
        """
        self._check_open()
        segment = self.layout.segments[2 if user else 1]
        packed = _builder(segment.first_dimension, name, layers).pack(1)
        block = self._allocate(packed.n_bytes, segment.name)
        dimension = self._ids.give(segment.name)
        packed.renumber(dimension)
        with self._lock:
            self._check_open()
            self._protos[dimension] = None
            self._install(dimension, self._proto_region(dimension, packed, block))
        self._settle()
        return dimension

    def append_layer(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        """Add a layer to a proto-dimension; returns its id. Who holds views keeps their bytes.

        RegionNotFound if it is not a proto-dimension, ImmutableDimension, LimitExceeded; ValueError if the number of
        the layer is taken. Thread-safe.
        """
        with self._learning:
            specs = self._specs_of(dimension_id)
            layer = max(specs) + 1 if spec.layer is None else spec.layer
            if layer in specs:
                raise ValueError(f"layer {layer} of D{dimension_id:02d} exists; update_layer changes it")
            specs[layer] = spec
            self._rebuild(dimension_id, specs)
        self._settle()
        return LayerId(dimension_id, layer)

    def update_layer(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        """Replace a layer of a proto-dimension; returns its id. Who holds the old view keeps the old bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        dimension, layer = LayerId.checked(layer_id)
        if spec.layer not in (None, layer):
            raise ValueError(f"layer: the spec names layer {spec.layer}, the call layer {layer}")
        with self._learning:
            specs = self._specs_of(dimension)
            if layer not in specs:
                self._regions[dimension].layer(layer)
            specs[layer] = spec
            self._rebuild(dimension, specs)
        self._settle()
        return LayerId(dimension, layer)

    def crystallize(self, dimension_id: int) -> Path:
        """Make a proto-dimension a region file, durable and atomic; returns the file's path.

        A reader gets the layer from the pool or from the file, never a part. On any failure (RegionNotFound,
        ImmutableDimension, MappingError) the proto-dimension is still there, whole, and nothing is left of the file.
        A dimension that is crystallized already is left as it is. Blocks go with their last view. Thread-safe.
        """
        begin_ticks = now_ticks()
        with self._learning:
            self._check_open()
            place = self._place_of(dimension_id)
            path = Path(place.path)
            if dimension_id not in self._protos:
                learned = not place.planned and not place.named
                evicted = dimension_id in self._evicted
                if learned and (evicted or self._changeable(dimension_id).source == "mmap"):
                    return path
                raise RegionNotFound(dimension_id, "it is not a proto-dimension")
            with self._ids.locked():
                packed = PackedRegion.of(memoryview(self._regions[dimension_id]))
                publish(packed, path)
                try:
                    self._take_file(dimension_id)
                except BaseException:
                    _remove(path)
                    raise
        self.finish(self._crystallizations, begin_ticks)
        self._settle()
        return path

    def forget(self, dimension_id: int) -> None:
        """Remove a learned dimension for good, its file too; views of it live on. Durable when it returns.

        ImmutableDimension for core and immutable dimensions, RegionNotFound, MappingError. Thread-safe.
        """
        with self._learning:
            self._check_open()
            if dimension_id in self.layout.dimensions:
                raise ImmutableDimension(dimension_id, "forgetting a core dimension")
            path = Path(self._place_of(dimension_id).path)
            if dimension_id in self._regions:
                self._changeable(dimension_id)
            elif dimension_id not in self._evicted and not path.exists():
                raise RegionNotFound(dimension_id, f"and there is no file at {path}")
            with self._ids.locked():
                _remove(path)
            with self._lock:
                self._drop_from_table(dimension_id)

    def user_dimensions(self) -> list[int]:
        """The user-specific dimensions that are loaded (ids from 1000), ascending."""
        self._check_open()
        first = self.layout.segments[2].first_dimension
        with self._lock:
            return sorted(dimension for dimension in {*self._regions, *self._evicted} if dimension >= first)

    def on_evict(self, callback: EvictCallback) -> None:
        """Call ``callback(dimension_id, reason, n_bytes)`` for each proto-dimension dropped with ``on_full="drop"``.

        `reason` is "drop". Called outside every lock of a reader; an exception in it is logged and stops nothing.
        """
        self._check_open()
        self._evict_callbacks = (*self._evict_callbacks, callback)

    # What to do when the pool is full

    def _relieve(
        self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool = False
    ) -> bool:
        """Crystallize or drop the oldest proto-dimension that holds what is missing; whether there was one."""
        only = segment if isinstance(refusal, LimitExceeded) and refusal.segment == segment else None
        with self._learning:
            for dimension in list(self._protos):
                if only is not None and self._place_of(dimension).segment != only:
                    continue
                if self.config.on_full == "crystallize":
                    self.crystallize(dimension)
                    return True
                if self.config.on_full == "drop" and allow_drop:
                    self._drop(dimension)
                    return True
        return False

    def _drop(self, dimension: int) -> None:
        n_bytes = self._regions[dimension].size
        with self._lock:
            self._drop_from_table(dimension)
            self._n_drops += 1
        logger.warning("proto-dimension D%02d is dropped: the pool is full and on_full is \"drop\"", dimension)
        for callback in self._evict_callbacks:
            try:
                callback(dimension, "drop", n_bytes)
            except Exception:
                logger.exception("an on_evict callback failed")

    # Changing what is there

    def _changeable(self, dimension: int) -> MmapRegion:
        """The region of a loaded dimension that may be changed; RegionNotFound, ImmutableDimension."""
        region = self._loaded(dimension)
        if region.immutable:
            raise ImmutableDimension(dimension)
        return region

    def _specs_of(self, dimension: int) -> dict[int, LayerSpec]:
        """The layers of a proto-dimension as they would be built again."""
        self._check_open()
        region = self._changeable(dimension)
        if dimension not in self._protos:
            raise RegionNotFound(dimension, "it is not a proto-dimension, and only those can be changed")
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

    def _rebuild(self, dimension: int, specs: dict[int, LayerSpec]) -> None:
        """Build a proto-dimension anew, and put it in the place of the old one."""
        name = self._regions[dimension].name
        numbered = [spec if spec.layer == layer else _numbered(spec, layer) for layer, spec in specs.items()]
        packed = _builder(dimension, name, numbered).pack(1)
        block = self._allocate(packed.n_bytes, self._place_of(dimension).segment)
        if dimension not in self._protos:  # making room took this very one
            raise RegionNotFound(dimension, f"it was {self.config.on_full}ed to make room for its change")
        with self._lock:
            self._check_open()
            self._install(dimension, self._proto_region(dimension, packed, block))

    def _proto_region(self, dimension: int, packed: PackedRegion, block: Block) -> MmapRegion:
        packed.fill(memoryview(block))
        image = Image(block, f"<proto-dimension D{dimension:02d}>", dimension, "pool", trusted=True)
        image.charged_bytes = block.capacity
        return self._region_around(image, dimension)

    def _take_file(self, dimension: int) -> None:
        """Let the file of a proto-dimension, just published, take its place in the table."""
        proto = self._regions[dimension]
        with self._lock:
            try:
                region = self._open_region(dimension)
            except LimitExceeded:
                # No room for both: the first access maps the file, when the block is gone.
                self._evicted[dimension] = Evicted(proto.generation, proto.n_layers, "mmap")
                self._index_now(dimension)
                del self._regions[dimension]
                self._policy.remove(dimension)
                self.retire(proto)
            else:
                self._install(dimension, region)
            del self._protos[dimension]

    def _drop_from_table(self, dimension: int) -> None:
        self._protos.pop(dimension, None)
        self._evicted.pop(dimension, None)
        if dimension in self._regions:
            self._uninstall(dimension)
        self._forget_facts(dimension)


def _builder(dimension: int, name: str, layers: Sequence[LayerSpec]) -> RegionBuilder:
    builder = RegionBuilder(dimension, name)
    for spec in layers:
        builder.add_layer(spec)
    return builder


def _numbered(spec: LayerSpec, layer: int) -> LayerSpec:
    return LayerSpec(spec.text, spec.content, spec.depth, spec.frequency, spec.keywords, layer, spec.compress)


def _remove(path: Path) -> None:
    """Unlink a region file and its folder if that is empty then, durably."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(path.parent)
        with contextlib.suppress(OSError):
            os.rmdir(path.parent)
            sync_folder(path.parent.parent)
    except OSError as error:
        raise MappingError.of(error, path) from error
