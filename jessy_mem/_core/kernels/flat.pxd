"""A flat table from a number to a pointer: open addressing, linear probing, 16 bytes a cell.

    key * 2**64 / golden ratio, its highest bits --> | key 7 | key 9 | GONE | 0 | ...   a search ends at 0

A key is neither 0 nor 1. Who puts one in writes the key last, so that others may search at the same time; to remove and
to grow, nobody else may be there.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from jessy_mem._core.c.atomic cimport jm_clz, jm_load_acquire, jm_store_release

cdef enum:
    GONE = 1         # the key of a cell that was emptied: a search goes on
    MIN_CELLS = 16

cdef struct Cell:
    uint64_t key
    void *value

cdef struct Flat:
    Cell *cells
    unsigned int shift     # 64 - log2 of their number
    uint64_t n_used        # that hold a key
    uint64_t n_filled      # the same and those that are GONE


cdef inline uint64_t flat_cells(const Flat *flat) noexcept nogil:
    return <uint64_t> 1 << (64 - flat.shift)


cdef inline uint64_t flat_hash(uint64_t key, unsigned int shift) noexcept nogil:
    """A number below 2**(64 - shift), other for keys that are near each other."""
    return key * 0x9E3779B97F4A7C15ULL >> shift


cdef inline void *flat_find(const Flat *flat, uint64_t key) noexcept nogil:
    """What is kept for `key`; NULL if there is nothing."""
    cdef uint64_t at = flat_hash(key, flat.shift)
    cdef uint64_t found = jm_load_acquire(&flat.cells[at].key)
    while found != key:
        if found == 0:
            return NULL
        at = (at + 1) & (flat_cells(flat) - 1)
        found = jm_load_acquire(&flat.cells[at].key)
    return flat.cells[at].value


cdef inline Cell *flat_search(const Flat *flat, uint64_t key) noexcept nogil:
    """The cell of `key`, or the empty one where it would be; for who changes the table."""
    cdef uint64_t at = flat_hash(key, flat.shift)
    while flat.cells[at].key != key and flat.cells[at].key != 0:
        at = (at + 1) & (flat_cells(flat) - 1)
    return &flat.cells[at]


cdef inline bint flat_begin(Flat *flat, uint64_t n_keys) noexcept nogil:
    """Make a table that is empty, for as many keys; False without memory, and nothing has changed."""
    cdef uint64_t n_cells = n_keys * 2 if n_keys * 2 > MIN_CELLS else MIN_CELLS
    cdef unsigned int shift = jm_clz(n_cells - 1)
    cdef Cell *cells = <Cell *> calloc(<uint64_t> 1 << (64 - shift), sizeof(Cell))
    if cells == NULL:
        return False
    flat.cells, flat.shift, flat.n_used, flat.n_filled = cells, shift, 0, 0
    return True


cdef inline bint flat_has_room(const Flat *flat) noexcept nogil:
    """Whether another key may be put in; a quarter of the cells stays empty, so that searches are short."""
    return flat.n_filled < flat_cells(flat) // 4 * 3


cdef inline void *flat_put(Flat *flat, uint64_t key, void *value) noexcept nogil:
    """Keep `value` for `key`, if there is nothing yet: what is kept. There must be room."""
    cdef Cell *cell = flat_search(flat, key)
    if cell.key == 0:
        cell.value = value
        flat.n_used += 1
        flat.n_filled += 1
        jm_store_release(&cell.key, key)
    return cell.value


cdef inline void *flat_remove(Flat *flat, uint64_t key) noexcept nogil:
    """What was kept for `key`, which is not there any more; NULL if there was nothing."""
    cdef Cell *cell = flat_search(flat, key)
    cdef void *value = cell.value
    if cell.key == 0:
        return NULL
    cell.key, cell.value = GONE, NULL
    flat.n_used -= 1
    return value


cdef inline bint flat_grow(Flat *flat) noexcept nogil:
    """Make room for another key; False without memory, and nothing has changed."""
    cdef Flat old = flat[0]
    cdef uint64_t i
    if not flat_begin(flat, old.n_used + 1):
        return False
    for i in range(flat_cells(&old)):
        if old.cells[i].key > GONE:
            flat_put(flat, old.cells[i].key, old.cells[i].value)
    free(old.cells)
    return True
