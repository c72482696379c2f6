"""Snapshot: all dimensions as they were at one moment, read by the same path as what is loaded now.

What was mapped then is held as the tuples of its files, which nobody changes; a region around one is made when it is
read. Of what was evicted only the generation is known, which is looked at when it is mapped again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from jessy_mem._core.index import LayerIndex
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import LayerRegistry
from jessy_mem.context import ContextCollection, LayerBatch, NavigationPath
from jessy_mem.errors import DimensionNotFound, InvalidRegion, LayerNotFound, LimitExceeded, ManagerClosed
from jessy_mem.layout import LayerId
from jessy_mem.opening import Stack
from jessy_mem.reading import contexts_of, copied, plain_where, with_attributes
from jessy_mem.table import RegionTable

__all__ = ["Snapshot", "map_changed", "read_changed"]


def map_changed(table: RegionTable) -> None:
    """Map what has changed while it was evicted, as far as there is room: a snapshot holds what is mapped."""
    for dimension in table._evicted.changed.copy():
        with suppress(LayerNotFound, InvalidRegion, LimitExceeded):  # of which the look after it tells
            table._restore(dimension, 0)
    read_changed(table)


def read_changed(table: RegionTable) -> None:
    """Look at what has changed while it was evicted, so that it can be found; nothing is mapped or charged."""
    for dimension in table._evicted.changed.copy():
        try:
            with table._lock:
                table._catalogue.look_again(dimension)
        except (DimensionNotFound, InvalidRegion) as error:
            table._notices.warn(dimension, f"the layers of D{dimension:02d} cannot be found: {error}")


class Snapshot(LayerRegistry):
    """What is loaded at the moment when ``memory.snapshot()`` is entered, and can be read until it is left.

    Reads like the manager: `access_layer`, `load_context`, `load_contexts`, `read_many`, `layers`, and as a read-only
    Mapping. Holds what was mapped, and what is read in it, so that is charged and not evicted meanwhile (LimitExceeded
    if more is read than fits at once); views outlive it. What was evicted when it began, and has changed by the time it
    is read, is LayerNotFound, which says so. After the end ManagerClosed. Thread-safe: others may read in it, too.
    """

    def __init__(self, table: RegionTable) -> None:
        self._count_with(table)
        self._own_lock = threading.Lock()
        self._table: RegionTable | None = table
        self._changed = LayerIndex()  # of what is not there any more as it was
        with table._lock:
            self._stacks: dict[int, Stack] = {each: region._stack for each, region in table._regions.items()}
            table._holders.watch(self._stacks)
            self._evicted = table._evicted.copy()
            self._n_layers = table._catalogue.count_layers()
            self._edition = table._catalogue.edition

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Snapshot cannot be copied or pickled: it is of one moment of one manager")

    def _end(self) -> None:
        with self._own_lock:
            self._table = None
            for dimension in list(self._regions):
                self._holders.remove(dimension)
            self._stacks.clear()
            self._evicted.clear()

    def _check_open(self) -> None:
        self._open_table()

    def _pass_gate(self) -> None:
        self._open_table()

    def _open_table(self) -> RegionTable:
        table = self._table
        if table is None:
            raise ManagerClosed("the snapshot")
        table._check_open()
        return table

    def _settle(self) -> None:
        self._open_table()._settle()

    def _restore(self, dimension: int, layer: int) -> MmapRegion:
        table = self._open_table()
        stack = self._stacks.get(dimension)
        if stack is None:
            stack = self._evicted_stack(table, dimension, layer)
        with self._own_lock:
            self._open_table()
            region = self._regions.get(dimension)
            if region is None:
                region = table._region_around(stack, table._place_of(dimension))
                self._holders.install(dimension, region)
                self._stacks[dimension] = stack
            return region

    def _evicted_stack(self, table: RegionTable, dimension: int, layer: int) -> Stack:
        evicted = self._evicted.of(dimension)
        if evicted is None:
            raise LayerNotFound(dimension, layer, "the dimension was not loaded when the snapshot began")
        stack = table._restore(dimension, layer)._stack
        if stack[-1].generation != evicted.generation:
            hint = "the dimension was evicted when the snapshot began, and has changed since; take a new snapshot"
            raise LayerNotFound(dimension, layer, hint)
        return stack

    def layers(
        self,
        dimension: int | None = None,
        keyword: str | None = None,
        frequency: tuple[float, float] | None = None,
        *,
        name: str | None = None,
        since_ns: int | None = None,
        before_ns: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[LayerId]:
        """The layers that meet every condition, ascending; what `MmapManager.layers` would have said then.

        LayerNotFound if what was evicted when it began has changed since: whether it would be found is not known.
        """
        where = plain_where(where)
        asked = (dimension, keyword, frequency, name, since_ns, before_ns)
        table = self._open_table()
        with table._lock:
            found = table._catalogue.indexed().find(*asked)
            changed = self._changed_since(table)
        if changed is not None:
            for each in changed:
                if each not in self._changed:
                    region = self._regions.get(each) or self._restore(each, 0)
                    self._changed.put_stack(each, region._stack, region.name)
            found = [each for each in found if each.dimension not in changed and self._knows(each.dimension)]
            found = sorted(found + [each for each in self._changed.find(*asked) if each.dimension in changed])
        return with_attributes(self, found, where, table._notices)

    def load_contexts(
        self, paths: Iterable[NavigationPath], *, strict: bool = False, prefetch: bool = False
    ) -> ContextCollection:
        """What `MmapManager.load_contexts` would have given then."""
        self._check_open()
        return contexts_of(self, paths, strict, self._open_table()._notices, prefetch)

    def read_many(
        self, layer_ids: Iterable[tuple[int, int]], *, out: Any = None, threads: int | None = None
    ) -> LayerBatch:
        """What `MmapManager.read_many` would have given then."""
        self._check_open()
        return copied(self, layer_ids, out, threads)

    def _knows(self, dimension: int) -> bool:
        return dimension in self._stacks or dimension in self._evicted

    def _changed_since(self, table: RegionTable) -> set[int] | None:
        """The dimensions that are not in the table as they are here; None if the table is of the same edition."""
        if table._catalogue.edition == self._edition:
            return None
        changed = set()
        for dimension in {*self._stacks, *self._evicted}:
            region, evicted = table._regions.get(dimension), table._evicted.of(dimension)
            stack = self._stacks.get(dimension)
            known = self._evicted.of(dimension)
            generation = stack[-1].generation if stack is not None else known and known.generation
            if region is not None:
                same = region._stack is stack or (stack is None and region.generation == generation)
            else:
                same = evicted is not None and evicted.generation == generation
                same = same and (dimension not in table._evicted.changed or dimension in self._evicted.changed)
            if not same:
                changed.add(dimension)
        return changed

    # The Mapping; what follows from these three is LayerRegistry's

    def __len__(self) -> int:
        """How many layers were loaded."""
        self._check_open()
        return self._n_layers

    def __contains__(self, layer_id: object) -> bool:
        self._check_open()
        try:
            dimension, layer = LayerId.of(layer_id)  # type: ignore[arg-type]
        except TypeError:
            return False
        if not self._knows(dimension):
            return False
        return (self._regions.get(dimension) or self._restore(dimension, layer))._has_layer(layer)

    def __iter__(self) -> Iterator[LayerId]:
        return iter(self.layers())

    def __bool__(self) -> bool:
        """Whether it can still be read, however many layers there are."""
        return self._table is not None

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self._stacks) + len(self._evicted)} dimensions>" if self else "<Snapshot ended>"


Mapping.register(Snapshot)
