"""What crashes, copies and damaged disks leave in a base folder: found by `examine`, removed by `clean`.

Nothing but stray temporary files and empty folders is ever removed: a damaged region may still hold layers that can be
saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jessy_mem._core.image import Image
from jessy_mem._core.region import MmapRegion
from jessy_mem.errors import ChecksumMismatch, ConsciousnessError, DimensionNotFound, MappingError
from jessy_mem.ids import LOCK_NAME, IdRegister
from jessy_mem.layout import MAX_DIMENSION, default_layout, dimension_folder
from jessy_mem.publish import is_temporary, remove

__all__ = ["Finding", "clean", "examine", "verify_region"]

Progress = Callable[[int, int], object]

REGION = "region.mmap"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a base folder.

    `kind` is "stray temporary", "empty folder", "damaged", "wrong id", "duplicate id", "too large", "misnamed folder",
    "unreadable" or "no dimension"; `n_bytes` is the size of the file, and `removable` says that `clean` removes it.
    """

    kind: str
    path: Path
    detail: str
    base_path: Path
    n_bytes: int = 0
    removable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return dataclasses.asdict(self) | {"path": str(self.path), "base_path": str(self.base_path)}

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.detail}"


def verify_region(
    path: str | os.PathLike[str], dimension_id: int | None = None, progress: Progress | None = None
) -> list[ConsciousnessError]:
    """All damage of the region file at `path`, empty if it is sound. It reads every byte and changes nothing.

    `dimension_id` is the dimension that the file must hold. ``progress(done_bytes, total_bytes)`` is called after each
    layer. Damage of the header or the metadata hides that of the layers. An error of the system is in the list too.
    Thread-safe.
    """
    try:
        with MmapRegion(dimension_id, path) as region:
            return list(region.verify(progress))
    except DimensionNotFound:
        return [_absent(Path(path), dimension_id)]
    except ConsciousnessError as error:
        if not (isinstance(error, ChecksumMismatch) and error.field == "content_sha256"):
            return [error]
        digest_error = error
    # An immutable file whose digest is wrong does not open; its checksums tell which layers are damaged.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        image = Image(mapped, os.fspath(path), 0, "mmap")
        found = image.damage(progress)
        del image
        return [*found, digest_error]


def examine(base_path: str | os.PathLike[str], progress: Progress | None = None) -> list[Finding]:
    """Everything that is wrong in a base folder, by path; it reads every byte of every region and changes nothing.

    A folder without any dimension is no base folder, unless a manager keeps its register of ids there. OSError if
    `base_path` is no folder that can be listed. ``progress(done_bytes, total_bytes)``. Thread-safe.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     _ = Path(base, ".region.mmap.0123456789abcdef.tmp").write_bytes(b"cut off")
    ...     [(finding.kind, finding.n_bytes, finding.removable) for finding in examine(base)]
    [('no dimension', 0, False), ('stray temporary', 7, True)]
    """
    base = Path(base_path)
    findings = list(_strays(base, base))
    regions: dict[Path, int] = {}
    folders = _folders(base)
    if not folders and not os.path.lexists(base / LOCK_NAME):
        detail = f"there is no Dnn/{REGION} in it; what a manager learns there, or 'jessy-mem build', makes one"
        findings.append(Finding("no dimension", base, detail, base))
    for folder in folders:
        file = folder / REGION
        try:
            if not folder.is_dir():
                raise _not_a_folder(folder)
            findings += _strays(base, folder)
            present = os.path.lexists(file)
            empty = not any(folder.iterdir()) and not folder.is_symlink()
        except OSError as error:
            if not os.path.lexists(folder):  # forgotten, just now
                continue
            findings.append(Finding("unreadable", folder, error.strerror or str(error), base))
            continue
        dimension = int(folder.name[1:])
        if not 1 <= dimension <= MAX_DIMENSION or folder.name != dimension_folder(dimension):
            detail = f"no manager looks here; folders are named D01..D99, D100..D{MAX_DIMENSION}"
            findings.append(Finding("misnamed folder", folder, detail, base, _size(file)))
        elif empty:
            detail = "an interrupted write left it, and no region in it"
            findings.append(Finding("empty folder", folder, detail, base, removable=True))
        elif present:
            regions[file] = _size(file)
    findings += _examine_regions(base, regions, progress)
    return sorted(findings, key=lambda finding: (finding.path, finding.kind))


def clean(findings: Iterable[Finding]) -> list[Finding]:
    """Remove what is removable among `findings`, and folders that this leaves empty; returns what was removed.

    It waits for a crystallization under way; a RegionBuilder that writes into the folder meanwhile may lose its file,
    and says so. What is gone, or is not empty any more, is passed over. MappingError or OSError if the system refuses.
    """
    removed = []
    by_base: dict[Path, list[Finding]] = {}
    for finding in findings:
        if finding.removable:
            by_base.setdefault(finding.base_path, []).append(finding)
    for base, strays in by_base.items():
        # The ids of the folders stay given.
        with IdRegister(os.fspath(base), default_layout()).locked(durable=True):
            removed += [finding for finding in strays if _remove(finding)]
    return removed


def _remove(finding: Finding) -> bool:
    """Whether there was something to remove, and it is gone now."""
    folder = finding.path
    if is_temporary(finding.path):
        try:
            remove(finding.path, follow_links=finding.path.parent == finding.base_path)
        except FileNotFoundError:
            return False
        folder = finding.path.parent
    if folder != finding.base_path:
        with contextlib.suppress(OSError):  # not empty, or gone
            folder.rmdir()
    return not os.path.lexists(finding.path)


def _examine_regions(base: Path, regions: dict[Path, int], progress: Progress | None) -> Iterator[Finding]:
    total_bytes = sum(regions.values())
    done_bytes = 0
    holders: dict[int, list[Path]] = {}
    for path, n_bytes in regions.items():
        report = None if progress is None else _shifted(progress, done_bytes, total_bytes)
        for error in verify_region(path, progress=report):
            if getattr(error, "errno", None) == errno.ENOENT and not os.path.lexists(path):  # forgotten, just now
                continue
            kind = "unreadable" if isinstance(error, OSError) else "damaged"
            yield Finding(kind, path, _without_path(error, path), base, n_bytes)
        done_bytes += n_bytes
        slot_bytes = default_layout().slot_bytes(_dimension_of(path))
        if n_bytes > slot_bytes:
            yield Finding("too large", path, f"{n_bytes} bytes, its slot has {slot_bytes}", base, n_bytes)
        stored = _stored_id(path)
        if stored is not None:
            holders.setdefault(stored, []).append(path)
            if stored != _dimension_of(path):
                detail = f"it holds {dimension_folder(stored)}, so it cannot be loaded from this folder"
                yield Finding("wrong id", path, detail, base, n_bytes)
    for stored, paths in holders.items():
        for path in paths if len(paths) > 1 else ():
            others = ", ".join(f"{other.parent.name}/{other.name}" for other in paths if other != path)
            yield Finding("duplicate id", path, f"{dimension_folder(stored)} is also in {others}", base, regions[path])


def _folders(base: Path) -> list[Path]:
    """The folders of dimensions, and what looks like it or stands in their place, by ascending id."""
    found = [path for path in base.iterdir() if re.fullmatch(r"D[0-9]{1,20}", path.name)]
    return sorted(found, key=lambda path: (int(path.name[1:]), path.name))


def _not_a_folder(folder: Path) -> OSError:
    """Why what stands in the place of a folder is none."""
    return NotADirectoryError(errno.ENOTDIR, _broken_link(folder) or os.strerror(errno.ENOTDIR), os.fspath(folder))


def _absent(path: Path, dimension: int | None) -> ConsciousnessError:
    """What is said of a region file that is not there: which link leads nowhere, or whose file it would be."""
    broken = _broken_link(path) or _broken_link(path.parent)
    if dimension is not None and not broken:
        return DimensionNotFound(dimension, path)
    return MappingError(errno.ENOENT, broken or os.strerror(errno.ENOENT), path)


def _broken_link(path: Path) -> str:
    """Where `path` leads, if it is a link to what is not there; else an empty text."""
    if not path.is_symlink() or os.path.exists(path):
        return ""
    return f"{path.name} is a link to {os.readlink(path)}, which is not there"


def _strays(base: Path, folder: Path) -> Iterator[Finding]:
    for path in folder.iterdir():
        if is_temporary(path) and (path.is_symlink() or not path.is_dir()):
            detail = "an interrupted write left it"
            yield Finding("stray temporary", path, detail, base, _size(path), removable=True)


def _dimension_of(path: Path) -> int:
    return int(path.parent.name[1:])


def _stored_id(path: Path) -> int | None:
    """The dimension that a region file says it holds; None if it cannot be read as a region."""
    try:
        with MmapRegion(None, path, verify="never") as region:
            return region.dimension_id
    except ConsciousnessError:
        return None


def _size(path: Path) -> int:
    """The bytes of a file; 0 if there is none, or it is a link or something else."""
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            info = path.stat()
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _without_path(error: ConsciousnessError, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix(f"{path}: ")


def _shifted(progress: Progress, done_bytes: int, total_bytes: int) -> Progress:
    return lambda done, _: progress(done_bytes + done, total_bytes)
