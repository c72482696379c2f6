"""LayerView: one layer, as users hold it.

HAZARD: a region is closed, replaced, grown or evicted while others read it. A view owns the Image its bytes lie in and
knows no region, so it lives as long as its holders, whatever happens to the dimension.
"""
from types import MappingProxyType

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uintptr_t

from jessy_mem._core.c.atomic cimport jm_add_relaxed, jm_flag_load_relaxed, jm_flag_store_relaxed, jm_sub_relaxed
from jessy_mem._core.c.os_memory cimport jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_disown, jm_memoryview_of, jm_slice_is_plain
from jessy_mem._core.format cimport CODEC_RAW, TEXT_UTF8, LayerEntry
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_copy_ascii, span_touch
from jessy_mem._core.kernels.utf8 cimport utf8_decode, utf8_highest, utf8_largest

from jessy_mem import compression
from jessy_mem.forking import imported
from jessy_mem.layout import LayerId

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t n_characters, Py_UCS4 largest)
    void *PyUnicode_DATA(str text)
    int PySlice_Unpack(object slice, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t step) noexcept

cdef object new_layer_id = LayerId
cdef object read_only = MappingProxyType
cdef object no_attributes = MappingProxyType({})
cdef enum:
    MIN_TEXT_BYTES = 64     # shorter text is the decoder's, which keeps strings of one character
    PREFAULT_BYTES = 65536  # larger text has its pages read in without the GIL before it is decoded


@cython.final
# An image, a payload and immutable values: no cycle can pass through a view. Unknown to the collector, a view takes 16
# bytes less, and a collection beside 65,536 of them 1.6 ms, and not 4.5.
@cython.no_gc
@cython.freelist(64)
cdef class LayerView:
    """One layer: a read-only buffer over its bytes, and what is known of it.

    The same object for every caller, without a copy of the content; a Reader has views of its own, and so has, without
    the GIL, a thread that reads a layer often while others read. It keeps its bytes, whatever happens to the dimension:
    unloading, reloading, eviction and closing wait for nobody and take nothing away. All methods are thread-safe.
    Obtained from ``access_layer`` or ``MmapRegion.layer``.

    A view is a key by what it shows: two views are equal if they show one layer as it is in one file, also when that
    was mapped again, and hashing one reads no page. ``==`` with bytes, or another buffer of bytes, compares the
    content, as a memoryview does; so bytes that equal a view have another hash: to find content in a set or dict, put
    ``bytes(view)`` there.

    Attributes: `id` (LayerId), `depth`, `frequency` (Hz), `keywords` (tuple of str), `source` ("mmap", "simulated", or
    "pool": a proto-dimension's layer or a decompressed one), `n_bytes`, `text`; `attributes`, `created_ns`, `n_tokens`.
    """

    def __init__(self):
        raise TypeError("LayerView: access_layer() and MmapRegion.layer() make these")

    def __dealloc__(self):
        if type(self.payload) is tuple:
            jm_sub_relaxed(&self.image.decompressed_bytes, <uint64_t> self.payload[1])

    @property
    def n_bytes(self):
        """Bytes of content."""
        return self.size_bytes

    @property
    def depth(self):
        return 0 if self.image is None else self.image.layers[self.entry].depth

    @property
    def frequency(self):
        """Hz."""
        return 0.0 if self.image is None else decimal_of(self.image.layers[self.entry].frequency_hz)

    @property
    def source(self):
        """ "mmap", "simulated" or "pool"."""
        return None if self.image is None else source_of(self)

    @property
    def text(self):
        """The content decoded from UTF-8: the one copy. UnicodeDecodeError names the layer if it is not text.

        Decoded anew each time, unless its manager keeps texts: `text_cache_mb` of the configuration.
        """
        cdef bint is_copy
        return self.decode() if keeps_no_text(self) else self.read_text(&is_copy)

    @property
    def attributes(self):
        """What else is known of the layer, as a read-only mapping; empty if nothing is.

        Parsed on first use; InvalidRegion if the file holds no JSON object there. What holds lists or objects is parsed
        anew each time, so that nobody can change what others read.
        """
        cdef dict found
        with cython.critical_section(self):
            attributes = self.known_attributes
        if self.image is None:  # made by nobody
            return no_attributes
        if attributes is None:
            found = self.image.parse_attributes(self.entry)
            attributes = read_only(found) if found else no_attributes
            if not any([isinstance(each, (list, dict)) for each in found.values()]):
                with cython.critical_section(self):
                    if self.known_attributes is None:
                        self.known_attributes = attributes
                    attributes = self.known_attributes
        return attributes

    @property
    def created_ns(self):
        """When the layer was made, Unix time in ns: in a file of extension version 1, when that was; 0 in plain V1."""
        return 0 if self.image is None else self.image.layers[self.entry].created_ns

    @property
    def n_tokens(self):
        """Tokens of the text, as its writer counted them; 0 if it did not."""
        return 0 if self.image is None else self.image.layers[self.entry].n_tokens

    cdef str read_text(self, bint *is_copy):
        cdef str text
        is_copy[0] = True
        if keeps_no_text(self):
            return self.decode()
        text = self.image.texts.find(<object> PyTuple_GET_ITEM(self.id, 1))
        is_copy[0] = text is None
        return self.image.texts.keep(<object> PyTuple_GET_ITEM(self.id, 1), self.decode()) if text is None else text

    cdef str decode(self):
        cdef str text
        if self.size_bytes >= PREFAULT_BYTES and not jm_flag_load_relaxed(&self.faulted):
            with nogil:
                span_touch(self.data, self.size_bytes, jm_page_bytes())
            jm_flag_store_relaxed(&self.faulted, 1)
        if self.says_text and self.size_bytes >= MIN_TEXT_BYTES:
            # Faster than CPython's decoder, which need not know; and safe if the file says what is not so.
            text = self.decode_known()
            if text is not None:
                self.check_read(self.data, self.size_bytes)
                return text
        try:
            text = PyUnicode_DecodeUTF8(<const char *> self.data, self.size_bytes, NULL)
            self.check_read(self.data, self.size_bytes)
            return text
        except UnicodeDecodeError as error:
            self.check_read(self.data, self.size_bytes)
            raise UnicodeDecodeError(
                error.encoding, error.object, error.start, error.end, f"{error.reason} in layer {self.id}"
            ) from None

    cdef str decode_known(self):
        cdef str text
        cdef void *target
        cdef Py_ssize_t n_characters = self.image.layers[self.entry].n_characters
        cdef uint32_t largest
        cdef bint whole
        cdef uint8_t highest = jm_flag_load_relaxed(&self.highest)
        if highest == 0:
            if self.size_bytes == n_characters:
                highest = 0x7F
            else:
                with nogil:
                    highest = utf8_highest(self.data, self.size_bytes)
            jm_flag_store_relaxed(&self.highest, highest)
        largest = utf8_largest(highest)
        text = PyUnicode_New(n_characters, largest)
        target = PyUnicode_DATA(text)
        if self.size_bytes < PREFAULT_BYTES:
            whole = decode_into(target, largest, self.data, self.size_bytes, n_characters)
        else:
            with nogil:
                whole = decode_into(target, largest, self.data, self.size_bytes, n_characters)
        return text if whole else None

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *> self.data, self.size_bytes, True, flags)

    def _check_file(self):
        """Of bytes that somebody read by himself: whether they are those of the file; see Image.check_file."""
        if self.payload is None and self.image is not None:
            self.image.check_file()

    def __len__(self):
        return self.size_bytes

    cdef int check_read(self, const uint8_t *first, Py_ssize_t n_bytes) except -1:
        if self.payload is not None or self.image is None:
            return 0
        return self.image.check_read(first, n_bytes, self.image.layers[self.entry].layer)

    def __bytes__(self):
        cdef bytes copy = PyBytes_FromStringAndSize(<const char *> self.data, self.size_bytes)
        self.check_read(self.data, self.size_bytes)
        return copy

    def __getitem__(self, key):
        cdef Py_ssize_t begin, end
        if isinstance(key, slice) and jm_slice_is_plain(key, self.size_bytes, &begin, &end):
            return jm_memoryview_of(self, self.data + begin, end - begin)
        return self.part(key)

    cdef object part(self, key):
        cdef Py_ssize_t i, stop, step, n_bytes
        if isinstance(key, slice):
            PySlice_Unpack(key, &i, &stop, &step)
            if step != 1:
                part = jm_memoryview_of(self, self.data, self.size_bytes)[key]
                jm_disown(<PyObject *> part)
                return part
            n_bytes = PySlice_AdjustIndices(self.size_bytes, &i, &stop, 1)
            return jm_memoryview_of(self, self.data + i, n_bytes)
        i = PyNumber_AsSsize_t(key, IndexError)
        if i < 0:
            i += self.size_bytes
        if not 0 <= i < self.size_bytes:
            raise IndexError(f"byte {key} of {self.size_bytes}")
        byte = self.data[i]
        self.check_read(self.data + i, 1)
        return byte

    cdef bint is_like(self, LayerView other):
        if self.image is None or other.image is None or self.entry != other.entry:
            return False
        return self.image is other.image or is_same_file(self.image, other.image, self.entry)

    def __eq__(self, other):
        if isinstance(other, LayerView):
            return self is other or self.is_like(<LayerView> other)
        equal = memoryview(self) == other
        self.check_read(self.data, self.size_bytes)
        return equal

    def __hash__(self):
        if self.image is None:
            return object.__hash__(self)
        if self.image.identity is None:
            return <Py_hash_t> (<uintptr_t> <void *> self.image // sizeof(void *) + self.entry)
        return hash((self.image.identity, self.entry))

    def _reference(self):
        """(path of its file, dimension, layer, generation), which pickling.py finds it by; None if it has no file."""
        if self.image is None or self.image.identity is None:
            return None
        return self.image.path, self.image.dimension_id, self.image.layers[self.entry].layer, self.image.generation

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"<LayerView {self.id} {self.size_bytes} bytes, {self.frequency:.2f} Hz, {self.source}>"

    def _repr_html_(self):
        return imported("jessy_mem.notebook").view(self)


cdef bint is_same_file(Image image, Image other, uint32_t i):
    """Whether both map one file, unchanged between, and with the same layer there: an inode may be given again."""
    return (
        image.identity is not None
        and image.identity == other.identity
        and image.generation == other.generation
        and i < other.n_layers
        and image.layers[i].layer == other.layers[i].layer
        and image.layers[i].xxh3 == other.layers[i].xxh3
    )


cdef inline bint keeps_no_text(LayerView view) noexcept:
    return view.image is None or view.image.texts is None


cdef bint decode_into(
    void *target, uint32_t largest, const uint8_t *first, Py_ssize_t n_bytes, Py_ssize_t n_characters
) noexcept nogil:
    """Fill a string that was made for `n_characters` of at most `largest`; False if the bytes are something else."""
    if largest == 0x7F:
        return n_bytes == n_characters and span_copy_ascii(<uint8_t *> target, first, n_bytes)
    if largest == 0xFF:
        return utf8_decode(first, n_bytes, <uint8_t *> target, n_characters, 0x7F)
    if largest == 0xFFFF:
        return utf8_decode(first, n_bytes, <uint16_t *> target, n_characters, 0xFF)
    return utf8_decode(first, n_bytes, <uint32_t *> target, n_characters, 0xFFFF)


cdef LayerView make_view(Image image, uint32_t i, allocate):
    cdef LayerEntry *entry = &image.layers[i]
    cdef LayerView view = LayerView.__new__(LayerView)
    jm_disown(<PyObject *> view)
    image.check_content(i)
    view.image, view.entry = image, i
    view.data, view.size_bytes = image.content(i), entry.content_bytes
    view.id = new_layer_id(image.dimension_id, entry.layer)
    view.keywords = image.keywords(i)
    view.says_text = entry.text_flags & TEXT_UTF8
    if entry.codec != CODEC_RAW:
        decompress(view, entry, allocate)
    jm_flag_store_relaxed(&entry.viewed, 1)
    return view


cdef int decompress(LayerView view, LayerEntry *entry, allocate) except -1:
    """Replace the view's compressed bytes by their decompressed copy, in memory of the region's owner."""
    cdef const uint8_t[::1] copy
    payload = allocate(entry.raw_bytes)
    if not compression.decompress(memoryview(view), entry.raw_bytes, memoryview(payload)):
        raise view.image.frame_error(view.entry)
    n_bytes = getattr(payload, "capacity", entry.raw_bytes)
    view.payload, view.size_bytes = (payload, n_bytes), entry.raw_bytes
    jm_add_relaxed(&view.image.decompressed_bytes, <uint64_t> n_bytes)
    if entry.raw_bytes:
        copy = payload
        view.data = &copy[0]
    return 0


cdef LayerView copy_of(LayerView view):
    cdef LayerView copy = LayerView.__new__(LayerView)
    copy.image, copy.entry, copy.data, copy.size_bytes = view.image, view.entry, view.data, view.size_bytes
    copy.id, copy.keywords = view.id, view.keywords
    copy.says_text, copy.highest = view.says_text, jm_flag_load_relaxed(&view.highest)
    if view.payload is not None:
        copy.payload = view  # which keeps the decompressed bytes, and counts them
    return copy
