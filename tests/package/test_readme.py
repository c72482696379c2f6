"""README.md says what is so: its example runs, and its two commands are there."""

from __future__ import annotations

import re
import runpy
import subprocess
import xml.etree.ElementTree
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("error")
def test_example_runs_as_it_stands_and_again_and_says_nothing_red(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    for n in (1, 2):
        exec(compile(example, "README.md", "exec"), {})
        shown = capsys.readouterr()
        lamps = [f"D1000/L{i} She sent back a lamp." for i in range(n)]
        assert shown.out.splitlines() == ["D15/L0 Returns are free for 30 days.", *lamps]
        assert shown.err == ""
        assert (tmp_path / "memory/D1000/region.mmap").exists()


def test_two_commands_stand_as_they_are_promised():
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines()]
    assert "pip install . && jessy-mem demo" in lines
    assert "pip install '.[test]' && pytest -n 2" in lines


def test_renders_where_there_is_no_tree_beside_it():
    """On a package index: no link and no picture by a relative path, and nothing that is no Markdown."""
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[[^]]+\]: (\S+)", text, re.MULTILINE)
    targets += re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    assert ":::" not in text
    assert "```{" not in text


def test_files_that_it_names_are_there():
    named = set(re.findall(r"`((?:docs/|CHANGELOG)[\w./]*)`", README.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert [name for name in named if not (README.parent / name).exists()] == []


def test_two_workers_are_what_its_line_cuts_out_of_the_page(tmp_path):
    """The line of README.md, as a shell runs it, gives the service of the page."""
    text = README.read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (sed .*) > assistant/service\.py$", text, re.MULTILINE)
    cut = subprocess.run(line, shell=True, cwd=README.parent, capture_output=True, text=True, check=True).stdout
    page = (README.parent / "docs/cookbook/two_workers.md").read_text(encoding="utf-8")
    assert f"```python\n{cut}```" in page
    assert "FastAPI(" in cut


def test_plots_and_tables_show_what_was_measured():
    """`python docs/plot.py` would change nothing."""
    plot = runpy.run_path(str(README.parent / "docs" / "plot.py"))
    files = plot["files"]()
    for path, content in files.items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `python docs/plot.py`"
    pictures = [content for path, content in files.items() if path.suffix == ".svg"]
    assert len(pictures) == len(plot["PICTURES"])
    for picture in pictures:
        assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")
    shown = plot["in_text_of_others"]()
    assert shown.count("\n\n") == 4, "beside others, among many layers, a first touch, threads; and what the mark is"
    assert all(text in files[README] for text in (plot["in_text"](), shown))
    page = files[README.parent / "docs" / "benchmarks.md"]
    assert all(f"]({name})" in page for name in plot["PICTURES"])
    assert len(plot["measured"]()) == 12
    assert [round(plot["share"](time), 3) for time in ("10 ns", "1 us", "100 ms")] == [0, 0.286, 1]
