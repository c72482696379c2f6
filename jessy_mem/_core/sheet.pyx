"""Sheet: what an index knows of some layers of a dimension, their words by number.

Layers whose numbers have the same highest bits are on one sheet, so that what changes in one layer costs a sheet and
not the dimension. A sheet that is finished is never changed: another takes its place.

    facts    layer 0: Hz, created_ns, begin, end | layer 3: ...
    words    7 4 | 4 9 12 |                        begin and end of each layer are positions here
"""
import math

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from jessy_mem import given
from jessy_mem._core.format import stored_frequency

cdef enum:
    MANY_WORDS = 4294967295

cdef uint64_t LATEST_NS = -1


@cython.final
@cython.no_gc
cdef class Known:
    pass


@cython.final
@cython.no_gc
cdef class Sheet:
    def __dealloc__(self):
        free(self.facts)
        free(self.words)

    cdef int reserve(self, uint32_t n_layers, uint32_t n_words) except -1:
        self.facts = <Fact *> malloc(max(n_layers, 1) * sizeof(Fact))
        self.words = <uint32_t *> malloc(max(n_words, 1) * sizeof(uint32_t))
        if self.facts == NULL or self.words == NULL:
            raise MemoryError
        self.room_for_words = max(n_words, 1)
        self.oldest_ns, self.lowest_hz = LATEST_NS, math.inf
        return 0

    cdef void add(self, uint32_t layer, float hz, uint64_t created_ns) noexcept nogil:
        cdef Fact *fact = &self.facts[self.n_layers]
        fact.layer, fact.hz, fact.created_ns = <uint16_t> layer, hz, created_ns
        fact.begin = fact.end = self.n_words
        self.n_layers += 1
        self.oldest_ns, self.newest_ns = min(self.oldest_ns, created_ns), max(self.newest_ns, created_ns)
        self.lowest_hz, self.highest_hz = min(self.lowest_hz, hz), max(self.highest_hz, hz)

    cdef bint append_word(self, uint32_t number) noexcept nogil:
        cdef void *grown = NULL
        if self.n_words == self.room_for_words:
            if self.room_for_words <= MANY_WORDS // 2:
                grown = realloc(self.words, 2 * <size_t> self.room_for_words * sizeof(uint32_t))
            if grown == NULL:
                return False
            self.words = <uint32_t *> grown
            self.room_for_words *= 2
        self.words[self.n_words] = number
        self.n_words += 1
        self.facts[self.n_layers - 1].end = self.n_words
        return True

    cdef int add_word(self, uint32_t number) except -1:
        if not self.append_word(number):
            raise MemoryError
        return 0

    cdef Sheet part(self, uint32_t begin, uint32_t end):
        cdef Sheet part = Sheet.__new__(Sheet)
        cdef uint32_t i, first_word = self.facts[begin].begin
        part.reserve(end - begin, self.facts[end - 1].end - first_word)
        for i in range(begin, end):
            part.add(self.facts[i].layer, self.facts[i].hz, self.facts[i].created_ns)
            part.facts[i - begin].begin = self.facts[i].begin - first_word
            part.facts[i - begin].end = self.facts[i].end - first_word
        part.n_words = self.facts[end - 1].end - first_word
        memcpy(part.words, self.words + first_word, part.n_words * sizeof(uint32_t))
        return part

    cdef uint32_t part_end(self, uint32_t begin) noexcept nogil:
        cdef uint32_t end = begin
        while end < self.n_layers and self.facts[end].layer >> SHEET_BITS == self.facts[begin].layer >> SHEET_BITS:
            end += 1
        return end

    cdef tuple parts(self):
        cdef list parts = []
        cdef uint32_t begin, end = 0
        while end < self.n_layers:
            begin, end = end, self.part_end(end)
            parts.append(self.part(begin, end))
        return tuple(parts)

    cdef int copy(self, Sheet other, uint32_t i) except -1:
        cdef const Fact *fact = &other.facts[i]
        cdef uint32_t at
        self.add(fact.layer, fact.hz, fact.created_ns)
        for at in range(fact.begin, fact.end):
            self.add_word(other.words[at])
        return 0

    cdef uint32_t position(self, uint32_t layer) noexcept nogil:
        cdef uint32_t low = 0, high = self.n_layers, middle
        if low < high and layer >= self.facts[0].layer and layer - self.facts[0].layer < high:
            middle = layer - self.facts[0].layer  # where numbers have no holes
            if self.facts[middle].layer == layer:
                return middle
        while low < high:
            middle = (low + high) >> 1
            if self.facts[middle].layer < layer:
                low = middle + 1
            else:
                high = middle
        return low


cdef Sheet sheet_at(Known known, uint32_t layer):
    cdef Sheet sheet
    for sheet in known.sheets:
        if sheet.facts[0].layer >> SHEET_BITS == layer >> SHEET_BITS:
            return sheet
    return None


cdef Sheet merged(Sheet old, Sheet come, uint32_t begin, uint32_t end, set removed, Sheet gone):
    """`old` with the layers [begin, end) of `come`; what is not kept is added to `gone`. `removed` None: all of it."""
    cdef Sheet sheet
    cdef uint32_t i
    if old is None:
        return come.part(begin, end)
    sheet = Sheet.__new__(Sheet)
    sheet.reserve(old.n_layers + end - begin, old.n_words)
    for i in range(old.n_layers):
        while begin < end and come.facts[begin].layer < old.facts[i].layer:
            sheet.copy(come, begin)
            begin += 1
        if removed is None or (begin < end and has(come, begin, old.facts[i].layer)) or old.facts[i].layer in removed:
            gone.copy(old, i)
        else:
            sheet.copy(old, i)
    while begin < end:
        sheet.copy(come, begin)
        begin += 1
    return sheet if sheet.n_layers else None


cdef bint read_range(frequency, since_ns, before_ns, Range *wanted) except -1:
    """Read the conditions; False if nothing can meet them."""
    low, high = (-math.inf, math.inf) if frequency is None else bounds_of(frequency)
    oldest = 0 if since_ns is None else moment("since_ns", since_ns)
    newest = LATEST_NS if before_ns is None else moment("before_ns", before_ns) - 1
    if not (low <= high and oldest <= newest and newest >= 0 and oldest <= LATEST_NS):  # nor if a bound is NaN
        return False
    wanted.low_hz, wanted.high_hz = low, high
    wanted.oldest_ns, wanted.newest_ns = max(oldest, 0), min(newest, LATEST_NS)
    return True


cdef object moment(str field, value):
    try:
        return given.integer(value)
    except TypeError:
        raise TypeError(f"{field}: {value!r} is no integer, which times in ns are; time.time_ns() gives one") from None


cdef tuple bounds_of(frequency):
    """A range as regions store its ends, in 32 bits, so that a bound of 2.2 meets a layer of 2.2 Hz."""
    try:
        low, high = [stored_frequency(given.number(bound)) for bound in frequency]
    except (TypeError, ValueError):
        raise TypeError(f"frequency: {frequency!r} is not a pair (low, high) of numbers of Hz") from None
    return low, high
