"""Mapping: memory that goes with its last holder."""
from libc.stdint cimport int64_t, uint64_t


cdef class Mapping:
    cdef void *base             # NULL until it is mapped
    cdef readonly size_t n_bytes
    cdef readonly bint writable
    cdef int64_t guard          # its handle, of what is mapped from a file; else -1
    cdef uint64_t pages         # atomic: whose they are, and what is being done with them
