"""A flat table from a number of 48 bits, the key, to a pointer: open addressing, linear probing, 16 bytes a cell.

    key * 2**48 / golden ratio, its highest bits --> | key 7 | key 9 | GONE | 0 | ...   a search ends at 0

A key is neither 0 nor 1. With it, in one word, stands a mark of 16 bits: the two together are its label. Where a key
lies does not depend on its mark, and it is there once; a search for a label finds the key with this very mark only. Who
puts one in writes the label last, so that others may search at the same time; to remove and to grow, nobody else may be
there.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport calloc, free

from jessy_mem._core.c.atomic cimport jm_clz, jm_fetch_early, jm_load_acquire, jm_store_release

cdef enum:
    GONE = 1         # the label of a cell that was emptied: a search goes on
    MARK_BITS = 16
    MIN_CELLS = 16

cdef struct Cell:
    uint64_t label
    void *value

cdef struct Flat:
    Cell *cells
    unsigned int shift     # 64 - log2 of their number
    uint64_t n_used        # that hold a key
    uint64_t n_filled      # the same and those that are GONE


cdef inline uint64_t flat_cells(const Flat *flat) noexcept nogil:
    return <uint64_t> 1 << (64 - flat.shift)


cdef inline uint64_t flat_label(uint64_t key, uint16_t mark) noexcept nogil:
    return <uint64_t> mark << (64 - MARK_BITS) | key


cdef inline uint64_t flat_hash(uint64_t label, unsigned int shift) noexcept nogil:
    """A number below 2**(64 - shift), other for keys that are near each other, and the same whatever the mark."""
    # 2**48 / golden ratio, as the keys have 48 bits: it strews those that follow each other evenly. With the one of 64
    # bits a read among 1,000,000 layers took a fifth longer.
    return (label << MARK_BITS) * 0x9E3779B97F4BULL >> shift


cdef inline void flat_expect(const Flat *flat, uint64_t key) noexcept nogil:
    """Begin to bring the cell of `key` near."""
    jm_fetch_early(&flat.cells[flat_hash(key, flat.shift)])


cdef inline void *flat_find(const Flat *flat, uint64_t label) noexcept nogil:
    """What is kept for a key with this mark; NULL if there is nothing."""
    cdef uint64_t at = flat_hash(label, flat.shift)
    cdef uint64_t found = jm_load_acquire(&flat.cells[at].label)
    while found != label:
        if found == 0:
            return NULL
        at = (at + 1) & (flat_cells(flat) - 1)
        found = jm_load_acquire(&flat.cells[at].label)
    return flat.cells[at].value


cdef inline Cell *flat_search(const Flat *flat, uint64_t label) noexcept nogil:
    """The cell of a key, whatever its mark, or the empty one where it would be; for who changes the table."""
    cdef uint64_t at = flat_hash(label, flat.shift)
    while (flat.cells[at].label ^ label) << MARK_BITS != 0 and flat.cells[at].label != 0:
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


cdef inline void *flat_put(Flat *flat, uint64_t label, void *value) noexcept nogil:
    """Keep `value` for a key, if there is nothing yet, and give it this mark: what is kept. A new key needs room."""
    cdef Cell *cell = flat_search(flat, label)
    if cell.label == 0:
        cell.value = value
        flat.n_used += 1
        flat.n_filled += 1
    jm_store_release(&cell.label, label)
    return cell.value


cdef inline void *flat_remove(Flat *flat, uint64_t label) noexcept nogil:
    """What was kept for a key, which is not there any more, whatever its mark; NULL if there was nothing."""
    cdef Cell *cell = flat_search(flat, label)
    cdef void *value = cell.value
    if cell.label == 0:
        return NULL
    cell.label, cell.value = GONE, NULL
    flat.n_used -= 1
    return value


cdef inline void flat_forget_marks(Flat *flat) noexcept nogil:
    """Give each key the mark 0; nobody else may be there."""
    cdef uint64_t i
    for i in range(flat_cells(flat)):
        flat.cells[i].label = flat.cells[i].label << MARK_BITS >> MARK_BITS


cdef inline bint flat_grow(Flat *flat) noexcept nogil:
    """Make room for another key; False without memory, and nothing has changed."""
    cdef Flat old = flat[0]
    cdef uint64_t i
    if not flat_begin(flat, old.n_used + 1):
        return False
    for i in range(flat_cells(&old)):
        if old.cells[i].label > GONE:
            flat_put(flat, old.cells[i].label, old.cells[i].value)
    free(old.cells)
    return True
