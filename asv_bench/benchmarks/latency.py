"""What counting and timing an event costs, and what reading the counts back does.

Depends on `_core/latency`, `_core/kernels/shard.pxd`, `_core/c/clock.h` and `_core/c/thread.h`, and nothing else. The
nanoseconds are looped in C by `_probe/latency`; each figure is the least of many loops, shorter than the kernel's timer
tick, since whatever disturbs one only adds to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from jessy_mem._core.latency import LatencyHistogram, clock_resolution_ns
from jessy_mem._probe import latency as probe

SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
N_LOOP = 1_000 if SMALL else 20_000
N_LEAST = 2 if SMALL else 100
STEP_NS = 1.4  # about, of the work of probe.time_cost_ns

ACCESSES_NS = np.random.default_rng(1).lognormal(4, 0.5, 4096).astype(np.uint64)  # around 55 ns, as accesses are
LOADS_NS = np.random.default_rng(1).lognormal(11, 1.5, 4096).astype(np.uint64)  # around 60 us, as loads are


def least(measure: Callable[..., float], *args: object) -> float:
    return min(measure(*args) for _ in range(N_LEAST))


class Record:
    """One event in C: at most 5 ns without the clock, at most 25 ns more for an event that is timed with it."""

    unit = "ns"

    def setup(self) -> None:
        self.histogram = LatencyHistogram()

    def track_record_accesses(self) -> float:
        return least(probe.record_cost_ns, self.histogram, ACCESSES_NS, max(N_LOOP // 4096, 1))

    def track_record_loads(self) -> float:
        return least(probe.record_cost_ns, self.histogram, LOADS_NS, max(N_LOOP // 4096, 1))

    def track_untimed(self) -> float:
        return least(probe.untimed_cost_ns, self.histogram, N_LOOP)

    def track_clock(self) -> float:
        return least(probe.clock_cost_ns, N_LOOP)

    def track_clock_resolution(self) -> float:
        return clock_resolution_ns()

    def track_time_nothing(self) -> float:
        """Both clock readings and a record, back to back, around no work at all."""
        return least(probe.time_nothing_cost_ns, self.histogram, N_LOOP)


class TimeAnEvent:
    """What timing adds to an event of about that many nanoseconds: the same loop with and without."""

    unit = "ns"
    params = ([20, 40, 80], ["at once", "waits"])
    param_names = ("event_ns", "end")

    def track_added(self, event_ns: int, end: str) -> float:
        histogram, n_steps, waits = LatencyHistogram(), round(event_ns / STEP_NS), end == "waits"
        pairs = [
            (
                probe.time_cost_ns(histogram, N_LOOP, n_steps, waits),
                probe.time_cost_ns(None, N_LOOP, n_steps),
            )
            for _ in range(N_LEAST)
        ]
        timed, bare = (min(side) for side in zip(*pairs, strict=True))
        return timed - bare


class Read:
    """Reading back; `get_stats` takes three or four summaries and has 20 us in all."""

    params = (["accesses", "loads"], [1, 8])
    param_names = ("times", "n_threads")

    def setup(self, times: str, n_threads: int) -> None:
        self.histogram = LatencyHistogram()
        probe.record_threads(self.histogram, ACCESSES_NS if times == "accesses" else LOADS_NS, n_threads)

    def time_summary(self, times: str, n_threads: int) -> None:
        self.histogram.summary()

    def time_percentile(self, times: str, n_threads: int) -> None:
        self.histogram.percentile(99)

    def time_n_events(self, times: str, n_threads: int) -> int:
        return self.histogram.n_events

    def time_to_dict(self, times: str, n_threads: int) -> None:
        self.histogram.to_dict()

    def time_counts(self, times: str, n_threads: int) -> np.ndarray:
        return self.histogram.counts


class Memory:
    """At most 64 KB for each shard."""

    unit = "bytes"
    params = ([60_000_000_000, 2**63 - 1],)
    param_names = ("max_ns",)

    def track_shard(self, max_ns: int) -> int:
        histogram = LatencyHistogram(max_ns)
        histogram.record(1)
        return histogram.n_bytes
