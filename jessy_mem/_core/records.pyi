from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jessy_mem._core.view import LayerView
from jessy_mem.layout import LayerId
from jessy_mem.stats import Residency

__test__: dict[str, str]

class Record: ...

@dataclass(frozen=True)
class LoadedContext(Record):
    layer_id: LayerId
    content: str
    frequency: float
    keywords: tuple[str, ...]
    depth: int
    source: str
    @classmethod
    def of(cls, view: LayerView) -> LoadedContext: ...
    @property
    def n_bytes(self) -> int: ...
    def _repr_html_(self) -> str: ...

@dataclass(frozen=True)
class LatencySummary(Record):
    count: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    mean_ns: float
    def to_dict(self) -> dict[str, Any]: ...

@dataclass(frozen=True)
class PoolClassStats(Record):
    block_size: int
    n_blocks: int
    n_used: int
    peak_used: int
    n_borrowed: int
    requested_bytes: int
    @property
    def fragmentation(self) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...

@dataclass(frozen=True)
class PoolStats(Record):
    classes: tuple[PoolClassStats, ...]
    used_bytes: int
    limit_bytes: int
    peak_bytes: int
    @property
    def requested_bytes(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...

@dataclass(frozen=True)
class SegmentStats(Record):
    used_bytes: int
    limit_bytes: int
    peak_bytes: int
    def __iter__(self) -> Iterator[int]: ...
    def to_dict(self) -> dict[str, int]: ...

@dataclass(frozen=True)
class MemoryStats(Record):
    total_allocated_bytes: int
    total_used_bytes: int
    limit_bytes: int
    available_bytes: int
    utilization: float
    pressure: str
    dimensions_loaded: int
    layers_loaded: int
    active_regions: int
    leased_bytes: int
    evictable_bytes: int
    pinned_bytes: int
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
    drops: int
    copies: int
    simulation_mode: bool
    simulated_dimensions: tuple[int, ...]
    segments: Mapping[str, SegmentStats]
    pool: PoolStats
    residency: Residency | None = ...
    text_bytes: int = ...
    def to_dict(self) -> dict[str, Any]: ...
    def rows(self) -> list[tuple[str, str]]: ...
    def _repr_html_(self) -> str: ...
