"""MmapManager: the public face of the library.

Reading is compiled and lives in LayerRegistry; which regions are mapped, and who pays for them, is RegionTable's; what
layers there are, LayerTable's; what is learned, and what happens to it at the end, LearnableTable's. Here is what else
a user calls: loading, reading, the pool, addresses and numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Unpack

from jessy_mem._core.pool import Block
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import now_ticks, record_since
from jessy_mem.config import MemoryConfig, MemoryOptions
from jessy_mem.errors import (
    ConsciousnessError,
    DimensionAlreadyLoaded,
    LayerNotFound,
    ManagerClosed,
    OutOfBounds,
    RegionNotFound,
)
from jessy_mem.layout import MAX_DIMENSION, LayerId
from jessy_mem.learnable import LearnableTable, keep_open, open_tables
from jessy_mem.names import dimensions_in
from jessy_mem.pressure import PressureCallback
from jessy_mem.report import Times, state_of, stats_of
from jessy_mem.stats import Lease, LoadReport, MemoryStats
from jessy_mem.trace import TraceWriter

__all__ = ["MmapManager", "open_managers"]

logger = logging.getLogger("jessy_mem")


def open_managers() -> list[MmapManager]:
    """The managers of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [table for table in open_tables() if isinstance(table, MmapManager)]


class MmapManager(LearnableTable):
    """Maps the dimensions of a base folder and serves their layers without a copy, under one hard budget.

    Parameters
    ----------
    total_memory_mb : int, float or str, optional
        The budget in MiB, or text such as "280MB"; 280 by default, or what `config` says.
    config : MemoryConfig, optional
        Everything else; `overrides` are fields of it that are changed for this manager.

    Attributes: `config`, `layout` (the plan), `number` (names the manager among those of this process).

    A read-only Mapping of LayerId to LayerView over all that is loaded: ``memory[layer_id]``, ``in``, ``len`` and
    iteration. As long as it is open it is true, even if it is empty.

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
        **overrides: Unpack[MemoryOptions],
    ) -> None:
        made = MemoryConfig.of(overrides) if config is None else config.replace(**overrides)
        super().__init__(made if total_memory_mb is None else made.replace(total_memory_mb=total_memory_mb))
        self._times = Times()
        self._skipped: dict[int, str] = {}  # why, of those that load_all could not load
        self._following.catch_up(self)  # with what was told meanwhile; it calls all of the table, which stands now
        keep_open(self)

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

        self._unloaded.discard(dimension)

        def load() -> MmapRegion:
            if dimension in self._regions or dimension in self._evicted:
                raise DimensionAlreadyLoaded(dimension)
            if path is not None:
                self._opener.name_path(dimension, os.path.abspath(path))
            try:
                region = self._open_region(dimension)
            except BaseException:
                self._opener.forget_path(dimension)
                raise
            self._install(dimension, region)
            return region

        region = self._changing(dimension, load)
        record_since(self._times.loads, begin_ticks, self._timed)
        return region

    def load_all(self) -> LoadReport:
        """Load every dimension of the plan and every ``Dnn`` found under the base folder.

        A missing or damaged file stops nothing: it is reported, and logged once. Dimensions that are loaded stay;
        simulated ones are replaced by their file if it has appeared.
        """
        self._check_open()
        loaded: list[int] = []
        simulated: list[int] = []
        skipped: dict[int, Exception] = {}
        found = dimensions_in(self.config.base_path)
        with self._lock:
            dimensions = sorted({*self.layout.dimensions, *self._regions, *self._evicted, *found})
        for dimension in dimensions:
            try:
                source = self._load_or_refresh(dimension)
            except ManagerClosed:
                raise
            except ConsciousnessError as error:
                if self._skipped.get(dimension) != str(error):  # told once, however often it is tried
                    logger.warning("dimension D%02d is skipped: %s", dimension, str(error))
                self._skipped[dimension] = str(error)
                # The frames of its traceback would keep this report, and the manager, in a cycle.
                error.__traceback__ = error.__context__ = None
                skipped[dimension] = error
            else:
                self._skipped.pop(dimension, None)
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
        known = self._known(dimension)
        return None if known is None else known.source

    def unload_dimension(self, dimension_id: int) -> None:
        """Let go of a dimension; views of it live on. RegionNotFound if it is not loaded."""
        with self._lock:
            dimension = self._checked(dimension_id)
            if dimension not in self._evicted and self._loaded(dimension).source == "pool":
                raise RegionNotFound(dimension, "it is a proto-dimension; crystallize it, or forget it")
            self._remove(dimension)
            self._unloaded.add(dimension)

    def reload_dimension(self, dimension_id: int) -> tuple[int, int]:
        """Map the file that is there now, and swap it in; returns (old generation, new generation).

        Readers see the old generation or the new one, whole, and wait for neither. On any error, those of
        `load_dimension`, the old one stays. ImmutableDimension if the dimension is immutable and the file holds other
        content, or does not say that it is immutable too.
        """
        begin_ticks = now_ticks()
        dimension = self._checked(dimension_id)

        def swap() -> tuple[int, int]:
            # Held, the old region is not evicted to make room for the new one; and no traceback may go on holding it.
            old, region = self._regions.get(dimension), None
            try:
                old_generation, region = self._reopened(dimension, old)
                self._install(dimension, region)
            finally:
                old = region = None
            return old_generation, self._regions[dimension].generation

        generations = self._changing(dimension, swap)
        record_since(self._times.loads, begin_ticks, self._timed)
        return generations

    def _reopened(self, dimension: int, old: MmapRegion | None) -> tuple[int, MmapRegion]:
        """The generation of `old`, or of what is evicted, and the region that may take its place. Under the lock."""
        known = old or self._evicted.get(dimension)
        try:
            if known is None:
                raise RegionNotFound(dimension)
            if known.source == "pool":
                raise RegionNotFound(dimension, "it is a proto-dimension without a file; crystallize writes it")
            return known.generation, self._open_region(dimension, known.source)._in_place_of(old)
        finally:
            old = known = None  # a traceback would go on holding them

    def reload_many(self, dimension_ids: Iterable[int]) -> list[tuple[int, int]]:
        """Reload several dimensions in one step: no reader sees a new one, and after that an old one.

        Returns (old generation, new generation) of each. All of them or none: errors are those of `reload_dimension`,
        and LimitExceeded if there is no room for all new generations beside the old ones. Thread-safe; readers wait
        while they are swapped, not while files are opened.
        """
        begin_ticks = now_ticks()
        dimensions = [self._checked(each) for each in dict.fromkeys(dimension_ids)]

        def swap() -> list[tuple[int, int]]:
            # Held, the old regions are not evicted to make room; and no traceback may go on holding any.
            old = [self._regions.get(dimension) for dimension in dimensions]
            new: list[tuple[int, MmapRegion]] = []
            try:
                for dimension, region in zip(dimensions, old, strict=True):
                    new.append(self._reopened(dimension, region))
                with self._following.swapping(self):
                    for dimension, (_, region) in zip(dimensions, new, strict=True):
                        self._install(dimension, region)
                return [(generation, region.generation) for generation, region in new]
            finally:
                region = None
                old.clear()
                new.clear()

        generations = self._changing(dimensions[0], swap) if dimensions else []
        record_since(self._times.loads, begin_ticks, self._timed)
        return generations

    # Reading; access_layer and load_context are LayerRegistry's, layers and the Mapping LayerTable's

    def region(self, dimension_id: int) -> MmapRegion:
        """The region of a loaded dimension, mapped again if it was evicted; RegionNotFound.

        It stays mapped and charged while somebody holds it. Its `close` does nothing: `unload_dimension` lets it go.
        """
        dimension = self._checked(dimension_id)
        self._following.stop(self)
        region = self._regions.get(dimension)
        if region is None:
            try:
                region = self._restore(dimension, 0)
            except LayerNotFound as error:
                raise RegionNotFound(dimension, error.hint) from None
        return region

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
            with self._lock:
                self._use_tracers(self._tracing.add(trace))
            try:
                yield trace
            finally:
                with self._lock:
                    self._use_tracers(self._tracing.remove(trace))

    def user_dimensions(self) -> list[int]:
        """The user-specific dimensions that are loaded (ids from 1000), ascending."""
        self._check_open()
        with self._lock:
            return sorted(filter(self.layout.is_user, {*self._regions, *self._evicted}))

    # The pool

    def allocate(self, n_bytes: int) -> Block:
        """A writable block of `n_bytes` from the pool, charged to the reserve; AllocationFailed, LimitExceeded."""
        self._check_open()
        begin_ticks = now_ticks()
        block = self._allocate(n_bytes, self._pool_segment)
        record_since(self._times.allocations, begin_ticks, self._timed)
        self._settle()
        return block

    def deallocate(self, block: Block) -> None:
        """Give a block back; DoubleFree if it was, BufferError while memoryviews of it live."""
        self._check_open()
        begin_ticks = now_ticks()
        self._pool.deallocate(block)
        record_since(self._times.deallocations, begin_ticks, self._timed)

    # Addresses of the plan

    def address_of(self, layer_id: tuple[int, int]) -> int:
        """The logical address of a layer's first byte in the plan; LayerNotFound, OutOfBounds if it has no place."""
        dimension, layer = LayerId.checked(layer_id)
        try:
            offset = self.region(dimension).content_offset(layer)
        except RegionNotFound as error:
            raise LayerNotFound(dimension, layer, str(error)) from None
        with self._lock:
            address = self._catalogue.addressed().find(dimension)
        if address is None:
            raise OutOfBounds(0, self.region(dimension).size, self.layout.segment_of(dimension).size_bytes)
        return address + offset

    def resolve(self, address: int) -> tuple[int, int]:
        """The (dimension, offset) that a logical address of the plan names; OutOfBounds if it names none."""
        at = self._checked(address)
        with self._lock:
            return self._catalogue.addressed().resolve(at)

    # Numbers

    def get_stats(self, residency: bool = False) -> MemoryStats:
        """One consistent snapshot of everything counted; allowed after `close`.

        With `residency` also what memory it really is, which costs system calls for each mapping.
        """
        return stats_of(self, self._learner, self._times, residency)

    def dump_state(self) -> dict[str, Any]:
        """All there is to know, JSON-serialisable: statistics, regions with their layers, leases, configuration."""
        with self._lock:
            self._check_open()
            return {"stats": self.get_stats(residency=True).to_dict(), **state_of(self)}

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
        self._check_open()
        self._pressure.call(callback)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._regions)} dimensions"
        return f"<MmapManager {self.config.base_path}: {state}>"
