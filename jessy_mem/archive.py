"""A base folder as one file that can be carried: a plain tar of region files, and a list of their checksums.

    SHA256SUMS                         first: "<sha256>  <name>" for each file, in the order in which they follow
    D15/region.mmap                    a base, and then the deltas that lie on it, oldest first
    D15/delta-0000000000000007.mmap

So ``tar -x`` and ``sha256sum -c SHA256SUMS`` can do without this library. What is read is another's and may be hostile:
names, kinds, order, sizes and checksums are those that `export_base` writes, or it is InvalidArchive; nothing but
``Dnn/region.mmap`` and its deltas is ever written, and nothing before all of the archive was verified.

A dimension comes in as one step. A new one: its deltas first, which are nothing without a base, then the base. One that
is replaced: one file, newer than all there are, over the base.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from jessy_mem import given
from jessy_mem._core.folder import delta_generations, is_there
from jessy_mem._core.image import Image
from jessy_mem._core.merge import merge_images
from jessy_mem._core.stack import open_stack
from jessy_mem._core.whole import Descriptor
from jessy_mem.errors import (
    ChecksumMismatch,
    ConsciousnessError,
    ImportConflict,
    InvalidArchive,
    InvalidRegion,
    MappingError,
)
from jessy_mem.files import Files
from jessy_mem.forking import imported
from jessy_mem.growth import merged, next_generation
from jessy_mem.ids import IdRegister
from jessy_mem.layout import MAX_DIMENSION, default_layout, delta_file, dimension_folder, region_file
from jessy_mem.manager import MmapManager
from jessy_mem.names import dimensions_in
from jessy_mem.opening import Stack
from jessy_mem.publish import NewFile, publish, remove, replace

__all__ = ["Exported", "Imported", "export_base", "import_base"]

Progress = Callable[[int, int], object]

SUMS = "SHA256SUMS"
BLOCK_BYTES = 512  # of a tar
_MAX_SUMS_BYTES = 64 << 20
_READ_BYTES = 4 << 20
_LARGE_BYTES = 8 << 30  # what a plain header has no digits for
_LINE = re.compile(r"([0-9a-f]{64})  (D[0-9]{2,10})/(region\.mmap|delta-([0-9]{16})\.mmap)")


class Exported(NamedTuple):
    """What an archive holds: dimensions, files and their bytes; and what was left out, for it is damaged: id -> why."""

    dimensions: list[int]  # their ids
    n_files: int  # region files and deltas
    n_bytes: int  # of the files
    damaged: dict[int, ConsciousnessError]  # what was left out: id -> why


class Imported(NamedTuple):
    """The dimensions of an archive: new in the base folder, put in place of others, and there already."""

    added: list[int]  # new in the base folder
    replaced: list[int]  # put in the place of others
    unchanged: list[int]  # there already


class Member(NamedTuple):
    """A file of an archive: its name and checksum as the list says them, and where its bytes are."""

    name: str
    sha256: str
    dimension: int
    generation: int  # of a delta; 0: a base
    offset: int = 0
    n_bytes: int = 0


# Export ---------------------------------------------------------------------------------------------------------------


def export_base(
    base_path: str | os.PathLike[str], archive: str | os.PathLike[str], progress: Progress | None = None
) -> Exported:
    """Write the region files of a base folder into a tar at `archive`, in one step; whoever learns goes on meanwhile.

    All files are opened under the folder's lock, so that they are of one moment; if the folder cannot be written, and
    so not locked, then until nothing has changed between two looks. Every byte is compared with its checksum; what is
    damaged is left out, and reported. If that leaves nothing, nothing is written. Raises MappingError, LockTimeout, and
    OSError if `base_path` cannot be listed. ``progress(done_bytes, total_bytes)``. Thread-safe.
    """
    target = Path(archive)
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise MappingError(None, "it is there, and is no regular file", target)
    stacks, damaged = _of_one_moment(given.plain_path(base_path))
    total_bytes = sum(image.n_bytes for stack in stacks.values() for image in stack)
    files: list[tuple[str, Image]] = []
    lines = []
    done_bytes = 0
    for dimension, stack in list(stacks.items()):
        # First the digests, through the mappings: what is read three times is in memory then.
        digests = [hashlib.sha256(memoryview(image)).hexdigest() for image in stack]
        damage = [error for image in stack for error in image.damage()]
        if damage:
            damaged[dimension] = damage[0]
            del stacks[dimension]
        for image, digest in () if damage else zip(stack, digests, strict=True):
            name = f"{dimension_folder(dimension)}/{os.path.basename(image.path)}"
            lines.append(f"{digest}  {name}\n")
            image.check_file()
            files.append((name, image))
        done_bytes += sum(image.n_bytes for image in stack)
        if progress is not None:
            progress(done_bytes, total_bytes)
    if files:
        publish(_tar("".join(lines).encode(), files), target, follow_links=True)
    n_bytes = sum(image.n_bytes for _, image in files)
    return Exported(list(stacks), len(files), n_bytes, dict(sorted(damaged.items())))


def _of_one_moment(base_path: str) -> tuple[dict[int, Stack], dict[int, ConsciousnessError]]:
    """The stacks of a base folder, and those that cannot be opened."""
    os.listdir(base_path)  # or why not
    try:
        with IdRegister(base_path, default_layout()):
            return _opened(base_path)
    except MappingError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    before, found = None, _opened(base_path)
    while before != (before := [[image.identity for image in stack] for stack in found[0].values()]):
        found = _opened(base_path)
    return found


def _opened(base_path: str) -> tuple[dict[int, Stack], dict[int, ConsciousnessError]]:
    stacks: dict[int, Stack] = {}
    damaged: dict[int, ConsciousnessError] = {}
    for dimension in dimensions_in(base_path):
        path = region_file(base_path, dimension)
        if is_there(path):
            try:
                stacks[dimension] = open_stack(path, dimension, follow_links=False)
            except ConsciousnessError as error:
                damaged[dimension] = error
    return stacks, damaged


def _tar(sums: bytes, files: Sequence[tuple[str, Image]]) -> Iterator[bytes | memoryview]:
    """The archive, piece by piece."""
    yield from _member(SUMS, memoryview(sums))
    for name, image in files:
        yield from _member(name, memoryview(image))
        image.check_file()
    yield bytes(2 * BLOCK_BYTES)


def _member(name: str, content: memoryview) -> Iterator[bytes | memoryview]:
    tarfile = imported("tarfile")
    info = tarfile.TarInfo(name)
    info.size = content.nbytes
    yield info.tobuf(tarfile.USTAR_FORMAT if info.size < _LARGE_BYTES else tarfile.GNU_FORMAT)
    yield content
    yield bytes(-content.nbytes % BLOCK_BYTES)


# Import ---------------------------------------------------------------------------------------------------------------


def import_base(
    archive: str | os.PathLike[str],
    base_path: str | os.PathLike[str],
    *,
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Put the dimensions of an archive into a base folder, each in one step, after all of it was verified.

    One that is there and says the same is left alone, however many files it is. One that is there and differs is not
    touched: ImportConflict names all of these, and nothing is written; unless `replace_existing`. A name that another
    dimension of the base folder has is a conflict too, and an id that was given to another name, or to a process that
    has not saved it yet: with these nothing is replaced. One that was forgotten comes back. What gets in the way during
    the import ends it there. Raises InvalidArchive, InvalidRegion, ChecksumMismatch, LimitExceeded, MappingError,
    LockTimeout, LinkRefused. ``progress(done_bytes, total_bytes)``.
    """
    with Archive(archive) as opened:
        stacks = opened.stacks()
        total_bytes = 2 * sum(member.n_bytes for members in stacks.values() for member in members)
        with MmapManager(base_path=base_path, simulation="never") as memory:
            learner = memory._learner
            importer = _Importer(learner.files, learner.ids, memory.config.base_path, replace_existing)
            conflicts = {}
            done_bytes = 0
            for step in ("verify", "publish"):
                for dimension, members in stacks.items():
                    images = opened.images(members)
                    if step == "verify":
                        _verified(images, members)
                        why = importer.conflict(dimension, images, stacks.keys())
                        if why:
                            conflicts[dimension] = why
                    else:
                        importer.put(dimension, images)
                    done_bytes += sum(member.n_bytes for member in members)
                    if progress is not None:
                        progress(done_bytes, total_bytes)
                if conflicts:
                    raise ImportConflict(conflicts)
    return importer.done


class Archive:
    """An archive that is read, and believed nothing. A context manager; not to be shared between threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._file = Descriptor(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise MappingError.of(error, self.path) from error
        info = os.fstat(self._file.fd)
        self._n_bytes = info.st_size
        if not stat.S_ISREG(info.st_mode):
            self.__exit__()
            raise InvalidArchive(self.path, "", "it is no regular file")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def stacks(self) -> dict[int, list[Member]]:
        """The files of each dimension, its base first, as the list names them and the headers bear it out."""
        offset, n_bytes = self._header(0, SUMS)
        if n_bytes > _MAX_SUMS_BYTES:
            raise InvalidArchive(self.path, SUMS, f"{n_bytes} bytes are no list")
        stacks: dict[int, list[Member]] = {}
        seen = set()
        for member in self._listed(self._read(offset, n_bytes, SUMS)):
            at = offset + n_bytes + -n_bytes % BLOCK_BYTES
            offset, n_bytes = self._header(at, member.name)
            stack = stacks.setdefault(member.dimension, [])
            above = stack[-1].generation if stack else -1
            if member.name in seen or bool(stack) != bool(member.generation) or member.generation <= above:
                raise InvalidArchive(self.path, member.name, "a base comes first, then its deltas, each once, in order")
            seen.add(member.name)
            stack.append(member._replace(offset=offset, n_bytes=n_bytes))
        if not stacks:
            raise InvalidArchive(self.path, SUMS, "there is no dimension in it")
        end = self._read(offset + n_bytes + -n_bytes % BLOCK_BYTES, 2 * BLOCK_BYTES, "its end")
        if any(end):
            raise InvalidArchive(self.path, "", f"there is more in it than {SUMS} says")
        return stacks

    def images(self, members: Sequence[Member]) -> Stack:
        """The files of a dimension, in memory of their own, compared with their checksums."""
        images = []
        for member in members:
            content = self._read(member.offset, member.n_bytes, member.name)
            found = hashlib.sha256(content).hexdigest()
            where = f"{self.path}:{member.name}"
            if found != member.sha256:
                raise ChecksumMismatch(where, "sha256", found, f"{member.sha256}, which {SUMS} says")
            images.append(Image(content, where, member.dimension, "mmap"))
        return tuple(images)

    def _listed(self, sums: bytes) -> Iterator[Member]:
        """What the list says, line by line."""
        for number, line in enumerate(sums.decode("ascii", "replace").splitlines(keepends=True), 1):
            match = _LINE.fullmatch(line.removesuffix("\n"))
            dimension = int(match[2][1:]) if match else 0
            if not (match and line.endswith("\n") and 0 < dimension <= MAX_DIMENSION):
                raise InvalidArchive(self.path, SUMS, f"line {number} is not 'sha256  Dnn/region.mmap', or a delta's")
            generation = int(match[4] or 0)
            if match[2] != dimension_folder(dimension) or (match[4] and not generation):
                raise InvalidArchive(self.path, SUMS, f"line {number} is not how a file of D{dimension:02d} is called")
            yield Member(f"{match[2]}/{match[3]}", match[1], dimension, generation)

    def _header(self, at: int, name: str) -> tuple[int, int]:
        """Where the content of the member is whose header is there, and its bytes; it is a file of that name."""
        tarfile = imported("tarfile")
        head = self._read(at, BLOCK_BYTES, name)
        if not any(head):
            raise InvalidArchive(self.path, name, "it is not there")
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise InvalidArchive(self.path, name, f"there is no header of a tar at {at}: {error}") from None
        if info.name != name:
            raise InvalidArchive(self.path, name, f"{info.name!r} is in its place")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise InvalidArchive(self.path, name, "it is no regular file")
        if not 0 <= info.size <= self._n_bytes - at - BLOCK_BYTES:
            raise InvalidArchive(self.path, name, f"{info.size} bytes are more than the archive has")
        return at + BLOCK_BYTES, info.size

    def _read(self, offset: int, n_bytes: int, name: str) -> bytes:
        """Bytes of the archive, all that are asked for."""
        pieces = []
        while n_bytes > 0:
            piece = os.pread(self._file.fd, min(n_bytes, _READ_BYTES), offset)
            if not piece:
                raise InvalidArchive(self.path, name, "the archive is cut off there")
            pieces.append(piece)
            offset += len(piece)
            n_bytes -= len(piece)
        return b"".join(pieces)


def _verified(images: Stack, members: Sequence[Member]) -> None:
    """Compare the files of a dimension: all are sound and belong together, or the first damage is raised."""
    base = images[0]
    for image, member in zip(images, members, strict=True):
        if image.name != base.name:
            raise InvalidRegion(image.path, "dimension_name", repr(image.name), f"{base.name!r}, the name in the base")
        if member.generation:
            if image.generation != member.generation or not image.is_delta or base.immutable:
                raise InvalidRegion(image.path, "generation", image.generation, "a delta of the generation in its name")
            if image.generation <= base.generation:
                raise InvalidRegion(image.path, "generation", image.generation, f"more than {base.generation}")
        if image.immutable:
            image.check_digest()
        for error in image.damage():
            raise error


class _Importer:
    """Puts verified stacks into a base folder."""

    def __init__(
        self, files: Files, ids: IdRegister, base_path: str | os.PathLike[str], replace_existing: bool
    ) -> None:
        self.done = Imported([], [], [])
        self._files = files
        self._ids = ids
        self._giving_way: dict[int, int] = {}  # dimension -> that which has its name, and gets another, too
        self._coming: dict[str, set[int]] = {}  # name -> those of the archive: several, if they were in its folder
        self._base_path = os.fspath(base_path)
        self._replace_existing = replace_existing

    def conflict(self, dimension: int, images: Stack, coming: Collection[int]) -> str:
        """Why a dimension cannot come in; an empty text if it can. `coming` are all of the archive."""
        holder = self._ids.find(images[0].name) if images[0].name else None
        if holder is not None and holder in coming:
            self._giving_way[dimension] = holder
        self._coming.setdefault(normalize("NFC", images[0].name), set()).add(dimension)
        there = self._there(dimension)
        return self._refusal(dimension, images, there, there is not None and _is_the_same(there, images))

    def put(self, dimension: int, images: Stack) -> None:
        """Publish a dimension, and tell its name; it is replaced if that was asked for."""
        name, generation = images[0].name, images[-1].generation
        with self._files.locked():
            there = self._there(dimension)
            is_same = there is not None and _is_the_same(there, images)
            refusal = self._refusal(dimension, images, there, is_same)
            if refusal:  # what is in the way came after the first look
                raise ImportConflict({dimension: refusal})
            done, what = self.done.unchanged, ""
            if there is None:
                self._begin(dimension, images)
                done, what = self.done.added, "added"
            elif not is_same:
                generation = self._replace(dimension, images)
                done, what = self.done.replaced, "changed"
            self._ids.tell(dimension, name)
            if what:
                self._files.announce(dimension, what, generation)
            done.append(dimension)

    def _refusal(self, dimension: int, images: Stack, there: Stack | None, is_same: bool) -> str:
        """Why a dimension cannot come in now, in place of what is there; an empty text if it can."""
        name = normalize("NFC", images[0].name)
        holder = self._ids.find(name) if name else None
        if holder not in (None, self._giving_way.get(dimension), *self._coming[name]):
            return f"the name {name!r} is that of D{holder:02d}"
        if there is None:
            return self._why_not_given(dimension, name)
        return "" if self._replace_existing or is_same else "it is there, and differs"

    def _why_not_given(self, dimension: int, name: str) -> str:
        """Why the id of a dimension that has no file cannot be that of what comes; an empty text if it can."""
        given_to = self._ids.given_to(dimension)
        if given_to is None or not given_to.name:  # or what had it was forgotten, and comes back
            return ""
        if given_to.is_proto:
            return f"its id is that of {given_to.name!r}, which a process has learned and not saved yet"
        return "" if given_to.name == name else f"its id was given to {given_to.name!r}, which has no layer yet"

    def _there(self, dimension: int) -> Stack | None:
        """The dimension as it is in the base folder; of nothing if it is damaged; None if it is not there."""
        path = region_file(self._base_path, dimension)
        if not is_there(path):
            return None
        try:
            return open_stack(path, dimension, follow_links=False)
        except InvalidRegion:
            return ()

    def _begin(self, dimension: int, images: Stack) -> None:
        """Publish a dimension that is not there: its deltas, and then the base, with which it is there."""
        base = self._files.new_file(dimension)
        files = [*(NewFile(delta_file(base.path, image.generation)) for image in images[1:]), base]
        published: list[NewFile] = []
        try:
            for file, image in zip(files, (*images[1:], images[0]), strict=True):
                file.publish((memoryview(image),))
                published.append(file)
        except BaseException:
            for file in reversed(published):
                with suppress(MappingError):
                    file.take_back()
            raise

    def _replace(self, dimension: int, images: Stack) -> int:
        """Publish a dimension over what is there, as one file that is newer than all of it; returns its generation."""
        path = region_file(self._base_path, dimension)
        old = delta_generations(path)
        with suppress(ConsciousnessError):
            old.append(open_stack(path, dimension, verify="never", deltas=False, follow_links=False)[0].generation)
        newest, generation = max(old, default=0), images[-1].generation
        if len(images) == 1 and (images[0].immutable or generation > newest):
            replace((memoryview(images[0]),), path)
        else:
            generation = max(generation, next_generation(newest, default_layout().segment_of(dimension).name))
            replace(merged(images, True, generation).pieces(), path)
        for number in delta_generations(path):
            with suppress(OSError):
                remove(delta_file(path, number))
        return generation


def _is_the_same(one: Stack, other: Stack) -> bool:
    """Whether two stacks say the same of every layer, however many files they are."""
    if not (one and other):
        return False
    if len(one) == len(other) and all(memoryview(a) == memoryview(b) for a, b in zip(one, other, strict=True)):
        return True
    if one[0].immutable or other[0].immutable or one[0].name != other[0].name:
        return False
    try:
        packed = [merge_images(stack, as_base=True, generation=1, created_ns=0) for stack in (one, other)]
    except InvalidRegion:  # one is damaged
        return False
    return b"".join(packed[0].pieces()) == b"".join(packed[1].pieces())
