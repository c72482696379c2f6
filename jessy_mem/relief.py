"""What gives way when the pool is full.

Nothing that was learned is lost without a word, and nothing grows without bound: when there is no room, the oldest
proto-dimensions become files (``on_full="crystallize"``), or the newest is refused (``"raise"``), or the oldest are
dropped, and each is reported (``"drop"``).
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from jessy_mem.errors import (
    AllocationFailed,
    ConsciousnessError,
    LimitExceeded,
    LockTimeout,
    MappingError,
    RegionNotFound,
)
from jessy_mem.locking import renew_in_child
from jessy_mem.notices import Notices
from jessy_mem.protos import Protos

__all__ = ["EvictCallback", "Relief", "Table"]

EvictCallback = Callable[[int, str, int], object]  # (dimension, reason, bytes)

logger = logging.getLogger("jessy_mem")


class Table(Protocol):
    """What is asked of the table that has no room."""

    def _helpful(
        self, protos: Mapping[int, int], segment: str, refusal: AllocationFailed | LimitExceeded, for_block: bool
    ) -> list[int] | None:
        """Those of `protos` that free something of what was refused; empty if all would not do, None if room came."""


class Relief:
    """Makes room with proto-dimensions, of which `drop` gives one up; it returns its bytes, if any. Thread-safe."""

    def __init__(self, protos: Protos, on_full: str, drop: Callable[[int], int]) -> None:
        self._protos = protos
        self._on_full = on_full
        self._drop = drop
        self._callbacks: tuple[EvictCallback, ...] = ()
        self._notices = Notices()
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        self._callbacks_lock = threading.Lock()

    def on_evict(self, callback: EvictCallback) -> None:
        with self._callbacks_lock:
            self._callbacks = (*self._callbacks, callback)

    def relieve(self, table: Table, segment: str, refusal: AllocationFailed | LimitExceeded, allow_drop: bool) -> bool:
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
            oldest = table._helpful(protos.to_give_way(), segment, refusal, allow_drop)
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


def _because(refusal: AllocationFailed | LimitExceeded, error: ConsciousnessError) -> AllocationFailed | LimitExceeded:
    """The refusal, saying why no room could be made."""
    if isinstance(refusal, AllocationFailed):
        refusal.add_note(f"no room could be made: {error}")
        return refusal
    hint = f"no room could be made: {error}"
    return LimitExceeded(
        refusal.current_bytes, refusal.limit_bytes, refusal.requested_bytes, refusal.segment, refusal.holders, hint
    )
