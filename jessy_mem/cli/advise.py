"""``jessy-mem advise``: what each eviction policy would have found in memory, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.paths import EXISTING_FILE, FILE
from jessy_mem.cli.streams import Command
from jessy_mem.units import format_bytes

POLICIES = ("sieve", "lru", "lfu")


def _budgets(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[int]:
    try:
        return [jm.parse_budget(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


HELP = """Replay the accesses recorded in TRACE over eviction policies and budgets, and compare byte hit ratios.

A byte hit ratio is the share of bytes that were in memory when they were read: a miss has to load its whole
dimension. A program records a trace with 'with memory.record_trace(TRACE):'. Budgets are what is left for
dimensions that can be evicted, not for immutable ones.
"""


@click.command(cls=Command, help=HELP)
@click.argument("trace", type=EXISTING_FILE)
@click.option(
    "--budget",
    "budgets",
    metavar="SIZE",
    multiple=True,
    callback=_budgets,
    help="A budget to replay, such as 64MB; may be repeated. Default: 5 to 100 % of all dimensions in the trace.",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(POLICIES),
    multiple=True,
    help="A policy to replay; may be repeated. Default: all.",
)
@click.option("--plot", type=FILE, help="Draw the result into this PNG file.")
@screen.json_option
def command(trace: Path, budgets: Sequence[int], policies: Sequence[str], plot: Path | None, as_json: bool) -> int:
    trace_bytes = trace.stat().st_size
    with screen.progress_bar("replaying") as report:
        try:
            results = jm.advise(
                trace,
                budgets or None,
                tuple(dict.fromkeys(policies)) or POLICIES,
                lambda n_done, n_replays: report(n_done * trace_bytes, n_replays * trace_bytes),
            )
        except ValueError as error:
            message = str(error)
            raise click.ClickException(message if str(trace) in message else f"{trace}: {message}") from error
    if plot is not None:
        try:
            jm.plot_advice(results, plot)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="'--plot'") from error
    if as_json:
        n_accesses = results[0].hits + results[0].misses
        screen.print_json(
            {
                "trace": str(trace),
                "accesses": n_accesses,
                "results": [result.to_dict() for result in results],
            }
        )
    else:
        _show(results, trace, plot)
    return 0


def _show(results: Sequence[jm.ReplayResult], trace: Path, plot: Path | None) -> None:
    out = screen.console()
    names = list(dict.fromkeys(result.policy for result in results))
    headings = [">budget", *(f">{name}" for name in names), "best", "?>it loads"]
    rows = [_row(list(same_budget)) for _, same_budget in groupby(results, lambda result: result.budget_bytes)]
    n_accesses = results[0].hits + results[0].misses
    out.print(screen.text(f"{n_accesses:,} accesses in {trace}", style="dim"), soft_wrap=True)
    out.print(screen.table(out, "Byte hit ratio", headings, rows))
    top = max(result.byte_hit_ratio for result in results)
    first = next(result for result in results if result.byte_hit_ratio >= top - 0.01)
    best = max((r for r in results if r.budget_bytes == first.budget_bytes), key=lambda r: r.byte_hit_ratio)
    out.print(
        f"{format_bytes(best.budget_bytes)} with {best.policy} is the smallest of these budgets within one point of "
        f"the best ratio, {top:.1%}",
        soft_wrap=True,
    )
    if plot is not None:
        out.print(screen.text(f"plot in {plot}"), soft_wrap=True)


def _row(results: Sequence[jm.ReplayResult]) -> list[str | Text]:
    """One budget: a ratio for each policy, those that loaded least, and how much they loaded."""
    least = min(result.miss_bytes for result in results)
    best = [result.policy for result in results if result.miss_bytes == least]
    told_apart = len(best) < len(results)
    ratios = [
        screen.text(f"{result.byte_hit_ratio:.1%}", style="bold green" if told_apart and result.policy in best else "")
        for result in results
    ]
    named = ", ".join(best) if told_apart or len(results) == 1 else "all the same"
    return [format_bytes(results[0].budget_bytes), *ratios, named, format_bytes(least)]
