"""Shelf: the views that were read before, in one flat table from (dimension, layer) to the view.

HAZARD: it keeps pointers, not references. What it points to is in the `views` of a region that is in the table:

    Holders --> MmapRegion --> views: {layer: LayerView}
       |                              ^
       +--> Shelf: | key | pointer | -+     key = dimension << 16 | layer

So a region forgets a view here before it drops it, and does both in a change (doors.h), while no reader is inside. With
the GIL that is so because neither step runs Python. Whoever puts a view in has read the region's edition before he
found the view, and puts nothing in if it is another one then: it is even while a region is in no table.

What a Reader keeps for itself is a nook: a table of its own, with references to views of its own. It is forgotten in
the same step.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from jessy_mem._core.c.atomic cimport (
    jm_load_acquire, jm_load_relaxed, jm_ptr_load_acquire, jm_ptr_store_release, jm_short_store_relaxed,
    jm_store_release
)
from jessy_mem._core.c.doors cimport (
    jm_change_begin, jm_change_end, jm_door_wait, jm_hall_begin, jm_hall_end, jm_hall_enter, jm_hall_leave,
    jm_hall_lock, jm_hall_unlock
)
from jessy_mem._core.c.pycompat cimport jm_adopt, jm_refcount, jm_stolen
from jessy_mem._core.c.thread cimport JM_MAX_THREADS
from jessy_mem._core.kernels.flat cimport (
    GONE, flat_begin, flat_cells, flat_find, flat_grow, flat_has_room, flat_put, flat_remove
)
from jessy_mem._core.view cimport LayerView


cdef class Shelf:
    """Shelf()\n--\n
    The views that were read before. Its methods are C's, and those that change it are called under the table's lock."""

    def __cinit__(self):
        if not flat_begin(&self.flat, 0) or not jm_hall_begin(&self.hall, JM_MAX_THREADS):
            raise MemoryError

    def __dealloc__(self):
        free(self.flat.cells)
        jm_hall_end(&self.hall)

    cdef void put(
        self, unsigned int row, uint64_t key, PyObject *view, const uint64_t *edition, uint64_t seen
    ) noexcept:
        cdef bint has_room = True
        if seen & 1 and jm_hall_enter(&self.hall, row):
            jm_hall_lock(&self.hall)
            if jm_load_acquire(edition) == seen:
                has_room = flat_has_room(&self.flat)
                if has_room:
                    flat_put(&self.flat, key, view)
            jm_hall_unlock(&self.hall)
            jm_hall_leave(&self.hall, row)
        if not has_room:
            self.change_begin()
            jm_hall_lock(&self.hall)
            if not flat_has_room(&self.flat):
                flat_grow(&self.flat)
            jm_hall_unlock(&self.hall)
            self.change_end()

    cdef int begin(self, uint64_t *edition, uint64_t dimension, layers, list dropped) except -1:
        self.change_begin()
        jm_store_release(edition, jm_load_relaxed(edition) + 1 & ~<uint64_t> 1)
        try:
            self.take(dimension, list(layers), dropped)
        except BaseException:
            self.end(edition)
            raise
        return 0

    cdef void end(self, uint64_t *edition) noexcept:
        jm_store_release(edition, jm_load_relaxed(edition) + 1 | 1)
        self.change_end()

    cdef void change_begin(self) noexcept:
        cdef Nook *nook
        jm_change_begin(&self.hall)
        jm_hall_lock(&self.hall)
        nook = self.nooks
        while nook != NULL:
            jm_door_wait(nook.door)
            nook = nook.next
        jm_hall_unlock(&self.hall)

    cdef void change_end(self) noexcept:
        jm_change_end(&self.hall)

    cdef int take(self, uint64_t dimension, layers, list dropped) except -1:
        cdef Nook *nook
        cdef void *view
        cdef uint64_t key
        if self.flat.n_used == 0 and self.has_no_nook():
            return 0
        jm_hall_lock(&self.hall)
        try:
            for layer in layers:
                key = dimension << 16 | <uint64_t> layer
                flat_remove(&self.flat, key)
                nook = self.nooks
                while nook != NULL:
                    view = flat_remove(&nook.flat, key)
                    if view != NULL:
                        jm_adopt(<PyObject *> view)
                        dropped.append(jm_stolen(<PyObject *> view))
                    nook = nook.next
        finally:
            jm_hall_unlock(&self.hall)
        return 0

    cdef Py_ssize_t count_own(self, uint64_t dimension, dict views) except -1:
        cdef Nook *nook
        cdef PyObject *view
        cdef PyObject *copied
        cdef Py_ssize_t n_own = 0, n_copied
        cdef list layers
        if self.has_no_nook():
            return 0
        layers = list(views)  # not while others spin for the lock: it may wait, and the collector wait for them
        self.change_begin()
        jm_hall_lock(&self.hall)
        try:
            for layer in layers:
                n_copied, copied = 0, NULL
                nook = self.nooks
                while nook != NULL:
                    view = <PyObject *> flat_find(&nook.flat, dimension << 16 | <uint64_t> layer)
                    if view != NULL:
                        n_own += jm_refcount(view) == 1
                        if isinstance((<LayerView> view).payload, LayerView):
                            n_copied, copied = n_copied + 1, <PyObject *> (<LayerView> view).payload
                    nook = nook.next
                if copied != NULL:
                    n_own += jm_refcount(copied) == 1 + n_copied
        finally:
            jm_hall_unlock(&self.hall)
            self.change_end()
        return n_own

    cdef void forget_rounds(self) noexcept:
        cdef Nook *nook
        cdef uint64_t i
        self.change_begin()
        jm_hall_lock(&self.hall)
        nook = self.nooks
        while nook != NULL:
            for i in range(flat_cells(&nook.flat)):
                if nook.flat.cells[i].key > GONE:
                    jm_short_store_relaxed(&(<LayerView> nook.flat.cells[i].value).visited, 0)
            nook = nook.next
        jm_hall_unlock(&self.hall)
        self.change_end()

    cdef uint64_t count_copies(self) noexcept:
        cdef Nook *nook
        cdef uint64_t n_copies = 0
        jm_hall_lock(&self.hall)
        nook = self.nooks
        while nook != NULL:
            n_copies += jm_load_relaxed(&nook.n_copies)
            nook = nook.next
        jm_hall_unlock(&self.hall)
        return n_copies

    cdef bint has_no_nook(self) noexcept:
        return jm_ptr_load_acquire(<void **> &self.nooks) == NULL

    cdef void add_nook(self, Nook *nook) noexcept:
        jm_hall_lock(&self.hall)
        nook.next = self.nooks
        jm_ptr_store_release(<void **> &self.nooks, nook)
        jm_hall_unlock(&self.hall)

    cdef void remove_nook(self, Nook *nook) noexcept:
        cdef Nook **place = &self.nooks
        jm_hall_lock(&self.hall)
        while place[0] != nook:
            place = &place[0].next
        jm_ptr_store_release(<void **> place, nook.next)
        jm_hall_unlock(&self.hall)
