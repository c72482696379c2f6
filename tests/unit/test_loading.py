"""Loading dimensions, all of them, and exchanging files: against a table that only notes what it is asked."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from jessy_mem.errors import DimensionAlreadyLoaded, DimensionNotFound, LimitExceeded, ManagerClosed, RegionNotFound
from jessy_mem.loading import Loader


class FakeRegion(SimpleNamespace):
    def _in_place_of(self, old):
        self.old = old
        return self


class FakeTable:
    """Dimensions are on a disk, as (source, generation), or an error; what is loaded are regions."""

    def __init__(self, folder, disk):
        self.folder, self.disk = folder, dict(disk)
        self.regions, self.evicted, self.installed = {}, {}, []
        self._regions, self._evicted = self.regions, self.evicted
        self._opener, self.n_telling = self, 0

    def begin_telling_once(self):
        self.n_telling += 1

    def tell_once(self):
        self.n_telling -= 1

    def _known(self, dimension):
        return self._regions.get(dimension) or self._evicted.get(dimension)

    def _place_of(self, dimension):
        return SimpleNamespace(path=str(self.folder / str(dimension)))

    def _open_region(self, dimension, known_source=None):
        found = self.disk.get(dimension, DimensionNotFound(dimension, "nowhere"))
        if isinstance(found, Exception):
            raise found
        return FakeRegion(source=found[0], generation=found[1])

    def _install(self, dimension, region):
        self._regions[dimension] = region
        self.installed.append(dimension)

    def load_dimension(self, dimension):
        if self._known(dimension):
            raise DimensionAlreadyLoaded(dimension)
        self._install(dimension, self._open_region(dimension))
        return self._regions[dimension]

    def reload_dimension(self, dimension):
        return loader.reload(self, dimension)


loader = Loader(always_simulates=False)


@contextmanager
def nothing():
    yield


@pytest.fixture
def table(tmp_path):
    return FakeTable(tmp_path, {1: ("mmap", 1), 2: ("simulated", 0), 3: ("mmap", 5)})


def test_all_are_loaded_and_what_cannot_be_is_told_of_once(table, caplog):
    own = Loader(always_simulates=False)
    table.disk[4] = DimensionNotFound(4, "there is none")
    for _ in range(2):
        report = own.load_all(table, [1, 2, 3, 4])
        assert (report.loaded, report.simulated, list(report.skipped)) == ([1, 3], [2], [4])
        assert report.skipped[4].__traceback__ is None
    assert len(caplog.records) == 1
    table.disk[4] = DimensionNotFound(4, "there is none again, for another reason")
    own.load_all(table, [4])
    assert len(caplog.records) == 2
    table.disk[4] = ("mmap", 1)
    assert own.load_all(table, [4]).loaded == [4]
    del table.regions[4]
    table.disk[4] = DimensionNotFound(4, "there is none again, for another reason")
    own.load_all(table, [4])
    assert len(caplog.records) == 3


def test_end_stops_loading(table):
    table.disk[2] = ManagerClosed()
    with pytest.raises(ManagerClosed):
        loader.load_all(table, [1, 2, 3])
    assert list(table.regions) == [1]
    assert table.n_telling == 0


@pytest.mark.parametrize(
    ("always", "has_file", "is_replaced"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_simulated_dimension_is_replaced_by_its_file_if_that_has_appeared(table, always, has_file, is_replaced):
    own = Loader(always_simulates=always)
    own.load_all(table, [2])
    table.disk[2] = ("mmap", 1)
    if has_file:
        (table.folder / "2").touch()
    report = own.load_all(table, [2])
    assert (report.loaded, report.simulated) == (([2], []) if is_replaced else ([], [2]))


def test_dimension_that_another_thread_loads_or_unloads_meanwhile_is_tried_again(table):
    load, lost = table.load_dimension, []

    def load_late(dimension):
        if not lost:
            lost.append(load(dimension))
        return load(dimension)

    table.load_dimension = load_late
    assert loader.load_all(table, [1]).loaded == [1]
    assert table.installed == [1]


def test_reload_swaps_all_in_one_step_or_none(table):
    for dimension in (1, 2, 3):
        table.load_dimension(dimension)
    old, inside = dict(table.regions), []

    @contextmanager
    def swapping():
        inside.append("begin")
        table.installed.clear()
        yield
        inside.append(list(table.installed))

    table.disk = {1: ("mmap", 2), 2: ("mmap", 1), 3: LimitExceeded(0, 1, 2, "core")}
    with pytest.raises(LimitExceeded):
        loader.reload_many(table, [1, 2, 3], swapping())
    assert (table.regions, inside) == (old, [])
    table.disk[3] = ("mmap", 6)
    assert loader.reload_many(table, [3, 1, 2], swapping()) == [(5, 6), (1, 2), (0, 1)]
    assert inside == ["begin", [3, 1, 2]]
    assert [table.regions[each].old for each in (1, 2, 3)] == [old[1], old[2], old[3]]


def test_reload_of_nothing_changes_nothing(table):
    assert loader.reload_many(table, [], nothing()) == []


def test_reload_knows_what_is_evicted_and_refuses_what_has_no_file(table):
    table.evicted[1] = SimpleNamespace(source="mmap", generation=7)
    assert loader.reload(table, 1) == (7, 1)
    assert table.regions[1].old is None
    with pytest.raises(RegionNotFound):
        loader.reload(table, 3)
    table.regions[3] = FakeRegion(source="pool", generation=1)
    with pytest.raises(RegionNotFound, match="crystallize"):
        loader.reload(table, 3)
