"""``jessy-mem forget``: a learned dimension is removed for good."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.escape import escaped
from jessy_mem.cli.paths import EXISTING_FOLDER, Problems
from jessy_mem.cli.streams import Command

HELP = """Remove the dimension of BASE that is called NAME for good, its files too. Core and immutable ones stay.

It asks first, on a terminal. The name is free then, the id is not given again.
"""


@click.command(cls=Command, help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@screen.json_option
def command(base: Path, name: str, yes: bool, as_json: bool) -> None:
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        try:
            dimension = memory.find(name)
        except ValueError as error:
            raise Problems([f"{name}: {error}"]) from None
        if dimension is None:
            raise Problems([f"{base}: no dimension is called {name!r}"])
        if not yes:
            _ask(f"Forget D{dimension:02d} {name} in {base} for good?")
        memory.forget(dimension)
    if as_json:
        screen.print_json({"base": str(base), "name": name, "dimension": dimension})
    else:
        screen.console().print(screen.text(("forgotten  ", "green"), f"D{dimension:02d} {name}"), soft_wrap=True)


def _ask(question: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: --yes is needed.")
    if not click.confirm(escaped(question), err=True):
        raise Problems(["nothing was forgotten"])
