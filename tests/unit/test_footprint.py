"""What loaded layers take of memory that is not their files': anonymous memory, and what Python allocates.

Each is measured in an interpreter of its own that has done the same before with something small. What is allowed is
more than twice what is needed, so that what an allocator keeps for later does not matter. Python's own without the GIL
keeps three times what the layers take, for some milliseconds; it is told to give back what is free at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import jessy_mem as jm
from helpers import HUNG_S

pytestmark = [
    pytest.mark.thread_unsafe(reason="all of it happens in other processes"),
    pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup"),
]

MEASURE = """
import gc, json, sys, tracemalloc
import jessy_mem as jm

def anonymous_bytes():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

def load(base):
    memory = jm.MmapManager(base_path=base, simulation="never")
    memory.load_all()
    return memory

with load(sys.argv[2]) as memory:
    memory.layers(keyword="mood")
traces = len(sys.argv) > 3
before = 0 if traces else anonymous_bytes()
if traces:
    tracemalloc.start()
memory = load(sys.argv[1])
loaded = tracemalloc.get_traced_memory()[0] if traces else anonymous_bytes() - before
found = len(memory.layers(keyword="MOOD"))
asked = tracemalloc.get_traced_memory()[0] if traces else anonymous_bytes() - before
print(json.dumps([len(memory), found, loaded, asked]))
"""


@pytest.fixture
def small(tmp_path):
    write(tmp_path / "small", 1, 1)
    return tmp_path / "small"


def write(base, dimension, n_layers):
    builder = jm.RegionBuilder(dimension, "Many")
    for i in range(n_layers):
        builder.add_layer(jm.LayerSpec(content=b"x", keywords=("mood", f"word{i % 1000}")))
    builder.write(jm.region_path(base, dimension))


def measured(*arguments):
    """Layers, how many were found, and the bytes when they were loaded and when they were asked for."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    environment = {**os.environ, "MIMALLOC_PURGE_DELAY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.parametrize("how", [(), ("traced",)])
def test_a_layer_that_was_never_read_takes_less_than_200_bytes(how, small, tmp_path):
    base, n = tmp_path / "large", 65_536
    write(base, 15, n)
    n_layers, found, loaded, asked = measured(base, small, *how)
    assert (n_layers, found) == (n, n)
    assert loaded < 200 * n
    assert asked < 400 * n, "with an index, and what the allocator keeps of what it took to make it"


@pytest.mark.parametrize("how", [(), ("traced",)])
def test_the_plan_takes_less_than_two_megabytes(how, small, tmp_path):
    base = tmp_path / "plan"
    for planned in jm.default_layout().dimensions.values():
        builder = jm.RegionBuilder(planned.id, planned.name, immutable=planned.immutable)
        for layer in planned.layers:
            builder.add_layer(jm.LayerSpec(text="x" * 1000, keywords=layer.keywords, frequency=layer.frequency))
        builder.write(jm.region_path(base, planned.id))
    n_layers, _, loaded, asked = measured(base, small, *how)
    assert n_layers == 56
    assert max(loaded, asked) < 2 << 20
