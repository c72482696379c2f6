"""``jessy-mem learn``: texts become layers of a named dimension."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.own_plan import plan_options
from jessy_mem.cli.paths import FOLDER, TEXT, Problems
from jessy_mem.cli.source import read_text, unused_keys
from jessy_mem.cli.streams import Command

STDIN = "-"

HELP = """Add a layer for each FILE to the dimension of BASE that is called NAME, and print their ids.

There is a new dimension if none has the name. A FILE is a text, '-' standard input; it may begin with front matter as
for 'jessy-mem build': frequency, keywords or tags, and depth. All layers are added in one step, or none: nothing is
written unless every FILE is sound.

\b
Example:
  jessy-mem learn BASE customer:ann notes.md --user
"""


@click.command(cls=Command, help=HELP)
@click.argument("base", type=FOLDER)
@click.argument("name")
@click.argument("files", metavar="FILE...", type=TEXT, nargs=-1, required=True)
@click.option("--user", is_flag=True, help="A new dimension is a user's: its id is 1000 or above.")
@screen.json_option
@plan_options
def command(base: Path, name: str, files: tuple[Path, ...], user: bool, as_json: bool, config: jm.MemoryConfig) -> None:
    if files.count(Path(STDIN)) > 1:
        raise click.UsageError("standard input can be read once.")
    specs = _read(files)
    with jm.MmapManager(config=config, base_path=base) as memory:
        try:
            dimension = memory.ensure_dimension(name, user=user)
            layers = memory.extend(dimension, specs)
        except ValueError as error:
            if isinstance(error, jm.ConsciousnessError):
                raise
            raise Problems([f"{name}: {error}"]) from None
    if as_json:
        ids = [str(layer) for layer in layers]
        screen.print_json({"base": str(base), "name": name, "dimension": dimension, "layers": ids})
    else:
        for layer in layers:
            screen.console().print(str(layer))


def _read(files: Sequence[Path]) -> list[jm.LayerSpec]:
    """The texts as layers; Problems lists everything that is wrong with any of them."""
    specs, problems, unused = [], [], []
    for path in files:
        try:
            is_stdin = path == Path(STDIN)
            raw = _standard_input() if is_stdin else path.read_bytes()
            facts, content, keys = read_text(Path("standard input") if is_stdin else path, raw)
            specs.append(_spec(facts, content))
            unused.append([*keys, *(["name"] if "name" in facts else [])])
        except Problems as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    if problems:
        raise Problems(problems)
    for remark in unused_keys(unused):
        screen.warn(remark)
    return specs


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise Problems(["standard input is closed"])
    return sys.stdin.buffer.read()


def _spec(facts: dict[str, Any], content: bytes) -> jm.LayerSpec:
    return jm.LayerSpec(content=content, **{key: value for key, value in facts.items() if key != "name"})
