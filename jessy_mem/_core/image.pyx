"""The checked bytes of one generation of a region.

HAZARD: a mapping must not go while anything points into it, and must go as soon as nothing does. An Image owns the
buffer; views own the Image; nothing points back, so the last view's death unmaps and then releases the charge:

    LayerView --> Image --> buffer (mmap, pool block)
    memoryview ----^   \\--> charge (released last)
"""
import errno
import hashlib
import json
import os

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport jm_flag_load_acquire, jm_flag_store_release
from jessy_mem._core.c.os_memory cimport jm_file_facts, jm_os_file_facts, jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_disown, jm_disown_view
from jessy_mem._core.fault cimport MISSING_DELTA, Fault, fault_error, fault_set
from jessy_mem._core.format cimport (
    CODEC_RAW,
    FEATURE_DELTA,
    HEADER_BYTES,
    PAGE_ALIGNMENT_BYTES,
    OPTION_IMMUTABLE,
    Header,
    LayerEntry,
    entry_is_tombstone,
    format_check_attributes,
    format_check_gap,
    format_check_header,
    format_copy_table,
    format_head_bytes,
    format_head_checksum,
    format_keywords,
    format_read_layers,
    format_table_end,
)
from jessy_mem._core.kernels.span cimport span_is_utf8, span_slice
from jessy_mem._core.mapping cimport memoryview_of

import xxhash

from jessy_mem import compression, layout
from jessy_mem._core.fault import advice
from jessy_mem._core.mapping import Mapping
from jessy_mem.errors import ChecksumMismatch, DimensionNotFound, InvalidRegion, MappingError, RegionTruncated
from jessy_mem.sealed import private_copy, sealed_copy, sha256_of

cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest
cdef object decode_json = json.JSONDecoder(parse_constant=int).decode  # what is no JSON: int("NaN") is a ValueError
# A FIFO in the place of a file does not block, and a terminal does not become this process's own.
cdef uint32_t UNSYNCED_MODE = layout.UNSYNCED_MODE
cdef int OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


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
    """Image(owner, path, dimension_id, source, charge=None, identity=None, first=b"", trusted=False, n_bytes=0)\n--\n
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
    first : bytes
        The first bytes, if they were read already: a region whose head they hold is opened without touching a page.
    trusted : bool
        The bytes were written by this process into memory that no other can reach.
    n_bytes : int
        The region's size, if the owner's buffer is longer.

    Structure is checked here, content on demand. Raises InvalidRegion, RegionTruncated, ChecksumMismatch.
    """

    def __cinit__(self, *args, **kwargs):
        jm_disown(<PyObject *> self)
        self.layers = NULL

    def __init__(
        self,
        owner,
        str path,
        uint64_t dimension_id,
        str source,
        charge=None,
        identity=None,
        bytes first not None=b"",
        bint trusted=False,
        uint64_t n_bytes=0,
    ):
        cdef Fault fault
        cdef bint sound
        cdef uint32_t i
        cdef const uint8_t[::1] begin, head
        if self.path is not None:
            raise TypeError("an Image is initialised once")
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
        begin = self.bytes
        if len(first) >= HEADER_BYTES:
            begin = first
        with nogil:
            sound = format_check_header(begin, self.n_bytes, dimension_id, &self.header, &fault)
        if not sound:
            raise fault_error(&fault, path, PyBytes_FromStringAndSize(<const char *> &self.header, sizeof(Header)))
        self.extended = self.header.extension_version != 0
        head = begin
        if not self.extended:
            head = self.bytes
        # What is parsed is what metadata_xxh3 is compared with, whatever happens to the file meanwhile.
        elif min(near_end(format_table_end(&self.header)), self.n_bytes) > <uint64_t> len(first):
            begin = self.bytes
            head = format_copy_table(begin, &self.header)
        self.layers = <LayerEntry *> malloc((<size_t> self.header.layer_count + 1) * sizeof(LayerEntry))
        if self.layers == NULL:
            raise MemoryError
        with nogil:
            sound = format_read_layers(head, &self.header, self.layers, &fault)
        if sound and self.extended:
            self.head_bytes = format_head_bytes(&self.header, self.layers)
            if min(near_end(self.head_bytes), self.n_bytes) > <uint64_t> len(first):
                begin = self.bytes
            with nogil:
                sound = format_check_attributes(begin, &self.header, self.layers, &fault) and check_near_gaps(
                    begin, self.head_bytes, self.header.layer_count, self.layers, &fault
                )
        if not sound:
            raise fault_error(&fault, path)
        self.n_layers, self.dimension_id = self.header.layer_count, self.header.dimension_id
        for i in range(self.n_layers):
            jm_assert(self.layers[i].content_off_bytes <= self.n_bytes - self.layers[i].content_bytes, i, self.n_bytes)
            self.content_bytes += self.layers[i].content_bytes
            self.n_live_layers += not entry_is_tombstone(&self.layers[i])
        self.charged_bytes = self.n_bytes
        if self.extended:
            self.check_head(head, begin)
        self.immutable = self.extended and self.header.optional_features & OPTION_IMMUTABLE != 0
        self.is_delta = self.extended and self.header.required_features & FEATURE_DELTA != 0
        self.generation = self.header.generation
        self.name = PyUnicode_DecodeUTF8(
            <const char *> self.header.dimension_name, self.header.dimension_name_len, NULL
        )

    def __dealloc__(self):
        free(self.layers)
        self.bytes = None  # before the charge, which goes with the other attributes

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *> span_slice(self.bytes, 0, self.n_bytes), self.n_bytes, True, flags)

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

    cdef int64_t find_number(self, layer) except -2:
        try:
            return self.find_layer(PyNumber_Index(layer))  # a conversion alone would cut a float off
        except OverflowError:
            return -1

    cdef int check_content(self, uint32_t i) except -1:
        if self.extended and not self.trusted and not jm_flag_load_acquire(&self.layers[i].verified):
            self.compare_content(i)
            jm_flag_store_release(&self.layers[i].verified, 1)
        return 0

    cdef int compare_content(self, uint32_t i) except -1:
        cdef LayerEntry *entry = &self.layers[i]
        cdef Fault fault
        cdef bint sound
        cdef uint64_t found
        with nogil:
            sound = format_check_gap(self.bytes, self.head_bytes, self.layers, i, &fault)
        if not sound:
            raise fault_error(&fault, self.path)
        found = xxh3_64_intdigest(memoryview_of(self, self.content(i), entry.content_bytes))
        if found != entry.xxh3:
            raise ChecksumMismatch(self.path, "content", f"{found:#018x}", f"{entry.xxh3:#018x}", entry.layer)
        return 0

    cdef int check_head(self, const uint8_t[::1] head, const uint8_t[::1] region) except -1:
        """Compare header, records and table, which `head` holds, and attributes, in `region`, with metadata_xxh3."""
        cdef uint64_t found = format_head_checksum(head, region, &self.header, self.head_bytes)
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
        if memcmp(&self.bytes[0], &self.header, sizeof(Header)) != 0:
            raise InvalidRegion(self.path, "header", "other bytes than at open", "an unchanged file")
        return self.check_head(self.bytes, self.bytes)

    cdef int check_frame(self, uint32_t i) except -1:
        cdef LayerEntry *entry = &self.layers[i]
        if entry.codec == CODEC_RAW or not compression.is_available():
            return 0
        if not compression.decompress(
            memoryview_of(self, self.content(i), entry.content_bytes), entry.raw_bytes
        ):
            raise self.frame_error(entry)
        return 0

    cdef object frame_error(self, const LayerEntry *entry):
        return InvalidRegion(
            self.path, "content", "something else", f"one zstd frame of {entry.raw_bytes} bytes", entry.layer
        )

    cdef tuple keywords(self, uint32_t i):
        keywords = format_keywords(self.bytes, &self.layers[i])
        if keywords is None:
            raise self.changed_error(i, "keyword")
        return keywords

    cdef object changed_error(self, uint32_t i, str field):
        return InvalidRegion(self.path, field, "other bytes than at open", "an unchanged file", self.layers[i].layer)

    cdef bytes attributes(self, uint32_t i):
        cdef LayerEntry *entry = &self.layers[i]
        cdef bytes copy
        if entry.attributes_bytes == 0:
            return b""
        copy = PyBytes_FromStringAndSize(
            <const char *> span_slice(self.bytes, entry.attributes_off_bytes, entry.attributes_bytes),
            entry.attributes_bytes,
        )
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

    def check_all(self):
        """Compare every layer with its checksum; the first damage is raised."""
        cdef uint32_t i
        for i in range(self.n_layers):
            self.check_content(i)

    def damage(self, progress=None):
        """Everything that is wrong with the content, as a list of errors; compared afresh, without the GIL."""
        cdef uint32_t i
        cdef list found = []
        if self.extended:
            try:
                self.compare_head()
            except InvalidRegion as error:
                found.append(error)
        for i in range(self.n_layers):
            try:
                if self.extended:
                    self.compare_content(i)
                    self.check_frame(i)
                    self.parse_attributes(i)
            except InvalidRegion as error:
                found.append(error)
            if progress is not None:
                progress(self.layers[i].content_off_bytes + self.layers[i].content_bytes, self.n_bytes)
        return found


def checked(Image image not None, str verify):
    """`image`, after its content was compared with its checksums ("open"), or as one that never will be ("never").

    That of a file that is not on the disk yet is compared: of what a power cut tore nothing is to be seen.
    """
    if verify == "open" or (image.unsynced and verify != "never"):
        image.check_all()
    elif verify == "never":
        image.trusted = True
    return image


def map_file(
    path, uint64_t dimension_id, *, admit=None, uint64_t below_bytes=0, bint immutable=False, bint delta=False
):
    """Map the region file at `path`, checked, as an Image.

    `admit(n_bytes, below_bytes)` is called with the sizes of the file and of those under it before it is mapped, and
    returns its charge, or raises. A file that is immutable, by `immutable` or by its own flag, is copied into sealed
    memory and compared with its digest. Of one that is opened as a `delta` the file must say that it is one.
    """
    cdef Fault fault
    cdef int fd, failed
    cdef jm_file_facts facts
    cdef uint64_t n_bytes = 0
    cdef Image image
    cdef bytes first = b""
    cdef object refusal = None
    cdef str text_path = os.fspath(path)
    try:
        fd = os.open(text_path, OPEN_FLAGS)
    except FileNotFoundError:
        raise DimensionNotFound(dimension_id, text_path) from None
    except OSError as error:
        raise MappingError.of(error, text_path) from None
    try:
        try:  # which costs less than the fault that reading the mapping would
            first = os.pread(fd, PAGE_ALIGNMENT_BYTES, 0)
        except OSError as error:  # it may be no file
            refusal = error
        with nogil:
            failed = jm_os_file_facts(fd, &facts)  # after that, so that what is read is not longer than the file
        if failed:
            raise OSError(c_errno, os.strerror(c_errno))
        if facts.is_folder:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not facts.is_regular:
            raise OSError(errno.EINVAL, "Not a regular file")
        if refusal is not None:
            raise refusal
        n_bytes = facts.n_bytes
        if n_bytes < HEADER_BYTES:
            hint = advice(text_path, first)
            raise RegionTruncated(text_path, "header", f"{n_bytes} bytes", "a file of at least 256 bytes", hint=hint)
        charge = admit(n_bytes, below_bytes) if admit is not None else None
        identity = (facts.device, facts.inode, facts.mtime_ns, n_bytes)
        image = Image(map_descriptor(fd, text_path, n_bytes, n_bytes), text_path, dimension_id, "mmap", charge, identity, first)
        if delta and not image.is_delta:
            fault_set(&fault, MISSING_DELTA, -1, image.header.required_features, FEATURE_DELTA)
            raise fault_error(&fault, text_path)
        if immutable or image.immutable:
            image = sealed_image(fd, text_path, dimension_id, n_bytes, charge, identity)
        image.unsynced = facts.mode & UNSYNCED_MODE != 0
        return image
    except MappingError:
        raise
    except OSError as error:
        raise MappingError.of(error, text_path, n_bytes) from None
    finally:
        os.close(fd)


cdef object map_descriptor(int fd, str path, uint64_t n_bytes, uint64_t file_bytes=0):
    """The first `n_bytes` of a file as a read-only Mapping; `file_bytes` as there."""
    try:
        try:
            return Mapping(n_bytes, fd, file_bytes=file_bytes)
        except PermissionError:
            # Linux before 6.7 maps write-sealed memory privately only; the pages are the same until somebody writes.
            return Mapping(n_bytes, fd, private=True, file_bytes=file_bytes)
    except ValueError as error:  # the file was shortened since its size was asked
        raise RegionTruncated(path, "header", str(error), f"a file of {n_bytes} bytes") from None


cdef Image sealed_image(int fd, str path, uint64_t dimension_id, uint64_t n_bytes, charge, identity):
    """Copy the file into memory that nobody can change or shorten, map that, and compare its digest."""
    cdef Image image
    sealed = sealed_copy(fd, path, n_bytes)
    try:
        owner = private_copy(fd, path, n_bytes) if sealed is None else map_descriptor(sealed, path, n_bytes)
        image = Image(owner, path, dimension_id, "mmap", charge, identity)
        if image.immutable:
            if sealed is None:
                image.check_digest()
            else:
                image.compare_digest(sha256_of(sealed, image.head_bytes))
            image.trusted = True
        else:
            image.check_all()
    finally:
        if sealed is not None:
            os.close(sealed)
    return image
