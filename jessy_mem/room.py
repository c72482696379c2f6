"""How room is made when a segment is full, what else could make it, and who holds what nobody can free."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from jessy_mem._core.budget import Ledger
from jessy_mem._core.holders import Holders
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.texts import TextCache
from jessy_mem.errors import AllocationFailed, LimitExceeded
from jessy_mem.layout import MemoryLayout
from jessy_mem.stats import Lease, format_bytes
from jessy_mem.victims import Victims

__all__ = ["Room", "Table"]

N_HOLDERS_NAMED = 5
# Looks before a request is refused: readers that pass by hold what they read for a moment. Beside 4 readers one look
# refused 29 % of all loads that had room, beside 16 it was 92 %; two refused 0.06 %, three none (RefusedBesideReaders).
N_LOOKS = 5


class Table(Protocol):
    """What is asked of the table that is full."""

    @property
    def _lock(self) -> AbstractContextManager[object]:
        """What changes of it are made under."""

    def _pass_visits(self) -> None:
        """Tell the policy what came and what was read. Under the lock."""

    def _evict(self, dimension: int) -> None:
        """Unmap a victim. Under the lock."""


class Room:
    """The room in the segments of a ledger. `texts` are kept in `pool_segment`, where blocks of the pool are charged.

    All but `make` are asked under the table's lock.
    """

    def __init__(
        self,
        layout: MemoryLayout,
        ledger: Ledger,
        pool: PoolAllocator,
        pool_segment: str,
        texts: TextCache,
        regions: Mapping[int, MmapRegion],
        holders: Holders,
        victims: Victims,
        *,
        strict_classes: bool = False,
    ) -> None:
        self._layout = layout
        self._ledger = ledger
        self._pool = pool
        self._pool_segment = pool_segment
        self._texts = texts
        self._regions = regions
        self._holders = holders
        self._victims = victims
        self._strict_classes = strict_classes

    def make(self, table: Table, segment: str, n_bytes: int, bound_bytes: int) -> bool:
        """Evict, texts first, until `n_bytes` more fit into `segment`, and with all into `bound_bytes`: if they do.

        What cannot be reached is not begun: victims are chosen before the first is unmapped, and if all of them would
        not do, all stay. So a walk over what may go, N_LOOKS times at most, precedes nothing but a refusal.
        """

        def is_here(dimension: int) -> bool:
            return self._layout.segment_of(dimension).name == segment

        n_looks = 0
        while True:
            with table._lock:
                used_bytes, limit_bytes, _ = self._ledger.segment_bytes()[segment]
                excess_bytes = used_bytes + n_bytes - limit_bytes
                total_excess_bytes = self._ledger.used_bytes + n_bytes - bound_bytes
                if excess_bytes <= 0 and total_excess_bytes <= 0:
                    return True
                if self._texts.shed(max(excess_bytes * (segment == self._pool_segment), total_excess_bytes)):
                    continue
                table._pass_visits()
                victims, any_held = self._victims.choose(((excess_bytes, is_here), (total_excess_bytes, None)))
                with UnmapTogether():
                    self._victims.evict(victims, table._evict)
            if not victims:
                n_looks += 1
                if not any_held or n_looks == N_LOOKS:
                    return False
                time.sleep(0)

    def helpful(
        self, protos: Mapping[int, int], segment: str, refusal: AllocationFailed | LimitExceeded, for_block: bool
    ) -> list[int] | None:
        """Those of `protos` (dimension -> bytes of its block), in their order, that free something of what was refused.

        Empty if all of them, and all that can be evicted, would not do; None if others have made room since then. One
        that is held does not help: its bytes would not come free.
        """
        if isinstance(refusal, AllocationFailed):
            return self._helpful_blocks(protos, refusal)
        in_segment = refusal.segment == segment
        used_bytes = self._ledger.segment_bytes()[segment][0] if in_segment else self._ledger.used_bytes
        if used_bytes < refusal.current_bytes:
            return None
        free = [(each, n_bytes) for each in protos if (n_bytes := self._holders.freed_bytes(each))]
        evictable = self._holders.evictable()  # which are not evicted as long as that alone would not do
        bound_bytes = refusal.limit_bytes
        if in_segment:
            free, evictable = (
                [each for each in some if self._layout.segment_of(each[0]).name == segment]
                for some in (free, evictable)
            )
        elif for_block:
            bound_bytes = self._pool._ceiling_bytes or bound_bytes
        missing_bytes = refusal.current_bytes + refusal.requested_bytes - bound_bytes
        if sum(n_bytes for _, n_bytes in free + evictable) < missing_bytes:
            return []
        return [dimension for dimension, _ in free]

    def _helpful_blocks(self, protos: Mapping[int, int], refusal: AllocationFailed) -> list[int]:
        free = [dimension for dimension in protos if self._holders.freed_bytes(dimension)]
        if self._strict_classes:
            # Only blocks of the same class help, and nothing helps what is larger than the home of its class.
            classes = self._pool.stats().classes
            wanted = next((each for each in classes if each.block_size >= refusal.requested_bytes), classes[-1])
            if refusal.requested_bytes > wanted.block_size * wanted.n_blocks:
                return []
            stacks = [(each, region._stack) for each in free if (region := self._regions.get(each)) is not None]
            most, size = classes[-1].block_size, wanted.block_size
            free = [each for each, stack in stacks if any(min(image.charged_bytes, most) == size for image in stack)]
        return free

    def naming_holders(self, refusal: LimitExceeded, below_bytes: int, leases: Iterable[Lease]) -> LimitExceeded:
        """`refusal` with the largest holders in its segment; what is charged below in the same stack goes with it."""
        segment = refusal.segment
        held = [
            (lease.n_bytes, str(lease))
            for lease in leases
            if segment in ("total", self._layout.segment_of(lease.dimension).name)
        ]
        pool_bytes, _ = self._pool.usage()
        if pool_bytes and segment in ("total", self._pool_segment):
            held.append((pool_bytes, f"blocks of the pool ({format_bytes(pool_bytes)})"))
        held.sort(key=lambda holder: -holder[0])
        return LimitExceeded(
            refusal.current_bytes - below_bytes, refusal.limit_bytes, refusal.requested_bytes + below_bytes, segment,
            [name for _, name in held[:N_HOLDERS_NAMED]], refusal.hint,
        )  # fmt: skip
