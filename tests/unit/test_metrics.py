"""Metrics: samples against the statistics they come from, and the adapters against the real libraries."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from world import MIB, manager

import jessy_mem as jm
from jessy_mem.exporters import FAMILIES, HISTOGRAM, HISTOGRAM_HELP, prometheus_collector, register_opentelemetry
from jessy_mem.manager import open_managers


@pytest.fixture
def busy(world):
    """A manager that has done something of everything that is counted."""
    world.write_all(1, 2, 9)
    with manager(world, simulation="always", total_memory_mb=64) as memory:
        memory.load_dimension(1)
        with manager(world) as other:
            other.load_dimension(2)
        for _ in range(5):
            memory.load_context((1, 0))
        memory.deallocate(memory.allocate(5000))
        kept = memory.allocate(5000)
        humor = memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke", frequency=2.2)])
        memory.crystallize(humor)
        with pytest.raises(jm.LimitExceeded):
            memory.allocate(100 * MIB)
        yield memory
        del kept


def by_key(samples):
    """{(name, value of the own label, ...): value}, the labels of the manager left out."""
    return {
        (sample.name.removeprefix("jessy_mem_"), *list(sample.labels.values())[2:]): sample.value for sample in samples
    }


def test_samples_are_the_numbers_of_the_statistics(busy):
    stats, found = busy.get_stats(), by_key(jm.metrics(busy))
    expected = {
        ("limit_bytes",): 64 * MIB,
        ("allocated_bytes",): stats.total_allocated_bytes,
        ("used_bytes",): stats.total_used_bytes,
        ("peak_bytes",): stats.peak_usage_bytes,
        ("budget_bytes", "leased"): stats.leased_bytes,
        ("budget_bytes", "evictable"): stats.evictable_bytes,
        ("budget_bytes", "pinned"): stats.pinned_bytes,
        ("budget_bytes", "free"): stats.available_bytes,
        ("segment_used_bytes", "core"): stats.segments["core"].used_bytes,
        ("segment_limit_bytes", "user"): 32 * MIB,
        ("pressure",): 0,
        ("dimensions",): 2,
        ("simulated_dimensions",): 1,
        ("layers",): stats.layers_loaded,
        ("mapped_regions",): 2,
        ("pool_used_bytes",): 16384,
        ("pool_requested_bytes",): 5000,
        ("pool_blocks", "4096"): 0,
        ("pool_blocks", "16384"): 1,
        ("accesses_total",): 5,
        ("loads_total",): 1,
        ("allocations_total",): 2,
        ("deallocations_total",): 1,
        ("allocation_failures_total",): 1,
        ("crystallizations_total",): 1,
        ("evictions_total",): 0,
        ("drops_total",): 0,
        ("copies_total",): 5,
        ("timed_operations_total", "access"): 4,
        ("timed_operations_total", "first_touch"): 1,
        ("latency_seconds", "load", "1"): stats.load_latency.max / 1e9,
        ("latency_seconds", "access", "0.5"): stats.access_latency.p50 / 1e9,
    }
    assert {key: found[key] for key in expected} == expected
    mean_ns = stats.load_latency.mean_ns
    assert math.isclose(found["timed_seconds_total", "load"], mean_ns / 1e9)


def test_what_was_never_timed_has_no_quantiles(world):
    with manager(world) as memory:
        found = by_key(jm.metrics(memory))
    assert [key for key in found if key[0] == "latency_seconds"] == []
    assert found["timed_operations_total", "access"] == found["timed_seconds_total", "access"] == 0


def test_pressure_is_a_level(world):
    with manager(world, total_memory_mb=1, warning_threshold=10, eviction_threshold=20) as memory:
        levels = [by_key(jm.metrics(memory))["pressure",]]
        blocks = [memory.allocate(160 << 10)]
        levels.append(by_key(jm.metrics(memory))["pressure",])
        assert levels == [0, ["ok", "warning", "eviction", "critical"].index(memory.get_stats().pressure)]
        assert levels[1] > 0
        del blocks


def test_samples_are_plain(busy):
    for sample in jm.metrics(busy):
        assert re.fullmatch(r"jessy_mem(_[a-z]+)+", sample.name)
        assert sample.kind == ("counter" if sample.name.endswith("_total") else "gauge")
        assert sample.unit in ("", "bytes", "seconds")
        assert not sample.unit or f"_{sample.unit}" in sample.name
        assert sample.help.endswith(".")
        assert all(type(text) is str for pair in sample.labels.items() for text in pair)
        assert json.loads(json.dumps(dataclasses.asdict(sample)))["value"] == sample.value
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.value = 1
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_page_names_every_sample():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    described = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", page.read_text(), re.MULTILINE)
    labels = [", ".join(f"`{label}`" for label in family.own_labels) for family in FAMILIES]
    assert described == [(family.name, own, family.help) for family, own in zip(FAMILIES, labels, strict=True)]


@pytest.mark.thread_unsafe(reason="looks at all managers of the process")
def test_all_open_managers_are_measured_and_told_apart(world, tmp_path):
    before = {sample.labels["manager"] for sample in jm.metrics()}
    with manager(world) as first, manager(world) as second, manager(tmp_path / "other") as third:
        samples = [sample for sample in jm.metrics() if sample.labels["manager"] not in before]
        found = {sample.labels["manager"]: sample.labels["base_path"] for sample in samples}
        assert list(found) == [str(each.number) for each in (first, second, third)]
        assert list(found.values()) == [str(world.base), str(world.base), str(tmp_path / "other")]
        keys = [(sample.name, *sample.labels.items()) for sample in samples]
        assert len(keys) == len(set(keys))
        second.close()
        assert str(second.number) not in {sample.labels["manager"] for sample in jm.metrics()}
        assert by_key(jm.metrics(second))["limit_bytes",] == 280 * MIB
    assert not {str(each.number) for each in (first, third)} & {sample.labels["manager"] for sample in jm.metrics()}


def test_measuring_keeps_no_manager_alive(world):
    pytest.importorskip("prometheus_client")
    gc.collect()
    memory = manager(world)
    collector = prometheus_collector(memory)
    gone = weakref.ref(memory)
    assert memory in open_managers()
    del memory
    assert gone() is None
    assert all(metric.samples == [] for metric in collector.collect())


def test_managers_may_come_and_go_while_others_are_measured(world):
    ended = threading.Event()

    def come_and_go():
        while not ended.is_set():
            manager(world, total_memory_mb=1, pool_configs=((1, 4096),)).close()
            manager(world, total_memory_mb=1, pool_configs=((1, 4096),))

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            jm.metrics()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_import_of_the_package_imports_no_exporter_of_others():
    code = "import sys, jessy_mem, jessy_mem.exporters; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"prometheus_client", "opentelemetry"} & set(done.stdout.split())


# Prometheus --------------------------------------------------------------------------------------------------------


def exposition(registry):
    """What a scrape gives, parsed back: {(name, label value, ...): value}; without histograms."""
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        if family.type != "histogram"
        for sample in family.samples
    }


def as_exposition(samples):
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


def test_prometheus_exposes_the_samples(busy):
    prometheus = pytest.importorskip("prometheus_client")
    registry = prometheus.CollectorRegistry(auto_describe=True)
    registry.register(prometheus_collector(busy))
    found = {(key[0], *sorted(key[1:])): value for key, value in exposition(registry).items()}
    assert found == as_exposition(jm.metrics(busy))
    labels = {"base_path": str(busy.config.base_path), "manager": str(busy.number)}
    assert registry.get_sample_value("jessy_mem_accesses_total", labels) == 5
    with pytest.raises(ValueError, match="Duplicate"):
        registry.register(prometheus_collector())


def test_prometheus_types_and_units_in_openmetrics(busy):
    prometheus = pytest.importorskip("prometheus_client")
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    registry = prometheus.CollectorRegistry()
    registry.register(prometheus_collector(busy))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert [(family.name, family.type, family.unit, family.documentation) for family in families] == [
        *((family.name.removesuffix("_total"), family.kind, family.unit, family.help) for family in FAMILIES),
        (HISTOGRAM, "histogram", "seconds", HISTOGRAM_HELP),
    ]


def test_prometheus_registers_without_asking_for_numbers(busy, monkeypatch):
    prometheus = pytest.importorskip("prometheus_client")
    monkeypatch.setattr(jm.MmapManager, "get_stats", None)  # a call would raise
    prometheus.CollectorRegistry(auto_describe=True).register(prometheus_collector(busy))


def test_prometheus_finds_managers_that_open_later(world):
    prometheus = pytest.importorskip("prometheus_client")
    registry = prometheus.CollectorRegistry()
    registry.register(prometheus_collector())
    with manager(world) as memory:
        labels = {"base_path": str(world.base), "manager": str(memory.number)}
        assert registry.get_sample_value("jessy_mem_limit_bytes", labels) == 280 * MIB
    assert registry.get_sample_value("jessy_mem_limit_bytes", labels) is None


def test_prometheus_scrapes_from_another_thread_while_loading_and_after_close(world):
    prometheus = pytest.importorskip("prometheus_client")
    world.write_all(1, 2, 3)
    registry = prometheus.CollectorRegistry()
    memory = manager(world)
    registry.register(prometheus_collector(memory))
    scrapes, ended = [], threading.Event()

    def scrape():
        while not ended.is_set():
            scrapes.append(exposition(registry))

    thread = threading.Thread(target=scrape)
    thread.start()
    for _ in range(20):
        memory.load_all()
        for dimension in (1, 2, 3):
            memory.unload_dimension(dimension)
    memory.close()
    n_before = len(scrapes)
    while len(scrapes) < n_before + 2 and thread.is_alive():  # the second began after close
        pass
    ended.set()
    thread.join()
    last = {(key[0], *sorted(key[1:])): value for key, value in scrapes[-1].items()}
    assert last == as_exposition(jm.metrics(memory))
    assert any(key[0] == "jessy_mem_loads_total" and value == 60 for key, value in last.items())


# OpenTelemetry -----------------------------------------------------------------------------------------------------


def collected(reader):
    """What one collection gives: {(name, (label, value), ...): value}, and {name: (kind, unit, description)}."""
    data = reader.get_metrics_data()
    points, kinds = {}, {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ():
        kinds[metric.name] = (type(metric.data).__name__, metric.unit, metric.description)
        for point in metric.data.data_points:
            points[metric.name, *sorted(point.attributes.items())] = point.value
    return points, kinds


@pytest.fixture
def telemetry():
    """(meter, reader) of the real SDK, nothing of it global."""
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    yield provider.get_meter("test"), reader
    provider.shutdown()


def named_for_telemetry(name):
    return re.sub("_(bytes|seconds)$", "", name.removesuffix("_total")).replace("jessy_mem_", "jessy_mem.")


def test_opentelemetry_observes_the_samples(busy, telemetry):
    meter, reader = telemetry
    instruments = register_opentelemetry(meter, busy)
    assert len(instruments) == len(FAMILIES)
    points, kinds = collected(reader)
    samples = jm.metrics(busy)
    assert points == {
        (named_for_telemetry(sample.name), *sorted(sample.labels.items())): sample.value for sample in samples
    }
    assert kinds == {
        named_for_telemetry(sample.name): (
            "Sum" if sample.kind == "counter" else "Gauge",
            {"bytes": "By", "seconds": "s", "": ""}[sample.unit],
            sample.help,
        )
        for sample in samples
    }
    busy.load_context((1, 0))
    labels = {"base_path": str(busy.config.base_path), "manager": str(busy.number)}
    assert collected(reader)[0]["jessy_mem.accesses", *labels.items()] == 6


def test_opentelemetry_observes_all_open_managers_and_none_when_there_is_none(world, telemetry):
    meter, reader = telemetry
    register_opentelemetry(meter)
    with manager(world) as memory:
        points, _ = collected(reader)
        assert points["jessy_mem.limit", ("base_path", str(world.base)), ("manager", str(memory.number))] == 280 * MIB
    assert not [key for key in collected(reader)[0] if ("manager", str(memory.number)) in key]
