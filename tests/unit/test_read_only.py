"""A manager that only reads: nothing in its base folder is written, and a folder of others will do."""

from __future__ import annotations

import os

import pytest
from world import World, check_reading, manager

import jessy_mem as jm


def state_of(base):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [base, *base.rglob("*")]}


@pytest.fixture
def base(tmp_path):
    World(tmp_path).write_all(1, 2)
    with manager(tmp_path) as memory:
        memory.crystallize(memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")]))
        memory.append_layer(15, jm.LayerSpec(text="another"))
    return tmp_path


def test_everything_is_read_and_nothing_written(base):
    before = state_of(base)
    with manager(base, read_only=True) as memory:
        assert memory.load_all().loaded == [1, 2, 15]
        check_reading(memory, 1)
        assert memory.access_layer((15, 1)).text == "another"
        assert memory.find("Humor") == memory.ensure_dimension("Humor") == 15
        assert memory.names()["Humor"] == 15
        with memory.allocate(1000) as block:
            memoryview(block)[:1] = b"x"
        memory.reload_dimension(15)
        memory.sync()
        assert len(memory.layers()) == 10
    assert state_of(base) == before


def test_ensured_dimension_is_loaded_if_it_has_a_file(base):
    with manager(base) as memory:
        empty = memory.ensure_dimension("Irony")
        with manager(base, read_only=True) as reader:
            with pytest.raises(jm.LayerNotFound):
                reader[15, 0]
            assert reader.ensure_dimension("Humor") == 15
            assert reader[15, 1].text == "another"
            assert reader.ensure_dimension("Irony") == empty
            with pytest.raises(jm.ReadOnly):
                reader.ensure_dimension("Irony", [jm.LayerSpec(text="it would be lost")])
            memory.append_layer(empty, jm.LayerSpec(text="ironic"))
            assert reader[empty, 0].text == "ironic"


def test_what_would_write_is_refused(base):
    before = state_of(base)
    spec = jm.LayerSpec(text="x")
    with manager(base, read_only=True) as memory:
        memory.load_all()
        for call in (
            lambda: memory.create_proto_dimension("New", [spec]),
            lambda: memory.create_proto_dimension("New"),
            lambda: memory.ensure_dimension("New", [spec]),
            lambda: memory.append_layer(15, spec),
            lambda: memory.extend(15, [spec]),
            lambda: memory.update_layer((15, 0), spec),
            lambda: memory.remove_layer((15, 0)),
            lambda: memory.compact(15),
            lambda: memory.crystallize(15),
            lambda: memory.crystallize_many(),
            lambda: memory.forget(15),
        ):
            with pytest.raises(jm.ReadOnly, match="read only") as refused:
                call()
            assert isinstance(refused.value, PermissionError)
            assert refused.value.filename == str(base)
        assert memory.access_layer((15, 0)).text == "a joke"
    assert state_of(base) == before


def test_folder_that_is_not_there_is_not_made(tmp_path):
    with manager(tmp_path / "none", read_only=True) as memory:
        assert memory.load_all().loaded == []
        assert memory.find("Humor") is None
        assert memory.names() == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="who may do everything is not refused")
def test_folder_without_write_permission_is_read(base):
    for path in [base, *base.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with manager(base, read_only=True) as memory:
            assert memory.load_all().loaded == [1, 2, 15]
            check_reading(memory, 1)
            assert memory.find("Humor") == 15
    finally:
        for path in [base, *base.rglob("*")]:
            path.chmod(0o755)


def test_system_calls_of_a_reader_write_nothing(base, monkeypatch):
    """Whoever may write does not, either."""
    names = "mkdir write pwrite unlink rmdir rename link fsync ftruncate chmod fchmod".split()
    for name in names:
        monkeypatch.setattr(os, name, lambda *args, name=name, **options: pytest.fail(f"os.{name}"))
    real = os.open

    def read_only(path, flags, *args, **options):
        assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    with manager(base, read_only=True) as memory:
        memory.load_all()
        assert memory.find("Humor") == 15
        assert memory.find("nobody") is None
        check_reading(memory, 2)
