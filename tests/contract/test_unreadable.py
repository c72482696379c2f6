"""What may not be looked at is not gone: a dimension whose folder is closed to the user who asks."""

from __future__ import annotations

import errno
import os
import tarfile  # noqa: F401  which export_base imports, where another user may not read it
from pathlib import Path

import pytest
from world import manager

import jessy_mem as jm
from helpers import as_another_user

pytestmark = pytest.mark.thread_unsafe(reason="each forks")

MORE = jm.LayerSpec(text="more")

CALLS = {
    "load": lambda memory: memory.load_dimension(15),
    "append": lambda memory: memory.append_layer(15, MORE),
    "compact": lambda memory: memory.compact(15),
    "crystallize": lambda memory: memory.crystallize(15),
    "ensure": lambda memory: memory.ensure_dimension("Humor", [MORE]),
    "forget": lambda memory: memory.forget(15),
}


@pytest.fixture
def base(shared_folder):
    """A folder with D15, which is Humor, and D16, which is Music; all may write into it, and none may look into D15."""
    os.chmod(shared_folder, 0o777)
    with manager(shared_folder) as memory:
        for name in ("Humor", "Music"):
            memory.create_proto_dimension(name, [jm.LayerSpec(text=name)])
    folder = Path(shared_folder, "D15")
    folder.chmod(0)
    yield shared_folder
    folder.chmod(0o755)
    with manager(shared_folder) as memory:
        memory.load_all()
        assert memory.names() == {"Humor": 15, "Music": 16}
        assert memory[15, 0].text == "Humor"


@pytest.mark.parametrize("call", CALLS)
def test_no_call_takes_it_for_gone(base, call):
    def check():
        with manager(base) as memory:
            with pytest.raises(jm.MappingError) as refused:
                CALLS[call](memory)
            assert refused.value.errno == errno.EACCES
            assert memory.find("Humor") == 15
            with pytest.raises(jm.DimensionExists):
                memory.create_proto_dimension("Humor", [MORE])

    assert as_another_user(check)


def test_what_is_loaded_stays(base):
    Path(base, "D15").chmod(0o755)
    with manager(base) as memory:
        memory.load_all()
        Path(base, "D15").chmod(0)

        def check():
            assert memory.refresh() == jm.Changes([], [], [])
            assert memory[15, 0].text == "Humor"

        assert as_another_user(check)


def test_it_is_told_of_in_an_archive_and_on_the_map(base):
    def check():
        done = jm.export_base(base, f"{base}/all.tar")
        assert (done.dimensions, list(done.damaged)) == ([16], [15])
        states = {entry.dimension: entry.state for entry in jm.MemoryMap.of_folder(base).present}
        assert states == {15: "damaged", 16: "file"}

    assert as_another_user(check)
