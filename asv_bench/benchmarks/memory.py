"""What loaded layers take of memory that is not their files'."""

import tempfile
import tracemalloc

import jessy_mem as jm

from . import common
from .load import small_region


class Layers:
    """What Python allocates for a layer that was never read, before a question and after it. Bar: 200 bytes."""

    n_layers = 100 if common.SMALL else 65_536
    unit = "bytes"

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        builder = jm.RegionBuilder(15, "Many")
        for i in range(self.n_layers):
            builder.add_layer(jm.LayerSpec(content=b"x", keywords=("mood", f"word{i % 1000}")))
        builder.write(jm.region_path(self.folder.name, 15))

    def teardown(self):
        self.folder.cleanup()

    def bytes_for_each(self, ask):
        with jm.MmapManager(base_path=self.folder.name, simulation="never") as memory:
            tracemalloc.start()
            memory.load_dimension(15)
            if ask:
                assert len(memory.layers(keyword="MOOD")) == self.n_layers
            n_bytes, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return n_bytes / self.n_layers

    def track_never_read(self):
        return self.bytes_for_each(ask=False)

    def track_after_a_question(self):
        return self.bytes_for_each(ask=True)


class Evicted:
    """What is remembered of a dimension that was evicted, in bytes: one layer, one keyword, the index never asked."""

    n_dimensions = 100 if common.SMALL else 10_000
    unit = "bytes"

    def track_bytes_for_each(self):
        with tempfile.TemporaryDirectory() as folder:
            for dimension in range(15, 15 + self.n_dimensions):
                small_region(folder, dimension)
            with jm.MmapManager(1, base_path=folder, simulation="never") as memory:
                memory.load_dimension(15)  # what is made once
                memory.unload_dimension(15)
                tracemalloc.start()
                for dimension in range(15, 15 + self.n_dimensions):
                    memory.load_dimension(dimension)
                memory._evict_until(lambda: False)
                n_bytes, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert memory.get_stats().active_regions == 0
                return n_bytes / self.n_dimensions


class PrivateMemory:
    """What 148 MB loaded add to the memory that only this process has."""

    unit = "bytes"

    def track_private_bytes(self):
        with jm.MmapManager(base_path=common.corpus(), simulation="never") as memory:
            before = private_bytes()
            memory.load_all()
            return private_bytes() - before


def private_bytes() -> int:
    """Anonymous and dirty private pages of this process, from the kernel."""
    n_bytes = 0
    with open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            if line.startswith(("Private_Dirty:", "Private_Clean:")):
                n_bytes += int(line.split()[1]) * 1024
    return n_bytes
