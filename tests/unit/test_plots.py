"""Plots: figures that a notebook shows, of advice, latencies, budgets and the memory map."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

import jessy_mem as jm
from jessy_mem.advice import advise, replay
from jessy_mem.eviction import POLICIES
from jessy_mem.plots import plot_advice, plot_budget, plot_latency, plot_map
from jessy_mem.trace import Access

pytestmark = pytest.mark.thread_unsafe(reason="matplotlib keeps the files of its fonts open, for each thread")


def reads(names: str, n_bytes: int = 100) -> list[Access]:
    """Accesses to dimensions named by letters."""
    return [Access(ord(name) - ord("A") + 1, 0, n_bytes) for name in names]


@pytest.fixture
def memory(tmp_path):
    jm.RegionBuilder(1, "Emotion").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 1))
    jm.RegionBuilder(15, "$x^{$<b>").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 15))
    with jm.MmapManager(base_path=tmp_path, simulation="never") as manager:
        manager.load_dimension(1)
        manager.load_dimension(15)
        yield manager


def words_of(figure) -> set[str]:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text)}


def test_advice_plot_is_a_png(tmp_path, matplotlib):
    results = advise(reads("ABCDAEFGHA", 1 << 20))
    for name in ("advice.png", "advice"):
        path = tmp_path / name
        plot_advice(results, path)
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", data[16:24]) == (1200, 750)


def test_advice_plot_of_one_result_in_few_bytes(tmp_path, matplotlib):
    plot_advice([replay(reads("AAB", 1), "lru", 1)], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


def test_advice_plot_names_policies_and_units(tmp_path, matplotlib):
    path = tmp_path / "advice.svg"
    plot_advice(advise(reads("ABCDAEFGHA", 1 << 20)), path)
    drawn = path.read_text()
    for text in (*POLICIES, "byte hit ratio (%)", "budget for what can be evicted (MiB)", "10 accesses"):
        assert f"<!-- {text} -->" in drawn or text in drawn


def test_advice_plot_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="there is no result"):
        plot_advice([], tmp_path / "advice.png")


def test_advice_plot_into_what_cannot_be_written(tmp_path, matplotlib):
    results = advise(reads("AAB"))
    with pytest.raises(ValueError, match="'nope' is not supported"):
        plot_advice(results, tmp_path / "advice.nope")
    with pytest.raises(FileNotFoundError):
        plot_advice(results, tmp_path / "deeper" / "advice.png")


def test_figure_shows_inline(matplotlib):
    figure = plot_advice(advise(reads("AAB")))
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "matplotlib.pyplot" not in sys.modules


def test_latency_has_a_line_for_whatever_was_timed(matplotlib, memory, tmp_path):
    for _ in range(100):
        memory.access_layer((1, 0))
    figure = plot_latency(memory, tmp_path / "latency.svg")
    names = {line.get_label().partition(" (")[0] for line in figure.axes[0].lines}
    assert names == {"access", "first touch", "load"}
    assert (tmp_path / "latency.svg").read_bytes()[:5] == b"<?xml"


def test_latency_is_what_the_histogram_says(matplotlib):
    histogram = jm.LatencyHistogram()
    for t_ns in range(1, 1001):
        histogram.record(t_ns)
    figure = plot_latency({"a $x^{$": histogram, "none": jm.LatencyHistogram()})
    figure._repr_png_()  # a name is no formula
    (line,) = figure.axes[0].lines
    shares, times = line.get_data()
    assert list(shares) == sorted(shares, reverse=True)
    assert min(shares) == pytest.approx(0.001)
    assert list(times) == [max(1, histogram.percentile(100 * (1 - share))) for share in shares]


def test_budget_adds_its_states_up(matplotlib, memory):
    readings = [(0.0, memory.get_stats())]
    memory.allocate(100_000)
    readings.append((2.5, memory.get_stats()))
    axes = plot_budget(readings).axes[0]
    assert axes.get_xlim() == (0, 2.5)
    tops = [area.get_paths()[0].vertices[:, 1].max() * (1 << 20) for area in axes.collections]
    assert tops[-1] == pytest.approx(readings[1][1].total_allocated_bytes)
    assert axes.get_xlabel() == "seconds"
    assert plot_budget([readings[0][1]]).axes[0].get_xlabel() == "reading"


def test_map_has_the_slots_of_the_plan_and_what_is_in_them(matplotlib, memory):
    figure = plot_map(memory)
    written = words_of(figure)
    assert {"core", "reserve", "user", "file", "1", "2", "Memory map: 2 dimensions"} <= written
    assert words_of(plot_map(jm.MemoryMap.of(memory))) == written
    memory.close()
    assert "Memory map: 0 dimensions" in words_of(plot_map(memory))


def test_nothing_to_plot_is_an_error(matplotlib):
    with pytest.raises(ValueError, match="nothing was timed"):
        plot_latency({"a": jm.LatencyHistogram()})
    with pytest.raises(ValueError, match="no reading"):
        plot_budget([])


@pytest.mark.parametrize("call", ["plot_latency(m)", "plot_budget([m.get_stats()])", "plot_map(m)", "plot_advice(a)"])
def test_without_matplotlib_the_error_names_the_extra(call):
    code = (
        "import sys; sys.modules['matplotlib.figure'] = None; from jessy_mem import *; import jessy_mem.trace as t\n"
        "m = MmapManager(simulation='never'); m.allocate(1); a = advise([t.Access(1, 0, 9)])\n"
        f"try: {call}\nexcept ImportError as e: sys.exit(\"pip install 'jessy-mem[plot]'\" not in str(e))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
