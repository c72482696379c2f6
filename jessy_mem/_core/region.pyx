"""MmapRegion: the files of one dimension, and the views of its layers.

HAZARD: a region is closed, replaced, grown or evicted while others read it. Its stack of files is a tuple that is
replaced as a whole, and a LayerView owns the Image its bytes lie in and knows no region; so each reader sees one
moment, and dropping a region drops its table of views and nothing else:

    LayerRegistry --> MmapRegion --> views: {layer: LayerView} --> Image --> mapping
                           \\------> stack: (base, delta, ...) -----^

A view is of the newest file that names its layer. What was made from a stack that has been replaced meanwhile is given
to its reader, and not kept.
"""
import os
from pathlib import Path

cimport cython
from cpython.buffer cimport PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.c.atomic cimport jm_load_relaxed
from jessy_mem._core.c.pycompat cimport jm_dict_get, jm_disown, jm_memoryview_of, jm_mutex_lock, jm_mutex_unlock
from jessy_mem._core.format cimport CODEC_RAW
from jessy_mem._core.guard cimport guard_install
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.span cimport span_slice
from jessy_mem._core.stack cimport (
    Place,
    layer_number,
    own_stack,
    stack_bytes,
    stack_count,
    stack_damage,
    stack_facts,
    stack_facts_of,
    stack_find,
    stack_gain,
    stack_news,
    stack_numbers,
    stack_residency,
)
from jessy_mem._core.view cimport LayerView, make_view

from jessy_mem import given
from jessy_mem._core.mapping import private_memory
from jessy_mem._core.folder import delta_generations
from jessy_mem._core.stack import open_stack
from jessy_mem.errors import ImmutableDimension, LayerNotFound, LimitExceeded, ManagerClosed, OutOfBounds
from jessy_mem.forking import imported
from jessy_mem.layout import LayerId, has_deltas
from jessy_mem.sizes import size_bytes
from jessy_mem.units import counted

cdef object new_layer_id = LayerId
cdef tuple GUARDS = ("reads", "lease", "copy")  # the weakest first


cdef inline Image base_of(tuple stack):
    return <Image> PyTuple_GET_ITEM(stack, 0)


cdef inline Image newest_of(tuple stack):
    return <Image> PyTuple_GET_ITEM(stack, PyTuple_GET_SIZE(stack) - 1)


cdef inline Image image_at(tuple stack, const Place *place):
    return <Image> PyTuple_GET_ITEM(stack, place.file)


@cython.final
@cython.no_gc  # knows views and an image, and neither knows it
cdef class MmapRegion:
    """MmapRegion(dimension_id, path, *, verify="lazy", guard="reads", max_metadata_mb=256,
    max_decompressed_mb=64)\n--\n
    The files of one dimension, mapped read-only and checked: a region file and the deltas that were learned since.

    Parameters
    ----------
    dimension_id : int or None
        The dimension the file must hold; None accepts each.
    path : path-like
        The region file. Deltas beside it are opened too if it is named as in a base folder, ``Dnn/region.mmap``; a
        delta that is opened alone shows what it holds itself.
    verify : str
        When content is compared with its checksums: "lazy" (each layer on first access), "open" or "never".
    guard : str
        Against files that are shortened while they are mapped: "auto", "reads", "lease" or "copy": docs/reliability.md.
    max_metadata_mb : int or float or str
        The most MiB of a file that are read before it is mapped; a file that asks for more is an InvalidRegion.
    max_decompressed_mb : int or float or str
        The most MiB that the views of its compressed layers may take together; LimitExceeded. A manager has a budget.

    Raises DimensionNotFound, InvalidRegion, RegionTruncated, ChecksumMismatch, or MappingError if the system refuses;
    then nothing stays open. Thread-safe. A context manager; views outlive `close`. `name` is what the base file says;
    `immutable`, that nothing may change the dimension. Offsets run through it and then the deltas, oldest first.
    """

    def __cinit__(self, *args, **kwargs):
        jm_disown(<PyObject *> self)
        self.views = {}
        jm_disown(<PyObject *> self.views)  # else it would keep the views

    def __init__(
        self, dimension_id, path, *, str verify="lazy", str guard="reads", max_metadata_mb=256, max_decompressed_mb=64
    ):
        metadata_bytes = size_bytes("max_metadata_mb", max_metadata_mb)
        self.max_decompressed_bytes = size_bytes("max_decompressed_mb", max_decompressed_mb)
        if self.allocate is not None:
            raise TypeError("a MmapRegion is initialised once")
        if dimension_id is not None:
            dimension_id = new_layer_id.checked((dimension_id, 0)).dimension
        if verify not in ("lazy", "open", "never"):
            raise ValueError(f"verify: {verify!r} is not one of lazy, open, never")
        if guard not in ("auto", "reads", "lease", "copy"):
            raise ValueError(f"guard: {guard!r} is not one of auto, reads, lease, copy")
        path = given.plain_path(path)
        guard_install()
        options = {"verify": verify, "guard": guard, "metadata_limit_bytes": metadata_bytes}
        cdef tuple stack = open_stack(path, dimension_id or 0, deltas=has_deltas(path), **options)
        self.allocate = private_memory
        self.is_immutable = base_of(stack).immutable
        self.n_live_layers = stack_count(stack, (), 0)
        self.stack = own_stack(stack)

    cdef tuple current(self):
        jm_mutex_lock(&self.mutex)
        stack = self.stack
        jm_mutex_unlock(&self.mutex)
        if stack is None:
            raise ManagerClosed("the region")
        return stack

    @property
    def _stack(self):
        """The Images, base first. Who holds the tuple sees one moment, and keeps it mapped."""
        return self.current()

    @property
    def dimension_id(self):
        return base_of(self.current()).dimension_id

    @property
    def name(self):
        return base_of(self.current()).name

    @property
    def path(self):
        return Path(base_of(self.current()).path)

    @property
    def size(self):
        """Bytes of all files."""
        return stack_bytes(self.current())

    @property
    def generation(self):
        """The version of the newest file; 0 for a plain V1 file, which has none."""
        return newest_of(self.current()).generation

    @property
    def created_ns(self):
        """When the newest file was written, Unix time in ns; 0 for a plain V1 file."""
        return newest_of(self.current()).header.created_ns

    @property
    def plain(self):
        """Whether the region file is a plain V1 file, which carries no checksums."""
        return not base_of(self.current()).extended

    @property
    def n_layers(self):
        """How many layers there are; those that were removed do not count."""
        cdef uint32_t n_layers
        jm_mutex_lock(&self.mutex)
        n_layers = self.n_live_layers
        jm_mutex_unlock(&self.mutex)
        self.current()
        return n_layers

    @property
    def n_deltas(self):
        """How many deltas lie on the region file."""
        return len(self.current()) - 1

    @property
    def source(self):
        """ "mmap", "pool" (a proto-dimension) or "simulated"."""
        return base_of(self.current()).source

    @property
    def immutable(self):
        return self.is_immutable != 0

    @property
    def guard(self):
        """ "copy": all bytes are a copy that nobody can change or shorten; "lease": they are one before somebody does;
        "reads": files are mapped, what is read of them is right or an error."""
        return min([(<Image> image).guard_of() for image in self.current()], key=GUARDS.index)

    @property
    def stale(self):
        """Whether a file was replaced, changed or removed since it was mapped, or a newer delta is there."""
        cdef tuple stack = self.current()
        cdef Image image
        for image in stack:
            if image.identity is None:
                return False
            try:
                info = os.stat(image.path)
            except OSError:
                return True
            if (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size) != image.identity:
                return True
        if self.is_immutable or not has_deltas(base_of(stack).path):
            return False
        return max(delta_generations(base_of(stack).path), default=0) > newest_of(stack).generation

    def access(self, offset, size):
        """`size` bytes at `offset`, as a read-only memoryview; OutOfBounds if they do not lie inside one file."""
        cdef tuple stack = self.current()
        cdef Image image = base_of(stack)
        cdef Py_ssize_t begin, n_bytes, file = 1
        cdef const uint8_t *first = NULL
        try:
            begin, n_bytes = offset, size
        except OverflowError:
            raise OutOfBounds(offset, size, stack_bytes(stack)) from None
        while begin >= <Py_ssize_t> image.n_bytes and file < PyTuple_GET_SIZE(stack):
            begin -= image.n_bytes
            image = <Image> PyTuple_GET_ITEM(stack, file)
            file += 1
        first = span_slice(image.bytes, begin, n_bytes)
        if first == NULL:
            raise OutOfBounds(offset, size, stack_bytes(stack))
        return jm_memoryview_of(image, first, n_bytes)

    def layer(self, layer):
        """The view of one layer. LayerNotFound; on its first access ChecksumMismatch."""
        cdef LayerView view = self.find_view(layer)
        if view is None:
            raise self.not_found(self.current(), layer)
        return view

    cdef object not_found(self, tuple stack, layer):
        cdef Image base = base_of(stack)
        return LayerNotFound(base.dimension_id, layer, f"{base.path} has {counted(self.n_layers, 'layer')}")

    cdef LayerView find_view(self, layer):
        cdef PyObject *found = jm_dict_get(self.views, layer)
        cdef LayerView view, kept
        cdef tuple stack
        cdef Image image
        cdef Place place
        if found != NULL:
            view = <LayerView> found
            Py_DECREF(view)
            return view
        stack = self.current()
        if not stack_find(stack, layer_number(layer), &place):
            return None
        image = image_at(stack, &place)
        if self.max_decompressed_bytes and image.layers[place.entry].codec != CODEC_RAW:
            self.check_room(stack, image.layers[place.entry].raw_bytes)
        view = kept = make_view(image, place.entry, self.allocate)
        jm_mutex_lock(&self.mutex)
        try:
            # What is in the table is of the stack that is there: a region that was closed meanwhile must not keep a
            # mapping, and one that has grown must not show what was replaced.
            if self.stack is stack:
                kept = self.views.setdefault(image.layers[place.entry].layer, view)
        finally:
            jm_mutex_unlock(&self.mutex)
        return kept

    cdef int check_room(self, tuple stack, uint64_t n_bytes) except -1:
        cdef Image image
        cdef uint64_t held_bytes = sum([jm_load_relaxed(&image.decompressed_bytes) for image in stack])
        if held_bytes + n_bytes > self.max_decompressed_bytes:
            where, hint = f"decompressed layers of {base_of(stack).path}", "max_decompressed_mb says how many may be"
            raise LimitExceeded(held_bytes, self.max_decompressed_bytes, n_bytes, where, hint=hint)
        return 0

    def layers(self):
        """The ids of all layers, ascending."""
        cdef tuple stack = self.current()
        return [new_layer_id(base_of(stack).dimension_id, layer) for layer in stack_numbers(stack)]

    def layer_facts(self):
        """For each layer (layer, depth, frequency in Hz, keywords, stored bytes, bytes, created_ns), ascending."""
        return stack_facts(self.current())

    def _facts_of(self, layers):
        """The facts of those of `layers` that there are, and the numbers of the others: for an index that follows."""
        return stack_facts_of(self.current(), layers)

    def _has_layer(self, layer):
        cdef Place place
        return stack_find(self.current(), layer_number(layer), &place)

    def _attributes_of(self, layer):
        """What `LayerView.attributes` would be, of a layer whose content need not be sound; None if there is none."""
        cdef tuple stack = self.current()
        cdef Place place
        if not stack_find(stack, layer_number(layer), &place):
            return None
        return (<Image> PyTuple_GET_ITEM(stack, place.file)).parse_attributes(place.entry)

    @property
    def _next_layer(self):
        """1 + the highest number that a layer has or had."""
        cdef Image image
        return max([image.layers[image.n_layers - 1].layer for image in self.current()]) + 1

    @property
    def content_bytes(self):
        """Bytes of all contents as stored, those included that were replaced since."""
        cdef Image image
        return sum([image.content_bytes for image in self.current()])

    def content_offset(self, layer):
        """Where in the files the content of a layer begins; LayerNotFound."""
        cdef tuple stack = self.current()
        cdef Place place
        if not stack_find(stack, layer_number(layer), &place):
            raise self.not_found(stack, layer)
        return stack_bytes(stack[:place.file]) + image_at(stack, &place).layers[place.entry].content_off_bytes

    def verify(self, progress=None):
        """All damage of all files, as a list of errors; empty if they are sound. Reads every byte, without the GIL.

        `progress(done_bytes, total_bytes)` is called after each layer. What was not in memory is not left there, where
        the system can read past its page cache (Linux since 6.14).
        """
        return stack_damage(self.current(), progress)

    def _in_place_of(self, MmapRegion old):
        """This region, if it may take the place of `old`; ImmutableDimension if that is immutable and says otherwise.

        The same content is the same name and the same bytes behind the header: generation and date may be others.
        """
        cdef Image image = base_of(self.current())
        if old is None or not old.is_immutable or old.source == "simulated":
            return self
        if not (self.is_immutable and image.says_what(base_of(old.current()))):
            raise ImmutableDimension(image.dimension_id, "a reload with other content")
        return self

    def residency(self):
        """The share of the pages of all files that are in memory, 0..1."""
        return stack_residency(self.current())

    def prefetch(self, layers=None, bint wait=False):
        """Ask for the pages of some layers (all by default) to be read in; with `wait`, until they are.

        Returns the residency of the region that is reached.
        """
        cdef tuple stack = self.current()
        cdef Place place
        for layer in stack_numbers(stack) if layers is None else layers:
            if not stack_find(stack, layer_number(layer), &place):
                raise self.not_found(stack, layer)
            (<Image> PyTuple_GET_ITEM(stack, place.file)).prefetch(place.entry, wait)
        return self.residency()

    cdef list restack(self, tuple stack, bint is_asked):
        cdef tuple old = self.current()
        cdef Py_ssize_t n_kept = len(old)
        cdef Image image
        if stack[:n_kept] == old:
            for image in stack[n_kept:]:
                self.lay_on(image)
        else:
            self.replace(stack)
        if not is_asked or base_of(stack) is not base_of(old):
            return None
        return stack_news(old, stack)

    cdef int lay_on(self, Image delta) except -1:
        cdef tuple old = self.current(), stack = (*old, delta)
        cdef int64_t gain = stack_gain(old, delta)
        cdef list named = [delta.layers[i].layer for i in range(delta.n_layers)]
        cdef list replaced = [None] * len(named), dropped = []  # which lose their last reference when all is done
        jm_disown(<PyObject *> stack)
        self.change_begin(named, dropped)
        try:
            self.stack = stack
            self.n_live_layers += gain
            for i in range(len(named)):  # which needs no memory
                replaced[i] = self.views.pop(named[i], None)
        finally:
            self.change_end()
        return 0

    cdef int replace(self, tuple stack) except -1:
        cdef tuple own = own_stack(stack), old = self.current()  # which lives until all is done, as do the views
        cdef Place place
        cdef LayerView view
        cdef list views, dropped = []
        self.change_begin(self.views, dropped)
        try:
            views = list(self.views.items())  # first, for there may be no memory for it
            self.stack, self.n_live_layers = own, stack_count(own, old, self.n_live_layers)
            for layer, view in views:
                if not stack_find(own, layer, &place) or image_at(own, &place) is not view.image:
                    del self.views[layer]
        finally:
            self.change_end()
        return 0

    cdef int change_begin(self, layers, list dropped) except -1:
        if self.shelf is not None:
            self.shelf.begin(&self.edition, base_of(self.stack).dimension_id, layers, dropped)
        jm_mutex_lock(&self.mutex)

    cdef void change_end(self) noexcept:
        jm_mutex_unlock(&self.mutex)
        if self.shelf is not None:
            self.shelf.end(&self.edition)

    def close(self):
        """Let go of the mapping; it goes with its last view. May be called twice.

        The region of a manager is shared by all: this does nothing then, and it goes with its last holder after
        ``unload_dimension``.
        """
        if self.is_owned:
            return
        jm_mutex_lock(&self.mutex)
        _stack, self.stack = self.stack, None  # which goes afterwards, as do the views: nothing is kept any more
        jm_mutex_unlock(&self.mutex)
        self.views.clear()

    def __enter__(self):
        self.current()
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getbuffer__(self, Py_buffer *view, int flags):
        # The bytes of one file are shared; those of several are joined in a copy.
        cdef tuple stack = self.current()
        owner = base_of(stack) if PyTuple_GET_SIZE(stack) == 1 else b"".join(stack)
        for image in stack:
            image.check_file()
        PyObject_GetBuffer(owner, view, flags)

    def __copy__(self):
        raise TypeError("a MmapRegion cannot be copied: open its path again")

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __repr__(self):
        try:
            stack = self.current()
        except ManagerClosed:
            return "<MmapRegion closed>"
        base = base_of(stack)
        deltas = "" if len(stack) == 1 else f" in {len(stack)} files"
        return (
            f"<MmapRegion D{base.dimension_id:02d} {base.name}: {counted(self.n_layers, 'layer')}, "
            f"{stack_bytes(stack)} bytes{deltas}, generation {newest_of(stack).generation}, {base.source}>"
        )

    def _repr_html_(self):
        return imported("jessy_mem.notebook").region(self)


cpdef MmapRegion make_region(images, bint immutable, allocate, uint64_t max_decompressed_bytes=0):
    """A MmapRegion around one Image or a stack of them, base first; `allocate` gives memory for decompressed layers."""
    cdef MmapRegion region = MmapRegion.__new__(MmapRegion)
    cdef tuple stack = own_stack((images,) if isinstance(images, Image) else images)
    region.allocate, region.max_decompressed_bytes = allocate, max_decompressed_bytes
    region.n_live_layers = stack_count(stack, (), 0)
    region.stack = stack
    region.is_immutable = immutable or base_of(stack).immutable
    return region
