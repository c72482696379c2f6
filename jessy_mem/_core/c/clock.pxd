"""The one clock; see clock.h. A module that reads it is told its factor at import: `clock_factor` in latency.pxd."""
from libc.stdint cimport uint64_t


cdef extern from "c/clock.h" nogil:
    int jm_clock_uses_tsc
    uint64_t jm_clock_measure() noexcept
    void jm_clock_use(uint64_t factor_q32) noexcept
    uint64_t jm_clock_ticks() noexcept
    uint64_t jm_clock_ticks_after() noexcept
    uint64_t jm_clock_ns(uint64_t begin_ticks, uint64_t end_ticks) noexcept
    uint64_t jm_clock_monotonic_ns() noexcept
    double jm_clock_resolution_ns() noexcept
