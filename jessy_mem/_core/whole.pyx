"""Steps that happen or do not, whatever interrupts them.

Python looks for signals (Ctrl-C) in its own functions only: when one begins, when a loop goes back, and when a call of
something compiled returns. What is compiled is one step, but for the Python functions that it calls; so here an
interrupt in those is met. It is whatever is raised and is no Exception: KeyboardInterrupt, SystemExit.
"""
import os

cdef extern from "<unistd.h>" nogil:
    int close(int fd) noexcept


def whole(act, *args, repair=None):
    """What ``act(*args)`` returns: it is done even if it is interrupted, and the interrupt is raised afterwards.

    It is begun again then, after `repair()`, so it looks at what it finds, and is short. An error ends it.
    """
    interrupt = None
    while True:
        try:
            result = act(*args)
            break
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            interrupt = error.with_traceback(None)  # whose frames would hold what goes
        if repair is not None:
            repair_all(repair)
    if interrupt is not None:
        raise interrupt
    return result


def mended(act, repair):
    """What ``act()`` returns; after an interrupt, or an error, `repair()` is called before it is raised."""
    try:
        return act()
    except BaseException:
        repair_all(repair)
        raise


cdef int repair_all(repair) except -1:
    while True:
        try:
            repair()
            return 0
        except BaseException as error:
            if isinstance(error, Exception):
                raise


cdef class Lock:
    """The end of a context manager: ``_leave()`` is called, whatever interrupts it; see `whole`."""

    def __exit__(self, kind, error, traceback):
        whole(self._leave)


cdef class Descriptor:
    """Descriptor(path, flags, mode=0o666, dir_fd=None)\n--\n
    An open file, `fd`, that is closed by `close`, by leaving it, or with its last reference: an interrupt that comes
    before it has a name loses nothing. As a context manager it gives `fd`. OSError.
    """
    cdef readonly int fd

    def __cinit__(self, path, int flags, int mode=0o666, dir_fd=None):
        self.fd = -1
        self.fd = os.open(path, flags, mode, dir_fd=dir_fd)

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def close(self):
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self):
        return self.fd

    def __exit__(self, kind, error, traceback):
        self.close()
