"""FILE and BASE: what a path on the command line means."""

from __future__ import annotations

import re
from pathlib import Path

import click

__all__ = ["region_file", "region_files"]

REGION = "region.mmap"


def region_file(path: Path) -> Path:
    """`path`, or the region file in it if it is the folder of a dimension; wrong use if it is neither."""
    if not path.is_dir():
        if not path.exists():
            raise click.UsageError(f"there is no file {path}.")
        return path
    if (path / REGION).exists():
        return path / REGION
    raise click.UsageError(f"{path} is a folder without a {REGION}.")


def region_files(base: Path) -> list[Path]:
    """The region files of all dimensions under `base`, by ascending id; wrong use if there is none."""
    found = {}
    for folder in base.iterdir():
        if re.fullmatch(r"D\d{2,10}", folder.name) and (folder / REGION).exists():
            found[int(folder.name[1:])] = folder / REGION
    if not found:
        raise click.UsageError(f"{base} holds no dimension: there is no Dnn/{REGION} in it.")
    return [found[dimension] for dimension in sorted(found)]
