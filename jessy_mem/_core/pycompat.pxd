"""What differs between CPython versions; see pycompat.h."""
from cpython.object cimport PyObject


cdef extern from "pycompat.h":
    PyObject *jm_dict_get(object dict_, object key) except? NULL  # a new reference, or NULL: no such key
    Py_ssize_t jm_refcount(PyObject *each) noexcept  # without counting the caller's temporary
