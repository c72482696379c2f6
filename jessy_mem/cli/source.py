"""SOURCE, the folder that ``build`` reads: dimensions.json, and for each dimension a folder with a text for each layer.

Everything is read and checked before anything is written, and all problems are told at once, each with its file and
line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm

__all__ = ["DimensionSource", "SourceError", "read_source"]

PLAN = "dimensions.json"
N_PROBLEMS_SHOWN = 20
FENCE = "---"
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
            if re.fullmatch(r"D\d{2,10}", path.name) and path.is_dir() and any(_layer_files(path)):
                found[int(path.name[1:])] = path
    return {dimension: path for dimension, path in found.items() if path.name == f"D{dimension:02d}"}


def _layer_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The texts in `folder`, such as 0.md and 1.txt, by ascending layer."""
    found = [(re.fullmatch(r"(\d{1,5})\.(md|txt)", path.name), path) for path in folder.iterdir()]
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
    facts, n_lines = _front_matter(path, text)
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


# Front matter ---------------------------------------------------------------------------------------------------------


def _front_matter(path: Path, text: str) -> tuple[dict[str, Any], int]:
    """What the block between two lines of --- at the top says, and how many lines it takes."""
    lines = text.split("\n")
    if lines[0].rstrip() != FENCE:
        return {}, 0
    n_lines = next((number for number, line in enumerate(lines[1:], 2) if line.rstrip() == FENCE), 0)
    if not n_lines:
        raise SourceError([f"{path}:1: the front matter is not closed by a line of {FENCE}"])
    facts: dict[str, Any] = {}
    for number, line in enumerate(lines[1 : n_lines - 1], 2):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, colon, value = (part.strip() for part in stripped.partition(":"))
        if not colon:
            raise SourceError([f"{path}:{number}: {stripped!r} is not 'key: value'"])
        if key not in PARSERS:
            raise SourceError([f"{path}:{number}: there is no key {key!r}; there are {', '.join(PARSERS)}"])
        try:
            facts[key] = PARSERS[key](value)
        except ValueError as error:
            raise SourceError([f"{path}:{number}: {key}: {error}"]) from None
    return facts, n_lines


def _frequency(value: str) -> float:
    try:
        frequency = float(value.lower().removesuffix("hz"))
    except ValueError:
        frequency = math.nan
    if not 0 < frequency < math.inf:
        raise ValueError(f"{value!r} is not a number of Hz above 0")
    return frequency


def _depth(value: str) -> int:
    if not re.fullmatch(r"\d{1,3}", value) or int(value) > 255:
        raise ValueError(f"{value!r} is not in 0..255")
    return int(value)


def _keywords(value: str) -> tuple[str, ...]:
    if value.startswith("[") != value.endswith("]"):
        raise ValueError(f"{value!r} has a bracket on one side only")
    words = (word.strip().strip("'\"").strip() for word in value.removeprefix("[").removesuffix("]").split(","))
    return tuple(word for word in words if word)


def _name(value: str) -> str:
    name = value.strip("'\"")
    if not 1 <= len(name.encode()) <= 64:
        raise ValueError(f"{value!r} does not have 1 to 64 bytes")
    return name


PARSERS = {"frequency": _frequency, "keywords": _keywords, "depth": _depth, "name": _name}
