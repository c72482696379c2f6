"""WordScan: the keywords of a stack's layers, each spelling once."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from jessy_mem._core.kernels.flat cimport Flat
from jessy_mem._core.packing cimport Scratch
from jessy_mem._core.sheet cimport Sheet


cdef struct Spelling:            # in small letters if it is ASCII; else as the file has it, for only Python can fold it
    uint64_t off_bytes           # in `texts`
    uint32_t n_bytes
    bint is_ascii
    uint32_t number              # of the word that it is, and the first spelling that is the same word: by the caller
    uint32_t same_as
    uint32_t begin               # the layers that have the word, in `layers`
    uint32_t n_layers
    uint32_t last_layer          # while layers are grouped: position of the last one, and 1


cdef class WordScan:
    cdef Sheet sheet             # all layers; the numbers of their words are those of spellings until `group` is called
    cdef Spelling *spellings
    cdef uint32_t n_spellings
    cdef uint32_t n_named        # of them, which have their `number` and `same_as`
    cdef uint32_t room_for_spellings
    cdef uint16_t *layers        # their numbers, ascending for each word
    cdef Flat table              # hash -> position in `spellings`, and 1
    cdef Scratch texts
    cdef Scratch record          # a copy: the file may change while it is parsed

    # Read all keywords; InvalidRegion if they were overwritten, RegionTruncated.
    cdef int read(self, tuple stack) except -1
    # A spelling, folded.
    cdef str text(self, uint32_t i)
    # Once all are named: which layers have each word, and the words of each layer.
    cdef int group(self) except -1


cdef uint64_t[2] hash_seeds      # whoever writes a file does not know them
