"""What the benchmarks share: a corpus that fills the whole plan, the same on every run.

Shared data is made once and must not be changed.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import jessy_mem as jm

N_LAYERS = 4
PAGE_BYTES = 4096
SMALL = bool(os.environ.get("JESSY_BENCH_SMALL"))
"""Set by the test suite: slots of 1/64 of their size, enough to see that each benchmark runs."""


@cache
def corpus() -> Path:
    """A base folder with a region file for each of the 14 dimensions of the plan, 148 MiB together, 4 layers each.

    The text is that of the standard library's sources. Made on the first call and kept in the folder for temporary
    files, one for each Python version; other processes find it whole or not at all.
    """
    size = "small" if SMALL else "full"
    name = f"jessy_mem-corpus-{os.getuid()}-{size}-{sys.implementation.cache_tag}-{jm.__version__}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder.parent) as made:
            build(Path(made) / "base")
            try:
                os.rename(Path(made) / "base", folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    return folder


def build(base: Path) -> None:
    """Write the region files of the corpus under `base`; the same bytes for the same Python version."""
    source = pieces()
    with mock.patch.dict(os.environ, SOURCE_DATE_EPOCH="0"):
        for planned in jm.default_layout().dimensions.values():
            builder = jm.RegionBuilder(planned.id, planned.name, immutable=planned.immutable, generation=1)
            for layer in planned.layers[:N_LAYERS]:
                content = next_content(source, layer_bytes(planned.size_bytes))
                builder.add_layer(
                    jm.LayerSpec(content=content, depth=layer.depth, frequency=layer.frequency, keywords=layer.keywords)
                )
            builder.write(jm.region_path(base, planned.id))


def layer_bytes(slot_bytes: int) -> int:
    """The size of each of N_LAYERS layers that fill a slot: whole pages, one page left for header and metadata."""
    return ((slot_bytes // 64 if SMALL else slot_bytes) - PAGE_BYTES) // N_LAYERS // PAGE_BYTES * PAGE_BYTES


def pieces() -> Iterator[bytes]:
    """The sources of the standard library, one after the other, again and again."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return (path.read_bytes() for path in itertools.cycle(paths))


def next_content(source: Iterator[bytes], n_bytes: int) -> bytes:
    """Exactly `n_bytes` of UTF-8 text from `source`."""
    text = bytearray()
    while len(text) < n_bytes:
        text += next(source)
    whole = bytes(text[:n_bytes]).decode(errors="ignore").encode()
    return whole + b"\n" * (n_bytes - len(whole))


def prefault(data) -> int:
    """Read a byte of every page of a buffer, so that what is measured next finds them in memory."""
    return sum(memoryview(data)[::PAGE_BYTES])


def median_us(n_runs: int, /, **calls: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """The median of each call in us; a call returns what to undo it with, which is not timed. They take turns."""
    runs: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(n_runs):
        for name, call in calls.items():
            begin = time.perf_counter()
            undo = call()
            runs[name].append((time.perf_counter() - begin) * 1e6)
            undo()
    return {name: statistics.median(times) for name, times in runs.items()}
