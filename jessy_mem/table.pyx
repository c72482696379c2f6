"""RegionTable: which regions are mapped, who pays for them, and which go when room is needed.

LayerRegistry reads the table without a lock; everything that changes it is here, under `_lock`. A dimension enters by
`_install` and leaves by `_remove`, or by `_unmap`, after which it is remembered and comes back on access. Bytes are
charged before they are mapped. Whatever charges the ledger is followed by `_settle`, outside the lock, which evicts,
logs and calls back when a threshold was crossed.

What is not here is handed in or asked: opening.py brings the bytes, holders.pyx knows who holds what, room.py who
goes, pressure.py whom to tell; and how to make room when eviction cannot is the Learner's.

It is compiled for what a user calls often, a load and a block of the pool, and stands above the parts that it asks.
"""
import threading
import weakref

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from jessy_mem._core.budget cimport Charge, Ledger
from jessy_mem._core.c.atomic cimport jm_flag_load_acquire, jm_load_relaxed, jm_unlikely
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.c.pycompat cimport jm_dict_get_or_none, jm_disown
from jessy_mem._core.c.typedefs cimport Status
from jessy_mem._core.latency cimport LatencyHistogram, clock_factor
from jessy_mem._core.pool cimport Block, PoolAllocator, jm_stolen_block
from jessy_mem._core.region cimport MmapRegion, make_region
from jessy_mem._core.registry cimport LayerRegistry, record

from jessy_mem import given
from jessy_mem._core.mapping import UnmapTogether, private_memory
from jessy_mem._core.whole import whole
from jessy_mem.catalogue import Catalogue
from jessy_mem.errors import (
    AllocationFailed,
    DimensionAlreadyLoaded,
    DimensionNotFound,
    LayerNotFound,
    LimitExceeded,
    ManagerClosed,
    RegionNotFound,
)
from jessy_mem.eviction import make_policy
from jessy_mem.notices import Notices
from jessy_mem.opening import Opener
from jessy_mem.pressure import Pressure
from jessy_mem.room import Room
from jessy_mem.stats import Lease, Leases, format_bytes
from jessy_mem.trace import CallSites, Tracers
from jessy_mem.victims import Victims

jm_clock_use(clock_factor())

MIN_VISITS = 1024  # this many are waited for before they are passed on without an eviction


cdef class RegionTable(LayerRegistry):
    """RegionTable(config)\n--\n
    The mapped regions of a base folder under one ledger. MmapManager is its public face.

    `_relieve(table, segment, refusal, allow_drop)` makes room in another way than by eviction, and says whether it did;
    it is called with no lock held. A table alone cannot.
    """
    cdef object __weakref__
    cdef readonly object config, layout             # the plan, scaled to the total
    cdef public object _lock
    cdef readonly bint _closed
    cdef readonly Ledger _ledger
    cdef readonly PoolAllocator _pool               # None: it was not made
    cdef readonly str _pool_segment                 # what its blocks are charged to
    cdef uint32_t segment                           # its number
    cdef readonly LatencyHistogram _allocations, _deallocations, _loads
    cdef dict allocators                            # segment -> gives blocks for what is decompressed
    cdef dict untold                                # read since the policy was last told, in the order of first reads
    cdef readonly object _opener, _catalogue, _texts, _victims, _pressure, _notices, _sites, _tracing
    cdef readonly object _evicted                   # that of the catalogue
    cdef object room
    cdef public object _relieve
    cdef readonly uint64_t _n_evictions, _n_failures

    def __cinit__(self, *args, **kwargs):
        self._allocations, self._deallocations = LatencyHistogram(), LatencyHistogram()
        self._loads, self._closed = LatencyHistogram(), True
        self.allocators, self.untold = {}, {}

    def __init__(self, config):
        self.config = config
        # A larger total scales slots and segments; a smaller one leaves them and binds first.
        self.layout = config.plan.scaled(config.total_bytes)
        ceilings = {segment.name: segment.size_bytes for segment in self.layout.segments}
        segment = self.layout.segment_of(self.layout.ids_of("reserve")[0][0]).name
        self._ledger = Ledger(config.total_bytes, ceilings, config.thresholds)
        self._pool_segment, self.segment = segment, self._ledger.segment_index(segment)
        self._pool = PoolAllocator(
            config.pool_configs,
            config.total_bytes / (1 << 20),
            strict_classes=config.strict_classes,
            scrub=config.scrub,
            guard_sample=config.guard_sample,
            ledger=self._ledger,
            segment=segment,
        )
        self._pool._ceiling_bytes = int(config.total_bytes * config.critical_threshold / 100)
        self._texts = self._holders.keep_texts(self._ledger, segment, config.text_cache_bytes)
        self.allocators = {name: self.block_giver(name) for name in ceilings}
        self._notices = Notices()
        self._relieve = lambda *refused: False
        self._opener = Opener(config, self.layout, self._ledger)
        self._pressure = Pressure(config)
        self._victims = Victims(make_policy(config.eviction_policy), self._regions, self._holders)
        self.room = Room(
            self.layout, self._ledger, self._pool, segment, self._texts, self._regions, self._holders, self._victims,
            strict_classes=config.strict_classes,
        )
        self._catalogue = Catalogue(self._regions, self.layout, self._opener)
        self._evicted = self._catalogue.evicted
        self._sites, self._tracing = CallSites(), Tracers()
        if config.trace:
            self._use_tracers(self._tracing.add(self._sites))
        self._set_timed(config.record_latency)
        self._lock, self._closed = threading.RLock(), False

    # Blocks of the pool, counted and timed. What mostly happens: one is free, it fits, and no threshold is near.

    def allocate(self, n_bytes):
        """A writable block of `n_bytes` from the pool, charged to the reserve; AllocationFailed, LimitExceeded."""
        cdef uint64_t begin_ticks = jm_clock_ticks() if self._timed else 0
        cdef Status status
        cdef int64_t n
        cdef PyObject *made
        cdef Block block = None
        if jm_unlikely(self._pool is None or not jm_flag_load_acquire(&self._pool.is_open)):
            raise ManagerClosed  # the pool is open as long as the table is
        made = self._pool.try_block(n_bytes, self.segment, &n, &status)
        if made == NULL:
            block = self._allocate(n_bytes, self._pool_segment)
        else:
            jm_disown(made)
        if begin_ticks:
            self._allocations.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            self._allocations.record_untimed(1)
        if jm_unlikely(made == NULL or jm_load_relaxed(&self._pool.arena.ledger.levels)):
            if made != NULL:
                block = jm_stolen_block(made)
            self._settle()
            return block
        return jm_stolen_block(made)

    def deallocate(self, Block block not None):
        """Give a block back; DoubleFree if it was, BufferError while memoryviews of it live."""
        cdef uint64_t begin_ticks = jm_clock_ticks() if self._timed else 0
        if jm_unlikely(self._pool is None or not jm_flag_load_acquire(&self._pool.is_open)):
            raise ManagerClosed  # the pool is open as long as the table is
        self._pool.free_block(block)
        if begin_ticks:
            self._deallocations.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            self._deallocations.record_untimed(1)

    # Opening and charging

    def _load(self, dimension, path):
        """Map a dimension that is not known, from its own file or that at `path`; counted and timed."""
        cdef uint64_t begin_ticks = jm_clock_ticks()
        cdef MmapRegion region = None
        while region is None:
            try:
                with self._lock:
                    region = self.load_now(dimension, path)
            except LimitExceeded as error:
                if not self.is_relieved(dimension, error):
                    raise
        self._settle()
        record(self._loads, begin_ticks, self._timed)
        return region

    cdef MmapRegion load_now(self, dimension, path):
        cdef MmapRegion region
        self._check_open()
        if dimension in self.regions or dimension in self._evicted:
            raise DimensionAlreadyLoaded(dimension)
        try:
            if path is not None:
                self._opener.name_path(dimension, path)
            region = self._open_region(dimension)
            if not self._catalogue.expect(dimension):
                self._install(dimension, region)
            elif self.let_in(dimension, region):  # one step, which nothing interrupts
                self._pass_visits()
        except BaseException:
            if dimension not in self.regions:  # an interrupt may come behind the step
                whole(self._opener.forget_path, dimension)
            raise
        return region

    cpdef MmapRegion _open_region(self, dimension, known_source=None):
        """The region of `dimension`, mapped or simulated, and charged, but in no table yet."""
        place = self._opener.place_of(dimension)
        return self._region_around(self._opener.open(place, self._admit, known_source), place)

    cpdef MmapRegion _region_around(self, stack, place):
        return make_region(stack, place.immutable, self.allocators[place.segment])

    def _place_of(self, dimension):
        return self._opener.place_of(dimension)

    cdef object block_giver(self, str segment):
        """Gives blocks for decompressed layers, counted as copies. No cycle arises: it is weak."""
        table = weakref.ref(self)

        def allocate(n_bytes):
            if (owner := table()) is None:  # a region that outlives its manager has no budget any more
                return private_memory(n_bytes)
            block = owner._allocate(n_bytes, segment)
            owner._count_copies(1)
            return block

        return allocate

    def _admit(self, place, n_bytes, below_bytes):
        """The charge for a file of `n_bytes` on others of `below_bytes`, after making room for it; LimitExceeded."""
        if below_bytes + n_bytes > place.slot_bytes:
            hint = f"the slot of D{place.dimension:02d} has {format_bytes(place.slot_bytes)}"
            raise LimitExceeded(0, place.slot_bytes, below_bytes + n_bytes, place.segment, hint=hint)
        while True:
            try:
                return Charge(self._ledger, place.segment, n_bytes)
            except LimitExceeded as error:
                refusal = error.with_traceback(None)
            if not self.room.make(self, place.segment, n_bytes, self._ledger.limit_bytes):
                raise self.room.naming_holders(refusal, below_bytes, self._leases())

    def _allocate(self, n_bytes, segment):
        """A block charged to `segment`, after making room if that is needed. The caller holds no lock."""
        while True:
            try:
                return self._pool._allocate_in(n_bytes, segment)
            except (AllocationFailed, LimitExceeded) as error:
                # Without its traceback: kept in this frame, it would keep the frame, and the caller's block, alive.
                refusal = error.with_traceback(None)
            if isinstance(refusal, LimitExceeded):
                ceiling_bytes = self._pool._ceiling_bytes or self._ledger.limit_bytes
                if self.room.make(self, segment, refusal.requested_bytes, ceiling_bytes):
                    continue
            try:
                if self._relieve(self, segment, refusal, True):
                    continue
                if isinstance(refusal, LimitExceeded):
                    raise self.room.naming_holders(refusal, 0, self._leases())
                raise refusal
            except (AllocationFailed, LimitExceeded):  # no variable holds it: see above
                with self._lock:
                    self._n_failures += 1
                raise

    def _leases(self):
        with self._lock:
            found = [Lease(*each, taken_at=self._sites.of(each[0])) for each in self._holders.leases()]
        return Leases(sorted(found, key=lambda lease: -lease.n_bytes))

    # Entering and leaving; the caller holds the lock

    def _install(self, dimension, region):
        """Make `region` what readers of `dimension` find, in place of the one before."""
        if whole(self._install_now, dimension, region, repair=self._catalogue.repair):
            self._pass_visits()

    def _install_now(self, dimension, MmapRegion region not None):
        is_time = self.let_in(dimension, region)
        self._catalogue.put(dimension, region)
        return is_time

    cdef bint let_in(self, dimension, MmapRegion region) except -1:
        """`Holders.install`; whether it is time to tell the policy, of many that came or twice as many visits."""
        is_time = self._holders.let_in(dimension, region)
        return is_time or len(self.visits) + len(self.untold) - MIN_VISITS > 2 * len(self.regions)

    def _note_visits(self):
        """What was read since this was last called may be held now."""
        visits = self._take_visits()
        self._holders.watch(visits)
        self.untold.update(visits)

    def _pass_visits(self):
        """Tell the policy what came, and what was read, since this was last called."""
        self._note_visits()
        self._victims.touch(self.untold)
        self.untold.clear()

    def _remove(self, dimension):
        """Let go of a dimension, mapped or evicted, and of all that is remembered of it; what is held is a lease."""
        whole(self._remove_now, dimension, repair=self._catalogue.repair)

    def _remove_now(self, dimension):
        self._victims.remove(dimension)
        if dimension in self.regions:
            self._holders.remove(dimension)
        self._catalogue.remove(dimension)
        self._opener.forget_path(dimension)

    def _forget(self, dimension):
        """The same of what was learned; what somebody has just loaded from a path of his own stays. Takes the lock."""
        with self._lock:
            if not self._opener.place_of(dimension).named:
                self._remove(dimension)

    def _unmap(self, dimension, source=None):
        """Take a region out of the table, and remember it: the next access maps it again, as what `source` says."""
        whole(self._unmap_now, dimension, source, repair=self._catalogue.repair)

    def _unmap_now(self, dimension, source):
        if dimension in self.regions:
            # No variable holds the region, so that nobody but others does when it goes.
            self._catalogue.unmap(dimension, self.regions[dimension], source or self.regions[dimension].source)
            self._holders.remove(dimension)

    def _known(self, dimension):
        """The region of a loaded dimension, or what is remembered of one that is evicted."""
        with self._lock:
            return self.regions.get(dimension) or self._evicted.of(dimension)

    def _loaded_ids(self):
        """All dimensions that are loaded, mapped or evicted."""
        with self._lock:
            return {*self.regions, *self._evicted}

    def _let_go(self):
        """Be closed: hold no dimension and no memory of the pool. What others hold lives on."""
        whole(self._let_go_now)

    def _let_go_now(self):
        with self._lock, UnmapTogether():
            self._closed = True
            while self.regions:
                self._holders.remove(next(iter(self.regions)))
            self._evicted.clear()
            self._texts.close()
            self._pool.close()

    def _exchange(self, dimension, old, stack, changed=None):
        """Let `stack` take the place of the region `old`, or of nothing; without one, the dimension is left unmapped.

        Where the same kind of stack grows, the region stays, and the views of what has not changed. `changed` are the
        layers that are not what they were; by default, they are looked for. False, and nothing has changed,
        if something else is there, or the table is closed. Takes the lock.
        """
        with self._lock:
            if self._closed or self.regions.get(dimension) is not old or dimension in self._evicted:
                return False
            if stack is None:
                self._unmap(dimension, "mmap")
            elif old is None or stack[0].immutable or stack[0].source != old.source:
                self._install(dimension, self._region_around(stack, self._opener.place_of(dimension)))
            else:
                whole(self._restack_now, dimension, old, stack, changed, repair=self._catalogue.repair)
            return True

    def _restack_now(self, dimension, region, stack, changed):
        found = self._holders.restack(region, stack, changed is None)
        self._catalogue.change(dimension, region, found if changed is None else changed)

    # What others changed

    def _refresh_dimension(self, dimension):
        """Bring a dimension up to the files that are there now; whether it has changed. With no lock held.

        One that is evicted is read again when somebody asks. DimensionNotFound if its files are gone.
        """

        def refresh():
            if (region := self.regions.get(dimension)) is not None:
                return region.source != "pool" and self._refresh_region(dimension, region)
            if dimension in self._evicted:
                self._catalogue.mark_changed(dimension)
            return dimension in self._evicted

        return self._changing(dimension, refresh)

    def _refresh_region(self, dimension, region):
        """The same of one that is mapped; LimitExceeded if there is no room. Under the lock."""
        old = region._stack
        try:
            stack = self._opener.reopen(self._opener.place_of(dimension), self._admit, old)
            return stack is not old and self._exchange(dimension, region, stack)
        finally:
            del region, old  # no traceback may go on holding them

    # Making room

    def _evict_until(self, enough):
        """Evict what the policy gives up, until it is enough or nothing more can go. The caller holds the lock."""
        self._pass_visits()
        with UnmapTogether():
            self._victims.evict_until(enough, self._evict)

    def _evict(self, dimension):
        """Unmap a victim."""
        self._unmap(dimension)
        self._n_evictions += 1

    def _restore(self, dimension, layer):
        """The region of a dimension that the table does not hold: mapped again if it was evicted; LayerNotFound."""
        if dimension not in self._evicted and dimension not in self.regions:
            self._look()

        def restore():
            if (region := self.regions.get(dimension)) is not None:
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

    def _changing(self, dimension, change, *args):
        """Do `change`, which maps `dimension`, under the lock; again if room was made that eviction cannot make."""
        while True:
            try:
                with self._lock:
                    if self._closed:
                        raise ManagerClosed
                    result = change(*args)
            except LimitExceeded as error:
                if not self.is_relieved(dimension, error):
                    raise
            else:
                self._settle()
                return result

    cdef bint is_relieved(self, dimension, error) except -1:
        """Whether room was made for what is mapped, which did not fit. With no lock held."""
        # What does not fit into an empty segment, or into its slot, fits no better when others are gone.
        hopeless = error.requested_bytes > error.limit_bytes
        segment = self.layout.segment_of(dimension).name if error.segment == "total" else error.segment
        return not hopeless and self._relieve(self, segment, error, False)

    def _helpful(self, protos, segment, refusal, for_block):
        """See `Room.helpful`. Takes the lock."""
        with self._lock:
            return self.room.helpful(protos, segment, refusal, for_block)

    cpdef _settle(self):
        """What follows a charge: nothing as long as no threshold is near."""
        if self._pool is not None and jm_load_relaxed(&self._pool.arena.ledger.levels):
            self._evict_and_tell()

    def _evict_and_tell(self):
        """Evict if the budget is that full, and report thresholds crossed. The caller holds no lock."""
        used_bytes, crossings = self._ledger.used_bytes, self._ledger.take_crossings()
        if used_bytes >= self._pressure.evict_from_bytes:
            with self._lock:
                self._texts.shed(used_bytes - int(self._pressure.evict_to_bytes))
                self._evict_until(lambda: self._ledger.used_bytes <= self._pressure.evict_to_bytes)
        if crossings:
            self._pressure.tell(crossings, used_bytes)

    # Small questions

    def _checked(self, dimension):
        """`dimension` as an int, if it is open who asks; TypeError for what is no integer."""
        self._check_open()
        return given.dimension_number(dimension)

    cpdef _check_open(self):
        if self._closed:
            raise ManagerClosed

    def _loaded(self, dimension):
        region = jm_dict_get_or_none(self.regions, dimension)
        if region is None:
            raise RegionNotFound(dimension)
        return region
