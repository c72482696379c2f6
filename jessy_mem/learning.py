"""Learner: what is learned, changed and forgotten, by name and by number.

How a proto-dimension is held and becomes a file is protos.py, how a file grows, files.py. Which table it is in, the
Learner does not know: it asks the few things that `Table` names. Its methods are those of MmapManager with the same
names, documented there; to settle what was charged is the caller's.

Locks are taken in this order: the Learner's, the folder's, the table's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from jessy_mem import given
from jessy_mem._core.folder import is_there
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.whole import whole
from jessy_mem.batch import Batch
from jessy_mem.builder import LayerSpec, is_immutable_file
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import (
    AllocationFailed,
    ConsciousnessError,
    DimensionExists,
    ImmutableDimension,
    LayerNotFound,
    LimitExceeded,
    LockTimeout,
    ManagerClosed,
    MappingError,
    ReadOnly,
    RegionNotFound,
    UnsavedLearning,
)
from jessy_mem.files import Files
from jessy_mem.growth import Announce, Change, Changes, Table, deltas_of, has_base, packed_base
from jessy_mem.ids import IdRegister, Reservation
from jessy_mem.layout import MAX_DIMENSION, MAX_LAYER, LayerId, MemoryLayout
from jessy_mem.names import checked_name
from jessy_mem.opening import Opener
from jessy_mem.protos import Protos
from jessy_mem.publish import withdraw

__all__ = ["Learner"]


class Learner:
    """Creates, changes, crystallizes and forgets dimensions of a table that it is given. Thread-safe.

    `opener` knows where dimensions belong, and opens their files. `ids` gives each its number and name. `config` says
    what to do when the pool is full, and at the end. `announce(dimension, what, generation)` is called for each change
    after it was published.
    """

    def __init__(
        self,
        table: Table,
        opener: Opener,
        ids: IdRegister,
        layout: MemoryLayout,
        config: MemoryConfig,
        announce: Announce = lambda *what: None,
    ) -> None:
        batch = Batch() if config.durability == "batch" else None
        self.files = Files(table, opener, ids, config.total_bytes, batch, announce)
        self.protos = Protos(table, opener, self.files, layout, config.total_bytes, config.record_latency)
        self.n_drops = 0
        self._table = table
        self._opener = opener
        self.ids = ids
        self._layout = layout
        self._config = config
        self._ended = False

    # Names and new dimensions

    def create(self, name: str, layers: Iterable[LayerSpec], user: bool) -> int:
        self._check_writable()
        name, changes = checked_name(name), numbered(layers)
        segment = "user" if user else "reserve"
        if not changes:
            dimension = self._reserve(name, segment)
            self.protos.empty[dimension] = name
            return dimension
        first = self._layout.ids_of(segment)[0][0]
        packed = packed_base(first, name, changes)
        block = self.protos.block_for(packed, first)
        dimension = 0
        try:
            dimension = self._reserve(name, segment)
            while not self.protos.begin(dimension, packed, block):  # load_dimension took it, from a path of its own
                self._table._check_open()
                self.ids.release(dimension)
                dimension = self._reserve(name, segment)
        except BaseException:
            if dimension not in self.protos.n_bytes:  # else it is there, and an interrupt came after that
                with contextlib.suppress(BufferError):  # an interrupt's traceback holds it, and goes
                    block.free()  # now: the traceback would keep it
                self._release(dimension)
            raise
        return dimension

    def _reserve(self, name: str, segment: str) -> int:
        dimension, is_new = self.ids.reserve(name, segment)
        if not is_new:
            raise DimensionExists(name, dimension)
        return dimension

    def _release(self, dimension: int) -> None:
        """Let a name go that nothing has; that it cannot be told is no reason to fail."""
        if dimension:
            with contextlib.suppress(MappingError, LockTimeout):
                if not self.ids.give_way(dimension):
                    self.ids.release(dimension)

    def ensure(self, name: str, layers: Iterable[LayerSpec], user: bool) -> int:
        self._table._check_open()
        found = self.find(name)
        if found is not None and self._is_made(found):
            return found
        changes = numbered(layers)
        if found is not None and not changes and (self._config.read_only or self._source_of(found) == "simulated"):
            return found
        self._check_writable()
        name = checked_name(name)
        with self.protos.lock, self.files.locked():
            dimension, is_new = self._reserved_for_all(name, user)
            place = self._opener.place_of(dimension)
            has_file = has_base(place.path)
            if not has_file and self._source_of(dimension) == "mmap":
                self._table._forget(dimension)  # nobody told that its file is gone, or it had another name
            if has_file and self._table._known(dimension) is None:
                self._table.load_dimension(dimension, exist_ok=True)
            elif not has_file and place.planned and self._config.simulation != "always":
                self.files.waited_for[dimension] = name
            source = self._source_of(dimension)
            if changes and dimension in self.protos.empty:
                self._begin_proto(dimension, lambda region: changes)
            elif changes and source != "pool" and (not has_file or source == "simulated"):
                try:
                    self.files.begin_unless_begun(dimension, changes, name)
                except BaseException:
                    if is_new and not has_base(place.path):
                        self._release(dimension)
                    raise
            elif not (has_file or place.planned or source == "pool"):
                self.files.promised[dimension] = name
                if is_new and self._config.durability == "each":
                    self.ids.sync()
        return dimension

    def _reserved_for_all(self, name: str, user: bool) -> Reservation:
        """The dimension that has the name, or is to have it: another if another's file came to its place."""
        segment = "user" if user else "reserve"
        found = self.ids.reserve(name, segment, for_all=True)
        is_sure = found.is_new or found.dimension in self._layout.dimensions or self._table._known(found.dimension)
        if not is_sure and self.ids.give_way(found.dimension, name):
            found = self.ids.reserve(name, segment, for_all=True)
        return found

    def _is_made(self, dimension: int) -> bool:
        """Whether a dimension that was found is there, and not simulated; who only reads has it loaded then."""
        known, path = self._table._known(dimension), self._opener.place_of(dimension).path
        if known is None and self._config.read_only and has_base(path):
            known = self._table.load_dimension(dimension, exist_ok=True)
        return known is not None and (known.source == "pool" or (known.source == "mmap" and is_there(path)))

    def _source_of(self, dimension: int) -> str | None:
        known = self._table._known(dimension)
        return None if known is None else known.source

    def find(self, name: str) -> int | None:
        self._table._check_open()
        found = self.ids.find(name)
        if found is None:
            planned = (each.id for each in self._layout.dimensions.values() if each.name == name)
            found = next((each for each in planned if self._table._known(each) is not None), None)
        return found

    def names(self) -> dict[str, int]:
        self._table._check_open()
        return self.ids.names()

    # Changes

    def append(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        dimension = given.dimension_number(dimension_id)
        checked_spec(spec)

        def change(region: MmapRegion | None) -> Changes:
            if spec.layer is None:
                return {free_number(dimension, region): spec}
            check_new(dimension, spec.layer, region)
            return {spec.layer: spec}

        (layer,) = self._change(dimension, change)
        return LayerId(dimension, layer)

    def extend(self, dimension_id: int, specs: Iterable[LayerSpec]) -> list[LayerId]:
        dimension, specs = given.dimension_number(dimension_id), list(specs)
        for spec in specs:
            checked_spec(spec)

        def change(region: MmapRegion | None) -> Changes:
            first = 0 if region is None else region._next_layer
            changes = numbered(specs, first)
            for layer in changes:
                check_new(dimension, layer, region)
            return changes

        return [LayerId(dimension, layer) for layer in self._change(dimension, change)]

    def update(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        dimension, layer = LayerId.checked(layer_id)
        checked_spec(spec)
        if spec.layer not in (None, layer):
            raise ValueError(f"layer: the spec names layer {spec.layer}, the call layer {layer}")

        def change(region: MmapRegion | None) -> Changes:
            check_there(dimension, layer, region)
            return {layer: spec}

        self._change(dimension, change)
        return LayerId(dimension, layer)

    def remove(self, layer_id: tuple[int, int]) -> None:
        dimension, layer = LayerId.checked(layer_id)

        def change(region: MmapRegion | None) -> Changes:
            check_there(dimension, layer, region)
            return {layer: None}

        self._change(dimension, change)

    def compact(self, dimension_id: int) -> Path:
        self._check_writable()
        dimension = given.dimension_number(dimension_id)
        with self.protos.lock:
            if self._is_proto(dimension):
                raise RegionNotFound(dimension, "it is a proto-dimension without a file; crystallize writes it")
            return self.files.compact(dimension)

    def sync(self) -> None:
        self._table._check_open()
        with self.protos.lock:
            self.files.sync()

    def _change(self, dimension: int, change: Change) -> Changes:
        """Change a dimension, wherever it is; what was changed."""
        self._check_writable()
        with self.protos.lock:
            changes = None
            if self._is_proto(dimension):
                with self.protos.growing(dimension):
                    changes = self._change_proto(dimension, change)
            if changes is None:
                try:
                    changes = self.files.change(dimension, change)
                except ConsciousnessError as error:
                    raise error.with_traceback(None)  # noqa: B904  it is the same; frames would hold the region
        return changes

    def _change_proto(self, dimension: int, change: Change) -> Changes | None:
        """Change a proto-dimension in the pool; None if it is a file now, because there was no room."""
        if dimension in self.protos.empty:
            return self._begin_proto(dimension, change)
        while self._is_proto(dimension):
            region = self.protos.get(dimension)
            changes = change(region)
            try:
                if not changes or self.protos.grow(dimension, region, changes):
                    return changes
                is_full = False
            except (AllocationFailed, LimitExceeded):
                is_full = self._config.on_full == "crystallize" and self.protos.fits_as_file(region, changes)
                if not is_full:
                    raise
            finally:
                del region
            if is_full:  # it makes the room itself
                self.protos.publish(dimension)
            self._table._check_open()
        return None

    def _begin_proto(self, dimension: int, change: Change) -> Changes:
        """The first layers of a proto-dimension."""
        changes = change(None)
        if changes:
            packed = packed_base(dimension, self.protos.empty[dimension], changes)
            block = self.protos.block_for(packed, dimension)
            if not self.protos.begin(dimension, packed, block):
                block.free()
                self._table._check_open()
                raise RegionNotFound(dimension, "it was loaded from another path meanwhile")
            self.protos.empty.pop(dimension, None)
        return changes

    # Files, and the end of dimensions

    def crystallize(self, dimension_id: int) -> Path:
        self._check_writable()
        dimension = given.dimension_number(dimension_id)
        with self.protos.lock:
            if not self._is_crystallized(dimension):
                self.protos.publish(dimension)
        return Path(self._opener.place_of(dimension).path)

    def crystallize_many(self, dimension_ids: Iterable[int] | None) -> list[Path]:
        self._check_writable()
        with self.protos.lock:
            asked = self.protos.unsaved() if dimension_ids is None else map(given.dimension_number, dimension_ids)
            chosen = list(dict.fromkeys(asked))
            self.protos.publish(*[each for each in chosen if not self._is_crystallized(each)])
            return [Path(self._opener.place_of(each).path) for each in chosen]

    def _is_proto(self, dimension: int) -> bool:
        known = self._table._known(dimension)
        return dimension in self.protos.empty if known is None else known.source == "pool"

    def _is_crystallized(self, dimension: int) -> bool:
        known, place = self._table._known(dimension), self._opener.place_of(dimension)
        if place.planned or place.named or not is_there(place.path):
            return False
        if known is None:
            return not is_immutable_file(place.path)
        return known.source == "mmap" and not (isinstance(known, MmapRegion) and known.immutable)

    def forget(self, dimension_id: int) -> None:
        self._check_writable()
        dimension = given.dimension_number(dimension_id)
        with self.protos.lock:
            if not 0 < dimension <= MAX_DIMENSION:
                raise RegionNotFound(dimension, "there is no such dimension")
            if dimension in self._layout.dimensions:
                raise ImmutableDimension(dimension, "forgetting a core dimension")
            if dimension in self.protos.foreign:
                self.protos.remove(dimension)
                return
            with self.files.locked():
                own_file = self._own_file(dimension)
                is_known_to_all = own_file is not None or self.ids.is_empty(dimension)
                leftovers = [] if own_file is None else deltas_of(own_file)
                if own_file is not None:
                    self.files.unlinked.hold(own_file, *leftovers)
                whole(self._forget_now, dimension, own_file, leftovers, is_known_to_all)

    def _forget_now(self, dimension: int, own_file: str | None, leftovers: list[str], is_known_to_all: bool) -> None:
        if own_file is not None:
            self.ids.leave_to_file(dimension)
            withdraw(own_file, *leftovers)
            self.ids.file_is_gone(dimension)
        elif self.ids.name_of(dimension) is not None and not self.ids.give_way(dimension):
            self.ids.release(dimension)
        if is_known_to_all:
            self.files.announce(dimension, "removed", 0)
        self.protos.remove(dimension)

    def drop(self, dimension: int) -> int:
        """Give up a proto-dimension that nobody saved; returns its bytes, 0 if it is none any more."""
        known = self._table._known(dimension)
        if known is None or known.source != "pool":
            return 0
        self._release(dimension)
        self.protos.remove(dimension)
        self.n_drops += 1
        return known.size

    def _own_file(self, dimension: int) -> str | None:
        """The file to be removed with a dimension that is forgotten; raises if it must stay."""
        place = self._opener.place_of(dimension)
        known = self._table._known(dimension)
        if place.named:
            raise RegionNotFound(dimension, f"it was loaded from {place.path}; unload_dimension lets go of it")
        is_seen = os.path.lexists(place.path)
        if known is None and not is_seen and not is_there(place.path):  # what may not be looked at is not seen
            if dimension in self.protos.empty or self.ids.is_empty(dimension):
                return None
            raise RegionNotFound(dimension, f"it is not loaded, and there is no file at {place.path}")
        if known.immutable if isinstance(known, MmapRegion) else is_immutable_file(place.path):
            raise ImmutableDimension(dimension, "forgetting it")
        if known is not None and known.source == "pool" and not self.protos.is_own_file(dimension):
            return None  # what is in the place of its file is another's
        return place.path

    # The end

    def end(self) -> dict[int, str]:
        """What `on_close` says; UnsavedLearning, or the error of the first that cannot be saved.

        Gives the names, by dimension, of those that have no layer to make a file of, and are free again; none if all
        may be dropped.
        """
        with self.protos.lock:
            unsaved = self.unsaved()
            if unsaved and self._config.on_close == "raise":
                raise UnsavedLearning(unsaved)
            if unsaved:
                with contextlib.suppress(MappingError):  # told by the next one, and no reason to lose what is unsaved
                    self.files.sync()
                self.protos.publish(*unsaved, at_end=True)
            self.files.sync()
            empty = self.protos.empty.copy()
            for dimension in [*empty, *self.protos.own()]:  # their names are free again
                self._release(dimension)
                self.protos.empty.pop(dimension, None)
            self.files.unlinked.let_go()
            self.ids.close()
        return {} if self._config.on_close == "drop" else empty

    def end_for_good(self) -> dict[int, str]:
        """The same, and nothing is learned after it: nobody would save it."""
        self._ended = True
        return self.end()

    def unsaved(self) -> list[int]:
        """The proto-dimensions that the end must not lose."""
        return [] if self._config.on_close == "drop" else self.protos.unsaved()

    def bind(self, table: Table) -> None:
        """Ask `table` from now on: at the end of the one there was, a weak reference to it may be dead."""
        self._table = self.files.table = self.protos.table = table

    def _check_writable(self) -> None:
        self._table._check_open()
        if self._ended:
            raise ManagerClosed("the program ends, and its manager")
        if self._config.read_only:
            raise ReadOnly(self._config.base_path)


def checked_spec(spec: object) -> None:
    if not isinstance(spec, LayerSpec):
        raise TypeError(f"spec: {type(spec).__name__} is not a LayerSpec")


def numbered(specs: Iterable[LayerSpec], first: int = 0) -> dict[int, LayerSpec]:
    """Layers by their numbers, which are their positions by default; TypeError, ValueError."""
    found: dict[int, LayerSpec] = {}
    for spec in specs:
        checked_spec(spec)
        layer = first + len(found) if spec.layer is None else spec.layer
        if layer in found:
            raise ValueError(f"layer {layer} was added before")
        if layer > MAX_LAYER:
            raise ValueError(f"layer {layer}: a region has at most {MAX_LAYER + 1} layers")
        found[layer] = spec
    return found


def free_number(dimension: int, region: MmapRegion | None) -> int:
    """The next layer's; a number is not given again. ValueError if there is none left."""
    layer = 0 if region is None else region._next_layer
    if layer > MAX_LAYER:
        raise ValueError(
            f"layer {layer} of D{dimension:02d}: a dimension has at most {MAX_LAYER + 1} layers in its life"
        )
    return layer


def check_new(dimension: int, layer: int, region: MmapRegion | None) -> None:
    """ValueError for a number that a layer has, or may have had: below the last nobody remembers which were given."""
    if region is not None and layer < region._next_layer:
        if region._has_layer(layer):
            raise ValueError(f"layer {layer} of D{dimension:02d} exists; update_layer changes it")
        hint = f"a number is not given again, and the next is {region._next_layer}"
        raise ValueError(f"layer {layer} of D{dimension:02d}: {hint}")


def check_there(dimension: int, layer: int, region: MmapRegion | None) -> None:
    """LayerNotFound if there is no such layer."""
    if region is None:
        raise LayerNotFound(dimension, layer, "the dimension has no layer yet")
    if not region._has_layer(layer):
        region.layer(layer)  # which says what there is
