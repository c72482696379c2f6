"""Types and constants every kernel shares. Unit, block, word and bit indices are different types on purpose."""
from libc.stdint cimport int64_t, uint64_t

ctypedef int64_t unit_index_t    # number of a unit (the smallest block) inside an arena; -1 = none
ctypedef int64_t block_index_t   # number of a block among the blocks of its size; -1 = none
ctypedef uint64_t word_index_t   # number of a 64-bit word of a bitmap
ctypedef unsigned int bit_index_t  # number of a bit inside a word, 0..63

cdef enum:
    MIB_BYTES = 1 << 20

# What a kernel reports; BY_STATUS of errors.py turns these into exceptions.
cdef enum Status:
    OK = 0
    OUT_OF_BOUNDS = 1
    LIMIT_EXCEEDED = 2
    NO_FREE_BLOCK = 3
    DOUBLE_FREE = 4
