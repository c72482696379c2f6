"""FollowedTable: a table that others write to as well, and what a user calls for that.

How it is followed is following.py's; here is what following means for regions, evicted ones, and names.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from jessy_mem._core.changes import ChangePage
from jessy_mem._core.mapping import UnmapTogether
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import stored_generation
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import DimensionNotFound, LimitExceeded
from jessy_mem.evicted import Evicted
from jessy_mem.following import ChangeCallback, Changes, Following
from jessy_mem.growth import Announce
from jessy_mem.locking import renew_in_child
from jessy_mem.names import dimensions_in, stored_names
from jessy_mem.opening import Place, newest_delta
from jessy_mem.snapshot import Snapshot
from jessy_mem.table import RegionTable

__all__ = ["FollowedTable"]


class FollowedTable(RegionTable):
    """The table of a base folder in which other processes learn."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__(config)
        page = ChangePage(config.base_path)
        follows = config.follow == "auto"
        self._unloaded: set[int] = set()  # by the user, who does not want them back
        self._following = Following(page, follows, self._lock)
        self._announce = announcer(weakref.ref(self), page)
        if follows:
            self._follow_page(page)
        renew_in_child(self)

    def _renew(self) -> None:
        # A thread that is not in the child may hold the old lock. What it was changing is found as it left it.
        self._lock = threading.RLock()
        self._following.use_lock(self._lock)

    # The gate

    def _pass_gate(self) -> Snapshot | None:
        """Follow what others did, and tell of it; the snapshot that this thread reads in, if it does. No lock held."""
        self._check_open()
        following = self._following
        snapshot = following.snapshot()
        if snapshot is None:
            if following.stop(self):
                self._settle()
            following.tell(self)
        return snapshot  # type: ignore[return-value]

    def _look(self) -> bool:
        return self._following.look(self)

    def _restore(self, dimension: int, layer: int) -> MmapRegion:
        if dimension not in self._evicted and dimension not in self._regions:
            self._look()
        return super()._restore(dimension, layer)

    # What following asks; under the lock

    def _all_dimensions(self) -> Iterable[int]:
        return sorted({*self._regions, *self._evicted, *dimensions_in(self.config.base_path)})

    def _forget_names(self) -> None:
        """Names were given, or became free. Who has a register of names knows better."""

    def _disown(self, dimension: int) -> bool:
        """Whether a dimension in the pool is another process's. Who learns knows better."""
        return False

    def _take_up(self, dimension: int, generation: int | None) -> str | None:
        known, place = self._regions.get(dimension) or self._evicted.get(dimension), self._place_of(dimension)
        if self._closed or place.named:
            return None
        has_file = os.path.lexists(place.path)
        if known is None:
            wanted = has_file and not place.planned and dimension not in self._unloaded
            return "added" if wanted and self._add(place, generation) else None
        if known.source == "pool":
            if not (has_file and self._disown(dimension)):
                return None
            self._unmap(dimension, "mmap")
            self._catalogue.mark_changed(dimension, _newest(place, generation))
            return "changed"
        if not has_file:
            return self._drop(place, known.source)
        if isinstance(known, MmapRegion):
            return self._take_up_region(place, known, generation)
        if known.source == "simulated" and self.config.simulation == "always":
            return None
        newest = _newest(place, generation)
        if newest == known.generation and known.source != "simulated":
            return None
        self._catalogue.mark_changed(dimension, newest)
        return "changed"

    def _take_up_region(self, place: Place, region: MmapRegion, generation: int | None) -> str | None:
        try:
            return "changed" if self._refresh_region(place.dimension, region) else None
        except DimensionNotFound:
            return self._drop(place, region.source)
        except LimitExceeded:  # no room for all of it beside what others hold: the next access makes it
            del region
            self._unmap(place.dimension)
            self._catalogue.mark_changed(place.dimension, _newest(place, generation))
            return "changed"

    def _add(self, place: Place, generation: int | None) -> bool:
        is_region = any(stored_names(os.fspath(self.config.base_path), [place.dimension]))
        if is_region:
            self._catalogue.add(place.dimension, Evicted(_newest(place, generation), 0, "mmap", 0))
        return is_region

    def _drop(self, place: Place, source: str) -> str | None:
        if place.planned or source != "mmap":  # who planned it will bring it back
            return None
        self._remove(place.dimension)
        return "removed"

    # What a user calls

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

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read, inside the block, what is loaded at its beginning: of one moment, over all dimensions.

        Gives an object that reads like the manager; what this thread (or task of asyncio) reads of the manager itself
        inside the block (layers, contexts, the Mapping, but not `region`) comes from it, too. Others read what is new.
        What was mapped stays mapped, charged and not evicted meanwhile. Snapshots may be nested: the inner one is of
        its own beginning. Thread-safe.

        >>> from jessy_mem import MmapManager
        >>> with MmapManager(simulation="never") as memory, memory.snapshot() as then:
        ...     len(then)
        0
        """
        self._check_open()
        self._following.stop(self)
        self._read_changed()
        with self._lock:
            self._following.catch_up(self)
            snapshot = Snapshot(self)
        try:
            with self._following.inside(self, snapshot):
                yield snapshot
        finally:
            snapshot._end()
            self._following.tell(self)


def announcer(reference: weakref.ref[FollowedTable], page: ChangePage) -> Announce:
    """Tells others what a table did; also at the end of that, when nobody but the page is left to tell it to."""

    def announce(dimension: int, what: str, generation: int) -> None:
        table = reference()
        if table is None:
            page.append(dimension, what, generation)  # type: ignore[arg-type]
        else:
            table._following.announce(table, dimension, what, generation)

    return announce


def _newest(place: Place, generation: int | None) -> int:
    return max(stored_generation(place.path), newest_delta(place.path)) if generation is None else generation
