"""FILE and BASE: what a path on the command line means, and what is said when it cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import click

import jessy_mem as jm

__all__ = ["REGION", "dimension_of", "reason", "region_file", "region_files"]

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
        if dimension is not None and _present(folder / REGION):
            found[dimension] = folder / REGION
    if not found:
        raise click.UsageError(f"{base} holds no dimension: there is no Dnn/{REGION} in it.")
    return [found[dimension] for dimension in sorted(found)]


def reason(error: BaseException) -> str:
    """What went wrong, in one line; a failure of the system is the file and why."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _present(path: Path) -> bool:
    """Whether there is something at `path`: a dangling link, or what may not be looked at, is something too."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
