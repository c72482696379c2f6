"""A counter with a peak that many threads change without sharing a cache line. Inline kernels.

Each thread keeps what it added since it last told the others (`delta`); when that is more than `slack` it goes into the
common sum. A thread that claims and releases therefore writes to its own line only.

    value now  = sum + all deltas                      exact when no thread is in the middle of a change
    peak       = max over threads of (sum + own delta) exact with one thread; with T threads within (T - 1) * slack
"""
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport jm_add_relaxed, jm_load_relaxed, jm_max_relaxed, jm_store_relaxed


cdef struct Tally:      # one thread's share
    uint64_t delta      # signed; written by the owner, read by all
    uint64_t peak       # written by the owner, read by all


# Add `n` times `sign`, 1 or -1, for the thread that owns `mine`. `shared`: `mine` has no single owner, so the sum takes
# every change at once.
cdef inline void tally_add(uint64_t *sum, Tally *mine, int sign, int64_t n, int64_t slack, bint shared) noexcept nogil:
    cdef int64_t change = sign * n, delta, value
    if shared:
        value = <int64_t> jm_add_relaxed(sum, <uint64_t> change) + change
        if sign > 0:
            jm_max_relaxed(&mine.peak, <uint64_t> max(value, 0))
        return
    delta = <int64_t> jm_load_relaxed(&mine.delta)
    jm_assert(<uint64_t> (delta + slack) <= <uint64_t> (2 * slack), <uint64_t> delta, slack)
    delta += change
    if <uint64_t> (delta + slack) > <uint64_t> (2 * slack):  # delta is outside -slack..slack
        jm_add_relaxed(sum, <uint64_t> delta)
        delta = 0
    jm_store_relaxed(&mine.delta, <uint64_t> delta)
    if sign > 0:
        value = <int64_t> jm_load_relaxed(sum) + delta
        if value > <int64_t> jm_load_relaxed(&mine.peak):
            jm_store_relaxed(&mine.peak, <uint64_t> value)


# A plain counter of the same kind, without peak: the value is the sum of all shares.
cdef inline void share_add(uint64_t *mine, int64_t change, bint shared) noexcept nogil:
    if shared:
        jm_add_relaxed(mine, <uint64_t> change)
    else:
        jm_store_relaxed(mine, jm_load_relaxed(mine) + <uint64_t> change)
