"""A region file as an Image: opened, its head read, its bytes mapped or copied into memory that nobody can change.

HAZARD: while this looks at it, a file may be shortened, grown, written to or replaced. What is parsed was read before;
what is mapped is not touched here.
"""
import errno
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen
from posix.unistd cimport close, pread

from jessy_mem._core.c.os_folder cimport jm_os_open_beneath, jm_os_open_in
from jessy_mem._core.c.os_memory cimport jm_file_facts, jm_os_file_facts
from jessy_mem._core.fault cimport MISSING_DELTA, Fault, fault_error, fault_set
from jessy_mem._core.format cimport FEATURE_DELTA, HEADER_BYTES, PAGE_ALIGNMENT_BYTES
from jessy_mem._core.head cimport Head
from jessy_mem._core.image cimport Image

from jessy_mem import layout
from jessy_mem._core.fault import advice
from jessy_mem._core.mapping import Mapping
from jessy_mem.errors import DimensionNotFound, LinkRefused, MappingError, RegionTruncated
from jessy_mem.leases import take_lease
from jessy_mem.sealed import sha256_of, unchangeable_copy

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(str path)

cdef uint32_t UNSYNCED_MODE = layout.UNSYNCED_MODE


def open_file(str path not None, int folder, bint follow_links):
    """A descriptor of the file at `path`, in `folder` if that is open, for reading; OSError. Waits for nothing."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = encoded
    cdef int fd, failed = 0
    if len(encoded) != <Py_ssize_t> strlen(name):
        raise ValueError("embedded null byte")
    with nogil:
        fd = jm_os_open_in(folder, name, follow_links)
        if fd < 0:
            failed = c_errno
    return opened(fd, failed, path)


def read_beneath(int base, str path not None, int n_bytes):
    """What a file ``folder/name`` beneath the open folder `base`, reached through no link, begins with; OSError."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = encoded
    cdef int fd, failed = 0
    with nogil:
        fd = jm_os_open_beneath(base, name)
        if fd < 0:
            failed = c_errno
    opened(fd, failed, path)
    try:
        return os.pread(fd, n_bytes, 0)
    finally:
        close(fd)


def read_begin(int fd):
    """What an open file begins with, a page at most, what tells it apart, and its mode; OSError, also if it is no file.

    To read it costs less than the fault that reading the mapping would: 4.6 us to map and check, and 6.9.
    """
    cdef bytes first = PyBytes_FromStringAndSize(NULL, PAGE_ALIGNMENT_BYTES)
    cdef char *into = first
    cdef jm_file_facts facts
    cdef Py_ssize_t n_read
    cdef int read_failed, failed
    while True:
        with nogil:
            n_read = pread(fd, into, PAGE_ALIGNMENT_BYTES, 0)
            read_failed = c_errno if n_read < 0 else 0
            failed = jm_os_file_facts(fd, &facts)  # after that, so that what is read is not longer than the file
        if read_failed != EINTR:
            break
        PyErr_CheckSignals()
    if failed:
        raise OSError(c_errno, os.strerror(c_errno))
    if facts.is_folder:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not facts.is_regular:
        raise OSError(errno.EINVAL, "Not a regular file")
    if read_failed:
        raise OSError(read_failed, os.strerror(read_failed))
    if n_read < PAGE_ALIGNMENT_BYTES:
        first = first[:n_read]
    return first, (facts.device, facts.inode, facts.mtime_ns, facts.n_bytes), facts.mode


cdef object opened(int fd, int failed, str path):
    if fd < 0:
        raise OSError(failed, os.strerror(failed), path)
    return fd


def map_file(
    path,
    uint64_t dimension_id,
    *,
    admit=None,
    uint64_t below_bytes=0,
    bint immutable=False,
    bint delta=False,
    str guard="reads",
    metadata_limit_bytes=None,
    int folder=-1,
    bint follow_links=True,
):
    """Map the region file at `path`, checked, as an Image.

    `admit(n_bytes, below_bytes)` is called with the sizes of the file and of those under it before it is mapped, and
    returns its charge, or raises. A file that is immutable, by `immutable` or by its own flag, is copied into sealed
    memory and compared with its digest; with the guard "copy" the others are copied, too. With "lease" they are when
    somebody is about to change them, with "auto" where the system gives a lease. With "none" no file is copied, and no
    digest compared. Of one that is opened as a `delta` the file must say that it is one. No more than
    `metadata_limit_bytes` are read before it is mapped; MAX_METADATA_BYTES by default. `folder` is the open folder that
    it lies in, if the caller has it; without `follow_links` a link in its place is LinkRefused.
    """
    return mapped_file(
        os.fspath(path), dimension_id, admit, below_bytes, immutable, delta, guard, metadata_limit_bytes, folder,
        follow_links,
    )


cdef Image mapped_file(
    str path, uint64_t dimension_id, admit, uint64_t below_bytes, bint immutable, bint delta, str guard,
    metadata_limit_bytes, int folder, bint follow_links
):
    cdef Fault fault
    cdef int fd
    cdef uint64_t n_bytes = 0
    cdef Image image
    cdef bytes first
    cdef tuple identity
    cdef object refusal = None, lease = None
    cdef bint is_usual = guard == "reads"  # the others are compared with only if it is not: 90 instructions each
    try:
        fd = open_file(path, folder, follow_links)
    except FileNotFoundError:
        raise DimensionNotFound(dimension_id, path) from None
    except OSError as error:
        if not follow_links and os.path.islink(path):
            raise LinkRefused(path, "follow_links") from None
        raise MappingError.of(error, path) from None
    try:
        if not is_usual and guard in ("lease", "auto"):  # before it is read: who wants to change it then waits
            try:
                lease = take_lease(fd, path)
            except OSError as error:
                refusal = error if guard == "lease" else None
        first, identity, mode = read_begin(fd)
        if refusal is not None:
            raise refusal
        n_bytes = identity[3]
        if n_bytes < HEADER_BYTES:
            hint = advice(path, first)
            raise RegionTruncated(path, "header", f"{n_bytes} bytes", "a file of at least 256 bytes", hint=hint)
        charge = admit(n_bytes, below_bytes) if admit is not None else None
        mapping = Mapping(n_bytes, fd)
        head = Head(fd, path, n_bytes, first, metadata_limit_bytes)
        image = Image(mapping, path, dimension_id, "mmap", charge, identity, head)
        if delta and not image.is_delta:
            fault_set(&fault, MISSING_DELTA, -1, image.header.required_features, FEATURE_DELTA)
            raise fault_error(&fault, path)
        if (not is_usual and guard == "copy") or ((immutable or image.immutable) and guard != "none"):
            image = sealed_image(fd, path, dimension_id, n_bytes, charge, identity, metadata_limit_bytes)
            if image.immutable:
                image.trusted = True
            elif immutable:
                image.check_all()
        elif lease is not None:
            lease.cover(mapping)
            image.lease = lease
            if guard == "lease" and image.guard_of() == "reads":
                raise OSError(errno.EAGAIN, "no lease: somebody opens it for writing")
        image.unsynced = <uint32_t> mode & UNSYNCED_MODE != 0
        return image
    except OSError as error:
        raise MappingError.of(error, path, n_bytes) from None
    finally:
        close(fd)


cdef Image sealed_image(int fd, str path, uint64_t dimension_id, uint64_t n_bytes, charge, identity, limit_bytes):
    """Copy the file into memory that nobody can change or shorten, map that, and compare its digest if it has one."""
    cdef Image image
    owner, sealed = unchangeable_copy(fd, path, n_bytes)
    try:
        head = None
        if sealed is not None:
            head = Head(sealed, path, n_bytes, os.pread(sealed, PAGE_ALIGNMENT_BYTES, 0), limit_bytes)
        image = Image(owner, path, dimension_id, "mmap", charge, identity, head)
        image.zeros_from = NULL  # nobody can shorten it
        if image.immutable:
            if sealed is None:
                image.check_digest()
            else:
                image.compare_digest(sha256_of(sealed, image.head_bytes))
    finally:
        if sealed is not None:
            os.close(sealed)
    return image
