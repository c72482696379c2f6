"""The plan: layer ids, slots, segments, addresses, and the bundled dimensions.json."""

from __future__ import annotations

import copy
import json
import math
import pickle
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jessy_mem.errors import OutOfBounds
from jessy_mem.layout import (
    LayerId,
    MemoryLayout,
    data_folder,
    default_layout,
    dimension_folder,
    region_path,
)

MIB = 1 << 20
# The plan of the seed, by its size column: name, MiB, central frequency in Hz.
PLAN = [
    ("Emotion", 16, 1.0), ("Cognition", 16, 2.0), ("Intention", 16, 1.5), ("Social", 8, 1.8), ("Temporal", 8, 0.5),
    ("Philosophy", 16, 0.3), ("Technical", 12, 2.5), ("Creative", 8, 3.0), ("Ethical", 12, 1.0), ("Meta", 8, 1.2),
    ("Ecological", 8, 0.4), ("Positivity", 8, 2.8), ("Balance", 8, 1.0), ("Security", 4, 2.0),
]  # fmt: skip


@pytest.fixture
def plan():
    return json.loads((data_folder() / "dimensions.json").read_text(encoding="utf-8"))


# Layer ids --------------------------------------------------------------------------------------------------------


def test_layer_id_is_a_tuple_of_ints_with_a_name():
    layer_id = LayerId(1, 0)
    assert layer_id == (1, 0)
    assert hash(layer_id) == hash((1, 0))
    assert (layer_id.dimension, layer_id.layer) == tuple(layer_id)
    assert (str(layer_id), str(LayerId(15, 3)), str(LayerId(1000, 65535))) == ("D01/L0", "D15/L3", "D1000/L65535")
    assert pickle.loads(pickle.dumps(layer_id)) == layer_id
    assert sorted([LayerId(2, 0), LayerId(1, 9)]) == [(1, 9), (2, 0)]


@pytest.mark.parametrize(
    ("text", "layer_id"),
    [("D01/L0", (1, 0)), ("D1/L0", (1, 0)), ("d14/l3", (14, 3)), (" D1000/L65535\n", (1000, 65535)),
     ("D4294967295/L0", (2**32 - 1, 0)), ("D01/L00003", (1, 3))],
)  # fmt: skip
def test_name_of_a_layer_is_read(text, layer_id):
    parsed = LayerId.parse(text)
    assert parsed == layer_id
    assert type(parsed) is LayerId


@pytest.mark.parametrize(
    "text", ["", "D01", "L0", "01/0", "D01/L", "D/L0", "D01-L0", "D01/L0/", "D-1/L0", "D01/L-1", "D00/L0", "D01/L65536",
             "D4294967296/L0", "D01/L0 D01/L1", "D0x1/L0", "D\uff11/L0", "D01 /L0"],
)  # fmt: skip
def test_text_that_names_no_layer_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        LayerId.parse(text)


@pytest.mark.parametrize("layer_id", [(1, 0), [1, 0], LayerId(1, 0), (np.int64(1), np.uint8(0)), (True, False)])
def test_pair_of_ints_is_a_layer_id(layer_id):
    checked = LayerId.checked(layer_id)
    assert checked == (1, 0)
    assert (type(checked), type(checked.dimension), type(checked.layer)) == (LayerId, int, int)


@pytest.mark.parametrize(
    "layer_id", [1, None, (), (1,), (1, 0, 0), ("1", "0"), (1.0, 0), (1, 0.5), "D01/L0", (1, None)]
)
def test_what_is_no_pair_of_ints_is_a_type_error(layer_id):
    with pytest.raises(TypeError, match="is not a layer id: expected"):
        LayerId.checked(layer_id)


@pytest.mark.parametrize("layer_id", [(0, 0), (-1, 0), (2**32, 0), (1, -1), (1, 65536), (1, 2**64)])
def test_number_out_of_range_is_a_value_error(layer_id):
    with pytest.raises(ValueError, match=r"expected [01]\.\."):
        LayerId.checked(layer_id)


def test_folder_of_a_dimension_has_two_digits_or_more():
    assert [dimension_folder(number) for number in (1, 14, 100, 1000)] == ["D01", "D14", "D100", "D1000"]
    assert Path(region_path("base", 7)) == Path("base/D07/region.mmap")
    assert Path(region_path(Path("/base"), 1000)) == Path("/base/D1000/region.mmap")


# The bundled plan -------------------------------------------------------------------------------------------------


def test_bundled_plan_is_the_size_column_of_the_seed():
    layout = default_layout()
    assert list(layout.dimensions) == list(range(1, 15))
    planned = [(each.name, each.size_bytes // MIB, each.frequency) for each in layout.dimensions.values()]
    assert planned == PLAN
    assert [each.id for each in layout.dimensions.values() if each.immutable] == [9, 14]
    assert layout.total_bytes == 280 * MIB == 0x11800000


def test_bundled_segments_follow_each_other_to_280_mib():
    segments = [(each.name, each.address, each.size_bytes, each.first_dimension) for each in default_layout().segments]
    assert segments == [
        ("core", 0, 168 * MIB, 1), ("reserve", 0x0A800000, 80 * MIB, 15), ("user", 0x0F800000, 32 * MIB, 1000)
    ]  # fmt: skip


def test_bundled_slots_follow_each_other_from_0():
    address = 0
    for planned in default_layout().dimensions.values():
        assert planned.address == address
        address += planned.size_bytes
    assert address == 148 * MIB == 0x09400000


def test_bundled_layers_are_four_from_the_surface_to_the_core():
    for planned in default_layout().dimensions.values():
        low, high = planned.frequency_band
        assert 0.1 <= low < planned.frequency < high <= 4.5
        assert [(layer.layer, layer.depth) for layer in planned.layers] == [(i, i) for i in range(4)]
        for layer in planned.layers:
            assert low <= layer.frequency <= high
            assert 6 <= len(layer.keywords) <= 12
            assert len(set(layer.keywords)) == len(layer.keywords)
            assert all(word == word.strip() and word for word in layer.keywords)


def test_bundled_texts_are_those_of_the_plan():
    texts = sorted((data_folder() / "content").glob("*/*.md"))
    expected = [f"D{dimension:02d}/{layer}.md" for dimension in range(1, 15) for layer in range(4)]
    assert [f"{path.parent.name}/{path.name}" for path in texts] == expected
    contents = [path.read_text(encoding="utf-8") for path in texts]
    assert all(120 <= len(text.split()) <= 400 for text in contents)
    assert len(set(contents)) == 56


def test_default_layout_is_read_once():
    assert default_layout() is default_layout()


# Which address, which segment, which slot -------------------------------------------------------------------------


def test_address_is_resolved_to_its_slot():
    layout = default_layout()
    for planned in layout.dimensions.values():
        assert layout.resolve(planned.address) == (planned.id, 0)
        assert layout.resolve(planned.address + planned.size_bytes - 1) == (planned.id, planned.size_bytes - 1)
    assert layout.resolve(0x01000000) == (2, 0)
    assert layout.resolve(0x00FFFFFF) == (1, 0xFFFFFF)


@pytest.mark.parametrize("address", [-1, 148 * MIB, 168 * MIB, 280 * MIB - 1, 280 * MIB, 2**64, -(2**63)])
def test_address_outside_the_slots_is_out_of_bounds(address):
    with pytest.raises(OutOfBounds) as caught:
        default_layout().resolve(address)
    assert (caught.value.offset, caught.value.region_size) == (address, 280 * MIB)


@pytest.mark.parametrize(
    ("dimension", "segment", "slot_mib"),
    [(1, "core", 16), (14, "core", 4), (15, "reserve", 80), (999, "reserve", 80), (1000, "user", 32),
     (2**31 - 1, "user", 32), (2**31, "reserve", 80), (2**32 - 1, "reserve", 80)],
)  # fmt: skip
def test_segment_and_slot_of_a_dimension(dimension, segment, slot_mib):
    layout = default_layout()
    assert layout.segment_of(dimension).name == segment
    assert layout.slot_bytes(dimension) == slot_mib * MIB
    assert layout.is_immutable(dimension) == (dimension in (9, 14))


# Other plans ------------------------------------------------------------------------------------------------------


def test_plan_is_read_from_a_file(plan, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert MemoryLayout.from_json(tmp_path / "plan.json").dimensions == default_layout().dimensions


def test_layout_cannot_be_changed():
    layout = default_layout()
    with pytest.raises(TypeError):
        layout.dimensions[1] = None
    with pytest.raises(AttributeError):
        layout.dimensions[1].size_bytes = 0
    with pytest.raises(AttributeError):
        layout.segments[0].size_bytes = 0


def without(plan, *path):
    changed = copy.deepcopy(plan)
    at = changed
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return changed


def changed(plan, value, *path):
    plan = copy.deepcopy(plan)
    at = plan
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return plan


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("dimensions",), "dimensions"),
        (("segments",), "segments"),
        (("dimensions", 2, "name"), "name"),
        (("dimensions", 2, "id"), "id"),
        (("dimensions", 2, "size_mb"), "size_mb"),
        (("dimensions", 2, "frequency_band"), "frequency_band"),
        (("dimensions", 2, "layers"), "layers"),
        (("dimensions", 2, "layers", 1, "keywords"), "keywords"),
        (("segments", 1, "first_dimension"), "first_dimension"),
    ],
)
def test_plan_that_is_incomplete_names_what_is_missing(path, where, plan):
    with pytest.raises(ValueError, match=f"incomplete.*{where}"):
        MemoryLayout(without(plan, *path))


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (1, ("dimensions", 2, "id"), "dimension 1 is planned twice"),
        (0, ("dimensions", 2, "id"), "dimension 0: expected"),
        (61, ("dimensions", 2, "size_mb"), "do not fit into core"),
        (0, ("dimensions", 2, "size_mb"), "size_mb: 0 is not a number of MiB above 0"),
        (-4, ("dimensions", 2, "size_mb"), "size_mb: -4 is not"),
        ("16", ("dimensions", 2, "size_mb"), "size_mb: '16' is not"),
        (0, ("segments", 0, "size_mb"), "size_mb: 0 is not"),
        ([], ("segments",), "there is no segment"),
        (15, ("segments", 2, "first_dimension"), "segments: their first dimensions do not ascend from 1"),
        (2, ("segments", 0, "first_dimension"), "segments: their first dimensions do not ascend from 1"),
        (math.nan, ("segments", 1, "first_dimension"), "integer"),
        (7, ("segments", 0, "name"), "segments: name: 7 is not str"),
        ("", ("segments", 0, "name"), "segments: name: '' does not take 1..64 bytes"),
        (None, ("dimensions", 2, "name"), "dimension 3: name: None is not str"),
        ("x" * 65, ("dimensions", 2, "name"), "dimension 3: name: 'x+' does not take 1..64 bytes"),
        ("\ud800", ("dimensions", 2, "name"), "dimension 3: name: "),
        ("no", ("dimensions", 2, "immutable"), "dimension 3: immutable: 'no' is not True or False"),
        (math.nan, ("dimensions", 2, "frequency"), "dimension 3: frequency: nan is not a finite"),
        (1e39, ("dimensions", 2, "frequency"), "dimension 3: frequency: 1e.39 is not a finite"),
        ("1", ("dimensions", 2, "frequency"), "dimension 3: frequency: '1' is not a number"),
        ([2, 1], ("dimensions", 2, "frequency_band"), "dimension 3: frequency_band: .2, 1. does not ascend"),
        ([1], ("dimensions", 2, "frequency_band"), "dimension 3: frequency_band: "),
        (None, ("dimensions", 2, "layers", 1, "depth"), "dimension 3: depth: None is not in 0..255"),
        (65536, ("dimensions", 2, "layers", 1, "layer"), "dimension 3: layer: 65536 is not in"),
        (0, ("dimensions", 2, "layers", 1, "layer"), "dimension 3: layers: two have the same number"),
        (0, ("dimensions", 2, "layers", 1, "frequency"), "dimension 3: frequency: 0 is not a finite"),
        ("abc", ("dimensions", 2, "layers", 1, "keywords"), "dimension 3: keywords: 'abc' is not"),
        ([1], ("dimensions", 2, "layers", 1, "keywords"), "dimension 3: keywords: .1,. is not"),
    ],
)
def test_plan_that_is_wrong_says_how(value, path, message, plan):
    with pytest.raises(ValueError, match=message):
        MemoryLayout(changed(plan, value, *path))


# One's own layouts ------------------------------------------------------------------------------------------------

RANGES = {"reserve": ((15, 999), (2**31, 2**32 - 1)), "user": ((1000, 2**31 - 1),)}


def test_ids_of_the_bundled_plan_do_not_end():
    layout = default_layout()
    assert {name: layout.ids_of(name) for name in ("reserve", "user")} == RANGES
    assert layout.id_ranges == ((15, 999), (1000, 2**31 - 1), (2**31, 2**32 - 1))
    assert layout.segments[0].dimensions == ((1, 14),)
    assert [d for d in (1, 999, 1000, 2**31 - 1, 2**31, 2**32 - 1) if layout.is_user(d)] == [1000, 2**31 - 1]


@pytest.mark.parametrize("total_mb", [1, 64, 0.5, 100_000])
def test_free_layout_has_one_segment_and_no_slots(total_mb):
    layout = MemoryLayout.free(total_mb)
    assert layout.total_bytes == total_mb * MIB
    assert dict(layout.dimensions) == {}
    assert [(each.name, each.address) for each in layout.segments] == [("memory", 0)]
    for dimension in (1, 15, 1000, 2**31, 2**32 - 1):
        assert layout.segment_of(dimension) is layout.segments[0]
        assert layout.slot_bytes(dimension) == total_mb * MIB
        assert not layout.is_immutable(dimension)
    # The ids are those of the plan: both may be used on one base folder.
    assert {name: layout.ids_of(name) for name in ("reserve", "user")} == RANGES
    with pytest.raises(OutOfBounds):
        layout.resolve(0)


@pytest.mark.parametrize("total_mb", [0, -1, "64", None, True, float("nan"), float("inf"), 1e-9])
def test_free_layout_of_no_size_is_refused(total_mb):
    with pytest.raises(ValueError, match="is not a number of MiB above 0"):
        MemoryLayout.free(total_mb)


@pytest.mark.parametrize("dimension", [0, -1])
def test_no_segment_pays_for_what_is_no_dimension(dimension):
    for layout in (default_layout(), MemoryLayout.free(1)):
        with pytest.raises(ValueError, match="expected at least 1"):
            layout.segment_of(dimension)


@pytest.mark.parametrize("factor", [1.5, 10, 1000 / 3])
def test_scaled_layout_is_larger_everywhere_alike(factor):
    plain, total_bytes = default_layout(), int(280 * MIB * factor)
    layout = plain.scaled(total_bytes)
    assert 0 <= total_bytes - layout.total_bytes < len(layout.segments)
    for old, new in [*zip(plain.segments, layout.segments, strict=True),
                     *zip(plain.dimensions.values(), layout.dimensions.values(), strict=True)]:  # fmt: skip
        assert new.size_bytes == old.size_bytes * total_bytes // (280 * MIB)
    for parts in (layout.segments, list(layout.dimensions.values())):
        assert [each.address for each in parts] == [sum(e.size_bytes for e in parts[:i]) for i in range(len(parts))]
    assert sum(each.size_bytes for each in layout.dimensions.values()) <= layout.segments[0].size_bytes
    assert layout.slot_bytes(20) == layout.segments[1].size_bytes
    last = layout.dimensions[14]
    assert layout.resolve(last.address + last.size_bytes - 1) == (14, last.size_bytes - 1)
    assert layout.id_ranges == plain.id_ranges
    assert layout.is_immutable(9)


@pytest.mark.parametrize("total_bytes", [0, 1, 279 * MIB, 280 * MIB])
def test_small_total_leaves_the_ceilings(total_bytes):
    assert default_layout().scaled(total_bytes) is default_layout()


def test_segments_of_ones_own(plan):
    layout = MemoryLayout({"total_mb": 100, "dimensions": plan["dimensions"][:1], "segments": [
        {"name": "fixed", "size_mb": 16, "dimensions": [[1, 9]]},
        {"name": "user", "share": 0.25, "dimensions": [[100, 199], [300, 399]]},
        {"name": "rest", "share": 0.5, "dimensions": [[200, 299]]},
    ]})  # fmt: skip
    assert [each.size_bytes for each in layout.segments] == [16 * MIB, 25 * MIB, 50 * MIB]
    assert [each.address for each in layout.segments] == [0, 16 * MIB, 41 * MIB]
    assert [each.first_dimension for each in layout.segments] == [1, 100, 200]
    named = {1: "fixed", 9: "fixed", 100: "user", 199: "user", 200: "rest", 299: "rest", 300: "user", 399: "user"}
    assert {dimension: layout.segment_of(dimension).name for dimension in named} == named
    for dimension in (10, 99, 400, 2**32 - 1):  # of no range
        assert layout.segment_of(dimension).name == "rest"
    assert layout.ids_of("user") == ((100, 199), (300, 399))
    assert layout.ids_of("reserve") == RANGES["reserve"]
    assert layout.ids_of("rest") == ((200, 299),)
    with pytest.raises(ValueError, match="'core' is not one of fixed, user, rest"):
        layout.ids_of("core")


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"name": "a", "size_mb": 1, "dimensions": []}], "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[0, 5]]}], "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[5, 4]]}], "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[1, 2**32]]}], "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[1, 5], [5, 9]]}], "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[1, 5]]}, {"name": "b", "size_mb": 1, "dimensions": [[3, 4]]}],
         "lie apart"),
        ([{"name": "a", "size_mb": 1, "dimensions": [["1", 5]]}], "incomplete"),
        ([{"name": "a", "size_mb": 1, "dimensions": [1, 5]}], "incomplete"),
        ([{"name": "a", "size_mb": 1, "dimensions": [[1, 5]]}, {"name": "b", "size_mb": 1, "first_dimension": 9}],
         "some have dimensions and some have not"),
        ([{"name": "a", "size_mb": 1, "first_dimension": 1}, {"name": "a", "size_mb": 1, "first_dimension": 9}],
         "the same name"),
        ([{"name": "a", "size_mb": 1, "first_dimension": 1}, {"name": "b", "size_mb": 1, "first_dimension": 2**31}],
         "do not ascend"),
        ([{"name": "a", "share": 0, "first_dimension": 1}], "share: 0 is not a share"),
        ([{"name": "a", "share": 1.5, "first_dimension": 1}], "share: 1.5 is not a share"),
        ([{"name": "a", "share": 0.5, "first_dimension": 1}], "the plan: size_mb: None"),
    ],
)  # fmt: skip
def test_segments_that_are_wrong_say_how(segments, message):
    with pytest.raises(ValueError, match=message):
        MemoryLayout({"dimensions": [], "segments": segments})


def test_layouts_are_equal_when_they_plan_the_same_and_travel_through_pickle(plan):
    layouts = [default_layout(), MemoryLayout.free(64), default_layout().scaled(1000 * MIB)]
    for layout in layouts:
        again = pickle.loads(pickle.dumps(layout))
        assert again == layout
        assert hash(again) == hash(layout)
        assert again.total_bytes == layout.total_bytes
        assert again.id_ranges == layout.id_ranges
    assert len(set(layouts)) == 3
    assert MemoryLayout(plan) == default_layout() != plan


@pytest.mark.parametrize("total_mb", [np.int64(64), np.float32(64), np.array(64), Decimal(64), Fraction(128, 2)])
def test_sizes_of_a_layout_are_numbers_of_any_kind(total_mb):
    assert MemoryLayout.free(total_mb) == MemoryLayout.free(64)
    entry = {"name": "memory", "size_mb": total_mb, "first_dimension": np.int16(1)}
    assert MemoryLayout({"dimensions": [], "segments": [entry]}) == MemoryLayout.free(64)


@pytest.mark.parametrize("total_mb", [Decimal("NaN"), np.float64("inf"), np.bool_(True), "64", Fraction(-1, 2), 1j])
def test_sizes_that_are_no_numbers_are_told(total_mb):
    with pytest.raises(ValueError, match=r"memory: size_mb: .* is not a number of MiB above 0"):
        MemoryLayout.free(total_mb)


def test_plan_that_is_no_json_is_told_with_its_line(tmp_path):
    (tmp_path / "plan.json").write_text('{"segments": [],\n oops}')
    with pytest.raises(ValueError, match=r"plan\.json:2: "):
        MemoryLayout.from_json(tmp_path / "plan.json")


def test_plan_that_is_nested_too_deeply_is_told(tmp_path):
    (tmp_path / "plan.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"plan\.json: "):
        MemoryLayout.from_json(tmp_path / "plan.json")
