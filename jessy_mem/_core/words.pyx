"""WordScan: the keywords of a stack's layers, each spelling once, read from their records without the GIL.

    records  0: Lamp, tree | 1: lamp | 2: TREE, Baum      as the files have them
    sheet    0 1           | 0       | 1 2                numbers of spellings, later of words
    texts    lamptreebaum
    layers   0 1 | 0 2 | 2                                of each spelling, once they are grouped

Two spellings can be one word: what is not ASCII is folded by Python, once for each spelling and not for each layer.
"""
import os

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy
from cpython.unicode cimport PyUnicode_DecodeUTF8

from jessy_mem._core.c.mix cimport jm_hash
from jessy_mem._core.format cimport RECORD_TAIL_BYTES, LayerEntry, RecordHead
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.flat cimport MARK_BITS, flat_begin, flat_find, flat_grow, flat_has_room, flat_put
from jessy_mem._core.kernels.span cimport span_after_length, span_is_ascii, span_is_utf8
from jessy_mem._core.packing cimport scratch_add
from jessy_mem._core.sheet cimport Fact
from jessy_mem._core.stack cimport Place, stack_layers

from jessy_mem import given

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t n_characters, Py_UCS4 largest)
    void *PyUnicode_DATA(str text)

cdef enum:
    MANY_LAYERS = 256  # who gives up the GIL may wait for milliseconds to have it again

cdef enum Outcome:
    DONE
    CHANGED
    OUT_OF_MEMORY

cdef struct Records:             # of one file
    const uint8_t *base
    const LayerEntry *layers

hash_seeds[0], hash_seeds[1] = int.from_bytes(os.urandom(8)), int.from_bytes(os.urandom(8)) | 1

cdef object fold = given.folded


@cython.final
@cython.no_gc
cdef class WordScan:
    def __dealloc__(self):
        free(self.spellings)
        free(self.layers)
        free(self.table.cells)
        free(self.texts.first)
        free(self.record.first)

    cdef int read(self, tuple stack) except -1:
        cdef Image image
        cdef Outcome outcome
        cdef uint32_t n, n_read = 0, i = 0
        cdef Place *places = stack_layers(stack, &n)
        cdef Records *files = <Records *> malloc(len(stack) * sizeof(Records))
        try:
            if files == NULL or not flat_begin(&self.table, 0):
                raise MemoryError
            for image in stack:
                files[i].base, files[i].layers = &image.bytes[0], image.layers
                i += 1
            self.sheet = Sheet.__new__(Sheet)
            self.sheet.reserve(n, n)
            if n < MANY_LAYERS:
                outcome = read_layers(self, files, places, n, &n_read)
            else:
                with nogil:
                    outcome = read_layers(self, files, places, n, &n_read)
            if outcome == OUT_OF_MEMORY:
                raise MemoryError
            if outcome == CHANGED:
                image = stack[places[n_read].file]
                raise image.changed_error(places[n_read].entry, "keyword")
            for image in stack:
                image.check_mark(&image.bytes[0] + image.layers[image.n_layers].record_off_bytes, -1)
        finally:
            free(places)
            free(files)
        return 0

    cdef str text(self, uint32_t i):
        cdef Spelling *spelling = &self.spellings[i]
        cdef const uint8_t *first = self.texts.first + spelling.off_bytes
        cdef str text
        if not spelling.is_ascii:
            return fold(PyUnicode_DecodeUTF8(<const char *> first, spelling.n_bytes, NULL))
        text = PyUnicode_New(spelling.n_bytes, 0x7F)
        memcpy(PyUnicode_DATA(text), first, spelling.n_bytes)
        return text

    cdef int group(self) except -1:
        self.layers = <uint16_t *> malloc(max(self.sheet.n_words, 1) * sizeof(uint16_t))
        if self.layers == NULL:
            raise MemoryError
        if self.sheet.n_layers < MANY_LAYERS:
            group_layers(self)
        else:
            with nogil:
                group_layers(self)
        return 0


cdef Outcome read_layers(
    WordScan scan, const Records *files, const Place *places, uint32_t n, uint32_t *n_read
) noexcept nogil:
    cdef const LayerEntry *entry
    cdef Outcome outcome
    while n_read[0] < n:
        entry = &files[places[n_read[0]].file].layers[places[n_read[0]].entry]
        scan.sheet.add(entry.layer, entry.frequency_hz, entry.created_ns)
        if entry.n_keywords:
            outcome = read_record(scan, files[places[n_read[0]].file].base, entry)
            if outcome != DONE:
                return outcome
        n_read[0] += 1
    return DONE


cdef Outcome read_record(WordScan scan, const uint8_t *base, const LayerEntry *entry) noexcept nogil:
    cdef uint64_t end = entry[1].record_off_bytes - entry.record_off_bytes, at = sizeof(RecordHead)
    cdef const uint8_t *word
    cdef uint32_t n_bytes, _i
    cdef Outcome outcome
    scan.record.n_bytes = 0
    if not scratch_add(&scan.record, base + entry.record_off_bytes, end):
        return OUT_OF_MEMORY
    end -= RECORD_TAIL_BYTES
    for _i in range(entry.n_keywords):
        word = span_after_length(scan.record.first, end, &at, &n_bytes)
        if word == NULL:
            return CHANGED
        outcome = add_word(scan, word, n_bytes)
        if outcome != DONE:
            return outcome
    return DONE if at == end else CHANGED


cdef Outcome add_word(WordScan scan, const uint8_t *first, uint32_t n_bytes) noexcept nogil:
    cdef bint is_ascii = span_is_ascii(first, n_bytes)
    cdef uint64_t off_bytes = scan.texts.n_bytes, hash
    cdef uint8_t *text
    cdef Spelling *spelling
    cdef uint32_t i
    if not is_ascii and not span_is_utf8(first, n_bytes):
        return CHANGED
    if not scratch_add(&scan.texts, first, n_bytes):
        return OUT_OF_MEMORY
    text = scan.texts.first + off_bytes
    if is_ascii:
        for i in range(n_bytes):
            text[i] |= 32 if 65 <= text[i] <= 90 else 0
    hash = jm_hash(text, n_bytes, hash_seeds) >> MARK_BITS + 1 | 2  # a key of the table, and so are those after it
    i = <uint32_t> <uint64_t> flat_find(&scan.table, hash)
    while i:
        spelling = &scan.spellings[i - 1]
        if spelling.n_bytes == n_bytes and memcmp(scan.texts.first + spelling.off_bytes, text, n_bytes) == 0:
            scan.texts.n_bytes = off_bytes
            break
        hash = (hash + 1) | 2
        i = <uint32_t> <uint64_t> flat_find(&scan.table, hash)
    else:
        if not has_room_for_spelling(scan):
            return OUT_OF_MEMORY
        spelling = &scan.spellings[scan.n_spellings]
        spelling.off_bytes, spelling.n_bytes, spelling.is_ascii = off_bytes, n_bytes, is_ascii
        spelling.n_layers = spelling.last_layer = 0
        scan.n_spellings += 1
        i = scan.n_spellings
        flat_put(&scan.table, hash, <void *> <uint64_t> i)
    return DONE if scan.sheet.append_word(i - 1) else OUT_OF_MEMORY


cdef bint has_room_for_spelling(WordScan scan) noexcept nogil:
    """Whether there is room for another one, or could be made."""
    cdef uint64_t room = max(2 * <uint64_t> scan.room_for_spellings, <uint64_t> 64)
    cdef void *grown
    if scan.n_spellings == scan.room_for_spellings:
        grown = NULL if room > <uint32_t> -1 else realloc(scan.spellings, room * sizeof(Spelling))
        if grown == NULL:
            return False
        scan.spellings, scan.room_for_spellings = <Spelling *> grown, <uint32_t> room
    return flat_has_room(&scan.table) or flat_grow(&scan.table)


cdef void group_layers(WordScan scan) noexcept nogil:
    cdef uint32_t *words = scan.sheet.words
    cdef Spelling *spelling
    cdef Fact *fact
    cdef uint32_t i, at, end, n_words = 0, n_grouped = 0
    for i in range(scan.sheet.n_layers):  # each word of a layer once
        fact = &scan.sheet.facts[i]
        at, end, fact.begin = fact.begin, fact.end, n_words
        while at < end:
            spelling = &scan.spellings[scan.spellings[words[at]].same_as]
            if spelling.last_layer != i + 1:
                spelling.last_layer = i + 1
                spelling.n_layers += 1
                words[n_words] = spelling.same_as
                n_words += 1
            at += 1
        fact.end = n_words
    scan.sheet.n_words = n_words
    for i in range(scan.n_spellings):
        spelling = &scan.spellings[i]
        spelling.begin = n_grouped
        n_grouped += spelling.n_layers
        spelling.n_layers = 0
    for i in range(scan.sheet.n_layers):
        fact = &scan.sheet.facts[i]
        for at in range(fact.begin, fact.end):
            spelling = &scan.spellings[words[at]]
            scan.layers[spelling.begin + spelling.n_layers] = fact.layer
            spelling.n_layers += 1
            words[at] = spelling.number
