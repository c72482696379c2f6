"""The disk is full at each step of what writes many files: a typed error, nothing is half there, the next call works.

What writes one file has the same in tests/unit/test_growing_files.py and test_crystallize_failures.py.
"""

from __future__ import annotations

import errno
from functools import partial

import pytest
from world import content_of, manager

import jessy_mem as jm

STEPS = ("os.open", "os.mkdir", "os.write", "os.fsync", "os.link", "os.rename", "os.fchmod")
FULL = OSError(errno.ENOSPC, "No space left on device")


def specs(*keys: int, n_bytes: int = 1000) -> list[jm.LayerSpec]:
    return [jm.LayerSpec(content=content_of(key, key, n_bytes=n_bytes)) for key in keys]


def contents(base) -> dict[str, dict[int, bytes]]:
    """What a new process finds in all files, by name."""
    with manager(base, on_close="drop") as memory:
        names = {dimension: name for name, dimension in memory.names().items()}
        memory.refresh()
        found: dict[str, dict[int, bytes]] = {}
        for layer_id, view in memory.items():
            found.setdefault(names[layer_id.dimension], {})[layer_id.layer] = bytes(view)
        return found


def of(**dimensions: tuple[int, ...]) -> dict[str, dict[int, bytes]]:
    return {name: {i: content_of(key, key) for i, key in enumerate(keys)} for name, keys in dimensions.items()}


def check_folder(base) -> None:
    assert [each for each in jm.examine(base) if each.kind != "no dimension"] == []


@pytest.fixture
def full(inject):
    """The disk full at the first step, then at the second and so on, for one call or for good; until all are past."""

    def steps(for_good: bool):
        return inject.one_by_one(lambda at: inject(FULL, *STEPS, at=at, for_good=for_good), at_least=5)

    return steps


def error_of(work, fault) -> Exception | None:
    try:
        with fault:
            work()
    except jm.MappingError as error:
        return error if error.errno == errno.ENOSPC else pytest.fail(f"another error: {error}")
    return None


@pytest.mark.parametrize("for_good", [False, True])
def test_crystallize_many(tmp_path, full, for_good):
    for number, fault in enumerate(full(for_good)):
        base = tmp_path / f"{number}"
        expected = of(a=(1, 2), b=(3,), c=(4,))
        with manager(base) as memory:
            protos = [memory.create_proto_dimension(name, specs(*keys)) for name, keys in (("a", (1, 2)), ("b", (3,)))]
            protos.append(memory.create_proto_dimension("c", specs(4)))
            error = error_of(memory.crystallize_many, fault)
            assert {int(path.parent.name[1:]) for path in base.rglob("region.mmap")} <= set(protos)
            assert {name: layers for name, layers in contents(base).items() if expected[name] != layers} == {}
            assert [bytes(memory.access_layer((dimension, 0))) for dimension in protos] == [
                expected[name][0] for name in "abc"
            ]
            if error is None:
                assert contents(base) == expected
            memory.crystallize_many()
            assert contents(base) == expected
        check_folder(base)


@pytest.mark.parametrize("durability", ["each", "batch"])
def test_ensure(tmp_path, full, durability):
    for number, fault in enumerate(full(False)):
        base = tmp_path / f"{number}"
        with manager(base, durability=durability) as memory:
            memory.ensure_dimension("first", specs(1))
            if error_of(lambda m=memory: m.ensure_dimension("second", specs(2, 3)), fault) is not None:
                assert contents(base) == of(first=(1,))
                assert memory.find("second") is None
            dimension = memory.ensure_dimension("second", specs(2, 3))
            assert bytes(memory.access_layer((dimension, 1))) == content_of(3, 3)
            assert contents(base) == of(first=(1,), second=(2, 3))
            memory.sync()
        check_folder(base)


def test_batch_that_is_synced(tmp_path, full):
    """What could not be made durable is told of until another file takes its place, and stays readable."""
    for number, fault in enumerate(full(False)):
        base = tmp_path / f"{number}"
        with manager(base, durability="batch") as memory:
            dimension = memory.ensure_dimension("first", specs(1, n_bytes=50_000))
            memory.sync()
            told = []

            def learn(memory=memory, dimension=dimension, told=told):
                for key in (2, 3):
                    told.append(memory.append_layer(dimension, specs(key)[0]).layer)
                memory.sync()

            error = error_of(learn, fault)
            layers = contents(base)["first"]
            assert layers.keys() == {0, *told}
            if error is None:
                assert told == [1, 2]
            memory.compact(dimension)
            assert memory.append_layer(dimension, specs(9)[0]).layer == len(layers)
        assert contents(base)["first"].keys() == {*layers, len(layers)}
        check_folder(base)


@pytest.mark.parametrize("is_there", [False, True])
def test_import(tmp_path, full, is_there):
    with manager(tmp_path / "other") as memory:
        for name, keys in (("a", (1, 2)), ("b", (3,))):
            dimension = memory.ensure_dimension(name)
            for key in keys:
                memory.append_layer(dimension, specs(key)[0])
        memory.append_layer(dimension, specs(4)[0])
    jm.export_base(tmp_path / "other", tmp_path / "x.tar")
    expected = of(a=(1, 2), b=(3, 4))
    for number, fault in enumerate(full(False)):
        base = tmp_path / f"{number}"
        before = {}
        if is_there:
            with manager(base) as memory:
                memory.ensure_dimension("a", specs(7))
            before = of(a=(7,))
        work = partial(jm.import_base, tmp_path / "x.tar", base, replace_existing=True)
        error = error_of(work, fault)
        found = contents(base) if base.exists() else {}
        for name, layers in expected.items():
            assert found.get(name) in (before.get(name), layers), "it is half there"
        if base.exists():
            check_folder(base)
        work()
        assert contents(base) == expected
        assert error is not None or found == expected
        check_folder(base)
