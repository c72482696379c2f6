"""The one clock; see clock.h. A module that reads it calls jm_clock_init() once at import."""
from libc.stdint cimport uint64_t


cdef extern from "c/clock.h" nogil:
    int jm_clock_uses_tsc
    void jm_clock_init() noexcept
    uint64_t jm_clock_ticks() noexcept
    uint64_t jm_clock_ticks_after() noexcept
    uint64_t jm_clock_ns(uint64_t begin_ticks, uint64_t end_ticks) noexcept
    uint64_t jm_clock_monotonic_ns() noexcept
    double jm_clock_resolution_ns() noexcept
