"""Plots: figures of matplotlib, which a notebook shows where they are the last thing in a cell.

Matplotlib is the extra ``plot``, and is imported by the first plot. No plot touches its global state, so that plots
may be made in any thread, and without a display.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.records import MemoryStats
from jessy_mem.advice import ReplayResult
from jessy_mem.forking import imported
from jessy_mem.manager import MmapManager
from jessy_mem.memory_map import MemoryMap, parts_of
from jessy_mem.notebook import COLOURS
from jessy_mem.units import counted, format_ns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_advice", "plot_budget", "plot_latency", "plot_map"]

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("bytes", 1))

_STYLES: tuple[dict[str, Any], ...] = (  # told apart without colour, and where one line lies on another
    {"color": "#56b4e9", "linestyle": "-", "linewidth": 5, "marker": "o", "markersize": 11},
    {"color": "#d55e00", "linestyle": "-", "linewidth": 1.8, "marker": "s", "markersize": 6},
    {"color": "#000000", "linestyle": "--", "linewidth": 1.5, "marker": "^", "markersize": 5},
)
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_STATES = (  # of the budget, and how each is drawn
    ("pinned", "pinned_bytes", "#c4453b", ""),
    ("leased", "leased_bytes", "#b58a2a", "///"),
    ("evictable", "evictable_bytes", "#3b82c4", "..."),
)
_RARE = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4, 1e-5)  # shares of events


def plot_advice(results: Sequence[ReplayResult], path: str | os.PathLike[str] | None = None) -> Figure:
    """Byte hit ratio against budget, one line for each policy; returns the figure, and writes it to `path`, if given.

    The picture is a PNG, or what the suffix of `path` says. Needs matplotlib (the extra ``plot``): ImportError says so.
    ValueError if there is no result, or for a suffix that matplotlib does not write; OSError if the file cannot be
    written.
    """
    if not results:
        raise ValueError("there is no result to plot")
    figure, axes = _figure(8, 5)
    largest = max(result.budget_bytes for result in results)
    unit, unit_bytes = _unit(largest)
    for i, policy in enumerate(dict.fromkeys(result.policy for result in results)):
        line = sorted((r.budget_bytes / unit_bytes, 100 * r.byte_hit_ratio) for r in results if r.policy == policy)
        axes.plot(*zip(*line, strict=True), label=policy, clip_on=False, **_STYLES[i % len(_STYLES)])
    n_accesses = results[0].hits + results[0].misses
    axes.set_title(f"What eviction policies find in memory: {n_accesses:,} accesses replayed", pad=14)
    axes.set_xlabel(f"budget for what can be evicted ({unit})")
    axes.set_ylabel("byte hit ratio (%)")
    axes.set_xlim(0, 1.03 * largest / unit_bytes)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(title="policy", loc="best")
    return _written(figure, path)


def plot_latency(
    histograms: MmapManager | Mapping[str, LatencyHistogram], path: str | os.PathLike[str] | None = None
) -> Figure:
    """How long the slowest share of the events took, one line for each histogram; those without an event are left out.

    `histograms` are by name, or those of a manager: accesses, loads and what else it times. Returns the figure, and
    writes it to `path`, if given. Errors are those of `plot_advice`; ValueError if nothing was timed.

    >>> from jessy_mem import LatencyHistogram
    >>> histogram = LatencyHistogram()
    >>> for t_ns in range(1000):
    ...     histogram.record(t_ns)
    >>> len(plot_latency({"mine": histogram}).axes[0].lines)
    1
    """
    named = histograms._histograms() if isinstance(histograms, MmapManager) else histograms
    timed = {name: each for name, each in named.items() if each.count}
    if not timed:
        raise ValueError("nothing was timed")
    figure, axes = _figure(8, 5)
    for i, (name, each) in enumerate(timed.items()):
        shares = [share for share in _RARE if share * each.count >= 1 or share == 1]
        times = [max(1, each.percentile(100 * (1 - share))) for share in shares]
        label = _plain(f"{name.replace('_', ' ')} ({each.count:,})")
        axes.plot(shares, times, label=label, drawstyle="steps-post", linestyle=_LINES[i % len(_LINES)])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, min(_RARE))
    axes.set_xticks([1, 0.1, 0.01, 0.001, 1e-4], ["all", "p90", "p99", "p99.9", "p99.99"], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title("How long operations took: the slower, the further right", pad=14)
    axes.set_xlabel("share of the events, slowest last")
    axes.yaxis.set_major_formatter(lambda t_ns, _: format_ns(t_ns))
    axes.set_ylabel("took at least")
    axes.grid(alpha=0.3)
    axes.legend(title="operation (events)", loc="best")
    return _written(figure, path)


def plot_budget(
    stats_over_time: Sequence[MemoryStats | tuple[float, MemoryStats]],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The budget by state, as several readings of `get_stats` found it, one after the other.

    A reading is a MemoryStats, or ``(seconds, MemoryStats)``. Returns the figure, and writes it to `path`, if given.
    Errors are those of `plot_advice`; ValueError if there is no reading.
    """
    if not stats_over_time:
        raise ValueError("there is no reading to plot")
    readings: list[tuple[float, MemoryStats]] = [
        (i, each) if isinstance(each, MemoryStats) else each for i, each in enumerate(stats_over_time)
    ]
    has_times = not isinstance(stats_over_time[0], MemoryStats)
    if len(readings) == 1:  # an area needs two
        readings.append((readings[0][0] + 1, readings[0][1]))
    figure, axes = _figure(8, 4.5)
    times = [at - readings[0][0] for at, _ in readings]
    limit_bytes = max(each.limit_bytes for _, each in readings)
    unit, unit_bytes = _unit(limit_bytes)
    layers = [[getattr(each, field) / unit_bytes for _, each in readings] for _, field, _, _ in _STATES]
    drawn = axes.stackplot(
        times, layers, labels=[name for name, _, _, _ in _STATES], colors=[c for _, _, c, _ in _STATES]
    )
    for area, (_, _, _, hatch) in zip(drawn, _STATES, strict=True):
        area.set(hatch=hatch, edgecolor="white", linewidth=0)
    axes.plot(
        times, [each.limit_bytes / unit_bytes for _, each in readings], color="black", label="limit", linewidth=1.5
    )
    axes.set_xlim(0, times[-1] or 1)
    axes.set_ylim(0, 1.05 * limit_bytes / unit_bytes)
    axes.set_title("The budget by state", pad=14)
    axes.set_xlabel("seconds" if has_times else "reading")
    axes.set_ylabel(unit)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return _written(figure, path)


def plot_map(memory: MmapManager | MemoryMap, path: str | os.PathLike[str] | None = None) -> Figure:
    """The memory map to scale: a bar for each segment, with its slots and what is in them.

    Returns the figure, and writes it to `path`, if given. Errors are those of `plot_advice`.
    """
    made = memory if isinstance(memory, MemoryMap) else MemoryMap.of(memory)
    figure, axes = _figure(10, 1.1 + 0.8 * len(made.segments))
    unit, unit_bytes = _unit(max(segment.size_bytes for segment in made.segments))
    largest = max(segment.size_bytes for segment in made.segments) / unit_bytes
    least = largest / 300  # what is there is seen
    seen: dict[str, Any] = {}
    for row, segment in enumerate(made.segments):
        at = 0.0
        for entry, n_bytes, what in parts_of(made, segment):
            width = n_bytes / unit_bytes
            kind = entry.state if entry is not None else "none" if what.startswith("free") else "pool"
            if entry is None or entry.slot_bytes:  # the outline of the slot
                axes.barh(row, width, left=at, height=0.6, fill=False, edgecolor="#8b9198", linewidth=0.6)
            if kind != "none":
                filled = max(least, (entry.n_bytes / unit_bytes) if entry is not None else width)
                (seen[kind],) = axes.barh(row, filled, left=at, height=0.6, color=COLOURS[kind])
                width = max(width, filled)
            if entry is not None and entry.slot_bytes and width > largest / 40:
                axes.annotate(str(entry.dimension), (at + width / 2, row), ha="center", va="center", fontsize=7)
            at += width
    axes.set_yticks(range(len(made.segments)), [_plain(segment.name) for segment in made.segments])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.01 * largest)
    axes.set_xlabel(f"{unit}; what is smaller than a line is drawn as one")
    axes.set_title(f"Memory map: {counted(len(made.present), 'dimension')}", pad=10)
    if seen:
        axes.legend(list(seen.values()), list(seen), loc="center left", bbox_to_anchor=(1, 0.5))
    return _written(figure, path)


@cache
def _figure_class() -> Any:
    """Figures that a notebook shows by themselves, whether or not it uses matplotlib otherwise."""
    try:
        base: Any = imported("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'jessy-mem[plot]'") from error

    def png(figure: Any) -> bytes:
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    return type("Figure", (base,), {"_repr_png_": png})


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = _figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _written(figure: Any, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        figure.savefig(path, format=Path(path).suffix[1:] or "png")
    return figure  # type: ignore[no-any-return]


def _plain(text: str) -> str:
    """`text` as matplotlib shows it as it is, and does not take it for a formula."""
    return text.replace("$", r"\$")


def _unit(largest: int) -> tuple[str, int]:
    """The unit for sizes up to `largest`."""
    return next((name, n_bytes) for name, n_bytes in _UNITS if 4 * n_bytes <= largest or n_bytes == 1)
