"""What ``bench --threads`` measures: how much several threads do at once, over what one does alone.

A run lasts from the moment at which the first thread begins to that at which the last one ends, so that threads that
did not run at once look slow, never fast. The last operation shares nothing at all, and shows what machine and
interpreter give.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import timeit
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jessy_mem as jm
from jessy_mem._core.budget import Ledger
from jessy_mem._probe.budget import ledger_pairs_ns
from jessy_mem._probe.latency import record_threads
from jessy_mem.cli.measure import loops_for, quiet
from jessy_mem.cli.questions import LATENCIES_NS

__all__ = [
    "N_ROUNDS",
    "OPERATIONS",
    "Scaling",
    "gil_is_on",
    "in_python",
    "measure_threads",
    "usable_cpus",
    "usual_counts",
]

N_ROUNDS, N_LEAST, MOST_S = 40, 3, 10.0  # rounds, as many as go into so many seconds
N_LAYERS, LAYER_BYTES = 64, 4096
MIB = 1 << 20

PerSecond = Callable[[int, int], float]  # (calls of each thread, threads) -> calls a second of all together


@dataclass(frozen=True, slots=True)
class Run:
    """An operation, and how long a turn of one thread takes, about."""

    per_s: PerSecond
    turn_ns: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """Calls a second of one operation by the number of threads: the most of all rounds."""

    operation: str
    per_s: dict[int, float]

    @property
    def over_one(self) -> dict[int, float]:
        return {n_threads: per_s / self.per_s[1] for n_threads, per_s in self.per_s.items()}

    def to_dict(self) -> dict[str, Any]:
        return {"operation": self.operation, "per_s": self.per_s, "over_one": self.over_one}


def gil_is_on() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cpus() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_counts() -> list[int]:
    """Powers of two up to the CPUs that there are, 1 and 2 at least."""
    return [1 << i for i in range(max(2, usable_cpus().bit_length()))]


def in_python(statement: str, setup: str, **names: Any) -> Run:
    """Each thread runs `setup` for itself, and the statement some times, before all begin."""
    # A barrier lets threads go one after the other; 1 ms later all of them have gone, if they need no GIL for that.
    lead_s, warm = 0.0 if gil_is_on() else 1e-3, "\nfor _ in range(100): " + statement

    def run(n_calls: int, n_threads: int) -> float:
        begin_s = [0.0]
        start = threading.Barrier(n_threads, lambda: begin_s.append(time.perf_counter() + lead_s))

        def work() -> list[float]:
            marks: list[float] = []

            def clock() -> float:
                marks.append(time.perf_counter())
                return marks[-1]

            def wait() -> None:
                start.wait()
                while time.perf_counter() < begin_s[-1]:
                    pass

            try:
                timeit.Timer(statement, f"{setup}{warm}\nwait()", clock, names | {"wait": wait}).timeit(n_calls)
            except BaseException:
                start.abort()  # else the others wait for ever
                raise
            return marks

        with ThreadPoolExecutor(n_threads) as pool:
            spans = [each.result() for each in [pool.submit(work) for _ in range(n_threads)]]
        begins, ends = zip(*spans, strict=True)
        return float(n_calls * n_threads / (max(ends) - min(begins)))

    return Run(run, 1e7)  # threads that take turns at the GIL do so every 5 ms


def _native(each_ns: Callable[[int, int], float]) -> Run:
    return Run(lambda n_calls, n_threads: n_threads / each_ns(n_calls, n_threads) * 1e9, 1e6)


def _alone_ns(run: Run, n_calls: int) -> float:
    return 1e9 / run.per_s(n_calls, 1)


def _ledger() -> Run:
    ledger = Ledger(280 * MIB, {"core": 168 * MIB, "reserve": 80 * MIB, "user": 32 * MIB}, (75.0, 85.0, 95.0))
    return _native(lambda n_calls, n_threads: ledger_pairs_ns(ledger, 4096, n_calls, n_threads))


def _record() -> Run:
    histogram, n_values = jm.LatencyHistogram(), len(LATENCIES_NS)
    return _native(
        lambda n_calls, n_threads: record_threads(histogram, LATENCIES_NS, n_threads, 0, -(-n_calls // n_values))
    )


OPERATIONS: dict[str, Callable[[jm.MmapManager], Run]] = {
    "access_layer, one layer, manager": lambda memory: in_python(
        "access(k)", "access, k = memory.access_layer, (20, 0)", memory=memory
    ),
    "the same, a Reader for each thread": lambda memory: in_python(
        "access(k)", "access, k = memory.reader().access_layer, (20, 0)", memory=memory
    ),
    f"read_many, {N_LAYERS} x {LAYER_BYTES >> 10} KiB": lambda memory: in_python(
        "read(ids, out=out)",
        "read, ids, out = memory.read_many, memory.layers(), bytearray(n_bytes)",
        memory=memory,
        n_bytes=N_LAYERS * LAYER_BYTES,
    ),
    "allocate 4 KiB and free": lambda memory: in_python(
        "allocate(4096).free()", "allocate = memory.allocate", memory=memory
    ),
    "ledger, native": lambda _: _ledger(),
    "record a latency, native": lambda _: _record(),
    "a dict for each thread": lambda _: in_python("own[k]", "own, k = {(20, 0): object()}, (20, 0)"),
}


def measure_threads(base: Path, counts: Sequence[int], is_tiny: bool = False) -> list[Scaling]:
    """How each operation goes with each of `counts` threads, and with one; in rounds that take turns.

    `base` is an empty folder. Of what `is_tiny` the figures mean nothing.
    """
    n_rounds, share = (2, 0.01) if is_tiny else (N_ROUNDS, 1)
    builder = jm.RegionBuilder(20, "bench")
    for i in range(N_LAYERS):
        builder.add_layer(jm.LayerSpec(content=f"{i:08}".encode() * (LAYER_BYTES // 8)))
    builder.write(jm.region_path(base, 20))
    counts = sorted({1, *counts})
    with ExitStack() as end:
        memory = end.enter_context(jm.MmapManager(base_path=base, simulation="never"))
        memory.load_dimension(20)
        runs = {operation: make(memory) for operation, make in OPERATIONS.items()}
        found = {operation: Scaling(operation, dict.fromkeys(counts, 0.0)) for operation in OPERATIONS}
        end.enter_context(quiet())
        n_calls = {
            operation: loops_for(partial(_alone_ns, run), share * run.turn_ns) for operation, run in runs.items()
        }
        begin = time.monotonic()
        for number in range(n_rounds):
            if number >= N_LEAST and time.monotonic() - begin > MOST_S:
                break
            for operation, run in runs.items():
                per_s = found[operation].per_s
                for n_threads in counts:
                    per_s[n_threads] = max(per_s[n_threads], run.per_s(n_calls[operation], n_threads))
    return list(found.values())
