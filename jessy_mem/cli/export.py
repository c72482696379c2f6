"""``jessy-mem export``: a base folder, as of one moment, as one tar."""

from __future__ import annotations

from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.paths import EXISTING_FOLDER, FILE, Problems, reason, region_files
from jessy_mem.cli.streams import Command
from jessy_mem.units import counted, format_bytes

HELP = """Write all region files of BASE, and a list of their checksums, into a plain tar.

OUT.tar is replaced in one step. Whoever learns in BASE goes on meanwhile: all files are of the moment at which it
begins. Every byte is read. A dimension that is damaged is left out and reported, and the exit status is 1.
"""


@click.command(cls=Command, help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.argument("out", metavar="OUT.tar", type=FILE)
@screen.json_option
def command(base: Path, out: Path, as_json: bool) -> int:
    region_files(base)  # says so if there is none
    with screen.progress_bar("exporting") as report:
        exported = jm.export_base(base, out, report)
    if not exported.dimensions:
        raise Problems([f"nothing is exported: {reason(error)}" for error in exported.damaged.values()])
    for error in exported.damaged.values():
        screen.warn(f"left out: {reason(error)}")
    if as_json:
        screen.print_json(
            {
                "base": str(base),
                "archive": str(out),
                "dimensions": exported.dimensions,
                "files": exported.n_files,
                "size_bytes": exported.n_bytes,
                "damaged": {str(dimension): reason(error) for dimension, error in exported.damaged.items()},
            }
        )
    else:
        size = format_bytes(exported.n_bytes)
        dimensions = counted(len(exported.dimensions), "dimension")
        told = f"{dimensions} in {counted(exported.n_files, 'file')}, {size}, in {out}"
        screen.console().print(screen.text(told), soft_wrap=True)
    return 1 if exported.damaged else 0
