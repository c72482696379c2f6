"""Mapped memory: the bytes of a file, or zeroed memory of this process.

HAZARD: what is unmapped while a pointer into it lives is a crash. Only the buffer protocol hands out the address, so a
Mapping lives as long as any view of it, and is unmapped by its last reference and by nothing else. Pages of a file may
go before that, whoever holds them: the guard puts zeros there, and whoever reads asks it afterwards.
"""
import os

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyObject
from libc.errno cimport errno
from libc.stdint cimport uint64_t

from jessy_mem._core.c.atomic cimport jm_cas_acq_rel, jm_load_acquire, jm_store_release
from jessy_mem._core.c.os_memory cimport (
    jm_os_give_back,
    jm_os_map_file,
    jm_os_map_zeroed,
    jm_os_move_over,
    jm_os_own_pages,
    jm_os_protect,
    jm_page_bytes,
)
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.thread cimport jm_thread_yield
from jessy_mem._core.c.unmap cimport jm_unmap, jm_unmap_begin, jm_unmap_end
from jessy_mem._core.guard cimport guard_add, guard_damaged, guard_remove


cdef enum:
    LARGE_BYTES = 1048576  # what is larger is mapped

# Whose pages a Mapping of a file has. Of a copy none may be given back, for they are nowhere else; so who gives
# back and who puts a copy there shut each other out.
cdef enum:
    OF_FILE = 0
    GIVEN_BACK = 1  # just now
    COPIED = 2      # or just about to be


@cython.final
@cython.no_gc  # holds no Python object
cdef class Mapping:
    """Mapping(n_bytes, fd=-1, *, huge=False, reserve=False)\n--\n
    Memory that is mapped as long as somebody holds its buffer.

    Parameters
    ----------
    n_bytes : int
    fd : int, optional
        Show the first `n_bytes` of this file, read-only; bytes that it does not have, now or one day, are zeros. The
        descriptor may be closed afterwards: a Mapping keeps none, unlike `mmap.mmap` before Python 3.13. By default it
        is zeroed memory of this process, writable.
    huge : bool
        Ask for huge pages, where the system has them.
    reserve : bool
        Of memory, take the addresses only: a page counts when it is first touched, however much is mapped.

    Raises OSError if the system refuses. Thread-safe.
    """

    def __cinit__(self, size_t n_bytes, int fd=-1, *, bint huge=False, bint reserve=False):
        jm_disown(<PyObject *> self)
        self.writable, self.guard = fd < 0, -1
        if fd < 0:
            self.base = jm_os_map_zeroed(n_bytes, huge, reserve)
        else:
            self.base = jm_os_map_file(fd, n_bytes)
        if self.base == NULL:
            raise OSError(errno, os.strerror(errno))
        self.n_bytes = n_bytes
        if fd >= 0:
            self.guard = guard_add(self.base, n_bytes, False)
            if self.guard < 0:
                raise MemoryError

    def __dealloc__(self):
        if self.base != NULL:
            if self.guard >= 0:
                guard_remove(self.guard)
            jm_unmap(self.base, self.n_bytes, jm_page_bytes())

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.n_bytes, not self.writable, flags)

    def freeze(self):
        """Let nobody write to it again; for its maker, who holds no writable view any more. OSError if refused."""
        self.writable = False
        if jm_os_protect(self.base, self.n_bytes) != 0:
            raise OSError(errno, os.strerror(errno))

    def move(self, Mapping copy not None):
        """Show the pages of `copy`, which has the file's bytes, at the same address; it is empty afterwards.

        For who made `copy`, and holds no view of it. False, and nothing happens, if some of the file's pages are gone.
        OSError if the system refuses.
        """
        cdef int failed = 1
        cdef uint64_t found = OF_FILE
        if self.guard < 0 or copy is self or copy.n_bytes != self.n_bytes:
            return False
        with nogil:
            while not jm_cas_acq_rel(&self.pages, &found, COPIED) and found != COPIED:
                found = OF_FILE
                jm_thread_yield()
            if found == COPIED:
                failed = 0
            elif not guard_damaged(self.guard):
                if copy.guard >= 0:  # before its address is somebody else's
                    guard_remove(copy.guard)
                    copy.guard = -1
                failed = jm_os_move_over(self.base, self.n_bytes, copy.base)
                if failed == 0:
                    copy.base, copy.n_bytes = NULL, 0
            if failed:
                jm_store_release(&self.pages, OF_FILE)
        if failed < 0:
            raise OSError(errno, os.strerror(errno))
        return failed == 0

    def give_back(self, *, bint to_system=False):
        """Take the pages of a file out of this process; who reads one gets it again. With `to_system` out of the page
        cache, too. Nothing happens to other memory, or to a copy; nor where the system refuses. Waits for nobody."""
        cdef uint64_t found = OF_FILE
        if self.guard >= 0:
            with nogil:
                if jm_cas_acq_rel(&self.pages, &found, GIVEN_BACK):
                    jm_os_give_back(self.base, self.n_bytes, to_system)
                    jm_store_release(&self.pages, OF_FILE)

    def own_bytes(self, int pagemap=-1):
        """Bytes that this process has in memory of a file, and that `give_back` would give back; `pagemap` is the open
        /proc/self/pagemap, without which they are those that are in memory for whomever. OSError."""
        cdef uint64_t n_pages = 0
        cdef int failed
        if self.guard < 0 or jm_load_acquire(&self.pages) == COPIED:
            return 0
        with nogil:
            failed = jm_os_own_pages(pagemap, self.base, self.n_bytes, &n_pages)
        if failed:
            raise OSError(errno, os.strerror(errno))
        return n_pages * jm_page_bytes()

    def __reduce__(self):
        raise TypeError("a Mapping cannot be copied or pickled")


@cython.final
@cython.no_gc
cdef class UnmapTogether:
    """UnmapTogether()\n--\n
    A context manager: what this thread drops inside is unmapped at the end, neighbours in one system call.

    Most of what it costs to unmap a small region alone is the call.
    """

    def __enter__(self):
        jm_unmap_begin()

    def __exit__(self, *exc_info):
        with nogil:
            jm_unmap_end()


def private_memory(n_bytes):
    """Memory for a decompressed layer of a region that has no budget; large memory costs what is written to it."""
    if n_bytes < LARGE_BYTES:
        return bytearray(n_bytes)
    return Mapping(n_bytes)
