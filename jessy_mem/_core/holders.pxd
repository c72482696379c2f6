"""Holders: the loaded regions, and who else holds what of them."""
from jessy_mem._core.region cimport MmapRegion


cdef class Holders:
    cdef dict regions         # dimension -> MmapRegion; one assignment replaces a generation
    cdef list retired         # weak references to Images that left `regions` while somebody held them
    cdef Py_ssize_t prune_at  # length of `retired` at which those that have gone are dropped

    cdef int let_go(self, MmapRegion region) except -1
    # Keep an eye on images that left a stack, as long as somebody holds them.
    cdef int retire(self, object images) except -1
