"""``jessy-mem doctor``: what crashes, copies and damaged disks left in a base folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.own_plan import plan_options
from jessy_mem.cli.paths import EXISTING_FOLDER, dimension_of
from jessy_mem.units import counted, format_bytes

HELP = """Find stray temporary files, empty folders, damaged regions, deltas that lie on nothing or are in their base
already, and folders, ids and names that do not agree.

Every byte of every region is read. What is too large is so in the bundled plan of 280 MiB, unless --total and --layout
say what BASE is used with. --clean removes stray temporary files, empty folders, deltas that have no base, or
whose generation is not larger than their base's, and what a power cut tore before it was on the disk. The exit status
is 1 if a problem is there, or is left after --clean.

The last line tells how a manager with guard="auto" would guard the dimensions, and why it would have no lease of some.
"""


@click.command(cls=ReadingCommand, unless="cleaning", help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.option("--clean", "cleaning", is_flag=True, help="Remove what is not needed, nothing else.")
@screen.json_option
@plan_options
def command(base: Path, cleaning: bool, as_json: bool, config: jm.MemoryConfig) -> int:
    with screen.progress_bar("examining") as report:
        findings = jm.examine(base, report, layout=config.plan.scaled(config.total_bytes))
    removed = jm.clean(findings) if cleaning else []
    left = [finding for finding in findings if finding not in removed]
    guard = _guard(base)
    if as_json:
        screen.print_json(
            {
                "base": str(base),
                "sound": not left,
                "findings": [finding.to_dict() for finding in left],
                "removed": [finding.to_dict() for finding in removed],
                "freed_bytes": sum(finding.n_bytes for finding in removed),
                "removable_bytes": sum(finding.n_bytes for finding in left if finding.removable),
                "guard": guard,
            }
        )
    else:
        _show(base, left, removed)
        guards = ", ".join(f"{n} by {kind}" for kind, n in guard["auto"].items() if n)
        if guards:
            told = f'guard="auto" would guard {guards}' + (f": {guard['why']}" if guard["why"] else "")
            screen.console().print(screen.text(told, style="dim"), soft_wrap=True)
    return 1 if left else 0


def _guard(base: Path) -> dict[str, Any]:
    """How many dimensions a manager with ``guard="auto"`` would guard how, and why not all mutable ones by a lease."""
    guards = dict.fromkeys(("lease", "copy", "reads"), 0)
    why = None
    dimensions = sorted(filter(None, (dimension_of(folder.name) for folder in base.iterdir())))
    with contextlib.ExitStack() as leased:  # all at once, as a manager has them
        for dimension in dimensions:
            path = jm.region_path(base, dimension)
            try:
                region = jm.MmapRegion(None, path, verify="never", guard="auto")
            except jm.ConsciousnessError:  # found above
                continue
            guards[region.guard] += 1
            if region.guard == "lease":
                leased.enter_context(region)
            elif region.guard == "reads":
                why = why or _refusal(path)
    return {"auto": guards, "why": why}


def _refusal(path: str | Path) -> str | None:
    """Why there is no lease of a region file."""
    try:
        jm.MmapRegion(None, path, verify="never", guard="lease").close()
    except jm.MappingError as error:
        return error.strerror
    return None


def _show(base: Path, left: list[jm.Finding], removed: list[jm.Finding]) -> None:
    out = screen.console()
    for finding in removed:
        out.print(screen.text(("removed  ", "green"), _place(finding, base)), soft_wrap=True)
    for finding in left:
        style = "yellow" if finding.removable else "bold red"
        out.print(screen.text((finding.kind, style), f"  {_place(finding, base)}"), soft_wrap=True)
        out.print(screen.text(f"    {finding.detail}"), soft_wrap=True)
    if removed:
        out.print(screen.text(f"{_files(removed)} removed, {_size(removed)} freed.", style="bold"))
    strays = [finding for finding in left if finding.removable]
    if strays:
        out.print(screen.text(f"--clean would remove {_files(strays)} and free {_size(strays)}.", style="bold"))
    damaged = len(left) - len(strays)
    if damaged:
        problems = counted(damaged, "problem")
        out.print(screen.text(f"{problems} that --clean does not touch.", style="bold"))
    if not left:
        out.print(screen.text(("sound", "green"), f"  {base}"), soft_wrap=True)


def _place(finding: jm.Finding, base: Path) -> str:
    """Where it was found: under the base folder, or the base folder itself."""
    return str(base) if finding.path == base else os.path.relpath(finding.path, base)


def _files(findings: list[jm.Finding]) -> str:
    n_folders = sum(finding.kind == "empty folder" for finding in findings)
    kinds = {"stray file": len(findings) - n_folders, "empty folder": n_folders}
    return " and ".join(counted(n, what) for what, n in kinds.items() if n)


def _size(findings: list[jm.Finding]) -> str:
    return format_bytes(sum(finding.n_bytes for finding in findings))
