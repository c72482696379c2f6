"""Readers while another appends 1,000 times and compacts 60 times: each read is whole, and of one generation."""

from __future__ import annotations

import threading
from unittest import mock

from world import content_of, generation_of, manager

import jessy_mem as jm
from helpers import run_threads

N_APPENDS, N_COMPACTIONS = 1000, 60
DIMENSIONS = (15, 16)


def pair(dimension: int, edition: int, layer: int) -> list[jm.LayerSpec]:
    """Two layers that are added as one change."""
    return [jm.LayerSpec(content=content_of(dimension, layer + i, edition, n_bytes=64)) for i in range(2)]


def test_readers_see_whole_changes_while_another_appends_and_compacts(tmp_path):
    """The readers follow by themselves; they end when they have seen the last change."""
    done = threading.Event()
    with (
        mock.patch("os.fsync"),
        manager(tmp_path, durability="batch") as writer,
        manager(tmp_path) as reader,
    ):
        for dimension in DIMENSIONS:
            assert writer.ensure_dimension(f"Grown {dimension}", pair(dimension, 1, 0)) == dimension
            reader.load_dimension(dimension)

        def write() -> None:
            """Both dimensions go on in turns, the first always first."""
            try:
                for number in range(N_APPENDS // 2):
                    edition, layer = 2 + number, 2 + 2 * number
                    for dimension in DIMENSIONS:
                        writer.extend(dimension, pair(dimension, edition, layer))
                        if (2 * number + dimension) % (N_APPENDS // N_COMPACTIONS) == 0:
                            writer.compact(dimension)
            finally:
                done.set()

        def check(first: int, second: int) -> None:
            assert first % 2 == second % 2 == 0, "half of a change"
            assert 0 <= first - second <= 2, "two moments"

        def read_regions() -> None:
            last = 0
            is_last = False
            while not is_last:
                is_last = done.is_set()
                region = reader.region(15)
                numbers = [layer.layer for layer in region.layers()]
                assert numbers == list(range(len(numbers)))
                assert len(numbers) % 2 == 0, "half of a change"
                assert len(numbers) >= last, "a reader went back"
                last = len(numbers)
                for layer in {0, 1, last // 2, last - 2, last - 1}:
                    assert generation_of(bytes(region.layer(layer))) == 1 + layer // 2
            assert last == 2 + N_APPENDS

        def read_snapshots() -> None:
            is_last = False
            while not is_last:
                is_last = done.is_set()
                with reader.snapshot() as then:
                    counts = [len(then.layers(dimension)) for dimension in DIMENSIONS]
                    again = [len(then.layers(dimension)) for dimension in DIMENSIONS]
                    newest = [bytes(then[dimension, n - 1]) for dimension, n in zip(DIMENSIONS, counts, strict=True)]
                assert counts == again
                check(*counts)
                assert [generation_of(content) for content in newest] == [n // 2 for n in counts]
            assert counts == [2 + N_APPENDS] * 2

        run_threads([write, read_regions, read_snapshots])
        assert reader.leases() == []
        for dimension in DIMENSIONS:
            assert reader.region(dimension).verify() == []
