"""The Learner, and what makes room with it, against a table of a few lines: all that is asked of one is `Table`."""

from __future__ import annotations

import errno
import os

import pytest

import jessy_mem as jm
from jessy_mem._core.region import make_region
from jessy_mem.ids import IdRegister
from jessy_mem.learning import Learner
from jessy_mem.opening import Opener
from jessy_mem.relief import Relief

LAYOUT = jm.default_layout()


class FakeTable(dict):
    """Regions by dimension; no budget and no lock. A stack that changes is a region anew."""

    _known, _forget, _allocate = dict.get, dict.pop, lambda self, n_bytes, segment: self.pool.allocate(n_bytes)
    _admit = _check_open = lambda *given: None

    def _exchange(self, dimension, old, stack, changed=()):
        if done := self.get(dimension) is old:
            self[dimension] = stack and make_region(stack, False, bytearray)
        return done

    def load_dimension(self, dimension, exist_ok=True):
        self._exchange(dimension, self.get(dimension), self.opener.open(self.opener.place_of(dimension), None))
        return self[dimension]

    _refresh_dimension = load_dimension


REFUSAL = jm.LimitExceeded(9, 10, 5, "reserve")


@pytest.fixture
def table(tmp_path):
    table = FakeTable()
    table.opener, table.pool = Opener(jm.MemoryConfig(base_path=tmp_path), LAYOUT), jm.PoolAllocator(((1, 4096),), 1)
    yield table
    table.clear()


@pytest.fixture
def learner(table, tmp_path):
    learner = Learner(table, table.opener, IdRegister(os.fspath(tmp_path), LAYOUT), LAYOUT, jm.MemoryConfig())
    yield learner
    learner.files.unlinked.let_go()
    learner.ids.close()


def spec(text, **options):
    return jm.LayerSpec(text=text, **options)


def text_of(table, dimension, layer):
    return table[dimension].layer(layer).text


def test_a_dimension_is_created_changed_and_crystallized(table, learner, tmp_path):
    dimension = learner.create("Humor", [spec("a joke", keywords=("joke",))], user=False)
    assert dimension == 15
    assert table[15].source == "pool"
    assert learner.append(15, spec("another")) == (15, 1)
    assert learner.update((15, 0), spec("a better joke")) == (15, 0)
    assert [text_of(table, 15, layer) for layer in (0, 1)] == ["a better joke", "another"]
    path = learner.crystallize(15)
    assert path == tmp_path / "D15" / "region.mmap"
    assert (table[15].source, text_of(table, 15, 0)) == ("mmap", "a better joke")
    assert (learner.protos.n_bytes, learner.protos.crystallizations.n_events) == ({}, 1)
    assert table.pool.usage()[0] == 0
    assert learner.append(15, spec("a last one")) == (15, 2)
    assert (table[15].n_deltas, text_of(table, 15, 2)) == (1, "a last one")
    assert learner.crystallize(15) == path  # it is already
    assert table[15].n_deltas == 1


def refuse(*room):
    raise REFUSAL


def test_a_file_without_room_beside_its_block_is_left_unmapped(table, learner):
    learner.create("Humor", [spec("a joke")], user=False)
    table._admit = refuse  # the fake's own
    assert learner.crystallize(15).is_file()
    assert table == {15: None}


def test_what_is_forgotten_is_gone_and_its_id_is_not_given_again(table, learner):
    learner.create("Humor", [spec("a joke")], user=True)
    path = learner.crystallize(1000)
    learner.forget(1000)
    assert (table, path.exists()) == ({}, False)
    with pytest.raises(jm.RegionNotFound):
        learner.forget(1000)
    assert learner.create("Humor", [spec("a joke")], user=True) == 1001


def test_what_is_no_proto_dimension_is_not_changed(table, learner):
    for dimension, error in ((9, jm.ImmutableDimension), (15, jm.RegionNotFound)):
        with pytest.raises(error):
            learner.append(dimension, spec("more"))
        with pytest.raises(error):
            learner.crystallize(dimension)
    with pytest.raises(jm.ImmutableDimension):
        learner.forget(1)


def test_another_id_is_taken_if_somebody_was_faster(table, learner):
    table[15] = "somebody else's"
    assert learner.create("Humor", [spec("a joke")], user=False) == 16
    assert list(learner.protos.n_bytes) == [16]


def test_what_is_no_proto_dimension_is_not_dropped(learner):
    assert (learner.drop(15), learner.n_drops) == (0, 0)


def test_first_layers_that_come_too_late_leave_no_block(table, learner, monkeypatch):
    """The number was taken meanwhile, by a load from a path of the caller's own."""
    learner.create("Humor", [], user=False)
    monkeypatch.setattr(table, "_exchange", lambda *seen: False)  # the fake's own
    with pytest.raises(jm.RegionNotFound, match="meanwhile"):
        learner.append(15, spec("a joke"))
    assert table.pool.usage()[0] == 0


def test_change_of_what_was_loaded_anew_meanwhile_is_read_from_its_files(table, learner):
    learner.create("Humor", [spec("a joke")], user=False)
    learner.crystallize(15)
    exchange, refused = table._exchange, []  # the fake's own

    def once_too_late(dimension, old, stack, changed=()):
        if changed and not refused:
            refused.append(changed)
            return False
        return exchange(dimension, old, stack, changed)

    table._exchange = once_too_late  # the same
    assert learner.append(15, spec("another")) == (15, 1)
    assert (len(refused), text_of(table, 15, 1)) == (1, "another")


class FakeFull:
    """A table that has no room, and what would help it."""

    def __init__(self, helpful=list):
        self._helpful = lambda protos, segment, refusal, for_block: helpful(protos)


def relief_of(learner, on_full):
    return Relief(learner.protos, on_full, learner.drop)


@pytest.mark.parametrize(
    ("on_full", "relieved", "sources"),
    [("crystallize", True, ["mmap", "pool"]), ("drop", True, [None, "pool"]), ("raise", False, ["pool", "pool"])],
)
def test_the_oldest_goes_when_room_is_needed(table, learner, on_full, relieved, sources):
    relief, told = relief_of(learner, on_full), []
    relief.on_evict(lambda *what: told.append(what))
    for name in ("Humor", "Irony"):
        learner.create(name, [spec("a joke")], user=False)
    size = table[15].size
    assert relief.relieve(FakeFull(), "reserve", REFUSAL, True) is relieved
    assert [getattr(table.get(dimension), "source", None) for dimension in (15, 16)] == sources
    assert told == ([(15, "drop", size)] if on_full == "drop" else [])
    assert learner.n_drops == len(told)


def test_what_grows_does_not_go_to_make_room_for_itself(table, learner):
    for name in ("Humor", "Irony"):
        learner.create(name, [spec("a joke")], user=False)
    with learner.protos.growing(15):
        assert relief_of(learner, "crystallize").relieve(FakeFull(), "reserve", REFUSAL, True)
    assert [table[dimension].source for dimension in (15, 16)] == ["pool", "mmap"]


def test_nothing_is_dropped_for_a_load(table, learner):
    learner.create("Humor", [spec("a joke")], user=False)
    assert not relief_of(learner, "drop").relieve(FakeFull(), "reserve", REFUSAL, False)
    assert 15 in table


@pytest.mark.parametrize(("helpful", "relieved"), [([], False), (None, True)])
def test_the_table_says_what_would_help(table, learner, helpful, relieved):
    learner.create("Humor", [spec("a joke")], user=False)
    full = FakeFull(lambda protos: helpful)
    assert relief_of(learner, "crystallize").relieve(full, "reserve", REFUSAL, True) is relieved
    assert table[15].source == "pool"


def test_why_no_room_could_be_made_is_told_with_the_refusal(table, learner, inject):
    learner.create("Humor", [spec("a joke")], user=False)
    refusal = jm.AllocationFailed(5, 0, {})
    relief = relief_of(learner, "crystallize")
    with inject(OSError(errno.ENOSPC, "disk full"), "os.write"), pytest.raises(jm.AllocationFailed) as told:
        relief.relieve(FakeFull(), "reserve", refusal, True)
    assert told.value is refusal
    assert "disk full" in told.value.__notes__[0]
    assert not relief.relieve(FakeFull(lambda protos: [99]), "reserve", REFUSAL, True)  # which is none any more
