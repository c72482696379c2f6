"""Reader: the read path of one thread."""
from libc.stdint cimport uint64_t

from jessy_mem._core.kernels.shard cimport Shard
from jessy_mem._core.registry cimport LayerRegistry
from jessy_mem._core.shelf cimport OwnViews, Shelf
from jessy_mem._core.view cimport LayerView


cdef class Reader:
    cdef LayerRegistry registry  # None once closed
    cdef Shelf shelf             # that of the registry, which knows what this keeps
    cdef OwnViews own            # its own views
    cdef uint64_t owner          # the serial number of the thread that it belongs to
    cdef Shard *hits             # where that thread counts them; NULL where it shares with others
    cdef uint64_t limit_ns
    cdef bint timed

    cdef LayerView read(self, object layer_id)
    # The same of what is not found in its own views.
    cdef LayerView read_otherwise(self, object layer_id)
    # The registry, for the thread that this belongs to; RuntimeError for others, ManagerClosed.
    cdef LayerRegistry opened(self)
    cdef int end(self) except -1
