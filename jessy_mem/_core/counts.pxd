"""The totals of a latency histogram as plain values, and back: what travels between processes."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from jessy_mem._core.c.atomic cimport jm_ctz
from jessy_mem._core.kernels.buckets cimport GROUP_BUCKETS, bucket_high, bucket_low, bucket_of
from jessy_mem._core.kernels.shard cimport Totals, totals_begin, totals_finish, totals_percentile


# The summary, what was counted beside the buckets, and the buckets that hold events.
cdef inline dict counts_dict(const Totals *totals, uint64_t limit_ns):
    cdef uint64_t groups = totals.groups
    cdef unsigned int group, bucket
    cdef list buckets = []
    while groups:
        group = jm_ctz(groups)
        groups &= groups - 1
        for bucket in range(group * GROUP_BUCKETS, (group + 1) * GROUP_BUCKETS):
            if totals.counts[bucket]:
                buckets.append([bucket_low(bucket), min(bucket_high(bucket), limit_ns), totals.counts[bucket]])
    return {
        "count": totals.n_timed,
        "mean_ns": totals.mean_ns,
        "min_ns": totals.min_ns,
        "p50_ns": totals_percentile(totals, 50),
        "p90_ns": totals_percentile(totals, 90),
        "p99_ns": totals_percentile(totals, 99),
        "p999_ns": totals_percentile(totals, 99.9),
        "max_ns": totals.max_ns,
        "overflow": totals.overflow,
        "sum_ns": totals.sum_ns,
        "limit_ns": limit_ns,
        "buckets": buckets,
    }


# Fill in totals from what counts_dict gave, or from its buckets alone; ValueError for what nobody can have counted.
cdef inline int counts_read(Totals *totals, fields, uint64_t limit_ns) except -1:
    cdef uint64_t low_ns, group
    cdef unsigned int bucket
    totals_begin(totals)
    try:
        for low, _, n_events in fields["buckets"]:
            low_ns = low
            if low_ns > limit_ns:
                raise ValueError(f"a bucket begins at {low_ns}, behind limit_ns, {limit_ns}")
            bucket = bucket_of(low_ns)
            group = bucket // GROUP_BUCKETS
            if not totals.groups >> group & 1:
                memset(totals.counts + group * GROUP_BUCKETS, 0, GROUP_BUCKETS * sizeof(uint64_t))
                totals.groups |= <uint64_t> 1 << group
            totals.counts[bucket] += <uint64_t> n_events
        totals.overflow = fields.get("overflow", 0)
        totals.n_untimed = fields.get("untimed", 0)
        totals.sum_ns = fields.get("sum_ns", 0)
        # What is not known lies at the end of the bucket, or just behind the last one.
        totals.max_ns = fields.get("max_ns", 0) or limit_ns + (totals.overflow != 0)
        totals.min_ns = fields.get("min_ns", 0)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"fields: {error}") from None
    totals_finish(totals, limit_ns)
    return 0
