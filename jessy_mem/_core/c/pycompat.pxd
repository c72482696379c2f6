"""What differs between CPython versions; see pycompat.h."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t


cdef extern from "c/pycompat.h":
    PyObject *jm_dict_get(object dict_, object key) except? NULL  # a new reference, or NULL: no such key
    Py_ssize_t jm_refcount(PyObject *each) noexcept  # without counting the caller's temporary
    Py_ssize_t jm_dict_shared_values(object dict_, Py_ssize_t *n_values) noexcept  # those that others refer to
    void jm_disown(PyObject *each) noexcept  # free it at once with its last reference; before others know it
    void jm_disown_memoryview(PyObject *each) noexcept  # the same for a memoryview, and for what holds its buffer
    void jm_disown_view(const uint8_t[::1] view) noexcept  # the same for what holds the buffer of a typed memoryview
