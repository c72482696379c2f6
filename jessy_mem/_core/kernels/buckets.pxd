"""Value <-> bucket: 64 buckets of equal width for each power of two, so a bucket is at most 1/64 (1.6 %) of its values.

The arithmetic is HdrHistogram's (Gil Tene, http://hdrhistogram.org: bucket by leading-zero count, sub-bucket by shift)
with 128 sub-buckets, of which the lower half is used by the first power only:

    value          0 .. 127   128 .. 255   256 .. 511   ...   2**63 .. 2**64 - 1
    bucket width   1          2            4                  2**57
    index          0 .. 127   128 .. 191   192 .. 255         3712 .. 3775

A group is 64 buckets with neighbouring indices: group 0 holds the values 0..63 exactly, group g > 0 one power of two.
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.atomic cimport jm_clz

cdef enum:
    GROUP_BUCKETS = 64
    MAX_GROUPS = 59                              # of 64-bit values; a set of groups is one word
    MAX_BUCKETS = MAX_GROUPS * GROUP_BUCKETS


# The bucket of a value, 0..MAX_BUCKETS - 1.
cdef inline unsigned int bucket_of(uint64_t value) noexcept nogil:
    cdef unsigned int shift
    if value < 128:  # most accesses; and the processor goes on with the guess while the clock is still being read
        return <unsigned int> value
    shift = 57 - jm_clz(value)
    return (shift << 6) + <unsigned int> (value >> shift)


# The smallest value of a bucket.
cdef inline uint64_t bucket_low(unsigned int bucket) noexcept nogil:
    cdef unsigned int shift = 0 if bucket < 128 else (bucket >> 6) - 1
    return <uint64_t> (bucket - (shift << 6)) << shift


# How many values share a bucket.
cdef inline uint64_t bucket_width(unsigned int bucket) noexcept nogil:
    return <uint64_t> 1 << (0 if bucket < 128 else (bucket >> 6) - 1)


# The largest value of a bucket.
cdef inline uint64_t bucket_high(unsigned int bucket) noexcept nogil:
    return bucket_low(bucket) + (bucket_width(bucket) - 1)


# The value that stands for a bucket: its middle, at most 0.8 % from each of its values.
cdef inline uint64_t bucket_middle(unsigned int bucket) noexcept nogil:
    return bucket_low(bucket) + ((bucket_width(bucket) - 1) >> 1)


# The lowest values of the first buckets, one for each number of the view.
cdef inline void bucket_lows(uint64_t[::1] lows) noexcept nogil:
    cdef uint64_t *low = &lows[0]
    cdef unsigned int bucket
    for bucket in range(<unsigned int> lows.shape[0]):
        low[bucket] = bucket_low(bucket)
