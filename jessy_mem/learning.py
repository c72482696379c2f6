"""LearningTable: what a user calls to learn, and what happens when there is no room to.

Nothing that was learned is lost without a word, and nothing grows without bound: when there is no room, the oldest
proto-dimensions become files (``on_full="crystallize"``), or the newest is refused (``"raise"``), or the oldest are
dropped, and each is told of (``"drop"``).
How a proto-dimension is held and becomes a file is protos.py.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Collection, Sequence
from operator import index
from pathlib import Path

from jessy_mem.builder import LayerSpec, is_sealed
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import (
    AllocationFailed,
    ConsciousnessError,
    ImmutableDimension,
    LimitExceeded,
    MappingError,
    RegionNotFound,
)
from jessy_mem.layout import MAX_DIMENSION, LayerId
from jessy_mem.protos import ProtoTable, packed_region, specs_of
from jessy_mem.publish import withdraw
from jessy_mem.table import logger

__all__ = ["LearningTable"]

EvictCallback = Callable[[int, str, int], object]


class LearningTable(ProtoTable):
    """A table of regions that can grow: the part of MmapManager that learns."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__(config)
        self._changing_id: int | None = None  # the one that is built anew, and must not go to make room for itself
        self._evict_callbacks: tuple[EvictCallback, ...] = ()
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
        packed = packed_region(segment.first_dimension, name, layers)
        block = self._block_for(packed, segment.first_dimension)
        try:
            dimension = self._ids.give(segment.name)
            while not self._introduce(dimension, packed, block):  # load_dimension took it, from a path of its own
                self._check_open()
                dimension = self._ids.give(segment.name)
        except ConsciousnessError:
            block.free()  # now: the traceback would keep it
            raise
        self._settle()
        return dimension

    def append_layer(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        """Add a layer to a proto-dimension; returns its id. Who holds views keeps their bytes.

        RegionNotFound if it is not a proto-dimension, ImmutableDimension, LimitExceeded; ValueError if the number of
        the layer is taken. Thread-safe.
        """

        def free_number(layers: Collection[int]) -> int:
            layer = max(layers) + 1 if spec.layer is None else spec.layer
            if layer in layers:
                raise ValueError(f"layer {layer} of D{dimension_id:02d} exists; update_layer changes it")
            return layer

        return self._change(index(dimension_id), spec, free_number)

    def update_layer(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        """Replace a layer of a proto-dimension; returns its id. Who holds the old view keeps the old bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        dimension, layer = LayerId.checked(layer_id)

        def own_number(layers: Collection[int]) -> int:
            if spec.layer not in (None, layer):
                raise ValueError(f"layer: the spec names layer {spec.layer}, the call layer {layer}")
            if layer not in layers:
                self._proto(dimension).layer(layer)  # which says what there is
            return layer

        return self._change(dimension, spec, own_number)

    def crystallize(self, dimension_id: int) -> Path:
        """Make a proto-dimension a region file, durable and atomic; returns the file's path.

        A reader gets the layer from the pool or from the file, never a part. On any failure (RegionNotFound,
        ImmutableDimension, MappingError) the proto-dimension is still there, whole, and nothing is left of the file. A
        file that another wrote in its place is not overwritten: MappingError with EEXIST. A dimension that is
        crystallized already is left as it is. Blocks go with their last view. Thread-safe.
        """
        dimension = index(dimension_id)
        with self._learning:
            self._check_open()
            if self._is_crystallized(dimension):
                return Path(self._place_of(dimension).path)
            path = self._publish(dimension)
        self._settle()
        return path

    def _is_crystallized(self, dimension: int) -> bool:
        region = self._regions.get(dimension)
        if dimension in self._evicted or (region is not None and region.source == "mmap" and not region.immutable):
            place = self._place_of(dimension)
            return not (place.planned or place.named)
        return False

    def forget(self, dimension_id: int) -> None:
        """Remove a learned dimension for good, its file too; views of it live on. Durable when it returns.

        ImmutableDimension for core and immutable dimensions; RegionNotFound for one that is not there, or was loaded
        from a path of the caller's own. After a MappingError nothing but the file may be gone: call it again.
        Thread-safe.
        """
        dimension = index(dimension_id)
        with self._learning:
            self._check_open()
            if not 0 < dimension <= MAX_DIMENSION:
                raise RegionNotFound(dimension)
            if dimension in self.layout.dimensions:
                raise ImmutableDimension(dimension, "forgetting a core dimension")
            own_file = self._own_file(dimension)
            if own_file is not None:
                with self._ids.locked(durable=True):
                    withdraw(own_file)
            with self._lock:
                self._drop_from_table(dimension)

    def _own_file(self, dimension: int) -> Path | None:
        """The file to be removed with a dimension that is forgotten; raises if it must stay."""
        place = self._place_of(dimension)
        region = self._regions.get(dimension)
        if place.named:
            raise RegionNotFound(dimension, f"it was loaded from {place.path}; unload_dimension lets go of it")
        if region is None and dimension not in self._evicted and not os.path.lexists(place.path):
            self._places.pop(dimension, None)
            raise RegionNotFound(dimension, f"and there is no file at {place.path}")
        if region.immutable if region is not None else is_sealed(place.path):
            raise ImmutableDimension(dimension, "forgetting it")
        if region is not None and region.source == "pool" and dimension not in self._left_behind:
            return None  # what is in the place of its file is another's
        return Path(place.path)

    def user_dimensions(self) -> list[int]:
        """The user-specific dimensions that are loaded (ids from 1000), ascending."""
        self._check_open()
        with self._lock:
            return sorted(filter(self.layout.is_user, {*self._regions, *self._evicted}))

    def on_evict(self, callback: EvictCallback) -> None:
        """Call ``callback(dimension_id, reason, n_bytes)`` for each proto-dimension dropped with ``on_full="drop"``.

        `reason` is "drop". Called with no lock that a reader could wait for; an exception in it is logged and stops
        nothing.
        """
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable")
        with self._lock:
            self._check_open()
            self._evict_callbacks = (*self._evict_callbacks, callback)

    # What to do when the pool is full

    def _relieve(self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool = False) -> bool:
        """Crystallize or drop the oldest proto-dimension that holds what is missing; whether one was.

        None is touched if all of them together would not make the room.
        """
        if self.config.on_full == "raise" or (self.config.on_full == "drop" and not allow_drop):
            return False
        with self._learning:
            if self._is_outdated(refusal):  # others made room while this thread waited
                return True
            oldest = self._removable(segment, refusal, allow_drop)
            if self.config.on_full == "crystallize":
                return any(self._saved(dimension) for dimension in oldest)
            dropped = next(((dimension, n_bytes) for dimension in oldest if (n_bytes := self._drop(dimension))), None)
            callbacks = self._evict_callbacks
        if dropped is None:
            return False
        logger.warning('proto-dimension D%02d is dropped: the pool is full and on_full is "drop"', dropped[0])
        for callback in callbacks:
            try:
                callback(dropped[0], "drop", dropped[1])
            except Exception:
                logger.exception("an on_evict callback failed")
        return True

    def _is_outdated(self, refusal: AllocationFailed | LimitExceeded) -> bool:
        """Whether less is in use now than when that was refused."""
        if isinstance(refusal, AllocationFailed):
            return False
        used_bytes = self._ledger.used_bytes
        if refusal.segment != "total":
            used_bytes, _, _ = self._ledger.segment_bytes()[refusal.segment]
        return used_bytes < refusal.current_bytes

    def _removable(self, segment: str, refusal: AllocationFailed | LimitExceeded, for_block: bool) -> list[int]:
        """The proto-dimensions that may go for what was refused, oldest first; none if that would not do.

        One that is held stays: its bytes would not come free.
        """
        with self._lock:
            others = [dimension for dimension in self._protos if dimension != self._changing_id]
            protos = [(each, n_bytes) for each in others if (n_bytes := self.freed_without(each))]
            can_go = protos + self.evictable_regions()  # which are not evicted as long as that alone would not do
        if isinstance(refusal, LimitExceeded):
            bound_bytes = refusal.limit_bytes
            if refusal.segment == segment:
                protos, can_go = (
                    [each for each in some if self._place_of(each[0]).segment == segment] for some in (protos, can_go)
                )
            elif for_block:
                bound_bytes = self._pool.ceiling_bytes or bound_bytes
            if sum(n_bytes for _, n_bytes in can_go) < refusal.current_bytes + refusal.requested_bytes - bound_bytes:
                return []
        elif self.config.strict_classes:
            # Only blocks of the same class help, and nothing helps what is larger than the home of its class.
            classes = self._pool.stats().classes
            wanted = next((each for each in classes if each.block_size >= refusal.requested_bytes), classes[-1])
            if refusal.requested_bytes > wanted.block_size * wanted.n_blocks:
                return []
            protos = [
                each
                for each in protos
                if min(self._protos.get(each[0], 0), classes[-1].block_size) == wanted.block_size
            ]
        return [dimension for dimension, _ in protos]

    def _saved(self, dimension: int) -> bool:
        """Crystallize a proto-dimension to make room; whether that could be."""
        try:
            self._publish(dimension)
        except RegionNotFound:  # closed meanwhile
            return False
        except MappingError as error:
            if error.errno != errno.EEXIST:
                raise
            logger.warning("proto-dimension D%02d stays in the pool: %s", dimension, str(error))
            return False
        return True

    def _drop(self, dimension: int) -> int:
        """Give up a proto-dimension; returns its bytes, 0 if it is none any more."""
        with self._lock:
            region = self._regions.get(dimension)
            if region is None or region.source != "pool":
                return 0
            self._drop_from_table(dimension)
            self._n_drops += 1
            return region.size

    # Changing a proto-dimension

    def _change(self, dimension: int, spec: LayerSpec, number_of: Callable[[Collection[int]], int]) -> LayerId:
        """Put a layer into a proto-dimension; `number_of(layers there are)` gives its number."""
        if not isinstance(spec, LayerSpec):
            raise TypeError(f"spec: {type(spec).__name__} is not a LayerSpec")
        with self._learning:
            outer, self._changing_id = self._changing_id, dimension
            try:
                layer = self._rebuild(dimension, spec, number_of)
            finally:
                self._changing_id = outer
        self._settle()
        return LayerId(dimension, layer)

    def _rebuild(self, dimension: int, spec: LayerSpec, number_of: Callable[[Collection[int]], int]) -> int:
        old = self._proto(dimension)
        specs = specs_of(old)
        layer = number_of(specs)
        specs[layer] = spec if spec.layer == layer else dataclasses.replace(spec, layer=layer)
        packed = packed_region(dimension, old.name, list(specs.values()))
        block = self._block_for(packed, dimension)
        if not self._introduce(dimension, packed, block, old):
            block.free()
            self._check_open()
            raise RegionNotFound(dimension, "a callback took it away while room was made for its change")
        return layer
