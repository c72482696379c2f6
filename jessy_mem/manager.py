"""MmapManager: the public face of the library.

Reading is compiled and lives in LayerRegistry; which regions are mapped, and who pays for them, is RegionTable's. Here
is what a user calls: loading, reading, the pool, addresses and numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import latency_summary, memory_stats, now_ticks, segment_stats
from jessy_mem.config import MemoryConfig
from jessy_mem.context import ContextCollection, LayerBatch, LoadedContext, NavigationPath
from jessy_mem.errors import (
    ConsciousnessError,
    DimensionAlreadyLoaded,
    LayerNotFound,
    ManagerClosed,
    OutOfBounds,
    RegionNotFound,
)
from jessy_mem.ids import dimensions_in
from jessy_mem.layout import MAX_DIMENSION, LayerId
from jessy_mem.learning import LearningTable
from jessy_mem.stats import Lease, LoadReport, MemoryStats, Residency
from jessy_mem.table import PressureCallback, logger
from jessy_mem.trace import TraceWriter

__all__ = ["MmapManager", "open_managers"]

_numbers = count(1)
_open: weakref.WeakValueDictionary[int, MmapManager] = weakref.WeakValueDictionary()


def open_managers() -> list[MmapManager]:
    """The managers of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [manager for reference in _open.valuerefs() if (manager := reference()) is not None]


class MmapManager(LearningTable):
    """Maps the dimensions of a base folder and serves their layers without a copy, under one hard budget.

    Parameters
    ----------
    total_memory_mb : int, float or str, optional
        The budget in MiB, or text such as "280MB"; 280 by default, or what `config` says.
    config : MemoryConfig, optional
        Everything else; `overrides` are fields of it that are changed for this manager.

    Creating a manager reserves address space and maps no file. Thread-safe; `access_layer` takes no lock. A context
    manager. After `close` every method but `close` and `get_stats` raises ManagerClosed.

    >>> with MmapManager(simulation="never") as memory:
    ...     memory.get_stats().dimensions_loaded
    0
    """

    def __init__(
        self,
        total_memory_mb: int | float | str | None = None,
        *,
        config: MemoryConfig | None = None,
        **overrides: Any,
    ) -> None:
        if total_memory_mb is not None:
            overrides["total_memory_mb"] = total_memory_mb
        super().__init__(MemoryConfig.of(overrides) if config is None else config.replace(**overrides))
        self._loads, self._allocations, self._deallocations = (LatencyHistogram() for _ in range(3))
        self.number = next(_numbers)  # names it among the managers of this process
        _open[self.number] = self

    # Loading

    def load_dimension(self, dimension_id: int, path: str | os.PathLike[str] | None = None) -> MmapRegion:
        """Map the region file of a dimension: ``BASE/Dnn/region.mmap``, or `path`.

        A missing file is simulated if the configuration allows it; never one that `path` names. Raises
        DimensionNotFound, DimensionAlreadyLoaded, LimitExceeded, InvalidRegion, RegionTruncated, ChecksumMismatch,
        MappingError; then nothing has changed.
        """
        begin_ticks = now_ticks()
        dimension = dimension_id
        if type(dimension) is not int or not 0 < dimension <= MAX_DIMENSION:
            dimension = LayerId.checked((dimension_id, 0)).dimension

        def load() -> MmapRegion:
            if dimension in self._regions or dimension in self._evicted:
                raise DimensionAlreadyLoaded(dimension)
            if path is not None:
                self._places[dimension] = self._place_at(dimension, os.fspath(path), True)
            try:
                region = self._open_region(dimension)
            except BaseException:
                self._places.pop(dimension, None)
                raise
            self._install(dimension, region)
            return region

        region = self._changing(dimension, load)
        self.finish(self._loads, begin_ticks)
        return region

    def load_all(self) -> LoadReport:
        """Load every dimension of the plan and every ``Dnn`` found under the base folder.

        A missing or damaged file stops nothing: it is logged and reported. Dimensions that are loaded stay; simulated
        ones are replaced by their file if it has appeared.
        """
        self._check_open()
        loaded: list[int] = []
        simulated: list[int] = []
        skipped: dict[int, Exception] = {}
        found = dimensions_in(self.config.base_path)
        dimensions = sorted({*self.layout.dimensions, *self._regions, *self._evicted, *found})
        with self._simulating_ahead(dimensions):
            for dimension in dimensions:
                try:
                    source = self._load_or_refresh(dimension)
                except ManagerClosed:
                    raise
                except ConsciousnessError as error:
                    logger.warning("dimension D%02d is skipped: %s", dimension, error)
                    # The frames of its traceback would keep this report, and the manager, in a cycle.
                    error.__traceback__ = error.__context__ = None
                    skipped[dimension] = error
                else:
                    (simulated if source == "simulated" else loaded).append(dimension)
        return LoadReport(loaded, simulated, skipped)

    def _load_or_refresh(self, dimension: int) -> str:
        """Make sure that `dimension` is loaded, from its file if there is one; returns its source."""
        while True:  # again if another thread loads or unloads it meanwhile
            source = self._source_of(dimension)
            if source is None:
                with contextlib.suppress(DimensionAlreadyLoaded):
                    return self.load_dimension(dimension).source
                continue
            replaceable = source == "simulated" and self.config.simulation != "always"
            if replaceable and os.path.exists(self._place_of(dimension).path):
                with contextlib.suppress(RegionNotFound):
                    self.reload_dimension(dimension)
                source = self._source_of(dimension)
            if source is not None:
                return source

    def _source_of(self, dimension: int) -> str | None:
        """Where a loaded dimension came from; one that is evicted stays so, and nothing is held afterwards."""
        with self._lock:
            known = self._regions.get(dimension) or self._evicted.get(dimension)
            return None if known is None else known.source

    def unload_dimension(self, dimension_id: int) -> None:
        """Let go of a dimension; views of it live on. RegionNotFound if it is not loaded."""
        with self._lock:
            dimension = self._number(dimension_id)
            if self._evicted.pop(dimension, None) is None:
                if self._loaded(dimension).source == "pool":
                    raise RegionNotFound(dimension, "it is a proto-dimension; crystallize it, or forget it")
                self._uninstall(dimension)
            self._forget_facts(dimension)

    def reload_dimension(self, dimension_id: int) -> tuple[int, int]:
        """Map the file that is there now, and swap it in; returns (old generation, new generation).

        Readers see the old generation or the new one, whole, and wait for neither. On any error, those of
        `load_dimension`, the old one stays. ImmutableDimension if the dimension is immutable and the file holds other
        content, or does not say that it is immutable too.
        """
        begin_ticks = now_ticks()
        dimension = self._number(dimension_id)

        def swap() -> tuple[int, int]:
            # Held, the old region is not evicted to make room for the new one; and no traceback may go on holding it.
            old = self._regions.get(dimension)
            try:
                known = old or self._evicted.get(dimension)
                if known is None:
                    raise RegionNotFound(dimension)
                if known.source == "pool":
                    raise RegionNotFound(dimension, "it is a proto-dimension without a file; crystallize writes it")
                old_generation = known.generation
                self._install(dimension, self._open_region(dimension, known.source).in_place_of(old))
            finally:
                old = known = None
            return old_generation, self._regions[dimension].generation

        generations = self._changing(dimension, swap)
        self.finish(self._loads, begin_ticks)
        return generations

    # Reading; access_layer and load_context are LayerRegistry's

    def region(self, dimension_id: int) -> MmapRegion:
        """The region of a loaded dimension, mapped again if it was evicted; RegionNotFound.

        It stays mapped and charged while somebody holds it. Its `close` does nothing: `unload_dimension` lets it go.
        """
        dimension = self._number(dimension_id)
        region: MmapRegion | None = self._regions.get(dimension)
        if region is None:
            try:
                region = self.restore_region(dimension, 0)
            except LayerNotFound as error:
                raise RegionNotFound(dimension, error.hint) from None
        return region

    def layers(
        self, dimension: int | None = None, keyword: str | None = None, frequency: tuple[float, float] | None = None
    ) -> list[LayerId]:
        """The layers of all loaded dimensions that meet every condition, ascending.

        `keyword` is compared case-folded; `frequency` is (low, high) in Hz, inclusive. Evicted dimensions count as
        loaded.
        """
        with self._lock:
            self._check_open()
            while self._unindexed:
                self._index_now(next(iter(self._unindexed)))
            return self._index.find(dimension, keyword, frequency)

    def load_contexts(self, paths: Iterable[NavigationPath], *, strict: bool = False) -> ContextCollection:
        """The layers of all paths as text, in path order; a layer named twice is there twice.

        A layer that cannot be found is logged, skipped and listed in ``.missing``; with `strict` its LayerNotFound is
        raised.
        """

        def load(layer_id: LayerId) -> LoadedContext | None:
            try:
                return self.load_context(layer_id)
            except LayerNotFound:
                if strict:
                    raise
                return None

        self._check_open()
        return ContextCollection.collect(paths, load)

    def read_many(self, layer_ids: Sequence[tuple[int, int]]) -> LayerBatch:
        """Copy many layers into one array without the GIL; LayerNotFound if one is not there."""
        import numpy as np

        self._check_open()
        data: list[Any] = []

        def target_of(n_bytes: int) -> Any:
            data.append(np.empty(n_bytes, np.uint8))
            return data[0]

        offsets = self.read_into(layer_ids, target_of)
        return LayerBatch(data[0], np.array(offsets, np.int64))

    @contextlib.contextmanager
    def record_trace(self, path: str | os.PathLike[str]) -> Iterator[TraceWriter]:
        """Write the accesses made inside this context to `path`, for ``jessy-mem advise``; from all threads.

        >>> import tempfile
        >>> with MmapManager(simulation="never") as memory, memory.record_trace(tempfile.mktemp()) as trace:
        ...     trace.n_accesses
        0
        """
        self._check_open()
        with TraceWriter(path) as trace:
            self._add_tracer(trace)
            try:
                yield trace
            finally:
                self._remove_tracer(trace)

    # The pool

    def allocate(self, n_bytes: int) -> Block:
        """A writable block of `n_bytes` from the pool, charged to the reserve; AllocationFailed, LimitExceeded."""
        self._check_open()
        begin_ticks = now_ticks()
        block = self._allocate(n_bytes, "reserve")
        self.finish(self._allocations, begin_ticks)
        self._settle()
        return block

    def deallocate(self, block: Block) -> None:
        """Give a block back; DoubleFree if it was, BufferError while memoryviews of it live."""
        self._check_open()
        begin_ticks = now_ticks()
        self._pool.deallocate(block)
        self.finish(self._deallocations, begin_ticks)

    # Addresses of the plan

    def address_of(self, layer_id: tuple[int, int]) -> int:
        """The logical address of a layer's first byte in the plan; LayerNotFound, OutOfBounds if it has no place."""
        dimension, layer = LayerId.checked(layer_id)
        try:
            offset = self.region(dimension).content_offset(layer)
        except RegionNotFound as error:
            raise LayerNotFound(dimension, layer, str(error)) from None
        planned = self.layout.dimensions.get(dimension)
        if planned is not None:
            return planned.address + offset
        with self._lock:
            self._place_new()
            if dimension in self._addresses:
                return self._addresses[dimension][0] + offset
        raise OutOfBounds(0, self.region(dimension).size, self.layout.segment_of(dimension).size_bytes)

    def resolve(self, address: int) -> tuple[int, int]:
        """The (dimension, offset) that a logical address of the plan names; OutOfBounds if it names none."""
        at = self._number(address)
        with self._lock:
            self._place_new()
            for dimension, (begin, n_bytes) in self._addresses.items():
                if begin <= at < begin + n_bytes:
                    return dimension, at - begin
        return self.layout.resolve(at)

    # Numbers

    def get_stats(self, residency: bool = False) -> MemoryStats:
        """One consistent snapshot of everything counted; allowed after `close`.

        With `residency` also what memory it really is, which costs system calls for each mapping.
        """
        with self._lock:
            n_layers, content_bytes, n_mapped, evictable_bytes, pinned_bytes, simulated = self.survey()
            total, pressure, segments = self._ledger.snapshot()
            pool = self._pool.stats()
            access = latency_summary(self.hits)
            used_bytes, limit_bytes, peak_bytes = total
            evicted = self._evicted
            simulated += [dimension for dimension, each in evicted.items() if each.source == "simulated"]
            return memory_stats(
                total_allocated_bytes=used_bytes,
                total_used_bytes=min(content_bytes + pool.requested_bytes, used_bytes),  # read a moment apart
                limit_bytes=limit_bytes,
                available_bytes=limit_bytes - used_bytes,
                utilization=100 * used_bytes / limit_bytes,
                pressure=pressure,
                dimensions_loaded=len(self._regions) + len(evicted),
                layers_loaded=n_layers + sum([each.n_layers for each in evicted.values()]),
                active_regions=n_mapped,
                leased_bytes=used_bytes - evictable_bytes - pinned_bytes,
                evictable_bytes=evictable_bytes,
                pinned_bytes=pinned_bytes,
                peak_usage_bytes=peak_bytes,
                avg_access_latency_us=access.mean_ns / 1000,
                access_latency=access,
                first_touch_latency=latency_summary(self.first_touches),
                load_latency=latency_summary(self._loads),
                allocate_latency=latency_summary(self._allocations),
                deallocate_latency=latency_summary(self._deallocations),
                crystallize_latency=latency_summary(self._crystallizations),
                access_count=self.access_count,
                load_count=self._loads.n_events,
                allocation_count=self._allocations.n_events,
                deallocation_count=self._deallocations.n_events,
                allocation_failures=self._n_failures,
                crystallization_count=self._crystallizations.n_events,
                evictions=self._n_evictions,
                drops=self._n_drops,
                copies=self.copies,
                simulation_mode=bool(simulated),
                simulated_dimensions=tuple(sorted(simulated)),
                segments={name: segment_stats(numbers) for name, numbers in segments.items()},
                pool=pool,
                residency=self._residency(pool.used_bytes) if residency else None,
            )

    def _residency(self, pool_used_bytes: int) -> Residency:
        mapped_bytes, resident_bytes, decompressed_bytes, table_bytes = self.residency()
        committed_bytes = self._pool.committed_bytes()
        other_bytes = max(pool_used_bytes - decompressed_bytes, 0)  # read at different moments
        return Residency(mapped_bytes, resident_bytes, committed_bytes, other_bytes, decompressed_bytes, table_bytes)

    def dump_state(self) -> dict[str, Any]:
        """All there is to know, JSON-serialisable: statistics, regions with their layers, leases, configuration."""
        with self._lock:
            self._check_open()
            regions = {str(dimension): self._region_state(dimension) for dimension in sorted(self._regions)}
            return {
                "stats": self.get_stats(residency=True).to_dict(),
                "regions": regions,
                "evicted": {str(dimension): each._asdict() for dimension, each in sorted(self._evicted.items())},
                "leases": [dataclasses.asdict(lease) | {"taken_at": [*lease.taken_at]} for lease in self._leases()],
                "config": self.config.to_dict(),
            }

    def _region_state(self, dimension: int) -> dict[str, Any]:
        region = self._regions[dimension]
        names = ("layer", "depth", "frequency", "keywords", "stored_bytes", "n_bytes")
        layers: list[dict[str, Any]] = [dict(zip(names, facts, strict=True)) for facts in region.layer_facts()]
        for layer in layers:
            layer["keywords"] = list(layer["keywords"])
        return {
            "name": region.name,
            "path": str(region.path),
            "source": region.source,
            "size": region.size,
            "generation": region.generation,
            "immutable": region.immutable,
            "stale": region.stale,
            "layers": layers,
        }

    def leases(self) -> list[Lease]:
        """What others hold of loaded and of retired generations, largest first."""
        self._check_open()
        return self._leases()

    def on_pressure(self, callback: PressureCallback) -> None:
        """Call ``callback(level, used_bytes, limit_bytes)`` at each crossing of a threshold, outside every lock.

        `level` is "warning", "eviction" or "critical". An exception in a callback is logged and stops nothing.
        """
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable")
        with self._lock:
            self._check_open()
            self._callbacks = (*self._callbacks, callback)

    # The end

    def close(self) -> None:
        """Let go of everything; views and blocks live on with their holders. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _open.pop(self.number, None)
            lost = [dimension for dimension, region in self._regions.items() if region.source == "pool"]
            if lost:
                logger.warning("closed with proto-dimensions that were not crystallized: %s", lost)
            with UnmapTogether():
                for dimension in list(self._regions):
                    self._uninstall(dimension)
            self._evicted.clear()
            self._pool.close()

    def __enter__(self) -> MmapManager:
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._regions)} dimensions"
        return f"<MmapManager {self.config.base_path}: {state}>"
