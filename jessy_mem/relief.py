"""What gives way when the pool is full.

Nothing that was learned is lost without a word, and nothing grows without bound: when there is no room, the oldest
proto-dimensions become files (``on_full="crystallize"``), or the newest is refused (``"raise"``), or the oldest are
dropped, and each is told of (``"drop"``).
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jessy_mem.errors import (
    AllocationFailed,
    ConsciousnessError,
    LimitExceeded,
    LockTimeout,
    MappingError,
    RegionNotFound,
)
from jessy_mem.growth import Table
from jessy_mem.notices import Notices
from jessy_mem.protos import Protos

__all__ = ["EvictCallback", "Relief"]

EvictCallback = Callable[[int, str, int], object]  # (dimension, reason, bytes)

logger = logging.getLogger("jessy_mem")


class Relief:
    """Makes room with proto-dimensions. Thread-safe; `release` is told of each that is dropped."""

    def __init__(self, table: Table, protos: Protos, on_full: str, release: Callable[[int], object]) -> None:
        self.n_drops = 0
        self.table = table
        self._protos = protos
        self._on_full = on_full
        self._release = release
        self._spared: int | None = None  # the one that grows, and must not go to make room for itself
        self._callbacks: tuple[EvictCallback, ...] = ()
        self._callbacks_lock = threading.Lock()
        self._notices = Notices()

    def on_evict(self, callback: EvictCallback) -> None:
        with self._callbacks_lock:
            self._callbacks = (*self._callbacks, callback)

    @contextmanager
    def sparing(self, dimension: int) -> Iterator[None]:
        """Inside, this dimension does not give way. Under the lock of the proto-dimensions."""
        outer, self._spared = self._spared, dimension
        try:
            yield
        finally:
            self._spared = outer

    def relieve(self, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool) -> bool:
        """Crystallize or drop the oldest proto-dimension that holds what is missing; whether one was.

        None is touched if all of them together would not make the room. The caller holds no lock of the table. If the
        system refuses to write one, the refusal is raised with the reason.
        """
        if self._on_full == "raise" or (self._on_full == "drop" and not allow_drop):
            return False
        protos = self._protos
        with protos.lock:
            if protos.is_merging:
                return False
            others = {each: n_bytes for each, n_bytes in protos.own().items() if each != self._spared}
            oldest = self.table._helpful(others, segment, refusal, allow_drop)
            if oldest is None:  # others made room while this thread waited
                return True
            if self._on_full == "crystallize":
                try:
                    return any(self._saved(dimension) for dimension in oldest)
                except (MappingError, LockTimeout) as error:
                    raise _because(refusal, error) from error
            dropped = next(((dimension, n_bytes) for dimension in oldest if (n_bytes := self._drop(dimension))), None)
        if dropped is None:
            return False
        logger.warning('proto-dimension D%02d is dropped: the pool is full and on_full is "drop"', dropped[0])
        for callback in self._callbacks:
            try:
                callback(dropped[0], "drop", dropped[1])
            except Exception:
                logger.exception("an on_evict callback failed")
        return True

    def _saved(self, dimension: int) -> bool:
        """Crystallize a proto-dimension; whether that could be."""
        try:
            self._protos.publish(dimension)
        except RegionNotFound:  # closed meanwhile
            return False
        except MappingError as error:
            if error.errno != errno.EEXIST:
                raise
            self._notices.warn(dimension, f"proto-dimension D{dimension:02d} stays in the pool: {error}")
            return False
        return True

    def _drop(self, dimension: int) -> int:
        """Give up a proto-dimension; returns its bytes, 0 if it is none any more."""
        known = self.table._known(dimension)
        if known is None or known.source != "pool":
            return 0
        self._release(dimension)
        self._protos.remove(dimension)
        self.n_drops += 1
        return known.size


def _because(refusal: AllocationFailed | LimitExceeded, error: ConsciousnessError) -> AllocationFailed | LimitExceeded:
    """The refusal, saying why no room could be made."""
    if isinstance(refusal, AllocationFailed):
        refusal.add_note(f"no room could be made: {error}")
        return refusal
    hint = f"no room could be made: {error}"
    return LimitExceeded(
        refusal.current_bytes, refusal.limit_bytes, refusal.requested_bytes, refusal.segment, refusal.holders, hint
    )
