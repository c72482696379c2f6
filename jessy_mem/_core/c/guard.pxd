"""Reads of mapped files that go on when the file does not; see guard.h. `_core/guard` alone keeps the state of it."""
from libc.stdint cimport int64_t, uint64_t


cdef extern from "c/guard.h" nogil:
    void jm_guard_install() noexcept
    int64_t jm_guard_add(void *base, size_t n_bytes, bint is_writable) noexcept
    void jm_guard_remove(int64_t handle) noexcept
    bint jm_guard_damaged(int64_t handle) noexcept
    const uint64_t *jm_guard_mark(int64_t handle) noexcept
    void jm_guard_reset(int64_t handle) noexcept
