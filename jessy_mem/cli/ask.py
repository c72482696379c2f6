"""``jessy-mem ask``: words lead to layers, layers to their text and a common frequency."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.navigator import KeywordNavigator, WeightedMean
from jessy_mem.cli.paths import reason

N_LINES = 6
MAX_TEXT_COLUMNS = 96


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--most", default=3, show_default=True, type=click.IntRange(min=1), help="Show so many layers.")
@click.option("--full", is_flag=True, help="Show the whole text of each layer.")
@screen.json_option
def command(base: Path, words: tuple[str, ...], most: int, full: bool, as_json: bool) -> int:
    """Show the layers of BASE that have keywords among WORDS, best first: why they matched, their text, and the
    frequency that dominates.

    Core dimensions without a file in BASE are simulated, and said to be. The exit status is 1 if nothing matches.

    \b
    Example:
      jessy-mem ask BASE "what does a habit do to memory"
    """
    query = " ".join(words)
    with jm.MmapManager(base_path=base) as memory:
        _load(memory)
        found = KeywordNavigator(memory).navigate(query)
        paths = found[:most]
        contexts = memory.load_contexts(paths, strict=True)
        names = {path.dimension: memory.region(path.dimension).name for path in paths}
    weights = [path.confidence for path in paths]
    dominant = WeightedMean(weights).dominant_frequency(contexts.frequencies) if paths else None
    if as_json:
        screen.print_json(
            {
                "query": query,
                "n_found": len(found),
                "dominant_frequency": dominant,
                "layers": [
                    {
                        "layer": str(context.layer_id),
                        "dimension": names[path.dimension],
                        "score": path.confidence,
                        "matched": list(path.keywords),
                        "frequency": context.frequency,
                        "depth": context.depth,
                        "source": context.source,
                        "text": context.content,
                    }
                    for path, context in zip(paths, contexts, strict=True)
                ],
            }
        )
    elif not paths:
        screen.console().print(Text(f"no layer has a keyword among: {query}"), soft_wrap=True)
    else:
        _show(screen.console(), paths, contexts, names, full)
        n_more = len(found) - len(paths)
        more = f"; {n_more} more matched" if n_more else ""
        screen.console().print(Text(f"dominant frequency {dominant:.2f} Hz{more}", style="bold"))
    return 0 if paths else 1


def _load(memory: jm.MmapManager) -> None:
    """Load everything there is, and say in a line each what is simulated and what is damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dimension D.* is simulated")
        report = memory.load_all()
    if report.simulated:
        names = ", ".join(f"D{dimension:02d}" for dimension in report.simulated)
        screen.warn(f"simulated, for there is no file: {names}")
    for error in report.skipped.values():
        screen.warn(reason(error))


def _show(
    out: Console, paths: list[jm.NavigationPath], contexts: jm.ContextCollection, names: dict[int, str], full: bool
) -> None:
    width = max(20, min(out.width, MAX_TEXT_COLUMNS) - 2)
    for path, context in zip(paths, contexts, strict=True):
        simulated = (", SIMULATED", "bold yellow") if context.source == "simulated" else ""
        out.print(
            Text.assemble(
                (f"{context.layer_id} {names[path.dimension]}", "bold cyan"),
                f"  score {path.confidence:.2f}, {context.frequency:.3g} Hz, depth {context.depth}",
                simulated,
            )
        )
        out.print(Text.assemble(("matched: ", "dim"), (", ".join(path.keywords), "green")))
        lines = [line for part in context.content.strip().splitlines() for line in textwrap.wrap(part, width) or [""]]
        shown = lines if full else lines[:N_LINES]
        out.print(Text(textwrap.indent("\n".join(shown), "  ")), soft_wrap=True)
        if len(shown) < len(lines):
            out.print(f"  ... {len(lines) - len(shown)} more lines (--full)", style="dim")
        out.print()
