"""Publish files in one atomic and durable step, and take them away again.

Publishing never touches a file that is there, for others may have it mapped. The bytes are written to a file without a
name (or with a temporary one, where the system has no such files), fsynced, and then

    a new file:     linked to its name, which fails if that is taken: nobody's file is overwritten
    a replacement:  linked to a temporary name and renamed over the old one

and then the folder is fsynced. What is taken back is the very file that was linked, and no other that came in its place.
A path in a base folder is reached without following a link in it; the base folder itself may be reached through links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from jessy_mem.errors import AlreadyPublished, ConsciousnessError, LinkRefused, MappingError
from jessy_mem.locking import renew_in_child

__all__ = ["Batch", "NewFile", "is_temporary", "make_folder", "publish", "publish_many", "remove", "withdraw"]

Buffer = bytes | bytearray | memoryview
Progress = Callable[[int], object]
Identity = tuple[int, int, int, int]
T = TypeVar("T")

_WRITE_BYTES = 4 << 20
_N_THREADS = 16
_NAMELESS = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0
_NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def publish(
    pieces: Iterable[Buffer],
    target: Path,
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
    file._publish(pieces, progress, None, exclusive)
    return file


class NewFile:
    """A file on its way to its name, and the way back: known before it is there, so that nothing comes between.

    Not to be shared between threads.
    """

    __slots__ = ("_follow_links", "_identity", "_made", "path")

    def __init__(self, path: Path, follow_links: bool = False) -> None:
        self.path = path
        self._follow_links = follow_links
        self._identity: Identity | None = None  # of what was written, set before it has its name
        self._made: list[Path] = []  # the folders that were made for it

    def publish(self, pieces: Iterable[Buffer], progress: Progress | None = None, batch: Batch | None = None) -> None:
        """Write `pieces` and give the file its name; AlreadyPublished if that is taken, LinkRefused, MappingError.

        Durable when it returns, or, with a `batch`, when that is synced. After an error nothing is left of it.
        """
        self._publish(pieces, progress, batch, exclusive=True)

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
            _remove_empty(self.path.parent)
        except OSError as error:
            raise MappingError.of(error, self.path) from error

    def _publish(
        self, pieces: Iterable[Buffer], progress: Progress | None, batch: Batch | None, exclusive: bool
    ) -> None:
        if batch is not None:
            batch.sync_if_due()
        try:
            self._write(pieces, progress, exclusive, durable=batch is None)
            if batch is None:
                # One after the other: a journal that commits the first has mostly nothing left to do for the others.
                for folder in self._folders():
                    sync_folder(folder)
            else:
                batch._add(self)
        except BaseException as error:
            self._undo(exclusive)
            if isinstance(error, OSError) and not isinstance(error, ConsciousnessError):
                raise MappingError.of(error, self.path) from error
            raise

    def _folders(self) -> list[Path]:
        """The folders with a new name in them: its own, then those of the folders made for it."""
        return [self.path.parent, *(made.parent for made in reversed(self._made))]

    def _undo(self, exclusive: bool) -> None:
        if exclusive:
            with contextlib.suppress(OSError):
                self._unlink()
        _remove_folders(self._made)

    def _unlink(self) -> None:
        if self.is_there():
            remove(self.path, self._follow_links)

    def _write(self, pieces: Iterable[Buffer], progress: Progress | None, exclusive: bool, durable: bool) -> None:
        _make_folder(self.path.parent, self._made)
        folder = _open_folder(self.path.parent, self._follow_links)
        try:
            draft = _Draft(folder, self.path.name)
            try:
                if not exclusive:
                    draft.take_mode()
                _write(draft.fd, pieces, progress)
                if durable:
                    os.fsync(draft.fd)
                self._identity = _identity(os.fstat(draft.fd))
                draft.give_name(exclusive)
            except FileExistsError as error:
                raise AlreadyPublished(self.path) from error
            finally:
                draft.close()
        finally:
            os.close(folder)


class _Draft:
    """The open file that is written: nameless if that can be, else, or for a moment, with a temporary name."""

    def __init__(self, folder: int, name: str) -> None:
        self.folder = folder
        self.name = name
        self.temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        self.has_temporary = False
        if _NAMELESS:
            try:
                self.fd = os.open(".", os.O_WRONLY | os.O_CLOEXEC | _NAMELESS, 0o666, dir_fd=folder)
                return
            except OSError as error:
                if error.errno not in _NO_NAMELESS:
                    raise
        self.has_temporary = True
        self.fd = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)

    def take_mode(self) -> None:
        """The mode of the file that will be replaced, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode):
                os.fchmod(self.fd, facts.st_mode & 0o7777)

    def give_name(self, exclusive: bool) -> None:
        """The last step: FileExistsError if it is to be exclusive and the name is taken."""
        if exclusive and self.has_temporary:
            link_or_rename(self.temporary, self.name, self.folder)
        elif exclusive:
            self._link(self.name)
        else:
            if not self.has_temporary:
                self.has_temporary = True
                self._link(self.temporary)
            os.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self.has_temporary = False

    def _link(self, name: str) -> None:
        # With a descriptor of the folder it is linkat, which follows the link that /proc shows.
        os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self.folder, follow_symlinks=True)

    def close(self) -> None:
        os.close(self.fd)
        if self.has_temporary:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.folder)


def link_or_rename(name: str, new_name: str, folder: int) -> None:
    """Give a file a new name in the same folder; FileExistsError if that is taken. The old name may stay."""
    try:
        os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rename_new(name, new_name, folder)


def rename_new(name: str, new_name: str, folder: int) -> None:
    """Rename in a folder, FileExistsError if the new name is taken: renameat2, or what macOS calls it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call, flag = ("renameatx_np", 4) if sys.platform == "darwin" else ("renameat2", 1)  # RENAME_EXCL, RENAME_NOREPLACE
    rename = getattr(libc, call, None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system can neither link nor rename without overwriting")
    if rename(folder, os.fsencode(name), folder, os.fsencode(new_name), ctypes.c_uint(flag)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# Many files -----------------------------------------------------------------------------------------------------------


def publish_many(files: Iterable[tuple[NewFile, Sequence[Buffer]]]) -> list[ConsciousnessError | None]:
    """Publish new files side by side, each folder fsynced once; for each file None, or why it is not there."""
    made = list(files)

    def write(item: tuple[NewFile, Sequence[Buffer]]) -> None:
        file, pieces = item
        try:
            file._write(pieces, None, exclusive=True, durable=True)
        except BaseException:
            file._undo(exclusive=True)
            raise

    try:
        errors = side_by_side(write, made)
        failed = _sync_folders([file for (file, _), error in zip(made, errors, strict=True) if error is None])
    except BaseException:
        for file, _ in made:
            file._undo(exclusive=True)
        raise
    outcomes: list[ConsciousnessError | None] = []
    for (file, _), error in zip(made, errors, strict=True):
        failure = error or next((failed[folder] for folder in file._folders() if folder in failed), None)
        if failure is not None and error is None:
            file._undo(exclusive=True)
        if failure is None or isinstance(failure, ConsciousnessError):
            outcomes.append(failure)
        else:
            outcomes.append(MappingError.of(failure, file.path))
    return outcomes


class Batch:
    """Files that have their names and are not durable yet: `sync` makes them, all at once. Thread-safe.

    Only new files: what replaces another is always durable, for what it replaces may have been.
    """

    def __init__(self, window_s: float = 1.0) -> None:
        self.window_s = window_s
        self._waiting: dict[Path, NewFile] = {}
        self._failed: dict[Path, tuple[NewFile, OSError | ConsciousnessError]] = {}
        self._since = 0.0
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # of the two dicts
        self._syncing = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def _add(self, file: NewFile) -> None:
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[file.path] = file

    def sync_if_due(self) -> None:
        """Make durable what waits since `window_s`: whoever writes next calls it before. MappingError."""
        if self._waiting and time.monotonic() - self._since >= self.window_s:
            self.sync()

    def sync(self) -> None:
        """Make everything durable that was written before this call. MappingError names a file that is not.

        The system tells of a write that failed only once: such a file is reported by each call until it is removed or
        replaced.
        """
        with self._syncing:
            with self._lock:
                files = list(self._waiting.values())
            errors = side_by_side(_sync_file, files)
            failed = _sync_folders(files)
            with self._lock:
                for file, error in zip(files, errors, strict=True):
                    reason = error or next((failed[f] for f in file._folders() if f in failed), None)
                    if reason is not None:
                        self._failed[file.path] = (file, reason)
                    if self._waiting.get(file.path) is file:
                        del self._waiting[file.path]
                self._since = time.monotonic()
                self._failed = {path: each for path, each in self._failed.items() if each[0].is_there()}
                for path, (_, reason) in self._failed.items():
                    raise MappingError.of(reason, path) from reason


def _sync_folders(files: Iterable[NewFile]) -> dict[Path, OSError | ConsciousnessError]:
    """Make the names of files durable, each folder once; those that could not be, and why."""
    folders = list(dict.fromkeys(folder for file in files for folder in file._folders()))
    errors = side_by_side(sync_folder, folders)
    return {folder: error for folder, error in zip(folders, errors, strict=True) if error is not None}


def _sync_file(file: NewFile) -> None:
    """Make a file durable; one that is gone, or another by now, needs nothing."""
    try:
        folder = _open_folder(file.path.parent, file._follow_links)
        try:
            fd = os.open(file.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        return
    except OSError:
        if file.is_there():
            raise
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def side_by_side(call: Callable[[T], object], items: Sequence[T]) -> list[OSError | ConsciousnessError | None]:
    """Call it with each item, in some threads where there are many; for each None, or its error.

    What waits for the disk waits together: a file system commits many at once. This thread works too, so it goes on
    where no thread can be started, as at the end of the interpreter.
    """
    outcomes: list[OSError | ConsciousnessError | None] = [None] * len(items)
    left = deque(range(len(items)))
    broken: list[BaseException] = []

    def work() -> None:
        try:
            while left:
                number = left.popleft()
                try:
                    call(items[number])
                except (OSError, ConsciousnessError) as error:
                    outcomes[number] = error
        except IndexError:  # another took the last one
            pass
        except BaseException as error:
            left.clear()
            broken.append(error)

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(_N_THREADS, len(items)) - 1 if len(items) > 2 else 0):
            thread = threading.Thread(target=work, name="jessy_mem-publish", daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass
    try:
        work()
    finally:
        for thread in threads:
            thread.join()
    if broken:
        raise broken[0]
    return outcomes


# Taking away ----------------------------------------------------------------------------------------------------------


def withdraw(*targets: Path) -> None:
    """Unlink files of one folder, in this order, and the folder if that can go then, durably. MappingError on failure.

    LinkRefused if the folder is a link.
    """
    try:
        for target in targets:
            with contextlib.suppress(FileNotFoundError):
                remove(target)
        _remove_empty(targets[0].parent)
    except OSError as error:
        if isinstance(error, ConsciousnessError):
            raise
        raise MappingError.of(error, targets[0]) from error


def remove(path: Path, follow_links: bool = False) -> None:
    """Unlink a file; LinkRefused if its folder is a link."""
    folder = _open_folder(path.parent, follow_links)
    try:
        os.unlink(path.name, dir_fd=folder)
    finally:
        os.close(folder)


def _remove_empty(folder: Path) -> None:
    """Make durable that files of a folder are gone, and the folder too if it is empty."""
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        os.rmdir(folder)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(folder if folder.is_dir() else folder.parent)


def is_temporary(path: Path) -> bool:
    """Whether `path` is named like a file that an interrupted publish leaves behind."""
    stem, _, token = path.name.removesuffix(".tmp").rpartition(".")
    return path.name.endswith(".tmp") and stem.startswith(".") and len(token) == 16 and _is_hex(token)


# Folders --------------------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make `folder`, and what is missing above it, durably; undone if that fails."""
    made: list[Path] = []
    try:
        _make_folder(folder, made)
        for each in reversed(made):
            sync_folder(each.parent)
    except BaseException:
        _remove_folders(made)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_folder(folder: Path, follow_links: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(folder, flags if follow_links else flags | os.O_NOFOLLOW)
    except OSError as error:
        if not follow_links and folder.is_symlink():
            raise LinkRefused(folder) from error
        raise


def _remove_folders(made: list[Path]) -> None:
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        while made:
            made.pop().rmdir()


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make `folder`; each folder that is made on the way is added to `made`, and its name is not durable yet."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, made)
    try:
        folder.mkdir()
    except FileExistsError:  # another process was faster, or it is no folder
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(folder)) from None
    else:
        made.append(folder)


def _write(fd: int, pieces: Iterable[Buffer], progress: Progress | None) -> None:
    done_bytes = 0
    for piece in pieces:
        # Each view is released at once: the traceback of an error would keep it, and the bytes it is of.
        with memoryview(piece) as whole:
            at = 0
            while at < len(whole):
                with whole[at : at + _WRITE_BYTES] as part:
                    n_bytes = os.write(fd, part)
                at += n_bytes
                done_bytes += n_bytes
                if progress is not None:
                    progress(done_bytes)


def _identity(facts: os.stat_result) -> Identity:
    """What tells a file from every other: a number alone may be another's, once the first file is gone."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
