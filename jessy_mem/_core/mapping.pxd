"""Mapping: memory that goes with its last holder."""
from libc.stdint cimport uint8_t


cdef class Mapping:
    cdef void *base             # NULL until it is mapped
    cdef readonly size_t n_bytes
    cdef readonly bint writable


# A read-only memoryview of `n_bytes` at `first`, which are `owner`'s and stay while it lives.
cdef object memoryview_of(object owner, const uint8_t *first, Py_ssize_t n_bytes)
