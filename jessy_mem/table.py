"""RegionTable: which regions are mapped, who pays for them, and which go when room is needed.

LayerRegistry reads the table without a lock; everything that changes it is here, under `_lock`. A dimension enters by
`_install` and leaves by `_remove`, or by `_unmap`, after which it is remembered and comes back on access. Bytes are
charged before they are mapped. Whatever charges the ledger is followed by `_settle`, outside the lock, which evicts,
logs and calls back when a threshold was crossed.

What is not here is handed in or asked: opening.py brings the bytes, holders.pyx knows who holds what, victims.py who
goes first, pressure.py whom to tell; and how to make room when eviction cannot is the Learner's.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar, TypeVarTuple, Unpack

from jessy_mem import given
from jessy_mem._core.budget import Charge, Ledger
from jessy_mem._core.lender import BlockLender
from jessy_mem._core.mapping import Mapping as Mapped
from jessy_mem._core.mapping import UnmapTogether, private_memory
from jessy_mem._core.pool import Block, PoolAllocator
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.whole import whole
from jessy_mem.catalogue import Catalogue
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
from jessy_mem.evicted import Evicted
from jessy_mem.eviction import make_policy
from jessy_mem.layout import MemoryLayout
from jessy_mem.notices import Notices
from jessy_mem.opening import Opener, Place, Stack
from jessy_mem.pressure import Pressure
from jessy_mem.stats import Lease, Leases, format_bytes
from jessy_mem.trace import CallSites, Tracers
from jessy_mem.victims import Victims

__all__ = ["RegionTable"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Relieve = Callable[["RegionTable", str, AllocationFailed | LimitExceeded, bool], bool]

N_HOLDERS_NAMED = 5
# Looks before a request is refused: readers that pass by hold what they read for a moment. Beside 4 readers one look
# refused 29 % of all loads that had room, beside 16 it was 92 %; two refused 0.06 %, three none (RefusedBesideReaders).
N_LOOKS = 5
MIN_VISITS = 1024  # this many are waited for before they are passed on without an eviction


class RegionTable(BlockLender):
    """The mapped regions of a base folder under one ledger. MmapManager is its public face.

    `_relieve(table, segment, refusal, allow_drop)` makes room in another way than by eviction, and says whether it did;
    it is called with no lock held. A table alone cannot.
    """

    # What a load reads. CPython 3.11 finds a field of a compiled class's heir 15 times as fast here as in a dict.
    __slots__ = "__dict__ __weakref__ _allocators _catalogue _closed _evicted _lock _opener _read".split()

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        # A larger total scales slots and segments; a smaller one leaves them and binds first.
        self.layout: MemoryLayout = config.plan.scaled(config.total_bytes)
        ceilings = {segment.name: segment.size_bytes for segment in self.layout.segments}
        segment = self.layout.segment_of(self.layout.ids_of("reserve")[0][0]).name
        self._ledger = Ledger(config.total_bytes, ceilings, config.thresholds)
        pool = PoolAllocator(
            config.pool_configs,
            config.total_bytes / (1 << 20),
            strict_classes=config.strict_classes,
            scrub=config.scrub,
            guard_sample=config.guard_sample,
            ledger=self._ledger,
            segment=segment,
        )
        self._lend_from(pool, segment)
        self._texts = self._holders.keep_texts(self._ledger, segment, config.text_cache_bytes)
        self._pool._ceiling_bytes = int(config.total_bytes * config.critical_threshold / 100)
        self._allocators = {name: self._block_giver(name) for name in ceilings}
        self._lock, self._closed = threading.RLock(), False
        self._notices = Notices()
        self._relieve: Relieve = lambda *refused: False
        self._opener = Opener(config, self.layout, self._ledger)
        self._pressure = Pressure(config)
        self._victims = Victims(make_policy(config.eviction_policy), self._regions, self._holders)
        self._read: dict[int, None] = {}  # since the policy was last told, in the order of their first read
        self._catalogue = Catalogue(self._regions, self.layout, self._opener)
        self._evicted = self._catalogue.evicted
        self._n_evictions = self._n_failures = 0
        self._sites, self._tracing = CallSites(), Tracers()
        if config.trace:
            self._use_tracers(self._tracing.add(self._sites))
        self._set_timed(config.record_latency)

    # Opening and charging

    def _open_region(self, dimension: int, known_source: str | None = None) -> MmapRegion:
        """The region of `dimension`, mapped or simulated, and charged, but in no table yet."""
        place = self._opener.place_of(dimension)
        stack = self._opener.open(place, self._admit, known_source)
        return make_region(stack, place.immutable, self._allocators[place.segment])

    def _region_around(self, stack: Stack, place: Place) -> MmapRegion:
        return make_region(stack, place.immutable, self._allocators[place.segment])

    def _place_of(self, dimension: int) -> Place:
        return self._opener.place_of(dimension)

    def _block_giver(self, segment: str) -> Callable[[int], Block | bytearray | Mapped]:
        """Gives blocks for decompressed layers, counted as copies. No cycle arises: it is weak."""
        table = weakref.ref(self)

        def allocate(n_bytes: int) -> Block | bytearray | Mapped:
            if (owner := table()) is None:  # a region that outlives its manager has no budget any more
                return private_memory(n_bytes)
            block = owner._allocate(n_bytes, segment)
            owner._count_copies(1)
            return block

        return allocate

    def _admit(self, place: Place, n_bytes: int, below_bytes: int) -> Charge:
        """The charge for a file of `n_bytes` on others of `below_bytes`, after making room for it; LimitExceeded."""
        if below_bytes + n_bytes > place.slot_bytes:
            hint = f"the slot of D{place.dimension:02d} has {format_bytes(place.slot_bytes)}"
            raise LimitExceeded(0, place.slot_bytes, below_bytes + n_bytes, place.segment, hint=hint)
        while True:
            try:
                return Charge(self._ledger, place.segment, n_bytes)
            except LimitExceeded as error:
                refusal = error.with_traceback(None)
            if not self._make_room(place.segment, n_bytes, self._ledger.limit_bytes):
                raise self._naming_holders(refusal, below_bytes)

    def _allocate(self, n_bytes: int, segment: str) -> Block:
        """A block charged to `segment`, after making room if that is needed. The caller holds no lock."""
        while True:
            try:
                return self._pool._allocate_in(n_bytes, segment)
            except (AllocationFailed, LimitExceeded) as error:
                # Without its traceback: kept in this frame, it would keep the frame, and the caller's block, alive.
                refusal = error.with_traceback(None)
            if isinstance(refusal, LimitExceeded):
                ceiling_bytes = self._pool._ceiling_bytes or self._ledger.limit_bytes
                if self._make_room(segment, refusal.requested_bytes, ceiling_bytes):
                    continue
            try:
                if self._relieve(self, segment, refusal, True):
                    continue
                if isinstance(refusal, LimitExceeded):
                    raise self._naming_holders(refusal)
                raise refusal
            except (AllocationFailed, LimitExceeded):  # no variable holds it: see above
                with self._lock:
                    self._n_failures += 1
                raise

    def _naming_holders(self, refusal: LimitExceeded, below_bytes: int = 0) -> LimitExceeded:
        """`refusal` with the largest holders in its segment; what is charged below in the same stack goes with it."""
        segment = refusal.segment
        held = [
            (lease.n_bytes, str(lease))
            for lease in self._leases()
            if segment in ("total", self.layout.segment_of(lease.dimension).name)
        ]
        pool_bytes, _ = self._pool.usage()
        if pool_bytes and segment in ("total", self._pool_segment):
            held.append((pool_bytes, f"blocks of the pool ({format_bytes(pool_bytes)})"))
        held.sort(key=lambda holder: -holder[0])
        return LimitExceeded(
            refusal.current_bytes - below_bytes, refusal.limit_bytes, refusal.requested_bytes + below_bytes, segment,
            [name for _, name in held[:N_HOLDERS_NAMED]], refusal.hint,
        )  # fmt: skip

    def _leases(self) -> list[Lease]:
        with self._lock:
            found = [Lease(*each, taken_at=self._sites.of(each[0])) for each in self._holders.leases()]
        return Leases(sorted(found, key=lambda lease: -lease.n_bytes))

    # Entering and leaving; the caller holds the lock

    def _install(self, dimension: int, region: MmapRegion) -> None:
        """Make `region` what readers of `dimension` find, in place of the one before."""
        if whole(self._install_now, dimension, region, repair=self._catalogue.repair):
            self._pass_visits()

    def _install_now(self, dimension: int, region: MmapRegion) -> bool:
        is_time = self._let_in(dimension, region, len(self._read) - MIN_VISITS)
        self._catalogue.put(dimension, region)
        return is_time

    def _add(self, dimension: int, region: MmapRegion) -> None:
        """Make `region` what readers find of a dimension that was not loaded."""
        if not self._catalogue.expect(dimension):
            self._install(dimension, region)
        elif self._let_in(dimension, region, len(self._read) - MIN_VISITS):  # one step, which nothing interrupts
            self._pass_visits()

    def _note_visits(self) -> None:
        """What was read since this was last called may be held now."""
        visits = self._take_visits()
        self._holders.watch(visits)
        self._read.update(visits)

    def _pass_visits(self) -> None:
        """Tell the policy what came, and what was read, since this was last called."""
        self._note_visits()
        self._victims.touch(self._read)
        self._read.clear()

    def _remove(self, dimension: int) -> None:
        """Let go of a dimension, mapped or evicted, and of all that is remembered of it; what is held is a lease."""
        whole(self._remove_now, dimension, repair=self._catalogue.repair)

    def _remove_now(self, dimension: int) -> None:
        self._victims.remove(dimension)
        if dimension in self._regions:
            self._holders.remove(dimension)
        self._catalogue.remove(dimension)
        self._opener.forget_path(dimension)

    def _forget(self, dimension: int) -> None:
        """The same of what was learned; what somebody has just loaded from a path of his own stays. Takes the lock."""
        with self._lock:
            if not self._opener.place_of(dimension).named:
                self._remove(dimension)

    def _unmap(self, dimension: int, source: str | None = None) -> None:
        """Take a region out of the table, and remember it: the next access maps it again, as what `source` says."""
        whole(self._unmap_now, dimension, source, repair=self._catalogue.repair)

    def _unmap_now(self, dimension: int, source: str | None) -> None:
        if dimension in self._regions:
            # No variable holds the region, so that nobody but others does when it goes.
            self._catalogue.unmap(dimension, self._regions[dimension], source or self._regions[dimension].source)
            self._holders.remove(dimension)

    def _known(self, dimension: int) -> MmapRegion | Evicted | None:
        """The region of a loaded dimension, or what is remembered of one that is evicted."""
        with self._lock:
            return self._regions.get(dimension) or self._evicted.of(dimension)

    def _loaded_ids(self) -> set[int]:
        """All dimensions that are loaded, mapped or evicted."""
        with self._lock:
            return {*self._regions, *self._evicted}

    def _let_go(self) -> None:
        """Be closed: hold no dimension and no memory of the pool. What others hold lives on."""
        whole(self._let_go_now)

    def _let_go_now(self) -> None:
        with self._lock, UnmapTogether():
            self._closed = True
            while self._regions:
                self._holders.remove(next(iter(self._regions)))
            self._evicted.clear()
            self._texts.close()
            self._pool.close()

    def _exchange(
        self, dimension: int, old: MmapRegion | None, stack: Stack | None, changed: Collection[int] | None = None
    ) -> bool:
        """Let `stack` take the place of the region `old`, or of nothing; without one, the dimension is left unmapped.

        Where the same kind of stack grows, the region stays, and the views of what has not changed. `changed` are the
        layers that are not what they were; by default, they are looked for. False, and nothing has changed,
        if something else is there, or the table is closed. Takes the lock.
        """
        with self._lock:
            if self._closed or self._regions.get(dimension) is not old or dimension in self._evicted:
                return False
            if stack is None:
                self._unmap(dimension, "mmap")
            elif old is None or stack[0].immutable or stack[0].source != old.source:
                self._install(dimension, self._region_around(stack, self._opener.place_of(dimension)))
            else:
                whole(self._restack_now, dimension, old, stack, changed, repair=self._catalogue.repair)
            return True

    def _restack_now(self, dimension: int, region: MmapRegion, stack: Stack, changed: Collection[int] | None) -> None:
        found = self._holders.restack(region, stack)
        self._catalogue.change(dimension, region, found if changed is None else changed)

    # What others changed

    def _refresh_dimension(self, dimension: int) -> bool:
        """Bring a dimension up to the files that are there now; whether it has changed. With no lock held.

        One that is evicted is read again when somebody asks. DimensionNotFound if its files are gone.
        """

        def refresh() -> bool:
            if (region := self._regions.get(dimension)) is not None:
                return region.source != "pool" and self._refresh_region(dimension, region)
            if dimension in self._evicted:
                self._catalogue.mark_changed(dimension)
            return dimension in self._evicted

        return self._changing(dimension, refresh)

    def _refresh_region(self, dimension: int, region: MmapRegion) -> bool:
        """The same of one that is mapped; LimitExceeded if there is no room. Under the lock."""
        old = region._stack
        try:
            stack = self._opener.reopen(self._opener.place_of(dimension), self._admit, old)
            return stack is not old and self._exchange(dimension, region, stack)
        finally:
            del region, old  # no traceback may go on holding them

    def _read_changed(self) -> None:
        """Look at what was changed while it was evicted, so that it can be found; nothing is mapped or charged."""
        for dimension in self._evicted.changed.copy():
            try:
                with self._lock:
                    self._catalogue.look_again(dimension)
            except (DimensionNotFound, InvalidRegion) as error:
                self._notices.warn(dimension, f"the layers of D{dimension:02d} cannot be found: {error}")

    # Making room

    def _make_room(self, segment: str, n_bytes: int, bound_bytes: int) -> bool:
        """Evict, texts first, until `n_bytes` more fit into `segment`, and with all into `bound_bytes`: if they do.

        What cannot be reached is not begun: victims are chosen before the first is unmapped, and if all of them would
        not do, all stay. So a walk over what may go, N_LOOKS times at most, precedes nothing but a refusal.
        """

        def is_here(dimension: int) -> bool:
            return self.layout.segment_of(dimension).name == segment

        n_looks = 0
        while True:
            with self._lock:
                used_bytes, limit_bytes, _ = self._ledger.segment_bytes()[segment]
                excess_bytes = used_bytes + n_bytes - limit_bytes
                total_excess_bytes = self._ledger.used_bytes + n_bytes - bound_bytes
                if excess_bytes <= 0 and total_excess_bytes <= 0:
                    return True
                if self._texts.shed(max(excess_bytes * (segment == self._pool_segment), total_excess_bytes)):
                    continue
                self._pass_visits()
                victims, any_held = self._victims.choose(((excess_bytes, is_here), (total_excess_bytes, None)))
                with UnmapTogether():
                    self._victims.evict(victims, self._evict)
            if not victims:
                n_looks += 1
                if not any_held or n_looks == N_LOOKS:
                    return False
                time.sleep(0)

    def _evict_until(self, enough: Callable[[], bool]) -> None:
        """Evict what the policy gives up, until it is enough or nothing more can go. The caller holds the lock."""
        self._pass_visits()
        with UnmapTogether():
            self._victims.evict_until(enough, self._evict)

    def _evict(self, dimension: int) -> None:
        """Unmap a victim."""
        self._unmap(dimension)
        self._n_evictions += 1

    def _restore(self, dimension: int, layer: int) -> MmapRegion:
        """The region of a dimension that the table does not hold: mapped again if it was evicted; LayerNotFound."""
        if dimension not in self._evicted and dimension not in self._regions:
            self._look()

        def restore() -> MmapRegion:
            if (region := self._regions.get(dimension)) is not None:
                return region
            if (evicted := self._evicted.of(dimension)) is None:
                hint = f"the dimension is not loaded; load_dimension({dimension}) or load_all() loads it"
                raise LayerNotFound(dimension, layer, hint)
            try:
                region = self._open_region(dimension, evicted.source)
            except DimensionNotFound as error:
                raise LayerNotFound(dimension, layer, f"it was evicted, and its file is gone: {error}") from error
            self._install(dimension, region)
            return region

        return self._changing(dimension, restore)

    def _changing(self, dimension: int, change: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Do `change`, which maps `dimension`, under the lock; again if room was made that eviction cannot make."""
        while True:
            try:
                with self._lock:
                    if self._closed:
                        raise ManagerClosed
                    result = change(*args)
            except LimitExceeded as error:
                # What does not fit into an empty segment, or into its slot, fits no better when others are gone.
                hopeless = error.requested_bytes > error.limit_bytes
                segment = self.layout.segment_of(dimension).name if error.segment == "total" else error.segment
                if hopeless or not self._relieve(self, segment, error, False):
                    raise
            else:
                self._settle()
                return result

    def _helpful(
        self, protos: Mapping[int, int], segment: str, refusal: AllocationFailed | LimitExceeded, for_block: bool
    ) -> list[int] | None:
        """Those of `protos` (dimension -> bytes of its block), in their order, that free something of what was refused.

        Empty if all of them, and all that can be evicted, would not do; None if others have made room since then. One
        that is held does not help: its bytes would not come free.
        """
        if isinstance(refusal, AllocationFailed):
            return self._helpful_blocks(protos, refusal)
        in_segment = refusal.segment == segment
        with self._lock:
            used_bytes = self._ledger.segment_bytes()[segment][0] if in_segment else self._ledger.used_bytes
            if used_bytes < refusal.current_bytes:
                return None
            free = [(each, n_bytes) for each in protos if (n_bytes := self._holders.freed_bytes(each))]
            evictable = self._holders.evictable()  # which are not evicted as long as that alone would not do
        bound_bytes = refusal.limit_bytes
        if in_segment:
            free, evictable = (
                [each for each in some if self.layout.segment_of(each[0]).name == segment] for some in (free, evictable)
            )
        elif for_block:
            bound_bytes = self._pool._ceiling_bytes or bound_bytes
        missing_bytes = refusal.current_bytes + refusal.requested_bytes - bound_bytes
        if sum(n_bytes for _, n_bytes in free + evictable) < missing_bytes:
            return []
        return [dimension for dimension, _ in free]

    def _helpful_blocks(self, protos: Mapping[int, int], refusal: AllocationFailed) -> list[int]:
        with self._lock:
            free = [dimension for dimension in protos if self._holders.freed_bytes(dimension)]
        if self.config.strict_classes:
            # Only blocks of the same class help, and nothing helps what is larger than the home of its class.
            classes = self._pool.stats().classes
            wanted = next((each for each in classes if each.block_size >= refusal.requested_bytes), classes[-1])
            if refusal.requested_bytes > wanted.block_size * wanted.n_blocks:
                return []
            stacks = [(each, region._stack) for each in free if (region := self._regions.get(each)) is not None]
            most, size = classes[-1].block_size, wanted.block_size
            free = [each for each, stack in stacks if any(min(image.charged_bytes, most) == size for image in stack)]
        return free

    def _evict_and_tell(self) -> None:
        """Evict if the budget is that full, and report thresholds crossed. The caller holds no lock."""
        used_bytes, crossings = self._ledger.used_bytes, self._ledger.take_crossings()
        if used_bytes >= self._pressure.evict_from_bytes:
            with self._lock:
                self._texts.shed(used_bytes - int(self._pressure.evict_to_bytes))
                self._evict_until(lambda: self._ledger.used_bytes <= self._pressure.evict_to_bytes)
        if crossings:
            self._pressure.tell(crossings, used_bytes)

    # Small questions

    def _checked(self, dimension: int) -> int:
        """`dimension` as an int, if it is open who asks; TypeError for what is no integer."""
        self._check_open()
        return given.dimension_number(dimension)

    def _check_open(self) -> None:
        if self._closed:
            raise ManagerClosed

    def _loaded(self, dimension: int) -> MmapRegion:
        if (region := self._regions.get(dimension)) is None:
            raise RegionNotFound(dimension)
        return region
