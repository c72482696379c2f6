"""LayerIndex: layers by keyword, frequency, age and name."""
from libc.stdint cimport uint16_t, uint32_t

from jessy_mem._core.sheet cimport Range, Sheet
from jessy_mem._core.words cimport WordScan


cdef class Word:                 # a keyword, folded
    cdef str text
    cdef object holders          # None, bytes of its only dimension, or a dict of several; under critical_section(self)
    cdef uint32_t number         # position in LayerIndex.words
    # For whoever changes a dimension: numbers of its layers, ascending, in memory of his own.
    cdef uint16_t *gone
    cdef uint16_t *come
    cdef uint32_t n_gone
    cdef uint32_t n_come


cdef class LayerIndex:
    cdef dict known              # dimension -> Known
    cdef dict by_text            # folded keyword -> Word
    cdef list words              # by number; None where a number is free
    cdef list free_numbers

    cdef Word word_of(self, str text)
    cdef int add_word(self, Sheet sheet, str text) except -1
    cdef Sheet sheet_of_facts(self, list facts)
    cdef int forget_unused(self, Sheet sheet) except -1
    cdef int forget_if_unused(self, uint32_t number) except -1
    cdef int name_spellings(self, WordScan scan) except -1
    cdef int replace_all(self, dimension, str name, WordScan scan) except -1
    cdef int replace(self, dimension, str name, Sheet come, removed) except -1
    cdef int change_words(self, dimension, Sheet gone, Sheet come) except -1
    cdef int set_numbers(self, Word word, dimension, bytes numbers) except -1
    cdef object dimensions_of(self, dimension, name)
    # The layers that have a word, and all; in the dimensions that are meant (None: in all), and in a range, if given.
    cdef list all_of(self, Word word, dimensions, const Range *wanted)
    cdef list all_in(self, dimensions, const Range *wanted)
