"""``dimensions.json`` of a source: what it says of dimensions and layers; each error with the line of its object."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import jessy_mem as jm
from jessy_mem.cli.paths import Problems

__all__ = ["DimensionSource", "Plan", "decoded", "read_plan"]

TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
DIMENSION_KEYS = {"id", "name", "size_mb", "frequency", "frequency_band", "immutable", "layers"}
LAYER_KEYS = {"layer", "depth", "frequency", "keywords"}
MAX_DEPTH = 100
N_DIGITS = 30  # a longer number is none that a plan needs; Python refuses to read thousands


@dataclass
class DimensionSource:
    """One dimension as its source describes it."""

    id: int
    name: str
    immutable: bool = False
    slot_bytes: int = 0
    frequency: float = 1.0
    in_plan: bool = False
    planned: dict[int, dict[str, Any]] = field(default_factory=dict)  # layer -> depth, frequency, keywords
    layers: list[jm.LayerSpec] = field(default_factory=list)


@dataclass
class Plan:
    """The dimensions of a plan by id, and the keys of dimensions and layers that are not used."""

    dimensions: dict[int, DimensionSource] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)


class Entry(dict[str, Any]):
    """An object of the file, and the line in which it begins."""

    line: int


def read_plan(path: Path) -> Plan:
    """The plan in a file; empty if there is no such file. Problems lists everything that is wrong with it."""
    plan = Plan()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return plan
    problems: list[str] = []
    for i, entry in enumerate(_parsed(path, decoded(path, raw), problems)):
        try:
            dimension = _dimension(entry)
            if dimension.id in plan.dimensions:
                raise ValueError(f"id: {dimension.id} is there twice")
            plan.dimensions[dimension.id] = dimension
            plan.unused |= entry.keys() - DIMENSION_KEYS
            plan.unused |= {key for layer in entry.get("layers", ()) for key in layer} - LAYER_KEYS
        except (TypeError, ValueError) as error:
            name = entry.get("name") if isinstance(entry, Entry) else None
            line = f":{entry.line}" if isinstance(entry, Entry) else ""
            problems.append(f"{path}{line}: dimension {name if isinstance(name, str) else i}: {error}")
    if problems:
        raise Problems(problems)
    return plan


def decoded(path: Path, raw: bytes) -> str:
    """The text of a file, without a byte order mark; Problems names the line that is not UTF-8."""
    try:
        return raw.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Problems([f"{path}:{line}: byte {error.object[error.start]:#04x} is not UTF-8"]) from None


def _parsed(path: Path, text: str, problems: list[str]) -> list[Any]:
    """The list "dimensions" of the file, its objects as Entry; keys that are there twice are added to `problems`."""
    lines = _lines_of_objects(text)

    def entry(pairs: list[tuple[str, Any]]) -> Entry:
        made = Entry(pairs)
        made.line = next(lines, 1)
        keys = [key for key, _ in pairs]
        problems.extend(f"{path}:{made.line}: key {shown(key)} is there twice" for key in made if keys.count(key) > 1)
        return made

    try:
        plan = json.loads(text, object_pairs_hook=entry, parse_int=_parsed_int)
    except json.JSONDecodeError as error:
        raise Problems([f"{path}:{error.lineno}: {error.msg}"]) from None
    except RecursionError:
        raise Problems([f"{path}:{_line_of_depth(text)}: it is nested too deeply"]) from None
    if not isinstance(plan, Entry) or not isinstance(plan.get("dimensions"), list):
        raise Problems([*problems, f'{path}:1: expected an object with a list "dimensions"'])
    found: list[Any] = plan["dimensions"]
    return found


def _lines_of_objects(text: str) -> Iterator[int]:
    """The line in which each object begins, in the order in which they end."""
    line, at = 1, 0
    begun: list[int] = []
    for token in TOKENS.finditer(text):  # pragma: no branch -- nobody asks behind the last object
        line += text.count("\n", at, token.start())
        at = token.start()
        if token[0] == "{":
            begun.append(line)
        elif token[0] == "}" and begun:
            yield begun.pop()


def _line_of_depth(text: str) -> int:
    """The line where nesting first gets deeper than a plan ever is."""
    depth = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[][{}]', text, re.DOTALL):  # pragma: no branch -- one is that deep
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            break
    return text.count("\n", 0, token.start()) + 1


def _parsed_int(digits: str) -> int | float:
    if len(digits) <= N_DIGITS:
        return int(digits)
    return -inf if digits.startswith("-") else inf


# One entry: TypeError or ValueError say what is wrong with it --------------------------------------------------------


def _dimension(entry: Any) -> DimensionSource:
    entry = _object(entry)
    dimension = jm.LayerId.checked((_required(entry, "id", _whole), 0)).dimension
    name = _required(entry, "name", _text)
    jm.RegionBuilder(dimension, name)  # checks its length
    slot_bytes = jm.default_layout().slot_bytes(dimension)
    if "size_mb" in entry:
        slot_bytes = int(min(slot_bytes, _field(entry, "size_mb", _positive) * (1 << 20)))  # which may be infinite
    frequency = _field(entry, "frequency", _positive, 1.0)
    jm.LayerSpec(text="", frequency=frequency)  # whether it can be stored
    planned: dict[int, dict[str, Any]] = {}
    for layer in _field(entry, "layers", _list, ()):
        number, facts = _layer(dimension, layer)
        if number in planned:
            raise ValueError(f"layer {number} is there twice")
        planned[number] = facts
    return DimensionSource(
        id=dimension,
        name=name,
        immutable=_field(entry, "immutable", _flag, False),
        slot_bytes=slot_bytes,
        frequency=frequency,
        in_plan=True,
        planned=planned,
    )


def _layer(dimension: int, entry: Any) -> tuple[int, dict[str, Any]]:
    entry = _object(entry)
    number = jm.LayerId.checked((dimension, _required(entry, "layer", _whole))).layer
    checks: dict[str, Callable[[Any], Any]] = {"depth": _whole, "frequency": _positive, "keywords": _words}
    try:
        facts = {key: _field(entry, key, check) for key, check in checks.items() if key in entry}
        jm.LayerSpec(text="", layer=number, **facts)  # checks their ranges
    except (TypeError, ValueError) as error:
        raise ValueError(f"layer {number}: {error}") from None
    return number, facts


def _required(entry: Entry, key: str, check: Callable[[Any], Any]) -> Any:
    if key not in entry:
        raise ValueError(f"{key!r} is missing")
    return _field(entry, key, check)


def _field(entry: Entry, key: str, check: Callable[[Any], Any], default: Any = None) -> Any:
    if key not in entry:
        return default
    try:
        return check(entry[key])
    except TypeError as error:
        raise TypeError(f"{key}: {shown(entry[key])} is {error}") from None


def _object(value: Any) -> Entry:
    if not isinstance(value, Entry):
        raise TypeError(f"{shown(value)} is not an object")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not a whole number")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isfinite(value) and value > 0):
        raise TypeError("not a number above 0")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _words(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list of texts")
    return [_text(word) for word in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TypeError("not a text: it holds half of a character") from None
    return value
