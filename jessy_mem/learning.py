"""Learner: what is learned, and what happens when there is no room to.

Nothing that was learned is lost without a word, and nothing grows without bound: when there is no room, the oldest
proto-dimensions become files (``on_full="crystallize"``), or the newest is refused (``"raise"``), or the oldest are
dropped, and each is told of (``"drop"``).
How a proto-dimension is held and becomes a file is protos.py. Which table it is in, the Learner does not know: it asks
the few things that `Table` names. Its methods are those of MmapManager with the same names, documented there.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from operator import index
from pathlib import Path

from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import LayerSpec, is_immutable_file
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import (
    AllocationFailed,
    ConsciousnessError,
    ImmutableDimension,
    LimitExceeded,
    MappingError,
    RegionNotFound,
)
from jessy_mem.evicted import Evicted
from jessy_mem.ids import IdRegister
from jessy_mem.layout import MAX_DIMENSION, LayerId, MemoryLayout
from jessy_mem.protos import Protos, Table, packed_region, specs_of
from jessy_mem.publish import withdraw

__all__ = ["EvictCallback", "Learner"]

EvictCallback = Callable[[int, str, int], object]  # (dimension, reason, bytes)

logger = logging.getLogger("jessy_mem")


class Learner:
    """Creates, changes, crystallizes and forgets dimensions of a table that it is given. Thread-safe.

    `config` says what to do when the pool is full, and whether events are timed. `ids` gives each dimension its number.
    """

    def __init__(self, table: Table, ids: IdRegister, layout: MemoryLayout, config: MemoryConfig) -> None:
        self.protos = Protos(table, ids, layout, config.record_latency)
        self.n_drops = 0
        self._table = table
        self._ids = ids
        self._layout = layout
        self._on_full = config.on_full
        self._changing: int | None = None  # the one that is built anew, and must not go to make room for itself
        self._callbacks: tuple[EvictCallback, ...] = ()
        self._callbacks_lock = threading.Lock()

    def create(self, name: str, layers: Sequence[LayerSpec], user: bool) -> int:
        self._table._check_open()
        segment = self._layout.segments[2 if user else 1]
        packed = packed_region(segment.first_dimension, name, layers)
        block = self.protos.block_for(packed, segment.first_dimension)
        try:
            dimension = self._ids.give(segment.name)
            while not self.protos.put(dimension, packed, block):  # load_dimension took it, from a path of its own
                self._table._check_open()
                dimension = self._ids.give(segment.name)
        except ConsciousnessError:
            block.free()  # now: the traceback would keep it
            raise
        self._table._settle()
        return dimension

    def append(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        def free_number(layers: Collection[int]) -> int:
            layer = max(layers) + 1 if spec.layer is None else spec.layer
            if layer in layers:
                raise ValueError(f"layer {layer} of D{dimension_id:02d} exists; update_layer changes it")
            return layer

        return self._change(index(dimension_id), spec, free_number)

    def update(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        dimension, layer = LayerId.checked(layer_id)

        def own_number(layers: Collection[int]) -> int:
            if spec.layer not in (None, layer):
                raise ValueError(f"layer: the spec names layer {spec.layer}, the call layer {layer}")
            if layer not in layers:
                self.protos.get(dimension).layer(layer)  # which says what there is
            return layer

        return self._change(dimension, spec, own_number)

    def crystallize(self, dimension_id: int) -> Path:
        dimension = index(dimension_id)
        with self.protos.lock:
            self._table._check_open()
            if self._is_crystallized(dimension):
                return Path(self._table._place_of(dimension).path)
            path = self.protos.publish(dimension)
        self._table._settle()
        return path

    def _is_crystallized(self, dimension: int) -> bool:
        known = self._table._known(dimension)
        if isinstance(known, Evicted) or (known is not None and known.source == "mmap" and not known.immutable):
            place = self._table._place_of(dimension)
            return not (place.planned or place.named)
        return False

    def forget(self, dimension_id: int) -> None:
        dimension = index(dimension_id)
        with self.protos.lock:
            self._table._check_open()
            if not 0 < dimension <= MAX_DIMENSION:
                raise RegionNotFound(dimension)
            if dimension in self._layout.dimensions:
                raise ImmutableDimension(dimension, "forgetting a core dimension")
            own_file = self._own_file(dimension)
            if own_file is not None:
                with self._ids.locked(durable=True):
                    withdraw(own_file)
            self.protos.remove(dimension)

    def _own_file(self, dimension: int) -> Path | None:
        """The file to be removed with a dimension that is forgotten; raises if it must stay."""
        place = self._table._place_of(dimension)
        known = self._table._known(dimension)
        if place.named:
            raise RegionNotFound(dimension, f"it was loaded from {place.path}; unload_dimension lets go of it")
        if known is None and not os.path.lexists(place.path):
            raise RegionNotFound(dimension, f"it is not loaded, and there is no file at {place.path}")
        if known.immutable if isinstance(known, MmapRegion) else is_immutable_file(place.path):
            raise ImmutableDimension(dimension, "forgetting it")
        if known is not None and known.source == "pool" and not self.protos.owns_file(dimension):
            return None  # what is in the place of its file is another's
        return Path(place.path)

    def on_evict(self, callback: EvictCallback) -> None:
        with self._callbacks_lock:
            self._callbacks = (*self._callbacks, callback)

    # What to do when the pool is full

    def relieve(self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool) -> bool:
        """Crystallize or drop the oldest proto-dimension that holds what is missing; whether one was.

        None is touched if all of them together would not make the room. The caller holds no lock of the table.
        """
        if self._on_full == "raise" or (self._on_full == "drop" and not allow_drop):
            return False
        with self.protos.lock:
            others = {each: n_bytes for each, n_bytes in dict(self.protos.n_bytes).items() if each != self._changing}
            oldest = self._table._helpful(others, segment, refusal, allow_drop)
            if oldest is None:  # others made room while this thread waited
                return True
            if self._on_full == "crystallize":
                return any(self._saved(dimension) for dimension in oldest)
            dropped = next(((dimension, n_bytes) for dimension in oldest if (n_bytes := self._drop(dimension))), None)
        if dropped is None:
            return False
        logger.warning('proto-dimension D%02d is dropped: the pool is full and on_full is "drop"', dropped[0])
        for callback in self._callbacks:
            try:
                callback(dropped[0], "drop", dropped[1])
            except Exception:
                logger.exception("an on_evict callback failed")
        return True

    def _saved(self, dimension: int) -> bool:
        """Crystallize a proto-dimension to make room; whether that could be."""
        try:
            self.protos.publish(dimension)
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
        known = self._table._known(dimension)
        if known is None or known.source != "pool":
            return 0
        self.protos.remove(dimension)
        self.n_drops += 1
        return known.size

    # Changing a proto-dimension

    def _change(self, dimension: int, spec: LayerSpec, number_of: Callable[[Collection[int]], int]) -> LayerId:
        """Put a layer into a proto-dimension; `number_of(layers there are)` gives its number."""
        if not isinstance(spec, LayerSpec):
            raise TypeError(f"spec: {type(spec).__name__} is not a LayerSpec")
        with self.protos.lock:
            outer, self._changing = self._changing, dimension
            try:
                layer = self._rebuild(dimension, spec, number_of)
            finally:
                self._changing = outer
        self._table._settle()
        return LayerId(dimension, layer)

    def _rebuild(self, dimension: int, spec: LayerSpec, number_of: Callable[[Collection[int]], int]) -> int:
        old = self.protos.get(dimension)
        specs = specs_of(old)
        layer = number_of(specs)
        specs[layer] = spec if spec.layer == layer else dataclasses.replace(spec, layer=layer)
        packed = packed_region(dimension, old.name, list(specs.values()))
        block = self.protos.block_for(packed, dimension)
        if not self.protos.put(dimension, packed, block, old):
            block.free()
            self._table._check_open()
            raise RegionNotFound(dimension, "a callback took it away while room was made for its change")
        return layer
