"""The text cache: what layers were decoded to, kept within a bound and the budget, and the first to go.

An Image owns the bytes of one generation, and so it owns the texts that were made of them: a text is never that of
another generation, all views and Readers of a layer share it, and it goes with the files that it was read from.

    Image --> KeptTexts --> by_layer: {layer: KeptText} --> str
                  |                           ^  |
                  v                           |  v
              TextCache --> ring --> oldest <---> ... <---> newest --> ring

What was found again gets a second chance when the oldest go (CLOCK). A text is kept only while that passes no threshold
of the budget, so to keep one evicts nothing, refuses nothing and calls nobody back.

HAZARD: without the GIL texts are found, kept and shed at the same time. What is found is a reference of one's own to
what does not change. A text is put into `by_layer` and then into the ring; who takes it out of the ring takes it out of
`by_layer`, so nobody does so twice. The ring changes under the cache's critical section, inside which no other lock is
taken and nothing dies.
"""
cimport cython
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.budget cimport Ledger
from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_cas_weak_acq_rel, jm_flag_load_relaxed, jm_flag_store_relaxed, jm_load_acquire, jm_load_relaxed,
    jm_store_release, jm_sub_relaxed
)
from jessy_mem._core.c.pycompat cimport jm_dict_get, jm_disown
from jessy_mem._core.c.typedefs cimport OK
from jessy_mem._core.kernels.account cimport Account

cdef int64_t ALL = 1 << 62
# What is charged for a text that is kept beside the str: also 32 for its entry in a dict, as that is filled on average.
RECORD_BYTES = KeptText.__basicsize__ + 32
cdef uint64_t record_bytes = RECORD_BYTES


@cython.final
@cython.no_gc  # the cycles that pass through it end when it is shed, or its image goes
cdef class KeptText:

    def __dealloc__(self):
        if self.cache is not None:
            self.cache.release(self.n_bytes)


@cython.final
@cython.no_gc
cdef class KeptTexts:

    def __dealloc__(self):
        cdef Py_ssize_t at = 0
        cdef PyObject *layer
        cdef PyObject *kept
        if self.by_layer is None:
            return
        with cython.critical_section(self.by_layer):  # who sheds may be about to take one out
            while PyDict_Next(self.by_layer, &at, &layer, &kept):
                self.cache.unlink(<KeptText> kept)
        self.by_layer.clear()

    cdef str find(self, layer):
        cdef PyObject *found = jm_dict_get(self.by_layer, layer)
        cdef str text
        if found == NULL:
            return None
        text = (<KeptText> found).text
        if not jm_flag_load_relaxed(&(<KeptText> found).found):
            jm_flag_store_relaxed(&(<KeptText> found).found, 1)
        Py_DECREF(<KeptText> found)
        return text

    cdef str keep(self, layer, str text):
        cdef KeptText kept = KeptText.__new__(KeptText), first
        jm_disown(<PyObject *> kept)
        kept.n_bytes = <uint64_t> text.__sizeof__() + record_bytes
        if not self.cache.charge(kept.n_bytes):
            return text
        jm_disown(<PyObject *> text)
        kept.cache, kept.home, kept.layer, kept.text = self.cache, self.by_layer, layer, text
        first = self.by_layer.setdefault(layer, kept)
        if first is kept:
            self.cache.link(kept)
        return first.text

    cdef int drop(self, layer) except -1:
        cdef PyObject *found = jm_dict_get(self.by_layer, layer)
        cdef KeptText kept
        if found != NULL:
            kept = <KeptText> found
            Py_DECREF(kept)
            if self.cache.unlink(kept):
                self.by_layer.pop(layer, None)
        return 0


@cython.final
@cython.no_gc  # what is in the ring is of images, which keep this
cdef class TextCache:
    """TextCache(ledger, segment, bound_bytes)\n--\n
    The texts of a manager's layers that are kept: `bound_bytes` at most, charged to `segment` of `ledger`.

    Thread-safe.
    """

    def __cinit__(self, *args, **kwargs):
        self.ring = KeptText.__new__(KeptText)
        self.ring.older = self.ring.newer = self.ring

    def __init__(self, Ledger ledger not None, str segment not None, uint64_t bound_bytes):
        if self.ledger is not None:
            raise TypeError("a TextCache is initialised once")
        self.segment = ledger.segment_index(segment)
        self.bound_bytes = bound_bytes
        self.ledger = ledger

    def __dealloc__(self):
        if self.ring is not None:
            self.ring.older = self.ring.newer = None

    @property
    def used_bytes(self):
        """Of what is kept: each text as sys.getsizeof counts it, and RECORD_BYTES."""
        return jm_load_relaxed(&self.n_bytes)

    def shed(self, int64_t n_bytes):
        """Keep less by `n_bytes`, if that is above 0, or nothing; the bytes that are kept no longer."""
        cdef int64_t shed_bytes = 0
        cdef KeptText kept
        while shed_bytes < n_bytes:
            kept = self.unlink_oldest()
            if kept is None:
                break
            shed_bytes += kept.n_bytes
            kept.home.pop(kept.layer, None)
        return shed_bytes

    def clear(self):
        """Keep nothing of what is kept now."""
        self.shed(ALL)

    def close(self):
        """Keep nothing from now on."""
        jm_store_release(&self.bound_bytes, 0)
        self.clear()

    cdef KeptTexts of_image(self):
        cdef KeptTexts texts = KeptTexts.__new__(KeptTexts)
        jm_disown(<PyObject *> texts)
        texts.cache, texts.by_layer = self, {}
        jm_disown(<PyObject *> texts.by_layer)
        return texts

    cdef int64_t spare_bytes(self) noexcept:
        cdef Account *account = &self.ledger.segments[self.segment]
        cdef int64_t of_bound = jm_load_acquire(&self.bound_bytes) - jm_load_relaxed(&self.n_bytes)
        cdef int64_t of_segment = account.limit_bytes - jm_load_relaxed(&account.granted_bytes)
        cdef int64_t of_total = self.ledger.calm_bytes - jm_load_relaxed(&self.ledger.total.granted_bytes)
        return min(of_bound, of_segment, of_total)

    cdef bint charge(self, uint64_t n_bytes) except -1:
        cdef uint64_t kept_bytes = jm_load_relaxed(&self.n_bytes), bound_bytes = jm_load_acquire(&self.bound_bytes)
        cdef int64_t missing_bytes = <int64_t> n_bytes - self.spare_bytes()
        if missing_bytes > 0:
            if missing_bytes > <int64_t> kept_bytes:
                return False
            self.shed(missing_bytes)
            kept_bytes = jm_load_relaxed(&self.n_bytes)
        while kept_bytes + n_bytes <= bound_bytes:
            if jm_cas_weak_acq_rel(&self.n_bytes, &kept_bytes, kept_bytes + n_bytes):
                if self.ledger.reserve_bytes(self.segment, n_bytes, self.ledger.calm_bytes) == OK:
                    return True
                jm_sub_relaxed(&self.n_bytes, n_bytes)
                break
        return False

    cdef void release(self, uint64_t n_bytes) noexcept:
        cdef uint64_t kept_bytes
        self.ledger.release_bytes(self.segment, n_bytes)
        kept_bytes = jm_sub_relaxed(&self.n_bytes, n_bytes)
        jm_assert(kept_bytes >= n_bytes, kept_bytes, n_bytes)

    cdef int link(self, KeptText kept) except -1:
        with cython.critical_section(self):
            self.put_newest(kept)
        if jm_load_acquire(&self.bound_bytes) == 0:  # closed since it was charged
            self.clear()
        return 0

    cdef bint unlink(self, KeptText kept) except -1:
        cdef bint is_there
        with cython.critical_section(self):
            is_there = kept.newer is not None
            if is_there:
                take_out(kept)
        return is_there

    cdef KeptText unlink_oldest(self):
        cdef KeptText kept
        cdef bint goes = False
        while not goes:
            with cython.critical_section(self):
                kept = self.ring.newer
                if kept is not self.ring:
                    take_out(kept)
                    goes = not jm_flag_load_relaxed(&kept.found)
                    if not goes:
                        jm_flag_store_relaxed(&kept.found, 0)
                        self.put_newest(kept)
            if kept is self.ring:
                return None
        return kept

    cdef void put_newest(self, KeptText kept) noexcept:
        kept.older, kept.newer = self.ring.older, self.ring
        kept.older.newer = self.ring.older = kept


cdef void take_out(KeptText kept) noexcept:
    kept.older.newer, kept.newer.older = kept.newer, kept.older
    kept.older = kept.newer = None
