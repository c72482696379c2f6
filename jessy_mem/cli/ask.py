"""``jessy-mem ask``: words lead to layers, layers to their text and a common frequency."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.navigator import KeywordNavigator, WeightedMean
from jessy_mem.cli.numbers import Number
from jessy_mem.cli.own_plan import plan_options
from jessy_mem.cli.paths import EXISTING_FOLDER, is_absent, reason, region_files

N_LINES = 6
MAX_TEXT_COLUMNS = 96


HELP = """Show the layers of BASE that have keywords among WORDS, best first: why they matched, their text, and the
frequency that dominates.

Keywords are compared without regard to case, in Unicode's NFC. A layer that cannot be read is reported, and the next
one takes its place. The exit status is 1 if nothing is shown.

\b
Example:
  jessy-mem ask BASE "are returns free"
"""


@click.command(cls=ReadingCommand, help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--most", default=3, show_default=True, type=Number(1), help="Show so many layers.")
@click.option("--full", is_flag=True, help="Show the whole text of each layer.")
@click.option("--simulate", is_flag=True, help="Invent the core dimensions that have no file in BASE.")
@screen.json_option
@plan_options
def command(
    base: Path, words: tuple[str, ...], most: int, full: bool, simulate: bool, as_json: bool, config: jm.MemoryConfig
) -> int:
    query = " ".join(words)
    if not simulate:
        region_files(base)  # says so if there is none
    with jm.MmapManager(config=config, base_path=base, simulation="auto" if simulate else "never") as memory:
        _load(memory, base)
        found = KeywordNavigator(memory).navigate(query)
        answers = _read(memory, found, most)
    dominant = None
    if answers:
        weights = [answer.path.confidence for answer in answers]
        contexts = jm.ContextCollection(answer.context for answer in answers)
        dominant = WeightedMean(weights).dominant_frequency(contexts.frequencies)
    if as_json:
        screen.print_json(
            {
                "query": query,
                "n_found": len(found),
                "dominant_frequency": dominant,
                "layers": [_as_dict(answer) for answer in answers],
            }
        )
    elif not found:
        screen.console().print(f"no layer has a keyword among: {query}", soft_wrap=True)
    elif answers:
        _show(screen.console(), answers, full)
        n_more = len(found) - len(answers)
        more = f"; {n_more} more matched" if n_more else ""
        screen.console().print(screen.text(f"dominant frequency {dominant:.2f} Hz{more}", style="bold"))
    return 0 if answers else 1


@dataclass(frozen=True, slots=True)
class Answer:
    """A layer that was found and read, and the name of its dimension."""

    path: jm.NavigationPath
    context: jm.LoadedContext
    dimension: str


def _load(memory: jm.MmapManager, base: Path) -> None:
    """Load everything there is, and say in a line each what is simulated and what is damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*simulated")
        report = memory.load_all()
    if report.simulated:
        names = ", ".join(f"D{dimension:02d}" for dimension in report.simulated)
        screen.warn(f"simulated, for there is no file: {names}")
    for dimension, error in report.skipped.items():
        if not is_absent(base, dimension, error):
            screen.warn(reason(error))


def _read(memory: jm.MmapManager, found: Sequence[jm.NavigationPath], most: int) -> list[Answer]:
    """The first `most` of the layers found that can be read; the others are reported."""
    answers: list[Answer] = []
    for path in found:
        if len(answers) == most:
            break
        layer = jm.LayerId.checked(path.layers[0])
        try:
            answers.append(Answer(path, memory.load_context(layer), memory.region(path.dimension).name))
        except (jm.ConsciousnessError, UnicodeError) as error:
            screen.warn(f"{layer} cannot be shown: {reason(error)}")
    return answers


def _as_dict(answer: Answer) -> dict[str, Any]:
    context = answer.context
    return {
        "layer": str(context.layer_id),
        "dimension": answer.dimension,
        "score": answer.path.confidence,
        "matched": list(answer.path.keywords),
        "frequency": context.frequency,
        "depth": context.depth,
        "source": context.source,
        "text": context.content,
    }


def _show(out: Console, answers: Sequence[Answer], full: bool) -> None:
    width = max(20, min(out.width, MAX_TEXT_COLUMNS) - 2)
    for answer in answers:
        path, context = answer.path, answer.context
        simulated = (", SIMULATED", "bold yellow") if context.source == "simulated" else ""
        out.print(
            screen.text(
                (f"{context.layer_id} {answer.dimension}", "bold cyan"),
                f"  score {path.confidence:.2f}, {context.frequency:.3g} Hz, depth {context.depth}",
                simulated,
            )
        )
        out.print(screen.text(("matched: ", "dim"), (", ".join(path.keywords), "green")))
        lines = screen.wrapped(out, context.content, width)
        shown = lines if full else lines[:N_LINES]
        for line in shown:
            out.print(screen.text("  " if line else "").append_text(line), soft_wrap=True)
        if len(shown) < len(lines):
            out.print(f"  ... {len(lines) - len(shown)} more lines (--full)", style="dim")
        out.print()
