"""Head: the beginning of a region file, in memory that nobody else can change."""
from libc.stdint cimport uint8_t, uint64_t


cdef class Head:
    cdef const uint8_t[::1] bytes    # as far as it was read; none after an error
    cdef bytearray grown             # their memory, if that is not the caller's
    cdef str path
    cdef int fd                      # the caller's
    cdef uint64_t file_bytes
    cdef uint64_t limit_bytes

    # Have at least so many bytes, which is at most the size of the file, because `field` says so. Nobody else may look
    # at `bytes` meanwhile. Ctrl-C,
    # RegionTruncated, InvalidRegion.
    cdef int reach(self, uint64_t n_bytes, str field) except -1
    cdef int read_to(self, uint64_t n_bytes) except -1
    cdef object truncated(self, uint64_t n_bytes)
