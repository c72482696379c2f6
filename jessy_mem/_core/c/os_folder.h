/* Numbered files of a folder. The only file that knows how this system lists one. */
#ifndef JESSY_MEM_OS_FOLDER_H
#define JESSY_MEM_OS_FOLDER_H

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
#else
#include <dirent.h>
#endif

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

/* When names last changed in the folder of the file at `path`, Unix time in ns; 0 if that cannot be told. */
static inline int64_t jm_os_folder_mtime(const char *path)
{
    char folder_path[JM_PATH_BYTES];
    struct stat info;
    return jm_folder_of(path, folder_path) == 0 && stat(folder_path, &info) == 0 ? jm_mtime_ns(&info) : 0;
}

/* The same of an open folder; 0 also if it is so short ago that the next change may bear the same time. */
static inline int64_t jm_certain_mtime(int fd)
{
    /* Clocks of file systems step by 10 ms at most, but for those that know no fraction of a second: FAT has 2 s. */
    enum { GRAIN_NS = 50000000, COARSE_GRAIN_NS = 2100000000, MS_NS = 1000000 };
    struct timespec now;
    struct stat info;
    int64_t mtime_ns, age_ns;
    if (fstat(fd, &info) != 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
        return 0;
    mtime_ns = jm_mtime_ns(&info);
    age_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - mtime_ns;
    return age_ns > (mtime_ns % MS_NS ? GRAIN_NS : COARSE_GRAIN_NS) ? mtime_ns : 0;
}

/* The numbers of all files "<prefix><16 digits><suffix>" beside the file at `path`, in no order: how many there are, the
   first `room` of them in `numbers`; or -1 with errno. A folder of a few hundred files is read as it was at one moment:
   the system keeps it unchanged during a call, and one call gives 32 KiB of it. As long as jm_os_folder_mtime says what
   `mtime_ns` becomes, and that is not 0, the answer is the same. */
static inline int64_t jm_os_numbers_beside(
    const char *path, const char *prefix, const char *suffix, uint64_t *numbers, int64_t room, int64_t *mtime_ns)
{
    char folder_path[JM_PATH_BYTES];
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
    int fd = jm_folder_of(path, folder_path) == 0 ? open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        return -1;
    *mtime_ns = jm_certain_mtime(fd);
    while ((n_bytes = syscall(SYS_getdents64, fd, buffer.bytes, sizeof buffer.bytes)) > 0)
        for (at = 0; at < n_bytes; at += ((const struct entry *)(buffer.bytes + at))->n_bytes) {
            number = jm_number_in(((const struct entry *)(buffer.bytes + at))->name, prefix, suffix);
            if (number) {
                if (n_found < room)
                    numbers[n_found] = number;
                n_found++;
            }
        }
    if (n_bytes < 0) {
        int failed = errno;
        close(fd);
        errno = failed;
        return -1;
    }
    close(fd);
#else
    struct dirent *each;
    DIR *folder = jm_folder_of(path, folder_path) == 0 ? opendir(folder_path) : NULL;
    if (folder == NULL)
        return -1;
    *mtime_ns = jm_certain_mtime(dirfd(folder));
    while ((each = readdir(folder)) != NULL) {
        number = jm_number_in(each->d_name, prefix, suffix);
        if (number) {
            if (n_found < room)
                numbers[n_found] = number;
            n_found++;
        }
    }
    closedir(folder);
#endif
    return n_found;
}

#endif
