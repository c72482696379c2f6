"""The memory map: of a manager, of a folder, on a terminal, and as a page that Chromium opens."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from commands import fails, flip, json_of, on_terminal, run, spawn
from inside import evict
from pages import Page

import jessy_mem as jm
from helpers import HUNG_S

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

MARKUP = "</script><b>&\"'\x1b[2J\u202e"
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # no Unicode
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two core dimensions, one of them damaged; two learned ones, one with a delta; and what is no dimension."""
    folder = tmp_path_factory.mktemp("map") / f"base {MARKUP}".replace("/", "_")
    for dimension, name in ((1, "Emotion"), (4, "Social")):
        jm.RegionBuilder(dimension, name).add_layer(jm.LayerSpec(text="x" * 9000)).write(
            jm.region_path(folder, dimension)
        )
    path = jm.region_path(folder, 4)
    path.write_bytes(path.read_bytes()[:500])
    with jm.MmapManager(base_path=folder, simulation="never") as memory:
        learned = memory.ensure_dimension(MARKUP, [jm.LayerSpec(text="tea " * 50_000)])
        memory.append_layer(learned, jm.LayerSpec(text="and cake"))
        memory.ensure_dimension("user:ann", [jm.LayerSpec(text="tea")], user=True)
    (folder / "D20").mkdir()
    (folder / "D21").write_bytes(b"a file")
    (folder / "notes.txt").write_text("none")
    return folder


def test_map_of_a_folder_and_of_its_manager_agree(base):
    of_folder = jm.MemoryMap.of_folder(base)
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_all()
        of_manager = jm.MemoryMap.of(memory, residency=True)
    sound = [entry for entry in of_folder.present if entry.state != "damaged"]
    assert [entry.dimension for entry in sound] == [1, 15, 1000]
    assert sound == list(of_manager.present)
    assert [entry.n_deltas for entry in sound] == [0, 1, 0]
    assert [segment.used_bytes for segment in of_manager.segments] == [
        sum(entry.n_bytes for entry in of_manager.in_segment(segment.name)) for segment in of_manager.segments
    ]
    assert {entry.dimension for entry in of_folder.present} - {1, 15, 1000} == {4, 21}


def test_map_of_a_manager_knows_where_each_dimension_is(tmp_path):
    jm.RegionBuilder(1, "Emotion").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 1))
    with jm.MmapManager(base_path=tmp_path, simulation="auto") as memory:
        memory.load_dimension(1)
        with pytest.warns(UserWarning, match="simulated"):
            memory.load_dimension(2)
        learned = memory.create_proto_dimension("x", [jm.LayerSpec(text="x")])
        block = memory.allocate(10_000)
        found = jm.MemoryMap.of(memory)
        states = {1: "file", 2: "simulated", learned: "pool"}
        assert {entry.dimension: entry.state for entry in found.present} == states
        evict(memory, 1)
        evicted = jm.MemoryMap.of(memory).present
        assert {entry.dimension: entry.state for entry in evicted} == states | {1: "evicted"}
        assert evicted[0].n_bytes == found.present[0].n_bytes
        assert "blocks, and what is held of older versions" in found.to_html()
        memory.deallocate(block)
        memory.forget(learned)
    assert jm.MemoryMap.of(memory).present == ()
    assert len(jm.MemoryMap.of(memory).entries) == len(jm.default_layout().dimensions)


def test_command_gives_the_map_as_json(base):
    report = json_of(run("map", base, "--json"), status=1)
    assert report["base_path"] == str(base)
    by_id = {entry["dimension"]: entry for entry in report["entries"]}
    assert by_id[15]["name"] == MARKUP
    assert by_id[4]["state"] == by_id[21]["state"] == "damaged"
    assert "500 bytes" in by_id[4]["problem"]
    assert by_id[2]["state"] == "none"
    assert json.dumps(report)


@pytest.mark.parametrize("columns", [40, 80, 140])
@pytest.mark.parametrize("locale", [{"PYTHONUTF8": "1"}, PLAIN])
def test_map_fits_the_terminal(columns, locale, base):
    done = spawn("map", base, env={"COLUMNS": str(columns)} | locale)
    assert done.returncode == 1
    lines = done.stdout.decode("utf-8" if "LC_ALL" not in locale else "ascii").splitlines()
    whole = [line for line in lines if "cannot be read" not in line][1:]  # whose paths are not cut
    assert max(map(len, whole)) <= columns
    bars = [line for line in lines if re.fullmatch(r"[#=!.]{20,}|[█▒!·]{20,}", line)]
    assert [len(bar) for bar in bars] == [min(columns, 100)] * 3
    assert [bar.count("!") for bar in bars] == [1, 1, 0]
    assert bars[0][0] in "#█"
    assert b"\x1b" not in done.stdout
    listed = [line for line in lines if re.match(r"D\d+ ", line)]
    assert not [line for line in listed if line.startswith("D02")], "an empty slot is no row"


def test_map_names_empty_slots_in_a_line(tmp_path):
    jm.RegionBuilder(15, "policies").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 15))
    result = run("map", tmp_path)
    assert "empty slots: D01..D14" in result.stdout
    assert [line[:3] for line in result.stdout.splitlines() if re.match(r"D\d", line)] == ["D15"]


def test_map_has_colours_on_a_terminal_only(base):
    assert b"\x1b[36m" in on_terminal("map", base, status=1)
    assert b"\x1b[36m" not in on_terminal("map", base, status=1, env={"NO_COLOR": "1"})


def test_map_is_that_of_the_plan_that_the_folder_is_used_with(tmp_path):
    with jm.MmapManager(base_path=tmp_path / "base", simulation="never", layout=jm.MemoryLayout.free(280)) as memory:
        memory.ensure_dimension("mine", [jm.LayerSpec(text="x")])
    plan = tmp_path / "plan.json"
    plan.write_text('{"dimensions": [], "segments": [{"name": "memory", "size_mb": 280, "first_dimension": 1}]}')
    whole = json_of(run("map", tmp_path / "base", "--json"))
    own = json_of(run("map", tmp_path / "base", "--json", "--layout", plan))
    larger = json_of(run("map", tmp_path / "base", "--json", "--total", "560MB"))
    assert [(each["name"], each["size_bytes"] >> 20) for each in own["segments"]] == [("memory", 280)]
    assert [each["size_bytes"] >> 20 for each in larger["segments"]] == [336, 160, 64]
    for found in (whole, own, larger):
        present = [each for each in found["entries"] if each["state"] == "file"]
        assert [(each["dimension"], each["name"]) for each in present] == [(15, "mine")]
    assert [each["dimension"] for each in own["entries"]] == [15]


def test_what_is_no_base_folder_is_one_line(tmp_path):
    fails(run("map", tmp_path), 1, "holds no dimension")
    fails(run("map", tmp_path / "nowhere"), 2, "does not exist")
    jm.RegionBuilder(1, "x").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 1))
    assert run("map", tmp_path).exit_code == 0
    fails(run("map", tmp_path, "--html", tmp_path / "no" / "page.html"), 1, "No such file")


def test_nothing_is_written_into_the_folder(tmp_path):
    jm.RegionBuilder(1, "x").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 1))
    before = sorted(tmp_path.rglob("*"))
    assert run("map", tmp_path).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_damage_of_content_is_not_looked_for(tmp_path):
    path = jm.RegionBuilder(1, "x").add_layer(jm.LayerSpec(text="x" * 99)).write(jm.region_path(tmp_path, 1))
    flip(path)
    assert jm.MemoryMap.of_folder(tmp_path).present[0].state == "file"


@pytest.fixture(scope="module")
def page(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "map.html"
    assert run("map", base, "--html", out).exit_code == 1
    return out.read_text(encoding="utf-8")


def test_page_needs_nothing_else_and_escapes_everything(page):
    parsed = Page(page.replace("<!DOCTYPE html>", ""))
    assert parsed.tags.count("script") == 1
    assert "b" not in parsed.tags
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert MARKUP.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in parsed.words
    links = [value for name, value in parsed.attributes if name in ("src", "href", "action")]
    assert links == ["data:,"]
    assert "http" not in page.replace("http-equiv", "")
    rows = re.findall(r'<tr id="D(\d+)">', page)
    assert {row for name, row in parsed.attributes if name == "data-row" and row} == {f"D{row}" for row in rows}


def test_page_of_many_dimensions_says_how_many_more(base):
    entries = [jm.MapEntry(n, "", "user", "file", n_bytes=4096) for n in range(1000, 11_000)]
    made = jm.MemoryMap("x", (jm.MapSegment("user", 0, 1 << 30, 40_960_000),), tuple(entries)).to_html()
    assert "… and 8,000 more" in made
    assert len(made) < 2_000_000


def test_map_of_many_dimensions_says_how_many_more(tmp_path):
    path = jm.RegionBuilder(1000, "x").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 1000))
    for n in range(1001, 1300):
        (tmp_path / f"D{n}").mkdir()
        (tmp_path / f"D{n}" / "region.mmap").symlink_to(path)  # each says that it is another's
    shown = run("map", tmp_path).stdout
    assert "more; --json has them all" in shown
    assert "D1299: " in shown


def test_dimension_whose_file_leads_nowhere_is_damaged(tmp_path):
    (tmp_path / "D15").mkdir()
    (tmp_path / "D15" / "region.mmap").symlink_to("nowhere")
    (tmp_path / "D16").mkdir()
    (entry,) = jm.MemoryMap.of_folder(tmp_path).present
    assert (entry.dimension, entry.state, entry.n_bytes) == (15, "damaged", 0)


PROBE = """
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, told = page.getElementById("told");
  const parts = [...page.querySelectorAll(".bar button")], found = {};
  const key = (name) => page.activeElement.dispatchEvent(
    new frame.contentWindow.KeyboardEvent("keydown", {key: name, bubbles: true, cancelable: true}));
  found.width = page.documentElement.scrollWidth;
  found.narrowest = Math.min(...parts.filter((part) => part.dataset.row).map((part) => part.offsetWidth));
  parts[0].dispatchEvent(new frame.contentWindow.MouseEvent("mouseenter"));
  found.hover = told.textContent;
  found.ends = [];
  parts[0].focus();
  for (const name of ["ArrowRight", "ArrowRight", "ArrowRight", "End", "ArrowRight", "Home"]) {
    key(name);
    found.ends.push(parts.indexOf(page.activeElement));
  }
  found.n = parts.length;
  parts[3].click();
  found.chosen = [...page.querySelectorAll(".chosen")].map((row) => row.id);
  const style = getComputedStyle(page.body);
  found.ink = style.color; found.paper = style.backgroundColor;
  document.body.dataset.found = JSON.stringify(found);
});
"""


def in_chromium(page: str, tmp_path, width: int, *options: str) -> tuple[dict, list[str]]:
    """What a page is and does in a window of `width`, and what it said on the console."""
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    (tmp_path / "probe.html").write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body>{frame}<script>{PROBE}</script>',
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "probe.html").as_uri()], capture_output=True, text=True, timeout=HUNG_S
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page in")
class TestInChromium:
    @pytest.mark.parametrize("width", [400, 1400])
    def test_page_fits_and_answers_pointer_and_keys(self, width, page, tmp_path):
        found, console = in_chromium(page, tmp_path, width)
        assert console == []
        assert found["width"] <= width
        assert found["narrowest"] >= 3
        assert found["hover"].startswith("D01 Emotion: 12.8 KiB of a slot of 16 MiB, 1 layer, file")
        assert found["ends"] == [1, 2, 3, found["n"] - 1, found["n"] - 1, 0]
        assert found["chosen"] == ["D4"]

    def test_page_follows_light_and_dark(self, page, tmp_path):
        light, _ = in_chromium(page, tmp_path, 1000)
        dark, _ = in_chromium(page, tmp_path, 1000, "--blink-settings=preferredColorScheme=0")
        assert (light["ink"], light["paper"]) != (dark["ink"], dark["paper"])

    def test_errors_on_the_console_would_be_seen(self, page, tmp_path):
        _, console = in_chromium(page.replace("</body>", "<img src='https://a.example/x.png'></body>"), tmp_path, 400)
        assert any("Content Security Policy" in line for line in console)
