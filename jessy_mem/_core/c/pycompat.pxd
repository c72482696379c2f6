"""What differs between CPython versions; see pycompat.h."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "c/pycompat.h":
    enum:
        JM_FREE_THREADED  # 1 where there is no GIL, else 0
    ctypedef struct jm_mutex:  # nothing, with the GIL
        pass
    void jm_mutex_lock(jm_mutex *mutex) noexcept
    void jm_mutex_unlock(jm_mutex *mutex) noexcept
    PyObject *jm_dict_get(object dict_, object key) except? NULL  # a new reference, or NULL: no such key
    object jm_dict_get_or_none(object dict_, object key)  # dict.get, safe while others change it without the GIL
    void jm_gil_turn(uint32_t n) noexcept  # in a long loop that counts `n`: others get the GIL now and then
    uint64_t jm_layer_key(PyObject *layer_id) noexcept  # dimension << 16 | layer; 0: not two ints that can be one
    # Whether a slice of `n` is without a step and has 0 <= start <= stop <= n; all others are PySlice_Unpack's
    bint jm_slice_is_plain(object slice_, Py_ssize_t n, Py_ssize_t *start, Py_ssize_t *stop) noexcept
    # A tuple of two as a class derived from it is, if that adds no field; of what no cycle can pass through.
    object jm_pair_of(PyObject *kind, object first, object second)
    object jm_own_method(object kind, object inherited, object method)  # called faster on objects of that very class
    object jm_stolen(PyObject *each)  # the caller's reference, as an object
    Py_ssize_t jm_refcount(PyObject *each) noexcept  # without counting the caller's temporary
    Py_ssize_t jm_dict_shared_values(object dict_, Py_ssize_t *n_values) noexcept  # those that others refer to
    void jm_disown(PyObject *each) noexcept  # free it at once with its last reference; before others know it
    void jm_adopt(PyObject *each) noexcept  # the same of another thread's, of which the caller has the one reference
    void jm_disown_view(const uint8_t[::1] view) noexcept  # the same for what holds the buffer of a typed memoryview
    # A read-only memoryview of `n_bytes` at `first`, which are `owner`'s and stay while it lives; of no thread.
    object jm_memoryview_of(object owner, const uint8_t *first, Py_ssize_t n_bytes)
