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
import weakref

from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport jm_add_relaxed, jm_flag_load_relaxed, jm_flag_store_relaxed, jm_load_relaxed
from jessy_mem._core.c.clock cimport jm_clock_init, jm_clock_ns, jm_clock_ticks
from jessy_mem._core.c.frozen cimport Frozen, frozen_make, frozen_prepare
from jessy_mem._core.c.os_memory cimport jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_dict_get, jm_dict_shared_values, jm_refcount
from jessy_mem._core.format cimport LayerEntry
from jessy_mem._core.image cimport Image
from jessy_mem._core.latency cimport LatencyHistogram
from jessy_mem._core.region cimport LayerView, MmapRegion, region_of

from jessy_mem.context import LoadedContext
from jessy_mem.errors import LayerNotFound
from jessy_mem.layout import LayerId
from jessy_mem.stats import LatencySummary, MemoryStats, SegmentStats

jm_clock_init()

cdef Frozen CONTEXT = frozen_prepare(LoadedContext)
cdef Frozen SUMMARY = frozen_prepare(LatencySummary)
cdef Frozen SEGMENT = frozen_prepare(SegmentStats)
cdef Frozen STATS = frozen_prepare(MemoryStats)
cdef tuple STATS_FIELDS = MemoryStats.__slots__

cdef enum:
    MIN_RETIRED = 16  # this many are kept an eye on before those that have gone are dropped


cdef struct Span:
    const uint8_t *data
    Py_ssize_t n_bytes


cdef class LayerRegistry:
    """LayerRegistry()\n--\n
    The table of loaded regions, and the accesses to it, counted and timed.

    `record_latency=False` leaves out the clock reads; accesses are counted all the same. Thread-safe.
    """

    def __cinit__(self, *args, **kwargs):
        self._regions = {}
        self.hits = LatencyHistogram()
        self.first_touches = LatencyHistogram()
        self.timed = True
        self.retired = []
        self.prune_at = MIN_RETIRED
        self._tracers = ()
        self.tracers_kept = []

    def set_timed(self, bint timed):
        """Whether accesses are timed, or only counted; for the owner, before the first access."""
        self.timed = timed

    def access_layer(self, layer_id, /):
        """The view of one layer; every caller gets the same object, and nothing is copied.

        `layer_id` is a LayerId or a tuple (dimension, layer). Raises LayerNotFound, which says what to do if the
        dimension is not loaded; ManagerClosed; ChecksumMismatch on the first access to a damaged layer. Thread-safe.
        """
        cdef uint64_t begin_ticks = jm_clock_ticks() if self.timed else 0
        cdef PyObject *found
        cdef MmapRegion region
        cdef LayerView view
        if not is_layer_id(layer_id):
            layer_id = LayerId.of(layer_id)
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
                if self.traced:
                    self.trace_access(view)
                if self.timed:
                    self.hits.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
                else:
                    self.hits.tick()
                return view
        view = self.first_touch(layer_id)
        if self.traced:
            self.trace_access(view)
        if self.timed:
            self.first_touches.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            self.first_touches.tick()
        return view

    def load_context(self, layer_id):
        """One layer as decoded text with its metadata: a LoadedContext.

        Raises what `access_layer` raises; UnicodeDecodeError, naming the layer, if it is not text. Thread-safe.
        """
        context = context_of(self.access_layer(layer_id))
        jm_add_relaxed(&self.n_copies, 1)
        return context

    cdef int trace_access(self, LayerView view) except -1:
        for tracer in self._tracers:
            tracer.record(view.image.dimension_id, view.id[1], view.image.n_bytes)
        return 0

    def _use_tracers(self, tuple tracers):
        """Tell `tracers` of each access from now on; the caller holds the table's lock."""
        # A reader without the GIL takes no lock to read `_tracers`, so what it may find there must never die.
        self.tracers_kept.append(tracers)
        self._tracers = tracers
        self.traced = len(tracers) != 0

    cdef LayerView first_touch(self, layer_id):
        cdef MmapRegion region
        cdef LayerView view
        dimension, layer = layer_id
        region = self._regions.get(dimension)
        if region is None:
            # Not marked as visited: to eviction, a region is visited when it is read again after it came.
            region = self.restore_region(dimension, layer)
        else:
            jm_flag_store_relaxed(&region.visited, 1)
        view = region.find_view(layer)
        if view is None:
            raise LayerNotFound(dimension, layer, f"the dimension has {region.n_layers} layers")
        if view.payload is not None:
            self._settle()
        return view

    def _settle(self):
        """What follows a charge to the budget. The manager knows better."""

    def restore_region(self, dimension, layer):
        """The region of a dimension that `_regions` does not hold; LayerNotFound. The manager knows better."""
        raise LayerNotFound(dimension, layer, "the dimension is not loaded")

    def read_into(self, layer_ids, target_of):
        """Copy the contents of many layers, one after the other, without the GIL; returns their offsets.

        `target_of(n_bytes)` gives the writable buffer. The offsets are a list of n + 1 ints.
        """
        cdef list views = [self.access_layer(layer_id) for layer_id in layer_ids]
        cdef list offsets = [0]
        cdef Py_ssize_t n_layers = len(views)
        cdef Py_ssize_t i, at = 0
        cdef LayerView view
        cdef uint8_t[::1] target
        cdef Span *spans = <Span *> malloc(max(n_layers, 1) * sizeof(Span))
        if spans == NULL:
            raise MemoryError
        try:
            for i in range(n_layers):
                view = views[i]
                spans[i].data, spans[i].n_bytes = view.data, view.size_bytes
                at += view.size_bytes
                offsets.append(at)
            target = target_of(at)
            if at:
                with nogil:
                    at = 0
                    for i in range(n_layers):
                        jm_assert(spans[i].n_bytes <= target.shape[0] - at, at, target.shape[0])
                        memcpy(&target[at], spans[i].data, spans[i].n_bytes)
                        at += spans[i].n_bytes
        finally:
            free(spans)
        self.count_copies(n_layers)
        return offsets

    def count_copies(self, uint64_t n):
        """Count payload copies made outside this class."""
        jm_add_relaxed(&self.n_copies, n)

    def finish(self, LatencyHistogram histogram, uint64_t begin_ticks):
        """Count an event that began at `begin_ticks`, and time it if events are timed."""
        if self.timed:
            histogram.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
        else:
            histogram.tick()

    def adopt(self, dimension, MmapRegion region):
        """Let readers of `dimension` find `region` from now on."""
        region.is_owned = True
        self._regions[dimension] = region

    def retire(self, MmapRegion region):
        """Keep an eye on a region that leaves `_regions`: its views may live on, and are leases then."""
        region.is_owned = False
        if len(self.retired) >= self.prune_at:
            self.retired = [each for each in self.retired if each() is not None]
            self.prune_at = 2 * len(self.retired) + MIN_RETIRED
        self.retired.append(weakref.ref(region.image))

    def withdraw(self, dimension):
        """Take a region out of `_regions`: (generation, layers, source). It goes at once if nobody holds it."""
        cdef MmapRegion region = self._regions.pop(dimension)
        facts = region.image.generation, region.image.n_layers, region.image.source
        if n_holders(region, jm_refcount(<PyObject *> region) - 1):
            self.retire(region)
        return facts

    def is_evictable(self, dimension):
        """Whether the dimension is loaded from a file, changeable, and held by nobody."""
        cdef MmapRegion region = self._regions.get(dimension)
        if region is None or not is_evictable(region):
            return False
        return n_holders(region, jm_refcount(<PyObject *> region) - 2) == 0

    def freed_without(self, dimension):
        """The bytes that come free when the dimension leaves the table: none as long as somebody holds it."""
        cdef MmapRegion region = self._regions.get(dimension)
        if region is None or n_holders(region, jm_refcount(<PyObject *> region) - 2):
            return 0
        return held_bytes(region.image)

    def evictable_regions(self):
        """What can be evicted: list of (dimension, bytes that this frees)."""
        # No loop variable is a region: it would count as a holder.
        return [
            (dimension, held_bytes((<MmapRegion> self._regions[dimension]).image))
            for dimension in list(self._regions)
            if self.is_evictable(dimension)
        ]

    def take_visited(self):
        """The dimensions that were read since this was last asked."""
        cdef MmapRegion region
        cdef list visited = []
        for dimension, region in self._regions.items():
            if jm_flag_load_relaxed(&region.visited):
                jm_flag_store_relaxed(&region.visited, 0)
                visited.append(dimension)
        return visited

    def survey(self):
        """One walk over the regions.

        (layers, mapped content bytes, mapped regions, evictable bytes, pinned bytes, simulated dimensions as a list)
        """
        cdef MmapRegion region
        cdef Image image
        cdef bint held
        cdef list simulated = []
        cdef uint64_t n_layers = 0, content_bytes = 0, n_mapped = 0, evictable_bytes = 0, pinned_bytes = 0
        for region in list(self._regions.values()):
            # The list, the loop variable and `_regions` hold the region.
            held = n_holders(region, jm_refcount(<PyObject *> region) - 3) != 0
            image = region.image
            n_layers += image.n_layers
            if image.source != "pool":
                content_bytes += image.content_bytes
                n_mapped += 1
            if image.source == "simulated":
                simulated.append(image.dimension_id)
            if held:
                continue
            if is_evictable(region):
                evictable_bytes += held_bytes(region.image)
            else:
                pinned_bytes += held_bytes(region.image)
        return n_layers, content_bytes, n_mapped, evictable_bytes, pinned_bytes, simulated

    def holdings(self):
        """What is held, loaded or retired: list of (dimension, generation, charged bytes, views, retired)."""
        cdef MmapRegion region
        cdef Image image
        cdef Py_ssize_t n_views
        cdef list found = []
        for region in list(self._regions.values()):
            n_views = n_holders(region, jm_refcount(<PyObject *> region) - 3)
            if n_views > 0:
                image = region.image
                found.append((image.dimension_id, image.generation, held_bytes(image), n_views, False))
        for reference in self.retired:
            image = reference()
            if image is not None:
                n_views = jm_refcount(<PyObject *> image) - 1
                if n_views > 0:  # else the last one has just gone
                    found.append((image.dimension_id, image.generation, held_bytes(image), n_views, True))
        return found

    def residency(self):
        """System calls for all that is mapped or held: (mapped, resident, decompressed, table bytes)."""
        cdef MmapRegion region
        cdef Image image
        cdef uint64_t n_pages, n_resident, mapped_bytes = 0, resident_bytes = 0, decompressed_bytes = 0, table_bytes = 0
        cdef set images = {region.image for region in list(self._regions.values())}
        images.update([each for each in [reference() for reference in self.retired] if each is not None])
        for image in images:
            decompressed_bytes += jm_load_relaxed(&image.decompressed_bytes)
            table_bytes += image.n_layers * sizeof(LayerEntry)
            if image.source == "pool":
                continue
            with nogil:
                failed = jm_os_resident_pages(&image.bytes[0], image.n_bytes, &n_pages, &n_resident)
            if failed:
                raise OSError(errno, "mincore")
            mapped_bytes += n_pages * jm_page_bytes()
            resident_bytes += n_resident * jm_page_bytes()
        for histogram in (self.hits, self.first_touches):
            table_bytes += histogram.n_bytes
        return mapped_bytes, resident_bytes, decompressed_bytes, table_bytes

    @property
    def copies(self):
        """Payload copies made: decoded text, read_many, decompressed layers."""
        return jm_load_relaxed(&self.n_copies)

    @property
    def access_count(self):
        """Accesses that returned a view."""
        return self.hits.count_events() + self.first_touches.count_events()


cdef bint is_layer_id(object layer_id) noexcept:
    """Whether it is a tuple of two ints, which needs no conversion."""
    return (
        PyTuple_Check(layer_id)
        and PyTuple_GET_SIZE(layer_id) == 2
        and PyLong_Check(<object> PyTuple_GET_ITEM(layer_id, 0))
        and PyLong_Check(<object> PyTuple_GET_ITEM(layer_id, 1))
    )


cdef uint64_t held_bytes(Image image) noexcept:
    """What is charged for a region and for its decompressed layers."""
    return image.charged_bytes + jm_load_relaxed(&image.decompressed_bytes)


cdef object context_of(LayerView view):
    """LoadedContext.of(view)."""
    return frozen_make(&CONTEXT, (view.id, view.decode(), view.frequency, view.keywords, view.depth, view.source))


cdef bint is_evictable(MmapRegion region):
    return not region.is_immutable and region.image.source != "pool"


cdef Py_ssize_t n_holders(MmapRegion region, Py_ssize_t n_handles) noexcept:
    """How many views, memoryviews and handles (`n_handles`) of a region others hold, read from reference counts.

    A count may be out of date as soon as it is read. That is harmless: whoever took a view meanwhile keeps it, and its
    bytes stay charged; only the room that an eviction makes comes later.
    """
    cdef Py_ssize_t n_cached
    cdef Py_ssize_t n_held = n_handles + jm_dict_shared_values(region.views, &n_cached)
    # Whoever exports the image without a view: access() and memoryview(region).
    return n_held + jm_refcount(<PyObject *> region.image) - 1 - n_cached


def make_region(Image image, bint immutable, allocate, str verify="lazy"):
    """A MmapRegion around an image that is open already; `allocate` gives memory for decompressed layers."""
    if verify == "open":
        image.check_all()
    elif verify == "never":
        image.trusted = True
    return region_of(image, immutable, allocate)


def latency_summary(LatencyHistogram histogram not None):
    """What a histogram has recorded, as a LatencySummary."""
    return frozen_make(&SUMMARY, histogram.summary())


def segment_stats(tuple numbers not None):
    """``SegmentStats(*numbers)``."""
    return frozen_make(&SEGMENT, numbers)


def memory_stats(**fields):
    """``MemoryStats(**fields)``, for all fields that there are."""
    return frozen_make(&STATS, tuple([fields[name] for name in STATS_FIELDS]))


def now_ticks():
    """A reading of the clock, for LayerRegistry.finish."""
    return jm_clock_ticks()
