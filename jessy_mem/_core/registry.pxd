"""LayerRegistry: which layers there are, and the read path."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from jessy_mem._core.c.atomic cimport jm_fetch_early, jm_load_relaxed
from jessy_mem._core.c.clock cimport jm_clock_ticks
from jessy_mem._core.changes cimport ChangePage
from jessy_mem._core.holders cimport Holders
from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.shelf cimport Shelf
from jessy_mem._core.view cimport LayerView


# One layer as a LoadedContext; whether its text is a copy that was made for it, and not one that was kept.
cdef object context_of(LayerView view, bint *is_copy)
# Count an event that began at `begin_ticks`, and time it if events are timed.
cdef void record(LatencyHistogram histogram, uint64_t begin_ticks, bint timed) noexcept


# The clock as an access begins, if it needs that: to be timed or, while there is no page, to look for one now and then.
# Else 0.
cdef inline uint64_t begin_of(bint timed, const uint64_t *word, const uint64_t *look_ticks) noexcept:
    if timed or (jm_load_relaxed(word) == 0 and jm_load_relaxed(look_ticks) != <uint64_t> -1):
        return jm_clock_ticks()
    return 0


# The clock as a hit ends, which knows its view and has not touched it; 0 if events are not timed. Some processors
# (Intel's) begin nothing that follows a reading of the clock before all loads that precede it are done, but do not wait
# for what was only asked for. So what is about to be missed is asked for before a reading, and read after it.
cdef inline uint64_t end_of(bint timed, const PyObject *view) noexcept:
    jm_fetch_early(view)
    return jm_clock_ticks() if timed else 0


cdef class LayerRegistry:
    cdef dict regions                          # those of `_holders`: dimension -> MmapRegion
    cdef readonly object _regions              # the same for Python, which can only read it
    cdef readonly Holders _holders             # what changes it
    cdef list visits                           # dimensions whose regions were marked as visited, in that order
    cdef tuple tracers                         # called for each access; mostly none; under critical_section(self)
    cdef uint64_t n_copies                     # atomic; payload copies made
    cdef readonly LatencyHistogram _first_touches
    cdef uint64_t alone                        # 0: the word of whoever follows nobody
    cdef ChangePage page                       # keeps `word`
    cdef uint8_t[64] _apart                    # what each hit reads does not share a cache line with what is written
    cdef readonly LatencyHistogram _hits       # accesses to layers that were read before
    cdef Shelf shelf                           # that of `_holders`
    # The gate: a hit passes while these two are the same.
    cdef const uint64_t *word                  # the number of the newest change: that of `page`, or `alone`
    cdef uint64_t seen                         # atomic; what it was when all was followed, or SHUT
    cdef uint64_t look_ticks                   # from when on a hit looks for the page; never, if nobody follows
    cdef uint16_t round                        # atomic; another one each time eviction has taken the visits
    cdef uint8_t traced                        # atomic flag: whether there is a tracer
    cdef readonly bint _timed                  # whether events are timed, or only counted

    cdef LayerView read(self, object layer_id)
    # The same of what `find_view` does not find.
    cdef LayerView read_otherwise(self, object layer_id, uint64_t begin_ticks)
    cdef LayerView stop_at_gate(self, object layer_id, uint64_t begin_ticks)
    cdef int trace_access(self, LayerView view) except -1
    cdef LayerView first_touch(self, object layer_id)
    # The files of a dimension that is mapped, which is marked as read; None if it is not.
    cdef tuple stack_to_read(self, object dimension)
    # Mark a region as read, and remember its dimension for eviction.
    cdef int mark(self, MmapRegion region, object dimension) except -1
    # Let later hits in this round find it, unless `region` is another edition by now.
    cdef unsigned int shelve(self, LayerView view, MmapRegion region, uint64_t edition, uint16_t round) noexcept
