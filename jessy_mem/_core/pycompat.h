/* CPython versions and builds. The only file that knows how they differ. */
#ifndef JESSY_MEM_PYCOMPAT_H
#define JESSY_MEM_PYCOMPAT_H

#include <Python.h>

/* A new reference to dict[key]; NULL without an exception if there is none, NULL with one if the key cannot be hashed.
   Safe against a concurrent change of the dict, with and without the GIL. */
static inline PyObject *jm_dict_get(PyObject *dict, PyObject *key)
{
#if PY_VERSION_HEX >= 0x030D00A1
    PyObject *value;
    PyDict_GetItemRef(dict, key, &value);
    return value;
#else
    return Py_XNewRef(PyDict_GetItemWithError(dict, key));
#endif
}

/* References to an object, as far as this thread can tell. */
static inline Py_ssize_t jm_refcount(PyObject *each) { return Py_REFCNT(each); }

#endif
