"""The folder of a dimension: opened as what it is, and what is in it.

HAZARD: who looks at a path and then opens it may find a link there that was not there before. So a folder is opened
once, without a link in its place unless links are followed, and files are found in what was opened.
"""
import os

from libc.errno cimport ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close

from jessy_mem._core.c.os_memory cimport jm_file_facts, jm_os_path_facts
from jessy_mem._core.c.os_folder cimport (
    jm_folder_facts, jm_os_facts_in, jm_os_folder_facts, jm_os_numbers_in, jm_os_open_folder_of
)

from jessy_mem import layout
from jessy_mem.errors import DimensionNotFound, LinkRefused, MappingError

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(str path)

cdef enum:
    USUAL_DELTAS = 64  # more than a writer leaves

cdef bytes prefix = layout.DELTA_PREFIX.encode()
cdef bytes suffix = layout.DELTA_SUFFIX.encode()
assert layout.DELTA_DIGITS == 16  # what os_folder.h counts


cdef int open_folder(str path, uint64_t dimension_id, bint follow_links, bint is_listed) except -1:
    """The folder of the base file at `path`, for the caller to close."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *base_path = encoded
    cdef int fd, failed = 0
    with nogil:
        fd = jm_os_open_folder_of(base_path, follow_links, is_listed)
        if fd < 0:
            failed = errno
    if fd >= 0:
        return fd
    if failed == ENOENT:
        raise DimensionNotFound(dimension_id, path)
    parent = path.rpartition("/")[0]
    if not follow_links and os.path.islink(parent):
        raise LinkRefused(parent, "follow_links")
    raise MappingError(failed, os.strerror(failed), path)


cdef bint folder_of(str path, bint follow_links, jm_folder_facts *facts) except -1:
    """What the folder is that is there now; False if there is none."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *base_path = encoded
    cdef int failed
    with nogil:
        failed = jm_os_folder_facts(base_path, follow_links, facts)
    return not failed


cdef object identity_in(int folder, str path, dimension_id, bint follow_links):
    """What `Image.identity` would be of the file that is there now."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = encoded
    cdef jm_file_facts facts
    cdef int failed
    with nogil:
        failed = errno if jm_os_facts_in(folder, name, follow_links, &facts) else 0
    if failed == ENOENT:
        raise DimensionNotFound(dimension_id, path)
    if failed:
        raise MappingError(failed, os.strerror(failed), path)
    return facts.device, facts.inode, facts.mtime_ns, facts.n_bytes


def facts_at(str path not None):
    """What stands at `path`, no link being followed, as (inode, links, bytes); None: nothing, or it may not be seen."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = encoded
    cdef jm_file_facts facts
    cdef int failed
    with nogil:
        failed = jm_os_path_facts(name, &facts)
    return None if failed else (facts.inode, facts.n_links, facts.n_bytes)


def is_there(str path not None):
    """Whether anything stands at `path`, no link being followed. What may not be looked at is not gone: True, too."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = encoded
    cdef jm_file_facts facts
    cdef int failed
    with nogil:
        failed = errno if jm_os_path_facts(name, &facts) else 0
    return failed not in (ENOENT, ENOTDIR)


def delta_generations(str path not None):
    """The generations of the deltas beside the base file at `path`, ascending; none if there is no folder."""
    cdef int folder
    try:
        folder = open_folder(path, 0, True, True)
    except DimensionNotFound:
        return []
    except MappingError as error:
        if error.errno == ENOTDIR:
            return []
        raise
    try:
        return generations_in(folder, path, NULL, False)
    finally:
        close(folder)


cdef list generations_in(int folder, str path, jm_folder_facts *facts, bint again):
    cdef const char *prefix_name = prefix
    cdef const char *suffix_name = suffix
    cdef uint64_t usual[USUAL_DELTAS]
    cdef uint64_t *numbers = usual
    cdef int64_t n = 0, room = USUAL_DELTAS
    cdef int failed = 0
    if facts != NULL:
        facts.mtime_ns = 0
    try:
        while True:
            with nogil:
                n = jm_os_numbers_in(folder, prefix_name, suffix_name, numbers, room, facts, again)
                if n < 0:
                    failed = errno
            if n <= room:
                break
            again = True
            if numbers != usual:
                free(numbers)
            room = 2 * n
            numbers = <uint64_t *> malloc(room * sizeof(uint64_t))
            if numbers == NULL:
                raise MemoryError
        if n < 0 and failed != ENOENT:  # the folder was removed
            raise MappingError(failed, os.strerror(failed), path)
        return sorted([numbers[i] for i in range(n)]) if n > 0 else []
    finally:
        if numbers != usual:
            free(numbers)
