"""What every command shows things with: console, tables, sizes, JSON, and progress that appears when it is worth it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jessy_mem.cli.escape import escaped
from jessy_mem.cli.streams import delivering, say, write
from jessy_mem.units import format_ns

if TYPE_CHECKING:
    from jessy_mem.cli.measure import Ratio

__all__ = [
    "Report",
    "band",
    "console",
    "dimensions",
    "facts",
    "json_option",
    "print_json",
    "progress_bar",
    "rate",
    "ratio",
    "ratio_table",
    "table",
    "text",
    "verdict",
    "warn",
    "wrapped",
]

Report = Callable[[int, int], None]  # (done bytes, total bytes)

NARROW = 76  # columns of a terminal below which a table leaves some of its own out
LEAST = 20  # columns that everything is laid out for at least: what is longer, the terminal breaks
PATIENCE_S = 1.0  # work that is done sooner shows no bar

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


class _Console(Console):
    """What is printed is never taken as markup, and is the result: a stream that does not take it is OutputLost."""

    def print(self, *objects: Any, **options: Any) -> None:
        with delivering():
            super().print(*(text(each) if isinstance(each, str) else each for each in objects), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the one place that knows what a reader's leaving means; rich would exit with status 1."""
        raise


def console() -> Console:
    """A console on standard output as it is now: of 20 columns at least, and of 80 where there are said to be none."""
    made = _Console(highlight=False, emoji=False, markup=False)
    if made.width < LEAST:
        made.width = LEAST if made.width > 0 else 80
    return made


def text(*parts: str | tuple[str, str], style: str = "") -> Text:
    """One line, put together from strings and (string, style); what a terminal would obey is escaped in each."""
    return Text.assemble(
        *(escaped(part) if isinstance(part, str) else (escaped(part[0]), part[1]) for part in parts), style=style
    )


def dimensions(ids: Iterable[int]) -> str:
    """The ids in ascending order, three and more in a row as a range.

    >>> dimensions([1, 2, 4, 5, 6, 1000])
    'D01, D02, D04..D06, D1000'
    """
    runs: list[list[int]] = []
    for dimension in sorted(ids):
        if runs and dimension == runs[-1][-1] + 1:
            runs[-1].append(dimension)
        else:
            runs.append([dimension])
    named = [[f"D{dimension:02d}" for dimension in run] for run in runs]
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(run) for run in named)


def wrapped(out: Console, content: str, width: int) -> list[Text]:
    """A text of many lines, each escaped and cut into lines of at most `width` columns; without those at its ends that
    are empty."""
    lines: list[Text] = []
    for line in content.replace("\r\n", "\n").strip("\n").split("\n"):
        lines += text(line.expandtabs()).wrap(out, width) or [Text()]
    for each in lines:
        each.rstrip()
    return lines


def table(out: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table that fits `out`.

    A heading may begin with marks: ``>`` aligns the column right, ``~`` lets it wrap, and ``?`` leaves it out where the
    terminal is narrow.
    """
    made = Table(
        title=text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        header_style="dim",
    )
    kept = [i for i, heading in enumerate(headings) if "?" not in heading[:3] or out.width >= NARROW]
    for i in kept:
        heading = headings[i].lstrip(">~?")
        marks = headings[i].removesuffix(heading)
        made.add_column(heading, justify="right" if ">" in marks else "left", no_wrap="~" not in marks, overflow="fold")
    for row in rows:
        made.add_row(*(text(cell) if isinstance(cell, str) else cell for cell in (row[i] for i in kept)))
    return made


def verdict(met: bool) -> Text:
    return Text("met", style="green") if met else Text("missed", style="yellow")


def ratio_table(out: Console, ratios: Sequence[Ratio]) -> Table:
    """What the library costs against the bare thing."""
    rows = [
        (
            each.name,
            format_ns(each.ours_ns),
            f"{format_ns(each.bare_ns)} {each.bare}",
            f"{each.ratio:.2f} x",
            f"<= {each.bound:g} x",
            verdict(each.met),
        )
        for each in ratios
    ]
    title = "Against the bare thing, in the same run"
    return table(out, title, ["~", ">here", "?bare", ">ratio", "?>bound", ""], rows)


def facts(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """A table of (label, text) without a heading."""
    heading = text(title)
    made = Table(title=heading, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for label, fact in rows:
        made.add_row(text(label), text(fact))
    return made


def rate(per_s: float) -> str:
    """How often something is done in a second.

    >>> rate(812), rate(45_300), rate(22_340_000)
    ('812 /s', '45.3 k/s', '22.3 M/s')
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if per_s >= size:
            return f"{per_s / size:.1f} {unit}/s"
    return f"{per_s:.0f} /s"


def ratio(value: float) -> str:
    """Two digits that count, however far apart both sides are.

    >>> ratio(161.96), ratio(1.066), ratio(0.0271), ratio(0.00036)
    ('162 x', '1.07 x', '0.027 x', '0.00036 x')
    """
    return f"{value:.0f} x" if value >= 10 else f"{value:.2f} x" if value >= 0.1 else f"{value:.2g} x"


def band(frequencies: Sequence[float]) -> str:
    """The range of some frequencies in Hz.

    >>> band([1.5, 0.25, 1.0])
    '0.25 .. 1.5'
    """
    low, high = f"{min(frequencies):.3g}", f"{max(frequencies):.3g}"
    return low if low == high else f"{low} .. {high}"


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON document on standard output; printable ASCII only, so that any file name and any terminal will do."""
    write(json.dumps(value, indent=2, default=str, allow_nan=False).replace("\x7f", "\\u007f") + "\n")


def warn(message: str) -> None:
    """One line on standard error."""
    say("warning", "yellow", message)


@contextmanager
def progress_bar(label: str) -> Iterator[Report]:
    """A function to report progress to, in bytes; a bar appears on a terminal once a second has passed."""
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=None)
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    shown = False

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal shown
        if on_terminal and time.monotonic() - started > PATIENCE_S:
            if not shown:
                bar.start()
                shown = True
            bar.update(task, completed=done_bytes, total=total_bytes)

    try:
        yield report
    finally:
        if shown:
            bar.stop()
