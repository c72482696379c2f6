"""MmapRegion: the files of one dimension, and the views of its layers."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from jessy_mem._core.c.pycompat cimport jm_mutex
from jessy_mem._core.image cimport Image
from jessy_mem._core.shelf cimport Shelf
from jessy_mem._core.view cimport LayerView


cdef class MmapRegion:
    cdef object __weakref__
    cdef jm_mutex mutex              # what `stack` is read and changed under, and what is put into `views`
    cdef tuple stack                 # Images, base first; None once closed
    cdef uint32_t n_live_layers      # of it; written and read with it
    cdef object allocate             # n_bytes -> writable buffer for a decompressed layer
    cdef uint64_t max_decompressed_bytes  # of all views together; 0: `allocate` knows
    cdef uint8_t is_immutable        # by the plan or by the file's flag
    cdef uint8_t is_owned            # by a table: only the table lets go of it
    cdef uint8_t visited             # atomic flag for eviction: read since it was last looked at
    cdef dict views                  # layer -> LayerView of the stack; made on first access
    cdef Shelf shelf                 # of the table that it is in, where views are found at once; None before
    cdef uint64_t edition            # atomic; odd while the shelf may point to `views`, and another one after a change

    # The view of one layer, made on its first access; None if there is no such layer.
    cdef LayerView find_view(self, object layer)
    # The stack; ManagerClosed if it is closed.
    cdef tuple current(self)
    # Put another stack in the place of this one; what it adds on top is looked at, the rest only if it differs.
    # Returns the numbers of the layers that are not known as they were; None if the base is new, or nobody asks. The
    # caller holds the table's lock.
    cdef list restack(self, tuple stack, bint is_asked)
    # Between the two its stack and views may change, under `mutex`: Shelf.begin and end, if it is in a table.
    cdef int change_begin(self, object layers, list dropped) except -1
    cdef void change_end(self) noexcept
    cdef int lay_on(self, Image delta) except -1
    cdef int replace(self, tuple stack) except -1
    # Whether a layer of so many bytes may be decompressed; LimitExceeded.
    cdef int check_room(self, tuple stack, uint64_t n_bytes) except -1
    cdef object not_found(self, tuple stack, object layer)


# A region around one Image or a stack of them, base first; `allocate` gives memory for decompressed layers.
cpdef MmapRegion make_region(object images, bint immutable, object allocate, uint64_t max_decompressed_bytes=*)
