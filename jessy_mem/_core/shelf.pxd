"""Shelf: the views that were read before, where one search finds them."""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from jessy_mem._core.c.read_side cimport jm_read_flag, jm_read_side
from jessy_mem._core.kernels.flat cimport Flat


cdef struct OwnViews:  # what one Reader keeps for itself
    Flat flat           # key -> a reference to its own view
    jm_read_flag *flag  # set while its owner reads and writes `flat`
    uint64_t n_copies   # atomic; payload copies made by its owner
    OwnViews *next


cdef class Shelf:
    cdef jm_read_side read_side
    cdef Flat flat          # key -> LayerView, a pointer without a reference
    cdef OwnViews *readers  # what each Reader keeps

    # Keep `view` for `key`, unless the region that has it is another edition now than was `seen`. `row`: the thread's.
    cdef void put(
        self, unsigned int row, uint64_t key, PyObject *view, const uint64_t *edition, uint64_t seen
    ) noexcept
    # Between the two nobody reads here, and the region whose `edition` it is may drop those `layers` of its views. They
    # are not found any more, and none is put in; what Readers kept of them goes to `dropped`, to go when all is done.
    cdef int begin(self, uint64_t *edition, uint64_t dimension, object layers, list dropped) except -1
    cdef void end(self, uint64_t *edition) noexcept
    # The same without a region: one that leaves for good begins above and ends here, one that comes the other way.
    cdef void change_begin(self) noexcept
    cdef void change_end(self) noexcept
    cdef int take(self, uint64_t dimension, object layers, list dropped) except -1
    # How many of the references to Images and views of a region, whose `views` these are, are of Readers only.
    cdef Py_ssize_t count_own(self, uint64_t dimension, dict views) except -1
    # No view of a Reader is one that was read in a round of eviction.
    cdef void forget_rounds(self) noexcept
    # Payload copies made by the Readers there are.
    cdef uint64_t count_copies(self) noexcept
    cdef bint has_no_reader(self) noexcept
    # From now on changes reach what a Reader keeps, and no longer.
    cdef void add_reader(self, OwnViews *own) noexcept
    cdef void remove_reader(self, OwnViews *own) noexcept
