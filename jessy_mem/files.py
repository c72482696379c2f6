"""Dimensions that are files, and how they change: one file for each change, whatever the number of layers.

    change --> delta-N.mmap, N being one more than the newest      or, when it is due (growth.py),
           --> delta-N.mmap in place of the newest deltas          published first, then these are unlinked
           --> region.mmap of generation N in place of all         the same

What was published is what there is: a file that does not fit into the budget any more leaves its dimension evicted. A
crash between publishing and unlinking is harmless, for the newest file wins, and what is under it says the same. To
forget is to unlink the base, durably, and then the deltas, which are nothing without one. Whoever writes next removes
what a crash left.

Writers of one base folder take turns by its lock, and look first at what others wrote. Where locks do nothing, the name
of a delta is taken exclusively, who comes second looks again, and no base is written anew but by `compact`. A name that
was merged is free again, so there who published also looks whether that is what is read; and nothing is merged that is
new: who read the stack before it came may take the name of what was merged, and would lie under the merged file.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from jessy_mem._core.image import Image
from jessy_mem._core.packing import PackedRegion
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.stack import is_torn, open_stack
from jessy_mem._core.whole import Descriptor
from jessy_mem.batch import Batch, publish_many, without_frames
from jessy_mem.durable import open_folder, split, sync_whole
from jessy_mem.errors import (
    AlreadyPublished,
    ConsciousnessError,
    DimensionNotFound,
    ImmutableDimension,
    InvalidRegion,
    LimitExceeded,
    MappingError,
    RegionNotFound,
)
from jessy_mem.growth import (
    MAX_CROWDED,
    MAX_DELTAS,
    Announce,
    Change,
    Changes,
    Table,
    deltas_of,
    has_base,
    merged,
    n_merged,
    next_generation,
    packed_base,
    packed_delta,
    room_for,
)
from jessy_mem.ids import IdRegister
from jessy_mem.layout import delta_file
from jessy_mem.opening import Opener, Place
from jessy_mem.publish import Buffer, NewFile, remove, replace
from jessy_mem.unlinked import Unlinked

__all__ = ["Files"]

SIMULATED_HINT = "it is simulated, and no file at {} is read that could change"
logger = logging.getLogger("jessy_mem")

QUIET_NS = 2_000_000_000  # what is older was seen by all who change the dimension now
N_TRIES = 100  # against others that publish the same generation, where locks do nothing


class Files:
    """The files of a base folder, as a writer sees them. One thread changes them at a time: the Learner's lock."""

    def __init__(
        self,
        table: Table,
        opener: Opener,
        ids: IdRegister,
        total_bytes: int,
        batch: Batch | None,
        announce: Announce,
    ) -> None:
        self.announce = announce
        self.table = table
        self.unlinked = Unlinked()
        self._opener = opener
        self._ids = ids
        self._total_bytes = total_bytes
        self._batch = batch
        self.waited_for: dict[int, str] = {}  # names of the plan that were asked for: what has no file may begin one
        self.promised: dict[int, str] = {}  # ids that were given for a name that had no file then
        self._swept: dict[int, int] = {}  # dimensions whose leftovers were removed: the generation of the base then

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, after what waits too long for the disk is there: all that writes comes here.

        If the disk refuses anything it may be full: what was unlinked is let go then.
        """
        try:
            if self._batch is not None:
                self._batch.sync_if_due()
            with self._ids:
                yield
        except MappingError:
            self.unlinked.let_go()
            raise

    def publish(self, file: NewFile, pieces: Iterable[Buffer], durable: bool = False) -> None:
        """Publish a new file; durable now, or with the next `sync` if so many may wait and this one."""
        if self._batch is None or durable:
            file.publish(pieces)
        else:
            self._batch.publish(file, pieces)

    def publish_all(self, files: Iterable[tuple[NewFile, Iterable[Buffer]]]) -> list[ConsciousnessError | None]:
        """Publish new files side by side; for each None, or why it is not there."""
        errors = publish_many(files) if self._batch is None else self._publish_in_batch(self._batch, files)
        if any(errors):
            self.unlinked.let_go()
        return errors

    def _publish_in_batch(
        self, batch: Batch, files: Iterable[tuple[NewFile, Iterable[Buffer]]]
    ) -> list[ConsciousnessError | None]:
        errors: list[ConsciousnessError | None] = []
        for file, pieces in files:
            try:
                batch.publish(file, pieces)
            except ConsciousnessError as error:
                errors.append(without_frames(error))
            else:
                errors.append(None)
        return errors

    def sync(self) -> None:
        """Make everything durable that was published; MappingError."""
        if self._batch is not None:
            self._batch.sync()

    def change(self, dimension: int, change: Change) -> Changes:
        """Change a dimension that has a file, or a name and no layer yet; what was changed."""
        n_left = N_TRIES
        while True:
            n_left -= 1
            try:
                return self._change(dimension, change)
            except AlreadyPublished:  # it is a delta, and the next one is free
                if n_left == 0:
                    raise
            except MappingError:
                self.unlinked.let_go()  # see `locked`
                if n_left == 0 or self._ids.excludes or has_base(self._opener.place_of(dimension).path):
                    raise  # else another has forgotten it meanwhile, which the next look says

    def _change(self, dimension: int, change: Change) -> Changes:
        if self._batch is not None:
            self._batch.sync_if_due()
        with self._ids:  # which is `locked`, without what that takes
            region = self.current(dimension)
            changes = change(region)
            if changes and region is None:
                self._begin(dimension, changes)
            elif changes and region is not None:
                self._grow(dimension, region, changes)
        return changes

    def current(self, dimension: int) -> MmapRegion | None:
        """The region of a dimension as its files are now, loaded if it was not; None if it has a name and no file.

        RegionNotFound or ImmutableDimension if it cannot be changed; LimitExceeded if there is no room to load it.
        Under the folder's lock.
        """
        known, place = self.table._known(dimension), self._opener.place_of(dimension)
        if place.immutable or (isinstance(known, MmapRegion) and known.immutable):
            raise ImmutableDimension(dimension)
        if place.named:
            raise RegionNotFound(dimension, f"it was loaded from {place.path}, and only a base folder's own files grow")
        if known is not None and known.source == "simulated":
            raise RegionNotFound(dimension, SIMULATED_HINT.format(place.path))
        if known is None and not has_base(place.path):
            if self._ids.is_empty(dimension) or dimension in self.waited_for:
                return None
            hint = "; ensure_dimension begins it, by its name" if place.planned else ""
            given_to = self._ids.given_to(dimension)
            if given_to is not None and given_to.is_proto:
                hint = f"; it is {given_to.name!r}, a proto-dimension of another process"
            raise RegionNotFound(dimension, f"it is not loaded, and there is no file at {place.path}{hint}")
        if dimension in self.promised or not isinstance(known, MmapRegion):
            self._check_own(dimension)
        try:
            if isinstance(known, MmapRegion):
                self.table._refresh_dimension(dimension)
                known = self.table._known(dimension)
            region = known if isinstance(known, MmapRegion) else self.table.load_dimension(dimension, exist_ok=True)
        except DimensionNotFound:
            region = None  # and what is raised below comes of no error that holds one
        if region is None:
            self._tell_gone(dimension)
            raise RegionNotFound(dimension, f"it was forgotten, or removed: there is no file at {place.path} any more")
        if region.immutable:
            raise ImmutableDimension(dimension)
        if region.source == "simulated":  # just now, although there is a file
            raise RegionNotFound(dimension, SIMULATED_HINT.format(place.path))
        self._sweep(dimension, region)
        return region

    def _tell_gone(self, dimension: int) -> None:
        """Let all know that a file is gone, whose remover was killed before that. Under the folder's lock."""
        self.table._forget(dimension)
        if not self._ids.is_empty(dimension):
            self._ids.file_is_gone(dimension)
        self.announce(dimension, "removed", 0)

    def _check_own(self, dimension: int) -> None:
        """RegionNotFound if what has a name and no layer yet is asked for, and another's file came to its place."""
        name = self.promised.pop(dimension, self._ids.name_of(dimension) if self._ids.is_empty(dimension) else None)
        other = "" if name is None else self._ids.give_way(dimension, name)
        if other:
            hint = f"{other!r} came to where the file of {name!r} would be; ensure_dimension gives that another id"
            raise RegionNotFound(dimension, hint)

    def begin(self, dimension: int, changes: Changes, name: str) -> None:
        """Publish the first file of a dimension, and put it into the table. Under the folder's lock."""
        place = self._opener.place_of(dimension)
        packed = packed_base(dimension, name, changes)
        room_for(place, self._total_bytes, packed.n_bytes)
        self.publish(self.new_file(dimension), packed.pieces())
        self.announce(dimension, "added", 1)
        with contextlib.suppress(ConsciousnessError):  # loaded when it is needed
            self.table.load_dimension(dimension, exist_ok=True)

    def begin_unless_begun(self, dimension: int, changes: Changes, name: str) -> None:
        """The same of what may be changed, errors of `current`; where locks do nothing, another may be faster."""
        self.current(dimension)
        try:
            self.begin(dimension, changes, name)
        except AlreadyPublished:
            if self._ids.excludes:
                raise
            self.table.load_dimension(dimension, exist_ok=True)

    def _begin(self, dimension: int, changes: Changes) -> None:
        name = self._ids.name_of(dimension) or self.waited_for[dimension]
        self.begin(dimension, changes, name)

    def _grow(self, dimension: int, region: MmapRegion, changes: Changes) -> None:
        """Publish what changes a region, and let its readers see it."""
        place, excludes = self._opener.place_of(dimension), self._ids.excludes
        images, generation = region._stack, next_generation(region.generation, place.segment)
        change = packed_delta(region, changes)
        sizes = [image.n_bytes for image in images]
        n = n_merged(sizes, change.n_bytes, excludes, MAX_DELTAS if excludes else _max_deltas(images))
        packed = self._merged(images, n, generation, change) if n else None
        if packed is None:
            n, packed = 0, change
        try:
            room_for(place, self._total_bytes, sum(sizes[: len(sizes) - n]) + packed.n_bytes)
        except LimitExceeded:
            if n == len(images) or not excludes:
                raise
            n, packed = len(images), merged(images, True, generation, change)  # which may be smaller
            room_for(place, self._total_bytes, packed.n_bytes)
        with _folder_of(place.path) as folder:
            is_read = partial(self._is_read, place, region, changes, change)
            self._publish_over(place, images, n, generation, packed, is_read, folder)
            self._show(place, region, n, generation, changes, change, folder)
        self.announce(dimension, "changed", generation)

    def compact(self, dimension: int) -> Path:
        """Write a new base if there are deltas; its path."""
        with self.locked():
            region = self.current(dimension)
            if region is None:
                raise RegionNotFound(dimension, "it has no layer yet")
            images, generation = region._stack, region.generation
            place = self._opener.place_of(dimension)
            if len(images) > 1:
                packed = merged(images, True, generation)
                with _folder_of(place.path) as folder:
                    self._publish_over(place, images, len(images), generation, packed, lambda: True, folder)
                    self._show(place, region, len(images), generation, {}, None, folder)
        return Path(place.path)

    def new_file(self, dimension: int) -> NewFile:
        """The base of a dimension that has none. What a crash left there is nothing, and is not to lie on it.

        What lay on a base that is lost goes, too, which is logged.
        MappingError if it cannot be removed. Under the folder's lock.
        """
        base = self._opener.place_of(dimension).path
        leftovers = deltas_of(base)  # first: where locks do nothing, others may lay some on a base that comes just now
        if has_base(base):
            leftovers.clear()
        elif os.path.lexists(base):
            leftovers.insert(0, base)
        elif leftovers:
            text = "D%02d begins anew: its base is lost, or was forgotten, and what lay on that is removed: %s"
            logger.warning(text, dimension, ", ".join(map(os.path.basename, leftovers)))
        for leftover in leftovers:
            try:
                remove(leftover)
            except OSError as error:
                raise MappingError.of(error, leftover) from error
        return NewFile(base)

    def publish_as_next(self, dimension: int, name: str, segment: str, packed: PackedRegion) -> int | None:
        """Publish the base of what was given an id at which another's file is; its id now.

        None if that file has its name, too: a name is of one dimension. Under the folder's lock.
        """
        self._ids.give_way(dimension)
        if self._ids.name_of(dimension) == name:
            return None
        found, is_new = self._ids.reserve(name, segment)
        if not is_new:
            return None
        try:
            packed.renumber(found)
            with contextlib.closing(packed.pieces()) as pieces:
                self.publish(self.new_file(found), pieces)
        except BaseException:
            with contextlib.suppress(MappingError):
                self._ids.release(found)
            raise
        return found

    def _sweep(self, dimension: int, region: MmapRegion) -> None:
        """Remove the deltas that a crash left and nobody reads; once for each base that is met."""
        base = region._stack[0]
        if self._swept.get(dimension) != base.generation:
            in_base = deltas_of(base.path, base.generation)
            for old in (*in_base, *(each for each in deltas_of(base.path) if is_torn(each))):
                with contextlib.suppress(OSError):
                    remove(old)
            self._swept[dimension] = base.generation

    def _merged(self, images: Sequence[Image], n: int, generation: int, change: PackedRegion) -> PackedRegion | None:
        """The newest `n` files and a change; None if one is damaged: that is no reason to learn no more."""
        try:
            return merged(images[-n:], n == len(images), generation, change)
        except InvalidRegion:
            return None

    def _publish_over(
        self,
        place: Place,
        images: Sequence[Image],
        n: int,
        generation: int,
        packed: PackedRegion,
        is_read: Callable[[], bool],
        folder: int,
    ) -> None:
        """Publish what takes the place of the newest `n` files of a stack, and remove these.

        `folder` is that of the stack, open. `is_read` says whether that is what readers see now, and is asked
        where locks do nothing; else AlreadyPublished.
        """
        base, old = place.path, images[len(images) - n :]
        pieces = packed.pieces()
        try:
            if n == len(images):
                self.unlinked.hold(base)
                replace(pieces, base)
                old = old[1:]
            else:
                # What takes the place of files that are on the disk must be there before they go.
                durable = self._batch is None or (n > 0 and any(image.path not in self._batch for image in old))
                if durable:
                    _make_durable(images[: len(images) - n])
                file = NewFile(delta_file(base, generation), at=folder)
                self.publish(file, pieces, durable)
                if not self._ids.excludes and not is_read():
                    file.take_back()
                    raise AlreadyPublished(file.path)
        finally:
            pieces.close()  # no traceback that is kept holds what they are of
        for image in old:
            with contextlib.suppress(OSError):
                if is_file_of(image):  # where locks do nothing, another may have taken its name
                    self.unlinked.hold(image.path)
                    os.unlink(split(image.path)[1], dir_fd=folder)

    def _is_read(self, place: Place, region: MmapRegion, changes: Changes, change: PackedRegion) -> bool:
        """Whether readers see what was just published, for where locks do nothing.

        Its name may have been free because others went on and merged what had it: then newer files are over it.
        """
        own = make_region(_image_of(change, region), False, bytearray)
        try:
            stack = open_stack(place.path, place.dimension, verify="never", follow_links=False)
        except DimensionNotFound:  # another has forgotten it
            return False
        read = make_region(stack, False, bytearray)
        kept = [layer for layer, spec in changes.items() if spec is not None]
        return own._facts_of(changes) == read._facts_of(changes) and all(
            bytes(own.layer(layer)) == bytes(read.layer(layer)) for layer in kept
        )

    def _show(
        self,
        place: Place,
        region: MmapRegion,
        n: int,
        generation: int,
        changes: Changes,
        change: PackedRegion | None,
        folder: int,
    ) -> None:
        """Let readers see what was published: a change, together with the newest `n` files of a stack.

        `folder` is that of the stack, open. What does not fit into the budget is mapped on the next access: it
        is there.
        """
        opener, dimension, images = self._opener, place.dimension, region._stack
        admit, exchange = self.table._admit, self.table._exchange
        try:
            if n:
                stack = opener.reopen(place, admit, images)
            else:
                stack = (*images, opener.open_delta(place, admit, images, generation, folder))
            done = exchange(dimension, region, stack, changes.keys())
        except DimensionNotFound:  # where locks do nothing, another has merged it already
            done = False
        except builtins.MemoryError:  # of the package's own, too
            # What is remembered of it is what it is now.
            done = change is None or exchange(dimension, region, (*images, _image_of(change, region)), changes.keys())
            done = done and exchange(dimension, region, None)
        if not done:  # another thread has loaded it anew meanwhile
            self.table._refresh_dimension(dimension)


def _max_deltas(images: Sequence[Image]) -> int:
    """How many deltas a stack may have before some are merged, where locks do nothing."""
    newest_ns = max([image.identity[2] for image in images if image.identity is not None], default=0)
    return MAX_DELTAS if time.time_ns() - newest_ns > QUIET_NS else MAX_CROWDED


def _folder_of(base: str) -> Descriptor:
    """The open folder of a dimension; LinkRefused, MappingError."""
    folder = split(base)[0]
    try:
        return open_folder(folder, follow_links=False)
    except ConsciousnessError:
        raise
    except OSError as error:
        raise MappingError.of(error, folder) from error


def _make_durable(images: Iterable[Image]) -> None:
    """Let what is durable lie on nothing that is not, because another process has not synced it; MappingError."""
    for image in images:
        if image.unsynced:
            try:
                sync_whole(image.path)
            except OSError as error:
                raise MappingError.of(error, image.path) from error
            image.unsynced = False


def is_file_of(image: Image) -> bool:
    """Whether the file that an image was made from still has its name."""
    info = os.lstat(image.path)
    return image.identity == (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)


def _image_of(packed: PackedRegion, region: MmapRegion) -> Image:
    """`packed` in memory of its own, for a moment."""
    return Image(b"".join(packed.pieces()), str(region.path), region.dimension_id, "mmap", trusted=True)
