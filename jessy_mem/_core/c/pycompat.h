/* CPython versions and builds. The only file that knows how they differ. */
#ifndef JESSY_MEM_PYCOMPAT_H
#define JESSY_MEM_PYCOMPAT_H

#include <Python.h>

#include "atomic.h"

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

/* The same, but None if there is none: dict.get(), which Cython would make of a borrowed reference. */
static inline PyObject *jm_dict_get_or_none(PyObject *dict, PyObject *key)
{
    PyObject *value = jm_dict_get(dict, key);
    return value == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : value;
}

/* The value of an int, if it lies in 0..MAX; else -1. `each` is an int or of a class derived from it. */
static inline int64_t jm_number_below(PyObject *each, int64_t max)
{
    long long value;
    int overflow;
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)each))
        value = PyUnstable_Long_CompactValue((PyLongObject *)each);
    else
#else
    if ((size_t)Py_SIZE(each) <= 1) /* no digit, or one and no sign */
        value = Py_SIZE(each) ? ((PyLongObject *)each)->ob_digit[0] : 0;
    else
#endif
        value = PyLong_AsLongLongAndOverflow(each, &overflow); /* -1 on overflow; no error, for it is an int */
    return 0 <= value && value <= max ? value : -1;
}

/* (dimension, layer) as one number: dimension << 16 | layer. 0 for what is no tuple of two ints that can be one. */
static inline uint64_t jm_layer_key(PyObject *layer_id)
{
    PyObject *dimension, *layer;
    int64_t high, low;
    if (!PyTuple_Check(layer_id) || PyTuple_GET_SIZE(layer_id) != 2)
        return 0;
    dimension = PyTuple_GET_ITEM(layer_id, 0);
    layer = PyTuple_GET_ITEM(layer_id, 1);
    if (!PyLong_Check(dimension) || !PyLong_Check(layer))
        return 0;
    high = jm_number_below(dimension, UINT32_MAX);
    low = jm_number_below(layer, UINT16_MAX);
    return high > 0 && low >= 0 ? (uint64_t)high << 16 | (uint64_t)low : 0;
}

/* The method that `kind` inherited, if that is the compiled `method`, as one of its own, which the interpreter calls
   faster: it belongs to the very class of the object. Else what it has. */
static inline PyObject *jm_own_method(PyObject *kind, PyObject *inherited, PyObject *method)
{
    if (!Py_IS_TYPE(inherited, &PyMethodDescr_Type) || !Py_IS_TYPE(method, &PyMethodDescr_Type)
        || ((PyMethodDescrObject *)inherited)->d_method != ((PyMethodDescrObject *)method)->d_method)
        return Py_NewRef(inherited);
    return PyDescr_NewMethod((PyTypeObject *)kind, ((PyMethodDescrObject *)method)->d_method);
}

/* A reference that is the caller's, as an object. */
static inline PyObject *jm_stolen(PyObject *each) { return each; }

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

/* The same for an object to which there is one reference, which is the caller's now, and which its maker, another
   thread, cannot come by: it goes when the caller drops it. One that can be had by a weak reference is left as it is.

   Its maker may just have let go of a reference of its own, which is a store without a fence: what it read of the object
   before that is done with on processors that keep reads before later stores, as x86 does. On others the object waits
   for its maker, and so it does for ThreadSanitizer, which knows only what C promises. */
static inline void jm_adopt(PyObject *each)
{
#if defined(Py_GIL_DISABLED) && (defined(__x86_64__) || defined(__i386__)) && !defined(__SANITIZE_THREAD__)
    if (jm_any_load_acquire(&each->ob_ref_local) == 1
        && jm_any_load_acquire(&each->ob_ref_shared) == 0
        && jm_any_load_acquire(&each->ob_tid) != _Py_ThreadId()) {
        jm_any_store_relaxed(&each->ob_tid, 0);
        jm_any_store_relaxed(&each->ob_ref_local, 0);
        jm_any_store_relaxed(&each->ob_ref_shared, _Py_REF_SHARED(1, _Py_REF_MERGED));
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
