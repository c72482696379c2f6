"""A process in which a call of the system fails: each in turn, in every public call.

Run with `failing.h` compiled and loaded before all else, by tests/contract/test_fault_sweep.py. It tells one line, as
JSON, for each call of CALLS and each kind: how many there are, how many of them failed, and what was wrong then. After
a failure the error is typed, the state is what it was, nothing more is open or mapped, and the same call succeeds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from world import World, content_of, manager

import jessy_mem as jm
from helpers import Holdings
from jessy_mem._core.changes import CHANGES_NAME, write_page
from jessy_mem.ids import LOCK_NAME

KINDS = {
    "open": errno.EMFILE,
    "read": errno.EIO,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "rename": errno.EIO,
    "link": errno.EIO,
    "mkdir": errno.EDQUOT,
    "memfd_create": errno.EMFILE,
    "mmap": errno.ENOMEM,
    "clone": errno.EAGAIN,
    "fstat": errno.EIO,
    "mincore": errno.EAGAIN,
    "madvise": errno.EAGAIN,
}
MALLOC = "malloc"  # of all that is asked for, if Python asks malloc; tests/shortage.py
_NUMBERS = {kind: number for number, kind in enumerate([*KINDS, MALLOC])}
TYPED = (jm.ConsciousnessError, OSError, MemoryError)
State = dict[str, object]
MOST = 100  # calls of a kind in one call: of those in a loop some are enough
PROTO, FILE, NAMED = 15, 16, "Stored"
IMMUTABLE = 9


def spec(key: int, n_bytes: int = 3000) -> jm.LayerSpec:
    return jm.LayerSpec(
        content=content_of(key, key, n_bytes=n_bytes), keywords=(f"word{key}",), attributes={"key": key}
    )


def make_base(base: Path) -> None:
    """A base folder with two dimensions of the plan, one that cannot change, and one that was learned and grew."""
    world = World(base)
    world.write(1)
    world.write(2)
    world.write(IMMUTABLE, immutable=True)
    with manager(base) as memory:
        proto = memory.create_proto_dimension("First", [spec(1)])
        stored = memory.create_proto_dimension(NAMED, [spec(i) for i in range(3)])
        memory.crystallize(stored)
        memory.append_layer(stored, spec(4))
        assert (proto, stored) == (PROTO, FILE)
        memory.forget(proto)
    write_page(os.path.join(base, CHANGES_NAME))


class Case:
    """A manager over its own copy of the base folder, with a proto-dimension, and what is known of it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.memory = manager(base, on_close="drop")
        self.memory.load_dimension(1)
        self.memory.load_dimension(FILE)
        self.proto = self.memory.create_proto_dimension("Unharmed", [spec(7), spec(8)])
        for key in (1, 2):
            self.memory.create_proto_dimension(f"Beside {key}", [spec(key)])
        self.block = self.memory.allocate(100)
        self.memory.find(NAMED)
        self.memory.layers(keyword="word1")
        gc.collect()

    def state(self) -> State:
        """What a user can see of it, and what lies in the folder."""
        memory = self.memory
        stats = memory.get_stats()
        return {
            "layers": sorted((layer.layer, bytes(memory[layer])) for layer in memory),  # a number may be used up
            "names": sorted(memory.names()),
            "words": len(memory.layers(keyword="word7")),
            "allocated": stats.total_allocated_bytes,
            "leased": stats.leased_bytes,
            "files": {
                str(path.relative_to(self.base)): path.stat().st_size
                for path in sorted(self.base.rglob("*"))
                if path.is_file() and path.name not in (LOCK_NAME, CHANGES_NAME)
            },
        }

    def close(self) -> None:
        self.memory.deallocate(self.block)
        self.memory.close()


def opens(case: Case) -> None:
    manager(case.base).close()


def stores(case: Case) -> None:
    builder = jm.RegionBuilder(1, "Perception")
    builder.add_layer(spec(1))
    builder.write(case.base / "D03" / "region.mmap")


CALLS: dict[str, Callable[[Case], object]] = {
    "MmapManager": opens,
    "load_dimension": lambda case: case.memory.load_dimension(2),
    "load_dimension, immutable": lambda case: case.memory.load_dimension(IMMUTABLE),
    "load_all": lambda case: case.memory.load_all(),
    "reload_dimension": lambda case: case.memory.reload_dimension(1),
    "unload_dimension": lambda case: case.memory.unload_dimension(1),
    "access_layer": lambda case: case.memory.access_layer((1, 0)).text,
    "load_contexts": lambda case: case.memory.load_contexts([jm.NavigationPath(1, [(1, 0), (1, 1)])]),
    "layers": lambda case: case.memory.layers(keyword="word2"),
    "snapshot": lambda case: with_snapshot(case),
    "prefetch": lambda case: case.memory.region(1).prefetch(wait=True),
    "trim": lambda case: case.memory.trim(),
    "verify": lambda case: case.memory.region(1).verify(),
    "get_stats": lambda case: case.memory.get_stats(residency=True),
    "dump_state": lambda case: case.memory.dump_state(),
    "allocate": lambda case: case.memory.deallocate(case.memory.allocate(500)),
    "create_proto_dimension": lambda case: case.memory.create_proto_dimension("New", [spec(9)]),
    "ensure_dimension": lambda case: case.memory.ensure_dimension("Ensured"),
    "find": lambda case: case.memory.find("nobody"),
    "append_layer, proto": lambda case: case.memory.append_layer(case.proto, spec(10)),
    "append_layer": lambda case: case.memory.append_layer(FILE, spec(10)),
    "extend": lambda case: case.memory.extend(FILE, [spec(i) for i in range(20, 30)]),
    "update_layer": lambda case: case.memory.update_layer((FILE, 0), spec(11)),
    "remove_layer": lambda case: case.memory.remove_layer((FILE, 1)),
    "compact": lambda case: case.memory.compact(FILE),
    "crystallize": lambda case: case.memory.crystallize(case.proto),
    "crystallize_many": lambda case: case.memory.crystallize_many(),
    "forget": lambda case: case.memory.forget(FILE),
    "sync": lambda case: case.memory.sync(),
    "refresh": lambda case: case.memory.refresh(),
    "examine": lambda case: jm.examine(case.base),
    "export_base": lambda case: jm.export_base(case.base, case.base.parent / "archive.tar"),
    "RegionBuilder.write": stores,
    "MmapRegion": lambda case: jm.MmapRegion(1, case.base / "D01" / "region.mmap").close(),
}


STRICTLY = {"forget, strictly": CALLS["forget"]}  # with nothing in LATE, for the test that this can fail
CONTENT = ("layers", "names", "words")  # a dimension may be left evicted, and what is of no use any more not removed
# What a call that failed may have changed nevertheless. It is done by calling again, which is tried.
LATE = {
    "load_all": ("layers", "allocated", "leased", "names"),  # what it came to is loaded
    "ensure_dimension": ("names",),  # the name is given, and its disk was not asked whether it has it
    "crystallize_many": ("files", "allocated", "leased"),  # what could become a file has
    "forget": ("files", "leased"),  # the file has gone, and the disk was not asked whether it has
    "RegionBuilder.write": ("files",),  # the same of a file that is there
}


def with_snapshot(case: Case) -> None:
    with case.memory.snapshot() as snapshot:
        bytes(snapshot[1, 0])


class System:
    """Lets a call of the system fail, in this thread."""

    def __init__(self) -> None:
        self.library = ctypes.PyDLL(os.environ["JESSY_MEM_FAILING"])

    def arm(self, kind: str | None, at: int) -> None:
        """Call number `at` of this kind fails from now on; none if that is below 0."""
        number = -1 if kind is None else _NUMBERS[kind]
        self.library.failing_arm(number, ctypes.c_long(at), KINDS.get(kind, errno.ENOMEM))

    def disarm(self) -> None:
        self.library.failing_disarm()

    def count(self, kind: str) -> int:
        """How many calls of this kind there were while it was armed."""
        return self.library.failing_count(_NUMBERS[kind])

    @property
    def spared(self) -> bool:
        """Whether the allocation that was to fail got its memory, for CPython or Cython would not have survived it."""
        return bool(self.library.failing_spared())

    @contextlib.contextmanager
    def failing(self, kind: str | None, at: int = 0) -> Iterator[dict[str, int]]:
        """Call number `at` of this kind fails inside. What is given says afterwards how many of each there were."""
        counts = dict.fromkeys(KINDS, 0)
        self.arm(kind, at)
        try:
            yield counts
        finally:
            self.disarm()
            for each in counts:
                counts[each] = self.count(each)


@dataclass
class Sweep:
    """All faults of one call."""

    name: str
    folder: Path
    system: System

    def __post_init__(self) -> None:
        self.call = (CALLS | STRICTLY)[self.name]
        with self.case() as case:
            with self.system.failing(None) as self.counts:
                self.call(case)
            self.done = case.state()

    @contextlib.contextmanager
    def case(self) -> Iterator[Case]:
        base = self.folder / "one" / "base"
        shutil.copytree(self.folder / "base", base)
        case = Case(base)
        try:
            yield case
        finally:
            case.close()
            shutil.rmtree(base.parent)

    def run(self, kind: str, step: int) -> dict[str, object]:
        """What is wrong, after every `step`th call of a kind failed."""
        wrong, n = {}, 0
        step = max(step, self.counts[kind] // MOST)
        begin = zlib.crc32(f"{self.name} {kind}".encode()) % step
        for at in range(begin, self.counts[kind], step):
            with self.case() as case:
                found = self.fail(case, kind, at)
            n += found is not None
            if found:
                wrong[at] = found
        return {"call": self.name, "kind": kind, "n": n, "of": self.counts[kind], "wrong": wrong}

    def fail(self, case: Case, kind: str, at: int) -> list[str] | None:
        """What is wrong after a fault; None if it was not reached: how often a folder is listed depends on its age."""
        before, held = case.state(), Holdings()
        text, is_typed = "", True
        with self.system.failing(kind, at) as counts:
            try:
                self.call(case)
            except BaseException as error:
                is_typed, text = isinstance(error, TYPED), repr(error)
        if counts[kind] <= at:
            return None
        if not text:
            found = [] if self.name == "load_all" else differences(case.state(), self.done, CONTENT)  # its report tells
            return [f"no error, and another {field}" for field in found]
        gc.collect()
        late = LATE.get(self.name, ())
        wrong = [] if is_typed else ["not typed"]
        wrong += [f"leaked {each}" for each in new_holdings(held) if not late]
        try:
            wrong += [f"changed {field}" for field in differences(case.state(), before) if field not in late]
            self.call(case)
            wrong += [f"again, and another {field}" for field in differences(case.state(), self.done, CONTENT)]
        except Exception as error:
            wrong.append(f"again: {error!r}")
        return [f"{text}: {each}" for each in wrong]


def new_holdings(before: Holdings) -> list[str]:
    """What is held and was not before; a mapping is known by its address, for the name of its file may change."""
    known = {line.split()[0] for line in before.mappings}
    return [each for each in before.new() if each.split()[0] not in known]


def differences(one: State, other: State, fields: Iterable[str] | None = None) -> list[str]:
    return [field for field in fields or one if one[field] != other[field]]


def main(step: str, *names: str) -> None:
    """Let every `step`th call of each kind fail, in CALLS of these names, or in all."""
    warnings.simplefilter("ignore")
    logging.getLogger("jessy_mem").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    system = System()
    with tempfile.TemporaryDirectory() as place:
        make_base(Path(place, "base"))
        for name in names or CALLS:
            sweep = Sweep(name, Path(place), system)
            for kind in KINDS:
                print(json.dumps(sweep.run(kind, int(step))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
