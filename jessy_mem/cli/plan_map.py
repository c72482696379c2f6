"""The memory map of the plan as a bar, to scale."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

import jessy_mem as jm
from jessy_mem.units import format_bytes

__all__ = ["plan_map"]

MIB = 1 << 20
UNICODE, ASCII = "█▓░▒▚", "#=.:+"  # two kinds of slot in turn, headroom, reserve, user
COLORS = ("cyan", "blue", "bright_black", "green", "magenta")
MIN_LABELLED = 72  # characters of a bar whose slots get their numbers
SLOT, OTHER_SLOT, HEADROOM, RESERVE, USER = range(5)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the plan: what it is called, its bytes, and which of the characters draws it."""

    label: str
    n_bytes: int
    kind: int


def plan_map(layout: jm.MemoryLayout, width: int, ascii_only: bool = False) -> Group:
    """Core slots, headroom, reserve and user segment, `width` characters wide, with a legend."""
    pieces = _pieces(layout)
    characters = ASCII if ascii_only else UNICODE
    bar, labels = Text(), Text()
    begin = 0
    for piece, end in zip(pieces, _ends(pieces, width), strict=True):
        bar.append(characters[piece.kind] * (end - begin), style=COLORS[piece.kind])
        gap = max(0, begin - len(labels))
        if piece.kind in (RESERVE, USER) or width >= MIN_LABELLED:
            labels.append(" " * gap)
            labels.append(piece.label, style=COLORS[piece.kind])
        begin = end
    title = Text(f"Memory map of the plan: {format_bytes(layout.total_bytes)}", style="bold")
    return Group(title, bar, labels, _legend(pieces, characters))


def _pieces(layout: jm.MemoryLayout) -> list[Piece]:
    slots = [
        Piece(str(dimension), planned.size_bytes, (SLOT, OTHER_SLOT)[i % 2])
        for i, (dimension, planned) in enumerate(layout.dimensions.items())
    ]
    core, reserve, user = layout.segments
    headroom_bytes = core.size_bytes - sum(slot.n_bytes for slot in slots)
    return [
        *slots,
        Piece("", headroom_bytes, HEADROOM),
        Piece("reserve", reserve.size_bytes, RESERVE),
        Piece("user", user.size_bytes, USER),
    ]


def _ends(pieces: list[Piece], width: int) -> list[int]:
    """The column where each piece ends; rounding one never moves another."""
    total_bytes = sum(piece.n_bytes for piece in pieces)
    ends, done_bytes = [], 0
    for piece in pieces:
        done_bytes += piece.n_bytes
        ends.append(round(width * done_bytes / total_bytes))
    return ends


def _legend(pieces: list[Piece], characters: str) -> Text:
    n_slots = len(pieces) - 3
    slots_bytes = sum(piece.n_bytes for piece in pieces[:n_slots])
    first, last = pieces[0].label, pieces[n_slots - 1].label
    entries = [
        (SLOT, f"core slots D{int(first):02d}..D{int(last):02d}", slots_bytes),
        (HEADROOM, "core headroom", pieces[n_slots].n_bytes),
        (RESERVE, "reserve: learned dimensions, pool", pieces[n_slots + 1].n_bytes),
        (USER, "user: D1000 and up", pieces[n_slots + 2].n_bytes),
    ]
    legend = Text()
    for kind, what, n_bytes in entries:
        key = characters[SLOT] + characters[OTHER_SLOT] if kind == SLOT else characters[kind] * 2
        legend.append(key, style=COLORS[kind])
        legend.append(f" {format_bytes(n_bytes):>7}  {what}\n")
    legend.rstrip()
    return legend
