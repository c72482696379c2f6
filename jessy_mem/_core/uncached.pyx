"""A file that is read past the page cache (Linux since 6.14), so that nothing of it is left there.

What is looked at once, all of it, and through a mapping, takes memory that others need until the system finds that
nobody does.
"""
import errno
import os

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from posix.unistd cimport close

from jessy_mem._core.c.os_memory cimport jm_os_resident_pages
from jessy_mem._core.c.pycompat cimport jm_memoryview_of
from jessy_mem._core.kernels.span cimport span_is_zero

import xxhash

cdef enum:
    PIECE_BYTES = 2097152  # in pieces of 256 KiB the disk is read half as fast
    STEP_BYTES = 524288
    RWF_DONTCACHE = 0x80

cdef int HOW = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK
cdef object xxh3_64 = xxhash.xxh3_64


@cython.final
@cython.no_gc
cdef class Uncached:
    """Uncached(path, identity)\n--\n
    The file at `path`, if it is the one of which `identity` is known: (device, inode, mtime_ns, size).

    OSError if it is not, cannot be opened, or is of a system that reads nothing past its cache. For one thread.
    """

    def __cinit__(self, str path not None, identity):
        self.fd = -1
        self.fd = os.open(path, HOW)
        info = os.fstat(self.fd)
        if (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size) != identity:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        self.room = bytearray(min(info.st_size, PIECE_BYTES))
        self.fill(0)

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    cdef int fill(self, uint64_t begin) except -1:
        self.begin = self.end = begin
        try:
            self.end += <uint64_t> os.preadv(self.fd, [self.room], begin, RWF_DONTCACHE)
        except NotImplementedError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        return 0

    cdef uint64_t reach(self, uint64_t begin, uint64_t end) except? 0:
        if not self.begin <= begin < self.end:
            try:
                self.fill(begin - begin % PIECE_BYTES)
            except OSError:
                return 0
        return min(end, self.end) - begin if begin < self.end else 0

    cdef bint is_sound(self, uint64_t begin, uint64_t content, uint64_t content_bytes, uint64_t xxh3) except -1:
        cdef uint64_t n_bytes, end = content + content_bytes
        while begin < content:
            n_bytes = self.reach(begin, content)
            if n_bytes == 0 or not span_is_zero(&self.room[begin - self.begin], n_bytes):
                return False
            begin += n_bytes
        digest = xxh3_64()
        while begin < end:
            n_bytes = self.reach(begin, end)
            if n_bytes == 0:
                return False
            digest.update(jm_memoryview_of(self, &self.room[begin - self.begin], n_bytes))
            begin += n_bytes
        return digest.intdigest() == xxh3


cdef bint is_in_memory(const uint8_t[::1] mapped) noexcept nogil:
    """Whether all pages are, as far as the last one of each step tells: to ask for all takes a third of a checksum."""
    cdef uint64_t end = 0, n_bytes = mapped.shape[0], n_pages, n_resident
    while end < n_bytes:
        end = min(end + STEP_BYTES, n_bytes)
        if jm_os_resident_pages(&mapped[0] + end - 1, 1, &n_pages, &n_resident) == 0 and n_resident < n_pages:
            return False
    return True


cdef Uncached uncached(const uint8_t[::1] mapped, str path, identity):
    if is_in_memory(mapped):
        return None
    try:
        return Uncached(path, identity)
    except OSError:
        return None
