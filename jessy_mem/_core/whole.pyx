"""Steps that happen or do not, whatever interrupts them.

Python looks for signals (Ctrl-C) in its own functions only: when one begins, when a loop goes back, and when a call of
something compiled returns. What is compiled is one step, but for the Python functions that it calls; so here an
interrupt in those is met. It is whatever is raised and is no Exception: KeyboardInterrupt, SystemExit.

Memory may be short anywhere, and the next moment it may not be. So a step that got none is begun again, too, but not
for ever: N_TRIES times in all. What needs memory in a step should ask for it before it changes anything.
"""
import os

from posix.unistd cimport close

cdef enum:
    N_TRIES = 4  # of a step that there is no memory for


cdef bint is_short_of_memory(error) noexcept:
    """Whether an error is the interpreter's, who got no memory; CPython before 3.13 may lose the error on the way."""
    return type(error) is MemoryError or type(error) is SystemError


cdef object done(act, args, repair):
    """`whole`, of which `args` is a tuple, or else the only one: who has to end something needs no memory for one."""
    cdef int n_left = N_TRIES
    interrupt = None
    while True:
        try:
            result = act(*<tuple> args) if type(args) is tuple else act(args)
            break
        except BaseException as error:
            if is_short_of_memory(error):
                n_left -= 1
                if n_left == 0:
                    raise
            elif isinstance(error, Exception):
                raise
            else:
                error.__traceback__ = None  # whose frames would hold what goes
                interrupt = error
        if repair is not None:
            repair_all(repair)
    if interrupt is not None:
        raise interrupt
    return result


def whole(act, *args, repair=None):
    """What ``act(*args)`` returns: it is done even if it is interrupted, and the interrupt is raised afterwards.

    It is begun again then, after `repair()`, so it looks at what it finds, and is short. So it is if there was no
    memory for it, of which nothing is said if there is some soon. Any other error ends it.
    """
    return done(act, args, repair)


def mended(act, repair):
    """What ``act()`` returns; after an interrupt, or an error, `repair()` is called before it is raised."""
    try:
        return act()
    except BaseException:
        repair_all(repair)
        raise


cdef int repair_all(repair) except -1:
    cdef int n_left = N_TRIES
    while True:
        try:
            repair()
            return 0
        except BaseException as error:
            n_left -= is_short_of_memory(error)
            if isinstance(error, Exception) and (n_left == 0 or not is_short_of_memory(error)):
                raise


cdef class Lock:
    """The end of a context manager: ``_leave()`` is called, whatever interrupts it; see `whole`."""

    def __exit__(self, kind, error, traceback):
        done(_leave, self, None)


def _leave(lock):
    lock._leave()


cdef class Afterwards(Lock):
    """Afterwards(act, *args)\n--\n
    A context manager that ends with ``act(*args)``, as a `finally` would; what the end needs is there at the beginning.
    """
    cdef object act
    cdef tuple args

    def __cinit__(self, act, *args):
        self.act, self.args = act, args

    def __enter__(self):
        pass

    def _leave(self):
        self.act(*self.args)


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
            try:
                os.close(fd)
            except MemoryError:  # for the call: nothing was closed
                close(fd)

    def __enter__(self):
        return self.fd

    def __exit__(self, kind, error, traceback):
        self.close()
