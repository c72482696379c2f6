"""Threads read texts that are kept while another changes, unloads, trims and allocates: each text is its layer's."""

from __future__ import annotations

import random
import threading

from world import MIB, check_states, content_of, generation_of, manager

import jessy_mem as jm
from helpers import run_threads

DIMENSIONS, N_LAYERS, N_BYTES = (1, 2, 3), 6, 4000
BOUND_BYTES = 20_000
N_READS, N_CHANGES = 1500, 120


def test_each_text_is_of_its_layer_whatever_happens_meanwhile(world):
    world.write_all(*DIMENSIONS, n_layers=N_LAYERS, n_bytes=N_BYTES)
    newest = dict.fromkeys(DIMENSIONS, 1)
    done = threading.Event()
    with manager(world, 1, text_cache_mb=BOUND_BYTES / MIB) as memory:
        for dimension in DIMENSIONS:
            memory.load_dimension(dimension)

        def read(number: int) -> None:
            rng = random.Random(number)
            source = memory.reader() if number % 2 else memory
            held: list[jm.LayerView] = []
            for _ in range(N_READS):
                layer_id = rng.choice(DIMENSIONS), rng.randrange(N_LAYERS)
                before = newest[layer_id[0]]
                try:
                    view = source[layer_id]
                except jm.LayerNotFound:
                    continue  # it is unloaded just now
                text = view.text
                assert text.encode() == bytes(view)
                assert generation_of(text.encode()) >= before, "a stale text"
                assert text.encode()[:16] == content_of(*layer_id, generation_of(text.encode()), N_BYTES)[:16]
                held = [*held[-3:], view]
                assert all(each.text.encode() == bytes(each) for each in held)

        def change() -> None:
            rng = random.Random(0)
            try:
                for _ in range(N_CHANGES):
                    dimension = rng.choice(DIMENSIONS)
                    step = rng.random()
                    if step < 0.4:
                        world.write(dimension, N_LAYERS, N_BYTES, generation=newest[dimension] + 1)
                        memory.reload_dimension(dimension)
                        newest[dimension] += 1
                    elif step < 0.6:
                        memory.unload_dimension(dimension)
                        memory.load_dimension(dimension)
                    elif step < 0.8:
                        memory.trim()
                    else:
                        memory.allocate(600_000).free()
            finally:
                done.set()

        def watch() -> None:
            while not done.is_set():
                stats = memory.get_stats()
                assert stats.text_bytes <= BOUND_BYTES
                check_states(stats)

        run_threads([*(lambda number=number: read(number) for number in range(4)), change, watch])
        for dimension in DIMENSIONS:
            memory.unload_dimension(dimension)
        stats = memory.get_stats()
        assert (stats.text_bytes, stats.total_allocated_bytes) == (0, 0)
        assert memory.leases() == []
