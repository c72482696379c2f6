"""How a dimension grows: as a stack of a base and small deltas, whether of blocks in the pool or of files.

What is changed is written once, as one file or block: the delta that says what changed, or, when it is due, that
together with the newest ones under it, so that no stack gets tall and none is written anew too often.

    base | delta | delta | delta + change        a change               bytes of all deltas <= those of the base
    base | delta | merged ..............         more than MAX_DELTAS   the newest, until the one below is larger
    base ...............................         the deltas outgrew the base
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from jessy_mem._core.budget import Charge
from jessy_mem._core.folder import delta_generations, is_there
from jessy_mem._core.image import Image
from jessy_mem._core.merge import merge_images
from jessy_mem._core.packing import PackedRegion, pack_layers
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.stack import is_torn
from jessy_mem.builder import LayerSpec, now_ns
from jessy_mem.errors import LimitExceeded
from jessy_mem.evicted import Evicted
from jessy_mem.layout import DELTA_DIGITS, delta_file
from jessy_mem.opening import Place, Stack
from jessy_mem.stats import format_bytes

__all__ = [
    "MAX_CROWDED",
    "MAX_DELTAS",
    "Announce",
    "Change",
    "Changes",
    "Table",
    "deltas_of",
    "has_base",
    "merged",
    "n_merged",
    "next_generation",
    "packed_base",
    "packed_delta",
    "room_for",
]

MAX_DELTAS = 16
MAX_CROWDED = 1024  # the same while others may be changing the dimension, and no lock keeps them out
MAX_GENERATION = 10**DELTA_DIGITS - 1  # the name of a delta has no digits for more

Changes = Mapping[int, LayerSpec | None]  # layer -> what it becomes; None: it is removed
Change = Callable[[MmapRegion | None], Changes]  # what is to be changed, of a stack as it is now; None: it is empty
Announce = Callable[[int, str, int], object]  # (dimension, "added" "changed" or "removed", generation)


class Table(Protocol):
    """What learning asks of the table of regions. Each call is thread-safe; none leaves a lock held."""

    def _check_open(self) -> None:
        """ManagerClosed if it is closed."""

    def _known(self, dimension: int) -> MmapRegion | Evicted | None:
        """The region of a loaded dimension, or what is remembered of one that is evicted."""

    def load_dimension(self, dimension_id: int, *, exist_ok: Literal[True]) -> MmapRegion:
        """The region of a dimension, mapped if it was not; LimitExceeded, DimensionNotFound, InvalidRegion."""

    def _refresh_dimension(self, dimension: int) -> object:
        """Bring a loaded dimension up to what its files are now."""

    def _allocate(self, n_bytes: int, segment: str) -> Block:
        """A block of the pool, after making room if that is needed; LimitExceeded, AllocationFailed."""

    def _admit(self, place: Place, n_bytes: int, below_bytes: int) -> Charge:
        """The charge for a file of `n_bytes` that lies on others, after making room for it; LimitExceeded."""

    def _exchange(
        self, dimension: int, old: MmapRegion | None, stack: Stack | None, changed: Collection[int] | None = None
    ) -> bool:
        """Let `stack`, in which only the layers `changed` differ, take the place of the region `old`, or of nothing.

        Without a stack, it is mapped on the next access. False, and nothing has changed, if something else is there.
        """

    def _forget(self, dimension: int) -> None:
        """Let go of a dimension that was learned, and of all that is remembered of it."""


def n_merged(sizes: Sequence[int], change_bytes: int, may_rebase: bool = True, max_deltas: int = MAX_DELTAS) -> int:
    """How many of the newest files of a stack are written anew together with a change; all of them: a new base.

    `sizes` are their bytes, that of the base first. Each byte is written some six times while a stack grows from
    nothing, and no stack has more than `max_deltas` deltas.

    >>> n_merged([100, 10, 10], 10), n_merged([100, 60], 50), n_merged([1000] + 16 * [10], 10)
    (0, 2, 16)
    """
    base_bytes, *deltas = sizes
    deltas.append(change_bytes)
    if may_rebase and sum(deltas) > base_bytes:
        return len(sizes)
    if len(deltas) <= max_deltas:
        return 0
    merged_bytes = change_bytes
    for n in range(1, len(deltas) - 1):
        merged_bytes += deltas[-1 - n]
        if deltas[-2 - n] > merged_bytes:
            return n
    return len(deltas) - 1


def next_generation(newest: int, segment: str) -> int:
    """The generation of what comes after `newest`; LimitExceeded if that is the last: nobody would read it."""
    if newest >= MAX_GENERATION:
        hint = "the files of a dimension say that it is as old as one gets; built anew it can change"
        raise LimitExceeded(newest, MAX_GENERATION, 1, segment, hint=hint, unit="generations")
    return newest + 1


def packed_base(dimension: int, name: str, changes: Changes) -> PackedRegion:
    """The first generation of a dimension, as it will be stored."""
    return pack_layers(dimension, name.encode(), 1, now_ns(), dict(changes))


def packed_delta(region: MmapRegion, changes: Changes) -> PackedRegion:
    """The next generation of a region: what changed of it."""
    name = region.name.encode()
    return pack_layers(region.dimension_id, name, region.generation + 1, now_ns(), dict(changes), delta=True)


def merged(images: Iterable[Image], as_base: bool, generation: int, change: PackedRegion | None = None) -> PackedRegion:
    """Files of a stack that follow each other, oldest first, and what changes them, as one."""
    return merge_images(tuple(images), as_base=as_base, generation=generation, created_ns=now_ns(), extra=change)


def room_for(place: Place, total_bytes: int, n_bytes: int) -> None:
    """LimitExceeded if a stack of `n_bytes` could never be loaded, in its slot or in `total_bytes`."""
    limit_bytes = min(place.slot_bytes, total_bytes)
    if n_bytes > limit_bytes:
        hint = f"one dimension may have {format_bytes(limit_bytes)}"
        raise LimitExceeded(0, limit_bytes, n_bytes, place.segment, hint=hint)


def has_base(path: str) -> bool:
    """Whether a dimension has its file; one that a power cut tore before it was announced is none."""
    return is_there(path) and not is_torn(path)


def deltas_of(path: str, newest: int | None = None) -> list[str]:
    """The deltas beside the file of a dimension, oldest first; with `newest` those of no later generation."""
    return [delta_file(path, each) for each in delta_generations(path) if newest is None or each <= newest]
