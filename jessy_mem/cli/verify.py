"""``jessy-mem verify``: every byte compared with its checksum."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.paths import EXISTING, REGION, region_file, region_files
from jessy_mem.units import counted, format_bytes

HELP = """Compare every byte of a region FILE, or of all regions under BASE, with its checksum.

A region that has grown is a base and deltas beside it: each is verified. All damage is listed, not just the first. The
exit status is 1 if there is any.
"""


@click.command(cls=ReadingCommand, help=HELP)
@click.argument("target", metavar="FILE|BASE", type=EXISTING)
@screen.json_option
def command(target: Path, as_json: bool) -> int:
    whole_base = target.is_dir() and not (target / REGION).exists()
    bases = region_files(target) if whole_base else [region_file(target)]
    files = [file for base in bases for file in jm.stack_files(base)]
    sizes = [_size(file) for file in files]
    damage: dict[Path, list[jm.ConsciousnessError]] = {}
    with screen.progress_bar("verifying") as report:
        for i, file in enumerate(files):
            dimension = int(file.parent.name[1:]) if whole_base else None
            shifted = partial(_report_from, report, sum(sizes[:i]), sum(sizes))
            damage[file] = jm.verify_region(file, dimension, shifted)
    if as_json:
        screen.print_json(
            {
                "sound": not any(damage.values()),
                "files": [
                    {"path": str(file), "size_bytes": n_bytes, "damage": [_as_dict(error) for error in damage[file]]}
                    for file, n_bytes in zip(files, sizes, strict=True)
                ],
            }
        )
    else:
        _show(damage, sizes)
    return 1 if any(damage.values()) else 0


def _show(damage: dict[Path, list[jm.ConsciousnessError]], sizes: list[int]) -> None:
    out = screen.console()
    for (file, errors), n_bytes in zip(damage.items(), sizes, strict=True):
        verdict = ("sound  ", "green") if not errors else ("DAMAGED", "bold red")
        out.print(screen.text(verdict, f"  {file}  ", (format_bytes(n_bytes), "dim")), soft_wrap=True)
        for error in errors:
            out.print(screen.text(f"         {_detail(error, file)}"), soft_wrap=True)
    n_damaged = sum(1 for errors in damage.values() if errors)
    if len(damage) > 1:
        summary = f"{counted(len(damage), 'file')}, {format_bytes(sum(sizes))}: "
        out.print(screen.text(summary + (f"{n_damaged} damaged" if n_damaged else "all sound"), style="bold"))


def _detail(error: jm.ConsciousnessError, file: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix(f"{file}: ")


def _as_dict(error: jm.ConsciousnessError) -> dict[str, object]:
    names = ("field", "layer", "found", "expected", "errno")
    return {
        "error": type(error).__name__,
        "message": str(error),
        **{name: getattr(error, name) for name in names if getattr(error, name, None) is not None},
    }


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _report_from(report: screen.Report, before_bytes: int, total_bytes: int, done_bytes: int, _: int) -> None:
    report(before_bytes + done_bytes, total_bytes)
