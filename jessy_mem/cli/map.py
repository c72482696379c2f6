"""``jessy-mem map``: what lies where in a base folder."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.own_plan import plan_options
from jessy_mem.cli.paths import EXISTING_FOLDER, FILE, region_files
from jessy_mem.units import counted, format_bytes

N_SHOWN = 200  # dimensions of the table
MAX_BAR = 100  # columns
UNICODE, ASCII = "█▒!·", "#=!."  # dimensions in turn, what is damaged, and what is empty
STYLES = ("cyan", "blue", "bold red", "bright_black")
FULL, OTHER, DAMAGED, EMPTY = range(4)
RANK = {DAMAGED: 3, FULL: 2, OTHER: 2, EMPTY: 0}  # which of those that share a column is seen


HELP = """Show which dimensions of BASE lie where: segments, slots, sizes, files, and how much of them is in memory.

Only the headers of files are read, and nothing is written there. Each segment is a bar to scale; what is smaller than a
column still has one, and what is damaged is marked. --html writes a page that needs nothing else. The exit status is 1
if a file of BASE cannot be read.
"""


@click.command(cls=ReadingCommand, out="out", help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.option("--html", "out", metavar="OUT.html", type=FILE, help="Write a page, which may be looked at anywhere.")
@screen.json_option
@plan_options
def command(base: Path, out: Path | None, as_json: bool, config: jm.MemoryConfig) -> int:
    region_files(base)  # says so if there is none
    found = jm.MemoryMap.of_folder(base, config.plan.scaled(config.total_bytes))
    if out is not None:
        out.write_text(found.to_html(), encoding="utf-8")
    if as_json:
        screen.print_json(found.to_dict())
    elif out is None:
        show(found, screen.console())
    else:
        screen.console().print(screen.text(f"{counted(len(found.present), 'dimension')}, in {out}"), soft_wrap=True)
    return 1 if any(entry.problem for entry in found.entries) else 0


def show(found: jm.MemoryMap, out: Console) -> None:
    """The map on a terminal: a bar for each segment, and a table."""
    total_bytes = sum(entry.n_bytes for entry in found.present)
    title = f"{found.base_path}: {counted(len(found.present), 'dimension')}, {format_bytes(total_bytes)}"
    out.print(screen.text(title, style="bold"), soft_wrap=True)
    for segment in found.segments:
        used, all_of_it = format_bytes(segment.used_bytes), format_bytes(segment.size_bytes)
        out.print(screen.text((segment.name, "bold"), f"  {used} of {all_of_it}"))
        out.print(segment_bar(found, segment, min(out.width, MAX_BAR), out.options.ascii_only))
    out.print()
    out.print(_table(found, out))
    empty = [entry.dimension for entry in found.entries if entry.state == "none"]
    if empty:
        out.print(screen.text(f"empty slots: {screen.dimensions(empty)}", style="dim"))
    out.print(screen.text("memory: how much of the files is there now; *: immutable", style="dim"))
    more = len(found.present) - N_SHOWN
    if more > 0:
        out.print(f"... and {more:,} more; --json has them all")
    for entry in found.entries:
        if entry.problem:
            told = screen.text(("cannot be read  ", "bold red"), f"D{entry.dimension:02d}: {entry.problem}")
            out.print(told, soft_wrap=True)


def segment_bar(found: jm.MemoryMap, segment: jm.MapSegment, width: int, ascii_only: bool) -> Text:
    """The segment to scale: where its dimensions begin, and how far each of them reaches."""
    kinds = [EMPTY] * width
    begin_bytes = 0
    for i, entry in enumerate(found.in_segment(segment.name)):
        if entry.state != "none":
            first = min(width - 1, width * begin_bytes // segment.size_bytes)
            end = -(-width * (begin_bytes + entry.n_bytes) // segment.size_bytes)
            kind = DAMAGED if entry.problem else (FULL, OTHER)[i % 2]
            for column in range(first, min(width, max(first + 1, end))):
                if RANK[kind] > RANK[kinds[column]]:
                    kinds[column] = kind
        begin_bytes += entry.slot_bytes or entry.n_bytes
    characters = ASCII if ascii_only else UNICODE
    return screen.text(*((characters[kind], STYLES[kind]) for kind in kinds))


def _table(found: jm.MemoryMap, out: Console) -> Table:
    headings = ["", "~dimension", ">size", "?>slot", "?>layers", "?>deltas", ">memory"]
    rows = [
        (
            f"D{entry.dimension:02d}",
            entry.name + (" *" if entry.immutable else ""),
            format_bytes(entry.n_bytes),
            format_bytes(entry.slot_bytes) if entry.slot_bytes else "",
            f"{entry.n_layers:,}" if entry.n_layers else "",
            f"{entry.n_deltas:,}" if entry.n_deltas else "",
            "damaged" if entry.problem else "" if entry.resident is None else f"{entry.resident:.0%}",
        )
        for entry in found.present[:N_SHOWN]
    ]
    return screen.table(out, "", headings, rows)
