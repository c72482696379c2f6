"""What ``demo`` and ``bench`` measure: each target of the design, and ratios to the bare thing, in one run.

Everything is measured warm, in rounds that take turns, so that what else the machine does meets every row in some
rounds and none in all of them. A time is the median of one round's runs, given with their quartiles: the round is the
one with the lowest median. The two sides of a ratio take turns in each round, so that both meet the same noise.
"""

from __future__ import annotations

import gc
import mmap
import os
import platform
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jessy_mem as jm

__all__ = [
    "HOW",
    "Measurements",
    "Ratio",
    "Timing",
    "loops_for",
    "machine",
    "measure",
    "quiet",
    "write_big_region",
]

BIG_BYTES = (16 << 20) - (64 << 10)  # content of the largest region that fits into the slot of 16 MiB
N_LAYERS = 4
BLOCK_BYTES = 10_000
CREATION_NS = 1e6  # what making a manager may take: a hundredth of its target
MAX_LOOPS = 1 << 22
N_ROUNDS = 5
N_RUNS = 40  # in each round; short ones: what else the machine does hits few of them, and the median none
HOW = f"warm; medians of {N_RUNS} runs, the best of {N_ROUNDS} rounds"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one operation takes: the median of `n_runs` runs and their quartiles, in ns."""

    name: str
    median_ns: float
    low_ns: float
    high_ns: float
    n_runs: int
    target_ns: float | None = None

    @classmethod
    def of(cls, name: str, runs_ns: list[float], target_ns: float | None = None) -> Timing:
        low, median, high = statistics.quantiles(runs_ns, n=4, method="inclusive")
        return cls(name, median, low, high, len(runs_ns), target_ns)

    @property
    def met(self) -> bool:
        """Whether the median is below the target."""
        return self.target_ns is None or self.median_ns < self.target_ns

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | ({} if self.target_ns is None else {"met": self.met})


@dataclass(frozen=True, slots=True)
class Ratio:
    """One operation against the bare thing that a program would do without the library; `bound` is what it may cost."""

    name: str
    bare: str
    ours_ns: float
    bare_ns: float
    bound: float

    @property
    def ratio(self) -> float:
        return self.ours_ns / self.bare_ns

    @property
    def met(self) -> bool:
        return self.ratio <= self.bound

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def write_big_region(base: Path, text: str) -> Path:
    """A region of D01 that fills its slot with `text`, over and over."""
    n_bytes = BIG_BYTES // N_LAYERS
    content = (text.encode() * (n_bytes // len(text.encode()) + 1))[:n_bytes]
    builder = jm.RegionBuilder(1, "Emotion")
    for depth in range(N_LAYERS):
        builder.add_layer(jm.LayerSpec(content=content, depth=depth))
    return builder.write(jm.region_path(base, 1))


@dataclass(frozen=True, slots=True)
class Measurements:
    """The best round of each row."""

    targets: list[Timing]
    ratios: list[Ratio]
    details: list[Timing]


def measure(base: Path, with_details: bool = False) -> Measurements:
    """The five targets and the ratios, and what they leave out `with_details`, on a base folder that holds the region
    of `write_big_region`."""
    rounds = []
    with quiet():
        for _ in range(N_ROUNDS):
            with jm.MmapManager(base_path=base, simulation="never") as memory:
                targets = _targets(memory, base)
                details = _details(memory) if with_details else []
                memory.unload_dimension(1)
                rounds.append(Measurements(targets, _ratios(memory, base, targets[0]), details))
    return Measurements(
        [min(rows, key=lambda row: row.median_ns) for rows in zip(*(each.targets for each in rounds), strict=True)],
        [min(rows, key=lambda row: row.ratio) for rows in zip(*(each.ratios for each in rounds), strict=True)],
        [min(rows, key=lambda row: row.median_ns) for rows in zip(*(each.details for each in rounds), strict=True)],
    )


def _targets(memory: jm.MmapManager, base: Path) -> list[Timing]:
    """The five targets; the region is loaded then."""
    memory.load_dimension(1)
    return [
        Timing.of("Initialization", _creations(base), 100e6),
        Timing.of("Dimension Loading", _loads(memory), 50e6),
        Timing.of("Layer Access", _loops(_access_timer(memory), 300, N_LAYERS), 1e6),
        Timing.of("Stats Retrieval", _loops(timeit.Timer(memory.get_stats), 5), 1e6),
        Timing.of("Pool Allocation", _allocations(memory), 10e3),
    ]


def _details(memory: jm.MmapManager) -> list[Timing]:
    """What the targets leave out; the region must be loaded."""
    big = (1, 0)
    spec = jm.LayerSpec(text="x" * 2000, keywords=("word",))
    view = memory.access_layer(big)
    names = {"memory": memory, "view": view, "big": big, "region": memory.region(1)}
    statements = {
        "memoryview of a layer": ("memoryview(view)", 300),
        "slice of 100 bytes": ("view[1000:1100]", 300),
        f"text of {view.n_bytes >> 10} KiB, decoded": ("view.text", 1),
        "region.access, checked slice": ("region.access(4096, 100)", 300),
        "layers by keyword": ("memory.layers(keyword='word')", 100),
        f"allocate and free {BLOCK_BYTES} bytes": (f"memory.allocate({BLOCK_BYTES}).free()", 50),
    }
    found = [
        Timing.of(name, _loops(timeit.Timer(statement, globals=names), n_loops))
        for name, (statement, n_loops) in statements.items()
    ]
    names.clear()  # a timer's function may outlive its use, views must not
    return [*found, Timing.of("learn 4 layers of 2 KB", _learnings(memory, spec))]


def _ratios(memory: jm.MmapManager, base: Path, creation: Timing) -> list[Ratio]:
    """Loading and access against what they are made of; the region must not be loaded, and is then."""
    path = jm.region_path(base, 1)
    loads, bare_loads = _in_turn(lambda: _load(memory), lambda: _bare_load(path))
    memory.load_dimension(1)
    access, lookup = _access_timer(memory), _lookup_timer(memory)
    n_loops = 300
    hits, lookups = _in_turn(lambda: access.timeit(n_loops) * 1e9, lambda: lookup.timeit(n_loops) * 1e9)
    for timer in (access, lookup):
        timer.inner.__globals__.clear()  # type: ignore[attr-defined]  # views must not outlive their use
    per_call = n_loops * N_LAYERS
    return [
        Ratio("create a manager", "allowed", creation.median_ns, CREATION_NS, 1.0),
        Ratio("load_dimension", "open+fstat+mmap+close", loads, bare_loads, 2.0),
        Ratio("access_layer", "dict[dimension, layer]", hits / per_call, lookups / per_call, 2.0),
    ]


def machine() -> str:
    """What the numbers were measured on."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()} {platform.system()}"


# One run of each ------------------------------------------------------------------------------------------------------


def _creations(base: Path) -> list[float]:
    runs = []
    for _ in range(N_RUNS):
        begin = time.perf_counter_ns()
        memory = jm.MmapManager(base_path=base, simulation="never")
        runs.append(float(time.perf_counter_ns() - begin))
        memory.close()
    return runs


def _loads(memory: jm.MmapManager) -> list[float]:
    memory.unload_dimension(1)
    runs = [_load(memory) for _ in range(N_RUNS)]
    memory.load_dimension(1)
    return runs


def _load(memory: jm.MmapManager) -> float:
    begin = time.perf_counter_ns()
    memory.load_dimension(1)
    t_ns = time.perf_counter_ns() - begin
    memory.unload_dimension(1)
    return float(t_ns)


def _bare_load(path: Path) -> float:
    name = os.fspath(path)
    begin = time.perf_counter_ns()
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    mapped = mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_READ)
    os.close(fd)
    t_ns = time.perf_counter_ns() - begin
    mapped.close()
    return float(t_ns)


def _allocations(memory: jm.MmapManager) -> list[float]:
    runs = []
    n_blocks = 50
    for _ in range(N_RUNS):
        begin = time.perf_counter_ns()
        blocks = [memory.allocate(BLOCK_BYTES) for _ in range(n_blocks)]
        runs.append((time.perf_counter_ns() - begin) / n_blocks)
        for block in blocks:
            block.free()
    return runs


def _learnings(memory: jm.MmapManager, spec: jm.LayerSpec) -> list[float]:
    runs = []
    for _ in range(N_RUNS):
        begin = time.perf_counter_ns()
        dimension = memory.create_proto_dimension("bench", [spec] * N_LAYERS)
        runs.append(float(time.perf_counter_ns() - begin))
        memory.forget(dimension)
    return runs


def _access_timer(memory: jm.MmapManager) -> timeit.Timer:
    """A loop over `access_layer` of each layer in turn; the ids are made as a caller would, from two ints."""
    statement = "; ".join(f"access((dimension, layer_{layer}))" for layer in range(N_LAYERS))
    return timeit.Timer(statement, _ids("access = memory.access_layer"), globals={"memory": memory})


def _lookup_timer(memory: jm.MmapManager) -> timeit.Timer:
    """The same loop over a dict that holds ready memoryviews."""
    table = {(1, layer): memoryview(memory.access_layer((1, layer))) for layer in range(N_LAYERS)}
    statement = "; ".join(f"table[dimension, layer_{layer}]" for layer in range(N_LAYERS))
    return timeit.Timer(statement, _ids("table = held"), globals={"held": table})


def _ids(setup: str) -> str:
    return f"{setup}; dimension = 1; " + "; ".join(f"layer_{layer} = {layer}" for layer in range(N_LAYERS))


def _loops(timer: timeit.Timer, n_loops: int, per_loop: int = 1) -> list[float]:
    return [timer.timeit(n_loops) * 1e9 / (n_loops * per_loop) for _ in range(N_RUNS)]


def loops_for(run: Callable[[int], float], turn_ns: float) -> int:
    """How many calls take about `turn_ns` together, and one at least; `run` tells the ns of one of so many."""
    n_loops = 1
    run(n_loops)  # cold
    while (t_ns := min(run(n_loops), run(n_loops)) * n_loops) < turn_ns / 4 and n_loops < MAX_LOOPS:
        n_loops *= 4
    return max(1, min(MAX_LOOPS, round(n_loops * turn_ns / max(t_ns, 1.0))))


def _in_turn(ours: Callable[[], float], bare: Callable[[], float]) -> tuple[float, float]:
    """The medians of two things that take turns."""
    pairs = [(ours(), bare()) for _ in range(N_RUNS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
