/* Memory calls of the operating system. The only file that knows which system this is. */
#ifndef JESSY_MEM_OS_MEMORY_H
#define JESSY_MEM_OS_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__SANITIZE_THREAD__) && defined(__linux__)
#include <sys/syscall.h>
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

static inline size_t jm_page_bytes(void)
{
    static size_t n_bytes;
    if (n_bytes == 0)
        n_bytes = (size_t)sysconf(_SC_PAGESIZE);
    return n_bytes;
}

typedef struct {
    uint64_t device, inode, n_bytes, n_links;
    int64_t mtime_ns;
    uint32_t mode;
    int is_regular, is_folder;
} jm_file_facts;

static inline int jm_os_facts(int failed, const struct stat *info, jm_file_facts *facts)
{
    if (failed) {
        memset(facts, 0, sizeof *facts);
        return -1;
    }
#if defined(__APPLE__)
    facts->mtime_ns = (int64_t)info->st_mtimespec.tv_sec * 1000000000 + info->st_mtimespec.tv_nsec;
#else
    facts->mtime_ns = (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec;
#endif
    facts->device = (uint64_t)info->st_dev;
    facts->inode = (uint64_t)info->st_ino;
    facts->n_bytes = (uint64_t)info->st_size;
    facts->n_links = (uint64_t)info->st_nlink;
    facts->mode = (uint32_t)info->st_mode;
    facts->is_regular = S_ISREG(info->st_mode);
    facts->is_folder = S_ISDIR(info->st_mode);
    return 0;
}

/* What an open file is. 0, or -1 with errno. */
static inline int jm_os_file_facts(int fd, jm_file_facts *facts)
{
    struct stat info;
    int failed = fstat(fd, &info);
    return jm_os_facts(failed, &info, facts);
}

/* What stands at a path; of a link, the link. 0, or -1 with errno. */
static inline int jm_os_path_facts(const char *path, jm_file_facts *facts)
{
    struct stat info;
    int failed = lstat(path, &info);
    return jm_os_facts(failed, &info, facts);
}

/* Open a file for reading, or for reading and writing: never through a link, never waiting. A descriptor, or -1. */
static inline int jm_os_open(const char *path, int is_writable)
{
    return open(path, (is_writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK);
}

/* Where the first hole of a file behind `from` begins, or the file ends: what is before it was written. -1 where nobody
   knows. */
static inline int64_t jm_os_hole(int fd, uint64_t from)
{
#if defined(SEEK_HOLE)
    return lseek(fd, (off_t)from, SEEK_HOLE);
#else
    return -1;
#endif
}

/* Map the first n_bytes of a file, read-only; NULL with errno. What a shorter file lacks is a signal, as it is when the
   file becomes shorter later on. Linux before 6.7 maps write-sealed memory privately only; its pages are the same. */
static inline void *jm_os_map_file(int fd, size_t n_bytes)
{
    void *base = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED && errno == EPERM)
        base = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

/* Take the pages that are mapped at `from` away from there, and put them in the place of what is mapped at `base`, whose
   address stays; whoever reads there meanwhile finds the one or the other. 0, or -1 with errno. */
static inline int jm_os_move_over(void *base, size_t n_bytes, void *from)
{
#if defined(MREMAP_FIXED)
    return mremap(from, n_bytes, n_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, base) == MAP_FAILED ? -1 : 0;
#else
    errno = ENOSYS;
    return -1;
#endif
}

/* Put a file (shared), or zeroed memory for fd -1, in the place of what is mapped at `base`, whose address stays and is
   never unmapped in between. 0, or -1 with errno. A bare system call, so a signal handler may do it. */
static inline int jm_os_map_over(void *base, size_t n_bytes, int fd, int is_writable)
{
    int flags = MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    int protection = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
#if defined(__SANITIZE_THREAD__) && defined(__linux__)
    /* Its mmap() is a plain write to all bytes. But who reads there meanwhile finds the old page or the new one. */
    return syscall(SYS_mmap, base, n_bytes, protection, flags, fd, 0) == -1 ? -1 : 0;
#else
    return mmap(base, n_bytes, protection, flags, fd, 0) == MAP_FAILED ? -1 : 0;
#endif
}

/* Map zeroed memory whose pages are committed when first touched; NULL with errno. In huge pages if that is wanted and
   possible; `reserve`: only the addresses are taken, the system does not count the memory before it is touched. */
static inline void *jm_os_map_zeroed(size_t n_bytes, int huge, int reserve)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (reserve ? MAP_NORESERVE : 0);
    void *base = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
#if defined(MADV_HUGEPAGE)
    if (huge)
        /* A kernel without them refuses, and nothing is lost. To fill 8 MiB takes 0.7 ms instead of 3.1
           (python asv_bench/benchmarks/tricks.py). */
        madvise(base, n_bytes, MADV_HUGEPAGE);
#endif
    return base;
}

/* Let nobody write to a page-aligned range of this process again. 0, or -1 with errno. */
static inline int jm_os_protect(void *base, size_t n_bytes) { return mprotect(base, n_bytes, PROT_READ); }

/* Let each access to a page-aligned anonymous range be a fault (SIGSEGV), or none any more; what was in it is lost, and the
   mapping stays one. 0, or -1 with errno, as of a kernel before Linux 6.13. */
static inline int jm_os_guard_pages(void *base, size_t n_bytes, int stand)
{
#if defined(__linux__)
    enum { GUARD_INSTALL = 102, GUARD_REMOVE = 103 };
    return madvise(base, n_bytes, stand ? GUARD_INSTALL : GUARD_REMOVE);
#else
    errno = ENOSYS;
    return -1;
#endif
}

/* Give the pages of a page-aligned anonymous range back; they read as zero afterwards. 0, or -1 with errno. */
static inline int jm_os_discard(void *base, size_t n_bytes)
{
#if defined(__linux__)
    return madvise(base, n_bytes, MADV_DONTNEED);
#else
    return mmap(base, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
                   == MAP_FAILED
               ? -1
               : 0;
#endif
}

/* Take the pages of a mapping of a file out of this process; the next read of one gets it from the file again. They stay in
   the page cache, or with `to_system` leave it, too, where the system does that for us. Never of memory that is no file's:
   its content would be lost. 0, or -1 with errno. */
static inline int jm_os_give_back(void *base, size_t n_bytes, int to_system)
{
#if defined(MADV_PAGEOUT)
    if (to_system)
        madvise(base, n_bytes, MADV_PAGEOUT); /* a kernel without it refuses, and what follows is done all the same */
#endif
    return madvise(base, n_bytes, MADV_DONTNEED);
}

/* Widen [address, address + n_bytes) to whole pages. */
static inline void jm_page_span(const void *address, size_t n_bytes, void **first, size_t *span_bytes)
{
    uintptr_t mask = (uintptr_t)jm_page_bytes() - 1;
    uintptr_t begin = (uintptr_t)address & ~mask, end = ((uintptr_t)address + n_bytes + mask) & ~mask;
    *first = (void *)begin;
    *span_bytes = (size_t)(end - begin);
}

/* Ask for the pages of a range to be read in; returns at once. 0, or -1 with errno. */
static inline int jm_os_prefetch(const void *address, size_t n_bytes)
{
    void *first;
    size_t span_bytes;
    jm_page_span(address, n_bytes, &first, &span_bytes);
    return madvise(first, span_bytes, MADV_WILLNEED);
}

/* Count the pages of a range and those of them in memory. 0, or -1 with errno. */
static inline int jm_os_resident_pages(const void *address, size_t n_bytes, uint64_t *n_pages, uint64_t *n_resident)
{
    enum { CHUNK_PAGES = 4096 };
    unsigned char in_memory[CHUNK_PAGES];
    void *first;
    size_t span_bytes, page_bytes = jm_page_bytes(), done, i;
    jm_page_span(address, n_bytes, &first, &span_bytes);
    *n_pages = span_bytes / page_bytes;
    *n_resident = 0;
    for (done = 0; done < *n_pages; done += CHUNK_PAGES) {
        size_t chunk = *n_pages - done < CHUNK_PAGES ? *n_pages - done : CHUNK_PAGES;
        if (mincore((char *)first + done * page_bytes, chunk * page_bytes, (void *)in_memory) != 0)
            return -1;
        for (i = 0; i < chunk; i++)
            *n_resident += in_memory[i] & 1;
    }
    return 0;
}

/* Count the pages of a range that this process has, as /proc/self/pagemap says, which is open as `pagemap`; -1: those that are
   in memory for whomever. 0, or -1 with errno. */
static inline int jm_os_own_pages(int pagemap, const void *address, size_t n_bytes, uint64_t *n_own)
{
    enum { CHUNK_PAGES = 512 };
    const uint64_t IS_PRESENT = 1ull << 63;
    uint64_t entries[CHUNK_PAGES], n_pages;
    void *first;
    size_t span_bytes, page_bytes = jm_page_bytes(), done = 0, i;
    if (pagemap < 0)
        return jm_os_resident_pages(address, n_bytes, &n_pages, n_own);
    jm_page_span(address, n_bytes, &first, &span_bytes);
    n_pages = span_bytes / page_bytes;
    *n_own = 0;
    while (done < n_pages) {
        size_t chunk = n_pages - done < CHUNK_PAGES ? n_pages - done : CHUNK_PAGES;
        off_t at = (off_t)(((uintptr_t)first / page_bytes + done) * sizeof *entries);
        ssize_t n_read = pread(pagemap, entries, chunk * sizeof *entries, at);
        if (n_read < (ssize_t)sizeof *entries)
            return -1;
        chunk = (size_t)n_read / sizeof *entries;
        for (i = 0; i < chunk; i++)
            *n_own += (entries[i] & IS_PRESENT) != 0;
        done += chunk;
    }
    return 0;
}

#endif
