"""The budget: reserving and releasing, far from a threshold and above one, in one thread and in two."""

import tempfile

import jessy_mem as jm
from jessy_mem._core.budget import Ledger
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe.budget import ledger_pairs_ns
from jessy_mem._probe.pool import pool_pairs_ns

from .pool import MIB, N_PAIRS, best, speedup_of_two_threads


class Shared:
    """Threads at one budget of 280 MiB, as in a manager: reserve and release alone, and around a block of the pool.

    Bars: two threads 1.5 x one; 16 threads, where there are 16 cores, 8 x.
    """

    params = (4096, 262144)
    param_names = ("n_bytes",)

    def setup(self, n_bytes):
        self.ledger = Ledger(280 * MIB, {"core": 168 * MIB, "reserve": 80 * MIB, "user": 32 * MIB}, (75.0, 85.0, 95.0))
        self.pool = PoolAllocator(ledger=self.ledger, segment="reserve")

    def track_pair_ns(self, n_bytes):
        return best(ledger_pairs_ns, self.ledger, n_bytes, N_PAIRS)

    track_pair_ns.unit = "ns"

    def track_speedup_of_two_threads(self, n_bytes):
        return speedup_of_two_threads(ledger_pairs_ns, self.ledger, n_bytes, N_PAIRS)

    def track_speedup_of_two_threads_with_a_block(self, n_bytes):
        return speedup_of_two_threads(pool_pairs_ns, self.pool, n_bytes, N_PAIRS)

    track_speedup_of_two_threads.unit = track_speedup_of_two_threads_with_a_block.unit = "x"


class Thresholds:
    """allocate and free of a manager far below the first threshold, and above it, where no thread has credit."""

    params = ("far below", "above the first")
    param_names = ("use",)

    def setup(self, use):
        self.folder = tempfile.TemporaryDirectory()
        self.memory = jm.MmapManager(1, base_path=self.folder.name, simulation="never")
        self.held = [self.memory.allocate(4096) for _ in range(200 if use == "above the first" else 1)]

    def teardown(self, use):
        for block in self.held:
            block.free()
        self.memory.close()
        self.folder.cleanup()

    def time_allocate_free(self, use):
        self.memory.allocate(4096).free()


class Refused:
    """A block that the budget has no room for, and nothing can be evicted for."""

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.memory = jm.MmapManager(1, base_path=self.folder.name, simulation="never")
        self.held = []
        try:
            while True:
                self.held.append(self.memory.allocate(4096))
        except jm.LimitExceeded:
            pass

    def teardown(self):
        for block in self.held:
            block.free()
        self.memory.close()
        self.folder.cleanup()

    def time_refused(self):
        try:
            self.memory.allocate(4096)
        except jm.LimitExceeded:
            return
        raise AssertionError("there was room")
