"""Shelf: the views that were read before, in one flat table from (dimension, layer) to the view.

HAZARD: it keeps pointers, not references. What it points to is in the `views` of a region that is in the table:

    Holders --> MmapRegion --> views: {layer: LayerView}
       |                                     ^
       +--> Shelf: | round, key | pointer | -+     key = dimension << 16 | layer

A hit takes 21 ns instead of 40, of one among 65,536 layers 49 instead of 92; without the GIL 45 instead of 101.
So a region forgets a view here before it drops it, and does both in a change (read_side.h), while no reader is inside.
With the GIL that is so because neither step runs Python. Whoever puts a view in has read the region's edition before he
found the view, and puts nothing in if it is another one then: it is even while a region is in no table.

What a Reader keeps for itself is a table of its own, with references to views of its own. What changes a region takes
its views out of these in the same step. Without the GIL a thread that has no Reader gets such a table, too, for what
all share and it reads often: 16 threads that count references on one view read half as much as one does, and with this
11 times. While one thread alone reads there is none of it.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport calloc, free

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_load_acquire, jm_load_relaxed, jm_ptr_load_acquire, jm_ptr_store_release, jm_store_relaxed, jm_store_release
)
from jessy_mem._core.c.pycompat cimport jm_adopt, jm_disown, jm_layer_key, jm_stolen
from jessy_mem._core.c.read_side cimport (
    jm_change_begin, jm_change_end, jm_change_lock, jm_change_unlock, jm_read_enter, jm_read_enter_row, jm_read_flag,
    jm_read_flag_of, jm_read_leave, jm_read_leave_row, jm_read_side_begin, jm_read_side_end, jm_read_wait
)
from jessy_mem._core.c.thread cimport JM_MAX_THREADS
from jessy_mem._core.kernels.flat cimport (
    GONE, flat_begin, flat_cells, flat_forget_marks, flat_grow, flat_has_room, flat_label, flat_put, flat_remove,
    flat_search
)
from jessy_mem._core.view cimport LayerView, copy_of, jm_stolen_view


cdef Row *row_begin(jm_read_flag *flag) noexcept:
    """A row that keeps nothing yet; NULL without memory."""
    cdef Row *row = <Row *> calloc(1, sizeof(Row))
    if row != NULL and not flat_begin(&row.own.flat, 0):
        free(row)
        row = NULL
    if row != NULL:
        row.own.flag = flag
    return row


cdef void drop_views(Flat *flat) noexcept:
    cdef uint64_t i
    for i in range(flat_cells(flat)):
        if flat.cells[i].label > GONE:
            jm_adopt(<PyObject *> flat.cells[i].value)
            jm_stolen(<PyObject *> flat.cells[i].value)
    free(flat.cells)
    flat.cells = NULL


cdef class Shelf:
    """Shelf()\n--\n
    The views that were read before. Its methods are C's, and those that change it are called under the table's lock."""

    def __cinit__(self):
        if not flat_begin(&self.flat, 0) or not jm_read_side_begin(&self.read_side, JM_MAX_THREADS):
            raise MemoryError

    def __dealloc__(self):
        for row in self.rows:
            if row != NULL:
                drop_views(&row.own.flat)
                free(row)
        free(self.flat.cells)
        jm_read_side_end(&self.read_side)

    cdef void put(
        self, unsigned int row, uint64_t label, PyObject *view, const uint64_t *edition, uint64_t seen
    ) noexcept:
        cdef bint has_room = True
        if seen & 1 and jm_read_enter_row(&self.read_side, row):
            jm_change_lock(&self.read_side)
            if jm_load_acquire(edition) == seen:
                has_room = flat_has_room(&self.flat) or flat_search(&self.flat, label).label != 0
                if has_room:
                    flat_put(&self.flat, label, view)
            jm_change_unlock(&self.read_side)
            jm_read_leave_row(&self.read_side, row)
        if not has_room:
            self.change_begin()
            jm_change_lock(&self.read_side)
            if not flat_has_room(&self.flat):
                flat_grow(&self.flat)
            jm_change_unlock(&self.read_side)
            self.change_end()

    cdef LayerView keep(
        self, OwnViews *own, LayerView view, const uint64_t *edition, uint64_t seen, uint16_t round, bint makes
    ):
        cdef uint64_t label = flat_label(jm_layer_key(<PyObject *> view.id), round)
        cdef LayerView made = None
        cdef PyObject *kept
        cdef bint is_full
        while jm_read_enter(&self.read_side, own.flag):
            kept = <PyObject *> flat_search(&own.flat, label).value
            is_full = own.owner != 0 and own.flat.n_used >= N_OF_A_ROW
            if kept == NULL and made is not None and not is_full and seen & 1 and jm_load_acquire(edition) == seen:
                if flat_has_room(&own.flat) or flat_grow(&own.flat):
                    kept = <PyObject *> made
                    Py_INCREF(made)
            if kept != NULL:
                flat_put(&own.flat, label, kept)
                Py_INCREF(<object> kept)
            jm_read_leave(own.flag)
            if kept != NULL:
                return jm_stolen_view(kept)
            if not makes or made is not None or (is_full and not self.drop_all(own)):
                break
            made = copy_of(view)
            if own.owner:
                jm_disown(<PyObject *> made)  # one of a row may go in any thread
        return view

    cdef LayerView keep_in_row(
        self, unsigned int row, uint64_t serial, LayerView view, const uint64_t *edition, uint64_t seen, uint16_t round
    ):
        cdef uint64_t sole = jm_load_relaxed(&self.sole), at = count_at(jm_layer_key(<PyObject *> view.id))
        cdef jm_read_flag *flag = jm_read_flag_of(&self.read_side, row)
        cdef Row *mine
        cdef bint makes
        if sole == 0:
            sole = serial
            jm_store_relaxed(&self.sole, sole)
        elif sole != serial and sole != SEVERAL:
            sole = SEVERAL
            jm_store_relaxed(&self.sole, sole)
        if flag == NULL or sole == serial:
            return view
        mine = self.rows[row - 1]
        if mine == NULL:
            mine = row_begin(flag)
            if mine == NULL:
                return view
            self.add_reader(&mine.own)
            self.rows[row - 1] = mine
        elif mine.own.owner != serial and not self.drop_all(&mine.own):  # of a thread that ended, among others' by now
            return view
        mine.own.owner = serial
        jm_assert(at < N_OF_A_ROW, at, N_OF_A_ROW)
        makes = mine.n_hits[at] >= OFTEN
        if makes:
            mine.n_hits[at] = 0
        return self.keep(&mine.own, view, edition, seen, round, makes)

    cdef bint drop_all(self, OwnViews *own) noexcept:
        cdef Flat old
        cdef bint is_taken = False
        if jm_read_enter(&self.read_side, own.flag):
            old = own.flat
            is_taken = flat_begin(&own.flat, 0)
            jm_read_leave(own.flag)
        if is_taken:
            drop_views(&old)
        return is_taken

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
        cdef OwnViews *own
        jm_change_begin(&self.read_side)
        jm_change_lock(&self.read_side)
        own = self.readers
        while own != NULL:
            jm_read_wait(own.flag)
            own = own.next
        jm_change_unlock(&self.read_side)

    cdef void change_end(self) noexcept:
        jm_change_end(&self.read_side)

    cdef int take(self, uint64_t dimension, layers, list dropped) except -1:
        cdef OwnViews *own
        cdef void *view
        cdef uint64_t key
        if self.flat.n_used == 0 and self.has_no_reader():
            return 0
        jm_change_lock(&self.read_side)
        try:
            for layer in layers:
                key = dimension << 16 | <uint64_t> layer
                flat_remove(&self.flat, key)
                own = self.readers
                while own != NULL:
                    view = flat_remove(&own.flat, key)
                    if view != NULL:
                        jm_adopt(<PyObject *> view)
                        dropped.append(jm_stolen(<PyObject *> view))
                    own = own.next
        finally:
            jm_change_unlock(&self.read_side)
        return 0

    cdef void forget_rounds(self) noexcept:
        cdef OwnViews *own
        self.change_begin()
        jm_change_lock(&self.read_side)
        flat_forget_marks(&self.flat)
        own = self.readers
        while own != NULL:
            flat_forget_marks(&own.flat)
            own = own.next
        jm_change_unlock(&self.read_side)
        self.change_end()

    cdef uint64_t count_copies(self) noexcept:
        cdef OwnViews *own
        cdef uint64_t n_copies = 0
        jm_change_lock(&self.read_side)
        own = self.readers
        while own != NULL:
            n_copies += jm_load_relaxed(&own.n_copies)
            own = own.next
        jm_change_unlock(&self.read_side)
        return n_copies

    cdef bint has_no_reader(self) noexcept:
        return jm_ptr_load_acquire(<void **> &self.readers) == NULL

    cdef void add_reader(self, OwnViews *own) noexcept:
        jm_change_lock(&self.read_side)
        own.next = self.readers
        jm_ptr_store_release(<void **> &self.readers, own)
        jm_change_unlock(&self.read_side)

    cdef void remove_reader(self, OwnViews *own) noexcept:
        cdef OwnViews **place = &self.readers
        jm_change_lock(&self.read_side)
        while place[0] != own:
            place = &place[0].next
        jm_ptr_store_release(<void **> place, own.next)
        jm_change_unlock(&self.read_side)
