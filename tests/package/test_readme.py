"""README.md says what is so: its example runs, and its two commands are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("error")
def test_example_runs_as_it_stands_and_again_and_says_nothing_red(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    for _ in range(2):
        exec(compile(example, "README.md", "exec"), {})
        shown = capsys.readouterr()
        assert shown.out.startswith("1.6")
        assert shown.err == ""
        assert (tmp_path / "data/consciousness/D15/region.mmap").exists()


def test_two_commands_stand_as_they_are_promised():
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines()]
    assert "pip install . && jessy-mem demo" in lines
    assert "pip install '.[test]' && pytest -n 2" in lines


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
