"""Learning and forgetting by name, from the command line; and what is shown of a dimension that has grown."""

from __future__ import annotations

import errno
import json
import os

import pytest
from commands import fails, flip, json_of, on_terminal, run, spawn

import jessy_mem as jm

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")


@pytest.fixture
def base(tmp_path):
    return tmp_path / "base"


@pytest.fixture
def note(tmp_path):
    path = tmp_path / "note.md"
    path.write_text("---\ntags: [tea]\nfrequency: 2.5\ndepth: 3\n---\nShe likes tea.\n")
    return path


def texts(base, name: str) -> list[str]:
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        dimension = memory.ensure_dimension(name)
        return [memory[layer].text for layer in memory.layers(dimension)]


class TestLearn:
    def test_texts_become_layers_of_one_change(self, base, note, tmp_path):
        (tmp_path / "plain.txt").write_text("plain")
        result = run("learn", base, "user:ann", note, tmp_path / "plain.txt", "-", "--user", input="from a pipe")
        assert (result.exit_code, result.stdout) == (0, "D1000/L0\nD1000/L1\nD1000/L2\n")
        assert texts(base, "user:ann") == ["She likes tea.\n", "plain", "from a pipe"]
        assert [path.name for path in (base / "D1000").iterdir()] == ["region.mmap"]
        with jm.MmapRegion(1000, base / "D1000/region.mmap") as region:
            view = region.layer(0)
            assert (view.keywords, view.frequency, view.depth) == (("tea",), 2.5, 3)

    def test_the_same_name_grows(self, base, note):
        run("learn", base, "tea", note)
        found = json_of(run("learn", base, "tea", note, note, "--json"))
        assert found == {"base": str(base), "name": "tea", "dimension": 15, "layers": ["D15/L1", "D15/L2"]}
        assert texts(base, "tea") == 3 * ["She likes tea.\n"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"---\ndepth: 1\ndepth: 2\n---\n", ["bad.md:3: ", "'depth' is there twice"]),
            (b"a\n\xff", ["bad.md:2: ", "UTF-8"]),
            (None, ["does not exist"]),
        ],
    )
    def test_nothing_is_learned_unless_all_is_sound(self, content, words, base, note, tmp_path):
        if content is not None:
            (tmp_path / "bad.md").write_bytes(content)
        fails(run("learn", base, "tea", note, tmp_path / "bad.md"), 2 if content is None else 1, *words)
        assert not base.exists()

    def test_all_problems_are_told(self, base, tmp_path):
        for name in ("one.md", "two.md"):
            (tmp_path / name).write_bytes(b"\xff")
        result = run("learn", base, "tea", tmp_path / "one.md", tmp_path / "two.md")
        fails(result, 1, "one.md", "two.md")
        assert len(result.stderr.splitlines()) == 2

    def test_a_text_that_cannot_be_read_is_told_with_the_others(self, base, note, tmp_path, inject):
        (tmp_path / "bad.md").write_bytes(b"\xff")
        with inject(OSError(errno.EIO, "I/O error"), "pathlib.Path.read_bytes", for_good=False):
            result = run("learn", base, "tea", note, tmp_path / "bad.md")
        fails(result, 1, f"{note}: I/O error", "bad.md", "UTF-8")
        assert not base.exists()

    def test_a_dimension_that_is_damaged_is_named(self, base, note):
        run("learn", base, "tea", note)
        flip(base / "D15/region.mmap", 90)
        fails(run("learn", base, "tea", note), 1, "D15/region.mmap", "magic")

    def test_standard_input_that_is_closed_is_no_text(self, base):
        result = spawn("learn", base, "tea", "-", preexec_fn=lambda: os.close(0))
        assert (result.returncode, result.stderr) == (1, b"error: standard input is closed\n")

    def test_keys_that_are_not_used_are_told_of(self, base, tmp_path):
        (tmp_path / "note.md").write_text("---\ntitle: x\nname: Other\ndepth: 1\n---\ntext")
        result = run("learn", base, "tea", tmp_path / "note.md")
        assert result.exit_code == 0
        assert result.stderr == "warning: front matter keys that are not used: name (1 text), title (1 text)\n"
        assert texts(base, "tea") == ["text"]

    @pytest.mark.parametrize(
        ("name", "word"), [("", "0 bytes"), ("x" * 65, "65 bytes"), (os.fsdecode(b"\xff"), "\\udcff")]
    )
    def test_a_name_that_is_none(self, name, word, base, note):
        fails(run("learn", base, name, note), 1, word)

    def test_standard_input_is_read_once(self, base):
        fails(run("learn", base, "tea", "-", "-", input="x"), 2, "once")

    def test_a_core_dimension_without_a_file_is_begun_and_nothing_is_invented(self, base, note):
        names = [jm.default_layout().dimensions[each].name for each in (1, 9)]
        assert json_of(run("learn", base, names[0], note, "--json"))["layers"] == ["D01/L0"]
        assert texts(base, names[0]) == ["She likes tea.\n"]
        fails(run("learn", base, names[1], note), 1, "D09", "immutable")


class TestForget:
    def test_it_is_gone_with_its_files(self, base, note):
        for _ in range(3):
            run("learn", base, "tea", note)
        assert json_of(run("forget", base, "tea", "--yes", "--json"))["dimension"] == 15
        assert not (base / "D15").exists()
        assert run("learn", base, "tea", note).stdout == "D16/L0\n"

    def test_without_a_terminal_it_is_not_asked(self, base, note):
        run("learn", base, "tea", note)
        fails(run("forget", base, "tea", input="y\n"), 2, "--yes")
        assert texts(base, "tea")

    @pytest.mark.parametrize(("answer", "status"), [(b"n\n", 1), (b"y\n", 0)])
    def test_on_a_terminal_it_asks(self, answer, status, base, note):
        run("learn", base, "t\x1b[2Jea", note)
        shown = on_terminal("forget", base, "t\x1b[2Jea", status=status, answer=answer)
        assert rb"Forget D15 t\x1b[2Jea" in shown
        assert (base / "D15").exists() == bool(status)

    def test_a_name_that_nothing_has(self, base, note):
        run("learn", base, "tea", note)
        fails(run("forget", base, "coffee", "--yes"), 1, "'coffee'")

    def test_what_can_be_no_name(self, base, note):
        run("learn", base, "tea", note)
        fails(run("forget", base, "x" * 65, "--yes"), 1, "65 bytes")

    def test_what_is_immutable_stays(self, base):
        jm.RegionBuilder(15, "stone", immutable=True).add_layer(jm.LayerSpec(text="x")).write(base / "D15/region.mmap")
        fails(run("forget", base, "stone", "--yes"), 1, "immutable")
        assert (base / "D15/region.mmap").exists()


@pytest.fixture
def grown(base):
    """Layers 0 and 2 of three that were learned one by one; 1 was removed, 2 replaced."""
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        spec = jm.LayerSpec(text="x" * 2000, attributes={"who": "ann\x1b[2J"}, n_tokens=7, keywords=["tea"])
        dimension = memory.ensure_dimension("tea", [spec])
        memory.extend(dimension, [jm.LayerSpec(text="one"), jm.LayerSpec(text="two")])
        memory.update_layer((dimension, 2), jm.LayerSpec(text="zwei"))
        memory.remove_layer((dimension, 1))
    return base


class TestStacks:
    def test_inspect_shows_each_file(self, grown):
        found = json_of(run("inspect", grown / "D15", "--json"))
        counted = [(file["generation"], file["added"], file["replaced"], file["removed"]) for file in found["files"]]
        assert counted == [(1, 1, 0, 0), (2, 2, 0, 0), (3, 0, 1, 0), (4, 0, 0, 1)]
        assert sum(file["size_bytes"] for file in found["files"]) == found["size_bytes"]
        assert (found["n_layers"], found["generation"], found["format"]) == (2, 4, "V1, extension 2")
        assert [layer["layer"] for layer in found["layers"]] == [0, 2]
        shown = run("inspect", grown / "D15").stdout
        assert shown.index("delta-0000000000000004") < shown.index("delta-0000000000000002")
        (dimension,) = json_of(run("inspect", grown, "--json"))["dimensions"]
        assert len(dimension["files"]) == 4

    def test_inspect_shows_what_is_known_of_layers(self, grown):
        first, second = json_of(run("inspect", grown / "D15", "--json", "--layers"))["layers"]
        assert (first["attributes"], first["n_tokens"]) == ({"who": "ann\x1b[2J"}, 7)
        assert (second["attributes"], second["n_tokens"]) == ({}, None)
        assert first["created"].endswith("UTC")
        shown = run("inspect", grown / "D15", "--layers").stdout
        assert "ann" in shown
        assert "\x1b" not in shown
        fails(run("inspect", grown, "--layers"), 2, "FILE")

    def test_inspect_a_dimension_without_layers(self, grown):
        with jm.MmapManager(base_path=grown, simulation="never") as memory:
            dimension = memory.ensure_dimension("tea")
            for layer in memory.layers(dimension):
                memory.remove_layer(layer)
        assert json_of(run("inspect", grown / "D15", "--json"))["frequency_band"] is None
        for target in (grown, grown / "D15", *(grown / "D15").iterdir()):
            assert run("inspect", target).exit_code == 0

    @pytest.mark.parametrize("place", [("inspect", "D15"), ("inspect", "."), ("inspect", "D15", "--layers")])
    def test_text_from_files_is_escaped(self, place, base):
        spec = jm.LayerSpec(text="x", attributes={"\u202e": "\x9b31m"}, keywords=["\x1b]0;x\x07"])
        with jm.MmapManager(base_path=base, simulation="never") as memory:
            memory.append_layer(memory.ensure_dimension("a\u202eb", [spec]), jm.LayerSpec(text="y"))
        shown = run(place[0], base / place[1], *place[2:]).stdout
        assert not {"\x1b", "\u202e", "\x9b", "\x07"} & set(shown)

    def test_verify_names_the_file_that_is_damaged(self, grown):
        flip(grown / "D15/delta-0000000000000003.mmap")
        for target in (grown, grown / "D15"):
            found = json_of(run("verify", target, "--json"), 1)
            damaged = {os.path.basename(file["path"]): bool(file["damage"]) for file in found["files"]}
            assert damaged == {
                "region.mmap": False,
                "delta-0000000000000002.mmap": False,
                "delta-0000000000000003.mmap": True,
                "delta-0000000000000004.mmap": False,
            }

    def test_verify_when_the_base_is_damaged(self, grown):
        flip(grown / "D15/region.mmap", 90)
        result = run("verify", grown)
        assert (result.exit_code, result.stdout.count("DAMAGED")) == (1, 1)
        assert result.stdout.count("sound") == 3

    def test_verify_a_delta_in_the_place_of_another(self, grown):
        delta = grown / "D15/delta-0000000000000004.mmap"
        delta.rename(grown / "D15/delta-0000000000000009.mmap")
        result = run("verify", grown)
        assert result.exit_code == 1
        assert "generation" in result.stdout
        assert json.loads(run("doctor", grown, "--json").stdout)["findings"][0]["kind"] == "damaged"


def test_what_only_another_plan_has_room_for_is_learned_and_asked_for(base, tmp_path):
    """Of a dimension that is larger than its segment in the bundled plan."""
    large, total = tmp_path / "large.md", ("--total", "560MB")
    large.write_text("---\nkeywords: [tea]\n---\n" + "x" * (33 << 20))
    fails(run("learn", base, "large", large, "--user"), 1)
    assert run("learn", base, "large", large, "--user", *total).exit_code == 0
    more = tmp_path / "more.md"
    more.write_text("more")
    fails(run("learn", base, "large", more), 1)
    assert run("learn", base, "large", more, *total).exit_code == 0
    assert json_of(run("ask", base, "tea", "--json", *total))["layers"]
    assert run("doctor", base).exit_code == 1
    assert run("doctor", base, *total).exit_code == 0
