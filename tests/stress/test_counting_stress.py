"""Counts of a manager under threads: each call is counted once, timed or not, whatever else goes on."""

from __future__ import annotations

import contextlib
import threading
from functools import partial

import pytest
from world import manager

import jessy_mem as jm
from helpers import HUNG_S, run_threads

N_THREADS = 6
N_ROUNDS = 60


def run_together(work, n_threads=N_THREADS):
    """Run `work(number)` in threads that begin together; an exception in one is raised here."""
    barrier = threading.Barrier(n_threads)

    def begin(number):
        barrier.wait()
        work(number)

    run_threads([partial(begin, number) for number in range(n_threads)])


@pytest.mark.parametrize("record_latency", [True, False])
def test_counts_are_exact_under_threads(world, record_latency):
    dimensions = range(1, N_THREADS + 1)
    world.write_all(*dimensions, 15)
    with manager(world, record_latency=record_latency) as memory:
        memory.load_dimension(15)

        def work(number):
            own = dimensions[number]
            for i in range(N_ROUNDS):
                memory.load_dimension(own)
                memory.access_layer((own, i % 4))  # a first touch: the dimension is new
                memory.access_layer((own, i % 4))
                memory.access_layer((15, 0))
                memory.load_context((own, i % 4))
                memory.read_many([(own, 0), (15, 1), (own, 0)])
                memory.load_contexts([jm.NavigationPath(15, [(15, 2), (99, 0)])])
                memory.reload_dimension(own)
                memory.deallocate(memory.allocate(100 + i))
                memory.allocate(5000).free()
                for call, error in (
                    (lambda: memory.access_layer((own, 9)), jm.LayerNotFound),
                    (lambda: memory.load_dimension(own), jm.DimensionAlreadyLoaded),
                    (lambda: memory.allocate(1 << 30), jm.LimitExceeded),
                ):
                    with pytest.raises(error):
                        call()
                memory.unload_dimension(own)

        run_together(work)
        stats = memory.get_stats()
        n = N_THREADS * N_ROUNDS
        assert {
            "access_count": stats.access_count,
            "load_count": stats.load_count,
            "allocation_count": stats.allocation_count,
            "deallocation_count": stats.deallocation_count,
            "allocation_failures": stats.allocation_failures,
            "copies": stats.copies,
            "evictions": stats.evictions,
        } == {
            "access_count": 8 * n,
            "load_count": 2 * n + 1,
            "allocation_count": 2 * n,
            "deallocation_count": n,
            "allocation_failures": n,
            "copies": 5 * n,
            "evictions": 0,
        }
        n_first = memory._first_touches.n_events  # private: the public summary is empty where nothing is timed
        timed = {
            "load": (stats.load_latency, 2 * n + 1),
            "allocate": (stats.allocate_latency, 2 * n),
            "access": (stats.access_latency, stats.access_count - n_first),
            "first touch": (stats.first_touch_latency, n_first),
        }
        for name, (summary, count) in timed.items():
            assert summary.count == (count if record_latency else 0), name
            assert (summary.max > 0) == record_latency, name
        assert stats.leased_bytes == stats.pool.used_bytes == 0


def test_crystallizations_are_counted_under_threads(world):
    with manager(world) as memory:
        found = []

        def work(number):
            for i in range(5):
                spec = jm.LayerSpec(text=f"joke {number} {i}")
                dimension = memory.create_proto_dimension(f"Humor {number} {i}", [spec])
                memory.crystallize(dimension)
                found.append(memory.load_context((dimension, 0)).content)

        run_together(work, 4)
        stats = memory.get_stats()
        assert (stats.crystallization_count, stats.crystallize_latency.count) == (20, 20)
        assert sorted(found) == sorted(f"joke {number} {i}" for number in range(4) for i in range(5))
        assert (stats.access_count, stats.copies) == (20, 20)


def test_states_add_up_while_threads_load_hold_and_allocate(world):
    """In each snapshot, whatever is charged, held or given back beside it."""
    dimensions = range(1, N_THREADS + 1)
    world.write_all(*dimensions, 15)
    with manager(world, total_memory_mb=0.1, eviction_threshold=90.0) as memory:
        memory.load_dimension(15)
        begun, done = threading.Event(), threading.Event()
        seen = set()

        def watch():
            is_last = False
            while not is_last:
                is_last = done.is_set()
                stats = memory.get_stats()
                states = (stats.leased_bytes, stats.evictable_bytes, stats.pinned_bytes, stats.available_bytes)
                assert min(states) >= 0, states
                assert sum(states) == memory.config.total_bytes, states
                seen.add(states)
                begun.set()

        def change(dimension):
            begun.wait(HUNG_S)
            for i in range(5 * N_ROUNDS):
                with contextlib.suppress(jm.LimitExceeded):
                    memory.load_dimension(dimension)
                    try:
                        view, block = memory.access_layer((dimension, i % 4)), memory.allocate(5000)
                    finally:
                        memory.unload_dimension(dimension)
                    assert view.n_bytes < block.n_bytes

        def work(number):
            if number == 0:
                return watch()
            try:
                return change(dimensions[number])
            finally:
                done.set()

        run_together(work)
        stats = memory.get_stats()
        assert len(seen) > 1
        assert stats.evictions > 0
        assert stats.allocation_count > 0
