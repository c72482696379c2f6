/* Calls of the system that fail when they are told to: a library to be loaded before all others (LD_PRELOAD), for
   tests/sweeper.py. Calls are counted by kind in the thread that arms it, and number `at` of one kind fails, once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>

enum { OPEN, READ, WRITE, FSYNC, RENAME, LINK, MKDIR, MEMFD_CREATE, MMAP, CLONE, FSTAT, MINCORE, MADVISE, MALLOC, N_KINDS };

#define OWN __thread __attribute__((tls_model("initial-exec"))) /* else the first use of it may allocate */

static OWN int is_armed;
static OWN long counts[N_KINDS]; /* calls of each kind since it was armed */
static OWN int failing;          /* the kind, or -1 */
static OWN long failing_at;
static OWN int failing_with; /* the errno */
static OWN int spared;       /* it was not let fail, see is_spared */

void failing_arm(int kind, long at, int error)
{
    memset(counts, 0, sizeof counts);
    failing = kind, failing_at = at, failing_with = error;
    spared = 0;
    is_armed = 1;
}

void failing_disarm(void) { is_armed = 0; }

long failing_count(int kind) { return counts[kind]; }

/* What CPython and Cython do not survive themselves, by the functions in which they ask for memory:
   - Cython lets go of the traceback of an error that it handles as if there were one; without memory, there is none;
   - what a list comprehension of Cython's cannot append is let go of twice;
   - CPython from 3.12 on lets go of what a function is made of, which it has not got yet, if there is no room for it;
   - CPython before 3.13 keeps the arguments of a function for ever if one is to be a cell, and there is no room for it;
   - CPython 3.11 keeps what a list is to be made of if there is no room for its items; also where the interpreter's loop
     makes it, which then asks without another function that is known outside its file. */
static const char *const SPARED[] = {
    "PyCode_NewEmpty", "PyFrame_New", "PyTraceBack_Here", "PyList_Append",
    "PyFunction_NewWithQualName", "PyCell_New", "PySequence_List",
};
static const char LOOP[] = "_PyEval_EvalFrameDefault"; /* of the interpreter */

/* Whether who asks for memory just now is spared. */
static int is_spared(void)
{
    void *frames[24];
    const void *library = NULL;
    Dl_info info;
    int n, i, is_loop = 1; /* nobody else asks, as far as is known */
    size_t at;
    is_armed = 0; /* to look may need memory */
    n = backtrace(frames, sizeof frames / sizeof *frames);
    for (i = 2; i < n && dladdr(frames[i], &info); i++) {
        library = i == 2 ? info.dli_fbase : library;
        is_loop &= info.dli_fbase == library;
        if (info.dli_sname == NULL) /* it is known in its own file only */
            continue;
        if (strcmp(info.dli_sname, LOOP) == 0) {
            spared |= is_loop;
            break;
        }
        is_loop = 0;
        for (at = 0; at < sizeof SPARED / sizeof *SPARED; at++)
            spared |= strcmp(info.dli_sname, SPARED[at]) == 0;
    }
    is_armed = 1;
    return spared;
}

int failing_spared(void) { return spared; }

static int fails(int kind)
{
    if (!is_armed || counts[kind]++ != failing_at || kind != failing)
        return 0;
    if (kind == MALLOC && is_spared())
        return 0;
    errno = failing_with;
    return 1;
}

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

#define WRAP(kind, type, failure, name, parameters, arguments) \
    type name parameters                                       \
    {                                                          \
        static type(*plain) parameters;                        \
        if (plain == NULL)                                     \
            plain = (type(*) parameters)next(#name);           \
        return fails(kind) ? failure : plain arguments;        \
    }

#define WRAP_OPEN(name)                                            \
    int name(const char *path, int flags, ...)                     \
    {                                                              \
        static int (*plain)(const char *, int, ...);               \
        va_list list;                                              \
        mode_t mode;                                               \
        va_start(list, flags);                                     \
        mode = va_arg(list, mode_t);                               \
        va_end(list);                                              \
        if (plain == NULL)                                         \
            plain = (int (*)(const char *, int, ...))next(#name);  \
        return fails(OPEN) ? -1 : plain(path, flags, mode);      \
    }

#define WRAP_OPENAT(name)                                              \
    int name(int folder, const char *path, int flags, ...)             \
    {                                                                  \
        static int (*plain)(int, const char *, int, ...);              \
        va_list list;                                                  \
        mode_t mode;                                                   \
        va_start(list, flags);                                         \
        mode = va_arg(list, mode_t);                                   \
        va_end(list);                                                  \
        if (plain == NULL)                                             \
            plain = (int (*)(int, const char *, int, ...))next(#name); \
        return fails(OPEN) ? -1 : plain(folder, path, flags, mode);  \
    }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP(WRITE, ssize_t, -1, write, (int fd, const void *from, size_t n_bytes), (fd, from, n_bytes))
WRAP(WRITE, ssize_t, -1, pwrite64, (int fd, const void *from, size_t n_bytes, off_t at), (fd, from, n_bytes, at))
WRAP(READ, ssize_t, -1, pread64, (int fd, void *into, size_t n_bytes, off_t at), (fd, into, n_bytes, at))
WRAP(READ, ssize_t, -1, pread, (int fd, void *into, size_t n_bytes, off_t at), (fd, into, n_bytes, at))
WRAP(READ, ssize_t, -1, sendfile64, (int to, int from, off_t *at, size_t n_bytes), (to, from, at, n_bytes))
WRAP(FSYNC, int, -1, fsync, (int fd), (fd))
WRAP(RENAME, int, -1, rename, (const char *from, const char *to), (from, to))
WRAP(RENAME, int, -1, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(LINK, int, -1, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(MKDIR, int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(MEMFD_CREATE, int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(MMAP, void *, MAP_FAILED, mmap, (void *at, size_t n, int may, int how, int fd, off_t from),
     (at, n, may, how, fd, from))
WRAP(MMAP, void *, MAP_FAILED, mmap64, (void *at, size_t n, int may, int how, int fd, off_t from),
     (at, n, may, how, fd, from))

WRAP(FSTAT, int, -1, fstat, (int fd, void *into), (fd, into))
WRAP(FSTAT, int, -1, fstat64, (int fd, void *into), (fd, into))
WRAP(MINCORE, int, -1, mincore, (void *at, size_t n, unsigned char *into), (at, n, into))
WRAP(MADVISE, int, -1, madvise, (void *at, size_t n, int advice), (at, n, advice))

/* Those of glibc have names of their own: to look for the next ones might need memory. */
#define WRAP_MALLOC(type, name, parameters, arguments)                  \
    extern type __libc_##name parameters;                               \
    type name parameters { return fails(MALLOC) ? NULL : __libc_##name arguments; }

WRAP_MALLOC(void *, malloc, (size_t n_bytes), (n_bytes))
WRAP_MALLOC(void *, calloc, (size_t n, size_t n_bytes), (n, n_bytes))
WRAP_MALLOC(void *, realloc, (void *old, size_t n_bytes), (old, n_bytes))
WRAP_MALLOC(void *, memalign, (size_t step, size_t n_bytes), (step, n_bytes))

void *aligned_alloc(size_t step, size_t n_bytes) { return memalign(step, n_bytes); }

int posix_memalign(void **into, size_t step, size_t n_bytes)
{
    void *block = memalign(step, n_bytes);
    if (block == NULL)
        return ENOMEM;
    *into = block;
    return 0;
}

long syscall(long which, ...) /* openat2 has no function of its own */
{
    static long (*plain)(long, long, long, long, long, long, long);
    long given[6];
    va_list list;
    int i;
    va_start(list, which);
    for (i = 0; i < 6; i++)
        given[i] = va_arg(list, long);
    va_end(list);
    if (plain == NULL)
        plain = (long (*)(long, long, long, long, long, long, long))next("syscall");
    if (which == SYS_openat2 && fails(OPEN))
        return -1;
    return plain(which, given[0], given[1], given[2], given[3], given[4], given[5]);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *with)
{
    static int (*plain)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (plain == NULL)
        plain = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))next("pthread_create");
    return fails(CLONE) ? failing_with : plain(thread, attributes, run, with);
}
