"""What a change by another process means for one dimension here, by what its files are now.

here          files      becomes
nothing       there      known, and mapped on its first access, unless the user unloaded it       "added"
mapped        others     a stack of those; evicted if there is no room for them                   "changed"
evicted       others     evicted, and found again when it is mapped                               "changed"
either        gone       nothing, unless the plan knows it                                        "removed"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from jessy_mem._core.folder import is_there
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import stored_generation
from jessy_mem.catalogue import Catalogue
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import DimensionNotFound, LimitExceeded
from jessy_mem.evicted import Evicted
from jessy_mem.names import dimensions_in, stored_names
from jessy_mem.opening import Place, newest_delta

__all__ = ["Table", "Uptake"]


class Table(Protocol):
    """What is asked of the table of regions, under its lock."""

    @property
    def _closed(self) -> bool: ...

    def _known(self, dimension: int) -> MmapRegion | Evicted | None:
        """The region of a loaded dimension, or what is remembered of one that is evicted."""

    def _loaded_ids(self) -> set[int]:
        """All dimensions that are loaded, mapped or evicted."""

    def _place_of(self, dimension: int) -> Place:
        """Where the file of a dimension is, or would be."""

    def _refresh_region(self, dimension: int, region: MmapRegion) -> bool:
        """Bring a mapped dimension up to its files; whether it changed. LimitExceeded, DimensionNotFound."""

    def _unmap(self, dimension: int, source: str | None = None) -> None:
        """Evict a dimension; `source` says from where it comes back."""

    def _remove(self, dimension: int) -> None:
        """Let go of a dimension and of all that is remembered of it."""


class Uptake:
    """Takes up what others did. Not thread-safe: the caller holds the table's lock.

    `catalogue` is the table's. `note_file(dimension)` is called for each that has a file, whose name may be new.
    `end_foreign(dimension)` says whether one that is in the pool is another process's.
    """

    def __init__(
        self,
        config: MemoryConfig,
        catalogue: Catalogue,
        note_file: Callable[[int], object],
        end_foreign: Callable[[int], bool],
    ) -> None:
        self.unwanted: set[int] = set()  # unloaded by the user, who does not want them back
        self.came: set[int] = set()  # known because others learned them, and not loaded by the user yet
        self._base_path = os.fspath(config.base_path)
        self._always_simulates = config.simulation == "always"
        self._catalogue = catalogue
        self._note_file = note_file
        self._end_foreign = end_foreign

    def want(self, dimension: int) -> None:
        """The user loads a dimension, which is no second time if it came by itself. Needs no lock."""
        self.unwanted.discard(dimension)
        self.came.discard(dimension)

    def all_dimensions(self, table: Table) -> Iterable[int]:
        """All that are loaded, and all that have a folder."""
        return sorted({*table._loaded_ids(), *dimensions_in(self._base_path)})

    def take_up(self, table: Table, dimension: int, generation: int | None) -> str | None:
        """Make a dimension what its files are now; see `Followed`."""
        known, place = table._known(dimension), table._place_of(dimension)
        if table._closed or place.named:
            return None
        has_file = is_there(place.path)
        if has_file:
            self._note_file(dimension)
        if known is None:
            wanted = has_file and not place.planned and dimension not in self.unwanted
            return "added" if wanted and self._add(place, generation) else None
        if known.source == "pool":
            if not (has_file and self._end_foreign(dimension)):
                return None
            table._unmap(dimension, "mmap")
            self._catalogue.mark_changed(dimension, _newest(place, generation))
            return "changed"
        if not has_file:
            return self._drop(table, place, known.source)
        if isinstance(known, MmapRegion):
            return self._take_up_region(table, place, known, generation)
        if known.source == "simulated" and self._always_simulates:
            return None
        newest = _newest(place, generation)
        if newest == known.generation and known.source != "simulated":
            return None
        self._catalogue.mark_changed(dimension, newest)
        return "changed"

    def _take_up_region(self, table: Table, place: Place, region: MmapRegion, generation: int | None) -> str | None:
        try:
            return "changed" if table._refresh_region(place.dimension, region) else None
        except DimensionNotFound:
            return self._drop(table, place, region.source)
        except LimitExceeded:  # no room for all of it beside what others hold: the next access makes it
            del region
            table._unmap(place.dimension)
            self._catalogue.mark_changed(place.dimension, _newest(place, generation))
            return "changed"

    def _add(self, place: Place, generation: int | None) -> bool:
        for _, name in stored_names(self._base_path, [place.dimension]):
            self._catalogue.note_name(place.dimension, name)  # which may be another than the one that is known
            self._catalogue.add(place.dimension, Evicted(_newest(place, generation), 0, "mmap", 0))
            self.came.add(place.dimension)
            return True
        return False

    def _drop(self, table: Table, place: Place, source: str) -> str | None:
        if place.planned or source != "mmap":  # who planned it will bring it back
            return None
        table._remove(place.dimension)
        self.came.discard(place.dimension)
        return "removed"


def _newest(place: Place, generation: int | None) -> int:
    return max(stored_generation(place.path), newest_delta(place.path)) if generation is None else generation
