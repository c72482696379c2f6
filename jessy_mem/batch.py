"""Many files made durable at once: published side by side, or first written and synced later.

What waits for the disk waits together, for a file system commits many at once: a thousand files side by side take a
fraction of what they take one by one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from jessy_mem.errors import ConsciousnessError, MappingError
from jessy_mem.locking import renew_in_child
from jessy_mem.publish import Buffer, NewFile, sync_folder, sync_whole, unsynced_in

__all__ = ["Batch", "publish_many", "side_by_side", "without_frames"]

Failure = OSError | ConsciousnessError
T = TypeVar("T")
E = TypeVar("E", bound=Failure)

_N_THREADS = 16


def publish_many(files: Iterable[tuple[NewFile, Iterable[Buffer]]]) -> list[ConsciousnessError | None]:
    """Publish new files side by side, each folder fsynced once; for each file None, or why it is not there."""
    made = list(files)

    def write(item: tuple[NewFile, Iterable[Buffer]]) -> None:
        file, pieces = item
        try:
            file.write(pieces)
        except BaseException:
            file.undo()
            raise

    try:
        errors = side_by_side(write, made)
        failed = _sync_folders([file for (file, _), error in zip(made, errors, strict=True) if error is None])
    except BaseException:
        for file, _ in made:
            file.undo()
        raise
    outcomes: list[ConsciousnessError | None] = []
    for (file, _), error in zip(made, errors, strict=True):
        failure = error or next((failed[folder] for folder in file.folders() if folder in failed), None)
        if failure is not None and error is None:
            file.undo()
        outcomes.append(None if failure is None else _about(failure, file.path))
    return outcomes


def _about(failure: Failure, path: Path) -> ConsciousnessError:
    return failure if isinstance(failure, ConsciousnessError) else MappingError.of(failure, path)


class Batch:
    """Files that have their names and are not durable yet: `sync` makes them, all at once. Thread-safe.

    As long as one is not, a mark in its mode says so (layout.UNSYNCED_MODE), also after a power cut. What is made
    durable may lie on what another process has not made so: that becomes durable with it.

    Only new files: what replaces another is always durable, for what it replaces may have been.
    """

    def __init__(self, window_s: float = 1.0) -> None:
        self.window_s = window_s
        self._waiting: dict[Path, NewFile] = {}
        self._failed: dict[Path, tuple[NewFile, Failure]] = {}
        self._since = 0.0
        self._renew()
        renew_in_child(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # of the two dicts
        self._syncing = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: object) -> bool:
        """Whether the file at `path` waits, so that nobody was told yet that it is on the disk."""
        return path in self._waiting

    def publish(self, file: NewFile, pieces: Iterable[Buffer]) -> None:
        """Publish a new file, durable when this batch is synced; errors are those of `NewFile.publish`.

        What waits too long is synced before. After an error nothing is left of the file.
        """
        self.sync_if_due()
        file.publish(pieces, durable=False)
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[file.path] = file

    def sync_if_due(self) -> None:
        """Make durable what waits since `window_s`: whoever writes next calls it before. MappingError."""
        if self._waiting and time.monotonic() - self._since >= self.window_s:
            self.sync()

    def sync(self) -> None:
        """Make everything durable that was written before this call. MappingError names a file that is not.

        The system tells of a write that failed only once: such a file is reported by each call until it is removed or
        replaced.
        """
        with self._syncing:
            with self._lock:
                files = list(self._waiting.values())
            others = _others_beside(files)
            errors = side_by_side(NewFile.sync, files)
            failed = _sync_folders(files)
            for path, failure in zip(others, side_by_side(sync_whole, others), strict=True):
                if failure is not None:
                    failed[path.parent] = failure
            with self._lock:
                for file, error in zip(files, errors, strict=True):
                    reason = error or next((failed[f] for f in file.folders() if f in failed), None)
                    if reason is not None:
                        self._failed[file.path] = (file, reason)
                    if self._waiting.get(file.path) is file:
                        del self._waiting[file.path]
                self._since = time.monotonic()
                self._failed = {path: each for path, each in self._failed.items() if each[0].is_there()}
                for path, (_, reason) in self._failed.items():
                    raise _about(reason, path) from reason


def _others_beside(files: Iterable[NewFile]) -> list[Path]:
    """What other processes have written into the folders of files, and not made durable yet."""
    own = {file.path for file in files}
    folders = dict.fromkeys(path.parent for path in own)
    return [path for folder in folders for path in unsynced_in(folder) if path not in own]


def _sync_folders(files: Iterable[NewFile]) -> dict[Path, Failure]:
    """Make the names of files durable, each folder once; those that could not be, and why."""
    folders = list(dict.fromkeys(folder for file in files for folder in file.folders()))
    errors = side_by_side(sync_folder, folders)
    return {folder: error for folder, error in zip(folders, errors, strict=True) if error is not None}


def without_frames(error: E) -> E:
    """The error without its traceback and its context: kept, their frames would keep the buffers being written."""
    error.__context__ = error.__cause__ = None
    error.with_traceback(None)
    return error


def side_by_side(call: Callable[[T], object], items: Sequence[T]) -> list[Failure | None]:
    """Call it with each item, in some threads where there are many; for each None, or its error.

    What waits for the disk waits together: a file system commits many at once. This thread works too, so it goes on
    where no thread can be started, as at the end of the interpreter.
    """
    outcomes: list[Failure | None] = [None] * len(items)
    left = deque(range(len(items)))
    broken: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                number = left.popleft()
            except IndexError:
                return
            try:
                call(items[number])
            except (OSError, ConsciousnessError) as error:
                outcomes[number] = without_frames(error)
            except BaseException as error:
                left.clear()
                broken.append(error)

    threads: list[threading.Thread] = []
    try:
        with suppress(RuntimeError):
            for _ in range(min(_N_THREADS, len(items)) - 1 if len(items) > 2 else 0):
                thread = threading.Thread(target=work, name="jessy_mem-publish", daemon=True)
                thread.start()
                threads.append(thread)
        work()
    finally:
        left.clear()  # an interrupt leaves some
        for thread in threads:
            thread.join()
    if broken:
        raise broken[0]
    return outcomes
