"""BaseFile: the base file of a dimension, of which the stack is opened again and again; see base_file.pyx."""
from libc.stdint cimport uint64_t

from jessy_mem._core.budget cimport Ledger


cdef class BaseFile:
    cdef str path
    cdef uint64_t dimension_id
    cdef bint immutable
    cdef bint deltas
    cdef bint follow_links
    cdef str verify
    cdef str guard
    cdef object metadata_limit_bytes
    cdef dict bare              # what dimensions without deltas are remembered in, or None
    cdef Ledger ledger          # None: who opens is always asked
    cdef str segment
    cdef uint64_t most_bytes


cdef class Payer:
    cdef BaseFile file
    cdef object place
    cdef object admit
