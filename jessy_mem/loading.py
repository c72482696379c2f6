"""Loading: all dimensions at once, what may be loaded already, and how a file is exchanged for another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from jessy_mem._core.region import MmapRegion
from jessy_mem.errors import (
    ConsciousnessError,
    DimensionAlreadyLoaded,
    DimensionNotFound,
    LimitExceeded,
    ManagerClosed,
    RegionNotFound,
)
from jessy_mem.evicted import Evicted
from jessy_mem.notices import Notices
from jessy_mem.opening import Opener, Place
from jessy_mem.stats import LoadReport

__all__ = ["Loader", "Table"]


class Table(Protocol):
    """What is asked of the table of regions."""

    @property
    def _opener(self) -> Opener:
        """What opens the files."""

    @property
    def _regions(self) -> Mapping[int, MmapRegion]:
        """What is mapped."""

    def _known(self, dimension: int) -> MmapRegion | Evicted | None:
        """The region of a loaded dimension, or what is remembered of one that is evicted."""

    def _place_of(self, dimension: int) -> Place:
        """Where the file of a dimension is, or would be."""

    def _open_region(self, dimension: int, known_source: str | None = None) -> MmapRegion:
        """The region of a dimension, mapped and charged, but in no table yet."""

    def _install(self, dimension: int, region: MmapRegion) -> None:
        """Make `region` what readers find. Under the lock."""

    def load_dimension(self, dimension_id: int, path: str | os.PathLike[str] | None = None) -> MmapRegion:
        """Map a dimension that is not loaded, from its own file or that at `path`; DimensionAlreadyLoaded."""

    def reload_dimension(self, dimension_id: int) -> tuple[int, int]:
        """`Loader.reload` of one, counted and timed."""

    def region(self, dimension_id: int) -> MmapRegion:
        """The region of a loaded dimension, mapped again if it was evicted; RegionNotFound."""


class Loader:
    """Loads and reloads the dimensions of a table. Thread-safe.

    With `always_simulates` a simulated dimension is not replaced by its file.
    """

    def __init__(self, always_simulates: bool) -> None:
        self._always_simulates = always_simulates
        self._notices = Notices()

    def load_all(self, table: Table, dimensions: Iterable[int]) -> LoadReport:
        """Load each that is not loaded yet; what cannot be is reported, and logged once.

        All that is simulated is told in one warning.
        """
        table._opener.begin_telling_once()
        try:
            return self._load_all(table, dimensions)
        finally:
            table._opener.tell_once()

    def _load_all(self, table: Table, dimensions: Iterable[int]) -> LoadReport:
        loaded: list[int] = []
        simulated: list[int] = []
        skipped: dict[int, Exception] = {}
        for dimension in dimensions:
            try:
                source = self._load_or_refresh(table, dimension)
            except ManagerClosed:
                raise
            except ConsciousnessError as error:
                self._notices.warn(dimension, f"dimension D{dimension:02d} is skipped: {error}")
                # The frames of its traceback would keep this report, and the manager, in a cycle.
                error.__traceback__ = error.__context__ = None
                skipped[dimension] = error
            else:
                self._notices.forget(dimension)
                (simulated if source == "simulated" else loaded).append(dimension)
        return LoadReport(loaded, simulated, skipped)

    def _load_or_refresh(self, table: Table, dimension: int) -> str:
        """Make sure that `dimension` is loaded, from its file if there is one; returns its source."""
        while True:  # again if another thread loads or unloads it meanwhile
            source = self._refreshed(table, dimension)
            if source is not None:
                return source
            with contextlib.suppress(DimensionAlreadyLoaded):
                return table.load_dimension(dimension).source

    def _refreshed(self, table: Table, dimension: int) -> str | None:
        """Where a loaded dimension comes from; one that is simulated, from its file if that has appeared."""
        source = _source_of(table, dimension)
        replaceable = source == "simulated" and not self._always_simulates
        if replaceable and os.path.exists(table._place_of(dimension).path):
            with contextlib.suppress(RegionNotFound):
                table.reload_dimension(dimension)
            source = _source_of(table, dimension)
        return source

    def ensure(self, table: Table, dimension: int, path: str | os.PathLike[str] | None) -> MmapRegion:
        """What is loaded, as `load_all` would leave it, or is loaded now; an error if it is not from `path`."""
        while True:  # again if another thread loads or unloads it meanwhile
            source = self._refreshed(table, dimension)
            if source is None:
                with contextlib.suppress(DimensionAlreadyLoaded):
                    return table.load_dimension(dimension, path)
                continue
            loaded_from = table._place_of(dimension).path if source == "mmap" else None
            if path is not None and not _is_same_file(path, loaded_from):
                raise DimensionAlreadyLoaded(dimension, loaded_from or source)
            with contextlib.suppress(RegionNotFound):
                return table.region(dimension)
            gone = table._place_of(dimension).path
            if _source_of(table, dimension) == "mmap" and not os.path.exists(gone):  # nobody told that it is
                raise DimensionNotFound(dimension, gone)

    def reload(self, table: Table, dimension: int) -> tuple[int, int]:
        """Map the file that is there now, and put it in its place; returns (old generation, new generation).

        Under the lock.
        """
        # Held, the old region is not evicted to make room for the new one; and no traceback may go on holding it.
        old, region = table._regions.get(dimension), None
        try:
            generation, region = _reopened(table, dimension, old)
            table._install(dimension, region)
            return generation, region.generation
        finally:
            old = region = None

    def reload_many(
        self, table: Table, dimensions: list[int], swapping: AbstractContextManager[object]
    ) -> list[tuple[int, int]]:
        """The same of several: inside `swapping` all are put in their places, or none. Under the lock."""
        old = [table._regions.get(dimension) for dimension in dimensions]
        new: list[tuple[int, MmapRegion]] = []
        try:
            for dimension, region in zip(dimensions, old, strict=True):
                try:
                    new.append(_reopened(table, dimension, region))
                except LimitExceeded as error:
                    raise _of_all(error, table, dimensions, [each for _, each in new]) from None
            with swapping:
                for dimension, (_, region) in zip(dimensions, new, strict=True):
                    table._install(dimension, region)
            return [(generation, region.generation) for generation, region in new]
        finally:
            region = None
            old.clear()
            new.clear()


def _reopened(table: Table, dimension: int, old: MmapRegion | None) -> tuple[int, MmapRegion]:
    """The generation of `old`, or of what is evicted, and the region that may take its place. Under the lock."""
    known = old or table._known(dimension)
    try:
        if known is None:
            raise RegionNotFound(dimension)
        if known.source == "pool":
            raise RegionNotFound(dimension, "it is a proto-dimension without a file; crystallize writes it")
        return known.generation, table._open_region(dimension, known.source)._in_place_of(old)
    finally:
        old = known = None  # a traceback would go on holding them


def _of_all(
    refusal: LimitExceeded, table: Table, dimensions: Iterable[int], new: Iterable[MmapRegion]
) -> LimitExceeded:
    """`refusal` of one more beside `new`, whose charge goes with it: as if all of them had been asked for at once.

    Else what they give back looks as if others had made room, and the change is tried again for ever.
    """
    if refusal.requested_bytes > refusal.limit_bytes:  # of its slot, or of an empty segment
        return refusal
    with_it = [
        region.size
        for dimension, region in zip(dimensions, new, strict=False)
        if refusal.segment in ("total", table._place_of(dimension).segment)
    ]
    return LimitExceeded(
        refusal.current_bytes - sum(with_it), refusal.limit_bytes, refusal.requested_bytes + sum(with_it),
        refusal.segment, refusal.holders, refusal.hint,
    )  # fmt: skip


def _is_same_file(path: str | os.PathLike[str], other: str | None) -> bool:
    """Whether both name one file, by whatever names; the file need not be there any more."""
    if other is None:
        return False
    name = os.fsdecode(path)
    return os.path.abspath(name) == other or os.path.realpath(name) == os.path.realpath(other)


def _source_of(table: Table, dimension: int) -> str | None:
    """Where a loaded dimension came from; one that is evicted stays so, and nothing is held afterwards."""
    known = table._known(dimension)
    return None if known is None else known.source
