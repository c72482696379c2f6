"""`ask`: words of every script, layers that are damaged, and nothing invented."""

from __future__ import annotations

import os
import unicodedata

import pytest
from commands import fails, flip, json_of, run

import jessy_mem as jm
from jessy_mem.cli import ask

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

KEYWORDS = [
    "हिन्दी",
    "தமிழ்",
    "ภาษาไทย",
    "မြန်မာ",
    "العربية",
    "می‌خواهم",
    "日本語",
    "한국어",
    "ёж",
    "straße",
    "İstanbul",
    "ﬁne",
    "C",
    "C#",
    "C++",
    "F#",
    ".NET",
    "node.js",
    "a/b",
    "@home",
    "#tag",
    "100%",
    "-5 °C",
    "(sic)",
    "?",
    "😀",
    "👩‍👩‍👧",
    "❤️",
    "don\u2019t",
    "rock 'n' roll",
    "mother-in-law",
    "a  b",
    "what a habit does to the memory of those who have one",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base folder with a layer for each keyword."""
    base = tmp_path_factory.mktemp("words")
    builder = jm.RegionBuilder(15, "Words")
    for word in KEYWORDS:
        builder.add_layer(jm.LayerSpec(text=f"text of {word}", keywords=[word]))
    builder.write(jm.region_path(base, 15))
    return base


def found(base, *words: str) -> list[str]:
    """The keywords of the layers found, best first."""
    result = run("ask", base, "--json", "-n", "99", "--", *words)
    return [KEYWORDS[int(each["layer"].partition("L")[2])] for each in json_of(result, result.exit_code)["layers"]]


@pytest.mark.parametrize("word", KEYWORDS, ids=ascii)
def test_a_keyword_is_found_as_it_is_stored(word, base):
    assert found(base, word) == [word]


@pytest.mark.parametrize("word", [word for word in KEYWORDS if word.strip("?") and word != "C"], ids=ascii)
def test_a_keyword_is_found_inside_a_question(word, base):
    assert word in found(base, f"tell me of {word}!")
    assert word in found(base, "tell", "me", "of", word)


@pytest.mark.parametrize("word", ["हिन्दी", "straße", "İstanbul", "ёж", "한국어", "ภาษาไทย"], ids=ascii)
def test_forms_of_unicode_and_case_make_no_difference(word, tmp_path):
    for stored in (word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFC", word.upper())):
        spec = jm.LayerSpec(text="x", keywords=[stored])
        jm.RegionBuilder(15, "x").add_layer(spec).write(jm.region_path(tmp_path, 15))
        for form in ("NFC", "NFD"):
            assert run("ask", tmp_path, unicodedata.normalize(form, word)).exit_code == 0
        assert run("ask", tmp_path, stored.casefold()).exit_code == 0


def test_words_of_a_script_without_spaces_are_found_in_a_sentence(base):
    assert found(base, "日本語の天気は") == ["日本語"]
    assert found(base, "ฉันพูดภาษาไทยได้") == ["ภาษาไทย"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("C++", ["C++"]),
        ("C# or F#?", ["C#", "F#"]),
        ("only C", ["C"]),
        ("plan C, or C++", ["C", "C++"]),
        ("law", []),
        ("node", []),
    ],
)
def test_a_part_of_a_word_is_not_the_word(query, expected, base):
    assert sorted(set(found(base, query)) - {"?"}) == expected


def test_the_longer_keyword_does_not_hide_its_words(tmp_path):
    builder = jm.RegionBuilder(15, "x")
    for word in ("first step", "step", "habits"):
        builder.add_layer(jm.LayerSpec(text=word, keywords=[word]))
    builder.write(jm.region_path(tmp_path, 15))
    report = json_of(run("ask", tmp_path, "--json", "the first step of a habit"))
    assert {each["text"]: each["matched"] for each in report["layers"]} == {
        "first step": ["first step"], "step": ["step"], "habits": ["habits"]
    }  # fmt: skip


def test_no_more_are_shown_than_were_asked_for(tmp_path):
    builder = jm.RegionBuilder(15, "x")
    for text in ("one", "two", "three"):
        builder.add_layer(jm.LayerSpec(text=text, keywords=["step"]))
    builder.write(jm.region_path(tmp_path, 15))
    report = json_of(run("ask", tmp_path, "--json", "-n", "2", "step"))
    assert [each["text"] for each in report["layers"]] == ["one", "two"]


class TestDamage:
    @pytest.fixture
    def base(self, tmp_path):
        """Three dimensions with the same keyword."""
        for dimension in (15, 16, 17):
            spec = jm.LayerSpec(text=f"text of {dimension}", keywords=["word"])
            jm.RegionBuilder(dimension, f"Name {dimension}").add_layer(spec).write(jm.region_path(tmp_path, dimension))
        return tmp_path

    def test_a_damaged_layer_hides_no_other(self, base):
        flip(base / "D15" / "region.mmap")
        result = run("ask", base, "word", "-n", "2")
        assert result.exit_code == 0
        assert "text of 16" in result.stdout
        assert "text of 17" in result.stdout
        (line,) = result.stderr.splitlines()
        assert line.startswith("warning: D15/L0 cannot be shown: ")
        assert "content of layer 0" in line

    def test_a_layer_that_is_no_text_hides_no_other(self, base):
        spec = jm.LayerSpec(content=b"\xff\xfe", keywords=["word"])
        jm.RegionBuilder(15, "x").add_layer(spec).write(jm.region_path(base, 15))
        result = run("ask", base, "word", "--json")
        assert [each["layer"] for each in json_of(result)["layers"]] == ["D16/L0", "D17/L0"]
        assert "D15/L0 cannot be shown" in result.stderr

    @pytest.mark.parametrize("damage", ["header", "cut", "link"])
    def test_a_dimension_that_cannot_be_loaded_hides_no_other(self, damage, base):
        path = base / "D15" / "region.mmap"
        if damage == "header":
            flip(path, 90)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
            path.symlink_to("nowhere")
        result = run("ask", base, "word", "--json")
        assert [each["layer"] for each in json_of(result)["layers"]] == ["D16/L0", "D17/L0"]
        assert "D15" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_nothing_that_can_be_shown_is_a_problem(self, base):
        for dimension in (15, 16, 17):
            flip(base / f"D{dimension}" / "region.mmap")
        result = run("ask", base, "word")
        assert (result.exit_code, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 3


class TestSimulation:
    @pytest.mark.parametrize("word", ["trauma", "memory", "habit"])
    def test_nothing_is_invented(self, word, base):
        result = run("ask", base, word)
        assert (result.exit_code, result.stderr) == (1, "")
        assert "SIMULATED" not in result.stdout

    def test_unless_it_is_asked_for(self, base, tmp_path):
        for folder in (base, tmp_path):
            result = run("ask", folder, "trauma", "--simulate")
            assert result.exit_code == 0
            assert "SIMULATED" in result.stdout
            assert result.stderr.startswith("warning: simulated, for there is no file: D01")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("what", ["nothing", "notes", "a file"])
    def test_a_folder_that_is_no_base(self, what, tmp_path):
        if what == "notes":
            (tmp_path / "D15").mkdir()
            (tmp_path / "D15" / "0.md").write_text("never built")
        place = tmp_path
        if what == "a file":
            place = tmp_path / "file"
            place.write_text("x")
        status, word = (2, "is a file") if what == "a file" else (1, "holds no dimension")
        fails(run("ask", place, "word"), status, word)


def test_a_file_that_is_shortened_after_it_was_searched(tmp_path, monkeypatch):
    path = (
        jm.RegionBuilder(15, "Tea")
        .add_layer(jm.LayerSpec(text="tea " * 9000, keywords=["tea"]))
        .write(jm.region_path(tmp_path, 15))
    )
    navigate = ask.KeywordNavigator.navigate

    def shortened(self, query):
        found = navigate(self, query)
        os.truncate(path, 0)
        return found

    # between the search and the reading, where no callback is
    monkeypatch.setattr(ask.KeywordNavigator, "navigate", shortened)
    result = run("ask", tmp_path, "tea")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"D15/L0 cannot be shown: {path}: " in result.stderr
    assert "as when it was mapped" in result.stderr
