/* CPython versions and builds. The only file that knows how they differ. */
#ifndef JESSY_MEM_PYCOMPAT_H
#define JESSY_MEM_PYCOMPAT_H

#include <Python.h>

#include "atomic.h"
#include "thread.h"

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

/* What keeps several fields of an object together where there is no GIL; with it, nothing is needed. Inside there is no
   Python code and no other such lock. A critical section would not do where a dict is changed, too: it is left while the
   lock of the dict is waited for. That is also why a fork, which waits until each thread waits, may leave one locked by a
   thread that the child has not got: so it is a new one in each process, from the first time that somebody locks it. */
#ifdef Py_GIL_DISABLED
typedef struct {
    PyMutex mutex;
    uint64_t fork; /* atomic; the process that it is of */
} jm_mutex;

static PyMutex jm_mutex_renewal; /* for a few instructions, in which nobody waits */

static __attribute__((noinline)) void jm_mutex_renew(jm_mutex *mutex, uint64_t fork)
{
    PyMutex_Lock(&jm_mutex_renewal);
    if (jm_load_relaxed(&mutex->fork) != fork) {
        memset(&mutex->mutex, 0, sizeof mutex->mutex);
        jm_store_release(&mutex->fork, fork);
    }
    PyMutex_Unlock(&jm_mutex_renewal);
}

static inline void jm_mutex_lock(jm_mutex *mutex)
{
    uint64_t fork = jm_fork_number();
    if (__builtin_expect(jm_load_acquire(&mutex->fork) != fork, 0))
        jm_mutex_renew(mutex, fork);
    PyMutex_Lock(&mutex->mutex);
}

static inline void jm_mutex_unlock(jm_mutex *mutex) { PyMutex_Unlock(&mutex->mutex); }
#else
typedef uint8_t jm_mutex;
static inline void jm_mutex_lock(jm_mutex *mutex) { (void)mutex; }
static inline void jm_mutex_unlock(jm_mutex *mutex) { (void)mutex; }
#endif

/* For a long loop over Python objects that counts N: each 256 turns whoever waits for the GIL gets it. */
static inline void jm_gil_turn(uint32_t n)
{
#ifndef Py_GIL_DISABLED
    if (n % 256 == 255) {
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
#else
    (void)n;
#endif
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
        value = ((PyLongObject *)each)->ob_digit[0] & (digit)-Py_SIZE(each); /* 0 has one, too; no branch */
    else
#endif
        value = PyLong_AsLongLongAndOverflow(each, &overflow); /* -1 on overflow; no error, for it is an int */
    return 0 <= value && value <= max ? value : -1;
}

/* A bound of a slice: MISSING for None; -1 for what is neither None nor an int in 0..MAX. */
static inline Py_ssize_t jm_plain_bound(PyObject *bound, Py_ssize_t missing, Py_ssize_t max)
{
    return bound == Py_None ? missing : PyLong_Check(bound) ? (Py_ssize_t)jm_number_below(bound, max) : -1;
}

/* Whether a slice of N is a plain one: without a step, 0 <= start <= stop <= N. PySlice_Unpack and PySlice_AdjustIndices
   answer for every slice, and take 200 instructions more. */
static inline int jm_slice_is_plain(PyObject *slice, Py_ssize_t n, Py_ssize_t *start, Py_ssize_t *stop)
{
    PySliceObject *each = (PySliceObject *)slice;
    *start = jm_plain_bound(each->start, 0, n);
    *stop = jm_plain_bound(each->stop, n, n);
    return each->step == Py_None && 0 <= *start && *start <= *stop;
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

/* A pair of a class derived from tuple that adds no field, of two objects through which no cycle can pass; made as `tuple`
   makes its own, and the collector does not know it. */
static inline PyObject *jm_pair_of(PyObject *kind, PyObject *first, PyObject *second)
{
    PyObject *made = PyType_GenericAlloc((PyTypeObject *)kind, 2);
    if (made == NULL)
        return NULL;
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)made)->ob_hash = -1; /* a tuple keeps its hash: none is known yet */
#endif
    PyTuple_SET_ITEM(made, 0, Py_NewRef(first));
    PyTuple_SET_ITEM(made, 1, Py_NewRef(second));
    PyObject_GC_UnTrack(made);
    return made;
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

/* Whether there is no GIL. */
#ifdef Py_GIL_DISABLED
#define JM_FREE_THREADED 1
#else
#define JM_FREE_THREADED 0
#endif

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

/* Letting go of an object without the thread that made it. Without the GIL, references of that thread are counted apart,
   and an object whose last reference another thread drops waits until its maker runs Python again: an idle thread would
   keep mapped and charged what others evicted. No public function says that an object has no maker any more, so private
   fields are written, with what _Py_ExplicitMergeRefcount leaves in them: on versions whose sources were read and that
   are tested, and where an object of ours that is treated so is freed as it must be. Elsewhere objects wait: of 64
   dimensions unloaded while the thread that loaded them sleeps all 64 stay mapped and charged, and with this none. */
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
#define JM_DISOWNS 1
#else
#define JM_DISOWNS 0
#endif

#if JM_DISOWNS
static inline void jm_merge(PyObject *each, Py_ssize_t n_references)
{
    jm_any_store_relaxed(&each->ob_tid, 0);
    jm_any_store_relaxed(&each->ob_ref_local, 0);
    jm_any_store_relaxed(&each->ob_ref_shared, _Py_REF_SHARED(n_references, _Py_REF_MERGED));
}

static void jm_note_the_end(PyObject *capsule) { *(int *)PyCapsule_GetPointer(capsule, NULL) = 1; }

/* 1 if CPython frees what was merged with its last reference, and no sooner; -1 if it does not; 0: no memory to try. */
static int jm_try_to_disown(void)
{
    int has_ended = 0, works;
    PyObject *each = PyCapsule_New(&has_ended, NULL, jm_note_the_end);
    if (each == NULL) {
        PyErr_Clear();
        return 0;
    }
    works = each->ob_tid == _Py_ThreadId() && each->ob_ref_local == 1 && each->ob_ref_shared == 0;
    Py_INCREF(each);
    if (works)
        jm_merge(each, Py_REFCNT(each));
    works = works && Py_REFCNT(each) == 2;
    Py_DECREF(each);
    works = works && Py_REFCNT(each) == 1 && !has_ended;
    Py_DECREF(each);
    return works && has_ended ? 1 : -1;
}

/* Whether to disown anything; tried once in each module. */
static inline int jm_may_disown(void)
{
    static int may;
    if (__builtin_expect(jm_any_load_relaxed(&may) == 0, 0))
        jm_any_store_relaxed(&may, jm_try_to_disown());
    return jm_any_load_relaxed(&may) > 0;
}
#endif

/* Let an object go with its last reference, whichever thread drops that: all references are in the count that every
   thread uses. For an object that no other thread knows yet. */
static inline void jm_disown(PyObject *each)
{
#if JM_DISOWNS
    if (each->ob_tid == _Py_ThreadId() && jm_may_disown())
        jm_merge(each, Py_REFCNT(each));
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
#if JM_DISOWNS && (defined(__x86_64__) || defined(__i386__)) && !defined(__SANITIZE_THREAD__)
    if (jm_any_load_acquire(&each->ob_ref_local) == 1
        && jm_any_load_acquire(&each->ob_ref_shared) == 0
        && jm_any_load_acquire(&each->ob_tid) != _Py_ThreadId() && jm_may_disown())
        jm_merge(each, 1);
#else
    (void)each;
#endif
}

/* The same for the object that stands behind a typed memoryview and holds its buffer. */
#define jm_disown_view(view) jm_disown((PyObject *)(view).memview)

/* A read-only memoryview of N_BYTES at FIRST, which are OWNER's and stay while it lives. PyMemoryView_FromObject would ask
   for a buffer, and who answers would have to be made first: 200 instructions more. What holds the buffer of a memoryview
   releases whatever object it finds there, so the owner is put there; its class has nothing to do then but to lose a
   reference (no bf_releasebuffer). Slices of the memoryview share that holder. */
static inline PyObject *jm_memoryview_of(PyObject *owner, const uint8_t *first, Py_ssize_t n_bytes)
{
    static char nothing;
    PyMemoryViewObject *made =
        (PyMemoryViewObject *)PyMemoryView_FromMemory(first ? (char *)first : &nothing, n_bytes, PyBUF_READ);
    if (made == NULL)
        return NULL;
    made->mbuf->master.obj = Py_NewRef(owner);
    made->view.obj = owner; /* what `memoryview.obj` shows; the reference is that of the holder */
    jm_disown((PyObject *)made->mbuf);
    jm_disown((PyObject *)made);
    return (PyObject *)made;
}

#endif
