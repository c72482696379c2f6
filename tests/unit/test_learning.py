"""Learning: what is created is readable at once, becomes a file whole, and is never lost, repeated or overwritten."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from world import MIB, World, check_states, content_of, manager

import jessy_mem as jm
from helpers import HUNG_S, read_region
from jessy_mem import compression
from jessy_mem._core.changes import CHANGES_NAME
from jessy_mem.ids import LOCK_NAME
from jessy_mem.journal import line

KIB = 1 << 10
NUMBERS = count()  # of all dimensions that are learned here: no two have the same name


def spec(key: int, part: int = 0, n_bytes: int = 1000, **options) -> jm.LayerSpec:
    """A layer that no other key, or part, has the content of."""
    return jm.LayerSpec(content=content_of(key, part, n_bytes=n_bytes), **options)


def learn(memory: jm.MmapManager, key: int = 0, n_layers: int = 2, n_bytes: int = 1000, user: bool = False) -> int:
    layers = [
        spec(key, i, n_bytes, depth=i, frequency=1.5 + i, keywords=(f"word{key}", f"layer{i}")) for i in range(n_layers)
    ]
    return memory.create_proto_dimension(f"Learned {key}.{next(NUMBERS)}", layers, user=user)


def check(memory: jm.MmapManager, dimension: int, key: int = 0, n_layers: int = 2, n_bytes: int = 1000) -> str:
    """What `learn` made is there, to the last byte; returns where it is read from."""
    for i in range(n_layers):
        view = memory.access_layer((dimension, i))
        assert bytes(view) == content_of(key, i, n_bytes=n_bytes), f"D{dimension}/L{i}"
        assert (view.depth, view.frequency, view.keywords) == (i, 1.5 + i, (f"word{key}", f"layer{i}"))
    return view.source


def used(memory: jm.MmapManager) -> int:
    stats = memory.get_stats()
    check_states(stats)
    return stats.total_allocated_bytes


def files_in(base) -> list[str]:
    return sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.name not in (LOCK_NAME, CHANGES_NAME))


# Creating ---------------------------------------------------------------------------------------------------------


def test_created_is_readable_at_once(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 3)
        assert dimension == 15
        assert check(memory, dimension, 3) == "pool"
        region = memory.region(dimension)
        assert region.name.startswith("Learned 3.")
        assert (region.generation, region.source, region.n_layers) == (1, "pool", 2)
        assert region.verify() == []
        assert files_in(tmp_path) == []


def test_created_is_found_by_keyword_and_frequency(tmp_path):
    with manager(tmp_path) as memory:
        first, second = learn(memory, 1), learn(memory, 2)
        assert memory.layers(first) == [(first, 0), (first, 1)]
        assert memory.layers(keyword="WORD2") == [(second, 0), (second, 1)]
        assert memory.layers(keyword="layer1") == [(first, 1), (second, 1)]
        assert memory.layers(frequency=(2.0, 3.0)) == [(first, 1), (second, 1)]


@pytest.mark.parametrize(("user", "segment", "first_id"), [(False, "reserve", 15), (True, "user", 1000)])
def test_created_is_charged_to_its_segment(tmp_path, user, segment, first_id):
    with manager(tmp_path) as memory:
        dimension = learn(memory, n_bytes=2500, user=user)
        stats = memory.get_stats()
        assert dimension == first_id
        assert {name: each.used_bytes for name, each in stats.segments.items() if each.used_bytes} == {segment: 16384}
        assert memory.user_dimensions() == ([1000] if user else [])
        check_states(stats)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", "größe".encode(), bytes(300 * KIB), memoryview(b"0123456789")[::3]]
)
def test_created_keeps_any_content(tmp_path, content):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Any", [jm.LayerSpec(content=content, layer=7)])
        assert bytes(memory.access_layer((dimension, 7))) == bytes(content)


def test_created_is_a_copy(tmp_path):
    source = bytearray(b"as it was")
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Copy", [jm.LayerSpec(content=source)])
        source[:] = b"changed!!"
        assert memory.access_layer((dimension, 0)).text == "as it was"


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_compressed_layer_is_read_decompressed_from_pool_and_file(tmp_path):
    text = "the same words again and again " * 500
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("Packed", [jm.LayerSpec(text=text, compress=True)])
        assert memory.region(dimension).size < len(text) / 4
        assert memory.access_layer((dimension, 0)).text == text
        memory.append_layer(dimension, jm.LayerSpec(text="more"))
        assert memory.region(dimension).size < len(text) / 4
        memory.crystallize(dimension)
        view = memory.access_layer((dimension, 0))
        assert (view.source, view.text, memory.region(dimension).source) == ("pool", text, "mmap")
        assert memory.access_layer((dimension, 1)).source == "mmap"


@pytest.mark.parametrize(
    ("name", "layers", "error"),
    [
        ("", [spec(1)], ValueError),
        ("x" * 65, [spec(1)], ValueError),
        ("ß" * 32 + "x", [spec(1)], ValueError),
        ("\ud800", [spec(1)], UnicodeEncodeError),
        ("No list", None, TypeError),
        (b"bytes", [spec(1)], TypeError),
        ("Twice", [spec(1, layer=0), jm.LayerSpec(text="x", layer=0)], ValueError),
        ("No specs", ["text"], TypeError),
    ],
)
def test_what_cannot_be_built_changes_nothing(tmp_path, name, layers, error):
    with manager(tmp_path) as memory:
        with pytest.raises(error):
            memory.create_proto_dimension(name, layers)
        assert used(memory) == 0
        assert learn(memory) == 15, "an id was spent"


def test_created_larger_than_a_dimension_may_be_is_refused(tmp_path):
    """A file that is larger than its slot could not be mapped."""
    with manager(tmp_path) as memory:
        with pytest.raises(jm.LimitExceeded, match=r"may have 80(\.0)? MiB") as refused:
            memory.create_proto_dimension("Large", [jm.LayerSpec(content=bytes(80 * MIB))])
        assert refused.value.requested_bytes > refused.value.limit_bytes == 80 * MIB
        assert used(memory) == 0


def test_created_after_close_is_refused(tmp_path):
    memory = manager(tmp_path)
    dimension = learn(memory)
    memory.close()
    for call in (
        lambda: learn(memory),
        lambda: memory.append_layer(dimension, spec(1)),
        lambda: memory.update_layer((dimension, 0), spec(1)),
        lambda: memory.crystallize(dimension),
        lambda: memory.forget(dimension),
        lambda: memory.user_dimensions(),
        lambda: memory.on_evict(print),
    ):
        with pytest.raises(jm.ManagerClosed):
            call()
    assert used(memory) == 0
    assert files_in(tmp_path) == ["D15", "D15/region.mmap"]


def test_base_folder_is_made_when_it_is_needed(tmp_path):
    with manager(tmp_path / "a" / "b") as memory:
        memory.crystallize(learn(memory))
        assert files_in(tmp_path / "a" / "b") == ["D15", "D15/region.mmap"]


def test_base_folder_that_cannot_be_written_costs_nothing(tmp_path):
    base = tmp_path / "file"
    with manager(base) as memory:
        base.write_bytes(b"in the way")
        with pytest.raises(jm.MappingError) as refused:
            learn(memory)
        assert refused.value.errno in (errno.ENOTDIR, errno.EEXIST)
        assert str(base) in refused.value.filename
        assert used(memory) == 0, "the error keeps the block"
        with pytest.raises(jm.LayerNotFound):
            memory.access_layer((15, 0))


# Ids --------------------------------------------------------------------------------------------------------------


def test_id_is_not_given_again_after_restart(tmp_path):
    for expected in (15, 16, 17):
        with manager(tmp_path) as memory:
            assert learn(memory) == expected


@pytest.mark.parametrize("crystallized", [False, True])
@pytest.mark.parametrize("register_lost", [False, True])
def test_id_is_not_given_again_after_forget(tmp_path, crystallized, register_lost):
    with manager(tmp_path) as memory:
        learn(memory)
        dimension = learn(memory)
        if crystallized:
            memory.crystallize(dimension)
        if register_lost:
            (tmp_path / LOCK_NAME).unlink()
        memory.forget(dimension)
        assert learn(memory) == dimension + 1


@pytest.mark.parametrize("far", [2**31 - 1, 2**31 - 5, 2**32 - 1])
def test_ids_do_not_end_where_somebody_numbered_a_dimension_far_behind_the_others(tmp_path, far):
    for dimension in (17, 997, 1003, far):
        jm.RegionBuilder(dimension, f"n{dimension}").add_layer(spec(1)).write(jm.region_path(tmp_path, dimension))
    with manager(tmp_path) as memory:
        given = [memory.create_proto_dimension(f"p{n}") for n in range(4)]
        assert given == [998, 999, 2**31, 2**31 + 1]
        assert [memory.create_proto_dimension(f"u{n}", user=True) for n in range(8)] == list(range(1004, 1012))
        assert memory.find(f"n{far}") == far


def test_id_is_not_given_again_after_forget_with_another_register(tmp_path):
    """A base folder that was copied without its register: forgetting writes it before the highest folder goes."""
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        memory.crystallize(dimension)
    (tmp_path / LOCK_NAME).unlink()
    with manager(tmp_path) as memory:
        memory.forget(dimension)
    with manager(tmp_path) as memory:
        assert learn(memory) == dimension + 1


def test_ids_of_two_managers_are_disjoint(tmp_path):
    with manager(tmp_path) as one, manager(tmp_path) as other:
        given = [learn(memory) for _ in range(10) for memory in (one, other)]
    assert given == list(range(15, 35))


def test_ids_of_threads_are_disjoint(tmp_path):
    with manager(tmp_path) as memory, ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda key: learn(memory, key), range(80)))
        assert sorted(given) == list(range(15, 95))
        for key, dimension in enumerate(given):
            assert check(memory, dimension, key) == "pool"


def test_ids_begin_behind_what_is_there(tmp_path):
    World(tmp_path).write_all(17, 1003)
    (tmp_path / "D15").mkdir()
    with manager(tmp_path) as memory:
        assert [learn(memory), learn(memory, user=True)] == [18, 1004]


def test_id_passes_over_a_folder_that_came_later(tmp_path):
    with manager(tmp_path) as memory:
        assert learn(memory) == 15
        World(tmp_path).write_all(16, 17)
        assert learn(memory) == 18


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not numbers at all",
        b"%20d" % 3,
        bytes(44),
        b"%20d %20d" % (0, -1),
        b"%20d %20d" % (1001, 1000),
        b"%20d %20d" % (15, 2**32 + 1),
    ],
)
def test_id_of_a_living_proto_is_not_given_again_when_the_register_is_lost(tmp_path, content):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        (tmp_path / LOCK_NAME).unlink()
        if content is not None:
            (tmp_path / LOCK_NAME).write_bytes(content)
        assert [learn(memory, 2), learn(memory, 3, user=True)] == [dimension + 1, 1000]
        assert check(memory, dimension, 1) == "pool"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_register_that_is_no_file_gives_no_id(tmp_path, kind):
    base, other = tmp_path / "base", tmp_path / "other"
    base.mkdir()
    other.write_bytes(b"of somebody else")
    register = base / LOCK_NAME
    if kind == "link":
        register.symlink_to(other)
    elif kind == "folder":
        register.mkdir()
    else:
        os.mkfifo(register)
    with manager(base) as memory:
        with pytest.raises(jm.MappingError) as refused:
            learn(memory)
        assert refused.value.filename == str(register)
        assert used(memory) == 0
    assert other.read_bytes() == b"of somebody else"


def test_id_loaded_from_a_path_of_its_own_is_passed_over(tmp_path):
    world = World(tmp_path / "elsewhere")
    own = world.write(15)
    before = own.read_bytes()
    with manager(tmp_path / "base") as memory:
        memory.load_dimension(15, own)
        dimension = learn(memory)
        assert dimension == 16
        memory.crystallize(dimension)
        assert memory.region(15).path == own
    assert own.read_bytes() == before


def test_ids_of_the_reserve_go_on_behind_those_of_the_users(tmp_path):
    (tmp_path / LOCK_NAME).write_bytes(b"%20d %20d" % (999, 1000))
    with manager(tmp_path) as memory:
        assert [learn(memory), learn(memory), learn(memory, user=True)] == [999, 2**31, 1000]
        assert memory.user_dimensions() == [1000]
    with manager(tmp_path) as memory:
        assert [learn(memory), learn(memory, user=True)] == [2**31 + 1, 1001]


def test_ids_are_used_up(tmp_path):
    first = b"%20d %20d  \n" % (1000, 1000)
    journal = line("!", "0123456789abcdef") + line("^", 2**31, 2**32 - 1)
    (tmp_path / LOCK_NAME).write_bytes(first + journal)
    with manager(tmp_path) as memory:
        assert learn(memory) == 2**32 - 1
        before = used(memory)
        with pytest.raises(jm.LimitExceeded, match=r"15\.\.999, 2147483648\.\.4294967295"):
            learn(memory)
        assert used(memory) == before
        assert learn(memory, user=True) == 1000


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("os.open", OSError(errno.EROFS, "Read-only file system")),
        ("os.open", OSError(errno.EMFILE, "Too many open files")),
        ("fcntl.flock", OSError(errno.ENOLCK, "No locks available")),
        ("os.pread", OSError(errno.EIO, "I/O error")),
        ("os.pwrite", OSError(errno.ENOSPC, "No space left on device")),
        ("os.pwrite", None),
    ],
)
def test_register_that_fails_gives_no_id(tmp_path, inject, call, fault):
    with manager(tmp_path) as memory:
        learn(memory)
        before = used(memory)
        # None: a short write
        failing = inject(fault, call) if fault else inject.instead(call, lambda *_args: 3)
        with failing, pytest.raises(jm.MappingError) as failed:
            learn(memory)
        assert failed.value.errno == (fault.errno if fault else errno.ENOSPC)
        assert failed.value.filename == str(tmp_path / LOCK_NAME)
        assert used(memory) == before
        assert learn(memory) == 16


def is_locked(base) -> bool:
    """Whether somebody holds the lock of a base folder."""
    with (base / LOCK_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_lock_is_held_while_a_file_is_published_only(tmp_path, inject):
    seen = []
    with manager(tmp_path) as memory:
        dimensions = [learn(memory, key) for key in range(4)]
        memory.append_layer(dimensions[0], spec(7))
        assert not is_locked(tmp_path)
        with inject.instead("os.fsync", lambda fd: seen.append(is_locked(tmp_path))):
            memory.crystallize(dimensions[0])
            assert not is_locked(tmp_path)
            memory.forget(dimensions[0])
            assert not is_locked(tmp_path)
        assert len(seen) > 3
        assert all(seen)
        with inject(OSError(errno.EIO, "I/O error"), "os.fsync"), pytest.raises(jm.MappingError):
            memory.crystallize(dimensions[1])
        assert not is_locked(tmp_path)
        with inject(OSError(errno.ENOSPC, "full"), "os.pwrite"), pytest.raises(jm.MappingError):
            learn(memory)
        assert not is_locked(tmp_path)


def test_lock_held_by_another_stops_no_reader(tmp_path):
    """Everything but giving ids and publishing goes on; those wait, and then do what they were asked for."""
    World(tmp_path).write_all(1, 20)
    with manager(tmp_path) as memory, ThreadPoolExecutor(2) as threads:
        dimension = learn(memory, 1)
        with (tmp_path / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting = [threads.submit(learn, memory, 2), threads.submit(memory.crystallize, dimension)]
            assert {1, 20} <= set(memory.load_all().loaded)
            memory.reload_dimension(20)
            memory.unload_dimension(20)
            memory.load_dimension(20)
            assert bytes(memory.access_layer((20, 0))) == content_of(20, 0)
            assert check(memory, dimension, 1) == "pool"
            assert (dimension, 0) in memory.layers(keyword="word1")
            check_states(memory.get_stats())
            assert not any(each.done() for each in waiting)
        assert waiting[0].result(HUNG_S) == dimension + 1
        waiting[1].result(HUNG_S)
        assert check(memory, dimension, 1) == "mmap"


def test_lock_does_not_stay_with_a_child_that_was_forked_meanwhile(tmp_path, inject):
    end, of_child = os.pipe()
    children = []

    def fork(fd):
        if not children:
            children.append(os.fork())
            if children == [0]:
                os.close(of_child)
                os.read(end, 1)
                os._exit(0)

    try:
        with manager(tmp_path) as memory:
            dimension = learn(memory)
            with inject.instead("os.fsync", fork):
                memory.crystallize(dimension)
            assert not is_locked(tmp_path)
            assert learn(memory) == dimension + 1
    finally:
        os.close(of_child)
        os.close(end)
        os.waitpid(children[0], 0)


# Appending and updating -------------------------------------------------------------------------------------------


def test_appended_layer_is_read_and_found(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        assert memory.append_layer(dimension, spec(8, keywords=("new",), frequency=9.0, depth=5)) == (dimension, 2)
        assert check(memory, dimension, 1) == "pool"
        view = memory.access_layer((dimension, 2))
        assert (bytes(view), view.depth, view.frequency) == (content_of(8, 0), 5, 9.0)
        assert memory.layers(keyword="new") == memory.layers(frequency=(8, 10)) == [(dimension, 2)]
        assert memory.layers(dimension) == [(dimension, 0), (dimension, 1), (dimension, 2)]
        assert memory.region(dimension).name.startswith("Learned 1.")


def test_appended_layer_may_have_a_number_of_its_own(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        assert memory.append_layer(dimension, spec(1, layer=100)).layer == 100
        assert memory.append_layer(dimension, spec(2)).layer == 101
        assert memory.append_layer(dimension, jm.LayerSpec(text="last", layer=65535)).layer == 65535
        with pytest.raises(ValueError, match="65536"):
            memory.append_layer(dimension, spec(3))
        with pytest.raises(ValueError, match="layer 100 of D15 exists"):
            memory.append_layer(dimension, spec(3, layer=100))
        assert bytes(memory.access_layer((dimension, 100))) == content_of(1, 0)


def test_updated_layer_replaces_content_and_metadata(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        assert memory.update_layer((dimension, 1), spec(9, 1, keywords=("fresh",))) == (dimension, 1)
        assert bytes(memory.access_layer((dimension, 1))) == content_of(9, 1)
        assert bytes(memory.access_layer((dimension, 0))) == content_of(1, 0)
        assert memory.layers(keyword="fresh") == [(dimension, 1)]
        assert memory.layers(keyword="layer1") == []
        with pytest.raises(jm.LayerNotFound) as missing:
            memory.update_layer((dimension, 2), spec(1))
        assert (missing.value.dimension, missing.value.layer) == (dimension, 2)
        with pytest.raises(ValueError, match="names layer 0"):
            memory.update_layer((dimension, 1), jm.LayerSpec(text="x", layer=0))


@pytest.mark.parametrize("change", ["append", "update", "crystallize", "forget"])
def test_held_view_keeps_its_bytes_and_its_charge(tmp_path, change):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1, n_layers=1, n_bytes=5000)
        view = memory.access_layer((dimension, 0))
        if change == "append":
            memory.append_layer(dimension, spec(2, n_bytes=20_000))
        elif change == "update":
            memory.update_layer((dimension, 0), spec(2, n_bytes=20_000))
        elif change == "crystallize":
            memory.crystallize(dimension)
        else:
            memory.forget(dimension)
        assert bytes(view) == content_of(1, 0, n_bytes=5000)
        assert view.source == "pool"
        assert [(lease.dimension, lease.n_bytes) for lease in memory.leases()] == [(dimension, 16384)]
        before = used(memory)
        del view
        assert used(memory) == before - 16384
        assert memory.leases() == []


@pytest.mark.filterwarnings("ignore:dimension.* simulated")
def test_change_needs_a_mutable_dimension_with_a_place_of_its_own(tmp_path):
    world = World(tmp_path)
    world.write_all(9)
    world.write(20, immutable=True)
    elsewhere = World(tmp_path / "elsewhere").write(30)
    with manager(tmp_path, simulation="auto") as memory:
        memory.load_dimension(2)
        memory.load_dimension(9)
        memory.load_dimension(30, elsewhere)
        before = used(memory)
        for dimension, error, why in [
            (2, jm.RegionNotFound, "simulated"),
            (3, jm.RegionNotFound, "no file"),
            (9, jm.ImmutableDimension, "immutable"),
            (14, jm.ImmutableDimension, "immutable"),
            (20, jm.ImmutableDimension, "immutable"),
            (30, jm.RegionNotFound, "elsewhere"),
            (500, jm.RegionNotFound, "no file"),
        ]:
            for call in (
                lambda dimension=dimension: memory.append_layer(dimension, spec(1)),
                lambda dimension=dimension: memory.extend(dimension, [spec(1)]),
                lambda dimension=dimension: memory.update_layer((dimension, 0), spec(1)),
                lambda dimension=dimension: memory.remove_layer((dimension, 0)),
                lambda dimension=dimension: memory.compact(dimension),
            ):
                with pytest.raises(error, match=why) as refused:
                    call()
                assert refused.value.dimension == dimension
            with pytest.raises(error):
                memory.crystallize(dimension)
        memory.unload_dimension(20)  # which was loaded to be looked at
        assert used(memory) == before


def test_change_needs_a_spec(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        before = used(memory)
        for call in (
            lambda: memory.append_layer(dimension, "text"),
            lambda: memory.update_layer((dimension, 0), {"text": "x"}),
        ):
            with pytest.raises(TypeError, match="is not a LayerSpec"):
                call()
        assert used(memory) == before
        assert check(memory, dimension, 1) == "pool"


def test_append_that_does_not_fit_harms_nothing(tmp_path):
    with manager(tmp_path, 2, on_full="raise") as memory:
        dimension = learn(memory, 1, n_bytes=300 * KIB)
        before = used(memory)
        with pytest.raises(jm.LimitExceeded) as refused:
            memory.append_layer(dimension, spec(2, n_bytes=1400 * KIB))
        assert used(memory) == before
        with pytest.raises(jm.LimitExceeded):
            memory.update_layer((dimension, 0), spec(2, n_bytes=1400 * KIB))
        assert refused.value.segment == "total"
        assert used(memory) == before
        assert check(memory, dimension, 1, n_bytes=300 * KIB) == "pool"


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_append_to_the_oldest_makes_room_with_others(tmp_path, on_full):
    with manager(tmp_path, 2, on_full=on_full) as memory:
        first, second = learn(memory, 1, n_bytes=200 * KIB), learn(memory, 2, n_bytes=400 * KIB)
        memory.append_layer(first, spec(3, n_bytes=600 * KIB))
        assert check(memory, first, 1, n_bytes=200 * KIB) == "pool"
        if on_full == "crystallize":
            assert check(memory, second, 2, n_bytes=400 * KIB) == "mmap"
        else:
            assert second not in memory.region(first).layers()
            assert memory.get_stats().drops == 1


def test_append_makes_room_with_what_it_appends_to(tmp_path):
    with manager(tmp_path, 2) as memory:
        dimension = learn(memory, 1, n_bytes=500 * KIB)
        assert memory.append_layer(dimension, spec(2, n_bytes=900 * KIB)) == (dimension, 2)
        assert check(memory, dimension, 1, n_bytes=500 * KIB) == "mmap"
        assert bytes(memory.access_layer((dimension, 2))) == content_of(2, 0, n_bytes=900 * KIB)


@pytest.mark.parametrize("on_full", ["crystallize", "drop", "raise"])
def test_append_does_not_give_up_what_it_appends_to(tmp_path, on_full):
    n_bytes = (1500 if on_full == "crystallize" else 900) * KIB  # which would not fit even into a file
    with manager(tmp_path, 2, on_full=on_full, on_close="drop") as memory:
        dimension = learn(memory, 1, n_bytes=500 * KIB)
        before = used(memory)
        with pytest.raises(jm.LimitExceeded):
            memory.append_layer(dimension, spec(2, n_bytes=n_bytes))
        assert used(memory) == before
        assert check(memory, dimension, 1, n_bytes=500 * KIB) == "pool"
        assert memory.get_stats().drops == 0
        assert files_in(tmp_path) == []


# Crystallizing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("verify", ["lazy", "open", "never"])
def test_crystallized_is_a_region_file(tmp_path, user, verify):
    with manager(tmp_path, verify=verify) as memory:
        dimension = learn(memory, 4, n_bytes=5000, user=user)
        before = bytes(memory.region(dimension))
        path = memory.crystallize(dimension)
        assert path == tmp_path / f"D{dimension}" / "region.mmap"
        assert path.read_bytes() == before
        stored = read_region(before)
        assert (stored.dimension_id, stored.generation) == (dimension, 1)
        assert stored.name.startswith(b"Learned 4.")
        assert check(memory, dimension, 4, n_bytes=5000) == "mmap"
        assert files_in(tmp_path) == [f"D{dimension}", f"D{dimension}/region.mmap"]
        stats = memory.get_stats()
        assert (stats.pool.used_bytes, stats.total_allocated_bytes) == (0, len(before))
        assert stats.crystallization_count == stats.crystallize_latency.count == 1


def test_crystallized_is_an_ordinary_region(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 4)
        path = memory.crystallize(dimension)
        assert memory.region(dimension).verify() == []
        assert memory.reload_dimension(dimension) == (1, 1)
        assert memory.layers(keyword="word4") == [(dimension, 0), (dimension, 1)]
        replacement = jm.RegionBuilder(dimension, "Other").add_layer(jm.LayerSpec(text="replaced"))
        replacement.write(path)
        assert memory.reload_dimension(dimension) == (1, 2)
        assert memory.access_layer((dimension, 0)).text == "replaced"
        memory.unload_dimension(dimension)
        assert used(memory) == 0
        assert memory.load_dimension(dimension).name == "Other"


def test_crystallized_is_evicted_and_mapped_again(tmp_path):
    with manager(tmp_path, 2) as memory:
        dimensions = [learn(memory, key, n_bytes=200 * KIB) for key in range(12)]
        for dimension in dimensions[:3]:
            memory.crystallize(dimension)
        stats = memory.get_stats()
        assert stats.evictions > 0
        for key, dimension in enumerate(dimensions):
            check(memory, dimension, key, n_bytes=200 * KIB)


def test_crystallized_twice_is_left_as_it_is(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        path = memory.crystallize(dimension)
        before = path.stat()
        assert memory.crystallize(dimension) == path
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert memory.get_stats().crystallization_count == 1


def test_crystallized_without_room_for_block_and_file_is_mapped_later(tmp_path):
    with manager(tmp_path, 1) as memory:
        dimension = learn(memory, 1, n_layers=1, n_bytes=600 * KIB)
        view = memory.access_layer((dimension, 0))
        memory.crystallize(dimension)
        assert memory.get_stats().active_regions == 0
        assert memory.layers(keyword="word1") == [(dimension, 0)]
        assert memory.crystallize(dimension) == tmp_path / "D15" / "region.mmap"
        with pytest.raises(jm.LimitExceeded):
            memory.access_layer((dimension, 0))
        assert bytes(view) == content_of(1, 0, n_bytes=600 * KIB)
        del view
        assert check(memory, dimension, 1, n_layers=1, n_bytes=600 * KIB) == "mmap"
        assert memory.get_stats().pool.used_bytes == 0


@pytest.mark.parametrize("kind", ["file", "link"])
def test_crystallized_does_not_overwrite_what_another_wrote(tmp_path, kind):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        path = tmp_path / "D15" / "region.mmap"
        if kind == "file":
            World(tmp_path).write(15)
        else:
            path.parent.mkdir()
            path.symlink_to("nowhere")
        before = os.readlink(path) if kind == "link" else path.read_bytes()
        with pytest.raises(jm.MappingError) as refused:
            memory.crystallize(dimension)
        assert (refused.value.errno, refused.value.filename) == (errno.EEXIST, str(path))
        memory.forget(learn(memory, 2))
        assert check(memory, dimension, 1) == "pool"
        assert (os.readlink(path) if kind == "link" else path.read_bytes()) == before
        assert files_in(tmp_path) == ["D15", "D15/region.mmap"]
        path.unlink()
        assert memory.crystallize(dimension) == path
        assert check(memory, dimension, 1) == "mmap"


def test_forgotten_proto_leaves_what_another_wrote(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        path = World(tmp_path).write(dimension)
        memory.forget(dimension)
        assert path.exists()
        assert memory.load_dimension(dimension).name == f"dimension {dimension}"


class Gate:
    """Stops the first caller of os.fsync until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.fsync = os.fsync

    def __call__(self, fd):
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(HUNG_S)
        self.fsync(fd)


@pytest.fixture
def stopped(tmp_path, inject):
    """A manager in the middle of a crystallize in another thread: (manager, dimension, future, gate)."""
    gate = Gate()
    World(tmp_path).write_all(1, 2)
    with manager(tmp_path) as memory, ThreadPoolExecutor(2) as threads:
        dimension = learn(memory, 1)
        memory.load_dimension(1)
        with inject.instead("os.fsync", gate):
            future = threads.submit(memory.crystallize, dimension)
            assert gate.reached.wait(HUNG_S)
            yield memory, dimension, future, gate
            gate.opened.set()
    del future


def test_readers_and_loads_do_not_wait_for_a_crystallize(stopped):
    memory, dimension, future, gate = stopped
    assert check(memory, dimension, 1) == "pool"
    memory.load_dimension(2)
    memory.access_layer((2, 0))
    memory.reload_dimension(1)
    memory.unload_dimension(1)
    assert memory.layers(keyword="word1") == [(dimension, 0), (dimension, 1)]
    memory.allocate(1000).free()
    check_states(memory.get_stats())
    assert not future.done()
    gate.opened.set()
    future.result()
    assert check(memory, dimension, 1) == "mmap"


def test_close_during_a_crystallize_loses_nothing(stopped, tmp_path):
    memory, dimension, future, gate = stopped
    with ThreadPoolExecutor(1) as threads:
        end = threads.submit(memory.close)
        assert not future.done()
        assert not end.done()
        gate.opened.set()
        assert future.result() == tmp_path / "D15" / "region.mmap"
        end.result()
    assert memory.get_stats().total_allocated_bytes == 0
    with manager(tmp_path) as again:
        assert dimension in again.load_all().loaded
        assert check(again, dimension, 1) == "mmap"


@pytest.mark.parametrize("change", ["forget", "append", "crystallize"])
def test_other_changes_wait_for_a_crystallize(stopped, change, tmp_path):
    memory, dimension, future, gate = stopped
    with ThreadPoolExecutor(1) as threads:
        if change == "forget":
            other = threads.submit(memory.forget, dimension)
        elif change == "append":
            other = threads.submit(memory.append_layer, dimension, spec(2))
        else:
            other = threads.submit(memory.crystallize, dimension)
        gate.opened.set()
        path = future.result()
        assert other.result() == {"append": (dimension, 2), "crystallize": path, "forget": None}[change]
    assert path.exists() == (change != "forget")
    if change != "forget":
        assert check(memory, dimension, 1) == "mmap"


def test_unload_and_load_refuse_a_proto_dimension(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        with pytest.raises(jm.RegionNotFound, match="crystallize it, or forget it"):
            memory.unload_dimension(dimension)
        with pytest.raises(jm.RegionNotFound, match="proto-dimension"):
            memory.reload_dimension(dimension)
        with pytest.raises(jm.DimensionAlreadyLoaded):
            memory.load_dimension(dimension)
        assert dimension in memory.load_all().loaded
        assert check(memory, dimension, 1) == "pool"


# Forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["proto", "mapped", "evicted", "not loaded"])
def test_forgotten_is_gone_for_good(tmp_path, state):
    with manager(tmp_path, 1) as memory:
        kept = learn(memory, 7)
        memory.crystallize(kept)
        dimension = learn(memory, 1, n_bytes=100 * KIB)
        if state != "proto":
            memory.crystallize(dimension)
        if state == "evicted":
            block = memory.allocate(700 * KIB)
            assert str(dimension) in memory.dump_state()["evicted"]
            block.free()
        elif state == "not loaded":
            memory.unload_dimension(dimension)
        memory.forget(dimension)
        with pytest.raises(jm.LayerNotFound):
            memory.access_layer((dimension, 0))
        assert memory.layers(keyword="word1") == memory.layers(dimension) == []
        assert f"D{dimension}" not in files_in(tmp_path)
        with pytest.raises(jm.RegionNotFound):
            memory.forget(dimension)
        assert check(memory, kept, 7) == "mmap"
        assert memory.get_stats().pool.used_bytes == 0
    with manager(tmp_path) as memory:
        report = memory.load_all()
        assert dimension not in {*report.loaded, *report.skipped}


def test_forgotten_folder_with_other_files_stays(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        path = memory.crystallize(dimension)
        (path.parent / "note.txt").write_text("mine")
        memory.forget(dimension)
    assert files_in(tmp_path) == ["D15", "D15/note.txt"]


def test_forget_refuses_core_and_immutable(tmp_path):
    world = World(tmp_path)
    paths = [world.write(1), world.write(9), world.write(20, immutable=True), world.write(1001, immutable=True)]
    with manager(tmp_path) as memory:
        memory.load_all()
        memory.unload_dimension(1001)
        for dimension in (1, 2, 9, 20, 1001):
            with pytest.raises(jm.ImmutableDimension) as refused:
                memory.forget(dimension)
            assert refused.value.dimension == dimension
        assert memory.region(20).verify() == []
    assert all(path.exists() for path in paths)


def test_forget_refuses_a_file_that_the_caller_named(tmp_path):
    own = World(tmp_path / "elsewhere").write(20)
    with manager(tmp_path / "base") as memory:
        memory.load_dimension(20, own)
        with pytest.raises(jm.RegionNotFound, match="unload_dimension"):
            memory.forget(20)
        with pytest.raises(jm.RegionNotFound):
            memory.crystallize(20)
    assert own.exists()


@pytest.mark.parametrize("dimension", [-1, 0, 15, 999, 1000, 2**32 - 1, 2**32])
def test_forget_of_what_is_not_there(tmp_path, dimension):
    with manager(tmp_path) as memory, pytest.raises(jm.RegionNotFound) as missing:
        memory.forget(dimension)
    assert missing.value.dimension == dimension


def test_forget_leaves_a_folder_that_no_manager_looks_at(tmp_path):
    path = tmp_path / f"D{2**32}" / "region.mmap"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with manager(tmp_path) as memory, pytest.raises(jm.RegionNotFound):
        memory.forget(2**32)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("call", ["unlink", "fsync"])
def test_forget_that_fails_can_be_called_again(tmp_path, inject, call):
    with manager(tmp_path) as memory:
        dimension = learn(memory, 1)
        memory.crystallize(dimension)
        before = used(memory)
        fault = OSError(errno.EIO, "I/O error")
        with inject(fault, f"os.{call}"), pytest.raises(jm.MappingError) as failed:
            memory.forget(dimension)
        assert failed.value.errno == errno.EIO
        assert failed.value.filename
        assert used(memory) == before
        assert check(memory, dimension, 1) == "mmap"
        memory.forget(dimension)
        assert used(memory) == 0
        assert files_in(tmp_path) == []


# When there is no room --------------------------------------------------------------------------------------------


def plenty(key: int, n_bytes: int) -> bytes:
    """Content that costs little to make and is not kept."""
    return key.to_bytes(4, "little") * (n_bytes // 4)


def write_ten_times(memory, total_bytes, n_bytes):
    """Ten times `total_bytes` in proto-dimensions of `n_bytes`; returns their ids."""
    dimensions = []
    for key in range(10 * total_bytes // n_bytes):
        layer = jm.LayerSpec(content=plenty(key, n_bytes), keywords=(f"w{key}",))
        dimensions.append(memory.create_proto_dimension(f"Part {key}", [layer]))
    return dimensions


def check_ten_times(memory, dimensions, n_bytes):
    stats = memory.get_stats()
    check_states(stats)
    assert stats.drops == stats.allocation_failures == 0
    assert stats.crystallization_count > len(dimensions) / 2
    for key, dimension in enumerate(dimensions):
        assert memoryview(memory.access_layer((dimension, 0))) == plenty(key, n_bytes)
        assert memory.layers(keyword=f"w{key}") == [(dimension, 0)]


def test_ten_times_the_budget_is_written_and_read(tmp_path):
    with manager(tmp_path, 2) as memory:
        dimensions = write_ten_times(memory, 2 * MIB, 50_000)
        check_ten_times(memory, dimensions, 50_000)
    with manager(tmp_path, 2) as memory:
        found = memory.load_all().loaded
        assert set(found) <= set(dimensions)
        assert len(found) > len(dimensions) / 2
        for dimension in found:
            assert memoryview(memory.access_layer((dimension, 0))) == plenty(dimensions.index(dimension), 50_000)


@pytest.mark.slow
def test_ten_times_the_reserve_is_written_and_read(tmp_path):
    with manager(tmp_path) as memory:
        dimensions = write_ten_times(memory, 80 * MIB, MIB - 4 * KIB)
        check_ten_times(memory, dimensions, MIB - 4 * KIB)
        assert memory.get_stats().segments["reserve"].peak_bytes <= 80 * MIB


def test_full_with_raise_refuses_and_keeps_everything(tmp_path):
    with manager(tmp_path, 2, on_full="raise") as memory:
        dimensions = [learn(memory, key, n_bytes=20_000) for key in range(30)]  # of 64 KiB each
        with pytest.raises(jm.LimitExceeded) as refused:
            learn(memory, n_bytes=20_000)
        before = used(memory)
        assert refused.value.requested_bytes == 64 * KIB
        for _ in range(3):
            with pytest.raises(jm.LimitExceeded):
                learn(memory, n_bytes=20_000)
        assert used(memory) == before
        assert memory.get_stats().allocation_failures == 4
        for key, dimension in enumerate(dimensions):
            assert check(memory, dimension, key, n_bytes=20_000) == "pool"
        memory.crystallize(dimensions[0])
        memory.unload_dimension(dimensions[0])
        assert learn(memory, n_bytes=20_000) == dimensions[-1] + 1, "an id was spent"
        assert files_in(tmp_path) == ["D15", "D15/region.mmap"]


def test_full_with_drop_gives_up_the_oldest_and_says_so(tmp_path, caplog):
    dropped = []
    with manager(tmp_path, 2, on_full="drop") as memory:
        memory.on_evict(lambda *args: dropped.append(args))
        kept = learn(memory, 99)
        memory.crystallize(kept)
        dimensions = [learn(memory, key, n_bytes=20_000) for key in range(60)]
        sizes = {memory.region(dimension).size for dimension in dimensions[-3:]}
        gone = [dimension for dimension, _, _ in dropped]
        assert gone == dimensions[: len(gone)]
        assert 0 < len(gone) < 59
        assert {(reason, n_bytes) for _, reason, n_bytes in dropped} == {("drop", size) for size in sizes}
        assert memory.get_stats().drops == len(gone)
        for key, dimension in enumerate(dimensions):
            if dimension in gone:
                with pytest.raises(jm.LayerNotFound):
                    memory.access_layer((dimension, 0))
                assert memory.layers(keyword=f"word{key}") == []
            else:
                assert check(memory, dimension, key, n_bytes=20_000) == "pool"
        assert check(memory, kept, 99) == "mmap"
        with pytest.raises(TypeError):
            memory.on_evict("no function")
    told = [record for record in caplog.records if "is dropped" in record.message]
    assert len(told) == len(gone)


def test_callback_of_a_drop_that_fails_stops_nothing(tmp_path, caplog):
    dropped = []
    with manager(tmp_path, 1, on_full="drop") as memory:
        memory.on_evict(lambda *args: 1 / 0)
        memory.on_evict(lambda *args: dropped.append(args))
        dimensions = [learn(memory, key, n_bytes=100 * KIB) for key in range(4)]
        assert [dimension for dimension, _, _ in dropped] == dimensions[:1]
    assert "callback failed" in caplog.text
    caplog.clear()  # the tracebacks keep blocks


def test_callback_of_a_drop_may_use_the_manager(tmp_path):
    saved = []
    with manager(tmp_path, 1, on_full="drop") as memory:

        def look(dimension, reason, n_bytes):
            with ThreadPoolExecutor(1) as threads:  # from another thread: no lock is held
                saved.append(threads.submit(memory.get_stats).result(HUNG_S).drops)
                threads.submit(memory.crystallize, memory.create_proto_dimension("Small", [spec(5)])).result(HUNG_S)

        memory.on_evict(look)
        for key in range(5):
            learn(memory, key, n_bytes=100 * KIB)
        assert saved[0] == 1


@pytest.mark.parametrize("change", ["forget", "crystallize"])
def test_callback_of_a_drop_may_take_what_is_changed(tmp_path, change):
    with manager(tmp_path, 1, on_full="drop") as memory:
        oldest, dimension = (learn(memory, key, 1, 200 * KIB) for key in range(2))
        memory.on_evict(lambda *args: getattr(memory, change)(dimension))
        if change == "crystallize":
            assert memory.append_layer(dimension, spec(2, n_bytes=500 * KIB)) == (dimension, 1)
            assert check(memory, dimension, 1, 1, 200 * KIB) == "mmap"
        else:
            with pytest.raises(jm.RegionNotFound):
                memory.append_layer(dimension, spec(2, n_bytes=500 * KIB))
        gc.collect()
        assert memory.get_stats().pool.used_bytes == 0
        assert memory.layers(oldest) == []
        assert len(memory.layers()) == 2 * (change == "crystallize")


def test_callback_of_a_drop_may_close_the_manager(tmp_path):
    memory = manager(tmp_path, 1, on_full="drop")
    learn(memory, 1, 1, 300 * KIB)
    memory.on_evict(lambda *args: memory.close())
    with pytest.raises(jm.ManagerClosed):
        learn(memory, 2, 1, 600 * KIB)
    assert used(memory) == 0


def test_callback_of_pressure_may_crystallize(tmp_path):
    levels = []
    with manager(tmp_path, 1) as memory:

        def save(level, used_bytes, limit_bytes):
            levels.append(level)
            memory.crystallize(dimensions[0])

        dimensions = [learn(memory, key, 1, 200 * KIB) for key in range(2)]
        memory.on_pressure(save)
        dimensions.append(learn(memory, 2, 1, 200 * KIB))
        assert levels[0] == "warning"
        assert check(memory, dimensions[0], 0, 1, 200 * KIB) == "mmap"


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
@pytest.mark.parametrize("n_bytes", [79 * MIB, 1100 * KIB, 1000 * KIB])
def test_what_can_never_fit_costs_nothing(tmp_path, on_full, n_bytes):
    """A megabyte of budget, of which blocks may take 95 percent: nothing else is given up for a request like that."""
    with manager(tmp_path, 1, on_full=on_full) as memory:
        dimensions = [learn(memory, key, n_bytes=20_000) for key in range(5)]
        before = used(memory)
        for call in (lambda: memory.allocate(n_bytes), lambda: learn(memory, 9, 1, n_bytes)):
            with pytest.raises(jm.LimitExceeded):
                call()
        assert used(memory) == before
        for key, dimension in enumerate(dimensions):
            assert check(memory, dimension, key, n_bytes=20_000) == "pool"
        assert files_in(tmp_path) == []


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_nothing_is_given_up_when_that_would_not_do(tmp_path, on_full):
    with manager(tmp_path, 1, on_full=on_full) as memory:
        block = memory.allocate(700 * KIB)
        dimension = learn(memory, 1, n_bytes=20_000)
        with pytest.raises(jm.LimitExceeded):
            memory.allocate(500 * KIB)
        assert check(memory, dimension, 1, n_bytes=20_000) == "pool"
        assert files_in(tmp_path) == []
        block.free()


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_strict_classes_give_up_only_what_is_of_the_class(tmp_path, on_full):
    pools = ((1, 4096), (1, 16384))
    with manager(tmp_path, 8, on_full=on_full, strict_classes=True, pool_configs=pools) as memory:
        other = learn(memory, 0, n_bytes=4000)  # of the larger class
        small = [learn(memory, key, n_bytes=500) for key in range(1, 4)]
        blocks = [memory.allocate(4096) for _ in range(256 - 3)]
        blocks.append(memory.allocate(4096))
        assert memory.get_stats().pool.classes[0].n_used == 256
        assert check(memory, other, 0, n_bytes=4000) == "pool"
        if on_full == "drop":
            assert memory.get_stats().drops == 1
        else:
            assert check(memory, small[0], 1, n_bytes=500) == "mmap"
        assert [check(memory, each, key, n_bytes=500) for key, each in enumerate(small[1:], 2)] == ["pool"] * 2
        with pytest.raises(jm.AllocationFailed):
            memory.allocate(2 * MIB)
        assert check(memory, other, 0, n_bytes=4000) == "pool"
        assert memory.get_stats().drops <= 1


def test_full_user_segment_gives_up_user_dimensions_only(tmp_path):
    with manager(tmp_path) as memory:
        reserve = learn(memory, 0)
        users = [learn(memory, key, 1, 4 * MIB - 8 * KIB, user=True) for key in range(10)]
        stats = memory.get_stats()
        assert stats.segments["user"].peak_bytes <= 32 * MIB
        assert check(memory, reserve, 0) == "pool"
        assert memory.user_dimensions() == users
        for key, dimension in enumerate(users):
            check(memory, dimension, key, 1, 4 * MIB - 8 * KIB)


def test_full_pool_makes_room_for_blocks_too(tmp_path):
    with manager(tmp_path, 1) as memory:
        dimensions = [learn(memory, key, n_bytes=100 * KIB) for key in range(3)]
        with memory.allocate(600 * KIB):
            assert used(memory) <= MIB
        for key, dimension in enumerate(dimensions):
            check(memory, dimension, key, n_bytes=100 * KIB)


def test_evictable_regions_go_before_protos_are_written(tmp_path):
    """Also where blocks are refused below the limit of the budget."""
    World(tmp_path).write(20, n_layers=1, n_bytes=700 * KIB)
    with manager(tmp_path, 1) as memory:
        dimension = learn(memory, 1, 1, 50_000)
        view = memory.load_dimension(20).layer(0)
        del view
        with memory.allocate(200 * KIB):
            assert check(memory, dimension, 1, 1, 50_000) == "pool"
        assert memory.get_stats().evictions == 1
        assert files_in(tmp_path) == ["D20", "D20/region.mmap"]


def test_disk_full_when_room_is_needed_loses_nothing(tmp_path, inject):
    with manager(tmp_path, 1) as memory:
        dimensions = [learn(memory, key, 1, 150 * KIB) for key in range(3)]
        before = used(memory)
        fault = OSError(errno.ENOSPC, "No space left on device")
        with inject(fault, "os.write"), pytest.raises(jm.LimitExceeded) as failed:
            learn(memory, 3, 1, 150 * KIB)
        assert "no room could be made: [Errno 28]" in failed.value.hint
        assert failed.value.__cause__.errno == errno.ENOSPC
        assert used(memory) == before
        assert [check(memory, dimension, key, 1, 150 * KIB) for key, dimension in enumerate(dimensions)] == ["pool"] * 3
        assert files_in(tmp_path) == []
        last = learn(memory, 3, 1, 150 * KIB)
        for key, dimension in enumerate([*dimensions, last]):
            check(memory, dimension, key, 1, 150 * KIB)


def test_proto_that_cannot_be_written_does_not_stop_the_next(tmp_path, caplog):
    with manager(tmp_path, 1, on_close="drop") as memory:
        dimensions = [learn(memory, key, 1, 150 * KIB) for key in range(3)]
        path = World(tmp_path).write(dimensions[0])
        before = path.read_bytes()
        for key in range(3, 8):
            dimensions.append(learn(memory, key, 1, 150 * KIB))
        assert check(memory, dimensions[0], 0, 1, 150 * KIB) == "pool"
        for key, dimension in enumerate(dimensions):
            check(memory, dimension, key, 1, 150 * KIB)
        assert path.read_bytes() == before
    assert "stays in the pool" in caplog.text


def test_held_views_make_full_an_error_and_no_endless_loop(tmp_path):
    with manager(tmp_path, 1) as memory:
        dimensions = [learn(memory, key, 1, 150 * KIB) for key in range(3)]
        views = [memory.access_layer((dimension, 0)) for dimension in dimensions]
        with pytest.raises(jm.LimitExceeded) as refused:
            learn(memory, 4, 1, 400 * KIB)
        assert "D15" in str(refused.value)
        for key, view in enumerate(views):
            assert bytes(view) == content_of(key, 0, n_bytes=150 * KIB)
        del view, views
        del refused
        learn(memory, 4, 1, 400 * KIB)
        for key, dimension in enumerate(dimensions):
            check(memory, dimension, key, 1, 150 * KIB)


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_full_leaves_alone_what_is_held_and_would_free_nothing(tmp_path, on_full):
    with manager(tmp_path, 1, on_full=on_full) as memory:
        held, loose = (learn(memory, key, 1, 150 * KIB) for key in range(2))
        view = memory.access_layer((held, 0))
        with memory.allocate(400 * KIB):
            stats = memory.get_stats()
            assert stats.drops + stats.crystallization_count == 1
            assert memory.region(held).source == "pool"
            assert memory.layers(loose) == ([(loose, 0)] if on_full == "crystallize" else [])
        assert bytes(view) == content_of(0, 0, n_bytes=150 * KIB)


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_full_counts_decompressed_layers_as_room(tmp_path):
    with manager(tmp_path, 1) as memory:
        dimension = memory.create_proto_dimension("Packed", [jm.LayerSpec(content=bytes(200 * KIB), compress=True)])
        memory.access_layer((dimension, 0))
        assert memory.get_stats().pool.used_bytes == (4 + 256) * KIB
        with memory.allocate(600 * KIB) as block:
            stats = memory.get_stats()
            assert (stats.crystallization_count, stats.pool.used_bytes) == (1, block.capacity)


class Announced:
    """A lock that tells when somebody comes to take it."""

    def __init__(self, lock):
        self.lock, self.reached = lock, threading.Event()

    def __enter__(self):
        self.reached.set()
        self.lock.acquire()

    def __exit__(self, *exc_info):
        self.lock.release()


@pytest.mark.parametrize("on_full", ["crystallize", "drop"])
def test_room_that_others_made_meanwhile_is_taken(tmp_path, on_full):
    with manager(tmp_path, 1, on_full=on_full) as memory, ThreadPoolExecutor(1) as threads:
        block = memory.allocate(700 * KIB)
        protos = memory._learner.protos  # private: nothing else tells that a thread has come to wait for the lock
        with protos.lock:
            protos.lock = announced = Announced(protos.lock)
            future = threads.submit(learn, memory, 1, 1, 500 * KIB)
            assert announced.reached.wait(HUNG_S)
            block.free()
        assert check(memory, future.result(HUNG_S), 1, 1, 500 * KIB) == "pool"


def test_ten_times_the_budget_is_written_by_four_threads(tmp_path):
    n_bytes = 50_000

    def write(number):
        for key in range(number, 400, 4):
            layer = jm.LayerSpec(content=plenty(key, n_bytes), keywords=(f"w{key}",))
            made[key] = memory.create_proto_dimension(f"Part {key}", [layer])

    made = {}
    with manager(tmp_path, 2) as memory, ThreadPoolExecutor(4) as threads:
        for _ in threads.map(write, range(4)):
            pass
        check_ten_times(memory, [made[key] for key in range(400)], n_bytes)


def test_crystallizing_evicts_nobody_that_had_room(tmp_path):
    """While it is published the block and the mapping are charged; when pressure is looked at, only the mapping."""
    World(tmp_path).write(20, n_layers=1, n_bytes=300 * KIB)
    with manager(tmp_path, 1) as memory:
        memory.load_dimension(20)
        dimension = learn(memory, 1, 1, 250 * KIB)
        memory.crystallize(dimension)
        stats = memory.get_stats()
        assert (stats.active_regions, stats.evictions) == (2, 0)


# Restarting -------------------------------------------------------------------------------------------------------


def test_restart_finds_everything_that_was_crystallized(tmp_path):
    with manager(tmp_path, on_close="drop") as memory:
        dimensions = {key: learn(memory, key, user=key % 2 == 1) for key in range(8)}
        for key, dimension in dimensions.items():
            if key < 6:
                memory.crystallize(dimension)
        memory.append_layer(dimensions[6], spec(60, 2))
        memory.crystallize(dimensions[6])
        generations = {dimension: memory.region(dimension).generation for dimension in dimensions.values()}
    with manager(tmp_path) as memory:
        report = memory.load_all()
        assert sorted(report.loaded) == sorted(dimension for key, dimension in dimensions.items() if key < 7)
        assert memory.user_dimensions() == [dimensions[1], dimensions[3], dimensions[5]]
        for key, dimension in dimensions.items():
            if key == 7:
                continue
            region = memory.region(dimension)
            assert region.name.startswith(f"Learned {key}.")
            assert region.generation == generations[dimension]
            assert check(memory, dimension, key) == "mmap"
            assert memory.layers(keyword=f"word{key}") == [(dimension, 0), (dimension, 1)]
            assert region.verify() == []
        assert bytes(memory.access_layer((dimensions[6], 2))) == content_of(60, 2)


@pytest.mark.parametrize("name", ["x" * 64, "ß" * 32, "\N{GRINNING FACE}" * 16, "a\0b", " "])
def test_restart_finds_the_whole_name(tmp_path, name):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension(name, [spec(1)])
        assert memory.region(dimension).name == name
        memory.crystallize(dimension)
    with manager(tmp_path) as memory:
        assert memory.load_dimension(dimension).name == name


def test_proto_dimension_without_a_layer_is_no_file_yet(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.create_proto_dimension("empty")
        with pytest.raises(jm.RegionNotFound, match="no layer yet"):
            memory.crystallize(dimension)
        memory.append_layer(dimension, spec(1))
        assert memory.crystallize(dimension).exists()


def test_name_without_a_layer_has_nothing_to_compact_or_change(tmp_path):
    with manager(tmp_path) as memory:
        dimension = memory.ensure_dimension("empty")
        with pytest.raises(jm.RegionNotFound, match="no layer yet"):
            memory.compact(dimension)
        for change in (
            lambda: memory.update_layer((dimension, 0), spec(1)),
            lambda: memory.remove_layer((dimension, 0)),
        ):
            with pytest.raises(jm.LayerNotFound, match="no layer yet"):
                change()
        assert memory.append_layer(dimension, spec(1)) == (dimension, 0)


def test_name_that_was_there_stays_when_its_first_layer_fails(tmp_path, inject):
    with manager(tmp_path) as memory:
        dimension = memory.ensure_dimension("empty")
        with inject(OSError(errno.ENOSPC, "No space left on device"), "os.write"), pytest.raises(jm.MappingError):
            memory.ensure_dimension("empty", [spec(1)])
        assert memory.find("empty") == dimension
        assert memory.ensure_dimension("empty", [spec(1)]) == dimension
        assert memory.layers(dimension) == [(dimension, 0)]


def test_what_lies_in_the_way_and_cannot_go_is_named(tmp_path):
    """A delta of its name would lie on the new base; nothing is published as long as it is there."""
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        leftover = tmp_path / f"D{dimension}" / "delta-0000000000000005.mmap"
        leftover.mkdir(parents=True)
        with pytest.raises(jm.MappingError, match="directory") as told:
            memory.crystallize(dimension)
        assert told.value.filename == str(leftover)
        assert check(memory, dimension) == "pool"
        leftover.rmdir()
        memory.crystallize(dimension)
        assert check(memory, dimension) == "mmap"


@pytest.mark.parametrize("follow", ["auto", "never"])
def test_base_folder_that_is_removed_is_made_again(tmp_path, follow):
    """Who follows lets go of what was in it as soon as it looks, which a reader does by the clock; others read on."""
    base = tmp_path / "base"
    with manager(base, follow=follow) as memory:
        dimensions = [learn(memory, key) for key in range(2)]
        memory.crystallize(dimensions[0])
        shutil.rmtree(base)
        if follow == "never":
            assert check(memory, dimensions[0], 0) == "mmap"
        else:
            assert memory.refresh().removed == [dimensions[0]]
            with pytest.raises(jm.LayerNotFound):
                memory.access_layer((dimensions[0], 0))
        memory.crystallize(dimensions[1])
        assert learn(memory, 2) == 17
        assert check(memory, dimensions[1], 1) == "mmap"
        assert files_in(base) == ["D16", "D16/region.mmap"]


# Many at once -----------------------------------------------------------------------------------------------------


def test_changes_of_one_dimension_from_many_threads_keep_it_whole(tmp_path):
    """Four threads append, update, crystallize and forget the same few dimensions; whatever remains is sound."""
    with manager(tmp_path, 4) as memory:
        dimensions = [learn(memory, key, 1, n_bytes=20_000) for key in range(12)]

        def append():
            for dimension in dimensions:
                memory.append_layer(dimension, spec(dimension, 1, 20_000))

        def update():
            for dimension in dimensions:
                memory.update_layer((dimension, 0), spec(dimension, 0, 20_000))

        def crystallize():
            for dimension in reversed(dimensions):
                memory.crystallize(dimension)

        def forget():
            for dimension in dimensions[::3]:
                memory.forget(dimension)

        def patiently(work):
            try:
                work()
            except (jm.RegionNotFound, jm.LayerNotFound):
                return False
            return True

        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(patiently, work) for work in (append, update, crystallize, forget)]
            for future in futures:
                future.result(HUNG_S)
        for dimension in dimensions:
            try:
                region = memory.region(dimension)
            except jm.RegionNotFound:
                assert dimension in dimensions[::3]
                continue
            assert region.verify() == []
            for layer in region.layers():
                key = dimensions.index(dimension)
                content = bytes(memory.access_layer(layer))
                assert content in {content_of(each, layer.layer, n_bytes=20_000) for each in (key, dimension)}
        del region
        gc.collect()
        check_states(memory.get_stats())
        left = {f"D{dimension}" for dimension in dimensions}
        assert {name.split("/")[0] for name in files_in(tmp_path)} <= left
        assert not [name for name in files_in(tmp_path) if name.endswith(".tmp")]
