"""A process that learns, for tests that kill it or run several on one base folder.

`serve` reads one order a line, as JSON, from its standard input and carries it out in a process of its
own, which tells on the standard output what is done, as soon as it is:

    pid N                   the process that works now
    created ID KEY          create_proto_dimension returned
    crystallized ID KEY     crystallize returned: from now on the dimension must survive everything
    forgetting ID KEY       forget is called
    forgotten ID KEY        forget returned
    calls N                 system calls that an order with `cut_power` came to
    ended STATUS            as os.waitstatus_to_exitcode: -9 if it was killed

With `kill_at` in the order it is killed there, as stopping.py counts.

The dimension with KEY is called "Learned KEY", and its content is `content_of(KEY, layer)`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest import SkipTest

import disk
import grower
import mixture
import stopping
from world import content_of, generation_of, manager

import jessy_mem as jm
from helpers import HUNG_S, read_region
from jessy_mem import sealed
from jessy_mem._core.changes import ChangePage
from jessy_mem.locking import FolderLock
from jessy_mem.register import LOCK_NAME

N_LAYERS = 2
LAYER_BYTES = 5000
CALLS = [
    *((os, name) for name in "open close mkdir stat lstat fstat fchmod write pread pwrite fsync link rename".split()),
    *((os, name) for name in "unlink rmdir sendfile".split()),
    (fcntl, "flock"),
    (sealed, "Mapping"),
]


_write = os.write  # a test may let that of `os` do half of it


def report(*words: object) -> None:
    _write(1, (" ".join(map(str, words)) + "\n").encode())


def learn(base: str, first_key: int, user: bool, n: int | None) -> None:
    """Create and crystallize `n` dimensions, for ever if None, and forget every third one again."""
    with manager(base) as memory:
        for key in itertools.count(first_key) if n is None else range(first_key, first_key + n):
            dimension = create(memory, key, user)
            memory.crystallize(dimension)
            report("crystallized", dimension, key)
            if key % 3 == 2:
                report("forgetting", dimension, key)
                memory.forget(dimension)
                report("forgotten", dimension, key)


def create(memory: jm.MmapManager, key: int, user: bool) -> int:
    layers = [jm.LayerSpec(content=content_of(key, i, n_bytes=LAYER_BYTES), frequency=1 + i) for i in range(N_LAYERS)]
    dimension = memory.create_proto_dimension(f"Learned {key}", layers, user=user)
    report("created", dimension, key)
    return dimension


@contextmanager
def cut(kill_before: int, cut_power: Callable[[], object]):
    """Gives a context in which system calls are counted, and the power cut before number `kill_before`.

    A write counts twice: before it, and when half of it is done. All of them are told of at the end.
    """
    n_calls = 0

    def count() -> bool:
        nonlocal n_calls
        n_calls += 1
        return n_calls > kill_before

    def die() -> None:
        cut_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def stops(function):
        def call(*args, **kwargs):
            if count():
                die()
            if function is write and count():
                write(args[0], bytes(args[1])[: len(args[1]) // 2])
                die()
            return function(*args, **kwargs)

        return call

    write = os.write
    plain = [(module, name, getattr(module, name)) for module, name in CALLS]

    @contextmanager
    def counted():
        for module, name, function in plain:
            setattr(module, name, stops(function))
        try:
            yield
        finally:
            for module, name, function in plain:
                setattr(module, name, function)

    yield counted
    report("calls", n_calls)


def live(memory: jm.MmapManager, counted: Callable[[], AbstractContextManager[object]]) -> None:
    """Let a dimension go through its life."""
    dimension = 0
    for number, (what, *keys) in enumerate(grower.STEPS):
        report("begun", number, dimension)
        with counted():
            dimension = grower.do(memory, dimension, what, *keys)
        report("done", number, dimension)


def grow_cut(base: str, first_key: int, user: bool, kill_before: int, cut_power: int, syncs_folders: bool) -> None:
    """Let a dimension go through its life, and the power of the disk be cut before that call, as `disk.cut` does it."""
    fsync = os.fsync
    if not syncs_folders:
        os.fsync = lambda fd: None if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd)
    folder = os.open(base, os.O_RDONLY)
    memory = manager(f"{base}/base")
    with cut(kill_before, lambda: disk.cut(folder, cut_power)) as counted:
        live(memory, counted)


def grow_stopped(base: str, first_key: int, user: bool, durability: str) -> None:
    """The same life, each system call of which is a stop."""
    memory = manager(base, durability=durability)
    with stopping.half_writes(), stopping.calls_are_stops():
        live(memory, contextlib.nullcontext)


def grow(base: str, first_key: int, user: bool, shared: str) -> None:
    """Append to the dimension that all share, for ever, and change what was appended."""
    with manager(base) as memory:
        dimension = memory.ensure_dimension(shared, user=user)
        mine: list[tuple[int, int]] = []
        for key in itertools.count(first_key):
            if key % 5 == 4:
                layer, old = mine.pop(0)
                report("removing", layer, old)
                memory.remove_layer((dimension, layer))
                report("removed", layer, old)
                continue
            ((_, layer),) = memory.extend(dimension, [grower.spec(key)])
            mine.append((layer, key))
            report("appended", layer, key)
            if key % 50 == 3:
                memory.compact(dimension)


def learn_stopped(base: str, first_key: int, user: bool) -> None:
    """Crystallize one dimension and forget another, each system call of which is a stop."""
    with manager(base) as memory:
        other = create(memory, first_key, user)
        memory.crystallize(other)
        report("crystallized", other, first_key)
        dimension = create(memory, first_key + 1, user)
        with stopping.half_writes(), stopping.calls_are_stops():
            memory.crystallize(dimension)
            report("crystallized", dimension, first_key + 1)
            report("forgetting", other, first_key)
            memory.forget(other)
            report("forgotten", other, first_key)


def import_stopped(base: str, first_key: int, user: bool, archive: str) -> None:
    """Import an archive over what is there, each system call of which is a stop."""
    os.fsync = lambda fd: None  # what a kill leaves does not depend on it
    with stopping.half_writes(), stopping.calls_are_stops():
        jm.import_base(archive, base, replace_existing=True)


def mix(base: str, first_key: int, user: bool, archives: list[str], mixed: str) -> None:
    """Be one of several writers that do everything at once, with that durability."""
    mixture.write(base, first_key, mixed, archives, report)


def read(base: str, first_key: int, user: bool, read_s: float) -> None:
    """Follow the others for a while and read all that there is, whole or not at all; now and then a fork reads, too.

    For longer, if nothing was there to be read.
    """
    deadline, n_read = time.monotonic() + read_s, 0
    with manager(base, total_memory_mb=4000) as memory:  # what a snapshot holds cannot be evicted
        for turn in itertools.count():
            memory.refresh()
            memory.load_all()
            for dimension in memory.names().values():
                with contextlib.suppress(jm.DimensionNotFound):
                    memory.load_dimension(dimension, exist_ok=True)
            n_read += read_all(memory)
            with memory.snapshot() as moment:
                layers = list(moment)[:50]
                assert [bytes(moment[layer]) for layer in layers] == [bytes(moment[layer]) for layer in layers]
            if turn % 8 == 0:
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if read_all(memory) >= 0 else 1)
                assert os.waitpid(pid, 0)[1] == 0
            if n_read and time.monotonic() > deadline:
                break
    report("read", n_read, 0)


def read_all(memory: jm.MmapManager) -> int:
    """How many layers were read; ValueError for one that is a mixture."""
    n_read = 0
    for layer in list(memory):
        with contextlib.suppress(jm.LayerNotFound, jm.DimensionNotFound):  # removed, or forgotten, meanwhile
            generation_of(bytes(memory[layer]))
            n_read += 1
    return n_read


def take_care(base: str, first_key: int, user: bool, care_s: float) -> None:
    """Examine the folder, export it, and read what was exported, for a while."""
    deadline, n_exports = time.monotonic() + care_s, 0
    with tempfile.TemporaryDirectory() as place:
        while n_exports == 0 or time.monotonic() < deadline:
            kinds = {finding.kind for finding in jm.examine(base)}
            assert "damaged" not in kinds, kinds
            archive, there = Path(place, f"{n_exports}.tar"), Path(place, f"{n_exports}")
            n_before = changes_in(base)
            try:
                jm.export_base(base, archive)
            except jm.LockTimeout:
                check_holders(base, n_before)
                continue
            n_exports += 1
            jm.import_base(archive, there)
            with manager(there, total_memory_mb=4000) as memory:
                memory.load_all()
                read_all(memory)
            archive.unlink()
            shutil.rmtree(there)
    report("exported", n_exports, 0)


def changes_in(base: str | Path) -> int:
    """What counts the changes of a base folder that processes told each other."""
    page = ChangePage(base)
    page.open()
    try:
        return page.sequence
    finally:
        page.close()


def check_holders(base: str | Path, n_before: int, timeout_s: float = HUNG_S) -> None:
    """After a LockTimeout: others had the lock, one after the other; or LockTimeout again, for one of them hangs.

    Changes were told since there were `n_before`; or the machine is so busy that there were none, and a long wait ends.
    """
    if changes_in(base) == n_before:
        with FolderLock(os.path.join(base, LOCK_NAME), timeout_s):
            pass


def serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        works = {
            "cut_power": grow_cut,
            "durability": grow_stopped,
            "shared": grow,
            "mixed": mix,
            "archive": import_stopped,
            "kill_at": learn_stopped,
            "n": learn,
            "read_s": read,
            "care_s": take_care,
        }
        work = next(work for field, work in works.items() if field in order)
        kill_at = order.pop("kill_at", None)
        pid = os.fork()
        if pid == 0:
            try:
                work(**order)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        report("pid", pid)
        report("ended", stopping.kill_at(pid, sys.maxsize if kill_at is None else kill_at))


# What the tests use -----------------------------------------------------------------------------------------------


class Learner:
    """The process, seen from a test. A context manager; what hangs is killed after `timeout_s`."""

    def __init__(self, timeout_s: float = HUNG_S) -> None:
        here = os.fspath(Path(__file__).resolve().parent)
        main = f"import sys; sys.path.insert(0, {here!r}); import learner; learner.serve()"
        command = [sys.executable, "-W", "error", "-c", main]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.worker: int | None = None
        self.guard = threading.Timer(timeout_s, self.stop)
        self.guard.start()

    def __enter__(self) -> Learner:
        return self

    def stop(self) -> None:
        """Kill what works, if anything does; the process that waits for it says so and ends."""
        if self.worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker, signal.SIGKILL)

    def __exit__(self, *exc_info: object) -> None:
        self.process.stdin.close()
        self.stop()
        self.process.wait()
        self.process.stdout.close()
        self.guard.cancel()
        self.guard.join()

    def begin(self, base: Path, first_key: int, user: bool = False, **order) -> int:
        """Give an order; returns the number of the process that carries it out."""
        order |= {"base": os.fspath(base), "first_key": first_key, "user": user}
        self.process.stdin.write(json.dumps(order) + "\n")
        found = []
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "pid":
                self.heard, self.worker = found, int(words[1])
                return self.worker
            found.append(words)  # the worker was faster than its parent
        raise AssertionError(f"the learner ended with {self.process.wait()}")

    def end(self) -> tuple[int, list[tuple[str, int, int]]]:
        """Wait for the end: its status, and what was told: (word, id, key). Skips the test where a kill is refused."""
        told = []
        for words in itertools.chain(self.heard, (line.split() for line in self.process.stdout)):
            if words[0] == "ended":
                self.worker = None
                if int(words[1]) == stopping.REFUSED:
                    raise SkipTest("nobody may trace a child here")
                return int(words[1]), told
            told.append((words[0], int(words[1]), int(words[-1])))
        raise AssertionError(f"the learner ended with {self.process.wait()}")


class Ledger:
    """What a learner told of one base folder, and what must therefore be there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.keys: dict[int, int] = {}  # dimension -> key, of all that were created
        self.durable: set[int] = set()
        self.open: set[int] = set()  # in the middle of a change when the process was killed: whole, or absent

    def enter(self, told: list[tuple[str, int, int]]) -> None:
        for word, dimension, key in told:
            if word == "created":
                assert dimension not in self.keys, f"id {dimension} was given twice"
                self.keys[dimension] = key
                self.open.add(dimension)
            elif word == "crystallized":
                self.durable.add(dimension)
                self.open.remove(dimension)
            elif word == "forgetting":
                self.durable.remove(dimension)
                self.open.add(dimension)
            elif word == "forgotten":
                self.open.remove(dimension)

    def check(self) -> None:
        """Clean the folder: then every acknowledged dimension is whole, and nothing is stray or damaged."""
        findings = jm.examine(self.base)
        before_all = set() if self.durable else {"no dimension"}  # who was killed at once left nothing
        assert {finding.kind for finding in findings} <= {"stray temporary", "empty folder"} | before_all
        jm.clean(findings)
        assert {finding.kind for finding in jm.examine(self.base)} <= before_all
        found = {int(path.name[1:]) for path in self.base.glob("D*")}
        assert found >= self.durable, "an acknowledged dimension is gone"
        assert found <= self.durable | self.open, "a forgotten dimension is back"
        for dimension in found:
            self.check_file(dimension)
        self.durable |= self.open & found  # it has survived; from now on it must
        self.open.clear()
        files = {path.name for path in self.base.rglob("*") if path.is_file()}
        assert files <= {"region.mmap", ".jessy_mem.lock", ".changes"}

    def check_file(self, dimension: int) -> None:
        stored = read_region(Path(jm.region_path(self.base, dimension)).read_bytes())
        key = self.keys[dimension]
        assert (stored.dimension_id, stored.name) == (dimension, f"Learned {key}".encode())
        assert [layer.content for layer in stored.layers] == [
            content_of(key, i, n_bytes=LAYER_BYTES) for i in range(N_LAYERS)
        ]

    def check_loading(self) -> None:
        with manager(self.base) as memory:
            assert set(memory.load_all().loaded) == self.durable
            for dimension in self.durable:
                assert memory.region(dimension).verify() == []
                assert memory.access_layer((dimension, 1)).frequency == 2
