"""The golden files: what was written once stays readable, and tests only read it.

Each was written once by `golden_files` of tests/helpers.py, which packs it by plain `struct` from constants.
"""

from __future__ import annotations

import hashlib

import pytest

from helpers import GOLDEN, QUIET, SAMPLE, golden_files, read_region
from jessy_mem import compression
from jessy_mem._core.mapped import map_file
from jessy_mem._core.merge import merge_images
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import LayerSpec, RegionBuilder

SUMS = dict(reversed(line.split("  ")) for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
NAMES = sorted(SUMS)
# Name: (extended, generation, immutable, numbers of the layers).
FACTS = {
    "extension-1-compressed.mmap": (True, 3, False, [0, 1]),
    "extension-1-immutable.mmap": (True, 1, True, [0, 1, 7, 9]),
    "extension-1-raw.mmap": (True, 2**40, False, [0, 1, 7, 9]),
    "extension-1-tombstone.mmap": (True, 6, False, []),
    "extension-2-base.mmap": (True, 4, False, [0, 1, 7, 9]),
    "extension-2-delta.mmap": (True, 5, False, [1, 10]),
    "extension-2-merged.mmap": (True, 6, False, [0, 1]),
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
    numbers = [layer.layer for layer in region.layers if not layer.is_tombstone]
    found = (region.extended, region.generation, region.immutable, numbers)
    assert found == FACTS[name]
    assert (region.dimension_id, region.name) == (3, b"Intention")


@pytest.mark.parametrize("name", [name for name in NAMES if 0 in FACTS[name][3] and "merged" not in name])
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


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_is_opened_as_what_it_is(name):
    region = read_region((GOLDEN / name).read_bytes())
    image = map_file(GOLDEN / name, 3, delta=region.delta)
    assert image.damage() == []
    assert (image.is_delta, image.n_layers) == (region.delta, len(region.layers))
    assert image.n_live_layers == len(FACTS[name][3])


def test_golden_files_merge_to_the_golden_base():
    names = ("extension-2-base.mmap", "extension-2-delta.mmap", "extension-1-tombstone.mmap")
    images = [map_file(GOLDEN / name, 3) for name in names]
    merged = merge_images(images, as_base=True, generation=6, created_ns=10**18 + 2)
    assert b"".join(merged.pieces()) == (GOLDEN / "extension-2-merged.mmap").read_bytes()


def test_golden_file_is_what_the_builder_writes_today(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for name, immutable in (("extension-1-raw.mmap", False), ("extension-1-immutable.mmap", True)):
        builder = RegionBuilder(3, "Intention", immutable=immutable, generation=FACTS[name][1])
        for layer in SAMPLE:
            words = tuple(word.decode() for word in layer.keywords)
            builder.add_layer(LayerSpec(None, layer.content, layer.depth, layer.frequency, words, layer.layer))
        assert builder.to_bytes() == (GOLDEN / name).read_bytes()
