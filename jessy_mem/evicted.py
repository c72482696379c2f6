"""What is remembered of dimensions that were unmapped to make room, and come back on access: some 150 bytes for each.

A record is one `bytes` object. What layers there are and what they are found by is in the files (catalogue.py).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Evicted", "EvictedDimensions"]

_RECORD = struct.Struct("<QQIB")  # generation, size, layers, source
_SOURCES = ("mmap", "simulated")


class Evicted(NamedTuple):
    """A dimension that is loaded, but not mapped."""

    generation: int
    n_layers: int
    source: str
    size: int


class EvictedDimensions(dict[int, bytes]):
    """The records of the evicted dimensions by id. Not thread-safe: the owner locks."""

    def __init__(self) -> None:
        super().__init__()
        self.n_layers = 0  # of all of them
        self.simulated: set[int] = set()
        self.changed: set[int] = set()  # those whose files are others now: what is remembered is how they were

    def put(self, dimension: int, evicted: Evicted) -> None:
        """Remember a dimension."""
        if dimension in self:
            self.remove(dimension)
        generation, n_layers, source, size = evicted
        self[dimension] = _RECORD.pack(generation, size, n_layers, _SOURCES.index(source))
        self.n_layers += evicted.n_layers
        if evicted.source == "simulated":
            self.simulated.add(dimension)

    def of(self, dimension: int) -> Evicted | None:
        """What is remembered of a dimension; None if it is not evicted."""
        record = self.get(dimension)
        if record is None:
            return None
        generation, size, n_layers, source = _RECORD.unpack(record)
        return Evicted(generation, n_layers, _SOURCES[source], size)

    def mark_changed(self, dimension: int, generation: int | None = None) -> None:
        """The files of a dimension are others now, of `generation`."""
        known, *others = _RECORD.unpack(self[dimension])
        self[dimension] = _RECORD.pack(known if generation is None else generation, *others)
        self.changed.add(dimension)

    def copy(self) -> EvictedDimensions:
        """What is remembered now."""
        copied = EvictedDimensions()
        copied.update(self)
        copied.n_layers, copied.simulated, copied.changed = self.n_layers, self.simulated.copy(), self.changed.copy()
        return copied

    def remove(self, dimension: int) -> bool:
        """Forget a dimension; whether it was there."""
        record = self.pop(dimension, None)
        if record is None:
            return False
        self.n_layers -= _RECORD.unpack(record)[2]
        self.simulated.discard(dimension)
        self.changed.discard(dimension)
        return True

    def repair(self) -> None:
        """What is known of all records, made of them anew."""
        heads = {dimension: _RECORD.unpack(record) for dimension, record in self.items()}
        self.n_layers = sum(n_layers for _, _, n_layers, _ in heads.values())
        self.simulated = {dimension for dimension, head in heads.items() if _SOURCES[head[3]] == "simulated"}
        self.changed &= self.keys()

    def clear(self) -> None:
        super().clear()
        self.simulated.clear()
        self.changed.clear()
        self.n_layers = 0
