"""What a notebook shows of an object: small pieces of HTML, made when they are asked for.

Everything is escaped, nothing is a script, and colours are those of the page around, so that it reads in light and
dark. What is read is what is shown, and what cannot be shown says why: no cell fails because of how its result looks.
"""

from __future__ import annotations

import codecs
import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jessy_mem.units import format_bytes

if TYPE_CHECKING:
    from jessy_mem._core.records import LoadedContext, MemoryStats
    from jessy_mem._core.region import MmapRegion
    from jessy_mem._core.view import LayerView

__all__ = [
    "COLOURS",
    "N_SHOWN",
    "Part",
    "bar",
    "context",
    "facts",
    "listing",
    "never_fails",
    "region",
    "stats",
    "text",
    "view",
]

T = TypeVar("T")
Part = tuple[float, str, str, float]  # how much of a bar it takes, what it is, a key of COLOURS, how full it is (0..1)

N_SHOWN = 20  # rows of a list
N_SHOWN_BYTES = 400  # of a content
N_SHOWN_CHARACTERS = 200  # of any other text
LEAST_PX = 3  # of a part of a bar that is there at all

_LINE = "1px solid color-mix(in srgb, currentColor 35%, transparent)"
COLOURS = {  # of what a dimension is; they can be told apart on white and on black
    "file": "#3b82c4",
    "pool": "#3f9a5f",
    "simulated": "#b58a2a",
    "evicted": "#8d8d8d",
    "damaged": "#c4453b",
    "none": "transparent",
}


def text(value: object, most: int = N_SHOWN_CHARACTERS) -> str:
    """`value` as text of a page: escaped, controls made visible, and no longer than `most` characters."""
    shown = str(value)
    more = len(shown) - most
    shown = shown[:most] if more > 0 else shown
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in shown)
    return html.escape(shown) + (f" … {more:,} more" if more > 0 else "")


def never_fails(make: Callable[[T], str]) -> Callable[[T], str]:
    """A method `_repr_html_` that shows an object's text, and the error, where `make` fails."""

    def _repr_html_(self: T) -> str:
        try:
            return make(self)
        except Exception as error:
            return failed(self, error)

    return _repr_html_


def failed(of: object, error: Exception) -> str:
    """What is shown of an object that cannot be shown."""
    try:
        what = repr(of)
    except Exception:
        what = f"<{type(of).__name__}>"
    return f"<pre>{text(what)}\n{text(f'{type(error).__name__}: {error}')}</pre>"


def facts(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of labels and what belongs to each; without a heading if `title` is empty."""
    cells = [
        f'<tr><th style="text-align:left;vertical-align:top">{text(label)}</th>'
        f'<td style="text-align:left">{text(value)}</td></tr>'
        for label, value in rows
    ]
    heading = f"<div><b>{text(title)}</b></div>" if title else ""
    return f"{heading}<table>{''.join(cells)}</table>"


def listing(headings: Sequence[str], rows: Iterable[Sequence[object]], n_all: int, what: str = "") -> str:
    """A table of some rows, and how many more there are of `n_all`; the first `N_SHOWN` of `rows` are taken."""
    head = "".join(f'<th style="text-align:left">{text(heading)}</th>' for heading in headings)
    lines = [
        "<tr>" + "".join(f'<td style="text-align:left">{text(cell)}</td>' for cell in row) + "</tr>"
        for row, _ in zip(rows, range(N_SHOWN), strict=False)
    ]
    more = n_all - len(lines)
    told = f"<div>… and {more:,} more{text(f' {what}') if what else ''}</div>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{told}"


def bar(label: str, parts: Iterable[Part]) -> str:
    """A bar to scale, of parts that tell what they are when the pointer rests on them; none is too small to be seen."""
    drawn = [
        f'<span title="{text(what)}" style="flex:{max(share, 0):.9g} 1 {0 if kind == "none" else LEAST_PX}px;'
        f"background:linear-gradient(to right,{COLOURS[kind]} max({LEAST_PX}px,{min(filled, 1):.3%}),transparent 0);"
        f'border-right:{_LINE}"></span>'
        for share, what, kind, filled in parts
    ]
    return (
        f'<div style="margin:.3em 0"><div>{text(label)}</div><div role="img" aria-label="{text(label)}" '
        f'style="display:flex;overflow:hidden;height:1.4em;border:{_LINE};max-width:60em">{"".join(drawn)}</div></div>'
    )


# What a class shows, where it is compiled or stands below this module ------------------------------------------------


@never_fails
def stats(of: MemoryStats) -> str:
    """Statistics: what their text says."""
    return facts("", of.rows())


@never_fails
def context(of: LoadedContext) -> str:
    """A layer that was loaded as text: what is known of it, and its beginning."""
    rows = [
        ("frequency", f"{of.frequency:.3g} Hz"),
        ("depth", of.depth),
        ("keywords", ", ".join(of.keywords)),
        ("source", of.source),
    ]
    return facts(str(of.layer_id), rows) + _content(of.content[:N_SHOWN_BYTES], len(of.content) - N_SHOWN_BYTES)


@never_fails
def region(of: MmapRegion) -> str:
    """A region: its header, and its first layers."""
    rows = [
        ("file", of.path),
        ("size", f"{format_bytes(of.size)}, of which {format_bytes(of.content_bytes)} are content"),
        ("layers", f"{of.n_layers:,}"),
        ("generation", f"{of.generation}" + (f", in {1 + of.n_deltas} files" if of.n_deltas else "")),
        ("source", of.source + (", immutable" if of.immutable else "") + (", stale" if of.stale else "")),
    ]
    first = [layer_id.layer for layer_id in of.layers()[:N_SHOWN]]
    layers: list[tuple[Any, ...]] = [
        (f"L{layer}", depth, f"{frequency:.3g}", format_bytes(n_bytes), ", ".join(keywords))
        for layer, depth, frequency, keywords, _, n_bytes, _ in of._facts_of(first)[0]
    ]
    listed = listing(("layer", "depth", "Hz", "size", "keywords"), layers, of.n_layers, "layers") if layers else ""
    return facts(f"D{of.dimension_id:02d} {of.name}", rows) + listed


@never_fails
def view(of: LayerView) -> str:
    """A layer: what is known of it, and the beginning of its content."""
    rows = [
        ("size", format_bytes(of.n_bytes)),
        ("depth", of.depth),
        ("frequency", f"{of.frequency:.3g} Hz"),
        ("keywords", ", ".join(of.keywords)),
        ("source", of.source),
    ]
    try:
        content = bytes(of[:N_SHOWN_BYTES])
        of._check_file()
    except Exception as error:
        return facts(str(of.id), rows) + f"<pre>{text(f'{type(error).__name__}: {error}')}</pre>"
    if b"\0" in content:
        shown = repr(content)
    else:  # half a character that is left where it is cut off is not shown
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        shown = decoder.decode(content, final=of.n_bytes == len(content))
    return facts(str(of.id), rows) + _content(shown, of.n_bytes - len(content), "bytes")


def _content(begin: str, n_more: int, unit: str = "characters") -> str:
    """The beginning of a content, and how much more there is."""
    more = f"<div>… and {n_more:,} {unit} more</div>" if n_more > 0 else ""
    return f'<pre style="white-space:pre-wrap">{text(begin, 4 * N_SHOWN_BYTES)}</pre>{more}'
