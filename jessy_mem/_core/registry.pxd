"""LayerRegistry: which layers there are, and the read path."""
from libc.stdint cimport uint8_t, uint64_t

from jessy_mem._core.changes cimport ChangePage
from jessy_mem._core.holders cimport Holders
from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.view cimport LayerView


cdef class LayerRegistry:
    cdef dict regions                          # those of `_holders`: dimension -> MmapRegion
    cdef readonly object _regions              # the same for Python, which can only read it
    cdef readonly Holders _holders             # what changes it
    cdef readonly LatencyHistogram _hits       # accesses to layers that were read before
    cdef readonly LatencyHistogram _first_touches
    cdef tuple tracers                         # told of each access; mostly none; under critical_section(self)
    cdef uint8_t traced                        # atomic flag: whether there is one
    cdef readonly bint _timed                  # whether events are timed, or only counted
    cdef uint64_t n_copies                     # atomic; payload copies made
    # The gate: a hit passes while these two are the same.
    cdef const uint64_t *word                  # the number of the newest change: that of `page`, or `alone`
    cdef uint64_t seen                         # atomic; what it was when all was followed, or SHUT
    cdef uint64_t look_ticks                   # from when on a hit looks for the page; never, if nobody follows
    cdef uint64_t alone                        # 0: the word of whoever follows nobody
    cdef ChangePage page                       # keeps `word`
    cdef list visits                           # dimensions whose regions were marked as visited, in that order

    cdef LayerView read(self, object layer_id)
    cdef LayerView stop_at_gate(self, object layer_id, uint64_t begin_ticks)
    cdef int trace_access(self, LayerView view) except -1
    cdef LayerView first_touch(self, object layer_id)
    cdef int visit(self, MmapRegion region, object layer_id) except -1
    # The files of a dimension that is mapped, which is marked as read; None if it is not.
    cdef tuple stack_to_read(self, object dimension)
