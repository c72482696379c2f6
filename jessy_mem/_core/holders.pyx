"""The loaded regions, and what reference counts say about who else holds them. What they mean is known here alone.

Nothing is told when a view dies; whoever asks reads counts that exist anyway:

    table --> MmapRegion --> views: {layer: LayerView} --> Image
                   \\------> stack: (base, delta, ...) -----^

A region has one reference from the table, its stack one from the region, a view one from its region, an Image one from
the stack and one from each of its views, also from those that Readers made for themselves. What is above that is a
holder's: a region or a stack that was handed out, a view, a memoryview. The files of a stack come and go together, so
they are leased and evicted together.

HAZARD: who counts must not count himself. A region is looked at as the table holds it, through a borrowed pointer, or
as the one variable that is left of it; nothing that can run other code stands between the look and its use. The caller
holds the table's lock. A count may be out of date as soon as it is read. That is harmless: whoever took a view
meanwhile keeps it, and its bytes stay charged; only the room that an eviction makes comes later.

Not every reference is counted: from CPython 3.14 on, what a function's variable holds is lent to the calls and the
instructions that use it, and without the GIL counts of some kinds of objects wait. Both lower a count by what somebody
else has: what is lent has an owner, the variable, which is counted and cannot let go while it is lent; and references
wait for functions, classes, modules and the like only, none of which is an object of ours (nobody asks for it, by
PyUnstable_Object_EnableDeferredRefcount). So what is held has one counted reference at least, in every version. Here
nothing is lent to us: a borrowed pointer comes from the table, and the variable that is left of one is C's.

What all regions come to is counted as they come and go. Who holds them is not told, so it has to be looked at; but only
of those that were installed, read or handed out since somebody looked (`watched`), and of those that were held then:
nobody comes to hold another. One is looked at N_GLANCES times, for whoever was on his way to it the first time.
"""
import weakref

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from jessy_mem._core.c.atomic cimport jm_load_relaxed
from jessy_mem._core.c.os_memory cimport jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_dict_shared_values, jm_refcount
from jessy_mem._core.c.read_side cimport jm_change_lock, jm_change_unlock
from jessy_mem._core.format cimport LayerEntry
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.flat cimport flat_search
from jessy_mem._core.mapping cimport Mapping
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._core.shelf cimport OwnViews, Shelf
from jessy_mem._core.stack cimport checked_stack
from jessy_mem._core.texts cimport TextCache
from jessy_mem._core.view cimport LayerView

cdef enum:
    MIN_RETIRED = 16  # this many are kept an eye on before those that have gone are dropped
    N_GLANCES = 2     # at a region that nobody holds
    MANY_CAME = 1024  # so many are told to the policy though nobody asks: that takes half a millisecond


cdef Py_ssize_t n_holders(PyObject *found) except? -1:
    """How many views, memoryviews and handles of a region others hold; `found` is the table's reference to it."""
    cdef PyObject *stack = <PyObject *> (<MmapRegion> found).stack
    cdef Py_ssize_t n_views, file
    cdef Py_ssize_t n_held = jm_refcount(found) - 1 + jm_refcount(stack) - 1
    n_held += jm_dict_shared_values((<MmapRegion> found).views, &n_views)
    if (<MmapRegion> found).shelf is not None:
        n_held -= n_own((<MmapRegion> found).shelf, base_of(<tuple> stack).dimension_id, (<MmapRegion> found).views)
    for file in range(PyTuple_GET_SIZE(<tuple> stack)):
        n_held += jm_refcount(<PyObject *> PyTuple_GET_ITEM(<tuple> stack, file)) - 1
    return n_held - n_views


cdef Py_ssize_t n_own(Shelf shelf, uint64_t dimension, dict views) except -1:
    """How many references to Images and views of a region, whose `views` these are, are of Readers and rows only."""
    cdef OwnViews *own
    cdef PyObject *view
    cdef PyObject *copied  # what the view of a compressed layer is a copy of
    cdef Py_ssize_t n_found = 0, n_copied
    cdef list layers
    if shelf.has_no_reader():
        return 0
    layers = list(views)  # not while others spin for the lock: it may wait, and the collector wait for them
    shelf.change_begin()  # or whoever is inside takes a reference to one that was counted as nobody's
    jm_change_lock(&shelf.read_side)
    try:
        for layer in layers:
            n_copied, copied = 0, NULL
            own = shelf.readers
            while own != NULL:
                view = <PyObject *> flat_search(&own.flat, dimension << 16 | <uint64_t> layer).value
                if view != NULL:
                    n_found += jm_refcount(view) == 1
                    if isinstance((<LayerView> view).payload, LayerView):
                        n_copied, copied = n_copied + 1, <PyObject *> (<LayerView> view).payload
                own = own.next
            if copied != NULL:
                n_found += jm_refcount(copied) == 1 + n_copied
    finally:
        jm_change_unlock(&shelf.read_side)
        shelf.change_end()
    return n_found


cdef int64_t charged_bytes(tuple stack):
    cdef Image image
    cdef int64_t n_bytes = 0
    for image in stack:
        n_bytes += image.charged_bytes
    return n_bytes


cdef int64_t decompressed_bytes(tuple stack):
    cdef Image image
    cdef int64_t n_bytes = 0
    for image in stack:
        n_bytes += jm_load_relaxed(&image.decompressed_bytes)
    return n_bytes


cdef int64_t held_bytes(tuple stack):
    """What is charged for a stack and for its decompressed layers."""
    return charged_bytes(stack) + decompressed_bytes(stack)


cdef bint may_be_evicted(MmapRegion region):  # EVICTABLE or PINNED
    return not region.is_immutable and not lies_in_pool(region.stack)


cdef inline Image base_of(tuple stack):
    return <Image> PyTuple_GET_ITEM(stack, 0)


cdef inline str source_of(tuple stack):
    return base_of(stack).source


# Mostly a file, which is the very text "mmap": with two that differ only the comparison takes 90 instructions.
cdef inline bint lies_in_pool(tuple stack):
    return source_of(stack) != "mmap" and source_of(stack) == "pool"


cdef inline bint is_simulated(tuple stack):
    return source_of(stack) != "mmap" and source_of(stack) == "simulated"


cdef class Holders:
    """Holders()\n--\n
    The loaded regions by dimension, those that left while they were held, and who holds them.

    Readers find a region in `regions` without a lock; whoever calls a method holds the table's.
    """

    def __cinit__(self):
        self.regions = {}
        self.shelf = Shelf()
        self.watched = {}
        self.came = {}
        self.decompressed = {}
        self.simulated = set()
        self.retired = []
        self.prune_at = MIN_RETIRED

    def keep_texts(self, ledger, segment, bound_bytes):
        """The TextCache of all that is installed from now on, which keeps nothing if it has no bytes for it."""
        texts = TextCache(ledger, segment, bound_bytes)
        if bound_bytes:
            self.texts = texts
        return texts

    cdef int keep_texts_of(self, tuple stack) except -1:
        cdef Image image
        if self.texts is not None:
            for image in stack:
                if image.texts is None:
                    image.texts = self.texts.of_image()
        return 0

    def install(self, dimension, MmapRegion region not None):
        """Let readers of `dimension` find `region`, in place of the one before; whether many have come by now.

        One step, which is done or not: no Python runs in it.
        """
        return self.let_in(dimension, region)

    cdef bint let_in(self, dimension, MmapRegion region) except -1:
        cdef MmapRegion old = self.regions.get(dimension)
        cdef list dropped = []
        self.keep_texts_of(region.current())  # ManagerClosed if it is closed, or was never opened
        region.is_owned = True
        self.expect(dimension, region.stack)
        self.came[dimension] = may_be_evicted(region)
        if old is None or old is region:
            self.shelf.change_begin()
        else:
            self.shelf.begin(&old.edition, dimension, old.views, dropped)
        try:
            self.regions[dimension] = region
            region.shelf = self.shelf
        finally:
            self.shelf.end(&region.edition)
        if old is not None:
            self.count(dimension, old, -1)
        self.count(dimension, region, 1)
        dropped.clear()
        if old is not None and old is not region:
            self.let_go(old)
        return len(self.came) >= MANY_CAME

    def remove(self, dimension):
        """Take a region out of the table; KeyError if there is none. It goes at once if nobody holds it."""
        cdef MmapRegion region = self.regions[dimension]
        cdef list dropped = []
        self.shelf.begin(&region.edition, dimension, region.views, dropped)
        try:
            del self.regions[dimension]
        finally:
            self.shelf.change_end()
        self.count(dimension, region, -1)
        self.watched.pop(dimension, None)  # else each that was ever loaded stays here until somebody asks
        self.came.pop(dimension, None)
        dropped.clear()
        self.let_go(region)

    cdef int expect(self, dimension, tuple stack) except -1:
        """Remember what `survey` is to look at when this stack is there, for which there may be no memory."""
        self.watched[dimension] = N_GLANCES
        if is_simulated(stack):
            self.simulated.add(dimension)
        return 0

    cdef int count(self, dimension, MmapRegion region, int sign) except -1:
        """Count a loaded region, with `sign` 1, or take it out of the counts; before its stack is another one.

        Needs no memory.
        """
        cdef tuple stack = region.stack
        cdef Image image
        cdef int64_t n_bytes = charged_bytes(stack), content_bytes = 0
        for image in stack:
            content_bytes += image.content_bytes
        self.n_layers += sign * <int64_t> region.n_live_layers
        if not lies_in_pool(stack):
            self.n_mapped += sign
            self.content_bytes += sign * content_bytes
        if is_simulated(stack):
            self.simulated_ids = None
        if sign < 0:
            n_bytes += <int64_t> self.decompressed.pop(dimension, 0)
        self.all_bytes[may_be_evicted(region)] += sign * n_bytes
        return 0

    def watch(self, dimensions):
        """Look, when somebody asks, at who holds these: somebody may have come to hold them."""
        for dimension in dimensions:
            if dimension in self.regions:
                self.watched[dimension] = N_GLANCES

    cdef int let_go(self, MmapRegion region) except -1:
        """Keep an eye on a region that left the table, if it is held: what is held of it is a lease now.

        It stays owned: a reader may still be on its way through it, and nobody's `close` may stop him.
        """
        if n_holders(<PyObject *> region):
            self.retire(region.stack)
        return 0

    cdef int retire(self, images) except -1:
        if len(self.retired) >= self.prune_at:
            self.retired = [each for each in self.retired if each() is not None]
            self.prune_at = 2 * len(self.retired) + MIN_RETIRED
        self.retired.extend([weakref.ref(image) for image in images])
        return 0

    def restack(self, MmapRegion region not None, tuple stack not None, bint is_asked=True):
        """Let `stack` take the place of a loaded region's; of the files that leave it, what is held is a lease now.

        Who holds views keeps them. Returns the numbers of the layers that are not known as they were; None if the base
        is new, or nobody asks.
        """
        cdef tuple old = region.current()
        cdef list named
        cdef bint only_grows = stack[:len(old)] == old  # mostly
        dimension = base_of(old).dimension_id
        self.keep_texts_of(checked_stack(stack))
        self.expect(dimension, stack)
        self.count(dimension, region, -1)
        try:
            named = region.restack(stack, is_asked)
        finally:
            self.count(dimension, region, 1)
        if self.texts is not None:
            self.drop_texts(
                old, list(stack[len(old):]) if only_grows else [image for image in stack if image not in old]
            )
        if not only_grows:
            self.retire([image for image in old if image not in stack])
        return named

    cdef int drop_texts(self, tuple old, list added) except -1:
        cdef Image image, below
        cdef uint32_t i
        for image in added:
            for below in old:
                for i in range(image.n_layers):
                    below.texts.drop(image.layers[i].layer)
        return 0

    def freed_bytes(self, dimension):
        """The bytes that come free when the dimension leaves the table: none as long as somebody holds it."""
        cdef PyObject *found = PyDict_GetItem(self.regions, dimension)
        if found == NULL or n_holders(found):
            return 0
        return held_bytes((<MmapRegion> found).stack)

    def evictable(self):
        """What can be evicted now: list of (dimension, bytes that this frees). Walks all regions."""
        cdef PyObject *found
        cdef list able = []
        for dimension in list(self.regions):
            found = PyDict_GetItem(self.regions, dimension)
            if found != NULL and may_be_evicted(<MmapRegion> found):
                n_bytes = self.freed_bytes(dimension)
                if n_bytes:
                    able.append((dimension, n_bytes))
        return able

    def survey(self):
        """What all regions come to, and what of it is not held; walks those that are watched.

        (layers, mapped content bytes, mapped regions, evictable bytes, pinned bytes, simulated dimensions)
        """
        cdef PyObject *found
        cdef int64_t[2] held
        cdef int64_t n_decompressed
        cdef bint is_held, kind
        cdef int n_glances
        held[PINNED] = held[EVICTABLE] = 0
        for dimension, n_glances in list(self.watched.items()):
            found = PyDict_GetItem(self.regions, dimension)
            if found == NULL:  # it has left, or never came
                del self.watched[dimension]
                continue
            is_held = n_holders(found) != 0
            kind = may_be_evicted(<MmapRegion> found)
            n_decompressed = decompressed_bytes((<MmapRegion> found).stack)
            self.all_bytes[kind] += n_decompressed - <int64_t> self.decompressed.pop(dimension, 0)
            if n_decompressed:
                self.decompressed[dimension] = n_decompressed
            if is_held:
                held[kind] += charged_bytes((<MmapRegion> found).stack) + n_decompressed
                self.watched[dimension] = N_GLANCES
            elif n_glances > 1:
                self.watched[dimension] = n_glances - 1
            else:
                del self.watched[dimension]
        if self.simulated_ids is None:
            for dimension in list(self.simulated):
                found = PyDict_GetItem(self.regions, dimension)
                if found == NULL or not is_simulated((<MmapRegion> found).stack):
                    self.simulated.discard(dimension)
            self.simulated_ids = tuple(sorted(self.simulated))
        return (
            self.n_layers, self.content_bytes, self.n_mapped, self.all_bytes[EVICTABLE] - held[EVICTABLE],
            self.all_bytes[PINNED] - held[PINNED], self.simulated_ids,
        )

    def leases(self):
        """What is held, loaded or retired: list of (dimension, generation, charged bytes, views, retired)."""
        cdef PyObject *found
        cdef Image image
        cdef Py_ssize_t n_held
        cdef list leases = []
        for dimension in list(self.regions):
            found = PyDict_GetItem(self.regions, dimension)
            n_held = 0 if found == NULL else n_holders(found)
            if n_held > 0:
                generation = (<MmapRegion> found).generation
                leases.append((dimension, generation, held_bytes((<MmapRegion> found).stack), n_held, False))
        for reference in self.retired:
            image = reference()
            if image is not None:
                n_held = jm_refcount(<PyObject *> image) - 1
                if n_held > 0:  # else the last one has just gone
                    leases.append((image.dimension_id, image.generation, held_bytes((image,)), n_held, True))
        return leases

    def residency(self):
        """System calls for all that is mapped or held: (mapped, resident, decompressed, table bytes)."""
        cdef Image image
        cdef uint64_t n_pages, n_resident, mapped_bytes = 0, resident_bytes = 0, decompressed_bytes = 0, table_bytes = 0
        cdef set images = set()
        for region in list(self.regions.values()):
            images.update((<MmapRegion> region).stack)
        images.update([each for each in [reference() for reference in self.retired] if each is not None])
        for image in images:
            decompressed_bytes += jm_load_relaxed(&image.decompressed_bytes)
            table_bytes += image.n_layers * sizeof(LayerEntry)
            if image.source == "pool":
                continue
            image.count_pages(&n_pages, &n_resident)
            mapped_bytes += n_pages * jm_page_bytes()
            resident_bytes += n_resident * jm_page_bytes()
        return mapped_bytes, resident_bytes, decompressed_bytes, table_bytes

    def mappings(self):
        """What all that is loaded or held is mapped by; none of it holds a dimension: list of Mapping."""
        cdef Image image
        cdef list images = [image for region in self.regions.values() for image in (<MmapRegion> region).stack]
        images += [each for each in [reference() for reference in self.retired] if each is not None]
        owners = [image.bytes.base for image in images]
        return [each for each in owners if isinstance(each, Mapping)]
