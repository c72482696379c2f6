"""What crashes, copies and damaged disks leave in a base folder: found by `examine`, removed by `clean`.

Nothing but stray temporary files, empty folders, deltas that nobody reads, for they are in their base already or have
none, and what a power cut tore before it was on the disk is ever removed: a damaged region may still hold layers that
can be saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jessy_mem import given
from jessy_mem._core.changes import CHANGES_NAME, ChangePage
from jessy_mem._core.folder import delta_generations
from jessy_mem._core.image import Image
from jessy_mem._core.mapped import map_file
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.stack import is_torn, open_delta
from jessy_mem.errors import ChecksumMismatch, ConsciousnessError, DimensionNotFound, MappingError
from jessy_mem.ids import LOCK_NAME, IdRegister
from jessy_mem.layout import (
    DELTA_DIGITS,
    DELTA_PREFIX,
    DELTA_SUFFIX,
    MAX_DIMENSION,
    LayerId,
    MemoryLayout,
    default_layout,
    delta_file,
    dimension_folder,
    has_deltas,
)
from jessy_mem.names import stored_names
from jessy_mem.publish import is_temporary, remove
from jessy_mem.units import format_bytes

__all__ = ["Finding", "RegionFile", "clean", "examine", "region_files", "stack_files", "verify_region"]

Progress = Callable[[int, int], object]

REGION = "region.mmap"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a base folder.

    `kind` is "stray temporary", "empty folder", "stale delta", "stray delta", "torn", "damaged", "wrong id",
    "duplicate id", "duplicate name", "too large", "misnamed folder", "unreadable", "no page" or "no dimension";
    `n_bytes` is the size of the file, and `removable` says that `clean` removes it.
    """

    kind: str
    path: Path  # what it is about
    detail: str  # what is wrong, in words
    base_path: Path  # the base folder
    n_bytes: int = 0
    removable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return dataclasses.asdict(self) | {"path": str(self.path), "base_path": str(self.base_path)}

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class RegionFile:
    """One file of a region, and how many layers it adds to those under it, replaces and removes."""

    path: Path  # where it is
    generation: int  # the version of the dimension that it makes
    extension: int  # the version of the format's extension; 0: a plain file
    n_bytes: int  # its size
    n_added: int  # layers that are new with it
    n_replaced: int  # layers that it says anew
    n_removed: int  # layers that are gone with it


def region_files(region: MmapRegion) -> list[RegionFile]:
    """The files that a region consists of: its base, then the deltas on it, oldest first. Thread-safe.

    >>> import tempfile
    >>> from jessy_mem import LayerSpec, RegionBuilder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = RegionBuilder(15, "policies").add_layer(LayerSpec(text="x")).write(Path(folder, "region.mmap"))
    ...     [(file.generation, file.n_added, file.n_removed) for file in region_files(MmapRegion(15, path))]
    [(1, 1, 0)]
    """
    if not isinstance(region, MmapRegion):
        raise TypeError(
            f"{region!r} is not an MmapRegion; verify_region(PATH) is for a file, examine(BASE) for a folder"
        )
    found = []
    below: set[LayerId] = set()
    stack = region._stack
    for n, image in enumerate(stack, 1):
        own = set(_layers_of((image,)))
        now = set(_layers_of(stack[:n]))
        counts = len(own - below), len(own & below), len(below - now)
        found.append(RegionFile(Path(image.path), image.generation, image.extension, image.n_bytes, *counts))
        below = now
    return found


def stack_files(path: str | os.PathLike[str]) -> list[Path]:
    """The region file at `path`, and the deltas that lie on it, oldest first, going by what stands in the folder.

    All deltas, if the region file cannot be read. MappingError if the folder cannot be listed. Thread-safe.
    """
    base = given.plain_path(path)
    if not has_deltas(base):
        return [Path(base)]
    generation = _header_of(base)[1]
    return [Path(base), *(Path(delta_file(base, each)) for each in delta_generations(base) if each > generation)]


def verify_region(
    path: str | os.PathLike[str], dimension_id: int | None = None, progress: Progress | None = None
) -> list[ConsciousnessError]:
    """All damage of one region file or delta, empty if it is sound. It reads every byte and changes nothing.

    `dimension_id` is the dimension that the file must hold. A delta must also belong to the base beside it;
    `stack_files` names all that a dimension consists of. ``progress(done_bytes, total_bytes)`` is called after each
    layer. Damage of the header or the metadata hides that of the layers. An error of the system is in the list too.
    Thread-safe.
    """
    try:
        return list(_opened(given.plain_path(path), dimension_id or 0).damage(progress))
    except DimensionNotFound:
        return [_absent(Path(path), dimension_id)]
    except ConsciousnessError as error:
        if not (isinstance(error, ChecksumMismatch) and error.field == "content_sha256"):
            return [error]
        digest_error = error
    # An immutable file whose digest is wrong does not open; its checksums tell which layers are damaged.
    return [*map_file(path, 0, guard="none").damage(progress), digest_error]


def examine(
    base_path: str | os.PathLike[str], progress: Progress | None = None, *, layout: MemoryLayout | None = None
) -> list[Finding]:
    """Everything that is wrong in a base folder, by path; it reads every byte of every region and changes nothing.

    A folder without any dimension is no base folder, unless a manager keeps its register of ids there. `layout` is the
    plan that says what is too large: ``memory.layout`` of who uses the folder, the bundled one by default. OSError if
    `base_path` is no folder that can be listed. ``progress(done_bytes, total_bytes)``. Thread-safe.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     _ = Path(base, ".region.mmap.0123456789abcdef.tmp").write_bytes(b"cut off")
    ...     [(finding.kind, finding.n_bytes, finding.removable) for finding in examine(base)]
    [('no dimension', 0, False), ('stray temporary', 7, True)]
    """
    base = Path(base_path)
    findings = list(_strays(base, base))
    regions: dict[Path, list[int]] = {}
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
            deltas = delta_generations(os.fspath(file))
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
            regions[file] = deltas
        else:
            for generation in deltas:
                detail = (
                    f"there is no {REGION} that it lies on: it is lost, or to forget it, or an import, was interrupted"
                )
                findings.append(_finding("stray delta", _delta_of(file, generation), detail, base, removable=True))
    findings += _examine_regions(base, regions, progress, layout or default_layout())
    findings += _examine_names(base, regions)
    findings += _examine_page(base)
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
        with IdRegister(os.fspath(base), default_layout()) as ids:
            ids.sync()
            removed += [finding for finding in strays if _remove(finding)]
    return removed


def _remove(finding: Finding) -> bool:
    """Whether there was something to remove, and it is gone now."""
    folder = finding.path
    if is_temporary(finding.path) or _is_nothing(finding.path) or is_torn(os.fspath(finding.path)):
        try:
            remove(finding.path, follow_links=finding.path.parent == finding.base_path)
            for generation in delta_generations(os.fspath(finding.path)) if finding.path.name == REGION else ():
                remove(_delta_of(finding.path, generation))  # which were nothing from the beginning
        except FileNotFoundError:
            return False
        folder = finding.path.parent
    if folder != finding.base_path:
        with contextlib.suppress(OSError):  # not empty, or gone
            folder.rmdir()
    return not os.path.lexists(finding.path)


def _examine_regions(
    base: Path, regions: dict[Path, list[int]], progress: Progress | None, layout: MemoryLayout
) -> Iterator[Finding]:
    files = [file for path, deltas in regions.items() for file in (path, *(_delta_of(path, each) for each in deltas))]
    total_bytes = sum(map(_size, files))
    done_bytes = 0
    holders: dict[int, list[Path]] = {}
    for path, deltas in regions.items():
        folder, (stored, generation, immutable) = _dimension_of(path), _header_of(path)
        n_stack_bytes = 0
        for file in (path, *(_delta_of(path, each) for each in deltas)):
            n_bytes = _size(file)
            is_delta = file != path
            report = None if progress is None else _shifted(progress, done_bytes, total_bytes)
            done_bytes += n_bytes
            if is_delta and not os.path.lexists(file):  # merged, just now
                continue
            if is_delta and stored and _generation_of(file) <= generation:
                detail = f"an interrupted merge left it: {REGION} of generation {generation} holds what it says"
                yield _finding("stale delta", file, detail, base, removable=True)
                continue
            if is_delta and immutable:
                yield _finding("stray delta", file, f"{REGION} is immutable, so that nobody reads it", base)
                continue
            held = _header_of(file)[0] if is_delta else stored
            if held and held != folder:
                detail = f"it holds {dimension_folder(held)}, so it cannot be loaded from this folder"
                yield _finding("wrong id", file, detail, base)
            if is_delta and held and held != (stored or held):
                continue  # said already; what else is wrong with it is another dimension's
            torn = is_torn(os.fspath(file))
            for error in verify_region(file, progress=report):
                if getattr(error, "errno", None) == errno.ENOENT and not os.path.lexists(file):  # gone, just now
                    continue
                kind = "unreadable" if isinstance(error, OSError) else "torn" if torn else "damaged"
                yield _finding(kind, file, _without_path(error, file), base, removable=torn)
                if torn:  # it goes as a whole
                    break
            n_stack_bytes += n_bytes
        slot_bytes = layout.slot_bytes(folder)
        if n_stack_bytes > slot_bytes:
            plan = f"in a plan of {format_bytes(layout.total_bytes)}"
            detail = f"{n_stack_bytes} bytes, its slot has {slot_bytes} {plan}"
            yield Finding("too large", path, detail, base, n_stack_bytes)
        if stored:
            holders.setdefault(stored, []).append(path)
    for stored, paths in holders.items():
        for path in paths if len(paths) > 1 else ():
            others = ", ".join(f"{other.parent.name}/{other.name}" for other in paths if other != path)
            yield _finding("duplicate id", path, f"{dimension_folder(stored)} is also in {others}", base)


def _examine_names(base: Path, regions: Iterable[Path]) -> Iterator[Finding]:
    """Names that several region files have."""
    holders: dict[str, list[int]] = {}
    with contextlib.suppress(OSError):  # said of each file
        for dimension, name in stored_names(os.fspath(base), map(_dimension_of, regions)):
            holders.setdefault(name, []).append(dimension)
    for name, dimensions in holders.items():
        for dimension in dimensions[1:]:
            detail = f"it is called {name!r} like {dimension_folder(dimensions[0])}, which is what the name finds"
            yield _finding("duplicate name", base / dimension_folder(dimension) / REGION, detail, base)


def _examine_page(base: Path) -> Iterator[Finding]:
    """The page on which processes tell each other what changed."""
    path = base / CHANGES_NAME
    page = ChangePage(base)
    try:
        if not page.open() and os.path.lexists(path):
            detail = "it is no page of changes: other processes see what is learned later, or when they ask; remove it"
            yield _finding("no page", path, detail, base)
    finally:
        page.close()


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


def _header_of(path: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """What a file says of itself: dimension, generation, immutable; all empty if it cannot be read as a region."""
    try:
        image = map_file(path, 0)
    except ConsciousnessError:
        return 0, 0, False
    return image.dimension_id, image.generation, image.immutable


def _opened(path: str, dimension: int) -> Image:
    """One region file as an Image; a delta as one that lies on the base beside it, if that can be read."""
    folder, _, name = path.rpartition("/")
    generation = _generation_of(Path(name))
    if not generation:
        return map_file(path, dimension)
    base = os.path.join(folder, REGION)
    try:
        below = map_file(base, dimension)
    except ConsciousnessError:
        return map_file(path, dimension, delta=True)
    return open_delta((below,), base, generation, verify="lazy")


def _layers_of(stack: tuple[Image, ...]) -> list[LayerId]:
    return make_region(stack, False, bytearray).layers()


def _delta_of(path: Path, generation: int) -> Path:
    """The delta of that generation beside a region file."""
    return Path(delta_file(os.fspath(path), generation))


def _generation_of(path: Path) -> int:
    """The generation that the name of a delta says; 0 if it is no delta's."""
    match = re.fullmatch(rf"{DELTA_PREFIX}([0-9]{{{DELTA_DIGITS}}}){re.escape(DELTA_SUFFIX)}", path.name)
    return int(match[1]) if match else 0


def _is_nothing(path: Path) -> bool:
    """Whether a delta is in its base already, or has none."""
    generation, base = _generation_of(path), path.parent / REGION
    if not generation:
        return False
    stored, newest, _ = _header_of(base)
    return generation <= newest if stored else not os.path.lexists(base)


def _finding(kind: str, path: Path, detail: str, base: Path, removable: bool = False) -> Finding:
    return Finding(kind, path, detail, base, _size(path), removable)


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
