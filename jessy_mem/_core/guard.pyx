"""The one guard of this process: mapped memory whose file may go, read without a signal; see guard.h for the hazards.

A handler of a signal is one in a process, so its state is here, and other modules ask.
"""
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.c.guard cimport (
    jm_guard_add, jm_guard_damaged, jm_guard_install, jm_guard_mark, jm_guard_remove, jm_guard_reset
)


cdef void guard_install() noexcept nogil:
    jm_guard_install()


cdef int64_t guard_add(void *base, size_t n_bytes, bint is_writable) noexcept nogil:
    return jm_guard_add(base, n_bytes, is_writable)


cdef void guard_remove(int64_t handle) noexcept nogil:
    jm_guard_remove(handle)


cdef bint guard_damaged(int64_t handle) noexcept nogil:
    return jm_guard_damaged(handle)


cdef const uint64_t *guard_mark(int64_t handle) noexcept nogil:
    return jm_guard_mark(handle)


cdef void guard_reset(int64_t handle) noexcept nogil:
    jm_guard_reset(handle)


def install():
    """Stand in front of whoever handles SIGBUS now, for example of a faulthandler that was enabled after the first file
    was mapped. A manager does the same when it is made, and a region that is opened alone. Thread-safe."""
    jm_guard_install()
