"""Readers of dimensions that become files meanwhile: each read is the content, from the pool or the file."""

from __future__ import annotations

import os
import random
import threading

import pytest
from world import check_states, content_of, manager

import jessy_mem as jm

N_READERS = 4
N_LAYERS = 2
LAYER_BYTES = 700


@pytest.mark.parametrize(
    ("n_crystallizations", "total_memory_mb"), [(100, 280), (700, 1), pytest.param(1000, 280, marks=pytest.mark.slow)]
)
def test_readers_see_the_content_while_it_becomes_a_file(tmp_path, inject, n_crystallizations, total_memory_mb):
    """In the small budget files are evicted and mapped again all the time, and held blocks stand in the way."""
    latest: list[tuple[int, int]] = []  # (dimension, key), of those that are read
    done = threading.Event()
    seen = [dict.fromkeys(("pool", "mmap"), 0) for _ in range(N_READERS)]
    failures: list[BaseException] = []

    def read(number: int) -> None:
        chance = random.Random(number)
        held = []
        try:
            while not done.is_set():
                if not latest:
                    continue
                # Mostly the one that is just being written.
                dimension, key = latest[-1] if chance.random() < 0.7 else chance.choice(latest[-200:])
                layer = chance.randrange(N_LAYERS)
                view = memory.access_layer((dimension, layer))
                assert bytes(view) == content_of(key, layer, n_bytes=LAYER_BYTES)
                seen[number][view.source] += 1
                held.append((view, key, layer))
                if len(held) == 8:
                    for view, key, layer in held:
                        assert bytes(view) == content_of(key, layer, n_bytes=LAYER_BYTES)
                    held.clear()
        except BaseException as error:
            failures.append(error)
        finally:
            del view
            held.clear()

    # Durability is not the question here: the rest gets more turns.
    fsync = inject.instead("os.fsync", lambda fd: None)
    with manager(tmp_path, total_memory_mb) as memory, fsync:
        readers = [threading.Thread(target=read, args=(number,)) for number in range(N_READERS)]
        for reader in readers:
            reader.start()
        for key in range(50 * n_crystallizations):  # on a busy machine a reader may get no turn for long
            if key >= n_crystallizations and all(min(each.values()) > 0 for each in seen):
                break
            layers = [jm.LayerSpec(content=content_of(key, i, n_bytes=LAYER_BYTES)) for i in range(N_LAYERS)]
            dimension = memory.create_proto_dimension(f"{key}", layers, user=True)
            latest.append((dimension, key))
            memory.crystallize(dimension)
            if failures:
                break
        done.set()
        for reader in readers:
            reader.join()
        if failures:
            raise failures[0]
        for dimension, key in latest:
            assert bytes(memory.access_layer((dimension, 0))) == content_of(key, 0, n_bytes=LAYER_BYTES)
        stats = memory.get_stats()
        check_states(stats)
        assert stats.crystallization_count == len(latest)
        assert stats.pool.used_bytes == 0
        assert (stats.evictions > 0) == (total_memory_mb == 1)
        for each in seen:
            assert min(each.values()) > 0, f"one source was never met: {seen}"
    assert sum(name.startswith("D") for name in os.listdir(tmp_path)) == len(latest)
