"""SOURCE, the folder that ``build`` reads: for each dimension a folder with a text for each layer, and perhaps a plan.

Everything is read and checked before anything is written, and all problems are told at once, each with its file and
line. What is not read is reported too.
"""

from __future__ import annotations

import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jessy_mem as jm
from jessy_mem.cli.front_matter import FrontMatterError, front_matter
from jessy_mem.cli.paths import REGION, Problems, dimension_of, shortened
from jessy_mem.cli.plan import DimensionSource, decoded, read_plan

__all__ = ["Source", "read_source", "read_text", "unused_keys"]

PLAN = "dimensions.json"
N_REMARKS_SHOWN = 10


@dataclass
class Source:
    """All dimensions of a source, by ascending id, and what is to be said of it, a line each."""

    dimensions: list[DimensionSource]
    remarks: list[str]


@dataclass
class _Reading:
    """What turns up while a source is read."""

    problems: list[str] = field(default_factory=list)
    unused: list[list[str]] = field(default_factory=list)  # keys of front matter, of each text
    named_by: dict[int, Path] = field(default_factory=dict)  # the text whose front matter named the dimension


def read_source(source: Path, compress: bool = False) -> Source:
    """Everything that `source` holds. Problems lists everything that is wrong with it."""
    plan = read_plan(source / PLAN)
    dimensions = plan.dimensions
    reading = _Reading()
    folders = _folders(source, reading)
    for number, folder in folders.items():
        if number not in dimensions:
            layout = jm.default_layout()
            name = _name_of(folder) or f"D{number:02d}"
            immutable, slot_bytes = layout.is_immutable(number), layout.slot_bytes(number)
            dimensions[number] = DimensionSource(number, name, immutable, slot_bytes)
    for dimension in dimensions.values():
        _read_layers(source, folders.get(dimension.id), dimension, compress, reading)
    if reading.problems:
        raise Problems(reading.problems)
    remarks = [
        f"{path} is passed over: layers are Dnn/0.md, Dnn/1.txt, and so on" for path in _passed_over(source, folders)
    ]
    remarks = shortened(remarks, N_REMARKS_SHOWN, "files and folders that are passed over")
    if plan.unused:
        remarks.append(f"{source / PLAN}: keys that are not used: {', '.join(sorted(plan.unused))}")
    remarks += unused_keys(reading.unused)
    return Source([dimensions[number] for number in sorted(dimensions)], remarks)


# The folders of dimensions --------------------------------------------------------------------------------------------


def _folders(source: Path, reading: _Reading) -> dict[int, Path]:
    """The folder of each dimension: Dnn or Dnn-Name, in SOURCE or SOURCE/content, whichever holds texts."""
    found: dict[int, Path] = {}
    for path in _candidates(source):
        number = dimension_of(path.name.partition("-")[0])
        if number is not None and path.is_dir() and any(_layer_files(path)):
            if number in found:
                reading.problems.append(f"{path}: the texts of D{number:02d} are in {found[number]} too")
            elif _is_named_well(path, number, reading):
                found[number] = path
    return found


def _candidates(source: Path) -> list[Path]:
    """What may be the folder of a dimension, going by the letter and the digit of its name."""
    parents = [parent for parent in (source / "content", source) if parent.is_dir()]
    return [path for parent in parents for path in sorted(parent.iterdir()) if re.match(r"[Dd][0-9]", path.name)]


def _name_of(folder: Path) -> str:
    """The name of the dimension in the name of its folder, such as D15-policies; empty if there is none."""
    return unicodedata.normalize("NFC", folder.name.partition("-")[2].strip())


def _is_named_well(folder: Path, number: int, reading: _Reading) -> bool:
    try:
        jm.RegionBuilder(number, _name_of(folder) or "D")
    except ValueError as error:
        reading.problems.append(f"{folder}: {error}")
        return False
    return True


def _passed_over(source: Path, folders: dict[int, Path]) -> list[Path]:
    """What looks as if it were meant for a region and is not read: folders and files with other names."""
    read = set(folders.values())
    found: list[Path] = []
    for path in _candidates(source):
        if path not in read and (path.is_dir() or dimension_of(path.name) is not None):
            texts = [] if dimension_of(path.name.partition("-")[0]) is None else _others(path)
            found += texts or [path]
    for folder in read:
        found += _others(folder)
    return sorted(found)


def _others(folder: Path) -> list[Path]:
    """What is in the folder of a dimension besides the texts of its layers, and a region that was built there."""
    if not folder.is_dir():
        return []
    layers = {path for _, path in _layer_files(folder)}
    return [path for path in folder.iterdir() if path not in layers and path.name[0] != "." and path.name != REGION]


def _layer_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The texts in `folder`, such as 0.md and 1.txt, by ascending layer."""
    found = [(re.fullmatch(r"([0-9]{1,9})\.(md|txt)", path.name), path) for path in folder.iterdir()]
    yield from sorted((int(match[1]), path) for match, path in found if match)


# The texts ------------------------------------------------------------------------------------------------------------


def _read_layers(
    source: Path, folder: Path | None, dimension: DimensionSource, compress: bool, reading: _Reading
) -> None:
    """Read the texts of one dimension into it."""
    if folder is None:
        name = f"D{dimension.id:02d}"
        reading.problems.append(f"{source / name}: missing or empty; {PLAN} names {name} {dimension.name}")
        return
    files: dict[int, Path] = {}
    for layer, path in _layer_files(folder):
        if layer in files:
            reading.problems.append(f"{path}: layer {layer} is in {files[layer].name} too")
        files[layer] = path
    for layer in sorted(dimension.planned.keys() - files.keys()):
        missing = folder / f"{layer}.md"
        reading.problems.append(f"{missing}: missing; {PLAN} names layer {layer} of {dimension.name}")
    for layer, path in files.items():
        try:
            dimension.layers.append(_read_layer(path, layer, dimension, compress, reading))
        except Problems as error:
            reading.problems += error.problems
        except OSError as error:
            reading.problems.append(f"{path}: {error.strerror}")
        except ValueError as error:
            reading.problems.append(f"{path}: {error}")


def _read_layer(path: Path, layer: int, dimension: DimensionSource, compress: bool, reading: _Reading) -> jm.LayerSpec:
    facts, content, unused = read_text(path, path.read_bytes())
    reading.unused.append(unused)
    name = facts.pop("name", None)
    if name is not None and not dimension.in_plan:
        first = reading.named_by.setdefault(dimension.id, path)
        if first != path and name != dimension.name:
            raise ValueError(f"name: {name!r}, but {first.name} names the dimension {dimension.name!r}")
        dimension.name = name
    known = {"depth": min(layer, 255), "frequency": dimension.frequency, **dimension.planned.get(layer, {}), **facts}
    return jm.LayerSpec(content=content, layer=layer, compress=compress, **known)


def read_text(path: Path, raw: bytes) -> tuple[dict[str, Any], bytes, list[str]]:
    """What the front matter of a text says, what follows it, and its keys that are not used. Problems."""
    raw = raw.removeprefix(BOM_UTF8)
    try:
        facts, n_lines, unused = front_matter(decoded(path, raw))
    except FrontMatterError as error:
        raise Problems([f"{path}:{error.line}: {error}"]) from None
    return facts, b"\n".join(raw.split(b"\n")[n_lines:]), unused


def unused_keys(unused: Iterable[Iterable[str]]) -> list[str]:
    """The remark on the keys of each text that are not used; none if all are."""
    counted = Counter(key for keys in unused for key in keys)
    told = ", ".join(f"{key} ({n} text{'s' * (n > 1)})" for key, n in sorted(counted.items()))
    return [f"front matter keys that are not used: {told}"] if told else []
