"""What managers measure, as plain samples, and thin adapters that hand it to Prometheus and to OpenTelemetry.

Names follow the conventions of Prometheus: base units (bytes, seconds) and ``_total`` for what only grows. Each sample
carries the labels `base_path` and `manager`, the manager's number in this process, since two may share a folder.
Neither Prometheus nor OpenTelemetry is imported before its adapter is called. In Prometheus's multiprocess mode the
same numbers go the way that workers.py describes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jessy_mem._core.budget import LEVELS
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem.forking import imported
from jessy_mem.manager import MmapManager, open_managers
from jessy_mem.stats import LatencySummary, MemoryStats
from jessy_mem.workers import Point, Points, is_multiprocess, publisher

if TYPE_CHECKING:
    from opentelemetry.metrics import Asynchronous, CallbackOptions, Meter, Observation
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

__all__ = ["Sample", "metrics", "prometheus_collector", "register_opentelemetry"]

PRESSURES = ("ok", *LEVELS)
TIMED = ("access", "first_touch", "load", "allocate", "deallocate", "crystallize")
HISTOGRAM = "jessy_mem_operation_seconds"
HISTOGRAM_HELP = "How long the timed operations took."
BOUNDS_NS = tuple(64 * 4**power for power in range(15))  # 64 ns .. 17 s: edges of the histograms', so counts are exact
QUANTILES = {"0.5": "p50", "0.9": "p90", "0.99": "p99", "0.999": "p999", "1": "max"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of one manager at one moment.

    `kind` is "counter" (only grows) or "gauge"; `unit` is "bytes", "seconds" or "" for a plain count.

    >>> Sample("jessy_mem_loads_total", "counter", 14, {"base_path": "data", "manager": "1"}, "Loads.", "").value
    14
    """

    name: str  # such as jessy_mem_loads_total
    kind: Literal["counter", "gauge"]
    value: float  # the number
    labels: dict[str, str]  # which manager it is of, and what of it
    help: str  # what it counts, for people
    unit: str


class Family(NamedTuple):
    """All samples of one name; `read` gives its values by those of its own labels, which follow those of a manager."""

    name: str
    help: str
    read: Callable[[MemoryStats], Mapping[tuple[str, ...], float]]
    own_labels: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def unit(self) -> str:
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in ("bytes", "seconds") else ""

    @property
    def labels(self) -> tuple[str, ...]:
        return ("base_path", "manager", *self.own_labels)


def _field(name: str, field: str, text: str) -> Family:
    """A family whose one value is a field of the statistics."""
    return Family(f"jessy_mem_{name}", text, lambda stats: {(): getattr(stats, field)})


def _times(stats: MemoryStats) -> dict[str, LatencySummary]:
    return {operation: getattr(stats, f"{operation}_latency") for operation in TIMED}


def _quantiles(stats: MemoryStats) -> dict[tuple[str, ...], float]:
    """In seconds, by operation and quantile; none for an operation that was never timed."""
    return {
        (operation, quantile): getattr(times, field) / 1e9
        for operation, times in _times(stats).items()
        if times.count
        for quantile, field in QUANTILES.items()
    }


FAMILIES = (
    _field("limit_bytes", "limit_bytes", "The budget."),
    _field("allocated_bytes", "total_allocated_bytes", "Charged to the budget: regions, pool blocks, kept texts."),
    _field("used_bytes", "total_used_bytes", "Layer content, and what the callers of pool blocks asked for."),
    _field("peak_bytes", "peak_usage_bytes", "The most that was ever charged to the budget."),
    Family(
        "jessy_mem_budget_bytes",
        "The budget by state; the states add up to the limit.",
        lambda stats: {
            ("leased",): stats.leased_bytes,
            ("evictable",): stats.evictable_bytes,
            ("pinned",): stats.pinned_bytes,
            ("free",): stats.available_bytes,
        },
        ("state",),
    ),
    Family(
        "jessy_mem_segment_used_bytes",
        "Charged to a segment of the plan.",
        lambda stats: {(name,): segment.used_bytes for name, segment in stats.segments.items()},
        ("segment",),
    ),
    Family(
        "jessy_mem_segment_limit_bytes",
        "The ceiling of a segment of the plan.",
        lambda stats: {(name,): segment.limit_bytes for name, segment in stats.segments.items()},
        ("segment",),
    ),
    Family(
        "jessy_mem_pressure",
        f"How full the budget is: {', '.join(f'{i} {level}' for i, level in enumerate(PRESSURES))}.",
        lambda stats: {(): PRESSURES.index(stats.pressure)},
    ),
    _field("dimensions", "dimensions_loaded", "Dimensions that are loaded; evicted ones count."),
    Family(
        "jessy_mem_simulated_dimensions",
        "Dimensions that have invented content, for their file is not there.",
        lambda stats: {(): len(stats.simulated_dimensions)},
    ),
    _field("layers", "layers_loaded", "Layers of all loaded dimensions."),
    _field("mapped_regions", "active_regions", "Regions that are mapped."),
    Family("jessy_mem_pool_used_bytes", "Charged for pool blocks.", lambda stats: {(): stats.pool.used_bytes}),
    Family(
        "jessy_mem_pool_requested_bytes",
        "What the callers of pool blocks asked for.",
        lambda stats: {(): stats.pool.requested_bytes},
    ),
    Family(
        "jessy_mem_pool_blocks",
        "Pool blocks in use, by block size in bytes.",
        lambda stats: {(str(each.block_size),): each.n_used for each in stats.pool.classes},
        ("block_size",),
    ),
    _field("text_bytes", "text_bytes", "Decoded texts that are kept."),
    _field("accesses_total", "access_count", "Layers accessed."),
    _field("loads_total", "load_count", "Dimensions loaded or reloaded."),
    _field("allocations_total", "allocation_count", "Pool blocks allocated."),
    _field("deallocations_total", "deallocation_count", "Pool blocks given back by deallocate()."),
    _field("allocation_failures_total", "allocation_failures", "Pool blocks refused."),
    _field("crystallizations_total", "crystallization_count", "Proto-dimensions that became files."),
    _field("evictions_total", "evictions", "Regions unmapped to make room."),
    _field("drops_total", "drops", "Proto-dimensions given up to make room."),
    _field("copies_total", "copies", "Payload copies: decoded text, batches, decompressed layers."),
    Family(
        "jessy_mem_timed_operations_total",
        "Operations that were timed.",
        lambda stats: {(operation,): times.count for operation, times in _times(stats).items()},
        ("operation",),
    ),
    Family(
        "jessy_mem_timed_seconds_total",
        "Time that the timed operations took together.",
        lambda stats: {(operation,): times.count * times.mean_ns / 1e9 for operation, times in _times(stats).items()},
        ("operation",),
    ),
    Family(
        "jessy_mem_latency_seconds",
        "How long operations took since the manager was made, by quantile; 1 is the longest.",
        _quantiles,
        ("operation", "quantile"),
    ),
)


def metrics(*managers: MmapManager) -> list[Sample]:
    """The numbers of `managers`, or of all that are open in this process; those of one manager are of one moment.

    Allowed for a closed manager that is named. Thread-safe.

    >>> with MmapManager(simulation="never") as memory:
    ...     {sample.name: sample.value for sample in metrics(memory)}["jessy_mem_limit_bytes"]
    293601280
    """
    return [
        Sample(family.name, family.kind, value, labels, family.help, family.unit)
        for family, points in _measured(managers or open_managers())
        for labels, value in points
    ]


def prometheus_collector(*managers: MmapManager) -> Collector:
    """A collector for a registry of prometheus_client, over `managers` or, at each scrape, all that are open then.

    It keeps no manager alive. Register it once: ``REGISTRY.register(prometheus_collector())``. A scrape may come from
    any thread, and after a manager was closed. In the multiprocess mode of the client library the numbers of all
    processes are what its MultiProcessCollector tells, and this collector adds nothing to a scrape: that it was made
    begins a thread which publishes the numbers of this process each second. Needs the extra ``prometheus``.
    """
    core: Any = imported("prometheus_client.core")
    base: Any = imported("prometheus_client.registry").Collector
    chosen = _chosen(managers)
    together = publisher(_points) if is_multiprocess() else None
    if together is not None:
        together.add(managers)

    def empty(family: Family) -> Any:
        make = core.CounterMetricFamily if family.kind == "counter" else core.GaugeMetricFamily
        return make(family.name, family.help, labels=family.labels, unit=family.unit)

    def empty_histogram() -> Any:
        return core.HistogramMetricFamily(
            HISTOGRAM, HISTOGRAM_HELP, labels=("base_path", "manager", "operation"), unit="seconds"
        )

    class ManagerCollector(base):  # type: ignore[misc]
        def describe(self) -> Iterable[Metric]:
            return [*map(empty, FAMILIES), empty_histogram()]

        def collect(self) -> Iterable[Metric]:
            if together is not None:  # the client library's own collector tells the numbers of all processes
                together.publish()
                return
            found = chosen()
            for family, points in _measured(found):
                metric = empty(family)
                for labels, value in points:
                    metric.add_metric(list(labels.values()), value)
                yield metric
            histogram = empty_histogram()
            for manager in found:
                for operation, (buckets, sum_s) in _buckets(manager).items():
                    n_below = list(zip(buckets, accumulate(buckets.values()), strict=True))
                    histogram.add_metric([*_named(manager), operation], n_below, sum_s)
            yield histogram

    return ManagerCollector()


def register_opentelemetry(meter: Meter, *managers: MmapManager) -> list[Asynchronous]:
    """Observable instruments of `meter` over `managers` or, at each collection, all that are open then.

    An instrument is named after its sample, with dots and without the unit: ``jessy_mem.pool_used`` in "By". Each reads
    a snapshot of its own. They keep no manager alive. Needs the extra ``opentelemetry``.
    """
    observation = imported("opentelemetry.metrics").Observation
    chosen = _chosen(managers)

    def observer(family: Family) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            return [
                observation(value, labels) for _, points in _measured(chosen(), (family,)) for labels, value in points
            ]

        return observe

    def instrument(family: Family) -> Asynchronous:
        create = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        name = family.name.removesuffix("_total").removesuffix(f"_{family.unit}").replace("jessy_mem_", "jessy_mem.")
        unit = {"bytes": "By", "seconds": "s"}.get(family.unit, "")
        return create(name, [observer(family)], unit, family.help)

    return [instrument(family) for family in FAMILIES]


def _chosen(managers: tuple[MmapManager, ...]) -> Callable[[], list[MmapManager]]:
    """Gives those of `managers` that still exist, or all that are open if there are none."""
    if not managers:
        return open_managers
    references = [weakref.ref(manager) for manager in managers]
    return lambda: [manager for reference in references if (manager := reference()) is not None]


def _label(path: str | os.PathLike[str]) -> str:
    """A path as text that any exporter can encode: a byte of it that is not UTF-8 shows as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _named(manager: MmapManager) -> tuple[str, str]:
    return _label(manager.config.base_path), str(manager.number)


def _measured(
    managers: Iterable[MmapManager], families: tuple[Family, ...] = FAMILIES
) -> Iterator[tuple[Family, list[tuple[dict[str, str], float]]]]:
    """For each family its points (labels, value), from one snapshot of each manager."""
    snapshots = [(_named(manager), manager.get_stats()) for manager in managers]
    for family in families:
        points = [
            (dict(zip(family.labels, (*named, *own), strict=True)), value)
            for named, stats in snapshots
            for own, value in family.read(stats).items()
        ]
        yield family, points


def _buckets(manager: MmapManager) -> dict[str, tuple[dict[str, int], float]]:
    """By operation: the number of events from each bound to the next, by the upper one, and the seconds of all."""
    return {operation: _bucketed(histogram) for operation, histogram in manager._histograms().items()}


def _bucketed(histogram: LatencyHistogram) -> tuple[dict[str, int], float]:
    counts, overflow = histogram.counts, histogram.overflow
    edges = [0, *histogram.bucket_bounds_ns.searchsorted(BOUNDS_NS), len(counts)]
    parts = [int(counts[begin:end].sum()) for begin, end in pairwise(edges)]
    parts[-1] += overflow
    bounds = [*(repr(bound / 1e9) for bound in BOUNDS_NS), "+Inf"]
    return dict(zip(bounds, parts, strict=True)), sum(parts) * histogram.mean_ns / 1e9


def _points(manager: MmapManager) -> Points:
    """All numbers of a manager, for those who add them up with those of other processes."""
    points = [
        Point(
            family.kind,
            family.name.removesuffix("_total"),
            family.name,
            tuple(zip(family.own_labels, own, strict=True)),
            value,
            family.help,
        )
        for stats in (manager.get_stats(),)
        for family in FAMILIES
        for own, value in family.read(stats).items()
    ]
    for operation, (buckets, sum_s) in _buckets(manager).items():
        labels = ("operation", operation)
        for bound, n_events in buckets.items():
            points.append(
                Point("histogram", HISTOGRAM, f"{HISTOGRAM}_bucket", (labels, ("le", bound)), n_events, HISTOGRAM_HELP)
            )
        points.append(Point("histogram", HISTOGRAM, f"{HISTOGRAM}_sum", (labels,), sum_s, HISTOGRAM_HELP))
    return Points(_label(manager.config.base_path), points)
