"""The numbers of several processes in one scrape: the multiprocess mode of prometheus_client.

There each process writes its numbers to files of its own in PROMETHEUS_MULTIPROC_DIR, and whoever is scraped adds up
what all of them say, those that have ended too. Nothing of a manager is counted in a file, so what has changed is
brought there: once a second by a thread, at a scrape, when a manager ends, and at the end of the process.

A process is named by its number, the lowest that no other one has, and a manager by the lowest that no open one of
the process has. So a worker that takes the place of another goes on with its series, and there are never more series
than there were workers at once.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count
from typing import Any, Literal, NamedTuple

from jessy_mem.ending import Ending, at_end
from jessy_mem.forking import imported
from jessy_mem.manager import MmapManager, open_managers
from jessy_mem.notices import Notices

__all__ = ["Point", "Points", "Publisher", "claim_number", "is_multiprocess", "publisher"]

INTERVAL_S = 1.0
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Point(NamedTuple):
    """One number of a manager. Buckets are counted each for itself: who reads them adds them up."""

    kind: Literal["counter", "gauge", "histogram"]
    metric: str  # what the number belongs to, without _total, _bucket or _sum
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    help: str


class Points(NamedTuple):
    """All numbers of one manager at one moment."""

    base_path: str
    points: list[Point]


Read = Callable[[MmapManager], Points]
Key = tuple[str, tuple[tuple[str, str], ...]]  # a name and its labels


def is_multiprocess() -> bool:
    """Whether prometheus_client was imported in its multiprocess mode."""
    values = imported("prometheus_client.values")
    return values.ValueClass is not values.MutexValue


def claim_number(folder: str) -> tuple[int, int]:
    """The lowest number that no running process has claimed in `folder`, and the descriptor that keeps it.

    It is free again when the descriptor is closed, however the process ends: the claim is an flock on a small file.
    """
    number = 0
    while True:
        path = os.path.join(folder, f"jessy_mem_worker_{number}.lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            number += 1
        except BaseException:
            os.close(fd)
            raise
        else:
            return number, fd


class Publisher:
    """Brings the numbers of this process to where all are added up. There is one for a process. Thread-safe.

    `read` gives the numbers of a manager. Whatever fails here is logged once, and stops nothing.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._all = False
        self._chosen: set[int] = set()  # numbers of managers
        self._ended: deque[tuple[int, Points]] = deque()  # the last numbers of those that ended; appended to by anybody
        self._seen: dict[int, dict[Key, float]] = {}  # what was counted of each manager already
        self._named: dict[int, str] = {}  # manager -> its label
        self._written: dict[Key, Any] = {}  # values of the client library
        self._notices = Notices()
        self._is_ending = False
        self._thread: threading.Thread | None = None  # None: none could be started
        self._claim: tuple[int, int] | None = None
        self._begin()
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        at_end.append(self._take_last)
        atexit.register(self._finish)

    def add(self, managers: Iterable[MmapManager]) -> None:
        """Publish `managers`, too; or all that are open, now and later, if there are none."""
        numbers = {manager.number for manager in managers}
        with self._lock:
            self._all = self._all or not numbers
            self._chosen |= numbers
            if self._thread is None and not self._is_ending:
                self._start()
        self.publish()

    def publish(self) -> None:
        """Bring all numbers there that have changed."""
        try:
            with self._lock:
                for manager in open_managers():
                    if self._is_chosen(manager):
                        self._write(manager.number, self._read(manager))
                while self._ended:
                    self._close(*self._ended.popleft())
        except Exception as error:
            self._notices.warn(self, f"the numbers of this worker cannot be published: {error}")

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a manager may end in the thread that publishes
        self._start()

    def _start(self) -> None:
        self._stop, self._thread = threading.Event(), None
        thread = threading.Thread(target=self._run, name="jessy_mem metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many; the next manager that is added tries again
            self._notices.warn(self._run, f"no thread publishes the numbers of this worker between scrapes: {error}")
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.publish()

    def _is_chosen(self, manager: Ending) -> bool:
        return self._all or manager.number in self._chosen

    # Writing; the caller holds the lock

    def _write(self, number: int, taken: Points) -> None:
        seen = self._seen.setdefault(number, {})
        if seen and self._claim is None and all(seen[key] == value for key, value in _counted(taken)):
            return  # a forked child that has done nothing yet is no worker
        labels = self._labels(number, taken.base_path)
        for point in taken.points:
            key = (point.name, point.labels)
            value = self._value(point, labels)
            if point.kind == "gauge":
                if key not in seen or seen[key] != point.value:
                    value.set(point.value, timestamp=time.time())
            elif point.value != seen.get(key, 0):
                value.inc(point.value - seen.get(key, 0))
            seen[key] = point.value

    def _close(self, number: int, taken: Points) -> None:
        """Write the last numbers of a manager that ended; its label is free, and its gauges are 0."""
        gone = [each._replace(value=0) if each.kind == "gauge" else each for each in taken.points]
        self._write(number, taken._replace(points=gone))
        self._seen.pop(number, None)
        self._named.pop(number, None)
        self._chosen.discard(number)

    def _labels(self, number: int, base_path: str) -> tuple[tuple[str, str], ...]:
        """What tells the numbers of a manager from those of others, in this process and in all."""
        if self._claim is None:
            self._claim = claim_number(os.environ[FOLDER])
        if number not in self._named:
            taken = set(self._named.values())
            self._named[number] = next(label for label in map(str, count(1)) if label not in taken)
        return ("base_path", base_path), ("manager", self._named[number]), ("worker", str(self._claim[0]))

    def _value(self, point: Point, labels: tuple[tuple[str, str], ...]) -> Any:
        """The client library's value for `point`, which is 0 when it is made."""
        key = (point.name, (*labels, *point.labels))
        if key not in self._written:
            values = imported("prometheus_client.values")
            names, texts = zip(*labels, *point.labels, strict=True)
            # Of a number whose worker has ended, what its successor says is what counts.
            mode = {"multiprocess_mode": "livemostrecent"} if point.kind == "gauge" else {}
            self._written[key] = values.ValueClass(
                point.kind, point.metric, point.name, names, texts, point.help, **mode
            )
        return self._written[key]

    # Ends

    def _take_last(self, manager: Ending) -> None:
        """Keep the last numbers of a manager that ended, in whatever thread; nothing is waited for."""
        if isinstance(manager, MmapManager) and self._is_chosen(manager):
            self._ended.append((manager.number, self._read(manager)))
            if self._is_ending:
                self.publish()

    def _pause(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _finish(self) -> None:
        """At the end of the process, when managers may still be open: they end after this."""
        self._pause()
        self._is_ending = True
        self.publish()

    # Forks: none happens while this process writes, or a lock of the client library would stay locked in the child; nor
    # while the thread runs

    def _before_fork(self) -> None:
        self._pause()
        self._lock.acquire()

    def _after_fork(self) -> None:
        self._lock.release()
        if not self._is_ending and not (self._thread and self._thread.is_alive()):  # `add` may just have started one
            self._start()

    def _in_child(self) -> None:
        """Begin as a worker of one's own: what the parent has counted is the parent's."""
        if self._claim is not None:
            os.close(self._claim[1])  # the parent's lock: it keeps it by a descriptor of its own
            self._claim = None
        self._ended.clear()
        self._written.clear()
        self._named.clear()
        self._seen = {each.number: dict(_counted(self._read(each))) for each in open_managers()}
        self._begin()


def _counted(taken: Points) -> Iterator[tuple[Key, float]]:
    return (((each.name, each.labels), each.value) for each in taken.points if each.kind != "gauge")


@cache
def publisher(read: Read) -> Publisher:
    """The publisher of this process; it is made by the first call."""
    return Publisher(read)
