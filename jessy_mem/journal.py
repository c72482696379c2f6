"""The text of the register: what stands in ``BASE/.jessy_mem.lock``.

    %20d %20d              the next free id of 15..999 and from 1000: 44 bytes, all that a process of before reads
    CRC ! TOKEN            which journal this is: another token after it was written anew
    CRC + ID OWNER NONCE NAME   an id was given, with a name or none; OWNER is a process, or "-": nobody's alone
    CRC = ID NAME          the name that a region file has
    CRC - ID               forgotten: the name is free, the id stays given
    CRC ^ FIRST NEXT       the ids FIRST..NEXT - 1 are given

Lines only ever come at the end. CRC is that of the rest of the line: a line that was torn, by a kill or a power cut, is
noticed and passed over, and the next one begins on a line of its own. A name is the rest of its line, so that it may
have spaces; percent signs and ends of lines are written as in a URL.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from jessy_mem.layout import MAX_DIMENSION

__all__ = ["FIRST_LINE_BYTES", "HEAD_BYTES", "Event", "events", "first_line", "free_ids", "line", "token_of"]

FIRST_LINE_BYTES = 44
_TOKEN_CHARACTERS = 16
HEAD_BYTES = 8 + 3 + _TOKEN_CHARACTERS + 1

_FIELDS = {"!": 1, "+": 4, "=": 2, "-": 1, "^": 2}


class Event(NamedTuple):
    """One line. `last` is the end of a range with ``^``; owner, nonce and name are empty where there are none."""

    kind: str
    dimension: int
    last: int = 0
    owner: str = ""
    nonce: str = ""
    name: str = ""

    def line(self) -> bytes:
        """The line that says it."""
        kind, dimension, last, owner, nonce, name = self
        if kind == "+":
            return line(kind, dimension, owner, nonce, name)
        if kind == "=":
            return line(kind, dimension, name)
        return line(kind, dimension, last) if kind == "^" else line(kind, dimension)


def first_line(free: tuple[int, int]) -> bytes:
    """The first line, in its 44 bytes."""
    return b"%20d %20d  \n" % free


def free_ids(data: bytes) -> tuple[int, int] | None:
    """The two numbers of the first line; None if it has not got them."""
    words = data[:FIRST_LINE_BYTES].split()
    try:
        first, second = map(int, words)
    except ValueError:
        return None
    return first, second


def line(kind: str, *fields: object) -> bytes:
    """A line of the journal; the last field may be any text."""
    *others, last = map(str, fields)
    if "%" in last or "\n" in last:
        last = last.replace("%", "%25").replace("\n", "%0A")
    rest = " ".join([kind, *others, last]).encode()
    return b"%08x %b\n" % (zlib.crc32(rest), rest)


def token_of(data: bytes) -> str | None:
    """The token of the journal that begins after the first line; None if there is none."""
    head = data[FIRST_LINE_BYTES : FIRST_LINE_BYTES + HEAD_BYTES]
    words = _checked(head[:-1]) if head[-1:] == b"\n" else None
    return words[1] if words is not None and words[0] == "!" else None


def events(data: bytes) -> Iterator[Event]:
    """The events of whole lines, in their order; what is none is passed over."""
    for text in data.split(b"\n"):
        words = _checked(text)
        if words is None or words[0] == "!":
            continue
        kind, number = words[0], words[1]
        dimension = _number(number)
        if not dimension:
            continue
        if kind == "+":
            yield Event(kind, dimension, 0, words[2], words[3], _unescaped(words[4]))
        elif kind == "=":
            yield Event(kind, dimension, name=_unescaped(words[2]))
        elif kind == "-":
            yield Event(kind, dimension)
        elif _number(words[2]):
            yield Event(kind, dimension, _number(words[2]))


def _checked(text: bytes) -> list[str] | None:
    """The fields of a line whose checksum is right."""
    rest = text[9:]
    if text[:9] != b"%08x " % zlib.crc32(rest):
        return None
    try:
        kind, _, fields = rest.decode().partition(" ")
    except UnicodeDecodeError:
        return None
    n_fields = _FIELDS.get(kind, 0)
    words = fields.split(" ", n_fields - 1)
    return [kind, *words] if len(words) == n_fields else None


def _number(text: str) -> int:
    """An id, or the one behind the last; 0 if it is none."""
    number = int(text) if len(text) <= 10 and text.isascii() and text.isdecimal() else 0
    return number if number <= MAX_DIMENSION + 1 else 0


def _unescaped(text: str) -> str:
    return text.replace("%0A", "\n").replace("%25", "%") if "%" in text else text
