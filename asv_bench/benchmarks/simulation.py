"""Simulated dimensions: making them, reading them, and finding layers among many.

Depends on `simulation` and `prose` (making), `_core/registry` and `_core/region` (reading), `index` (finding).
Ratios are of two sides that run in turns, best of many, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import random
import tempfile
import timeit
from collections import deque
from collections.abc import Callable

import jessy_mem as jm

from .common import SMALL, corpus, prefault

N_REPEATS = 2 if SMALL else 60
N_LAYERS = 100 if SMALL else 10_000


def simulated(scale: float = 0.0) -> jm.MmapManager:
    return jm.MmapManager(simulation="always", simulation_scale=0.02 if SMALL and scale else scale)


def best_in_turns(*runs: Callable[[], object]) -> list[float]:
    """The least time of each of `runs`, in seconds."""
    rounds = [[timeit.timeit(run, number=1) for run in runs] for _ in range(N_REPEATS)]
    return [min(times) for times in zip(*rounds, strict=True)]


class Simulate:
    """All 14 dimensions into memory: at 0 in their natural size, at 1 as large as their slots, in below 50 ms."""

    params = ([0.0, 1.0],)
    param_names = ("scale",)

    def setup(self, scale: float) -> None:
        with simulated(scale) as memory:  # the bundled text is read once in each process
            memory.load_all()

    def time_load_all(self, scale: float) -> None:
        with simulated(scale) as memory:
            memory.load_all()


class Access:
    """Where the bytes come from costs nothing: 0.9 to 1.1. The loop over the accesses is that of `map`, in C."""

    def setup(self) -> None:
        self.mapped = jm.MmapManager(base_path=corpus(), simulation="never")
        self.simulated = simulated()
        for memory in (self.mapped, self.simulated):
            memory.load_all()
        self.ids = self.mapped.layers() * (2 if SMALL else 200)
        for layer_id in self.mapped.layers():
            prefault(self.mapped.access_layer(layer_id))
            prefault(self.simulated.access_layer(layer_id))

    def teardown(self) -> None:
        self.mapped.close()
        self.simulated.close()

    def run(self, memory: jm.MmapManager) -> None:
        deque(map(memory.access_layer, self.ids), maxlen=0)

    def time_mapped(self) -> None:
        self.run(self.mapped)

    def time_simulated(self) -> None:
        self.run(self.simulated)

    def track_simulated_over_mapped(self) -> float:
        mapped, simulated = best_in_turns(lambda: self.run(self.mapped), lambda: self.run(self.simulated))
        return simulated / mapped


class Find:
    """`layers` among 10,000 of four dimensions: below 50 us for a keyword that few have."""

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        rng = random.Random(1)
        words = [f"word{i}" for i in range(500)]
        for dimension in (1, 2, 3, 4):
            builder = jm.RegionBuilder(dimension, "Words")
            for layer in range(N_LAYERS // 4):
                keywords = (*rng.sample(words, 5), *(["rare"] * (layer == 7)))
                builder.add_layer(jm.LayerSpec(text="", frequency=rng.uniform(0.1, 4.5), keywords=keywords))
            builder.write(jm.region_path(self.folder.name, dimension))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        for dimension in (1, 2, 3, 4):
            self.memory.load_dimension(dimension)
        self.memory.layers(frequency=(1.0, 1.1))  # the index is made by the first question

    def teardown(self) -> None:
        self.memory.close()
        self.folder.cleanup()

    def time_rare_keyword(self) -> None:
        self.memory.layers(keyword="Rare")

    def time_common_keyword(self) -> None:
        self.memory.layers(keyword="word7")

    def time_rare_keyword_of_a_dimension(self) -> None:
        self.memory.layers(dimension=2, keyword="Rare")

    def time_narrow_frequency(self) -> None:
        self.memory.layers(frequency=(1.0, 1.01))

    def time_all(self) -> None:
        self.memory.layers()

    def time_question_after_a_reload(self) -> None:
        """After a change of one dimension: its layers are indexed again, and all sorted by frequency."""
        self.memory.reload_dimension(1)
        self.memory.layers(frequency=(1.0, 1.01))


class FirstQuestion:
    """The first question for a keyword, which makes the index of all that is loaded: ms, and bytes of a layer."""

    params = ("100,000 keywords", "65,536 layers", "100,000 layers in Turkish")
    param_names = ("what",)
    timeout = 300

    def setup(self, what: str) -> None:
        n_layers = 1000 if SMALL else {"100,000 keywords": 50_000, "65,536 layers": 65_536}.get(what, 100_000)
        words = [f"word{i}" for i in range(2000)]
        builders = {dimension: jm.RegionBuilder(dimension, "Words") for dimension in (15, 16)}
        for i in range(n_layers):
            if what == "100,000 keywords":
                keywords: tuple[str, ...] = (f"Alpha{2 * i}", f"beta{2 * i + 1}")
            elif what == "65,536 layers":
                keywords = (words[i % 2000], words[i * 7 % 2000], words[i * 13 % 1999])
            else:
                keywords = (f"ağaç{i % 1000}", f"görüş{i}")
            builders[15 + i // 65_536].add_layer(jm.LayerSpec(text="", keywords=keywords))
        self.folder = tempfile.TemporaryDirectory()
        self.dimensions = [15] if n_layers <= 65_536 else [15, 16]
        for dimension in self.dimensions:
            builders[dimension].write(jm.region_path(self.folder.name, dimension))

    def teardown(self, what: str) -> None:
        self.folder.cleanup()

    def ask(self) -> float:
        with jm.MmapManager(base_path=self.folder.name, simulation="never") as memory:
            for dimension in self.dimensions:
                memory.load_dimension(dimension)
            return timeit.timeit(lambda: memory.layers(keyword="beta201"), number=1) * 1e3

    def track_first_question(self, what: str) -> float:
        return min(self.ask() for _ in range(1 if SMALL else 5))

    track_first_question.unit = "ms"
