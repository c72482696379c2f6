"""``jessy-mem import``: the dimensions of a tar that ``export`` wrote come into a base folder."""

from __future__ import annotations

from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.paths import EXISTING_FILE, FOLDER, Problems
from jessy_mem.cli.streams import Command

HELP = """Put the dimensions of OUT.tar into BASE, after every byte of it was verified.

A dimension that is there already and says the same is left alone. If one is there and differs, nothing is written,
unless --replace says that it may go. One that was forgotten there comes back. Each comes in as one step, whatever
happens.
"""


@click.command(cls=Command, help=HELP)
@click.argument("archive", metavar="OUT.tar", type=EXISTING_FILE)
@click.argument("base", type=FOLDER)
@click.option("--replace", "replacing", is_flag=True, help="Replace dimensions that are there and differ.")
@screen.json_option
def command(archive: Path, base: Path, replacing: bool, as_json: bool) -> None:
    try:
        with screen.progress_bar("importing") as report:
            done = jm.import_base(archive, base, replace_existing=replacing, progress=report)
    except jm.ImportConflict as error:
        lines = [f"{archive}: D{dimension:02d}: {why}" for dimension, why in error.dimensions.items()]
        raise Problems(lines) from None
    if as_json:
        screen.print_json({"archive": str(archive), "base": str(base), **done._asdict()})
    else:
        told = ", ".join(f"{len(dimensions)} {what}" for what, dimensions in done._asdict().items() if dimensions)
        screen.console().print(screen.text(f"{told}, in {base}"), soft_wrap=True)
