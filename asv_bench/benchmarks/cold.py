"""Cold files: contexts whose pages are on the disk, with and without asking for all of them first; giving back; and
whether huge pages would gain anything for files that are mapped.
"""

from __future__ import annotations

import mmap
import os
import random
import tempfile
import timeit

import numpy as np

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


class HugePages:
    """A million reads here and there in a warm file of 64 MiB, mapped as the library does, over the same with advice.

    The library advises nothing: a kernel that keeps a file in large folios maps them as huge pages by itself. What is
    above 1 would be gained.
    """

    params = ("MADV_HUGEPAGE", "MADV_COLLAPSE")
    param_names = ("advice",)
    unit = "x"
    n_bytes, n_rounds = (1 << 20, 3) if common.SMALL else (64 << 20, 100)

    def setup(self, advice):
        self.base = tempfile.TemporaryDirectory()
        path = os.path.join(self.base.name, "file")
        with open(path, "wb") as file:
            file.write(random.Random(1).randbytes(self.n_bytes))
        with open(path, "rb") as file:
            self.mapped = [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for _ in range(2)]
        try:
            self.mapped[1].madvise({"MADV_HUGEPAGE": 14, "MADV_COLLAPSE": 25}[advice])  # 25 is in no module of Python's
        except OSError as error:
            self.teardown(advice)
            raise NotImplementedError(f"refused: {error}") from None

    def teardown(self, advice):
        for each in self.mapped:
            each.close()
        self.base.cleanup()

    def track_plain_over_advised(self, advice):
        places = np.random.default_rng(1).integers(0, self.n_bytes, 1_000_000)
        plain, advised = (np.frombuffer(each, np.uint8) for each in self.mapped)
        names = {"plain": plain, "advised": advised, "places": places}
        common.prefault(plain), common.prefault(advised)
        turns = [
            [timeit.timeit(f"{name}[places]", globals=names, number=1) for name in ("plain", "advised")]
            for _ in range(self.n_rounds)
        ]
        least = [min(times) for times in zip(*turns, strict=True)]
        return least[0] / least[1]
