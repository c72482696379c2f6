"""What was read before is found at once, and never after it has changed or gone: whatever happens between two reads."""

from __future__ import annotations

import random

import inside
import pytest
from changing import evict, load_again, reload, update
from world import content_of, generation_of, manager

import jessy_mem as jm


def compact(memory, world):
    update(memory, world)
    memory.compact(1)


@pytest.mark.parametrize("change", [update, reload, load_again, evict, compact])
def test_what_has_changed_is_not_found_any_more(world, change):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        before = [memory[1, 0] for _ in range(3)]
        other = [memory[2, 0] for _ in range(3)]
        change(memory, world)
        assert {id(memory[1, 0]) for _ in range(3)} == {id(memory[1, 0])}
        assert [generation_of(bytes(memory[1, 0])) for _ in range(3)] == [2, 2, 2]
        assert generation_of(bytes(before[0])) == 1
        assert memory[1, 0] is not before[0]
        assert memory[2, 0] is other[2] is other[0]


def unload(memory):
    memory.unload_dimension(1)


def remove(memory):
    memory.remove_layer((1, 0))


@pytest.mark.parametrize("change", [unload, remove])
def test_what_has_gone_is_not_found_any_more(world, change):
    world.write_all(1)
    with manager(world) as memory:
        memory.load_all()
        view = memory[1, 0]
        assert all(memory[1, 0] is view for _ in range(3))
        change(memory)
        for _ in range(2):
            with pytest.raises(jm.LayerNotFound):
                memory[1, 0]
        assert bytes(view) == content_of(1, 0)


def test_closed_manager_finds_nothing(world):
    world.write_all(1)
    with manager(world) as memory:
        memory.load_all()
        view = memory[1, 0]
        assert all(memory[1, 0] is view for _ in range(3))
    with pytest.raises(jm.ManagerClosed):
        memory[1, 0]
    assert bytes(view) == content_of(1, 0)


def test_each_of_many_is_found_while_others_come_and_go(world):
    world.write_all(*range(1, 30), n_layers=40, n_bytes=100)
    rng = random.Random(7)
    with manager(world) as memory:
        loaded = {}
        for _ in range(3_000):
            dimension, layer = rng.randrange(1, 30), rng.randrange(40)
            if dimension not in loaded:
                memory.load_dimension(dimension)
                loaded[dimension] = {}
            elif rng.random() < 0.02:
                memory.unload_dimension(dimension)
                del loaded[dimension]
                with pytest.raises(jm.LayerNotFound):
                    memory[dimension, layer]
                continue
            view = memory[dimension, layer]
            assert loaded[dimension].setdefault(layer, view) is view
            assert view.id == (dimension, layer)
        assert sum(map(len, loaded.values())) > 300
        for dimension, views in loaded.items():
            assert all(memory[dimension, layer] is view for layer, view in views.items())


def test_dimensions_of_all_sizes_are_told_apart(world):
    dimensions = (1, 2**16 + 1, 2**30 - 1, 2**30, 2**31 + 1, 2**32 - 1)
    world.write_all(*dimensions)
    with manager(world) as memory:
        memory.load_all()
        views = {(dimension, layer): memory[dimension, layer] for dimension in dimensions for layer in range(4)}
        for key, view in views.items():
            assert memory[key] is view
            assert bytes(view) == content_of(*key)


class Number(int):
    """An int of another class."""


def test_only_what_is_a_layer_id_is_one(world):
    world.write_all(1)
    with manager(world) as memory:
        memory.load_all()
        view = memory[1, 1]
        assert all(memory[key] is view for key in [(True, True), (Number(1), Number(1)), [1, 1], jm.LayerId(1, 1)])
        for key in [(-1, 1), (1, -1), (0, 1), (1, 65536), (2**32 + 1, 1), (1, 2**64 + 1), (2**64 + 1, 1), (65537, 1)]:
            with pytest.raises(jm.LayerNotFound):
                memory[key]
        for key in [1, (1,), (1, 1, 1), (1.0, 1), ("1", 1), None, (1, None)]:
            with pytest.raises(TypeError):
                memory[key]


def test_first_hit_after_eviction_has_asked_is_noted_again(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        views = [memory[dimension, 0] for dimension in (1, 2) for _ in range(3)]
        assert inside.take_visits(memory) == [1, 2]
        assert inside.take_visits(memory) == []
        assert memory[2, 0] is views[-1]
        assert memory[2, 0] is views[-1]
        assert inside.take_visits(memory) == [2]


def test_what_was_read_in_many_rounds_is_forgotten_once_and_for_all(world):
    world.write_all(1, 2)
    with manager(world) as memory, memory.reader() as reader:
        memory.load_all()
        before = []
        for _ in range(40):
            before += [memory[1, layer] for layer in range(4) for _ in range(2)]
            before += [reader[1, layer] for layer in range(4) for _ in range(2)]
            assert inside.take_visits(memory) == [1]
        assert len(set(map(id, before))) in (4, 8)  # a Reader has views of its own, and each keeps its own
        reload(memory, world)
        for read in (memory, reader):
            for layer in range(4):
                assert generation_of(bytes(read[1, layer])) == 2
                assert all(read[1, layer] is not view for view in before)


def test_reads_are_noted_also_when_the_numbers_of_rounds_begin_anew(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        reader = memory.reader()
        held = [memory[1, 0], memory[1, 0], reader[1, 0], reader[1, 0]]
        assert inside.take_visits(memory) == [1]
        for _ in range(2**16 - 2):  # until the number of that round is the number of this one
            memory[2, 0], memory[2, 0]
            inside.take_visits(memory)
        assert inside.take_visits(memory) == []
        assert memory[1, 0] is held[0]
        assert inside.take_visits(memory) == [1]
        reader[1, 0]
        assert inside.take_visits(memory) == [1]


def test_hits_are_counted_however_they_are_found(world):
    world.write_all(1)
    with manager(world) as memory:
        memory.load_all()
        for _ in range(10):
            memory[1, 0]
            memory.access_layer((1, 0))
        stats = memory.get_stats()
        assert (stats.first_touch_latency.count, stats.access_latency.count) == (1, 19)


def test_class_derived_from_the_manager_has_what_it_says(world):
    class Own(jm.MmapManager):
        def access_layer(self, layer_id, /):
            return layer_id

    class Same(jm.MmapManager):
        pass

    class Below(Own):
        pass

    world.write_all(1)
    for kind, expected in ((Own, (1, 0)), (Below, (1, 0))):
        with kind(base_path=world.base) as memory:
            assert memory.access_layer((1, 0)) == expected
    with Same(base_path=world.base, simulation="never") as memory:
        memory.load_all()
        assert memory.access_layer((1, 0)) is memory[1, 0]
