"""Dimensions that are files go on: each change is one file, and what it costs does not depend on what there is."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack, contextmanager
from itertools import accumulate, product
from unittest import mock

import grower
import pytest
from faults import Injection
from inside import evict, stack_of
from world import MIB, World, content_of, evicted_dimensions, manager

import jessy_mem as jm
from helpers import HUNG_S, Layer, extended_file, plain_file, read_region
from jessy_mem.durable import unsynced_in
from jessy_mem.errors import AlreadyPublished
from jessy_mem.growth import MAX_DELTAS, n_merged
from jessy_mem.layout import UNSYNCED_MODE

KIB = 1 << 10


def spec(key, n_bytes=1000, **options):
    return jm.LayerSpec(content=content_of(key, key, n_bytes=n_bytes), **options)


def file_of(memory, n_layers=4, n_bytes=1000, name="Learned"):
    """A dimension that is a file of layers 0, 1, ..."""
    dimension = memory.create_proto_dimension(name, [spec(i, n_bytes) for i in range(n_layers)])
    memory.crystallize(dimension)
    return dimension


def files_of(base, dimension):
    return sorted(path.name for path in (base / f"D{dimension:02d}").iterdir())


def contents(memory, dimension):
    return {layer.layer: bytes(memory.access_layer(layer)) for layer in memory.layers(dimension)}


def reopened(base, dimension):
    with manager(base) as memory:
        memory.load_dimension(dimension)
        assert memory.region(dimension).verify() == []
        return contents(memory, dimension)


# The rule ------------------------------------------------------------------------------------------------------------


def test_stacks_stay_low_and_each_byte_is_written_a_few_times():
    stack, written = [1000], 0
    for _ in range(10_000):
        n = n_merged(stack, 1000)
        merged = sum(stack[len(stack) - n :]) + 1000
        stack = [*stack[: len(stack) - n], merged]
        written += merged
        assert len(stack) <= MAX_DELTAS + 1
    assert sum(stack) == 10_001_000
    assert written <= 6 * 10_000_000


def test_without_a_new_base_stacks_stay_low_too():
    stack = [1000]
    for _ in range(1000):
        n = n_merged(stack, 1000, may_rebase=False)
        stack = [*stack[: len(stack) - n], sum(stack[len(stack) - n :]) + 1000]
        assert stack[0] == 1000
        assert len(stack) <= MAX_DELTAS + 1


# Changes -------------------------------------------------------------------------------------------------------------


def test_each_change_is_one_small_file(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory, 100)
        base = (tmp_path / "D15" / "region.mmap").read_bytes()
        assert memory.append_layer(dimension, spec(200, keywords=("new",))) == (dimension, 100)
        assert memory.update_layer((dimension, 7), spec(201)) == (dimension, 7)
        memory.remove_layer((dimension, 8))
        assert memory.extend(dimension, [spec(202), spec(203, layer=500)]) == [(dimension, 101), (dimension, 500)]
        assert files_of(tmp_path, dimension) == [*(f"delta-{n:016}.mmap" for n in range(2, 6)), "region.mmap"]
        assert (tmp_path / "D15" / "region.mmap").read_bytes() == base
        region = memory.region(dimension)
        assert (region.generation, region.n_layers, region.source) == (5, 102, "mmap")
        expected = {i: content_of(i, i) for i in range(100)} | {7: content_of(201, 201)}
        expected |= {100: content_of(200, 200), 101: content_of(202, 202), 500: content_of(203, 203)}
        del expected[8], region
        assert contents(memory, dimension) == expected
        assert memory.layers(keyword="new") == [(dimension, 100)]
        assert memory.append_layer(dimension, spec(1)).layer == 501
    assert reopened(tmp_path, dimension) == expected | {501: content_of(1, 1)}


def test_proto_dimension_grows_by_blocks_and_touches_none_of_the_older(tmp_path):
    with manager(tmp_path, on_close="drop") as memory:
        dimension = memory.create_proto_dimension("Learned", [spec(i) for i in range(20)])
        stack = stack_of(memory.region(dimension))
        for key in range(5):
            before = stack
            memory.append_layer(dimension, spec(50 + key))
            stack = stack_of(memory.region(dimension))
            assert all(image is old for image, old in zip(stack, before, strict=False))
            assert len(stack) == len(before) + 1
            assert stack[-1].n_bytes < 2000
        del stack, before


def test_numbers_are_not_given_again(tmp_path):
    for compacted in (False, True):
        with manager(tmp_path) as memory:
            dimension = file_of(memory, 4, name=f"Learned {compacted}")
            memory.remove_layer((dimension, 3))
            memory.remove_layer((dimension, 2))
            if compacted:
                memory.compact(dimension)
                assert files_of(tmp_path, dimension) == ["region.mmap"]
        with manager(tmp_path) as memory:
            assert memory.append_layer(dimension, spec(9)).layer == 4
            with pytest.raises(jm.LayerNotFound):
                memory.access_layer((dimension, 3))


def test_what_is_not_there_is_not_changed(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        memory.remove_layer((dimension, 1))
        before = files_of(tmp_path, dimension)
        for layer in (1, 4, 65535):
            with pytest.raises(jm.LayerNotFound):
                memory.update_layer((dimension, layer), spec(1))
            with pytest.raises(jm.LayerNotFound):
                memory.remove_layer((dimension, layer))
        with pytest.raises(ValueError, match="layer 2 of D15 exists"):
            memory.append_layer(dimension, spec(1, layer=2))
        with pytest.raises(ValueError, match="layer 2 of D15 exists"):
            memory.extend(dimension, [spec(1), spec(1, layer=2)])
        for specs in ([spec(1, layer=1)], [spec(1), spec(1, layer=1)]):
            with pytest.raises(ValueError, match="layer 1 of D15: a number is not given again, and the next is 4"):
                memory.extend(dimension, specs)
        with pytest.raises(ValueError, match="layer 7 was added before"):
            memory.extend(dimension, [spec(1, layer=7), spec(1, layer=7)])
        with pytest.raises(TypeError, match="is not a LayerSpec"):
            memory.extend(dimension, [spec(1), "text"])
        assert memory.extend(dimension, []) == []
        assert files_of(tmp_path, dimension) == before


@pytest.mark.parametrize("is_file", [False, True])
def test_number_of_a_removed_layer_is_not_given_again(tmp_path, is_file):
    """Whoever names it; also when nothing tells any more that there was one, or that there was none."""
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Grown", [spec(i) for i in range(5)])
        memory.append_layer(dimension, spec(9, layer=9))
        if is_file:
            memory.crystallize(dimension)
        for layer in (1, 9):
            memory.remove_layer((dimension, layer))
        for _ in range(2):
            for layer in (1, 7, 9):
                with pytest.raises(ValueError, match="not given again, and the next is 10"):
                    memory.append_layer(dimension, spec(1, layer=layer))
            memory.crystallize(dimension)
            memory.compact(dimension)
        assert memory.append_layer(dimension, spec(10, layer=12)) == (dimension, 12)
        assert memory.append_layer(dimension, spec(10)) == (dimension, 13)


def test_numbers_come_to_an_end(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        memory.append_layer(dimension, spec(1, layer=65535))
        memory.remove_layer((dimension, 65535))
        with pytest.raises(ValueError, match="65536"):
            memory.append_layer(dimension, spec(1))
        with pytest.raises(ValueError, match="65536"):
            memory.extend(dimension, [spec(1)])


@pytest.mark.parametrize("state", ["loaded", "evicted", "not loaded"])
def test_dimension_in_any_state_grows(tmp_path, state):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
    with manager(tmp_path) as memory:
        if state != "not loaded":
            memory.load_dimension(dimension)
        if state == "evicted":
            evict(memory)
        memory.append_layer(dimension, spec(50))
        assert bytes(memory.access_layer((dimension, 4))) == content_of(50, 50)
        assert len(memory.layers(dimension)) == 5


def test_core_dimension_grows(tmp_path):
    World(tmp_path).write(3)
    with manager(tmp_path) as memory:
        assert memory.append_layer(3, spec(50)) == (3, 4)
    with manager(tmp_path) as memory:
        memory.load_all()
        assert bytes(memory.access_layer((3, 4))) == content_of(50, 50)
        assert bytes(memory.access_layer((3, 1))) == content_of(3, 1)


@pytest.mark.parametrize("make", [plain_file, extended_file])
def test_files_of_before_grow_and_are_compacted(tmp_path, make):
    layers = [Layer(i, content_of(15, i), i, (i + 1) / 2, (b"old",)) for i in range(6)]
    World(tmp_path).publish(15, make(layers, 15, b"Old"))
    with manager(tmp_path) as memory:
        memory.append_layer(15, spec(50, keywords=("new",), attributes={"by": "me"}))
        memory.remove_layer((15, 0))
        before = contents(memory, 15)
        assert [layer.layer for layer in memory.layers(keyword="old")] == [1, 2, 3, 4, 5]
        memory.compact(15)
        assert contents(memory, 15) == before
        assert memory.access_layer((15, 6)).attributes == {"by": "me"}
    assert reopened(tmp_path, 15) == before
    assert files_of(tmp_path, 15) == ["region.mmap"]


def test_small_dimension_that_grows_stays_few_files(tmp_path):
    with manager(tmp_path, durability="batch") as memory:
        dimension = file_of(memory, 1)
        for key in range(1, 200):
            memory.append_layer(dimension, spec(key))
            assert len(files_of(tmp_path, dimension)) <= MAX_DELTAS + 1
        expected = {i: content_of(i, i) for i in range(200)}
        assert contents(memory, dimension) == expected
        assert memory.region(dimension).generation == 200
    assert reopened(tmp_path, dimension) == expected


def test_views_that_are_held_keep_their_bytes(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        held = [memory.access_layer((dimension, layer)) for layer in range(4)]
        memory.update_layer((dimension, 0), spec(50))
        memory.remove_layer((dimension, 1))
        memory.compact(dimension)
        assert [bytes(view) for view in held] == [content_of(i, i) for i in range(4)]
        assert bytes(memory.access_layer((dimension, 0))) == content_of(50, 50)


def test_damage_is_no_reason_to_learn_no_more(tmp_path):
    """What cannot be merged stays beneath."""
    with manager(tmp_path) as memory:
        dimension = file_of(memory, 2)
    World(tmp_path).damage(dimension)
    with manager(tmp_path) as memory:
        for key in range(10, 15):
            memory.append_layer(dimension, spec(key))
        assert bytes(memory.access_layer((dimension, 6))) == content_of(14, 14)
        with pytest.raises(jm.ChecksumMismatch):
            memory.compact(dimension)
        assert len(files_of(tmp_path, dimension)) == 6
        memory.update_layer((dimension, 1), spec(1))  # which was the damaged one
        memory.compact(dimension)
        assert bytes(memory.access_layer((dimension, 1))) == content_of(1, 1)


def with_a_delta_left(base):
    """A dimension of which a crash left a delta that was merged, and its contents."""
    with manager(base) as memory:
        dimension = file_of(memory)
        memory.append_layer(dimension, spec(50))
        (delta,) = (base / "D15").glob("delta-*")
        left = delta.read_bytes()
        memory.compact(dimension)
        delta.write_bytes(left)
        return dimension, delta, contents(memory, dimension)


def test_words_overwritten_in_place_are_not_written_into_a_new_base(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.ensure_dimension("Learned", [spec(0, keywords=("word",))])
        memory.append_layer(dimension, spec(1, 10))
        path = tmp_path / "D15" / "region.mmap"
        facts = path.stat()
        with path.open("r+b") as file:
            file.seek(256 + 11)  # the length of the word
            file.write(b"\xff")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # else it is another file, and opened anew
        before = files_of(tmp_path, dimension)
        with pytest.raises(jm.InvalidRegion, match="keyword of layer 0: found other bytes than at open"):
            memory.compact(dimension)
        assert files_of(tmp_path, dimension) == before


def test_deltas_that_a_crash_left_are_removed(tmp_path):
    dimension, _, expected = with_a_delta_left(tmp_path)
    with manager(tmp_path) as memory:
        memory.load_dimension(dimension)
        assert contents(memory, dimension) == expected
        memory.compact(dimension)
        assert files_of(tmp_path, dimension) == ["region.mmap"]


def test_deltas_that_a_crash_left_are_removed_by_who_writes_next(tmp_path):
    dimension, delta, expected = with_a_delta_left(tmp_path)
    with manager(tmp_path) as memory:
        memory.load_dimension(dimension)
        assert contents(memory, dimension) == expected
        assert delta.exists()
        memory.append_layer(dimension, spec(51))
        assert files_of(tmp_path, dimension) == ["delta-0000000000000003.mmap", "region.mmap"]
    assert reopened(tmp_path, dimension) == expected | {5: content_of(51, 51)}


def remove_base_only(path, *_):
    if path.endswith("region.mmap"):
        os.unlink(path)


def half_forgotten(base, name="Learned"):
    """A dimension of which a kill left the deltas."""
    with manager(base) as memory:
        dimension = file_of(memory, name=name)
        memory.append_layer(dimension, spec(50))
        memory.update_layer((dimension, 0), spec(51))
        # Private: what a kill would do, in this process.
        with Injection(("jessy_mem.publish.remove",), lambda remove: remove_base_only):
            memory.forget(dimension)
        assert memory.find(name) is None
    assert files_of(base, dimension) == ["delta-0000000000000002.mmap", "delta-0000000000000003.mmap"]
    return dimension


CHANGES = {
    "append": lambda memory, dimension: memory.append_layer(dimension, spec(9)),
    "extend": lambda memory, dimension: memory.extend(dimension, [spec(9)]),
    "update": lambda memory, dimension: memory.update_layer((dimension, 0), spec(9)),
    "remove": lambda memory, dimension: memory.remove_layer((dimension, 0)),
    "compact": lambda memory, dimension: memory.compact(dimension),
    "crystallize": lambda memory, dimension: memory.crystallize(dimension),
}


@pytest.mark.parametrize("generation", [10**16 - 1, 10**16, 2**64 - 1])
def test_what_cannot_get_newer_is_not_changed(tmp_path, generation):
    """A delta whose name has a digit more is read by nobody, and neither is what was acknowledged with it."""
    path = tmp_path / "D15" / "region.mmap"
    jm.RegionBuilder(15, "Old", generation=generation).add_layer(spec(1)).write(path)
    with manager(tmp_path) as memory:
        memory.load_dimension(15)
        for name in ("append", "extend", "update", "remove"):
            with pytest.raises(jm.LimitExceeded) as refused:
                CHANGES[name](memory, 15)
            assert refused.value.unit == "generations"
        assert memory.compact(15) == path
    assert files_of(tmp_path, 15) == ["region.mmap"]
    assert jm.export_base(tmp_path, tmp_path / "x.tar").dimensions == [15]
    path.unlink()
    jm.RegionBuilder(15, "Old", generation=generation).add_layer(spec(2)).write(path)
    with pytest.raises(jm.LimitExceeded):
        jm.import_base(tmp_path / "x.tar", tmp_path, replace_existing=True)
    assert reopened(tmp_path, 15) == {0: content_of(2, 2, n_bytes=1000)}


def test_last_generation_is_that_for_which_a_name_has_digits(tmp_path):
    path = tmp_path / "D15" / "region.mmap"
    jm.RegionBuilder(15, "Old", generation=10**16 - 2).add_layer(spec(1, 10_000)).write(path)
    with manager(tmp_path) as memory:
        assert memory.append_layer(15, spec(2)) == (15, 1)
        with pytest.raises(jm.LimitExceeded):
            memory.append_layer(15, spec(3))
    assert reopened(tmp_path, 15).keys() == {0, 1}


@pytest.mark.parametrize("state", ["mapped", "evicted"])
@pytest.mark.parametrize("follow", ["auto", "never"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_another_forgot_cannot_be_changed(tmp_path, change, follow, state):
    """One error says so, whatever is still known of it here."""
    with manager(tmp_path) as other, manager(tmp_path, follow=follow) as memory:
        dimension = file_of(other)
        memory.load_dimension(dimension)
        if state == "evicted":
            evict(memory, dimension)
        other.forget(dimension)
        with pytest.raises(jm.RegionNotFound) as caught:
            CHANGES[change](memory, dimension)
        assert caught.value.dimension == dimension
        with pytest.raises(jm.RegionNotFound):
            CHANGES[change](memory, dimension)
        memory.refresh()
        assert memory.find("Learned") is None


@pytest.mark.parametrize("way", ["as it is", "relative", "through a link to the base folder"])
def test_own_file_that_is_loaded_by_its_path_is_the_own_file(tmp_path, monkeypatch, way):
    base = tmp_path / "base"
    with manager(base) as other:
        dimension = file_of(other, n_layers=1)
        path = base / f"D{dimension}" / "region.mmap"
        if way == "relative":
            monkeypatch.chdir(tmp_path)
            path = path.relative_to(tmp_path)
        elif way != "as it is":
            (tmp_path / "link").symlink_to(base)
            path = tmp_path / "link" / path.relative_to(base)
        with manager(base) as memory:
            memory.load_dimension(dimension, path)
            assert memory.append_layer(dimension, spec(8)) == (dimension, 1)
            other.append_layer(dimension, spec(9))
            assert contents(memory, dimension).keys() == {0, 1, 2}
            memory.forget(dimension)
        assert other.find("Learned") is None


def test_file_elsewhere_or_behind_a_link_in_the_folder_is_no_own_file(tmp_path):
    path = jm.RegionBuilder(15, "Elsewhere").add_layer(spec(1)).write(tmp_path / "D15" / "region.mmap")
    base = tmp_path / "base"
    base.mkdir()
    (base / "D15").symlink_to(tmp_path / "D15")
    for named in (path, base / "D15" / "region.mmap"):
        with manager(base) as memory:
            memory.load_dimension(15, named)
            with pytest.raises(jm.RegionNotFound, match="only a base folder's own files grow"):
                memory.append_layer(15, spec(2))
    assert files_of(tmp_path, 15) == ["region.mmap"]


@pytest.mark.parametrize("state", ["mapped", "evicted"])
def test_what_another_forgot_cannot_be_loaded(tmp_path, state):
    with manager(tmp_path) as other, manager(tmp_path) as memory:
        dimension = file_of(other)
        memory.load_dimension(dimension)
        if state == "evicted":
            evict(memory, dimension)
        other.forget(dimension)
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(dimension)


@pytest.mark.parametrize("follow", ["auto", "never"])
def test_evicted_dimension_whose_file_is_removed_untold_is_not_waited_for(tmp_path, follow):
    with manager(tmp_path, follow=follow) as memory:
        dimension = file_of(memory)
        evict(memory, dimension)
        (tmp_path / f"D{dimension:02d}" / "region.mmap").unlink()
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(dimension, exist_ok=True)
        with pytest.raises(jm.RegionNotFound, match=r"no file at .* any more"):
            memory.append_layer(dimension, spec(9))


@pytest.mark.parametrize("state", ["mapped", "evicted"])
def test_who_finds_a_file_gone_untold_lets_all_know(tmp_path, inject, state):
    """Who forgot it was killed when the file had gone, before anybody was told."""
    stopped = OSError("stopped")  # stands for a kill: what was not told stays untold
    with manager(tmp_path) as memory, manager(tmp_path) as other, manager(tmp_path) as third:
        dimension = file_of(memory)
        for each in (other, third):
            assert each.find("Learned") == dimension
            each.load_dimension(dimension, exist_ok=True)
        if state == "evicted":
            evict(other, dimension)
        # Private: the moment between the file's end and the word of it.
        with inject(stopped, "jessy_mem.ids.IdRegister.file_is_gone"), pytest.raises(OSError, match="stopped"):
            memory.forget(dimension)
        with pytest.raises(jm.RegionNotFound, match="forgotten, or removed"):
            other.append_layer(dimension, spec(9))
        assert [each.find("Learned") for each in (other, third)] == [None, None]
        with pytest.raises(jm.LayerNotFound):
            third.access_layer((dimension, 0))
        assert other.ensure_dimension("Learned") == dimension + 1
        assert third.append_layer(dimension + 1, spec(9)) == (dimension + 1, 0)


@pytest.mark.thread_unsafe(reason="what removes files is the process's")
def test_half_forgotten_dimension_is_forgotten(tmp_path):
    dimension = half_forgotten(tmp_path)
    with manager(tmp_path) as memory:
        assert memory.names() == {}
        assert not memory.load_all().loaded
        assert memory.ensure_dimension("Learned", [spec(1)]) == dimension + 1
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(dimension)
        for change in (lambda: memory.append_layer(dimension, spec(1)), lambda: memory.forget(dimension)):
            with pytest.raises(jm.RegionNotFound):
                change()


@pytest.mark.thread_unsafe(reason="what removes files is the process's")
@pytest.mark.parametrize("way", ["crystallize", "ensure", "append", "build", "import"])
def test_what_a_forgotten_dimension_left_never_comes_back(tmp_path, way):
    """Whoever writes a new base in its place: the register is lost, or the id is given by hand."""
    dimension = half_forgotten(tmp_path)
    folder = tmp_path / f"D{dimension}"
    if way == "build":
        builder = jm.RegionBuilder(dimension, "Learned").add_layer(spec(7))
        builder.write(folder / "region.mmap")
        assert jm.MmapRegion(dimension, folder / "region.mmap").generation == 4
    elif way == "import":
        with manager(tmp_path / "other") as memory:
            assert memory.ensure_dimension("Learned", [spec(7)]) == dimension
        jm.export_base(tmp_path / "other", tmp_path / "other.tar")
        assert jm.import_base(tmp_path / "other.tar", tmp_path).added == [dimension]
    else:
        moved = tmp_path / "moved"
        folder.rename(moved)
        (tmp_path / ".jessy_mem.lock").unlink()
        with manager(tmp_path) as memory:
            specs = [] if way == "append" else [spec(7)]
            make = memory.create_proto_dimension if way == "crystallize" else memory.ensure_dimension

            def and_come_back(reserve):
                def late(*args, **options):
                    found = reserve(*args, **options)
                    moved.rename(folder)
                    return found

                return late

            # Private: the moment between the giving of an id and the first file.
            with Injection(("jessy_mem.ids.IdRegister.reserve",), and_come_back):
                assert make("Learned", specs) == dimension
            if way == "append":
                memory.append_layer(dimension, spec(7))
    assert reopened(tmp_path, dimension) == {0: content_of(7, 7)}
    if way != "build":
        assert files_of(tmp_path, dimension) == ["region.mmap"]
    jm.clean(jm.examine(tmp_path))
    assert jm.examine(tmp_path) == []
    assert files_of(tmp_path, dimension) == ["region.mmap"]


def test_region_that_is_built_over_a_stack_takes_the_place_of_all_of_it(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        memory.extend(dimension, [spec(50)])
        memory.append_layer(dimension, spec(51))
    jm.RegionBuilder(dimension, "Learned").add_layer(spec(7)).write(jm.region_path(tmp_path, dimension))
    assert reopened(tmp_path, dimension) == {0: content_of(7, 7)}


# Room ----------------------------------------------------------------------------------------------------------------


def test_growing_under_pressure_goes_on(tmp_path):
    """What was learned first became files long ago, and grows as ever."""
    with manager(tmp_path, 2) as memory:
        dimensions = [memory.create_proto_dimension(f"User {i}", [spec(i, 100 * KIB)], user=True) for i in range(40)]
        for key, dimension in enumerate(dimensions):
            assert memory.append_layer(dimension, spec(100 + key, 10 * KIB)) == (dimension, 1)
        for key, dimension in enumerate(dimensions):
            assert bytes(memory.access_layer((dimension, 0))) == content_of(key, key, n_bytes=100 * KIB)
            assert bytes(memory.access_layer((dimension, 1))) == content_of(100 + key, 100 + key, n_bytes=10 * KIB)


def test_change_without_room_for_its_mapping_is_there_at_the_next_access(tmp_path):
    with manager(tmp_path, 1, on_full="raise") as memory:
        dimension = file_of(memory, 4, 50 * KIB)
        view = memory.access_layer((dimension, 0))
        with memory.allocate(512 * KIB):
            layer = memory.append_layer(dimension, spec(9, 400 * KIB, keywords=("new",)))
            assert dimension in evicted_dimensions(memory)
            assert memory.layers(keyword="new") == [layer]
        assert bytes(memory.access_layer(layer)) == content_of(9, 9, n_bytes=400 * KIB)
        assert bytes(view) == content_of(0, 0, n_bytes=50 * KIB)


def test_stack_of_which_only_the_base_would_fit_is_refused(tmp_path):
    """Its base is charged and released again, which is no room that others made."""
    with manager(tmp_path, 1, on_close="drop") as memory:
        dimension = file_of(memory, 1, 400 * KIB)
        memory.append_layer(dimension, spec(9, 300 * KIB))
        evict(memory)
        with memory.allocate(400 * KIB):
            with pytest.raises(jm.LimitExceeded) as refused:
                memory.access_layer((dimension, 0))
            assert refused.value.requested_bytes > 700 * KIB
            assert refused.value.current_bytes == 512 * KIB
        assert bytes(memory.access_layer((dimension, 1))) == content_of(9, 9, n_bytes=300 * KIB)


@pytest.mark.parametrize("total_mb", [2, 280])
def test_what_could_never_be_loaded_is_refused(tmp_path, total_mb):
    limit = min(total_mb, 80) * MIB
    with manager(tmp_path, total_mb) as memory:
        dimension = file_of(memory, 1, limit // 2)
        before = files_of(tmp_path, dimension)
        for n_bytes in (limit // 2, limit * 5 // 8):  # as a delta, or together with the base
            with pytest.raises(jm.LimitExceeded, match="one dimension may have") as refused:
                memory.append_layer(dimension, jm.LayerSpec(content=bytes(n_bytes)))
            assert refused.value.limit_bytes == limit
            assert files_of(tmp_path, dimension) == before
        # What it takes the place of goes, and so there is room.
        assert memory.update_layer((dimension, 0), jm.LayerSpec(content=bytes(limit * 3 // 4))) == (dimension, 0)
        assert files_of(tmp_path, dimension) == ["region.mmap"]


# Mapping calls mmap(2) itself, where a test cannot come between.
CALLS = ("os.open", "os.write", "os.fsync", "os.link", "os.rename", "jessy_mem._core.mapped.Mapping")
WHATS = ("append", "extend", "update", "remove", "merge", "compact", "forget")
# A delta takes a new name, and who forgets writes nothing new.
NOT_CALLED = {("os.rename", what) for what in ("append", "extend", "update", "remove")}
NOT_CALLED |= {(call, "forget") for call in CALLS if call not in ("os.open", "os.fsync")}


@pytest.mark.parametrize(("call", "what"), [each for each in product(CALLS, WHATS) if each not in NOT_CALLED])
def test_call_that_fails_changes_nothing(tmp_path, what, call):
    """Each call in its turn, the disk being full: a typed error, nothing has changed, and the next try works."""
    changes = {
        "append": lambda: memory.append_layer(dimension, spec(50)),
        "extend": lambda: memory.extend(dimension, [spec(50), spec(51)]),
        "update": lambda: memory.update_layer((dimension, 1), spec(50)),
        "remove": lambda: memory.remove_layer((dimension, 1)),
        "merge": lambda: memory.append_layer(dimension, spec(50, 20_000)),
        "compact": lambda: memory.compact(dimension),
        "forget": lambda: memory.forget(dimension),
    }
    module, _, name = call.rpartition(".")
    real = getattr(__import__(module, fromlist=["x"]), name)
    with manager(tmp_path) as memory:
        dimension = file_of(memory, 6)
        memory.append_layer(dimension, spec(40))
        expected, files = contents(memory, dimension), files_of(tmp_path, dimension)
        for at in range(100):
            n_calls = 0

            def fail_at(*args, at=at, **options):
                nonlocal n_calls
                n_calls += 1
                if n_calls == at + 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args, **options)

            error = error_of(changes[what], mock.patch(call, fail_at))
            if error is None:
                break
            assert error.errno == errno.ENOSPC
            if what == "forget" and not files_of_any(tmp_path, dimension):
                return
            if what != "forget":
                assert contents(memory, dimension) == expected
                assert files_of(tmp_path, dimension) == files
        assert at or n_calls, "never reached"
        if what != "forget":  # it is done, also where another way was found when this one failed
            changed = contents(memory, dimension)
            assert (changed == expected) == (what == "compact")
            del memory
            assert reopened(tmp_path, dimension) == changed


def error_of(work, patch):
    """The MappingError that `work` ends with; None if it does not."""
    try:
        with patch:
            work()
    except jm.MappingError as error:
        return error
    return None


def files_of_any(base, dimension):
    folder = base / f"D{dimension:02d}"
    return sorted(folder.iterdir()) if folder.is_dir() else []


# Durability ----------------------------------------------------------------------------------------------------------


def fsyncs_of(work):
    with mock.patch("os.fsync", wraps=os.fsync) as fsync:
        work()
    return fsync.call_count


def test_each_change_is_durable_when_it_returns(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory, 100)
        assert fsyncs_of(lambda: memory.append_layer(dimension, spec(1))) == 2
        assert fsyncs_of(lambda: memory.extend(dimension, [spec(key) for key in range(50)])) == 2
        assert fsyncs_of(memory.sync) == 0


def test_batch_is_durable_when_it_is_synced(tmp_path):
    with manager(tmp_path, durability="batch") as memory:
        dimension = file_of(memory, 100)
        memory.sync()
        assert fsyncs_of(lambda: [memory.append_layer(dimension, spec(key)) for key in range(10)]) == 0
        assert fsyncs_of(memory.sync) >= 2
        assert fsyncs_of(memory.sync) == 0
        memory.append_layer(dimension, spec(11))
        assert fsyncs_of(memory.close) >= 2


def test_batch_keeps_what_is_on_the_disk_until_what_follows_it_is(tmp_path):
    """A file that takes the place of durable ones is durable before they are removed."""
    with manager(tmp_path, durability="batch") as memory:
        dimension = file_of(memory, 100)
        for key in range(MAX_DELTAS):
            memory.append_layer(dimension, spec(key))
        memory.sync()
        assert fsyncs_of(lambda: memory.append_layer(dimension, spec(99))) >= 2


def test_waiting_files_are_synced_by_who_writes_a_second_later(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with manager(tmp_path, durability="batch") as memory:
        dimension = file_of(memory, 100)
        assert fsyncs_of(lambda: memory.append_layer(dimension, spec(1))) == 0
        now[0] += 1
        assert fsyncs_of(lambda: memory.append_layer(dimension, spec(2))) >= 2


WRITES = {
    "append": lambda memory, other, proto: memory.append_layer(other, spec(2)),
    "extend to a new base": lambda memory, other, proto: memory.extend(other, [spec(key) for key in range(50)]),
    "remove": lambda memory, other, proto: memory.remove_layer((other, 0)),
    "compact": lambda memory, other, proto: memory.compact(other),
    "forget": lambda memory, other, proto: memory.forget(other),
    "crystallize": lambda memory, other, proto: memory.crystallize(proto),
    "crystallize many": lambda memory, other, proto: memory.crystallize_many(),
    "ensure": lambda memory, other, proto: memory.ensure_dimension("new", [spec(1)]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_waiting_files_are_synced_by_whatever_is_written_a_second_later(tmp_path, monkeypatch, write):
    """Also where what is written waits for nothing itself, and lies in another folder."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with manager(tmp_path, durability="batch") as memory:
        dimension, other = file_of(memory, 100), file_of(memory, 2, name="Other")
        proto = memory.create_proto_dimension("Proto", [spec(1)])
        memory.append_layer(other, spec(1))
        memory.sync()
        memory.append_layer(dimension, spec(1))
        assert unsynced_in(os.fspath(tmp_path / f"D{dimension}"))
        now[0] += 1
        write(memory, other, proto)
        assert unsynced_in(os.fspath(tmp_path / f"D{dimension}")) == []


def test_what_is_unsaved_is_saved_though_what_waits_cannot_be_synced(tmp_path, monkeypatch):
    """The end tells what is not on the disk, and loses nothing of what is not even a file."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    memory = manager(tmp_path, durability="batch")
    dimension = file_of(memory, 100)
    memory.sync()
    memory.append_layer(dimension, spec(1))
    proto = memory.create_proto_dimension("Proto", [spec(1)])
    now[0] += 1
    is_first, fsync = [True], os.fsync

    def fails_once(fd):
        if is_first.pop() if is_first else False:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr("os.fsync", fails_once)
    with pytest.raises(jm.MappingError, match="delta"):
        memory.close()
    assert (tmp_path / f"D{proto}" / "region.mmap").is_file()
    memory.forget(dimension)
    memory.close()


# Two managers --------------------------------------------------------------------------------------------------------


def test_writers_take_turns(tmp_path):
    """Each sees first what the other wrote."""
    with manager(tmp_path) as one, manager(tmp_path) as other:
        dimension = file_of(one)
        layers = [memory.append_layer(dimension, spec(50 + i)).layer for i, memory in enumerate([one, other] * 10)]
        assert layers == list(range(4, 24))
        assert contents(other, dimension) | {23: content_of(69, 69)} == {
            **{i: content_of(i, i) for i in range(4)},
            **{4 + i: content_of(50 + i, 50 + i) for i in range(20)},
        }


def test_writers_that_no_lock_keeps_apart_lose_nothing(tmp_path):
    with mock.patch("fcntl.flock"), manager(tmp_path) as one, manager(tmp_path) as other:
        dimension = file_of(one)
        other.load_dimension(dimension)
        # The other one comes between, when this one has looked.
        real, done = os.link, []

        def link(*args, **options):
            if not done:
                done.append(True)
                other.append_layer(dimension, spec(60))
            return real(*args, **options)

        for key in range(40):
            with mock.patch("os.link", link):
                done.clear()
                one.append_layer(dimension, spec(50 + key))
        assert len(contents(one, dimension)) >= 4 + 79
    assert len(reopened(tmp_path, dimension)) == 4 + 80


N_SMALL = 2 * MAX_DELTAS - 2  # after which the next change merges again


def test_update_that_no_lock_keeps_apart_is_not_merged_away(tmp_path):
    """One takes the name that others merged meanwhile, while a third merges what it read before."""
    real, third_waits, late_is_done = os.link, threading.Event(), threading.Event()
    writers = [manager(tmp_path) for _ in range(3)]
    with mock.patch("fcntl.flock"), ExitStack() as opened:
        late, other, third = map(opened.enter_context, writers)
        dimension = file_of(late, n_bytes=100_000)
        late.update_layer((dimension, 0), spec(40, 50_000))  # too large to be merged with small ones
        for memory in (other, third):
            memory.load_dimension(dimension)
        merging = threading.Thread(target=third.append_layer, args=(dimension, spec(80, 60_000)))

        def link(*args, **options):
            if threading.current_thread() is merging:
                third_waits.set()
                assert late_is_done.wait(HUNG_S)
            elif not merging.ident and not is_busy:
                is_busy.append(True)
                for key in range(N_SMALL):
                    other.append_layer(dimension, spec(50 + key))
                merging.start()
                assert third_waits.wait(HUNG_S)
            return real(*args, **options)

        is_busy = []
        with mock.patch("os.link", link):
            late.update_layer((dimension, 0), spec(41))
            late_is_done.set()
            merging.join(HUNG_S)
    found = reopened(tmp_path, dimension)
    assert found[0] == content_of(41, 41)
    assert len(found) == 4 + N_SMALL + 1


@contextmanager
def meanwhile(deed, when):
    """Another does `deed` once, right before or after a file gets its name."""
    real, is_done = os.link, []

    def link(*args, **options):
        first, is_done[:] = not is_done, [True]
        if first and when == "before":
            deed()
        real(*args, **options)
        if first and when == "after":
            deed()

    with mock.patch("os.link", link):
        yield
    assert is_done


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", ["append", "extend", "update", "remove"])
def test_change_to_what_is_forgotten_meanwhile_says_so_where_no_lock_keeps_others_out(tmp_path, change, when):
    with mock.patch("fcntl.flock"), manager(tmp_path) as one, manager(tmp_path) as other:
        dimension = file_of(one)
        other.load_dimension(dimension)
        with meanwhile(lambda: other.forget(dimension), when), pytest.raises(jm.RegionNotFound):
            CHANGES[change](one, dimension)
        assert one.find("Learned") is None
    assert not (tmp_path / f"D{dimension}" / "region.mmap").exists()


def test_all_who_ask_for_a_name_get_the_same_where_no_lock_keeps_others_out(tmp_path):
    with mock.patch("fcntl.flock"), manager(tmp_path) as one, manager(tmp_path) as other:
        with meanwhile(lambda: other.ensure_dimension("Learned", [spec(1)]), "before"):
            dimension = one.ensure_dimension("Learned", [spec(2)])
        assert dimension == other.find("Learned")
        assert contents(one, dimension) == contents(other, dimension) == {0: content_of(1, 1)}


def test_what_is_new_is_not_merged_where_no_lock_keeps_others_out(tmp_path):
    with mock.patch("fcntl.flock"), manager(tmp_path) as memory:
        dimension = file_of(memory, n_bytes=100_000)
        for key in range(2 * MAX_DELTAS):
            memory.append_layer(dimension, spec(key))
        assert len(files_of(tmp_path, dimension)) == 1 + 2 * MAX_DELTAS
    for name in files_of(tmp_path, dimension):
        os.utime(tmp_path / f"D{dimension}" / name, (1000, 1000))
    with mock.patch("fcntl.flock"), manager(tmp_path) as memory:
        memory.append_layer(dimension, spec(99))
        assert len(files_of(tmp_path, dimension)) <= 1 + MAX_DELTAS
    assert len(reopened(tmp_path, dimension)) == 4 + 2 * MAX_DELTAS + 1


def test_writer_that_no_lock_keeps_apart_sees_what_came_before_it_told_of_its_own(tmp_path, inject):
    with mock.patch("fcntl.flock"), manager(tmp_path) as one, manager(tmp_path) as other:
        dimension, done = file_of(one), []
        other.load_dimension(dimension)

        def around(plain):
            def announce(*args):
                if not done:
                    done.append(True)
                    other.append_layer(dimension, spec(60))
                plain(*args)

            return announce

        # Private: the moment before others are told.
        with inject.around("jessy_mem.following.Following.announce", around):
            one.append_layer(dimension, spec(50))
        assert contents(one, dimension) == contents(other, dimension)
        assert len(contents(one, dimension)) == 4 + 2


# Private: the moments before the file has its name, and before it is shown.
@pytest.mark.parametrize("call", ["os.link", "jessy_mem.opening.Opener.open_delta"])
def test_change_that_is_merged_by_whom_no_lock_keeps_out_is_not_lost(tmp_path, inject, call):
    """The name is free again, or what was published is part of another file, before this one looks."""
    with mock.patch("fcntl.flock"), manager(tmp_path) as one, manager(tmp_path) as other:
        dimension, done = file_of(one), []
        other.load_dimension(dimension)

        def around(plain):
            def called(*args, **options):
                if not done:
                    done.append(True)
                    other.append_layer(dimension, spec(60))
                    other.compact(dimension)
                return plain(*args, **options)

            return called

        with inject.around(call, around):
            one.append_layer(dimension, spec(50))
        found = contents(one, dimension)
        assert sorted(found.values()) == sorted(content_of(key, key) for key in (*range(4), 50, 60))
    assert reopened(tmp_path, dimension) == found


def test_dimension_that_is_evicted_before_its_change_is_shown_is_read_as_it_is(tmp_path, inject):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)

        def and_evict(plain):
            def opened(*args):
                delta = plain(*args)
                evict(memory, dimension)
                return delta

            return opened

        # Private: the moment between the opening of what was published and its place in the table.
        with inject.around("jessy_mem.opening.Opener.open_delta", and_evict):
            memory.append_layer(dimension, spec(50, keywords=("new",)))
        assert evicted_dimensions(memory) == {dimension}
        assert memory.layers(keyword="new") == [(dimension, 4)]
        assert len(contents(memory, dimension)) == 5


def test_name_that_is_always_taken_is_an_error_and_no_endless_loop(tmp_path, inject, monkeypatch):
    monkeypatch.setattr("jessy_mem.files.N_TRIES", 3)  # a hundred take longer
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        # Private: others that take each name, always just before.
        taken = inject(AlreadyPublished("delta"), "jessy_mem.publish.NewFile.publish")
        with taken, pytest.raises(AlreadyPublished):
            memory.append_layer(dimension, spec(50))
        assert taken.n_calls == 3
        assert len(contents(memory, dimension)) == 4


def test_what_another_left_unsynced_is_synced_before_a_change_lies_on_it(tmp_path, inject):
    with manager(tmp_path, durability="batch") as other, manager(tmp_path) as one:
        dimension = file_of(other, n_bytes=10_000)
        one.load_dimension(dimension)
        # Private: of all that is synced the file of the other, and nothing else, is refused.
        with inject(OSError(errno.EIO, "I/O error"), "jessy_mem.files.sync_whole"), pytest.raises(jm.MappingError):
            one.append_layer(dimension, spec(50))
        assert files_of(tmp_path, dimension) == ["region.mmap"]
        assert (tmp_path / "D15" / "region.mmap").stat().st_mode & UNSYNCED_MODE
        one.append_layer(dimension, spec(50))
        assert not (tmp_path / "D15" / "region.mmap").stat().st_mode & UNSYNCED_MODE
    assert len(reopened(tmp_path, dimension)) == 5


def test_of_many_in_a_batch_what_cannot_be_written_is_told_and_the_rest_is_there(tmp_path):
    with manager(tmp_path, durability="batch", on_close="drop") as memory:
        dimensions = [memory.create_proto_dimension(f"Number {i}", [spec(i)]) for i in range(3)]
        (tmp_path / "D16").write_bytes(b"in the way")
        with pytest.raises(jm.MappingError):
            memory.crystallize_many()
        assert [memory.region(each).source for each in dimensions] == ["mmap", "pool", "mmap"]


def test_life_of_a_dimension(tmp_path):
    lives = grower.lives()
    memory, dimension = manager(tmp_path), 0
    for (what, *keys), life in zip(grower.STEPS, lives[1:], strict=True):
        dimension = grower.do(memory, dimension, what, *keys)
        assert contents(memory, dimension) == life.layers, what
    memory.close()


def test_announcements(tmp_path):
    with manager(tmp_path) as memory:
        told = []
        # Private: others hear of it without the generation, and of several changes as one.
        memory._learner.files.announce = lambda *what: told.append(what)
        dimension = file_of(memory)
        memory.append_layer(dimension, spec(1))
        memory.remove_layer((dimension, 0))
        memory.compact(dimension)
        memory.forget(dimension)
        kinds = ["added", "changed", "changed", "removed"]
        assert told == list(zip([dimension] * 4, kinds, [1, 2, 3, 0], strict=True))


def test_sizes_run_through_the_files(tmp_path):
    with manager(tmp_path) as memory:
        dimension = file_of(memory)
        memory.append_layer(dimension, spec(50))
        sizes = [path.stat().st_size for path in sorted((tmp_path / "D15").iterdir(), reverse=True)]
        region = memory.region(dimension)
        assert region.size == sum(sizes)
        assert list(accumulate(sizes))[-1] == memory.get_stats().total_allocated_bytes
        assert read_region((tmp_path / "D15" / "region.mmap").read_bytes()).generation == 1
