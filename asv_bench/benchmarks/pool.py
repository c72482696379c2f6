"""The pool: depends on _core/kernels/bitmap.pxd, _core/arena and _core/pool; nothing else changes these numbers.

Figures of nanoseconds are looped in C by _probe/pool. Ratios compare both sides in one run, in turns, best of many, so
that a busy machine disturbs both alike. Nothing here touches the blocks, except where the name says so.
"""

import mmap
import os
import random
import tempfile
import time
import timeit

import numpy as np

import jessy_mem as jm
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe.pool import BitmapProbe, pool_failure_ns, pool_pairs_ns
from jessy_mem.errors import MemoryError as PoolMemoryError
from jessy_mem.sizes import DEFAULT_POOLS

MIB = 1 << 20
BLOCK_SIZES = tuple(block_size for _, block_size in DEFAULT_POOLS)
SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
N_PAIRS = 1_000 if SMALL else 30_000
N_REPEATS = 2 if SMALL else 60
N_UNITS = 8192  # of the bitmaps: the 4 KiB class


def best(measure, *arguments):
    return min(measure(*arguments) for _ in range(N_REPEATS))


def speedup_of_two_threads(pairs_ns, *arguments):
    """Pairs per second of two threads over those of one."""
    one = two = float("inf")
    for _ in range(N_REPEATS):
        one, two = min(one, pairs_ns(*arguments, 1)), min(two, pairs_ns(*arguments, 2))
    return 2 * one / two


def fill(pool, n_bytes):
    blocks = []
    try:
        while True:
            blocks.append(pool.allocate(n_bytes))
    except PoolMemoryError:
        return blocks


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE


class Kernel:
    """bitmap_claim and bitmap_release of blocks of 2**order units, on one bitmap. Bar: 10 ns; two threads 1.5 x."""

    params = range(7)
    param_names = ("order",)

    def setup(self, order):
        self.bitmap = BitmapProbe(N_UNITS)

    def track_pair_ns(self, order):
        return best(self.bitmap.pairs_ns, N_PAIRS, order)

    track_pair_ns.unit = "ns"

    def track_speedup_of_two_threads(self, order):
        return speedup_of_two_threads(self.bitmap.pairs_ns, N_PAIRS, order)

    track_speedup_of_two_threads.unit = "x"


class NearlyFull:
    """The same with 99 % of the units claimed at random, over the same empty; `depth` blocks are out. Bar: 1.5 x."""

    params = (1, 8, 32)
    param_names = ("depth",)

    def setup(self, depth):
        self.empty, self.full = BitmapProbe(N_UNITS), BitmapProbe(N_UNITS)
        units = [self.full.claim() for _ in range(N_UNITS)]
        for unit in random.Random(1).sample(units, N_UNITS // 100):
            self.full.release(unit)

    def track_full_over_empty(self, depth):
        empty = full = float("inf")
        for _ in range(N_REPEATS):
            empty = min(empty, self.empty.pairs_ns(N_PAIRS, 0, 1, depth))
            full = min(full, self.full.pairs_ns(N_PAIRS, 0, 1, depth))
        return full / empty

    track_full_over_empty.unit = "x"


class Interface:
    """claim_block and release_block of another Cython package: with class, tag, limit, statistics."""

    params = (BLOCK_SIZES, ("the arena is the limit", "charged to a ledger"))
    param_names = ("n_bytes", "limit")

    def setup(self, n_bytes, limit):
        self.pool = PoolAllocator() if limit == "the arena is the limit" else PoolAllocator(limit_mb=140)

    def track_pair_ns(self, n_bytes, limit):
        return best(pool_pairs_ns, self.pool, n_bytes, N_PAIRS)

    track_pair_ns.unit = "ns"

    def track_speedup_of_two_threads(self, n_bytes, limit):
        return speedup_of_two_threads(pool_pairs_ns, self.pool, n_bytes, N_PAIRS)

    track_speedup_of_two_threads.unit = "x"


class Full:
    """A claim that fails because the pool is full. Bar: 100 ns."""

    params = BLOCK_SIZES
    param_names = ("n_bytes",)

    def setup(self, n_bytes):
        self.pool = PoolAllocator()
        self.blocks = fill(self.pool, 4096)

    def track_failure_ns(self, n_bytes):
        return best(pool_failure_ns, self.pool, n_bytes, 10_000)

    track_failure_ns.unit = "ns"


class Python:
    """allocate and free from Python, and what else gives n bytes. Bar: 0.5 x the fastest of the others."""

    params = BLOCK_SIZES
    param_names = ("n_bytes",)

    def setup(self, n_bytes):
        self.pool = PoolAllocator()
        self.names = {"pool": self.pool, "np": np, "n": n_bytes}
        self.others = ["bytearray(n)", "np.empty(n, np.uint8)"]
        try:
            import pyarrow
        except ImportError:
            return
        self.names["pa"] = pyarrow
        self.others.append("pa.allocate_buffer(n)")

    def time_allocate_free(self, n_bytes):
        self.pool.allocate(n_bytes).free()

    def time_allocate_with_a_view(self, n_bytes):
        with self.pool.allocate(n_bytes) as block:
            memoryview(block)

    def time_bytearray(self, n_bytes):
        bytearray(n_bytes)

    def time_numpy_empty(self, n_bytes):
        np.empty(n_bytes, np.uint8)

    def track_ratio_to_the_fastest(self, n_bytes):
        statements = ["pool.allocate(n).free()", *self.others]
        times = dict.fromkeys(statements, float("inf"))
        for _ in range(4 * N_REPEATS):  # short turns: some of them fall into quiet moments of the machine
            for statement in statements:
                number = 50 if statement == "bytearray(n)" else 1000
                turn = timeit.timeit(statement, globals=self.names, number=number) / number
                times[statement] = min(times[statement], turn)
        return times.pop(statements[0]) / min(times.values())

    track_ratio_to_the_fastest.unit = "x"


class Manager:
    """allocate and free of a manager: counted, timed, charged to its budget. Bars: 1.5 x the pool, 0.6 x bytearray."""

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.names = {"memory": self.memory, "pool": PoolAllocator()}

    def teardown(self):
        self.memory.close()
        self.folder.cleanup()

    def time_allocate_free(self):
        self.memory.allocate(4096).free()

    def time_allocate_deallocate(self):
        self.memory.deallocate(self.memory.allocate(4096))

    def time_allocate_in_a_with_block(self):
        with self.memory.allocate(4096):
            pass

    def ratio_to(self, other):
        ours = theirs = float("inf")
        for _ in range(4 * N_REPEATS):
            ours = min(ours, timeit.timeit("memory.allocate(4096).free()", globals=self.names, number=100))
            theirs = min(theirs, timeit.timeit(other, globals=self.names, number=100))
        return ours / theirs

    def track_ratio_to_the_pool(self):
        return self.ratio_to("pool.allocate(4096).free()")

    def track_ratio_to_bytearray(self):
        return self.ratio_to("bytearray(4096)")

    track_ratio_to_the_pool.unit = track_ratio_to_bytearray.unit = "x"


class Creation:
    """The default pool. Bars: 1 ms, 1 MiB of resident memory."""

    def time_create(self):
        PoolAllocator()

    def track_resident_kib(self):
        PoolAllocator()
        before = resident_bytes()
        pools = [PoolAllocator() for _ in range(16)]
        return (resident_bytes() - before) / len(pools) / 1024

    track_resident_kib.unit = "KiB"


class Usable:
    """How much of the limit one size can have, alone and after 4 KiB blocks filled the pool. Bar: 0.9."""

    params = BLOCK_SIZES
    param_names = ("n_bytes",)

    def track_alone(self, n_bytes):
        return len(fill(PoolAllocator(), n_bytes)) * n_bytes / (280 * MIB)

    def track_after_small_blocks(self, n_bytes):
        pool = PoolAllocator()
        fill(pool, 4096)
        return len(fill(pool, n_bytes)) * n_bytes / (280 * MIB)

    track_alone.unit = track_after_small_blocks.unit = "share of the limit"


class Trim:
    """Giving 128 MiB of touched and freed blocks back. Bar: 0.95 of it leaves the process."""

    params = (4096, 262144)
    param_names = ("n_bytes",)

    def touch(self, n_bytes):
        pool = PoolAllocator()
        for block in [pool.allocate(n_bytes) for _ in range(128 * MIB // n_bytes)]:
            np.frombuffer(block, np.uint8)[:: mmap.PAGESIZE] = 1
        return pool

    def track_share_given_back(self, n_bytes):
        before = resident_bytes()
        pool = self.touch(n_bytes)
        touched = resident_bytes()
        pool.trim()
        return (touched - resident_bytes()) / (touched - before)

    track_share_given_back.unit = "share of what was touched"

    def track_ms(self, n_bytes):
        pool = self.touch(n_bytes)
        begin = time.perf_counter()
        pool.trim()
        return (time.perf_counter() - begin) * 1e3

    track_ms.unit = "ms"
