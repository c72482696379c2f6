"""What a writer has unlinked lives on until the writer lets it go, and readers have nothing to wait for."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from faults import Fault
from world import content_of, manager

import jessy_mem as jm
from helpers import HAS_PROC, open_files
from jessy_mem import unlinked
from jessy_mem.growth import MAX_DELTAS
from jessy_mem.unlinked import Unlinked

pytestmark = [
    pytest.mark.skipif(not (HAS_PROC and hasattr(os, "O_PATH")), reason="seen by what Linux says about descriptors"),
    pytest.mark.thread_unsafe(reason="descriptors are of the process"),
]


def held(folder):
    """The files of a folder that are open and have no name any more."""
    found = [path for path in open_files().values() if path.startswith(f"{folder}/") and path.endswith(" (deleted)")]
    return sorted(os.path.basename(path).removesuffix(" (deleted)") for path in found)


@pytest.fixture
def files(tmp_path):
    """Makes, holds and unlinks files of some bytes; their names."""

    def hold_and_unlink(holder, *sizes):
        for number, n_bytes in enumerate(sizes):
            path = tmp_path / f"{number:03}"
            path.write_bytes(bytes(n_bytes))
            holder.hold(str(path))
            path.unlink()

    return hold_and_unlink


def test_what_is_held_lives_on_without_a_name_until_it_is_let_go(tmp_path, files):
    holder = Unlinked()
    files(holder, 10, 20)
    assert (held(tmp_path), len(holder), holder.n_bytes) == (["000", "001"], 2, 30)
    holder.let_go()
    assert (held(tmp_path), len(holder), holder.n_bytes) == ([], 0, 0)


def test_the_newest_are_held_and_not_too_many(tmp_path, files):
    holder = Unlinked()
    files(holder, *[1] * (unlinked.MAX_FILES + 3))
    assert held(tmp_path) == [f"{number:03}" for number in range(3, unlinked.MAX_FILES + 3)]
    holder.let_go()


def test_not_too_much_of_the_disk_is_held(tmp_path, files, monkeypatch):
    monkeypatch.setattr(unlinked, "MAX_BYTES", 100)  # 64 MiB would be written for nothing
    holder = Unlinked()
    files(holder, 60, 40, 10)
    assert (held(tmp_path), holder.n_bytes) == (["001", "002"], 50)
    files(holder, 101)
    assert (held(tmp_path), holder.n_bytes) == ([], 0)


def test_half_of_the_descriptors_are_left(tmp_path, files, monkeypatch):
    """However many hold something."""
    lowest = os.dup(0)
    os.close(lowest)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * (lowest + 5), -1))
    holders = [Unlinked() for _ in range(4)]
    for holder in holders:
        files(holder, 10, 10)
    assert [len(holder) for holder in holders] == [2, 2, 0, 0]
    files(holders[0], 10)
    assert [len(holder) for holder in holders] == [3, 2, 0, 0]
    files(holders[0], 10)
    assert [len(holder) for holder in holders] == [0, 2, 0, 0]
    for holder in holders:
        holder.let_go()


def test_what_is_not_there_is_not_held(tmp_path):
    holder = Unlinked()
    holder.hold(str(tmp_path / "nothing"))
    assert len(holder) == 0


def test_the_last_reference_lets_go(tmp_path, files):
    holder = Unlinked()
    files(holder, 10)
    del holder
    assert held(tmp_path) == []


def test_a_child_holds_nothing(tmp_path, files):
    holder = Unlinked()
    files(holder, 10)
    child = os.fork()
    if not child:
        os._exit(len(holder) + holder.n_bytes + len(held(tmp_path)))
    assert os.waitpid(child, 0)[1] == 0
    assert held(tmp_path) == ["000"]
    holder.let_go()


# Where it is asked ---------------------------------------------------------------------------------------------------


def spec(number):
    return jm.LayerSpec(content=content_of(number, number))


def grown(memory, n_changes):
    """A dimension that is a file, and changed so often."""
    dimension = memory.ensure_dimension("learned", [spec(number) for number in range(40)])
    for number in range(n_changes):
        memory.append_layer(dimension, spec(number))
    return dimension


@pytest.mark.parametrize("durability", ["each", "batch"])
def test_who_merges_holds_what_was_merged_until_it_closes(tmp_path, durability):
    with manager(tmp_path, durability=durability) as memory:
        grown(memory, MAX_DELTAS)
        assert held(tmp_path / "D15") == []
        grown(memory, 1)
        assert held(tmp_path / "D15") == [f"delta-{generation:016}.mmap" for generation in range(2, MAX_DELTAS + 2)]
    assert held(tmp_path / "D15") == []


def test_who_writes_a_new_base_or_forgets_holds_the_old_files(tmp_path):
    with manager(tmp_path) as memory:
        dimension = grown(memory, 1)
        memory.compact(dimension)
        assert held(tmp_path / "D15") == ["delta-0000000000000002.mmap", "region.mmap"]
        memory.append_layer(dimension, spec(1))
        memory.forget(dimension)
        assert held(tmp_path / "D15") == ["delta-0000000000000002.mmap", "delta-0000000000000003.mmap"] + 2 * [
            "region.mmap"
        ]
    assert held(tmp_path / "D15") == []


def test_on_a_full_disk_nothing_is_held(tmp_path):
    with manager(tmp_path) as memory:
        dimension = grown(memory, 1)
        memory.compact(dimension)
        assert held(tmp_path / "D15")
        with Fault(OSError(errno.ENOSPC, "full"), "os.write"), pytest.raises(jm.MappingError):
            memory.append_layer(dimension, spec(1))
        assert held(tmp_path / "D15") == []
        memory.append_layer(dimension, spec(1))
