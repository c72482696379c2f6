"""The checked bytes of one generation of a region.

HAZARD: a mapping must not go while anything points into it, and must go as soon as nothing does. An Image owns the
buffer; views own the Image; nothing points back, so the last view's death unmaps and then releases the charge:

    LayerView --> Image --> buffer (mmap, pool block)
    memoryview ----^   \\--> charge (released last)
"""
import errno
import hashlib
import os

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport jm_fence_acquire, jm_flag_load_acquire, jm_flag_store_release, jm_load_relaxed
from jessy_mem._core.c.os_memory cimport jm_os_prefetch, jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_disown, jm_disown_view, jm_memoryview_of
from jessy_mem._core.fault cimport SHORT_HEAD, Fault, fault_error, fault_set
from jessy_mem._core.format cimport (
    CODEC_RAW,
    FEATURE_DELTA,
    HEADER_BYTES,
    PAGE_ALIGNMENT_BYTES,
    OPTION_IMMUTABLE,
    RECORD_MIN_BYTES,
    Header,
    HeadCursor,
    LayerEntry,
    entry_is_tombstone,
    format_check_attributes,
    format_check_gap,
    format_check_header,
    format_gap_begin,
    format_head_bytes,
    format_head_checksum,
    format_keywords,
    format_read_layers,
)
from jessy_mem._core.guard cimport guard_mark
from jessy_mem._core.head cimport Head
from jessy_mem._core.kernels.span cimport span_is_utf8, span_slice, span_touch
from jessy_mem._core.mapping cimport Mapping
from jessy_mem._core.uncached cimport Uncached, uncached

import xxhash

from jessy_mem import compression, given
from jessy_mem.errors import ChecksumMismatch, InvalidRegion, MappingError, RegionTruncated

cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest
cdef object decode_json = given.decoded


cdef inline uint64_t near_end(uint64_t end_off_bytes) noexcept nogil:
    """The end of the last page of a head that ends there, and never less than where the first content can begin."""
    cdef uint64_t page_bytes = max(<uint64_t> jm_page_bytes(), <uint64_t> PAGE_ALIGNMENT_BYTES)
    return (end_off_bytes // page_bytes + 1) * page_bytes


cdef bint check_near_gaps(
    const uint8_t[::1] region, uint64_t head_bytes, uint32_t n_layers, const LayerEntry *layers, Fault *fault
) noexcept nogil:
    """Gaps on the pages of the head, which are in memory anyway; check_content looks at the others."""
    cdef uint64_t near_bytes = near_end(head_bytes)
    cdef uint32_t i = 0
    while i < n_layers and (i == 0 or layers[i].content_off_bytes <= near_bytes):
        if not format_check_gap(region, head_bytes, layers, i, fault):
            return False
        i += 1
    return True


@cython.final
@cython.no_gc  # owner and charge are buffers and counters: no cycle can pass through an Image
cdef class Image:
    """Image(owner, path, dimension_id, source, charge=None, identity=None, head=None, trusted=False, n_bytes=0)\n--\n
    The bytes of one generation of a region, checked.

    Parameters
    ----------
    owner : buffer
        Holds the bytes and keeps them unchanged while the Image lives.
    path : str
        For messages: the file, or what stands in its place.
    dimension_id : int
        The dimension that is asked for; 0 accepts each.
    source : str
        "mmap", "pool" or "simulated".
    charge : Charge, optional
        Released when the bytes are.
    identity : tuple, optional
        What the file was when it was opened, to tell later whether it was replaced.
    head : Head, optional
        The same bytes from the beginning, where those of the owner may change or go: it is read instead of them.
    trusted : bool
        The bytes were written by this process into memory that no other can reach.
    n_bytes : int
        The region's size, if the owner's buffer is longer.

    Structure is checked here, content on demand. Raises InvalidRegion, RegionTruncated, ChecksumMismatch.
    """

    def __cinit__(
        self,
        owner,
        str path,
        uint64_t dimension_id,
        str source,
        charge=None,
        identity=None,
        Head head=None,
        bint trusted=False,
        uint64_t n_bytes=0,
    ):
        cdef uint32_t i
        jm_disown(<PyObject *> self)
        if owner is None:  # which a typed memoryview would take
            raise TypeError("owner: None is not bytes-like")
        self.path, self.source, self.charge, self.identity, self.trusted = path, source, charge, identity, trusted
        self.bytes = owner
        jm_disown_view(self.bytes)
        if trusted:  # memory that was made for this image
            jm_disown(<PyObject *> owner)
        if 0 < n_bytes < <uint64_t> self.bytes.shape[0]:
            self.bytes = self.bytes[:n_bytes]
        self.n_bytes = self.bytes.shape[0]
        if isinstance(owner, Mapping) and (<Mapping> owner).guard >= 0:
            self.zeros_from = guard_mark((<Mapping> owner).guard)
        self.read_head(dimension_id, head)
        self.n_layers, self.dimension_id = self.header.layer_count, self.header.dimension_id
        for i in range(self.n_layers):
            jm_assert(self.layers[i].content_off_bytes <= self.n_bytes - self.layers[i].content_bytes, i, self.n_bytes)
            self.content_bytes += self.layers[i].content_bytes
            self.n_live_layers += not entry_is_tombstone(&self.layers[i])
        self.charged_bytes = self.n_bytes
        self.immutable = self.extended and self.header.optional_features & OPTION_IMMUTABLE != 0
        self.is_delta = self.extended and self.header.required_features & FEATURE_DELTA != 0
        self.generation = self.header.generation
        self.name = PyUnicode_DecodeUTF8(
            <const char *> self.header.dimension_name, self.header.dimension_name_len, NULL
        )

    cdef int read_head(self, uint64_t dimension_id, Head head) except -1:
        """Fill in `header`, `layers` and `head_bytes`, checked; of a file, from what was read of it."""
        cdef Fault fault
        cdef bint sound
        cdef HeadCursor cursor
        cdef const uint8_t[::1] begin = self.bytes if head is None else head.bytes
        if not format_check_header(begin, self.n_bytes, dimension_id, &self.header, &fault):
            raise fault_error(&fault, self.path, PyBytes_FromStringAndSize(<const char *> &self.header, sizeof(Header)))
        self.extended = self.header.extension_version != 0
        memset(&cursor, 0, sizeof(cursor))
        while True:
            self.make_room(begin.shape[0])
            with nogil:
                sound = self.read_records(begin, &cursor, &fault)
            if sound or fault.code != SHORT_HEAD:
                break
            field = "attributes_size" if self.head_bytes else "metadata_size" if self.extended else "metadata"
            begin = None  # what others look at cannot grow
            begin = self.reached(head, fault.expected, field)
        if not sound:
            raise fault_error(&fault, self.path)
        return self.check_head(begin) if self.extended else 0

    cdef bint read_records(self, const uint8_t[::1] begin, HeadCursor *cursor, Fault *fault) noexcept nogil:
        cdef uint64_t near_bytes
        if not format_read_layers(begin, &self.header, self.layers, cursor, fault):
            return False
        if not self.extended:
            return True
        self.head_bytes = format_head_bytes(&self.header, self.layers)
        near_bytes = min(near_end(self.head_bytes), self.n_bytes)
        if <uint64_t> begin.shape[0] < near_bytes:
            return fault_set(fault, SHORT_HEAD, -1, begin.shape[0], near_bytes)
        return format_check_attributes(begin, &self.header, self.layers, fault) and check_near_gaps(
            begin, self.head_bytes, self.header.layer_count, self.layers, fault
        )

    cdef int make_room(self, uint64_t head_bytes) except -1:
        """Let `layers` have room for the records that so many bytes can hold, one that is cut off, and the end."""
        cdef uint64_t n_entries = min(<uint64_t> self.header.layer_count, head_bytes // RECORD_MIN_BYTES + 1) + 1
        cdef LayerEntry *layers = <LayerEntry *> PyMem_RawRealloc(self.layers, n_entries * sizeof(LayerEntry))
        if layers == NULL:
            raise MemoryError
        self.layers = layers
        if n_entries > self.n_entries:
            memset(layers + self.n_entries, 0, (n_entries - self.n_entries) * sizeof(LayerEntry))
            self.n_entries = n_entries
        return 0

    cdef const uint8_t[::1] reached(self, Head head, uint64_t n_bytes, str field):
        """The region's begin, after a look whether somebody interrupts: `n_bytes` at least."""
        if head is None:
            PyErr_CheckSignals()
            return self.bytes
        head.reach(n_bytes, field)
        return head.bytes

    def __dealloc__(self):
        PyMem_RawFree(self.layers)
        self.bytes = None  # before the charge, which goes with the other attributes

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *> span_slice(self.bytes, 0, self.n_bytes), self.n_bytes, True, flags)

    cdef bint says_what(self, Image other):
        cdef bint same = self.name == other.name and self.n_bytes == other.n_bytes
        if same:
            with nogil:
                same = memcmp(
                    &self.bytes[0] + HEADER_BYTES, &other.bytes[0] + HEADER_BYTES, self.n_bytes - HEADER_BYTES
                ) == 0
        return same

    cdef const uint8_t *content(self, uint32_t i) except NULL:
        return span_slice(self.bytes, self.layers[i].content_off_bytes, self.layers[i].content_bytes)

    cdef int64_t find_layer(self, uint64_t layer) noexcept nogil:
        cdef int64_t low = 0
        cdef int64_t high = self.n_layers
        cdef int64_t middle
        # Layers are mostly numbered without holes, so the layer's number is mostly its position.
        if layer < self.n_layers and self.layers[layer].layer == layer:
            return layer
        while low < high:
            middle = (low + high) >> 1
            if self.layers[middle].layer < layer:
                low = middle + 1
            else:
                high = middle
        return low if low < self.n_layers and self.layers[low].layer == layer else -1

    cdef int check_content(self, uint32_t i) except -1:
        if self.extended and not self.trusted and not jm_flag_load_acquire(&self.layers[i].verified):
            self.compare_content(i, None)
            jm_flag_store_release(&self.layers[i].verified, 1)
        return 0

    cdef int compare_content(self, uint32_t i, Uncached file) except -1:
        cdef LayerEntry *entry = &self.layers[i]
        cdef Fault fault
        cdef bint sound
        cdef uint64_t found, begin = format_gap_begin(self.head_bytes, self.layers, i)
        if file is not None and file.is_sound(begin, entry.content_off_bytes, entry.content_bytes, entry.xxh3):
            return self.check_mark(self.content(i) + entry.content_bytes, entry.layer)
        with nogil:
            sound = format_check_gap(self.bytes, self.head_bytes, self.layers, i, &fault)
        if not sound:
            raise fault_error(&fault, self.path)
        found = xxh3_64_intdigest(jm_memoryview_of(self, self.content(i), entry.content_bytes))
        if found != entry.xxh3:
            self.check_read(self.content(i), entry.content_bytes, entry.layer)
            raise ChecksumMismatch(self.path, "content", f"{found:#018x}", f"{entry.xxh3:#018x}", entry.layer)
        return 0

    cdef int check_read(self, const uint8_t *first, uint64_t n_bytes, int64_t layer) except -1:
        if self.zeros_from == NULL or n_bytes == 0:
            return 0
        # Of a page that the file ends on, what is behind the end is zeros, and no fault.
        if first[n_bytes - 1] == 0:
            return self.check_there(first + n_bytes, layer)
        return self.check_mark(first + n_bytes, layer)

    cdef int check_mark(self, const uint8_t *end, int64_t layer) except -1:
        jm_fence_acquire()
        if self.zeros_from != NULL and jm_load_relaxed(self.zeros_from) < <uint64_t> end:
            return self.check_there(end, layer)
        return 0

    cdef str guard_of(self):
        if self.zeros_from == NULL or (self.lease is not None and self.lease.moved):
            return "copy"
        return "lease" if self.lease is not None and self.lease.holds else "reads"

    cdef int check_there(self, const uint8_t *end, int64_t layer) except -1:
        """Whether the file has the bytes up to `end`, and had them since it was mapped."""
        if self.lease is not None and self.lease.moved:
            return 0
        cdef uint64_t wanted_bytes = end - &self.bytes[0]
        cdef bint is_marked = jm_load_relaxed(self.zeros_from) < <uint64_t> end
        cdef uint64_t most_bytes = jm_load_relaxed(self.zeros_from) - <uint64_t> &self.bytes[0]
        cdef bint is_same = False
        cdef str found = f"at most {most_bytes} bytes since then"
        try:
            info = os.stat(self.path)
            is_same = self.identity is not None and (info.st_dev, info.st_ino) == self.identity[:2]
        except OSError:
            info = None
        if is_same and info.st_size < wanted_bytes:
            found = f"{info.st_size} bytes"
        elif not is_marked:
            return 0
        elif is_same and (info.st_mtime_ns, info.st_size) == self.identity[2:]:
            raise MappingError(errno.EIO, os.strerror(errno.EIO), self.path, self.n_bytes)
        raise RegionTruncated(
            self.path, "total_size", found, f"a file of {self.n_bytes} bytes, as when it was mapped",
            None if layer < 0 else layer,
        )

    cdef int check_head(self, const uint8_t[::1] head) except -1:
        cdef uint64_t found = format_head_checksum(head, self.head_bytes)
        if found != self.header.metadata_xxh3:
            raise ChecksumMismatch(
                self.path, "metadata_xxh3", f"{found:#018x}", f"{self.header.metadata_xxh3:#018x}"
            )
        return 0

    cdef int compare_digest(self, bytes found) except -1:
        cdef bytes expected = PyBytes_FromStringAndSize(<const char *> self.header.content_sha256, 32)
        if found != expected:
            raise ChecksumMismatch(self.path, "content_sha256", found.hex(), expected.hex())
        return 0

    cdef int compare_head(self) except -1:
        try:
            if memcmp(&self.bytes[0], &self.header, sizeof(Header)) != 0:
                raise InvalidRegion(self.path, "header", "other bytes than at open", "an unchanged file")
            self.check_head(self.bytes)
        except InvalidRegion:
            self.check_read(&self.bytes[0], self.head_bytes, -1)
            raise
        return 0

    cdef int check_frame(self, uint32_t i) except -1:
        cdef LayerEntry *entry = &self.layers[i]
        if entry.codec == CODEC_RAW or not compression.is_available():
            return 0
        if not compression.decompress(
            jm_memoryview_of(self, self.content(i), entry.content_bytes), entry.raw_bytes
        ):
            raise self.frame_error(i)
        return 0

    cdef object frame_error(self, uint32_t i):
        cdef LayerEntry *entry = &self.layers[i]
        self.check_read(self.content(i), entry.content_bytes, entry.layer)
        return InvalidRegion(
            self.path, "content", "something else", f"one zstd frame of {entry.raw_bytes} bytes", entry.layer
        )

    cdef int prefetch(self, uint32_t i, bint wait) except -1:
        cdef const uint8_t *first = self.content(i)
        cdef uint64_t n_bytes = self.layers[i].content_bytes
        cdef int failed
        with nogil:
            failed = jm_os_prefetch(first, n_bytes)
            if wait and not failed:
                span_touch(first, n_bytes, jm_page_bytes())
        if failed:
            raise MappingError(c_errno, os.strerror(c_errno), self.path)
        return self.check_read(first, n_bytes, self.layers[i].layer) if wait else 0

    cdef int count_pages(self, uint64_t *n_pages, uint64_t *n_resident) except -1:
        cdef int failed
        with nogil:
            failed = jm_os_resident_pages(&self.bytes[0], self.n_bytes, n_pages, n_resident)
        if failed:
            raise MappingError(c_errno, os.strerror(c_errno), self.path)
        return 0

    cdef tuple keywords(self, uint32_t i):
        cdef LayerEntry *entry = &self.layers[i]
        cdef bytes record
        if entry.n_keywords == 0:
            return ()
        record = self.copied(entry.record_off_bytes, self.layers[i + 1].record_off_bytes - entry.record_off_bytes, i)
        keywords = format_keywords(record, entry.n_keywords)
        if keywords is None:
            raise self.changed_error(i, "keyword")
        return keywords

    cdef bytes copied(self, uint64_t off_bytes, uint64_t n_bytes, uint32_t i):
        """A part of the head that is about layer number `i`, in memory that does not change while it is parsed."""
        cdef const uint8_t *first = span_slice(self.bytes, off_bytes, n_bytes)
        cdef bytes copy = PyBytes_FromStringAndSize(<const char *> first, n_bytes)
        self.check_mark(first + n_bytes, self.layers[i].layer)
        return copy

    cdef object changed_error(self, uint32_t i, str field):
        self.check_file()
        return InvalidRegion(self.path, field, "other bytes than at open", "an unchanged file", self.layers[i].layer)

    cdef bytes attributes(self, uint32_t i):
        cdef LayerEntry *entry = &self.layers[i]
        cdef bytes copy
        if entry.attributes_bytes == 0:
            return b""
        copy = self.copied(entry.attributes_off_bytes, entry.attributes_bytes, i)
        if not span_is_utf8(<const uint8_t *> <const char *> copy, entry.attributes_bytes):
            raise self.changed_error(i, "attributes")
        return copy

    cdef dict parse_attributes(self, uint32_t i):
        cdef bytes stored = self.attributes(i)
        if not stored:
            return {}
        try:
            found = decode_json(stored.decode())
        except (ValueError, RecursionError):  # no JSON, or deeper than anybody can read
            found = None
        if type(found) is not dict:
            self.check_file()
            raise InvalidRegion(
                self.path, "attributes", "something else", "one JSON object", self.layers[i].layer
            )
        return found

    @property
    def extension(self):
        """The version of the extension that the file has; 0: it is a plain V1 file."""
        return self.header.extension_version

    def check_digest(self):
        """Compare all content of an immutable region with its digest; ChecksumMismatch."""
        self.compare_digest(hashlib.sha256(memoryview(self)[self.head_bytes:]).digest())

    def check_file(self):
        """Of a mapped file, that it has all its bytes, and had them since it was mapped: what was read of it was in it.

        RegionTruncated; MappingError if it could not be read.
        """
        if self.zeros_from != NULL:
            jm_fence_acquire()
            self.check_there(&self.bytes[0] + self.n_bytes, -1)

    def check_all(self):
        """Compare every layer with its checksum; the first damage is raised."""
        cdef uint32_t i
        for i in range(self.n_layers):
            self.check_content(i)

    def damage(self, progress=None):
        """Everything that is wrong with the content, as a list of errors; compared afresh, without the GIL."""
        cdef uint32_t i
        cdef list found = []
        cdef Uncached file = None
        if self.extended and self.guard_of() != "copy":
            file = uncached(self.bytes, self.path, self.identity)
        try:
            self.check_file()
            if self.extended:
                self.compare_head()
        except (InvalidRegion, MappingError) as error:
            found.append(error)
        for i in range(self.n_layers):
            try:
                if self.extended:
                    # A frame is read through the mapping anyway.
                    self.compare_content(i, file if self.layers[i].codec == CODEC_RAW else None)
                    self.check_frame(i)
                    self.parse_attributes(i)
            except (InvalidRegion, MappingError) as error:
                found.append(error)
            if progress is not None:
                progress(self.layers[i].content_off_bytes + self.layers[i].content_bytes, self.n_bytes)
        return found


cdef Image checked(Image image, str verify):
    """`image`, after its content was compared with its checksums ("open"), or as one that never will be ("never").

    That of a file that is not on the disk yet is compared: of what a power cut tore nothing is to be seen.
    """
    if verify != "lazy" or image.unsynced:
        if verify == "never":
            image.trusted = True
        else:
            image.check_all()
    return image
