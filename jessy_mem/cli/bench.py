"""``jessy-mem bench``: how fast it is here, in a few seconds and without any other tool."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.measure import (
    Ratio,
    Timing,
    machine,
    measure_details,
    measure_ratios,
    measure_targets,
    write_big_region,
)


@click.command()
@screen.json_option
def command(as_json: bool) -> None:
    """Measure access, loading, the pool and statistics, warm, in a temporary folder.

    Each row is the median of many short runs, with the quartiles beside it. The repository's asv suite measures more.
    """
    with tempfile.TemporaryDirectory(prefix="jessy-mem-bench-") as folder:
        base = Path(folder)
        text = (jm.data_folder() / "content" / "D01" / "0.md").read_text(encoding="utf-8")
        write_big_region(base, text)
        timings = [*measure_targets(base), *measure_details(base)]
        ratios = measure_ratios(base)
    if as_json:
        screen.print_json(
            {
                "timings": [timing.to_dict() for timing in timings],
                "ratios": [ratio.to_dict() for ratio in ratios],
                "machine": machine(),
                "cpus": os.cpu_count(),
            }
        )
    else:
        _show(timings, ratios)


def _show(timings: list[Timing], ratios: list[Ratio]) -> None:
    out = screen.console()
    rows = [
        (
            timing.name,
            *map(screen.duration, (timing.median_ns, timing.low_ns, timing.high_ns)),
            str(timing.n_runs),
            "" if timing.target_ns is None else f"<{screen.duration(timing.target_ns)}",
        )
        for timing in timings
    ]
    headings = ["~operation", ">median", "?>quartile 1", "?>quartile 3", "?>runs", ">target"]
    out.print(screen.table(out, "Times, warm", headings, rows))
    out.print()
    out.print(screen.ratio_table(out, ratios))
    out.print(Text(machine(), style="dim"))
