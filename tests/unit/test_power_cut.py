"""Power cuts while changes are not on the disk yet: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import stat
from pathlib import Path
from unittest import mock

import pytest
from world import content_of, manager

import jessy_mem as jm
from jessy_mem.layout import UNSYNCED_MODE

TEARS = {
    "nothing": lambda data: b"",
    "a part of the header": lambda data: data[:100],
    "a half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[:-500] + bytes(500),
    "a word of zeros in the table": lambda data: data[:300] + bytes(8) + data[308:],
}


def spec(key: int, n_bytes: int = 1000) -> jm.LayerSpec:
    return jm.LayerSpec(content=content_of(key, key, n_bytes=n_bytes))


def delta(base: Path, generation: int) -> Path:
    return base / "D15" / f"delta-{generation:016}.mmap"


def is_marked(path: Path) -> bool:
    return bool(path.stat().st_mode & UNSYNCED_MODE)


def contents(memory: jm.MmapManager, dimension: int = 15) -> dict[int, bytes]:
    return {layer.layer: bytes(memory.access_layer(layer)) for layer in memory.layers(dimension)}


@pytest.fixture
def cut(tmp_path):
    """A base folder as it is when the power goes: three layers on the disk, and changes 2, 3 and 4 that are not."""
    base = tmp_path / "base"
    with manager(base, durability="batch") as memory:
        assert memory.ensure_dimension("Learned", [spec(i, 5000) for i in range(3)]) == 15
        memory.sync()
        for key in (3, 4, 5):
            memory.append_layer(15, spec(key))
        shutil.copytree(base, tmp_path / "cut")
    return tmp_path / "cut"


@pytest.mark.parametrize("tear", TEARS.values(), ids=list(TEARS))
@pytest.mark.parametrize("torn", [(4,), (3,), (2, 3, 4)])
def test_torn_changes_that_nobody_was_told_of_are_passed_over(cut, tear, torn, caplog):
    for generation in torn:
        delta(cut, generation).write_bytes(tear(delta(cut, generation).read_bytes()))
    expected = {i: content_of(i, i, n_bytes=5000 if i < 3 else 1000) for i in range(6) if i - 1 not in torn}
    with caplog.at_level(logging.WARNING, "jessy_mem"), manager(cut) as memory:
        memory.load_dimension(15)
        for _ in range(3):
            memory.refresh()
            memory.reload_dimension(15)
            assert contents(memory) == expected
        assert memory.region(15).verify() == []
    assert [record.getMessage().count("a power cut tore it") for record in caplog.records] == [1] * len(torn)
    findings = jm.examine(cut)
    assert [(each.kind, each.path, each.removable) for each in findings] == [
        ("torn", delta(cut, generation), True) for generation in torn
    ]
    with manager(cut) as memory:  # who writes next removes them
        layer = memory.append_layer(15, spec(9)).layer
        assert contents(memory) == expected | {layer: content_of(9, 9)}
    assert jm.examine(cut) == []
    with manager(cut) as memory:
        memory.load_dimension(15)
        assert contents(memory) == expected | {layer: content_of(9, 9)}


def test_doctor_removes_what_is_torn(cut):
    delta(cut, 4).write_bytes(b"")
    findings = jm.examine(cut)
    assert jm.clean(findings) == findings
    assert jm.examine(cut) == []
    assert not delta(cut, 4).exists()


@pytest.mark.parametrize("tear", TEARS.values(), ids=list(TEARS))
def test_what_was_synced_is_never_passed_over(tmp_path, tear):
    with manager(tmp_path, durability="batch") as memory:
        memory.ensure_dimension("Learned", [spec(0, 5000)])
        memory.append_layer(15, spec(1))
        memory.sync()
        assert not is_marked(delta(tmp_path, 2))
        shutil.copytree(tmp_path / "D15", tmp_path / "cut" / "D15")
    path = delta(tmp_path / "cut", 2)
    path.write_bytes(tear(path.read_bytes()))
    with manager(tmp_path / "cut", verify="open") as memory:
        with pytest.raises(jm.InvalidRegion):
            memory.load_dimension(15)
        (finding,) = jm.examine(tmp_path / "cut")
        assert (finding.kind, finding.removable) == ("damaged", False)
        assert jm.clean([finding]) == []
    assert path.exists()


@pytest.mark.parametrize("tear", TEARS.values(), ids=list(TEARS))
def test_torn_dimension_that_nobody_was_told_of_begins_anew(tmp_path, tear):
    base = tmp_path / "base"
    with manager(base, durability="batch") as memory:
        memory.ensure_dimension("Learned", [spec(0, 5000)])
        memory.append_layer(15, spec(1))
        shutil.copytree(base, tmp_path / "one")
        shutil.copytree(base, tmp_path / "other")
    for copy in (tmp_path / "one", tmp_path / "other"):
        region = copy / "D15" / "region.mmap"
        region.write_bytes(tear(region.read_bytes()))
    with manager(tmp_path / "one") as memory:
        with pytest.raises(jm.InvalidRegion, match="doctor --clean"):
            memory.load_dimension(15)
        dimension = memory.ensure_dimension("Learned", [spec(7)])
        assert contents(memory, dimension) == {0: content_of(7, 7)}
    jm.clean(jm.examine(tmp_path / "one"))
    findings = jm.examine(tmp_path / "other")
    assert [(each.kind, each.removable) for each in findings] == [("torn", True)]
    jm.clean(findings)
    for copy in (tmp_path / "one", tmp_path / "other"):
        assert jm.examine(copy) == []


@pytest.mark.thread_unsafe(reason="it asks for the umask, which is the process's")
def test_mark_is_of_what_waits_for_the_disk_only(tmp_path):
    for durability in ("each", "batch"):
        base = tmp_path / durability
        with manager(base, durability=durability) as memory:
            memory.ensure_dimension("Learned", [spec(i) for i in range(50)])
            memory.append_layer(15, spec(1))
            paths = [base / "D15" / "region.mmap", delta(base, 2)]
            assert [is_marked(path) for path in paths] == [durability == "batch"] * 2
            memory.sync()
            assert not any(map(is_marked, paths))
            memory.append_layer(15, spec(2))
            memory.compact(15)
            assert not is_marked(paths[0])
        assert {stat.S_IMODE(path.stat().st_mode) for path in base.rglob("*.mmap")} == {0o666 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("other", ["each", "batch"])
def test_what_is_durable_lies_on_nothing_that_is_not(tmp_path, other):
    with manager(tmp_path, durability="batch") as one, manager(tmp_path, durability=other) as two:
        one.ensure_dimension("Learned", [spec(i) for i in range(50)])
        one.append_layer(15, spec(50))
        two.append_layer(15, spec(51))
        two.sync()
        assert not any(is_marked(path) for path in (tmp_path / "D15").iterdir())


# Any order of all that ---------------------------------------------------------------------------------------------


class Disk:
    """Knows what is on the disk: what `os.fsync` was called for. The rest a power cut may tear."""

    def __init__(self) -> None:
        self.synced: dict[tuple[int, int], tuple[bytes, int]] = {}  # file -> content and mode when it was synced

    def fsync(self, fd: int) -> None:
        facts = os.fstat(fd)
        if stat.S_ISREG(facts.st_mode):
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                self.synced[facts.st_ino, facts.st_mtime_ns] = file.read(), facts.st_mode

    def cut(self, base: Path, copy: Path, chance: random.Random) -> None:
        """A copy of the base folder as it may be after a power cut."""
        for path in base.rglob("*.mmap"):
            target = copy / path.relative_to(base)
            facts = path.stat()
            data, mode = self.synced.get((facts.st_ino, facts.st_mtime_ns), (None, facts.st_mode))
            if data is None:
                data = chance.choice([None, *TEARS.values(), bytes])
                if data is None:
                    continue  # not even its name
                data = data(path.read_bytes())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(stat.S_IMODE(mode))


@pytest.mark.thread_unsafe(reason="os.fsync is the process's")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads what is behind a descriptor")
@pytest.mark.parametrize("seed", range(10))
def test_all_that_was_acknowledged_is_there_after_a_cut(tmp_path, seed):
    chance, disk, base = random.Random(seed), Disk(), tmp_path / "base"
    written: dict[tuple[int, int], bytes] = {}
    told: set[tuple[int, int]] = set()
    with (
        mock.patch("os.fsync", disk.fsync),
        manager(base, durability="batch") as one,
        manager(base, durability="batch") as two,
        manager(base) as each,
    ):
        waiting = {one: set(), two: set(), each: set()}
        for number in range(40):
            memory = chance.choice([one, one, two, two, each])
            dimension = memory.ensure_dimension(f"user:{chance.randrange(9)}", user=True)
            deed = chance.random()
            if deed < 0.75:
                specs = [
                    spec(100 * number + i, chance.choice([10, 700, 3000])) for i in range(chance.choice([1, 1, 5]))
                ]
                for layer_id, new in zip(memory.extend(dimension, specs), specs, strict=True):
                    written[layer_id] = bytes(new.content)
                    waiting[memory].add(layer_id)
            elif deed < 0.85 and (base / f"D{dimension}" / "region.mmap").exists():
                memory.compact(dimension)
            else:
                memory.sync()
                told |= waiting[memory]
            told |= waiting[each]
            if number % 2 or memory is each:
                copy = tmp_path / f"cut {number}"
                disk.cut(base, copy, chance)
                check_cut(copy, written, told)


def check_cut(base, written, told):
    with manager(base, on_close="drop") as memory:
        for dimension in memory.names().values():
            with contextlib.suppress(jm.InvalidRegion):  # not even its base is there
                memory.load_dimension(dimension)
        assert told <= set(memory), "what was acknowledged is gone"
        for layer_id in memory:
            assert bytes(memory.access_layer(layer_id)) == written[layer_id]
        for dimension in {layer_id.dimension for layer_id in memory}:
            assert memory.region(dimension).verify() == []
    jm.clean(jm.examine(base))
    jm.clean(jm.examine(base))
    assert [each for each in jm.examine(base) if each.kind != "no dimension"] == []
