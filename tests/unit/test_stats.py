"""Snapshots: frozen, complete as dict and JSON, and readable."""

import dataclasses
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from jessy_mem.context import LoadedContext
from jessy_mem.layout import LayerId
from jessy_mem.stats import (
    LatencySummary,
    Lease,
    LoadReport,
    MemoryStats,
    PoolClassStats,
    PoolStats,
    Residency,
    SegmentStats,
    format_bytes,
    format_ns,
)

MIB = 1 << 20
NONE = LatencySummary(0, 0, 0, 0, 0, 0, 0.0)
CLASS = PoolClassStats(16384, 100, 4, 9, 1, 50_000)
POOL = PoolStats((CLASS, PoolClassStats(65536, 10, 0, 2, 0, 0)), 65536, 8 * MIB, 2 * 65536)
STATS = MemoryStats(
    total_allocated_bytes=70 * MIB,
    total_used_bytes=60 * MIB,
    limit_bytes=100 * MIB,
    available_bytes=30 * MIB,
    utilization=70.0,
    pressure="ok",
    dimensions_loaded=5,
    layers_loaded=20,
    active_regions=4,
    leased_bytes=10 * MIB,
    evictable_bytes=40 * MIB,
    pinned_bytes=20 * MIB,
    peak_usage_bytes=80 * MIB,
    avg_access_latency_us=0.045,
    access_latency=LatencySummary(1000, 40, 50, 60, 70, 12_345, 45.0),
    first_touch_latency=LatencySummary(20, 900, 1000, 1100, 1200, 4_500_000, 950.0),
    load_latency=NONE,
    allocate_latency=NONE,
    deallocate_latency=NONE,
    crystallize_latency=NONE,
    access_count=1_234_567,
    load_count=6,
    allocation_count=7,
    deallocation_count=3,
    allocation_failures=2,
    crystallization_count=1,
    evictions=9,
    drops=8,
    copies=11,
    simulation_mode=True,
    simulated_dimensions=(3, 12),
    segments={
        "core": SegmentStats(50 * MIB, 60 * MIB, 55 * MIB),
        "user<1>": SegmentStats(20 * MIB, 40 * MIB, 30 * MIB),
    },
    pool=POOL,
    residency=Residency(50 * MIB, 40 * MIB, 3 * MIB, 65536, 0, 12_345),
)
SNAPSHOTS = [
    STATS, POOL, CLASS, NONE, STATS.segments["core"], STATS.residency, Lease(1, 2, 3, 4), LoadReport([1], [], {}),
]  # fmt: skip


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda each: type(each).__name__)
def test_a_snapshot_is_frozen(snapshot):
    for field in dataclasses.fields(snapshot):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(snapshot, field.name, 0)
    with pytest.raises((AttributeError, TypeError)):
        snapshot.something_else = 1


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (148 * MIB, "148 MiB"),
        (MIB - 1, "1024.0 KiB"), (3 << 30, "3 GiB"), (5 << 40, "5120 GiB"),
    ],
)  # fmt: skip
def test_format_bytes(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("t_ns", "text"),
    [(0, "0 ns"), (45, "45 ns"), (999, "999 ns"), (1000, "1 us"), (12_345, "12.3 us"), (4_500_000, "4.5 ms")],
)
def test_format_ns(t_ns, text):
    assert format_ns(t_ns) == text


def plain(value):
    """Whether `value` consists of nothing but what JSON has."""
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(plain, value.values()))
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (int, float, str, bool)


def test_plain_notices_what_json_has_not():
    assert plain({"a": [1, 2.0, "3", None, {"b": False}]})
    for wrong in ({1: 2}, {"a": (1, 2)}, {"a": NONE}, {"a": [{"b": {3}}]}):
        assert not plain(wrong)


CONTEXT = LoadedContext(LayerId(1, 0), "a", 1.0, ("word",), 0, "mmap")


@pytest.mark.parametrize("record", [*SNAPSHOTS, CONTEXT], ids=lambda record: type(record).__name__)
def test_repr_names_the_fields_in_every_thread(record):
    with ThreadPoolExecutor(1) as other:
        said = other.submit(repr, record).result()
    assert said == repr(record)
    assert said.startswith(f"{type(record).__name__}({dataclasses.fields(record)[0].name}=")
    assert eval(said, {**globals()}) == record


def test_to_dict_is_everything_for_json():
    known = STATS.to_dict()
    assert list(known) == [field.name for field in dataclasses.fields(MemoryStats)]
    assert plain(known)
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["simulated_dimensions"] == [3, 12]
    assert known["segments"]["core"] == {"used_bytes": 50 * MIB, "limit_bytes": 60 * MIB, "peak_bytes": 55 * MIB}
    assert known["pool"]["classes"][0]["block_size"] == 16384
    assert known["access_latency"]["p999"] == 70
    assert known["residency"]["resident_bytes"] == 40 * MIB
    assert dataclasses.replace(STATS, residency=None).to_dict()["residency"] is None


def test_to_dict_shares_nothing_with_the_snapshot():
    STATS.to_dict()["segments"].clear()
    STATS.to_dict()["pool"]["classes"].clear()
    assert STATS.to_dict()["segments"].keys() == STATS.segments.keys()
    assert len(STATS.to_dict()["pool"]["classes"]) == 2


def test_pool_numbers():
    assert POOL.requested_bytes == 50_000
    assert CLASS.fragmentation == 1 - 50_000 / (4 * 16384)
    assert POOL.classes[1].fragmentation == 0
    assert POOL.to_dict()["used_bytes"] == 65536


def test_a_segment_is_used_and_limit():
    used_bytes, limit_bytes = STATS.segments["core"]
    assert (used_bytes, limit_bytes) == (50 * MIB, 60 * MIB)


def test_text_shows_every_number_that_a_person_asks_for():
    text = str(STATS)
    for expected in (
        "70 MiB of 100 MiB (70.0 %, ok), peak 80 MiB",
        "leased 10 MiB, evictable 40 MiB, pinned 20 MiB, free 30 MiB",
        "core", "50 MiB of 60 MiB", "20 layers of 5 dimensions, 4 mapped", "1,234,567",
        "p50 40 ns, p99 60 ns, p99.9 70 ns, max 12.3 us", "max 4.5 ms", "9 evicted", "8 dropped", "11 payload copies",
        "1 crystallized", "7 allocated, 3 given back, 2 refused", "D03, D12", "40 MiB resident", "3 MiB committed",
    ):  # fmt: skip
        assert expected in text, expected
    assert all(len(line) < 150 for line in text.splitlines())


def test_text_leaves_out_what_there_is_not():
    text = str(dataclasses.replace(STATS, simulation_mode=False, simulated_dimensions=(), residency=None))
    assert "SIMULATED" not in text
    assert "resident" not in text
    assert str(NONE) == "none"


def test_html_shows_the_same_and_escapes():
    html = STATS._repr_html_()
    assert html.startswith("<table>")
    assert html.endswith("</table>")
    assert "user&lt;1&gt;" in html
    assert "<1>" not in html
    cells = re.findall(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td></tr>", html)
    assert len(cells) == len(str(STATS).splitlines()) == len(STATS.rows())


def test_every_field_shows_in_a_different_text():
    """No number is left out of `to_dict`, and the numbers of budget and states are all in `str`."""
    for field in dataclasses.fields(MemoryStats):
        value = getattr(STATS, field.name)
        if type(value) in (int, float):
            changed = dataclasses.replace(STATS, **{field.name: value + 7 * MIB})
            assert changed.to_dict() != STATS.to_dict()
            if field.name != "avg_access_latency_us":
                assert str(changed) != str(STATS), field.name


def test_lease_and_report_as_text():
    assert str(Lease(1, 2, 3 * MIB, 4)) == "D01 generation 2 (3 MiB, 4 views)"
    report = LoadReport([1, 2], [3], {15: ValueError("damaged"), 1000: KeyError("x")})
    assert str(report).splitlines() == ["2 loaded, 1 simulated, 2 skipped", "  D15: damaged", "  D1000: 'x'"]
