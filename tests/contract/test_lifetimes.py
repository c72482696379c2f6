"""Views keep what they were made from, whatever happens to their dimension; the mapping goes with the last of them."""

import contextlib
import gc
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from inside import watch_policy
from world import (
    IMMUTABLE,
    MIB,
    check_reading,
    check_states,
    content_of,
    evicted_dimensions,
    manager,
    mapped_dimensions,
)

import jessy_mem as jm
from helpers import DISOWNS, HAS_PROC, HUNG_S, mapped_regions

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="needs /proc")

NO_EVICTION = {"warning_threshold": 100.0, "eviction_threshold": 100.0, "critical_threshold": 100.0}


def maps_of(path):
    """The mappings of one region file."""
    return [line for line in mapped_regions() if str(path) in line]


# What a reader may hold: each is made from (manager, dimension, layer) and gives its bytes back.
HOLDERS = {
    "LayerView": lambda memory, d, i: memory.access_layer((d, i)),
    "memoryview": lambda memory, d, i: memoryview(memory.access_layer((d, i))),
    "slice": lambda memory, d, i: memory.access_layer((d, i))[:],
    "slice of a slice": lambda memory, d, i: memory.access_layer((d, i))[:][:],
    "numpy": lambda memory, d, i: np.frombuffer(memory.access_layer((d, i)), np.uint8),
    "view of numpy": lambda memory, d, i: np.frombuffer(memory.access_layer((d, i)), np.uint8).reshape(-1, 8)[:, :],
    "region.access": lambda memory, d, i: memory.region(d).access(memory.region(d).content_offset(i), 1000),
    "view of the region": lambda memory, d, i: memory.region(d).layer(i),
    "generator": lambda memory, d, i: (memory.access_layer((d, i)),),
}


def bytes_of(held):
    return bytes(held[0] if isinstance(held, tuple) else held)


def unload(memory, world, dimension):
    memory.unload_dimension(dimension)


def reload(memory, world, dimension):
    world.write(dimension, generation=2)
    memory.reload_dimension(dimension)


def unload_and_load(memory, world, dimension):
    world.write(dimension, generation=2)
    memory.unload_dimension(dimension)
    memory.load_dimension(dimension)


def close(memory, world, dimension):
    memory.close()


def unlink(memory, world, dimension):
    world.path(dimension).unlink()
    memory.unload_dimension(dimension)


FATES = [unload, reload, unload_and_load, close, unlink]


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_held_keeps_its_bytes_and_then_lets_go(world, holder, fate):
    path = world.write(1)
    size = path.stat().st_size
    with manager(world) as memory:
        memory.load_dimension(1)
        held = [HOLDERS[holder](memory, 1, layer) for layer in range(4)]
        in_thread = threading.Thread(target=fate, args=(memory, world, 1))
        in_thread.start()
        in_thread.join()
        assert [bytes_of(each) for each in held] == [content_of(1, layer) for layer in range(4)]
        newer = 1 if fate in (reload, unload_and_load) else 0
        assert len(maps_of(path)) == 1 + newer
        stats = memory.get_stats()
        check_states(stats)
        assert stats.leased_bytes == size
        assert stats.total_allocated_bytes == size * (1 + newer)
        if fate is not close:
            assert [(lease.dimension, lease.generation, lease.retired) for lease in memory.leases()] == [(1, 1, True)]
        while held:
            assert len(maps_of(path)) == 1 + newer
            assert bytes_of(held[-1]) == content_of(1, len(held) - 1)
            held.pop()
        assert len(maps_of(path)) == newer
        stats = memory.get_stats()
        check_states(stats)
        assert (stats.leased_bytes, stats.total_allocated_bytes) == (0, size * newer)
        if fate is not close:
            assert memory.leases() == []


def test_holders_that_die_in_other_threads_let_go_too(world):
    path = world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        views = [memory.access_layer((1, layer)) for layer in range(4)]
        memory.unload_dimension(1)
        threads = [threading.Thread(target=lambda view: bytes(view), args=(views.pop(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del threads, thread
        gc.collect()
        assert maps_of(path) == []
        assert memory.get_stats().total_allocated_bytes == 0


@pytest.mark.skipif(not DISOWNS, reason="objects wait for their maker here: docs/threading.md")
def test_what_a_thread_mapped_goes_at_once_while_that_thread_waits(world):
    """Without the GIL, what another thread than its maker drops last may wait for its maker: here nothing does."""
    path = world.write(1)
    made, dropped = threading.Event(), threading.Event()

    def make(memory):
        memory.load_dimension(1)
        for layer in range(4):
            memory.access_layer((1, layer))
        made.set()
        dropped.wait()  # runs no Python meanwhile

    with manager(world) as memory:
        maker = threading.Thread(target=make, args=(memory,))
        maker.start()
        try:
            assert made.wait(HUNG_S)
            assert len(maps_of(path)) == 1
            memory.unload_dimension(1)
            assert maps_of(path) == []
            assert memory.get_stats().total_allocated_bytes == 0
        finally:
            dropped.set()
            maker.join()


# What the library itself makes: each is made from (manager, dimension), and holds all of the dimension's bytes.
OWN_HOLDERS = {
    "LayerView": lambda memory, d: memory.access_layer((d, 1)),
    "slice": lambda memory, d: memory.access_layer((d, 1))[10:20],
    "slice with steps": lambda memory, d: memory.access_layer((d, 1))[::-3],
    "slice of all": lambda memory, d: memory.access_layer((d, 1))[:],
    "empty slice": lambda memory, d: memory.access_layer((d, 1))[5:5],
    "region.access": lambda memory, d: memory.region(d).access(300, 10),
    "region.layer": lambda memory, d: memory.region(d).layer(1),
    "region": lambda memory, d: memory.region(d),
}


@pytest.mark.skipif(not DISOWNS, reason="objects wait for their maker here: docs/threading.md")
@pytest.mark.parametrize("holder", OWN_HOLDERS)
def test_what_a_waiting_thread_made_goes_with_its_last_holder_in_another(world, holder):
    path = world.write(1)
    held, made, dropped = [], threading.Event(), threading.Event()

    def make(memory):
        held.append(OWN_HOLDERS[holder](memory, 1))
        made.set()
        dropped.wait()  # runs no Python meanwhile

    with manager(world) as memory:
        memory.load_dimension(1)
        maker = threading.Thread(target=make, args=(memory,))
        maker.start()
        try:
            assert made.wait(HUNG_S)
            memory.unload_dimension(1)
            assert len(maps_of(path)) == 1
            held.clear()
            assert maps_of(path) == []
            assert memory.get_stats().total_allocated_bytes == 0
        finally:
            dropped.set()
            maker.join()


def test_a_thousand_views_through_everything(world):
    """One kind of end after the other; the bytes are compared after each, and each mapping goes with its views."""
    world.write(1, n_layers=250)
    memory = manager(world, total_memory_mb=2)
    memory.load_dimension(1)
    held, generations = [], []
    for generation in range(1, 5):
        held.append([memory.access_layer((1, layer)) for layer in range(250)])
        generations.append(generation)
        if generation == 4:
            memory.close()
        elif generation == 2:
            memory.unload_dimension(1)
            world.write(1, n_layers=250, generation=generation + 1)
            memory.load_dimension(1)
        else:
            world.write(1, n_layers=250, generation=generation + 1)
            assert memory.reload_dimension(1) == (generation, generation + 1)
        for views, each in zip(held, generations, strict=True):
            assert all(bytes(view) == content_of(1, layer, each) for layer, view in enumerate(views))
        del views
        check_states(memory.get_stats())
    assert len(maps_of(world.path(1))) == 4
    while held:
        held.pop(0)
        assert len(maps_of(world.path(1))) == len(held)
    assert memory.get_stats().total_allocated_bytes == 0


@pytest.mark.thread_unsafe(reason="all of it happens in other processes")
def test_interpreter_exit_with_a_thousand_views_is_silent(world):
    world.write(1, n_layers=500)
    world.write(9)
    script = textwrap.dedent(
        """
        import sys, threading
        import numpy as np
        import jessy_mem as jm

        memory = jm.MmapManager(base_path=sys.argv[1], simulation="never")
        memory.load_dimension(1)
        memory.load_dimension(9)
        views = [memory.access_layer((1, layer)) for layer in range(500)]
        slices = [view[1:] for view in views]
        arrays = [np.frombuffer(view, np.uint8) for view in views]
        region = memory.region(9)
        block = memory.allocate(1000)
        exported = memoryview(block)
        cycle = [views, memory]
        cycle.append(cycle)
        if sys.argv[2] == "unloaded":
            memory.unload_dimension(1)
        elif sys.argv[2] == "closed":
            memory.close()
        elif sys.argv[2] == "reading":
            read = lambda: [memory.access_layer((1, i % 500)) for i in range(10**9)]
            threading.Thread(target=read, daemon=True).start()
        """
    )
    for how in ("open", "unloaded", "closed", "reading"):
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", script, str(world.base), how]
        run = subprocess.run(command, capture_output=True, text=True)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), how


# Eviction ----------------------------------------------------------------------------------------------------------


def small_manager(world, n_regions, **overrides):
    """A manager with room for `n_regions` of the regions that `World.write` makes, and thresholds out of the way."""
    size = world.path(1).stat().st_size
    return manager(world, total_memory_mb=(n_regions + 0.5) * size / MIB, **{**NO_EVICTION, **overrides})


@pytest.mark.parametrize("policy", ["sieve", "lru", "lfu"])
def test_evicted_dimensions_come_back_on_access(world, policy):
    dimensions = [1, 2, 3, 4, 5, 6, 7, 8]
    world.write_all(*dimensions)
    with small_manager(world, 3, eviction_policy=policy) as memory:
        for dimension in dimensions:
            memory.load_dimension(dimension)
        for round_number in range(3):
            for dimension in dimensions:
                check_reading(memory, dimension)
                stats = memory.get_stats()
                check_states(stats)
                assert (stats.dimensions_loaded, stats.layers_loaded) == (8, 32)
                assert stats.active_regions == 3 == sum(len(maps_of(world.path(each))) for each in dimensions)
                assert memory.layers(dimension) == [(dimension, layer) for layer in range(4)]
            assert memory.get_stats().evictions >= 5 * (round_number + 1)
        assert memory.layers() == [(dimension, layer) for dimension in dimensions for layer in range(4)]
        with pytest.raises(jm.DimensionAlreadyLoaded):
            memory.load_dimension(1)
        memory.unload_dimension(1)
        memory.unload_dimension(8)
        for dimension in (1, 8):
            with pytest.raises(jm.LayerNotFound, match="not loaded"):
                memory.access_layer((dimension, 0))
        assert memory.get_stats().dimensions_loaded == 6


def test_everything_that_reads_brings_an_evicted_dimension_back(world):
    world.write_all(1, 2)
    with small_manager(world, 1) as memory:
        memory.load_dimension(1)
        calls = {
            "access_layer": lambda d: memory.access_layer((d, 0)),
            "region": memory.region,
            "load_context": lambda d: memory.load_context((d, 0)),
            "read_many": lambda d: memory.read_many([(d, 0)]),
            "address_of": lambda d: memory.address_of((d, 0)),
            "reload": memory.reload_dimension,
            "load_contexts": lambda d: memory.load_contexts([jm.NavigationPath(d, [(d, 0)])]),
        }
        memory.load_dimension(2)
        for name, call in calls.items():
            for dimension in (1, 2):
                assert evicted_dimensions(memory) == {dimension}, name
                call(dimension)
                assert evicted_dimensions(memory) == {3 - dimension}, name


def test_eviction_goes_from_85_percent_to_70(world):
    world.write_all(*range(1, 9), *range(10, 14))
    size = world.path(1).stat().st_size
    with manager(world, total_memory_mb=10 * size / MIB) as memory:
        for dimension in (1, 2, 3, 4, 5, 6, 7, 8):
            memory.load_dimension(dimension)
        assert memory.get_stats().evictions == 0
        region = memory.load_dimension(10)
        stats = memory.get_stats()
        assert (stats.evictions, stats.utilization, stats.pressure) == (2, pytest.approx(70, abs=0.1), "ok")
        assert stats.dimensions_loaded == 9
        assert (region.dimension_id, memory.region(10) is region) == (10, True)
        check_states(stats)


def test_an_evicted_dimension_comes_back_with_the_file_that_is_there_then(world):
    """What was held before keeps the old bytes; the next access reads the new ones."""
    world.write_all(1, 2)
    with small_manager(world, 1) as memory:
        memory.load_dimension(1)
        first = memory.access_layer((1, 0))
        with pytest.raises(jm.LimitExceeded, match="D01 generation 1"):
            memory.load_dimension(2)
        assert bytes(first) == content_of(1, 0, 1)
        del first
        memory.load_dimension(2)
        world.write(1, generation=2)
        check_reading(memory, 1, generation=2)
        assert memory.layers(1) == [(1, layer) for layer in range(4)]


@pytest.mark.parametrize("change", ["gone", "damaged", "directory"])
def test_an_evicted_dimension_whose_file_went_wrong(world, change):
    world.write_all(1, 2)
    with small_manager(world, 1) as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        good = world.path(1).read_bytes()
        world.path(1).unlink()
        expected = {"gone": jm.LayerNotFound, "damaged": jm.InvalidRegion, "directory": jm.errors.MappingError}[change]
        if change == "damaged":
            world.publish(1, good[:-1])
        elif change == "directory":
            world.path(1).mkdir()
        for _ in range(2):
            with pytest.raises(expected, match=r"region\.mmap"):
                memory.access_layer((1, 0))
            check_states(memory.get_stats())
        check_reading(memory, 2)
        if change == "directory":
            world.path(1).rmdir()
        world.publish(1, good)
        check_reading(memory, 1)


@pytest.mark.parametrize("simulation", ["auto", "always"])
@pytest.mark.filterwarnings("error")
def test_simulated_dimensions_are_evicted_and_made_again_without_a_word(world, simulation, caplog):
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(manager(world, total_memory_mb=0.02, simulation=simulation, **NO_EVICTION))
        if simulation == "auto":
            stack.enter_context(pytest.warns(UserWarning, match="is simulated"))
        texts = {}
        for dimension in (1, 2, 3, 4):
            memory.load_dimension(dimension)
            texts[dimension] = memory.access_layer((dimension, 0)).text
        assert memory.get_stats().evictions > 0
        n_lines = len([record for record in caplog.records if "is simulated" in record.getMessage()])
        assert memory.get_stats().simulated_dimensions == (1, 2, 3, 4)
        stack.callback(memory.close)
        for dimension in (1, 2, 3, 4):
            assert memory.access_layer((dimension, 0)).text == texts[dimension]
        assert len([record for record in caplog.records if "is simulated" in record.getMessage()]) == n_lines
        assert n_lines == (4 if simulation == "auto" else 0)


def test_a_file_that_appears_is_what_an_evicted_simulated_dimension_comes_back_from(world):
    world.write(2)
    with manager(world, total_memory_mb=0.009, simulation="auto", **NO_EVICTION) as memory:
        with pytest.warns(UserWarning, match="D01 is simulated"):
            memory.load_dimension(1)
        memory.load_dimension(2)
        assert evicted_dimensions(memory) == {1}
        world.write(1)
        check_reading(memory, 1)
        assert memory.get_stats().simulated_dimensions == ()


def test_what_was_mapped_is_not_simulated_after_its_eviction(world):
    world.write_all(1, 2)
    with small_manager(world, 1, simulation="auto") as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        world.path(1).unlink()
        with pytest.raises(jm.LayerNotFound, match="its file is gone"):
            memory.access_layer((1, 0))
        assert not memory.get_stats().simulation_mode


@pytest.mark.parametrize("dimension", [*IMMUTABLE, 15])
def test_immutable_dimensions_are_never_evicted(world, dimension):
    world.write(dimension, immutable=True)
    world.write_all(1, 2)
    with small_manager(world, 2) as memory:
        memory.load_dimension(dimension)
        for _ in range(3):
            for other in (1, 2):
                with contextlib.suppress(jm.DimensionAlreadyLoaded):
                    memory.load_dimension(other)
                check_reading(memory, other)
                assert dimension in mapped_dimensions(memory)
        stats = memory.get_stats()
        assert stats.evictions >= 5
        assert stats.pinned_bytes == world.path(dimension).stat().st_size
        check_states(stats)


class Asking:
    """A policy that counts what it is asked."""

    def __init__(self, policy):
        self.policy, self.asked, self.back = policy, [], []

    def victim(self, evictable):
        return self.policy.victim(lambda key: self.asked.append(key) or evictable(key))

    def put_back(self, keys):
        self.back += keys
        self.policy.put_back(keys)

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def __contains__(self, key):
        return key in self.policy


@pytest.mark.parametrize("policy", ["sieve", "lru", "lfu"])
def test_room_for_a_load_is_asked_of_its_victims_only(world, policy):
    dimensions = range(15, 55)
    world.write_all(1, *dimensions, 55)
    with small_manager(world, len(dimensions), eviction_policy=policy) as memory:
        for dimension in dimensions:
            memory.load_dimension(dimension)
        asking = watch_policy(memory, Asking)
        memory.load_dimension(55)
        assert asking.asked == [15]
        assert evicted_dimensions(memory) == {15}
        assert asking.back == []


@pytest.mark.parametrize("policy", ["sieve", "lru", "lfu"])
def test_a_load_that_is_refused_has_evicted_nothing_and_leaves_the_order(world, policy):
    world.write_all(15, 16, 17, 18)
    size, large = world.path(15).stat().st_size, world.write(19, n_bytes=5000).stat().st_size
    total_bytes = large + size // 2
    assert 4 * size <= total_bytes  # all four fit, and all must go for the large one
    with manager(world, total_memory_mb=total_bytes / MIB, eviction_policy=policy, **NO_EVICTION) as memory:
        for dimension in (15, 16, 17, 18):
            memory.load_dimension(dimension)
        held = memory.access_layer((17, 0))
        asking = watch_policy(memory, Asking)
        with pytest.raises(jm.LimitExceeded):
            memory.load_dimension(19)
        assert asking.back[:3] == [15, 16, 18]
        assert (mapped_dimensions(memory), evicted_dimensions(memory)) == ({15, 16, 17, 18}, set())
        del held
        asking.asked.clear()
        memory.load_dimension(19)
        assert asking.asked[:3] == [15, 16, 18]
        assert evicted_dimensions(memory) >= {15, 16, 18}


@pytest.mark.parametrize("holder", HOLDERS)
def test_leased_dimensions_are_never_evicted(world, holder):
    world.write_all(1, 2, 3)
    with small_manager(world, 2) as memory:
        memory.load_dimension(1)
        held = HOLDERS[holder](memory, 1, 0)
        for _ in range(3):
            for other in (2, 3):
                with contextlib.suppress(jm.DimensionAlreadyLoaded):
                    memory.load_dimension(other)
                check_reading(memory, other)
                assert 1 in mapped_dimensions(memory)
        assert bytes_of(held) == content_of(1, 0)
        del held
        memory.access_layer((2, 0))
        check_reading(memory, 2)
        assert memory.get_stats().evictions >= 5


def test_everything_leased_and_a_new_request_is_refused_at_once(world):
    world.write_all(1, 2, 3, 4)
    with small_manager(world, 3) as memory:
        for dimension in (1, 2, 3):
            memory.load_dimension(dimension)
        held = [memory.access_layer((dimension, layer)) for dimension in (1, 2, 3) for layer in (0, 1)]
        before = memory.get_stats()
        for call in (memory.load_dimension, memory.allocate):
            with pytest.raises(jm.LimitExceeded) as caught:
                call(4)
            names = [holder.partition(" (")[0] for holder in caught.value.holders]
            assert sorted(names) == [f"D0{dimension} generation 1" for dimension in (1, 2, 3)]
            assert all("2 views" in holder for holder in caught.value.holders)
            assert caught.value.current_bytes == before.total_allocated_bytes
        after = memory.get_stats()
        assert after.evictions == before.evictions == 0
        assert after.leased_bytes == before.leased_bytes == before.total_allocated_bytes
        assert sorted((lease.dimension, lease.n_views) for lease in memory.leases()) == [(1, 2), (2, 2), (3, 2)]
        del held[:2]
        memory.load_dimension(4)
        assert memory.get_stats().evictions == 1


def test_a_retired_generation_that_is_held_counts_until_it_goes(world):
    world.write_all(1, 2, 3)
    with small_manager(world, 2) as memory:
        memory.load_dimension(1)
        view = memory.access_layer((1, 0))
        world.write(1, generation=2)
        memory.reload_dimension(1)
        newer = memory.access_layer((1, 0))
        with pytest.raises(jm.LimitExceeded) as caught:
            memory.load_dimension(2)
        names = [holder.partition(" (")[0] for holder in caught.value.holders]
        assert sorted(names) == ["D01 generation 1", "D01 generation 2"]
        del caught
        del view
        memory.load_dimension(2)
        assert bytes(newer) == content_of(1, 0, 2)
        assert memory.leases() == [jm.Lease(1, 2, world.path(1).stat().st_size, 1)]


def test_a_reload_that_fails_while_room_is_short_evicts_not_the_old_one(world):
    """The old generation is what a failed reload promises to keep: it is not what makes room for the new one."""
    world.write_all(1, 2)
    with small_manager(world, 2) as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        world.damage(1, 258)
        with pytest.raises(jm.ChecksumMismatch):
            memory.reload_dimension(1)
        check_reading(memory, 1)
        assert 1 in mapped_dimensions(memory)


# Errors in the middle ----------------------------------------------------------------------------------------------


class Injected(Exception):
    """An error that nothing expects."""


# They call the system where no test comes between.
CALLS = tuple(f"jessy_mem._core.mapped.{name}" for name in ("open_file", "read_begin", "Mapping"))
ACTS = {
    "load": lambda memory: memory.load_dimension(1),
    "reload": lambda memory: memory.reload_dimension(1),
    "restore": lambda memory: memory.access_layer((1, 0)),
}


def check_after_fault(world, memory):
    """Nothing is charged or mapped but what is loaded, and the dimension can be loaded, if it is not, and read."""
    stats = memory.get_stats()
    check_states(stats)
    assert stats.leased_bytes == 0
    assert stats.total_allocated_bytes == stats.active_regions * world.path(1).stat().st_size
    assert sum(len(maps_of(world.path(dimension))) for dimension in (1, 2)) == stats.active_regions
    with contextlib.suppress(jm.DimensionAlreadyLoaded):
        memory.load_dimension(1)
    check_reading(memory, 1)
    check_states(memory.get_stats())


def run_with_fault(world, what, fault):
    """What the act raised, None if nothing."""
    with small_manager(world, 1 if what == "restore" else 3) as memory:
        if what != "load":
            memory.load_dimension(1)
        if what == "restore":
            memory.load_dimension(2)
        raised = None
        try:
            with fault:
                ACTS[what](memory)
        except (Injected, OSError, MemoryError, KeyboardInterrupt) as error:
            raised = type(error)
        check_after_fault(world, memory)
        return raised


@pytest.mark.parametrize("what", ACTS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("error", [Injected, OSError, MemoryError, KeyboardInterrupt])
def test_an_error_of_any_call_of_the_system_leaves_no_charge_and_no_mapping(world, inject, what, name, error):
    world.write_all(1, 2)
    for fault in inject.one_by_one(lambda at: inject(error("injected"), name, at=at, for_good=False)):
        raised = run_with_fault(world, what, fault)
        assert (raised is not None) == fault.fired


@pytest.mark.parametrize("what", ACTS)
@pytest.mark.parametrize("error", [Injected, OSError, MemoryError, KeyboardInterrupt])
def test_an_error_in_any_function_of_the_library_leaves_no_charge_and_no_mapping(world, inject, what, error):
    world.write_all(1, 2)
    for fault in inject.one_by_one(lambda at: inject.in_package(error("injected"), at), at_least=5):
        raised = run_with_fault(world, what, fault)
        is_begun_again = error is MemoryError and raised is None
        assert is_begun_again or (raised is not None) == fault.fired
