"""MmapManager: each method, each error, and numbers that are computed again from outside."""

import contextlib
import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from decimal import Decimal
from itertools import count

import numpy as np
import pytest
from inside import evict
from world import (
    IMMUTABLE,
    MIB,
    PLANNED,
    World,
    check_reading,
    check_states,
    content_of,
    evicted_dimensions,
    generation_of,
    manager,
)

import jessy_mem as jm
from helpers import HUNG_S, Holdings, Layer, extended_file, mapped_regions, plain_file, run_threads
from jessy_mem import compression

needs_zstd = pytest.mark.skipif(not compression.is_available(), reason="zstd is not installed")

ALL_METHODS = {
    "load_dimension": lambda m: m.load_dimension(1),
    "load_all": lambda m: m.load_all(),
    "unload_dimension": lambda m: m.unload_dimension(1),
    "reload_dimension": lambda m: m.reload_dimension(1),
    "access_layer": lambda m: m.access_layer((1, 0)),
    "load_context": lambda m: m.load_context((1, 0)),
    "load_contexts": lambda m: m.load_contexts([]),
    "read_many": lambda m: m.read_many([]),
    "layers": lambda m: m.layers(),
    "region": lambda m: m.region(1),
    "allocate": lambda m: m.allocate(10),
    "create_proto_dimension": lambda m: m.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")]),
    "crystallize": lambda m: m.crystallize(15),
    "append_layer": lambda m: m.append_layer(15, jm.LayerSpec(text="a joke")),
    "update_layer": lambda m: m.update_layer((15, 0), jm.LayerSpec(text="a joke")),
    "forget": lambda m: m.forget(15),
    "user_dimensions": lambda m: m.user_dimensions(),
    "leases": lambda m: m.leases(),
    "resolve": lambda m: m.resolve(0),
    "address_of": lambda m: m.address_of((1, 0)),
    "on_pressure": lambda m: m.on_pressure(print),
    "__enter__": lambda m: m.__enter__(),
}


@pytest.fixture
def memory(world):
    """A manager with D01 to D03 loaded."""
    world.write_all(1, 2, 3)
    with manager(world) as memory:
        for dimension in (1, 2, 3):
            memory.load_dimension(dimension)
        yield memory


def raises(error, message, call, *args, **attributes):
    """Check that `call` raises `error`, that its text matches `message` unless that is None, and its attributes."""
    with pytest.raises(error, match=message) as caught:
        call(*args)
    assert {name: getattr(caught.value, name) for name in attributes} == attributes
    return caught.value


def test_raises_notices_wrong_text_and_wrong_attributes():
    def fail():
        raise jm.RegionNotFound(7)

    raises(jm.RegionNotFound, "D07", fail, dimension=7)
    with pytest.raises(AssertionError):
        raises(jm.RegionNotFound, "D08", fail)
    with pytest.raises(AssertionError):
        raises(jm.RegionNotFound, "D07", fail, dimension=8)


# Loading -----------------------------------------------------------------------------------------------------------


def test_load_returns_the_region_and_reads_what_the_file_holds(world):
    path = world.write(1)
    with manager(world) as memory:
        region = memory.load_dimension(1)
        assert (region.dimension_id, region.path, region.n_layers, region.generation) == (1, path, 4, 1)
        assert (region.size, region.source, region.immutable) == (path.stat().st_size, "mmap", False)
        assert memory.region(1) is region
        check_reading(memory, 1)


def test_check_reading_notices_other_content(world):
    world.write(1, generation=2)
    with manager(world) as memory:
        memory.load_dimension(1)
        check_reading(memory, 1, generation=2)
        with pytest.raises(AssertionError):
            check_reading(memory, 1, generation=1)
        with pytest.raises(AssertionError):
            check_reading(memory, 1, generation=2, n_bytes=999)


def test_generation_of_notices_a_mixture():
    assert generation_of(content_of(3, 1, 7)) == 7
    mixed = content_of(3, 1, 7)[:512] + content_of(3, 1, 8)[512:]
    with pytest.raises(ValueError, match="mixture"):
        generation_of(mixed)


def test_load_of_a_missing_dimension_names_its_path(world):
    with manager(world) as memory:
        path = str(world.path(5))
        raises(jm.DimensionNotFound, "D05.*region.mmap", memory.load_dimension, 5, dimension=5, path=path)
        raises(FileNotFoundError, "D05", memory.load_dimension, 5, errno=errno.ENOENT, filename=path)
        check_states(memory.get_stats())
        assert memory.get_stats().total_allocated_bytes == 0


def test_load_twice_is_refused(memory, world):
    raises(jm.DimensionAlreadyLoaded, r"reload_dimension\(1\)", memory.load_dimension, 1, dimension=1)
    raises(jm.DimensionAlreadyLoaded, "D01", memory.load_dimension, 1, world.path(2))
    check_reading(memory, 1)


def test_load_from_an_explicit_path(world, tmp_path):
    elsewhere = world.write(1).rename(tmp_path / "elsewhere.mmap")
    with manager(world) as memory:
        assert memory.load_dimension(1, str(elsewhere)).path == elsewhere
        memory.unload_dimension(1)
        assert memory.load_dimension(1, elsewhere).path == elsewhere
        check_reading(memory, 1)
        assert memory.reload_dimension(1) == (1, 1)
        memory.unload_dimension(1)
        raises(jm.DimensionNotFound, "D01", memory.load_dimension, 1, path=str(world.path(1)))


def test_load_of_what_may_be_loaded_gives_it(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        region = memory.load_dimension(np.int64(1), exist_ok=True)
        view = memory.access_layer((1, 0))
        world.write(1, generation=2)
        assert memory.load_dimension(1, exist_ok=True) is region, "reload_dimension takes a new file"
        assert memory.access_layer((1, 0)) is view
        assert memory.get_stats().load_count == 1
        del region, view
        evict(memory)
        assert memory.load_dimension(1, exist_ok=True).generation == 2
        memory.unload_dimension(1)
        assert memory.load_dimension(1, exist_ok=True).generation == 2
        assert memory.get_stats().load_count == 2


def test_load_of_what_may_be_loaded_from_a_path(world, tmp_path):
    path = world.write(1)
    other = tmp_path / "other.mmap"
    other.write_bytes(path.read_bytes())
    (tmp_path / "link.mmap").symlink_to(other)

    with manager(world) as memory:

        def load(name):
            return memory.load_dimension(1, name, exist_ok=True)

        region = load(other)
        for same in (str(other), os.fsencode(other), os.path.relpath(other), tmp_path / "link.mmap", None):
            assert load(same) is region
        for name in (path, tmp_path / "no such file"):
            raises(jm.DimensionAlreadyLoaded, "other.mmap; unload", load, name, loaded_from=str(other))
        del region
        evict(memory)
        assert load(other).path == other
        memory.unload_dimension(1)
        assert load(os.fsencode(path)).path == path
        memory.unload_dimension(1)
        with pytest.raises(jm.DimensionNotFound):
            load(tmp_path / "no such file")


@pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
def test_load_of_what_may_be_simulated(world):
    with manager(world, simulation="auto") as memory:
        region = memory.load_dimension(1, exist_ok=True)
        assert region.source == "simulated"
        assert memory.load_dimension(1, exist_ok=True) is region
        with pytest.raises(jm.DimensionAlreadyLoaded, match="from simulated"):
            memory.load_dimension(1, world.path(1), exist_ok=True)
        path = world.write(1)
        assert memory.load_dimension(1, path, exist_ok=True).source == "mmap", "the file has appeared"
        check_reading(memory, 1)


def test_load_of_what_may_be_learned(world, tmp_path):
    with manager(world) as memory:
        humor = memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
        assert memory.load_dimension(humor, exist_ok=True).source == "pool"
        with pytest.raises(jm.DimensionAlreadyLoaded, match="from pool"):
            memory.load_dimension(humor, tmp_path / "x", exist_ok=True)
        path = memory.crystallize(humor)
        assert memory.load_dimension(humor, path, exist_ok=True).layer(0).text == "a joke"
        memory.forget(humor)
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(humor, exist_ok=True)


def test_load_of_what_other_threads_load_and_unload(world):
    world.write_all(1)
    with manager(world) as memory:

        def load():
            for _ in range(200):
                assert memory.load_dimension(1, exist_ok=True).layer(0).n_bytes

        def unload():
            for _ in range(200):
                with contextlib.suppress(jm.RegionNotFound):
                    memory.unload_dimension(1)

        run_threads([load, load, unload])


def test_an_explicit_path_that_is_missing_is_never_simulated(world, tmp_path):
    with manager(world, simulation="auto") as memory:
        missing = tmp_path / "nothing.mmap"
        raises(jm.DimensionNotFound, "nothing.mmap", memory.load_dimension, 1, missing, path=str(missing))
        world.write(1)
        assert memory.load_dimension(1).source == "mmap"


def test_load_of_a_file_of_another_dimension_is_refused(world):
    with manager(world) as memory:
        path = world.write(2)
        error = raises(jm.InvalidRegion, "dimension_id", memory.load_dimension, 1, path, field="dimension_id")
        assert error.path == str(path)
        assert memory.get_stats().total_allocated_bytes == 0
        assert memory.load_dimension(2).n_layers == 4


@pytest.mark.parametrize("dimension", [0, -1, 2**32, "1", None, 1.0, (1, 0)])
def test_load_of_what_is_no_dimension(world, dimension):
    with manager(world) as memory:
        with pytest.raises((TypeError, ValueError), match=r"dimension|layer id"):
            memory.load_dimension(dimension)
        assert memory.layers() == []


def test_load_of_an_unhashable_dimension(world):
    with manager(world) as memory, pytest.raises(TypeError):
        memory.load_dimension([1])


@pytest.mark.parametrize(
    ("dimension", "slot_mb"), [(1, 16), (4, 8), (7, 12), (9, 12), (14, 4), (15, 80), (999, 80), (1000, 32), (10**6, 32)]
)
def test_a_file_larger_than_its_slot_is_refused(world, dimension, slot_mb):
    with manager(world) as memory:
        world.write_sparse(dimension, slot_mb * MIB + 1)
        raises(
            jm.LimitExceeded, "slot", memory.load_dimension, dimension,
            limit_bytes=slot_mb * MIB, requested_bytes=slot_mb * MIB + 1,
        )  # fmt: skip
        assert memory.get_stats().total_allocated_bytes == 0
        world.write_sparse(dimension, slot_mb * MIB)
        assert memory.load_dimension(dimension).size == slot_mb * MIB
        assert memory.access_layer((dimension, 0)).text == f"the end of {dimension}"


def test_the_whole_plan_fits_and_not_a_byte_more(world):
    """280 MB in all segments: 148 of the 14 slots in core's 168, and reserve and user to the brim."""
    slots = {dimension: planned.size_bytes for dimension, planned in jm.default_layout().dimensions.items()}
    dynamic = dict.fromkeys(range(15, 23), 10 * MIB) | dict.fromkeys(range(1000, 1004), 8 * MIB)
    for dimension, n_bytes in (slots | dynamic).items():
        world.write_sparse(dimension, n_bytes)
    for dimension in (23, 1004):
        world.write_sparse(dimension, 4096)
    with manager(world) as memory:
        held = [memory.load_dimension(dimension) for dimension in slots | dynamic]
        stats = memory.get_stats()
        check_states(stats)
        assert {name: segment.used_bytes // MIB for name, segment in stats.segments.items()} == {
            "core": 148, "reserve": 80, "user": 32,
        }  # fmt: skip
        assert stats.dimensions_loaded == stats.active_regions == len(held) == 26
        assert stats.evictions == 0
        for dimension, segment in ((23, "reserve"), (1004, "user")):
            error = raises(
                jm.LimitExceeded, segment, memory.load_dimension, dimension,
                segment=segment, requested_bytes=4096,
            )  # fmt: skip
            assert error.current_bytes == error.limit_bytes == stats.segments[segment].limit_bytes
            n_held = {"reserve": 8, "user": 4}[segment]
            assert len(error.holders) == min(n_held, 5)
            assert all("generation 0" in holder for holder in error.holders), "of that segment, largest first"
        assert memory.get_stats().total_allocated_bytes == 260 * MIB


def test_a_refusal_names_the_segment_and_its_five_largest_holders(world):
    """Only of the segment that is full; what is large elsewhere is no help there."""
    user = {1000 + i: n_mb * MIB for i, n_mb in enumerate((2, 7, 3, 6, 1, 8, 5))}
    world.write_sparse(1, 16 * MIB)
    for dimension, n_bytes in user.items():
        world.write_sparse(dimension, n_bytes)
    world.write_sparse(1007, 4097)
    with manager(world) as memory:
        held = [memory.access_layer((memory.load_dimension(each).dimension_id, 0)) for each in (1, *user)]
        error = raises(
            jm.LimitExceeded, "user", memory.load_dimension, 1007,
            segment="user", current_bytes=32 * MIB, limit_bytes=32 * MIB, requested_bytes=4097,
        )  # fmt: skip
        assert len(held) == 8
        largest = sorted(user, key=user.__getitem__, reverse=True)[:5]
        assert [holder.partition(" ")[0] for holder in error.holders] == [f"D{each}" for each in largest]
        assert all(holder in str(error) for holder in error.holders)


def test_the_total_binds_before_the_segments(world):
    world.write_all(1, 2, 3, n_bytes=100_000)
    size = world.path(1).stat().st_size
    with manager(world, total_memory_mb=2.5 * size / MIB) as memory:
        held = [memory.load_dimension(1), memory.load_dimension(2)]
        error = raises(jm.LimitExceeded, "total", memory.load_dimension, 3, segment="total", requested_bytes=size)
        assert (error.current_bytes, error.limit_bytes) == (2 * size, int(2.5 * size / MIB * MIB))
        assert [holder[:3] for holder in error.holders] == ["D01", "D02"]
        check_states(memory.get_stats())
        held.clear()
        assert memory.load_dimension(3).dimension_id == 3


def test_a_larger_total_scales_the_segments(world):
    with manager(world, total_memory_mb=560) as memory:
        segments = memory.get_stats().segments
        assert {name: segment.limit_bytes // MIB for name, segment in segments.items()} == {
            "core": 336, "reserve": 160, "user": 64,
        }  # fmt: skip


DAMAGE = {
    "empty": (lambda data: b"", jm.RegionTruncated),
    "shorter than a header": (lambda data: data[:100], jm.RegionTruncated),
    "truncated": (lambda data: data[:-1], jm.RegionTruncated),
    "longer": (lambda data: data + b"\0", jm.InvalidRegion),
    "magic": (lambda data: data[:84] + b"?" + data[85:], jm.InvalidRegion),
    "metadata": (lambda data: data[:258] + bytes([data[258] ^ 1]) + data[259:], jm.ChecksumMismatch),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_typed_errors_and_leave_nothing(world, damage):
    change, kind = DAMAGE[damage]
    good = world.write(1).read_bytes()
    world.publish(1, change(good))
    before = Holdings()
    with manager(world) as memory:
        error = raises(kind, re.escape(str(world.path(1))), memory.load_dimension, 1)
        assert error.found != error.expected
        before.assert_nothing_new()
        stats = memory.get_stats()
        assert (stats.total_allocated_bytes, stats.dimensions_loaded, stats.load_count) == (0, 0, 0)
        world.publish(1, good)
        memory.load_dimension(1)
        check_reading(memory, 1)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda path: path.mkdir(parents=True), errno.EISDIR),
        (lambda path: (path.parent.mkdir(parents=True), os.mkfifo(path)), errno.EINVAL),
        (lambda path: (path.parent.mkdir(parents=True), path.symlink_to(path)), errno.ELOOP),
        (lambda path: (path.parent.parent.mkdir(parents=True), path.parent.write_bytes(b"")), errno.ENOTDIR),
    ],
    ids=["directory", "fifo", "link to itself", "folder is a file"],
)
def test_what_is_no_file_is_a_mapping_error(world, make, number):
    make(world.path(1))
    with manager(world) as memory:
        raises(
            jm.errors.MappingError, "region.mmap", memory.load_dimension, 1,
            errno=number, filename=str(world.path(1)),
        )  # fmt: skip
        with pytest.raises(OSError, match=r"region\.mmap"):
            memory.load_dimension(1)


def test_verify_modes(world):
    world.write_all(1, 2)
    world.damage(1)
    with manager(world, verify="lazy") as memory:
        memory.load_dimension(1)
        assert bytes(memory.access_layer((1, 2))) == content_of(1, 2)
        for _ in range(2):
            raises(jm.ChecksumMismatch, "layer 3", memory.access_layer, (1, 3), layer=3)
        assert [error.layer for error in memory.region(1).verify()] == [3]
    with manager(world, verify="open") as memory:
        raises(jm.ChecksumMismatch, "layer 3", memory.load_dimension, 1, layer=3)
        assert memory.get_stats().total_allocated_bytes == 0
        memory.load_dimension(2)
    with manager(world, verify="never") as memory:
        memory.load_dimension(1)
        assert bytes(memory.access_layer((1, 3)))[:-1] == content_of(1, 3)[:-1]


# load_all ----------------------------------------------------------------------------------------------------------


def test_load_all_skips_what_is_missing_or_damaged(world, caplog):
    good = [1, 2, 4, 5, 9, 12, 14, 15, 999, 1000, 123456]
    world.write_all(*good, 3, 6, 7)
    world.publish(3, b"")
    world.damage(6, offset=258)
    world.publish(7, world.path(1).read_bytes())
    world.path(8).mkdir(parents=True)
    (world.base / "D16").mkdir()
    for name in ("D015", "D00", "D1x", "d17", "E01", "D", "D²", "D99999999999", "D" + "9" * 200):
        (world.base / name).mkdir()
    with manager(world) as memory:
        report = memory.load_all()
        assert (report.loaded, report.simulated) == (good, [])
        kinds = {dimension: type(error) for dimension, error in report.skipped.items()}
        assert kinds == dict.fromkeys([10, 11, 13, 16], jm.DimensionNotFound) | {
            3: jm.RegionTruncated, 6: jm.ChecksumMismatch, 7: jm.InvalidRegion, 8: jm.errors.MappingError,
        }  # fmt: skip
        for dimension in good:
            check_reading(memory, dimension)
        assert str(report).splitlines()[0] == "11 loaded, 0 simulated, 8 skipped"
        for dimension, error in report.skipped.items():
            lines = [record.getMessage() for record in caplog.records if str(error) in record.getMessage()]
            assert len(lines) == 1, dimension
            assert f"D{dimension:02d}" in lines[0]


def test_load_all_again_keeps_what_is_loaded_and_takes_what_is_new(world):
    world.write_all(1, 3)
    with manager(world) as memory:
        assert memory.load_all().loaded == [1, 3]
        region, view = memory.region(1), memory.access_layer((1, 0))
        world.write(2)
        world.write(1, generation=2)
        assert memory.load_all().loaded == [1, 2, 3]
        assert memory.region(1) is region
        assert memory.access_layer((1, 0)) is view
        assert memory.get_stats().load_count == 3


def test_load_all_does_not_map_again_what_it_evicted(world):
    """A file that takes the place of a simulated dimension, and has to go again at once, stays evicted."""
    with manager(world, total_memory_mb=1, simulation="auto") as memory:
        with pytest.warns(UserWarning, match="simulated"):
            memory.load_all()
        world.write_sparse(13, 900 << 10)
        report = memory.load_all()
        assert (13 in report.loaded, report.skipped) == (True, {})
        stats = memory.get_stats()
        check_states(stats)
        assert stats.pressure == "ok"
        assert 13 not in stats.simulated_dimensions
        assert memory.access_layer((13, 0)).text == "the end of 13"


def test_load_all_without_a_base_folder(tmp_path):
    with manager(tmp_path / "nothing") as memory:
        report = memory.load_all()
        assert (report.loaded, report.simulated) == ([], [])
        assert list(report.skipped) == list(PLANNED)


def test_load_all_from_many_threads_skips_nothing(world):
    world.write_all(*PLANNED)
    with manager(world) as memory:
        start = threading.Barrier(4)
        reports = []

        def load():
            start.wait()
            reports.append(memory.load_all())

        run_threads([load] * 4)
        assert [report.loaded for report in reports] == [list(PLANNED)] * 4
        assert [report.skipped for report in reports] == [{}] * 4
        assert memory.get_stats().load_count == 14


# Simulation --------------------------------------------------------------------------------------------------------


def test_missing_dimensions_of_the_plan_are_simulated_and_say_so(world, caplog):
    world.write(2)
    with manager(world, simulation="auto") as memory:
        with pytest.warns(UserWarning, match="D01 is simulated"):
            assert memory.load_dimension(1).source == "simulated"
        with pytest.warns(UserWarning, match="are simulated") as warned:
            report = memory.load_all()
        others = [dimension for dimension in PLANNED if dimension not in (1, 2)]
        assert len(warned) == 1
        assert len(re.findall(r"D\d\d,|D14", str(warned[0].message))) == len(others) == 12
        assert (report.loaded, report.simulated, report.skipped) == ([2], [1, *others], {})
        assert memory.access_layer((1, 0)).source == "simulated"
        stats = memory.get_stats()
        assert stats.simulation_mode
        assert stats.simulated_dimensions == (1, *others)
        check_states(stats)
        assert sum("simulated" in record.getMessage() for record in caplog.records) == 2
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(15)


@pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
def test_a_file_that_appears_takes_the_place_of_the_simulated_one(world):
    with manager(world, simulation="auto") as memory:
        memory.load_all()
        old = memory.access_layer((1, 0))
        world.write_all(1, 2, 9)
        report = memory.load_all()
        assert report.loaded == [1, 2, 9]
        assert memory.get_stats().simulated_dimensions == tuple(d for d in PLANNED if d not in (1, 2, 9))
        for dimension in (1, 2, 9):
            check_reading(memory, dimension)
        assert old.source == "simulated"
        assert old.text


def test_always_simulates_what_has_a_file(world):
    world.write_all(1, 15)
    with manager(world, simulation="always") as memory:
        assert memory.load_dimension(1).source == "simulated"
        assert memory.load_dimension(15).source == "mmap"
        assert memory.load_all().loaded == [15]
        memory.unload_dimension(1)
        assert memory.load_dimension(1, world.path(1)).source == "mmap"


def test_a_file_that_is_gone_does_not_make_its_dimension_simulated(world):
    """What was read from a file does not turn into invented text behind the reader's back."""
    world.write(1)
    with manager(world, simulation="auto") as memory:
        memory.load_dimension(1)
        world.path(1).unlink()
        raises(jm.DimensionNotFound, "D01", memory.reload_dimension, 1)
        check_reading(memory, 1)
        assert not memory.get_stats().simulation_mode


# Unloading and reloading -------------------------------------------------------------------------------------------


def test_unload_forgets_the_dimension(memory):
    view = memory.access_layer((2, 1))
    assert memory.layers(2)
    memory.unload_dimension(2)
    raises(jm.RegionNotFound, r"load_dimension\(2\)", memory.region, 2, dimension=2)
    raises(jm.RegionNotFound, "D02", memory.unload_dimension, 2, dimension=2)
    raises(jm.LayerNotFound, r"load_dimension\(2\)", memory.access_layer, (2, 1), dimension=2, layer=1)
    assert memory.layers(2) == []
    assert bytes(view) == content_of(2, 1)
    stats = memory.get_stats()
    assert (stats.dimensions_loaded, stats.leased_bytes) == (2, stats.total_allocated_bytes // 3)
    memory.load_dimension(2)
    check_reading(memory, 2)
    assert memory.access_layer((2, 1)) is not view


def test_reload_swaps_generations(memory, world):
    region, view = memory.region(1), memory.access_layer((1, 0))
    world.write(1, n_layers=6, generation=7)
    assert memory.reload_dimension(1) == (1, 7)
    check_reading(memory, 1, generation=7, n_layers=6)
    assert memory.layers(1) == [(1, layer) for layer in range(6)]
    assert memory.region(1) is not region
    assert bytes(view) == content_of(1, 0, 1)
    assert (region.generation, bytes(region.layer(3))) == (1, content_of(1, 3, 1))
    stats = memory.get_stats()
    assert stats.load_count == stats.load_latency.count == 4
    check_states(stats)


def test_reload_of_what_is_not_loaded(memory, world):
    world.write(4)
    raises(jm.RegionNotFound, r"load_dimension\(4\)", memory.reload_dimension, 4, dimension=4)
    raises(jm.RegionNotFound, "D-1", memory.reload_dimension, -1)


def same_table(memory, before, view):
    """Whether `memory` is what it was when `before` was taken: the same charges, the same view."""
    now = memory.get_stats()
    unchanged = ("total_allocated_bytes", "dimensions_loaded", "layers_loaded", "load_count", "evictions", "segments")
    changed = {
        name: (getattr(before, name), getattr(now, name))
        for name in unchanged[:-1]
        if getattr(before, name) != getattr(now, name)
    }
    segments = {name: (segment.used_bytes, now.segments[name].used_bytes) for name, segment in before.segments.items()}
    assert not changed
    assert all(old == new for old, new in segments.values()), segments
    assert memory.access_layer(view.id) is view


def test_same_table_notices_changes(memory):
    before, view = memory.get_stats(), memory.access_layer((1, 0))
    same_table(memory, before, view)
    memory.unload_dimension(3)
    with pytest.raises(AssertionError):
        same_table(memory, before, view)
    before = memory.get_stats()
    memory.reload_dimension(1)
    with pytest.raises(AssertionError):
        same_table(memory, before, view)


def replace_by_nothing(world):
    world.path(1).unlink()


RELOAD_ERRORS = {
    "missing": (replace_by_nothing, jm.DimensionNotFound),
    "truncated": (lambda world: world.publish(1, world.path(1).read_bytes()[:-1]), jm.RegionTruncated),
    "damaged": (lambda world: world.damage(1, 258), jm.ChecksumMismatch),
    "another dimension": (lambda world: world.publish(1, world.path(2).read_bytes()), jm.InvalidRegion),
    "a directory": (lambda world: (world.path(1).unlink(), world.path(1).mkdir()), jm.errors.MappingError),
    "too large": (lambda world: world.write_sparse(1, 16 * MIB + 1), jm.LimitExceeded),
}


@pytest.mark.parametrize("circumstance", RELOAD_ERRORS)
def test_after_an_error_of_reload_the_old_generation_stays(memory, world, circumstance):
    change, kind = RELOAD_ERRORS[circumstance]
    view, before = memory.access_layer((1, 0)), memory.get_stats()
    change(world)
    raises(kind, "D01|region.mmap|slot", memory.reload_dimension, 1)
    same_table(memory, before, view)
    check_reading(memory, 1)
    if world.path(1).is_dir():
        world.path(1).rmdir()
    world.write(1, generation=2)
    assert memory.reload_dimension(1) == (1, 2)
    check_reading(memory, 1, generation=2)


def test_reload_with_verify_open_refuses_damaged_content(world):
    world.write(1)
    with manager(world, verify="open") as memory:
        memory.load_dimension(1)
        view, before = memory.access_layer((1, 0)), memory.get_stats()
        world.write(1, generation=2)
        world.damage(1)
        raises(jm.ChecksumMismatch, "layer 3", memory.reload_dimension, 1)
        same_table(memory, before, view)


def test_reload_that_does_not_fit_beside_the_old_one_is_refused(world):
    world.write(1, n_bytes=100_000)
    size = world.path(1).stat().st_size
    with manager(world, total_memory_mb=1.9 * size / MIB) as memory:
        memory.load_dimension(1)
        view, before = memory.access_layer((1, 0)), memory.get_stats()
        world.write(1, n_bytes=100_000, generation=2)
        raises(jm.LimitExceeded, "D01 generation 1", memory.reload_dimension, 1, segment="total")
        same_table(memory, before, view)


# Immutable dimensions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [*IMMUTABLE, 15], ids=["planned", "planned", "by its file"])
def test_an_immutable_dimension_takes_no_other_content(world, dimension):
    world.write(dimension, immutable=True)
    with manager(world) as memory:
        assert memory.load_dimension(dimension).immutable
        view, before = memory.access_layer((dimension, 0)), memory.get_stats()
        assert (before.pinned_bytes, before.evictable_bytes) == (0, 0)
        assert before.leased_bytes == before.total_allocated_bytes
        world.write(dimension, generation=2, immutable=True)
        raises(jm.ImmutableDimension, f"D{dimension:02d}.*other content", memory.reload_dimension, dimension)
        raises(PermissionError, "immutable", memory.reload_dimension, dimension)
        same_table(memory, before, view)
        check_reading(memory, dimension)
        del view
        stats = memory.get_stats()
        assert (stats.pinned_bytes, stats.leased_bytes) == (stats.total_allocated_bytes, 0)
        memory.unload_dimension(dimension)
        memory.load_dimension(dimension)
        check_reading(memory, dimension, generation=2)


@pytest.mark.parametrize("dimension", [9, 15])
def test_an_immutable_dimension_may_be_published_again_unchanged(world, dimension):
    data = world.write(dimension, immutable=True).read_bytes()
    with manager(world) as memory:
        memory.load_dimension(dimension)
        assert memory.reload_dimension(dimension) == (1, 1)
        layers = [Layer(i, content_of(dimension, i), i, (i + 1) / 2) for i in range(4)]
        world.publish(
            dimension, extended_file(layers, dimension, b"dimension %d" % dimension, immutable=True, generation=5)
        )
        assert world.path(dimension).read_bytes() != data
        assert memory.reload_dimension(dimension) == (1, 5)
        check_reading(memory, dimension)
        assert memory.region(dimension).immutable


def test_the_metadata_of_an_immutable_dimension_may_not_change_either(world):
    world.write(9)
    with manager(world) as memory:
        memory.load_dimension(9)
        world.write(9, generation=1, keywords=(b"other",))
        raises(jm.ImmutableDimension, "D09", memory.reload_dimension, 9)
        layers = [Layer(i, content_of(9, i), i, (i + 1) / 2) for i in range(4)]
        world.publish(9, extended_file(layers, 9, b"another name", immutable=True))
        raises(jm.ImmutableDimension, "D09", memory.reload_dimension, 9)


def test_an_immutable_dimension_does_not_become_changeable_by_a_reload(world):
    """Equal content without the flag would let the next reload change everything."""
    world.write(15, immutable=True)
    with manager(world) as memory:
        memory.load_dimension(15)
        world.write(15, immutable=False)
        raises(jm.ImmutableDimension, "D15", memory.reload_dimension, 15)
        assert memory.region(15).immutable


@pytest.mark.parametrize("dimension", [9, 15])
def test_an_immutable_dimension_with_one_bit_turned_is_refused(world, dimension):
    world.write(dimension, immutable=True)
    world.damage(dimension)
    with manager(world) as memory:
        raises(jm.ChecksumMismatch, "content_sha256", memory.load_dimension, dimension)
        assert memory.get_stats().total_allocated_bytes == 0


def test_a_plain_immutable_file_loads_with_a_warning(world, caplog):
    world.publish(9, plain_file(dimension_id=9))
    with manager(world) as memory:
        assert memory.load_dimension(9).immutable
        assert sum("no digest" in record.getMessage() for record in caplog.records) == 1


# Reading -----------------------------------------------------------------------------------------------------------


def test_access_returns_one_object_for_all_callers(memory):
    view = memory.access_layer(jm.LayerId(1, 0))
    assert memory.access_layer((1, 0)) is view
    assert memory.region(1).layer(0) is view
    seen = []
    run_threads([lambda: seen.append(memory.access_layer((1, 0)))] * 8)
    assert all(each is view for each in seen)
    assert len(seen) == 8
    assert (view.id, type(view.id)) == ((1, 0), jm.LayerId)


def test_first_touches_that_race_return_one_object(world):
    world.write(1, n_layers=200)
    with manager(world) as memory:
        memory.load_dimension(1)
        start, seen = threading.Barrier(8), []

        def touch():
            start.wait()
            seen.append([memory.access_layer((1, layer)) for layer in range(200)])

        run_threads([touch] * 8)
        assert all(a is b for views in seen[1:] for a, b in zip(seen[0], views, strict=True))


def test_a_layer_that_is_not_there(memory):
    raises(jm.LayerNotFound, "D01/L4: the dimension has 4 layers", memory.access_layer, (1, 4), dimension=1, layer=4)
    raises(LookupError, r"D04/L0: .*not loaded; load_dimension\(4\) or load_all\(\)", memory.access_layer, (4, 0))
    for layer_id in ((1, -1), (1, 65536), (1, 2**70), (0, 0), (-3, 0), (2**70, 0)):
        raises(jm.LayerNotFound, "no layer", memory.access_layer, layer_id)


BAD_IDS = [
    None, 1, "D01/L0", (1,), (1, 0, 0), ("1", 0), (1, "0"), (1, None), (1.0, 0), (1, 0.0), ([], 0), (1, []), [1.5, 0],
]  # fmt: skip


@pytest.mark.parametrize("layer_id", BAD_IDS, ids=repr)
@pytest.mark.parametrize("seen_before", [False, True])
def test_what_is_no_layer_id(memory, layer_id, seen_before):
    """An id of a wrong type is refused whether or not an equal one was read before."""
    if seen_before:
        memory.access_layer((1, 0))
    for call in (memory.access_layer, memory.load_context, memory.address_of, lambda bad: memory.read_many([bad])):
        with pytest.raises(TypeError):
            call(layer_id)
    count = memory.get_stats().access_count
    assert count == seen_before


def test_integers_of_other_types_are_layer_ids(memory):
    view = memory.access_layer((1, 2))
    for layer_id in ((np.int64(1), np.uint8(2)), [1, 2], np.array([1, 2]), (True, 2), iter((1, 2))):
        assert memory.access_layer(layer_id) is view
    assert memory.access_layer((np.int32(1), np.int32(3))) is memory.access_layer((1, 3))
    assert memory.load_contexts([jm.NavigationPath(1, [(np.int64(1), np.int64(2))])])[0].layer_id == (1, 2)


def test_region(memory):
    raises(jm.RegionNotFound, r"D05.*load_dimension\(5\)", memory.region, 5, dimension=5)
    assert memory.region(2).dimension_id == 2


def test_a_region_of_the_manager_is_closed_by_the_manager_only(memory):
    """A `with` around it, or close(), does not take it away from everybody else."""
    with memory.region(1) as region:
        assert region.n_layers == 4
    region.close()
    check_reading(memory, 1)
    memory.layers()
    stats = memory.get_stats()
    check_states(stats)
    assert stats.dimensions_loaded == 3
    memory.unload_dimension(1)
    region.close()
    assert region.n_layers == 4, "others may still be reading it"
    del region
    assert memory.leases() == []


def test_load_context(memory, world):
    layers = [Layer(0, "Grüße".encode(), 2, 1.5, (b"mood",)), Layer(1, b"\xff\xfe")]
    world.publish(4, extended_file(layers, 4))
    memory.load_dimension(4)
    before = memory.get_stats()
    context = memory.load_context((4, 0))
    assert context == jm.LoadedContext(jm.LayerId(4, 0), "Grüße", 1.5, ("mood",), 2, "mmap")
    raises(UnicodeDecodeError, "D04/L1", memory.load_context, (4, 1))
    raises(jm.LayerNotFound, "D05", memory.load_context, (5, 0))
    stats = memory.get_stats()
    assert stats.copies - before.copies == 1
    assert stats.access_count - before.access_count == 2


def test_load_contexts(memory, caplog, world):
    for dimension in (4, 5):
        world.publish(dimension, plain_file([Layer(0, b"ab"), Layer(7, "é".encode())], dimension))
        memory.load_dimension(dimension)
    paths = [jm.NavigationPath(4, [(4, 7), (5, 0), (6, 0)]), jm.NavigationPath(5, [(4, 7)])]
    contexts = memory.load_contexts(paths)
    assert [context.layer_id for context in contexts] == [(4, 7), (5, 0), (4, 7)]
    assert [context.content for context in contexts] == ["é", "ab", "é"]
    assert contexts.missing == ((6, 0),)
    assert contexts.total_bytes == 6
    assert memory.get_stats().copies == 3
    assert any("D06/L0" in record.getMessage() for record in caplog.records)
    raises(jm.LayerNotFound, "D06", lambda: memory.load_contexts(paths, strict=True))
    assert len(memory.load_contexts([])) == 0


def test_read_many(memory):
    wanted = [(1, 0), (3, 2), (1, 0), (2, 3)]
    batch = memory.read_many(wanted)
    assert (batch.data.dtype, batch.offsets.dtype) == (np.uint8, np.int64)
    assert batch.offsets.tolist() == [0, 1000, 2000, 3000, 4000]
    assert [bytes(batch[i]) for i in range(len(batch))] == [content_of(*layer_id) for layer_id in wanted]
    assert memory.get_stats().copies == 4
    assert memory.leases() == []
    empty = memory.read_many([])
    assert (len(empty), empty.data.size, empty.offsets.tolist()) == (0, 0, [0])
    raises(jm.LayerNotFound, "D04", memory.read_many, [(1, 0), (4, 0)])
    assert memory.read_many(each for each in wanted).data.size == 4000


@needs_zstd
def test_a_decompressed_layer_is_one_copy_whoever_reads_it_first(world):
    layers = [jm.LayerSpec(text="again " * 1000, compress=True) for _ in range(2)]
    jm.RegionBuilder(1, "compressed").add_layer(layers[0]).add_layer(layers[1]).write(world.path(1))
    with manager(world) as memory:
        view = memory.load_dimension(1).layer(0)
        assert memory.get_stats().copies == 1
        assert memory.access_layer((1, 0)) is view
        assert memory.get_stats().copies == 1
        memory.access_layer((1, 1))
        memory.access_layer((1, 1))
        assert memory.get_stats().copies == 2


@needs_zstd
def test_a_decompressed_layer_is_held_until_its_last_view_goes(world):
    """Also when its dimension is gone: leases and statistics tell of its block and of the file."""
    jm.RegionBuilder(1, "compressed").add_layer(jm.LayerSpec(text="again " * 1000, compress=True)).write(world.path(1))
    size = world.path(1).stat().st_size
    with manager(world) as memory, memory.allocate(100_000) as block:
        view = memory.load_dimension(1).layer(0)
        for retired in (False, True):
            if retired:
                memory.unload_dimension(1)
            stats = memory.get_stats(residency=True)
            assert stats.residency.decompressed_bytes == stats.pool.used_bytes - block.capacity == 16384
            assert stats.residency.pool_used_bytes == block.capacity
            assert memory.leases() == [jm.Lease(1, 1, size + 16384, 1, retired)]
            assert stats.leased_bytes == size + stats.pool.used_bytes
        del view
        stats = memory.get_stats(residency=True)
        assert (stats.residency.decompressed_bytes, memory.leases()) == (0, [])
        assert stats.pool.used_bytes == stats.residency.pool_used_bytes == block.capacity


def test_layers_meet_every_condition(world):
    for dimension, words in ((1, (b"Mood", b"STRASSE")), (2, (b"mood",)), (15, ("Straße".encode(),))):
        world.write(dimension, keywords=words)
    with manager(world) as memory:
        memory.load_all()
        every = [(dimension, layer) for dimension in (1, 2, 15) for layer in range(4)]
        cases = {
            (): every,
            ("dimension", 2): every[4:8],
            ("dimension", 3): [],
            ("keyword", "MOOD"): every[:8],
            ("keyword", "straße"): every[:4] + every[8:],
            ("keyword", "moo"): [],
            ("frequency", (0.5, 1.0)): [each for each in every if each[1] <= 1],
            ("frequency", (1.0, 1.0)): [each for each in every if each[1] == 1],
            ("frequency", (2.1, 1000)): [],
            ("frequency", (2, 1)): [],
            ("dimension", 1, "keyword", "mood", "frequency", (1.5, 9)): [(1, 2), (1, 3)],
            ("dimension", 15, "keyword", "mood"): [],
            ("dimension", 15, "frequency", (0, 0.5)): [(15, 0)],
            ("keyword", "strasse", "frequency", (2, 2)): [(1, 3), (15, 3)],
        }
        for conditions, expected in cases.items():
            found = memory.layers(**dict(zip(conditions[::2], conditions[1::2], strict=True)))
            assert found == expected, conditions
            assert all(type(each) is jm.LayerId for each in found)


# Addresses ---------------------------------------------------------------------------------------------------------


def test_address_of_what_is_unloaded_meanwhile_is_not_found(world, inject):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)

        def unloading(addressed):
            def call(catalogue):
                memory.unload_dimension(1)
                return addressed(catalogue)

            return call

        # Private: the moment between two steps of one call.
        with inject.around("jessy_mem.catalogue.Catalogue.addressed", unloading):
            raises(jm.LayerNotFound, "unloaded meanwhile", memory.address_of, (1, 0), dimension=1, layer=0)


def test_addresses_of_the_plan(world):
    """Every address of the 280 MB, sampled at every border: of a slot, of a layer, of a segment."""
    world.write_all(*PLANNED)
    with manager(world) as memory:
        memory.load_all()
        at = 0
        for dimension, planned in memory.layout.dimensions.items():
            assert planned.address == at
            for layer in range(4):
                address = memory.address_of((dimension, layer))
                found, offset = memory.resolve(address)
                assert (found, address - at) == (dimension, offset)
                assert bytes(memory.region(dimension).access(offset, 1000)) == content_of(dimension, layer)
            assert memory.resolve(at) == (dimension, 0)
            at += planned.size_bytes
            assert memory.resolve(at - 1) == (dimension, planned.size_bytes - 1)
        assert at == 0x0940_0000
        for address in (at, 0x0A80_0000 - 1, 0x0A80_0000, 0x0F80_0000, 0x1180_0000, 2**70, -1):
            raises(jm.OutOfBounds, str(address), memory.resolve, address, offset=address)
        raises(jm.LayerNotFound, "D01/L4", memory.address_of, (1, 4), layer=4)
        raises(jm.LayerNotFound, "D15/L0", memory.address_of, (15, 0), dimension=15)
        for address in (None, "0", 1.5):
            with pytest.raises(TypeError):
                memory.resolve(address)


def test_addresses_outside_the_plan_follow_each_other_and_stay(world):
    sizes = {15: 4 * MIB, 16: 2 * MIB, 17: 8 * MIB, 1000: MIB, 1001: 3 * MIB}
    for dimension, n_bytes in sizes.items():
        world.write_sparse(dimension, n_bytes)
    with manager(world) as memory:
        memory.load_all()
        begin = {15: 0x0A80_0000, 16: 0x0A80_0000 + 4 * MIB, 17: 0x0A80_0000 + 6 * MIB, 1000: 0x0F80_0000}
        begin[1001] = begin[1000] + MIB

        def addresses():
            return {d: memory.address_of((d, 0)) - memory.region(d).content_offset(0) for d in begin}

        assert addresses() == begin
        for dimension, address in begin.items():
            assert memory.resolve(address) == (dimension, 0)
            assert memory.resolve(address + sizes[dimension] - 1) == (dimension, sizes[dimension] - 1)
        raises(jm.OutOfBounds, None, memory.resolve, begin[17] + 8 * MIB)
        memory.unload_dimension(15)
        raises(jm.OutOfBounds, None, memory.resolve, begin[15])
        memory.reload_dimension(17)
        world.write_sparse(18, 5 * MIB)
        memory.load_dimension(18)
        assert memory.resolve(begin[17] + 8 * MIB) == (18, 0)
        memory.load_dimension(15)
        assert addresses() == begin


def test_an_address_stays_while_its_dimension_is_loaded(world):
    """Others that go make room before it; neither a reload nor an eviction moves it there."""
    for dimension in (15, 16, 17):
        world.write_sparse(dimension, 20 * MIB)
    with manager(world, total_memory_mb=50, eviction_threshold=100, critical_threshold=100) as memory:
        for dimension in (15, 16):
            memory.load_dimension(dimension)
        address = memory.address_of((16, 0))
        memory.unload_dimension(15)
        memory.reload_dimension(16)
        assert memory.address_of((16, 0)) == address
        memory.load_dimension(15)
        memory.load_dimension(17)
        memory.unload_dimension(17)
        memory.unload_dimension(15)
        assert memory.get_stats().evictions
        assert memory.address_of((16, 0)) == address


def test_a_dimension_without_room_in_the_plan_has_no_address(world):
    for dimension, size_mb in ((15, 35), (16, 15), (17, 30), (18, 50)):
        world.write_sparse(dimension, size_mb * MIB)
    with manager(world) as memory:
        for dimension in (15, 16, 17):
            memory.load_dimension(dimension)
            memory.address_of((dimension, 0))
        for dimension in (15, 17):  # on both sides of what stays
            memory.unload_dimension(dimension)
        memory.load_dimension(18)
        raises(jm.OutOfBounds, str(50 * MIB), memory.address_of, (18, 0))
        assert memory.access_layer((18, 0)).text == "the end of 18"


# The pool ----------------------------------------------------------------------------------------------------------


def test_allocate_and_deallocate(memory):
    used = memory.get_stats().total_allocated_bytes
    block = memory.allocate(10_000)
    memoryview(block)[:5] = b"hello"
    assert (block.n_bytes, block.capacity, bytes(memoryview(block)[:5])) == (10_000, 16384, b"hello")
    stats = memory.get_stats()
    check_states(stats)
    assert stats.total_allocated_bytes == used + 16384
    assert stats.segments["reserve"].used_bytes == stats.pool.used_bytes == 16384
    assert stats.leased_bytes == 16384
    assert (stats.allocation_count, stats.deallocation_count, stats.allocation_failures) == (1, 0, 0)
    with memoryview(block):
        raises(BufferError, None, memory.deallocate, block)
    memory.deallocate(block)
    raises(jm.DoubleFree, "16384", memory.deallocate, block, block_size=16384)
    stats = memory.get_stats()
    assert (stats.allocation_count, stats.deallocation_count) == (1, 1)
    assert stats.total_allocated_bytes == used
    with memory.allocate(1):
        assert memory.get_stats().total_allocated_bytes == used + 4096
    memory.allocate(1)
    assert memory.get_stats().total_allocated_bytes == used


def test_deallocate_of_what_is_no_block_of_this_manager(memory):
    with jm.PoolAllocator().allocate(1) as foreign, pytest.raises(ValueError, match="another pool"):
        memory.deallocate(foreign)
    for wrong in (None, b"", bytearray(4096)):
        with pytest.raises(TypeError):
            memory.deallocate(wrong)
    assert memory.get_stats().deallocation_count == 0


@pytest.mark.parametrize("n_bytes", [0, -1, 1.5, "1", None])
def test_allocate_of_no_size(memory, n_bytes):
    with pytest.raises((ValueError, TypeError)):
        memory.allocate(n_bytes)
    stats = memory.get_stats()
    assert (stats.allocation_count, stats.allocation_failures) == (0, 0)


def test_allocate_is_refused_above_the_critical_threshold(world):
    with manager(world, total_memory_mb=8) as memory:
        blocks = []
        with pytest.raises(jm.LimitExceeded) as caught:
            blocks.extend(iter(lambda: memory.allocate(65536), None))
        assert len(blocks) == int(0.95 * 8 * 16)
        assert (caught.value.requested_bytes, caught.value.limit_bytes) == (65536, 8 * MIB)
        assert caught.value.current_bytes == len(blocks) * 65536
        stats = memory.get_stats()
        check_states(stats)
        assert (stats.allocation_failures, stats.pressure) == (1, "eviction")
        del blocks[-2:]
        blocks += [memory.allocate(65536), memory.allocate(65536)]


def test_the_reserve_bounds_the_pool(world):
    with manager(world) as memory:
        block = memory.allocate(79 * MIB)
        error = raises(jm.LimitExceeded, "reserve", memory.allocate, 2 * MIB, segment="reserve")
        assert (error.current_bytes, error.limit_bytes) == (79 * MIB, 80 * MIB)
        assert any("pool" in holder for holder in error.holders)
        raises(jm.LimitExceeded, None, memory.allocate, 2**62)
        raises(jm.LimitExceeded, None, memory.allocate, 2**80)
        block.free()


def test_allocation_failed_when_the_room_is_in_pieces(world):
    with manager(world, total_memory_mb=4, pool_configs=((4, 4096),), on_full="raise") as memory:
        blocks = [memory.allocate(4096) for _ in range(900)]
        del blocks[::2]
        error = raises(jm.AllocationFailed, "largest free piece", memory.allocate, MIB, requested_bytes=MIB)
        assert error.largest_free_bytes < MIB
        assert memory.get_stats().allocation_failures == 1


def test_a_load_makes_the_pool_wait_its_turn_not_the_other_way(world):
    """A request of the pool evicts what nobody holds; what is held is not touched, and the refusal names it."""
    for dimension in (1, 2, 3):
        world.write_sparse(dimension, 2 * MIB)
    with manager(world, total_memory_mb=8, eviction_threshold=100.0, critical_threshold=100.0) as memory:
        for dimension in (1, 2, 3):
            memory.load_dimension(dimension)
        view = memory.access_layer((2, 0))
        block = memory.allocate(3 * MIB + MIB // 2)
        assert memory.get_stats().evictions == 1
        before = memory.get_stats()
        error = raises(jm.LimitExceeded, "D02", memory.allocate, 7 * MIB)
        assert [holder.partition(" (")[0] for holder in error.holders] == ["blocks of the pool", "D02 generation 0"]
        assert memory.get_stats().evictions == before.evictions, "nothing was evicted for what cannot fit anyway"
        other = memory.allocate(2 * MIB)
        assert view.text == "the end of 2"
        check_states(memory.get_stats())
        assert memory.get_stats().available_bytes == MIB // 2
        block.free()
        other.free()
        assert memory.access_layer((1, 0)).text == "the end of 1"


def test_a_request_is_granted_above_the_pool_ceiling_by_evicting(world):
    """The pool stops at the critical threshold of the total; regions that nobody holds give way there too."""
    world.write_sparse(1, 8 * MIB - 65536)
    with manager(world, total_memory_mb=8, eviction_threshold=94.0, critical_threshold=94.0) as memory:
        region = memory.load_dimension(1)
        raises(jm.LimitExceeded, "D01", memory.allocate, 4096)
        del region
        with memory.allocate(4096):
            assert memory.get_stats().evictions == 1


@needs_zstd
def test_decompressing_a_layer_evicts_and_tells_like_every_charge(world):
    jm.RegionBuilder(1, "compressed").add_layer(jm.LayerSpec(text="again " * 40_000, compress=True)).write(
        world.path(1)
    )
    world.write_sparse(2, 650 << 10)
    with manager(world, total_memory_mb=1) as memory:
        told = []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append(level))
        for dimension in (1, 2):
            memory.load_dimension(dimension)
        assert (memory.get_stats().pressure, told) == ("ok", [])
        memory.access_layer((1, 0))
        stats = memory.get_stats()
        assert (told, stats.evictions, stats.pressure, stats.copies) == (["warning", "eviction"], 1, "ok", 1)


def test_room_in_a_full_segment_and_in_a_full_total(world):
    """A load that needs room in its segment and in the total gets both, from whatever can go."""
    for dimension, n_mb in ((15, 40), (16, 30), (1, 16), (2, 16)):
        world.write_sparse(dimension, n_mb * MIB)
    world.write_sparse(17, 38 * MIB)
    with manager(world, total_memory_mb=103, eviction_threshold=100.0, critical_threshold=100.0) as memory:
        for dimension in (1, 2, 16, 15):
            memory.load_dimension(dimension)
        held = memory.access_layer((15, 0))
        region = memory.load_dimension(17)
        assert (region.size, held.text) == (38 * MIB, "the end of 15")
        check_states(memory.get_stats())


# Numbers -----------------------------------------------------------------------------------------------------------


def test_stats_are_what_can_be_counted_from_outside(world):
    world.write_all(1, 2, 9, 15, 1000, n_layers=3, n_bytes=5000)
    size = {dimension: world.path(dimension).stat().st_size for dimension in (1, 2, 9, 15, 1000)}
    with manager(world) as memory:
        memory.load_all()
        held = memory.access_layer((2, 1))
        memory.access_layer((1, 0))
        for _ in range(10):
            memory.access_layer((1, 0))
        memory.load_context((1, 2))
        memory.read_many([(15, 0), (15, 1)])
        block = memory.allocate(5000)
        with pytest.raises(jm.LayerNotFound):
            memory.access_layer((3, 0))
        stats = memory.get_stats()
        check_states(stats)
        total = sum(size.values()) + 16384
        expected = {
            "total_allocated_bytes": total,
            "total_used_bytes": 5 * 3 * 5000 + 5000,
            "limit_bytes": 280 * MIB,
            "available_bytes": 280 * MIB - total,
            "pressure": "ok",
            "dimensions_loaded": 5,
            "layers_loaded": 15,
            "active_regions": 5,
            "leased_bytes": size[2] + 16384,
            "evictable_bytes": size[1] + size[15] + size[1000],
            "pinned_bytes": size[9],
            "peak_usage_bytes": total,
            "access_count": 15,
            "load_count": 5,
            "allocation_count": 1,
            "deallocation_count": 0,
            "allocation_failures": 0,
            "crystallization_count": 0,
            "evictions": 0,
            "drops": 0,
            "copies": 3,
            "simulation_mode": False,
            "simulated_dimensions": (),
        }
        assert {name: getattr(stats, name) for name in expected} == expected
        assert {name: segment.used_bytes for name, segment in stats.segments.items()} == {
            "core": size[1] + size[2] + size[9], "reserve": size[15] + 16384, "user": size[1000],
        }  # fmt: skip
        counts = {
            stats.access_latency: 10, stats.first_touch_latency: 5, stats.load_latency: 5, stats.allocate_latency: 1,
            stats.deallocate_latency: 0, stats.crystallize_latency: 0,
        }  # fmt: skip
        for summary, count in counts.items():
            assert summary.count == count
            assert 0 <= summary.p50 <= summary.p90 <= summary.p99 <= summary.p999 <= summary.max
            assert (summary.max > 0) == (count > 0)
        assert stats.avg_access_latency_us == stats.access_latency.mean_ns / 1000 > 0
        assert (stats.pool.used_bytes, stats.pool.requested_bytes) == (16384, 5000)
        assert held.n_bytes == 5000
        memory.deallocate(block)
        del held
        memory.unload_dimension(2)
        later = memory.get_stats()
        check_states(later)
        assert later.total_allocated_bytes == total - size[2] - 16384
        assert (later.leased_bytes, later.peak_usage_bytes, later.deallocation_count) == (0, total, 1)
        assert stats.total_allocated_bytes == total, "a snapshot does not change"
        json.dumps(later.to_dict(), allow_nan=False)


def test_dump_state_is_what_json_reads_back(world):
    world.write(1, keywords=(b"mood",))
    with manager(world, trace=True) as memory:
        memory.load_dimension(1)
        view = memory.access_layer((1, 0))
        state = memory.dump_state()
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        assert state["regions"]["1"]["layers"][0]["keywords"] == list(view.keywords) == ["mood"]
        assert [__file__ in place for place in state["leases"][0]["taken_at"]] == [True]


def test_check_states_notices_what_does_not_add_up(memory):
    import dataclasses

    stats = memory.get_stats()
    check_states(stats)
    for field in ("leased_bytes", "evictable_bytes", "pinned_bytes", "available_bytes", "total_allocated_bytes"):
        with pytest.raises(AssertionError):
            check_states(dataclasses.replace(stats, **{field: getattr(stats, field) + 1}))
    for changed in ({"peak_usage_bytes": 0}, {"utilization": 50.0}, {"segments": {}}):
        with pytest.raises(AssertionError):
            check_states(dataclasses.replace(stats, **changed))


def test_without_latency_events_are_counted_all_the_same(world):
    world.write(1)
    with manager(world, record_latency=False) as memory:
        memory.load_dimension(1)
        for _ in range(5):
            memory.access_layer((1, 0))
        memory.allocate(1)
        stats = memory.get_stats()
        assert (stats.access_count, stats.load_count, stats.allocation_count) == (5, 1, 1)
        assert stats.access_latency.count == stats.load_latency.count == stats.allocate_latency.count == 0


def test_counts_of_racing_threads_are_exact(memory):
    def work():
        for _ in range(300):
            memory.access_layer((1, 0))
            memory.deallocate(memory.allocate(100))
            with pytest.raises(jm.LimitExceeded):
                memory.allocate(100 * MIB)

    run_threads([work] * 6)
    stats = memory.get_stats()
    assert (stats.access_count, stats.allocation_count, stats.deallocation_count) == (1800, 1800, 1800)
    assert stats.allocation_failures == 1800


# Leases ------------------------------------------------------------------------------------------------------------


def test_leases_tell_who_holds_what(memory, world):
    assert memory.leases() == []
    size = world.path(1).stat().st_size
    view = memory.access_layer((1, 0))
    assert memory.leases() == [jm.Lease(1, 1, size, 1)]
    part = view[10:20]
    other = memory.access_layer((1, 1))
    region = memory.region(2)
    assert memory.leases() == [jm.Lease(1, 1, size, 2), jm.Lease(2, 1, size, 1)]
    del view
    assert memory.leases()[0].n_views == 2, "the slice holds the view"
    whole = memoryview(region)
    assert memory.leases()[1].n_views == 2
    world.write(1, n_bytes=3000, generation=2)
    memory.reload_dimension(1)
    assert sorted(memory.leases(), key=lambda lease: lease.dimension) == [
        jm.Lease(1, 1, size, 2, retired=True), jm.Lease(2, 1, size, 2),
    ]  # fmt: skip
    newer = memory.access_layer((1, 0))
    assert [lease.generation for lease in memory.leases() if lease.dimension == 1] == [2, 1]
    assert memory.leases()[0].n_bytes > size, "largest first"
    assert memory.get_stats().leased_bytes == sum(lease.n_bytes for lease in memory.leases())
    del part, other, region, newer
    whole.release()
    assert memory.leases() == []


# Pressure ----------------------------------------------------------------------------------------------------------


LEVELS = {"warning": 75, "eviction": 85, "critical": 95}


def pressure_manager(world, **overrides):
    """100 blocks of 4 KiB, one for each percent, all classes full of small blocks."""
    return manager(world, total_memory_mb=100 * 4096 / MIB, pool_configs=((0.5, 4096),), **overrides)


def test_pressure_levels_once_each_and_again_below(world, caplog):
    with pressure_manager(world, critical_threshold=94.0) as memory:
        told = []
        memory.on_pressure(lambda *args: told.append(args))
        blocks, limit = [], 100 * 4096
        for percent in range(1, 95):
            blocks.append(memory.allocate(4096))
            expected = [level for level, at in {**LEVELS, "critical": 94}.items() if percent >= at]
            assert [level for level, _, _ in told] == expected
        assert told == [("warning", 75 * 4096, limit), ("eviction", 85 * 4096, limit), ("critical", 94 * 4096, limit)]
        assert memory.get_stats().pressure == "critical"
        told.clear()
        # Down to one point above where "eviction" is armed again, and up.
        del blocks[81:]
        blocks += [memory.allocate(4096) for _ in range(7)]
        assert told == []
        del blocks[80:]
        blocks += [memory.allocate(4096) for _ in range(5)]
        assert [level for level, _, _ in told] == ["eviction"]
        del blocks[70:]
        assert memory.get_stats().pressure == "ok"
        blocks += [memory.allocate(4096) for _ in range(24)]
        assert [level for level, _, _ in told] == ["eviction", "warning", "eviction", "critical"]
        lines = [record for record in caplog.records if "pressure" in record.getMessage()]
        assert len(lines) == 1, "at most one line in ten seconds"
        assert "warning" in lines[0].getMessage()


def test_one_reservation_may_cross_all_levels(world, caplog):
    with manager(world, total_memory_mb=8, critical_threshold=95.0) as memory:
        told = []
        memory.on_pressure(lambda level, used, limit: told.append((level, used)))
        world.write_sparse(1, 8 * MIB)
        region = memory.load_dimension(1)
        assert told == [(level, 8 * MIB) for level in LEVELS]
        lines = [record.getMessage() for record in caplog.records if "pressure" in record.getMessage()]
        assert len(lines) == 1
        assert "critical" in lines[0], "the gravest of them is named"
        assert region.size == 8 * MIB


def test_each_crossing_calls_back_exactly_once(world):
    """Each threshold crossed up and down a thousand times."""
    with pressure_manager(world) as memory:
        told = []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append(level))
        base = []
        for level, below in {"warning": 69, "eviction": 79, "critical": 89}.items():
            base += [memory.allocate(4096) for _ in range(below - len(base))]
            told.clear()
            for number in range(1, 1001):
                block = memory.allocate(6 * 4096)
                assert told == [level] * number
                memory.deallocate(block)
                assert told == [level] * number


def test_pressure_is_logged_once_in_ten_seconds(world, caplog, inject):
    """Callbacks are told of every crossing all the same."""
    readings_s = (1000.0, 1000.1, 1009.9, 1010.0, 1019.9, 1020.1)
    clock = inject.instead("time.monotonic", iter(readings_s).__next__)
    with pressure_manager(world) as memory, clock:
        told = []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append(level))
        lines = []
        for _ in readings_s:
            memory.allocate(80 * 4096).free()
            lines.append(len([record for record in caplog.records if "pressure" in record.getMessage()]))
        assert lines == [1, 1, 1, 2, 2, 3]
        assert told == ["warning"] * 6


def test_warnings_can_be_silenced(world, caplog):
    with pressure_manager(world, enable_warnings=False) as memory:
        told = []
        memory.on_pressure(lambda *args: told.append(args))
        with memory.allocate(80 * 4096):
            assert [level for level, _, _ in told] == ["warning"]
        assert not [record for record in caplog.records if "pressure" in record.getMessage()]


def test_an_exception_in_a_callback_stops_nothing(world, caplog):
    with pressure_manager(world) as memory:
        told = []

        def fail(*args):
            raise RuntimeError("a mistake in the callback")

        memory.on_pressure(fail)
        memory.on_pressure(lambda *args: told.append(args))
        with memory.allocate(86 * 4096):
            assert [level for level, _, _ in told] == ["warning", "eviction"]
        failures = [record for record in caplog.records if "callback failed" in record.getMessage()]
        assert len(failures) == 2
        assert all(record.exc_info[0] is RuntimeError for record in failures)


def test_callbacks_run_outside_every_lock(world):
    """A callback may call the manager, and may wait for another thread that does."""
    world.write_all(1, 2)
    with manager(world, total_memory_mb=1, pool_configs=((1, 4096),)) as memory:
        done = []

        def callback(level, used_bytes, limit_bytes):
            others = [
                threading.Thread(target=call)
                for call in (memory.get_stats, memory.leases, memory.layers, lambda: memory.load_dimension(1))
            ]
            for thread in others:
                thread.start()
            for thread in others:
                thread.join(HUNG_S)
                assert not thread.is_alive(), "the callback is called under a lock"
            memory.load_dimension(2)
            memory.allocate(4096).free()
            done.append(level)

        memory.on_pressure(callback)
        block = memory.allocate(800 * 1024)
        assert done == ["warning"]
        check_reading(memory, 1)
        check_reading(memory, 2)
        block.free()


def test_load_all_calls_back_outside_every_lock(world):
    world.write_all(1, 2, n_bytes=100_000)
    with manager(world, total_memory_mb=1) as memory:
        done = []

        def callback(level, used_bytes, limit_bytes):
            thread = threading.Thread(target=memory.get_stats)
            thread.start()
            thread.join(HUNG_S)
            done.append((level, thread.is_alive()))

        memory.on_pressure(callback)
        memory.load_all()
        assert done == [("warning", False)]


@pytest.mark.parametrize("callback", [None, 1, "print"])
def test_what_is_no_callback(memory, callback):
    with pytest.raises(TypeError):
        memory.on_pressure(callback)


@pytest.mark.parametrize(("total_mb", "segment"), [(5.5, "total"), (280, "user")])
def test_reload_of_many_that_do_not_fit_beside_the_old_ones_is_refused_as_a_whole(world, total_mb, segment):
    """What the refused call had charged and gives back is no room that others made: it was tried again for ever."""
    ids = [1000, 1001, 1002] if segment == "total" else [1000, 1001]
    n_mb = 1 if segment == "total" else 10
    for dimension in ids:
        world.write(dimension, n_layers=1, n_bytes=n_mb * MIB)
    with manager(world, total_mb) as memory:
        sizes = [memory.load_dimension(dimension).size for dimension in ids]
        relieve, n_asked = memory._relieve, count(1)  # else the fault shows as a test that never ends

        def asked(*refused):
            assert next(n_asked) < 4
            return relieve(*refused)

        memory._relieve = asked  # as above
        n_fit = 2 if segment == "total" else 1
        with pytest.raises(jm.LimitExceeded) as caught:
            memory.reload_many(ids)
        error = caught.value
        assert (error.current_bytes, error.requested_bytes) == (sum(sizes), sum(sizes[: n_fit + 1]))
        assert error.segment == segment
        del caught, error
        assert memory.get_stats().total_allocated_bytes == sum(sizes)
        assert memory.reload_many(ids[:1]) == [(1, 1)]


# The end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
def test_after_close_every_method_says_so(memory, method):
    block = memory.allocate(10)
    memory.close()
    memory.close()
    raises(jm.ManagerClosed, "closed", ALL_METHODS[method], memory)
    raises(jm.ManagerClosed, "closed", memory.deallocate, block)
    raises(ValueError, "closed", ALL_METHODS[method], memory)


@pytest.mark.parametrize("method", ["access_many", "read_many", "load_contexts", "keys", "values", "items", "layers"])
def test_a_snapshot_that_has_ended_says_so_of_nothing_too(memory, method):
    with memory.snapshot() as then:
        pass
    arguments = [[]] if method.endswith(("many", "contexts")) else []
    raises(jm.ManagerClosed, "snapshot", getattr(then, method), *arguments)


def test_a_manager_is_made_once(memory):
    learned = memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
    with pytest.raises(TypeError, match="initialised once"):
        memory.__init__(simulation="never")
    assert memory[learned, 0].text == "a joke"


@pytest.mark.parametrize("method", ["access_many", "load_contexts", "read_many", "reload_many", "crystallize_many"])
def test_after_close_every_method_says_so_of_nothing_too(memory, method):
    assert len(getattr(memory, method)([])) == 0
    memory.close()
    raises(jm.ManagerClosed, "closed", getattr(memory, method), [])


def test_after_close_the_numbers_can_still_be_read(memory):
    view, block = memory.access_layer((1, 0)), memory.allocate(10)
    assert "3 dimensions" in repr(memory)
    memory.close()
    assert "closed" in repr(memory)
    stats = memory.get_stats()
    check_states(stats)
    assert (stats.dimensions_loaded, stats.access_count, stats.load_count) == (0, 1, 3)
    assert stats.total_allocated_bytes == stats.leased_bytes > 4096
    assert bytes(view) == content_of(1, 0)
    memoryview(block)[:1] = b"x"
    del view
    assert memory.get_stats().total_allocated_bytes == 4096
    block.free()
    assert memory.get_stats().total_allocated_bytes == 0


def test_close_in_an_error_keeps_the_error(world):
    with pytest.raises(KeyError), manager(world):
        raise KeyError


def test_a_manager_that_is_dropped_is_freed_at_once(world):
    """No cycle keeps it, or what it maps, until a collection."""
    world.write_all(1, 2, 9)
    world.publish(3, b"damaged")
    before = mapped_regions()
    gc.collect()
    gc.disable()
    try:
        memory = manager(world, total_memory_mb=2, simulation="auto", on_full="raise")
        memory.on_pressure(lambda *args: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = memory.load_all()
        memory.layers(keyword="mood")
        memory.load_context((4, 0))
        memory.read_many([(1, 0)])
        memory.reload_dimension(1)
        memory.unload_dimension(2)
        for method, argument in (
            ("load_dimension", 1), ("access_layer", (99, 0)), ("allocate", 10 * MIB), ("reload_dimension", 99),
            ("load_dimension", 3),
        ):  # fmt: skip
            with pytest.raises(jm.ConsciousnessError):
                getattr(memory, method)(argument)
        memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
        memory.allocate(100)
        memory.get_stats()
        memory.leases()
        gone = weakref.ref(memory)
        del memory
        assert gone() is None
        assert [line for line in mapped_regions() if line not in before] == []
        assert list(report.skipped) == [3]
    finally:
        gc.enable()


def test_a_manager_without_descriptors_refuses_and_goes_on():
    """In a process of its own: no descriptor is left, then one is."""
    script = textwrap.dedent(
        """
        import errno, os, resource, sys, tempfile
        from pathlib import Path
        from helpers import Holdings
        from world import World, check_reading, check_states, manager
        import jessy_mem as jm

        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            world.write_all(1, 2, 9)
            memory = manager(world)
            memory.load_dimension(1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            before = Holdings()
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
            # With one descriptor to spare the file opens, and what follows may fail.
            refused = []
            for n_spare in range(4):
                for dimension in (2, 9):
                    try:
                        memory.load_dimension(dimension)
                    except jm.errors.MappingError as error:
                        assert (error.errno, error.filename) == (errno.EMFILE, str(world.path(dimension)))
                        assert isinstance(error, OSError)
                        refused.append((n_spare, dimension))
                    else:
                        check_reading(memory, dimension)
                        memory.unload_dimension(dimension)
                try:
                    memory.reload_dimension(1)
                except jm.errors.MappingError:
                    refused.append((n_spare, 1))
                check_reading(memory, 1)
                stats = memory.get_stats()
                check_states(stats)
                assert stats.total_allocated_bytes == world.path(1).stat().st_size, stats
                os.close(taken.pop())
            assert refused[:3] == [(0, 2), (0, 9), (0, 1)], refused
            while taken:
                os.close(taken.pop())
            memory.load_all()
            check_reading(memory, 9)
            memory.close()
            new = [each for each in before.new() if "D01" not in each]
            assert new == [], new
            print("sound", len(refused))
        """
    )
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("sound ")


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_region_that_outlives_its_manager_decompresses_all_the_same(tmp_path):
    text = "the same again " * 1000
    jm.RegionBuilder(1, "Packed").add_layer(jm.LayerSpec(text=text, compress=True)).write(jm.region_path(tmp_path, 1))
    memory = manager(tmp_path)
    region = memory.load_dimension(1)
    del memory
    gc.collect()
    assert region.layer(0).text == text


def test_keywords_overwritten_after_the_check_leave_the_dimension_unfound(world, caplog):
    """Who writes into a mapped file breaks the rules; what was found keeps its bytes, and nothing else fails."""
    path = world.write(1, keywords=(b"moon",))
    with manager(world) as memory:
        memory.load_dimension(1)
        with path.open("r+b") as file:
            file.seek(256)
            file.write(b"\xff" * 100)
        assert memory.layers(keyword="moon") == []
    assert "cannot be found by keyword" in caplog.text


def test_what_was_read_is_passed_on_without_an_eviction_when_it_is_much(world, monkeypatch):
    monkeypatch.setattr("jessy_mem.table.MIN_VISITS", -100)  # thousands of reads would take longer
    world.write_all(1, 2, 3, 4, 5, n_bytes=50_000)
    with manager(world, 1, eviction_policy="lru") as memory:
        for dimension in (1, 2, 3):
            memory.load_dimension(dimension)
        memory.access_layer((1, 0))
        memory.load_dimension(4)
        memory.access_layer((2, 0))
        memory.load_dimension(5)
        assert evicted_dimensions(memory) == {3}


def test_interrupt_while_a_dimension_comes_leaves_questions_that_are_right(world, inject):
    world.write_all(1, 2, keywords=(b"word",))
    with manager(world) as memory:
        memory.load_dimension(1)
        assert len(memory.layers(keyword="word")) == 4
        assert memory.address_of((1, 0)) >= 0
        # Private: in the middle of what is one step.
        interrupt = inject(KeyboardInterrupt(), "jessy_mem.catalogue.Catalogue.put", for_good=False)
        with interrupt, pytest.raises(KeyboardInterrupt):
            memory.load_dimension(2)
        assert len(memory.layers(keyword="word")) == 8
        assert memory.address_of((2, 0)) > memory.address_of((1, 0))


@pytest.mark.parametrize("step", ["opening.Opener.name_path", "opening.Opener.open", "catalogue.Catalogue.expect"])
def test_interrupt_of_a_load_from_a_path_leaves_the_dimension_its_own_file(world, tmp_path, inject, step):
    world.write_all(1, 2)
    elsewhere = World(tmp_path / "elsewhere").write(2, generation=7)

    def then_interrupt(plain):
        def interrupted(*args):
            plain(*args)
            raise KeyboardInterrupt

        return interrupted

    with manager(world) as memory:
        # Private: there is no other name for these moments.
        with inject.around(f"jessy_mem.{step}", then_interrupt), pytest.raises(KeyboardInterrupt):
            memory.load_dimension(2, elsewhere)
        assert memory.get_stats().dimensions_loaded == 0
        assert memory.load_dimension(2).generation == 1
        memory.unload_dimension(2)
        assert memory.load_dimension(2, elsewhere).generation == 7


@pytest.mark.parametrize("moment", ["before it", "behind it"])
def test_interrupt_beside_the_step_by_which_a_dimension_comes_finds_all_of_it_or_nothing(world, inject, moment):
    """Before anybody has asked, it is one compiled step: an interrupt is before it or behind it."""
    world.write_all(1, 2, keywords=(b"word",))
    with manager(world) as memory:
        memory.load_dimension(1)

        def then_interrupt(load):
            def loaded(*args):
                load(*args)
                raise KeyboardInterrupt

            return loaded

        if moment == "before it":
            # Private: there is no other name for that moment.
            interrupt = inject(KeyboardInterrupt(), "jessy_mem.catalogue.Catalogue.expect", for_good=False)
        else:
            # Private: the same.
            interrupt = inject.around("jessy_mem.MmapManager._load", then_interrupt)
        with interrupt, pytest.raises(KeyboardInterrupt):
            memory.load_dimension(2)
        come = {1, 2} if moment == "behind it" else {1}
        assert memory.get_stats().total_allocated_bytes == sum(world.path(each).stat().st_size for each in come)
        assert {each.dimension for each in memory.layers(keyword="word")} == come


def test_dimension_that_another_thread_loads_while_it_is_ensured_is_that_one(world, inject):
    def and_first(load):
        def loaded(memory, dimension, path=None, **options):
            if not options and str(dimension) not in memory.dump_state()["regions"]:
                load(memory, dimension)
            return load(memory, dimension, path, **options)

        return loaded

    world.write(1)
    with manager(world) as memory:
        # The call inside the call: another thread comes before it.
        with inject.around("jessy_mem.MmapManager.load_dimension", and_first):
            region = memory.load_dimension(1, exist_ok=True)
        assert memory.region(1) is region


def test_keywords_overwritten_before_it_is_evicted_leave_the_dimension_unfound(tmp_path, caplog):
    with manager(tmp_path) as memory:
        memory.ensure_dimension("tea", [jm.LayerSpec(text="a", keywords=["moon"])])
        with (tmp_path / "D15" / "region.mmap").open("r+b") as file:
            file.seek(256)
            file.write(b"\xff" * 30)
        evict(memory, 15)
        assert memory.layers(keyword="moon") == []
    assert "cannot be found by keyword" in caplog.text


def test_what_was_evicted_before_the_first_question_is_found_by_its_files_and_stays_evicted(world):
    world.write_all(*range(1000, 1200), n_layers=2, n_bytes=10, keywords=(b"word",))  # more than are indexed at once
    with manager(world) as memory:
        for dimension in range(1000, 1200):
            memory.load_dimension(dimension)
        evict(memory, *range(1000, 1190))
        used_bytes = memory.get_stats().total_allocated_bytes
        assert (1000, 1) in memory
        assert (1000, 2) not in memory
        assert memory.layers(keyword="word", frequency=(1, 2), name="dimension 1*") == [
            (dimension, 1) for dimension in range(1000, 1200)
        ]
        assert evicted_dimensions(memory) == {*range(1000, 1190)}
        assert memory.get_stats().total_allocated_bytes == used_bytes


def test_what_was_evicted_is_found_where_there_is_no_room_to_map_it(world):
    world.write_all(1000, 1001, n_bytes=150_000, keywords=(b"word",))
    with manager(world, 1) as memory:
        memory.load_dimension(1000)
        memory.load_dimension(1001)
        view = memory.access_layer((1001, 0))  # which holds what the other one would need
        assert evicted_dimensions(memory) == {1000}
        assert len(memory.layers(keyword="word")) == 8
        assert evicted_dimensions(memory) == {1000}
        with pytest.raises(jm.LimitExceeded):
            memory.access_layer((1000, 0))
        assert view[:1]


def test_what_was_evicted_is_not_found_without_its_file_and_all_else_is(world, caplog):
    world.write_all(1000, 1001, keywords=(b"word",))
    with manager(world) as memory:
        memory.load_dimension(1000)
        memory.load_dimension(1001)
        evict(memory, 1000, 1001)
        world.path(1000).unlink()
        assert {each.dimension for each in memory.layers(keyword="word")} == {1001}
        assert "D1000 cannot be found" in caplog.text


def test_what_was_evicted_is_found_as_it_is_now_and_not_in_a_snapshot_of_before(world):
    world.write(1000, keywords=(b"old",))
    with manager(world) as memory:
        memory.load_dimension(1000)
        evict(memory, 1000)
        with memory.snapshot() as then:
            world.write(1000, n_layers=2, generation=2, keywords=(b"new",))
            with pytest.raises(jm.LayerNotFound, match="has changed since"):
                then.layers(keyword="old")
        assert memory.layers(keyword="old") == []
        assert len(memory.layers(keyword="new")) == len(memory) == 2


def test_question_that_could_not_open_what_was_evicted_is_answered_when_it_is_asked_again(world, inject):
    world.write_all(1000, 1001, keywords=(b"word",))
    with manager(world) as memory:
        memory.load_dimension(1000)
        memory.load_dimension(1001)
        evict(memory, 1000)
        # Private: the call that opens files; descriptors that are spent would fail the test's own.
        with inject(jm.MappingError(24, "too many open files", "a file"), "jessy_mem.opening.Opener.open"):
            with pytest.raises(jm.MappingError):
                memory.layers(keyword="word")
            with pytest.raises(jm.MappingError):
                memory.__contains__((1000, 0))
        assert len(memory.layers(keyword="word")) == 8


# Kinds that were met in the field ----------------------------------------------------------------------------------


def test_what_is_missing_is_logged_once_however_often_it_is_tried(tmp_path, caplog):
    with manager(tmp_path, simulation="never") as memory:
        assert len(memory.load_all().skipped) == 14
        n_records = len(caplog.records)
        assert n_records == 14
        assert len(memory.load_all().skipped) == 14
        assert len(caplog.records) == n_records
        World(tmp_path).write(1)
        assert memory.load_all().loaded == [1]
        memory.unload_dimension(1)
        (tmp_path / "D01" / "region.mmap").unlink()
        memory.load_all()
        assert len(caplog.records) == n_records + 1, "it was there meanwhile"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", ["layers", "get_stats", "access", "unload", "close"])
def test_child_that_was_forked_while_another_thread_held_the_lock_goes_on(world, call):
    for dimension in (1, 2):
        world.write(dimension)
    with manager(world) as memory:
        memory.load_dimension(1)
        inside, leave = threading.Event(), threading.Event()

        class SlowPath:
            def __fspath__(self):
                inside.set()
                leave.wait()
                return os.fspath(world.base / "D02" / "region.mmap")

        thread = threading.Thread(target=memory.load_dimension, args=(2, SlowPath()))
        thread.start()
        inside.wait()
        calls = {
            "layers": memory.layers,
            "get_stats": memory.get_stats,
            "access": lambda: memory.access_layer((1, 0)).text,
            "unload": lambda: memory.unload_dimension(1),
            "close": memory.close,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that it forks beside threads is what is tried
            pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # who waits for a thread that is not there waits for ever
            try:
                calls[call]()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        leave.set()
        thread.join()


@pytest.mark.thread_unsafe(reason="it forks")
def test_child_that_is_forked_while_a_dimension_goes_finds_what_is_left(world, inject):
    """Its region has gone, and the index does not know yet."""
    inside, leave = threading.Event(), threading.Event()

    def wait_before(plain):
        def remove(*args):
            inside.set()
            leave.wait()
            return plain(*args)

        return remove

    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_dimension(1)
        found = memory.layers(frequency=(0, 1e6))
        memory.load_dimension(2)
        # Private: the moment between the region and the index.
        with inject.around("jessy_mem.catalogue.Catalogue.remove", wait_before):
            thread = threading.Thread(target=memory.unload_dimension, args=(2,))
            thread.start()
            inside.wait()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that it forks beside threads is what is tried
                pid = os.fork()
            if pid == 0:
                signal.alarm(60)
                try:
                    os._exit(not found or memory.layers(frequency=(0, 1e6)) != found)
                finally:
                    os._exit(99)
            leave.set()
            thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert memory.layers(frequency=(0, 1e6)) == found


# Paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["file", "in a file", "link to a file", "device"])
def test_base_folder_that_cannot_be_one_is_an_error_that_says_so(tmp_path, make):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link to a file").symlink_to(tmp_path / "file")
    path = {"in a file": tmp_path / "file" / "below", "device": "/dev/null"}.get(make, tmp_path / make)
    with pytest.raises(jm.MappingError, match="is, or is in, a file") as caught:
        jm.MmapManager(base_path=path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, str(path))


@pytest.mark.parametrize("make", ["missing", "link to nothing", "link to a folder", "folder"])
def test_base_folder_that_can_be_made_is_none(tmp_path, make):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link to a folder").symlink_to(tmp_path / "folder")
    (tmp_path / "link to nothing").symlink_to(tmp_path / "elsewhere")
    with jm.MmapManager(base_path=tmp_path / make) as memory:
        assert memory.find("x") is None


@pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff", b"a\xed\xa0\x80b"])
def test_what_is_said_of_a_folder_that_is_not_utf_8_can_be_written_anywhere(tmp_path, name, caplog):
    base = os.path.join(os.fsencode(tmp_path), name)
    with warnings.catch_warnings(record=True) as warned, jm.MmapManager(base_path=base) as memory:
        warnings.simplefilter("always")
        memory.load_all()
        with pytest.raises(jm.DimensionNotFound) as missing:
            memory.load_dimension(15)
        path = jm.region_path(memory.config.base_path, 16)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no region" * 100)
        with pytest.raises(jm.InvalidRegion) as invalid:
            memory.load_dimension(16)
        said = [repr(memory), str(missing.value), str(invalid.value), *(str(each.message) for each in warned)]
        said += [record.getMessage() for record in caplog.records]
        said += [sample.labels["base_path"] for sample in jm.metrics(memory)]
    assert len(warned) == 1
    for text in said:
        assert text.encode()


def test_layers_that_are_missing_are_logged_once(memory, caplog):
    path = jm.NavigationPath(1, [(1, 0), (7, 0), (7, 1)])
    for _ in range(3):
        assert [str(layer) for layer in memory.load_contexts([path]).missing] == ["D07/L0", "D07/L1"]
    assert [record.getMessage() for record in caplog.records] == [
        "D07/L0 is not available and was skipped",
        "D07/L1 is not available and was skipped",
    ]


@pytest.mark.parametrize("value", [1.5e18, "2024", np.float64(0)])
@pytest.mark.parametrize("field", ["since_ns", "before_ns"])
def test_times_are_whole_and_the_error_names_the_condition(memory, field, value):
    with pytest.raises(TypeError, match=rf"{field}: .*time_ns"):
        memory.layers(**{field: value})


def test_attributes_are_asked_for_with_numbers_of_any_kind(world):
    with manager(world) as memory:
        memory.ensure_dimension("x", [jm.LayerSpec(text="a", attributes={"n": 3, "w": [0.5, 1], "d": 2.5})])
        for where in (
            {"n": np.int64(3)},
            {"w": np.array([0.5, 1])},
            {"w": (0.5, 1)},
            {"d": Decimal("2.5")},
            {"n": 3.0},
        ):
            assert memory.layers(where=where) == [(15, 0)]
        assert memory.layers(where={"n": np.int64(4)}) == []
        with pytest.raises(TypeError, match="where: "):
            memory.layers(where={"n": {1}})


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda memory: memory.layers(keyword=7), "a dimension is given by dimension="),
        (lambda memory: memory.layers(keyword=["a", "b"]), "ask for one word at a time"),
        (lambda memory: memory.layers(name=7), "name: 7 is int, not str"),
        (lambda memory: memory.layers(where=["a"]), "where: .* is list, not a dict"),
        (lambda memory: memory.on_change(7), "7 is not callable"),
        (lambda memory: memory.on_evict(7), "7 is not callable"),
        (lambda memory: memory.on_pressure(7), "7 is not callable"),
    ],
    ids=["keyword", "keywords", "name", "where", "on_change", "on_evict", "on_pressure"],
)
def test_what_is_of_the_wrong_kind_is_told_with_what_is_asked_for(ask, words, tmp_path):
    with manager(tmp_path) as memory, pytest.raises(TypeError, match=words):
        ask(memory)
