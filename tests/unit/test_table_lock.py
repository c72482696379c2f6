"""Whatever changes the table of regions does so under its lock, whichever call it comes from."""

from __future__ import annotations

import threading

import pytest
from inside import is_locked_by_me, lock_of
from world import MIB, manager

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem.catalogue import Catalogue
from jessy_mem.manager import open_managers

# Private: by whatever call the table changes, one of these hears of it.
CHANGES = ("expect", "put", "add", "remove", "unmap", "change", "mark_changed")


@pytest.fixture
def watched(monkeypatch):
    """The changes that were made; each must be made by a thread that holds the lock of its table."""
    made = []

    def watch(name):
        change = getattr(Catalogue, name)

        def checked(catalogue, *args):
            (table,) = (each for each in open_managers() if each._catalogue is catalogue)  # private: as above
            assert is_locked_by_me(table), f"{name}{args} without the lock"
            made.append(name)
            return change(catalogue, *args)

        monkeypatch.setattr(Catalogue, name, checked)  # private: that a lock is held no result tells

    for name in CHANGES:
        watch(name)
    return made


def humor(memory, name="Humor", n_bytes=10):
    return memory.create_proto_dimension(name, [jm.LayerSpec(text="x" * n_bytes)])


CALLS = {
    "load": lambda memory, world: memory.load_dimension(1),
    "load what may be loaded": lambda memory, world: memory.load_dimension(1, exist_ok=True),
    "load all": lambda memory, world: memory.load_all(),
    "load from a path": lambda memory, world: memory.load_dimension(20, world.write(20)),
    "unload": lambda memory, world: (memory.load_dimension(1), memory.unload_dimension(1)),
    "reload": lambda memory, world: (memory.load_dimension(1), memory.reload_dimension(1)),
    "reload many": lambda memory, world: (memory.load_all(), memory.reload_many([1, 2])),
    "create": lambda memory, world: humor(memory),
    "forget what is in the pool": lambda memory, world: memory.forget(humor(memory)),
    "forget what is empty": lambda memory, world: memory.forget(memory.create_proto_dimension("empty")),
    "crystallize": lambda memory, world: memory.crystallize(humor(memory)),
    "ensure and forget": lambda memory, world: memory.forget(
        memory.ensure_dimension("Humor", [jm.LayerSpec(text="x")])
    ),
    "append, compact and forget": lambda memory, world: (
        found := memory.ensure_dimension("Humor", [jm.LayerSpec(text="x")]),
        memory.append_layer(found, jm.LayerSpec(text="y")),
        memory.compact(found),
        memory.forget(found),
    ),
    "close": lambda memory, world: (memory.load_all(), humor(memory), memory.close()),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_changes_the_table_under_its_lock(world, watched, name):
    world.write_all(1, 2)
    with manager(world) as memory:
        CALLS[name](memory, world)
    assert watched or name == "forget what is empty"


def test_eviction_and_what_comes_back(world, watched):
    for dimension in (1, 2, 3):
        world.write(dimension, n_bytes=200_000)
    with manager(world, total_memory_mb=2) as memory:
        memory.load_all()
        for dimension in (1, 2, 3):
            memory.access_layer((dimension, 0))
    assert {"expect", "unmap", "put"} <= set(watched)


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_room_that_the_pool_makes(world, watched, on_full):
    with manager(world, total_memory_mb=8, on_full=on_full) as memory:
        for i in range(12):
            humor(memory, f"Humor {i}", MIB)
    assert ("remove" in watched) == (on_full == "drop")


def test_what_another_process_would_do_is_followed_under_the_lock(world, watched):
    with manager(world) as memory, manager(world) as other:
        found = other.ensure_dimension("Humor", [jm.LayerSpec(text="x")])
        assert memory.access_layer((found, 0)).text == "x"
        other.append_layer(found, jm.LayerSpec(text="y"))
        assert memory.access_layer((found, 1)).text == "y"
        other.forget(found)
        with pytest.raises(jm.LayerNotFound):
            memory.access_layer((found, 0))
    assert watched.count("remove") == 2


def test_questions_are_answered_under_the_lock(world, monkeypatch):
    world.write_all(1, 2)
    with manager(world) as memory:
        for name in ("indexed", "count_layers"):
            ask = getattr(Catalogue, name)

            def checked(catalogue, ask=ask):
                assert is_locked_by_me(memory)
                return ask(catalogue)

            monkeypatch.setattr(Catalogue, name, checked)  # private: the same
        memory.load_all()
        assert len(memory) == len(list(memory)) == len(memory.layers(frequency=(0, 10)))
        with memory.snapshot() as then:
            assert len(then.layers()) == len(then) == len(memory)


def test_a_question_to_an_index_that_is_whole_waits_for_nobody(world):
    world.write_all(1, 2, keywords=(b"word",))
    with manager(world) as memory:
        memory.load_all()
        found = memory.layers(keyword="word")
        answers = []
        asking = threading.Thread(target=lambda: answers.append(memory.layers(keyword="word")))
        with lock_of(memory):  # as a thread in the middle of a load has it
            asking.start()
            asking.join(HUNG_S)
            assert answers == [found] != [[]]


def test_the_index_is_changed_by_what_changed(world, monkeypatch):
    """From the first question on: of what is loaded or reloaded the whole dimension, of an append that layer alone."""
    world.write_all(*range(1, 6), keywords=(b"word",))
    read = []
    index_now = Catalogue._index_now  # private: that nothing else was read only the calls tell
    # Private: the same.
    monkeypatch.setattr(Catalogue, "_index_now", lambda self, each: (read.append(each), index_now(self, each)))
    with manager(world) as memory:

        def asked():
            read.clear()
            return len(memory.layers(keyword="word")), sorted(read)

        for dimension in range(1, 4):
            memory.load_dimension(dimension)
        assert read == []
        assert asked() == (12, [1, 2, 3])
        assert asked() == (12, [])
        memory.load_dimension(4)
        assert asked() == (16, [4])
        world.write(2, n_layers=3, generation=2, keywords=(b"word",))
        memory.reload_dimension(2)
        assert asked() == (15, [2])
        memory.append_layer(3, jm.LayerSpec(text="more", keywords=["word"]))
        memory.remove_layer((4, 0))
        memory.unload_dimension(1)
        assert asked() == (11, [])


def test_what_was_loaded_from_a_path_meanwhile_is_not_forgotten(world, tmp_path):
    """Of two threads, one forgets a dimension while the other loads it from a path of its own."""
    path = tmp_path / "mine.mmap"
    path.write_bytes(world.write(20).read_bytes())
    with manager(world) as memory:
        region = memory.load_dimension(20, path)
        memory._forget(20)  # private: the last step of `forget`, which refuses earlier what is loaded from a path
        assert memory.region(20) is region
        assert memory.reload_dimension(20) == (1, 1)
        with pytest.raises(jm.RegionNotFound, match=r"mine\.mmap"):
            memory.forget(20)
