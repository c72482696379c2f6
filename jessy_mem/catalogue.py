"""What is known of all loaded dimensions, mapped or evicted: which layers they have, and where the plan places them.

An index and addresses are made when somebody asks for the first time, and kept up to date from then on; most programs
never ask. What changes in a dimension costs what changed. Of what is evicted by the time of the first question the
index is made from the files, which are opened for that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from unicodedata import normalize

from jessy_mem._core.index import LayerIndex
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.whole import mended, whole
from jessy_mem.addresses import Addresses
from jessy_mem.errors import ConsciousnessError, DimensionNotFound, InvalidRegion, RegionNotFound
from jessy_mem.evicted import Evicted, EvictedDimensions
from jessy_mem.layout import MemoryLayout
from jessy_mem.opening import Opener, Stack

__all__ = ["Catalogue"]

logger = logging.getLogger("jessy_mem")

AT_ONCE = 64  # dimensions that are indexed while the owner's lock is held


class Catalogue:
    """What is known of `regions`, which are mapped, and of what was evicted.

    Not thread-safe but for `complete_index`: the owner locks. `note_name(dimension, name)` is called for each file of
    the base folder that is mapped: however it came there, it has the name that it says; but `see_name(dimension)`,
    before it is mapped, as long as that answers that the name is of no interest yet.
    """

    def __init__(self, regions: Mapping[int, MmapRegion], layout: MemoryLayout, opener: Opener) -> None:
        self.evicted = EvictedDimensions()
        self.edition = 0  # another one when a layer may have come, changed or gone
        self.note_name: Callable[[int, str], object] = lambda *said: None
        self.see_name: Callable[[int], bool] = lambda dimension: True
        self._regions = regions
        self._opener = opener
        self._index = LayerIndex()
        self._unindexed: set[int] | None = None  # what is not in the index; None before the first question
        self._layout = layout
        self._addresses = Addresses(layout)
        self._own_names: dict[int, str] = {}  # in files at paths of the user's

    def expect(self, dimension: int) -> bool:
        """A dimension that was not loaded is about to be mapped; whether `put` would add nothing to that.

        So it is as long as nobody asks, and nothing is evicted.
        """
        if self.evicted or self._unindexed is not None or self._addresses.in_use or dimension in self._opener.named:
            return False
        self.edition += 1
        return self.see_name(dimension)

    def put(self, dimension: int, region: MmapRegion) -> None:
        """A dimension is mapped now, in whatever way it was there before."""
        known = self.evicted.of(dimension) if self.evicted else None
        if known is None or known.generation != region.generation or dimension in self.evicted.changed:
            self.edition += 1
        if known is not None:
            self.evicted.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.add(dimension)
        if self._addresses.in_use:
            self._addresses.put(dimension, region.size)
        self._note(dimension, region)

    def remove(self, dimension: int) -> None:
        """A dimension is not loaded any more."""
        self.edition += 1
        self.evicted.remove(dimension)
        self._own_names.pop(dimension, None)
        self._index.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.discard(dimension)
        self._addresses.remove(dimension)

    def unmap(self, dimension: int, region: MmapRegion, source: str) -> None:
        """A dimension is evicted now; it comes back from `source`."""
        if self._unindexed is not None and dimension in self._unindexed:
            self._index_now(dimension)
        self.evicted.put(dimension, Evicted(region.generation, region.n_layers, source, region.size))

    def change(self, dimension: int, region: MmapRegion, layers: Iterable[int] | None) -> None:
        """Those `layers` of a mapped dimension are not what they were; or nobody knows which."""
        self.edition += 1
        self._note(dimension, region)
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

    def _note(self, dimension: int, region: MmapRegion) -> None:
        if region.source != "mmap":
            return
        if dimension in self._opener.named:
            self._own_names[dimension] = normalize("NFC", region.name)
        else:
            self.note_name(dimension, region.name)

    def names(self) -> dict[str, int]:
        """The names of all that is mapped, and of what was loaded from a path of the user's, which no register has."""
        found = [(normalize("NFC", region.name), dimension) for dimension, region in self._regions.items()]
        found += [(name, dimension) for dimension, name in self._own_names.items()]
        return dict(sorted(found, reverse=True))

    def find(self, name: str) -> int | None:
        """The dimension of that name that was loaded from a path of the user's. Needs no lock."""
        name = normalize("NFC", name)
        return min((each for each, own in self._own_names.copy().items() if own == name), default=None)

    def add(self, dimension: int, evicted: Evicted) -> None:
        """A dimension is known, and mapped on its first access: how many layers it has is seen at the first look."""
        whole(self._add_now, dimension, evicted, repair=self.repair)

    def _add_now(self, dimension: int, evicted: Evicted) -> None:
        self.evicted.put(dimension, evicted)
        self._mark_changed_now(dimension)

    def mark_changed(self, dimension: int, generation: int | None = None) -> None:
        """The files of an evicted dimension are others now: its layers can be found again after a look at them."""
        whole(self._mark_changed_now, dimension, generation, repair=self.repair)

    def _mark_changed_now(self, dimension: int, generation: int | None = None) -> None:
        self.edition += 1
        self.evicted.mark_changed(dimension, generation)
        self._index.remove(dimension)
        if self._unindexed is not None:
            self._unindexed.discard(dimension)

    def look_again(self, dimension: int) -> None:
        """Remember what an evicted dimension is now, if it has changed, by a look at its files.

        DimensionNotFound, InvalidRegion or MappingError if they cannot be opened: then it is as it was.
        """
        known = self.evicted.of(dimension)
        if known is not None and dimension in self.evicted.changed:
            stack = self._opener.open(self._opener.place_of(dimension), None, known.source)
            whole(self._look_again_now, dimension, stack, repair=self.repair)

    def _look_again_now(self, dimension: int, stack: Stack) -> None:
        region = make_region(stack, False, bytearray)
        self.edition += 1
        self.evicted.put(dimension, Evicted(region.generation, region.n_layers, stack[0].source, region.size))
        if self._unindexed is not None:
            self._unindexed.add(dimension)
        if self._addresses.in_use:
            self._addresses.put(dimension, region.size)

    def count_layers(self) -> int:
        return sum(region.n_layers for region in self._regions.values()) + self.evicted.n_layers

    @property
    def complete_index(self) -> LayerIndex | None:
        """The index, if all layers there are are in it; needs no lock, and neither does a question to it."""
        return None if self._unindexed or self._unindexed is None else self._index

    def repair(self) -> None:
        """After an interrupt, which may have left anything half done: the index is made anew when somebody asks."""
        self.evicted.repair()
        if self._unindexed is not None:  # before the index is another one: questions take no lock
            self._unindexed = self._all_but_changed()
        self._index = LayerIndex()
        if self._addresses.in_use:
            self._addresses = Addresses(self._layout)

    def indexed(self) -> LayerIndex:
        """The index of all layers there are; MappingError if files cannot be opened now."""
        while (index := self.index_more()) is None:
            pass
        return index

    def index_more(self) -> LayerIndex | None:
        """The same in steps, between which the owner may let others have the lock; None if there is more to do."""
        with UnmapTogether():
            for dimension in list(islice(self._missing(), AT_ONCE)):
                self._index_now(dimension)
        return None if self._unindexed else self._index

    def has_layer(self, dimension: int, layer: int) -> bool:
        """Whether an evicted dimension has a layer; MappingError if its files cannot be opened now."""
        if dimension in self._missing():
            self._index_now(dimension)
        return self._index.has_layer(dimension, layer)

    def _missing(self) -> set[int]:
        """What is not in the index, from the first question on."""
        if self._unindexed is None:
            self._unindexed = self._all_but_changed()
        return self._unindexed

    def _all_but_changed(self) -> set[int]:
        """What the index should have; what has changed while it was evicted comes to it when it is looked at."""
        return {*self._regions, *self.evicted} - self.evicted.changed

    def _index_now(self, dimension: int) -> None:
        """Index a dimension; nothing of one whose files are gone or damaged."""
        stack = self._stack_of(dimension)
        mended(partial(self._put_into_index, dimension, stack), self.repair)

    def _put_into_index(self, dimension: int, stack: Stack) -> None:
        try:
            if stack:
                self._index.put_stack(dimension, stack, stack[0].name)
        except InvalidRegion as error:  # keywords were overwritten in the file
            stack = ()
            _tell_of(dimension, error)
        if not stack:
            self._index.put(dimension, ())
        if self._unindexed is not None:
            self._unindexed.discard(dimension)

    def _stack_of(self, dimension: int) -> Stack:
        """The files of a dimension; none if they are gone or damaged."""
        region = self._regions.get(dimension)
        if region is not None:
            return region._stack
        known = self.evicted.of(dimension)
        assert known is not None  # what is missing in the index is loaded
        try:
            stack = self._opener.open(self._opener.place_of(dimension), None, known.source)
        except (DimensionNotFound, InvalidRegion) as error:
            _tell_of(dimension, error)
            return ()
        if (stack[-1].generation, stack[0].source) != (known.generation, known.source):
            self.mark_changed(dimension)  # and found as it is now
        return stack

    def addressed(self) -> Addresses:
        """The addresses of all dimensions there are."""
        if not self._addresses.in_use:
            sizes = [(dimension, region.size) for dimension, region in self._regions.items()]
            sizes += [(each, evicted.size) for each in self.evicted if (evicted := self.evicted.of(each))]
            self._addresses.begin(sizes)
        return self._addresses

    def address_of(self, dimension: int) -> int | None:
        """Where a dimension begins in the plan, None if it has no place there; RegionNotFound if it is not there."""
        address = self.addressed().find(dimension)
        if dimension not in self._regions and dimension not in self.evicted:
            raise RegionNotFound(dimension, "it was unloaded meanwhile")
        return address


def _tell_of(dimension: int, error: ConsciousnessError) -> None:
    # As text: who keeps the record would keep its traceback, and with it the files.
    logger.warning("the layers of D%02d cannot be found by keyword or frequency: %s", dimension, str(error))
