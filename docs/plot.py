"""python docs/plot.py: the measurements of docs/benchmarks.md as a picture, benchmarks.svg, and as text in README.md.

Both are drawn from the table that `jessy-mem bench` prints, on a scale of powers of ten; a test holds them to it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNITS_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
LEAST_NS, MOST_NS = 10.0, 1e8
ROW = re.compile(r"^\| ([^|]+) \| ([\d.]+ \w+) \| [^|]+ \| ([\d.]+ \w+)? *\|$", re.MULTILINE)
FENCE = re.compile(r"(?<=<!-- python docs/plot.py -->\n\n```text\n).*?(?=```)", re.DOTALL)
COLUMNS = 42  # of the bars in text: six for each power of ten
WIDTH, LABEL, BAR, LINE = 760, 210, 470, 24  # of the picture, in its own units


def measured() -> list[tuple[str, str, str]]:
    """Operation, median and target, if it has one, as the first table of docs/benchmarks.md says."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    begin = text.index("| operation | median |")
    return ROW.findall(text[begin : text.index("\n\n", begin)])


def share(time: str) -> float:
    """Where a time such as "43 ns" stands on the scale, 0..1."""
    number, unit = time.split()
    ns = float(number) * UNITS_NS[unit]
    return math.log(ns / LEAST_NS) / math.log(MOST_NS / LEAST_NS)


def in_text() -> str:
    ticks = "".join(f"{tick:<6}" for tick in ("10 ns", "100", "1 us", "10", "100", "1 ms", "10", "100"))
    lines = [f"{'':40}{ticks}".rstrip()]
    for name, median, target in measured():
        bar = "█" * max(1, round(share(median) * COLUMNS))
        if target:
            bar = f"{bar:<{round(share(target) * COLUMNS)}}│"
        lines.append(f"{name:<29}{median:>9}  {bar}")
    return "\n".join([*lines, "", "│ the target; six columns to the right is ten times as long\n"])


def as_svg() -> str:
    """Readable on light and on dark ground: text in a grey between both."""
    rows = measured()
    height = (len(rows) + 2) * LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#808080">',
        "<title>Median times of the operations, on a scale of powers of ten, with their targets</title>",
    ]
    for i, tick in enumerate(("10 ns", "100 ns", "1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms")):
        x = LABEL + i * BAR / 7
        parts.append(f'<path d="M{x:.0f} {LINE}V{height - LINE / 2:.0f}" stroke="#808080" stroke-opacity=".35"/>')
        parts.append(f'<text x="{x:.0f}" y="16" text-anchor="middle" font-size="11">{tick}</text>')
    for i, (name, median, target) in enumerate(rows):
        y, length = (i + 1) * LINE, share(median) * BAR
        parts.append(f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y + 4}" width="{length:.0f}" height="16" fill="#2a78d6"/>')
        if target:
            x = LABEL + share(target) * BAR
            parts.append(f'<path d="M{x:.0f} {y + 2}v20" stroke="#d55e00" stroke-width="3"/>')
        parts.append(f'<text x="{LABEL + length + 6:.0f}" y="{y + 16}">{median}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    (ROOT / "docs" / "benchmarks.svg").write_text(as_svg(), encoding="utf-8")
    readme = ROOT / "README.md"
    text, n = FENCE.subn(lambda _: in_text(), readme.read_text(encoding="utf-8"))
    if n != 1:
        raise SystemExit("README.md has no place for the plot")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
