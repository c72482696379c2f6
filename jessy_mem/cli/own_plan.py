"""``--total`` and ``--layout``: what a base folder is used with, where that is not the bundled plan of 280 MiB."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

import jessy_mem as jm
from jessy_mem.cli.paths import EXISTING_FILE

__all__ = ["plan_options"]

R = TypeVar("R")


def plan_options(command: Callable[..., R]) -> Callable[..., R]:
    """Two options, which a command gets as `config`: a MemoryConfig that says so, and simulates nothing."""

    @click.option("--total", metavar="SIZE", help="The budget that BASE is used with, such as 560MB. Default: 280MB.")
    @click.option("--layout", type=EXISTING_FILE, help="The plan that BASE is used with. Default: the bundled one.")
    @functools.wraps(command)
    def with_config(*args: object, total: str | None, layout: Path | None, **options: object) -> R:
        try:
            config = jm.MemoryConfig(simulation="never", layout=layout)
            config = config if total is None else config.replace(total_memory_mb=total)
        except ValueError as error:
            raise click.UsageError(f"{error}.") from error
        return command(*args, config=config, **options)

    return with_config
