"""The read path: (dimension, layer) -> LayerView.

HAZARD: this is called from every thread, millions of times a second, while dimensions come and go. A hit takes two dict
lookups and returns an object that exists; it takes no lock, allocates nothing, and writes only to counters of its own
thread and, if it is clear, the region's visited flag. A generation is replaced by one assignment to `_regions`, so a
reader finds the old region or the new one, whole.

    _regions: {dimension: MmapRegion} --> region.views: {layer: LayerView}
        |  miss: the dimension was evicted, or is not loaded      | miss: first touch, checked and made
        v                                                         v
    restore_region (the manager's)                            MmapRegion.find_view
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint64_t

from jessy_mem._core.atomic cimport jm_flag_load_relaxed, jm_flag_store_relaxed
from jessy_mem._core.clock cimport jm_clock_init, jm_clock_ns, jm_clock_ticks
from jessy_mem._core.image cimport Image
from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.pycompat cimport jm_dict_get
from jessy_mem._core.region cimport LayerView, MmapRegion, region_of

from jessy_mem.errors import LayerNotFound
from jessy_mem.layout import LayerId

jm_clock_init()


cdef class LayerRegistry:
    """The table of loaded regions, and the accesses to it, counted and timed.

    `record_latency=False` leaves out the clock reads; accesses are counted all the same. Thread-safe.
    """

    def __cinit__(self, *args, **kwargs):
        self._regions = {}
        self.hits = LatencyHistogram()
        self.first_touches = LatencyHistogram()
        self.timed = True

    def set_timed(self, bint timed):
        """Whether accesses are timed, or only counted; for the owner, before the first access."""
        self.timed = timed

    def access_layer(self, layer_id):
        """The view of one layer; every caller gets the same object, and nothing is copied.

        `layer_id` is a LayerId or a tuple (dimension, layer). Raises LayerNotFound, which says what to do if the
        dimension is not loaded; ManagerClosed; ChecksumMismatch on the first access to a damaged layer. Thread-safe.
        """
        cdef uint64_t begin_ticks = jm_clock_ticks() if self.timed else 0
        cdef PyObject *found
        cdef MmapRegion region
        cdef LayerView view
        if PyTuple_Check(layer_id) and PyTuple_GET_SIZE(layer_id) == 2:
            found = jm_dict_get(self._regions, <object> PyTuple_GET_ITEM(layer_id, 0))
            if found != NULL:
                region = <MmapRegion> found
                Py_DECREF(region)
                found = jm_dict_get(region.views, <object> PyTuple_GET_ITEM(layer_id, 1))
                if found != NULL:
                    view = <LayerView> found
                    Py_DECREF(view)
                    if not jm_flag_load_relaxed(&region.visited):
                        jm_flag_store_relaxed(&region.visited, 1)
                    if self.timed:
                        self.hits.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
                    else:
                        self.hits.tick()
                    return view
        view = self.first_touch(layer_id)
        if self.timed:
            self.first_touches.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            self.first_touches.tick()
        return view

    cdef LayerView first_touch(self, layer_id):
        cdef MmapRegion region
        cdef LayerView view
        try:
            dimension, layer = layer_id
        except (TypeError, ValueError):
            LayerId.checked(layer_id)
            raise
        if not (isinstance(dimension, int) and isinstance(layer, int)):
            LayerId.checked(layer_id)
        region = self._regions.get(dimension)
        if region is None:
            region = self.restore_region(dimension, layer)
        view = region.find_view(layer)
        if view is None:
            raise LayerNotFound(dimension, layer, f"the dimension has {region.n_layers} layers")
        jm_flag_store_relaxed(&region.visited, 1)
        return view

    def restore_region(self, dimension, layer):
        """The region of a dimension that `_regions` does not hold; LayerNotFound. The manager knows better."""
        raise LayerNotFound(dimension, layer, "the dimension is not loaded")

    @property
    def access_count(self):
        """Accesses that returned a view."""
        return self.hits.count_events() + self.first_touches.count_events()


def make_region(Image image, bint immutable, allocate):
    """A MmapRegion around an image that is open already; `allocate` gives memory for decompressed layers."""
    return region_of(image, immutable, allocate)
