"""``jessy-mem bench``: how fast it is here, in a few seconds and without any other tool."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.measure import HOW, Ratio, Timing, machine, measure, write_big_region
from jessy_mem.cli.streams import Command

HELP = """Measure access, loading, the pool and statistics, warm, in a temporary folder.

Each row is the median of many short runs, with the quartiles beside it: of the best of several rounds, for what else
the machine does makes the others slower. The repository's asv suite measures more.
"""


@click.command(cls=Command, help=HELP)
@screen.json_option
def command(as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="jessy-mem-bench-") as folder:
        base = Path(folder)
        text = (jm.data_folder() / "content" / "D01" / "0.md").read_text(encoding="utf-8")
        write_big_region(base, text)
        measured = measure(base, with_details=True)
    timings, ratios = [*measured.targets, *measured.details], measured.ratios
    if as_json:
        screen.print_json(
            {
                "timings": [timing.to_dict() for timing in timings],
                "ratios": [ratio.to_dict() for ratio in ratios],
                "machine": machine(),
                "how": HOW,
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
    out.print(screen.text(f"{machine()}; {HOW}", style="dim"))
