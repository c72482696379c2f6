"""Instances of frozen dataclasses with slots, made ten times as fast: past `__init__`, and past what freezes them.

For classes without `__post_init__`. `Frozen` borrows its class, which its module keeps alive.
"""
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE

from jessy_mem._core.c.pycompat cimport jm_slot_fill, jm_slot_offset


cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    object PyType_GenericAlloc(PyTypeObject *type_, Py_ssize_t n_items)

cdef enum:
    MAX_FIELDS = 40

cdef struct Frozen:
    PyTypeObject *cls
    Py_ssize_t n_fields
    Py_ssize_t off_bytes[MAX_FIELDS]  # of each field's slot, in the order of the fields


# Prepare to make instances of `cls`; TypeError if it is no such class.
cdef inline Frozen frozen_prepare(object cls) except *:
    cdef Frozen frozen
    cdef tuple names = cls.__slots__
    cdef Py_ssize_t i
    if len(names) > MAX_FIELDS:
        raise TypeError(f"{cls!r} has more than {MAX_FIELDS} fields")
    frozen.cls, frozen.n_fields = <PyTypeObject *> cls, len(names)
    for i in range(frozen.n_fields):
        frozen.off_bytes[i] = jm_slot_offset(cls, names[i])
    return frozen


# ``cls(*values)``; there must be a value for each field.
cdef inline object frozen_make(const Frozen *frozen, tuple values):
    cdef Py_ssize_t i
    if PyTuple_GET_SIZE(values) != frozen.n_fields:
        raise TypeError(f"{frozen.n_fields} fields and {PyTuple_GET_SIZE(values)} values")
    made = PyType_GenericAlloc(frozen.cls, 0)
    for i in range(frozen.n_fields):
        jm_slot_fill(<PyObject *> made, frozen.off_bytes[i], values[i])
    return made
