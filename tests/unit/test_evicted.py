"""What is remembered of dimensions that were unmapped: all that is needed, in few bytes."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from jessy_mem.evicted import Evicted, EvictedDimensions

FACTS = [(0, 1, 2.5, ("joke", "größe"), 100, 100, 5), (7, 0, 1.0, (), 20, 60, 6)]


def test_what_was_put_is_given_back_until_it_is_removed():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(2**63, 2, "mmap", 4096), FACTS)
    evicted.put(1, Evicted(0, 5, "simulated", 1 << 33))
    assert evicted.get(15) == (2**63, 2, "mmap", 4096)
    assert evicted.get(1) == Evicted(0, 5, "simulated", 1 << 33)
    assert (evicted.get(2), 2 in evicted, 15 in evicted, len(evicted), [*evicted]) == (None, False, True, 2, [15, 1])
    assert (evicted.n_layers, evicted.simulated) == (7, {1})
    assert [evicted.remove(1), evicted.remove(1)] == [True, False]
    assert (evicted.n_layers, evicted.simulated, [*evicted]) == (2, set(), [15])
    evicted.clear()
    assert (evicted.n_layers, len(evicted), evicted.get(15)) == (0, 0, None)


def test_a_dimension_that_is_put_again_counts_once():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(1, 3, "simulated", 10))
    evicted.put(15, Evicted(2, 4, "mmap", 10))
    assert (evicted.n_layers, evicted.simulated, len(evicted)) == (4, set(), 1)


def test_facts_are_given_once():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(1, 2, "mmap", 10), FACTS, "Größe")
    assert evicted.take_facts(15) == ("Größe", FACTS)
    assert evicted.take_facts(15) == ("", [])
    assert evicted.get(15) == Evicted(1, 2, "mmap", 10)


def test_what_has_changed_is_remembered_as_changed_until_it_comes_back():
    evicted = EvictedDimensions()
    evicted.put(15, Evicted(1, 2, "mmap", 10), FACTS, "Humor")
    evicted.mark_changed(15)
    assert (evicted.changed, evicted.take_facts(15), evicted.n_layers) == ({15}, ("", []), 2)
    evicted.remove(15)
    assert evicted.changed == set()


@pytest.mark.thread_unsafe(reason="tracemalloc counts what all threads hold")
def test_a_dimension_with_one_layer_and_one_keyword_takes_at_most_200_bytes():
    n_dimensions = 10_000
    tracemalloc.start()
    try:
        evicted = EvictedDimensions()
        for dimension in range(1000, 1000 + n_dimensions):
            fact = (0, 0, 1.5, (f"word{dimension}",), 1024, 1024, 1_700_000_000_000_000_000)
            evicted.put(
                dimension, Evicted(1_000_000 + dimension, 1, "mmap", 4096 + dimension), [fact], f"user:{dimension}"
            )
        n_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(evicted) == n_dimensions
    # Without the GIL each object has 16 bytes more in front, and the int and the bytes of a record are two.
    assert n_bytes / n_dimensions <= (200 if getattr(sys, "_is_gil_enabled", lambda: True)() else 232)
