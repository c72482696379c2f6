"""python docs/plot.py: what was measured, as tables in docs/benchmarks.md, as pictures there, and as text in README.md.

The first picture and the first plot of README.md are drawn from the table that `jessy-mem bench` prints, which stands
in docs/benchmarks.md. The rest comes from docs/measured, of which each file is what a command printed:

    jessy-mem bench --peers --json > docs/measured/peers.json
    jessy-mem bench --threads --json > docs/measured/threads.json
    cd asv_bench && python -m benchmarks.scale > ../docs/measured/scale.json

A test holds all of it to what was measured. Pictures are readable on light and on dark ground: text in a grey between
both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jessy_mem.cli.screen import rate, ratio
from jessy_mem.units import format_bytes, format_ns

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
UNITS_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
LEAST_NS, MOST_NS = 10.0, 1e8
TICKS = ("10 ns", "100 ns", "1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms")
ROW = re.compile(r"^\| ([^|]+) \| ([\d.]+ \w+) \| [^|]+ \| ([\d.]+ \w+)? *\|$", re.MULTILINE)
FENCE = re.compile(r"(?<=<!-- python docs/plot.py -->\n\n```text\n).*?(?=```)", re.DOTALL)
READ = "layer of 4 KiB, a buffer"  # the question to others, and the operation in threads, that README.md shows
SCALED = "access_layer, one layer, manager"
COLUMNS = 42  # of the bars in text: six for each power of ten
WIDTH, LABEL, BAR, LINE = 760, 210, 470, 24  # of the picture, in its own units
OURS, OTHERS, TARGET = "#2a78d6", "#909090", "#d55e00"


def measured() -> list[tuple[str, str, str]]:
    """Operation, median and target, if it has one, as the first table of docs/benchmarks.md says."""
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    begin = text.index("| operation | median |")
    return ROW.findall(text[begin : text.index("\n\n", begin)])


def printed(name: str) -> Any:
    """What a command printed."""
    return json.loads((DOCS / "measured" / f"{name}.json").read_text(encoding="utf-8"))


def share(time: str) -> float:
    """Where a time such as "43 ns" stands on the scale, 0..1."""
    number, unit = time.split()
    ns = float(number) * UNITS_NS[unit]
    return math.log(ns / LEAST_NS) / math.log(MOST_NS / LEAST_NS)


def line(name: str, label: str, where: float, target: float | None = None) -> str:
    """A row of a plot in text: its bar ends at `where` of the scale, and there is a mark at the target."""
    drawn = "█" * max(1, round(where * COLUMNS))
    if target is not None:
        drawn = f"{drawn:<{round(target * COLUMNS)}}│"
    return f"{name:<29}{label:>9}  {drawn}"


def times_in_text(title: str, rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Names and times on the scale of powers of ten; a target where there is one."""
    scale = "".join(f"{tick:<6}" for tick in ("10 ns", "100", "1 us", "10", "100", "1 ms", "10", "100"))
    head = f"{title:<40}{scale}".rstrip()
    return [head, *(line(name, time, share(time), share(target) if target else None) for name, time, target in rows)]


def in_text() -> str:
    """What `jessy-mem bench` says, for README.md."""
    mark = "│ the target; six columns to the right is ten times as long\n"
    return "\n".join([*times_in_text("", measured()), "", mark])


def in_text_of_others() -> str:
    """The other pictures, as far as README.md shows them: beside others, in threads, among many, and a first touch."""
    found = printed("scale")
    peers = [each for each in printed("peers")["answers"] if each["question"] == READ]
    (scaled,) = (each for each in printed("threads")["scaling"] if each["operation"] == SCALED)
    growth = [
        row
        for each in found["growth"]
        for n in (f"{each['layers']:,} in {each['dimensions']:,}",)
        for row in ((n, format_ns(each["ours_ns"]), ""), ("  a dict of as many", format_ns(each["dict_ns"]), ""))
    ]
    touch = [
        row
        for each in found["touch"]
        for n in (format_bytes(each["bytes"]),)
        for row in ((f"{n}, first", format_ns(each["first_ns"]), ""), (f"{n}, again", format_ns(each["hit_ns"]), ""))
    ]
    most = max(map(int, scaled["over_one"]))
    threads = [
        line(f"{n} thread{'s' * (n != '1')}", ratio(times), times / most, int(n) / most)
        for n, times in scaled["over_one"].items()
    ]
    blocks = [
        times_in_text(READ, [(each["peer"], format_ns(each["least_ns"]), "") for each in peers]),
        times_in_text("a read among layers, in dimensions", growth),
        times_in_text("the first access of a layer", touch),
        ["reads of several threads over one", *threads],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n\n│ as many times as there are threads\n"


# Pictures -------------------------------------------------------------------------------------------------------------


def picture(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#808080">'
    )
    return "\n".join([head, f"<title>{title}</title>", *parts, "</svg>\n"])


def ticks(labels: Sequence[str], height: float) -> Iterator[str]:
    """Lines from the top to the bottom of the bars, each with what it stands for."""
    for i, label in enumerate(labels):
        x = LABEL + i * BAR / (len(labels) - 1)
        yield f'<path d="M{x:.0f} {LINE}V{height - LINE / 2:.0f}" stroke="#808080" stroke-opacity=".35"/>'
        yield f'<text x="{x:.0f}" y="16" text-anchor="middle" font-size="11">{label}</text>'


def bar(
    y: float, name: str, where: float, label: str, target: float | None = None, colour: str = OURS
) -> Iterator[str]:
    """A row: its name, a bar to `where` of the scale, what it stands for, and a mark at the target."""
    length = max(where, 0.002) * BAR
    yield f'<text x="{LABEL - 8}" y="{y + 16:.0f}" text-anchor="end">{name}</text>'
    yield f'<rect x="{LABEL}" y="{y + 4:.0f}" width="{length:.0f}" height="16" fill="{colour}"/>'
    end = length
    if target is not None:
        if 0 <= target * BAR - length < 50:  # the label would lie over the mark
            end = target * BAR
        x = LABEL + target * BAR
        yield f'<path d="M{x:.0f} {y + 2:.0f}v20" stroke="{TARGET}" stroke-width="3"/>'
    yield f'<text x="{LABEL + end + 6:.0f}" y="{y + 16:.0f}">{label}</text>'


def heading(y: float, title: str) -> str:
    return f'<text x="0" y="{y + 16:.0f}" font-weight="bold">{title}</text>'


def of_targets() -> str:
    rows = measured()
    height = (len(rows) + 2) * LINE
    parts = [*ticks(TICKS, height)]
    for i, (name, median, target) in enumerate(rows):
        parts += bar((i + 1) * LINE, name, share(median), median, share(target) if target else None)
    return picture("Median times of the operations, on a scale of powers of ten, with their targets", height, parts)


def of_peers() -> str:
    """What reads, each question by itself."""
    answers = [
        each for each in printed("peers")["answers"] if "layer" in each["question"] or "call" in each["question"]
    ]
    parts, y = [], LINE
    for question, of_one in groupby(answers, key=lambda each: each["question"]):
        parts.append(heading(y, question))
        y += LINE
        for each in of_one:
            least = format_ns(each["least_ns"])
            colour = OURS if each["ratio"] is None else OTHERS
            parts += bar(y, each["peer"], share(least), least, colour=colour)
            y += LINE
    height = y + LINE
    return picture(
        "Least times to read, of this library and of others, on a scale of powers of ten",
        height,
        [*ticks(TICKS, height), *parts],
    )


def of_threads() -> str:
    """Calls a second of several threads over those of one; the marks are at as many times as there are threads."""
    scaling = printed("threads")["scaling"]
    most = max(int(n_threads) for each in scaling for n_threads in each["over_one"])
    parts, y = [], LINE
    for each in scaling:
        parts.append(heading(y, each["operation"]))
        y += LINE
        for n_threads, times in each["over_one"].items():
            label = rate(each["per_s"]["1"]) if n_threads == "1" else ratio(times)
            name, colour = ("1 thread", OTHERS) if n_threads == "1" else (f"{n_threads} threads", OURS)
            parts += bar(y, name, times / most, label, int(n_threads) / most, colour)
            y += LINE
    height = y + LINE
    scale = [f"{most * i / 4:g} x" for i in range(5)]
    return picture("How much several threads do, over what one does", height, [*ticks(scale, height), *parts])


def of_growth() -> str:
    """A read among more and more layers, beside a dict of as many."""
    parts, y = [], LINE
    for of, of_one in groupby(printed("scale")["growth"], key=lambda each: each["of"]):
        parts.append(heading(y, {"layers": "more layers", "dimensions": "more dimensions, of four layers each"}[of]))
        y += LINE
        for each in of_one:
            n = f"{each['layers']:,} layers" if of == "layers" else f"{each['dimensions']:,} dimensions"
            for name, key, colour in ((n, "ours_ns", OURS), ("a dict", "dict_ns", OTHERS)):
                time = format_ns(each[key])
                parts += bar(y, name, share(time), time, colour=colour)
                y += LINE
    height = y + LINE
    title = "A read in an order by chance among more and more layers, and a lookup in a dict of as many"
    return picture(title, height, [*ticks(TICKS, height), *parts])


def of_touch() -> str:
    parts, y = [], LINE
    for each in printed("scale")["touch"]:
        n = f"{format_bytes(each['bytes'])}"
        for name, key, colour in ((f"{n}, first", "first_ns", OTHERS), (f"{n}, again", "hit_ns", OURS)):
            time = format_ns(each[key])
            parts += bar(y, name, share(time), time, colour=colour)
            y += LINE
    height = y + LINE
    return picture("The first access of a layer, and a later one", height, [*ticks(TICKS, height), *parts])


PICTURES = {
    "benchmarks.svg": of_targets,
    "peers.svg": of_peers,
    "threads.svg": of_threads,
    "growth.svg": of_growth,
    "touch.svg": of_touch,
}


# Tables ---------------------------------------------------------------------------------------------------------------


def table(headings: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, "|" + "---|" * (headings.count("|") - 1), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def peers() -> str:
    rows = []
    for question, of_one in groupby(printed("peers")["answers"], key=lambda each: each["question"]):
        for i, each in enumerate(of_one):
            times = format_ns(each["least_ns"]), format_ns(each["median_ns"])
            compared = "" if each["ratio"] is None else ratio(each["ratio"])
            rows.append(("" if i else question, each["peer"], f"`{each['how']}`", *times, compared))
    return table("| operation | with | by | least | median | ours / its |", rows)


def threads() -> str:
    rows = []
    for each in printed("threads")["scaling"]:
        one, *others = each["per_s"]
        times = [ratio(each["over_one"][n_threads]) for n_threads in others]
        rows.append((each["operation"], rate(each["per_s"][one]), *times))
    return table(f"| threads | {' | '.join(each['per_s'])} |", rows)


def growth() -> str:
    rows = [
        (f"{each['layers']:,}", f"{each['dimensions']:,}", format_ns(each["ours_ns"]), format_ns(each["dict_ns"]),
         ratio(each["ours_ns"] / each["dict_ns"]))
        for each in printed("scale")["growth"]
    ]  # fmt: skip
    return table("| layers | in dimensions | `access_layer` | `dict[k]` | ours / its |", rows)


def touch() -> str:
    rows = [
        (format_bytes(each["bytes"]), format_ns(each["first_ns"]), format_ns(each["hit_ns"]))
        for each in printed("scale")["touch"]
    ]
    return table("| a layer of | first access | later one |", rows)


TABLES = {"peers": peers, "threads": threads, "growth": growth, "touch": touch}


def page() -> str:
    """docs/benchmarks.md with its tables."""

    def fill(place: re.Match[str]) -> str:
        return f"<!-- {place[1]} -->\n\n{TABLES[place[1]]()}\n\n<!-- -->"

    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    text, n = re.subn(r"<!-- (\w+) -->\n.*?<!-- -->", fill, text, flags=re.DOTALL)
    if n != len(TABLES):
        raise SystemExit("docs/benchmarks.md has not one place for each table")
    return text


def front() -> str:
    """README.md with its plots."""
    drawn = [in_text(), in_text_of_others()]
    text, n = FENCE.subn(lambda _: drawn.pop(0), (ROOT / "README.md").read_text(encoding="utf-8"))
    if n != 2:
        raise SystemExit("README.md has not one place for each plot")
    return text


def files() -> dict[Path, str]:
    """All that is drawn, and what it shall be."""
    drawn = {DOCS / name: made() for name, made in PICTURES.items()}
    return {ROOT / "README.md": front(), DOCS / "benchmarks.md": page()} | drawn


def main() -> None:
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
