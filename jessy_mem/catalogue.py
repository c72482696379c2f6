"""What is known of all loaded dimensions, mapped or evicted: which layers they have, and where the plan places them.

An index and addresses are made when somebody asks for the first time, and kept up to date from then on; most programs
never ask. What changes in a dimension costs what changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from jessy_mem._core.index import LayerIndex
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.whole import mended, whole
from jessy_mem.addresses import Addresses
from jessy_mem.errors import InvalidRegion, RegionNotFound
from jessy_mem.evicted import Evicted, EvictedDimensions, LayerFacts
from jessy_mem.layout import MemoryLayout

__all__ = ["Catalogue"]

logger = logging.getLogger("jessy_mem")


class Catalogue:
    """What is known of `regions`, which are mapped, and of what was evicted.

    Not thread-safe but for `complete_index`: the owner locks.
    """

    def __init__(self, regions: Mapping[int, MmapRegion], layout: MemoryLayout) -> None:
        self.evicted = EvictedDimensions()
        self.edition = 0  # another one when a layer may have come, changed or gone
        self._regions = regions
        self._index = LayerIndex()
        self._unindexed: set[int] | None = None  # what came since the last question; None before the first one
        self._layout = layout
        self._addresses = Addresses(layout)

    def put(self, dimension: int, region: MmapRegion) -> None:
        """A dimension is mapped now, in whatever way it was there before."""
        known = self.evicted.get(dimension)
        if known is None or known.generation != region.generation or dimension in self.evicted.changed:
            self.edition += 1
        if known is not None:
            self.evicted.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.add(dimension)
        if self._addresses.in_use:
            self._addresses.put(dimension, region.size)

    def remove(self, dimension: int) -> None:
        """A dimension is not loaded any more."""
        self.edition += 1
        self.evicted.remove(dimension)
        self._index.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.discard(dimension)
        self._addresses.remove(dimension)

    def unmap(self, dimension: int, region: MmapRegion, source: str) -> None:
        """A dimension is evicted now; it comes back from `source`."""
        facts: Sequence[LayerFacts] | None = None
        if self._unindexed is None:
            facts = _facts_of(region)
        elif dimension in self._unindexed:
            self._index_now(dimension)
        evicted = Evicted(region.generation, region.n_layers, source, region.size)
        self.evicted.put(dimension, evicted, facts, region.name)

    def change(self, dimension: int, region: MmapRegion, layers: Iterable[int] | None) -> None:
        """Those `layers` of a mapped dimension are not what they were; or nobody knows which."""
        self.edition += 1
        if self._addresses.in_use:
            self._addresses.put(dimension, region.size)
        if self._unindexed is None or dimension in self._unindexed:
            return
        if layers is None or dimension not in self._index:
            self._unindexed.add(dimension)
            return
        try:
            self._index.change(dimension, *region._facts_of(layers))
        except InvalidRegion:  # keywords were overwritten in the file
            self._unindexed.add(dimension)

    def add(self, dimension: int, evicted: Evicted) -> None:
        """A dimension is known, and mapped on its first access: how many layers it has is seen then."""
        whole(self._add_now, dimension, evicted, repair=self.repair)

    def _add_now(self, dimension: int, evicted: Evicted) -> None:
        self.evicted.put(dimension, evicted)
        self._mark_changed_now(dimension)

    def mark_changed(self, dimension: int, generation: int | None = None) -> None:
        """The files of an evicted dimension are others now: its layers can be found again when it is mapped."""
        whole(self._mark_changed_now, dimension, generation, repair=self.repair)

    def _mark_changed_now(self, dimension: int, generation: int | None = None) -> None:
        self.edition += 1
        self.evicted.mark_changed(dimension, generation)
        self._index.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.discard(dimension)

    def count_layers(self) -> int:
        return sum(region.n_layers for region in self._regions.values()) + self.evicted.n_layers

    @property
    def complete_index(self) -> LayerIndex | None:
        """The index, if all layers there are are in it; needs no lock, and neither does a question to it."""
        return None if self._unindexed or self._unindexed is None else self._index

    def repair(self) -> None:
        """After an interrupt, which may have left anything half done: the index is made anew when somebody asks.

        Of what is evicted, it is made from the files.
        """
        self.evicted.repair()
        if self._unindexed is not None:  # before the index is another one: questions take no lock
            self.evicted.changed.update(self.evicted)
            self._unindexed = {*self._regions, *self.evicted}
        self._index = LayerIndex()
        if self._addresses.in_use:
            self._addresses = Addresses(self._layout)

    def indexed(self) -> LayerIndex:
        """The index of all layers there are."""
        return mended(self._indexed_now, self.repair)

    def _indexed_now(self) -> LayerIndex:
        if self._unindexed is None:
            self._unindexed = {*self._regions, *self.evicted}
        while self._unindexed:
            self._index_now(next(iter(self._unindexed)))
        return self._index

    def _index_now(self, dimension: int) -> None:
        region = self._regions.get(dimension)
        if region is None:
            name, facts = self.evicted.take_facts(dimension)
            self._index.put(dimension, facts, name)
        else:
            self._index_region(dimension, region)
        if self._unindexed is not None:
            self._unindexed.discard(dimension)

    def _index_region(self, dimension: int, region: MmapRegion) -> None:
        """Index what is mapped; nothing of a region whose keywords were overwritten."""
        try:
            self._index.put_stack(dimension, region._stack, region.name)
        except InvalidRegion as error:
            _tell_of(region, error)
            self._index.put(dimension, (), region.name)

    def addressed(self) -> Addresses:
        """The addresses of all dimensions there are."""
        if not self._addresses.in_use:
            sizes = [(dimension, region.size) for dimension, region in self._regions.items()]
            sizes += [(each, evicted.size) for each in self.evicted if (evicted := self.evicted.get(each))]
            self._addresses.begin(sizes)
        return self._addresses

    def address_of(self, dimension: int) -> int | None:
        """Where a dimension begins in the plan, None if it has no place there; RegionNotFound if it is not there."""
        address = self.addressed().find(dimension)
        if dimension not in self._regions and dimension not in self.evicted:
            raise RegionNotFound(dimension, "it was unloaded meanwhile")
        return address


def _facts_of(region: MmapRegion) -> Sequence[LayerFacts]:
    """What an index is made from when the region is not mapped any more; see `Catalogue._index_region`."""
    try:
        return region.layer_facts()
    except InvalidRegion as error:
        _tell_of(region, error)
        return []


def _tell_of(region: MmapRegion, error: InvalidRegion) -> None:
    # As text: who keeps the record would keep its traceback, and with it the region.
    where = f"D{region.dimension_id:02d}"
    logger.warning("the layers of %s cannot be found by keyword or frequency: %s", where, str(error))
