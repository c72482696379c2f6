"""Learning: what a new dimension costs, what a file of it costs over the bare system calls, and what readers notice."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import count, islice
from pathlib import Path
from unittest import mock

import jessy_mem as jm

from . import common

N_RUNS = 20 if common.SMALL else 500
N_TURNS = 2 if common.SMALL else 10
N_CRYSTALLIZATIONS = 10 if common.SMALL else 100  # in one turn
KIB = 1 << 10
NUMBERS = count()  # no two dimensions have the same name


def specs(n_layers: int, layer_bytes: int) -> list[jm.LayerSpec]:
    source = common.pieces()
    return [
        jm.LayerSpec(
            content=common.next_content(source, layer_bytes), depth=i % 256, frequency=1 + i, keywords=("word",)
        )
        for i in range(n_layers)
    ]


def publish(folder: Path, data: bytes | memoryview, durable: bool = True) -> None:
    """What is the least to make a file durable: write, fsync, rename, fsync of the folder; else without the fsyncs."""
    fd = os.open(folder / "temporary", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    os.write(fd, data)
    if durable:
        os.fsync(fd)
    os.close(fd)
    os.rename(folder / "temporary", folder / "file")
    if durable:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def unsynced() -> AbstractContextManager[object]:
    """Inside, a file is as good as on the disk at once: what is measured is beside the fsyncs."""
    return mock.patch.object(os, "fsync", lambda fd: None)  # noqa: PT008  a Mock takes time, and remembers all


def done() -> None:
    """What undoes nothing."""


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
        return self.memory.create_proto_dimension(f"Learned {next(NUMBERS)}", self.specs, user=True)


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
            memory.crystallize(memory.create_proto_dimension(f"Learned {next(NUMBERS)}", self.specs, user=True))

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
            layer_id = (memory.create_proto_dimension(f"Read {next(NUMBERS)}", self.specs, user=True), 1)
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


class Append(Learning):
    """append_layer of 1 KiB to a proto-dimension. Bar: 25 us, whatever the number of layers."""

    params = (10, 4000)
    param_names = ("n_layers",)
    layer_bytes = KIB

    def setup(self, n_layers: int) -> None:
        super().setup()
        self.spec = specs(1, KIB)[0]
        self.dimensions = {
            n: self.memory.create_proto_dimension(f"Of {n}", specs(n, KIB), user=True) for n in {10, 4000, n_layers}
        }

    def append_to(self, n_layers: int) -> Callable[[], None]:
        dimension = self.dimensions[n_layers]

        def append() -> Callable[[], None]:
            self.memory.append_layer(dimension, self.spec)
            return done

        return append

    def track_append(self, n_layers: int) -> float:
        return common.median_us(N_RUNS, append=self.append_to(n_layers))["append"]

    def track_ratio_to_ten_layers(self, n_layers: int) -> float:
        """Bar: 1.2."""
        medians = common.median_us(N_RUNS, these=self.append_to(n_layers), ten=self.append_to(10))
        return medians["these"] / medians["ten"]

    track_append.unit = "us"
    track_ratio_to_ten_layers.unit = "x"


class AskAfterAppend(Learning):
    """A question for a keyword after one append, 65,536 layers being loaded. Bar: 50 us."""

    n_dimensions, n_each = (2, 10) if common.SMALL else (16, 4096)

    def setup(self) -> None:
        super().setup()
        layers = [jm.LayerSpec(content=bytes(16), keywords=(f"word{i}", "all")) for i in range(self.n_each)]
        self.dimensions = [
            self.memory.create_proto_dimension(f"Asked {next(NUMBERS)}", layers, user=True)
            for _ in range(self.n_dimensions)
        ]
        self.memory.crystallize_many()
        self.memory.layers(keyword="rare")

    def append(self) -> None:
        self.memory.append_layer(self.dimensions[0], jm.LayerSpec(content=bytes(16), keywords=("rare",)))

    def ask(self) -> Callable[[], None]:
        self.memory.layers(keyword="rare")
        return self.append

    def track_ask(self) -> float:
        with unsynced():
            return common.median_us(20 if common.SMALL else 200, ask=self.ask)["ask"]

    track_ask.unit = "us"


class AppendToFile(Append):
    """The same to a crystallized one, over the bare system calls for a file of 1 KiB. Bar: 1.3 x, for any number.

    The bare ones replace a file in the very folder of the dimension: what it costs to make a file depends on where, and
    on how many were removed there.
    """

    def setup(self, n_layers: int) -> None:
        super().setup(n_layers)
        self.memory.crystallize_many()
        self.batch = jm.MmapManager(base_path=self.base / "batch", simulation="never", durability="batch")
        self.batched = self.batch.create_proto_dimension("Batched", specs(n_layers, KIB))
        self.batch.crystallize(self.batched)
        self.place = Path(self.memory.region(self.dimensions[n_layers]).path).parent
        self.data = bytes(KIB)

    def teardown(self, n_layers: int) -> None:
        self.batch.close()
        super().teardown(n_layers)

    def bare(self) -> Callable[[], None]:
        publish(self.place, self.data)
        return done

    def bare_unsynced(self) -> Callable[[], None]:
        publish(self.place, self.data, durable=False)
        return done

    def append_batched(self) -> Callable[[], None]:
        self.batch.append_layer(self.batched, self.spec)
        return done

    def track_ratio_to_bare(self, n_layers: int) -> float:
        medians = common.median_us(N_RUNS, ours=self.append_to(n_layers), bare=self.bare)
        return medians["ours"] / medians["bare"]

    def track_each_over_batch(self, n_layers: int) -> float:
        """How many times as long a change takes as one of a batch; not in turns: an fsync holds up all. Bar: 20 x."""
        each = common.median_us(N_RUNS, call=self.append_to(n_layers))["call"]
        return each / common.median_us(N_RUNS, call=self.append_batched)["call"]

    def track_bare_over_unsynced(self, n_layers: int) -> float:
        """The same of the bare calls with and without fsync: what a disk, and a system, allow at most."""
        bare = common.median_us(N_RUNS, call=self.bare)["call"]
        return bare / common.median_us(N_RUNS, call=self.bare_unsynced)["call"]

    track_ratio_to_bare.unit = track_each_over_batch.unit = track_bare_over_unsynced.unit = "x"


class Extend(Learning):
    """extend by 1,000 layers of 1 KiB, beside the fsyncs. Bar: 5 ms."""

    n_more = 20 if common.SMALL else 1000

    def setup(self) -> None:
        super().setup()
        self.dimension = self.create()
        self.memory.crystallize(self.dimension)
        self.more = specs(self.n_more, KIB)

    def extend(self) -> Callable[[], None]:
        self.memory.extend(self.dimension, self.more)
        return done

    def track_extend(self) -> float:
        with unsynced():
            return common.median_us(5 if common.SMALL else 15, extend=self.extend)["extend"]

    track_extend.unit = "us"


class CrystallizeMany(Learning):
    """crystallize_many of 1,000 proto-dimensions, over one by one. Bar: 4 times as fast."""

    n_dimensions = 10 if common.SMALL else 1000

    def learned(self) -> list[int]:
        return [self.create() for _ in range(self.n_dimensions)]

    def track_one_by_one_over_many(self) -> float:
        seconds = {"many": [], "one by one": []}
        for _ in range(1 if common.SMALL else 3):
            dimensions = self.learned()
            begin = time.perf_counter()
            self.memory.crystallize_many(dimensions)
            seconds["many"].append(time.perf_counter() - begin)
            dimensions = self.learned()
            begin = time.perf_counter()
            for dimension in dimensions:
                self.memory.crystallize(dimension)
            seconds["one by one"].append(time.perf_counter() - begin)
        return statistics.median(seconds["one by one"]) / statistics.median(seconds["many"])

    def track_bare_one_by_one_over_many(self) -> float:
        """The same of the bare calls in as many threads: what a disk, and a system, allow."""
        data, folders = bytes(4 * 2 * KIB), (self.base / f"bare {number}" for number in count())

        def make(folder: Path) -> None:
            folder.mkdir()
            publish(folder, data)

        seconds = {"many": [], "one by one": []}
        for _ in range(1 if common.SMALL else 3):
            begin = time.perf_counter()
            with ThreadPoolExecutor(16) as threads:
                list(threads.map(make, islice(folders, self.n_dimensions)))
            sync_folder(self.base)
            seconds["many"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for folder in islice(folders, self.n_dimensions):
                make(folder)
                sync_folder(self.base)
            seconds["one by one"].append(time.perf_counter() - begin)
        return statistics.median(seconds["one by one"]) / statistics.median(seconds["many"])

    track_one_by_one_over_many.unit = track_bare_one_by_one_over_many.unit = "x"


class Written(Learning):
    """Bytes written for 10,000 appends of 1 KiB to one dimension, over the bytes appended. Bar: 6 x."""

    n_appends = 100 if common.SMALL else 10_000
    timeout = 600

    def track_written_over_appended(self) -> float:
        write, n_bytes = os.write, 0

        def counted(fd: int, data: bytes) -> int:
            nonlocal n_bytes
            done = write(fd, data)
            n_bytes += done
            return done

        dimension = self.memory.create_proto_dimension("Grown", specs(1, KIB), user=True)
        self.memory.crystallize(dimension)
        (spec,) = specs(1, KIB)
        with unsynced(), mock.patch.object(os, "write", counted):
            for _ in range(self.n_appends):
                self.memory.append_layer(dimension, spec)
        return n_bytes / (self.n_appends * KIB)

    track_written_over_appended.unit = "x"
