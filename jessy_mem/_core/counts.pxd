"""A snapshot of a latency histogram as plain values, and back: what travels between processes."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from jessy_mem._core.c.atomic cimport jm_ctz
from jessy_mem._core.kernels.buckets cimport GROUP_BUCKETS, bucket_high, bucket_low, bucket_of
from jessy_mem._core.kernels.shard cimport Snapshot, snapshot_begin, snapshot_finish, snapshot_percentile


# The summary, what was counted beside the buckets, and the buckets that hold events.
cdef inline dict counts_dict(const Snapshot *snapshot, uint64_t limit_ns):
    cdef uint64_t groups = snapshot.groups
    cdef unsigned int group, bucket
    cdef list buckets = []
    while groups:
        group = jm_ctz(groups)
        groups &= groups - 1
        for bucket in range(group * GROUP_BUCKETS, (group + 1) * GROUP_BUCKETS):
            if snapshot.counts[bucket]:
                buckets.append([bucket_low(bucket), min(bucket_high(bucket), limit_ns), snapshot.counts[bucket]])
    return {
        "count": snapshot.n_timed,
        "mean_ns": snapshot.mean_ns,
        "min_ns": snapshot.min_ns,
        "p50_ns": snapshot_percentile(snapshot, 50),
        "p90_ns": snapshot_percentile(snapshot, 90),
        "p99_ns": snapshot_percentile(snapshot, 99),
        "p999_ns": snapshot_percentile(snapshot, 99.9),
        "max_ns": snapshot.max_ns,
        "overflow": snapshot.overflow,
        "sum_ns": snapshot.sum_ns,
        "limit_ns": limit_ns,
        "buckets": buckets,
    }


# Fill in a snapshot from what counts_dict gave, or from its buckets alone; ValueError for what nobody can have counted.
cdef inline int counts_read(Snapshot *snapshot, fields, uint64_t limit_ns) except -1:
    cdef uint64_t low_ns, group
    cdef unsigned int bucket
    snapshot_begin(snapshot)
    try:
        for low, _, n_events in fields["buckets"]:
            low_ns = low
            if low_ns > limit_ns:
                raise ValueError(f"a bucket begins at {low_ns}, behind limit_ns, {limit_ns}")
            bucket = bucket_of(low_ns)
            group = bucket // GROUP_BUCKETS
            if not snapshot.groups >> group & 1:
                memset(snapshot.counts + group * GROUP_BUCKETS, 0, GROUP_BUCKETS * sizeof(uint64_t))
                snapshot.groups |= <uint64_t> 1 << group
            snapshot.counts[bucket] += <uint64_t> n_events
        snapshot.overflow = fields.get("overflow", 0)
        snapshot.n_untimed = fields.get("untimed", 0)
        snapshot.sum_ns = fields.get("sum_ns", 0)
        # What is not known lies at the end of the bucket, or just behind the last one.
        snapshot.max_ns = fields.get("max_ns", 0) or limit_ns + (snapshot.overflow != 0)
        snapshot.min_ns = fields.get("min_ns", 0)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"fields: {error}") from None
    snapshot_finish(snapshot, limit_ns)
    return 0
