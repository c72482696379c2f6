"""Frozen snapshots of what the library counts and times."""

from __future__ import annotations

import dataclasses

__all__ = ["LatencySummary"]


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """How long the events of one kind took; every time is in nanoseconds, and 0 when there was no event.

    Parameters
    ----------
    count : int
        Events that were timed.
    p50, p90, p99, p999 : int
        The 50th, 90th, 99th and 99.9th percentile: so many percent of the events took no longer. Within 0.8 %.
    max : int
        The longest event, exact.
    mean_ns : float
        The mean, exact.

    Notes
    -----
    Immutable, so it may be shared between threads. The order of the fields is that of
    :meth:`jessy_mem.LatencyHistogram.summary`.

    Examples
    --------
    >>> LatencySummary(2, 40, 60, 60, 60, 60, 50.0).to_dict()
    {'count': 2, 'p50': 40, 'p90': 60, 'p99': 60, 'p999': 60, 'max': 60, 'mean_ns': 50.0}
    """

    count: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    mean_ns: float

    def to_dict(self) -> dict[str, int | float]:
        """The fields by name, in nanoseconds; JSON-serialisable."""
        return dataclasses.asdict(self)
