"""The golden files: what was written once stays readable, and tests only read it."""

from __future__ import annotations

import hashlib

import pytest

from helpers import GOLDEN, QUIET, SAMPLE, golden_files, read_region
from jessy_mem import compression
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import LayerSpec, RegionBuilder

SUMS = dict(reversed(line.split("  ")) for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
NAMES = sorted(SUMS)
# Name: (extended, generation, immutable, numbers of the layers).
FACTS = {
    "extension-1-compressed.mmap": (True, 3, False, [0, 1]),
    "extension-1-immutable.mmap": (True, 1, True, [0, 1, 7, 9]),
    "extension-1-raw.mmap": (True, 2**40, False, [0, 1, 7, 9]),
    "plain-v1.mmap": (False, 0, False, [0, 1, 7, 9]),
}


def assert_unchanged() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*NAMES, "SHA256SUMS"}
    for name in NAMES:
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == SUMS[name]


@pytest.fixture(scope="module", autouse=True)
def unchanged():
    """The golden files are what SHA256SUMS says, and no others are there, before and after the tests of this file."""
    assert_unchanged()
    yield
    assert_unchanged()


def test_golden_files_are_small_and_are_those_of_the_helper():
    made = golden_files()
    assert NAMES == sorted(made) == sorted(FACTS)
    for name, data in made.items():
        assert (GOLDEN / name).read_bytes() == data
        assert len(data) < 10_000


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_is_read_by_struct(name):
    region = read_region((GOLDEN / name).read_bytes())
    found = (region.extended, region.generation, region.immutable, [layer.layer for layer in region.layers])
    assert found == FACTS[name]
    assert (region.dimension_id, region.name) == (3, b"Intention")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verify", ["lazy", "open"])
def test_golden_file_is_read(name, verify):
    _, generation, immutable, numbers = FACTS[name]
    with MmapRegion(3, GOLDEN / name, verify=verify) as region:
        assert (region.name, region.generation, region.immutable) == ("Intention", generation, immutable)
        assert [layer_id.layer for layer_id in region.layers()] == numbers
        view = region.layer(0)
        assert view.text == "surface: a plain sentence"
        assert (view.depth, view.frequency, view.keywords) == (0, 1.5, ("mood", "tears"))
        assert region.verify() == []
        if len(numbers) == 4:
            assert (region.layer(1).text, region.layer(1).frequency) == ("Grüße aus der Tiefe", 0.25)
            assert bytes(region.layer(7)) == bytes(range(256)) * 17
            assert region.layer(7).keywords == ("größe", "")
            assert bytes(region.layer(9)) == b""
        elif compression.is_available():
            assert bytes(region.layer(1)) == QUIET


def test_golden_file_is_what_the_builder_writes_today(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for name, immutable in (("extension-1-raw.mmap", False), ("extension-1-immutable.mmap", True)):
        builder = RegionBuilder(3, "Intention", immutable=immutable, generation=FACTS[name][1])
        for layer in SAMPLE:
            words = tuple(word.decode() for word in layer.keywords)
            builder.add_layer(LayerSpec(None, layer.content, layer.depth, layer.frequency, words, layer.layer))
        assert builder.to_bytes() == (GOLDEN / name).read_bytes()
