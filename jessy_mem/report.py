"""What a manager says of itself: its statistics at one moment, and all there is to know."""

from __future__ import annotations

import dataclasses
from typing import Any

from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.region import MmapRegion
from jessy_mem.cgroups import group_memory
from jessy_mem.learning import Learner
from jessy_mem.stats import LatencySummary, MemoryStats, Residency, SegmentStats
from jessy_mem.table import RegionTable

__all__ = ["histograms_of", "state_of", "stats_of"]


def histograms_of(table: RegionTable, learner: Learner) -> dict[str, LatencyHistogram]:
    """Whatever is timed, and how long it took."""
    return {
        "access": table._hits,
        "first_touch": table._first_touches,
        "load": table._loads,
        "allocate": table._allocations,
        "deallocate": table._deallocations,
        "crystallize": learner.protos.crystallizations,
    }


def stats_of(table: RegionTable, learner: Learner, residency: bool) -> MemoryStats:
    """One consistent snapshot of everything counted."""
    with table._lock:
        table._note_visits()
        n_layers, content_bytes, n_mapped, evictable_bytes, pinned_bytes, simulated = table._holders.survey()
        total, pressure, segments = table._ledger.sums()
        pool = table._pool.stats()
        timed = {name: _summary(each) for name, each in histograms_of(table, learner).items()}
        used_bytes, limit_bytes, peak_bytes = total
        text_bytes = min(table._texts.used_bytes, used_bytes - evictable_bytes - pinned_bytes)  # read a moment apart
        evictable_bytes += text_bytes
        evicted = table._evicted
        if evicted.simulated:
            simulated = tuple(sorted({*simulated, *evicted.simulated}))
        return MemoryStats(
            total_allocated_bytes=used_bytes,
            total_used_bytes=min(content_bytes + pool.requested_bytes, used_bytes),  # read a moment apart
            limit_bytes=limit_bytes,
            available_bytes=limit_bytes - used_bytes,
            utilization=100 * used_bytes / limit_bytes,
            pressure=pressure,
            dimensions_loaded=len(table._regions) + len(evicted),
            layers_loaded=n_layers + evicted.n_layers,
            active_regions=n_mapped,
            leased_bytes=used_bytes - evictable_bytes - pinned_bytes,
            evictable_bytes=evictable_bytes,
            pinned_bytes=pinned_bytes,
            peak_usage_bytes=peak_bytes,
            avg_access_latency_us=timed["access"].mean_ns / 1000,
            access_latency=timed["access"],
            first_touch_latency=timed["first_touch"],
            load_latency=timed["load"],
            allocate_latency=timed["allocate"],
            deallocate_latency=timed["deallocate"],
            crystallize_latency=timed["crystallize"],
            access_count=table._access_count,
            load_count=table._loads.n_events,
            allocation_count=table._allocations.n_events,
            deallocation_count=table._deallocations.n_events,
            allocation_failures=table._n_failures,
            crystallization_count=learner.protos.crystallizations.n_events,
            evictions=table._n_evictions,
            drops=learner.n_drops,
            copies=table._copies,
            simulation_mode=bool(simulated),
            simulated_dimensions=simulated,
            segments={name: SegmentStats(*numbers) for name, numbers in segments.items()},
            pool=pool,
            text_bytes=text_bytes,
            residency=_residency(table, pool.used_bytes, text_bytes) if residency else None,
        )


def _residency(table: RegionTable, pool_used_bytes: int, text_bytes: int) -> Residency:
    mapped_bytes, resident_bytes, decompressed_bytes, table_bytes = table._holders.residency()
    table_bytes += table._hits.n_bytes + table._first_touches.n_bytes
    committed_bytes = table._pool.committed_bytes()
    other_bytes = max(pool_used_bytes - decompressed_bytes, 0)  # read at different moments
    own = mapped_bytes, resident_bytes, committed_bytes, other_bytes, decompressed_bytes, table_bytes, text_bytes
    return Residency(*own, *group_memory())


def _summary(histogram: LatencyHistogram) -> LatencySummary:
    return LatencySummary(*histogram.summary())


def state_of(table: RegionTable) -> dict[str, Any]:
    """Regions with their layers, evicted dimensions, leases and configuration; the caller holds the table's lock."""
    evicted = {dimension: table._evicted.of(dimension) for dimension in sorted(table._evicted)}
    return {
        "regions": {str(dimension): _region_state(region) for dimension, region in sorted(table._regions.items())},
        "evicted": {str(dimension): each._asdict() for dimension, each in evicted.items() if each is not None},
        "leases": [dataclasses.asdict(lease) | {"taken_at": [*lease.taken_at]} for lease in table._leases()],
        "config": table.config.to_dict(),
    }


def _region_state(region: MmapRegion) -> dict[str, Any]:
    names = ("layer", "depth", "frequency", "keywords", "stored_bytes", "n_bytes", "created_ns")
    layers: list[dict[str, Any]] = [dict(zip(names, facts, strict=True)) for facts in region.layer_facts()]
    for layer in layers:
        layer["keywords"] = list(layer["keywords"])
    return {
        "name": region.name,
        "path": str(region.path),
        "source": region.source,
        "size": region.size,
        "generation": region.generation,
        "n_deltas": region.n_deltas,
        "immutable": region.immutable,
        "stale": region.stale,
        "layers": layers,
    }
