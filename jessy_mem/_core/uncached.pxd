"""A file that is read past the page cache; see uncached.pyx."""
from libc.stdint cimport uint8_t, uint64_t


cdef class Uncached:
    cdef int fd              # -1 until it is open
    cdef uint8_t[::1] room   # for a piece
    cdef uint64_t begin, end  # of the piece that is there

    # Whether zeros are from `begin` to `content`, and there what `xxh3` is the checksum of; False, too, of what cannot
    # be read.
    cdef bint is_sound(self, uint64_t begin, uint64_t content, uint64_t content_bytes, uint64_t xxh3) except -1
    cdef int fill(self, uint64_t begin) except -1
    # How many of the bytes from `begin` to `end` are in the room now: one at least, or 0 if they cannot be read.
    cdef uint64_t reach(self, uint64_t begin, uint64_t end) except? 0


# The file at `path`, all of which is `mapped`, if it has that identity, can be read so, and is not in memory anyway; or
# None.
cdef Uncached uncached(const uint8_t[::1] mapped, str path, object identity)
