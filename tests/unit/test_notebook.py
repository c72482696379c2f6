"""What a notebook shows of each object: escaped, without scripts, no more than is shown is read, and it never fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from pages import Page

import jessy_mem as jm
from jessy_mem import notebook
from jessy_mem.context import ContextCollection, LoadedContext
from jessy_mem.layout import LayerId
from jessy_mem.stats import Lease, Leases, LoadReport

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror='a' \x1b[2J\u202e\">&amp;"


def shown(thing) -> Page:
    """What a notebook shows of it, which is nothing that could do anything."""
    page = Page(thing._repr_html_())
    assert set(page.tags) <= {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "b", "pre"}
    assert {name for name, _ in page.attributes} <= {"style", "title", "role", "aria-label"}
    for name, value in page.attributes:
        if name == "style":
            assert not re.search(r"url|@import|expression|(?<![-\w])color:", value), "colours are the page's"
    assert not {"\x1b", "\u202e"} & set(page.words)
    return page


@pytest.fixture
def base(tmp_path):
    layers = [jm.LayerSpec(text=f"{HOSTILE} {i} " + "x" * 5000, keywords=[HOSTILE]) for i in range(30)]
    builder = jm.RegionBuilder(1, HOSTILE[:60])
    for layer in layers:
        builder.add_layer(layer)
    builder.write(jm.region_path(tmp_path, 1))
    return tmp_path


@pytest.fixture
def memory(base):
    with jm.MmapManager(base_path=base, simulation="never") as manager:
        manager.load_dimension(1)
        yield manager


@pytest.mark.thread_unsafe(reason="its threads would learn one name, or shorten a file that others read")
def test_manager_shows_the_memory_map_and_its_numbers(memory):
    memory.create_proto_dimension("learned <b>", [jm.LayerSpec(text="tea")])
    page = shown(memory)
    for word in (str(memory.config.base_path), "2 dimensions", "core:", "reserve:", "user:", "learned <b>", "pool"):
        assert word in page.words
    assert "budget" in page.words
    assert any(name == "title" and "D02" in value and "empty slot" in value for name, value in page.attributes)


def test_region_shows_its_first_layers_and_how_many_more(memory):
    page = shown(memory.region(1))
    assert page.tags.count("tr") == 5 + 1 + notebook.N_SHOWN
    assert "… and 10 more layers" in page.words
    assert "<script>" in page.words


def test_view_shows_the_beginning_of_its_content(memory):
    page = shown(memory.access_layer((1, 3)))
    assert "D01/L3" in page.words
    assert "</pre><script>alert(1)</script>" in page.words
    assert 300 < page.words.count("x") <= notebook.N_SHOWN_BYTES
    assert "bytes more" in page.words


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ""),
        (b"\0\xff\x1b", r"b'\x00\xff\x1b'"),
        (b"a\xffb", r"a\xffb"),
        ("ß".encode() * 150 + b"a" + "ß".encode() * 200, "ß" * 150 + "a" + "ß" * 49),
    ],
)
def test_content_that_is_no_text_or_cut_in_a_character(content, expected, tmp_path):
    path = jm.RegionBuilder(15, "x").add_layer(jm.LayerSpec(content=content)).write(tmp_path / "region.mmap")
    with jm.MmapRegion(15, path) as region:
        page = shown(region.layer(0))
    assert expected in page.words
    assert "\\xc3" not in page.words


def test_contexts_report_and_leases(memory):
    context = LoadedContext(LayerId(1, 0), HOSTILE * 50, 1.6, (HOSTILE,), 0, "mmap")
    assert "D01/L0" in shown(context).words
    assert "characters more" in shown(context).words
    page = shown(ContextCollection([context] * 50, [LayerId(9, 9)] * 50))
    assert "50 contexts; not available: 50" in page.words
    assert "… and 30 more contexts" in page.words
    assert shown(ContextCollection()).words.startswith("0 contexts")
    report = LoadReport([1], [2], {dimension: ValueError(HOSTILE) for dimension in range(3, 103)})
    assert "1 loaded, 1 simulated, 100 skipped" in shown(report).words
    assert "… and 80 more dimensions" in shown(report).words
    assert "retired" in shown(Lease(1, 2, 4096, 3, True, (HOSTILE,))).words
    assert "budget" in shown(memory.get_stats()).words


def test_leases_are_a_list_that_is_shown_as_a_table(memory):
    with_site = [Lease(dimension, 2, 4096, 3, True, (HOSTILE,)) for dimension in range(1, 31)]
    page = shown(Leases(with_site))
    assert "30 leases, 120 KiB" in page.words
    assert "… and 10 more leases" in page.words
    assert "taken at" in page.words
    assert page.tags.count("tr") == 1 + notebook.N_SHOWN
    assert shown(Leases()).words == "0 leases, 0 B"


@pytest.mark.thread_unsafe(reason="the leases are those of the whole manager")
def test_leases_of_a_manager(memory):
    assert (memory.leases(), shown(memory.leases()).words) == ([], "0 leases, 0 B")
    held = memory.access_layer((1, 0))
    (lease,) = found = memory.leases()
    assert found == [lease]
    assert isinstance(found, list)
    assert repr(found) == f"[{lease!r}]"
    page = shown(found)
    assert "1 lease, " in page.words
    assert "taken at" not in page.words
    assert lease.n_views == 1
    assert held.id == (1, 0)


@pytest.mark.thread_unsafe(reason="its threads would learn one name, or shorten a file that others read")
def test_what_is_closed_damaged_or_gone_is_shown_with_the_reason(base):
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_dimension(1)
        view = memory.access_layer((1, 2))
        region = memory.region(1)
        os.truncate(jm.region_path(base, 1), 4096)
        assert "RegionTruncated" in shown(view).words
        shown(region)
        shown(memory)
    assert "0 dimensions" in shown(memory).words
    path = jm.RegionBuilder(1, "x").add_layer(jm.LayerSpec(text="x")).write(base / "region.mmap")
    with jm.MmapRegion(1, path) as closed:
        pass
    assert "closed" in shown(closed).words


def test_what_fails_shows_its_text_and_the_error():
    class Broken:
        def __repr__(self):
            return HOSTILE

        @notebook.never_fails
        def _repr_html_(self):
            raise RuntimeError(HOSTILE)

    class Worse(Broken):
        def __repr__(self):
            raise RuntimeError

    assert "RuntimeError" in shown(Broken()).words
    assert "Worse" in shown(Worse()).words


def test_many_dimensions_are_shown_by_the_first_of_them(tmp_path):
    entries = [jm.MapEntry(n, f"d{n}", "user", "file", n_bytes=4096, n_layers=1) for n in range(1000, 11_000)]
    segment = jm.MapSegment("user", 0, 1 << 30, 10_000 * 4096)
    made = jm.MemoryMap(str(tmp_path), (segment,), tuple(entries))
    page = shown(made)
    assert len(made._repr_html_()) < 100_000
    assert "… and 9,980 more dimensions" in page.words
    assert any("9,800 more dimensions: 38.3 MiB" in (value or "") for _, value in page.attributes)


def test_importing_makes_none_of_it():
    code = "import sys, jessy_mem; sys.exit('jessy_mem.map_page' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
