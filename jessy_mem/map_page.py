"""One page that holds all it needs: bars to scale, a table, and a few lines of script to walk through them.

It loads nothing, and says so in its policy, so it can be mailed, kept and opened without a network. Without the script
everything is still there to read.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from jessy_mem.notebook import COLOURS, LEAST_PX, Part, text

__all__ = ["page"]

N_ROWS = 2000  # of the table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fdfdfc; --line: #8b9198; --soft: #eef0f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15181b; --line: #9aa1a8; --soft: #22272c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.1rem 0 .3rem; }
p { margin: .2rem 0; }
.bar { display: flex; flex-wrap: nowrap; height: 2.6rem; overflow: hidden; border: 1px solid var(--line); }
.bar button { all: unset; display: block; border-right: 1px solid var(--line); cursor: pointer; }
.bar button:last-child { border-right: 0; }
.bar button:hover { outline: 2px solid var(--ink); outline-offset: -2px; }
.bar button:focus-visible { outline: 3px solid var(--ink); outline-offset: -3px; }
#told { position: sticky; top: 0; padding: .4rem .6rem; min-height: 2.3rem; background: var(--soft);
  border-left: 4px solid var(--line); overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; margin: .6rem 0; list-style: none; }
.key span { display: inline-block; width: 1rem; height: .8rem; margin-right: .35rem; border: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--soft); vertical-align: top; }
th.number, td.number { white-space: nowrap; }
th.text, td.text { text-align: left; overflow-wrap: break-word; }
td.text:last-child { overflow-wrap: anywhere; min-width: 7rem; }
tr:target, tr.chosen { background: var(--soft); }
@media (max-width: 40rem) {
  thead { position: absolute; left: -999rem; }
  tr { display: block; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .05rem .2rem; text-align: right; }
  td:empty { display: none; }
  td::before { content: attr(data-label); flex: none; opacity: .75; }
  td.text { text-align: right; overflow-wrap: anywhere; }
  td:first-child { font-weight: bold; }
}
"""

_SCRIPT = """
"use strict";
const told = document.getElementById("told");
const parts = [...document.querySelectorAll(".bar button")];
let chosen = null;
function tell(part) { told.textContent = part.getAttribute("aria-label"); }
function choose(part) {
  if (chosen) chosen.classList.remove("chosen");
  chosen = document.getElementById(part.dataset.row);
  if (chosen) { chosen.classList.add("chosen"); chosen.scrollIntoView({block: "nearest"}); }
}
parts.forEach((part, i) => {
  part.tabIndex = i ? -1 : 0;
  part.addEventListener("mouseenter", () => tell(part));
  part.addEventListener("focus", () => tell(part));
  part.addEventListener("click", () => choose(part));
  part.addEventListener("keydown", (event) => {
    const steps = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: parts.length - 1};
    const next = parts[steps[event.key]];
    if (!next) return;
    event.preventDefault();
    part.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
});
"""


def page(
    title: str,
    facts: Iterable[str],
    bars: Iterable[tuple[str, Sequence[tuple[Part, str]]]],
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """The page: `bars` are (label, parts), where a part also names its row, or ""; `rows` are (name, cells).

    A heading that begins with ``~`` is of text, the others are of numbers.
    """
    drawn = "".join(
        f'<h2>{text(label)}</h2>\n<div class="bar" role="group" aria-label="{text(label)}">'
        f"{''.join(_part(part, row) for part, row in parts)}</div>\n"
        for label, parts in bars
    )
    kinds = [("text" if heading.startswith("~") else "number", heading.lstrip("~")) for heading in headings]
    head = "".join(f'<th class="{kind}" scope="col">{text(heading)}</th>' for kind, heading in kinds)
    body = "\n".join(
        f'<tr id="{text(name)}">'
        + "".join(
            f'<td class="{kind}" data-label="{text(heading)}">{text(cell)}</td>'
            for (kind, heading), cell in zip(kinds, cells, strict=True)
        )
        + "</tr>"
        for name, cells in rows[:N_ROWS]
    )
    more = len(rows) - N_ROWS
    told = f"<p>… and {more:,} more</p>\n" if more > 0 else ""
    key = "".join(
        f'<li><span style="background:{colour}"></span>{kind if kind != "none" else "nothing"}</li>'
        for kind, colour in COLOURS.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n"
        f"{''.join(f'<p>{text(fact)}</p>' for fact in facts)}\n{drawn}"
        f'<ul class="key">{key}</ul>\n'
        '<p id="told" role="status">Point at a part of the map, or walk through it with the arrow keys; '
        "Enter finds it in the table.</p>\n"
        f'<h2>Dimensions</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        f"</table></div>\n{told}<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _part(part: Part, row: str) -> str:
    share, what, kind, filled = part
    least = 0 if kind == "none" and not row else LEAST_PX
    return (
        f'<button type="button" data-row="{text(row)}" aria-label="{text(what)}" '
        f'style="flex:{max(share, 0):.9g} 1 {least}px;background:linear-gradient(to right,{COLOURS[kind]} '
        f'max({LEAST_PX}px,{min(filled, 1):.3%}),transparent 0)"></button>'
    )
