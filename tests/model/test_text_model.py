"""Kept texts against an oracle in plain Python: after each step it is known which are kept, and what is charged."""

from __future__ import annotations

import math
import random
from collections import OrderedDict

import inside
import pytest
from world import check_states, content_of, manager

import jessy_mem as jm

DIMENSIONS = (1, 2, 3)
SIZES = (3000, 5000, 9000, 17_000, 40_000, 70_000)  # of the layers; more than any thread may have as credit
MIB = 1 << 20


class Oracle:
    """The oldest go first, but who was found again gets a second chance; what passes a threshold is not kept."""

    def __init__(self, bound_bytes: int, limit_bytes: int, warning: float) -> None:
        self.bound_bytes = bound_bytes
        self.calm_bytes = math.ceil(limit_bytes * warning / 100) - 1
        self.file_bytes: dict[int, int] = {}
        self.texts: OrderedDict[tuple[int, int], list] = OrderedDict()  # layer -> [text, was found again]

    @property
    def n_bytes(self) -> int:
        return sum(inside.kept_size(text) for text, _ in self.texts.values())

    def read(self, layer_id: tuple[int, int], text: str) -> None:
        if layer_id in self.texts:
            assert self.texts[layer_id][0] is text, "it was kept"
            self.texts[layer_id][1] = True
            return
        n_bytes = inside.kept_size(text)
        assert all(text is not kept for kept, _ in self.texts.values())
        spare_bytes = self.calm_bytes - sum(self.file_bytes.values()) - self.n_bytes
        missing_bytes = n_bytes - min(self.bound_bytes - self.n_bytes, spare_bytes)
        if missing_bytes <= self.n_bytes:
            self.shed(missing_bytes)
            self.texts[layer_id] = [text, False]

    def shed(self, n_bytes: int) -> None:
        while n_bytes > 0:
            layer_id, (text, was_found) = self.texts.popitem(last=False)
            if was_found:
                self.texts[layer_id] = [text, False]
            else:
                n_bytes -= inside.kept_size(text)

    def drop(self, dimension: int) -> None:
        for layer_id in [each for each in self.texts if each[0] == dimension]:
            del self.texts[layer_id]


@pytest.mark.parametrize(
    ("total_mb", "bound_bytes", "warning"), [(64, 150_000, 75.0), (64, 20_000, 75.0), (1, 1 << 20, 60.0)]
)
def test_what_is_kept_is_what_the_oracle_keeps(world, total_mb, bound_bytes, warning):
    rng = random.Random(f"{total_mb} {bound_bytes}")
    oracle = Oracle(bound_bytes, total_mb * MIB, warning)
    generations = dict.fromkeys(DIMENSIONS, 1)

    def write(dimension: int) -> None:
        builder = jm.RegionBuilder(dimension, f"dimension {dimension}", generation=generations[dimension])
        for layer, n_bytes in enumerate(SIZES):
            content = content_of(dimension, layer, generations[dimension], n_bytes)
            builder.add_layer(jm.LayerSpec(text=content.decode()))
        builder.write(jm.region_path(world.base, dimension))

    options = {"warning_threshold": warning, "eviction_threshold": 95.0, "critical_threshold": 100.0}
    with manager(world, total_mb, text_cache_mb=bound_bytes / MIB, **options) as memory, memory.reader() as reader:
        for dimension in DIMENSIONS:
            write(dimension)
            oracle.file_bytes[dimension] = memory.load_dimension(dimension).size
        for _ in range(600):
            dimension, layer = rng.choice(DIMENSIONS), min(int(rng.expovariate(0.5)), len(SIZES) - 1)
            step = rng.random()
            if step < 0.02:
                memory.trim()
                oracle.texts.clear()
            elif step < 0.05:
                generations[dimension] += 1
                write(dimension)
                memory.reload_dimension(dimension)
                oracle.drop(dimension)
            elif step < 0.07:
                memory.unload_dimension(dimension)
                memory.load_dimension(dimension)
                oracle.drop(dimension)
            else:
                read = rng.choice([lambda key: memory[key].text, lambda key: reader[key].text, lambda key: (
                    memory.load_context(key).content)])  # fmt: skip
                text = read((dimension, layer))
                assert text == content_of(dimension, layer, generations[dimension], SIZES[layer]).decode()
                oracle.read((dimension, layer), text)
            stats = memory.get_stats()
            assert stats.text_bytes == oracle.n_bytes <= bound_bytes
            assert stats.total_allocated_bytes == oracle.n_bytes + sum(oracle.file_bytes.values())
            check_states(stats)
        assert 0 < len(oracle.texts) < len(DIMENSIONS) * len(SIZES)
