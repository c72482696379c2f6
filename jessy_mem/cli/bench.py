"""``jessy-mem bench``: how fast it is here, in a few seconds and without any other tool."""

from __future__ import annotations

import os
import re
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.measure import HOW, Ratio, Timing, machine, measure, write_big_region
from jessy_mem.cli.peers import Answer, ask
from jessy_mem.cli.questions import is_tiny, scale
from jessy_mem.cli.scaling import N_ROUNDS, Scaling, gil_is_on, measure_threads, usable_cpus, usual_counts
from jessy_mem.cli.streams import Command
from jessy_mem.units import counted, format_ns

HELP = """Measure access, loading, the pool and statistics, warm, in a temporary folder.

Each row is the median of many short runs, with the quartiles beside it: of the best of several rounds, for what else
the machine does makes the others slower. The repository's asv suite measures more.

With --peers, the same questions about the same content to this library and to others that are installed: most of them
are brought by "pip install 'jessy-mem[bench]'"; libraries of C are also looked for in the folder that JESSY_BENCH_PEERS
names, where libhdr_histogram.so may lie, which no package has. A ratio below 1 says that ours takes less.

With --threads, how much several threads do at once, over what one does alone.
"""
INSTALL = "pip install 'jessy-mem[bench]'"
BY_HAND, HOW_BY_HAND = "HdrHistogram_c", "no package has it, --help says where it is looked for"
MOST_THREADS = 256
ROOMY = 110  # columns of a terminal from which the calls are shown, too


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Numbers of threads, such as 1,2,4; nothing stands for those that are usual."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if value == "":
            return usual_counts()
        numbers = value.split(",")
        if not all(re.fullmatch("[0-9]{1,3}", each) and 1 <= int(each) <= MOST_THREADS for each in numbers):
            self.fail(f"{value!r} is not a list of whole numbers from 1 to {MOST_THREADS}, such as 1,2,4.", param, ctx)
        return [int(each) for each in numbers]


class Bench(Command):
    """Where a number with a minus is a value of --threads: click takes it for an option, since that may stand alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for option in self.params:
            if isinstance(option.type, Counts):
                for before, arg in pairwise(["", *args]):
                    name, _, value = arg.partition("=")
                    if name in option.opts and value.startswith("-"):
                        option.type.convert(value, option, ctx)
                    elif before in option.opts and re.match("-[0-9]", arg):
                        option.type.convert(arg, option, ctx)
        return super().parse_args(ctx, args)


@click.command(cls=Bench, help=HELP)
@click.option("--peers", "with_peers", is_flag=True, help="Compare with other libraries.")
@click.option(
    "--threads",
    "counts",
    type=Counts(),
    is_flag=False,
    flag_value="",
    metavar="[N,N...]",
    help="Compare several threads with one: powers of two up to the CPUs, or as many as are given.",
)
@screen.json_option
def command(with_peers: bool, counts: list[int] | None, as_json: bool) -> None:
    if with_peers and counts:
        raise click.UsageError("--peers and --threads are two measurements, ask for one of them.")
    with tempfile.TemporaryDirectory(prefix="jessy-mem-bench-") as folder:
        if with_peers:
            _bench_peers(Path(folder), as_json)
        elif counts:
            _bench_threads(Path(folder), counts, as_json)
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
            *map(format_ns, (timing.median_ns, timing.low_ns, timing.high_ns)),
            str(timing.n_runs),
            "" if timing.target_ns is None else f"<{format_ns(timing.target_ns)}",
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
            how_to = HOW_BY_HAND if missing == [BY_HAND] else INSTALL
            out.print(screen.text(f"not installed: {', '.join(missing)}; {how_to}"))
        out.print(screen.text(f"{machine()}; {how}", style="dim"))


def _show_answers(answers: list[Answer]) -> None:
    out = screen.console()
    rows: list[tuple[str, ...]] = [
        (
            "" if before and before.question == answer.question else answer.question,
            answer.peer,
            answer.how,
            format_ns(answer.least_ns),
            format_ns(answer.median_ns),
            "" if answer.ratio is None else screen.ratio(answer.ratio),
        )
        for before, answer in zip([None, *answers], answers, strict=False)
    ]
    headings = ["~operation", "with", "~by", ">least", "?>median", ">ours / its"]
    if out.width < ROOMY:
        del headings[2]
        rows = [(*row[:2], *row[3:]) for row in rows]
    out.print(screen.table(out, "The same question to others, in the same run", headings, rows))


def _bench_threads(base: Path, counts: list[int], as_json: bool) -> None:
    found = measure_threads(base, counts, is_tiny())
    how = f"the most of {N_ROUNDS} rounds, fewer where they are long"
    if as_json:
        screen.print_json(
            {
                "scaling": [each.to_dict() for each in found],
                "gil": gil_is_on(),
                "usable_cpus": usable_cpus(),
                "machine": machine(),
                "how": how,
                "cpus": os.cpu_count(),
            }
        )
    else:
        _show_scaling(found)
        gil = "with the GIL" if gil_is_on() else "without the GIL"
        cpus = usable_cpus()
        told = f"{machine()}, {gil}; {counted(cpus, 'CPU')} that it may use; {how}"
        screen.console().print(screen.text(told, style="dim"))


def _show_scaling(found: list[Scaling]) -> None:
    """One thread in calls a second, and how many times as much others do."""
    out = screen.console()
    counts = [n_threads for n_threads in found[0].per_s if n_threads > 1]
    rows = [
        (
            each.operation,
            screen.rate(each.per_s[1]),
            *(screen.ratio(each.over_one[n_threads]) for n_threads in counts),
        )
        for each in found
    ]
    headings = ["~threads", ">1", *(f">{n_threads}" for n_threads in counts)]
    out.print(screen.table(out, "Calls a second of one thread, and of more over one", headings, rows))
