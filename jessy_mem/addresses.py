"""Logical addresses: the plan's own, and those of dimensions outside the plan, given when somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterable

from jessy_mem.layout import MemoryLayout

__all__ = ["Addresses"]


class Addresses:
    """Which dimension lies where in the plan's address space. Not thread-safe: the owner locks.

    Before the first question nothing is kept: most programs never ask.
    """

    def __init__(self, layout: MemoryLayout) -> None:
        self._layout = layout
        self._spans: dict[int, tuple[int, int]] = {}  # of dimensions outside the plan: (address, bytes)
        self._waiting: dict[int, int] = {}  # those that came since the last question
        self.in_use = False  # whether anybody has asked: only then `put` keeps anything

    def begin(self, sizes: Iterable[tuple[int, int]]) -> None:
        """The first question: `sizes` are (dimension, bytes) of all there are."""
        for dimension, n_bytes in sorted(sizes):
            self._put(dimension, n_bytes)
        self.in_use = True

    def put(self, dimension: int, n_bytes: int) -> None:
        """A dimension is there, or has another size now."""
        if self.in_use:
            self._put(dimension, n_bytes)

    def _put(self, dimension: int, n_bytes: int) -> None:
        if dimension not in self._layout.dimensions:
            self._waiting[dimension] = n_bytes

    def remove(self, dimension: int) -> None:
        self._spans.pop(dimension, None)
        self._waiting.pop(dimension, None)

    def find(self, dimension: int) -> int | None:
        """The address of a dimension's first byte; None if its segment had no room for it."""
        planned = self._layout.dimensions.get(dimension)
        if planned is not None:
            return planned.address
        self._place_waiting()
        span = self._spans.get(dimension)
        return None if span is None else span[0]

    def resolve(self, address: int) -> tuple[int, int]:
        """The (dimension, offset) that an address names; OutOfBounds if it names none."""
        self._place_waiting()
        for dimension, (begin, n_bytes) in self._spans.items():
            if begin <= address < begin + n_bytes:
                return dimension, address - begin
        return self._layout.resolve(address)

    def _place_waiting(self) -> None:
        for dimension in list(self._waiting):
            self._place(dimension, self._waiting[dimension])
            del self._waiting[dimension]

    def _place(self, dimension: int, n_bytes: int) -> None:
        """Give a dimension the first addresses of its segment that are free, or its own."""
        begin, taken_bytes = self._spans.get(dimension, (0, 0))
        if n_bytes <= taken_bytes:
            self._spans[dimension] = (begin, n_bytes)
            return
        segment = self._layout.segment_of(dimension)
        address, end = segment.address, segment.address + segment.size_bytes
        others = sorted(span for each, span in self._spans.items() if each != dimension)
        for begin, taken_bytes in others:
            if segment.address <= begin < end:
                if begin - address >= n_bytes:
                    break
                address = max(address, begin + taken_bytes)
        if n_bytes <= end - address:
            self._spans[dimension] = (address, n_bytes)
        else:
            self._spans.pop(dimension, None)
