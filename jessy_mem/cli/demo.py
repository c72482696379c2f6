"""``jessy-mem demo``: the whole library once, on the bundled content, and what it costs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.build import build
from jessy_mem.cli.measure import HOW, Ratio, Timing, machine, measure, write_big_region
from jessy_mem.cli.plan_map import plan_map
from jessy_mem.cli.source import read_source
from jessy_mem.cli.streams import Command
from jessy_mem.units import counted, format_bytes, format_ns

RETURNS = "Returns are free for 30 days. What was sent back is refunded within a week, to whoever paid for it."
LOW_HZ, HIGH_HZ, BAND_COLUMNS = 0.0, 4.5, 18


@dataclass
class Demo:
    """What the demo found out."""

    dimensions: list[dict[str, Any]] = field(default_factory=list)
    n_layers: int = 0
    n_bytes: int = 0
    copies: int = 0
    learned: dict[str, Any] = field(default_factory=dict)
    targets: list[Timing] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    seconds: float = 0.0


HELP = """Build the 14 core dimensions from the bundled texts, map them, read every layer without a copy, learn a new
dimension and make it a file; then measure the targets of the design on this machine.

Everything happens in a temporary folder, which is removed. It takes a few seconds.
"""


@click.command(cls=Command, help=HELP)
@screen.json_option
def command(as_json: bool) -> None:
    begin = time.perf_counter()
    demo = Demo()
    with tempfile.TemporaryDirectory(prefix="jessy-mem-demo-") as folder:
        _build_and_read(Path(folder, "base"), demo)
        big = Path(folder, "big")
        text = (jm.data_folder() / "content" / "D01" / "0.md").read_text(encoding="utf-8")
        write_big_region(big, text)
        measured = measure(big)
        demo.targets, demo.ratios = measured.targets, measured.ratios
    demo.seconds = time.perf_counter() - begin
    if as_json:
        screen.print_json(_as_dict(demo))
    else:
        _show(demo, screen.console())


# What is done ---------------------------------------------------------------------------------------------------------


def _build_and_read(base: Path, demo: Demo) -> None:
    sources = read_source(jm.data_folder()).dimensions
    build(sources, base)
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_all()
        for source in sources:
            for spec in source.layers:
                view = memory.access_layer((source.id, spec.layer or 0))
                if memoryview(view) != memoryview(spec.content) or view.source != "mmap":
                    raise click.ClickException(f"{view.id} is not what was written")
                demo.n_layers += 1
                demo.n_bytes += view.n_bytes
            demo.dimensions.append(_dimension_facts(memory.region(source.id)))
        demo.copies = memory.get_stats().copies
        demo.learned = _learn(memory)


def _dimension_facts(region: jm.MmapRegion) -> dict[str, Any]:
    planned = jm.default_layout().dimensions[region.dimension_id]
    return {
        "id": region.dimension_id,
        "name": region.name,
        "size_bytes": region.size,
        "slot_bytes": planned.size_bytes,
        "layers": region.n_layers,
        "frequency": planned.frequency,
        "frequency_band": list(planned.frequency_band),
        "immutable": region.immutable,
    }


def _learn(memory: jm.MmapManager) -> dict[str, Any]:
    """Learn a dimension, read it from the pool, make it a file, and read it from there."""
    spec = jm.LayerSpec(text=RETURNS, frequency=2.2, keywords=("returns", "refund"))
    policies = memory.create_proto_dimension("policies", [spec])
    before = memory.access_layer((policies, 0))
    path = memory.crystallize(policies)
    after = memory.access_layer((policies, 0))
    return {
        "id": policies,
        "name": "policies",
        "source_before": before.source,
        "source_after": after.source,
        "same_bytes": bytes(before) == bytes(after),
        "size_bytes": path.stat().st_size,
        "found_by_keyword": [str(layer) for layer in memory.layers(keyword="returns")],
    }


# What is shown --------------------------------------------------------------------------------------------------------


def _as_dict(demo: Demo) -> dict[str, Any]:
    layout = jm.default_layout()
    return {
        "dimensions": demo.dimensions,
        "layers_read": demo.n_layers,
        "bytes_read": demo.n_bytes,
        "payload_copies": demo.copies,
        "learned": demo.learned,
        "plan": {
            "total_bytes": layout.total_bytes,
            "segments": {segment.name: segment.size_bytes for segment in layout.segments},
        },
        "targets": [timing.to_dict() for timing in demo.targets],
        "ratios": [ratio.to_dict() for ratio in demo.ratios],
        "machine": machine(),
        "how": HOW,
        "seconds": round(demo.seconds, 3),
    }


def _show(demo: Demo, out: Console) -> None:
    headings = ["", "~dimension", "?>slot", ">file", "?>layers", "Hz", f"?{LOW_HZ:.0f}{'4.5 Hz':>{BAND_COLUMNS - 1}}"]
    rows: list[list[str | Text]] = [
        [
            f"D{facts['id']:02d}",
            facts["name"] + (" *" if facts["immutable"] else ""),
            format_bytes(facts["slot_bytes"]),
            format_bytes(facts["size_bytes"]),
            str(facts["layers"]),
            screen.band(facts["frequency_band"]),
            _band_bar(facts, out),
        ]
        for facts in demo.dimensions
    ]
    out.print(screen.table(out, "The 14 core dimensions, built from the bundled texts", headings, rows))
    out.print("* immutable: checked whole when loaded, and closed to every change", style="dim")
    out.print()
    out.print(plan_map(jm.default_layout(), min(out.width, 100), out.options.ascii_only))
    out.print()
    for line in _what_happened(demo):
        out.print(line)
    out.print()
    _show_numbers(demo, out)


def _band_bar(facts: dict[str, Any], out: Console) -> Text:
    """The band on a scale of 0 to 4.5 Hz, with the central frequency marked."""
    line, dot = ("-", "o") if out.options.ascii_only else ("─", "●")

    def column(frequency: float) -> int:
        return min(BAND_COLUMNS - 1, int((frequency - LOW_HZ) / (HIGH_HZ - LOW_HZ) * BAND_COLUMNS))

    low, high = (column(frequency) for frequency in facts["frequency_band"])
    center = column(facts["frequency"])
    bar = [" "] * low + [line] * (high - low + 1)
    bar[center] = dot
    return screen.text("".join(bar), style="cyan")


def _what_happened(demo: Demo) -> list[str]:
    what = f"{counted(demo.n_layers, 'layer')}, {format_bytes(demo.n_bytes)}"
    lines = [f"{what}, read from mapped files; payload copies: {demo.copies}."]
    learned = demo.learned
    lines.append(
        f"Learned D{learned['id']:02d} {learned['name']} in the {learned['source_before']}; crystallized it into a "
        f"file of {format_bytes(learned['size_bytes'])}, "
        + ("and it reads the same." if learned["same_bytes"] else "and IT READS DIFFERENTLY.")
    )
    return lines


def _show_numbers(demo: Demo, out: Console) -> None:
    rows: list[list[str | Text]] = [
        [
            timing.name,
            f"<{format_ns(timing.target_ns or 0)}",
            format_ns(timing.median_ns),
            f"{format_ns(timing.low_ns)} .. {format_ns(timing.high_ns)}",
            screen.verdict(timing.met),
        ]
        for timing in demo.targets
    ]
    out.print(
        screen.table(
            out, "Target metrics", ["~Operation", ">Target", ">Measured", "?middle half of the runs", ""], rows
        )
    )
    out.print()
    out.print(screen.ratio_table(out, demo.ratios))
    out.print(screen.text(f"{machine()}; {HOW}; {demo.seconds:.1f} s in all", style="dim"))
