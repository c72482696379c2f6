"""Learning: what a new dimension costs, what a file of it costs over the bare system calls, and what readers notice."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jessy_mem as jm

from . import common

N_RUNS = 20 if common.SMALL else 500
N_TURNS = 2 if common.SMALL else 10
N_CRYSTALLIZATIONS = 10 if common.SMALL else 100  # in one turn
KIB = 1 << 10


def specs(n_layers: int, layer_bytes: int) -> list[jm.LayerSpec]:
    source = common.pieces()
    return [
        jm.LayerSpec(content=common.next_content(source, layer_bytes), depth=i, frequency=1 + i, keywords=("word",))
        for i in range(n_layers)
    ]


def publish(folder: Path, data: bytes | memoryview) -> None:
    """What is the least to make a file durable: write, fsync, rename, fsync of the folder."""
    fd = os.open(folder / "temporary", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.rename(folder / "temporary", folder / "file")
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Learning:
    """An empty base folder, and a manager of it."""

    n_layers, layer_bytes = 4, 2 * KIB

    def setup(self, *values: object) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.base = Path(self.folder.name)
        self.memory = jm.MmapManager(base_path=self.base / "base", simulation="never")
        self.specs = specs(self.n_layers, self.layer_bytes)
        self.create()  # which makes the base folder

    def teardown(self, *values: object) -> None:
        self.memory.close()
        self.folder.cleanup()

    def create(self) -> int:
        return self.memory.create_proto_dimension("Learned", self.specs, user=True)


class Create(Learning):
    """create_proto_dimension of 4 layers of 2 KB. Bar: 50 us."""

    def create_and_forget(self) -> Callable[[], None]:
        dimension = self.create()
        return lambda: self.memory.forget(dimension)

    def track_create(self) -> float:
        return common.median_us(4 * N_RUNS, create=self.create_and_forget)["create"]

    track_create.unit = "us"


class Crystallize(Learning):
    """crystallize of 1 MB, over the bare sequence with the same bytes. Bar: 1.5 x."""

    n_layers, layer_bytes = 4, 256 * KIB

    def setup(self) -> None:
        super().setup()
        self.proto = self.create()
        self.data = bytes(self.memory.region(self.proto))

    def crystallize(self) -> Callable[[], None]:
        self.memory.crystallize(self.proto)
        return self.renew

    def renew(self) -> None:
        self.memory.forget(self.proto)
        self.proto = self.create()

    def bare(self) -> Callable[[], None]:
        publish(self.base, self.data)
        return (self.base / "file").unlink

    def track_ratio_to_bare(self) -> float:
        medians = common.median_us(N_RUNS, ours=self.crystallize, bare=self.bare)
        return medians["ours"] / medians["bare"]

    def track_crystallize(self) -> float:
        return common.median_us(N_RUNS, crystallize=self.crystallize)["crystallize"]

    track_ratio_to_bare.unit = "x"
    track_crystallize.unit = "us"


class Readers:
    """p99.9 of access_layer of another layer while 1,000 dimensions become files, over the same beside other work.

    "in access_layer" is the manager's own histogram: a lock that a reader waits for would show there. "for the caller"
    is timed from Python, and has the waits for the GIL between two bytecodes too, which any other thread makes: so it
    is also compared with what a reader meets beside a thread that does the bare system calls, without the library.
    """

    params = ("in access_layer", "for the caller")
    param_names = ("measured",)
    timeout = 600

    def setup(self, measured: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.base = Path(self.folder.name)
        self.specs = specs(4, 2 * KIB)

    def teardown(self, measured: str) -> None:
        self.folder.cleanup()

    def crystallize(self, memory: jm.MmapManager) -> None:
        for _ in range(N_CRYSTALLIZATIONS):
            memory.crystallize(memory.create_proto_dimension("Learned", self.specs, user=True))

    def publish(self, memory: jm.MmapManager) -> None:
        data = b"".join(spec.content for spec in self.specs)
        for _ in range(N_CRYSTALLIZATIONS):
            publish(self.base, data)

    def rest(self, memory: jm.MmapManager) -> None:
        time.sleep(0.01 if common.SMALL else 0.3)

    def read_beside(self, work: Callable[[jm.MmapManager], None]) -> dict[str, int]:
        """p99.9 of accesses in ns, while another thread does `work`."""
        measured = jm.LatencyHistogram()
        record, clock, sleep = measured.record, time.perf_counter_ns, time.sleep
        with jm.MmapManager(base_path=self.base / "base", simulation="never") as memory:
            layer_id = (memory.create_proto_dimension("Read", self.specs, user=True), 1)
            access = memory.access_layer
            access(layer_id)
            worker = threading.Thread(target=work, args=(memory,))
            worker.start()
            at_work = True
            while at_work:  # also when the worker is done before this thread has its first turn
                at_work = worker.is_alive()
                for _ in range(100):
                    begin_ns = clock()
                    access(layer_id)
                    record(clock() - begin_ns)
                sleep(0)  # who reads also does something else, some of it without the GIL
            worker.join()
            hits = memory._hits
        return {"in access_layer": hits.percentile(99.9), "for the caller": measured.percentile(99.9)}

    def ratio(self, measured: str, other: Callable[[jm.MmapManager], None]) -> float:
        """The ratio of the medians of many turns: in some of them another process takes the core for a while."""
        ours, others = [], []
        for _ in range(N_TURNS):
            ours.append(self.read_beside(self.crystallize)[measured])
            others.append(self.read_beside(other)[measured])
        return statistics.median(ours) / statistics.median(others)

    def track_ratio_to_idle(self, measured: str) -> float:
        return self.ratio(measured, self.rest)

    def track_ratio_to_bare(self, measured: str) -> float:
        return self.ratio(measured, self.publish)

    track_ratio_to_idle.unit = track_ratio_to_bare.unit = "x"
