"""Every call of a manager as a deed that is done once, with a fault in it, and what may be found afterwards.

Whatever the fault is (tests/contract/test_interrupts.py, tests/contract/test_no_memory.py): each dimension is as it was
before the call, or as it is after it, the manager works, other threads find no lock taken, and nothing is left open.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from inside import evict
from world import World, manager

import jessy_mem as jm
from helpers import HUNG_S, open_files
from jessy_mem.publish import is_temporary

SPEC = jm.LayerSpec(text="ours")
PROTO, TEA, EVICTED = 17, 15, 16

State = dict[int, dict[int, bytes]]  # the layers of each dimension, by number


class Place:
    """A manager with everything: files, one of them evicted, one in two files, and a proto-dimension."""

    def __init__(self, template: Path, root: Path, **options) -> None:
        self.root, self.base = root, root / "base"
        shutil.copytree(template, self.base)
        self.memory = manager(self.base, lock_timeout_s=1, **options)
        self.memory.load_dimension(1)
        self.memory.load_dimension(EVICTED)
        self.memory.load_dimension(TEA)
        self.memory.create_proto_dimension("proto", [SPEC, SPEC])
        evict(self.memory, EVICTED)

    def state(self) -> dict[int, dict[int, bytes]]:
        """The layers of each dimension, by number."""
        return state_of(self.memory)


def state_of(memory: jm.MmapManager) -> dict[int, dict[int, bytes]]:
    found: dict[int, dict[int, bytes]] = {}
    for dimension, layer in memory.layers():
        found.setdefault(dimension, {})[layer] = bytes(memory.access_layer((dimension, layer)))
    return found


def make_template(base: Path) -> Path:
    """The base folder that each Place begins with."""
    world = World(base)
    world.write_all(1, 2, EVICTED, n_layers=2)
    world.write(TEA, n_layers=3)
    world.grow(TEA, 2, put=[1])
    return base


def snapshot(at: Place) -> None:
    with at.memory.snapshot() as then:
        then.layers()
        then.access_layer((EVICTED, 0))


def trace(at: Place) -> None:
    with at.memory.record_trace(at.root / "trace"):
        at.memory.access_layer((1, 0))


def access(at: Place) -> None:
    views = [*at.memory.values(), *at.memory.access_many([(1, 0), (TEA, 1)]), at.memory.get((PROTO, 1))]
    seen = [(view.id, view.text, view.keywords, view.attributes, bytes(view[:2])) for view in views]
    assert len(seen) == len(at.memory) + 3
    at.memory.load_context((1, 0))


def read(at: Place) -> None:
    with at.memory.reader() as reader:
        assert reader.access_layer((1, 0)).depth == reader.load_context((1, 0)).depth
        reader.access_many(reader.layers(frequency=(0, 1e6)))
        reader.read_many([(TEA, 0), (EVICTED, 0)])


def lend(at: Place) -> None:
    blocks = [at.memory.allocate(500) for _ in range(2)]
    at.memory.deallocate(blocks.pop())
    at.memory.leases()


def listen(at: Place) -> None:
    heard: list[object] = []
    for register in (at.memory.on_change, at.memory.on_evict, at.memory.on_pressure):
        register(lambda *what: heard.append(what))


def store(at: Place) -> None:
    builder = jm.RegionBuilder(1, "Perception")
    builder.add_layer(SPEC)
    builder.write(at.base / "D03" / "region.mmap")


def examine(at: Place) -> None:
    with jm.MmapRegion(1, at.base / "D01" / "region.mmap") as region:
        assert region.verify() == []
        assert region.layer(0).text
    jm.examine(at.base)


def changed_outside(at: Place) -> None:
    World(at.base).write(1, n_layers=2, generation=5)
    World(at.base).grow(EVICTED, 2, put=[0])


def archived(at: Place) -> None:
    jm.export_base(at.base, at.root / "template.tar")


def elsewhere(at: Place) -> None:
    World(at.root / "elsewhere").write(2, n_layers=2, generation=7)


DEEDS: dict[str, Callable[[Place], object]] = {
    "load": lambda at: at.memory.load_dimension(2),
    "load from a path": lambda at: at.memory.load_dimension(2, World(at.root / "elsewhere").path(2)),
    "load_all": lambda at: at.memory.load_all(),
    "unload": lambda at: at.memory.unload_dimension(1),
    "reload": lambda at: at.memory.reload_dimension(1),
    "reload_many": lambda at: at.memory.reload_many([1, TEA]),
    "refresh": lambda at: at.memory.refresh(),
    "access of what is evicted": lambda at: at.memory.access_layer((EVICTED, 0)),
    "region of what is evicted": lambda at: at.memory.region(EVICTED),
    "access": access,
    "read": read,
    "contexts": lambda at: at.memory.load_contexts([jm.NavigationPath(1, [(1, 0), (EVICTED, 1)])]),
    "read_many": lambda at: at.memory.read_many([(1, 0), (EVICTED, 1)]),
    "layers": lambda at: at.memory.layers(keyword="x"),
    "get_stats": lambda at: at.memory.get_stats(residency=True),
    "dump_state": lambda at: at.memory.dump_state(),
    "addresses": lambda at: [at.memory.resolve(at.memory.address_of((TEA, layer))) for layer in range(3)],
    "lend": lend,
    "trim": lambda at: (at.memory.trim(), at.memory.cool()),
    "listen": listen,
    "create": lambda at: at.memory.create_proto_dimension("new", [SPEC]),
    "ensure": lambda at: at.memory.ensure_dimension("new", [SPEC]),
    "find": lambda at: (at.memory.find("proto"), at.memory.names()),
    "append to a proto": lambda at: at.memory.append_layer(PROTO, SPEC),
    "append to a file": lambda at: at.memory.append_layer(TEA, SPEC),
    "extend until it is merged": lambda at: at.memory.extend(TEA, [jm.LayerSpec(content=bytes(4000))] * 3),
    "update": lambda at: at.memory.update_layer((TEA, 0), SPEC),
    "remove": lambda at: at.memory.remove_layer((TEA, 0)),
    "compact": lambda at: at.memory.compact(TEA),
    "crystallize": lambda at: at.memory.crystallize(PROTO),
    "crystallize_many": lambda at: at.memory.crystallize_many(),
    "forget a proto": lambda at: at.memory.forget(PROTO),
    "forget a file": lambda at: at.memory.forget(TEA),
    "snapshot": snapshot,
    "trace": trace,
    "sync": lambda at: at.memory.sync(),
    "store": store,
    "examine": examine,
    "export": lambda at: jm.export_base(at.base, at.root / "archive.tar"),
    "import": lambda at: jm.import_base(at.root / "template.tar", at.root / "imported"),
    "open": lambda at: manager(at.base, on_close="drop").close(),
    "close": lambda at: at.memory.close(),
}
PREPARED = {
    "load from a path": elsewhere,
    "reload": changed_outside,
    "reload_many": changed_outside,
    "refresh": changed_outside,
    "import": archived,
}


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Nothing waits for the disk, and what an interrupt meets where nothing can be raised is nobody's business."""
    fsync, hook = os.fsync, sys.unraisablehook
    os.fsync, sys.unraisablehook = (lambda fd: None), (lambda unraisable: None)
    try:
        yield
    finally:
        os.fsync, sys.unraisablehook = fsync, hook


def goes_on(memory: jm.MmapManager) -> BaseException | None:
    """Whether another thread can do everything, so that no lock is left behind; else why not."""
    failed: list[BaseException] = []

    def go_on() -> None:
        try:
            memory.load_dimension(1, exist_ok=True)
            memory.append_layer(memory.ensure_dimension("after", [SPEC]), SPEC)
            memory.get_stats()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    thread.join(HUNG_S)
    return TimeoutError("a lock is kept") if thread.is_alive() else failed[0] if failed else None


def others(found: State, *allowed: State) -> list[int]:
    """The dimensions that are as in none of those."""
    return [
        each for each in {*found, *allowed[0], *allowed[1]} if found.get(each) not in [a.get(each) for a in allowed]
    ]


class Fault(contextlib.AbstractContextManager["Fault"], Protocol):
    """What goes wrong inside, once."""

    errors: tuple[type[BaseException], ...]  # what may be raised then
    fired: bool

    def excuses(self, error: BaseException, file: str) -> bool:
        """Whether another error than those is no fault of the library's; `file` is where it was raised."""


def contradictions(memory: jm.MmapManager, found: State) -> list[str]:
    """Where a manager's answers are not those that its layers give."""
    layers = [(dimension, layer) for dimension, those in found.items() for layer in those]
    wrong = []
    for keyword in ("delta", "ours", "x"):
        having = sorted(each for each in layers if keyword in memory.access_layer(each).keywords)
        if (answer := sorted(memory.layers(keyword=keyword))) != having:
            wrong.append(f"{keyword!r} is found in {answer}, not {having}")
    stats = memory.get_stats()
    if (stats.layers_loaded, stats.dimensions_loaded) != (len(layers), len(found)):
        wrong.append(f"{stats.layers_loaded} layers of {stats.dimensions_loaded}, not {len(layers)} of {len(found)}")
    if stats.leased_bytes:
        gc.collect()
        if leased := memory.get_stats().leased_bytes:
            wrong.append(f"{leased} bytes are leased")
    for dimension in found:
        memory.address_of((dimension, min(found[dimension])))
    wrong += [f"{name} is not found" for name in memory.names() if memory.find(name) is None]
    return wrong


class Trial:
    """A deed that is done once, with a fault in it, and what is found afterwards."""

    def __init__(self, name: str, fault: Fault, template: Path, root: Path, clean: Trial | None = None) -> None:
        self.problems: list[str] = []
        self.fault, self.raised, self.where = fault, "", ""
        self.done: State | None = None
        self.saved: State = {}
        descriptors = set(open_files())
        at = Place(template, root)
        self.before = at.state()
        evict(at.memory, EVICTED)
        prepare = PREPARED.get(name)
        if prepare is not None:
            prepare(at)
        try:
            with fault:
                DEEDS[name](at)
        except BaseException as error:
            self.raised = repr(error)
            frames = traceback.extract_tb(error.__traceback__)
            self.where = " < ".join(f"{Path(each.filename).name}:{each.lineno}" for each in frames[:0:-1])
            if not (isinstance(error, fault.errors) or fault.excuses(error, frames[-1].filename)):
                self.problems.append(f"it raises {error!r}")
            error.__traceback__ = error.__context__ = error.__cause__ = None
        try:
            self.look(name, at, clean)
        except Exception as error:
            self.problems.append(repr(error))
        at.memory = None
        if left := [what for fd, what in open_files().items() if fd not in descriptors]:
            self.problems.append(f"open: {left}")
            for fd in set(open_files()) - descriptors:
                os.close(fd)
        shutil.rmtree(root)

    def look(self, name: str, at: Place, clean: Trial | None) -> None:
        if at.memory:
            self.done = at.state()
            if clean is not None:
                done = clean.done or clean.before
                if strange := others(self.done, clean.before if self.raised else done, done):
                    self.problems.append(f"neither as before nor done: {strange}")
            self.problems += contradictions(at.memory, self.done)
            if at.memory._tracing._told:  # private: what is recorded after a block that records has no reader
                self.problems.append("it is traced")
            named = at.memory._opener.named  # private: whoever loads it next gets that
            if not named.keys() <= self.done.keys():
                self.problems.append(f"another path: {named}")
            if left := [path.name for path in at.root.rglob("*") if is_temporary(path)]:
                self.problems.append(f"there is {left}")
            for _ in range(2):
                if (error := goes_on(at.memory)) is not None:
                    self.problems.append(f"does not go on: {error!r}")
        at.memory.close()
        at.memory.close()
        gc.collect()
        if at.memory.get_stats().total_allocated_bytes:
            self.problems.append("a charge is left")
        with manager(at.base) as memory:
            memory.load_all()
            self.saved = state_of(memory)
        if clean is not None and not {*clean.before} - {*self.saved} <= {*clean.before} - {*clean.saved}:
            self.problems.append("something is lost")
