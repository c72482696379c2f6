"""FILE and BASE: what a path on the command line means, and what is said when it cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm

__all__ = [
    "EXISTING",
    "EXISTING_FILE",
    "EXISTING_FOLDER",
    "FILE",
    "FOLDER",
    "REGION",
    "TEXT",
    "Problems",
    "dimension_of",
    "is_absent",
    "is_broken",
    "reason",
    "region_file",
    "region_files",
    "shortened",
]

REGION = "region.mmap"
N_PROBLEMS_SHOWN = 20


class Place(click.Path):
    """A path; ``~`` is the home folder, even where no shell has put it in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


EXISTING = Place(exists=True, path_type=Path)
EXISTING_FILE = Place(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = Place(exists=True, file_okay=False, path_type=Path)
FILE = Place(dir_okay=False, path_type=Path)
FOLDER = Place(file_okay=False, path_type=Path)
TEXT = Place(exists=True, dir_okay=False, allow_dash=True, path_type=Path)  # - is standard input


class Problems(click.ClickException):
    """What was found to be wrong, one problem a line."""

    exit_code = 1

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problems))

    @property
    def lines(self) -> list[str]:
        """What is said: the first of the problems, and how many more there are."""
        return shortened(self.problems, N_PROBLEMS_SHOWN, "problems")


def shortened(lines: Sequence[str], most: int, what: str) -> list[str]:
    """`lines`, or the first `most` and a line that counts the others, which are `what`."""
    more = len(lines) - most
    return [*lines[:most], f"... and {more} more {what}"] if more > 0 else list(lines)


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
    """The region files of all dimensions under `base`, by ascending id, broken links too; Problems if there is none."""
    found = {}
    for folder in base.iterdir():
        dimension = dimension_of(folder.name)
        if dimension is not None and (is_broken(folder) or _present(folder / REGION)):
            found[dimension] = folder / REGION
    if not found:
        raise Problems([f"{base} holds no dimension: there is no Dnn/{REGION} in it; 'jessy-mem build' makes them"])
    return [found[dimension] for dimension in sorted(found)]


def is_broken(folder: Path) -> bool:
    """Whether `folder` is there and is no folder: a file, or a link that leads nowhere."""
    return os.path.lexists(folder) and not folder.is_dir()


def is_absent(base: Path, dimension: int, error: Exception) -> bool:
    """Whether a dimension is not there at all; a link that leads nowhere is something."""
    path = jm.region_path(base, dimension)
    return isinstance(error, jm.DimensionNotFound) and not (is_broken(path.parent) or os.path.lexists(path))


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
