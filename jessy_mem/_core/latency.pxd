"""Latency histograms: one shard for each thread, merged when read.

Other modules cimport LatencyHistogram and call its first four cdef methods; the rest serves latency.pyx.
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.kernels.shard cimport Shard, Totals

cdef enum:
    N_ROWS = 66  # 0..JM_MAX_THREADS + 1, see jm_thread_row; checked at import


# That of the one clock, which is measured when this is imported, for `jm_clock_use` of each module that reads it.
cdef uint64_t clock_factor() noexcept


cdef class LatencyHistogram:
    cdef object __weakref__
    cdef uint64_t[:, ::1] rows           # the memory of all shards, one row for each thread
    cdef Shard *shards[N_ROWS]           # by row; NULL until the thread records, always for the first and last
    cdef Shard *shared                   # of all threads that have no shard: the first row; NULL until one records
    cdef Shard *reset_at                 # what had been recorded at the last reset: the last row; NULL before; locked
    cdef readonly uint64_t limit_ns      # the longest time that has a bucket; longer is overflow
    cdef unsigned int n_buckets          # that times up to limit_ns fall into
    cdef unsigned int n_groups           # that hold these buckets

    # Count and time one event. Lock-free, from any thread.
    cdef void record_ns(self, uint64_t t_ns) noexcept nogil
    # Count events that were timed together, each with its share of the time. Lock-free, from any thread.
    cdef void record_together(self, uint64_t n_events, uint64_t total_ns) noexcept nogil
    # Count events without a time (record_latency=False).
    cdef void record_untimed(self, uint64_t n_events) noexcept nogil
    # Events since the histogram was made, timed or not; reset() does not lower it.
    cdef uint64_t count_events(self) noexcept nogil

    # The same for a thread that has no shard yet, or never gets one.
    cdef void record_apart(self, uint64_t t_ns) noexcept nogil
    cdef void record_untimed_apart(self, uint64_t n_events) noexcept nogil
    # This thread's own shard, begun if there is none; NULL when the thread has to share.
    cdef Shard *shard_claim(self) noexcept nogil
    # The shard of those that have none; from now on readers look at it.
    cdef Shard *share(self) noexcept nogil
    # The i-th of the shards there are, 0..N_ROWS - 1, or NULL.
    cdef const Shard *shard_at(self, int i) noexcept nogil
    # What was recorded since the last reset, in one piece. With the GIL or on a free-threaded interpreter.
    cdef void totals_take(self, Totals *totals) noexcept
    # Add what totals hold, as if it had been recorded here.
    cdef void totals_put(self, const Totals *totals) noexcept
