"""LearnableTable: what a user calls to learn, and what the end does with what was learned.

How is the Learner's. At the end (`close`, the last reference, the normal end of the program) what `on_close` says is
done with proto-dimensions; where nothing can be raised, what is lost is a ResourceWarning.
"""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any, Self

from jessy_mem._core.mapping import UnmapTogether
from jessy_mem.builder import LayerSpec
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import ConsciousnessError
from jessy_mem.ids import IdRegister
from jessy_mem.layers import LayerTable
from jessy_mem.layout import LayerId
from jessy_mem.learning import Learner
from jessy_mem.relief import EvictCallback

__all__ = ["LearnableTable", "keep_open", "open_tables"]

_numbers = count(1)
_open: weakref.WeakValueDictionary[int, LearnableTable] = weakref.WeakValueDictionary()


def keep_open(table: LearnableTable) -> None:
    """From now on `table` is open, and has a number: it is whole, and the end of the program ends it."""
    table.number = next(_numbers)
    _open[table.number] = table


def open_tables() -> list[LearnableTable]:
    """Those of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [table for reference in _open.valuerefs() if (table := reference()) is not None]


class LearnableTable(LayerTable):
    """The table of a base folder in which something is learned. MmapManager is its public face."""

    number: int = 0  # names it among those of this process; 0: it was not made to the end

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__(config)
        ids = IdRegister(os.fspath(config.base_path), self.layout, config.lock_timeout_s)
        self._ids = ids
        self._learner = Learner(  # a weak reference: else both were a cycle
            weakref.proxy(self), ids, self.layout, config, self._announce
        )
        self._relieve = self._learner.relief.relieve

    def _forget_names(self) -> None:
        self._ids.refresh()

    def _disown(self, dimension: int) -> bool:
        return self._learner.protos.disown(dimension)

    def create_proto_dimension(self, name: str, layers: Iterable[LayerSpec] = (), user: bool = False) -> int:
        """Put a new dimension into the pool; returns its id: 15.., or 1000.. with `user`.

        Its layers are readable at once (source "pool") and found by keyword and frequency. The id is never given again
        in this base folder, and the name is its own as long as this process lives, and for good once it has a file.
        When the pool is full, `on_full` of the configuration decides. Raises DimensionExists, LimitExceeded,
        AllocationFailed, ReadOnly, ValueError for what a RegionBuilder refuses, MappingError or LockTimeout if the base
        folder cannot be written. Thread-safe.
        """
        return self._learner.create(name, layers, user)

    def ensure_dimension(self, name: str, layers: Iterable[LayerSpec] = (), user: bool = False) -> int:
        """The id of the dimension of that name, which is loaded if it has a file, and made if there is none.

        Of any number of threads and processes that ask at once, all get the same id. A new one is a file at once, so
        that all can read it: of `layers`, or of what is appended first. Errors are those of `create_proto_dimension`
        but DimensionExists, and of `load_dimension`. Thread-safe.
        """
        self._pass_gate()
        return self._learner.ensure(name, layers, user)

    def find(self, name: str) -> int | None:
        """The id of the dimension that has the name, the lowest if several files came with it; None if none has.

        Also of what is not loaded. Thread-safe; takes no lock that a writer holds.
        """
        self._pass_gate()
        return self._learner.find(name)

    def names(self) -> dict[str, int]:
        """The names of all that is loaded or has a file, and which dimension has each. Thread-safe."""
        self._pass_gate()
        known = self._learner.names()
        with self._lock:
            loaded = sorted(((region.name, each) for each, region in self._regions.items()), reverse=True)
        return {**dict(loaded), **known}

    def append_layer(self, dimension_id: int, spec: LayerSpec) -> LayerId:
        """Add a layer to a proto-dimension, or to a dimension that has a file; returns its id.

        What it costs does not depend on the layers that are there. With ``durability="each"`` a file's change is on the
        disk when this returns. A dimension that is not loaded is loaded. Who holds views keeps their bytes; a number is
        not given again. RegionNotFound, also for what is simulated or was loaded from a path of the caller's own;
        ImmutableDimension, LimitExceeded, ReadOnly; MappingError or LockTimeout if the base folder cannot be written;
        ValueError if the number of the layer is taken. On any error nothing has changed. Thread-safe.
        """
        return self._learner.append(dimension_id, spec)

    def extend(self, dimension_id: int, specs: Iterable[LayerSpec]) -> list[LayerId]:
        """Add many layers as one change, with one fsync: all of them or none; returns their ids, in their order.

        Errors are those of `append_layer`. Thread-safe.
        """
        return self._learner.extend(dimension_id, specs)

    def update_layer(self, layer_id: tuple[int, int], spec: LayerSpec) -> LayerId:
        """Replace a layer; returns its id. Who holds the old view keeps the old bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        return self._learner.update(layer_id, spec)

    def remove_layer(self, layer_id: tuple[int, int]) -> None:
        """Remove a layer; its number is not given again. Who holds a view keeps the bytes.

        Errors are those of `append_layer`, and LayerNotFound. Thread-safe.
        """
        self._learner.remove(layer_id)

    def compact(self, dimension_id: int) -> Path:
        """Write the files of a dimension as one, its base; returns its path. It is done now and then anyway.

        Errors are those of `append_layer`, ChecksumMismatch and InvalidRegion for damage; RegionNotFound also for a
        proto-dimension. Thread-safe.
        """
        return self._learner.compact(dimension_id)

    def crystallize(self, dimension_id: int) -> Path:
        """Make a proto-dimension a region file, durable and atomic; returns the file's path.

        A reader gets the layer from the pool or from the file, never a part. On any failure (RegionNotFound,
        ImmutableDimension, MappingError, ReadOnly) the proto-dimension is still there, whole, and nothing is left of
        the file. A file that another wrote in its place is not overwritten: AlreadyPublished. A dimension that is
        crystallized already is left as it is. Blocks go with their last view. Thread-safe.
        """
        return self._learner.crystallize(dimension_id)

    def crystallize_many(self, dimension_ids: Iterable[int] | None = None) -> list[Path]:
        """Make several proto-dimensions files, all of them by default; returns the paths in their order.

        The files are written and fsynced side by side, which is several times as fast as one by one. One that fails
        stays a proto-dimension and stops no other; then the error of the first is raised at the end. Thread-safe.
        """
        return self._learner.crystallize_many(dimension_ids)

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
        self._learner.relief.on_evict(callback)

    # The end

    def close(self) -> None:
        """Let go of everything; views and blocks live on with their holders. May be called twice.

        Before, proto-dimensions become files, or what else `on_close` of the configuration says. UnsavedLearning with
        "raise" if there are any, and the error of one that cannot be written: the manager stays open then.
        """
        while not self._closed:
            self._learner.end()
            with self._lock:
                if not self._learner.unsaved():  # what was learned meanwhile
                    self._let_go()

    def _let_go(self) -> None:
        with self._lock, UnmapTogether():
            self._closed = True
            _open.pop(self.number, None)
            for dimension in list(self._regions):
                self._holders.remove(dimension)
            self._evicted.clear()
            self._pool.close()

    def _end(self) -> None:
        """Close where nobody can be told: what is lost is a ResourceWarning."""
        try:
            self.close()
        except Exception as error:
            unsaved = ", ".join(f"D{each:02d}" for each in self._learner.unsaved())
            message = f"{self!r} ended, and lost what it had learned and not saved, {unsaved}: {error}"
            try:
                warnings.warn(message, ResourceWarning, stacklevel=2)
            finally:
                self._let_go()

    def __del__(self) -> None:
        if not self.number or self._closed:  # half made
            return
        this: Any = self
        self._learner.bind(this)  # in a cycle the weak reference is dead already
        try:
            self._end()
        finally:
            self._learner.bind(weakref.proxy(self))

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except ConsciousnessError:
            if error is None:  # else that one is told, the manager stays open, and its end warns
                raise


def _end_all() -> None:
    """The end of the program, when threads that are waited for are done and logging still works."""
    for table in open_tables():
        table._end()


atexit.register(_end_all)
