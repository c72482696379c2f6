"""A process that calls everything compiled with anything, for tests/package/test_wrong_arguments.py.

It reads one order a line, as JSON: a module, and a folder to work in. A child does it, and notes each call before it is
made in a mapped file, which is there when the child has died. Its standard error is in the folder, too.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import itertools
import json
import mmap
import operator
import os
import pickle
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import jessy_mem

PACKAGE = Path(jessy_mem.__file__).parent
SUFFIXES = (".pyd", ".so")
COMPILED = [path for path in PACKAGE.rglob("*") if path.suffix in SUFFIXES and not path.name.startswith("_")]
MODULES = sorted(
    {".".join((*path.relative_to(PACKAGE.parent).parent.parts, path.name.partition(".")[0])) for path in COMPILED}
)


def classes_of(module_name: str) -> dict[str, type]:
    """The classes that are made in a module."""
    found = vars(importlib.import_module(module_name)).values()
    return {each.__name__: each for each in found if inspect.isclass(each) and each.__module__ == module_name}


LEFT_OUT = {"pairs_ns"}  # measures for as long as it is told to


class Hostile:
    """Gives itself out for a number, a buffer or a sequence, and is none."""

    def __index__(self):
        raise RuntimeError("no number")

    def __len__(self):
        return 1 << 40

    def __getitem__(self, at):
        raise RuntimeError("no sequence")

    def __call__(self, *arguments):
        return None


def sound_objects(folder: Path) -> dict[str, object]:
    """One object of each class that has been made rightly."""
    import jessy_mem as jm
    from jessy_mem._core import (
        base_file,
        budget,
        changes,
        head,
        holders,
        index,
        mapped,
        mapping,
        packing,
        pool,
        records,
        region,
        registry,
        texts,
        whole,
    )
    from jessy_mem._probe.pool import BitmapProbe
    from jessy_mem.table import RegionTable

    path = jm.RegionBuilder(1, "One").add_layer(jm.LayerSpec(text="some text", keywords=("word",))).write(folder / "r")
    ledger = budget.Ledger(1 << 20, {"a": 1 << 20})
    allocator = pool.PoolAllocator(((1, 4096),), 1)
    block = allocator.allocate(100)
    opened = region.MmapRegion(1, path)
    table = holders.Holders()
    table.install(1, region.MmapRegion(1, path))
    read = registry.LayerRegistry()
    read._holders.install(1, region.MmapRegion(1, path))  # private: a registry alone loads nothing
    read.access_layer((1, 0))
    summary = records.LatencySummary(1, 1, 1, 1, 1, 1, 1.0)
    index_of_one = index.LayerIndex()
    index_of_one.put(1, [(0, 1, 1.0, ("word",), 9, 9, 5)], "One")
    memory = jm.MmapManager(base_path=folder / "base", text_cache_mb=1)
    memory.create_proto_dimension("One", [jm.LayerSpec(text="some text", keywords=("word",))])
    reader = memory.reader()
    reader.access_layer((15, 0))
    return {
        "Ledger": ledger, "Charge": budget.Charge(ledger, "a", 10), "PoolAllocator": allocator, "Block": block,
        "ChangePage": changes.ChangePage(folder),
        "BaseFile": base_file.BaseFile(str(path), 1, ledger=ledger, segment="a", most_bytes=1000),
        "Head": head.Head(os.open(path, os.O_RDONLY), str(path), 100, bytes(100)),
        "Image": mapped.map_file(path, 1), "Mapping": mapping.Mapping(4096), "UnmapTogether": mapping.UnmapTogether(),
        "MmapRegion": opened, "LayerView": opened.layer(0), "Holders": table, "LayerRegistry": read,
        "LatencyHistogram": jm.LatencyHistogram(), "LatencySummary": summary,
        "MemoryStats": jm.MmapManager().get_stats(),
        "PoolStats": allocator.stats(), "PoolClassStats": allocator.stats().classes[0],
        "SegmentStats": records.SegmentStats(1, 2, 3), "BitmapProbe": BitmapProbe(128),
        "Gathered": read._gather([(1, 0)]),  # private: it is handed out by nobody
        "PackedRegion": packing.pack_layers(1, b"One", 1, 1, {0: jm.LayerSpec(text="some text")}),
        "LayerIndex": index_of_one, "Reader": reader,
        "RegionTable": RegionTable(jm.MemoryConfig(base_path=folder / "table")),
        "TextCache": texts.TextCache(ledger, "a", 1000), "Lock": whole.Lock(),
        "Afterwards": whole.Afterwards(len, ()), "Descriptor": whole.Descriptor(folder, os.O_RDONLY),
        "LoadedContext": records.LoadedContext(jm.LayerId(1, 0), "", 1.0, (), 0, "mmap"),
    }  # fmt: skip


class Calls:
    """How many calls were made in a folder, and what the last one is."""

    HEAD = struct.Struct("QI")

    def __init__(self, folder: Path) -> None:
        self.n = 0
        self.path = folder / "calls"

    def begin(self) -> None:
        self.path.write_bytes(bytes(4096))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)

    def note(self, what: str) -> None:
        self.n += 1
        data = what.encode()[:4000]
        self.memory[self.HEAD.size : self.HEAD.size + len(data)] = data
        self.HEAD.pack_into(self.memory, 0, self.n, len(data))

    def read(self) -> tuple[int, str]:
        data = self.path.read_bytes()
        n, size = self.HEAD.unpack_from(data)
        return n, data[self.HEAD.size : self.HEAD.size + size].decode()


def attempt(what: str, call) -> object:
    """The result of `call`, or None if it raises, as it may."""
    calls.note(what)
    try:
        return call()
    except Exception:
        return None


def protocols(what: str, each: object) -> None:
    """Everything that Python itself may do with an object."""
    for name, use in USES.items():
        attempt(f"{name}({what})", lambda use=use: use(each))


USES = {
    "repr": repr, "str": str, "hash": hash, "len": len, "bool": bool, "bytes": bytes, "int": int, "dir": dir,
    "memoryview": memoryview, "sum": lambda it: sum(memoryview(it)), "weakref": weakref.ref, "size": sys.getsizeof,
    "iter": lambda it: list(itertools.islice(iter(it), 3)), "in": lambda it: 1 in it, "index": lambda it: [1][it],
    "equal": lambda it: (it == it, it != it, it == 0), "less": lambda it: it < it, "call": lambda it: it(),
    "item": lambda it: it[0], "huge item": lambda it: it[2**70], "slice": lambda it: it[-5 : 1 << 40],
    "set item": lambda it: operator.setitem(it, 0, 1), "delete item": lambda it: operator.delitem(it, 0),
    "copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda it: pickle.loads(pickle.dumps(it)),
    "asdict": dataclasses.asdict, "replace": dataclasses.replace,
    "with": lambda it: it.__enter__() and it.__exit__(1, 2, 3),
}  # fmt: skip


def wrong_values(sound: dict[str, object]) -> list[object]:
    made = [attempt("new", lambda each=each: type(each).__new__(type(each))) for each in sound.values()]
    bare = [each for each in made if each is not None]
    return [
        None, 0, -1, 7, 2**31, 2**70, -(2**70), True, 1.5, float("nan"), "", "name", b"", b"bytes", (), (1, 0), [],
        [None], {}, {"a": 1}, {1: None}, object(), int, Hostile(), bytearray(8), memoryview(b"1234"),
        lambda *given: None, *bare,
    ]  # fmt: skip


def try_callable(what: str, call, values: list[object]) -> None:
    for n in range(4):
        attempt(f"{what}: {n} times None", lambda n=n: call(*[None] * n))
    attempt(f"{what}: 40 arguments", lambda: call(*[0] * 40))
    attempt(f"{what}: unknown keyword", lambda: call(nobody_has_this=1))
    for value in values:
        for n in (1, 2, 3, 4):
            attempt(f"{what}: {n} times {type(value).__name__}", lambda value=value, n=n: call(*[value] * n))
        for given in (
            (value, 0),
            (0, value),
            (1, value),
            (value, "a", 1),
            (1, value, 1),
            (value, 1, "a"),
            ("a", value),
        ):
            attempt(f"{what}: {type(value).__name__} among others", lambda given=given: call(*given))


def try_object(what: str, each: object, values: list[object], but: tuple[str, ...] = ()) -> None:
    protocols(what, each)
    for name in dir(type(each)):
        if name in LEFT_OUT or name in but or name in ("__class__", "__init_subclass__", "__subclasshook__"):
            continue
        value = attempt(f"getattr({what}, {name})", lambda name=name: getattr(each, name))
        if callable(value):
            # What every object has is CPython's, and tried by `protocols`.
            is_own = getattr(type(each), name, None) is not getattr(object, name, each)
            try_callable(f"{what}.{name}", value, values if is_own else [])
        else:
            for other in values:
                attempt(f"setattr({what}, {name})", lambda name=name, other=other: setattr(each, name, other))
            attempt(f"delattr({what}, {name})", lambda name=name: delattr(each, name))
    protocols(what, each)


def try_class(cls: type, sound: dict[str, object], values: list[object]) -> None:
    name = cls.__name__
    has_own = [each for each in vars(cls) if not each.startswith("__")]
    assert name in sound or not has_own, f"sound_objects: no {name} that was made rightly, which has {has_own}"
    try_callable(name, cls, values)
    bare = attempt(f"{name}.__new__", lambda: cls.__new__(cls))
    if bare is not None:
        try_object(f"bare {name}", bare, values, but=("__init__",))
        try_object(f"bare {name}", bare, values)
    for value in values:  # what a constructor refused is used all the same
        refused = attempt(f"{name}.__new__", lambda: cls.__new__(cls))
        if refused is not None:
            attempt(f"{name}.__init__", lambda each=refused, value=value: each.__init__(value, "a", 1, "b"))
            try_object(f"refused {name}", refused, [None, 1], but=("__init__",))
    if name in sound:
        try_object(name, sound[name], values)


def try_module(module_name: str, folder: Path) -> None:
    module = importlib.import_module(module_name)
    sound = sound_objects(folder)
    values = [*wrong_values(sound), *sound.values()]
    for cls in classes_of(module_name).values():
        try_class(cls, sound, values)
    if "._probe." in module_name:  # whose functions loop as long as one says
        return
    for name, function in list(vars(module).items()):
        of_module = getattr(function, "__module__", module_name) == module_name
        if callable(function) and not inspect.isclass(function) and of_module and name not in LEFT_OUT:
            try_callable(name, function, values)


def serve() -> None:
    """Each child ends as a program does, so that its end is tried, too."""
    global calls
    for line in sys.stdin:
        module_name, folder = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.chdir(folder)
            sys.path.append(folder)
            os.dup2(os.open("errors", os.O_CREAT | os.O_WRONLY), 2)
            os.dup2(2, 1)
            calls = Calls(Path(folder))
            calls.begin()
            try_module(module_name, Path(folder))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


# What the test uses -----------------------------------------------------------------------------------------------


class Trier:
    """The process, seen from a test; a context manager."""

    def __enter__(self) -> Trier:
        here = os.fspath(Path(__file__).resolve().parent)
        main = f"import sys; sys.path.insert(0, {here!r}); import anything; anything.serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", main],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.communicate()

    def tries(self, module: str, folder: Path) -> tuple[int, int, str, str]:
        """The status that it ended with, how many calls it made, the last one, and what it wrote."""
        self.process.stdin.write(json.dumps([module, os.fspath(folder)]) + "\n")
        status = int(self.process.stdout.readline())
        return status, *Calls(folder).read(), (folder / "errors").read_text()
