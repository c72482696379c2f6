"""FILE and BASE: what a path on the command line means."""

from __future__ import annotations

import re
from pathlib import Path

import click

import jessy_mem as jm

__all__ = ["REGION", "dimension_of", "region_file", "region_files"]

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


def dimension_of(folder_name: str) -> int | None:
    """The dimension whose folder is named so; None if it is none's."""
    if not re.fullmatch(r"D[0-9]{2,10}", folder_name):
        return None
    try:
        dimension = jm.LayerId.checked((int(folder_name[1:]), 0)).dimension
    except ValueError:
        return None
    return dimension if folder_name == f"D{dimension:02d}" else None


def region_files(base: Path) -> list[Path]:
    """The region files of all dimensions under `base`, by ascending id; wrong use if there is none."""
    found = {}
    for folder in base.iterdir():
        dimension = dimension_of(folder.name)
        if dimension is not None and (folder / REGION).exists():
            found[dimension] = folder / REGION
    if not found:
        raise click.UsageError(f"{base} holds no dimension: there is no Dnn/{REGION} in it.")
    return [found[dimension] for dimension in sorted(found)]
