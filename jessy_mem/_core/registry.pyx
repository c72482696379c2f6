"""The read path: (dimension, layer) -> LayerView.

HAZARD: this is called from every thread, millions of times a second, while dimensions come and go. A hit takes one
search in a flat table, the shelf, and returns an object that exists; it takes no lock, allocates nothing, and writes
only to counters of its own thread. What is not on the shelf, or was not read since eviction last asked, is found and
put there. A generation is replaced by one assignment to `_regions`, so readers find the old region or the new, whole.

    shelf: {round of eviction, dimension << 16 | layer: LayerView}
        |  miss
        v
    _regions: {dimension: MmapRegion} --> region.views: {layer: LayerView}
        |  miss: the dimension was evicted, or is not loaded      | miss: first touch, checked and made
        v                                                         v
    _restore (the table's)                                    MmapRegion.find_view

Before that it passes a gate, one comparison of two words: the number of the newest change that any process announced,
and the number up to which this one has followed. While they differ, and while what is read is to change in one step or
for some readers only, each reader stops there (`_pass_gate`, following.py). Who has passed reads the generations of
then or later ones, but never a later one first and then, past a shut gate, an older one.

What changes `_regions`, and what reference counts say of it, is holders.pyx; when and why is the table's.
"""
from collections.abc import ItemsView, KeysView, ValuesView
from types import MappingProxyType

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_add_relaxed, jm_flag_load_relaxed, jm_flag_store_relaxed, jm_load_acquire, jm_load_relaxed,
    jm_short_load_acquire, jm_short_load_relaxed, jm_short_store_release, jm_store_relaxed, jm_store_release,
    jm_unlikely
)
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.c.pycompat cimport jm_dict_get_or_none, jm_layer_key, jm_own_method, jm_stolen
from jessy_mem._core.c.read_side cimport jm_read_enter_row, jm_read_leave_row
from jessy_mem._core.c.thread cimport jm_thread_number, jm_thread_row, jm_thread_serial
from jessy_mem._core.changes cimport ChangePage
from jessy_mem._core.format cimport CODEC_RAW, LayerEntry
from jessy_mem._core.gather cimport Gathered, gathered_add
from jessy_mem._core.holders cimport Holders
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.flat cimport flat_label
from jessy_mem._core.latency cimport LatencyHistogram, clock_factor
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.shelf cimport find_for_row, key_in
from jessy_mem._core.stack cimport Place, stack_find
from jessy_mem._core.view cimport LayerView, jm_stolen_view, source_of

from jessy_mem._core.records import LoadedContext
from jessy_mem.errors import LayerNotFound
from jessy_mem.layout import LayerId
from jessy_mem.units import counted

jm_clock_use(clock_factor())

cdef enum:
    LAST_ROUND = 0xFFFF
    SHUT = 1                  # no page has this number: they begin at 2**62, and none is 0
    LOOK_EVERY_NS = 100000000

cdef uint64_t NEVER = -1


cdef class LayerRegistry:
    """LayerRegistry()\n--\n
    The read path over the loaded regions; accesses are counted and timed.

    Names without an underscore are what a user calls. What a table does with it is underscored. Thread-safe.
    """

    def __cinit__(self, *args, **kwargs):
        self._holders = Holders()
        self.regions = self._holders.regions
        self.shelf = self._holders.shelf
        self.round = 1
        self._regions = MappingProxyType(self.regions)
        self._hits = LatencyHistogram()
        self._first_touches = LatencyHistogram()
        self._timed = True
        self.visits = []
        self.word = &self.alone
        self.look_ticks = NEVER
        self.tracers = ()

    def _set_timed(self, bint timed):
        """Whether events are timed, or only counted; for the owner, before the first access."""
        self._timed = timed

    def access_layer(self, layer_id, /):
        """The view of one layer, of which nothing is copied; each caller gets the same, or what `LayerView` says.

        `layer_id` is a LayerId or a tuple (dimension, layer). Raises LayerNotFound, which says what to do if the
        dimension is not loaded; ManagerClosed; ChecksumMismatch on the first access to a damaged layer. Thread-safe.
        """
        cdef uint64_t key = key_in(&self.shelf.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = begin_of(self._timed, self.word, &self.look_ticks)
        cdef PyObject *found = find_view(self, key, begin_ticks)
        return self.read_otherwise(layer_id, begin_ticks) if found == NULL else jm_stolen(found)

    def __getitem__(self, layer_id):
        """``memory[layer_id]`` and ``memory[dimension, layer]``: what `access_layer` returns."""
        cdef uint64_t key = key_in(&self.shelf.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = begin_of(self._timed, self.word, &self.look_ticks)
        cdef PyObject *found = find_view(self, key, begin_ticks)
        return self.read_otherwise(layer_id, begin_ticks) if found == NULL else jm_stolen(found)

    def get(self, layer_id, default=None, /):
        """What `access_layer` returns, or `default` if there is no such layer."""
        try:
            return self.read(layer_id)
        except LayerNotFound:
            return default

    def keys(self):
        """The LayerIds, as a view of what is loaded now."""
        self._pass_gate()  # who is closed says so
        return KeysView(self)

    def values(self):
        """The LayerViews, as a view of what is loaded now; each is read as it is come to."""
        self._pass_gate()  # who is closed says so
        return ValuesView(self)

    def items(self):
        """Pairs of LayerId and LayerView, as a view of what is loaded now; each is read as it is come to."""
        self._pass_gate()  # who is closed says so
        return ItemsView(self)

    cdef LayerView read(self, layer_id):
        cdef uint64_t key = key_in(&self.shelf.flat, <PyObject *> layer_id)
        cdef uint64_t begin_ticks = begin_of(self._timed, self.word, &self.look_ticks)
        cdef PyObject *found = find_view(self, key, begin_ticks)
        return self.read_otherwise(layer_id, begin_ticks) if found == NULL else jm_stolen_view(found)

    cdef LayerView read_otherwise(self, layer_id, uint64_t begin_ticks):
        """The same for all that is not found on the shelf."""
        cdef MmapRegion region
        cdef LayerView view = None
        cdef LatencyHistogram events
        cdef uint64_t edition = 0
        cdef uint16_t round = jm_short_load_acquire(&self.round)  # before the region is marked as read in it
        if not is_layer_id(layer_id):
            layer_id = LayerId.of(layer_id)
        if jm_unlikely(
            jm_load_acquire(self.word) != jm_load_acquire(&self.seen) or begin_ticks > jm_load_relaxed(&self.look_ticks)
        ):
            view = self.stop_at_gate(layer_id, begin_ticks)
            if view is not None:
                return view
        region = jm_dict_get_or_none(self.regions, <object> PyTuple_GET_ITEM(layer_id, 0))
        if region is not None:
            edition = jm_load_acquire(&region.edition)
            view = jm_dict_get_or_none(region.views, <object> PyTuple_GET_ITEM(layer_id, 1))
        if view is not None:
            self.mark(region, view.image.dimension_id)
            view = self.shelf.keep_in_row(
                self.shelve(view, region, edition, round), jm_thread_serial(), view, &region.edition, edition, round
            )
            events = self._hits
        else:
            view = self.first_touch(layer_id)
            events = self._first_touches
        if jm_flag_load_relaxed(&self.traced):
            self.trace_access(view)
        record(events, begin_ticks, self._timed)
        return view

    cdef unsigned int shelve(self, LayerView view, MmapRegion region, uint64_t edition, uint16_t round) noexcept:
        cdef unsigned int row = jm_thread_number() + 1  # which it has from now on
        cdef uint64_t label = flat_label(jm_layer_key(<PyObject *> view.id), round)
        self.shelf.put(row, label, <PyObject *> view, &region.edition, edition)
        return row

    def load_context(self, layer_id):
        """One layer as decoded text with its metadata: a LoadedContext.

        Raises what `access_layer` raises; UnicodeDecodeError, naming the layer, if it is not text. Thread-safe.
        """
        cdef bint is_copy
        context = context_of(self.read(layer_id), &is_copy)
        if is_copy:
            jm_add_relaxed(&self.n_copies, 1)
        return context

    cdef LayerView stop_at_gate(self, layer_id, uint64_t begin_ticks):
        """Wait until the gate may be passed, and return None; or the view, if this thread reads in a snapshot."""
        if begin_ticks > jm_load_relaxed(&self.look_ticks):
            self._look_from(begin_ticks)
            self._look()
        snapshot = self._pass_gate()
        return None if snapshot is None else (<LayerRegistry> snapshot).read(layer_id)

    def _follow_page(self, ChangePage page not None):
        """Stop readers when `page` has a change; for the owner, before the first access."""
        self.page = page
        self.word = page.word
        self._look_from(jm_clock_ticks())

    def _look_from(self, uint64_t now_ticks):
        """The next look for the page is due LOOK_EVERY_NS after `now_ticks`, on the next hit that reads the clock."""
        cdef uint64_t ns_per_tick_q32 = jm_clock_ns(0, <uint64_t> 1 << 32)
        jm_store_relaxed(&self.look_ticks, now_ticks + ((<uint64_t> LOOK_EVERY_NS << 32) // ns_per_tick_q32))

    def _set_gate(self, seen):
        """Let readers pass as long as the newest change is `seen`; None: each must stop. Under the table's lock."""
        jm_store_release(&self.seen, SHUT if seen is None else <uint64_t> seen)

    def _pass_gate(self):
        """Follow what has changed; the snapshot that this thread reads in, or None. The table knows better."""

    def _look(self):
        """Whether something has changed that was not announced in time. The table knows better."""
        return False

    def _count_with(self, LayerRegistry other not None):
        """Count accesses where `other` does, and tell its tracers; before the first access."""
        self._hits, self._first_touches = other._hits, other._first_touches
        self._use_tracers(other.tracers)
        self._timed = other._timed

    cdef int trace_access(self, LayerView view) except -1:
        cdef MmapRegion region = jm_dict_get_or_none(self.regions, view.image.dimension_id)
        cdef tuple tracers
        n_bytes = view.image.n_bytes if region is None else region.size
        with cython.critical_section(self):
            tracers = self.tracers
        for tracer in tracers:
            tracer.record(view.image.dimension_id, view.id[1], n_bytes)
        return 0

    cdef int mark(self, MmapRegion region, dimension) except -1:
        if not jm_flag_load_relaxed(&region.visited):
            jm_flag_store_relaxed(&region.visited, 1)
            self.visits.append(dimension)
        return 0

    def _take_visits(self):
        """The dimensions that were read since this was last asked, in the order of their first read."""
        cdef MmapRegion region
        cdef list taken = self.visits[:]
        del self.visits[:len(taken)]  # readers go on appending
        for dimension in taken:
            region = jm_dict_get_or_none(self.regions, dimension)
            if region is not None:
                jm_flag_store_relaxed(&region.visited, 0)
        if taken:
            if self.round == LAST_ROUND:
                self.shelf.forget_rounds()  # or a view that was read in an old one were taken for one read in this
            jm_assert(self.round != 0, self.round, LAST_ROUND)
            jm_short_store_release(&self.round, self.round % LAST_ROUND + 1)  # 0: of a view that was not read again
        return dict.fromkeys(taken)

    def _use_tracers(self, tuple tracers not None):
        """Tell `tracers` of each access from now on; the caller holds the table's lock."""
        with cython.critical_section(self):
            self.tracers = tracers
        jm_flag_store_relaxed(&self.traced, len(tracers) != 0)

    cdef LayerView first_touch(self, layer_id):
        cdef MmapRegion region
        cdef LayerView view
        cdef uint64_t edition
        cdef bint is_here
        cdef uint16_t round = jm_short_load_acquire(&self.round)  # before the region is marked as read in it
        dimension, layer = layer_id
        region = jm_dict_get_or_none(self.regions, dimension)
        is_here = region is not None
        if not is_here:
            # Not marked as visited: to eviction, a region is visited when it is read again after it came.
            region = <MmapRegion?> self._restore(dimension, layer)
        else:
            self.mark(region, dimension)  # also for a layer that it has not
        edition = jm_load_acquire(&region.edition)
        view = region.find_view(layer)
        if view is None:
            if self._look():
                return self.first_touch(layer_id)
            raise LayerNotFound(dimension, layer, f"the dimension has {counted(region.n_layers, 'layer')}")
        self.shelve(view, region, edition, round if is_here else 0)
        if view.payload is not None:
            self._settle()
        return view

    def _settle(self):
        """What follows a charge to the budget. The table knows better."""

    def _restore(self, dimension, layer):
        """The region of a dimension that `_regions` does not hold; LayerNotFound. The table knows better."""
        raise LayerNotFound(dimension, layer, "the dimension is not loaded")

    def access_many(self, layer_ids, /):
        """The views of many layers, in their order: what `access_layer` returns for each, in one call.

        Raises what `access_layer` raises for the first that cannot be had. Thread-safe.
        """
        found = [self.read(layer_id) for layer_id in layer_ids]
        if not found:
            self._pass_gate()  # who is closed says so, of nothing too
        return found

    def _gather(self, layer_ids):
        """What is to be copied of many layers, held until it is; those that were read before make no view."""
        cdef Gathered gathered = Gathered.__new__(Gathered)
        cdef uint64_t begin_ticks = begin_of(self._timed, self.word, &self.look_ticks)
        cdef uint64_t n_hits = 0, apart_ticks = 0, from_ticks  # apart: reads that are timed for themselves
        cdef tuple stack = None
        cdef object dimension = None  # whose stack that is
        if type(layer_ids) is not list and type(layer_ids) is not tuple:
            layer_ids = [each for each in layer_ids]  # list() would believe any length that it says
        gathered.reserve(len(layer_ids))
        if begin_ticks > jm_load_relaxed(&self.look_ticks):
            self._look_from(begin_ticks)
            self._look()
        try:
            for layer_id in layer_ids:
                if gathered.n_layers == gathered.room:
                    break  # a list of the caller's has grown meanwhile
                if (
                    is_layer_id(layer_id)
                    and jm_load_acquire(self.word) == jm_load_acquire(&self.seen)
                    and not jm_flag_load_relaxed(&self.traced)
                ):
                    if PyTuple_GET_ITEM(layer_id, 0) != <PyObject *> dimension:
                        dimension = <object> PyTuple_GET_ITEM(layer_id, 0)
                        stack = self.stack_to_read(dimension)
                        gathered.held.append(stack)
                    if stack is not None and gather_read(gathered, stack, PyTuple_GET_ITEM(layer_id, 1)):
                        n_hits += 1
                        continue
                from_ticks = jm_clock_ticks() if self._timed else 0
                gathered.add_view(self.read(layer_id))
                apart_ticks += jm_clock_ticks() - from_ticks if self._timed else 0
                dimension = None  # reading may have changed what is mapped
        finally:
            if self._timed:
                self._hits.record_together(n_hits, jm_clock_ns(begin_ticks, jm_clock_ticks() - apart_ticks))
            else:
                self._hits.record_untimed(n_hits)
        return gathered

    cdef tuple stack_to_read(self, dimension):
        """The files of a dimension that is mapped, which is marked as read; None if it is not."""
        cdef MmapRegion region = jm_dict_get_or_none(self.regions, dimension)
        if region is None:
            return None
        self.mark(region, dimension)
        return region.current()

    def _count_copies(self, uint64_t n):
        """Count payload copies made outside this class."""
        jm_add_relaxed(&self.n_copies, n)

    @property
    def _copies(self):
        """Payload copies made: decoded text, read_many, decompressed layers."""
        return jm_load_relaxed(&self.n_copies) + self.shelf.count_copies()

    @property
    def _access_count(self):
        """Accesses that returned a view."""
        return self._hits.count_events() + self._first_touches.count_events()


cdef inline PyObject *find_view(LayerRegistry self, uint64_t key, uint64_t begin_ticks) noexcept:
    """A hit: a reference to the view, which is the caller's. NULL for all that is to be looked at more closely."""
    cdef uint64_t label = flat_label(key, jm_short_load_relaxed(&self.round)), end_ticks = 0
    cdef unsigned int row = jm_thread_row()
    cdef PyObject *view
    if jm_unlikely(
        key == 0
        or jm_load_acquire(self.word) != jm_load_acquire(&self.seen)
        or begin_ticks > jm_load_relaxed(&self.look_ticks)
        or jm_flag_load_relaxed(&self.traced)
        or not jm_read_enter_row(&self.shelf.read_side, row)
    ):
        return NULL
    view = find_for_row(&self.shelf.flat, self.shelf.rows, jm_load_relaxed(&self.shelf.sole), row, label)
    if view != NULL:
        end_ticks = end_of(self._timed, view)
        Py_INCREF(<object> view)
    jm_read_leave_row(&self.shelf.read_side, row)
    if view != NULL:
        jm_assert((<LayerView> view).image.dimension_id == key >> 16, key, (<LayerView> view).image.dimension_id)
        jm_assert(layer_of(<LayerView> view) == (key & 0xFFFF), key, layer_of(<LayerView> view))
        if self._timed:  # through the field, for an argument would count a reference on what all threads share
            self._hits.record_ns(jm_clock_ns(begin_ticks, end_ticks))
        else:
            self._hits.record_untimed(1)
    return view


cdef inline uint16_t layer_of(LayerView view) noexcept:
    return view.image.layers[view.entry].layer


cdef object context_of(LayerView view, bint *is_copy):
    cdef const LayerEntry *entry = &view.image.layers[view.entry]
    text = view.read_text(is_copy)
    return LoadedContext(view.id, text, decimal_of(entry.frequency_hz), view.keywords, entry.depth, source_of(view))


cdef bint is_layer_id(object layer_id) noexcept:
    """Whether it is a tuple of two ints, which needs no conversion."""
    return (
        PyTuple_Check(layer_id)
        and PyTuple_GET_SIZE(layer_id) == 2
        and PyLong_Check(<object> PyTuple_GET_ITEM(layer_id, 0))
        and PyLong_Check(<object> PyTuple_GET_ITEM(layer_id, 1))
    )


cdef inline bint gather_read(Gathered gathered, tuple stack, PyObject *layer) noexcept:
    """Add a layer that was read before and is stored as it is; False if it has to be read in another way."""
    cdef int overflow
    cdef int64_t number = PyLong_AsLongLongAndOverflow(<object> layer, &overflow)
    cdef PyObject *image = PyTuple_GET_ITEM(stack, 0)
    cdef Place place
    cdef LayerEntry *entry
    place.entry = <uint32_t> number
    if (
        PyTuple_GET_SIZE(stack) != 1
        or not 0 <= number < (<Image> image).n_layers
        or (<Image> image).layers[number].layer != number
    ):
        if not stack_find(stack, number, &place):
            return False
        image = PyTuple_GET_ITEM(stack, place.file)
    entry = &(<Image> image).layers[place.entry]
    if entry.codec != CODEC_RAW or not jm_flag_load_relaxed(&entry.viewed):
        return False
    gathered_add(gathered, <Image> image, place.entry)
    return True


def own_method(kind, base, str name not None):
    """Give a class that inherits a method of `base` the same as its own, which is called faster on its objects."""
    if name not in kind.__dict__:
        setattr(kind, name, jm_own_method(kind, getattr(kind, name), getattr(base, name)))


def now_ticks():
    """A reading of the clock, for `record_since`."""
    return jm_clock_ticks()


cdef void record(LatencyHistogram histogram, uint64_t begin_ticks, bint timed) noexcept:
    if timed:
        histogram.record_ns(jm_clock_ns(begin_ticks, jm_clock_ticks()))
    else:
        histogram.record_untimed(1)


def record_since(LatencyHistogram histogram not None, uint64_t begin_ticks, bint timed):
    """Count an event that began at `begin_ticks`, and time it if events are timed."""
    record(histogram, begin_ticks, timed)
