"""Unmapping, one range at a time or many together; see unmap.h."""


cdef extern from "c/unmap.h" nogil:
    void jm_unmap_begin() noexcept
    void jm_unmap(void *base, size_t n_bytes, size_t page_bytes) noexcept
    void jm_unmap_end() noexcept
