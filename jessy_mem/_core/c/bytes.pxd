"""Many bytes at once; see bytes.h."""
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "c/bytes.h" nogil:
    uint32_t jm_high_bits(const uint8_t *first) noexcept
    void jm_prefetch_line(const void *address) noexcept
