"""Dimensions that grow while they are loaded: in place, counted, leased, evicted and followed as one."""

from __future__ import annotations

import gc
import os
import sys
import warnings

import inside
import pytest
from inside import freed_bytes, lock_of, open_delta, refresh_dimension, restack, stack_of
from world import MIB, World, check_reading, check_states, content_of, evicted_dimensions, manager

import jessy_mem as jm
from helpers import Holdings
from jessy_mem.following import Changes


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.write(15, n_layers=5)
    return world


@pytest.fixture
def memory(world):
    with manager(world) as memory:
        memory.load_dimension(15)
        yield memory


def grow(memory, world, generation, put=(), removed=(), dimension=15, **options):
    """Publish a delta and lay it on the loaded stack, as a writer does."""
    world.grow(dimension, generation, put, removed, **options)
    region = memory.region(dimension)
    delta = open_delta(memory, dimension, stack_of(region), generation)
    return inside.grow(memory, dimension, region, delta)


def contents(memory, dimension=15):
    return {each.layer: bytes(memory.access_layer(each)) for each in memory.layers(dimension)}


def expected(layers, dimension=15):
    return {layer: content_of(dimension, layer, generation) for layer, generation in layers.items()}


def sizes(world, *generations, dimension=15):
    paths = [world.path(dimension), *(world.delta_path(dimension, each) for each in generations)]
    return sum(path.stat().st_size for path in paths)


# Growing in place -------------------------------------------------------------------------------------------------


def test_readers_see_what_was_added_replaced_and_removed_at_once(memory, world):
    region, views = memory.region(15), [memory.access_layer((15, layer)) for layer in range(5)]
    assert grow(memory, world, 2, put=[1, 7], removed=[4])
    assert memory.region(15) is region
    now = {0: 1, 1: 2, 2: 1, 3: 1, 7: 2}
    assert contents(memory) == expected(now)
    assert [memory.access_layer((15, layer)) is views[layer] for layer in (0, 1, 2, 3)] == [True, False, True, True]
    with pytest.raises(jm.LayerNotFound, match="5 layers"):
        memory.access_layer((15, 4))
    assert [bytes(view) for view in views] == [content_of(15, layer) for layer in range(5)], "views keep their bytes"
    assert (region.generation, region.n_layers, region.n_deltas) == (2, 5, 1)
    assert memory.get_stats().layers_loaded == 5
    assert memory.get_stats().total_allocated_bytes == sizes(world, 2) == region.size


def test_nothing_grows_that_is_not_what_is_loaded(memory, world):
    region = memory.region(15)
    world.grow(15, 2, put=[7])
    delta = open_delta(memory, 15, stack_of(region), 2)
    memory.unload_dimension(15)
    assert not inside.grow(memory, 15, region, delta)
    memory.load_dimension(15)
    assert not inside.grow(memory, 15, region, delta)
    assert not restack(memory, 15, region, stack_of(region))
    del delta, region
    assert memory.get_stats().total_allocated_bytes == sizes(world, 2)


def test_a_merged_stack_keeps_the_views_of_files_that_stay(memory, world):
    grow(memory, world, 2, put=[1])
    grow(memory, world, 3, put=[2])
    region = memory.region(15)
    old = [memory.access_layer((15, layer)) for layer in range(5)]
    world.grow(15, 3, put=[1, 2], n_bytes=1000)
    merged = open_delta(memory, 15, stack_of(region)[:1], 3)
    assert restack(memory, 15, region, (stack_of(region)[0], merged))
    world.delta_path(15, 2).unlink()
    same = [memory.access_layer((15, layer)) is view for layer, view in enumerate(old)]
    assert same == [True, False, False, True, True]
    assert (region.n_layers, region.n_deltas, region.generation) == (5, 1, 3)
    retired = [lease for lease in memory.leases() if lease.retired]
    assert sorted((lease.dimension, lease.generation, lease.n_views) for lease in retired) == [(15, 2, 1), (15, 3, 1)]
    del old, same
    assert not [lease for lease in memory.leases() if lease.retired]
    assert memory.get_stats().total_allocated_bytes == region.size


def test_a_reader_that_began_before_is_not_remembered_after(memory, world, monkeypatch):
    """A view that is made from a stack while that grows is given to its reader, and to nobody else."""
    region = memory.region(15)

    def allocate(n_bytes):
        grow(memory, world, 2, put=[0])
        return bytearray(n_bytes)

    compressed = pytest.importorskip("jessy_mem.compression")
    if not compressed.is_available():
        pytest.skip("zstd is not installed")
    builder = jm.RegionBuilder(15, "dimension 15", generation=1)
    builder.add_layer(jm.LayerSpec(text="a" * 5000, compress=True))
    builder.write(world.path(15))
    from jessy_mem._core.region import make_region

    region = make_region(stack_of(jm.MmapRegion(15, world.path(15))), False, allocate)
    with lock_of(memory):
        memory._install(15, region)  # private: the manager's own regions take their memory from the pool
    assert memory.access_layer((15, 0)).text == "a" * 5000
    assert bytes(memory.access_layer((15, 0))) == content_of(15, 0, 2)


# Holders ----------------------------------------------------------------------------------------------------------


def leased(memory):
    return [(lease.generation, lease.n_views, lease.n_bytes, lease.retired) for lease in memory.leases()]


def test_views_of_all_files_count_as_one_lease(memory, world):
    grow(memory, world, 2, put=[1, 7])
    n_bytes = sizes(world, 2)
    assert leased(memory) == []
    assert freed_bytes(memory, 15) == n_bytes
    base, delta = memory.access_layer((15, 0)), memory.access_layer((15, 7))
    assert leased(memory) == [(2, 2, n_bytes, False)]
    part = memoryview(delta)
    assert leased(memory) == [(2, 2, n_bytes, False)], "a memoryview holds its view"
    del delta
    assert leased(memory) == [(2, 2, n_bytes, False)]
    part.release()
    assert leased(memory) == [(2, 1, n_bytes, False)]
    region = memory.region(15)
    assert leased(memory) == [(2, 2, n_bytes, False)]
    del base
    assert leased(memory) == [(2, 1, n_bytes, False)]
    stack = stack_of(region)
    assert leased(memory) == [(2, 2, n_bytes, False)], "a stack that was handed out is held, too"
    del region
    assert leased(memory) == [(2, 1, n_bytes, False)]
    assert freed_bytes(memory, 15) == 0
    image = stack[1]
    del stack
    assert leased(memory) == [(2, 1, n_bytes, False)]
    del image
    assert leased(memory) == []
    assert freed_bytes(memory, 15) == n_bytes


def test_a_view_of_what_was_replaced_holds_the_stack(memory, world):
    old = memory.access_layer((15, 1))
    grow(memory, world, 2, put=[1])
    assert leased(memory) == [(2, 1, sizes(world, 2), False)]
    check_states(memory.get_stats())
    del old
    assert leased(memory) == []


def test_each_file_of_a_stack_that_left_is_leased_as_long_as_it_is_held(memory, world):
    grow(memory, world, 2, put=[1])
    base, delta = memory.access_layer((15, 0)), memory.access_layer((15, 1))
    memory.unload_dimension(15)
    base_bytes, delta_bytes = sizes(world), sizes(world, 2) - sizes(world)
    assert sorted(leased(memory)) == [(1, 1, base_bytes, True), (2, 1, delta_bytes, True)]
    assert memory.get_stats().leased_bytes == base_bytes + delta_bytes
    del base
    assert leased(memory) == [(2, 1, delta_bytes, True)]
    assert memory.get_stats().total_allocated_bytes == delta_bytes
    del delta
    assert memory.get_stats().total_allocated_bytes == 0


def test_nothing_stays_when_a_grown_manager_is_closed(world):
    before = Holdings()
    with manager(world) as memory:
        memory.load_dimension(15)
        for generation in range(2, 20):
            grow(memory, world, generation, put=[generation % 7])
            memory.access_layer((15, generation % 7))
        memory.refresh()
    before.assert_nothing_new()


def test_residency_is_that_of_all_files(memory, world):
    grow(memory, world, 2, put=[1])
    residency = memory.get_stats(residency=True).residency
    page = os.sysconf("SC_PAGESIZE")
    files = (world.path(15), world.delta_path(15, 2))
    assert residency.mapped_bytes == sum(-(-path.stat().st_size // page) * page for path in files)


# Eviction ---------------------------------------------------------------------------------------------------------


def test_a_stack_is_evicted_whole_and_comes_back_whole(world):
    world.grow(15, 2, put=[1, 7], removed=[4], n_bytes=MIB)
    world.write(16, n_layers=1, n_bytes=3 * MIB)
    with manager(world, 4) as memory:
        memory.load_dimension(15)
        memory.load_dimension(16)
        assert evicted_dimensions(memory) == {15}
        evicted = memory.dump_state()["evicted"]["15"]
        assert (evicted["generation"], evicted["n_layers"], evicted["size"]) == (2, 5, sizes(world, 2))
        assert memory.get_stats().layers_loaded == 6
        assert memory.layers(15, keyword="delta") == [(15, 1), (15, 7)]
        assert bytes(memory.access_layer((15, 7))) == content_of(15, 7, 2, MIB)
        assert evicted_dimensions(memory) == {16}
        check_states(memory.get_stats())


def test_a_slot_has_room_for_the_sum_of_the_stack(world):
    slot_bytes = jm.default_layout().slot_bytes(9)
    world.write(1, n_layers=1, n_bytes=1000)
    slot_bytes = jm.default_layout().slot_bytes(1)
    world.grow(1, 2, put=[0], n_bytes=slot_bytes - 6000)
    world.grow(1, 3, put=[1], n_bytes=8000)
    with manager(world) as memory:
        with pytest.raises(jm.LimitExceeded) as caught:
            memory.load_dimension(1)
        assert caught.value.requested_bytes == sizes(world, 2, 3, dimension=1)
        assert caught.value.limit_bytes == slot_bytes
        assert memory.get_stats().total_allocated_bytes == 0
        world.delta_path(1, 3).unlink()
        region = memory.load_dimension(1)
        with pytest.raises(jm.LimitExceeded):
            grow(memory, world, 4, put=[1], n_bytes=8000, dimension=1)
        assert memory.get_stats().total_allocated_bytes == region.size == sizes(world, 2, dimension=1)


# What others did --------------------------------------------------------------------------------------------------


def test_a_refresh_follows_growth_merging_and_compaction(memory, world):
    region = memory.region(15)
    view = memory.access_layer((15, 0))
    assert memory.refresh() == Changes()
    world.grow(15, 2, put=[1])
    world.grow(15, 3, put=[7], removed=[2])
    assert memory.refresh() == Changes(changed=[15])
    assert contents(memory) == expected({0: 1, 1: 2, 3: 1, 4: 1, 7: 3})
    assert memory.access_layer((15, 0)) is view
    assert memory.refresh() == Changes()

    world.grow(15, 4, put=[1, 7, 8], removed=[2])
    world.delta_path(15, 2).unlink()
    world.delta_path(15, 3).unlink()
    assert memory.refresh() == Changes(changed=[15])
    now = {0: 1, 1: 4, 3: 1, 4: 1, 7: 4, 8: 4}
    assert contents(memory) == expected(now)
    assert (region.n_deltas, region.size) == (1, sizes(world, 4))

    world.compact(15, 5, now | {0: 5})
    assert memory.refresh() == Changes(changed=[15])
    assert contents(memory) == expected(now | {0: 5})
    assert memory.region(15) is region
    assert (region.n_deltas, region.generation) == (0, 5)
    assert memory.layers(keyword="delta") == [(15, layer) for layer in now]
    assert bytes(view) == content_of(15, 0)


def test_an_evicted_dimension_is_read_again_when_somebody_asks(world):
    world.write(16, n_layers=1, n_bytes=3 * MIB)
    world.grow(15, 2, put=[7], n_bytes=MIB)
    with manager(world, 4) as memory:
        memory.load_dimension(15)
        assert memory.layers(keyword="delta") == [(15, 7)]
        memory.load_dimension(16)
        assert evicted_dimensions(memory) == {15}
        world.grow(15, 3, put=[8], removed=[7])
        assert memory.refresh() == Changes(changed=[15])
        assert evicted_dimensions(memory) == {15}, "nothing is mapped as long as nobody asks"
        assert memory.layers(keyword="delta") == [(15, 8)]
        assert (len(memory), (15, 8) in memory, (15, 7) in memory) == (7, True, False)


def test_what_is_gone_or_unknown_is_not_refreshed(memory, world):
    assert not refresh_dimension(memory, 99)
    world.path(15).unlink()
    with pytest.raises(jm.DimensionNotFound):
        refresh_dimension(memory, 15)
    assert bytes(memory.access_layer((15, 0))) == content_of(15, 0)


def test_a_simulated_dimension_becomes_its_file_and_stays_simulated_without_one(world):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with manager(world, simulation="auto") as memory:
            memory.load_dimension(1)
            assert memory.refresh() == Changes(added=[15])
            world.write(1)
            assert memory.refresh() == Changes(changed=[1])
            assert memory.region(1).source == "mmap"
            check_reading(memory, 1)


def test_addresses_follow_a_dimension_that_grows(world):
    world.write(16)
    with manager(world) as memory:
        memory.load_dimension(15)
        memory.load_dimension(16)
        first = memory.address_of((15, 0))
        assert memory.resolve(first) == (15, memory.region(15).content_offset(0))
        grow(memory, world, 2, put=[9], n_bytes=100_000)
        for layer_id in ((15, 9), (15, 0), (16, 0)):
            offset = memory.region(layer_id[0]).content_offset(layer_id[1])
            assert memory.resolve(memory.address_of(layer_id)) == (layer_id[0], offset)


def test_a_trace_tells_the_bytes_of_the_whole_stack(memory, world, tmp_path):
    grow(memory, world, 2, put=[1])
    with memory.record_trace(tmp_path / "trace"):
        memory.access_layer((15, 0))
        memory.access_layer((15, 1))
    from jessy_mem.trace import read_trace

    assert [each.n_bytes for each in read_trace(tmp_path / "trace")] == 2 * [memory.region(15).size]


def test_the_state_tells_of_deltas(memory, world):
    grow(memory, world, 2, put=[1])
    state = memory.dump_state()["regions"]["15"]
    assert (state["n_deltas"], state["generation"], len(state["layers"])) == (1, 2, 5)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_growing_leaves_no_reference_behind(memory, world):
    region = memory.region(15)
    for generation in range(2, 12):
        grow(memory, world, generation, put=[generation % 5])
        for layer in range(5):
            memory.access_layer((15, layer))
    gc.collect()
    del region
    assert leased(memory) == []
