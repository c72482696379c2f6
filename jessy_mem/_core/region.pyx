"""Layers and regions, as users hold them.

HAZARD: a region is closed, replaced or evicted while others read it. A LayerView owns the Image its bytes lie in and
knows no region, so dropping a region drops its table of views and nothing else; each view lives as long as its holders:

    LayerRegistry --> MmapRegion --> views: {layer: LayerView} --> Image --> mapping
                           \\-----------------------------------------^
"""
import os
from pathlib import Path

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from jessy_mem._core.c.atomic cimport jm_add_relaxed, jm_flag_load_relaxed, jm_flag_store_relaxed, jm_sub_relaxed
from jessy_mem._core.c.os_memory cimport jm_os_prefetch, jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_dict_get, jm_disown
from jessy_mem._core.format cimport CODEC_RAW, HEADER_BYTES, TEXT_ASCII, LayerEntry
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_copy_ascii, span_slice
from jessy_mem._core.mapping cimport memoryview_of

from jessy_mem import compression
from jessy_mem._core.image import checked, map_file
from jessy_mem._core.mapping import Mapping
from jessy_mem.errors import ImmutableDimension, LayerNotFound, ManagerClosed, MappingError, OutOfBounds
from jessy_mem.layout import LayerId

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t n_characters, Py_UCS4 largest)
    void *PyUnicode_DATA(str text)
    int PySlice_Unpack(object slice, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t step) noexcept

cdef object new_layer_id = LayerId
cdef enum:
    MAPPED_BYTES = 1048576
    MIN_ASCII_BYTES = 64    # shorter text is the decoder's, which keeps strings of one character
    PREFAULT_BYTES = 65536  # larger text has its pages read in without the GIL before it is decoded


cdef void touch_pages(const uint8_t *first, uint64_t n_bytes) noexcept nogil:
    """Read one byte of each page, so that what may wait for a disk waits here."""
    cdef volatile uint8_t seen
    cdef uint64_t at = 0
    cdef uint64_t step_bytes = jm_page_bytes()
    while at < n_bytes:
        seen = first[at]
        at += step_bytes
    if n_bytes:
        seen = first[n_bytes - 1]  # on a page of its own if the range does not begin with a page


def private_memory(n_bytes):
    """Memory for a decompressed layer of a region that has no budget; large memory costs what is written to it."""
    if n_bytes < MAPPED_BYTES:
        return bytearray(n_bytes)
    return Mapping(n_bytes)


@cython.final
@cython.no_gc  # an image, a payload and immutable values: no cycle can pass through a view
@cython.freelist(64)
cdef class LayerView:
    """One layer: a read-only buffer over its bytes, and what is known of it.

    The same object for every caller, without a copy of the content. It keeps its bytes, whatever happens to the
    dimension: unloading, reloading, eviction and closing wait for nobody and take nothing away. All methods are
    thread-safe. Obtained from ``access_layer`` or ``MmapRegion.layer``.

    A view is a key by identity: two views are equal if they are one object, and hashing one reads no page. ``==`` with
    bytes, or another buffer of bytes, compares the content, as a memoryview does; so bytes that equal a view have
    another hash: to find content in a set or dict, put ``bytes(view)`` there.

    Attributes: `id` (LayerId), `depth`, `frequency` (Hz), `keywords` (tuple of str), `source` ("mmap", "simulated", or
    "pool": a proto-dimension's layer or a decompressed one), `n_bytes`, `text`.
    """

    def __init__(self):
        raise TypeError("LayerView: access_layer() and MmapRegion.layer() make these")

    def __dealloc__(self):
        if self.payload_bytes:
            jm_sub_relaxed(&self.image.decompressed_bytes, self.payload_bytes)

    @property
    def n_bytes(self):
        """Bytes of content."""
        return self.size_bytes

    @property
    def text(self):
        """The content decoded from UTF-8: the one copy. UnicodeDecodeError names the layer if it is not text."""
        return self.decode()

    cdef str decode(self):
        cdef str text
        if self.size_bytes >= PREFAULT_BYTES and not jm_flag_load_relaxed(&self.faulted):
            with nogil:
                touch_pages(self.data, self.size_bytes)
            jm_flag_store_relaxed(&self.faulted, 1)
        if self.says_ascii and self.size_bytes >= MIN_ASCII_BYTES:
            # Some three times as fast as the decoder, and safe if the file says what is not so.
            text = PyUnicode_New(self.size_bytes, 0x7F)
            if span_copy_ascii(<uint8_t *> PyUnicode_DATA(text), self.data, self.size_bytes):
                return text
        try:
            return PyUnicode_DecodeUTF8(<const char *> self.data, self.size_bytes, NULL)
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError(
                error.encoding, error.object, error.start, error.end, f"{error.reason} in layer {self.id}"
            ) from None

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *> self.data, self.size_bytes, True, flags)

    def __len__(self):
        return self.size_bytes

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<const char *> self.data, self.size_bytes)

    def __getitem__(self, key):
        cdef Py_ssize_t i, stop, step, n_bytes
        if isinstance(key, slice):
            PySlice_Unpack(key, &i, &stop, &step)
            if step != 1:
                return memoryview(self)[key]
            n_bytes = PySlice_AdjustIndices(self.size_bytes, &i, &stop, 1)
            return memoryview_of(self, self.data + i, n_bytes)
        i = PyNumber_AsSsize_t(key, IndexError)
        if i < 0:
            i += self.size_bytes
        if not 0 <= i < self.size_bytes:
            raise IndexError(f"byte {key} of {self.size_bytes}")
        return self.data[i]

    def __eq__(self, other):
        if isinstance(other, LayerView):
            return self is other
        return memoryview(self) == other

    def __hash__(self):
        return object.__hash__(self)

    def __reduce__(self):
        raise TypeError("a LayerView cannot be copied or pickled: take its bytes() or its text")

    def __repr__(self):
        return f"<LayerView {self.id} {self.size_bytes} bytes, {self.frequency:.2f} Hz, {self.source}>"


@cython.final
@cython.no_gc  # knows views and an image, and neither knows it
cdef class MmapRegion:
    """MmapRegion(dimension_id, path, *, verify="lazy")\n--\n
    The region file of one dimension, mapped read-only and checked.

    Parameters
    ----------
    dimension_id : int or None
        The dimension the file must hold; None accepts each.
    path : path-like
        The region file.
    verify : str
        When content is compared with its checksums: "lazy" (each layer on first access), "open" or "never".

    Raises DimensionNotFound, InvalidRegion, RegionTruncated, ChecksumMismatch, or MappingError if the system refuses;
    then nothing stays open. Thread-safe. A context manager; views outlive `close`.
    """

    def __cinit__(self, *args, **kwargs):
        jm_disown(<PyObject *> self)
        self.views = {}
        jm_disown(<PyObject *> self.views)  # else it would keep the views

    def __init__(self, dimension_id, path, *, str verify="lazy"):
        cdef Image image
        if self.allocate is not None:
            raise TypeError("a MmapRegion is initialised once")
        if dimension_id is not None:
            dimension_id = new_layer_id.checked((dimension_id, 0)).dimension
        if verify not in ("lazy", "open", "never"):
            raise ValueError(f"verify: {verify!r} is not one of lazy, open, never")
        image = checked(map_file(path, dimension_id or 0), verify)
        self.allocate, self.image = private_memory, image
        self.is_immutable = image.immutable

    cdef Image current(self):
        cdef Image image
        with cython.critical_section(self):
            image = self.image
        if image is None:
            raise ManagerClosed("the region")
        return image

    @property
    def dimension_id(self):
        return self.current().dimension_id

    @property
    def name(self):
        return self.current().name

    @property
    def path(self):
        return Path(self.current().path)

    @property
    def size(self):
        """Bytes of the file."""
        return self.current().n_bytes

    @property
    def generation(self):
        """The version of the file; 0 for a plain V1 file, which has none."""
        return self.current().generation

    @property
    def created_ns(self):
        """When the file was written, Unix time in ns; 0 for a plain V1 file."""
        return self.current().header.created_ns

    @property
    def plain(self):
        """Whether it is a plain V1 file, which carries no checksums."""
        return not self.current().extended

    @property
    def n_layers(self):
        return self.current().n_layers

    @property
    def source(self):
        """ "mmap", "pool" (a proto-dimension) or "simulated"."""
        return self.current().source

    @property
    def immutable(self):
        return self.is_immutable != 0

    @property
    def stale(self):
        """Whether the file was replaced, changed or removed since it was mapped. One stat call."""
        cdef Image image = self.current()
        if image.identity is None:
            return False
        try:
            info = os.stat(image.path)
        except OSError:
            return True
        return (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size) != image.identity

    def access(self, offset, size):
        """`size` bytes at `offset`, as a read-only memoryview; OutOfBounds if they do not lie inside the file."""
        cdef Image image = self.current()
        cdef Py_ssize_t begin, n_bytes
        cdef const uint8_t *first
        try:
            begin, n_bytes = offset, size
        except OverflowError:
            raise OutOfBounds(offset, size, image.n_bytes) from None
        first = span_slice(image.bytes, begin, n_bytes)
        if first == NULL:
            raise OutOfBounds(offset, size, image.n_bytes)
        return memoryview_of(image, first, n_bytes)

    def layer(self, layer):
        """The view of one layer. LayerNotFound; on its first access ChecksumMismatch."""
        cdef LayerView view = self.find_view(layer)
        if view is None:
            image = self.current()
            raise LayerNotFound(image.dimension_id, layer, f"{image.path} has {image.n_layers} layers")
        return view

    cdef LayerView find_view(self, layer):
        cdef PyObject *found = jm_dict_get(self.views, layer)
        cdef LayerView view
        cdef Image image
        cdef int64_t i
        if found != NULL:
            view = <LayerView> found
            Py_DECREF(view)
            return view
        image = self.current()
        i = image.find_number(layer)
        if i < 0:
            return None
        view = self.make_view(image, i)
        with cython.critical_section(self):
            # A region that was closed meanwhile must not hold a view: the mapping would stay with it.
            if self.image is image:
                view = self.views.setdefault(image.layers[i].layer, view)
        return view

    def layers(self):
        """The ids of all layers, ascending."""
        cdef Image image = self.current()
        cdef uint32_t i
        return [new_layer_id(image.dimension_id, image.layers[i].layer) for i in range(image.n_layers)]

    def layer_facts(self):
        """For each layer (layer, depth, frequency in Hz, keywords, stored bytes, bytes): what an index is made from."""
        cdef Image image = self.current()
        cdef LayerEntry *entry
        cdef uint32_t i
        cdef list facts = []
        for i in range(image.n_layers):
            entry = &image.layers[i]
            facts.append((
                entry.layer, entry.depth, decimal_of(entry.frequency_hz), image.keywords(i),
                entry.content_bytes, entry.raw_bytes,
            ))
        return facts

    @property
    def content_bytes(self):
        """Bytes of all contents as stored."""
        return self.current().content_bytes

    def content_offset(self, layer):
        """Where in the file the content of a layer begins; LayerNotFound."""
        cdef Image image = self.current()
        cdef int64_t i = image.find_number(layer)
        if i < 0:
            raise LayerNotFound(image.dimension_id, layer)
        return image.layers[i].content_off_bytes

    def verify(self, progress=None):
        """All damage, as a list of errors; empty if the region is sound. Reads every byte, without the GIL.

        `progress(done_bytes, total_bytes)` is called after each layer.
        """
        return self.current().damage(progress)

    def _in_place_of(self, MmapRegion old):
        """This region, if it may take the place of `old`; ImmutableDimension if that is immutable and says otherwise.

        The same content is the same name and the same bytes behind the header: generation and date may be others.
        """
        cdef Image image = self.current(), other
        cdef bint same
        if old is None or not old.is_immutable or old.current().source == "simulated":
            return self
        other = old.current()
        same = self.is_immutable and image.name == other.name and image.n_bytes == other.n_bytes
        if same:
            with nogil:
                same = memcmp(
                    &image.bytes[0] + HEADER_BYTES, &other.bytes[0] + HEADER_BYTES, image.n_bytes - HEADER_BYTES
                ) == 0
        if not same:
            raise ImmutableDimension(image.dimension_id, "a reload with other content")
        return self

    def residency(self):
        """The share of the file's pages that are in memory, 0..1."""
        cdef Image image = self.current()
        cdef uint64_t n_pages, n_resident
        cdef int failed
        with nogil:
            failed = jm_os_resident_pages(&image.bytes[0], image.n_bytes, &n_pages, &n_resident)
        if failed:
            raise MappingError(errno, os.strerror(errno), image.path)
        return n_resident / n_pages

    def prefetch(self, layers=None, bint wait=False):
        """Ask for the pages of some layers (all by default) to be read in; with `wait`, until they are.

        Returns the residency of the region that is reached.
        """
        cdef Image image = self.current()
        cdef LayerEntry *entry
        cdef const uint8_t *first
        cdef int64_t i
        cdef int failed
        for layer in [each.layer for each in self.layers()] if layers is None else layers:
            i = image.find_number(layer)
            if i < 0:
                raise LayerNotFound(image.dimension_id, layer)
            entry = &image.layers[i]
            first = image.content(i)
            with nogil:
                failed = jm_os_prefetch(first, entry.content_bytes)
                if wait and not failed:
                    touch_pages(first, entry.content_bytes)
            if failed:
                raise MappingError(errno, os.strerror(errno), image.path)
        return self.residency()

    def close(self):
        """Let go of the mapping; it goes with its last view. May be called twice.

        The region of a manager belongs to it: this does nothing then, and ``unload_dimension`` is what lets go.
        """
        if self.is_owned:
            return
        with cython.critical_section(self):
            self.image = None
            self.views.clear()

    def __enter__(self):
        self.current()
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef Image image = self.current()
        PyBuffer_FillInfo(view, image, <void *> &image.bytes[0], image.n_bytes, True, flags)

    def __reduce__(self):
        raise TypeError("a MmapRegion cannot be copied or pickled: open its path again")

    def __repr__(self):
        try:
            image = self.current()
        except ManagerClosed:
            return "<MmapRegion closed>"
        return (
            f"<MmapRegion D{image.dimension_id:02d} {image.name}: {image.n_layers} layers, {image.n_bytes} bytes, "
            f"generation {image.generation}, {image.source}>"
        )

    cdef LayerView make_view(self, Image image, uint32_t i):
        """The view of layer number `i`, its content compared with its checksum."""
        cdef LayerEntry *entry = &image.layers[i]
        cdef LayerView view = LayerView.__new__(LayerView)
        jm_disown(<PyObject *> view)
        image.check_content(i)
        view.image = image
        view.data, view.size_bytes = image.content(i), entry.content_bytes
        view.id = new_layer_id(image.dimension_id, entry.layer)
        view.keywords = image.keywords(i)
        view.depth, view.frequency = entry.depth, decimal_of(entry.frequency_hz)
        view.source = image.source
        view.says_ascii = entry.text_flags & TEXT_ASCII
        if entry.codec != CODEC_RAW:
            self.decompress(view, entry)
        return view

    cdef int decompress(self, LayerView view, LayerEntry *entry) except -1:
        """Replace the view's compressed bytes by their decompressed copy, in memory of the region's owner."""
        cdef const uint8_t[::1] copy
        payload = self.allocate(entry.raw_bytes)
        if not compression.decompress(memoryview(view), entry.raw_bytes, memoryview(payload)):
            raise view.image.frame_error(entry)
        view.payload, view.size_bytes, view.source = payload, entry.raw_bytes, "pool"
        view.payload_bytes = getattr(payload, "capacity", entry.raw_bytes)
        jm_add_relaxed(&view.image.decompressed_bytes, view.payload_bytes)
        if entry.raw_bytes:
            copy = payload
            view.data = &copy[0]
        return 0


def make_region(Image image not None, bint immutable, allocate):
    """A MmapRegion around an image that is open already; `allocate` gives memory for decompressed layers."""
    cdef MmapRegion region = MmapRegion.__new__(MmapRegion)
    region.allocate, region.image = allocate, image
    region.is_immutable = immutable or image.immutable
    return region
