"""How a read grows with what is loaded, in layers and in dimensions, beside a dict of as many; and a first touch.

    python -m benchmarks.scale > ../docs/measured/scale.json

prints what docs/benchmarks.md shows of it.
"""

import json
import os
import random
import tempfile
import timeit

import jessy_mem as jm
from jessy_mem.cli.measure import machine, quiet

from . import common

PER_DIMENSION = 65_536  # the most that a region has
FIRST = 1000  # the number of the first dimension
N_KEYS = 20 if common.SMALL else 20_000  # that are read, in an order by chance
N_TURNS = 2 if common.SMALL else 100
SHAPES = {  # layers in all, and in each dimension
    "layers": ((40, 40), (80, 40)) if common.SMALL else tuple((n, PER_DIMENSION) for n in (4_000, 65_536, 1_000_000)),
    "dimensions": ((40, 4), (80, 4)) if common.SMALL else tuple((4 * n, 4) for n in (100, 1_000, 10_000)),
}
SIZES = (4096, 16384) if common.SMALL else (4096, 65536, 1 << 20)


def write(base, n_layers, per_dimension, n_bytes=8):
    for number, begin in enumerate(range(0, n_layers, per_dimension)):
        builder = jm.RegionBuilder(FIRST + number, f"scale {number}")
        for i in range(begin, min(begin + per_dimension, n_layers)):
            builder.add_layer(jm.LayerSpec(content=f"{i:08}".encode() * (n_bytes // 8)))
        path = jm.region_path(base, FIRST + number)
        path.parent.mkdir(parents=True)
        path.write_bytes(builder.to_bytes())


def loaded(base):
    memory = jm.MmapManager(4000, base_path=base, simulation="never")
    memory.load_all()
    return memory


def least_ns(timers, n):
    """The least time of each timer's statement for one of its `n` reads; they take turns."""
    with quiet():
        turns = [[timer.timeit(1) * 1e9 / n for timer in timers] for _ in range(N_TURNS)]
    return [min(times) for times in zip(*turns, strict=True)]


class Growth:
    """`access_layer` of layers in an order by chance, of all that were read before. Bar: 1.3 x the dict of as many."""

    params = tuple(SHAPES), (0, 1, 2)[: 2 if common.SMALL else 3]
    param_names = ("of", "step")
    timeout = 900
    unit = "x"

    def setup(self, of, step):
        n_layers, per_dimension = SHAPES[of][step]
        self.folder = tempfile.TemporaryDirectory()
        write(self.folder.name, n_layers, per_dimension)
        self.memory = loaded(self.folder.name)
        ids = [(each.dimension, each.layer) for each in self.memory.layers()]
        self.lookup = dict(zip(ids, self.memory.access_many(ids), strict=True))
        self.keys = random.Random(1).choices(ids, k=N_KEYS)

    def teardown(self, of, step):
        self.lookup.clear()
        self.memory.close()
        self.folder.cleanup()

    def ours_and_dict_ns(self):
        names = {"access": self.memory.access_layer, "d": self.lookup, "keys": self.keys}
        timers = [timeit.Timer(f"for k in keys: {call}", globals=names) for call in ("access(k)", "d[k]")]
        return least_ns(timers, N_KEYS)

    def track_ours_over_dict(self, of, step):
        ours, of_dict = self.ours_and_dict_ns()
        return ours / of_dict


class FirstTouch:
    """The first access of a layer, which checks its checksum and makes its view, and a later one; files in memory."""

    params = SIZES
    param_names = ("n_bytes",)
    unit = "ns"
    n_layers = 16

    def setup(self, n_bytes):
        self.folder = tempfile.TemporaryDirectory()
        write(self.folder.name, self.n_layers, self.n_layers, n_bytes)
        self.memory = loaded(self.folder.name)
        self.ids = [(FIRST, layer) for layer in range(self.n_layers)]

    def teardown(self, n_bytes):
        self.memory.close()
        self.folder.cleanup()

    def first_and_hit_ns(self):
        def again():
            self.memory.unload_dimension(FIRST)
            self.memory.load_dimension(FIRST)

        names = {"access": self.memory.access_layer, "ids": self.ids, "again": again}
        statement = "for k in ids: access(k)"
        timers = [timeit.Timer(statement, setup, globals=names) for setup in ("again()", "pass")]
        return least_ns(timers, self.n_layers)

    def track_first(self, n_bytes):
        return self.first_and_hit_ns()[0]

    def track_hit(self, n_bytes):
        return self.first_and_hit_ns()[1]


def main():
    growth, touch = [], []
    for of, shapes in SHAPES.items():
        for step, (n_layers, per_dimension) in enumerate(shapes):
            growing = Growth()
            growing.setup(of, step)
            ours_ns, dict_ns = growing.ours_and_dict_ns()
            growing.teardown(of, step)
            n_dimensions = -(-n_layers // per_dimension)
            growth.append(
                {"of": of, "layers": n_layers, "dimensions": n_dimensions, "ours_ns": ours_ns, "dict_ns": dict_ns}
            )
    for n_bytes in SIZES:
        touching = FirstTouch()
        touching.setup(n_bytes)
        first_ns, hit_ns = touching.first_and_hit_ns()
        touching.teardown(n_bytes)
        touch.append({"bytes": n_bytes, "first_ns": first_ns, "hit_ns": hit_ns})
    found = {"growth": growth, "touch": touch, "machine": machine(), "cpus": os.cpu_count()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
