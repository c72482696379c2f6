"""Mapping: memory that goes with its last holder."""


cdef class Mapping:
    cdef void *base             # NULL until it is mapped
    cdef readonly size_t n_bytes
    cdef readonly bint writable
