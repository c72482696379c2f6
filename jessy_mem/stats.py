"""Statistics as frozen snapshots: numbers only, no reference to what they were taken from."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "LatencySummary",
    "Lease",
    "LoadReport",
    "MemoryStats",
    "PoolClassStats",
    "PoolStats",
    "Residency",
    "SegmentStats",
    "format_bytes",
    "format_ns",
]


def format_bytes(n_bytes: int) -> str:
    """A size for people, in binary units.

    >>> format_bytes(512), format_bytes(155189248)
    ('512 B', '148.0 MiB')
    """
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{n_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def format_ns(t_ns: float) -> str:
    """A time for people.

    >>> format_ns(45), format_ns(12_300), format_ns(4_500_000)
    ('45 ns', '12.3 us', '4.5 ms')
    """
    if t_ns < 1000:
        return f"{t_ns:.0f} ns"
    if t_ns < 1_000_000:
        return f"{t_ns / 1000:.1f} us"
    return f"{t_ns / 1_000_000:.1f} ms"


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """How long the events of one kind took; every time is in nanoseconds, and 0 when there was no event.

    Parameters
    ----------
    count : int
        Events that were timed.
    p50, p90, p99, p999 : int
        The 50th, 90th, 99th and 99.9th percentile: so many percent of the events took no longer. Within 0.8 %.
    max : int
        The longest event, exact.
    mean_ns : float
        The mean, exact.

    >>> LatencySummary(2, 40, 60, 60, 60, 60, 50.0).to_dict()
    {'count': 2, 'p50': 40, 'p90': 60, 'p99': 60, 'p999': 60, 'max': 60, 'mean_ns': 50.0}
    """

    count: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    mean_ns: float

    def to_dict(self) -> dict[str, int | float]:
        """The fields by name, in nanoseconds; JSON-serialisable."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if not self.count:
            return "none"
        times = [format_ns(t_ns) for t_ns in (self.p50, self.p99, self.p999, self.max)]
        return "p50 {}, p99 {}, p99.9 {}, max {}".format(*times)


@dataclasses.dataclass(frozen=True, slots=True)
class PoolClassStats:
    """One size class of the pool. `n_used` and `peak_used` count blocks wherever they lie in the arena."""

    block_size: int
    n_blocks: int  # that the class has room for at home
    n_used: int
    peak_used: int
    n_borrowed: int  # of n_used: blocks that lie in the room of another class
    requested_bytes: int  # what the callers of the n_used blocks asked for

    @property
    def fragmentation(self) -> float:
        """The share of the used blocks' bytes that nobody asked for, 0..1."""
        charged_bytes = self.n_used * self.block_size
        return 1 - self.requested_bytes / charged_bytes if charged_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool: its classes, smallest first, and the bytes charged for their blocks."""

    classes: tuple[PoolClassStats, ...]
    used_bytes: int
    limit_bytes: int
    peak_bytes: int

    @property
    def requested_bytes(self) -> int:
        """What the callers of all used blocks asked for."""
        return sum(each.requested_bytes for each in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """The same numbers as plain dicts and lists, for JSON."""
        return {**dataclasses.asdict(self), "classes": [each.to_dict() for each in self.classes]}


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentStats:
    """One segment of the budget, in bytes."""

    used_bytes: int
    limit_bytes: int
    peak_bytes: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.used_bytes, self.limit_bytes))

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Residency:
    """What memory the budget really is, in bytes, that of retired generations which are still held included.

    Mapped files, the pool and the library's tables are disjoint. Resident is part of mapped. Used and decompressed are
    disjoint, and make up the pool's blocks in use; what of them was ever written to is part of committed.
    """

    mapped_bytes: int  # of region files, page by page
    resident_bytes: int  # of them, in memory now
    pool_committed_bytes: int  # pages of the pool that were touched and not given back
    pool_used_bytes: int  # blocks in use, but for those of compressed layers
    decompressed_bytes: int  # blocks of compressed layers
    metadata_bytes: int  # the library's own tables of layers and counters

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A generation of a dimension that somebody holds views of."""

    dimension: int
    generation: int
    n_bytes: int  # charged for it and for its decompressed layers
    n_views: int
    retired: bool = False  # unloaded, replaced or evicted; it goes with its last view
    taken_at: tuple[str, ...] = ()  # where views were taken, with trace=True in the configuration

    def __str__(self) -> str:
        size = format_bytes(self.n_bytes)
        return f"D{self.dimension:02d} generation {self.generation} ({size}, {self.n_views} views)"


@dataclasses.dataclass(frozen=True, slots=True)
class LoadReport:
    """What ``load_all`` did: ids loaded from files, ids simulated, and for each id skipped its error."""

    loaded: list[int]
    simulated: list[int]
    skipped: dict[int, Exception]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} loaded, {len(self.simulated)} simulated, {len(self.skipped)} skipped"]
        lines += [f"  D{dimension:02d}: {error}" for dimension, error in self.skipped.items()]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryStats:
    """The state of a manager at one moment; bytes, nanoseconds and counts since it was made.

    ``leased_bytes + evictable_bytes + pinned_bytes + available_bytes == limit_bytes``. ``str`` gives a table to read,
    ``to_dict`` plain values for machines.
    """

    total_allocated_bytes: int  # mapped regions and pool blocks: what is charged to the budget
    total_used_bytes: int  # layer content, and what the callers of pool blocks asked for
    limit_bytes: int
    available_bytes: int
    utilization: float  # percent of the limit
    pressure: str  # "ok", "warning", "eviction" or "critical"
    dimensions_loaded: int
    layers_loaded: int
    active_regions: int
    leased_bytes: int  # held by views and blocks of users
    evictable_bytes: int
    pinned_bytes: int  # immutable and proto-dimensions
    peak_usage_bytes: int
    avg_access_latency_us: float
    access_latency: LatencySummary
    first_touch_latency: LatencySummary
    load_latency: LatencySummary
    allocate_latency: LatencySummary
    deallocate_latency: LatencySummary
    crystallize_latency: LatencySummary
    access_count: int
    load_count: int
    allocation_count: int
    deallocation_count: int
    allocation_failures: int
    crystallization_count: int
    evictions: int
    drops: int  # proto-dimensions given up with on_full="drop"
    copies: int  # payload copies made: decoded text, read_many, decompressed layers
    simulation_mode: bool
    simulated_dimensions: tuple[int, ...]
    segments: Mapping[str, SegmentStats]
    pool: PoolStats
    residency: Residency | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-serialisable values."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def rows(self) -> list[tuple[str, str]]:
        """What `str` shows, as (label, text)."""
        rows = [
            (
                "budget",
                f"{format_bytes(self.total_allocated_bytes)} of {format_bytes(self.limit_bytes)}"
                f" ({self.utilization:.1f} %, {self.pressure}), peak {format_bytes(self.peak_usage_bytes)}",
            ),
            (
                "states",
                f"leased {format_bytes(self.leased_bytes)}, evictable {format_bytes(self.evictable_bytes)}, "
                f"pinned {format_bytes(self.pinned_bytes)}, free {format_bytes(self.available_bytes)}",
            ),
        ]
        for name, segment in self.segments.items():
            rows.append((f"  {name}", f"{format_bytes(segment.used_bytes)} of {format_bytes(segment.limit_bytes)}"))
        rows += [
            (
                "content",
                f"{format_bytes(self.total_used_bytes)} in {self.layers_loaded} layers of "
                f"{self.dimensions_loaded} dimensions, {self.active_regions} mapped",
            ),
            ("access", f"{self.access_count:,} hits and first touches: {self.access_latency}"),
            ("first touch", str(self.first_touch_latency)),
            ("load", f"{self.load_count:,}: {self.load_latency}"),
            (
                "pool",
                f"{self.allocation_count:,} allocated, {self.deallocation_count:,} given back, "
                f"{self.allocation_failures:,} refused: {self.allocate_latency}",
            ),
            (
                "changes",
                f"{self.crystallization_count:,} crystallized, {self.evictions:,} evicted, "
                f"{self.drops:,} dropped, {self.copies:,} payload copies",
            ),
        ]
        if self.simulation_mode:
            rows.append(("SIMULATED", ", ".join(f"D{dimension:02d}" for dimension in self.simulated_dimensions)))
        if self.residency is not None:
            real = self.residency
            rows.append(
                (
                    "memory",
                    f"mapped {format_bytes(real.mapped_bytes)} ({format_bytes(real.resident_bytes)} resident), "
                    f"pool {format_bytes(real.pool_committed_bytes)} committed, "
                    f"{format_bytes(real.pool_used_bytes)} used, "
                    f"decompressed {format_bytes(real.decompressed_bytes)}, tables {format_bytes(real.metadata_bytes)}",
                )
            )
        return rows

    def __str__(self) -> str:
        return "\n".join(f"{label:<12} {text}" for label, text in self.rows())

    def _repr_html_(self) -> str:
        cells = (f"<tr><th>{html.escape(label)}</th><td>{html.escape(text)}</td></tr>" for label, text in self.rows())
        return f"<table>{''.join(cells)}</table>"


def _plain(value: Any) -> Any:
    """`value` as something json.dumps takes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.to_dict() if hasattr(value, "to_dict") else value
