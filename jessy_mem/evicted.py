"""What is remembered of dimensions that were unmapped to make room, and come back on access: some 100 bytes for each.

A record is one `bytes` object. As long as nobody has asked for layers by keyword or frequency it also holds, by
`marshal` and for this process alone, what an index will be made from; then the index does.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Evicted", "EvictedDimensions", "LayerFacts"]

# layer, depth, Hz, keywords, stored bytes, bytes, created_ns
LayerFacts = tuple[int, int, float, tuple[str, ...], int, int, int]

_HEAD = struct.Struct("<QQIB")  # generation, size, layers, source
_SOURCES = ("mmap", "simulated")


class Evicted(NamedTuple):
    """A dimension that is loaded, but not mapped."""

    generation: int
    n_layers: int
    source: str
    size: int


class EvictedDimensions:
    """The evicted dimensions by id. Not thread-safe: the owner locks."""

    def __init__(self) -> None:
        self._records: dict[int, bytes] = {}
        self.n_layers = 0  # of all of them
        self.simulated: set[int] = set()
        self.changed: set[int] = set()  # those whose files are others now: what is remembered is how they were

    def put(self, dimension: int, evicted: Evicted, facts: Sequence[LayerFacts] | None = None, name: str = "") -> None:
        """Remember a dimension; its name and the facts of its layers, too, if no index has them."""
        if dimension in self._records:
            self.remove(dimension)
        generation, n_layers, source, size = evicted
        head = _HEAD.pack(generation, size, n_layers, _SOURCES.index(source))
        self._records[dimension] = head if facts is None else head + marshal.dumps((name, list(facts)))
        self.n_layers += evicted.n_layers
        if evicted.source == "simulated":
            self.simulated.add(dimension)

    def get(self, dimension: int) -> Evicted | None:
        record = self._records.get(dimension)
        if record is None:
            return None
        generation, size, n_layers, source = _HEAD.unpack_from(record)
        return Evicted(generation, n_layers, _SOURCES[source], size)

    def take_facts(self, dimension: int) -> tuple[str, list[LayerFacts]]:
        """The name and the facts that `put` was given for an index; they are not remembered any longer."""
        record = self._records[dimension]
        self._records[dimension] = record[: _HEAD.size]
        if len(record) == _HEAD.size:
            return "", []
        name, facts = marshal.loads(record[_HEAD.size :])
        return name, facts

    def mark_changed(self, dimension: int, generation: int | None = None) -> None:
        """The files of a dimension are others now, of `generation`: what an index is made from is not remembered."""
        known, *others = _HEAD.unpack_from(self._records[dimension])
        self._records[dimension] = _HEAD.pack(known if generation is None else generation, *others)
        self.changed.add(dimension)

    def copy(self) -> EvictedDimensions:
        """What is remembered now."""
        copied = EvictedDimensions()
        copied._records = self._records.copy()
        copied.n_layers, copied.simulated, copied.changed = self.n_layers, self.simulated.copy(), self.changed.copy()
        return copied

    def remove(self, dimension: int) -> bool:
        """Forget a dimension; whether it was there."""
        record = self._records.pop(dimension, None)
        if record is None:
            return False
        self.n_layers -= _HEAD.unpack_from(record)[2]
        self.simulated.discard(dimension)
        self.changed.discard(dimension)
        return True

    def repair(self) -> None:
        """What is known of all records, made of them anew."""
        heads = {dimension: _HEAD.unpack_from(record) for dimension, record in self._records.items()}
        self.n_layers = sum(n_layers for _, _, n_layers, _ in heads.values())
        self.simulated = {dimension for dimension, head in heads.items() if _SOURCES[head[3]] == "simulated"}
        self.changed &= self._records.keys()

    def clear(self) -> None:
        self._records.clear()
        self.simulated.clear()
        self.changed.clear()
        self.n_layers = 0

    def __contains__(self, dimension: object) -> bool:
        return dimension in self._records

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
