"""Front matter: the block between two lines of ``---`` at the top of a layer's text."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["FrontMatterError", "front_matter"]

FENCE = "---"


class FrontMatterError(ValueError):
    """What is wrong with the block, and in which line of the text."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """What the block says, by key, and how many lines it takes: ({}, 0) if there is none. FrontMatterError."""
    lines = text.split("\n")
    if lines[0].rstrip() != FENCE:
        return {}, 0
    n_lines = next((number for number, line in enumerate(lines[1:], 2) if line.rstrip() == FENCE), 0)
    if not n_lines:
        raise FrontMatterError(1, f"the front matter is not closed by a line of {FENCE}")
    facts: dict[str, Any] = {}
    for number, line in enumerate(lines[1 : n_lines - 1], 2):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, colon, value = (part.strip() for part in stripped.partition(":"))
        if not colon:
            raise FrontMatterError(number, f"{stripped!r} is not 'key: value'")
        if key not in PARSERS:
            raise FrontMatterError(number, f"there is no key {key!r}; there are {', '.join(PARSERS)}")
        try:
            facts[key] = PARSERS[key](value)
        except ValueError as error:
            raise FrontMatterError(number, f"{key}: {error}") from None
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
    if not re.fullmatch(r"[0-9]{1,3}", value) or int(value) > 255:
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
