"""Folders of texts as people have them: notes with front matter, rules and marks; plans right, wrong and missing."""

from __future__ import annotations

import json
import os
import random
import unicodedata

import pytest
from commands import fails, json_of, run

import jessy_mem as jm
from helpers import Layer, plain_file
from jessy_mem.cli.front_matter import FrontMatterError, front_matter

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source" / "D15").mkdir(parents=True)
    return tmp_path / "source"


def layer(source, text: str | bytes, *options: str):
    """Build `text` as the only layer; what is stored of it, and what was said."""
    (source / "D15" / "0.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = run("build", source, source.parent / "out", *options)
    assert result.exit_code == 0, result.output
    with jm.MmapRegion(15, source.parent / "out" / "D15" / "region.mmap") as region:
        view = region.layer(0)
        return bytes(view), view.keywords, view.frequency, view.depth, region.name, result.stderr


class TestFrontMatter:
    @pytest.mark.parametrize(
        ("block", "keywords"),
        [
            ("keywords: mood, laughter , tears", ("mood", "laughter", "tears")),
            ("keywords: [mood, # a remark\n tears]", ("mood", "tears")),
            ("keywords: [mood # a remark\n , tears]", ("mood", "tears")),
            ("keywords: [mood, laughter,]", ("mood", "laughter")),
            ("keywords: [\n  mood, # a remark, with a comma\n  'two words',\n]", ("mood", "two words")),
            ("keywords:\n  - mood\n  - two words  # a remark", ("mood", "two words")),
            ("keywords:\n- mood\n\n# between\n- tears", ("mood", "tears")),
            ('tags: ["one, two", \'it\'\'s\', "a \\"b\\" \\u00fc"]', ("one, two", "it's", 'a "b" ü')),
            ('keywords: "one, two", three', ("one, two", "three")),
            ("keywords: C#, C++, node.js, don\u2019t, 日本", ("C#", "C++", "node.js", "don\u2019t", "日本")),
            ("keywords: [a, b]\ntags:\n  - b\n  - c", ("a", "b", "c")),
            ("keywords: [yes, 1e3, 2024-01-01, null, 1_0]", ("yes", "1e3", "2024-01-01", "null", "1_0")),
            ("'tags': x", ("x",)),
            ("keywords:", ()),
            ("keywords: []  # none", ()),
        ],
    )  # fmt: skip
    def test_keywords_in_every_style(self, block, keywords, source):
        for newline in ("\n", "\r\n"):
            text = f"---\n{block}\n---\nBody".replace("\n", newline)
            content, found, *_ = layer(source, text)
            assert (content, found) == (b"Body", keywords)

    def test_numbers_and_the_name_may_be_quoted_and_remarked(self, source):
        text = '---\nfrequency: \'2.5 Hz\' # a remark\ndepth: "7"\nname: "A # b"\n---\nBody'
        assert layer(source, text)[2:5] == (2.5, 7, "A # b")

    def test_keys_that_are_not_used_are_told_of_in_one_line(self, source):
        block = (
            "title: 'Notes: a, b'\ndate: 2024-01-01\nauthor:\n  name: {first: A}\n  links: [x,\n    y]\n"
            "summary: |\n  depth: 9\n\n  - not a keyword\n"
        )
        (source / "D15" / "1.md").write_text("---\ntitle: again\n---\nSecond")
        content, keywords, _, depth, _, said = layer(source, f"---\n{block}keywords: one\n---\nBody")
        assert (content, keywords, depth) == (b"Body", ("one",), 0)
        keys = "author (1 text), date (1 text), summary (1 text), title (2 texts)"
        assert said == f"warning: front matter keys that are not used: {keys}\n"

    @pytest.mark.parametrize(
        "text",
        [
            "---\nA text.\n---\n",
            "---\n# A heading\n---\ntext",
            "---\n---\ntext",
            "---\n\n\n---\n",
            "---\n- a list\n- of two\n---\n",
            "---\nHe said: go.\nAnd he went.\n---\n",
            "---\nNote: never closed",
            "---",
            "---\r\n\r\ntext\r\n---\r\n",
            "----\ndepth: 3\n----\n",
            " ---\ndepth: 3\n---\n",
            "text\n---\ndepth: 3\n---\n",
            "--- \ttext\n",
        ],
    )
    def test_a_rule_is_text(self, text, source):
        content, keywords, _, depth, _, said = layer(source, text)
        assert (content, keywords, depth, said) == (text.encode(), (), 0, "")

    @pytest.mark.parametrize(
        ("block", "line", "words"),
        [
            ("depth: 1\ndepth: 2", 3, "key 'depth' is there twice"),
            ("title: a\ntitle: b", 3, "key 'title' is there twice"),
            ("keywords: [a, b", 2, "bracket"),
            ("keywords: [a, [b]]", 2, "out of place"),
            ("keywords: {a: b}", 2, "out of place"),
            ("keywords: [a, , b]", 2, "out of place"),
            ("keywords: [a] b", 2, "not its end"),
            ('keywords: ["a" b]', 2, "comma is expected"),
            ('keywords: ["a]', 2, "quotes"),
            ('name: "a" b', 2, "behind its closing quote"),
            ("keywords:\n  - a\n  b", 2, "is not '- keyword'"),
            ("keywords:\n  -\n  - b", 2, "is not '- keyword'"),
            ("keywords: a\n  - b", 2, "beside the key, or below it"),
            ("keywords: &x a", 2, "quotes"),
            ("keywords: |\n  a", 2, "beside the key"),
            ('keywords: ["\\q"]', 2, "no escape"),
            ('keywords: ["\\ud800"]', 2, "surrogates"),
            ("depth: [1]", 2, "quotes"),
            ("depth: true", 2, "0..255"),
            ("depth: ٣", 2, "0..255"),
            ("depth:\n  1", 2, "one value is expected"),
            ("depth:", 2, "there is no value"),
            ("frequency: 1e400", 2, "above 0"),
            ("frequency: 1e39", 2, "frequency"),
            ("frequency: " + "9" * 5000, 2, "above 0"),
            ("frequency: .nan", 2, "above 0"),
            ("name: " + "x" * 65, 2, "65 bytes"),
            ("depth: 1\nprose", 3, "key: value"),
            ("depth:1\nkeywords: x", 2, "key: value"),
        ],
    )
    def test_what_is_wrong_names_its_line(self, block, line, words, source, tmp_path):
        (source / "D15" / "0.md").write_text(f"---\n{block}\n---\nBody")
        fails(run("build", source, tmp_path / "out"), 1, f"0.md:{line}: ", words)
        assert not (tmp_path / "out").exists()

    def test_any_block_is_read_or_refused(self):
        """Whatever stands between the rules: an answer or a FrontMatterError, never another error."""
        pieces = ["keywords:", " ", "[", "]", "'", '"', "\\", "#", ",", "-", "\n", "a", ":", "depth: 1", "{", "|", "é"]
        draw = random.Random(7)
        read = refused = 0
        for _ in range(3000):
            block = "".join(draw.choices(pieces, k=draw.randint(1, 14)))
            try:
                facts, n_lines, _ = front_matter(f"---\n{block}\n---\nBody")
            except FrontMatterError:
                refused += 1
            else:
                read += n_lines > 0
                assert facts.keys() <= {"keywords", "depth"}
        assert read > 100
        assert refused > 100


class TestFolders:
    def test_no_plan_is_needed(self, source, tmp_path):
        for name in ("D16-Humor", "content/D1000-Ann's notes", "D17"):
            (source / name).mkdir(parents=True)
            (source / name / "0.txt").write_text("text")
        (source / "D17" / "1.md").write_text("---\nname: Named inside\n---\n")
        report = json_of(run("build", source, tmp_path / "out", "--json"))
        named = [(each["id"], each["name"]) for each in report["dimensions"]]
        assert named == [(16, "Humor"), (17, "Named inside"), (1000, "Ann's notes")]

    def test_names_of_folders_are_composed(self, source, tmp_path):
        (source / "D16-Gru\u0308ße").mkdir()
        (source / "D16-Gru\u0308ße" / "0.md").write_text("x")
        named = json_of(run("build", source, tmp_path / "out", "--json"))["dimensions"][0]["name"]
        assert named == unicodedata.normalize("NFC", "Grüße")

    @pytest.mark.parametrize("name", ["D16-" + "x" * 65, os.fsdecode(b"D16-\xff")])
    def test_a_name_that_cannot_be_stored(self, name, source, tmp_path):
        (source / name).mkdir()
        (source / name / "0.md").write_text("x")
        fails(run("build", source, tmp_path / "out"), 1, "D16-")

    def test_two_folders_of_one_dimension(self, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        for other in ("D15-Humor", "content/D15"):
            (source / other).mkdir(parents=True)
            (source / other / "0.md").write_text("y")
        result = run("build", source, tmp_path / "out")
        fails(result, 1, "the texts of D15 are in", "D15-Humor")
        assert len(result.stderr.splitlines()) == 2

    def test_a_file_that_is_called_like_a_folder_is_passed_over_aloud(self, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        (source / "D16").write_text("y")
        result = run("build", source, tmp_path / "out")
        assert (result.exit_code, str(source / "D16") in result.stderr) == (0, True)
        assert not (tmp_path / "out" / "D16").exists()

    def test_a_folder_that_is_called_like_a_text(self, source, tmp_path):
        (source / "D15" / "0.md").mkdir()
        fails(run("build", source, tmp_path / "out"), 1, "0.md: Is a directory")

    def test_two_names_of_one_dimension(self, source, tmp_path):
        for layer_number, name in ((0, "One"), (1, "Two")):
            (source / "D15" / f"{layer_number}.md").write_text(f"---\nname: {name}\n---\n")
        fails(run("build", source, tmp_path / "out"), 1, "1.md: name: 'Two'", "0.md", "'One'")

    @pytest.mark.parametrize("name", ["0.rst", "notes.md", "0.MD", "0", "0.md.bak", "x/0.md"])
    def test_a_dimension_whose_texts_have_other_names(self, name, source, tmp_path):
        (source / "D15" / name).parent.mkdir(exist_ok=True)
        (source / "D15" / name).write_text("x")
        result = run("build", source, tmp_path / "out")
        assert result.exit_code == 1
        warning, error = result.stderr.splitlines()
        assert name.partition("/")[0] in warning
        assert "passed over" in warning
        assert error.startswith("error: ")
        assert "nothing to build" in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("files", [[], ["notes.txt"], ["Humor/0.md"]])
    def test_nothing_at_all_is_an_error(self, files, tmp_path):
        for name in files:
            (tmp_path / "source" / name).parent.mkdir(parents=True)
            (tmp_path / "source" / name).write_text("x")
        (tmp_path / "source").mkdir(exist_ok=True)
        fails(run("build", tmp_path / "source", tmp_path / "out"), 1, "nothing to build", "D15/0.md")

    def test_many_files_with_other_names_are_counted(self, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        for i in range(25):
            (source / "D15" / f"picture-{i}.png").write_bytes(b"x")
        lines = run("build", source, tmp_path / "out").stderr.splitlines()
        assert len(lines) == 11
        assert "15 more" in lines[-1]

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_byte_order_marks_are_in_no_text(self, mark, source):
        plan = {"dimensions": [{"id": 15, "name": "Humor"}]}
        (source / "dimensions.json").write_bytes(mark + json.dumps(plan).encode())
        assert layer(source, mark + b"---\ntags: a\n---\nBody")[:2] == (b"Body", ("a",))
        assert layer(source, mark + b"---\n\nRule")[0] == b"---\n\nRule"


class TestUnchanged:
    def build(self, source, *options):
        found = json_of(run("build", source, source.parent / "out", "--json", *options))["dimensions"][0]
        return found["generation"], found["changed"]

    def test_nothing_changed_means_nothing_is_written(self, source):
        (source / "D15" / "0.md").write_text("one")
        assert self.build(source) == (1, True)
        path = source.parent / "out" / "D15" / "region.mmap"
        before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
        assert self.build(source) == (1, False)
        assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
        assert "unchanged" in run("build", source, source.parent / "out").stdout

    @pytest.mark.parametrize("fact", ["depth: 1", "tags: a", "name: B", "frequency: 2"])
    def test_whatever_is_said_otherwise_is_the_next_generation(self, fact, source):
        self.changes(source, f"---\n{fact}\n---\none")

    @pytest.mark.parametrize("text", ["two", "one\n", ""])
    def test_another_text_is_the_next_generation(self, text, source):
        self.changes(source, text)

    def changes(self, source, change):
        (source / "D15" / "0.md").write_text("one")
        self.build(source)
        (source / "D15" / "0.md").write_text(change)
        assert self.build(source) == (2, True)
        assert self.build(source) == (2, False)

    def test_one_more_layer(self, source):
        (source / "D15" / "0.md").write_text("one")
        self.build(source)
        (source / "D15" / "1.md").write_text("")
        assert self.build(source) == (2, True)

    def test_a_plain_file_becomes_one_of_this_format(self, source):
        (source / "D15" / "0.md").write_text("one")
        path = source.parent / "out" / "D15" / "region.mmap"
        path.parent.mkdir(parents=True)
        path.write_bytes(plain_file([Layer(0, b"one")], 15, b"D15"))
        assert self.build(source)[1]
        with jm.MmapRegion(15, path) as region:
            assert (region.plain, region.layer(0).text) == (False, "one")

    def test_an_immutable_dimension(self, source):
        (source / "dimensions.json").write_text('{"dimensions": [{"id": 15, "name": "x", "immutable": true}]}')
        (source / "D15" / "0.md").write_text("one")
        assert [self.build(source), self.build(source)] == [(1, True), (1, False)]

    @pytest.mark.parametrize("at", [3, 90, 300, -1])
    def test_a_damaged_file_is_written_anew(self, at, source):
        (source / "D15" / "0.md").write_text("one")
        self.build(source)
        path = source.parent / "out" / "D15" / "region.mmap"
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)
        assert self.build(source)[1] is True
        assert run("verify", path).exit_code == 0


def plan_of(**fields: object) -> str:
    return json.dumps({"dimensions": [{"id": 15, "name": "x", **fields}]})


LAYERS = {"depth": True, "frequency": False, "keywords": "word", "layer": 1.0}


class TestPlan:
    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            ('{"dimensions": [\n\n {"id": 15,\n "name": "x",\n "id": 16}]}', [":3: ", "'id' is there twice"]),
            ('{"dimensions": [{"id": 15, "layers": [\n{"depth": 1, "depth": 2}]}]}', [":2: ", "'depth'"]),
            ('{"dimensions": [],\n "dimensions": []}', [":1: ", "'dimensions' is there twice"]),
            ('{"dimensions": [\n{"id": 15, "name": "x"},\n{"id": 15, "name": "y"}]}', [":3: ", "15 is there twice"]),
            (plan_of(layers=[{"layer": 0}, {"layer": 0}]), [":1: ", "layer 0 is there twice"]),
            (plan_of(id=True), ["id: True is not a whole number"]),
            (plan_of(id="15"), ["id: '15'"]),
            (plan_of(id=15.0), ["id: 15.0"]),
            (plan_of(id=None), ["id: None"]),
            (plan_of(id=2**32), ["expected 1.."]),
            (plan_of(size_mb=True), ["size_mb: True"]),
            (plan_of(size_mb="16"), ["size_mb: '16'"]),
            (plan_of(size_mb=-1), ["size_mb: -1"]),
            (plan_of(immutable="no"), ["immutable: 'no'"]),
            (plan_of(frequency=1e39), [":1: ", "frequency"]),
            (plan_of(frequency=float("nan")), ["frequency: nan"]),
            (plan_of(frequency=-float("inf")), ["frequency: -inf"]),
            (plan_of(frequency=10**400), ["frequency: inf"]),
            (plan_of(layers={}), ["layers: {} is not a list"]),
            (plan_of(layers=[7]), ["7 is not an object"]),
            (plan_of(layers=[{}]), ["'layer' is missing"]),
            (plan_of(layers=[{"layer": 0, "depth": 10**30}]), ["depth"]),
            (plan_of(layers=[{"layer": 70000}]), ["65535"]),
            (plan_of(layers=[{"layer": 0, "frequency": 1e39}]), ["frequency"]),
            (plan_of(layers=[{"layer": 0, "keywords": [1]}]), ["keywords", "not a text"]),
            (plan_of(layers=[{"layer": 0, "keywords": ["\ud83d"]}]), ["half of a character"]),
            (plan_of(name="\udcff"), ["name", "half of a character"]),
            (plan_of(name=["x"]), ["name"]),
            (plan_of(name=""), ["0 bytes"]),
            ('{"dimensions": [' + '{"a":' * 200_000, ["dimensions.json:1: it is nested too deeply"]),
            ('{"dimensions": ' + "[" * 200_000 + "]" * 200_000 + "}", ["nested too deeply"]),
            ('{"dimensions": [{"id": 1' + "0" * 5000 + ', "name": "x"}]}', ["id: inf"]),
            ('{"dimensions": [{"id": -1' + "0" * 5000 + ', "name": "x"}]}', ["id: -inf"]),
            ("", [":1: "]),
            ("null", ["expected an object"]),
            ('{"dimensions": {}}', ["expected an object"]),
            ('{"dimensions": [1, "x"]}', ["1 is not an object", "'x' is not an object"]),
            ('{\n"dimensions": []\n} x', [":3: "]),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_told_with_file_and_line(self, plan, words, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        (source / "dimensions.json").write_text(plan)
        fails(run("build", source, tmp_path / "out"), 1, "dimensions.json", *words)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("raw", [b"\xff\xfe{\0}\0", b'{"dimensions": [\n\xff]}', b"\0"])
    def test_what_is_no_text(self, raw, source, tmp_path):
        (source / "dimensions.json").write_bytes(raw)
        fails(run("build", source, tmp_path / "out"), 1, "dimensions.json:")

    @pytest.mark.parametrize("key", sorted(LAYERS))
    def test_wrong_types_in_a_layer(self, key, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        (source / "dimensions.json").write_text(plan_of(layers=[{"layer": 0} | {key: LAYERS[key]}]))
        fails(run("build", source, tmp_path / "out"), 1, "dimensions.json:1: dimension x: ", f"{key}: {LAYERS[key]!r}")

    def test_keys_that_are_not_used_are_told_of(self, source):
        (source / "dimensions.json").write_text(plan_of(colour="red", layers=[{"layer": 0, "keyword": ["a"]}]))
        assert layer(source, "x")[-1].endswith("dimensions.json: keys that are not used: colour, keyword\n")

    @pytest.mark.parametrize("size_mb", [1.7e308, 10**29, 1])
    def test_a_slot_larger_than_any_number_is_that_of_the_layout(self, size_mb, source):
        (source / "dimensions.json").write_text(plan_of(size_mb=size_mb))
        assert layer(source, "x")[0] == b"x"

    def test_a_time_that_is_none(self, source, tmp_path):
        (source / "D15" / "0.md").write_text("x")
        result = run("build", source, tmp_path / "out", env={"SOURCE_DATE_EPOCH": "yesterday"})
        fails(result, 1, "D15", "SOURCE_DATE_EPOCH", "'yesterday'")

    def test_a_plan_that_is_a_folder(self, source, tmp_path):
        (source / "dimensions.json").mkdir()
        fails(run("build", source, tmp_path / "out"), 1, "dimensions.json", "directory")
