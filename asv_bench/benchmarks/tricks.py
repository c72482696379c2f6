"""What each trick of the core buys: the same with it and without it, in turns, in one run.

    python asv_bench/benchmarks/tricks.py

prints all of them. A trick whose ratio comes near 1 on the machines that matter has no reason to stay.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext

from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.mapping import Mapping, UnmapTogether
from jessy_mem._probe import latency as probe

SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
N_LOOP = 1_000 if SMALL else 20_000
N_TURNS = 3 if SMALL else 100
N_FILES = 8 if SMALL else 64
SIMULATED_BYTES = (2 if SMALL else 8) << 20


def in_turns(bare: Callable[[], float], trick: Callable[[], float]) -> tuple[list[float], list[float]]:
    """What each of the two gives, called in turns."""
    turns = [(bare(), trick()) for _ in range(N_TURNS)]
    return [without for without, _ in turns], [with_ for _, with_ in turns]


class Tricks:
    """Times without the trick over times with it, medians: above 1 it pays."""

    params = ("the event that waits", "counter of time stamps", "huge pages", "unmapping together")
    param_names = ("trick",)
    unit = "x"

    def setup(self, trick: str) -> None:
        self.fd = -1
        self.sides = getattr(self, trick.replace(" ", "_"))()

    def the_event_that_waits(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Two readings of the clock and a record, ns: into its bucket at once, or when the next one comes."""
        plain, histogram = LatencyHistogram(), LatencyHistogram()
        return (
            lambda: probe.time_nothing_cost_ns(plain, N_LOOP, at_once=True),
            lambda: probe.time_nothing_cost_ns(histogram, N_LOOP),
        )

    def counter_of_time_stamps(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """One reading of the clock, ns: the system's, or the processor's counter."""
        return lambda: probe.clock_cost_ns(N_LOOP, monotonic=True), lambda: probe.clock_cost_ns(N_LOOP)

    def huge_pages(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Filling the memory of a simulated dimension for the first time, us."""

        def fill(huge: bool) -> float:
            memory = Mapping(SIMULATED_BYTES, huge=huge)
            view = memoryview(memory)
            begin = time.perf_counter()
            view[:] = bytes(SIMULATED_BYTES)
            return (time.perf_counter() - begin) * 1e6

        return lambda: fill(False), lambda: fill(True)

    def unmapping_together(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Dropping the mappings of many small files that were mapped one after the other, us for each."""
        with tempfile.TemporaryFile() as file:
            file.write(bytes(6000))
            file.flush()
            self.fd = os.dup(file.fileno())

        def drop(together: bool) -> float:
            mappings = [Mapping(6000, self.fd) for _ in range(N_FILES)]
            begin = time.perf_counter()
            with UnmapTogether() if together else nullcontext():
                mappings.clear()
            return (time.perf_counter() - begin) * 1e6 / N_FILES

        return lambda: drop(False), lambda: drop(True)

    def teardown(self, trick: str) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def track_without_over_with(self, trick: str) -> float:
        bare, used = in_turns(*self.sides)
        return statistics.median(bare) / statistics.median(used)


def main() -> None:
    tricks = Tricks()
    for trick in Tricks.params:
        tricks.setup(trick)
        columns = []
        for turns in in_turns(*tricks.sides):
            low, middle, high = statistics.quantiles(turns, n=4)
            columns.append(f"{middle:9.2f} ({low:.2f} .. {high:.2f})")
        print(f"{trick:22} without {columns[0]:32} with {columns[1]}")
        tricks.teardown(trick)


if __name__ == "__main__":
    main()
