"""Reading the head of a file: however long, within bounds, while others change it. Lies are tests/attacks."""

from __future__ import annotations

import os
import signal

import pytest
from attacks.files import with_keywords

import jessy_mem as jm
from helpers import Layer, extended_file, plain_file
from jessy_mem._core.head import MAX_METADATA_BYTES, Head


def long_head(n_bytes: int) -> bytes:
    word = b"w" * 1000
    return extended_file(layers=[Layer(i, b"content %d" % i, 0, 1.0, (word,) * 50) for i in range(n_bytes // 50_000)])


def test_head_of_any_length_is_read(region_file):
    for n_bytes in (50_000, 100_000, 1_000_000):
        data = long_head(n_bytes)
        with jm.MmapRegion(None, region_file(data)) as region:
            assert region.verify() == []
            for layer in range(region.n_layers):
                assert region.layer(layer).text == f"content {layer}"
            assert len(region.layer(0).keywords) == 50


@pytest.mark.parametrize("kind", ["plain", "extended"])
def test_metadata_are_limited(kind, region_file, tmp_path):
    layers = [Layer(i, b"x", 0, 1.0, (b"w" * 60_000,)) for i in range(40)]
    data = plain_file(layers, 15) if kind == "plain" else extended_file(layers=layers)
    path = region_file(data)
    field = "metadata" if kind == "plain" else "metadata_size"
    for limit in (1, "1MB", 1.0):
        with pytest.raises(jm.InvalidRegion, match=f"{field}: found a head of .*, see max_metadata_mb"):
            jm.MmapRegion(None, path, max_metadata_mb=limit)
    with jm.MmapRegion(None, path, max_metadata_mb=3) as region:
        assert region.n_layers == 40
        dimension = region.dimension_id
    (tmp_path / f"D{dimension:02d}").mkdir()
    path.rename(tmp_path / f"D{dimension:02d}" / "region.mmap")
    with (
        jm.MmapManager(base_path=tmp_path, simulation="never", max_metadata_mb=1) as memory,
        pytest.raises(jm.InvalidRegion, match="max_metadata_mb"),
    ):
        memory.load_dimension(dimension)
    assert MAX_METADATA_BYTES == 256 << 20


@pytest.mark.parametrize("value", [0, -1, True, None, "much"])
@pytest.mark.parametrize("field", ["max_metadata_mb", "max_decompressed_mb"])
def test_limit_that_is_none_is_named(field, value, region_file):
    with pytest.raises(ValueError, match=f"{field}: "):
        jm.MmapRegion(None, region_file(extended_file()), **{field: value})


@pytest.mark.parametrize("n_bytes", [0, 100, 4095, 4096, 20_000])
def test_file_that_is_shortened_while_its_head_is_read_is_truncated(n_bytes, region_file, inject):
    path = region_file(long_head(50_000))

    def shorten(read_begin):
        def read(fd):
            if n_bytes < 4096:
                os.truncate(path, n_bytes)
            first, _, _ = read_begin(fd)
            os.truncate(path, n_bytes)
            return first, *read_begin(fd)[1:]

        return read

    # It calls pread(2), where no test comes between.
    with inject.around("jessy_mem._core.mapped.read_begin", shorten), pytest.raises(jm.RegionTruncated) as caught:
        jm.MmapRegion(None, path)
    assert caught.value.found == f"{n_bytes} bytes"


def test_file_that_is_shortened_between_two_reads_of_its_head_is_truncated(region_file, inject):
    path = region_file(long_head(100_000))

    def shorten(plain):
        def preadv(fd, into, at):
            os.truncate(path, 10_000)
            return plain(fd, into, at)

        return preadv

    with inject.around("os.preadv", shorten), pytest.raises(jm.RegionTruncated, match="found 10000 bytes"):
        jm.MmapRegion(None, path)


def test_file_that_grew_after_its_first_bytes_were_read_is_opened_again_by_whoever_wants_it(region_file):
    path = region_file(long_head(50_000))
    with path.open("rb") as file, pytest.raises(jm.RegionTruncated, match="found 100 bytes"):
        Head(file.fileno(), str(path), path.stat().st_size, file.read(100))


def test_head_that_is_a_hole_is_not_read(region_file):
    data = bytearray(long_head(100_000))
    path = region_file(bytes(data[:4096]))
    os.truncate(path, len(data))
    with pytest.raises(jm.InvalidRegion) as refused:
        jm.MmapRegion(None, path)
    if "hole" not in str(refused.value):
        pytest.skip("this file system does not tell of holes")


def test_long_words_are_read_in_several_steps(region_file):
    words = tuple(b"%d" % i * 1000 for i in range(1500))
    with jm.MmapRegion(None, region_file(extended_file(layers=[Layer(0, b"x", 0, 1.0, words)]))) as region:
        assert region.layer(0).keywords == tuple(word.decode() for word in words)


def test_words_that_are_gone_with_the_end_of_the_file_are_told_of(region_file):
    path = region_file(extended_file(layers=[Layer(i, b"", 0, 1.0, (b"w" * 1000,) * 50) for i in range(4)]))
    with jm.MmapRegion(None, path) as region:
        os.truncate(path, 4096)
        with pytest.raises(jm.RegionTruncated):
            region.layer(3)


class Interrupted(Exception):
    pass


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_long_head_can_be_interrupted(region_file):
    """Whoever interrupts is heard between two reads, and before all is parsed: not when it is found to be wrong."""
    size = 64 << 20
    path = region_file(with_keywords((size - 300) // 4, size)[0] + bytes(size - 267))

    def read():
        return jm.MmapRegion(None, path)

    def interrupt(_, frame):
        if frame.f_code is read.__code__:  # not where it can only be ignored, such as in a destructor
            raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with pytest.raises(Interrupted) as caught:
            read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.__context__ is None
