"""The clock and the latency histogram, for tests and benchmarks: kernels in a C loop, native threads.

Not for use by the library itself.
"""
from libc.stdint cimport uint32_t, uint64_t

from jessy_mem._core.c.atomic cimport jm_load_acquire, jm_load_relaxed, jm_store_relaxed
from jessy_mem._core.c.clock cimport (
    jm_clock_monotonic_ns,
    jm_clock_ns,
    jm_clock_ticks,
    jm_clock_ticks_after,
    jm_clock_use,
)
from jessy_mem._core.kernels.buckets cimport GROUP_BUCKETS, bucket_high, bucket_low, bucket_middle, bucket_of
from jessy_mem._core.kernels.shard cimport (
    Shard,
    Totals,
    own_add,
    shard_count_newest,
    totals_add_groups,
    totals_add_newest,
    totals_begin,
)
from jessy_mem._core.latency cimport N_ROWS, LatencyHistogram, clock_factor
from jessy_mem._probe.workers cimport Worker, run_workers


jm_clock_use(clock_factor())


cdef struct Recording:      # what the threads of one run record
    void *histogram         # a LatencyHistogram that the caller holds
    const uint64_t *values
    size_t n_values
    size_t n_untimed
    size_t n_rounds


def bucket(uint64_t value):
    """The bucket of a value: its index, lowest, middle and highest value."""
    cdef unsigned int index = bucket_of(value)
    return index, bucket_low(index), bucket_middle(index), bucket_high(index)


def clock_pair():
    """The monotonic clock, the library's clock in its own ticks, and the monotonic clock again."""
    cdef uint64_t before_ns = jm_clock_monotonic_ns(), ticks = jm_clock_ticks()
    return before_ns, ticks, jm_clock_monotonic_ns()


def clock_ns(uint64_t begin_ticks, uint64_t end_ticks):
    """Nanoseconds between two readings of the library's clock."""
    return jm_clock_ns(begin_ticks, end_ticks)


def count_newest(LatencyHistogram histogram not None):
    """Leave each shard as in the middle of a record: the newest event in its bucket, and no other in its place."""
    cdef int row
    for row in range(1, N_ROWS):
        if histogram.shards[row] != NULL:
            shard_count_newest(histogram.shards[row], histogram.shards[row].newest)


def counts_seen(LatencyHistogram histogram not None, size_t n_groups, const uint64_t[::1] values not None):
    """What a reader sees who is interrupted, after `n_groups` groups of buckets, by the recording of `values`.

    The histogram must be one that only this thread records into. Returns a dict of bucket to count, without zeros.
    """
    cdef Totals totals
    cdef const Shard *shard = NULL
    cdef uint64_t newest, first, rest, n_events
    cdef int row
    cdef size_t i, _group
    for row in range(1, N_ROWS):
        if histogram.shards[row] != NULL:
            shard = histogram.shards[row]
    if shard == NULL:
        raise ValueError("this thread has recorded nothing, or has no shard of its own")
    totals_begin(&totals)
    newest = jm_load_acquire(&shard.newest)
    rest = shard.groups
    for _group in range(n_groups):
        rest &= rest - 1
    first = shard.groups ^ rest
    n_events = totals_add_groups(&totals, shard, first)
    for i in range(<size_t> values.shape[0]):
        histogram.record_ns(values[i])
    n_events += totals_add_groups(&totals, shard, rest)
    totals_add_newest(&totals, shard, newest, 0, n_events)
    return {
        index: totals.counts[index]
        for index in range(64 * GROUP_BUCKETS)
        if totals.groups >> (index // GROUP_BUCKETS) & 1 and totals.counts[index]
    }


def clock_cost_ns(size_t n, bint monotonic=False):
    """Mean cost of one reading of the library's clock, or of the system's, in nanoseconds, over `n` readings."""
    cdef uint64_t begin_ns, end_ns, last = 0
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        if monotonic:
            for _i in range(n):
                last ^= jm_clock_monotonic_ns()
        else:
            for _i in range(n):
                last ^= jm_clock_ticks()
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> n if last else 0.0


def record_cost_ns(LatencyHistogram histogram not None, const uint64_t[::1] values not None, size_t n_rounds):
    """Mean cost of one record_ns, in nanoseconds, over `n_rounds` times all `values`."""
    cdef uint64_t begin_ns, end_ns
    cdef size_t i, _round
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        for _round in range(n_rounds):
            for i in range(<size_t> values.shape[0]):
                histogram.record_ns(values[i])
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> (n_rounds * <size_t> values.shape[0])


cdef uint32_t[2048] chase  # a closed walk through 8 KB: each step waits for the one before
cdef uint32_t chase_at = 0


cdef void chase_make() noexcept nogil:
    cdef uint32_t i
    for i in range(2048):
        chase[i] = (i * 77 + 13) & 2047


cdef void work(size_t n_steps) noexcept nogil:
    """An event that takes about 1.5 ns for each step."""
    global chase_at
    cdef uint32_t at = chase_at
    cdef size_t _i
    for _i in range(n_steps):
        at = chase[at]
    chase_at = at


chase_make()


cdef void record_at_once(Shard *shard, uint64_t t_ns) noexcept nogil:
    """As shard_record_own, but into the bucket at once: what the event that waits in `newest` is compared with."""
    cdef unsigned int bucket = bucket_of(t_ns)
    cdef uint64_t groups = jm_load_relaxed(&shard.groups), bit = <uint64_t> 1 << (bucket // GROUP_BUCKETS)
    if not groups & bit:
        jm_store_relaxed(&shard.groups, groups | bit)
    own_add(shard.counts + bucket, 1)
    own_add(&shard.sum_ns, t_ns)
    if ~t_ns > jm_load_relaxed(&shard.not_min_ns):
        jm_store_relaxed(&shard.not_min_ns, ~t_ns)
    if t_ns > jm_load_relaxed(&shard.max_ns):
        jm_store_relaxed(&shard.max_ns, t_ns)


def time_nothing_cost_ns(LatencyHistogram histogram not None, size_t n, bint at_once=False):
    """Mean cost of both readings of the clock and a record around nothing, in nanoseconds, over `n`.

    `at_once` puts each event into its bucket at once, as the histogram itself does not.
    """
    cdef uint64_t begin_ns, end_ns, begin_ticks
    cdef Shard *shard = histogram.shard_claim()
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        if at_once and shard != NULL:
            for _i in range(n):
                begin_ticks = jm_clock_ticks()
                record_at_once(shard, jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            for _i in range(n):
                begin_ticks = jm_clock_ticks()
                histogram.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> n


def time_cost_ns(LatencyHistogram histogram, size_t n, size_t n_steps=0, bint waits=False):
    """Mean duration of an event of `n_steps` steps, in nanoseconds, over `n`: timed and recorded, or bare for None.

    The cost of timing is the difference of the two. `waits` ends the event with the clock that waits for it.
    """
    cdef uint64_t begin_ns, end_ns, begin_ticks
    cdef bint is_timed = histogram is not None
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        if not is_timed:
            for _i in range(n):
                work(n_steps)
        elif waits:
            for _i in range(n):
                begin_ticks = jm_clock_ticks()
                work(n_steps)
                histogram.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks_after()))
        else:
            for _i in range(n):
                begin_ticks = jm_clock_ticks()
                work(n_steps)
                histogram.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> n


def untimed_cost_ns(LatencyHistogram histogram not None, size_t n):
    """Mean cost of an event without a time, in nanoseconds, over `n`."""
    cdef uint64_t begin_ns, end_ns
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        for _i in range(n):
            histogram.record_untimed(1)
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> n


cdef void record_all(Worker *me) noexcept nogil:
    cdef const Recording *task = <const Recording *> me.task
    cdef size_t i, _i
    for _i in range(task.n_rounds):
        for i in range(task.n_values):
            (<LatencyHistogram> task.histogram).record_ns(task.values[i])
    for _i in range(task.n_untimed):
        (<LatencyHistogram> task.histogram).record_untimed(1)


def record_threads(
    LatencyHistogram histogram not None, const uint64_t[::1] values not None, unsigned int n_threads,
    size_t n_untimed=0, size_t n_rounds=1
):
    """Let `n_threads` native threads, all alive at once, record `n_rounds` times all `values`, and `n_untimed` events.

    Returns what one event takes in each thread, in nanoseconds.
    """
    cdef Recording task
    cdef size_t n_events = n_rounds * <size_t> values.shape[0] + n_untimed
    task.histogram, task.n_values, task.n_untimed = <void *> histogram, values.shape[0], n_untimed
    task.n_rounds = n_rounds
    task.values = &values[0] if values.shape[0] else NULL
    return run_workers(record_all, &task, n_threads)[0] / max(<size_t> 1, n_events)


def forget_the_groups(LatencyHistogram histogram not None):
    """Break the histogram: its shards no longer know where their newest event belongs. See _probe/budget."""
    cdef int row
    for row in range(1, N_ROWS):
        if histogram.shards[row] != NULL:
            histogram.shards[row].groups = 0
