"""A region file as an Image; see mapped.pyx."""
from libc.stdint cimport uint64_t

from jessy_mem._core.image cimport Image


# `map_file` for compiled callers, without the defaults.
cdef Image mapped_file(
    str path, uint64_t dimension_id, object admit, uint64_t below_bytes, bint immutable, bint delta, str guard,
    object metadata_limit_bytes, int folder, bint follow_links
)
