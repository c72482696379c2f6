"""Folders, and what of a file and of its name is on the disk.

A path in a base folder is reached without following a link in it; the base folder itself may be reached through links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from jessy_mem._core.whole import Descriptor
from jessy_mem.errors import LinkRefused, MappingError
from jessy_mem.layout import UNSYNCED_MODE

__all__ = [
    "PathLike",
    "check_base_folder",
    "make_folder",
    "make_folders",
    "open_folder",
    "remove_folders",
    "split",
    "sync_file",
    "sync_folder",
    "sync_whole",
    "unsynced_in",
]

PathLike = str | os.PathLike[str]
_MOST_RACES = 100  # how often others may remove a folder that is made for another to be made in it


def split(path: PathLike) -> tuple[str, str]:
    """The folder of a file, and its name in it."""
    folder, slash, name = os.fspath(path).rpartition("/")
    return folder or slash or ".", name


def open_folder(folder: str, follow_links: bool) -> Descriptor:
    """The open folder; LinkRefused if it is a link that is not to be followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return Descriptor(folder, flags if follow_links else flags | os.O_NOFOLLOW)
    except OSError as error:
        if not follow_links and os.path.islink(folder):
            raise LinkRefused(folder) from error
        raise


def check_base_folder(base_path: PathLike) -> None:
    """MappingError where a folder neither is nor can be made, for there is a file."""
    try:
        mode = os.stat(base_path).st_mode
    except NotADirectoryError:
        mode = stat.S_IFREG
    except OSError:  # it is not there, or may not be looked at: who needs it says so
        return
    if not stat.S_ISDIR(mode):
        raise MappingError(errno.ENOTDIR, "the base folder is, or is in, a file", base_path)


def make_folder(folder: PathLike) -> None:
    """Make `folder`, and what is missing above it, durably; undone if that fails."""
    made: list[str] = []
    try:
        make_folders(os.fspath(folder), made)
        for each in reversed(made):
            sync_folder(split(each)[0])
    except BaseException:
        remove_folders(made)
        raise


def remove_folders(made: list[str]) -> None:
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        while made:
            os.rmdir(made.pop())


def make_folders(folder: str, made: list[str]) -> None:
    """Make `folder`; each folder that is made on the way is added to `made`, and its name is not durable yet."""
    missing, n_left = [folder], folder.count("/") + _MOST_RACES
    while missing:
        try:
            os.mkdir(missing[-1])
        except FileNotFoundError:
            n_left -= 1
            if n_left < 0:  # what is above it is there: in /proc, and in a folder that was removed, nothing can be made
                raise
            missing.append(split(missing[-1])[0])
        except FileExistsError:
            if not os.path.isdir(missing[-1]):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), missing[-1]) from None
            missing.pop()
        else:
            made.append(missing.pop())


def sync_folder(folder: PathLike) -> None:
    """Make the names in `folder` durable."""
    with Descriptor(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as fd:
        os.fsync(fd)


def sync_file(path: PathLike, follow_links: bool = False) -> None:
    """Make the content of a file durable, and then that it bears no mark of one that is not (layout.UNSYNCED_MODE)."""
    folder_path, name = split(path)
    with open_folder(folder_path, follow_links) as folder:
        file = Descriptor(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    with file as fd:
        os.fsync(fd)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & UNSYNCED_MODE:
            with contextlib.suppress(PermissionError):  # another user's: that its mark stays says less than is true
                os.fchmod(fd, mode & ~UNSYNCED_MODE)
                os.fsync(fd)


def sync_whole(path: PathLike) -> None:
    """Make durable a file that another process wrote, its name, and that of its folder; nothing to do if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        sync_file(path)
        folder = split(path)[0]
        sync_folder(folder)
        sync_folder(split(folder)[0])


def unsynced_in(folder: str) -> list[str]:
    """The files of a folder that have their names and are not on the disk, whoever wrote them."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # it has gone just now
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISREG(mode) and mode & UNSYNCED_MODE:
                    found.append(f"{folder}/{entry.name}")
    return found
