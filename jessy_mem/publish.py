"""Publish a file in one atomic and durable step, and take it away again.

Publishing never touches the file that is there, for others may have it mapped: a sibling temporary file is written,
fsynced and renamed over it, and then the folder is fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from jessy_mem.errors import MappingError

__all__ = ["is_temporary", "make_folder", "publish", "withdraw"]

Buffer = bytes | bytearray | memoryview
Progress = Callable[[int], object]

_WRITE_BYTES = 4 << 20


def publish(pieces: Iterable[Buffer], target: Path, progress: Progress | None = None) -> None:
    """Write `pieces` beside `target`, fsync, rename over `target`, fsync the folder. MappingError on failure.

    ``progress(done_bytes)`` is called as the file grows.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    made: list[Path] = []
    try:
        _make_folder(target.parent, made)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(fd, os.stat(target).st_mode & 0o7777)
            _write(fd, pieces, progress)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
        # One after the other: a journal that commits the first has mostly nothing left to do for the others.
        for folder in (target.parent, *(each.parent for each in reversed(made))):
            sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        _remove_folders(made)
        if isinstance(error, OSError):
            raise MappingError.of(error, target) from error
        raise


def withdraw(target: Path) -> None:
    """Unlink what was published at `target`, and its folder if that can go then, durably. MappingError on failure."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            os.rmdir(target.parent)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(target.parent if target.parent.is_dir() else target.parent.parent)
    except OSError as error:
        raise MappingError.of(error, target) from error


def is_temporary(path: Path) -> bool:
    """Whether `path` is named like a file that an interrupted publish leaves behind."""
    stem, _, token = path.name.removesuffix(".tmp").rpartition(".")
    return path.name.endswith(".tmp") and stem.startswith(".") and len(token) == 16 and _is_hex(token)


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


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
