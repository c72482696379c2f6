"""What statistics say of who holds what: counted as regions come and go, and looked at only where that may be new."""

from __future__ import annotations

import pytest
from world import World

import jessy_mem as jm
from jessy_mem import compression

N_DIMENSIONS = 5


@pytest.fixture
def memory(tmp_path):
    World(tmp_path).write_all(*range(1, 1 + N_DIMENSIONS))
    with jm.MmapManager(base_path=tmp_path, simulation="never", follow="never") as memory:
        for dimension in range(1, 1 + N_DIMENSIONS):
            memory.load_dimension(dimension)
        look_until_nobody_would(memory)
        yield memory


def look_until_nobody_would(memory):
    """After this, nothing that was loaded or read before is looked at for being new."""
    for _ in range(5):
        memory.get_stats()


def leased(memory):
    return memory.get_stats().leased_bytes


HOLDERS = {
    "a view": lambda memory: memory[1, 0],
    "a second view of the layer": lambda memory: memory.access_layer((1, 0)),
    "a memoryview": lambda memory: memoryview(memory[1, 0]),
    "a slice": lambda memory: memory[1, 0][10:20],
    "a view by get": lambda memory: memory.get((1, 0)),
    "a view among values": lambda memory: next(iter(memory.values())),
    "a region": lambda memory: memory.region(1),
    "a region that was there": lambda memory: memory.load_dimension(1, exist_ok=True),
    "a region's view": lambda memory: memory.region(1).layer(0),
    "a region's memoryview": lambda memory: memory.region(1).access(0, 10),
    "a buffer of a region": lambda memory: memoryview(memory.region(1)),
}


@pytest.mark.parametrize("how", HOLDERS)
@pytest.mark.parametrize("was_read", [False, True])
def test_what_is_held_is_seen_however_it_came_to_be_held(memory, how, was_read):
    if was_read:
        memory.access_layer((1, 0))
        look_until_nobody_would(memory)
    n_bytes = memory.region(1).size
    assert leased(memory) == 0
    look_until_nobody_would(memory)
    for _ in range(2):
        held = HOLDERS[how](memory)
        assert leased(memory) == n_bytes
        look_until_nobody_would(memory)
        assert leased(memory) == n_bytes, "it is looked at as long as it is held"
        del held
        assert leased(memory) == 0
        look_until_nobody_would(memory)


def passed_on(memory, view, n_calls):
    """What is seen of a view that functions have lent each other, and of which only the first has a variable."""
    return passed_on(memory, view, n_calls - 1) if n_calls else (leased(memory), memory.leases()[0].n_views)


def kept_by_a_generator(memory):
    view = memory[1, 0]
    yield
    yield bytes(view[:0])


CALLS = {
    "what only a call has": lambda memory: passed_on(memory, memory[1, 0], 0),
    "what calls pass on": lambda memory: passed_on(memory, memory[1, 0], 3),
    "what is a variable, too": lambda memory: (lambda view: passed_on(memory, view, 3))(memory[1, 0]),
    "what is lent to an operator": lambda memory: Asking(memory) == memory[1, 0],
}


class Asking:
    """What is compared with a view looks who holds it meanwhile."""

    def __init__(self, memory):
        self.memory = memory

    def __eq__(self, other):
        return leased(self.memory), self.memory.leases()[0].n_views

    __hash__ = None


@pytest.mark.parametrize("how", CALLS)
def test_what_is_lent_is_seen_as_its_owner_s(memory, how):
    """An interpreter that counts no reference for what a variable lends to a call (3.14) counts the variable's."""
    n_bytes = memory.region(1).size
    found, n_views = CALLS[how](memory)
    assert found == n_bytes
    assert n_views >= 1
    assert leased(memory) == 0


def test_what_a_waiting_generator_has_is_seen(memory):
    waiting = kept_by_a_generator(memory)
    next(waiting)
    assert leased(memory) == memory.region(1).size
    next(waiting)
    waiting.close()
    assert leased(memory) == 0


def test_a_view_that_follows_another_holder_is_seen(memory):
    region = memory.region(1)
    look_until_nobody_would(memory)
    view = region.layer(2)
    del region
    look_until_nobody_would(memory)
    assert leased(memory) == memory.region(1).size
    del view
    assert leased(memory) == 0


def test_a_snapshot_holds_all_that_is_mapped(memory):
    with memory.snapshot():
        assert leased(memory) == memory.get_stats().total_allocated_bytes > 0
        look_until_nobody_would(memory)
        assert leased(memory) == memory.get_stats().total_allocated_bytes
    assert leased(memory) == 0


def test_what_is_counted_follows_every_change(memory, tmp_path):
    world = World(tmp_path)
    before = memory.get_stats()
    assert (before.layers_loaded, before.active_regions) == (4 * N_DIMENSIONS, N_DIMENSIONS)
    memory.append_layer(1, jm.LayerSpec(text="one more"))
    assert memory.get_stats().layers_loaded == before.layers_loaded + 1
    memory.remove_layer((1, 0))
    world.write(2, n_layers=7)
    memory.reload_dimension(2)
    memory.unload_dimension(3)
    found = memory.get_stats()
    assert (found.layers_loaded, found.active_regions) == (4 + 7 + 4 + 4, N_DIMENSIONS - 1)
    proto = memory.create_proto_dimension("learned", [jm.LayerSpec(text="a"), jm.LayerSpec(text="b")])
    found = memory.get_stats()
    assert (found.layers_loaded, found.active_regions) == (21, N_DIMENSIONS - 1), "a proto-dimension is not mapped"
    assert found.pinned_bytes == 4096
    memory.crystallize(proto)
    found = memory.get_stats()
    assert (found.pinned_bytes, found.active_regions) == (0, N_DIMENSIONS)
    assert found.evictable_bytes == found.total_allocated_bytes
    for dimension in [*range(1, 1 + N_DIMENSIONS), proto]:
        if dimension != 3:
            memory.unload_dimension(dimension)
    found = memory.get_stats()
    assert (found.layers_loaded, found.active_regions, found.evictable_bytes, found.pinned_bytes) == (0, 0, 0, 0)


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_decompressed_layers_are_of_their_region(memory, tmp_path):
    builder = jm.RegionBuilder(6, "packed")
    builder.add_layer(jm.LayerSpec(text="again and again " * 5000, compress=True))
    builder.write(jm.region_path(tmp_path, 6))
    memory.load_dimension(6)
    look_until_nobody_would(memory)
    view = memory[6, 0]
    found = memory.get_stats()
    decompressed_bytes = found.pool.used_bytes
    assert decompressed_bytes >= view.n_bytes
    assert found.leased_bytes == memory.region(6).size + decompressed_bytes
    del view
    look_until_nobody_would(memory)
    found = memory.get_stats()
    assert (found.leased_bytes, found.evictable_bytes) == (0, found.total_allocated_bytes)
    memory.unload_dimension(6)
    found = memory.get_stats()
    assert (found.leased_bytes, found.evictable_bytes) == (0, found.total_allocated_bytes)
    assert found.pool.used_bytes == 0


def test_looking_tells_the_policy_nothing(tmp_path):
    """What goes first is the same with and without somebody who looks at the statistics all the time."""
    World(tmp_path).write_all(*range(1, 9), n_bytes=10_000)

    def evicted(looks):
        options = {"simulation": "never", "follow": "never", "eviction_policy": "lfu"}
        with jm.MmapManager(0.3, base_path=tmp_path, **options) as memory:
            for dimension in range(1, 5):
                memory.load_dimension(dimension)
            for dimension in (1, 1, 1, 3, 4, 2, 2, 3):
                memory.access_layer((dimension, 0))
                for _ in range(looks):
                    memory.get_stats()
            for dimension in range(5, 9):
                memory.load_dimension(dimension)
            return sorted(memory.dump_state()["evicted"])

    assert evicted(looks=0) == evicted(looks=3) != []
