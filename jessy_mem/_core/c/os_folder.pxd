"""Numbered files of a folder; see os_folder.h. A negative result means errno is set."""
from libc.stdint cimport int64_t, uint64_t


cdef extern from "c/os_folder.h" nogil:
    int64_t jm_os_numbers_beside(
        const char *path, const char *prefix, const char *suffix, uint64_t *numbers, int64_t room,
        int64_t *mtime_ns
    ) noexcept
    int64_t jm_os_folder_mtime(const char *path) noexcept
