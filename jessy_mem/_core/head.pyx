"""Head: the beginning of a region file, read into private memory as far as a reader asks for it.

HAZARD: how long a head is, only the file says, and it may lie. A file of 4 KiB on the disk may have a size of a
tebibyte, all of it a hole, and metadata that never end. So no more is read than a limit, and nothing that is a hole:
metadata are never a page of zeros, so what runs into one was never written.
"""
import os

cimport cython
from cpython.bytearray cimport PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from jessy_mem._core.c.os_memory cimport jm_os_hole
from jessy_mem._core.format cimport (
    HEADER_BYTES, MAX_ATTRIBUTES_BYTES, NAME_BYTES, OPTION_IMMUTABLE, PAGE_ALIGNMENT_BYTES, Header, format_magic
)

from jessy_mem.errors import InvalidRegion, RegionTruncated

cdef enum:
    FREE_BYTES = 16384    # so much is read without a look at whether it was written

MAX_METADATA_BYTES = 256 << 20
N_HEADER_BYTES = HEADER_BYTES  # for Python
MAX_NAME_BYTES = NAME_BYTES
MAX_LAYER_ATTRIBUTES_BYTES = MAX_ATTRIBUTES_BYTES


@cython.final
@cython.no_gc  # bytes and a path
cdef class Head:
    """Head(fd, path, file_bytes, first, limit_bytes=None)\n--\n
    The beginning of the file `fd`, which stays the caller's, and open while this reads.

    Parameters
    ----------
    fd : int
    path : str
        For messages.
    file_bytes : int
        The size of the file.
    first : bytes
        What was read of it already: the first page, or all if it is shorter.
    limit_bytes : int, optional
        The most that is read; MAX_METADATA_BYTES by default.

    Raises RegionTruncated if the file is shorter by now, OSError. Not thread-safe.
    """

    def __cinit__(self, int fd, str path not None, uint64_t file_bytes, bytes first not None, limit_bytes=None):
        self.fd, self.path, self.file_bytes = fd, path, file_bytes
        self.limit_bytes = MAX_METADATA_BYTES if limit_bytes is None else limit_bytes
        self.bytes = first
        if <uint64_t> len(first) < min(file_bytes, <uint64_t> PAGE_ALIGNMENT_BYTES):  # it has just grown
            raise self.truncated(len(first))

    cdef object truncated(self, uint64_t n_bytes):
        return RegionTruncated(self.path, "header", f"{n_bytes} bytes", f"a file of {self.file_bytes} bytes")

    cdef int reach(self, uint64_t n_bytes, str field) except -1:
        cdef uint64_t have_bytes = self.bytes.shape[0]
        cdef uint64_t goal_bytes = max(n_bytes, have_bytes + have_bytes // 2)
        cdef int64_t hole
        PyErr_CheckSignals()
        if n_bytes <= have_bytes:
            return 0
        if n_bytes > self.limit_bytes:
            raise InvalidRegion(
                self.path, field, f"a head of {n_bytes} bytes", f"at most {self.limit_bytes}, see max_metadata_mb"
            )
        if n_bytes > FREE_BYTES:
            hole = jm_os_hole(self.fd, have_bytes)
            if 0 <= hole < <int64_t> n_bytes:
                raise InvalidRegion(
                    self.path, field, f"a head of {n_bytes} bytes", f"at most {hole}, where a hole of the file begins"
                )
            if hole >= 0:
                goal_bytes = min(goal_bytes, <uint64_t> hole)
        else:
            goal_bytes = min(goal_bytes, <uint64_t> FREE_BYTES)
        return self.read_to(min(goal_bytes, self.limit_bytes, self.file_bytes))

    cdef int read_to(self, uint64_t n_bytes) except -1:
        cdef uint64_t at = self.bytes.shape[0]
        if self.grown is None:
            self.grown = bytearray(self.bytes)
        self.bytes = None  # what is looked at cannot grow
        PyByteArray_Resize(self.grown, n_bytes)  # in place where that can be; touched as it is filled
        whole = memoryview(self.grown)
        while at < n_bytes:
            n_read = os.preadv(self.fd, [whole[at:]], at)
            if n_read == 0:
                raise self.truncated(at)
            at += n_read
        self.bytes = self.grown
        return 0


cdef bint copy_header(const uint8_t[::1] head, Header *header) except -1:
    """Copy a header; False if it is none, by its size and the magic."""
    if head.shape[0] < HEADER_BYTES:
        return False
    memcpy(header, &head[0], sizeof(Header))
    return memcmp(header.magic, format_magic(), sizeof(header.magic)) == 0


def stored_name(bytes head not None, uint64_t dimension_id):
    """The name of a dimension, encoded, as a file says that begins with `head`; empty if that is no file of it."""
    cdef Header header
    if (
        not copy_header(head, &header)
        or header.dimension_id != dimension_id
        or header.dimension_name_len > NAME_BYTES
    ):
        return b""
    return PyBytes_FromStringAndSize(<const char *> header.dimension_name, header.dimension_name_len)


def read_header(file):
    """What a region file says of itself: (dimension_id, name, generation, immutable); None if it is none.

    `file` is open for reading bytes, at its beginning. The generation of a plain V1 file is 0. Nothing is checked but
    the magic: a region that is to be used is opened.
    """
    cdef Header header
    if not copy_header(file.read(HEADER_BYTES), &header):
        return None
    name = PyUnicode_DecodeUTF8(
        <const char *> header.dimension_name, min(header.dimension_name_len, <uint32_t> NAME_BYTES), b"replace"
    )
    immutable = header.extension_version != 0 and header.optional_features & OPTION_IMMUTABLE != 0
    return header.dimension_id, name, header.generation, immutable
