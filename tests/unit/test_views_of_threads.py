"""Without the GIL: what a thread reads often is its own view, which else behaves as the one that all share."""

from __future__ import annotations

import sys
import threading

import inside
import pytest
from changing import evict, load_again, reload, update
from world import content_of, generation_of, manager

from helpers import in_thread

WITH_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
LAYERS = [(dimension, layer) for dimension in (1, 2) for layer in range(4)]


@pytest.fixture
def memory(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        yield memory


def until_own(memory, layer_id=(1, 0)):
    """What `memory` gives for a layer that this thread reads often."""
    return [memory.access_layer(layer_id) for _ in range(100)][-1]


@pytest.mark.skipif(WITH_GIL, reason="with the GIL all threads share a view")
class TestViewsOfEachThread:
    def test_one_thread_and_those_that_read_seldom_share_one(self, memory):
        view = until_own(memory)
        assert {id(memory[1, 0]) for _ in range(100)} == {id(view)}
        assert in_thread(lambda: [memory[1, layer] for layer in range(4)])[0] is view

    def test_who_reads_often_gets_one_of_its_own(self, memory):
        view = until_own(memory)
        other = in_thread(lambda: until_own(memory))
        assert other is not view
        assert bytes(other) == bytes(view) == content_of(1, 0)
        assert (other.id, other.keywords, other.text) == (view.id, view.keywords, view.text)
        mine = until_own(memory)
        assert mine is until_own(memory) is not other

    def test_what_they_keep_is_no_lease_and_leaves_when_it_is_evicted(self, memory):
        until_own(memory)
        in_thread(lambda: [until_own(memory, layer_id) for layer_id in LAYERS] and None)
        for layer_id in LAYERS:
            until_own(memory, layer_id)
        assert memory.leases() == []
        view = until_own(memory)
        assert [(lease.dimension, lease.n_views) for lease in memory.leases()] == [(1, 1)]
        del view
        inside.evict(memory)
        assert memory.get_stats().total_used_bytes == 0
        assert bytes(until_own(memory)) == content_of(1, 0)

    @pytest.mark.parametrize("change", [update, reload, load_again, evict])
    def test_follow_what_changes(self, memory, world, change):
        asked, answers, go_on = [], [], threading.Barrier(2)

        def read():
            for _ in range(2):
                answers.append(generation_of(bytes(until_own(memory))))
                go_on.wait()
                go_on.wait()

        until_own(memory)
        thread = threading.Thread(target=read)
        thread.start()
        go_on.wait()
        asked.append(generation_of(bytes(until_own(memory))))
        change(memory, world)
        go_on.wait()
        go_on.wait()
        asked.append(generation_of(bytes(until_own(memory))))
        go_on.wait()
        thread.join()
        assert asked == answers == [1, 2]

    def test_are_bounded(self, world):
        world.write(1, n_layers=3000, n_bytes=64)
        with manager(world) as memory:
            memory.load_dimension(1)

            def read():
                own = {id(until_own(memory, (1, layer))) for layer in range(3000)}
                return len(own), [bytes(until_own(memory, (1, layer))) for layer in (0, 1500, 2999)]

            shared = [memory[1, layer] for layer in range(3000)]
            n_own, last = in_thread(read)
            assert n_own > 1000
            assert last == [content_of(1, layer, n_bytes=64) for layer in (0, 1500, 2999)]
            assert len(shared) == 3000

    def test_go_in_any_thread(self, memory):
        """One that is handed over and dropped elsewhere frees what it held, though the thread that read it sleeps."""
        until_own(memory)
        handed, dropped = [], threading.Event()

        def read():
            handed.append(until_own(memory))
            ready.set()
            dropped.wait()

        ready = threading.Event()
        thread = threading.Thread(target=read)
        thread.start()
        ready.wait()
        memory.unload_dimension(1)
        assert memory.get_stats().leased_bytes > 0
        handed.clear()
        assert memory.get_stats().leased_bytes == 0
        dropped.set()
        thread.join()
