"""Holders: the loaded regions, and who else holds what of them."""
from libc.stdint cimport int64_t

from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.shelf cimport Shelf
from jessy_mem._core.texts cimport TextCache

cdef enum:
    PINNED = 0     # what may not be evicted: immutable, or in the pool
    EVICTABLE = 1


cdef class Holders:
    cdef dict regions         # dimension -> MmapRegion; one assignment replaces a generation
    cdef Shelf shelf          # where readers find views of `regions` at once
    cdef TextCache texts      # what keeps the texts of all that is installed, or None
    cdef list retired         # weak references to Images that left `regions` while somebody held them
    cdef Py_ssize_t prune_at  # length of `retired` at which those that have gone are dropped
    # What all loaded regions come to, held or not.
    cdef int64_t n_layers
    cdef int64_t n_mapped
    cdef int64_t content_bytes     # of those that are mapped
    cdef int64_t[2] all_bytes      # charged for their files, and for their decompressed layers when they were looked at
    cdef dict decompressed         # dimension -> bytes of its decompressed layers in `all_bytes`, if there are any
    cdef set simulated
    cdef tuple simulated_ids       # the same, sorted; None: not since it changed
    cdef dict watched              # dimension -> looks until nobody looks at it any more, unless it is held
    cdef readonly dict came        # dimension -> whether it may be evicted; of which the policy was not told yet

    # `install`; whether many have come by now.
    cdef bint let_in(self, object dimension, MmapRegion region) except -1
    # Before a stack is there.
    cdef int expect(self, object dimension, tuple stack) except -1
    # Count a loaded region, with `sign` 1, or take it out of the counts; before its stack is another one.
    cdef int count(self, object dimension, MmapRegion region, int sign) except -1
    # Let texts of these files be kept; before readers find them.
    cdef int keep_texts_of(self, tuple stack) except -1
    # Keep no text of what `added` files replace in those of `old`.
    cdef int drop_texts(self, tuple old, list added) except -1
    cdef int let_go(self, MmapRegion region) except -1
    # Keep an eye on images that left a stack, as long as somebody holds them.
    cdef int retire(self, object images) except -1
