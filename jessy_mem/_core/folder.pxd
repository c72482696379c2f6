"""The folder of a dimension; see folder.pyx. Paths are those of its base file."""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.os_folder cimport jm_folder_facts


# Its descriptor, for the caller to close, for `generations_in` if it `is_listed`. DimensionNotFound, LinkRefused,
# MappingError.
cdef int open_folder(str path, uint64_t dimension_id, bint follow_links, bint is_listed) except -1
# Whether there is one, and no link that is not followed, and what it is.
cdef bint folder_of(str path, bint follow_links, jm_folder_facts *facts) except -1
# What `Image.identity` would be of the file of that name in an open folder; DimensionNotFound, MappingError.
cdef object identity_in(int folder, str path, dimension_id, bint follow_links)
# The generations of the deltas in an open folder, ascending; `facts`, or NULL, are those of it, with a time of 0 if it
# is fresh. `again`: it was listed before.
cdef list generations_in(int folder, str path, jm_folder_facts *facts, bint again)
