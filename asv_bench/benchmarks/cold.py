"""Cold files: contexts whose pages are on the disk, with and without asking for all of them first; and giving back."""

from __future__ import annotations

import os
import random
import tempfile

import jessy_mem as jm

from . import common

DIMENSIONS = range(20, 28)
# Layers of a file, their bytes, how many are read.
SHAPES = {"scattered": (1000, 16384, 300), "whole": (64, 262144, 512)}


class Cold:
    """Layers of eight files, none of whose pages is in memory: 300 of 16 KiB here and there, or all, of 256 KiB."""

    params = (("scattered", "whole"), (False, True))
    param_names = ("what", "prefetch")
    number, repeat, warmup_time = 1, 5, 0.0

    def setup(self, what, prefetch):
        n_layers, n_bytes, n_read = SHAPES[what]
        if common.SMALL:
            n_layers, n_read = 4, 8
        self.base = tempfile.TemporaryDirectory()
        draw = random.Random(1)
        for dimension in DIMENSIONS:
            builder = jm.RegionBuilder(dimension, f"cold {dimension}")
            for _ in range(n_layers):
                builder.add_layer(jm.LayerSpec(text=f"{draw.getrandbits(32):08x}" * (n_bytes // 8)))
            builder.write(jm.region_path(self.base.name, dimension))
        ids = [(dimension, layer) for dimension in DIMENSIONS for layer in range(n_layers)]
        ids = sorted(draw.sample(ids, n_read)) if what == "whole" else draw.sample(ids, n_read)
        self.paths = [jm.NavigationPath(ids[0][0], ids)]
        for dimension in DIMENSIONS:
            fd = os.open(jm.region_path(self.base.name, dimension), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        self.memory = jm.MmapManager(400, base_path=self.base.name, simulation="never")
        for dimension in DIMENSIONS:
            self.memory.load_dimension(dimension)

    def teardown(self, what, prefetch):
        self.memory.close()
        self.base.cleanup()

    def time_contexts(self, what, prefetch):
        self.memory.load_contexts(self.paths, prefetch=prefetch)


class GiveBack:
    """A thousand live views of a page each, in ten files, all read before."""

    params = ("trim", "cool")
    param_names = ("how",)
    number, repeat = 1, 20

    def setup(self, how):
        n_layers = 4 if common.SMALL else 100
        self.base = tempfile.TemporaryDirectory()
        for dimension in range(20, 30):
            builder = jm.RegionBuilder(dimension, f"views {dimension}")
            for _ in range(n_layers):
                builder.add_layer(jm.LayerSpec(text="x" * common.PAGE_BYTES))
            builder.write(jm.region_path(self.base.name, dimension))
        self.memory = jm.MmapManager(base_path=self.base.name, simulation="never")
        for dimension in range(20, 30):
            self.memory.load_dimension(dimension)
        self.views = [self.memory[each] for each in self.memory.layers()]
        for view in self.views:
            bytes(view)

    def teardown(self, how):
        self.views.clear()
        self.memory.close()
        self.base.cleanup()

    def time_give_back(self, how):
        getattr(self.memory, how)()

    def time_read_all_again(self, how):
        getattr(self.memory, how)()
        for view in self.views:
            bytes(view)
