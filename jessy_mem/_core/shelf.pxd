"""Shelf: the views that were read before, where one search finds them."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from jessy_mem._core.c.pycompat cimport JM_FREE_THREADED, jm_layer_key
from jessy_mem._core.c.read_side cimport jm_read_flag, jm_read_side
from jessy_mem._core.c.thread cimport JM_MAX_THREADS, jm_thread_serial
from jessy_mem._core.kernels.flat cimport Cell, Flat, flat_expect, flat_find, flat_hash, flat_search
from jessy_mem._core.view cimport LayerView


cdef enum:
    ROW_ORDER = 10
    N_OF_A_ROW = 1 << ROW_ORDER  # views at most, which take some 150 KB; and as many counts
    OFTEN = 32         # hits of a thread on the view that all share, before it gets one of its own
    SEVERAL = 1        # no serial number of a thread that reads: they begin with 2

cdef struct OwnViews:  # what one Reader keeps for itself; or a row, a thread without a Reader
    Flat flat           # key -> a reference to its own view
    jm_read_flag *flag  # set while its owner reads and writes `flat`
    uint64_t n_copies   # atomic; payload copies made by its owner
    uint64_t owner      # of a row: the serial number of the thread that uses it; 0: of a Reader
    OwnViews *next

cdef struct Row:
    OwnViews own
    uint8_t[N_OF_A_ROW] n_hits  # on views that all share, since `own` has them not; counted where the key says


# Let go of all that is kept in a table of references, and of its memory.
cdef void drop_views(Flat *flat) noexcept


# The key of what is looked for, with its cell in `flat` on its way: see `end_of` in registry. Without the GIL nobody
# may look at a table as early as this.
cdef inline uint64_t key_in(const Flat *flat, PyObject *layer_id) noexcept:
    cdef uint64_t key = jm_layer_key(layer_id)
    if not JM_FREE_THREADED:
        flat_expect(flat, key)
    return key


cdef inline uint64_t count_at(uint64_t label) noexcept:
    return flat_hash(label, 64 - ROW_ORDER)


# The view that the thread of a row finds: its own, or the one that all share. NULL: none, or one is to be its own now.
# For one module only, which also tells `keep_in_row` the serial number: each module numbers threads for itself.
cdef inline PyObject *find_for_row(
    const Flat *shared, Row **rows, uint64_t sole, unsigned int row, uint64_t label
) noexcept:
    cdef Row *mine
    cdef Cell *own
    if JM_FREE_THREADED and sole != jm_thread_serial():
        mine = rows[row - 1]
        if mine == NULL or mine.own.owner != jm_thread_serial():
            return NULL
        own = flat_search(&mine.own.flat, label)
        if own.label != 0:
            return <PyObject *> own.value if own.label == label else NULL
        mine.n_hits[count_at(label)] += 1
        if mine.n_hits[count_at(label)] >= OFTEN:
            return NULL
    return <PyObject *> flat_find(shared, label)


cdef class Shelf:
    cdef jm_read_side read_side
    cdef Flat flat          # key -> LayerView, a pointer without a reference
    cdef OwnViews *readers  # what each Reader keeps, and each row
    cdef (Row *)[JM_MAX_THREADS] rows  # what each row keeps; NULL: nothing yet. With the GIL, all are
    cdef uint64_t sole      # atomic; the only thread that reads, for which the shelf is enough; or SEVERAL; 0: none yet

    # Keep `view` for a key, as read in the round that is its mark, unless the region that has it is another edition now
    # than was `seen`. `row`: the thread's.
    cdef void put(
        self, unsigned int row, uint64_t label, PyObject *view, const uint64_t *edition, uint64_t seen
    ) noexcept
    # Its owner's own view, which is made if there is none and `makes`, and is kept unless its region is another edition
    # by now than was `seen`; else `view`.
    cdef LayerView keep(
        self, OwnViews *own, LayerView view, const uint64_t *edition, uint64_t seen, uint16_t round, bint makes
    )
    # The same of the thread of a row, with this serial number of its own; made if several threads read, and this one
    # reads it OFTEN.
    cdef LayerView keep_in_row(
        self, unsigned int row, uint64_t serial, LayerView view, const uint64_t *edition, uint64_t seen, uint16_t round
    )
    # Let go of what it keeps, for its owner; False, and all is kept, while somebody changes what is read.
    cdef bint drop_all(self, OwnViews *own) noexcept
    # Between the two nobody reads here, and the region whose `edition` it is may drop those `layers` of its views. They
    # are not found any more, and none is put in; what Readers and rows kept of them goes to `dropped`, to go last.
    cdef int begin(self, uint64_t *edition, uint64_t dimension, object layers, list dropped) except -1
    cdef void end(self, uint64_t *edition) noexcept
    # The same without a region: one that leaves for good begins above and ends here, one that comes the other way.
    cdef void change_begin(self) noexcept
    cdef void change_end(self) noexcept
    cdef int take(self, uint64_t dimension, object layers, list dropped) except -1
    # No view is one that was read in a round of eviction.
    cdef void forget_rounds(self) noexcept
    # Payload copies made by the Readers there are.
    cdef uint64_t count_copies(self) noexcept
    cdef bint has_no_reader(self) noexcept
    # From now on changes reach what a Reader keeps, and no longer.
    cdef void add_reader(self, OwnViews *own) noexcept
    cdef void remove_reader(self, OwnViews *own) noexcept
