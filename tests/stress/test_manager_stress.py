"""Readers against storms of loading, unloading, reloading, eviction and closing.

Every byte that is read is compared: a view is one layer of one generation, whole. Nothing is raised but what the storm
makes legitimate, and at every moment the states of the budget add up. Runs with and without the GIL.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from world import MIB, check_reading, check_states, content_of, generation_of, manager

import jessy_mem as jm
from helpers import HAS_PROC, mapped_regions, run_threads

N_READERS = 4
N_LAYERS = 4
MIN_ROUNDS = 20
MAX_SECONDS = 2
SOAK_SECONDS = float(os.environ.get("JESSY_MEM_SOAK_SECONDS", "1"))  # .ci/sanitizers asks for 30


class Storm:
    """Readers that read until the writers have done their rounds; what anyone raises is raised by `run`."""

    def __init__(self, memory, dimensions, allowed=()):
        self.memory, self.dimensions, self.allowed = memory, dimensions, allowed
        self.stop = threading.Event()
        self.n_reads = self.n_refused = self.n_wanted = 0
        self.generations = set()  # that were read
        self._count = threading.Lock()

    def run(self, *writers, readers=N_READERS, sampler=True, n_generations=1):
        """Each writer is called once, in its own thread, with the storm; it returns when it has done enough.

        That is not before the readers have met `n_generations`.
        """
        self.n_wanted = n_generations if readers else 0
        done = []

        def writing(writer):
            writer(self)
            done.append(writer)
            if len(done) == len(writers):
                self.stop.set()

        def guarded(job):
            try:
                job()
            except BaseException:
                self.stop.set()
                raise

        jobs = [partial(self.read, number) for number in range(readers)]
        jobs += [self.sample] * sampler
        jobs += [partial(writing, writer) for writer in writers]
        run_threads([partial(guarded, job) for job in jobs])
        return self

    def read(self, number):
        rng = random.Random(number)
        n_reads = n_refused = 0
        reader = self.memory if number % 2 else None  # else one of its own
        while not self.stop.is_set():
            dimension, layer = rng.choice(self.dimensions), rng.randrange(N_LAYERS)
            try:
                reader = self.memory.reader() if reader is None else reader
                self.generations.add(self.read_one(rng.randrange(8), dimension, layer, reader))
                n_reads += 1
            except self.allowed:
                n_refused += 1
                time.sleep(1e-4)  # else those who ask in vain keep the lock from those who change something
        with self._count:
            self.n_reads += n_reads
            self.n_refused += n_refused

    def read_one(self, way, dimension, layer, reader=None):
        """Read one layer in one of the ways there are; its generation. ValueError if it is not whole."""
        memory = self.memory
        if way == 0:
            batch = memory.read_many([(dimension, layer), (dimension, (layer + 1) % N_LAYERS)])
            generation_of(batch[1])
            data = batch[0]
        elif way == 1:
            data = memory.load_context((dimension, layer)).content.encode()
        elif way == 2:
            region = memory.region(dimension)
            data = region.access(region.content_offset(layer), 1000)
        else:
            view = (reader or memory).access_layer((dimension, layer))
            assert view.id == (dimension, layer)
            data = view
        generation = generation_of(bytes(data))
        assert bytes(data) == content_of(dimension, layer, generation)
        return generation

    def sample(self):
        last = 0
        while not self.stop.is_set():
            stats = self.memory.get_stats()
            check_states(stats)
            assert stats.access_count >= last
            last = stats.access_count
            with contextlib.suppress(jm.ManagerClosed):
                for lease in self.memory.leases():
                    assert lease.n_views > 0
                    assert lease.n_bytes > 0
            time.sleep(1e-3)


def repeat(n_rounds, act):
    """A writer that does `act(round)` so often, or until the storm is over, or has lasted long on a busy machine.

    More often, if the readers got no turn.
    """

    def write(storm):
        deadline = time.monotonic() + MAX_SECONDS
        for round_number in itertools.count():
            is_enough = round_number >= n_rounds or (round_number >= MIN_ROUNDS and time.monotonic() > deadline)
            if storm.stop.is_set() or (is_enough and len(storm.generations) >= storm.n_wanted):
                return
            act(round_number)

    return write


def test_a_storm_notices_errors_of_readers_writers_and_the_sampler(world):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        with pytest.raises(jm.LayerNotFound):
            Storm(memory, [2]).run(repeat(10**9, lambda _: memory.get_stats()))
        with pytest.raises(ZeroDivisionError):
            Storm(memory, [1]).run(repeat(10, lambda number: 1 // (5 - number)))
        data = bytearray(world.path(1).read_bytes())
        data[-1] ^= 1
        world.publish(1, bytes(data))
        memory.unload_dimension(1)
        memory.load_dimension(1)
        with pytest.raises(jm.ChecksumMismatch):
            Storm(memory, [1]).run(repeat(10**9, lambda _: None))


def check_quiet(memory, world, dimensions):
    """After the storm nothing is held, and nothing is mapped but what is loaded."""
    assert memory.leases() == []
    stats = memory.get_stats()
    check_states(stats)
    assert stats.leased_bytes == stats.pool.used_bytes == 0
    if HAS_PROC:
        mapped = [line for line in mapped_regions() if str(world.base) in line or "/memfd:" in line]
        assert len(mapped) == stats.active_regions
    assert stats.access_count == stats.access_latency.count + stats.first_touch_latency.count


def test_reads_during_reloads_are_whole_generations(world):
    dimensions = [1, 2, 15]
    world.write_all(*dimensions)
    with manager(world) as memory:
        memory.load_all()

        last = dict.fromkeys(dimensions, 1)

        def reload(number):
            dimension = dimensions[number % 3]
            world.write(dimension, generation=2 + number)
            old, last[dimension] = memory.reload_dimension(dimension)
            assert old < last[dimension] == 2 + number

        storm = Storm(memory, dimensions).run(repeat(150, reload), n_generations=2)
        assert len(storm.generations) > 1
        check_quiet(memory, world, dimensions)
        assert memory.get_stats().load_count == 2 + max(last.values())
        for dimension in dimensions:
            check_reading(memory, dimension, generation=last[dimension])


def test_reads_during_reloads_by_several_threads(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        reloads = []

        def reload(number):
            reloads.append(memory.reload_dimension(1 + number % 2))

        Storm(memory, [1, 2]).run(*[repeat(300, reload)] * 4)
        check_quiet(memory, world, [1, 2])
        assert memory.get_stats().load_count == 2 + len(reloads)


def test_four_threads_reload_and_read_for_a_while(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        generation = itertools.count(2)
        deadline = time.monotonic() + SOAK_SECONDS
        n_reads = itertools.count()

        def reload_and_read(storm, dimension):
            turns = itertools.count()
            while not storm.stop.is_set() and (next(turns) == 0 or time.monotonic() < deadline):
                world.write(dimension, generation=next(generation))
                memory.reload_dimension(dimension)
                for _ in range(50):
                    read_whole(memory, dimension)
                    next(n_reads)

        Storm(memory, [1, 2]).run(*[partial(reload_and_read, dimension=1 + i % 2) for i in range(4)], readers=0)
        assert next(n_reads) > 100
        check_quiet(memory, world, [1, 2])


TESTS = Path(__file__).resolve().parents[1]
PUBLISHER = """
import itertools, os, sys
sys.path.insert(0, sys.argv[1])
import jessy_mem as jm
from world import content_of
for generation in itertools.count(2):
    if generation > 1 + int(sys.argv[3]) and os.path.exists(os.path.join(sys.argv[2], "enough")):
        break
    builder = jm.RegionBuilder(1, "Published", generation=generation)
    for layer in range(4):
        builder.add_layer(jm.LayerSpec(content=content_of(1, layer, generation)))
    builder.write(jm.region_path(sys.argv[2], 1))
print(generation - 1)
"""


@pytest.mark.parametrize("n_times", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_reads_while_another_process_publishes(world, n_times):
    """More often, until ten publications were met."""
    world.write(1)
    seen, enough = set(), world.base / "enough"
    with manager(world) as memory:
        memory.load_dimension(1)
        command = [sys.executable, "-c", PUBLISHER, TESTS, world.base, str(n_times)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            try:
                while publisher.poll() is None:
                    seen.add(read_whole(memory, 1))
                    if memory.region(1).stale:
                        old, new = memory.reload_dimension(1)
                        assert old < new
                    with jm.MmapRegion(1, world.path(1)) as region:
                        seen.add(whole_generation(region))
                    if len(seen) > 10:
                        enough.touch()
            finally:
                enough.touch()
            newest = int(publisher.stdout.read())
        assert publisher.returncode == 0
        memory.reload_dimension(1)
        assert read_whole(memory, 1) == newest > n_times
        check_quiet(memory, world, [1])


def read_whole(memory, dimension):
    """The one generation of all layers that a region has at this moment."""
    return whole_generation(memory.region(dimension))


def whole_generation(region):
    generations = {generation_of(bytes(region.layer(i))) for i in range(N_LAYERS)}
    assert generations == {region.generation}
    return region.generation


@pytest.mark.parametrize("policy", ["sieve", "lru", "lfu"])
def test_reads_of_more_than_fits_evict_and_restore(world, policy):
    """What others are just reading cannot go, so a thread may be refused now and then, but not often."""
    dimensions = [d for d in range(1, 31) if d not in (9, 14)]
    world.write_all(*dimensions)
    size = world.path(1).stat().st_size
    with manager(world, total_memory_mb=15.5 * size / MIB, eviction_policy=policy) as memory:
        memory.load_all()
        storm = Storm(memory, dimensions, jm.LimitExceeded)
        rng = random.Random(7)

        def read(number):
            with contextlib.suppress(jm.LimitExceeded):
                storm.read_one(number % 8, rng.choice(dimensions), number % 4)

        storm.run(*[repeat(600, read)] * 3)
        assert storm.n_reads > 10 * storm.n_refused
        stats = memory.get_stats()
        assert stats.evictions > 20
        assert stats.dimensions_loaded == len(dimensions)
        check_quiet(memory, world, dimensions)
        for dimension in dimensions:
            check_reading(memory, dimension)


def test_reads_during_loading_and_unloading(world):
    dimensions = [1, 2, 3, 15, 1000]
    world.write_all(*dimensions)
    with manager(world) as memory:

        def toggle(number):
            dimension = dimensions[number % 5]
            if number // 5 % 2:
                with contextlib.suppress(jm.RegionNotFound):
                    memory.unload_dimension(dimension)
            else:
                with contextlib.suppress(jm.DimensionAlreadyLoaded):
                    memory.load_dimension(dimension)

        allowed = (jm.LayerNotFound, jm.RegionNotFound)
        storm = Storm(memory, dimensions, allowed).run(*[repeat(1500, toggle)] * 3)
        assert storm.n_reads > 0
        check_quiet(memory, world, dimensions)
        memory.load_all()
        for dimension in dimensions:
            check_reading(memory, dimension)


@pytest.mark.thread_unsafe(reason="counts the mappings of the process")
def test_load_all_by_several_threads_while_others_unload(world):
    dimensions = [1, 2, 9, 15]
    world.write_all(*dimensions)
    with manager(world) as memory:

        def load(number):
            report = memory.load_all()
            assert set(report.skipped) == {3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14}
            assert report.loaded == dimensions

        def unload(number):
            with contextlib.suppress(jm.RegionNotFound):
                memory.unload_dimension(dimensions[number % 4])

        Storm(memory, dimensions, (jm.LayerNotFound, jm.RegionNotFound)).run(
            repeat(300, load), repeat(300, load), repeat(2000, unload), readers=2
        )
        check_quiet(memory, world, dimensions)


@pytest.mark.thread_unsafe(reason="counts the mappings of the process")
def test_everything_at_once(world):
    """Loads, unloads, reloads, evictions, the pool and questions together, in a budget that is always short."""
    dimensions = [1, 2, 3, 4, 9, 15, 16, 1000]
    world.write_all(*dimensions)
    size = world.path(1).stat().st_size
    allowed = (jm.LayerNotFound, jm.RegionNotFound, jm.LimitExceeded)
    legitimate = (*allowed, jm.DimensionAlreadyLoaded, jm.AllocationFailed)
    with manager(world, total_memory_mb=(8 * size + 20_000) / MIB, pool_configs=((1, 4096),)) as memory:
        told = []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append((level, used_bytes, limit_bytes)))

        def change(number):
            rng = random.Random(number)
            dimension = rng.choice(dimensions)
            with contextlib.suppress(*legitimate):
                rng.choice(
                    [
                        lambda: memory.load_dimension(dimension),
                        lambda: memory.unload_dimension(dimension),
                        lambda: memory.reload_dimension(dimension),
                        lambda: memory.layers(dimension, frequency=(0.5, 2)),
                        lambda: memory.load_all(),
                        lambda: memory.address_of((dimension, 0)),
                    ]
                )()

        def allocate(number):
            with contextlib.suppress(*legitimate):
                blocks = [memory.allocate(1 + 5000 * (i % 3)) for i in range(number % 6)]
                for block in blocks:
                    memory.deallocate(block)

        def press(storm):
            """However few rounds the others do in their time: until something was evicted."""
            while not (storm.stop.is_set() or memory.get_stats().evictions):
                with contextlib.suppress(*legitimate):
                    memory.load_all()
                allocate(5)

        storm = Storm(memory, dimensions, allowed).run(
            repeat(2000, change), repeat(2000, lambda number: change(number + 10_000)), repeat(6000, allocate), press
        )
        assert storm.n_reads > 0
        for level, used_bytes, limit_bytes in told:
            assert level in ("warning", "eviction", "critical")
            assert 0 < used_bytes <= limit_bytes
        check_quiet(memory, world, dimensions)
        stats = memory.get_stats()
        assert stats.evictions > 0
        assert stats.allocation_count >= stats.deallocation_count > 0
    assert memory.get_stats().total_allocated_bytes == 0


@pytest.mark.parametrize("seed", range(30))
def test_close_in_the_middle(world, seed):
    """Readers go on until they are told that the manager is closed; what they hold stays whole."""
    dimensions = [1, 2, 3, 9]
    world.write_all(*dimensions)
    size = world.path(1).stat().st_size
    memory = manager(world, total_memory_mb=3.5 * size / MIB if seed % 2 else 280)
    memory.load_all()
    kept = memory.access_layer((1, 0))
    block = memory.allocate(100)
    ended = []

    def read_until_closed(storm):
        for number in range(10**6):
            try:
                storm.read_one(number % 8, dimensions[number % 4], number % 4)
            except jm.ManagerClosed:
                ended.append("closed")
                return
            except jm.LimitExceeded:
                assert seed % 2

    def change(storm):
        with contextlib.suppress(jm.ManagerClosed):
            for number in range(10**6):
                with contextlib.suppress(jm.LimitExceeded):
                    memory.reload_dimension(dimensions[number % 3])
                with contextlib.suppress(jm.LimitExceeded):
                    memory.allocate(1000).free()

    def close(storm):
        random.Random(seed)
        for _ in range(seed):
            memory.get_stats()
        memory.close()

    Storm(memory, dimensions, (jm.ManagerClosed, jm.LimitExceeded)).run(
        close, close, change, read_until_closed, read_until_closed, readers=1
    )
    assert ended == ["closed"] * 2
    stats = memory.get_stats()
    check_states(stats)
    assert (stats.dimensions_loaded, stats.leased_bytes) == (0, stats.total_allocated_bytes)
    assert stats.total_allocated_bytes == size + block.capacity
    assert bytes(kept) == content_of(1, 0)
    del kept
    block.free()
    assert memory.get_stats().total_allocated_bytes == 0


def test_managers_come_and_go_in_threads(world):
    """One manager for each thread and round, dropped without close; nothing stays mapped."""
    world.write_all(1, 9)

    def live():
        for _ in range(30):
            memory = manager(world)
            memory.load_all()
            check_reading(memory, 1)
            check_reading(memory, 9)
            memory.allocate(1000)
            del memory

    run_threads([live] * 4)
    assert [line for line in mapped_regions() if str(world.base) in line] == [] or not HAS_PROC
