"""What each trick of the core buys: the same with it and without it, in turns, in one run.

    python asv_bench/benchmarks/tricks.py

prints all of them. A trick whose ratio comes near 1 on the machines that matter has no reason to stay.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from jessy_mem import LayerSpec, RegionBuilder, region_path
from jessy_mem._core.budget import Ledger
from jessy_mem._core.head import Head
from jessy_mem._core.image import Image
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.mapping import Mapping, UnmapTogether
from jessy_mem._core.stack import open_stack
from jessy_mem._probe import latency as probe
from jessy_mem._probe.budget import ledger_pairs_ns
from jessy_mem.batch import side_by_side

SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
N_LOOP = 1_000 if SMALL else 20_000
N_PAIRS = 10 * N_LOOP
N_TURNS = 3 if SMALL else 100
N_FILES = 8 if SMALL else 64
SIMULATED_BYTES = (2 if SMALL else 8) << 20


def in_turns(bare: Callable[[], float], trick: Callable[[], float]) -> tuple[list[float], list[float]]:
    """What each of the two gives, called in turns."""
    turns = [(bare(), trick()) for _ in range(N_TURNS)]
    return [without for without, _ in turns], [with_ for _, with_ in turns]


def microseconds(act: Callable[[], object], n_calls: int = 20) -> float:
    begin = time.perf_counter()
    for _ in range(n_calls):
        act()
    return (time.perf_counter() - begin) * 1e6 / n_calls


def keep_fsyncing(path: str, ended: threading.Event) -> None:
    with open(path, "wb", buffering=0) as file:
        while not ended.is_set():
            file.write(bytes(4096))
            os.fsync(file.fileno())


class Tricks:
    """Times without the trick over times with it, medians: above 1 it pays."""

    params = (
        "the event that waits",
        "counter of time stamps",
        "huge pages",
        "unmapping together",
        "credit",
        "age of the folder",
        "head by pread",
        "fsyncs side by side",
        "unlinked files held",
    )
    param_names = ("trick",)
    unit = "x"

    def setup(self, trick: str) -> None:
        self.fd = -1
        self.ending = ExitStack()
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

    def credit(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """A reservation of 4 KiB and its release, in each of two threads, ns; of 1 MiB the credit is less than that."""
        small, large = (Ledger(n_bytes, {"all": n_bytes}, (75.0, 85.0, 95.0)) for n_bytes in (1 << 20, 280 << 20))
        return lambda: ledger_pairs_ns(small, 4096, N_PAIRS, 2), lambda: ledger_pairs_ns(large, 4096, N_PAIRS, 2)

    def age_of_the_folder(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Opening a small file that has no deltas, us."""
        path = self.small_region()
        bare: dict[int, bytes] = {}
        open_stack(path, 20, bare=bare)
        return lambda: microseconds(lambda: open_stack(path, 20)), lambda: microseconds(
            lambda: open_stack(path, 20, bare=bare)
        )

    def head_by_pread(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Mapping a small file and checking its head, us: as it is mapped, or as it is read."""
        path = self.small_region()
        self.fd = os.open(path, os.O_RDONLY)
        n_bytes = os.fstat(self.fd).st_size

        def check(read: bool) -> None:
            head = Head(self.fd, path, n_bytes, os.pread(self.fd, 4096, 0)) if read else None
            Image(Mapping(n_bytes, self.fd), path, 20, "mmap", None, None, head)

        return lambda: microseconds(lambda: check(False)), lambda: microseconds(lambda: check(True))

    def small_region(self) -> str:
        folder = self.ending.enter_context(tempfile.TemporaryDirectory())
        path = os.fspath(region_path(folder, 20))
        builder = RegionBuilder(20, "small")
        for _ in range(4):
            builder.add_layer(LayerSpec(text="x" * 1000))
        builder.write(path)
        past = time.time() - 60
        os.utime(os.path.dirname(path), (past, past))  # of a fresh one nothing is remembered
        return path

    def fsyncs_side_by_side(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Fsyncing many files that were just written, us for each."""
        folder = self.ending.enter_context(tempfile.TemporaryDirectory())
        files = [os.open(f"{folder}/{i}", os.O_RDWR | os.O_CREAT) for i in range(N_FILES)]
        for fd in files:
            self.ending.callback(os.close, fd)

        def sync(together: bool) -> float:
            for fd in files:
                os.pwrite(fd, os.urandom(6000), 0)
            begin = time.perf_counter()
            if together:
                side_by_side(os.fsync, files)
            else:
                for fd in files:
                    os.fsync(fd)
            return (time.perf_counter() - begin) * 1e6 / N_FILES

        return lambda: sync(False), lambda: sync(True)

    def unlinked_files_held(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """The longest of some unmappings of files without a name, us, while a thread fsyncs others."""
        folder = self.ending.enter_context(tempfile.TemporaryDirectory())
        ended = threading.Event()
        busy = threading.Thread(target=keep_fsyncing, args=(f"{folder}/busy", ended))
        busy.start()
        self.ending.callback(busy.join)
        self.ending.callback(ended.set)

        def unmap(hold: bool) -> float:
            longest = 0.0
            for _ in range(N_FILES):
                path = f"{folder}/mapped"
                with open(path, "w+b") as file:
                    file.write(os.urandom(16384))
                    file.flush()
                    os.fsync(file.fileno())
                    mappings = [Mapping(16384, file.fileno())]
                held = os.open(path, os.O_PATH) if hold else -1
                os.unlink(path)
                longest = max(longest, microseconds(mappings.clear, 1))
                if held >= 0:
                    os.close(held)
            return longest

        return lambda: unmap(False), lambda: unmap(True)

    def teardown(self, trick: str) -> None:
        self.ending.close()
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
