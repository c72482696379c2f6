/* Numbered files of a folder. The only file that knows how this system lists one. */
#ifndef JESSY_MEM_OS_FOLDER_H
#define JESSY_MEM_OS_FOLDER_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#else
#include <dirent.h>
#endif

enum { JM_DIGITS = 16 };

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

/* The numbers of all files "<prefix><16 digits><suffix>" in a folder, in no order: how many there are, the first `room`
   of them in `numbers`; or -1 with errno. A folder of a few hundred files is read as it was at one moment: the system
   keeps it unchanged during a call, and one call gives 32 KiB of it. */
static inline int64_t jm_os_folder_numbers(
    const char *path, const char *prefix, const char *suffix, uint64_t *numbers, int64_t room)
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
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
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
    DIR *folder = opendir(path);
    if (folder == NULL)
        return -1;
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
