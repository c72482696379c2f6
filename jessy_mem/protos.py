"""Proto-dimensions: learned, in the pool, and how they become region files.

A proto-dimension is a stack of regions in the file format, in blocks of the pool, read by the same code as mapped
files. To crystallize is to publish those very bytes as one file, map it, and put it in the table by one assignment:

    specs --> block of the pool (+ blocks of deltas) --> file without a name --> region.mmap --> mapping
                  source "pool"                            fsync, link, fsync                    source "mmap"

HAZARD: publishing takes milliseconds and may fail at each step. It runs under `lock`, a lock that no reader and no load
takes unless the budget is full; the table's own lock is taken inside it, never around it. Until the assignment the
table has not changed, and what fails before it takes the file away again; after it the file stays. Who holds a view of
an old generation holds its block, and the charge.

Where another's file is in the place of a proto-dimension's, nothing but the end moves it to the next id: until then its
number is in somebody's hands, who would change the other's dimension by it.

A child that was forked reads the proto-dimensions of its parent and owns none of them: they are `foreign` there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence

from jessy_mem._core.image import Image
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.packing import PackedRegion
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import now_ticks, record_since
from jessy_mem.batch import without_frames
from jessy_mem.errors import (
    AlreadyPublished,
    ChecksumMismatch,
    ConsciousnessError,
    ImmutableDimension,
    InvalidRegion,
    LimitExceeded,
    MappingError,
    MemoryError,
    RegionNotFound,
)
from jessy_mem.files import Files
from jessy_mem.growth import Changes, Table, merged, n_merged, packed_delta, room_for
from jessy_mem.layout import MemoryLayout
from jessy_mem.locking import renew_in_child
from jessy_mem.opening import Opener, Stack
from jessy_mem.publish import Buffer, NewFile

__all__ = ["Protos"]

logger = logging.getLogger("jessy_mem")

BESIDE_ANOTHER_HINT = "close() saves it under the next id, unless that file has its name, too; forget() drops it"


class Protos:
    """The proto-dimensions of a table: put into the pool, grown there, and published as files."""

    def __init__(
        self, table: Table, opener: Opener, files: Files, layout: MemoryLayout, total_bytes: int, timed: bool
    ) -> None:
        self.n_bytes: dict[int, int] = {}  # of their blocks, in the order of their creation
        self.empty: dict[int, str] = {}  # those that have a name and no layer yet
        self.foreign: set[int] = set()
        self.crystallizations = LatencyHistogram()
        self.table = table
        self._opener = opener
        self._files = files
        self._layout = layout
        self._total_bytes = total_bytes
        self._timed = timed
        self._left_behind: dict[int, NewFile] = {}  # files of ours that could not be taken away again
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        self.lock = threading.RLock()
        self.is_merging = False  # what could be made room for then is worth more than a merged stack
        self._growing: int | None = None  # must not go to make room for itself
        self.foreign |= self.n_bytes.keys()
        self.empty.clear()

    def own(self) -> dict[int, int]:
        """Those that this process made, oldest first, and their bytes."""
        n_bytes = self.n_bytes.copy()  # in one step: others begin and go meanwhile
        return {dimension: n_bytes[dimension] for dimension in n_bytes if dimension not in self.foreign}

    @contextlib.contextmanager
    def growing(self, dimension: int) -> Iterator[None]:
        """Inside, this dimension does not give way. Under `lock`."""
        outer, self._growing = self._growing, dimension
        try:
            yield
        finally:
            self._growing = outer

    def to_give_way(self) -> dict[int, int]:
        """Those of our own that may become files, or go, to make room for others."""
        return {dimension: n_bytes for dimension, n_bytes in self.own().items() if dimension != self._growing}

    def unsaved(self) -> list[int]:
        """Our own without those that are just being made."""
        known = ((dimension, self.table._known(dimension)) for dimension in self.own())
        return [dimension for dimension, region in known if region is not None and region.source == "pool"]

    def end_foreign(self, dimension: int) -> bool:
        """Whether a dimension is of the process that this one was forked from; from now on it is none of the pool's."""
        if dimension not in self.foreign:
            return False
        self.foreign.discard(dimension)
        self.n_bytes.pop(dimension, None)
        return True

    def get(self, dimension: int) -> MmapRegion:
        """The proto-dimension; ImmutableDimension or RegionNotFound if it is something else."""
        self.table._check_open()
        region = self.table._known(dimension)
        if isinstance(region, MmapRegion):
            if region.source == "pool":
                if dimension in self.foreign:
                    hint = "it is a proto-dimension of the process that this one was forked from"
                    raise RegionNotFound(dimension, hint)
                return region
            if region.immutable:
                raise ImmutableDimension(dimension)
        if self._layout.is_immutable(dimension):
            raise ImmutableDimension(dimension)
        if dimension in self.empty:
            raise RegionNotFound(dimension, "it has no layer yet, and a file has one at least; append_layer adds one")
        raise RegionNotFound(dimension, "it is not a proto-dimension, and only those are crystallized")

    def is_own_file(self, dimension: int) -> bool:
        """Whether a file in the place of a proto-dimension's is its own: one that could not be taken away again."""
        return dimension in self._left_behind

    def block_for(self, packed: PackedRegion, dimension: int, stack_bytes: int = 0) -> Block:
        """Room in the pool, beside a stack; LimitExceeded also for what could never be loaded from a file."""
        place = self._opener.place_of(dimension)
        room_for(place, self._total_bytes, stack_bytes + packed.n_bytes)
        return self.table._allocate(packed.n_bytes, place.segment)

    def begin(self, dimension: int, packed: PackedRegion, block: Block) -> bool:
        """Make `packed`, copied to `block`, a new proto-dimension; False if something else is there."""
        packed.renumber(dimension)
        image = _image_in(block, packed, dimension)
        self.n_bytes[dimension] = block.capacity  # before others can find it, and remove it
        self.foreign.discard(dimension)
        done = False
        try:
            done = self.table._exchange(dimension, None, (image,))
        finally:
            # Who was interrupted does not know whether it is there.
            region = None if done else self.table._known(dimension)
            if not (done or (isinstance(region, MmapRegion) and region._stack[0] is image)):
                del self.n_bytes[dimension]
            del image, region  # a traceback would go on holding them
        return done

    def grow(self, dimension: int, region: MmapRegion, changes: Changes) -> bool:
        """Put changes on the stack of a proto-dimension; False if it is gone. Under `lock`."""
        change, generation = packed_delta(region, changes), region.generation + 1
        images = region._stack
        n = n_merged([image.n_bytes for image in images], change.n_bytes)
        at_once = self._merged(dimension, images, n, change, generation) if n else None
        if at_once is not None:
            stack = (*images[: len(images) - n], at_once)
        else:
            block = self.block_for(change, dimension, sum([image.n_bytes for image in images]))
            stack = (*images, _image_in(block, change, dimension))
        done = self.table._exchange(dimension, region, stack, changes.keys())
        if done and dimension in self.n_bytes:
            self.n_bytes[dimension] = sum([image.charged_bytes for image in stack])
        return done

    def fits_as_file(self, region: MmapRegion, changes: Changes) -> bool:
        """Whether a proto-dimension can be changed when it is a file."""
        n_bytes = region.size + packed_delta(region, changes).n_bytes
        place = self._opener.place_of(region.dimension_id)
        return n_bytes <= min(place.slot_bytes, self._total_bytes)

    def _merged(
        self, dimension: int, images: Sequence[Image], n: int, change: PackedRegion, generation: int
    ) -> Image | None:
        """The newest `n` blocks of a stack and a change, in one block; None if there is no room, or one is damaged."""
        self.is_merging = True
        try:
            packed = merged(images[-n:], n == len(images), generation, change)
            below_bytes = sum(image.n_bytes for image in images[: len(images) - n])
            return _image_in(self.block_for(packed, dimension, below_bytes), packed, dimension)
        except (MemoryError, InvalidRegion, ChecksumMismatch):
            return None
        finally:
            self.is_merging = False

    def remove(self, dimension: int) -> None:
        self.n_bytes.pop(dimension, None)
        self.empty.pop(dimension, None)
        self.foreign.discard(dimension)
        self._left_behind.pop(dimension, None)
        self.table._forget(dimension)

    # From the pool to the file

    def publish(self, *dimensions: int, at_end: bool = False) -> None:
        """Write the files of proto-dimensions, side by side, and let them take their places. Under `lock`.

        One that cannot be published stays as it was, and stops no other; then the error of the first is raised. At the
        end no file is mapped, unless somebody still reads it: what was learned must not be lost for lack of a mapping.
        """
        begin_ticks = now_ticks()
        failed: dict[int, ConsciousnessError] = {}
        left = dict.fromkeys(dimensions)
        for dimension in left:
            self.get(dimension)
        with self._files.locked():
            files = {dimension: self._file_of(dimension) for dimension in left}
            protos = {dimension: self.get(dimension) for dimension in left}
            try:
                with contextlib.ExitStack() as stored:
                    pieces = [stored.enter_context(_stored(proto)) for proto in protos.values()]
                    errors = self._files.publish_all(zip(files.values(), pieces, strict=True))
                for dimension, error in zip(protos, errors, strict=True):
                    try:
                        if error is not None:
                            raise error
                        # If it was closed meanwhile: with the file nothing is lost. No variable holds the stack.
                        self.table._exchange(
                            dimension, protos[dimension], None if at_end else self._open_if_it_fits(dimension)
                        )
                    except ConsciousnessError as refusal:
                        failed[dimension] = without_frames(refusal)
                    else:
                        self._publish_done(dimension, dimension, protos[dimension].generation, begin_ticks)
                        del left[dimension]
            finally:
                for dimension in left:
                    if self.table._known(dimension) is protos[dimension]:
                        self._take_back(dimension, files[dimension])
                protos.clear()  # the traceback of an error would keep them, and their blocks
            for dimension, error in list(failed.items()):
                if isinstance(error, AlreadyPublished):
                    error.hint = f"D{dimension:02d} is as it was: {BESIDE_ANOTHER_HINT}"
                    if at_end:
                        self._publish_as_next(dimension, failed, begin_ticks)
        error, errors = None, []  # nor does this frame keep the error whose traceback keeps it
        if failed:
            raise failed.pop(next(iter(failed)))

    def _publish_done(self, dimension: int, saved_as: int, generation: int, begin_ticks: int) -> None:
        self.n_bytes.pop(dimension, None)
        record_since(self.crystallizations, begin_ticks, self._timed)
        self._files.announce(saved_as, "added", generation)

    def _publish_as_next(self, dimension: int, failed: dict[int, ConsciousnessError], begin_ticks: int) -> None:
        """Save a proto-dimension in whose place is another's file under the next id; it has not `failed` then.

        Under the folder's lock.
        """
        region = self.get(dimension)
        name, generation = region.name, region.generation
        try:
            segment = "user" if self._layout.is_user(dimension) else "reserve"
            saved_as = self._files.publish_as_next(dimension, name, segment, merged(region._stack, True, generation))
            if saved_as is None:
                return
            if self.table._exchange(dimension, region, None):
                self.table._refresh_dimension(dimension)  # it is the other's now
        except ConsciousnessError as error:
            failed[dimension] = without_frames(error)
            return
        finally:
            del region  # no traceback may go on holding it
        del failed[dimension]
        told = "D%02d, which is %r, is saved as D%02d: another's file is in its place"
        logger.warning(told, dimension, name, saved_as)
        self._publish_done(dimension, saved_as, generation, begin_ticks)

    def _file_of(self, dimension: int) -> NewFile:
        if dimension in self._left_behind:
            self._left_behind.pop(dimension).take_back()
        return self._files.new_file(dimension)

    def _open_if_it_fits(self, dimension: int) -> Stack | None:
        """None if there is no room for both: the first access maps the file, when the block is gone."""
        try:
            return self._opener.open(self._opener.place_of(dimension), self.table._admit)
        except LimitExceeded:
            return None

    def _take_back(self, dimension: int, file: NewFile) -> None:
        """Remove the file of a proto-dimension that could not take its place, or remember that it is ours."""
        with contextlib.suppress(MappingError):
            file.take_back()
        if file.is_there():
            self._left_behind[dimension] = file


def _image_in(block: Block, packed: PackedRegion, dimension: int) -> Image:
    """`packed` in a block of the pool."""
    packed.fill(memoryview(block))
    image = Image(block, f"<proto-dimension D{dimension:02d}>", dimension, "pool", trusted=True)
    image.charged_bytes = block.capacity
    return image


@contextlib.contextmanager
def _stored(proto: MmapRegion) -> Iterator[Iterable[Buffer]]:
    """The bytes of a proto-dimension as one file, however many blocks it is; afterwards nothing holds them."""
    images = proto._stack
    if len(images) == 1:
        with memoryview(images[0]) as whole:
            yield [whole]
    else:
        with contextlib.closing(merged(images, True, proto.generation).pieces()) as pieces:
            yield pieces
