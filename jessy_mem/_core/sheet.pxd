"""Sheet: what an index knows of some layers of a dimension."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef enum:
    SHEET_BITS = 12  # lowest bits of the numbers of layers that are on one sheet


cdef struct Fact:                # of one layer
    uint64_t created_ns
    float hz
    uint32_t begin               # of its words
    uint32_t end
    uint16_t layer


cdef class Sheet:                # what is known of some layers of a dimension; nobody changes one that is finished
    cdef Fact *facts             # ascending by layer
    cdef uint32_t *words         # numbers of words, in order of the layers
    cdef uint32_t n_layers
    cdef uint32_t n_words
    cdef uint32_t room_for_words
    cdef uint64_t oldest_ns
    cdef uint64_t newest_ns
    cdef float lowest_hz
    cdef float highest_hz

    # Room for so many layers, before the first is added.
    cdef int reserve(self, uint32_t n_layers, uint32_t n_words) except -1
    # Add a layer, above all others, without words; and a word of it (False: no memory).
    cdef void add(self, uint32_t layer, float hz, uint64_t created_ns) noexcept nogil
    cdef bint append_word(self, uint32_t number) noexcept nogil
    # The same, or MemoryError.
    cdef int add_word(self, uint32_t number) except -1
    # Where the layers end that belong on one sheet with that at `begin`.
    cdef uint32_t part_end(self, uint32_t begin) noexcept nogil
    # A copy of some layers; and all of them, each on the sheet where it belongs.
    cdef Sheet part(self, uint32_t begin, uint32_t end)
    cdef tuple parts(self)
    # Add a layer of another sheet.
    cdef int copy(self, Sheet other, uint32_t i) except -1
    # Where the first layer is that has this number or a higher one.
    cdef uint32_t position(self, uint32_t layer) noexcept nogil


cdef struct Range:               # all bounds are inclusive
    float low_hz
    float high_hz
    uint64_t oldest_ns
    uint64_t newest_ns


cdef class Known:                # a dimension; nobody changes one
    cdef str name
    cdef tuple sheets            # ascending; none is empty


cdef inline bint meets(const Fact *fact, const Range *wanted) noexcept nogil:
    return wanted.low_hz <= fact.hz <= wanted.high_hz and wanted.oldest_ns <= fact.created_ns <= wanted.newest_ns


cdef inline bint has(Sheet sheet, uint32_t at, uint32_t layer) noexcept nogil:
    """Whether the layer at a position that `Sheet.position` gave is the one that was asked for."""
    return at < sheet.n_layers and sheet.facts[at].layer == layer


# The sheet that a layer is on, or would be; None if there is none.
cdef Sheet sheet_at(Known known, uint32_t layer)
# `old` with the layers [begin, end) of `come`, of which there are some if `old` is None; what is not kept is added to
# `gone`. `removed` None: all of it. None if nothing is left.
cdef Sheet merged(Sheet old, Sheet come, uint32_t begin, uint32_t end, set removed, Sheet gone)
# Read the conditions on frequency and age; False if nothing can meet them. TypeError for what is none.
cdef bint read_range(object frequency, object since_ns, object before_ns, Range *wanted) except -1
