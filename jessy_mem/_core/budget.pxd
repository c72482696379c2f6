"""The ledger: how many bytes are charged to each segment and to the whole, and never more than their limits.

Kernels other modules call are the cdef methods; a cdef method takes segments as indices, Python takes names.
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.typedefs cimport Status

cdef enum:
    N_LEVELS = 3  # warning, eviction, critical
    MAX_SEGMENTS = 8


cdef struct Account:            # one cache line, so that segments do not disturb each other
    uint64_t used_bytes         # atomic; used_bytes <= limit_bytes at every moment
    uint64_t peak_bytes         # atomic, only grows
    uint64_t limit_bytes        # constant
    uint64_t[5] padding


cdef class Ledger:
    cdef void *memory                    # the accounts as allocated; `total` is its first aligned address
    cdef Account *total
    cdef Account *segments               # one for each name in `names`
    cdef Account nothing                 # what they are before: no byte fits
    cdef int n_segments
    cdef readonly tuple names            # their names, in order
    cdef uint64_t[N_LEVELS] rise_bytes   # crossing upward at or above this many bytes
    cdef uint64_t[N_LEVELS] rearm_bytes  # and armed again at or below this many
    cdef uint64_t raised                 # atomic; bit i: level i was crossed and is not armed again
    cdef uint64_t pending                # atomic; bit i: a crossing of level i that nobody has been told of

    # Charge n_bytes, all or nothing: OK or LIMIT_EXCEEDED. `ceiling_bytes` bounds the total below its limit.
    cdef Status reserve_bytes(self, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes) noexcept nogil
    # Give back what reserve_bytes charged. Never fails.
    cdef void release_bytes(self, unsigned int segment, uint64_t n_bytes) noexcept nogil
    # Raise or arm levels until they agree with a total that was read after they were written.
    cdef void watch(self) noexcept nogil
    # By a value that the total had; whether a level was changed.
    cdef bint raise_levels(self, uint64_t total_bytes) noexcept nogil
    cdef bint arm_levels(self, uint64_t total_bytes) noexcept nogil
    # The total and each segment's bytes, one after the other, into n_segments + 1 numbers; whether they add up.
    cdef bint read_used(self, uint64_t *used) noexcept nogil
    cdef dict by_name(self, const uint64_t *used)
    cdef str pressure_at(self, uint64_t used_bytes)
    # The number of a segment's name; ValueError if there is none.
    cdef int segment_index(self, str name) except -1


cdef class Charge:
    """Bytes charged to a segment until this object dies."""
    cdef Ledger ledger
    cdef unsigned int segment
    cdef readonly uint64_t n_bytes
