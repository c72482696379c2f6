"""What can be seen of a base folder, and of the processes that use it, from outside.

The files tell sizes, layers, changes, and how much of them is in memory. The system tells which processes have them
mapped, and what they still hold of files that are gone. What a manager counts it keeps to itself, so budgets, pressure,
latencies and leases are known of those processes only that publish them.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jessy_mem as jm
from jessy_mem.cli.paths import dimension_of, reason
from jessy_mem.units import counted

__all__ = ["Process", "Seen", "Watch", "Worker"]

N_CHANGES = 50  # that are remembered
STATES = ("leased", "evictable", "pinned", "free")
PRESSURES = ("ok", "warning", "eviction", "critical")
DELETED = " (deleted)"


@dataclass
class Process:
    """A process that has files of the folder mapped."""

    pid: int
    name: str
    n_files: int = 0
    n_bytes: int = 0
    n_gone: int = 0  # files that are no more, of which it holds views, or did until now
    dimensions: set[int] = field(default_factory=set)


@dataclass
class Worker:
    """What a manager publishes."""

    name: str  # worker/manager
    limit_bytes: int = 0
    used_bytes: int = 0
    pressure: str = "ok"
    states: dict[str, int] = field(default_factory=dict)
    n_accesses: int = 0
    accesses_per_s: float | None = None  # None at the first look
    p99_s: float | None = None  # of an access
    n_evictions: int = 0


@dataclass
class Seen:
    """One look."""

    map: jm.MemoryMap | None  # None if the folder cannot be read
    problem: str  # why
    processes: list[Process]
    hidden: str  # what of the processes cannot be seen, and why; "" if nothing
    workers: list[Worker] | None  # None if nobody was asked
    unpublished: str  # why there are no workers
    changes: list[tuple[float, str]]  # (Unix time, what), the newest first
    n_changes: Counter[int]  # of each dimension since the first look
    n_readers: Counter[int]  # processes that have a dimension mapped


class Watch:
    """Looks at a folder again and again, and knows what changed in between."""

    def __init__(self, base: Path, metrics: Path | None) -> None:
        self._base = base
        self._prefix = os.path.realpath(base) + "/"
        self._metrics = metrics
        self._known: dict[int, jm.MapEntry] | None = None
        self._changes: deque[tuple[float, str]] = deque(maxlen=N_CHANGES)
        self._n_changes: Counter[int] = Counter()
        self._accesses: dict[str, tuple[float, int]] = {}

    def look(self) -> Seen:
        found, problem = None, ""
        try:
            found = jm.MemoryMap.of_folder(self._base)
        except OSError as error:
            problem = reason(error)
        self._compare({} if found is None else {entry.dimension: entry for entry in found.present})
        processes, hidden = self._processes()
        workers, unpublished = self._workers()
        n_readers = Counter(dimension for process in processes for dimension in process.dimensions)
        changes = list(reversed(self._changes))
        return Seen(found, problem, processes, hidden, workers, unpublished, changes, self._n_changes, n_readers)

    def _compare(self, now: dict[int, jm.MapEntry]) -> None:
        known, self._known = self._known, now
        if known is None:
            return
        for dimension in sorted(known.keys() | now.keys()):
            before, after = known.get(dimension), now.get(dimension)
            what = _change(before, after)
            if what:
                entry = after or before
                name = entry.name if entry is not None else ""
                self._changes.append((time.time(), f"D{dimension:02d} {name}: {what}"))
                self._n_changes[dimension] += 1

    # What the system tells

    def _processes(self) -> tuple[list[Process], str]:
        if not os.path.isdir("/proc/self"):
            return [], "this system does not tell"
        found, n_hidden = [], 0
        for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            if pid == os.getpid():
                continue
            try:
                process = self._process(pid)
            except PermissionError:
                n_hidden += 1
                continue
            except OSError:  # it has ended
                continue
            if process is not None:
                found.append(process)
        hidden = f"not seen: {n_hidden}" if n_hidden else ""
        return sorted(found, key=lambda process: (-process.n_bytes, process.pid)), hidden

    def _process(self, pid: int) -> Process | None:
        made: Process | None = None
        for path, n_bytes in _mapped_files(pid, self._prefix):
            dimension = dimension_of(path.partition("/")[0])
            if dimension is None:
                continue
            if made is None:
                made = Process(pid, _name_of(pid))
            made.n_files += 1
            made.n_bytes += n_bytes
            made.n_gone += path.endswith(DELETED)
            made.dimensions.add(dimension)
        return made

    # What processes publish

    def _workers(self) -> tuple[list[Worker] | None, str]:
        if self._metrics is None:
            return None, "known of processes that publish them; see --metrics"
        try:
            client: Any = importlib.import_module("prometheus_client")
            multiprocess: Any = importlib.import_module("prometheus_client.multiprocess")
        except ImportError:
            return None, "what processes publish is read by prometheus_client: pip install 'jessy-mem[prometheus]'"
        try:
            collector = multiprocess.MultiProcessCollector(client.CollectorRegistry(), path=os.fspath(self._metrics))
            families = list(collector.collect())
        except Exception as error:  # a file that is being written, or a folder that is gone
            return None, f"{self._metrics}: {error}"
        base = os.fsencode(self._base.resolve()).decode("utf-8", "backslashreplace")
        found: dict[str, Worker] = {}
        for family in families:
            for sample in family.samples:
                if not sample.name.startswith("jessy_mem_") or sample.labels.get("base_path") != base:
                    continue
                name = f"{sample.labels.get('worker', '?')}/{sample.labels.get('manager', '?')}"
                _take(found.setdefault(name, Worker(name)), sample.name, sample.labels, sample.value)
        for worker in found.values():
            now = time.monotonic()
            before = self._accesses.get(worker.name)
            if before is not None and now > before[0]:
                worker.accesses_per_s = max(0.0, (worker.n_accesses - before[1]) / (now - before[0]))
            self._accesses[worker.name] = now, worker.n_accesses
        return [found[name] for name in sorted(found)], "nobody publishes numbers of this folder there"


def _change(before: jm.MapEntry | None, after: jm.MapEntry | None) -> str:
    """What happened between two looks; "" if nothing did."""
    if before is None or after is None:
        return "added" if before is None else "removed"
    if (before.generation, before.n_bytes, before.state) == (after.generation, after.n_bytes, after.state):
        return ""
    if after.state != before.state:
        return "damaged" if after.problem else "readable again"
    n_more = after.n_layers - before.n_layers
    return f"{'+-'[n_more < 0]}{counted(abs(n_more), 'layer')}" if n_more else "changed"


def _mapped_files(pid: int, prefix: str) -> Iterator[tuple[str, int]]:
    """Each file below `prefix` that a process has mapped, as the path from there, and how many bytes of it."""
    with open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and b"/" in fields[5]:
                path = os.fsdecode(fields[5].rstrip(b"\n").replace(b"\\012", b"\n"))
                if path.startswith(prefix):
                    begin, _, end = fields[0].partition(b"-")
                    yield path.removeprefix(prefix), int(end, 16) - int(begin, 16)


def _name_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm", "rb") as comm:
        return os.fsdecode(comm.read().strip())


def _take(worker: Worker, name: str, labels: dict[str, str], value: float) -> None:
    """Let `worker` know one of its numbers."""
    match name.removeprefix("jessy_mem_"):
        case "limit_bytes":
            worker.limit_bytes = int(value)
        case "allocated_bytes":
            worker.used_bytes = int(value)
        case "budget_bytes":
            worker.states[labels["state"]] = int(value)
        case "pressure":
            worker.pressure = PRESSURES[int(value)] if 0 <= value < len(PRESSURES) else "?"
        case "accesses_total":
            worker.n_accesses = int(value)
        case "evictions_total":
            worker.n_evictions = int(value)
        case "latency_seconds" if labels.get("operation") == "access" and labels.get("quantile") == "0.99":
            worker.p99_s = value
