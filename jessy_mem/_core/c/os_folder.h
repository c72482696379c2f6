/* Folders: opened without a link in their place, and the numbered files in one. The only file that knows how this system
   lists one, and opens what lies beneath one. */
#ifndef JESSY_MEM_OS_FOLDER_H
#define JESSY_MEM_OS_FOLDER_H

#include "atomic.h"
#include "os_memory.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#if defined(SYS_openat2)
#include <linux/openat2.h>
#endif
#else
#include <dirent.h>
#endif

#if defined(O_PATH)
#define JM_FOLDER (O_PATH | O_DIRECTORY | O_CLOEXEC) /* enough to find something in it, and half as dear */
#else
#define JM_FOLDER (O_RDONLY | O_DIRECTORY | O_CLOEXEC)
#endif
#define JM_LISTED (O_RDONLY | O_DIRECTORY | O_CLOEXEC) /* to be listed, too */

enum { JM_DIGITS = 16, JM_PATH_BYTES = 4096 };

/* The number in "<prefix><16 digits><suffix>"; 0 if `name` is something else, or says 0. */
static inline uint64_t jm_number_in(const char *name, const char *prefix, const char *suffix)
{
    size_t n_prefix = strlen(prefix);
    uint64_t number = 0;
    int i;
    if (strncmp(name, prefix, n_prefix) != 0)
        return 0;
    name += n_prefix;
    for (i = 0; i < JM_DIGITS; i++, name++) {
        if (*name < '0' || *name > '9')
            return 0;
        number = number * 10 + (uint64_t)(*name - '0');
    }
    return strcmp(name, suffix) == 0 ? number : 0;
}

/* The folder of the file at `path`, in `folder`. 0, or -1 with errno. */
static inline int jm_folder_of(const char *path, char folder[JM_PATH_BYTES])
{
    const char *end = strrchr(path, '/');
    size_t n_bytes = end == NULL ? 0 : (size_t)(end - path);
    if (n_bytes >= JM_PATH_BYTES) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(folder, path, n_bytes);
    if (n_bytes == 0)
        folder[n_bytes++] = end == NULL ? '.' : '/';
    folder[n_bytes] = 0;
    return 0;
}

static inline int64_t jm_mtime_ns(const struct stat *info)
{
#if defined(__APPLE__)
    return (int64_t)info->st_mtimespec.tv_sec * 1000000000 + info->st_mtimespec.tv_nsec;
#else
    return (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec;
#endif
}

/* Open the folder of the file at `path`, to be listed or only for what is in it; if links are not followed, no link in
   the place of that folder itself. A descriptor, or -1 with errno. */
static inline int jm_os_open_folder_of(const char *path, int follows_links, int is_listed)
{
    char folder_path[JM_PATH_BYTES];
    int flags = (is_listed ? JM_LISTED : JM_FOLDER) | (follows_links ? 0 : O_NOFOLLOW);
    return jm_folder_of(path, folder_path) == 0 ? open(folder_path, flags) : -1;
}

/* Open the file at `path` for reading, in `folder` if that is open (not -1), never waiting: a FIFO does not block, and a
   terminal does not become this process's own. A descriptor, or -1 with errno. */
static inline int jm_os_open_in(int folder, const char *path, int follows_links)
{
    const char *name = folder < 0 ? NULL : strrchr(path, '/');
    int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (follows_links ? 0 : O_NOFOLLOW);
    return openat(folder < 0 ? AT_FDCWD : folder, name == NULL ? path : name + 1, flags);
}

/* What the file at `path` is that lies in an open folder; of a link, the link, unless links are followed. 0, or -1 with
   errno. */
static inline int jm_os_facts_in(int folder, const char *path, int follows_links, jm_file_facts *facts)
{
    const char *name = strrchr(path, '/');
    struct stat info;
    int failed = fstatat(folder, name == NULL ? path : name + 1, &info, follows_links ? 0 : AT_SYMLINK_NOFOLLOW);
    return jm_os_facts(failed, &info, facts);
}

/* Open "folder/file" beneath an open folder for reading, through no link and never waiting: in one call where the system
   has one for that, else step by step. A descriptor, or -1 with errno. */
static inline int jm_os_open_beneath(int base, const char *path)
{
    char folder_path[JM_PATH_BYTES];
    int folder, fd, failed;
#if defined(SYS_openat2)
    static uint64_t is_missing; /* in a kernel before 5.6, or forbidden by a sandbox */
    if (!jm_load_relaxed(&is_missing)) {
        struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
        fd = (int)syscall(SYS_openat2, base, path, &how, sizeof how);
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM && errno != EAGAIN))
            return fd;
        if (errno != EAGAIN) /* somebody renames meanwhile */
            jm_store_relaxed(&is_missing, 1);
    }
#endif
    if (jm_folder_of(path, folder_path) != 0
        || (folder = openat(base, folder_path, JM_FOLDER | O_NOFOLLOW)) < 0)
        return -1;
    fd = jm_os_open_in(folder, path, 0);
    failed = errno;
    close(folder);
    errno = failed;
    return fd;
}

/* A folder, and when names last changed in it. */
typedef struct {
    uint64_t device, inode;
    int64_t mtime_ns;
} jm_folder_facts;

/* Those of the folder of the file at `path`, which is no link unless links are followed. 0, or -1. */
static inline int jm_os_folder_facts(const char *path, int follows_links, jm_folder_facts *facts)
{
    char folder_path[JM_PATH_BYTES];
    struct stat info;
    if (jm_folder_of(path, folder_path) != 0 || (follows_links ? stat : lstat)(folder_path, &info) != 0
        || !S_ISDIR(info.st_mode))
        return -1;
    facts->device = (uint64_t)info.st_dev;
    facts->inode = (uint64_t)info.st_ino;
    facts->mtime_ns = jm_mtime_ns(&info);
    return 0;
}

/* Those of an open folder; a time of 0 if it is so short ago that the next change may bear the same. */
static inline void jm_certain_facts(int fd, jm_folder_facts *facts)
{
    /* Clocks of file systems step by 10 ms at most, but for those that know no fraction of a second: FAT has 2 s. */
    enum { GRAIN_NS = 50000000, COARSE_GRAIN_NS = 2100000000, MS_NS = 1000000 };
    struct timespec now;
    struct stat info;
    int64_t mtime_ns, age_ns;
    facts->mtime_ns = 0;
    if (fstat(fd, &info) != 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
        return;
    mtime_ns = jm_mtime_ns(&info);
    age_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - mtime_ns;
    facts->device = (uint64_t)info.st_dev;
    facts->inode = (uint64_t)info.st_ino;
    facts->mtime_ns = age_ns > (mtime_ns % MS_NS ? GRAIN_NS : COARSE_GRAIN_NS) ? mtime_ns : 0;
}

/* The numbers of all files "<prefix><16 digits><suffix>" in an open folder, in no order: how many there are, the
   first `room` of them in `numbers`; or -1 with errno. A folder of a few hundred files is read as it was at one moment:
   the system keeps it unchanged during a call, and one call gives 32 KiB of it. As long as jm_os_folder_facts says what
   `facts` become (NULL: nobody asks), and the time is not 0, the answer is the same, and so is the file of each name.
   `again`: it was listed before. */
static inline int64_t jm_os_numbers_in(
    int folder, const char *prefix, const char *suffix, uint64_t *numbers, int64_t room, jm_folder_facts *facts, int again)
{
    int64_t n_found = 0;
    uint64_t number;
#if defined(__linux__)
    struct entry {
        uint64_t inode;
        int64_t offset;
        uint16_t n_bytes;
        uint8_t kind;
        char name[];
    };
    union {
        uint64_t aligned;
        char bytes[32768];
    } buffer;
    long n_bytes, at;
    if (again && lseek(folder, 0, SEEK_SET) < 0)
        return -1;
    if (facts != NULL)
        jm_certain_facts(folder, facts);
    while ((n_bytes = syscall(SYS_getdents64, folder, buffer.bytes, sizeof buffer.bytes)) > 0)
        for (at = 0; at < n_bytes; at += ((const struct entry *)(buffer.bytes + at))->n_bytes) {
            number = jm_number_in(((const struct entry *)(buffer.bytes + at))->name, prefix, suffix);
            if (number) {
                if (n_found < room)
                    numbers[n_found] = number;
                n_found++;
            }
        }
    if (n_bytes < 0)
        return -1;
#else
    struct dirent *each;
    int fd = openat(folder, ".", JM_LISTED); /* another, which the list closes */
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    (void)again;
    if (facts != NULL)
        jm_certain_facts(fd, facts);
    while ((each = readdir(list)) != NULL) {
        number = jm_number_in(each->d_name, prefix, suffix);
        if (number) {
            if (n_found < room)
                numbers[n_found] = number;
            n_found++;
        }
    }
    closedir(list);
#endif
    return n_found;
}

#endif
