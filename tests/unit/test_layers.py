"""Finding layers by what is known of them, and the manager as a Mapping."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Mapping

import pytest
from inside import grow, open_delta, stack_of
from world import MIB, World, content_of, evicted_dimensions, manager

import jessy_mem as jm
from helpers import Layer, extended_file


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    for dimension, name in ((15, "Humor"), (16, "Humour of x"), (1000, "user:ann"), (1001, "user:änn")):
        layers = [
            Layer(0, b"zero", frequency=1.0, created_ns=10, attributes=b'{"lang": "en", "rank": 1}'),
            Layer(1, b"one", frequency=2.0, created_ns=20, attributes=b'{"lang": "de"}', keywords=(b"word",)),
            Layer(5, b"five", frequency=3.0, created_ns=30 + dimension),
        ]
        world.publish(dimension, extended_file(layers, dimension, name.encode(), version=2))
    return world


ALL = [(dimension, layer) for dimension in (15, 16, 1000, 1001) for layer in (0, 1, 5)]


@pytest.fixture
def memory(world):
    with manager(world) as memory:
        for dimension in (15, 16, 1000, 1001):
            memory.load_dimension(dimension)
        yield memory


# Conditions -------------------------------------------------------------------------------------------------------


def dimensions(found):
    return sorted({each.dimension for each in found})


def test_by_the_name_of_the_dimension(memory):
    assert dimensions(memory.layers(name="Humor")) == [15]
    assert dimensions(memory.layers(name="Humo*")) == [15, 16]
    assert dimensions(memory.layers(name="user:*")) == [1000, 1001]
    assert dimensions(memory.layers(name="*")) == [15, 16, 1000, 1001]
    assert dimensions(memory.layers(name="user:a\u0308nn")) == [1001], "the same name, however it was typed"
    assert memory.layers(name="humor") == memory.layers(name="") == memory.layers(name="Hum") == []
    assert memory.layers(16, name="Humor") == []
    assert memory.layers(15, name="Humor", keyword="word") == [(15, 1)]
    assert memory.layers(name="Humo*", frequency=(2, 9)) == [(15, 1), (15, 5), (16, 1), (16, 5)]


def test_by_the_time_a_layer_was_made(memory):
    assert memory.layers(15, since_ns=20) == [(15, 1), (15, 5)]
    assert memory.layers(15, before_ns=20) == [(15, 0)]
    assert memory.layers(since_ns=20, before_ns=21) == [(15, 1), (16, 1), (1000, 1), (1001, 1)]
    assert memory.layers(since_ns=1030) == [(1000, 5), (1001, 5)]
    assert memory.layers(since_ns=46, before_ns=47, frequency=(3, 3)) == [(16, 5)]
    assert memory.layers(since_ns=30, before_ns=30) == memory.layers(since_ns=9, before_ns=3) == []
    assert memory.layers(since_ns=0) == memory.layers(before_ns=2**70) == ALL
    for wrong in (1.5, "1"):
        with pytest.raises(TypeError):
            memory.layers(since_ns=wrong)


def test_by_attributes_that_are_equal(memory):
    assert memory.layers(where={"lang": "de"}) == [(15, 1), (16, 1), (1000, 1), (1001, 1)]
    assert memory.layers(15, where={"lang": "en", "rank": 1}) == [(15, 0)]
    assert memory.layers(where={"lang": "en", "rank": 2}) == []
    assert memory.layers(where={"missing": None}) == []
    assert memory.layers(where={}) == ALL
    assert memory.layers(name="user:*", where={"lang": "de"}, since_ns=20) == [(1000, 1), (1001, 1)]


@pytest.mark.parametrize(
    ("value", "same", "others"),
    [
        (1, [1, 1.0], [True, "1", [1], None]),
        (True, [True], [1, 1.0, "true", False]),
        (0, [0, 0.0, -0.0], [False, None, "", [], {}]),
        (False, [False], [0, None]),
        (None, [None], [0, False, ""]),
        ([1, [True]], [[1.0, [True]]], [[True, [True]], [1, [1]], [1], [1, [True], 2], {"0": 1}]),
        (
            {"a": {"b": 1}},
            [{"a": {"b": 1.0}}],
            [{"a": {"b": True}}, {"a": {}}, {"a": {"b": 1}, "c": 1}, {"c": {"b": 1}}],
        ),
    ],
)
def test_attributes_are_compared_as_json_has_them(tmp_path, value, same, others):
    """Where Python has True for 1."""
    with manager(tmp_path) as memory:
        spec = jm.LayerSpec(text="x", attributes={"n": value})
        layer = memory.append_layer(memory.create_proto_dimension("Learned"), spec)
        with memory.snapshot() as then:
            for each in same:
                assert memory.layers(where={"n": each}) == then.layers(where={"n": each}) == [layer]
            for each in others:
                assert memory.layers(where={"n": each}) == then.layers(where={"n": each}) == []


def test_attributes_that_are_damaged_hide_their_layer_and_no_other(memory, world, caplog):
    layers = [Layer(0, b"", attributes=b"[]"), Layer(1, b"", attributes=b'{"a": 1}')]
    world.publish(17, extended_file(layers, 17, b"damaged", version=2))
    memory.load_dimension(17)
    assert memory.layers(where={"a": 1}) == [(17, 1)]
    assert "D17/L0 cannot be found by its attributes" in caplog.text


def test_attributes_of_evicted_dimensions_are_read_from_their_files(world):
    world.write(20, n_layers=1, n_bytes=3 * MIB)
    with manager(world, 3.2) as memory:
        for dimension in (15, 16, 1000, 1001):
            memory.load_dimension(dimension)
        memory.load_dimension(20)
        assert evicted_dimensions(memory)
        assert memory.layers(where={"lang": "de"}) == [(15, 1), (16, 1), (1000, 1), (1001, 1)]


# What has changed costs what it is ---------------------------------------------------------------------------------


def test_what_is_found_follows_a_dimension_that_grows(memory, world):
    assert memory.layers(frequency=(0, 9)) == ALL
    assert memory.layers(since_ns=0) == ALL
    region = memory.region(15)
    world.grow(15, 2, put=[1, 9], removed=[0], name=b"Humor")
    grow(memory, 15, region, open_delta(memory, 15, stack_of(region), 2))
    now = [(15, 1), (15, 5), (15, 9), *ALL[3:]]
    assert memory.layers() == memory.layers(frequency=(0, 9)) == memory.layers(since_ns=0) == now
    assert memory.layers(keyword="word") == [(16, 1), (1000, 1), (1001, 1)]
    assert memory.layers(keyword="delta") == [(15, 1), (15, 9)]
    assert memory.layers(frequency=(5, 5)) == [(15, 9)]
    assert memory.layers(where={"lang": "de"}) == [(16, 1), (1000, 1), (1001, 1)]
    assert memory.layers(15, since_ns=10**18) == [(15, 1), (15, 9)]


# The Mapping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        lambda memory: memory.layers(),
        lambda memory: memory.layers(keyword="word"),
        lambda memory: [*memory],
        lambda memory: [view.id for view in memory.values()],
    ],
)
def test_what_finds_a_layer_is_in_every_way_what_the_class_makes(memory, asked):
    found = asked(memory)
    assert found
    assert {*map(tuple, found)} <= {*ALL}
    for each in found:
        made = jm.LayerId(*each)
        assert (each, hash(each), repr(each), type(each)) == (made, hash(made), repr(made), jm.LayerId)
        assert hash(each) == hash((each.dimension, each.layer))
        assert {each: "found"}[tuple(each)] == {tuple(each): "found"}[each] == "found"
        assert pickle.loads(pickle.dumps(each)) == each


def test_it_is_a_mapping(memory):
    assert isinstance(memory, Mapping)
    assert len(memory) == 12
    assert [*memory] == ALL
    assert all(type(each) is jm.LayerId for each in memory)
    assert memory[15, 1] is memory[jm.LayerId(15, 1)] is memory.access_layer((15, 1))
    assert [*memory.keys()] == ALL
    assert [bytes(view) for view in memory.values()] == 4 * [b"zero", b"one", b"five"]
    assert [(key, bytes(view)) for key, view in memory.items()][:2] == [((15, 0), b"zero"), ((15, 1), b"one")]
    assert (len(memory.keys()), len(memory.values()), len(memory.items())) == (12, 12, 12)
    assert memory.keys() & {(15, 0), (1, 1)} == {(15, 0)}
    assert {**memory}.keys() == {*ALL}
    match memory:
        case {}:
            pass
        case _:
            pytest.fail("no mapping pattern matches")


def test_what_is_in_it(memory):
    assert (15, 5) in memory
    assert jm.LayerId(15, 5) in memory.keys()  # noqa: SIM118
    for absent in ((15, 2), (3, 0), (15, -1), (15, 2**80), (0, 0), (15,), (15, 1, 2), "D15/L0", None, 15, (15, 1.0)):
        assert absent not in memory


def test_what_is_not_in_it_is_a_key_error_that_reads_well(memory):
    for layer_id in ((15, 2), (3, 0)):
        for error in (KeyError, LookupError, jm.LayerNotFound):
            with pytest.raises(error):
                memory[layer_id]
        assert memory.get(layer_id) is None
        assert memory.get(layer_id, 7) == 7
    assert bytes(memory.get((15, 0))) == b"zero"
    with pytest.raises(jm.LayerNotFound) as caught:
        memory[15, 2]
    assert str(caught.value) == "no layer D15/L2: the dimension has 3 layers"
    with pytest.raises(TypeError):
        memory["D15/L0"]
    with pytest.raises(TypeError):
        memory[15]
    with pytest.raises(TypeError):
        memory[15, 0] = b""


VIEWS = [operator.methodcaller(each) for each in ("keys", "values", "items")]


def test_it_is_true_as_long_as_it_is_open_and_equal_to_itself(world, tmp_path):
    empty = manager(tmp_path / "empty")
    assert (len(empty), [*empty], bool(empty)) == (0, [], True)
    assert empty == empty
    assert empty != {}
    assert hash(empty)
    empty.close()
    assert not empty
    for use in (len, list, operator.methodcaller("get", (1, 0)), lambda memory: (1, 0) in memory, *VIEWS):
        with pytest.raises(jm.ManagerClosed):
            use(empty)
    with pytest.raises(jm.ManagerClosed):
        empty[1, 0]


def test_iteration_is_over_what_there_was_at_its_beginning(memory):
    walked = iter(memory)
    next(walked)
    memory.unload_dimension(1000)
    assert len([*walked]) == 11
    assert len(memory) == 9 == len([*memory])


def test_evicted_dimensions_count_as_loaded(tmp_path):
    world = World(tmp_path)
    for dimension in (15, 16, 17):
        world.write(dimension, n_layers=2, n_bytes=MIB)
    with manager(world, 6) as memory:
        for dimension in (15, 16, 17):
            memory.load_dimension(dimension)
        assert (len(memory), len([*memory])) == (6, 6)
        (evicted,) = evicted_dimensions(memory)
        assert ((evicted, 1) in memory, (evicted, 2) in memory) == (True, False)
        assert evicted_dimensions(memory) == {evicted}, "to ask maps nothing"
        assert bytes(memory[evicted, 1]) == content_of(evicted, 1, n_bytes=MIB)
        assert sum(view.n_bytes for view in memory.values()) == 6 * MIB, "one after the other, they come and go"


def test_dimension_that_goes_while_its_attributes_are_read_is_not_found(tmp_path, inject):
    def and_forget(has_attributes):
        def read(layers, layer_id, *more):
            if layer_id in memory:
                memory.forget(layer_id.dimension)
            return has_attributes(layers, layer_id, *more)

        return read

    with manager(tmp_path) as memory:
        memory.ensure_dimension("tea", [jm.LayerSpec(text="a", attributes={"lang": "en"})])
        # Private: the moment between what was found and the look at its attributes.
        with inject.around("jessy_mem.reading._has_attributes", and_forget):
            assert memory.layers(where={"lang": "en"}) == []
