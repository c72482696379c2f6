"""A dimension of several files: which layer is whose, what is opened, and what is refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import stack_of
from world import World, content_of, publish

from helpers import Layer, extended_file, plain_file
from jessy_mem._core.folder import delta_generations
from jessy_mem._core.holders import Holders
from jessy_mem._core.image import Image
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.stack import MAX_BARE, is_torn, open_delta, open_stack, reopen_stack
from jessy_mem.errors import (
    DimensionNotFound,
    InvalidRegion,
    LayerNotFound,
    LinkRefused,
    ManagerClosed,
    MappingError,
    OutOfBounds,
)
from jessy_mem.layout import UNSYNCED_MODE, LayerId, delta_file, has_deltas


@pytest.fixture
def world(tmp_path):
    """D15: layers 0..4; generation 3 replaces 2 and adds 5; generation 8 removes 3 and replaces 5."""
    world = World(tmp_path)
    world.write(15, n_layers=5)
    world.grow(15, 3, put=[2, 5])
    world.grow(15, 8, put=[5], removed=[3])
    return world


NOW = {0: 1, 1: 1, 2: 3, 4: 1, 5: 8}  # layer -> the generation that made it


def contents(region):
    return {each.layer: bytes(region.layer(each.layer)) for each in region.layers()}


def expected(layers, n_bytes=1000):
    return {layer: content_of(15, layer, generation, n_bytes) for layer, generation in layers.items()}


def next_layer(region):
    return region._next_layer  # private: what a writer asks under its locks; it is too late afterwards


def has_layer(region, layer):
    return region._has_layer(layer)  # private: what a manager asks for `in`, after looking up the dimension


# What a stack shows -----------------------------------------------------------------------------------------------


def test_the_newest_file_says_what_a_layer_is(world):
    with MmapRegion(15, world.path(15)) as region:
        assert region.layers() == [LayerId(15, layer) for layer in NOW]
        assert contents(region) == expected(NOW)
        assert (region.n_layers, region.n_deltas, region.generation) == (5, 2, 8)
        assert [fact[0] for fact in region.layer_facts()] == [*NOW]
        assert region.layer(2).keywords == ("delta",)
        assert next_layer(region) == 6
        assert [has_layer(region, layer) for layer in (2, 3, 5, 6, -1, 2**70)] == [
            True,
            False,
            True,
            False,
            False,
            False,
        ]
        assert region._facts_of([3, 2, 9])[1] == [3, 9]  # private: asked by the index, which shows no absent layer
        with pytest.raises(LayerNotFound, match="5 layers"):
            region.layer(3)
        with pytest.raises(TypeError):
            has_layer(region, 1.0)


def test_the_number_of_a_removed_layer_counts_for_the_next(world):
    world.grow(15, 9, removed=[5])
    with MmapRegion(15, world.path(15)) as region:
        assert next_layer(region) == 6
        assert region.layers() == [(15, 0), (15, 1), (15, 2), (15, 4)]


def test_all_layers_may_be_removed(world):
    world.grow(15, 9, removed=range(6))
    with MmapRegion(15, world.path(15)) as region:
        assert (region.layers(), region.n_layers, region.layer_facts()) == ([], 0, [])
        assert region.prefetch() >= 0


def test_a_delta_may_name_layers_that_there_were_none_of(world):
    world.grow(15, 9, put=[3], removed=[77])
    with MmapRegion(15, world.path(15)) as region:
        assert region.n_layers == 6 == len(region.layers())
        assert bytes(region.layer(3)) == content_of(15, 3, 9)


def test_sizes_and_offsets_run_through_the_files_in_order(world):
    files = [world.path(15), world.delta_path(15, 3), world.delta_path(15, 8)]
    joined = b"".join(path.read_bytes() for path in files)
    begin = [0, *itertools.accumulate(path.stat().st_size for path in files)]
    with MmapRegion(15, files[0]) as region:
        assert region.size == len(joined) == len(memoryview(region))
        assert bytes(memoryview(region)) == joined
        assert region.path == files[0]
        for layer in NOW:
            offset = region.content_offset(layer)
            assert bytes(region.access(offset, 1000)) == bytes(region.layer(layer)) == joined[offset : offset + 1000]
        for i in range(3):
            assert bytes(region.access(begin[i], 10)) == joined[begin[i] : begin[i] + 10]
            assert bytes(region.access(begin[i + 1] - 10, 10)) == joined[begin[i + 1] - 10 : begin[i + 1]]
            with pytest.raises(OutOfBounds) as caught:
                region.access(begin[i + 1] - 1, 2)
            assert caught.value.region_size == len(joined)
        assert bytes(region.access(len(joined), 0)) == b""
        for offset, size in ((len(joined), 1), (len(joined) + 1, 0), (-1, 1), (0, -1), (2**63, 1), (0, len(joined))):
            with pytest.raises(OutOfBounds):
                region.access(offset, size)
        with pytest.raises(LayerNotFound):
            region.content_offset(3)
        assert region.content_bytes == 8 * 1000
        assert f"5 layers, {len(joined)} bytes in 3 files, generation 8, mmap" in repr(region)


def test_a_single_file_is_shared_without_a_copy(world):
    with MmapRegion(15, world.delta_path(15, 8)) as region, memoryview(region) as whole:
        assert isinstance(whole.obj, Image)


def test_all_files_are_verified_each_under_its_own_path(world):
    for path, off_bytes in ((world.path(15), -1), (world.delta_path(15, 3), -1)):
        data = bytearray(path.read_bytes())
        data[off_bytes] ^= 1
        publish(path, bytes(data))
    done = []
    with MmapRegion(15, world.path(15)) as region:
        damage = region.verify(lambda *progress: done.append(progress))
        assert [(error.path, error.layer) for error in damage] == [
            (str(world.path(15)), 4), (str(world.delta_path(15, 3)), 5)
        ]  # fmt: skip
        assert done == sorted(done)
        assert done[-1] == (region.size, region.size)


def test_residency_and_prefetch_are_of_all_files(world):
    with MmapRegion(15, world.path(15)) as region:
        assert region.prefetch(wait=True) == 1
        assert region.prefetch([2, 5]) == 1
        with pytest.raises(LayerNotFound):
            region.prefetch([3])


def test_a_closed_stack_gives_nothing_and_its_views_live_on(world):
    region = MmapRegion(15, world.path(15))
    views = [region.layer(layer) for layer in NOW]
    region.close()
    assert [bytes(view) for view in views] == [*expected(NOW).values()]
    for use in (stack_of, next_layer, lambda each: each.n_layers, lambda each: each.layer(0)):
        with pytest.raises(ManagerClosed):
            use(region)


# Staleness --------------------------------------------------------------------------------------------------------


def test_a_stack_is_stale_when_any_of_its_files_is_another_or_one_is_new(world):
    def is_stale(change):
        with MmapRegion(15, world.path(15)) as region:
            assert not region.stale
            change()
            return region.stale

    assert is_stale(lambda: world.grow(15, 9, put=[0]))
    assert not is_stale(lambda: world.grow(15, 2, put=[0])), "what is older than the newest says nothing"
    assert is_stale(lambda: world.grow(15, 9, put=[1]))
    assert is_stale(world.delta_path(15, 3).unlink)
    assert is_stale(lambda: world.compact(15, 9, NOW))
    assert is_stale(world.path(15).unlink)


# What is opened ---------------------------------------------------------------------------------------------------


def test_deltas_belong_to_a_file_that_is_named_as_in_a_base_folder(world, tmp_path, monkeypatch):
    with MmapRegion(15, world.delta_path(15, 3)) as alone:
        assert (alone.layers(), alone.n_deltas) == ([(15, 2), (15, 5)], 0)
    with MmapRegion(15, world.delta_path(15, 8)) as alone:
        assert (alone.layers(), alone.n_layers) == ([(15, 5)], 1)
    with MmapRegion(None, os.fspath(world.path(15))) as found:
        assert found.n_deltas == 2
    monkeypatch.chdir(world.path(15).parent)
    with MmapRegion(15, "region.mmap") as found:
        assert found.n_deltas == 2
    other = world.path(15).with_name("other.mmap")
    os.link(world.path(15), other)
    with MmapRegion(15, other) as found:
        assert found.n_deltas == 0
    assert not has_deltas("base/other/region.mmap")


def test_what_is_not_newer_than_the_base_is_not_there(world):
    world.compact(15, 8, NOW)
    world.grow(15, 8, put=[0])
    world.grow(15, 5, removed=[1])
    with MmapRegion(15, world.path(15)) as region:
        assert (region.n_deltas, contents(region)) == (0, expected(NOW))


def test_a_plain_file_may_have_deltas(tmp_path):
    world = World(tmp_path)
    world.publish(15, plain_file([Layer(0, b"zero"), Layer(1, b"one")], 15, b"dimension 15"))
    world.grow(15, 1, put=[1], removed=[0])
    with MmapRegion(15, world.path(15)) as region:
        assert (region.plain, region.generation, contents(region)) == (True, 1, {1: content_of(15, 1, 1)})


def test_an_immutable_base_has_no_deltas(tmp_path):
    world = World(tmp_path)
    world.write(15, immutable=True)
    world.grow(15, 9, put=[0])
    with MmapRegion(15, world.path(15)) as region:
        assert (region.n_deltas, region.stale) == (0, False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda world: world.delta_path(15, 3).rename(world.delta_path(15, 4)), "generation"),
        (lambda world: world.grow(15, 9, put=[0], name=b"another"), "dimension_name"),
        (lambda world: publish(world.delta_path(15, 9), world.path(16).read_bytes()), "dimension_id"),
        (lambda world: publish(world.delta_path(15, 1000), world.path(15).read_bytes()), "required_features"),
        (lambda world: publish(world.delta_path(15, 9), b"x" * 300), "magic"),
    ],
)
def test_a_delta_that_does_not_belong_to_the_base_is_refused_as_damage(world, change, field):
    world.write(16)
    change(world)
    with pytest.raises(InvalidRegion) as caught:
        MmapRegion(15, world.path(15))
    assert caught.value.field == field
    assert "delta-" in caught.value.path


def test_names_that_are_no_deltas_are_not_looked_at(world):
    names = (
        "delta-9.mmap delta-00000000000000009.mmap delta-000000000000000x.mmap delta-.mmap .delta-0000000000000009.mmap"
    )
    for name in (*names.split(), "delta-0000000000000009.mmap.tmp", "delta-0000000000000000.mmap"):
        world.path(15).with_name(name).write_bytes(b"no region")
    assert delta_generations(str(world.path(15))) == [3, 8]
    assert delta_generations(str(world.path(99))) == []
    assert delta_generations("no/such/folder") == []
    assert delta_file("x/D15/region.mmap", 10**15) == "x/D15/delta-1000000000000000.mmap"


def test_more_deltas_than_any_writer_leaves_are_all_found(world):
    for generation in range(100, 300):
        publish(world.delta_path(15, generation), b"")
    assert delta_generations(str(world.path(15))) == [3, 8, *range(100, 300)]


@pytest.mark.parametrize("path", ["x" * 5000 + "/region.mmap", "region.mmap", "/region.mmap", ""])
def test_folders_of_odd_paths(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if len(path) > 4096:
        with pytest.raises(MappingError):
            delta_generations(path)
    else:
        assert delta_generations(path) == []


def test_a_folder_that_cannot_be_listed_hides_nothing(world, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    world.path(15).parent.chmod(0o100)
    try:
        with pytest.raises(MappingError):
            MmapRegion(15, world.path(15))
    finally:
        world.path(15).parent.chmod(0o700)


def test_each_file_is_charged_with_what_is_under_it(world):
    sizes = [path.stat().st_size for path in (world.path(15), world.delta_path(15, 3), world.delta_path(15, 8))]
    asked = []
    stack = open_stack(str(world.path(15)), 15, admit=lambda *bytes_: asked.append(bytes_))
    assert asked == [(sizes[0], 0), (sizes[1], sizes[0]), (sizes[2], sizes[0] + sizes[1])]
    assert [image.generation for image in stack] == [1, 3, 8]


def test_a_refused_charge_leaves_nothing_open(world):
    released = []

    class Charge:
        def __del__(self):
            released.append(1)

    def admit(n_bytes, below_bytes):
        if below_bytes > 6000:
            raise ValueError("no room")
        return Charge()

    with pytest.raises(ValueError, match="no room"):
        open_stack(str(world.path(15)), 15, admit=admit)
    assert len(released) == 2


# Others write meanwhile -------------------------------------------------------------------------------------------


def opened_while(world, inject, change):
    """The region of D15; `change(path)` happens before each of its files is opened."""

    def changing(open_file):
        def change_and_open(path, *args):
            change(path)
            return open_file(path, *args)

        return change_and_open

    # Private: the moment between the listing of a folder and the opening of a file.
    with inject.around("jessy_mem._core.mapped.open_file", changing):
        return make_region(open_stack(str(world.path(15)), 15), False, bytearray)


def interrupted(world, inject, nth, change):
    """The same; `change` happens once, before file number `nth` is opened."""
    opened = itertools.count()
    return opened_while(world, inject, lambda _: next(opened) == nth and change())


@pytest.mark.parametrize("nth", range(3))
def test_a_compaction_while_the_files_are_opened_loses_nothing(world, inject, nth):
    region = interrupted(world, inject, nth, lambda: world.compact(15, 8, NOW))
    assert contents(region) == expected(NOW)
    assert region.generation == 8


@pytest.mark.parametrize("nth", range(3))
def test_a_merge_while_the_files_are_opened_loses_nothing(world, inject, nth):
    def merge():
        world.grow(15, 9, put=[2, 5], removed=[3])
        world.delta_path(15, 3).unlink()
        world.delta_path(15, 8).unlink()

    region = interrupted(world, inject, nth, merge)
    # Who had listed and opened them all shows what was before.
    assert contents(region) in (expected(NOW | {2: 9, 5: 9}), expected(NOW))
    assert nth > 0 or region.generation == 9


def test_compactions_one_after_the_other_are_followed(world, inject):
    rounds = itertools.count(10)
    layers = dict(NOW)

    def compact(path):
        if "delta-" in path and (generation := next(rounds)) < 15:
            world.compact(15, 2 * generation, layers)
            world.grow(15, 2 * generation + 1, put=[0])
            layers[0] = 2 * generation + 1

    region = opened_while(world, inject, compact)
    assert contents(region) == expected(layers)


def test_a_delta_that_is_listed_and_never_there_is_an_error_and_not_a_loop(world):
    world.delta_path(15, 9).symlink_to("nowhere")
    with pytest.raises(MappingError) as caught:
        MmapRegion(15, world.path(15))
    assert caught.value.filename == str(world.delta_path(15, 9))


# What is there now, of what is open already -----------------------------------------------------------------------


def reopened(stack, world):
    return reopen_stack(stack, str(world.path(15)))


def test_what_has_not_changed_is_not_opened_again(world):
    stack = open_stack(str(world.path(15)), 15)
    assert reopened(stack, world) is stack
    world.grow(15, 9, put=[0])
    grown = reopened(stack, world)
    assert grown[:3] == stack
    assert [image.generation for image in grown] == [1, 3, 8, 9]
    assert open_delta(stack, str(world.path(15)), 9).generation == 9


def test_after_a_merge_what_lies_under_it_is_not_opened_again(world):
    world.grow(15, 9, put=[0])
    stack = open_stack(str(world.path(15)), 15)
    world.grow(15, 10, put=[0, 2, 5])
    world.delta_path(15, 9).unlink()
    world.delta_path(15, 8).unlink()
    merged = reopened(stack, world)
    assert merged[:2] == stack[:2]
    assert [image.generation for image in merged] == [1, 3, 10]


def test_of_a_merged_file_only_what_is_new_is_looked_at(world):
    """Else a question after one append would index all that was ever merged anew."""
    stack = open_stack(str(world.path(15)), 15)
    region = make_region(stack, False, bytearray)
    table = Holders()
    table.install(15, region)
    same = [Layer(i, content_of(15, i, 9), i, (i + 1) / 2, (b"delta",)) for i in (2, 5)]  # but for the content
    other = [Layer(0, content_of(15, 0), 7, 0.5), Layer(1, content_of(15, 1), 1, 1.0, (b"word",)), Layer(8, b"8", 8)]
    removed = [Layer(i, b"", text_flags=4) for i in (3, 4)]  # 3 was before
    layers = sorted([*same, *other, *removed], key=lambda layer: layer.layer)
    data = extended_file(layers, 15, b"dimension 15", generation=9, version=2, delta=True)
    publish(world.delta_path(15, 9), data)
    for generation in (3, 8):
        world.delta_path(15, generation).unlink()
    assert table.restack(region, reopened(stack, world)) == [0, 1, 4, 8]
    assert contents(region)[5] == content_of(15, 5, 9)
    assert region.n_layers == len(list(region.layers())) == 5  # counted from what there was, not anew


@pytest.mark.parametrize("n_kept", [0, 1, 2, 3])
def test_layers_of_another_stack_are_counted_from_where_it_differs(world, n_kept):
    world.grow(15, 9, put=[0, 7], removed=[1, 5])
    stack = open_stack(str(world.path(15)), 15)
    region = make_region(stack, False, bytearray)
    other = World(world.path(15).parents[1] / "other")
    other.write(15, n_layers=3)
    for generation, (put, removed) in {3: ([1], [0]), 8: ([6, 9], []), 9: ([7], [2, 6])}.items():
        other.grow(15, generation, put=put, removed=removed)
    mixed = stack[:n_kept] + open_stack(str(other.path(15)), 15)[n_kept:]
    table = Holders()
    table.install(15, region)
    for each in (mixed, stack, stack[: n_kept + 1], mixed):
        table.restack(region, each)
        assert region.n_layers == len(list(region.layers())) == make_region(each, False, bytearray).n_layers


def test_after_a_merge_the_deltas_are_opened_again_and_the_base_is_not(world):
    stack = open_stack(str(world.path(15)), 15)
    world.grow(15, 8, put=[2, 5], removed=[3])  # the merged delta takes the name of the newest
    world.delta_path(15, 3).unlink()
    merged = reopened(stack, world)
    assert merged[0] is stack[0]
    assert [image.generation for image in merged] == [1, 8]
    assert contents(make_region(merged, False, bytearray)) == expected(NOW | {2: 8})


def test_another_base_is_to_be_opened_anew_and_none_is_an_error(world):
    stack = open_stack(str(world.path(15)), 15)
    world.compact(15, 8, NOW)
    assert reopened(stack, world) is None
    world.path(15).unlink()
    with pytest.raises(DimensionNotFound):
        reopened(stack, world)


def test_base_that_leads_to_itself_is_an_error(world):
    stack = open_stack(str(world.path(15)), 15)
    world.path(15).unlink()
    world.path(15).symlink_to("region.mmap")
    with pytest.raises(MappingError) as refused:
        reopen_stack(stack, str(world.path(15)), follow_links=True)
    assert refused.value.errno == errno.ELOOP


def test_delta_that_goes_as_it_is_looked_at_is_gone(world, inject):
    stack = open_stack(str(world.path(15)), 15)
    world.delta_path(15, 8).unlink()
    gone = world.delta_path(15, 3)
    gone.unlink()
    gone.symlink_to("nothing")  # listed, and not found

    def and_then(plain):
        def name_of(path, generation):
            gone.unlink(missing_ok=True)  # before it is listed again
            return plain(path, generation)

        return name_of

    with inject.around("jessy_mem.layout.delta_file", and_then):  # private: nothing else is called between the looks
        assert reopen_stack(stack, str(world.path(15))) == stack[:1]


def test_file_that_goes_as_it_is_looked_at_is_not_torn(world, inject):
    path = world.path(15)
    path.chmod(0o600 | UNSYNCED_MODE)

    def and_then(plain):
        def lstat(path):
            facts = plain(path)
            os.unlink(path)
            return facts

        return lstat

    with inject.around("os.lstat", and_then):
        assert not is_torn(str(path))
    assert not path.exists()


# A folder without deltas is not listed twice ----------------------------------------------------------------------


def test_a_folder_is_asked_for_its_age_before_it_is_listed_again(tmp_path):
    world, bare = World(tmp_path), {}
    path = str(world.write(15))
    long_ago = 10**18 + 1  # ns, so that it is no clock of whole seconds

    def generations():
        return [image.generation for image in open_stack(path, 15, bare=bare, follow_links=False)[1:]]

    assert generations() == []
    bare.clear()
    os.utime(world.path(15).parent, ns=(long_ago, long_ago))
    assert generations() == []
    assert list(bare) == [15]
    world.grow(15, 4, put=[0])
    os.utime(world.path(15).parent, ns=(long_ago, long_ago))
    assert generations() == [], "which shows that it is believed"
    os.utime(world.path(15).parent, ns=(long_ago, long_ago + 1))
    assert generations() == [4]
    assert bare == {}, "with deltas it is listed each time"


def test_few_dimensions_without_deltas_are_remembered(tmp_path):
    world = World(tmp_path)
    bare = dict.fromkeys(range(100, 100 + MAX_BARE - 1), b"")
    for dimension in (15, 16):
        path = world.write(dimension)
        os.utime(path.parent, ns=(10**18, 10**18))
        open_stack(str(path), dimension, bare=bare)
    assert list(bare) == [16]


def test_what_is_known_of_a_folder_is_not_believed_of_a_link_to_one(tmp_path):
    world, bare = World(tmp_path / "base"), {}
    path, outside = str(world.write(15)), World(tmp_path / "outside")
    outside.write(15, generation=7)
    folder, other = world.path(15).parent, outside.path(15).parent
    long_ago = 10**18 + 1
    for each in (folder, other):
        os.utime(each, ns=(long_ago, long_ago))
    open_stack(path, 15, bare=bare, follow_links=False)
    assert list(bare) == [15]
    folder.rename(tmp_path / "moved")
    folder.symlink_to(other)
    with pytest.raises(LinkRefused) as caught:
        open_stack(path, 15, bare=bare, follow_links=False)
    assert (caught.value.filename, caught.value.option) == (str(folder), "follow_links")
    assert open_stack(path, 15, bare=bare)[0].generation == 7


def test_a_link_that_comes_between_the_look_and_the_opening_is_not_read_through(tmp_path, inject):
    """The folder is what it was when it is looked at, and a link when the file in it is opened."""
    world, bare = World(tmp_path / "base"), {}
    path, outside = str(world.write(15)), World(tmp_path / "outside")
    outside.write(15, generation=7)
    folder = world.path(15).parent
    os.utime(folder, ns=(10**18 + 1, 10**18 + 1))
    open_stack(path, 15, bare=bare, follow_links=False)

    def swap():
        folder.rename(tmp_path / "moved")
        folder.symlink_to(outside.path(15).parent)

    def swapping(open_file):
        def swap_and_open(*args):
            if not folder.is_symlink():
                swap()
            return open_file(*args)

        return swap_and_open

    # It calls openat(2), where no test comes between.
    with inject.around("jessy_mem._core.mapped.open_file", swapping), pytest.raises(LinkRefused):
        open_stack(path, 15, bare=bare, follow_links=False)
    folder.unlink()
    (tmp_path / "moved").rename(folder)
    with inject.around("jessy_mem._core.mapped.open_file", swapping):  # the same
        assert open_stack(path, 15, follow_links=False)[0].generation == 1, "in the folder that was opened"


def test_a_folder_that_has_just_changed_is_not_believed(tmp_path):
    world, bare = World(tmp_path), {}
    path = str(world.write(15))
    for generation in range(2, 200):
        world.grow(15, generation, put=[0])
        assert [image.generation for image in open_stack(path, 15, bare=bare)[1:]] == [generation]
        world.delta_path(15, generation).unlink()
        assert len(open_stack(path, 15, bare=bare)) == 1


# Like a dict that is updated --------------------------------------------------------------------------------------

LAYERS = st.dictionaries(st.integers(0, 12), st.booleans(), min_size=1, max_size=6)  # number -> put, or removed


@settings(max_examples=60, deadline=None)
@given(st.lists(LAYERS, max_size=6))
def test_a_stack_is_like_a_dict_that_is_updated(tmp_path_factory, deltas):
    world = World(tmp_path_factory.mktemp("stack"))
    world.write(15, n_layers=4, n_bytes=32)
    now = dict.fromkeys(range(4), 1)
    numbers = {*now}
    for generation, delta in enumerate(deltas, 2):
        put = [layer for layer, is_put in delta.items() if is_put]
        removed = [layer for layer, is_put in delta.items() if not is_put]
        world.grow(15, generation, put, removed, n_bytes=32)
        now |= dict.fromkeys(put, generation)
        for layer in removed:
            now.pop(layer, None)
        numbers |= {*delta}
    with MmapRegion(15, world.path(15)) as region:
        assert contents(region) == expected(now, 32)
        assert (region.n_layers, region.layers()) == (len(now), [(15, layer) for layer in sorted(now)])
        assert next_layer(region) == max(numbers) + 1


# What is known of a layer -----------------------------------------------------------------------------------------


def region_of(*layers, **options):
    data = extended_file(layers, 15, b"Known", **options)
    return make_region(Image(data, "<test>", 15, "mmap"), False, bytearray)


def test_attributes_age_and_tokens_of_a_layer():
    region = region_of(
        Layer(0, b"zero", created_ns=5, attributes=b'{"lang": "en", "rank": 2}', n_tokens=7), Layer(1, b"one"),
        version=2, created_ns=99,
    )  # fmt: skip
    view = region.layer(0)
    assert (view.created_ns, view.n_tokens) == (5, 7)
    assert view.attributes == {"lang": "en", "rank": 2}
    assert view.attributes is view.attributes, "parsed once"
    with pytest.raises(TypeError):
        view.attributes["lang"] = "de"
    assert (region.layer(1).attributes, region.layer(1).created_ns, region.layer(1).n_tokens) == ({}, 99, 0)
    # Private: asked by the index, without a view.
    assert [region._attributes_of(layer) for layer in (0, 2)] == [view.attributes, None]


def test_nobody_can_change_what_others_read_in_nested_attributes():
    view = region_of(Layer(0, b"", attributes=b'{"tags": ["a"], "by": {"name": "x"}}'), version=2).layer(0)
    view.attributes["tags"].append("b")
    view.attributes["by"].clear()
    assert view.attributes == {"tags": ["a"], "by": {"name": "x"}}


@pytest.mark.parametrize("attributes", [b"[1]", b"3", b"{", b"null", b'{"a": NaN}', b"[" * 60000])
def test_attributes_that_are_no_object_are_damage_when_they_are_read(attributes):
    view = region_of(Layer(0, b"sound", attributes=attributes), version=2).layer(0)
    assert view.text == "sound"
    with pytest.raises(InvalidRegion) as caught:
        _ = view.attributes
    assert (caught.value.field, caught.value.layer) == ("attributes", 0)


def test_older_files_say_when_they_were_written_or_nothing():
    view = region_of(Layer(0, b""), created_ns=77).layer(0)
    assert (view.created_ns, view.attributes, view.n_tokens) == (77, {}, 0)
    plain = make_region(Image(plain_file([Layer(0, b"x")], 15), "<test>", 15, "mmap"), False, bytearray).layer(0)
    assert (plain.created_ns, plain.attributes, plain.n_tokens) == (0, {}, 0)


def test_attributes_are_parsed_once_for_all_threads():
    text = json.dumps({f"key{i}": i for i in range(500)}).encode()
    view, found = region_of(Layer(0, b"", attributes=text), version=2).layer(0), []
    threads = [threading.Thread(target=lambda: found.append(view.attributes)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(each is found[0] for each in found)
