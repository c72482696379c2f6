"""Publish files in one atomic and durable step, and take them away again.

Publishing never touches a file that is there, for others may have it mapped. The bytes are written to a file without a
name (or with a temporary one, where the system has no such files), fsynced, and then

    a new file:     linked to its name, which fails if that is taken: nobody's file is overwritten
    a replacement:  linked to a temporary name and renamed over the old one

and then the folder is fsynced. What is taken back is the very file that was linked, no other that came in its place.
A path in a base folder is reached without following a link in it; the base folder itself may be reached through links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from typing import Self

from jessy_mem._core.whole import Afterwards, Descriptor, Lock
from jessy_mem.durable import PathLike, make_folders, open_folder, remove_folders, split, sync_file, sync_folder
from jessy_mem.errors import AlreadyPublished, ConsciousnessError, LinkRefused, MappingError
from jessy_mem.forking import imported
from jessy_mem.layout import UNSYNCED_MODE

__all__ = ["Draft", "NewFile", "is_temporary", "publish", "remove", "replace", "withdraw"]

Buffer = bytes | bytearray | memoryview
Progress = Callable[[int], object]
Identity = tuple[int, int, int, int]

_WRITE_BYTES = 4 << 20
_NAMELESS = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0
_NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
_NO_EXCHANGE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def publish(
    pieces: Iterable[Buffer],
    target: PathLike,
    progress: Progress | None = None,
    *,
    exclusive: bool = False,
    follow_links: bool = False,
) -> NewFile:
    """Write `pieces`, fsync, give the file its name, fsync the folder. MappingError on failure.

    `exclusive`: a file that is there stays, AlreadyPublished; else it is replaced, and its mode is kept.
    `follow_links`: the folder of `target` may be a link; LinkRefused if not. ``progress(done_bytes)`` is called as the
    file grows.
    """
    file = NewFile(target, follow_links)
    file._publish(pieces, progress, exclusive)
    return file


def replace(pieces: Iterable[Buffer], target: PathLike) -> None:
    """Publish `pieces` in place of a file, which is there again if that fails at the last step. MappingError."""
    folder_path, name = split(target)
    kept = temporary_name(name)
    try:
        opened = open_folder(folder_path, follow_links=False)
    except OSError as error:
        raise _error_of(error, target) from error
    with opened as folder, Afterwards(_discard, kept, folder):
        with contextlib.suppress(OSError):  # without links the last step cannot be undone
            os.link(name, kept, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        try:
            publish(pieces, target)
        except BaseException:
            with contextlib.suppress(OSError):  # does nothing if both are still names of the old file
                os.rename(kept, name, src_dir_fd=folder, dst_dir_fd=folder)
            raise


class NewFile:
    """A file on its way to its name, and the way back: known before it is there, so that nothing comes between.

    Not to be shared between threads.
    """

    __slots__ = ("_at", "_follow_links", "_identity", "_made", "_name", "folder", "path")

    def __init__(self, path: PathLike, follow_links: bool = False, at: int = -1) -> None:
        """`at` is the open folder, if the caller has it; not closed here, and needed until the file is written."""
        self.path = os.fspath(path)
        self._at = at
        self.folder, self._name = split(path)
        self._follow_links = follow_links
        self._identity: Identity | None = None  # of what was written, set before it has its name
        self._made: list[str] = []  # the folders that were made for it

    def publish(self, pieces: Iterable[Buffer], durable: bool = True) -> None:
        """Write `pieces` and give the file its name; AlreadyPublished if that is taken, LinkRefused, MappingError.

        Durable when it returns, unless that is left to a Batch (batch.py). After an error nothing is left of it.
        """
        self._publish(pieces, None, exclusive=True, durable=durable)

    def sync(self) -> None:
        """Make durable what was written, not its name; nothing to do if that is gone, or another file's by now."""
        try:
            sync_file(self.path, self._follow_links)
        except OSError:
            if self.is_there():
                raise

    def is_there(self) -> bool:
        """Whether the name has the very file that was published."""
        try:
            return self._identity is not None and _identity(os.lstat(self.path)) == self._identity
        except OSError:
            return False

    def take_back(self) -> None:
        """Remove the file, durably, and its folder if that can go then. Another's file in its place stays."""
        try:
            self._unlink()
            _remove_empty(self.folder)
        except OSError as error:
            raise MappingError.of(error, self.path) from error

    def _publish(
        self, pieces: Iterable[Buffer], progress: Progress | None, exclusive: bool, durable: bool = True
    ) -> None:
        try:
            self.write(pieces, progress, exclusive, durable, durable)
            # One after the other: a journal that commits the first has mostly nothing left to do for the others.
            for folder in self.folders()[1:] if durable else ():
                sync_folder(folder)
        except BaseException as error:
            self.undo(exclusive)
            if isinstance(error, OSError):
                raise _error_of(error, self.path) from error
            raise

    def folders(self) -> list[str]:
        """The folders with a new name in them: its own, then those of the folders made for it."""
        return [self.folder, *[split(made)[0] for made in reversed(self._made)]]

    def undo(self, exclusive: bool = True) -> None:
        """Take back what `write` did, as far as that goes."""
        if exclusive:
            with contextlib.suppress(OSError):
                self._unlink()
        remove_folders(self._made)

    def _unlink(self) -> None:
        if not self.is_there():
            return
        with contextlib.suppress(FileNotFoundError):  # where locks do nothing, another may have merged it meanwhile
            try:
                remove(self.path, self._follow_links)
            except (LinkRefused, FileNotFoundError):
                raise
            except OSError:  # no descriptor is left; it is the very file, wherever that path leads
                os.unlink(self.path)

    def write(
        self,
        pieces: Iterable[Buffer],
        progress: Progress | None = None,
        exclusive: bool = True,
        durable: bool = True,
        durable_name: bool = False,
    ) -> None:
        """Write the file and give it its name, which is not durable yet but in its own folder, and only if it is to be.

        After an error `undo` is to be called.
        """
        with self.draft(pieces, progress, exclusive, durable) as draft:
            if durable:
                draft.sync()
            self.give_name(draft, exclusive)
            if durable_name:
                draft.sync_folder()

    def draft(
        self,
        pieces: Iterable[Buffer],
        progress: Progress | None = None,
        exclusive: bool = True,
        durable: bool = True,
    ) -> Draft:
        """The open file, with all its bytes and without its name; to be closed. The first step of `write`.

        Not `durable`: it is marked as not being so (layout.UNSYNCED_MODE).
        """
        try:
            draft = Draft(self.folder, self._name, self._follow_links, durable, self._at)
        except FileNotFoundError:
            make_folders(self.folder, self._made)
            draft = Draft(self.folder, self._name, self._follow_links, durable)
        try:
            if not exclusive:
                draft.take_mode()
            _write(draft.fd, pieces, progress)
        except BaseException:
            draft.close()
            raise
        return draft

    def give_name(self, draft: Draft, exclusive: bool = True) -> None:
        """Give a draft its name; AlreadyPublished if that is taken. The last step of `write`."""
        self._identity = _identity(os.fstat(draft.fd))
        try:
            draft.give_name(exclusive)
        except FileExistsError as error:
            raise AlreadyPublished(self.path) from error


class Draft(Lock):
    """The open file that is written: nameless if that can be, else, or for a moment, with a temporary name.

    A context manager.
    """

    __slots__ = ("_file", "_folder", "fd", "folder", "name", "temporary")

    def __init__(self, folder: str, name: str, follow_links: bool, durable: bool, at: int = -1) -> None:
        self.name = name
        self.temporary = ""  # its name for a moment, if it has one
        self._folder = open_folder(folder, follow_links) if at < 0 else None  # else it is the caller's
        self.folder = at if self._folder is None else self._folder.fd
        try:
            self._file = self._open(0o666 if durable else 0o666 | UNSYNCED_MODE)
        except BaseException:
            if self._folder is not None:
                self._folder.close()  # now: the traceback keeps this object
            raise
        self.fd = self._file.fd

    def __enter__(self) -> Self:
        return self

    def _open(self, mode: int) -> Descriptor:
        if _NAMELESS:
            try:
                return Descriptor(".", os.O_WRONLY | os.O_CLOEXEC | _NAMELESS, mode, dir_fd=self.folder)
            except OSError as error:
                if error.errno not in _NO_NAMELESS:
                    raise
        self.temporary = temporary_name(self.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return Descriptor(self.temporary, flags, mode, dir_fd=self.folder)

    def sync(self) -> None:
        """Make durable what was written."""
        os.fsync(self.fd)

    def sync_folder(self) -> None:
        """Make durable which names there are beside it."""
        os.fsync(self.folder)

    def take_mode(self) -> None:
        """The mode of the file that will be replaced, if there is one; OSError for a device: /dev/null, /dev/stdout."""
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            leads_to = os.readlink(self.name, dir_fd=self.folder) if stat.S_ISLNK(facts.st_mode) else ""
            if stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode) or leads_to.startswith(("/dev/", "/proc/")):
                raise OSError(errno.EINVAL, "it is a device, and no file takes its place", self.name)
            if stat.S_ISREG(facts.st_mode):
                os.fchmod(self.fd, facts.st_mode & 0o7777)

    def give_name(self, exclusive: bool) -> None:
        """The last step: FileExistsError if it is to be exclusive and the name is taken."""
        if exclusive and self.temporary:
            link_or_rename(self.temporary, self.name, self.folder)
        elif exclusive:
            self._link(self.name)
        else:
            if not self.temporary:
                self.temporary = temporary_name(self.name)
                self._link(self.temporary)
            os.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self.temporary = ""

    def _link(self, name: str) -> None:
        # With a descriptor of the folder it is linkat, which follows the link that /proc shows.
        os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self.folder, follow_symlinks=True)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            if self.temporary:
                _discard(self.temporary, self.folder)
            if self._folder is not None:
                self._folder.close()

    _leave = close


def _discard(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def temporary_name(name: str) -> str:
    """A name for a moment, beside a file of that name; one that is left behind is known by it (`is_temporary`)."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


def _error_of(error: OSError, path: PathLike) -> ConsciousnessError:
    return error if isinstance(error, ConsciousnessError) else MappingError.of(error, path)


def link_or_rename(name: str, new_name: str, folder: int) -> None:
    """Give a file a new name in the same folder; FileExistsError if that is taken. The old name may stay."""
    try:
        os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rename_new(name, new_name, folder)


def rename_new(name: str, new_name: str, folder: int) -> None:
    """Rename in a folder; FileExistsError if the new name is taken, OSError where no system call does that."""
    _rename(name, new_name, folder, 4 if sys.platform == "darwin" else 1)  # RENAME_EXCL, RENAME_NOREPLACE


def exchange(path: PathLike, other: PathLike) -> bool:
    """Let two files of a folder have each other's name, in one step; False, and nothing was done, if that cannot be."""
    folder_path, name = split(path)
    with open_folder(folder_path, follow_links=True) as folder:
        try:
            _rename(name, split(other)[1], folder, 2)  # RENAME_SWAP, RENAME_EXCHANGE
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            return False
    return True


def _rename(name: str, new_name: str, folder: int, flag: int) -> None:
    """renameat2, or what macOS calls it."""
    ctypes = imported("ctypes")
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameatx_np" if sys.platform == "darwin" else "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system has no renameat2")
    if rename(folder, os.fsencode(name), folder, os.fsencode(new_name), ctypes.c_uint(flag)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# Taking away ----------------------------------------------------------------------------------------------------------


def withdraw(target: PathLike, *leftovers: PathLike) -> None:
    """Unlink a file durably, then what is nothing without it, and the folder if that can go then.

    MappingError if the file cannot go; LinkRefused if the folder is a link. A leftover that cannot go stays.
    """
    try:
        folder = split(target)[0]
        with contextlib.suppress(FileNotFoundError):
            remove(target)
        if leftovers:  # none of them may be gone from the disk while the file is there
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)
        for leftover in leftovers:
            with contextlib.suppress(OSError):
                remove(leftover)
        _remove_empty(folder)
    except OSError as error:
        if isinstance(error, ConsciousnessError):
            raise
        raise MappingError.of(error, target) from error


def remove(path: PathLike, follow_links: bool = False) -> None:
    """Unlink a file; LinkRefused if its folder is a link."""
    folder_path, name = split(path)
    with open_folder(folder_path, follow_links) as folder:
        os.unlink(name, dir_fd=folder)


def _remove_empty(folder: str) -> None:
    """Make durable that files of a folder are gone, and the folder too if it is empty."""
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        os.rmdir(folder)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(folder if os.path.isdir(folder) else split(folder)[0])


def is_temporary(path: PathLike) -> bool:
    """Whether `path` is named like a file that an interrupted publish leaves behind."""
    name = split(path)[1]
    stem, _, token = name.removesuffix(".tmp").rpartition(".")
    return name.endswith(".tmp") and stem.startswith(".") and len(token) == 16 and _is_hex(token)


def _write(fd: int, pieces: Iterable[Buffer], progress: Progress | None) -> None:
    done_bytes = 0
    for piece in pieces:
        # Each view is released at once: the traceback of an error would keep it, and the bytes it is of.
        with memoryview(piece) as whole:
            at = 0
            while at < len(whole):
                with whole[at : at + _WRITE_BYTES] as part:
                    n_bytes = _write_part(fd, part)
                at += n_bytes
                done_bytes += n_bytes
                if progress is not None:
                    progress(done_bytes)


def _write_part(fd: int, part: memoryview) -> int:
    try:
        return os.write(fd, part)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
    # Pages of a mapped file are gone: who gave the piece is asked at its end. Read by us, they are zeros.
    return os.write(fd, bytes(part))


def _identity(facts: os.stat_result) -> Identity:
    """What tells a file from every other: a number alone may be another's, once the first file is gone."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
