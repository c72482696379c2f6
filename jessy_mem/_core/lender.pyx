"""Blocks of a pool as users of a manager get them: counted, timed, and after room was made if that is needed.

What mostly happens is compiled: a block is free, it fits into the budget, and no threshold is near, which is one load.
All else is the table's, which knows how to make room and whom to tell.
"""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.c.atomic cimport jm_flag_load_acquire, jm_load_relaxed, jm_unlikely
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.typedefs cimport Status
from jessy_mem._core.latency cimport LatencyHistogram, clock_factor
from jessy_mem._core.pool cimport Block, PoolAllocator, jm_stolen_block
from jessy_mem._core.registry cimport LayerRegistry

from jessy_mem.errors import ManagerClosed

jm_clock_use(clock_factor())


cdef class BlockLender(LayerRegistry):
    """BlockLender()\n--\n
    A LayerRegistry that lends blocks of a pool. Thread-safe.
    """

    def __cinit__(self, *args, **kwargs):
        self._allocations = LatencyHistogram()
        self._deallocations = LatencyHistogram()

    def _lend_from(self, PoolAllocator pool not None, str segment not None):
        """Lend blocks of `pool`, charged to `segment` of the ledger that it shares; for the owner, once."""
        if pool.made().ledger is None:
            raise ValueError("pool: this one shares no ledger")
        self.segment = pool.arena.ledger.segment_index(segment)
        self._pool_segment, self._pool = segment, pool

    def allocate(self, n_bytes):
        """A writable block of `n_bytes` from the pool, charged to the reserve; AllocationFailed, LimitExceeded."""
        cdef uint64_t begin_ticks = jm_clock_ticks() if self._timed else 0
        cdef Status status
        cdef int64_t n
        cdef PyObject *made
        cdef Block block = None
        if jm_unlikely(self._pool is None or not jm_flag_load_acquire(&self._pool.is_open)):
            self._check_open()
            raise ManagerClosed("the pool")
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
            self._check_open()
            raise ManagerClosed("the pool")
        self._pool.free_block(block)
        if begin_ticks:
            self._deallocations.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            self._deallocations.record_untimed(1)

    def _allocate(self, n_bytes, segment):
        """A block that the pool did not have at once, after making room for it. The table knows better."""
        return self._pool._allocate_in(n_bytes, segment)

    def _settle(self):
        """What follows a charge: nothing as long as no threshold is near."""
        if self._pool is not None and jm_load_relaxed(&self._pool.arena.ledger.levels):
            self._evict_and_tell()

    def _evict_and_tell(self):
        """What follows a charge that came near a threshold. The table knows better."""

    def _check_open(self):
        """ManagerClosed if it is closed who asks. The table knows better."""
