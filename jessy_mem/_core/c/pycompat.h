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

/* How many values of a dict others refer to; `n_values` becomes the number of all. */
static inline Py_ssize_t jm_dict_shared_values(PyObject *dict, Py_ssize_t *n_values)
{
    Py_ssize_t at = 0, n_shared = 0;
    PyObject *key, *value;
    *n_values = 0;
#ifdef Py_GIL_DISABLED
    Py_BEGIN_CRITICAL_SECTION(dict);
#endif
    while (PyDict_Next(dict, &at, &key, &value)) {
        *n_values += 1;
        n_shared += Py_REFCNT(value) > 1;
    }
#ifdef Py_GIL_DISABLED
    Py_END_CRITICAL_SECTION();
#endif
    return n_shared;
}

/* Let an object go with its last reference, whichever thread drops that. Without the GIL, references of the thread that
   made an object are counted apart, and one that another thread drops last waits until its maker runs Python again: an
   idle thread would keep mapped and charged what others evicted. For an object that no other thread knows yet. */
static inline void jm_disown(PyObject *each)
{
#ifdef Py_GIL_DISABLED
    Py_ssize_t n_references = Py_REFCNT(each);
    if (each->ob_tid == _Py_ThreadId()) {
        each->ob_tid = 0;
        Py_SET_REFCNT(each, n_references); /* all in the count that every thread uses */
    }
#else
    (void)each;
#endif
}

/* The same for the object that stands behind a typed memoryview and holds its buffer. */
#define jm_disown_view(view) jm_disown((PyObject *)(view).memview)

/* The same for a memoryview, and for what it holds the buffer by, which it shares with its slices. */
static inline void jm_disown_memoryview(PyObject *each)
{
    jm_disown((PyObject *)((PyMemoryViewObject *)each)->mbuf);
    jm_disown(each);
}

#endif
