"""Reader: the read path of one thread, which writes nothing that another thread reads or writes.

A hit of the manager hands out the one view that all threads share, or, without the GIL, one that it made for a thread
that reads much (shelf.pyx). A Reader has views of its own, over the same bytes, and a table of them:

    Reader --> own:  | key | reference | --> LayerView (own) --> Image, LayerId, keywords (shared, counted once a layer)
                ^                                                    ^
    Shelf: readers                   MmapRegion --> views: LayerView +

What changes a region takes its views out of these tables in the same step (shelf.pyx), so a Reader follows all that the
manager follows, and an idle one keeps nothing of what was evicted. While somebody changes something, and for what is
not in its own table, it reads as the manager does.

HAZARD: a Reader's table is written by its owner while its flag is set, and by who changes a region while it is not.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport free

from jessy_mem._core.c.atomic cimport (
    jm_add_relaxed, jm_flag_load_relaxed, jm_load_acquire, jm_load_relaxed, jm_short_load_acquire,
    jm_short_load_relaxed, jm_unlikely
)
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.c.pycompat cimport jm_dict_get_or_none, jm_stolen
from jessy_mem._core.c.read_side cimport jm_read_enter, jm_read_flag_begin, jm_read_flag_end, jm_read_leave
from jessy_mem._core.c.thread cimport jm_thread_serial
from jessy_mem._core.kernels.flat cimport flat_begin, flat_find, flat_label
from jessy_mem._core.kernels.shard cimport own_add, shard_record_own
from jessy_mem._core.latency cimport clock_factor
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.registry cimport LayerRegistry, begin_of, context_of, end_of, record
from jessy_mem._core.shelf cimport drop_views, key_in
from jessy_mem._core.view cimport LayerView, jm_stolen_view

from jessy_mem.errors import ManagerClosed

jm_clock_use(clock_factor())


@cython.final
@cython.no_gc_clear  # the shelf has a pointer to `own` until this ends
cdef class Reader:
    """Reader(manager)\n--\n
    What one thread reads a manager with, where several threads read the same layers without the GIL.

    Obtained from ``memory.reader()``, and belongs to the thread that called that: another one gets RuntimeError. It
    follows what the manager follows, and what it hands out holds a dimension as the manager's own views do. Its views
    are its own: the same object each time, as long as the layer does not change, and the manager's in content only.
    Drop them in its thread. While another thread changes what is loaded, it may hand out a view of the manager's.

    A context manager; after `close`, or when the manager is closed, ManagerClosed. It keeps its manager, and takes at
    most 150 bytes for each layer that it has read.
    """

    def __cinit__(self, LayerRegistry manager not None):
        self.owner = jm_thread_serial()
        self.own.flag = jm_read_flag_begin()
        if self.own.flag == NULL or not flat_begin(&self.own.flat, 0):
            raise MemoryError
        self.hits, self.limit_ns = manager._hits.shard_claim(), manager._hits.limit_ns
        self.timed = manager._timed
        self.shelf = manager.shelf
        self.shelf.add_reader(&self.own)
        self.registry = manager

    def __dealloc__(self):
        self.end()
        free(self.own.flat.cells)
        if self.own.flag != NULL:
            jm_read_flag_end(self.own.flag)

    def access_layer(self, layer_id, /):
        """What `MmapManager.access_layer` returns, as a view of this Reader's own; raises the same."""
        cdef uint64_t key = key_in(&self.own.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = jm_clock_ticks() if self.timed else 0
        cdef PyObject *found = find_own(self, key, begin_ticks)
        return self.read_otherwise(layer_id) if found == NULL else jm_stolen(found)

    def __getitem__(self, layer_id):
        """``reader[layer_id]`` and ``reader[dimension, layer]``: what `access_layer` returns."""
        cdef uint64_t key = key_in(&self.own.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = jm_clock_ticks() if self.timed else 0
        cdef PyObject *found = find_own(self, key, begin_ticks)
        return self.read_otherwise(layer_id) if found == NULL else jm_stolen(found)

    cdef LayerView read(self, layer_id):
        cdef uint64_t key = key_in(&self.own.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = jm_clock_ticks() if self.timed else 0
        cdef PyObject *found = find_own(self, key, begin_ticks)
        return self.read_otherwise(layer_id) if found == NULL else jm_stolen_view(found)

    cdef LayerView read_otherwise(self, layer_id):
        cdef LayerRegistry registry = self.opened()
        cdef uint16_t round = jm_short_load_acquire(&registry.round)  # before the region is marked as read in it
        cdef LayerView view = registry.read(layer_id)
        cdef MmapRegion region = jm_dict_get_or_none(registry.regions, view.image.dimension_id)
        cdef LayerView shared  # `view` may be this thread's own
        cdef uint64_t seen
        if region is not None:
            seen = jm_load_acquire(&region.edition)
            shared = jm_dict_get_or_none(region.views, view.id[1])
            if shared is not None and shared.image is view.image:
                return self.shelf.keep(&self.own, shared, &region.edition, seen, round, True)
        return view  # of a snapshot, or of what has changed meanwhile

    cdef LayerRegistry opened(self):
        if self.owner != jm_thread_serial():
            raise RuntimeError("a Reader belongs to the thread that made it: make one in each thread, memory.reader()")
        if self.registry is None:
            raise ManagerClosed("the reader")
        return self.registry

    def load_context(self, layer_id):
        """What `MmapManager.load_context` returns; raises the same."""
        cdef bint is_copy
        context = context_of(self.read(layer_id), &is_copy)
        if is_copy:
            own_add(&self.own.n_copies, 1)
        return context

    def access_many(self, layer_ids, /):
        """The views of many layers, in their order: what `access_layer` returns for each, in one call."""
        found = [self.read(layer_id) for layer_id in layer_ids]
        if not found:
            self.opened()._pass_gate()  # who is closed says so, of nothing too
        return found

    def read_many(self, layer_ids, *, out=None, threads=None):
        """What `MmapManager.read_many` returns, which makes no views; raises the same."""
        return self.opened().read_many(layer_ids, out=out, threads=threads)

    def layers(
        self, dimension=None, keyword=None, frequency=None, *, name=None, since_ns=None, before_ns=None, where=None
    ):
        """What `MmapManager.layers` returns; raises the same."""
        return self.opened().layers(
            dimension, keyword, frequency, name=name, since_ns=since_ns, before_ns=before_ns, where=where
        )

    def close(self):
        """Let go of all that it keeps. What was handed out lives on. May be called twice, by its thread."""
        if self.registry is not None:
            self.opened()
            self.end()

    cdef int end(self) except -1:
        cdef LayerRegistry registry = self.registry
        if registry is None:
            return 0
        self.registry = None
        self.shelf.remove_reader(&self.own)
        jm_add_relaxed(&registry.n_copies, self.own.n_copies)
        drop_views(&self.own.flat)
        return 0

    def __enter__(self):
        self.opened()
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __reduce__(self):
        raise TypeError("a Reader belongs to one thread, and cannot be copied or pickled")

    def __repr__(self):
        return "<Reader closed>" if self.registry is None else f"<Reader of {self.registry!r}>"


cdef inline PyObject *find_own(Reader self, uint64_t key, uint64_t begin_ticks) noexcept:
    """A hit: a reference to the view, which is the caller's. NULL for all that is to be looked at more closely."""
    cdef uint64_t end_ticks = 0
    cdef PyObject *view
    # Through the fields of `self`, for a variable would count a reference on what all threads share.
    if jm_unlikely(
        key == 0
        or self.owner != jm_thread_serial()
        or self.registry is None
        or jm_load_acquire(self.registry.word) != jm_load_acquire(&self.registry.seen)
        or (begin_ticks or begin_of(False, self.registry.word, &self.registry.look_ticks))
        > jm_load_relaxed(&self.registry.look_ticks)
        or jm_flag_load_relaxed(&self.registry.traced)
        or not jm_read_enter(&self.shelf.read_side, self.own.flag)
    ):
        return NULL
    view = <PyObject *> flat_find(&self.own.flat, flat_label(key, jm_short_load_relaxed(&self.registry.round)))
    if view != NULL:
        end_ticks = end_of(self.timed, view)
        Py_INCREF(<object> view)
    jm_read_leave(self.own.flag)
    if view != NULL:
        if self.hits == NULL:
            record(self.registry._hits, begin_ticks, self.timed)
        elif self.timed:
            shard_record_own(self.hits, jm_clock_ns(begin_ticks, end_ticks), self.limit_ns)
        else:
            own_add(&self.hits.untimed, 1)
    return view
