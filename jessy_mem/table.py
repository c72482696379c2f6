"""RegionTable: which regions are mapped, who pays for them, and which go when room is needed.

LayerRegistry reads the table without a lock; everything that changes it is here, under `_lock`. Bytes are charged
before they are mapped. Whatever charges the ledger is followed by `_settle`, outside the lock, which evicts, logs and
calls back when a threshold was crossed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from jessy_mem._core.budget import Charge, Ledger
from jessy_mem._core.image import Image, map_file
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import LayerRegistry, make_region
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import (
    AllocationFailed,
    DimensionNotFound,
    InvalidRegion,
    LayerNotFound,
    LimitExceeded,
    ManagerClosed,
    RegionNotFound,
)
from jessy_mem.eviction import make_policy
from jessy_mem.index import LayerIndex
from jessy_mem.layout import MemoryLayout, default_layout, region_path
from jessy_mem.simulation import simulated_image
from jessy_mem.stats import Lease, format_bytes
from jessy_mem.trace import CallSites, Tracer

__all__ = ["RegionTable"]

T = TypeVar("T")

logger = logging.getLogger("jessy_mem")

PressureCallback = Callable[[str, int, int], object]

EVICT_TO_PERCENT = 70.0
LOG_INTERVAL_S = 10.0
N_HOLDERS_NAMED = 5


class Evicted(NamedTuple):
    """What is remembered of a region that was unmapped to make room, and comes back on access."""

    generation: int
    n_layers: int
    source: str


class Place(NamedTuple):
    """Where a dimension belongs: what the plan, and whoever named a path, say of it."""

    path: str
    named: bool  # the path was given to load_dimension: a file that is missing there is never simulated
    planned: bool
    immutable: bool
    segment: str
    slot_bytes: int
    allocate: Callable[[int], Any]  # gives blocks for decompressed layers


class RegionTable(LayerRegistry):
    """The mapped regions of a base folder under one ledger. MmapManager is its public face."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.layout: MemoryLayout = default_layout()
        # A larger total scales the ceilings of the segments; a smaller one leaves them and binds first.
        growth = max(1.0, config.total_bytes / self.layout.total_bytes)
        ceilings = {segment.name: int(segment.size_bytes * growth) for segment in self.layout.segments}
        self._ledger = Ledger(config.total_bytes, ceilings, config.thresholds)
        self._base_path = os.fspath(config.base_path)
        self._evict_from_bytes = config.total_bytes * config.eviction_threshold / 100
        self._pool = PoolAllocator(
            config.pool_configs,
            config.total_bytes / (1 << 20),
            strict_classes=config.strict_classes,
            scrub=config.scrub,
            ledger=self._ledger,
            segment="reserve",
        )
        # Blocks for decompressed layers, for each segment. They know the pool, not the table, so that no cycle arises.
        self._allocators = {name: partial(self._pool.allocate_in, segment=name) for name in ceilings}
        self._pool.ceiling_bytes = int(config.total_bytes * config.critical_threshold / 100)
        self._lock = threading.RLock()
        self._closed = False
        self._policy = make_policy(config.eviction_policy)
        self._evicted: dict[int, Evicted] = {}
        self._places: dict[int, Place] = {}
        self._index = LayerIndex()
        self._unindexed: set[int] = set()
        self._addresses: dict[int, tuple[int, int]] = {}  # of dimensions outside the plan: (address, bytes)
        self._callbacks: tuple[PressureCallback, ...] = ()
        self._logged_at = float("-inf")
        self._n_evictions = 0
        self._sites = CallSites()
        if config.trace:
            self._add_tracer(self._sites)
        self.set_timed(config.record_latency)

    # Opening

    def _open_region(self, dimension: int) -> MmapRegion:
        """Map the file of `dimension`, or simulate it; charged, but in no table yet."""
        place = self._place_of(dimension)
        may_simulate = place.planned and not place.named
        if may_simulate and self.config.simulation == "always":
            return self._simulated_region(dimension)
        admit = partial(self._admit, dimension)
        try:
            image: Image = map_file(place.path, dimension, admit=admit, immutable=place.immutable)
        except DimensionNotFound:
            if not may_simulate or self.config.simulation == "never":
                raise
            logger.warning("dimension D%02d is SIMULATED: there is no file at %s", dimension, place.path)
            warnings.warn(f"dimension D{dimension:02d} is simulated: there is no file at {place.path}", stacklevel=5)
            return self._simulated_region(dimension)
        except InvalidRegion as error:
            if not (may_simulate and self.config.simulate_damaged) or self.config.simulation == "never":
                raise
            logger.warning("dimension D%02d is SIMULATED, for its file is damaged: %s", dimension, error)
            warnings.warn(f"dimension D{dimension:02d} is simulated, for its file is damaged: {error}", stacklevel=5)
            return self._simulated_region(dimension)
        if place.immutable and image.generation == 0:
            logger.warning("%s is immutable but a plain V1 file: it carries no digest to compare with", place.path)
        return self._region_around(image, dimension)

    def _simulated_region(self, dimension: int) -> MmapRegion:
        image = simulated_image(
            dimension,
            self.layout,
            seed=self.config.simulation_seed,
            scale=self.config.simulation_scale,
            admit=partial(self._admit, dimension),
        )
        return self._region_around(image, dimension)

    def _region_around(self, image: Image, dimension: int) -> MmapRegion:
        place = self._place_of(dimension)
        return make_region(image, place.immutable, place.allocate, self.config.verify)

    def _place_of(self, dimension: int) -> Place:
        place = self._places.get(dimension)
        if place is None:
            place = self._places[dimension] = self._place_at(dimension, region_path(self._base_path, dimension), False)
        return place

    def _place_at(self, dimension: int, path: str, named: bool) -> Place:
        segment = self.layout.segment_of(dimension).name
        return Place(
            path,
            named,
            dimension in self.layout.dimensions,
            self.layout.is_immutable(dimension),
            segment,
            self.layout.slot_bytes(dimension),
            self._allocators[segment],
        )


    # Charging

    def _admit(self, dimension: int, n_bytes: int) -> Charge:
        """The charge for a file of `n_bytes`, after making room if that is needed; LimitExceeded."""
        place = self._place_of(dimension)
        if n_bytes > place.slot_bytes:
            hint = f"the slot of D{dimension:02d} has {format_bytes(place.slot_bytes)}"
            raise LimitExceeded(0, place.slot_bytes, n_bytes, place.segment, hint=hint)
        try:
            return Charge(self._ledger, place.segment, n_bytes)
        except LimitExceeded:
            with self._lock:
                self._make_room(place.segment, n_bytes)
        try:
            return Charge(self._ledger, place.segment, n_bytes)
        except LimitExceeded as error:
            raise self._naming_holders(error) from None

    def _naming_holders(self, refusal: LimitExceeded) -> LimitExceeded:
        """`refusal` with the largest holders of what is in use."""
        holders = [str(lease) for lease in self._leases()[:N_HOLDERS_NAMED]]
        return LimitExceeded(
            refusal.current_bytes, refusal.limit_bytes, refusal.requested_bytes, refusal.segment, holders, refusal.hint
        )

    def _leases(self) -> list[Lease]:
        with self._lock:
            found = [Lease(*each, taken_at=self._sites.of(each[0])) for each in self.holdings()]
        return sorted(found, key=lambda lease: -lease.n_bytes)

    # Changing the table; the caller holds the lock

    def _install(self, dimension: int, region: MmapRegion) -> None:
        """Make `region` what readers of `dimension` find, in place of the one before."""
        old = self._regions.get(dimension)
        self._regions[dimension] = region
        if old is not None:
            self.retire(old)
        else:
            self._policy.insert(dimension)
        self._evicted.pop(dimension, None)
        self._unindexed.add(dimension)
        if dimension not in self.layout.dimensions:
            self._place(dimension, region.size)

    def _uninstall(self, dimension: int) -> MmapRegion:
        region = self._regions.pop(dimension)
        self._policy.remove(dimension)
        self.retire(region)
        return region

    def _forget_facts(self, dimension: int) -> None:
        """Drop what is remembered of a dimension that is unloaded for good."""
        self._index.remove(dimension)
        self._unindexed.discard(dimension)
        self._addresses.pop(dimension, None)
        self._places.pop(dimension, None)

    def _place(self, dimension: int, n_bytes: int) -> None:
        """Give a dimension outside the plan the first logical addresses of its segment that are free."""
        self._addresses.pop(dimension, None)
        segment = self.layout.segment_of(dimension)
        address, end = segment.address, segment.address + segment.size_bytes
        for begin, taken_bytes in sorted(self._addresses.values()):
            if segment.address <= begin < end:
                if begin - address >= n_bytes:
                    break
                address = max(address, begin + taken_bytes)
        if n_bytes <= end - address:
            self._addresses[dimension] = (address, n_bytes)

    # Making room

    def _make_room(self, segment: str, n_bytes: int) -> None:
        """Evict until `n_bytes` fit into `segment` and the total, or nothing more can go. The caller holds the lock."""

        def fits() -> bool:
            used_bytes, limit_bytes, _ = self._ledger.segment_bytes()[segment]
            return (
                used_bytes + n_bytes <= limit_bytes and self._ledger.used_bytes + n_bytes <= self._ledger.limit_bytes
            )

        used_bytes, limit_bytes, _ = self._ledger.segment_bytes()[segment]
        only = segment if used_bytes + n_bytes > limit_bytes else None
        self._evict_until(fits, only)

    def _evict_until(self, enough: Callable[[], bool], segment: str | None = None) -> None:
        for dimension in self.take_visited():
            if dimension in self._policy:
                self._policy.touch(dimension)

        def evictable(dimension: int) -> bool:
            return segment in (None, self._place_of(dimension).segment) and self.is_evictable(dimension)

        while not enough():
            victim = self._policy.victim(evictable)
            if victim is None:
                return
            self._evict(victim)

    def _evict(self, dimension: int) -> None:
        """Unmap a region that the policy gave up; the next access maps it again."""
        region = self._regions[dimension]
        self._index_now(dimension)
        self._evicted[dimension] = Evicted(region.generation, region.n_layers, region.source)
        del self._regions[dimension]
        self.retire(region)
        self._n_evictions += 1

    def _index_now(self, dimension: int) -> None:
        """Index a region that no question has asked for yet."""
        if dimension in self._unindexed:
            self._index.put(dimension, self._regions[dimension].layer_facts())
            self._unindexed.remove(dimension)

    def restore_region(self, dimension: int, layer: int) -> MmapRegion:
        """The region of a dimension that the table does not hold: mapped again if it was evicted; LayerNotFound."""
        def restore() -> MmapRegion:
            region: MmapRegion | None = self._regions.get(dimension)
            if region is not None:
                return region
            if dimension not in self._evicted:
                hint = f"the dimension is not loaded; load_dimension({dimension}) or load_all() loads it"
                raise LayerNotFound(dimension, layer, hint)
            try:
                region = self._open_region(dimension)
            except DimensionNotFound as error:
                raise LayerNotFound(dimension, layer, f"it was evicted, and its file is gone: {error}") from error
            self._install(dimension, region)
            return region

        return self._changing(dimension, restore)

    def _changing(self, dimension: int, change: Callable[[], T]) -> T:
        """Do `change`, which maps `dimension`, under the lock; again if room was made that eviction cannot make."""
        while True:
            try:
                with self._lock:
                    self._check_open()
                    result = change()
            except LimitExceeded as error:
                if not self._relieve(self._place_of(dimension).segment, error):
                    raise
            else:
                self._settle()
                return result

    def _relieve(
        self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool = False
    ) -> bool:
        """Make room in another way than by eviction, the lock not held; whether that did anything."""
        return False

    # Pressure

    def _settle(self) -> None:
        """Evict if the budget is that full, and tell of thresholds crossed. The caller holds no lock."""
        if self._ledger.used_bytes >= self._evict_from_bytes:
            enough_bytes = self._ledger.limit_bytes * EVICT_TO_PERCENT / 100
            with self._lock:
                self._evict_until(lambda: self._ledger.used_bytes <= enough_bytes)
        for level in self._ledger.take_crossings():
            used_bytes, limit_bytes = self._ledger.used_bytes, self._ledger.limit_bytes
            now = time.monotonic()
            if self.config.enable_warnings and now - self._logged_at >= LOG_INTERVAL_S:
                self._logged_at = now
                logger.warning(
                    "memory pressure %s: %s of %s in use", level, format_bytes(used_bytes), format_bytes(limit_bytes)
                )
            for callback in self._callbacks:
                try:
                    callback(level, used_bytes, limit_bytes)
                except Exception:
                    logger.exception("a pressure callback failed")

    # Tracing

    def _add_tracer(self, tracer: Tracer) -> None:
        with self._lock:
            self._use_tracers((*self._tracers, tracer))

    def _remove_tracer(self, tracer: Tracer) -> None:
        with self._lock:
            self._use_tracers(tuple(each for each in self._tracers if each is not tracer))

    # Small questions

    def _check_open(self) -> None:
        if self._closed:
            raise ManagerClosed

    def _loaded(self, dimension: int) -> MmapRegion:
        region: MmapRegion | None = self._regions.get(dimension)
        if region is None:
            raise RegionNotFound(dimension)
        return region
