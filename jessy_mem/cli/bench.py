"""``jessy-mem bench``: how fast it is here, in a few seconds and without any other tool."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.measure import HOW, Ratio, Timing, machine, measure, write_big_region
from jessy_mem.cli.peers import Answer, ask
from jessy_mem.cli.questions import scale
from jessy_mem.cli.streams import Command

HELP = """Measure access, loading, the pool and statistics, warm, in a temporary folder.

Each row is the median of many short runs, with the quartiles beside it: of the best of several rounds, for what else
the machine does makes the others slower. The repository's asv suite measures more.

With --peers, the same questions about the same content to this library and to others that are installed: most of them
are brought by "pip install 'jessy-mem[bench]'"; libraries of C are also looked for in the folder that JESSY_BENCH_PEERS
names, where libhdr_histogram.so may lie, which no package has. A ratio below 1 says that ours takes less.
"""
INSTALL = "pip install 'jessy-mem[bench]'"
ROOMY = 110  # columns of a terminal from which the calls are shown, too


@click.command(cls=Command, help=HELP)
@click.option("--peers", "with_peers", is_flag=True, help="Compare with other libraries.")
@screen.json_option
def command(with_peers: bool, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="jessy-mem-bench-") as folder:
        if with_peers:
            _bench_peers(Path(folder), as_json)
        else:
            _bench(Path(folder), as_json)


def _bench(base: Path, as_json: bool) -> None:
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


def _bench_peers(base: Path, as_json: bool) -> None:
    answers, missing = ask(base, scale())
    how = "warm; least and median of many turns, which all of a question take one after the other"
    if as_json:
        screen.print_json(
            {
                "answers": [answer.to_dict() for answer in answers],
                "not_installed": missing,
                "machine": machine(),
                "how": how,
                "cpus": os.cpu_count(),
            }
        )
    else:
        _show_answers(answers)
        out = screen.console()
        if missing:
            out.print(screen.text(f"not installed: {', '.join(missing)}; {INSTALL}"))
        out.print(screen.text(f"{machine()}; {how}", style="dim"))


def _show_answers(answers: list[Answer]) -> None:
    out = screen.console()
    rows: list[tuple[str, ...]] = [
        (
            "" if before and before.question == answer.question else answer.question,
            answer.peer,
            answer.how,
            screen.duration(answer.least_ns),
            screen.duration(answer.median_ns),
            "" if answer.ratio is None else screen.ratio(answer.ratio),
        )
        for before, answer in zip([None, *answers], answers, strict=False)
    ]
    headings = ["~operation", "with", "~by", ">least", "?>median", ">ours / its"]
    if out.width < ROOMY:
        del headings[2]
        rows = [(*row[:2], *row[3:]) for row in rows]
    out.print(screen.table(out, "The same question to others, in the same run", headings, rows))
