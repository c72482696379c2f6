"""The Learner against a table of a few lines: what it asks of a table, it asks by the names of `Table`."""

from __future__ import annotations

import os

import pytest
from inside import stack_of

import jessy_mem as jm
from jessy_mem._core.region import make_region
from jessy_mem._core.stack import open_delta, open_stack
from jessy_mem.ids import IdRegister
from jessy_mem.learning import Learner
from jessy_mem.opening import Place


class FakeTable:
    """Regions in a dict, blocks of a small pool, no budget and no lock. A stack that changes is a region anew."""

    def __init__(self, base):
        self.base, self.regions, self.n_settled, self.fits = base, {}, 0, True
        self.pool = jm.PoolAllocator(((1, 4096),), 1)
        self.helpful = list

    def _check_open(self):
        pass

    def _settle(self):
        self.n_settled += 1

    def _known(self, dimension):
        return self.regions.get(dimension)

    def _place_of(self, dimension):
        planned = dimension < 15
        path = f"{self.base}/D{dimension:02d}/region.mmap"
        return Place(dimension, path, False, planned, dimension in (9, 14), "reserve", 1 << 20)

    def _allocate(self, n_bytes, segment):
        return self.pool.allocate(n_bytes)

    def load_dimension(self, dimension):
        self._exchange(dimension, None, self._open_stack(dimension))
        return self.regions[dimension]

    def region(self, dimension):
        return self.regions.get(dimension) or self.load_dimension(dimension)

    def _refuse(self):
        if not self.fits:
            raise jm.LimitExceeded(1, 1, 1, "reserve")

    def _open_stack(self, dimension):
        self._refuse()
        return open_stack(self._place_of(dimension).path, dimension)

    def _open_delta(self, dimension, stack, generation):
        self._refuse()
        return open_delta(stack, self._place_of(dimension).path, generation)

    def _reopen(self, dimension, stack):
        return self._open_stack(dimension)

    def _exchange(self, dimension, old, stack):
        if self.regions.get(dimension) is not old:
            return False
        self.regions.pop(dimension, None)
        if stack is not None:
            self.regions[dimension] = make_region(stack, False, bytearray)
        return True

    def _grow(self, dimension, region, delta):
        return self._restack(dimension, region, (*stack_of(region), delta), ())

    def _restack(self, dimension, region, stack, changed):
        return self._exchange(dimension, region, stack)

    def _refresh_dimension(self, dimension):
        region = self.regions[dimension]
        self._exchange(dimension, region, self._open_stack(dimension))

    def _forget(self, dimension):
        self.regions.pop(dimension, None)

    def _helpful(self, protos, segment, refusal, for_block):
        return self.helpful(protos)


REFUSAL = jm.LimitExceeded(9, 10, 5, "reserve")


@pytest.fixture
def table(tmp_path):
    table = FakeTable(tmp_path)
    yield table
    table.regions.clear()


def learner_of(table, **options):
    layout = jm.default_layout()
    return Learner(table, IdRegister(os.fspath(table.base), layout), layout, jm.MemoryConfig(**options))


def spec(text, **options):
    return jm.LayerSpec(text=text, **options)


def text_of(table, dimension, layer):
    return table.regions[dimension].layer(layer).text


def test_a_dimension_is_created_changed_and_crystallized(table):
    learner = learner_of(table)
    dimension = learner.create("Humor", [spec("a joke", keywords=("joke",))], user=False)
    assert dimension == 15
    assert table.regions[15].source == "pool"
    assert learner.append(15, spec("another")) == (15, 1)
    assert learner.update((15, 0), spec("a better joke")) == (15, 0)
    assert [text_of(table, 15, layer) for layer in (0, 1)] == ["a better joke", "another"]
    path = learner.crystallize(15)
    assert path == table.base / "D15" / "region.mmap"
    assert (table.regions[15].source, text_of(table, 15, 0)) == ("mmap", "a better joke")
    assert (learner.protos.n_bytes, learner.protos.crystallizations.n_events) == ({}, 1)
    assert table.pool.usage()[0] == 0
    assert table.n_settled == 4
    assert learner.crystallize(15) == path  # it is already
    assert table.n_settled == 4


def test_a_file_without_room_beside_its_block_is_left_unmapped(table):
    learner = learner_of(table)
    learner.create("Humor", [spec("a joke")], user=False)
    table.fits = False
    assert learner.crystallize(15).is_file()
    assert table.regions == {}


def test_what_is_forgotten_is_gone_and_its_id_is_not_given_again(table):
    learner = learner_of(table)
    learner.create("Humor", [spec("a joke")], user=True)
    path = learner.crystallize(1000)
    learner.forget(1000)
    assert (table.regions, path.exists()) == ({}, False)
    with pytest.raises(jm.RegionNotFound):
        learner.forget(1000)
    assert learner.create("Humor", [spec("a joke")], user=True) == 1001


def test_what_is_no_proto_dimension_is_not_changed(table):
    learner = learner_of(table)
    for dimension, error in ((9, jm.ImmutableDimension), (15, jm.RegionNotFound)):
        with pytest.raises(error):
            learner.append(dimension, spec("more"))
        with pytest.raises(error):
            learner.crystallize(dimension)
    with pytest.raises(jm.ImmutableDimension):
        learner.forget(1)


def test_another_id_is_taken_if_somebody_was_faster(table):
    learner = learner_of(table)
    table.regions[15] = "somebody else's"
    assert learner.create("Humor", [spec("a joke")], user=False) == 16
    assert list(learner.protos.n_bytes) == [16]


@pytest.mark.parametrize(
    ("on_full", "relieved", "sources"),
    [("crystallize", True, ["mmap", "pool"]), ("drop", True, [None, "pool"]), ("raise", False, ["pool", "pool"])],
)
def test_the_oldest_goes_when_room_is_needed(table, on_full, relieved, sources):
    learner = learner_of(table, on_full=on_full)
    told = []
    learner.relief.on_evict(lambda *what: told.append(what))
    for name in ("Humor", "Irony"):
        learner.create(name, [spec("a joke")], user=False)
    size = table.regions[15].size
    assert learner.relief.relieve("reserve", REFUSAL, True) is relieved
    assert [getattr(table.regions.get(dimension), "source", None) for dimension in (15, 16)] == sources
    assert told == ([(15, "drop", size)] if on_full == "drop" else [])
    assert learner.relief.n_drops == len(told)


def test_nothing_is_dropped_for_a_load(table):
    learner = learner_of(table, on_full="drop")
    learner.create("Humor", [spec("a joke")], user=False)
    assert not learner.relief.relieve("reserve", REFUSAL, False)
    assert 15 in table.regions


@pytest.mark.parametrize(("helpful", "relieved"), [([], False), (None, True)])
def test_the_table_says_what_would_help(table, helpful, relieved):
    learner = learner_of(table)
    learner.create("Humor", [spec("a joke")], user=False)
    table.helpful = lambda protos: helpful
    assert learner.relief.relieve("reserve", REFUSAL, True) is relieved
    assert table.regions[15].source == "pool"
