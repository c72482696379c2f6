"""LayerRegistry: which layers there are, and the read path."""
from libc.stdint cimport uint64_t

from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.region cimport LayerView, MmapRegion


cdef class LayerRegistry:
    cdef readonly dict _regions               # dimension -> MmapRegion; one assignment replaces a generation
    cdef readonly LatencyHistogram hits       # accesses to layers that were read before
    cdef readonly LatencyHistogram first_touches
    cdef readonly tuple _tracers              # told of each access (dimension, layer, file bytes); mostly none
    cdef list tracers_kept                    # every tuple that `_tracers` was, for a reader may still hold one
    cdef bint traced                          # whether there is a tracer
    cdef bint timed                           # whether events are timed, or only counted
    cdef uint64_t n_copies                    # atomic; payload copies made
    cdef list retired                         # weak references to Images that were unloaded, replaced or evicted
    cdef Py_ssize_t prune_at                  # length of `retired` at which those that have gone are dropped

    cdef int trace_access(self, LayerView view) except -1
    cdef LayerView first_touch(self, object layer_id)
