"""The checked bytes of one generation of a region.

HAZARD: a mapping must not go while anything points into it, and must go as soon as nothing does. An Image owns the
buffer; views own the Image; nothing points back, so the last view's death unmaps and then releases the charge:

    LayerView --> Image --> buffer (mmap, pool block)
    memoryview ----^   \\--> charge (released last)
"""
import errno
import hashlib
import mmap
import os
import stat
import sys

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import xxhash

from jessy_mem._core.atomic cimport jm_flag_load_acquire, jm_flag_store_release
from jessy_mem._core.format cimport (
    HEADER_BYTES,
    OPTION_IMMUTABLE,
    Fault,
    Header,
    LayerEntry,
    fault_error,
    format_check_gap,
    format_check_header,
    format_head_bytes,
    format_keywords,
    format_read_layers,
)
from jessy_mem._core.os_memory cimport jm_page_bytes

from jessy_mem.errors import ChecksumMismatch, DimensionNotFound, InvalidRegion, MappingError, RegionTruncated

cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest
cdef dict MAP_OPTIONS = {"access": mmap.ACCESS_READ}
if sys.version_info >= (3, 13):
    MAP_OPTIONS["trackfd"] = False  # a mapping then holds no descriptor

cdef int CHUNK_BYTES = 1 << 20
cdef int OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in the place of a file does not block


cdef bint check_near_gaps(const uint8_t *base, const LayerEntry *layers, Fault *fault) noexcept nogil:
    """Gaps on the pages of the head, which are in memory anyway; check_content looks at the others."""
    cdef const Header *header = <const Header *> base
    cdef uint64_t near_bytes
    cdef uint32_t i = 0
    if header.extension_version == 0:
        return True
    near_bytes = (format_head_bytes(base, layers) // jm_page_bytes() + 1) * jm_page_bytes()
    while i < header.layer_count and (i == 0 or layers[i].content_off_bytes <= near_bytes):
        if not format_check_gap(base, layers, i, fault):
            return False
        i += 1
    return True


cdef int check_head(const uint8_t *base, const LayerEntry *layers, str path) except -1:
    """Compare header, records and extension table with metadata_xxh3."""
    cdef bytes head = PyBytes_FromStringAndSize(<const char *> base, format_head_bytes(base, layers))
    cdef Header *copy = <Header *> <char *> head  # private, so its two digest fields can be cleared
    cdef uint64_t expected = copy.metadata_xxh3
    cdef uint64_t found
    copy.metadata_xxh3 = 0
    memset(copy.content_sha256, 0, sizeof(copy.content_sha256))
    found = xxh3_64_intdigest(head)
    if found != expected:
        raise ChecksumMismatch(path, "metadata_xxh3", f"{found:#018x}", f"{expected:#018x}")
    return 0


@cython.final
@cython.no_gc  # owner and charge are buffers and counters: no cycle can pass through an Image
cdef class Image:
    """The bytes of one generation of a region, checked.

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
    trusted : bool
        The bytes were written by this process into memory that no other can reach.

    Structure is checked here, content on demand. Raises InvalidRegion, RegionTruncated, ChecksumMismatch.
    """

    def __cinit__(self, *args, **kwargs):
        self.base = NULL
        self.layers = NULL

    def __init__(
        self, owner, str path, uint64_t dimension_id, str source, charge=None, identity=None, bint trusted=False
    ):
        cdef Fault fault
        cdef bint sound
        cdef const Header *header
        cdef uint32_t i
        if self.base != NULL:
            raise TypeError("an Image is initialised once")
        self.path, self.source, self.charge, self.identity, self.trusted = path, source, charge, identity, trusted
        PyObject_GetBuffer(owner, &self.buffer, PyBUF_SIMPLE)
        self.base, self.n_bytes = <const uint8_t *> self.buffer.buf, self.buffer.len
        with nogil:
            sound = format_check_header(self.base, self.n_bytes, dimension_id, &fault)
        if not sound:
            raise fault_error(&fault, self.base, path)
        header = <const Header *> self.base
        self.n_layers, self.dimension_id = header.layer_count, header.dimension_id
        self.layers = <LayerEntry *> malloc(self.n_layers * sizeof(LayerEntry))
        if self.layers == NULL:
            raise MemoryError
        with nogil:
            sound = format_read_layers(self.base, self.layers, &fault) and check_near_gaps(
                self.base, self.layers, &fault
            )
        if not sound:
            raise fault_error(&fault, self.base, path)
        for i in range(self.n_layers):
            self.content_bytes += self.layers[i].content_bytes
        self.charged_bytes = self.n_bytes
        self.extended = header.extension_version != 0
        if self.extended:
            check_head(self.base, self.layers, path)
        self.immutable = self.extended and header.optional_features & OPTION_IMMUTABLE != 0
        self.generation = header.generation
        self.name = PyUnicode_DecodeUTF8(<const char *> header.dimension_name, header.dimension_name_len, NULL)

    def __dealloc__(self):
        free(self.layers)
        if self.base != NULL:
            PyBuffer_Release(&self.buffer)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *> self.base, self.n_bytes, True, flags)

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
            self.compare_content(i)
            jm_flag_store_release(&self.layers[i].verified, 1)
        return 0

    cdef int compare_content(self, uint32_t i) except -1:
        cdef LayerEntry *entry = &self.layers[i]
        cdef Fault fault
        cdef bint sound
        cdef uint64_t found
        with nogil:
            sound = format_check_gap(self.base, self.layers, i, &fault)
        if not sound:
            raise fault_error(&fault, self.base, self.path)
        found = xxh3_64_intdigest(memoryview(self)[entry.content_off_bytes:entry.content_off_bytes + entry.content_bytes])
        if found != entry.xxh3:
            raise ChecksumMismatch(self.path, "content", f"{found:#018x}", f"{entry.xxh3:#018x}", entry.layer)
        return 0

    cdef tuple keywords(self, uint32_t i):
        keywords = format_keywords(self.base, self.n_bytes, &self.layers[i])
        if keywords is None:
            raise InvalidRegion(
                self.path, "keyword", "other bytes than at open", "an unchanged file", self.layers[i].layer
            )
        return keywords

    def check_all(self):
        """Compare every layer with its checksum; the first damage is raised."""
        cdef uint32_t i
        for i in range(self.n_layers):
            self.check_content(i)

    def damage(self, progress=None):
        """Everything that is wrong with the checksums, as a list of errors; compared afresh, without the GIL."""
        cdef uint32_t i
        cdef list found = []
        if self.extended:
            try:
                check_head(self.base, self.layers, self.path)
            except InvalidRegion as error:
                found.append(error)
        for i in range(self.n_layers):
            try:
                if self.extended:
                    self.compare_content(i)
            except InvalidRegion as error:
                found.append(error)
            if progress is not None:
                progress(self.layers[i].content_off_bytes + self.layers[i].content_bytes, self.n_bytes)
        return found


def map_file(path, uint64_t dimension_id, *, admit=None, bint immutable=False):
    """Map the region file at `path`, checked, as an Image.

    `admit(n_bytes)` is called with the file's size before it is mapped and returns its charge, or raises. A file that
    is immutable, by `immutable` or by its own flag, is copied into sealed memory and compared with its digest.
    """
    cdef int fd
    cdef Image image
    cdef str text_path = os.fspath(path)
    try:
        fd = os.open(text_path, OPEN_FLAGS)
    except FileNotFoundError:
        raise DimensionNotFound(dimension_id, text_path) from None
    except OSError as error:
        raise MappingError.of(error, text_path) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            number = errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.EINVAL
            raise OSError(number, os.strerror(number))
        n_bytes = info.st_size
        if n_bytes < HEADER_BYTES:
            raise RegionTruncated(text_path, "header", f"{n_bytes} bytes", "a file of at least 256 bytes")
        charge = admit(n_bytes) if admit is not None else None
        identity = (info.st_dev, info.st_ino, info.st_mtime_ns, n_bytes)
        image = Image(mmap.mmap(fd, n_bytes, **MAP_OPTIONS), text_path, dimension_id, "mmap", charge, identity)
        if immutable or image.immutable:
            image = sealed_image(fd, text_path, dimension_id, n_bytes, charge, identity)
        return image
    except MappingError:
        raise
    except OSError as error:
        raise MappingError.of(error, text_path) from None
    finally:
        os.close(fd)


cdef Image sealed_image(int fd, str path, uint64_t dimension_id, uint64_t n_bytes, charge, identity):
    """Copy the file into memory that nobody can change or shorten, map that, and compare its digest."""
    cdef int sealed = sealed_copy(fd, path, n_bytes)
    cdef Image image
    try:
        image = Image(mmap.mmap(sealed, n_bytes, **MAP_OPTIONS), path, dimension_id, "mmap", charge, identity)
        if image.immutable:
            found = sha256_of(sealed, format_head_bytes(image.base, image.layers))
            expected = (<const Header *> image.base).content_sha256[:32]
            if found != expected:
                raise ChecksumMismatch(path, "content_sha256", found.hex(), bytes(expected).hex())
            image.trusted = True
        else:
            image.check_all()
    finally:
        os.close(sealed)
    return image


cdef int sealed_copy(int fd, str path, uint64_t n_bytes) except -1:
    """A descriptor of a sealed copy; where the system has no sealed memory, of the file itself."""
    cdef int copy
    cdef uint64_t done = 0
    if not hasattr(os, "memfd_create"):
        return os.dup(fd)
    import fcntl
    copy = os.memfd_create("jessy_mem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while done < n_bytes:
            moved = os.sendfile(copy, fd, done, min(n_bytes - done, 1 << 30))
            if moved == 0:
                raise RegionTruncated(path, "total_size", f"{done} bytes", f"a file of {n_bytes} bytes")
            done += moved
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(copy)
        raise
    return copy


cdef bytes sha256_of(int fd, uint64_t off_bytes):
    """SHA-256 from `off_bytes` to the end, read and not mapped, so that the pages do not count as this process's."""
    digest = hashlib.sha256()
    while True:
        chunk = os.pread(fd, CHUNK_BYTES, off_bytes)
        if not chunk:
            return digest.digest()
        digest.update(chunk)
        off_bytes += len(chunk)
