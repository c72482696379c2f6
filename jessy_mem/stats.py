"""Statistics as frozen snapshots: numbers only, no reference to what they were taken from."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["PoolClassStats", "PoolStats"]


@dataclasses.dataclass(frozen=True, slots=True)
class PoolClassStats:
    """One size class of the pool. `n_used` and `peak_used` count blocks wherever they lie in the arena."""

    block_size: int
    n_blocks: int  # that the class has room for at home
    n_used: int
    peak_used: int
    n_borrowed: int  # of n_used: blocks that lie in the room of another class
    requested_bytes: int  # what the callers of the n_used blocks asked for

    @property
    def fragmentation(self) -> float:
        """The share of the used blocks' bytes that nobody asked for, 0..1."""
        charged_bytes = self.n_used * self.block_size
        return 1 - self.requested_bytes / charged_bytes if charged_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool: its classes, smallest first, and the bytes charged for their blocks."""

    classes: tuple[PoolClassStats, ...]
    used_bytes: int
    limit_bytes: int
    peak_bytes: int

    @property
    def requested_bytes(self) -> int:
        """What the callers of all used blocks asked for."""
        return sum(each.requested_bytes for each in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """The same numbers as plain dicts and lists, for JSON."""
        return {**dataclasses.asdict(self), "classes": [each.to_dict() for each in self.classes]}
