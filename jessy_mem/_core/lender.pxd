"""BlockLender: a LayerRegistry that lends blocks of a pool, too."""
from libc.stdint cimport uint32_t

from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.pool cimport PoolAllocator
from jessy_mem._core.registry cimport LayerRegistry


cdef class BlockLender(LayerRegistry):
    cdef readonly PoolAllocator _pool            # shares a ledger with whoever extends this; None: nothing is lent yet
    cdef readonly str _pool_segment              # what blocks are charged to
    cdef uint32_t segment                        # its number
    cdef readonly LatencyHistogram _allocations
    cdef readonly LatencyHistogram _deallocations
