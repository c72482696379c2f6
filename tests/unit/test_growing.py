"""Dimensions that grow while they are loaded: in place, counted, leased, evicted and followed as one."""

from __future__ import annotations

import gc
import os
import sys
import warnings

import pytest
from world import MIB, World, check_reading, check_states, content_of, manager

import jessy_mem as jm
from helpers import Holdings


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
    delta = memory._open_delta(dimension, region._stack, generation)
    return memory._grow(dimension, region, delta)


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
    delta = memory._open_delta(15, region._stack, 2)
    memory.unload_dimension(15)
    assert not memory._grow(15, region, delta)
    memory.load_dimension(15)
    assert not memory._grow(15, region, delta)
    assert not memory._restack(15, region, region._stack)
    del delta, region
    assert memory.get_stats().total_allocated_bytes == sizes(world, 2)


def test_a_merged_stack_keeps_the_views_of_files_that_stay(memory, world):
    grow(memory, world, 2, put=[1])
    grow(memory, world, 3, put=[2])
    region = memory.region(15)
    old = [memory.access_layer((15, layer)) for layer in range(5)]
    world.grow(15, 3, put=[1, 2], n_bytes=1000)
    merged = memory._open_delta(15, region._stack[:1], 3)
    assert memory._restack(15, region, (region._stack[0], merged))
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

    region = make_region(jm.MmapRegion(15, world.path(15))._stack, False, allocate)
    memory._install(15, region)
    assert memory.access_layer((15, 0)).text == "a" * 5000
    assert bytes(memory.access_layer((15, 0))) == content_of(15, 0, 2)


# Holders ----------------------------------------------------------------------------------------------------------


def leased(memory):
    return [(lease.generation, lease.n_views, lease.n_bytes, lease.retired) for lease in memory.leases()]


def test_views_of_all_files_count_as_one_lease(memory, world):
    grow(memory, world, 2, put=[1, 7])
    n_bytes = sizes(world, 2)
    assert leased(memory) == []
    assert memory._holders.freed_bytes(15) == n_bytes
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
    stack = region._stack
    assert leased(memory) == [(2, 2, n_bytes, False)], "a stack that was handed out is held, too"
    del region
    assert leased(memory) == [(2, 1, n_bytes, False)]
    assert memory._holders.freed_bytes(15) == 0
    image = stack[1]
    del stack
    assert leased(memory) == [(2, 1, n_bytes, False)]
    del image
    assert leased(memory) == []
    assert memory._holders.freed_bytes(15) == n_bytes


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
        memory._refresh_dimension(15)
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
        assert [*memory._evicted] == [15]
        evicted = memory._evicted.get(15)
        assert (evicted.generation, evicted.n_layers) == (2, 5)
        assert evicted.size == sizes(world, 2)
        assert memory.get_stats().layers_loaded == 6
        assert memory.layers(15, keyword="delta") == [(15, 1), (15, 7)]
        assert bytes(memory.access_layer((15, 7))) == content_of(15, 7, 2, MIB)
        assert [*memory._evicted] == [16]
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
    assert not memory._refresh_dimension(15)
    world.grow(15, 2, put=[1])
    world.grow(15, 3, put=[7], removed=[2])
    assert memory._refresh_dimension(15)
    assert contents(memory) == expected({0: 1, 1: 2, 3: 1, 4: 1, 7: 3})
    assert memory.access_layer((15, 0)) is view
    assert not memory._refresh_dimension(15)

    world.grow(15, 4, put=[1, 7, 8], removed=[2])
    world.delta_path(15, 2).unlink()
    world.delta_path(15, 3).unlink()
    assert memory._refresh_dimension(15)
    now = {0: 1, 1: 4, 3: 1, 4: 1, 7: 4, 8: 4}
    assert contents(memory) == expected(now)
    assert (region.n_deltas, region.size) == (1, sizes(world, 4))

    world.compact(15, 5, now | {0: 5})
    assert memory._refresh_dimension(15)
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
        assert [*memory._evicted] == [15]
        world.grow(15, 3, put=[8], removed=[7])
        assert memory._refresh_dimension(15)
        assert [*memory._evicted] == [15], "nothing is mapped as long as nobody asks"
        assert memory.layers(keyword="delta") == [(15, 8)]
        assert (len(memory), (15, 8) in memory, (15, 7) in memory) == (7, True, False)


def test_what_is_gone_or_unknown_is_not_refreshed(memory, world):
    assert not memory._refresh_dimension(99)
    world.path(15).unlink()
    with pytest.raises(jm.DimensionNotFound):
        memory._refresh_dimension(15)
    assert bytes(memory.access_layer((15, 0))) == content_of(15, 0)


def test_a_simulated_dimension_becomes_its_file_and_stays_simulated_without_one(world):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with manager(world, simulation="auto") as memory:
            memory.load_dimension(1)
            assert not memory._refresh_dimension(1)
            world.write(1)
            assert memory._refresh_dimension(1)
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
