"""A shard, the counters of one thread, and totals, what many shards add up to. Kernels of the latency histogram.

An event waits in `newest` until the next one comes, and only then goes to its bucket. A store whose address comes from
the clock holds up the next reading of the clock; this way the address is known long before. Two readings and a record
take 18.7 ns instead of 23.5 on AMD Zen (python asv_bench/benchmarks/tricks.py).

    newest    |  number of the event, 52 bits  |  1 + its bucket, 12 bits  |      0 while there is none

One store replaces it, so a reader finds an event and its number together, and can tell from the sum of the buckets
whether that event is in its bucket already.
"""
from libc.math cimport ceil
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcpy

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_add_relaxed,
    jm_clz,
    jm_ctz,
    jm_load_acquire,
    jm_load_relaxed,
    jm_max_relaxed,
    jm_or_acq_rel,
    jm_store_relaxed,
    jm_store_release,
)
from jessy_mem._core.kernels.buckets cimport (
    GROUP_BUCKETS,
    MAX_BUCKETS,
    MAX_GROUPS,
    bucket_high,
    bucket_low,
    bucket_middle,
    bucket_of,
    bucket_width,
)


# What some threads recorded, in one row of the histogram's counters. The head is one cache line; each field has one
# writer except in the shared shard, and any number of readers, so all of them are accessed atomically.
cdef struct Shard:
    uint64_t groups      # bit g: a bucket of group g may be above 0; set before the bucket is
    uint64_t overflow    # events longer than max_ns
    uint64_t sum_ns      # of all timed events, modulo 2**64
    uint64_t not_min_ns  # ~ of the shortest timed event since the last reset; 0 when there is none, as in a new row
    uint64_t max_ns      # of the timed events since the last reset
    uint64_t untimed     # events without a time
    uint64_t newest      # the last event that has a bucket, and how many there were; 0 in the shared shard
    uint64_t nowhere     # the bucket of what was before the first event; just before the others
    uint64_t[1] counts   # events in each bucket, as many as the histogram has


cdef enum:
    BUCKET_BITS = 12  # of `newest`: MAX_BUCKETS is below 4096


cdef inline unsigned int newest_bucket(uint64_t newest) noexcept nogil:
    """The bucket of `newest`, which is not 0."""
    return (newest & ((1 << BUCKET_BITS) - 1)) - 1


cdef inline size_t shard_words(unsigned int n_groups) noexcept nogil:
    # The struct holds one counter already; whole groups follow, so that a group is read without looking at n_buckets.
    return sizeof(Shard) // sizeof(uint64_t) - 1 + n_groups * GROUP_BUCKETS


cdef inline Shard *shard_in(uint64_t[:, ::1] rows, unsigned int row) noexcept nogil:
    """The shard in a row; one that was never touched is zero, and so is a new shard."""
    return <Shard *> &rows[row, 0]


cdef inline void own_add(uint64_t *counter, uint64_t n) noexcept nogil:
    """Add to a counter that this thread alone writes."""
    jm_store_relaxed(counter, jm_load_relaxed(counter) + n)


cdef inline uint64_t shard_events(const Shard *shard) noexcept nogil:
    """Events with a bucket; none in the shared shard, where only the buckets know them."""
    return jm_load_relaxed(&shard.newest) >> BUCKET_BITS


cdef inline void shard_count_newest(Shard *shard, uint64_t newest) noexcept nogil:
    """Count the event `newest` in its bucket; for the owner, just before another takes its place."""
    cdef uint64_t *count = &shard.nowhere + (newest & ((1 << BUCKET_BITS) - 1))
    if newest:
        jm_assert(shard.groups >> (newest_bucket(newest) // GROUP_BUCKETS) & 1, newest, shard.groups)
    # Who reads the new count and looks at `newest` after that finds this event there, or a newer one.
    jm_store_release(count, jm_load_relaxed(count) + 1)


cdef inline void shard_record_own(Shard *shard, uint64_t t_ns, uint64_t limit_ns) noexcept nogil:
    cdef unsigned int bucket
    cdef uint64_t groups, bit, newest
    if t_ns <= limit_ns:
        bucket = bucket_of(t_ns)
        jm_assert(t_ns - bucket_low(bucket) < bucket_width(bucket), t_ns, bucket)
        groups = jm_load_relaxed(&shard.groups)
        bit = <uint64_t> 1 << (bucket // GROUP_BUCKETS)
        if not groups & bit:
            jm_store_relaxed(&shard.groups, groups | bit)
        newest = jm_load_relaxed(&shard.newest)
        shard_count_newest(shard, newest)
        jm_store_release(&shard.newest, (((newest >> BUCKET_BITS) + 1) << BUCKET_BITS) + bucket + 1)
    else:
        own_add(&shard.overflow, 1)
    own_add(&shard.sum_ns, t_ns)
    if ~t_ns > jm_load_relaxed(&shard.not_min_ns):
        jm_store_relaxed(&shard.not_min_ns, ~t_ns)
    if t_ns > jm_load_relaxed(&shard.max_ns):
        jm_store_relaxed(&shard.max_ns, t_ns)


cdef inline void shard_record_shared(Shard *shard, uint64_t t_ns, uint64_t limit_ns, uint64_t n=1) noexcept nogil:
    """Count `n` events that took `t_ns` each; for any thread."""
    cdef unsigned int bucket
    cdef uint64_t bit
    if t_ns <= limit_ns:
        bucket = bucket_of(t_ns)
        bit = <uint64_t> 1 << (bucket // GROUP_BUCKETS)
        if not jm_load_relaxed(&shard.groups) & bit:
            jm_or_acq_rel(&shard.groups, bit)
        jm_add_relaxed(shard.counts + bucket, n)
    else:
        jm_add_relaxed(&shard.overflow, n)
    jm_add_relaxed(&shard.sum_ns, n * t_ns)
    jm_max_relaxed(&shard.not_min_ns, ~t_ns)
    jm_max_relaxed(&shard.max_ns, t_ns)


cdef struct Totals:
    uint64_t groups                    # bit g: group g holds events; the counts of other groups are not set
    uint64_t n_timed                   # events in buckets and overflow
    uint64_t n_untimed                 # events without a time
    uint64_t overflow
    uint64_t min_ns                    # 0 when n_timed is 0
    uint64_t max_ns
    uint64_t sum_ns                    # modulo 2**64
    double mean_ns
    uint64_t[MAX_GROUPS] group_counts
    uint64_t[MAX_BUCKETS] counts


cdef inline uint64_t clamp(uint64_t value, uint64_t low, uint64_t high) noexcept nogil:
    return low if value < low else high if value > high else value


cdef inline uint64_t totals_add_groups(Totals *totals, const Shard *shard, uint64_t groups) noexcept nogil:
    """Add the buckets of these groups: how many events they hold."""
    cdef uint64_t bit, count, n_events = 0
    cdef unsigned int group
    cdef const uint64_t *source
    cdef uint64_t *target
    cdef bint fresh
    cdef int i
    while groups:
        group = jm_ctz(groups)
        bit = <uint64_t> 1 << group
        groups ^= bit
        source = shard.counts + group * GROUP_BUCKETS
        target = totals.counts + group * GROUP_BUCKETS
        fresh = not totals.groups & bit
        totals.groups |= bit
        for i in range(GROUP_BUCKETS):
            count = jm_load_acquire(source + i)
            n_events += count
            target[i] = count if fresh else target[i] + count
    return n_events


cdef inline void totals_add_newest(
    Totals *totals, const Shard *shard, uint64_t newest, uint64_t before, uint64_t n_events
) noexcept nogil:
    """Add the event `newest`, which was read before the buckets, if it is not in them: `n_events` were.

    `before` is what its bucket held without this shard.
    """
    cdef unsigned int last = newest_bucket(newest)
    if newest and jm_load_acquire(&shard.newest) != newest:
        # It went to its bucket meanwhile, perhaps after that was read.
        totals.counts[last] = before + jm_load_relaxed(shard.counts + last)
    elif newest and n_events < newest >> BUCKET_BITS:  # it still waits
        totals.counts[last] += 1


cdef inline void totals_add(Totals *totals, const Shard *shard) noexcept nogil:
    cdef uint64_t newest = jm_load_acquire(&shard.newest)  # first: events before it are in their buckets and groups
    cdef uint64_t groups = jm_load_relaxed(&shard.groups), before = 0, n_events
    cdef unsigned int last = newest_bucket(newest)
    if newest and totals.groups >> (last // GROUP_BUCKETS) & 1:
        before = totals.counts[last]
    n_events = totals_add_groups(totals, shard, groups)
    totals_add_newest(totals, shard, newest, before, n_events)
    totals.overflow += jm_load_relaxed(&shard.overflow)
    totals.n_untimed += jm_load_relaxed(&shard.untimed)
    totals.sum_ns += jm_load_relaxed(&shard.sum_ns)
    totals.min_ns = min(totals.min_ns, ~jm_load_relaxed(&shard.not_min_ns))
    totals.max_ns = max(totals.max_ns, jm_load_relaxed(&shard.max_ns))


cdef inline void totals_subtract(Totals *totals, const Shard *earlier) noexcept nogil:
    cdef uint64_t groups = earlier.groups
    cdef unsigned int bucket, group
    while groups:
        group = jm_ctz(groups)
        groups &= groups - 1
        for bucket in range(group * GROUP_BUCKETS, (group + 1) * GROUP_BUCKETS):
            totals.counts[bucket] -= earlier.counts[bucket]
    totals.overflow -= earlier.overflow
    totals.n_untimed -= earlier.untimed
    totals.sum_ns -= earlier.sum_ns


cdef inline void totals_counts(const Totals *totals, uint64_t[::1] counts) noexcept nogil:
    """Set the counts of whole groups; those of groups without events are left as they are."""
    cdef uint64_t groups = totals.groups
    cdef uint64_t *target = &counts[0]
    cdef unsigned int first
    while groups:
        first = jm_ctz(groups) * GROUP_BUCKETS
        groups &= groups - 1
        jm_assert(first + GROUP_BUCKETS <= <uint64_t> counts.shape[0], first, counts.shape[0])
        memcpy(target + first, totals.counts + first, GROUP_BUCKETS * sizeof(uint64_t))


cdef inline unsigned int totals_edge(const Totals *totals, unsigned int group, bint last) noexcept nogil:
    """The first or the last bucket with events in a group that has some."""
    cdef const uint64_t *counts = totals.counts + group * GROUP_BUCKETS
    cdef unsigned int i = GROUP_BUCKETS - 1 if last else 0
    while counts[i] == 0:
        i = i - 1 if last else i + 1
    return group * GROUP_BUCKETS + i


cdef inline void totals_finish(Totals *totals, uint64_t limit_ns) noexcept nogil:
    """Total the buckets, and hold minimum, maximum and mean within what the buckets allow."""
    cdef uint64_t groups = totals.groups, n_timed, n_steps
    cdef const uint64_t *counts
    cdef unsigned int group, first, last
    cdef int i
    cdef double low_sum_ns = 0, high_sum_ns = 0, width_ns
    totals.n_timed = 0
    while groups:
        group = jm_ctz(groups)
        groups &= groups - 1
        counts = totals.counts + group * GROUP_BUCKETS
        n_timed = n_steps = 0
        for i in range(GROUP_BUCKETS):
            n_timed += counts[i]
            n_steps += counts[i] * <uint64_t> i
        if n_timed == 0:
            totals.groups &= ~(<uint64_t> 1 << group)
            continue
        totals.group_counts[group] = n_timed
        totals.n_timed += n_timed
        width_ns = <double> bucket_width(group * GROUP_BUCKETS)
        low_sum_ns += <double> n_timed * <double> bucket_low(group * GROUP_BUCKETS) + <double> n_steps * width_ns
        high_sum_ns += <double> n_timed * (width_ns - 1)
    high_sum_ns += low_sum_ns
    if totals.n_timed + totals.overflow == 0:
        totals.min_ns = totals.max_ns = 0
        totals.mean_ns = 0
        return
    if totals.overflow:
        totals.max_ns = max(totals.max_ns, limit_ns + 1)
        low_sum_ns += <double> totals.overflow * <double> (limit_ns + 1)
        high_sum_ns += <double> totals.overflow * <double> totals.max_ns
    else:
        last = totals_edge(totals, 63 - jm_clz(totals.groups), True)
        totals.max_ns = clamp(totals.max_ns, bucket_low(last), min(bucket_high(last), limit_ns))
    if totals.groups:
        first = totals_edge(totals, jm_ctz(totals.groups), False)
        totals.min_ns = clamp(totals.min_ns, bucket_low(first), min(bucket_high(first), limit_ns))
    else:
        totals.min_ns = clamp(totals.min_ns, limit_ns + 1, totals.max_ns)
    if totals.min_ns > totals.max_ns:  # only the bucket of an event was seen, and neither of the two: its ends
        totals.min_ns, totals.max_ns = totals.max_ns, totals.min_ns
    totals.n_timed += totals.overflow
    totals.mean_ns = min(max(<double> totals.sum_ns, low_sum_ns), high_sum_ns) / <double> totals.n_timed
    totals.mean_ns = min(max(totals.mean_ns, <double> totals.min_ns), <double> totals.max_ns)


cdef inline void totals_begin(Totals *totals) noexcept nogil:
    totals.groups = totals.overflow = totals.n_untimed = totals.sum_ns = totals.max_ns = 0
    totals.min_ns = UINT64_MAX


cdef inline uint64_t totals_value(const Totals *totals, uint64_t rank) noexcept nogil:
    """The value with `rank` (1..n_timed) in ascending order: exact at both ends, else the middle of its bucket."""
    cdef uint64_t groups = totals.groups
    cdef unsigned int group, bucket
    if rank >= totals.n_timed:
        return totals.max_ns
    if rank <= 1:
        return totals.min_ns
    while groups:
        group = jm_ctz(groups)
        groups &= groups - 1
        if rank > totals.group_counts[group]:
            rank -= totals.group_counts[group]
            continue
        for bucket in range(group * GROUP_BUCKETS, (group + 1) * GROUP_BUCKETS):
            if rank <= totals.counts[bucket]:
                return clamp(bucket_middle(bucket), totals.min_ns, totals.max_ns)
            rank -= totals.counts[bucket]
    return totals.max_ns  # among the overflow, of which only the largest is known


cdef inline uint64_t totals_percentile(const Totals *totals, double q) noexcept nogil:
    """The nearest-rank percentile, `q` in 0..100; 0 when nothing was timed."""
    # 99.9 % of 1000 is rank 999, though 99.9 has no exact binary form: take off what rounding may have added.
    return totals_value(totals, <uint64_t> ceil(q * <double> totals.n_timed / 100 * (1 - 4e-16)))
