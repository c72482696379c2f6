"""A Reader reads as its manager does, keeps views of its own, and holds nothing that the manager let go of.

Without the GIL so does a thread that has none, with what it reads often.
"""

from __future__ import annotations

import gc
import pickle
import sys
import threading

import inside
import pytest
from changing import evict, load_again, reload, update
from world import content_of, generation_of, manager

import jessy_mem as jm
from helpers import DISOWNS, in_thread
from jessy_mem import compression

WITH_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
LAYERS = [(dimension, layer) for dimension in (1, 2) for layer in range(4)]


@pytest.fixture
def memory(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        yield memory


def test_reads_what_the_manager_reads(memory):
    with memory.reader() as reader:
        for layer_id in LAYERS:
            view = reader[layer_id]
            assert view is reader.access_layer(layer_id) is reader[jm.LayerId(*layer_id)]
            assert bytes(view) == content_of(*layer_id)
            ours, theirs = [
                (each.id, each.keywords, each.depth, each.frequency, each.source, dict(each.attributes), each.n_bytes)
                for each in (view, memory[layer_id])
            ]
            assert ours == theirs
            assert view is not memory[layer_id]
        assert reader.access_many(LAYERS) == [reader[layer_id] for layer_id in LAYERS]
        assert reader.layers() == memory.layers()
        assert reader.layers(2, frequency=(0.5, 1)) == memory.layers(2, frequency=(0.5, 1))
        ours, theirs = reader.read_many(LAYERS), memory.read_many(LAYERS)
        assert bytes(ours.data) == bytes(theirs.data)


def test_its_views_are_equal_to_the_manager_s_until_the_layer_changes(memory, world):
    with memory.reader() as reader:
        view = reader[1, 0]
        assert view == memory[1, 0]
        assert hash(view) == hash(memory[1, 0])
        assert view is not memory[1, 0]
        assert {view: "kept"}[memory[1, 0]] == "kept"
        assert view != memory[1, 1]
        load_again(memory, world)
        assert view != memory[1, 0]


def test_text_is_counted_as_the_manager_counts_it(world):
    path = jm.region_path(world.base, 1)
    jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text="some text")).write(path)
    with manager(world) as memory:
        memory.load_all()
        with memory.reader() as reader:
            assert reader.load_context((1, 0)) == memory.load_context((1, 0))
            before = memory.get_stats().copies
            assert before == 2
            reader.load_context((1, 0))
            assert memory.get_stats().copies == 3
        assert memory.get_stats().copies == 3


@pytest.mark.parametrize("timed", [True, False])
def test_hits_are_counted_also_after_the_end(world, timed):
    world.write_all(1)
    with manager(world, record_latency=timed) as memory:
        memory.load_all()
        with memory.reader() as reader:
            for _ in range(10):
                reader[1, 0]
            assert memory.get_stats().access_count == 10
        stats = memory.get_stats()
        assert stats.access_count == 10
        assert stats.access_latency.count == (9 if timed else 0)


def test_errors_are_the_manager_s(memory):
    with memory.reader() as reader:
        missing = [((1, 9), jm.LayerNotFound), ((3, 0), jm.LayerNotFound)]
        for wrong, error in [*missing, ((1.0, 0), TypeError), (1, TypeError)]:
            with pytest.raises(error):
                reader[wrong]
            with pytest.raises(error):
                reader.access_layer(wrong)
            with pytest.raises(error):
                reader.load_context(wrong)


def test_belongs_to_the_thread_that_made_it(memory):
    reader = memory.reader()
    view = reader[1, 0]
    for call in (
        lambda: reader[1, 0], lambda: reader.access_layer((1, 0)), lambda: reader.load_context((1, 0)),
        lambda: reader.access_many([(1, 0)]), lambda: reader.read_many([(1, 0)]), reader.layers, reader.close,
        reader.__enter__,
    ):  # fmt: skip
        assert isinstance(in_thread(call), RuntimeError)
    assert reader[1, 0] is view
    other = in_thread(memory.reader)
    # Its thread has ended, and a new one may be where that was.
    assert isinstance(in_thread(lambda: other[1, 0]), RuntimeError)
    with pytest.raises(RuntimeError):
        other[1, 0]


def test_closed(memory):
    reader = memory.reader()
    view = reader[1, 0]
    assert "MmapManager" in repr(reader)
    reader.close()
    reader.close()
    assert repr(reader) == "<Reader closed>"
    of_nothing = (lambda: reader.access_many([]), lambda: reader.read_many([]))
    of_one = (lambda: reader[1, 0], lambda: reader.read_many([(1, 0)]))
    for call in (*of_one, *of_nothing, reader.layers, reader.__enter__):
        with pytest.raises(jm.ManagerClosed):
            call()
    assert bytes(view) == content_of(1, 0)


def test_of_a_closed_manager(memory):
    reader = memory.reader()
    view = reader[1, 0]
    memory.close()
    of_nothing = (lambda: reader.access_many([]), lambda: reader.read_many([]))
    for call in (lambda: reader[1, 0], lambda: reader[1, 1], reader.layers, memory.reader, *of_nothing):
        with pytest.raises(jm.ManagerClosed):
            call()
    assert bytes(view) == content_of(1, 0)


def test_keeps_its_manager(world):
    world.write_all(1)
    memory = manager(world)
    memory.load_all()
    reader = memory.reader()
    del memory
    gc.collect()
    assert bytes(reader[1, 0]) == content_of(1, 0)


def test_cycle_with_its_manager_is_collected(world):
    world.write_all(1)
    memory = manager(world)
    memory.load_all()
    memory.own = memory.reader()
    memory.own[1, 0]
    number = memory.number
    del memory
    gc.collect()
    assert number not in [each.number for each in jm.manager.open_managers()]


def test_cannot_be_pickled(memory):
    with pytest.raises(TypeError, match="one thread"):
        pickle.dumps(memory.reader())


def by_another(memory, world):
    with manager(world) as other:
        other.load_all()
        other.append_layer(2, jm.LayerSpec(text="more"))
        memory.refresh()  # with the page on which changes are told, which was not there before
        update(other, world)


@pytest.mark.parametrize("change", [update, reload, load_again, evict, by_another])
def test_follows_what_changes(memory, world, change):
    with memory.reader() as reader:
        before = [reader[layer_id] for layer_id in LAYERS]
        change(memory, world)
        assert [generation_of(bytes(reader[1, 0])) for _ in range(3)] == [2, 2, 2]
        assert reader[1, 0] is reader[1, 0] is not before[0]
        assert generation_of(bytes(before[0])) == 1
        assert [reader[2, layer] for layer in range(4)] == before[4:]


def test_what_has_gone_is_not_found(memory):
    with memory.reader() as reader:
        view = reader[1, 0]
        memory.unload_dimension(1)
        with pytest.raises(jm.LayerNotFound):
            reader[1, 0]
        assert bytes(view) == content_of(1, 0)


def test_reads_in_a_snapshot_of_its_thread(memory, world):
    with memory.reader() as reader:
        view = reader[1, 0]
        with memory.snapshot():
            update(memory, world)
            assert generation_of(bytes(reader[1, 0])) == 1
        assert generation_of(bytes(reader[1, 0])) == 2
        assert generation_of(bytes(view)) == 1


def test_what_it_keeps_is_no_lease_and_what_it_gave_is_one(memory):
    with memory.reader() as reader:
        for layer_id in LAYERS:
            reader[layer_id]
        assert memory.leases() == []
        assert memory.get_stats().leased_bytes == 0
        view = reader[1, 0]
        assert [(lease.dimension, lease.n_views) for lease in memory.leases()] == [(1, 1)]
        assert inside.freed_bytes(memory, 1) == 0
        assert inside.freed_bytes(memory, 2) > 0
        part = reader[2, 0][:10]
        assert [(lease.dimension, lease.n_views) for lease in memory.leases()] == [(1, 1), (2, 1)]
        del view, part
        assert memory.leases() == []


def test_idle_reader_keeps_nothing_of_what_is_evicted(memory, world):
    with memory.reader() as reader:
        for layer_id in LAYERS:
            reader[layer_id]
        mapped = memory.get_stats().total_used_bytes
        assert mapped > 0
        in_thread(lambda: inside.evict(memory))
        assert memory.get_stats().total_used_bytes == 0
        assert memory.leases() == []
        assert bytes(reader[1, 0]) == content_of(1, 0)


def test_its_reads_are_seen_by_eviction(memory):
    with memory.reader() as reader:
        reader[1, 0], reader[2, 0]
        inside.take_visits(memory)
        for _ in range(3):
            reader[2, 0]
        assert inside.take_visits(memory) == [2]


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_decompressed_layers_are_shared_and_given_back(world):
    path = jm.region_path(world.base, 1)
    jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text="again " * 2000, compress=True)).write(path)
    with manager(world) as memory:
        memory.load_all()
        with memory.reader() as reader:
            assert reader[1, 0].text == "again " * 2000
            assert reader[1, 0].source == "pool"
            assert memory.leases() == []
            view = reader[1, 0]
            assert len(memory.leases()) == 1
            memory.unload_dimension(1)
            assert memory.get_stats().leased_bytes > 0
            assert view.text == "again " * 2000
            del view
            assert memory.get_stats().total_used_bytes == 0


def test_memory_of_each_layer(world):
    world.write_all(1, n_layers=3000, n_bytes=100)
    with manager(world) as memory, memory.reader() as reader:
        memory.load_all()
        view = reader[1, 0]
        # A table has 16 bytes a cell, and 4/3 to 8/3 cells for each layer: 32 on the average.
        allocated = (sys.getsizeof(view) + 15) // 16 * 16
        assert allocated + 32 <= 150


def test_several_readers_of_one_manager(memory, world):
    with memory.reader() as one, memory.reader() as other:
        views = one[1, 0], other[1, 0]
        assert views[0] is not views[1]
        assert len(memory.leases()) == 1
        assert memory.leases()[0].n_views == 2
        update(memory, world)
        assert [generation_of(bytes(each[1, 0])) for each in (one, other)] == [2, 2]
        one.close()
        update(memory, world)
        assert bytes(other[1, 0]) == content_of(1, 0, 2)


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
            # With its table of 16 bytes a cell, of which no more than 3/4 are used, and a count for each: some 150 KB.
            assert 1024 * (sys.getsizeof(shared[0]) + 2 * 16 + 1) < 155_000
            assert last == [content_of(1, layer, n_bytes=64) for layer in (0, 1500, 2999)]
            assert len(shared) == 3000

    @pytest.mark.skipif(not DISOWNS, reason="objects wait for their maker here: docs/threading.md")
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
