"""A byte order mark, which some editors put before a text, says nothing: with and without one, the same is read."""

from __future__ import annotations

from codecs import BOM_UTF8

import pytest
from commands import fails, json_of, run

import jessy_mem as jm
from jessy_mem.trace import TraceWriter, read_trace

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

LAYOUT = """{"dimensions": [],
 "segments": [{"name": "memory", "size_mb": 8, "first_dimension": 1}]}"""
PLAN = """{"dimensions": [{"id": 1, "name": "One"}]}"""
NOTE = "---\ntags: [tea]\ndepth: 3\n---\nShe likes tea.\n"


def config_of(path):
    return jm.MemoryConfig.from_toml(path)


def layout_of(path):
    return jm.MemoryLayout.from_json(path)


def built(path):
    """The layer that ``build`` makes of a text."""
    folder = path.parent / "source" / "D15"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.md").write_bytes(path.read_bytes())
    out = path.parent / "built"
    run("build", folder.parent, out, catch_exceptions=False)
    with jm.MmapRegion(15, out / "D15" / "region.mmap") as region:
        view = region.layer(0)
        return bytes(view), view.keywords, view.depth


def planned(path):
    """The name that ``build`` takes from a plan."""
    folder = path.parent / "source"
    (folder / "D01").mkdir(parents=True, exist_ok=True)
    (folder / "D01" / "0.txt").write_text("x")
    (folder / "dimensions.json").write_bytes(path.read_bytes())
    return json_of(run("build", folder, path.parent / "built", "--json"))["dimensions"][0]["name"]


def learned(path, *options, **more):
    base = path.parent / f"base{len(list(path.parent.iterdir()))}"
    assert run("learn", base, "tea", *options, **more).exit_code == 0
    with jm.MmapManager(base_path=base) as memory:
        memory.load_all()
        view = memory[15, 0]
        return bytes(view), view.keywords, view.depth


READERS = {
    "config": ("total_memory_mb = 64\n", config_of),
    "config in a table": ("[jessy_mem]\ntotal_memory_mb = 64\n", config_of),
    "config that begins with a remark": ("# 64\ntotal_memory_mb = 64\n", config_of),
    "layout": (LAYOUT, layout_of),
    "plan of build": (PLAN, planned),
    "front matter of build": (NOTE, built),
    "text of build": ("plain", built),
    "front matter of learn": (NOTE, lambda path: learned(path, path)),
    "front matter from a pipe": (NOTE, lambda path: learned(path, "-", input=path.read_bytes())),
}


@pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
@pytest.mark.parametrize("name", READERS)
def test_mark_says_nothing(name, tmp_path):
    text, read = READERS[name]
    path = tmp_path / "input"
    path.write_text(text, encoding="utf-8")
    plain = read(path)
    path.write_bytes(BOM_UTF8 + text.encode())
    assert read(path) == plain


@pytest.mark.parametrize("n_accesses", [0, 1, 3])
def test_mark_before_a_trace_says_nothing(n_accesses, tmp_path):
    with TraceWriter(tmp_path / "trace") as trace:
        for layer in range(n_accesses):
            trace.record(1, layer, 4096)
    plain = read_trace(tmp_path / "trace")
    (tmp_path / "trace").write_bytes(BOM_UTF8 + (tmp_path / "trace").read_bytes())
    assert read_trace(tmp_path / "trace") == plain
    assert len(plain) == n_accesses


@pytest.mark.parametrize("name", ["config", "layout"])
@pytest.mark.parametrize(
    ("data", "line"),
    [("x = 1".encode("utf-16"), 1), (b"\n\n\xe9 = 1", 3), (BOM_UTF8 + b"\n\xff", 2)],
    ids=["utf-16", "latin-1", "mark before no text"],
)
def test_what_is_not_utf_8_names_its_file_and_line(name, data, line, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"input:{line}: byte 0x.. is not UTF-8"):
        READERS[name][1](path)


@pytest.mark.parametrize("command", ["build", "learn"])
def test_commands_say_what_is_not_utf_8(command, tmp_path):
    (tmp_path / "D15").mkdir()
    note = tmp_path / "D15" / "0.md"
    note.write_bytes("text".encode("utf-16"))
    args = ("build", tmp_path, tmp_path / "out") if command == "build" else ("learn", tmp_path / "out", "tea", note)
    fails(run(*args), 1, "0.md:1: ", "is not UTF-8")
