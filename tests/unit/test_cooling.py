"""Pages of mapped files go back to the system, and nothing that is read is another thing afterwards."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from world import content_of, manager

import jessy_mem as jm
from helpers import HAS_PROC
from jessy_mem import compression
from jessy_mem._core.mapping import Mapping
from jessy_mem.sealed import unchangeable_copy

pytestmark = pytest.mark.thread_unsafe(reason="what is resident is of the process")

PAGE = os.sysconf("SC_PAGE_SIZE")
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
ways = pytest.mark.parametrize("way", ["trim", "cool"])


def own_file_bytes() -> int:
    """What this process has in memory of mappings of region files and of their sealed copies, as smaps says."""
    n_bytes, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = ".mmap" in line or "memfd:jessy_mem" in line
        elif is_ours and line.startswith("Rss:"):
            n_bytes += int(line.split()[1]) * 1024
    return n_bytes


@needs_proc
@ways
def test_a_thousand_live_views_keep_their_bytes_and_lose_their_pages(world, way):
    for dimension in range(1, 11):
        world.write(dimension, n_layers=100, n_bytes=PAGE)
    with manager(world) as memory:
        memory.load_all()
        views = [memory[dimension, layer] for dimension in range(1, 11) for layer in range(100)]
        held = [memoryview(view) for view in views]
        before = [bytes(each) for each in held]
        n_before = own_file_bytes()
        assert n_before >= 1000 * PAGE
        n_given = getattr(memory, way)()
        n_after = own_file_bytes()
        assert n_after <= 0.05 * n_before
        assert n_given >= n_before - n_after - PAGE * len(views) // 100
        assert [bytes(each) for each in held] == before
        assert [bytes(view) for view in views] == before
        assert memory.get_stats().active_regions == 10
        del views, held


@needs_proc
def test_what_is_to_be_kept_stays(world):
    for dimension in range(1, 9):
        world.write(dimension, n_layers=1, n_bytes=64 * PAGE)
    with manager(world) as memory:
        memory.load_all()
        for dimension in range(1, 9):
            memory.read_many([(dimension, 0)])
        assert memory.trim(keep_bytes=1 << 40) == 0
        n_before = own_file_bytes()
        keep_bytes = n_before // 2
        assert memory.trim(keep_bytes=keep_bytes) >= n_before - keep_bytes
        assert keep_bytes - 80 * PAGE <= own_file_bytes() <= keep_bytes  # files go one after the other
        for wrong in (-1, 1.5, "1MB", None):
            with pytest.raises(ValueError, match="keep_bytes"):
                memory.trim(keep_bytes=wrong)
    with pytest.raises(jm.ManagerClosed):
        memory.trim()
    with pytest.raises(jm.ManagerClosed):
        memory.cool()


@ways
@pytest.mark.parametrize("guard", ["reads", "copy", "auto"])
def test_each_kind_of_memory_keeps_its_content(world, way, guard):
    """Mapped, sealed, simulated, learned, decompressed and retired layers, and blocks in use."""
    world.write_all(1, 3, 9)  # 9 is immutable
    text = "again and again " * 5000
    spec = jm.LayerSpec(text=text, compress=compression.is_available())
    jm.RegionBuilder(4, "packed").add_layer(spec).write(world.path(4))
    with manager(world, simulation="auto", guard=guard, on_close="drop") as memory:
        for dimension in (1, 3, 4, 9):
            memory.load_dimension(dimension)
        with pytest.warns(match="simulated"):
            memory.load_dimension(2)
        learned = memory.create_proto_dimension("learned", [jm.LayerSpec(text=text)])
        retired = memory[3, 0]
        memory.unload_dimension(3)
        ids = memory.layers()
        views = [memory[each] for each in ids] + [retired]
        before = [bytes(view) for view in views]
        with memory.allocate(PAGE) as block:
            memoryview(block)[:] = bytes(range(256)) * (PAGE // 256)
            memory.allocate(1 << 16).free()
            for _ in range(2):
                getattr(memory, way)()
                assert [bytes(view) for view in views] == before
                assert bytes(block) == bytes(range(256)) * (PAGE // 256)
        assert memory[1, 0] == content_of(1, 0)
        assert memory[learned, 0].text == text
        assert memory[4, 0].text == text
        del views, retired


@ways
def test_zeros_that_stand_for_a_page_that_is_gone_stay_an_error(world, way):
    path = world.write(1, n_layers=2, n_bytes=4 * PAGE)
    with manager(world) as memory:
        memory.load_dimension(1)
        first, last = memory[1, 0], memory[1, 1]
        before = bytes(first)
        os.truncate(path, 5 * PAGE)
        getattr(memory, way)()
        for _ in range(2):
            with pytest.raises(jm.RegionTruncated):
                bytes(last)
            assert bytes(first) == before
            getattr(memory, way)()


def copy_of(path) -> Mapping:
    with path.open("rb") as file:
        copy, sealed = unchangeable_copy(file.fileno(), str(path), path.stat().st_size)
    if sealed is not None:
        os.close(sealed)
    return copy


@pytest.mark.parametrize("to_system", [False, True])
def test_a_copy_in_the_place_of_a_file_is_never_given_back(tmp_path, to_system):
    path = tmp_path / "0.mmap"
    path.write_bytes(b"x" * 10 * PAGE)
    with path.open("rb") as file:
        mapping = Mapping(10 * PAGE, file.fileno())
    assert mapping.move(copy_of(path))
    path.write_bytes(b"y" * 10 * PAGE)
    mapping.give_back(to_system=to_system)
    assert bytes(mapping) == b"x" * 10 * PAGE
    assert mapping.move(copy_of(path)), "it has moved already"
    mapping.give_back(to_system=to_system)
    assert bytes(mapping) == b"x" * 10 * PAGE


def test_memory_without_a_file_is_never_given_back():
    mapping = Mapping(10 * PAGE)
    memoryview(mapping)[:] = b"z" * 10 * PAGE
    mapping.give_back()
    mapping.give_back(to_system=True)
    assert bytes(mapping) == b"z" * 10 * PAGE
    assert mapping.own_bytes() == 0


def test_giving_back_beside_a_copy_loses_nothing(tmp_path):
    """One thread gives pages back while another puts copies in their place."""
    current: list[Mapping] = []
    ended = threading.Event()

    def give_back():
        while not ended.is_set():
            for mapping in current[-1:]:
                mapping.give_back()

    thread = threading.Thread(target=give_back)
    thread.start()
    try:
        for number in range(100):
            path = tmp_path / f"{number}.mmap"
            path.write_bytes(b"%03d." % number * PAGE)
            with path.open("rb") as file:
                mapping = Mapping(4 * PAGE, file.fileno())
            current.append(mapping)
            assert mapping.move(copy_of(path))
            path.write_bytes(bytes(4 * PAGE))
            assert bytes(mapping) == b"%03d." % number * PAGE
            current.clear()
            path.unlink()
    finally:
        ended.set()
        thread.join()


@needs_proc
def test_pages_leave_this_process_alone_or_the_cache_too(world):
    path = world.write(1, n_layers=1, n_bytes=256 * PAGE)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # a page that is not on the disk cannot leave
    with manager(world) as memory:
        memory.load_dimension(1)
        memory.read_many([(1, 0)])
        memory.trim()
        assert memory.get_stats(residency=True).residency.resident_bytes >= 256 * PAGE
        memory.read_many([(1, 0)])
        memory.cool()
        assert own_file_bytes() == 0
        assert memory[1, 0] == content_of(1, 0, n_bytes=256 * PAGE)


@needs_proc
def test_prefetch_asks_for_all_layers_and_changes_nothing_that_is_read(world):
    """Also of what is not there, or has no such layer."""
    world.write_all(1, 2, 3, n_layers=2, n_bytes=4 * PAGE)
    paths = [jm.NavigationPath(1, [(1, 0), (2, 1), (1, 0)]), jm.NavigationPath(3, [(1, 7), (3, 0), (8, 0)])]
    with manager(world) as memory:
        memory.load_all()
        plain = memory.load_contexts(paths)
        found = memory.load_contexts(iter(paths), prefetch=True)
        assert [each.content for each in found] == [each.content for each in plain]
        assert found.missing == plain.missing == (jm.LayerId(1, 7), jm.LayerId(8, 0))
        with pytest.raises(jm.LayerNotFound):
            memory.load_contexts(paths, strict=True, prefetch=True)
        with memory.snapshot() as then:
            assert len(then.load_contexts(paths, prefetch=True)) == len(plain)
        memory.unload_dimension(2)
        assert (2, 1) in memory.load_contexts(paths, prefetch=True).missing
