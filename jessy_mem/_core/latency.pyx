"""Latency histograms whose recording costs a few nanoseconds and whose numbers add up.

HAZARD: many threads record while others read, merge and reset, and nobody may wait or be lost. Each thread writes a
shard of its own with plain loads and stores (relaxed, since readers look on); a shard is taken over by a later thread
only after its owner has ended (thread.h). The threads that find 64 others alive share a shard with atomic adds. All
shards are rows of one mapping; a row takes memory when it is first written.

    row 0        others   --> shared     head | 64 buckets of group 0 | ... group 1 | ...    atomic adds
    row 1        thread 0 --> shards[1]  head | ...                                          one writer each
    row 2        thread 1 --> shards[2]  NULL, and the row untouched, until thread 1 records
       ...                       |
    row 65                       |       what was there at the last reset
                                 +--> totals = sum of shards - row 65

Invariants: a bucket only ever grows, so totals are never negative; reset() writes no bucket, it remembers. All
totals follow from the buckets it saw; sum, minimum and maximum only refine them inside their bounds, so
totals that were taken in the middle of an event are still some that could have been.
"""
cimport cython
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.string cimport memcpy

from jessy_mem._core.c.atomic cimport (
    jm_add_relaxed, jm_ctz, jm_load_relaxed, jm_max_relaxed, jm_or_acq_rel, jm_ptr_load_acquire, jm_ptr_store_release,
    jm_store_relaxed
)
from jessy_mem._core.c.clock cimport jm_clock_measure, jm_clock_resolution_ns, jm_clock_use, jm_clock_uses_tsc
from jessy_mem._core.c.thread cimport JM_MAX_THREADS, jm_thread_number, jm_thread_row
from jessy_mem._core.counts cimport counts_dict, counts_read
from jessy_mem._core.kernels.buckets cimport GROUP_BUCKETS, bucket_lows, bucket_of
from jessy_mem._core.kernels.shard cimport (
    Shard,
    Totals,
    own_add,
    shard_events,
    shard_in,
    shard_record_own,
    shard_record_shared,
    shard_words,
    totals_add,
    totals_begin,
    totals_counts,
    totals_finish,
    totals_percentile,
    totals_subtract,
)
from jessy_mem._core.mapping cimport Mapping

from jessy_mem import given
from jessy_mem.errors import MappingError
from jessy_mem.forking import imported


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

cdef extern from *:
    bint likely(bint condition) noexcept nogil  # a macro of every module that Cython writes

assert JM_MAX_THREADS + 2 == N_ROWS

cdef uint64_t measured_factor = jm_clock_measure()
jm_clock_use(measured_factor)


cdef uint64_t clock_factor() noexcept:
    return measured_factor


def clock_name():
    """The clock that latencies are measured with: "tsc" (the processor's time stamp counter) or "monotonic".

    Examples
    --------
    >>> clock_name() in ("tsc", "monotonic")
    True
    """
    return "tsc" if jm_clock_uses_tsc else "monotonic"


def clock_resolution_ns():
    """What two readings in a row of the clock of :func:`clock_name` differ by, in nanoseconds.

    It is measured anew by each call. Neither the clock's step nor the cost of a reading is larger.

    Examples
    --------
    >>> clock_resolution_ns() > 0
    True
    """
    return jm_clock_resolution_ns()


@cython.no_gc  # holds no Python object
@cython.final
cdef class LatencyHistogram:
    """LatencyHistogram(max_ns=60_000_000_000)\n--\n
    Counts of how long events took, in buckets at most 1.6 % wide, recorded from any number of threads.

    Parameters
    ----------
    max_ns : int, optional
        The longest time in nanoseconds that gets a bucket (default: 60 s; at most 2**63 - 1). Longer events are counted
        as overflow: they are part of `count`, `mean_ns` and `max_ns`.

    Attributes
    ----------
    count : int
        Events recorded since the last reset, overflow included.
    overflow : int
        Those of them that took longer than `limit_ns`.
    min_ns, max_ns : int
        The shortest and the longest event, exact; 0 when there is none.
    mean_ns : float
        The mean of all events, exact; 0.0 when there is none.
    limit_ns : int
        The `max_ns` of the constructor.
    n_events : int
        All events since the histogram was made: a reset does not lower it, and events counted without a time are in it.
    n_bytes : int
        Memory of the counters in use: about 16 KB for each thread that has recorded, and for all that share.

    Raises
    ------
    ValueError
        If `max_ns` is not in 1..2**63 - 1.
    MappingError
        If the system refuses the address space.

    Notes
    -----
    Thread-safe, and recording is lock-free: each thread counts in memory of its own, which is added up when read. What
    is read while others record is one consistent set of numbers, with every event either whole in it or not at all in
    its counts; only then may `min_ns`, `max_ns` and `mean_ns` be off, by less than the width of a bucket.

    The bucket arithmetic is that of HdrHistogram (Gil Tene, http://hdrhistogram.org).

    Examples
    --------
    >>> histogram = LatencyHistogram()
    >>> for t_ns in (120, 80, 100, 5_000):
    ...     histogram.record(t_ns)
    >>> histogram
    <LatencyHistogram count=4 p50=100 p99=5000 max=5000 ns>
    >>> histogram.percentile(75), histogram.mean_ns
    (120, 1325.0)
    """

    def __cinit__(self, max_ns=60_000_000_000):
        if not 1 <= max_ns < 1 << 63:
            raise ValueError(f"max_ns: {max_ns} is not in 1..2**63 - 1")
        self.limit_ns = max_ns
        self.n_buckets = bucket_of(self.limit_ns) + 1
        self.n_groups = (self.n_buckets + GROUP_BUCKETS - 1) // GROUP_BUCKETS
        n_words = shard_words(self.n_groups)
        try:
            pages = Mapping(N_ROWS * n_words * sizeof(uint64_t), reserve=True)
        except OSError as error:
            raise MappingError.of(error, "latency histogram", N_ROWS * n_words * sizeof(uint64_t)) from None
        self.rows = memoryview(pages).cast("Q", (N_ROWS, n_words))

    cdef const Shard *shard_at(self, int i) noexcept nogil:
        return <const Shard *> jm_ptr_load_acquire(<void **> (&self.shards[i] if i else &self.shared))

    cdef Shard *share(self) noexcept nogil:
        cdef Shard *shard = shard_in(self.rows, 0)
        if jm_ptr_load_acquire(<void **> &self.shared) == NULL:
            jm_ptr_store_release(<void **> &self.shared, shard)  # the same by whoever
        return shard

    cdef Shard *shard_claim(self) noexcept nogil:
        cdef unsigned int number = jm_thread_number()
        cdef Shard *shard
        if number == JM_MAX_THREADS:
            return NULL
        shard = self.shards[number + 1]  # that of an ended thread, whose number this one got
        if shard == NULL:
            shard = shard_in(self.rows, number + 1)
            # Only the thread that has this number writes the pointer.
            jm_ptr_store_release(<void **> &self.shards[number + 1], shard)
        return shard

    cdef void record_ns(self, uint64_t t_ns) noexcept nogil:
        cdef Shard *shard = self.shards[jm_thread_row()]
        if likely(shard != NULL):
            shard_record_own(shard, t_ns, self.limit_ns)
        else:
            self.record_apart(t_ns)

    cdef void record_apart(self, uint64_t t_ns) noexcept nogil:
        cdef Shard *shard = self.shard_claim()
        if shard != NULL:
            shard_record_own(shard, t_ns, self.limit_ns)
        else:
            shard_record_shared(self.share(), t_ns, self.limit_ns)

    cdef void record_together(self, uint64_t n_events, uint64_t total_ns) noexcept nogil:
        # In the shared shard whoever it is: in an own one each event has its turn to wait.
        if n_events:
            shard_record_shared(self.share(), total_ns // n_events, self.limit_ns, n_events)

    cdef void record_untimed(self, uint64_t n_events) noexcept nogil:
        cdef Shard *shard = self.shards[jm_thread_row()]
        if likely(shard != NULL):
            own_add(&shard.untimed, n_events)
        elif n_events:
            self.record_untimed_apart(n_events)

    cdef void record_untimed_apart(self, uint64_t n_events) noexcept nogil:
        cdef Shard *shard = self.shard_claim()
        if shard != NULL:
            own_add(&shard.untimed, n_events)
        else:
            jm_add_relaxed(&self.share().untimed, n_events)

    cdef uint64_t count_events(self) noexcept nogil:
        cdef uint64_t n_events = 0, groups = 0
        cdef const uint64_t *counts
        cdef const Shard *shard
        cdef int row, i
        for row in range(N_ROWS):
            shard = self.shard_at(row)
            if shard != NULL:
                n_events += jm_load_relaxed(&shard.untimed) + jm_load_relaxed(&shard.overflow) + shard_events(shard)
        shard = self.shard_at(0)
        if shard != NULL:
            groups = jm_load_relaxed(&shard.groups)
        while groups:
            counts = shard.counts + jm_ctz(groups) * GROUP_BUCKETS
            groups &= groups - 1
            for i in range(GROUP_BUCKETS):
                n_events += jm_load_relaxed(counts + i)
        return n_events

    cdef void totals_take(self, Totals *totals) noexcept:
        cdef const Shard *shard
        cdef int row
        totals_begin(totals)
        with cython.critical_section(self):
            for row in range(N_ROWS):
                shard = self.shard_at(row)
                if shard != NULL:
                    totals_add(totals, shard)
            if self.reset_at != NULL:
                totals_subtract(totals, self.reset_at)
        totals_finish(totals, self.limit_ns)

    def record(self, t_ns):
        """Count one event that took `t_ns` nanoseconds; ValueError if that is negative."""
        cdef int too_large = 0
        cdef int64_t value = PyLong_AsLongLongAndOverflow(t_ns, &too_large)
        if value >= 0:
            self.record_ns(value)
        elif too_large > 0:
            self.record_ns(min(int(t_ns), UINT64_MAX))
        else:
            raise ValueError(f"t_ns: {t_ns} is negative")

    def percentile(self, q):
        """The time in nanoseconds that `q` percent of the events did not exceed.

        Parameters
        ----------
        q : float
            0..100. 0 gives the minimum, 100 the maximum, both exact; between them the result is the middle of the
            bucket of the nearest-rank percentile, within 0.8 % of it.

        Returns
        -------
        int
            0 when nothing was recorded.

        Raises
        ------
        ValueError
            If `q` is not in 0..100.
        """
        cdef Totals totals
        cdef double percent = given.number(q)
        if not 0 <= percent <= 100:
            raise ValueError(f"q: {q} is not in 0..100")
        self.totals_take(&totals)
        return totals_percentile(&totals, percent)

    def summary(self):
        """The fields of :class:`jessy_mem.stats.LatencySummary` in order, of one moment and in one pass.

        Returns
        -------
        tuple
            ``(count, p50, p90, p99, p999, max, mean_ns)``; times in nanoseconds, all 0 when nothing was recorded.

        Examples
        --------
        >>> histogram = LatencyHistogram()
        >>> histogram.record(100)
        >>> histogram.summary()
        (1, 100, 100, 100, 100, 100, 100.0)
        """
        cdef Totals totals
        self.totals_take(&totals)
        return (
            totals.n_timed,
            totals_percentile(&totals, 50),
            totals_percentile(&totals, 90),
            totals_percentile(&totals, 99),
            totals_percentile(&totals, 99.9),
            totals.max_ns,
            totals.mean_ns,
        )

    def merge(self, LatencyHistogram other not None):
        """Add what `other` has recorded since its last reset, as if it had been recorded here.

        Raises
        ------
        ValueError
            If the two have a different `limit_ns`, so that their buckets do not correspond.
        """
        cdef Totals totals
        if other.limit_ns != self.limit_ns:
            raise ValueError(f"other: its limit_ns is {other.limit_ns}, here it is {self.limit_ns}; they must be equal")
        other.totals_take(&totals)
        self.totals_put(&totals)

    cdef void totals_put(self, const Totals *totals) noexcept:
        cdef Shard *shard = self.share()
        cdef uint64_t groups
        cdef unsigned int bucket, first
        with cython.critical_section(self):
            jm_or_acq_rel(&shard.groups, totals.groups)
            groups = totals.groups
            while groups:
                first = jm_ctz(groups) * GROUP_BUCKETS
                groups &= groups - 1
                for bucket in range(first, first + GROUP_BUCKETS):
                    if totals.counts[bucket]:
                        jm_add_relaxed(shard.counts + bucket, totals.counts[bucket])
            jm_add_relaxed(&shard.overflow, totals.overflow)
            jm_add_relaxed(&shard.sum_ns, totals.sum_ns)
            jm_add_relaxed(&shard.untimed, totals.n_untimed)
            if totals.n_timed:
                jm_max_relaxed(&shard.not_min_ns, ~totals.min_ns)
                jm_max_relaxed(&shard.max_ns, totals.max_ns)

    def reset(self):
        """Forget all times recorded so far; an event recorded meanwhile counts before or after, never twice."""
        cdef Totals totals
        cdef const Shard *shard
        cdef Shard *reset_at
        cdef uint64_t groups
        cdef unsigned int first
        cdef int row
        with cython.critical_section(self):
            if self.reset_at == NULL:
                self.reset_at = shard_in(self.rows, N_ROWS - 1)
            reset_at = self.reset_at
            totals_begin(&totals)
            for row in range(N_ROWS):
                shard = self.shard_at(row)
                if shard != NULL:
                    totals_add(&totals, shard)
                    # An event in flight may miss this; the buckets still bound what is shown for it.
                    jm_store_relaxed(<uint64_t *> &shard.not_min_ns, 0)
                    jm_store_relaxed(<uint64_t *> &shard.max_ns, 0)
            groups = reset_at.groups = totals.groups
            while groups:
                first = jm_ctz(groups) * GROUP_BUCKETS
                groups &= groups - 1
                memcpy(reset_at.counts + first, totals.counts + first, GROUP_BUCKETS * sizeof(uint64_t))
            reset_at.overflow = totals.overflow
            reset_at.sum_ns = totals.sum_ns
            reset_at.untimed = totals.n_untimed

    def to_dict(self):
        """The totals of one moment as plain values: the summary, the overflow, and the buckets that hold events.

        JSON-serialisable; `from_dict` makes an equal histogram of it. ``"buckets"`` lists ``[low_ns, high_ns, count]``,
        ascending, both bounds inclusive; ``"sum_ns"`` is modulo 2**64.
        """
        cdef Totals totals
        self.totals_take(&totals)
        return counts_dict(&totals, self.limit_ns)

    @classmethod
    def from_dict(cls, fields):
        """A histogram with the counts of `fields`, which are those of :meth:`to_dict`, from whatever process.

        ``"limit_ns"`` and ``"buckets"`` are enough: a bucket is told by its first bound. ``"overflow"``, ``"sum_ns"``,
        ``"min_ns"``, ``"max_ns"`` and ``"untimed"`` (events without a time) say what buckets cannot. KeyError
        if one of the two is missing, ValueError for what no histogram can have counted.

        >>> histogram = LatencyHistogram.from_dict({"limit_ns": 10**9, "buckets": [[100, 100, 3]]})
        >>> histogram.merge(LatencyHistogram.from_dict(histogram.to_dict()))
        >>> histogram.count, histogram.mean_ns
        (6, 100.0)
        """
        cdef LatencyHistogram made = cls(fields["limit_ns"])
        cdef Totals totals
        counts_read(&totals, fields, made.limit_ns)
        made.totals_put(&totals)
        return made

    def __reduce__(self):
        cdef Totals totals
        self.totals_take(&totals)
        fields = counts_dict(&totals, self.limit_ns)
        return LatencyHistogram.from_dict, (fields | {"untimed": totals.n_untimed},)

    def __sizeof__(self):
        return object.__sizeof__(self) + self.n_bytes

    @property
    def count(self):
        cdef Totals totals
        self.totals_take(&totals)
        return totals.n_timed

    @property
    def overflow(self):
        cdef Totals totals
        self.totals_take(&totals)
        return totals.overflow

    @property
    def min_ns(self):
        cdef Totals totals
        self.totals_take(&totals)
        return totals.min_ns

    @property
    def max_ns(self):
        cdef Totals totals
        self.totals_take(&totals)
        return totals.max_ns

    @property
    def mean_ns(self):
        cdef Totals totals
        self.totals_take(&totals)
        return totals.mean_ns

    @property
    def n_events(self):
        return self.count_events()

    @property
    def n_bytes(self):
        cdef int row
        cdef size_t n_shards = self.reset_at != NULL
        for row in range(N_ROWS):
            n_shards += self.shard_at(row) != NULL
        return n_shards * self.rows.shape[1] * sizeof(uint64_t)

    @property
    def counts(self):
        """Events in each bucket, without the overflow: a new uint64 array, one shorter than `bucket_bounds_ns`."""
        numpy = imported("numpy")
        cdef Totals totals
        array = numpy.zeros(self.n_groups * GROUP_BUCKETS, numpy.uint64)
        self.totals_take(&totals)
        totals_counts(&totals, array)
        return array[: self.n_buckets]

    @property
    def bucket_bounds_ns(self):
        """The edges of the buckets: bucket `i` counts ``bounds[i] <= t_ns < bounds[i + 1]``; a new uint64 array."""
        numpy = imported("numpy")
        array = numpy.empty(self.n_buckets + 1, numpy.uint64)
        bucket_lows(array)
        array[self.n_buckets] = self.limit_ns + 1
        return array

    def __repr__(self):
        cdef Totals totals
        self.totals_take(&totals)
        return (
            f"<LatencyHistogram count={totals.n_timed} p50={totals_percentile(&totals, 50)} "
            f"p99={totals_percentile(&totals, 99)} max={totals.max_ns} ns>"
        )
