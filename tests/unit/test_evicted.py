"""What is remembered of dimensions that were unmapped: all that is needed, in few bytes."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from jessy_mem.evicted import Evicted, EvictedDimensions


def test_what_was_put_is_given_back_until_it_is_removed():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(2**63, 2, "mmap", 4096))
    evicted.put(1, Evicted(0, 5, "simulated", 1 << 33))
    assert evicted.of(15) == (2**63, 2, "mmap", 4096)
    assert evicted.of(1) == Evicted(0, 5, "simulated", 1 << 33)
    assert (evicted.of(2), 2 in evicted, 15 in evicted, len(evicted), [*evicted]) == (None, False, True, 2, [15, 1])
    assert (evicted.n_layers, evicted.simulated) == (7, {1})
    assert [evicted.remove(1), evicted.remove(1)] == [True, False]
    assert (evicted.n_layers, evicted.simulated, [*evicted]) == (2, set(), [15])
    evicted.clear()
    assert (evicted.n_layers, len(evicted), evicted.of(15)) == (0, 0, None)


def test_a_dimension_that_is_put_again_counts_once():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(1, 3, "simulated", 10))
    evicted.put(15, Evicted(2, 4, "mmap", 10))
    assert (evicted.n_layers, evicted.simulated, len(evicted)) == (4, set(), 1)


def test_what_has_changed_is_remembered_as_changed_until_it_comes_back():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(1, 2, "mmap", 10))
    evicted.mark_changed(15, 3)
    assert (evicted.changed, evicted.of(15), evicted.n_layers) == ({15}, Evicted(3, 2, "mmap", 10), 2)
    evicted.remove(15)
    assert evicted.changed == set()


@pytest.mark.thread_unsafe(reason="tracemalloc counts what all threads hold")
def test_a_dimension_takes_at_most_150_bytes_however_many_layers_it_has():
    n_dimensions = 10_000
    tracemalloc.start()
    try:
        evicted = EvictedDimensions()
        for dimension in range(1000, 1000 + n_dimensions):
            evicted.put(dimension, Evicted(1_000_000 + dimension, dimension, "mmap", 4096 + dimension))
        n_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(evicted) == n_dimensions
    # Without the GIL each object has 16 bytes more in front, and the int and the bytes of a record are two.
    assert n_bytes / n_dimensions <= (150 if getattr(sys, "_is_gil_enabled", lambda: True)() else 182)
