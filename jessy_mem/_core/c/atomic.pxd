"""Atomics whose order is in their name; see atomic.h."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef extern from "c/atomic.h" nogil:
    enum:
        JM_CACHE_LINE  # bytes

    void jm_fetch_early(const void *p) noexcept
    bint jm_unlikely(bint condition) noexcept
    uint64_t jm_load_relaxed(const uint64_t *p) noexcept
    uint64_t jm_load_acquire(const uint64_t *p) noexcept
    void jm_store_relaxed(uint64_t *p, uint64_t v) noexcept
    void jm_store_release(uint64_t *p, uint64_t v) noexcept
    # The fetch forms return the value before the operation.
    uint64_t jm_add_relaxed(uint64_t *p, uint64_t v) noexcept
    uint64_t jm_add_acq_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t jm_sub_relaxed(uint64_t *p, uint64_t v) noexcept
    uint64_t jm_sub_acq_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t jm_and_acq_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t jm_or_acq_rel(uint64_t *p, uint64_t v) noexcept
    bint jm_cas_acq_rel(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept
    bint jm_cas_weak_acq_rel(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept
    bint jm_cas_weak_relaxed(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept
    bint jm_gil_cas(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept
    void jm_max_relaxed(uint64_t *p, uint64_t v) noexcept
    void jm_fence_acquire() noexcept
    void *jm_ptr_load_acquire(void *const *p) noexcept
    void jm_ptr_store_release(void **p, void *v) noexcept
    bint jm_ptr_cas(void **p, void **expected, void *v) noexcept
    uint8_t jm_flag_load_acquire(const uint8_t *p) noexcept
    uint8_t jm_flag_load_relaxed(const uint8_t *p) noexcept
    void jm_flag_store_release(uint8_t *p, uint8_t v) noexcept
    void jm_flag_store_relaxed(uint8_t *p, uint8_t v) noexcept
    uint16_t jm_short_load_relaxed(const uint16_t *p) noexcept
    uint16_t jm_short_load_acquire(const uint16_t *p) noexcept
    void jm_short_store_release(uint16_t *p, uint16_t v) noexcept
    void jm_short_store_relaxed(uint16_t *p, uint16_t v) noexcept
    unsigned int jm_ctz(uint64_t word) noexcept
    unsigned int jm_clz(uint64_t word) noexcept
    unsigned int jm_popcount(uint64_t word) noexcept
    void jm_spin_pause() noexcept
