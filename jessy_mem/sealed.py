"""Copies of a file that nobody can change: sealed memory, and where there is none, memory of this process alone.

An immutable dimension is mapped from such a copy, and one whose lease is asked for moves to one, so whatever happens to
its file reaches no reader.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

from jessy_mem._core.mapping import Mapping
from jessy_mem.errors import RegionTruncated

__all__ = ["sha256_of", "unchangeable_copy"]

MFD_NOEXEC_SEAL = 8  # of Linux since 6.3; it implies MFD_ALLOW_SEALING

_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EFBIG}
_CHUNK_BYTES = 16 << 20  # what is copied before somebody may interrupt
_HASHED_BYTES = 1 << 15


def unchangeable_copy(fd: int, path: str, n_bytes: int) -> tuple[Mapping, int | None]:
    """The file `fd` in memory that nobody can change, mapped, and a descriptor of it, which the caller closes.

    None instead of that where the system has no sealed memory, or refuses it, or has no descriptor for it: then it is
    memory of this process alone. RegionTruncated if the file is shorter than `n_bytes` by now; OSError.
    """
    sealed = _sealed_copy(fd, path, n_bytes)
    if sealed is None:
        return _private_copy(fd, path, n_bytes), None
    try:
        return Mapping(n_bytes, sealed), sealed
    except BaseException:
        os.close(sealed)
        raise


def _sealed_copy(fd: int, path: str, n_bytes: int) -> int | None:
    if not hasattr(os, "memfd_create"):
        return None
    try:
        try:  # what can be executed is refused where vm.memfd_noexec says so
            copy = os.memfd_create("jessy_mem", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            copy = os.memfd_create("jessy_mem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)  # Linux before 6.3
    except OSError:
        return None
    try:
        os.ftruncate(copy, n_bytes)
        done = 0
        while done < n_bytes:
            end = _next_hole(fd, done, n_bytes)
            while done < end:
                os.lseek(copy, done, os.SEEK_SET)
                moved = os.sendfile(copy, fd, done, min(end - done, _CHUNK_BYTES))
                if moved == 0:
                    raise RegionTruncated(path, "total_size", f"{done} bytes", f"a file of {n_bytes} bytes")
                done += moved
            done = _next_data(fd, done, n_bytes)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException as error:
        os.close(copy)
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return None
        raise
    return copy


def _next_hole(fd: int, at: int, n_bytes: int) -> int:
    """Where what was written ends: a hole stays one in the copy, which takes no more memory than the file does disk."""
    try:
        return min(os.lseek(fd, at, os.SEEK_HOLE), n_bytes)
    except OSError:  # it is shorter by now, or knows no holes
        return n_bytes


def _next_data(fd: int, at: int, n_bytes: int) -> int:
    """Where the hole at `at` ends."""
    try:
        return min(os.lseek(fd, at, os.SEEK_DATA), n_bytes)
    except OSError:  # there is no more, or it is shorter by now
        return min(os.fstat(fd).st_size, n_bytes)


def _private_copy(fd: int, path: str, n_bytes: int) -> Mapping:
    owner = Mapping(n_bytes)
    with memoryview(owner) as whole:
        done = 0
        while done < n_bytes:
            with whole[done : done + _CHUNK_BYTES] as part:
                moved = os.preadv(fd, [part], done)
            if moved == 0:
                raise RegionTruncated(path, "total_size", f"{done} bytes", f"a file of {n_bytes} bytes")
            done += moved
    owner.freeze()
    return owner


def sha256_of(fd: int, off_bytes: int) -> bytes:
    """SHA-256 from `off_bytes` to the end, read and not mapped, so that the pages do not count as this process's."""
    digest = hashlib.sha256()
    with memoryview(bytearray(_HASHED_BYTES)) as chunk:
        while n_bytes := os.preadv(fd, [chunk], off_bytes):
            digest.update(chunk[:n_bytes])
            off_bytes += n_bytes
    return digest.digest()
