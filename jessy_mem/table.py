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
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import index
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from jessy_mem._core.budget import Charge, Ledger
from jessy_mem._core.image import Image, map_file
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.pool import Block, PoolAllocator
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import LayerRegistry, make_region
from jessy_mem.builder import PackedRegion
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
from jessy_mem.index import LayerFacts, LayerIndex
from jessy_mem.layout import MemoryLayout, default_layout, region_file
from jessy_mem.simulation import simulated_image, simulating_ahead
from jessy_mem.stats import Lease, format_bytes
from jessy_mem.trace import CallSites, Tracer

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["RegionTable"]

T = TypeVar("T")

logger = logging.getLogger("jessy_mem")

PressureCallback = Callable[[str, int, int], object]

EVICT_TO_PERCENT = 70.0
LOG_INTERVAL_S = 10.0
N_HOLDERS_NAMED = 5
N_LOOKS = 10  # before a request is refused: readers that are just passing by hold what they read for a moment


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
    allocate: Callable[[int], Block]  # gives blocks for decompressed layers


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
        self._evict_to_bytes = config.total_bytes * min(EVICT_TO_PERCENT, config.eviction_threshold) / 100
        self._pool = PoolAllocator(
            config.pool_configs,
            config.total_bytes / (1 << 20),
            strict_classes=config.strict_classes,
            scrub=config.scrub,
            ledger=self._ledger,
            segment="reserve",
        )
        self._allocators = {name: self._block_giver(name) for name in ceilings}
        self._pool.ceiling_bytes = int(config.total_bytes * config.critical_threshold / 100)
        self._lock = threading.RLock()
        self._closed = False
        self._policy = make_policy(config.eviction_policy)
        self._evicted: dict[int, Evicted] = {}
        self._places: dict[int, Place] = {}
        self._index = LayerIndex()
        # What no question has asked for yet: its facts, or None while they can be read from the region.
        self._unindexed: dict[int, Sequence[LayerFacts] | None] = {}
        self._ahead: dict[int, Future[PackedRegion]] = {}  # simulated dimensions that load_all is about to load
        self._addresses: dict[int, tuple[int, int]] = {}  # of dimensions outside the plan: (address, bytes)
        self._unplaced: dict[int, int] = {}  # those that need one: dimension -> bytes
        self._callbacks: tuple[PressureCallback, ...] = ()
        self._logged_at = float("-inf")
        self._n_evictions = self._n_failures = 0
        self._sites = CallSites()
        if config.trace:
            self._add_tracer(self._sites)
        self.set_timed(config.record_latency)

    # Opening

    def _open_region(self, dimension: int, known_source: str | None = None) -> MmapRegion:
        """Map the file of `dimension`, or simulate it; charged, but in no table yet.

        `known_source` is that of the generation whose place it takes. What was read from a file is not replaced by
        invented text when the file is gone; what was simulated is simulated again without another warning.
        """
        place = self._place_of(dimension)
        may_simulate = place.planned and not place.named and self.config.simulation != "never"
        if may_simulate and self.config.simulation == "always":
            return self._simulated_region(dimension)
        try:
            # No local variable holds the image: the traceback of an error would keep it mapped and charged.
            region = make_region(
                map_file(place.path, dimension, admit=partial(self._admit, dimension), immutable=place.immutable),
                place.immutable,
                place.allocate,
                self.config.verify,
            )
        except (DimensionNotFound, InvalidRegion) as error:
            damaged = isinstance(error, InvalidRegion)
            if not may_simulate or known_source == "mmap" or (damaged and not self.config.simulate_damaged):
                raise
            why = f"for its file is damaged: {error}" if damaged else f"there is no file at {place.path}"
        else:
            if place.immutable and region.generation == 0:
                logger.warning("%s is immutable but a plain V1 file: it carries no digest to compare with", place.path)
            return region
        if known_source is None:
            logger.warning("dimension D%02d is SIMULATED, %s", dimension, why)
            warnings.warn(f"dimension D{dimension:02d} is simulated, {why}", stacklevel=5)
        return self._simulated_region(dimension)

    def _simulated_region(self, dimension: int) -> MmapRegion:
        ahead = self._ahead.pop(dimension, None)
        image = simulated_image(
            dimension,
            self.layout,
            seed=self.config.simulation_seed,
            scale=self.config.simulation_scale,
            admit=partial(self._admit, dimension),
            region=None if ahead is None else ahead.result(),
        )
        return self._region_around(image, dimension)

    def _simulating_ahead(self, dimensions: Iterable[int]) -> AbstractContextManager[None]:
        """Inside, those of `dimensions` that will be simulated and scaled, as far as one can tell, are made ahead."""
        config, known = self.config, {*self._regions, *self._evicted}
        missing: list[int] = []
        if config.simulation != "never" and config.simulation_scale:  # else there is nothing to be gained
            missing = [each for each in dimensions if each in self.layout.dimensions and each not in known]
        if config.simulation != "always":
            missing = [each for each in missing if not os.path.exists(region_file(self._base_path, each))]
        return simulating_ahead(missing, self._ahead, self.layout, config.simulation_seed, config.simulation_scale)

    def _region_around(self, image: Image, dimension: int) -> MmapRegion:
        place = self._place_of(dimension)
        return make_region(image, place.immutable, place.allocate, self.config.verify)

    def _place_of(self, dimension: int) -> Place:
        place = self._places.get(dimension)
        if place is None:
            place = self._places[dimension] = self._place_at(dimension, region_file(self._base_path, dimension), False)
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

    def _block_giver(self, segment: str) -> Callable[[int], Block]:
        """Gives blocks for decompressed layers, counted as copies. No cycle arises: it is weak."""
        pool, table = self._pool, weakref.ref(self)

        def allocate(n_bytes: int) -> Block:
            owner = table()
            if owner is None:
                return pool.allocate_in(n_bytes, segment)
            block = owner._allocate(n_bytes, segment)
            owner.count_copies(1)
            return block

        return allocate

    # Charging

    def _admit(self, dimension: int, n_bytes: int) -> Charge:
        """The charge for a file of `n_bytes`, after making room if that is needed; LimitExceeded."""
        place = self._place_of(dimension)
        if n_bytes > place.slot_bytes:
            hint = f"the slot of D{dimension:02d} has {format_bytes(place.slot_bytes)}"
            raise LimitExceeded(0, place.slot_bytes, n_bytes, place.segment, hint=hint)
        while True:
            try:
                return Charge(self._ledger, place.segment, n_bytes)
            except LimitExceeded as error:
                refusal = error.with_traceback(None)
            if not self._make_room(place.segment, n_bytes, self._ledger.limit_bytes):
                raise self._naming_holders(refusal)

    def _allocate(self, n_bytes: int, segment: str) -> Block:
        """A block charged to `segment`, after making room if that is needed. The caller holds no lock."""
        while True:
            try:
                return self._pool.allocate_in(n_bytes, segment)
            except (AllocationFailed, LimitExceeded) as error:
                # Without its traceback: kept in this frame, it would keep the frame, and the caller's block, alive.
                refusal = error.with_traceback(None)
            if isinstance(refusal, LimitExceeded):
                ceiling_bytes = self._pool.ceiling_bytes or self._ledger.limit_bytes
                if self._make_room(segment, refusal.requested_bytes, ceiling_bytes):
                    continue
            if not self._relieve(segment, refusal, allow_drop=True):
                with self._lock:
                    self._n_failures += 1
                raise self._naming_holders(refusal) if isinstance(refusal, LimitExceeded) else refusal

    def _naming_holders(self, refusal: LimitExceeded) -> LimitExceeded:
        """`refusal` with the largest holders of what is in use in its segment, or in the total."""
        segment = refusal.segment
        held = [
            (lease.n_bytes, str(lease))
            for lease in self._leases()
            if segment in ("total", self._place_of(lease.dimension).segment)
        ]
        pool_bytes, _ = self._pool.usage()
        if pool_bytes and segment in ("total", "reserve"):
            held.append((pool_bytes, f"blocks of the pool ({format_bytes(pool_bytes)})"))
        held.sort(key=lambda holder: -holder[0])
        return LimitExceeded(
            refusal.current_bytes, refusal.limit_bytes, refusal.requested_bytes, segment,
            [name for _, name in held[:N_HOLDERS_NAMED]], refusal.hint,
        )  # fmt: skip

    def _leases(self) -> list[Lease]:
        with self._lock:
            found = [Lease(*each, taken_at=self._sites.of(each[0])) for each in self.holdings()]
        return sorted(found, key=lambda lease: -lease.n_bytes)

    # Changing the table; the caller holds the lock

    def _install(self, dimension: int, region: MmapRegion) -> None:
        """Make `region` what readers of `dimension` find, in place of the one before."""
        old = self._regions.get(dimension)
        self.adopt(dimension, region)
        if old is not None:
            self.retire(old)
        else:
            self._policy.insert(dimension)
        self._evicted.pop(dimension, None)
        self._unindexed[dimension] = None
        if dimension not in self.layout.dimensions:
            self._unplaced[dimension] = region.size

    def _uninstall(self, dimension: int) -> MmapRegion:
        region = self._regions.pop(dimension)
        self._policy.remove(dimension)
        self.retire(region)
        return region

    def _forget_facts(self, dimension: int) -> None:
        """Drop what is remembered of a dimension that is unloaded for good."""
        self._index.remove(dimension)
        self._unindexed.pop(dimension, None)
        self._addresses.pop(dimension, None)
        self._unplaced.pop(dimension, None)
        self._places.pop(dimension, None)

    def _place_new(self) -> None:
        """Give addresses to what came since anybody asked for one."""
        for dimension, n_bytes in self._unplaced.items():
            self._place(dimension, n_bytes)
        self._unplaced.clear()

    def _place(self, dimension: int, n_bytes: int) -> None:
        """Give a dimension outside the plan the first logical addresses of its segment that are free, or its own."""
        begin, taken_bytes = self._addresses.pop(dimension, (0, 0))
        if n_bytes <= taken_bytes:
            self._addresses[dimension] = (begin, n_bytes)
            return
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

    def _make_room(self, segment: str, n_bytes: int, bound_bytes: int) -> bool:
        """Evict until `n_bytes` more fit into `segment` and, with all others, into `bound_bytes`; whether they do.

        What cannot be reached is not begun: then nothing is evicted.
        """

        def excess_bytes() -> int:
            used_bytes, limit_bytes, _ = self._ledger.segment_bytes()[segment]
            return used_bytes + n_bytes - limit_bytes

        def total_excess_bytes() -> int:
            return self._ledger.used_bytes + n_bytes - bound_bytes

        for _ in range(N_LOOKS):
            with self._lock:
                can_go = self.evictable_regions()
                in_segment = sum(size for each, size in can_go if self._place_of(each).segment == segment)
                if excess_bytes() <= in_segment and total_excess_bytes() <= sum(size for _, size in can_go):
                    self._evict_until(lambda: excess_bytes() <= 0, segment)
                    self._evict_until(lambda: total_excess_bytes() <= 0)
                if excess_bytes() <= 0 and total_excess_bytes() <= 0:
                    return True
            time.sleep(0)
        return False

    def _evict_until(self, enough: Callable[[], bool], segment: str | None = None) -> None:
        """Evict what the policy gives up, until it is enough or nothing more can go. The caller holds the lock."""
        for dimension in self.take_visited():
            if dimension in self._policy:
                self._policy.touch(dimension)

        def evictable(dimension: int) -> bool:
            return self._place_of(dimension).segment == segment and self.is_evictable(dimension)

        can_go = self.is_evictable if segment is None else evictable
        with UnmapTogether():
            while not enough() and (victim := self._policy.victim(can_go)) is not None:
                self._evict(victim)

    def _evict(self, dimension: int) -> None:
        """Unmap a region that the policy gave up; the next access maps it again."""
        if dimension in self._unindexed:
            self._unindexed[dimension] = self._facts_of(dimension)
        self._evicted[dimension] = Evicted._make(self.withdraw(dimension))
        self._n_evictions += 1

    def _index_now(self, dimension: int) -> None:
        """Index a region that no question has asked for yet."""
        if dimension in self._unindexed:
            facts = self._unindexed.pop(dimension)
            self._index.put(dimension, self._facts_of(dimension) if facts is None else facts)

    def _facts_of(self, dimension: int) -> Sequence[LayerFacts]:
        """What the index is made from; nothing for a region whose keywords were overwritten."""
        try:
            return self._regions[dimension].layer_facts()
        except InvalidRegion as error:
            logger.warning("the layers of D%02d cannot be found by keyword or frequency: %s", dimension, error)
            return []

    def restore_region(self, dimension: int, layer: int) -> MmapRegion:
        """The region of a dimension that the table does not hold: mapped again if it was evicted; LayerNotFound."""

        def restore() -> MmapRegion:
            region: MmapRegion | None = self._regions.get(dimension)
            if region is not None:
                return region
            evicted = self._evicted.get(dimension)
            if evicted is None:
                hint = f"the dimension is not loaded; load_dimension({dimension}) or load_all() loads it"
                raise LayerNotFound(dimension, layer, hint)
            try:
                region = self._open_region(dimension, evicted.source)
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
                # What does not fit into an empty segment, or into its slot, fits no better when others are gone.
                hopeless = error.requested_bytes > error.limit_bytes
                if hopeless or not self._relieve(self._place_of(dimension).segment, error):
                    raise
            else:
                self._settle()
                return result

    def _relieve(self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool = False) -> bool:
        """Make room in another way than by eviction, the lock not held; whether that did anything."""
        return False

    # Pressure

    def _settle(self) -> None:
        """Evict if the budget is that full, and tell of thresholds crossed. The caller holds no lock."""
        used_bytes, crossings = self._ledger.used_bytes, self._ledger.take_crossings()
        if used_bytes >= self._evict_from_bytes:
            with self._lock:
                self._evict_until(lambda: self._ledger.used_bytes <= self._evict_to_bytes)
        if crossings:
            self._tell(crossings, used_bytes)

    def _tell(self, crossings: tuple[str, ...], used_bytes: int) -> None:
        """Log the gravest of `crossings`, unless another was logged just now, and call back for each."""
        limit_bytes = self._ledger.limit_bytes
        with self._lock:
            now = time.monotonic()
            is_due = self.config.enable_warnings and now - self._logged_at >= LOG_INTERVAL_S
            if is_due:
                self._logged_at = now
            callbacks = self._callbacks
        if is_due:
            used, limit = format_bytes(used_bytes), format_bytes(limit_bytes)
            logger.warning("memory pressure %s: %s of %s in use", crossings[-1], used, limit)
        for level in crossings:
            for callback in callbacks:
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

    def _number(self, dimension: int) -> int:
        """`dimension` as an int, if it is open who asks; TypeError for what is no integer."""
        self._check_open()
        return index(dimension)

    def _check_open(self) -> None:
        if self._closed:
            raise ManagerClosed

    def _loaded(self, dimension: int) -> MmapRegion:
        region: MmapRegion | None = self._regions.get(dimension)
        if region is None:
            raise RegionNotFound(dimension)
        return region
