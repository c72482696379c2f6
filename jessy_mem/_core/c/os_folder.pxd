"""Folders, and the numbered files of one; see os_folder.h. A negative result means errno is set."""
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.c.os_memory cimport jm_file_facts


cdef extern from "c/os_folder.h" nogil:
    ctypedef struct jm_folder_facts:
        uint64_t device, inode
        int64_t mtime_ns

    int jm_os_open_folder_of(const char *path, bint follows_links, bint is_listed) noexcept
    int jm_os_open_in(int folder, const char *path, bint follows_links) noexcept
    int jm_os_facts_in(int folder, const char *path, bint follows_links, jm_file_facts *facts) noexcept
    int jm_os_open_beneath(int base, const char *path) noexcept
    int64_t jm_os_numbers_in(
        int folder, const char *prefix, const char *suffix, uint64_t *numbers, int64_t room, jm_folder_facts *facts,
        bint again
    ) noexcept
    int jm_os_folder_facts(const char *path, bint follows_links, jm_folder_facts *facts) noexcept
