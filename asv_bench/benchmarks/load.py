"""Loading and letting go: against the bare system calls, and at the edges of size and number."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import jessy_mem as jm

from . import common

N_RUNS = 20 if common.SMALL else 2000
MAX_LAYERS = 65536


class Load:
    """A warm region of 16 MB with 4 layers: the first of the corpus."""

    def setup(self):
        self.path = os.fspath(jm.region_path(common.corpus(), 1))
        self.memory = jm.MmapManager(base_path=common.corpus(), simulation="never")

    def teardown(self):
        self.memory.close()

    def load(self):
        self.memory.load_dimension(1)
        return lambda: self.memory.unload_dimension(1)

    def bare(self):
        fd = os.open(self.path, os.O_RDONLY)
        mapping = mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_READ)
        os.close(fd)
        return mapping.close

    def time_load_and_unload(self):
        self.load()()

    def time_bare_map_and_unmap(self):
        self.bare()()

    def track_ratio_to_bare(self):
        medians = common.median_us(N_RUNS, ours=self.load, bare=self.bare)
        return medians["ours"] / medians["bare"]

    track_ratio_to_bare.unit = "x"

    def time_load_all(self):
        with jm.MmapManager(base_path=common.corpus(), simulation="never") as memory:
            memory.load_all()


class Reload:
    """`reload_dimension` of 16 MB, warm."""

    def setup(self):
        self.memory = jm.MmapManager(base_path=common.corpus(), simulation="never")
        self.memory.load_dimension(1)

    def teardown(self):
        self.memory.close()

    def time_reload(self):
        self.memory.reload_dimension(1)


class ManyLayers:
    """The most layers that a region can have."""

    n_layers = 1024 if common.SMALL else MAX_LAYERS

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        builder = jm.RegionBuilder(1, "Many")
        for layer in range(self.n_layers):
            builder.add_layer(jm.LayerSpec(content=b"x" * 32, keywords=(f"word{layer}",)))
        self.path = builder.write(jm.region_path(self.folder.name, 1))

    def teardown(self):
        self.folder.cleanup()

    def time_open(self):
        jm.MmapRegion(1, self.path).close()


class Manager:
    """What a manager costs."""

    def setup(self):
        self.memory = jm.MmapManager(base_path=common.corpus(), simulation="never")
        self.memory.load_all()

    def teardown(self):
        self.memory.close()

    def time_create_and_close(self):
        jm.MmapManager(base_path=common.corpus(), simulation="never").close()

    def time_get_stats(self):
        self.memory.get_stats()

    def time_get_stats_with_residency(self):
        self.memory.get_stats(residency=True)

    def time_metrics(self):
        jm.metrics(self.memory)

    def time_dump_state(self):
        self.memory.dump_state()

    def time_verify_16_mb(self):
        self.memory.region(1).verify()


class Statistics:
    """`get_stats` of many small dimensions that were all read once, and of which nobody holds any. Bar: 60 us."""

    params = (10, 100) if common.SMALL else (10, 10_000)
    param_names = ("dimensions",)

    def setup(self, n_dimensions):
        self.folder = tempfile.TemporaryDirectory()
        for dimension in range(1000, 1000 + n_dimensions):
            small_region(self.folder.name, dimension)
        self.memory = jm.MmapManager(2000, base_path=self.folder.name, simulation="never")
        self.memory.load_all()
        for dimension in range(1000, 1000 + n_dimensions):
            self.memory.access_layer((dimension, 0))
        for _ in range(3):
            self.memory.get_stats()

    def teardown(self, n_dimensions):
        self.memory.close()
        self.folder.cleanup()

    def time_get_stats(self, n_dimensions):
        self.memory.get_stats()

    def time_get_stats_while_all_are_held(self, n_dimensions):
        if not hasattr(self, "held"):
            self.held = [self.memory.access_layer((each, 0)) for each in range(1000, 1000 + n_dimensions)]
        self.memory.get_stats()


class Import:
    """`import jessy_mem` over `import numpy`, which it does not import; each in its own interpreter, less the start."""

    unit = "x"
    n_rounds = 2 if common.SMALL else 25

    def track_ratio_to_numpy(self):
        # Where the package is found, whatever asv has taken from the environment.
        environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(jm.__file__))}
        least = dict.fromkeys(("pass", "import numpy", "import jessy_mem"), float("inf"))
        for _ in range(self.n_rounds):
            for code in least:
                begin = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], env=environment, check=True)
                least[code] = min(least[code], time.perf_counter() - begin)
        return (least["import jessy_mem"] - least["pass"]) / (least["import numpy"] - least["pass"])


class Eviction:
    """A thousand small dimensions, evicted at once."""

    n_dimensions = 50 if common.SMALL else 1000
    number = 1
    warmup_time = 0

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        for dimension in range(15, 15 + self.n_dimensions):
            spec = jm.LayerSpec(content=b"x" * 1024)
            jm.RegionBuilder(dimension, "Small").add_layer(spec).write(jm.region_path(self.folder.name, dimension))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.memory.load_all()
        self.memory.layers(keyword="none")  # so that the index is not built meanwhile

    def teardown(self):
        self.memory.close()
        self.folder.cleanup()

    def time_evict_all(self):
        self.memory._evict_until(lambda: False)


class FullSegment:
    """A load into a segment that is full with N small regions, so that one of them has to go."""

    params = (20, 40) if common.SMALL else (300, 1000, 2000)
    param_names = ("n_regions",)

    def setup(self, n_regions):
        self.folder = tempfile.TemporaryDirectory()
        dimensions = range(15, 15 + n_regions + 1)
        for dimension in dimensions:
            path = small_region(self.folder.name, dimension)
        options = {"base_path": self.folder.name, "simulation": "never"}
        self.room = jm.MmapManager(**options)
        full = {f"{level}_threshold": 100.0 for level in ("warning", "eviction", "critical")}
        self.full = jm.MmapManager((n_regions + 0.5) * path.stat().st_size / (1 << 20), **options, **full)
        for dimension in dimensions:
            self.room.load_dimension(dimension)
            self.full.load_dimension(dimension)

    def teardown(self, n_regions):
        self.room.close()
        self.full.close()
        self.folder.cleanup()

    def load_with_room(self):
        self.room.load_dimension(15)
        return lambda: self.room.unload_dimension(15)

    def load_into_full(self):
        self.full.load_dimension(self.gone)
        return self.forget_evicted

    def forget_evicted(self):
        (self.gone,) = self.full._evicted
        self.full.unload_dimension(self.gone)

    def track_ratio_to_a_load_with_room(self, n_regions):
        self.room.unload_dimension(15)
        self.forget_evicted()
        medians = common.median_us(N_RUNS // 2, full=self.load_into_full, room=self.load_with_room)
        return medians["full"] / medians["room"]

    track_ratio_to_a_load_with_room.unit = "x"


class RefusedBesideReaders:
    """Loads that are refused though all that is in the way is held by readers passing by, by the looks taken before."""

    params = ((1, 2, 3, 5), (1, 4, 16))
    param_names = ("n_looks", "n_readers")
    n_loads = 20 if common.SMALL else 2000
    n_dimensions = 5
    unit = "%"

    def setup(self, n_looks, n_readers):
        self.folder = tempfile.TemporaryDirectory()
        paths = [small_region(self.folder.name, 15 + i) for i in range(self.n_dimensions)]
        full = {f"{level}_threshold": 100.0 for level in ("warning", "eviction", "critical")}
        limit_mb = 2.5 * paths[0].stat().st_size / (1 << 20)
        self.memory = jm.MmapManager(limit_mb, base_path=self.folder.name, simulation="never", **full)
        self.memory.load_all()

    def teardown(self, n_looks, n_readers):
        self.memory.close()
        self.folder.cleanup()

    def read(self, stopped):
        for i in itertools.cycle(range(self.n_dimensions)):
            if stopped.is_set():
                return
            with contextlib.suppress(jm.LimitExceeded):
                bytes(self.memory.access_layer((15 + i, 0)))

    def track_refused(self, n_looks, n_readers):
        stopped = threading.Event()
        readers = [threading.Thread(target=self.read, args=(stopped,)) for _ in range(n_readers)]
        n_refused = 0
        with mock.patch("jessy_mem.room.N_LOOKS", n_looks):
            for reader in readers:
                reader.start()
            for i in range(self.n_loads):
                try:
                    self.memory.reload_dimension(15 + i % self.n_dimensions)
                except jm.LimitExceeded:
                    n_refused += 1
            stopped.set()
            for reader in readers:
                reader.join()
        return 100 * n_refused / self.n_loads


def small_region(base, dimension):
    """A region file of one small layer with a keyword of its own."""
    spec = jm.LayerSpec(content=b"x" * 1024, keywords=(f"word{dimension}",))
    return jm.RegionBuilder(dimension, "Small").add_layer(spec).write(jm.region_path(base, dimension))


class TenThousand:
    """`load_all` of 10,000 small dimensions against as many single loads in a folder of ten; in time of the CPU."""

    n_dimensions, n_small = (40, 10) if common.SMALL else (10_000, 10)
    n_rounds = 1 if common.SMALL else 3
    timeout = 600

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        for name, n in (("many", self.n_dimensions), ("few", self.n_small)):
            for dimension in range(1000, 1000 + n):
                path = jm.region_path(os.path.join(self.folder.name, name), dimension)
                path.parent.mkdir(parents=True)
                path.write_bytes(jm.RegionBuilder(dimension, "Small").add_layer(jm.LayerSpec(text="small")).to_bytes())

    def teardown(self):
        self.folder.cleanup()

    def manager(self, name):
        return jm.MmapManager(base_path=os.path.join(self.folder.name, name), simulation="never", total_memory_mb=2000)

    def load_all(self):
        with self.manager("many") as memory:
            begin = time.process_time()
            memory.load_all()
            return time.process_time() - begin

    def load_few(self):
        """As many loads, each of a manager that has not looked at the folder before."""
        seconds = 0.0
        for _ in range(self.n_dimensions // self.n_small):
            with self.manager("few") as memory:
                begin = time.process_time()
                for dimension in range(1000, 1000 + self.n_small):
                    memory.load_dimension(dimension)
                seconds += time.process_time() - begin
        return seconds

    def track_loads_a_second(self):
        return self.n_dimensions / min(self.load_all() for _ in range(self.n_rounds))

    def track_ratio_to_single_loads(self):
        rounds = [(self.load_all(), self.load_few()) for _ in range(self.n_rounds)]
        all_s, single_s = (min(times) for times in zip(*rounds, strict=True))
        return all_s / single_s

    track_loads_a_second.unit, track_ratio_to_single_loads.unit = "1/s", "x"
