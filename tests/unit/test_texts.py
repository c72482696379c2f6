"""Texts that are kept: the same str for all who read a layer, counted, bounded, and the first to go."""

from __future__ import annotations

import os
import pickle
import tracemalloc

import changing
import inside
import pytest
from world import check_states, content_of, manager

import jessy_mem as jm
from jessy_mem import compression
from jessy_mem._core.budget import Ledger
from jessy_mem._core.texts import TextCache

N_BYTES = 50_000
MIB = 1 << 20


def text_at(dimension: int, layer: int, generation: int = 1, n_bytes: int = 1000) -> str:
    return content_of(dimension, layer, generation, n_bytes).decode()


def size_at(dimension: int, layer: int, n_bytes: int = 1000) -> int:
    return inside.kept_size(text_at(dimension, layer, n_bytes=n_bytes))


def kept_bytes(memory: jm.MmapManager) -> int:
    return memory.get_stats().text_bytes


def read_texts(memory: jm.MmapManager, dimension: int, n_layers: int = 4) -> list[str]:
    return [memory[dimension, layer].text for layer in range(n_layers)]


def test_all_who_read_a_layer_get_one_text(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory, memory.reader() as reader:
        memory.load_dimension(1)
        text = memory[1, 0].text
        assert text == text_at(1, 0)
        assert memory[1, 0].text is text
        assert reader[1, 0].text is text
        assert reader.load_context((1, 0)).content is text
        assert memory.load_context((1, 0)).content is text
        assert memory.load_contexts([jm.NavigationPath(1, [(1, 0)])])[0].content is text
        assert jm.LoadedContext.of(memory[1, 0]).content is text
        with memory.snapshot() as snapshot:
            assert snapshot[1, 0].text is text


def test_without_a_cache_each_reading_decodes(world):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        view = memory[1, 0]
        assert view.text == view.text
        assert view.text is not view.text
        assert kept_bytes(memory) == memory.get_stats(residency=True).residency.text_bytes == 0


def test_a_kept_text_is_no_copy(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory, memory.reader() as reader:
        memory.load_dimension(1)
        for layer in range(4):
            memory.load_context((1, layer))
            reader.load_context((1, layer))
        assert memory.get_stats().copies == 4
    with manager(world) as memory:
        memory.load_dimension(1)
        for _ in range(3):
            memory.load_context((1, 0))
        assert memory.get_stats().copies == 3


def test_what_is_kept_is_charged_and_shown(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        before = memory.get_stats()
        n_bytes = sum(map(inside.kept_size, read_texts(memory, 1)))
        stats = memory.get_stats(residency=True)
        check_states(stats)
        assert stats.text_bytes == stats.residency.text_bytes == n_bytes
        assert stats.total_allocated_bytes == before.total_allocated_bytes + n_bytes
        assert stats.evictable_bytes == before.evictable_bytes + n_bytes
        assert stats.segments["reserve"].used_bytes == n_bytes
        assert (stats.leased_bytes, stats.residency.pool_used_bytes) == (0, 0)
        assert {sample.name: sample.value for sample in jm.metrics(memory)}["jessy_mem_text_bytes"] == n_bytes
        assert "of text kept" in str(stats)


def test_the_oldest_go_and_who_was_found_again_stays(world):
    world.write(1, n_layers=5, n_bytes=N_BYTES)
    room_mb = (4 * size_at(1, 0, N_BYTES) + 10) / MIB
    with manager(world, text_cache_mb=room_mb) as memory:
        memory.load_dimension(1)
        texts = read_texts(memory, 1)
        assert memory[1, 0].text is texts[0]  # found again
        assert memory[1, 4].text == text_at(1, 4, n_bytes=N_BYTES)
        assert memory[1, 0].text is texts[0], "a second chance"
        assert memory[1, 2].text is texts[2]
        assert kept_bytes(memory) == 4 * size_at(1, 0, N_BYTES)
        assert memory[1, 1].text is not texts[1], "the oldest that was not found again"


def test_what_is_larger_than_the_bound_is_not_kept_and_sheds_nothing(world):
    world.write(1)
    world.write(2, n_bytes=N_BYTES)
    with manager(world, text_cache_mb=20_000 / MIB) as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        texts = read_texts(memory, 1)
        assert memory[2, 0].text is not memory[2, 0].text
        assert all(memory[1, layer].text is texts[layer] for layer in range(4))


def test_texts_go_before_a_region_when_a_file_needs_room(world):
    world.write_all(1, 2, n_bytes=N_BYTES)
    world.write(3, n_layers=9, n_bytes=N_BYTES)
    thresholds = {"warning_threshold": 100, "eviction_threshold": 100, "critical_threshold": 100}
    with manager(world, 1, text_cache_mb=1, **thresholds) as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        read_texts(memory, 1)
        text = memory[2, 0].text
        n_bytes = kept_bytes(memory)
        memory.load_dimension(3)
        assert kept_bytes(memory) < n_bytes
        assert memory.get_stats().evictions == 0
        assert memory[2, 0].text == text
        check_states(memory.get_stats())


def test_texts_go_before_a_region_when_a_block_needs_room(world):
    world.write_all(1, 2, n_bytes=N_BYTES)
    with manager(world, 1, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        memory.load_dimension(2)
        read_texts(memory, 1)
        block = memory.allocate(int(0.95 * MIB) - memory.get_stats().segments["core"].used_bytes - 40_000)
        assert kept_bytes(memory) == 0
        assert block.n_bytes > 0
        check_states(memory.get_stats())


def test_texts_go_first_when_a_threshold_is_crossed(world):
    world.write_all(1, 2, 3, n_bytes=N_BYTES)
    with manager(world, 1, text_cache_mb=1, warning_threshold=55, eviction_threshold=64) as memory:
        told = []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append(level))
        memory.load_dimension(1)
        memory.load_dimension(2)
        read_texts(memory, 1)
        read_texts(memory, 2)
        assert told == [], "a text passes no threshold"
        assert kept_bytes(memory) > 0
        assert memory.get_stats().total_allocated_bytes < 0.55 * MIB
        memory.load_dimension(3)
        assert told == ["warning", "eviction"]
        assert (kept_bytes(memory), memory.get_stats().evictions) == (0, 0)
        assert memory[1, 0].text is not memory[1, 0].text, "above the first threshold nothing is kept in addition"
        assert kept_bytes(memory) == 0


def test_a_full_segment_refuses_no_reader(world):
    world.write(1)
    with manager(world, 1, layout=jm.MemoryLayout.free(1), text_cache_mb=1) as memory:
        memory.load_dimension(1)
        block = memory.allocate(int(0.75 * MIB) - 1)
        assert memory[1, 0].text == text_at(1, 0)
        assert kept_bytes(memory) == 0
        assert memory.get_stats().allocation_failures == 0
        block.free()
        assert memory[1, 0].text is memory[1, 0].text


@pytest.mark.parametrize(
    "change", [changing.update, changing.reload, changing.load_again, changing.evict], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("is_held", [False, True])
def test_after_a_change_each_generation_has_its_own_text(world, change, is_held):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        old = memory[1, 0] if is_held else None
        first = memory[1, 0].text
        change(memory, world)
        assert memory[1, 0].text == text_at(1, 0, 2)
        assert memory[1, 0].text is memory[1, 0].text
        assert first == text_at(1, 0)
        if old is not None:
            assert old.text == first
            assert old.text is old.text, "it is kept as long as its generation is"
        del old
        if not is_held or change is not changing.update:  # whose old file still has the other layers
            assert kept_bytes(memory) == size_at(1, 0), "nothing is left of the old generation"


def test_what_is_unloaded_or_forgotten_leaves_nothing(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        humor = memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke " * 100)])
        read_texts(memory, 1)
        assert memory[humor, 0].text is memory[humor, 0].text
        memory.crystallize(humor)
        assert memory[humor, 0].text is memory[humor, 0].text
        memory.forget(humor)
        memory.unload_dimension(1)
        stats = memory.get_stats()
        assert (stats.text_bytes, stats.total_allocated_bytes) == (0, 0)


def test_the_text_of_a_replaced_layer_goes_at_once(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        texts = read_texts(memory, 1)
        memory.append_layer(1, jm.LayerSpec(text="another"))
        assert all(memory[1, layer].text is texts[layer] for layer in range(4))
        memory.update_layer((1, 0), jm.LayerSpec(text="another"))
        memory.remove_layer((1, 1))
        assert kept_bytes(memory) == sum(map(inside.kept_size, texts[2:]))


@pytest.mark.parametrize("shrink", [jm.MmapManager.trim, jm.MmapManager.cool])
def test_trim_and_cool_keep_no_text(world, shrink):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        view, text = memory[1, 0], memory[1, 0].text
        shrink(memory)
        assert kept_bytes(memory) == 0
        assert view.text == text
        assert view.text is view.text


def test_after_the_end_nothing_is_kept(world):
    world.write(1)
    memory = manager(world, text_cache_mb=1)
    memory.load_dimension(1)
    view = memory[1, 0]
    text = view.text
    memory.close()
    assert view.text == text
    assert view.text is not view.text
    del view
    stats = memory.get_stats()
    assert (stats.text_bytes, stats.total_allocated_bytes) == (0, 0)


def test_a_view_outlives_its_manager_with_its_text(world):
    world.write(1)
    memory = manager(world, text_cache_mb=1)
    memory.load_dimension(1)
    view = memory[1, 0]
    assert view.text is view.text
    del memory
    assert view.text == text_at(1, 0)


@pytest.mark.skipif(not compression.is_available(), reason="there is no zstd")
def test_a_compressed_layer_is_kept_as_any_other(world):
    path = jm.region_path(world.base, 1)
    jm.RegionBuilder(1, "One").add_layer(jm.LayerSpec(text="so " * 5000, compress=True)).write(path)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        assert memory[1, 0].text is memory[1, 0].text
        assert memory[1, 0].text == "so " * 5000


def test_what_is_no_text_is_an_error_each_time(world):
    path = jm.region_path(world.base, 1)
    jm.RegionBuilder(1, "One").add_layer(jm.LayerSpec(content=b"\xff" * 100)).write(path)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        for _ in range(2):
            with pytest.raises(UnicodeDecodeError, match="in layer D01/L0"):
                _ = memory[1, 0].text
        assert kept_bytes(memory) == 0


def test_short_texts_are_kept_too(world):
    path = jm.region_path(world.base, 1)
    texts = ["", "a", "é", "天", "some"]
    builder = jm.RegionBuilder(1, "One")
    for text in texts:
        builder.add_layer(jm.LayerSpec(text=text))
    builder.write(path)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        assert [memory[1, layer].text for layer in range(5)] == texts
        assert kept_bytes(memory) == sum(map(inside.kept_size, texts))
        memory.trim()
        assert read_texts(memory, 1, 5) == texts


def test_a_pickled_manager_keeps_texts_as_well(world):
    world.write(1)
    with manager(world, text_cache_mb=0.5) as memory:
        memory.load_dimension(1)
        text = memory[1, 0].text
        with pickle.loads(pickle.dumps(memory)) as other:
            assert other.config.text_cache_mb == 0.5
            assert other[1, 0].text == text
            assert other[1, 0].text is other[1, 0].text


def test_a_child_has_what_was_kept_and_keeps_more(world):
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        text = memory[1, 0].text
        pid = os.fork()
        if pid == 0:
            is_right = memory[1, 0].text is text and memory[1, 1].text is memory[1, 1].text
            memory.trim()
            os._exit(0 if is_right and kept_bytes(memory) == 0 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert kept_bytes(memory) == size_at(1, 0)


def test_a_shortened_file_shows_what_was_kept_or_an_error(world):
    path = world.write(1, n_bytes=N_BYTES)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        text = memory[1, 3].text
        memory[1, 2]
        os.truncate(path, 4096)
        assert memory[1, 3].text is text
        with pytest.raises(jm.RegionTruncated):
            _ = memory[1, 2].text


def test_a_cache_alone():
    ledger = Ledger(1000, {"a": 1000})
    with pytest.raises(ValueError, match="segment 'b'"):
        TextCache(ledger, "b", 10)
    cache = TextCache(ledger, "a", 10)
    assert (cache.used_bytes, cache.shed(5), cache.shed(-5)) == (0, 0, 0)
    with pytest.raises(TypeError, match="once"):
        cache.__init__(ledger, "a", 10)
    cache.close()


def test_texts_of_what_is_held_do_not_lease(world):
    """Who holds a text holds no dimension."""
    world.write(1)
    with manager(world, text_cache_mb=1) as memory:
        memory.load_dimension(1)
        texts = read_texts(memory, 1)
        assert memory.leases() == []
        inside.evict(memory)
        assert memory.get_stats().active_regions == kept_bytes(memory) == 0
        assert texts == [text_at(1, layer) for layer in range(4)]


@pytest.mark.thread_unsafe(reason="tracemalloc counts for all threads")
def test_what_keeps_a_text_is_charged_too(world):
    n_layers = 5000
    world.write(1, n_layers=n_layers, n_bytes=50)
    with manager(world, text_cache_mb=4) as memory:
        memory.load_dimension(1)
        views = memory.access_many([(1, layer) for layer in range(n_layers)])
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            assert all(len(view.text) == 50 for view in views)
            n_bytes = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert 0.8 * n_bytes < kept_bytes(memory) < 1.2 * n_bytes
