"""MmapManager: the public face of the library.

Reading a layer is compiled and lives in LayerRegistry; which regions are mapped, and who pays, is RegionTable's.
Here is what a user calls, and what it means; how each is done is in the part that it asks.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Self, TypeVar, Unpack

from jessy_mem import ending, errors, given
from jessy_mem._core.changes import ChangePage
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.reader import Reader
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.registry import LayerRegistry, now_ticks, own_method, record_since
from jessy_mem._core.whole import Afterwards
from jessy_mem.builder import LayerSpec
from jessy_mem.config import MemoryConfig, MemoryOptions
from jessy_mem.context import ContextCollection, LayerBatch, NavigationPath
from jessy_mem.cooling import give_back, watch_for
from jessy_mem.durable import check_base_folder
from jessy_mem.errors import DimensionAlreadyLoaded, LayerNotFound, OutOfBounds, RegionNotFound
from jessy_mem.following import ChangeCallback, Changes, Following
from jessy_mem.ids import IdRegister
from jessy_mem.layout import MAX_DIMENSION, LayerId
from jessy_mem.learning import Learner
from jessy_mem.loading import Loader
from jessy_mem.locking import renew_in_child
from jessy_mem.memory_map import MemoryMap
from jessy_mem.names import dimensions_in
from jessy_mem.notebook import never_fails
from jessy_mem.pickling import manager_at, manager_state
from jessy_mem.pressure import PressureCallback
from jessy_mem.reading import contexts_of, copied, plain_where, with_attributes
from jessy_mem.relief import EvictCallback, Relief
from jessy_mem.report import histograms_of, state_of, stats_of
from jessy_mem.snapshot import Snapshot, map_changed, read_changed
from jessy_mem.stats import Lease, LoadReport, MemoryStats
from jessy_mem.table import RegionTable
from jessy_mem.trace import TraceWriter
from jessy_mem.units import counted
from jessy_mem.uptake import Uptake

__all__ = ["MmapManager", "open_managers"]

T = TypeVar("T")


def open_managers() -> list[MmapManager]:
    """The managers of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [each for each in ending.open_ones() if isinstance(each, MmapManager)]


class MmapManager(RegionTable):
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

    __slots__ = ("__dict__", "_uptake")  # what a load reads: CPython 3.11 is slow to find it in a dict
    number: int = 0  # names it among those of this process; 0: it was not made to the end

    def __init__(
        self,
        total_memory_mb: int | float | str | None = None,
        *,
        config: MemoryConfig | None = None,
        **overrides: Unpack[MemoryOptions],
    ) -> None:
        if self.number:
            raise TypeError("a MmapManager is initialised once")
        made = MemoryConfig.of(overrides) if config is None else MemoryConfig._given(config).replace(**overrides)
        made = made if total_memory_mb is None else made.replace(total_memory_mb=total_memory_mb)
        check_base_folder(made.base_path)
        super().__init__(made)
        page, follows = ChangePage(made.base_path), made.follow == "auto"
        self._following = Following(page, follows, self._lock)
        self._ids = IdRegister(os.fspath(made.base_path), self.layout, made.lock_timeout_s)
        # Weak references: else both were a cycle. Other parts are given the table with each call.
        announce = self._following.announcer(weakref.ref(self))
        self._catalogue.note_name, self._catalogue.see_name = self._ids.note, self._ids.see
        self._learner = Learner(weakref.proxy(self), self._opener, self._ids, self.layout, made, announce)
        self._relief = Relief(self._learner.protos, made.on_full, self._learner.drop)
        self._relieve = self._relief.relieve
        self._uptake = Uptake(made, self._catalogue, self._ids.note_file, self._learner.protos.end_foreign)
        self._loader = Loader(made.simulation == "always")
        if follows:
            self._follow_page(page)
        renew_in_child(self)
        self._following.catch_up(self)  # with what was told meanwhile; it calls all of the table, which stands now
        self._watch = watch_for(self)
        ending.keep_open(self)

    # Loading

    def load_dimension(
        self, dimension_id: int, path: str | os.PathLike[str] | None = None, *, exist_ok: bool = False
    ) -> MmapRegion:
        """Map the region file of a dimension: ``BASE/Dnn/region.mmap``, or `path`.

        A missing file is simulated, with a warning, if the configuration allows it; never one that `path` names. With
        `exist_ok` one that is loaded is returned as it is, proto-dimensions too: mapped again if it was evicted, from
        its file if it was simulated and that has appeared. What came from another process is not loaded for that.
        Raises DimensionNotFound, DimensionAlreadyLoaded (with `exist_ok` if from elsewhere than `path`), LimitExceeded,
        InvalidRegion, RegionTruncated, ChecksumMismatch, MappingError; then nothing has changed.
        """
        if type(dimension_id) is not int or not 0 < dimension_id <= MAX_DIMENSION:
            dimension_id = LayerId.checked((dimension_id, 0)).dimension
        if exist_ok or dimension_id in self._uptake.came:
            self._uptake.want(dimension_id)
            return self._loader.ensure(self, dimension_id, path)
        self._uptake.unwanted.discard(dimension_id)
        try:
            return self._load(dimension_id, path)
        except DimensionAlreadyLoaded:
            if not self._following.stop(self):  # another process may have forgotten it
                raise
        return self._load(dimension_id, path)

    def load_all(self) -> LoadReport:
        """Load every dimension of the plan and every ``Dnn`` found under the base folder.

        A missing or damaged file stops nothing: it is reported, and logged once. All that is simulated is named in one
        warning. Dimensions that are loaded stay; simulated ones are replaced by their file if it has appeared.
        """
        self._check_open()
        found = dimensions_in(self.config.base_path)
        return self._loader.load_all(self, sorted({*self.layout.dimensions, *self._loaded_ids(), *found}))

    def unload_dimension(self, dimension_id: int) -> None:
        """Let go of a dimension; views of it live on. RegionNotFound if it is not loaded."""
        with self._lock:
            dimension = self._checked(dimension_id)
            if dimension not in self._evicted and self._loaded(dimension).source == "pool":
                raise RegionNotFound(dimension, "it is a proto-dimension; crystallize it, or forget it")
            self._uptake.unwanted.add(dimension)  # first: after an interrupt it would come back by itself
            self._remove(dimension)

    def reload_dimension(self, dimension_id: int) -> tuple[int, int]:
        """Map the file that is there now, and swap it in; returns (old generation, new generation).

        Readers see the old generation or the new one, whole, and wait for neither. On any error, those of
        `load_dimension`, the old one stays. ImmutableDimension if the dimension is immutable and the file holds other
        content, or does not say that it is immutable too.
        """
        begin_ticks = now_ticks()
        generations = self._changing(dimension_id, self._loader.reload, self, self._checked(dimension_id))
        record_since(self._loads, begin_ticks, self._timed)
        return generations

    def reload_many(self, dimension_ids: Iterable[int]) -> list[tuple[int, int]]:
        """Reload several dimensions in one step: no reader sees a new one, and after that an old one.

        Returns (old generation, new generation) of each. All or none: errors are those of `reload_dimension`, also
        LimitExceeded for all new ones beside the old ones. Thread-safe; readers wait for the swap, not for the files.
        """
        begin_ticks = now_ticks()
        dimensions = [self._checked(each) for each in dict.fromkeys(dimension_ids)]
        swapping = self._following.swapping(self)
        generations = self._changing(next(iter(dimensions), 0), self._loader.reload_many, self, dimensions, swapping)
        record_since(self._loads, begin_ticks, self._timed)
        return generations

    def user_dimensions(self) -> list[int]:
        """The user-specific dimensions that are loaded (ids from 1000), ascending."""
        self._follow()
        return sorted(filter(self.layout.is_user, self._loaded_ids()))

    # Reading; access_layer and load_context are LayerRegistry's

    def region(self, dimension_id: int) -> MmapRegion:
        """The region of a loaded dimension, mapped again if it was evicted; RegionNotFound.

        It stays mapped and charged while somebody holds it. Its `close` does nothing: `unload_dimension` lets it go.
        """
        dimension = self._checked(dimension_id)
        self._following.stop(self)
        if (region := self._regions.get(dimension)) is None:
            try:
                region = self._restore(dimension, 0)
            except LayerNotFound as error:
                raise RegionNotFound(dimension, error.hint) from None
        with self._lock:
            self._holders.watch((dimension,))
        return region

    def layers(
        self,
        dimension: int | None = None,
        keyword: str | None = None,
        frequency: tuple[float, float] | None = None,
        *,
        name: str | None = None,
        since_ns: int | None = None,
        before_ns: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[LayerId]:
        """The layers of all loaded dimensions that meet every condition, ascending.

        `keyword` is compared case-folded; `frequency` is (low, high) in Hz, inclusive. `name` is a dimension's, or its
        beginning followed by ``*``. A layer was made at `since_ns` or later, and before `before_ns` (Unix time in ns).
        `where` are attributes that must be there and be equal, as JSON has it (1 is 1.0, and not true); they are read
        from the files, of those layers only that meet all other conditions. Evicted dimensions count as loaded.
        """
        where = None if where is None else plain_where(where)
        if (then := self._pass_gate()) is not None:
            asked = (dimension, keyword, frequency)
            return then.layers(*asked, name=name, since_ns=since_ns, before_ns=before_ns, where=where)
        read_changed(self)
        index = self._catalogue.complete_index
        while index is None:
            with self._lock:
                self._check_open()
                index = self._catalogue.index_more()
        found = index.find(dimension, keyword, frequency, name, since_ns, before_ns)
        return found if where is None else with_attributes(self, found, where, self._notices)

    def load_contexts(
        self, paths: Iterable[NavigationPath], *, strict: bool = False, prefetch: bool = False
    ) -> ContextCollection:
        """The layers of all paths as text, in path order; a layer named twice is there twice.

        A layer that cannot be found is logged, skipped and listed in ``.missing``; with `strict` its LayerNotFound is
        raised. With `prefetch` the pages of all layers are asked for before the first is read: for files that are not
        in memory.
        """
        self._check_open()
        return contexts_of(self, paths, strict, self._notices, prefetch)

    def read_many(
        self, layer_ids: Iterable[tuple[int, int]], *, out: Any = None, threads: int | None = None
    ) -> LayerBatch:
        """Copy many layers into one array without the GIL; LayerNotFound if one is not there.

        `out` is a writable buffer (bytearray, numpy array of any type) whose begin they are copied to, instead of a new
        array: OutOfBounds if it is too small, and then nothing is copied; TypeError if it is none. `threads` copy
        together, which may pay where cores are idle and there are tens of MB to copy. Thread-safe.
        """
        self._check_open()
        return copied(self, layer_ids, out, threads)

    def reader(self) -> Reader:
        """A Reader for this thread, which shares with other threads nothing that is written on a hit.

        For several threads that read the same layers on an interpreter without the GIL; docs/threading.md says when.

        >>> from jessy_mem import MmapManager
        >>> with MmapManager(simulation="never") as memory, memory.reader() as reader:
        ...     reader.layers()
        []
        """
        self._check_open()
        return Reader(self)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read, inside the block, what is loaded at its beginning: of one moment, over all dimensions.

        Gives an object that reads like the manager; what this thread (or task of asyncio) reads of the manager itself
        inside the block (layers, contexts, the Mapping) comes from it, too. Others read what is new. All else that is
        asked of the manager is of now, whoever asks: `find`, `names`, `user_dimensions`, `region`, `address_of`,
        `resolve`. What was mapped, or is read in it, stays mapped, charged and not evicted meanwhile: LimitExceeded if
        that is too much. Snapshots may be nested: the inner one is of its own beginning. Thread-safe.

        >>> from jessy_mem import MmapManager
        >>> with MmapManager(simulation="never") as memory, memory.snapshot() as then:
        ...     len(then)
        0
        """
        self._check_open()
        self._following.stop(self)
        map_changed(self)
        with self._lock:
            self._following.catch_up(self)
            snapshot = Snapshot(self)
        try:
            with Afterwards(snapshot._end), self._following.inside(self, snapshot):
                yield snapshot
        finally:
            self._following.tell(self)

    # The Mapping; what follows from these three is LayerRegistry's

    def __len__(self) -> int:
        """How many layers are loaded."""
        then = self._pass_gate()
        if then is not None:
            return len(then)
        read_changed(self)
        with self._lock:
            return self._catalogue.count_layers()

    def __contains__(self, layer_id: object) -> bool:
        then = self._pass_gate()
        if then is not None:
            return layer_id in then
        try:
            dimension, layer = LayerId.of(layer_id)  # type: ignore[arg-type]
        except TypeError:
            return False
        region = self._regions.get(dimension)
        if region is not None:
            return region._has_layer(layer)
        if dimension not in self._evicted:
            return False
        read_changed(self)
        with self._lock:
            return self._catalogue.has_layer(dimension, layer)

    def __iter__(self) -> Iterator[LayerId]:
        return iter(self.layers())

    def __bool__(self) -> bool:
        """Whether it is open, however many layers there are."""
        return not self._closed

    # What others change

    def refresh(self) -> Changes:
        """Compare all that is loaded with the files, and follow what other processes did; returns what that was.

        Nobody needs it where the page of changes works: the next access sees a change by itself. It always works. What
        changed is reloaded, what is gone is dropped; learned dimensions that were not known are known then, and mapped
        on their first access, but for those that were unloaded. What cannot be read stays what it was, and is logged.
        Thread-safe; readers wait meanwhile.
        """
        self._check_open()
        with UnmapTogether():
            changes = self._following.refresh(self)
        self._settle()
        self._following.tell(self)
        return changes

    def on_change(self, callback: ChangeCallback) -> None:
        """Call ``callback(dimension_id, what)`` for each dimension that another process changed, from now on.

        `what` is "added", "changed" or "removed". Not for what this manager does itself. It is called after the change
        is visible here, by the thread whose access or `refresh` found it, outside every lock; an exception in it is
        logged and stops nothing.
        """
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable")
        self._check_open()
        self._following.call(callback)

    # Learning

    def create_proto_dimension(self, name: str, layers: Iterable[LayerSpec] = (), user: bool = False) -> int:
        """Put a new dimension into the pool; returns its id: 15.., or 1000.. with `user`.

        Its layers are readable at once (source "pool") and found by keyword and frequency. The id is never given again
        in this base folder, and the name is its own as long as this process lives, and for good once it has a file.
        When the pool is full, `on_full` of the configuration decides. Raises DimensionExists, LimitExceeded,
        AllocationFailed, ReadOnly, ValueError for what a RegionBuilder refuses, MappingError or LockTimeout if the base
        folder cannot be written. Thread-safe.
        """
        return self._settled(self._learner.create(name, layers, user))

    def ensure_dimension(self, name: str, layers: Iterable[LayerSpec] = (), user: bool = False) -> int:
        """The id of the dimension of that name, which is loaded if it has a file, and made if there is none.

        Of any number of threads and processes that ask at once, all get the same id. A new one is a file at once, so
        that all can read it: of `layers`, or of what is appended first; so is one of the plan, by its name there. What
        exists takes no layers from here. Errors are those of `create_proto_dimension` but DimensionExists, and of
        `load_dimension`; with layers also those of `append_layer` for what is simulated or immutable, or is another
        process's and no file yet. Thread-safe.
        """
        self._follow()
        return self._settled(self._learner.ensure(name, layers, user))

    def find(self, name: str) -> int | None:
        """The id of the dimension that has the name, the lowest if several files came with it; None if none has.

        Also of what is not loaded, or is from a path of one's own. Thread-safe; takes no lock that a writer holds.
        """
        self._follow()
        found = self._learner.find(name)
        return self._catalogue.find(name) if found is None else found

    def names(self) -> dict[str, int]:
        """The names of all that is loaded or has a file, and which dimension has each. Thread-safe."""
        self._follow()
        known = self._learner.names()
        with self._lock:
            return {**self._catalogue.names(), **known}

    def append_layer(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        """Add a layer to a proto-dimension, or to a dimension that has a file; returns its id.

        What it costs does not depend on the layers that are there. With ``durability="each"`` a file's change is on the
        disk when this returns. A dimension that is not loaded is loaded. Who holds views keeps their bytes; a number is
        not given again. RegionNotFound, also for what is simulated or was loaded from a path of the caller's own;
        ImmutableDimension, LimitExceeded, ReadOnly; MappingError or LockTimeout if the base folder cannot be written;
        ValueError if the number of the layer is taken. On any error nothing has changed. Thread-safe.
        """
        return self._settled(self._learner.append(dimension_id, spec))

    def extend(self, dimension_id: int, specs: Iterable[LayerSpec]) -> list[LayerId]:
        """Add many layers as one change, with one fsync: all of them or none; returns their ids, in their order.

        Errors are those of `append_layer`. Thread-safe.
        """
        return self._settled(self._learner.extend(dimension_id, specs))

    def update_layer(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        """Replace a layer; returns its id. Who holds the old view keeps the old bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        return self._settled(self._learner.update(layer_id, spec))

    def remove_layer(self, layer_id: tuple[int, int]) -> None:
        """Remove a layer; its number is not given again. Who holds a view keeps the bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        self._learner.remove(layer_id)
        self._settle()

    def compact(self, dimension_id: int) -> Path:
        """Write the files of a dimension as one, its base; returns its path. It is done now and then anyway.

        Errors are those of `append_layer`, ChecksumMismatch and InvalidRegion for damage; RegionNotFound also for a
        proto-dimension. Thread-safe.
        """
        return self._settled(self._learner.compact(dimension_id))

    def crystallize(self, dimension_id: int) -> Path:
        """Make a proto-dimension a region file, durable and atomic; returns the file's path.

        A reader gets the layer from the pool or from the file, never a part. On any failure (RegionNotFound,
        ImmutableDimension, MappingError, ReadOnly) the proto-dimension is still there, whole, and nothing is left of
        the file. A file that another wrote in its place is not overwritten: AlreadyPublished, and `close` saves it
        under the next id. A crystallized one is left as it is. Blocks go with their last view. Thread-safe.
        """
        return self._settled(self._learner.crystallize(dimension_id))

    def crystallize_many(self, dimension_ids: Iterable[int] | None = None) -> list[Path]:
        """Make several proto-dimensions files, all of them by default; returns the paths in their order.

        The files are written and fsynced side by side, which is several times as fast as one by one. One that fails
        stays a proto-dimension and stops no other; then the error of the first is raised at the end. Thread-safe.
        """
        return self._settled(self._learner.crystallize_many(dimension_ids))

    def sync(self) -> None:
        """Make everything durable that was learned with ``durability="batch"``; MappingError. Thread-safe."""
        self._learner.sync()

    def forget(self, dimension_id: int) -> None:
        """Remove a learned dimension for good, its files too; views of it live on. Durable when it returns.

        Its name is free then, its id is not given again. ImmutableDimension for core and immutable dimensions;
        RegionNotFound for one that is not there, or was loaded from a path of the caller's own. After a MappingError
        the files may be gone, or some: call it again. Thread-safe.
        """
        self._learner.forget(dimension_id)
        self._settle()

    def on_evict(self, callback: EvictCallback) -> None:
        """Call ``callback(dimension_id, reason, n_bytes)`` for each proto-dimension dropped with ``on_full="drop"``.

        `reason` is "drop". Called with no lock that a reader could wait for; an exception in it is logged and stops
        nothing.
        """
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable")
        self._check_open()
        self._relief.on_evict(callback)

    def _settled(self, result: T) -> T:
        """`result`, after what follows a charge."""
        self._settle()
        return result

    # Addresses of the plan

    def address_of(self, layer_id: tuple[int, int]) -> int:
        """The logical address of a layer's first byte in the plan; LayerNotFound, OutOfBounds if it has no place."""
        dimension, layer = LayerId.checked(layer_id)
        region = None
        try:
            region = self.region(dimension)
            offset, n_bytes = region.content_offset(layer), region.size
            with self._lock:
                address = self._catalogue.address_of(dimension)
        except RegionNotFound as error:
            raise LayerNotFound(dimension, layer, str(error)) from None
        finally:
            region = None  # a traceback would go on holding it
        if address is None:
            raise OutOfBounds(0, n_bytes, self.layout.segment_of(dimension).size_bytes)
        return address + offset

    def resolve(self, address: int) -> tuple[int, int]:
        """The (dimension, offset) that a logical address of the plan names; OutOfBounds if it names none."""
        self._follow()
        read_changed(self)
        with self._lock:
            return self._catalogue.addressed().resolve(given.integer(address))

    # Memory

    def trim(self, *, keep_bytes: int = 0) -> int:
        """Let this process shrink, with all views alive: give pages of mapped files back, and free blocks of the pool.

        The page cache keeps the pages, so the next read of one gets it back without reading the disk. It ends when no
        more than `keep_bytes` are left in this process. All stays mapped and charged; what is in memory for lack of a
        file (blocks, simulations, copies of leases) stays, and sealed copies leave this process only. Returns the bytes
        that went; texts that were kept (`text_cache_mb`) go beside that. ValueError. Thread-safe; nobody waits.
        """
        return give_back(self, keep_bytes, to_system=False)

    def cool(self, *, keep_bytes: int = 0) -> int:
        """As `trim`, and the page cache lets go of the pages too: the next read of one reads the disk.

        Pages that other processes have mapped stay in the cache, and all of them where the system cannot do it (Linux
        before 5.4), or where the file is another user's. Thread-safe; nobody waits.
        """
        return give_back(self, keep_bytes, to_system=True)

    # Numbers

    def get_stats(self, residency: bool = False) -> MemoryStats:
        """One consistent snapshot of everything counted; allowed after `close`.

        With `residency` also what memory it really is, which costs system calls for each mapping.
        """
        return stats_of(self, self._learner, residency)

    def _histograms(self) -> dict[str, LatencyHistogram]:
        return histograms_of(self, self._learner)

    def dump_state(self) -> dict[str, Any]:
        """All there is to know, JSON-serialisable: statistics, regions with their layers, leases, configuration."""
        with self._lock:
            self._check_open()
            return {"stats": self.get_stats(residency=True).to_dict(), **state_of(self)}

    def leases(self) -> list[Lease]:
        """What others hold of loaded and of retired generations, largest first; a notebook shows it as a table."""
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

    @contextmanager
    def record_trace(self, path: str | os.PathLike[str]) -> Iterator[TraceWriter]:
        """Write the accesses made inside this context to `path`, for ``jessy-mem advise``; from all threads.

        >>> import tempfile
        >>> with MmapManager(simulation="never") as memory, memory.record_trace(tempfile.mktemp()) as trace:
        ...     trace.n_accesses
        0
        """
        self._check_open()
        with TraceWriter(path) as trace, Afterwards(self._stop_trace, trace):
            with self._lock:
                self._use_tracers(self._tracing.add(trace))
            yield trace

    def _stop_trace(self, trace: TraceWriter) -> None:
        with self._lock:
            self._use_tracers(self._tracing.remove(trace))

    # The end

    def close(self) -> None:
        """Let go of everything; views and blocks live on with their holders. May be called twice.

        Before, proto-dimensions become files, or what else `on_close` of the configuration says. UnsavedLearning with
        "raise" if there are any, and the error of one that cannot be written: the manager stays open then.
        """
        ending.close(self)
        if self._watch is not None:
            self._watch.close()

    def _let_go(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        super()._let_go()

    def __del__(self) -> None:
        if ending is not None:  # else the interpreter takes its modules apart, and all was saved before
            ending.end_unreferenced(self)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except errors.ConsciousnessError:
            if error is None:  # else that one is told, the manager stays open, and its end warns
                raise

    def __reduce__(self) -> tuple[Any, ...]:
        """It goes to another process as its configuration and what is loaded: docs/reliability.md."""
        return manager_at, (type(self), *manager_state(self))

    def __repr__(self) -> str:
        n = counted(len(self._regions), "dimension")
        return errors.legible(f"<MmapManager {self.config.base_path}: {'closed' if self._closed else n}>")

    @never_fails
    def _repr_html_(self) -> str:
        return MemoryMap.of(self)._repr_html_() + self.get_stats()._repr_html_()

    # What LayerRegistry asks of whoever has layers

    def _pass_gate(self) -> Snapshot | None:
        """Follow what others did, call back; the snapshot that this thread reads in, if it does. No lock held."""
        self._check_open()
        if (snapshot := self._following.snapshot()) is None:
            self._follow()
        return snapshot  # type: ignore[return-value]

    def _follow(self) -> None:
        """The same for what is of now, whoever asks."""
        self._check_open()
        if self._following.stop(self):
            self._settle()
        self._following.tell(self)

    def _look(self) -> bool:
        return self._following.look(self)

    # What Following asks (`Followed`); under the lock

    def _all_dimensions(self) -> Iterable[int]:
        return self._uptake.all_dimensions(self)

    def _take_up(self, dimension: int, generation: int | None) -> str | None:
        return self._uptake.take_up(self, dimension, generation)

    def _forget_names(self) -> None:
        self._ids.refresh()

    # What a fork asks

    def _renew(self) -> None:
        # A thread that is not in the child may hold the old lock, and have left half done what it was changing.
        is_whole, self._lock = self._lock.acquire(blocking=False), RLock()
        self._following.use_lock(self._lock)
        if not is_whole:
            self._catalogue.repair()


Mapping.register(MmapManager)
own_method(MmapManager, LayerRegistry, "access_layer")
own_method(MmapManager, RegionTable, "allocate")
own_method(MmapManager, RegionTable, "deallocate")
