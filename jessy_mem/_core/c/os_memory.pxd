"""Memory calls of the operating system; see os_memory.h. A negative result means errno is set."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "c/os_memory.h" nogil:
    ctypedef struct jm_file_facts:
        uint64_t device
        uint64_t inode
        uint64_t n_bytes
        uint64_t n_links
        int64_t mtime_ns
        uint32_t mode
        bint is_regular
        bint is_folder

    int jm_os_file_facts(int fd, jm_file_facts *facts) noexcept
    int jm_os_path_facts(const char *path, jm_file_facts *facts) noexcept
    int jm_os_open(const char *path, bint is_writable) noexcept
    size_t jm_page_bytes() noexcept
    int64_t jm_os_hole(int fd, uint64_t off_bytes) noexcept
    void *jm_os_map_file(int fd, size_t n_bytes) noexcept
    int jm_os_move_over(void *base, size_t n_bytes, void *from_) noexcept
    int jm_os_map_over(void *base, size_t n_bytes, int fd, bint is_writable) noexcept
    void *jm_os_map_zeroed(size_t n_bytes, bint huge, bint reserve) noexcept
    int jm_os_protect(void *base, size_t n_bytes) noexcept
    int jm_os_guard_pages(void *base, size_t n_bytes, bint stand) noexcept
    int jm_os_discard(void *base, size_t n_bytes) noexcept
    int jm_os_give_back(void *base, size_t n_bytes, bint to_system) noexcept
    int jm_os_own_pages(int pagemap, const void *address, size_t n_bytes, uint64_t *n_own) noexcept
    int jm_os_prefetch(const void *address, size_t n_bytes) noexcept
    int jm_os_resident_pages(const void *address, size_t n_bytes, uint64_t *n_pages, uint64_t *n_resident) noexcept
