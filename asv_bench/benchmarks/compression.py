"""Should text be compressed? Ratio, first access and memory, on the bundled texts and on the standard library's sources.

``python compression.py`` prints the table of docs/design.md.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

try:
    from . import common
except ImportError:  # run as a script
    import common

import jessy_mem as jm

LAYER_BYTES = {"bundled": None, "sources 64 KiB": 65536, "sources 1 MiB": 1 << 20}
N_LAYERS = 4


def contents(kind: str) -> list[bytes]:
    """The layers of a dimension of that kind."""
    if kind == "bundled":
        folder = jm.data_folder() / "content" / "D01"
        return [(folder / f"{layer}.md").read_bytes() for layer in range(N_LAYERS)]
    source = common.pieces()
    return [common.next_content(source, LAYER_BYTES[kind]) for _ in range(N_LAYERS)]


def write(base: str, kind: str, compress: bool) -> Path:
    builder = jm.RegionBuilder(1, "Emotion")
    for content in contents(kind):
        builder.add_layer(jm.LayerSpec(content=content, compress=compress))
    return builder.write(jm.region_path(base, 1))


class Compression:
    """One dimension, raw and compressed."""

    params = (list(LAYER_BYTES), [False, True])
    param_names = ("content", "compressed")

    def setup(self, kind: str, compress: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        try:
            write(self.folder.name, kind, compress)
        except ImportError:
            self.folder.cleanup()
            raise NotImplementedError("zstd is not installed") from None
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")

    def teardown(self, kind: str, compress: bool) -> None:
        self.memory.close()
        self.folder.cleanup()

    def first_accesses(self) -> None:
        self.memory.load_dimension(1)
        for layer in range(N_LAYERS):
            common.prefault(self.memory.access_layer((1, layer)))
        self.memory.unload_dimension(1)

    def time_load_and_first_access(self, kind: str, compress: bool) -> None:
        self.first_accesses()

    def track_file_bytes(self, kind: str, compress: bool) -> int:
        return jm.region_path(self.folder.name, 1).stat().st_size

    track_file_bytes.unit = "bytes"

    def track_charged_bytes(self, kind: str, compress: bool) -> int:
        self.memory.load_dimension(1)
        held = [self.memory.access_layer((1, layer)) for layer in range(N_LAYERS)]
        charged_bytes = self.memory.get_stats().total_allocated_bytes
        assert len(held) == N_LAYERS
        self.memory.unload_dimension(1)
        return charged_bytes

    track_charged_bytes.unit = "bytes"


def main() -> None:
    print("| content | stored | file | charged once read | load and first access of 4 layers, warm |")
    print("|---|---|---|---|---|")
    for kind in LAYER_BYTES:
        both = {compress: Compression() for compress in (False, True)}
        runs_us: dict[bool, list[float]] = {False: [], True: []}
        for compress, each in both.items():
            each.setup(kind, compress)
        for _ in range(200):
            for compress, each in both.items():
                begin = time.perf_counter()
                each.first_accesses()
                runs_us[compress].append((time.perf_counter() - begin) * 1e6)
        for compress, each in both.items():
            low, median, high = statistics.quantiles(runs_us[compress], n=4)
            facts = [each.track_file_bytes(kind, compress), each.track_charged_bytes(kind, compress)]
            sizes = " | ".join(f"{n_bytes / 1024:,.0f} KiB" for n_bytes in facts)
            name = "zstd" if compress else "raw"
            print(f"| {kind} | {name} | {sizes} | {median:,.0f} us ({low:,.0f} .. {high:,.0f}) |")
            each.teardown(kind, compress)


if __name__ == "__main__":
    main()
