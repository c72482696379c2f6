"""Dimensions by name: unique in a base folder, found before they are loaded, made once however many ask."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from faults import descriptors_left
from inside import evict
from world import World, content_of, manager

import jessy_mem as jm
from helpers import HAS_PROC, HUNG_S, mapped_regions


def spec(key=1, **options):
    return jm.LayerSpec(content=content_of(key, key), **options)


def test_name_that_exists_is_not_given_again(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        dimension = memory.create_proto_dimension("user:ann", [spec()], user=True)
        for each in (memory, other):
            with pytest.raises(jm.DimensionExists, match="user:ann") as exists:
                each.create_proto_dimension("user:ann", [spec(2)])
            assert (exists.value.name, exists.value.dimension) == ("user:ann", dimension)
            assert each.find("user:ann") == dimension
        assert memory.create_proto_dimension("user:bob", [spec()], user=True) == dimension + 1, "an id was spent"
        assert memory.get_stats().pool.used_bytes == 2 * 4096


def test_name_is_free_again_when_its_dimension_is_gone(tmp_path):
    with manager(tmp_path) as memory:
        for crystallized in (False, True, False):
            dimension = memory.create_proto_dimension("Humor", [spec()])
            if crystallized:
                memory.crystallize(dimension)
            memory.forget(dimension)
            assert memory.find("Humor") is None
        assert dimension == 17


@pytest.mark.parametrize("made", ["created", "ensured", "by another process that lives"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_name_of_what_was_being_forgotten_is_that_of_its_file_or_free(tmp_path, inject, made, moment):
    """Who forgets is interrupted for good, just before or just after the file goes, and tells nothing any more."""

    class Killed(Exception):
        """Nobody catches it."""

    def killed(plain):
        def withdraw(*paths):
            if moment == "after":
                plain(*paths)
            raise Killed

        return withdraw

    with manager(tmp_path) as memory, manager(tmp_path) as maker, manager(tmp_path, follow="never") as other:
        if made == "ensured":
            dimension = memory.ensure_dimension("user:ann", [spec(1)], user=True)
        else:
            learner = memory if made == "created" else maker
            dimension = learner.create_proto_dimension("user:ann", [spec(1)], user=True)
            learner.crystallize(dimension)
        assert other.names() == {"user:ann": dimension}  # it has looked at the files, and will not again
        # Private: the moments around the file's end.
        with inject.around("jessy_mem.learning.withdraw", killed), pytest.raises(Killed):
            memory.forget(dimension)
        assert other.ensure_dimension("user:bob", user=True) == dimension + 1  # it reads what the register tells
        expected = dimension if moment == "before" else dimension + 2
        assert other.ensure_dimension("user:ann", user=True) == expected
        assert other.append_layer(expected, spec(2)).layer == (moment == "before")
        with manager(tmp_path) as third:
            for each in (other, third):
                assert each.names() == {"user:ann": expected, "user:bob": dimension + 1}
        assert jm.examine(tmp_path) == []


def test_name_is_free_although_that_could_not_be_told(tmp_path, inject):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Humor", [spec()])
        path = memory.crystallize(dimension)
        # Private: what is told before the file goes are two of these calls.
        with inject(OSError(errno.ENOSPC, "no space"), "jessy_mem.register._write_all", at=2):
            memory.forget(dimension)
        assert not path.exists()
        assert memory.find("Humor") is None
        assert memory.create_proto_dimension("Humor", [spec()]) == dimension + 1
    with manager(tmp_path) as memory:
        assert memory.names() == {"Humor": dimension + 1}


def test_name_of_what_is_dropped_is_free_again(tmp_path):
    with manager(tmp_path, on_close="drop") as memory:
        memory.create_proto_dimension("Humor", [spec()])
        memory.create_proto_dimension("Empty")
    with manager(tmp_path) as memory:
        assert memory.names() == {}
        assert memory.create_proto_dimension("Humor", [spec()]) == 17


def test_name_of_what_made_room_is_free_again(tmp_path):
    with manager(tmp_path, 1, on_full="drop") as memory:
        for i in range(4):
            memory.create_proto_dimension(f"Learned {i}", [jm.LayerSpec(content=bytes(300_000))])
        assert memory.find("Learned 0") is None
        assert memory.find("Learned 3") == 18


def test_names_are_known_before_anything_is_loaded(tmp_path):
    world = World(tmp_path)
    world.write(3)
    with manager(tmp_path) as memory:
        memory.crystallize(memory.create_proto_dimension("Humor", [spec()]))
    elsewhere = World(tmp_path / "elsewhere").write(40)
    with manager(tmp_path) as memory:
        assert memory.names() == {"dimension 3": 3, "Humor": 15}
        assert memory.find("Humor") == 15
        assert memory.find("nobody") is None
        memory.load_dimension(40, elsewhere)
        for _ in range(2):
            assert memory.names() == {"dimension 3": 3, "Humor": 15, "dimension 40": 40}
            assert memory.find("dimension 40") == 40
            evict(memory, 40)
        memory.unload_dimension(40)
        assert memory.find("dimension 40") is None
        memory.load_dimension(15)
        memory.load_dimension(40, elsewhere)
        memory.ensure_dimension("dimension 40", [spec()])  # what is in the base folder goes before
        assert memory.find("dimension 40") == memory.names()["dimension 40"] == 16
        with pytest.raises(TypeError):
            memory.find(15)


@pytest.mark.skipif(not HAS_PROC, reason="looks into /proc")
@pytest.mark.parametrize("has_register", [True, False])
def test_a_start_with_many_files_of_users_knows_their_names_and_maps_none(tmp_path, has_register):
    """Without a register their headers are read, each for itself."""
    with manager(tmp_path) as memory:
        made = {f"user:{i}": memory.create_proto_dimension(f"user:{i}", [spec(i)], user=True) for i in range(200)}
        memory.crystallize_many()
    if not has_register:
        (tmp_path / ".jessy_mem.lock").unlink()
    with manager(tmp_path) as memory:
        assert memory.find("user:150") == made["user:150"]
        assert memory.names() == made
        assert not [line for line in mapped_regions() if str(tmp_path) in line]
        stats = memory.get_stats()
        assert (stats.dimensions_loaded, stats.total_allocated_bytes) == (0, 0)
        memory.append_layer(made["user:7"], spec())  # which maps its own, and no other
        assert memory.user_dimensions() == [made["user:7"]]
        assert {line.split("/D")[1].split("/")[0] for line in mapped_regions() if str(tmp_path) in line} == {"1007"}


@pytest.mark.filterwarnings("ignore:dimension.* simulated")
def test_names_of_the_plan_are_found_when_they_are_loaded(tmp_path):
    with manager(tmp_path, simulation="auto") as memory:
        name = memory.layout.dimensions[5].name
        assert memory.find(name) is None
        memory.load_dimension(5)
        assert memory.find(name) == 5
        assert memory.ensure_dimension(name) == 5
        with pytest.raises(jm.DimensionExists):
            memory.create_proto_dimension(name, [spec()])


def test_layers_may_be_any_iterable(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Humor", (spec(key) for key in range(1, 4)))
        assert [bytes(memory.access_layer((dimension, i))) for i in range(3)] == [content_of(k, k) for k in (1, 2, 3)]
        with pytest.raises(TypeError):
            memory.create_proto_dimension("Irony", None)
        with pytest.raises(TypeError, match="is not a LayerSpec"):
            memory.ensure_dimension("Irony", "text")
        assert memory.find("Irony") is None


def test_dimension_without_layers_waits_for_its_first(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Humor")
        assert memory.find("Humor") == dimension
        assert memory.layers(dimension) == []
        for call in (
            lambda: memory.update_layer((dimension, 0), spec()),
            lambda: memory.remove_layer((dimension, 0)),
        ):
            with pytest.raises(jm.LayerNotFound):
                call()
        with pytest.raises(jm.RegionNotFound):
            memory.crystallize(dimension)
        assert memory.extend(dimension, []) == []
        assert memory.append_layer(dimension, spec()) == (dimension, 0)
        assert memory.access_layer((dimension, 0)).source == "pool"
        other = memory.create_proto_dimension("Irony")
        memory.forget(other)
        assert memory.find("Irony") is None
    assert sorted(os.listdir(tmp_path)) == [".changes", ".jessy_mem.lock", "D15"]


def test_ensured_dimension_is_a_file_that_all_can_read(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        dimension = memory.ensure_dimension("user:ann", [spec(1), spec(2)], user=True)
        assert dimension == 1000
        assert memory.access_layer((dimension, 1)).source == "mmap"
        assert other.ensure_dimension("user:ann", [spec(3)], user=True) == dimension
        assert bytes(other.access_layer((dimension, 0))) == content_of(1, 1)
        assert len(other.layers(dimension)) == 2


def test_ensured_dimension_without_layers_becomes_a_file_with_the_first_append_of_anybody(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        dimension = memory.ensure_dimension("user:ann", user=True)
        assert memory.ensure_dimension("user:ann") == dimension
        assert other.append_layer(dimension, spec(1)) == (dimension, 0)
        assert memory.append_layer(dimension, spec(2)) == (dimension, 1)
        assert memory.access_layer((dimension, 0)).source == "mmap"
    with manager(tmp_path) as memory:
        memory.load_all()
        assert len(memory.layers(dimension)) == 2


def test_ensured_dimension_without_layers_is_forgotten_by_anybody(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        dimension = memory.ensure_dimension("user:ann")
        other.forget(dimension)
        assert memory.names() == {}
        assert memory.ensure_dimension("user:ann") == dimension + 1


def test_ensured_dimension_of_the_plan_begins_its_file(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        name = memory.layout.dimensions[3].name
        assert memory.ensure_dimension(name, [spec(1), spec(2)]) == 3
        assert memory.append_layer(3, spec(3)) == (3, 2)
        assert memory.access_layer((3, 0)).source == "mmap"
        assert other.ensure_dimension(name, [spec(4)]) == 3
        assert [bytes(other.access_layer((3, i))) for i in range(3)] == [content_of(k, k) for k in (1, 2, 3)]
        assert memory.find(name) == other.find(name) == 3


def test_what_lay_on_a_lost_base_is_told_of_when_that_is_begun_anew(tmp_path, caplog):
    """Of a dimension of the plan, whose id is its own for ever."""
    with manager(tmp_path) as memory:
        name = memory.layout.dimensions[3].name
        memory.ensure_dimension(name, [spec(1)])
        memory.append_layer(3, jm.LayerSpec(text="more"))
    path = jm.region_path(tmp_path, 3)
    path.unlink()
    with manager(tmp_path) as memory:
        assert memory.ensure_dimension(name, [spec(2)]) == 3
        assert [bytes(view) for view in memory.values()] == [content_of(2, 2)]
    assert "D03 begins anew: its base is lost" in caplog.text
    assert "delta-0000000000000002.mmap" in caplog.text
    assert os.listdir(path.parent) == ["region.mmap"]


def test_ensured_dimension_of_the_plan_without_layers_becomes_a_file_with_the_first_append(tmp_path):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        name = memory.layout.dimensions[3].name
        assert memory.ensure_dimension(name) == other.ensure_dimension(name) == 3
        assert not (tmp_path / "D03").exists()
        assert memory.append_layer(3, spec(1)) == (3, 0)
        assert other.append_layer(3, spec(2)) == (3, 1)
        assert memory.region(3).name == name
        with pytest.raises(jm.RegionNotFound, match="ensure_dimension begins it, by its name"):
            memory.append_layer(4, spec(1))  # for which nobody has asked


@pytest.mark.filterwarnings("ignore:dimension.* simulated")
@pytest.mark.parametrize(
    ("simulation", "dimension", "is_loaded", "error"),
    [
        ("never", 9, False, jm.ImmutableDimension),
        ("auto", 9, True, jm.ImmutableDimension),
        ("auto", 3, True, jm.RegionNotFound),
        ("always", 3, True, jm.RegionNotFound),
        ("always", 3, False, jm.RegionNotFound),
    ],
)
def test_ensure_refuses_layers_that_no_file_can_take(tmp_path, simulation, dimension, is_loaded, error):
    """As to append them would be refused; who gives none gets the id."""
    with manager(tmp_path, simulation=simulation) as memory:
        name = memory.layout.dimensions[dimension].name
        if is_loaded:
            memory.load_dimension(dimension)
        for _ in range(2):
            with pytest.raises(error):
                memory.ensure_dimension(name, [spec(1)])
            assert memory.ensure_dimension(name) == dimension
            with pytest.raises(error):
                memory.append_layer(dimension, spec(1))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_ensured_dimension_may_be_a_proto_dimension(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Humor", [spec()])
        assert memory.ensure_dimension("Humor", [spec(2)]) == dimension
        assert memory.access_layer((dimension, 0)).source == "pool"


def test_ensure_does_not_lose_layers_that_a_name_cannot_take(tmp_path):
    """A name that another manager, or process, has for itself; and one of one's own that has no layers yet."""
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        dimension = memory.create_proto_dimension("Humor")
        assert other.ensure_dimension("Humor") == dimension
        with pytest.raises(jm.RegionNotFound, match="'Humor', a proto-dimension of another"):
            other.ensure_dimension("Humor", [spec(1)])
        assert memory.ensure_dimension("Humor", [spec(2)]) == dimension
        assert memory.ensure_dimension("Humor", [spec(3)]) == dimension  # which it does not take: it exists
        assert [bytes(view) for view in memory.values()] == [content_of(2, 2)]
        with pytest.raises(jm.RegionNotFound, match="'Humor', a proto-dimension of another"):
            other.ensure_dimension("Humor", [spec(1)])
        memory.crystallize(dimension)
        assert other.ensure_dimension("Humor", [spec(1)]) == dimension


def test_all_who_ask_at_once_get_the_same(tmp_path):
    memories = [manager(tmp_path) for _ in range(4)]
    start = threading.Barrier(8)

    def ask(i):
        start.wait(HUNG_S)
        return [memories[i % 4].ensure_dimension(f"user:{key}", [spec(key)], user=True) for key in range(1, 11)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert all(each == found[0] for each in found)
    assert sorted(found[0]) == list(range(1000, 1010))
    for memory in memories:
        for key, dimension in enumerate(found[0], 1):
            assert bytes(memory.access_layer((dimension, 0))) == content_of(key, key)
        memory.close()


def test_ensure_that_fails_leaves_no_name(tmp_path, inject):
    with manager(tmp_path) as memory:
        with inject(OSError(28, "No space left on device"), "os.write"), pytest.raises(jm.MappingError):
            memory.ensure_dimension("Humor", [spec()])
        assert memory.find("Humor") is None
        with pytest.raises(jm.LimitExceeded):
            memory.ensure_dimension("Humor", [jm.LayerSpec(content=bytes(81 << 20))])
        assert memory.find("Humor") is None
        assert memory.ensure_dimension("Humor", [spec()]) == 17


@pytest.mark.parametrize("state", ["mapped", "evicted"])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("way", ["forgotten", "removed by hand"])
@pytest.mark.parametrize("follow", ["auto", "never"])
def test_name_of_what_is_gone_gives_a_dimension_that_can_be_changed(tmp_path, follow, way, layers, state):
    """All who ask get the same, also who does not know yet that it is gone."""
    with manager(tmp_path, follow=follow) as memory, manager(tmp_path) as other:
        first = memory.ensure_dimension("Humor", [spec(1)])
        if state == "evicted":
            evict(memory, first)
        if way == "forgotten":
            other.ensure_dimension("Humor")
            other.forget(first)
        else:
            shutil.rmtree(tmp_path / f"D{first}")
        second = memory.ensure_dimension("Humor", [spec(2)] * layers)
        assert second == (first + 1 if way == "forgotten" else first)
        assert memory.append_layer(second, spec(3)) == (second, layers)
        assert memory.ensure_dimension("Humor") == other.ensure_dimension("Humor") == memory.find("Humor") == second
        assert len(other.layers(second)) == len(memory.layers(second)) == layers + 1


@pytest.mark.thread_unsafe(reason="how many descriptors there may be is the process's")
@pytest.mark.parametrize("make", ["ensure_dimension", "create_proto_dimension"])
@pytest.mark.parametrize("n_left", [0, 1, 2])
def test_name_goes_also_where_no_descriptor_is_left_to_look_whose_it_is(tmp_path, make, n_left):
    with manager(tmp_path) as memory, manager(tmp_path) as other:
        memory.ensure_dimension("first", [spec()])
        with descriptors_left(n_left), suppress(jm.MappingError):
            getattr(memory, make)("second", [spec()])
            assert "second" in memory.names()
            return
        assert memory.names() == other.names() == {"first": 15}


ASKS_FOR_A_NUMBER = {
    "load_dimension": lambda memory, spec: memory.load_dimension("policies"),
    "unload_dimension": lambda memory, spec: memory.unload_dimension("policies"),
    "reload_dimension": lambda memory, spec: memory.reload_dimension("policies"),
    "append_layer": lambda memory, spec: memory.append_layer("policies", spec),
    "extend": lambda memory, spec: memory.extend("policies", [spec]),
    "update_layer": lambda memory, spec: memory.update_layer(("policies", 0), spec),
    "remove_layer": lambda memory, spec: memory.remove_layer(("policies", 0)),
    "compact": lambda memory, spec: memory.compact("policies"),
    "crystallize": lambda memory, spec: memory.crystallize("policies"),
    "crystallize_many": lambda memory, spec: memory.crystallize_many(["policies"]),
    "forget": lambda memory, spec: memory.forget("policies"),
    "a path": lambda memory, spec: jm.NavigationPath("policies", []),
}


@pytest.mark.parametrize("call", ASKS_FOR_A_NUMBER)
def test_a_name_where_a_number_is_asked_for_is_told_what_finds_it(call, tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        memory.ensure_dimension("policies", [spec()])
        with pytest.raises(TypeError, match=r"find\('policies'\) gives the number of a name"):
            ASKS_FOR_A_NUMBER[call](memory, spec())
        with pytest.raises(TypeError, match="'policies' is str, not int; text is asked for by keyword= or name="):
            memory.layers("policies")


@pytest.mark.parametrize("prefetch", [False, True])
def test_the_id_of_a_layer_is_no_path_to_it(prefetch, tmp_path):
    with (
        jm.MmapManager(base_path=tmp_path, simulation="never") as memory,
        pytest.raises(TypeError, match=r"paths: \(15, 0\) is not a NavigationPath"),
    ):
        memory.load_contexts([(15, 0)], prefetch=prefetch)
