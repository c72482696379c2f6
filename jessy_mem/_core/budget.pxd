"""The ledger: how many bytes are charged to each segment and to the whole, and never more than their limits.

Kernels other modules call are the cdef methods; a cdef method takes segments as indices, Python takes names.
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.typedefs cimport Status
from jessy_mem._core.kernels.account cimport Account, Row

cdef enum:
    N_LEVELS = 3  # warning, eviction, critical


cdef class Ledger:
    cdef void *memory                    # accounts and rows as allocated; `total` is its first aligned address
    cdef Account *total
    cdef Account *segments               # one for each name in `names`
    cdef Row *rows                       # one for each number of a thread; NULL if nobody gets credit
    cdef Account nothing                 # what they are before: no byte fits
    cdef int n_segments
    cdef readonly tuple names            # their names, in order
    cdef uint64_t valve                  # atomic; epoch (32 bits), moves under way (16), who has called in (16)
    cdef uint64_t fork                   # atomic; the process that the moves are of, see valve_enter
    cdef uint64_t calm_bytes             # no more than this is granted as long as anybody has credit
    cdef uint64_t easy_bytes             # credit is given up to this, and no level is raised
    cdef uint64_t credit_bytes           # the most credit of a thread in a segment
    cdef uint64_t[N_LEVELS] rise_bytes   # crossing upward at or above this many bytes
    cdef uint64_t[N_LEVELS] rearm_bytes  # and armed again at or below this many
    # atomic; bit i: level i was crossed and is not armed again; bit 8 + i: that was so, and no callback was called yet.
    # 0: the total is below all levels, and there is nothing to tell.
    cdef uint64_t levels

    # Charge n_bytes, all or nothing: OK or LIMIT_EXCEEDED. `ceiling_bytes` bounds the total below its limit.
    cdef Status reserve_bytes(self, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes) noexcept nogil
    # Give back what reserve_bytes charged. Never fails.
    cdef void release_bytes(self, unsigned int segment, uint64_t n_bytes) noexcept nogil
    # Bytes in use.
    cdef uint64_t used(self) noexcept nogil

    # The steps of these; see budget.pyx.
    cdef Status reserve_apart(
        self, Row *row, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes
    ) noexcept nogil
    cdef bint reserve_with_credit(self, Row *row, unsigned int segment, uint64_t n_bytes) noexcept nogil
    cdef bint grant(
        self, Row *row, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes, uint64_t calm_bytes
    ) noexcept nogil
    cdef uint64_t take_back(self, unsigned int segment, uint64_t n_bytes) noexcept nogil
    cdef void note_peaks(
        self, Row *row, unsigned int segment, uint64_t segment_bytes, uint64_t total_bytes
    ) noexcept nogil
    # Call all credit in, and let nobody have any until `reopen`.
    cdef void call_in(self) noexcept nogil
    cdef void reopen(self) noexcept nogil
    # Raise or arm levels until they agree with a total that was read after they were written.
    cdef void watch(self) noexcept nogil
    # By a value that the total had; whether a level was changed.
    cdef bint raise_levels(self, uint64_t total_bytes) noexcept nogil
    cdef bint arm_levels(self, uint64_t total_bytes) noexcept nogil
    # The total and each segment's bytes, one after the other, into n_segments + 1 numbers; whether they add up. Between
    # call_in and reopen.
    cdef bint read_used(self, uint64_t *used) noexcept nogil
    # The same at a moment when they do, if there is one.
    cdef int read_in_peace(self, uint64_t *used) except -1
    cdef dict by_name(self, const uint64_t *used)
    cdef str pressure_at(self, uint64_t used_bytes)
    # The number of a segment's name; ValueError if there is none.
    cdef int segment_index(self, str name) except -1


cdef class Charge:
    """Bytes charged to a segment until this object dies."""
    cdef Ledger ledger
    cdef unsigned int segment
    cdef readonly uint64_t n_bytes
