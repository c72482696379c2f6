"""SOURCE, the folder that ``build`` reads: dimensions.json, and for each dimension a folder with a text for each layer.

Everything is read and checked before anything is written, and all problems are told at once, each with its file and
line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli.front_matter import FrontMatterError, front_matter
from jessy_mem.cli.paths import REGION, dimension_of

__all__ = ["DimensionSource", "SourceError", "passed_over", "read_source"]

PLAN = "dimensions.json"
N_PROBLEMS_SHOWN = 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SourceError(click.ClickException):
    """What is wrong with a source, one problem a line."""

    exit_code = 1

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = len(problems) - N_PROBLEMS_SHOWN
        shown = problems[:N_PROBLEMS_SHOWN] + ([f"... and {more} more problems"] if more > 0 else [])
        super().__init__("\n".join(shown))


@dataclass
class DimensionSource:
    """One dimension as its source describes it."""

    id: int
    name: str
    immutable: bool = False
    slot_bytes: int = 0
    frequency: float = 1.0
    planned: dict[int, dict[str, Any]] = field(default_factory=dict)  # layer -> depth, frequency, keywords
    layers: list[jm.LayerSpec] = field(default_factory=list)


def read_source(source: Path, compress: bool = False) -> list[DimensionSource]:
    """All dimensions of a source, by ascending id. SourceError lists everything that is wrong with it."""
    problems: list[str] = []
    dimensions = _read_plan(source / PLAN)
    for number in _folders(source).keys() - dimensions.keys():
        slot_bytes = jm.default_layout().slot_bytes(number)
        dimensions[number] = DimensionSource(number, f"D{number:02d}", slot_bytes=slot_bytes)
    for dimension in dimensions.values():
        problems += _read_layers(source, dimension, compress)
    if problems:
        raise SourceError(problems)
    return [dimensions[number] for number in sorted(dimensions)]


# dimensions.json ------------------------------------------------------------------------------------------------------


def _read_plan(path: Path) -> dict[int, DimensionSource]:
    try:
        plan = json.loads(_text(path, path.read_bytes()))
    except FileNotFoundError:
        raise click.UsageError(f"{path.parent} holds no {PLAN}.") from None
    except json.JSONDecodeError as error:
        raise SourceError([f"{path}:{error.lineno}: {error.msg}"]) from None
    if not isinstance(plan, dict) or not isinstance(plan.get("dimensions"), list):
        raise SourceError([f'{path}: expected an object with a list "dimensions"'])
    dimensions: dict[int, DimensionSource] = {}
    problems = []
    for i, entry in enumerate(plan["dimensions"]):
        try:
            dimension = _planned(entry)
            if dimension.id in dimensions:
                raise ValueError(f"id {dimension.id} is there twice")
            dimensions[dimension.id] = dimension
        except (ValueError, TypeError, KeyError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            name = entry.get("name") if isinstance(entry, Mapping) else None
            problems.append(f"{path}: dimension {name or i}: {what}")
    if problems:
        raise SourceError(problems)
    return dimensions


def _planned(entry: Mapping[str, Any]) -> DimensionSource:
    """One entry of dimensions.json; ValueError, TypeError or KeyError tell what is wrong with it."""
    if not isinstance(entry, Mapping):
        raise TypeError(f"{entry!r} is not an object")
    dimension = jm.LayerId.checked((entry["id"], 0)).dimension
    slot_bytes = jm.default_layout().slot_bytes(dimension)
    if "size_mb" in entry:
        slot_bytes = min(slot_bytes, int(entry["size_mb"] * (1 << 20)))
    if not isinstance(entry["name"], str):
        raise TypeError(f"name: {entry['name']!r} is not text")
    jm.RegionBuilder(dimension, entry["name"])  # checks its length
    planned = {}
    for layer in entry.get("layers", ()):
        number = jm.LayerId.checked((dimension, layer["layer"])).layer
        facts = {key: layer[key] for key in ("depth", "frequency", "keywords") if key in layer}
        jm.LayerSpec(text="", layer=number, **facts)  # checks them
        planned[number] = facts
    return DimensionSource(
        dimension, entry["name"], bool(entry.get("immutable", False)), slot_bytes, entry.get("frequency", 1.0), planned
    )


# The folders of dimensions --------------------------------------------------------------------------------------------


def _folders(source: Path) -> dict[int, Path]:
    """The folder of each dimension: SOURCE/Dnn or SOURCE/content/Dnn, whichever holds texts."""
    found: dict[int, Path] = {}
    for parent in (source / "content", source):
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            dimension = dimension_of(path.name)
            if dimension is not None and path.is_dir() and any(_layer_files(path)):
                found[dimension] = path
    return found


def passed_over(source: Path) -> list[Path]:
    """What looks as if it were meant for a region and is not read: folders and files with other names."""
    folders = [path for parent in (source, source / "content") if parent.is_dir() for path in parent.iterdir()]
    found = [path for path in folders if re.fullmatch(r"[Dd][0-9]+", path.name) and dimension_of(path.name) is None]
    for folder in _folders(source).values():
        layers = {path for _, path in _layer_files(folder)}
        others = (path for path in folder.iterdir() if path not in layers)
        found += [path for path in others if not path.name.startswith(".") and path.name != REGION]
    return sorted(found)


def _layer_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The texts in `folder`, such as 0.md and 1.txt, by ascending layer."""
    found = [(re.fullmatch(r"([0-9]{1,9})\.(md|txt)", path.name), path) for path in folder.iterdir()]
    yield from sorted((int(match[1]), path) for match, path in found if match)


def _read_layers(source: Path, dimension: DimensionSource, compress: bool) -> list[str]:
    """Read the texts of one dimension into it; returns what is wrong with them."""
    folder = _folders(source).get(dimension.id)
    if folder is None:
        name = f"D{dimension.id:02d}"
        return [f"{source / name}: missing or empty; {PLAN} names {name} {dimension.name}"]
    problems: list[str] = []
    files: dict[int, Path] = {}
    for layer, path in _layer_files(folder):
        if layer in files:
            problems.append(f"{path}: layer {layer} is in {files[layer].name} too")
        files[layer] = path
    for layer in sorted(dimension.planned.keys() - files.keys()):
        problems.append(f"{folder / f'{layer}.md'}: missing; {PLAN} names layer {layer} of {dimension.name}")
    for layer, path in files.items():
        try:
            dimension.layers.append(_read_layer(path, layer, dimension, compress))
        except SourceError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: {error}")
    return problems


def _read_layer(path: Path, layer: int, dimension: DimensionSource, compress: bool) -> jm.LayerSpec:
    raw = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    text = _text(path, raw)
    try:
        facts, n_lines = front_matter(text)
    except FrontMatterError as error:
        raise SourceError([f"{path}:{error.line}: {error}"]) from None
    name = facts.pop("name", None)
    if name is not None and not dimension.planned:
        dimension.name = name
    content = b"\n".join(raw.split(b"\n")[n_lines:])
    known = {"depth": min(layer, 255), "frequency": dimension.frequency, **dimension.planned.get(layer, {}), **facts}
    return jm.LayerSpec(content=content, layer=layer, compress=compress, **known)


def _text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceError([f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8"]) from None
