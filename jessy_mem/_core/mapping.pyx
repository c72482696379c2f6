"""Mapped memory: the bytes of a file, or zeroed memory of this process; and the copy that fills it.

HAZARD: what is unmapped while a pointer into it lives is a crash. Only the buffer protocol hands out the address, so a
Mapping lives as long as any view of it, and is unmapped by its last reference and by nothing else.
"""
import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from jessy_mem._core.c.os_memory cimport jm_os_map_file, jm_os_map_zeroed, jm_os_protect, jm_page_bytes
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.unmap cimport jm_unmap, jm_unmap_begin, jm_unmap_end

cdef enum:
    LONG_COPY_BYTES = 65536  # what is shorter is copied before another thread could take the GIL


@cython.final
@cython.no_gc  # holds no Python object
cdef class Mapping:
    """Mapping(n_bytes, fd=-1, *, private=False, huge=False, reserve=False)\n--\n
    Memory that is mapped as long as somebody holds its buffer.

    Parameters
    ----------
    n_bytes : int
    fd : int, optional
        Show the first `n_bytes` of this file, read-only. The descriptor may be closed afterwards: a Mapping keeps none,
        unlike `mmap.mmap` before Python 3.13. By default it is zeroed memory of this process, writable.
    private : bool
        Map the file for this process alone, which is all that some systems allow for sealed memory.
    huge : bool
        Ask for huge pages, where the system has them.
    reserve : bool
        Of memory, take the addresses only: a page counts when it is first touched, however much is mapped.

    Raises OSError if the system refuses, ValueError if the file is shorter. Thread-safe.
    """

    def __cinit__(self, size_t n_bytes, int fd=-1, *, bint private=False, bint huge=False, bint reserve=False):
        cdef uint64_t file_bytes = n_bytes
        jm_disown(<PyObject *> self)
        self.writable = fd < 0
        if fd < 0:
            self.base = jm_os_map_zeroed(n_bytes, huge, reserve)
        else:
            self.base = jm_os_map_file(fd, n_bytes, private, &file_bytes)
        if file_bytes < n_bytes:
            raise ValueError(f"the file has {file_bytes} bytes now")
        if self.base == NULL:
            raise OSError(errno, os.strerror(errno))
        self.n_bytes = n_bytes

    def __dealloc__(self):
        if self.base != NULL:
            jm_unmap(self.base, self.n_bytes, jm_page_bytes())

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.n_bytes, not self.writable, flags)

    def freeze(self):
        """Let nobody write to it again; for its maker, who holds no writable view any more. OSError if refused."""
        self.writable = False
        if jm_os_protect(self.base, self.n_bytes) != 0:
            raise OSError(errno, os.strerror(errno))

    def __reduce__(self):
        raise TypeError("a Mapping cannot be copied or pickled")


@cython.final
@cython.no_gc
cdef class UnmapTogether:
    """A context manager: what this thread drops inside is unmapped at the end, neighbours in one system call.

    Most of what it costs to unmap a small region alone is the call.
    """

    def __enter__(self):
        jm_unmap_begin()

    def __exit__(self, *exc_info):
        with nogil:
            jm_unmap_end()


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class _Range:
    """What a memoryview of a part of a buffer is made from; the memoryview then holds the owner, not this."""
    cdef object owner
    cdef const uint8_t *first
    cdef Py_ssize_t n_bytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self.owner, <void *> self.first, self.n_bytes, True, flags)


cdef object memoryview_of(object owner, const uint8_t *first, Py_ssize_t n_bytes):
    cdef _Range part = _Range.__new__(_Range)
    part.owner, part.first, part.n_bytes = owner, first, n_bytes
    return PyMemoryView_FromObject(part)


def copy_pieces(uint8_t[::1] target not None, pieces):
    """Copy buffers, one after the other, to the beginning of the writable buffer `target`: all of them, or none.

    Raises ValueError if they do not fit. What is long is copied without the GIL.
    """
    cdef list given = list(pieces)
    cdef Py_ssize_t n_pieces = len(given), n_held = 0, i
    cdef uint64_t n_bytes = 0
    # A Py_buffer for each: there are thousands in a simulated region, and a typed memoryview costs an object.
    cdef Py_buffer *held = <Py_buffer *> calloc(max(n_pieces, 1), sizeof(Py_buffer))
    if held == NULL:
        raise MemoryError
    try:
        for piece in given:
            PyObject_GetBuffer(piece, &held[n_held], PyBUF_SIMPLE)
            n_bytes += held[n_held].len
            n_held += 1
        if n_bytes > <uint64_t> target.shape[0]:
            raise ValueError(f"{n_bytes} bytes do not fit into {target.shape[0]}")
        if n_bytes < LONG_COPY_BYTES:
            copy_held(target, held, n_pieces)
        else:
            with nogil:
                copy_held(target, held, n_pieces)
    finally:
        for i in range(n_held):
            PyBuffer_Release(&held[i])
        free(held)


cdef void copy_held(uint8_t[::1] target, const Py_buffer *pieces, Py_ssize_t n_pieces) noexcept nogil:
    cdef uint8_t *at
    cdef Py_ssize_t i
    if target.shape[0] == 0:
        return
    at = &target[0]
    for i in range(n_pieces):
        memcpy(at, pieces[i].buf, pieces[i].len)
        at += pieces[i].len
