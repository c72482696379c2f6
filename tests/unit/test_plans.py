"""The budget's plan: one's own, none, or the bundled one, larger with the total."""

from __future__ import annotations

import json

import pytest
from world import MIB, World, manager

import jessy_mem as jm

OWN = {
    "dimensions": [],
    "total_mb": 32,
    "segments": [
        {"name": "books", "share": 0.5, "dimensions": [[1, 99]]},
        {"name": "reserve", "share": 0.25, "dimensions": [[100, 999]]},
        {"name": "people", "share": 0.25, "dimensions": [[1000, 9999]]},
    ],
}


def limits(memory):
    return {name: segment.limit_bytes // MIB for name, segment in memory.get_stats().segments.items()}


def test_layout_without_segments_has_room_for_any_dimension(tmp_path):
    with manager(tmp_path, 64, layout=jm.MemoryLayout.free(64)) as memory:
        assert limits(memory) == {"memory": 64}
        dimension = memory.create_proto_dimension("Large", [jm.LayerSpec(content=bytes(25 * MIB))])
        memory.crystallize(dimension)
        user = memory.create_proto_dimension("Ann", [jm.LayerSpec(text="x")], user=True)
        assert (dimension, user, memory.user_dimensions()) == (15, 1000, [1000])
        assert memory.get_stats().segments["memory"].used_bytes == memory.get_stats().total_allocated_bytes
        with memory.allocate(1000) as block:
            assert block.capacity == 4096
        assert memory.resolve(memory.address_of((dimension, 0)))[0] == dimension
    with manager(tmp_path) as memory:
        assert memory.load_all().loaded == [15, 1000]


def test_layout_of_ones_own_may_come_from_a_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(OWN))
    for layout in (path, str(path), jm.MemoryLayout(OWN)):
        with manager(tmp_path / "base", 32, layout=layout) as memory:
            assert limits(memory) == {"books": 16, "reserve": 8, "people": 8}
            dimension = memory.create_proto_dimension(f"Learned {layout}"[-60:], [jm.LayerSpec(text="x")])
            assert dimension >= 100
            assert memory.get_stats().segments["reserve"].used_bytes == 4096
            memory.forget(dimension)
            json.dumps(memory.dump_state())


@pytest.mark.parametrize("layout", ["nowhere.json", 7, b"\0", {"segments": []}])
def test_layout_that_is_none_is_refused(tmp_path, layout):
    with pytest.raises(ValueError, match=r"^layout: "):
        jm.MemoryConfig(layout=layout)


def test_larger_total_scales_slots_and_segments(tmp_path):
    World(tmp_path).write(15, n_layers=1, n_bytes=90 * MIB // 50)
    with manager(tmp_path, 560) as memory:
        assert limits(memory) == {"core": 336, "reserve": 160, "user": 64}
        slots = jm.default_layout()
        assert all(memory.layout.slot_bytes(each) == 2 * slots.slot_bytes(each) for each in slots.dimensions)
        large = memory.create_proto_dimension("Large", [jm.LayerSpec(content=bytes(90 * MIB))])
        memory.crystallize(large)
        assert memory.access_layer((large, 0)).source == "mmap"
    with manager(tmp_path, 280) as memory, pytest.raises(jm.LimitExceeded):
        memory.load_dimension(large)


def test_smaller_total_binds_first(tmp_path):
    with manager(tmp_path, 64) as memory:
        assert limits(memory) == {"core": 168, "reserve": 80, "user": 32}
        assert memory.get_stats().limit_bytes == 64 * MIB
