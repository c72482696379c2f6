"""What it costs to follow what other processes change, and to guard what may be truncated.

The nanoseconds are looped in C by
`_probe/changes` and `_probe/guard`; each figure is the least of many loops, for whatever disturbs one only adds to it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
import timeit
from array import array
from functools import partial

import numpy as np

import jessy_mem as jm
from jessy_mem._core.changes import ChangePage
from jessy_mem._probe import changes as probe
from jessy_mem._probe import guard

SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
N_LOOP = 1_000 if SMALL else 20_000
N_LEAST = 2 if SMALL else 200
WALK = array("Q", ((i * 77 + 13) & 2047 for i in range(2048)))  # each step waits for the one before: about 1.5 ns


class Page:
    """A page of changes in a folder of its own, mapped by one who reads and one who writes."""

    def setup(self, *_: object) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.writer = ChangePage(self.folder.name)
        self.writer.open(create=True)
        self.reader = ChangePage(self.folder.name)
        self.reader.open()

    def teardown(self, *_: object) -> None:
        self.writer.close()
        self.reader.close()
        self.folder.cleanup()


class Follow(Page):
    """The hot path's one comparison: at most 1 ns more, with a page and without."""

    unit = "ns"
    params = (["a page", "none"],)
    param_names = ("there is",)

    def track_compare_added(self, there_is: str) -> float:
        page = self.reader if there_is == "a page" else ChangePage(self.folder.name)
        pairs = [
            [probe.compare_cost_ns(page, WALK, N_LOOP, follows) for follows in (True, False)] for _ in range(N_LEAST)
        ]
        following, bare = (min(side) for side in zip(*pairs, strict=True))
        return following - bare


class Tell(Page):
    def time_append(self) -> None:
        self.writer.append(15, "changed", 1)

    def time_is_stale(self) -> None:
        self.reader.is_stale()

    def time_open_what_is_open(self) -> None:
        self.reader.open()

    def time_open_again(self) -> None:
        self.reader.close()
        self.reader.open()


class Hear(Page):
    params = ([0, 1, 10, 1024],)
    param_names = ("n_changes",)

    def setup(self, n_changes: int) -> None:
        super().setup()
        self.seen = self.reader.sequence
        for number in range(n_changes):
            self.writer.append(number, "changed", 1)

    def time_read_since(self, n_changes: int) -> None:
        self.reader.read_since(self.seen)


class Guard:
    """Registering costs a look at the signal's handler; a fault costs a walk through all ranges."""

    params = ([1, 10_000],)
    param_names = ("n_ranges",)

    def setup(self, n_ranges: int) -> None:
        self.map = mmap.mmap(-1, mmap.PAGESIZE * (n_ranges + 1))
        self.address = np.frombuffer(self.map, np.uint8).ctypes.data
        self.handles = [guard.add(self.address + i * mmap.PAGESIZE, mmap.PAGESIZE) for i in range(n_ranges)]

    def teardown(self, n_ranges: int) -> None:
        for handle in self.handles:
            guard.remove(handle)

    def time_add_remove(self, n_ranges: int) -> None:
        guard.remove(guard.add(self.address + n_ranges * mmap.PAGESIZE, mmap.PAGESIZE))

    def track_damaged(self, n_ranges: int) -> float:
        return min(guard.damaged_cost_ns(self.handles[-1], N_LOOP) for _ in range(N_LEAST))

    track_damaged.unit = "ns"


class Fault:
    """A read of a page that is gone: signal, handler, zeros."""

    params = ([1, 10_000],)
    param_names = ("n_ranges",)
    number = 1
    repeat = 5 if SMALL else 50

    def setup(self, n_ranges: int) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE * n_ranges)
            self.map = mmap.mmap(file.fileno(), mmap.PAGESIZE * n_ranges)
            file.truncate(0)
        self.address = np.frombuffer(self.map, np.uint8).ctypes.data
        self.handles = [guard.add(self.address + i * mmap.PAGESIZE, mmap.PAGESIZE, True) for i in range(n_ranges)]

    def teardown(self, n_ranges: int) -> None:
        for handle in self.handles:
            guard.remove(handle)

    def time_fault(self, n_ranges: int) -> None:
        guard.read_byte(self.address + (n_ranges - 1) * mmap.PAGESIZE)


class FollowingHit(Page):
    """A hit of `access_layer` by who follows, against one by who follows nobody: at most 1 ns more."""

    unit = "ns"
    N_MANAGERS = 1 if SMALL else 8  # of each kind: where the allocator puts one is worth more than what is measured

    def track_following_added(self) -> float:
        learned = jm.LayerSpec(text="learned")
        with contextlib.ExitStack() as stack:
            make = partial(jm.MmapManager, base_path=self.folder.name, simulation="never")
            dimension = stack.enter_context(make()).ensure_dimension("learned", [learned])
            least: dict[str, list[float]] = {"auto": [], "never": []}
            timers = []
            for follow in [*least] * self.N_MANAGERS:
                memory = stack.enter_context(make(follow=follow))
                memory.load_dimension(dimension)
                names = {"access_layer": memory.access_layer, "layer_id": jm.LayerId(dimension, 0)}
                timers.append((follow, timeit.Timer("access_layer(layer_id)", globals=names)))
            rounds = [[timer.timeit(N_LOOP // 4) for _, timer in timers] for _ in range(max(N_LEAST // 4, 2))]
            for (follow, _), times in zip(timers, zip(*rounds, strict=True), strict=True):
                least[follow].append(min(times) / (N_LOOP // 4) * 1e9)
        following, alone = (sum(each) / self.N_MANAGERS for each in least.values())
        return following - alone


class FollowOther:
    """The access that sees what another process has just appended to a dimension of 1,000 layers."""

    number = 1
    repeat = (3, 20, 5.0)
    warmup_time = 0

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        make = partial(jm.MmapManager, base_path=self.folder.name, simulation="never", durability="batch")
        self.writer, self.reader = make(), make()
        specs = [jm.LayerSpec(content=bytes(1024)) for _ in range(10 if SMALL else 1_000)]
        self.dimension = self.writer.ensure_dimension("learned", specs)
        self.reader.refresh()
        self.reader.access_layer((self.dimension, 0))
        self.added = self.writer.append_layer(self.dimension, specs[0])

    def teardown(self) -> None:
        self.writer.close()
        self.reader.close()
        self.folder.cleanup()

    def time_access_after_append(self) -> None:
        self.reader.access_layer(self.added)


OTHER = """
import sys
import jessy_mem as jm

with jm.MmapManager(base_path=sys.argv[1], simulation="never", durability=sys.argv[2]) as memory:
    dimension = memory.find("learned")
    spec = jm.LayerSpec(content=bytes(1024), keywords=("new",))
    for line in sys.stdin:
        print(memory.append_layer(dimension, spec).layer, flush=True)
"""


class FollowProcess:
    """The access that sees what another process has appended, in 1,000 turns, through merges and new bases.

    What was merged is deleted by its last holder, and that waits for the journal of the file system, which is always
    being written beside a writer that syncs each change: so the writer holds it (unlinked.py), and not the reader.
    """

    params = ("batch", "each")
    param_names = ("durability",)
    n_layers = 10 if SMALL else 1_000
    n_turns = 20 if SMALL else 1_000
    timeout = 300

    def setup(self, durability: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never", durability="batch")
        specs = [jm.LayerSpec(content=bytes(1024)) for _ in range(self.n_layers)]
        self.dimension = self.memory.ensure_dimension("learned", specs)
        self.memory.access_layer((self.dimension, 0))
        self.memory.layers(keyword="new")
        command = [sys.executable, "-c", OTHER, self.folder.name, durability]
        self.other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def teardown(self, durability: str) -> None:
        self.other.communicate()
        self.memory.close()
        self.folder.cleanup()

    def latencies(self) -> jm.LatencyHistogram:
        measured, clock = jm.LatencyHistogram(), time.perf_counter_ns
        for _ in range(self.n_turns):
            print(file=self.other.stdin)
            layer = int(self.other.stdout.readline())
            begin_ns = clock()
            self.memory.access_layer((self.dimension, layer))
            measured.record(clock() - begin_ns)
        return measured

    def track_p50(self, durability: str) -> float:
        return self.latencies().percentile(50) / 1000

    def track_p99(self, durability: str) -> float:
        """Bar: 2,000 us."""
        return self.latencies().percentile(99) / 1000

    track_p50.unit = track_p99.unit = "us"
