"""A hash of bytes; see mix.h."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "c/mix.h" nogil:
    uint64_t jm_hash(const uint8_t *first, uint32_t n_bytes, const uint64_t *seeds) noexcept
