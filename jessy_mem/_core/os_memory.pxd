"""Memory calls of the operating system; see os_memory.h. A negative result means errno is set."""
from libc.stdint cimport uint64_t


cdef extern from "os_memory.h" nogil:
    size_t jm_page_bytes() noexcept
    void *jm_os_reserve(size_t n_bytes) noexcept
    void jm_os_release(void *base, size_t n_bytes) noexcept
    int jm_os_discard(void *base, size_t n_bytes) noexcept
    int jm_os_prefetch(const void *address, size_t n_bytes) noexcept
    int jm_os_resident_pages(const void *address, size_t n_bytes, uint64_t *n_pages, uint64_t *n_resident) noexcept
