"""Invariants that the debug build checks; see assert.h."""
from libc.stdint cimport uint64_t


cdef extern from "c/assert.h" nogil:
    # Abort unless `condition`; the two numbers are what whoever reads the message will ask for.
    void jm_assert(bint condition, uint64_t left, uint64_t right) noexcept
    enum:
        JM_CHECKED  # whether this build checks
