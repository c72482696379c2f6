"""What a change by another process means here: against a table that only notes what it is asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from world import World

from jessy_mem._core.region import MmapRegion
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import DimensionNotFound, LimitExceeded
from jessy_mem.evicted import Evicted
from jessy_mem.uptake import Uptake


class FakeCatalogue:
    def __init__(self):
        self.added, self.changed, self.names = {}, {}, {}

    def note_name(self, dimension, name):
        self.names[dimension] = name

    def add(self, dimension, evicted):
        self.added[dimension] = evicted

    def mark_changed(self, dimension, generation=None):
        self.changed[dimension] = generation


class FakeTable:
    """Dimensions 1..14 are planned."""

    def __init__(self, world):
        self.world, self._closed, self.known, self.named = world, False, {}, set()
        self.unmapped, self.removed, self.refreshed = [], [], True

    def _known(self, dimension):
        return self.known.get(dimension)

    def _loaded_ids(self):
        return set(self.known)

    def _place_of(self, dimension):
        path, planned = str(self.world.path(dimension)), dimension < 15
        return SimpleNamespace(dimension=dimension, path=path, named=dimension in self.named, planned=planned)

    def _refresh_region(self, dimension, region):
        if isinstance(self.refreshed, Exception):
            raise self.refreshed
        return self.refreshed

    def close(self):
        self._closed = True

    def _unmap(self, dimension, source=None):
        self.unmapped.append((dimension, source))

    def _remove(self, dimension):
        self.removed.append(dimension)


class Here:
    def __init__(self, folder, **options):
        self.world = World(folder)
        self.table, self.catalogue, self.foreign = FakeTable(self.world), FakeCatalogue(), set()
        config = MemoryConfig(base_path=folder, **options)
        self.noted = []
        self.uptake = Uptake(config, self.catalogue, self.noted.append, lambda each: each in self.foreign)

    def take_up(self, dimension, generation=None):
        return self.uptake.take_up(self.table, dimension, generation)


@pytest.fixture
def here(tmp_path):
    made = Here(tmp_path)
    yield made
    made.table.known, made.table.refreshed = {}, None  # whose traceback holds a region


def region_of(world, dimension) -> MmapRegion:
    return MmapRegion(dimension, world.write(dimension))


def test_all_dimensions_are_those_loaded_and_those_with_a_folder(here):
    here.world.write_all(16, 20)
    here.table.known[3] = here.table.known[16] = "loaded"
    assert list(here.uptake.all_dimensions(here.table)) == [3, 16, 20]


def test_learned_dimension_that_is_new_is_known_and_mapped_later(here):
    here.world.write(20, generation=3)
    assert here.take_up(20) == "added"
    assert here.catalogue.added == {20: Evicted(3, 0, "mmap", 0)}
    assert here.catalogue.names == {20: "dimension 20"}
    assert here.take_up(20, 4) == "added"  # as it was told
    assert here.catalogue.added == {20: Evicted(4, 0, "mmap", 0)}


@pytest.mark.parametrize("why", ["planned", "unwanted", "named", "closed", "no file", "no region"])
def test_what_is_not_wanted_here_is_not_added(here, why):
    dimension = 3 if why == "planned" else 20
    path = here.world.path(dimension)
    if why == "no region":
        path.parent.mkdir(parents=True)
        path.write_bytes(b"nothing")
    elif why != "no file":
        here.world.write(dimension)
    if why == "unwanted":
        here.uptake.unwanted.add(dimension)
    if why == "named":
        here.table.named.add(dimension)
    if why == "closed":
        here.table.close()
    assert here.take_up(dimension) is None
    assert here.catalogue.added == {}
    # Its name is taken all the same, if it is of the base folder and has a file.
    assert here.noted == ([dimension] if why in {"planned", "unwanted", "no region"} else [])


def test_proto_dimension_changes_only_if_it_was_the_parents(here):
    here.world.write(20, generation=2)
    here.table.known[20] = Evicted(1, 1, "pool", 100)
    assert here.take_up(20) is None
    here.foreign.add(20)
    assert here.take_up(20) == "changed"
    assert here.table.unmapped == [(20, "mmap")]
    assert here.catalogue.changed == {20: 2}
    here.world.path(20).unlink()
    assert here.take_up(20) is None


def test_mapped_dimension_is_refreshed(here):
    here.table.known[20] = region_of(here.world, 20)
    assert here.take_up(20) == "changed"
    here.table.refreshed = False
    assert here.take_up(20) is None
    assert here.table.unmapped == here.table.removed == []


def test_mapped_dimension_without_room_for_its_new_files_is_evicted(here):
    here.table.known[20] = region_of(here.world, 20)
    here.table.refreshed = LimitExceeded(0, 1, 2, "reserve")
    assert here.take_up(20, 9) == "changed"
    assert here.table.unmapped == [(20, None)]
    assert here.catalogue.changed == {20: 9}


@pytest.mark.parametrize("dimension", [3, 20])
@pytest.mark.parametrize("late", [True, False])
def test_mapped_dimension_whose_files_are_gone_is_removed_unless_it_is_planned(here, dimension, late):
    here.table.known[dimension] = region_of(here.world, dimension)
    if late:  # between two looks
        here.table.refreshed = DimensionNotFound(dimension, "gone")
    else:
        here.world.path(dimension).unlink()
    assert here.take_up(dimension) == (None if dimension == 3 else "removed")
    assert here.table.removed == ([] if dimension == 3 else [20])


def test_evicted_dimension_is_marked_if_its_files_are_others(here):
    here.world.write(20, generation=2)
    here.table.known[20] = Evicted(2, 4, "mmap", 100)
    assert here.take_up(20) is None
    here.table.known[20] = Evicted(1, 4, "mmap", 100)
    assert here.take_up(20) == "changed"
    assert here.catalogue.changed == {20: 2}
    here.world.path(20).unlink()
    assert here.take_up(20) == "removed"


@pytest.mark.parametrize(("simulation", "expected"), [("auto", "changed"), ("always", None)])
def test_simulated_dimension_gives_way_to_its_file(tmp_path, simulation, expected):
    here = Here(tmp_path, simulation=simulation)
    here.table.known[3] = Evicted(0, 4, "simulated", 100)
    assert here.take_up(3) is None  # there is no file
    here.world.write(3)
    assert here.take_up(3) == expected
