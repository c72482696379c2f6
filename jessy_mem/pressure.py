"""Pressure: how full the budget may become before something is done, and who is told when a threshold is crossed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jessy_mem.config import MemoryConfig
from jessy_mem.locking import renew_in_child
from jessy_mem.units import format_bytes

__all__ = ["Pressure", "PressureCallback"]

PressureCallback = Callable[[str, int, int], object]  # (level, used bytes, limit bytes)

logger = logging.getLogger("jessy_mem")

EVICT_TO_PERCENT = 70.0
LOG_INTERVAL_S = 10.0


class Pressure:
    """The thresholds of a budget, its log and its callbacks. Thread-safe; callbacks run outside every lock."""

    def __init__(self, config: MemoryConfig) -> None:
        self._limit_bytes = config.total_bytes
        self._logs = config.enable_warnings
        self.evict_from_bytes = config.total_bytes * config.eviction_threshold / 100
        self.evict_to_bytes = config.total_bytes * min(EVICT_TO_PERCENT, config.eviction_threshold) / 100
        self._renew()
        renew_in_child(self)
        self._callbacks: tuple[PressureCallback, ...] = ()
        self._logged_at = float("-inf")

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def call(self, callback: PressureCallback) -> None:
        """Call `callback` at each crossing from now on."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

    def tell(self, crossings: tuple[str, ...], used_bytes: int) -> None:
        """Log the gravest of `crossings`, unless another was logged just now, and call back for each."""
        with self._lock:
            now = time.monotonic()
            is_due = self._logs and now - self._logged_at >= LOG_INTERVAL_S
            if is_due:
                self._logged_at = now
            callbacks = self._callbacks
        if is_due:
            used, limit = format_bytes(used_bytes), format_bytes(self._limit_bytes)
            logger.warning("memory pressure %s: %s of %s in use", crossings[-1], used, limit)
        for level in crossings:
            for callback in callbacks:
                try:
                    callback(level, used_bytes, self._limit_bytes)
                except Exception:
                    logger.exception("a pressure callback failed")
