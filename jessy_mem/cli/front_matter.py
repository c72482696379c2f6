"""Front matter: the block between two lines of ``---`` at the top of a layer's text.

It is a small strict part of YAML: keys with a text, a number or a list of texts, in either style, quoted or not, and
comments. Everything is a text until the key says what it is, so no word turns into a number, a date or a truth value.
Values of keys that are not used here may be any YAML: they are passed over by their indentation. So no library is
needed, and a block means the same on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jessy_mem as jm

__all__ = ["FrontMatter", "FrontMatterError", "front_matter"]

FENCE = "---"
ENDS = (FENCE, "...")
KEY = re.compile(r"""(?:"([^"\\]+)"|'([^']+)'|([^\s#:\[\]{},"'&*!|>%@`?-][^#]{0,99}?))[ \t]*:(?:[ \t]+(.*)|$)""")
COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"' r"|'((?:[^']|'')*)'", re.DOTALL)
PLAIN = re.compile(r"[^,\[\]{}\n]+")
BETWEEN = re.compile(r"(?:\s|(?:^|(?<=\s))#[^\n]*)*")
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
NUMBER = re.compile(r"\+?([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,5})?")
NOT_PLAIN = tuple("[]{},&*!|>%@`\"'#")


class FrontMatterError(ValueError):
    """What is wrong with the block, and in which line of the text."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


class FrontMatter(NamedTuple):
    """What the block says, how many lines of the text it takes, and its keys that are not used."""

    facts: dict[str, Any]
    n_lines: int
    unused: list[str]


@dataclass
class Item:
    """A key, its line, what stands beside it, and the lines that belong to it below."""

    key: str
    line: int
    beside: str
    below: list[str] = field(default_factory=list)


def front_matter(text: str) -> FrontMatter:
    """The front matter of `text`; of no lines if it has none, but begins with a rule. FrontMatterError.

    It has one if the block is closed and consists of keys; or if it has a key that is used, and then everything that
    is wrong with it is an error.
    """
    lines = text.split("\n")
    none = FrontMatter({}, 0, [])
    if lines[0].rstrip() != FENCE:
        return none
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() in ENDS), 0)
    items, stranger = _items(lines[1 : end or None])
    if not end:
        if items and items[0].key in PARSERS and (not stranger or items[0].line < stranger):
            raise FrontMatterError(1, f"the front matter is not closed by a line of {FENCE}")
        return none
    if stranger or not items:
        if any(item.key in PARSERS for item in items):
            raise FrontMatterError(stranger, f"{lines[stranger - 1].strip()!r} is not 'key: value'")
        return none
    facts: dict[str, Any] = {}
    seen: dict[str, None] = {}
    for item in items:
        if item.key in seen:
            raise FrontMatterError(item.line, f"key {item.key!r} is there twice")
        seen[item.key] = None
        if item.key in PARSERS:
            name, parse = PARSERS[item.key]
            try:
                value = parse(item)
                facts[name] = tuple(dict.fromkeys((*facts[name], *value))) if name in facts else value
            except ValueError as error:
                raise FrontMatterError(item.line, f"{item.key}: {error}") from None
    return FrontMatter(facts, end + 1, [key for key in seen if key not in PARSERS])


def _items(lines: list[str]) -> tuple[list[Item], int]:
    """The keys of a block, and the first line that belongs to none; 0 if all do."""
    items: list[Item] = []
    stranger = 0
    for number, line in enumerate(lines, 2):
        stripped = line.strip()
        match = KEY.fullmatch(line.rstrip())
        if match is not None:
            items.append(Item(match[1] or match[2] or match[3], number, match[4] or ""))
        elif items and (line[:1] in (" ", "\t", "") or re.match(r"-(\s|$)|[\]}]", line)):
            items[-1].below.append(line.rstrip("\r"))
        elif stripped and not stripped.startswith("#"):
            stranger = stranger or number
    return items, stranger


# Values ---------------------------------------------------------------------------------------------------------------


def _frequency(item: Item) -> float:
    value = _one(item)
    match = NUMBER.fullmatch(re.sub(r"\s*hz$", "", value, flags=re.IGNORECASE))
    frequency = float(match[0]) if match else math.nan
    if not 0 < frequency < math.inf:
        raise ValueError(f"{value!r} is not a number of Hz above 0")
    jm.LayerSpec(text="", frequency=frequency)  # whether it can be stored
    return frequency


def _depth(item: Item) -> int:
    value = _one(item)
    if not re.fullmatch(r"[0-9]{1,3}", value) or int(value) > 255:
        raise ValueError(f"{value!r} is not in 0..255")
    return int(value)


def _name(item: Item) -> str:
    name = _one(item)
    jm.RegionBuilder(1, name)  # whether it can be stored
    return name


def _keywords(item: Item) -> tuple[str, ...]:
    """A list in either style, or words between commas."""
    below = [line for line in item.below if COMMENT.sub("", line).strip()]
    beside = COMMENT.sub("", item.beside).strip() if not QUOTED.match(item.beside) else item.beside
    if below and not beside:
        words = [_list_item(line) for line in below]
    elif beside.startswith("["):
        words = _words("\n".join([item.beside[1:], *item.below]), closing="]")
    elif below:
        raise ValueError("a list stands beside the key, or below it")
    else:
        words = _words(item.beside, closing="")
    for word in words:
        word.encode()
    return tuple(dict.fromkeys(words))


def _list_item(line: str) -> str:
    dash, value = line.strip()[:1], line.strip()[1:]
    if dash != "-" or value[:1] not in (" ", "\t"):
        raise ValueError(f"{line.strip()!r} is not '- keyword'")
    return _scalar(value)


def _one(item: Item) -> str:
    if any(COMMENT.sub("", line).strip() for line in item.below):
        raise ValueError("one value is expected, beside the key")
    return _scalar(item.beside)


def _scalar(value: str) -> str:
    """A text that is quoted, or plain up to a comment."""
    value = value.strip()
    match = QUOTED.match(value)
    if match is not None:
        if value[match.end() :].strip() and not re.match(r"\s+#", value[match.end() :]):
            raise ValueError(f"{value!r} goes on behind its closing quote")
        return _unquoted(match)
    return _plain(COMMENT.sub("", value).strip())


def _words(value: str, closing: str) -> list[str]:
    """The texts in `value`, between commas, up to `closing` or the end."""
    words: list[str] = []
    at = _skipped(value, 0)
    while at < len(value) and value[at] != closing:
        match = QUOTED.match(value, at)
        if match is not None:
            words.append(_unquoted(match))
            at = match.end()
        else:
            match = PLAIN.match(value, at)
            if match is None:
                raise ValueError(f"{value[at:].strip()!r}: a bracket or comma that is out of place; put it into quotes")
            words.append(_plain(COMMENT.sub("", match[0]).strip()))
            at = match.end()
            if (comment := COMMENT.search(match[0])) is not None:
                at = match.start() + comment.start()
        at = _skipped(value, at)
        if at < len(value) and value[at] != closing:
            if value[at] != ",":
                raise ValueError(f"{value[at:].strip()!r}: a comma is expected before it, or quotes around it")
            at = _skipped(value, at + 1)
    rest = value[at:]
    if closing and (not rest or value[_skipped(value, at + 1) :]):
        raise ValueError(f"{'[' + value!r} has a bracket on one side only" if not rest else f"{rest!r} is not its end")
    return words


def _skipped(value: str, at: int) -> int:
    """Where the spaces and comments at `at` end."""
    match = BETWEEN.match(value, at)
    return match.end() if match else at


def _plain(value: str) -> str:
    if not value:
        raise ValueError("there is no value; a text with a # at its beginning needs quotes")
    if value.startswith(NOT_PLAIN) or re.search(r":(\s|$)", value) or re.match(r"[-?](\s|$)", value):
        raise ValueError(f"{value!r} is no plain text; put it into quotes")
    return value


def _unquoted(match: re.Match[str]) -> str:
    double, single = (part and re.sub(r"\s*\n\s*", " ", part) for part in match.groups())
    return ESCAPE.sub(_unescaped, double) if double is not None else single.replace("''", "'")


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        return chr(int(code, 16))
    if match[4] not in ESCAPES and match[4] not in '"\\/ ':
        raise ValueError(f"there is no escape {match[0]!r}")
    return ESCAPES.get(match[4], match[4])


PARSERS: dict[str, tuple[str, Callable[[Item], Any]]] = {
    "frequency": ("frequency", _frequency),
    "keywords": ("keywords", _keywords),
    "tags": ("keywords", _keywords),
    "depth": ("depth", _depth),
    "name": ("name", _name),
}
