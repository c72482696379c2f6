"""Readers while dimensions grow, are merged, compacted and evicted under them: with the GIL and without."""

from __future__ import annotations

import random
import sys
import threading

from inside import refresh_dimension
from world import World, check_states, generation_of, manager

import jessy_mem as jm
from helpers import Holdings, run_threads

N_LAYERS = 12
N_CHANGES = 150
LAYER_BYTES = 256


class Writer:
    """Changes a dimension on the disk as a learner does, and lets a manager follow."""

    def __init__(self, world: World, dimension: int, seed: int) -> None:
        self.world, self.dimension, self.rng = world, dimension, random.Random(seed)
        self.generation = 1
        self.layers = dict.fromkeys(range(N_LAYERS), 1)  # number -> the generation that made it
        self.oldest = dict(self.layers)  # which a reader that begins now may still see
        self.deltas: list[int] = []

    def change(self) -> None:
        """One change of a random kind; `layers` says what it makes before it can be seen."""
        rng, world, dimension = self.rng, self.world, self.dimension
        self.generation += 1
        put = rng.sample(range(N_LAYERS), rng.randint(1, 3))
        kind = rng.random()
        self.layers |= dict.fromkeys(put, self.generation)
        if kind < 0.6 or not self.deltas:
            world.grow(dimension, self.generation, put, n_bytes=LAYER_BYTES)
            self.deltas.append(self.generation)
        elif kind < 0.9:
            layers = {each: made for each, made in self.layers.items() if made > 1}
            self.merge(layers)
        else:
            world.compact(dimension, self.generation, self.layers, n_bytes=LAYER_BYTES)
            self.deltas = []

    def merge(self, layers: dict[int, int]) -> None:
        """All deltas as one; what a merged delta holds is as old as it was."""
        from world import content_of, publish

        from helpers import Layer, extended_file

        found = [
            Layer(i, content_of(self.dimension, i, made, LAYER_BYTES), i % 256, (i + 1) / 2, (b"delta",))
            for i, made in sorted(layers.items())
        ]
        data = extended_file(
            found, self.dimension, b"dimension %d" % self.dimension, generation=self.generation, version=2, delta=True
        )
        publish(self.world.delta_path(self.dimension, self.generation), data)
        for generation in self.deltas:
            self.world.delta_path(self.dimension, generation).unlink()
        self.deltas = [self.generation]


def test_readers_see_whole_layers_that_never_go_back_while_stacks_change(tmp_path):
    world = World(tmp_path)
    dimensions = (15, 16, 17)
    for dimension in dimensions:
        world.write(dimension, n_layers=N_LAYERS, n_bytes=LAYER_BYTES)
    done = threading.Event()
    before = Holdings()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with manager(world) as memory:
            for dimension in dimensions:
                memory.load_dimension(dimension)
            memory.layers()

            def write(dimension: int):
                writer = Writer(world, dimension, dimension)

                def run() -> None:
                    for _ in range(N_CHANGES):
                        writer.change()
                        assert refresh_dimension(memory, dimension)
                        for layer, made in writer.layers.items():  # nobody else changes them: exactly this is there
                            assert generation_of(memory.access_layer((dimension, layer))) == made
                        assert len(memory.layers(dimension)) == N_LAYERS == memory.region(dimension).n_layers
                        changed = {layer for layer, made in writer.layers.items() if made > 1}
                        assert {each.layer for each in memory.layers(dimension, keyword="delta")} >= changed

                return run

            def read(seed: int):
                rng = random.Random(seed)

                def run() -> None:
                    seen: dict[tuple[int, int], int] = {}
                    held: list[jm.LayerView] = []
                    while not done.is_set():
                        layer_id = (rng.choice(dimensions), rng.randrange(N_LAYERS))
                        view = memory[layer_id]
                        made = generation_of(view)
                        assert made >= seen.get(layer_id, 0), "a reader went back"
                        seen[layer_id] = made
                        held.append(view)
                        if len(held) > 20:
                            held = held[rng.randrange(20) :]
                        if rng.random() < 0.05:
                            memory.region(layer_id[0]).layer_facts()
                        if rng.random() < 0.05:
                            check_states(memory.get_stats())

                return run

            def all_writers() -> None:
                try:
                    run_threads([write(dimension) for dimension in dimensions])
                finally:
                    done.set()

            run_threads([all_writers, *(read(seed) for seed in range(4))])
            assert memory.leases() == []
            loaded_bytes = sum(memory.region(dimension).size for dimension in dimensions)
            assert memory.get_stats().total_allocated_bytes == loaded_bytes
    finally:
        sys.setswitchinterval(interval)
    before.assert_nothing_new()


def test_stacks_are_opened_whole_while_another_writes_them(tmp_path):
    """Each opening sees one moment between its beginning and its end."""
    world = World(tmp_path)
    world.write(15, n_layers=N_LAYERS, n_bytes=LAYER_BYTES)
    writer, done = Writer(world, 15, 7), threading.Event()
    lower = dict(writer.layers)

    def write() -> None:
        nonlocal lower
        try:
            for _ in range(2 * N_CHANGES):
                writer.change()
                lower = dict(writer.layers)
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            least = lower
            with jm.MmapRegion(15, world.path(15)) as region:
                found = {each.layer: generation_of(region.layer(each.layer)) for each in region.layers()}
            most = dict(writer.layers)
            assert found.keys() == least.keys()
            assert all(least[layer] <= made <= most[layer] for layer, made in found.items()), (least, found, most)

    run_threads([write, *(3 * [read])])


def test_growing_stacks_that_are_evicted_keep_the_budget(tmp_path):
    """A budget of three files: dimensions come and go, grow on the disk, and no byte is counted twice or lost."""
    world, n_bytes = World(tmp_path), 200_000
    dimensions = range(15, 21)
    for dimension in dimensions:
        world.write(dimension, n_layers=2, n_bytes=n_bytes)
    made = dict.fromkeys(dimensions, 1)
    with manager(world, 2) as memory:
        for dimension in dimensions:
            memory.load_dimension(dimension)

        def use(seed: int, mine: list[int]):
            rng = random.Random(seed)

            def run() -> None:
                for generation in range(2, 30):
                    dimension = rng.choice(mine)
                    if rng.random() < 0.3 and made[dimension] < 4:
                        made[dimension] += 1
                        world.grow(dimension, made[dimension], [1], n_bytes=50_000)
                        refresh_dimension(memory, dimension)
                    view = memory.access_layer((dimension, 1))
                    assert generation_of(view) == made[dimension], generation
                    del view
                    stats = memory.get_stats()
                    check_states(stats)
                    assert stats.peak_usage_bytes <= stats.limit_bytes

            return run

        run_threads([use(1, [15, 16, 17]), use(2, [18, 19, 20])])
        assert memory.leases() == []
        assert memory.get_stats().evictions > 0
