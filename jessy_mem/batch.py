"""Many files made durable at once: published side by side, or first written and synced later.

What waits for the disk waits together, for a file system commits many at once: a thousand files side by side take a
fraction of what they take one by one.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Self, TypeVar

from jessy_mem.durable import split, sync_folder, sync_whole, unsynced_in
from jessy_mem.errors import ConsciousnessError, MappingError
from jessy_mem.locking import renew_in_child
from jessy_mem.publish import Buffer, Draft, NewFile

__all__ = ["Batch", "publish_many", "side_by_side", "without_frames"]

Failure = OSError | ConsciousnessError
T = TypeVar("T")
E = TypeVar("E", bound=Failure)

_N_THREADS = 16
_N_TOGETHER = 128  # files that are open at once, and their folders
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


def publish_many(files: Iterable[tuple[NewFile, Iterable[Buffer]]]) -> list[ConsciousnessError | None]:
    """Publish new files together, each folder fsynced once; for each file None, or why it is not there."""
    made = list(files)
    errors: dict[int, Failure] = {}
    at = 0
    try:
        with _Crew(len(made)) as crew:
            while at < len(made):
                at = _publish_some(made, at, errors, crew)
        there = [number for number in range(len(made)) if number not in errors]
        failed = _sync_folders(folder for number in there for folder in made[number][0].folders()[1:])
        for number in there:
            reason = next((failed[folder] for folder in made[number][0].folders() if folder in failed), None)
            if reason is not None:
                errors[number] = reason
        for number in errors:
            made[number][0].undo()
    except BaseException:
        for file, _ in made:
            file.undo()
        raise
    return [_about(errors[number], file.path) if number in errors else None for number, (file, _) in enumerate(made)]


def _publish_some(
    made: Sequence[tuple[NewFile, Iterable[Buffer]]], first: int, errors: dict[int, Failure], crew: _Crew
) -> int:
    """Publish files from number `first` on, and make durable their folders; the number of the next one.

    The crew does what waits for the disk, and nothing else, for the rest takes less than to change threads.
    """
    drafts: dict[int, Draft] = {}
    number = first
    try:
        for number in range(first, min(first + _N_TOGETHER, len(made))):
            file, pieces = made[number]
            try:
                drafts[number] = file.draft(pieces)
            except (OSError, ConsciousnessError) as error:
                if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR and drafts:
                    number -= 1  # it is the first of the next ones
                    break
                errors[number] = without_frames(error)
        _sync(crew, Draft.sync, drafts, errors)
        folders: dict[str, int] = {}
        for each, draft in drafts.items():
            if each in errors:
                continue
            try:
                made[each][0].give_name(draft)
                folders.setdefault(made[each][0].folder, each)
            except (OSError, ConsciousnessError) as error:
                errors[each] = without_frames(error)
        failed: dict[int, Failure] = {}
        _sync(crew, Draft.sync_folder, {each: drafts[each] for each in folders.values()}, failed)
        for each in drafts.keys() - errors.keys():
            reason = failed.get(folders[made[each][0].folder])
            if reason is not None:
                errors[each] = reason
    finally:
        for each, draft in drafts.items():
            try:
                draft.close()
            except OSError as error:
                errors.setdefault(each, without_frames(error))
    return number + 1


def _sync(crew: _Crew, call: Callable[[Draft], object], drafts: dict[int, Draft], errors: dict[int, Failure]) -> None:
    outcomes = crew.each(call, list(drafts.values()))
    errors.update((number, error) for number, error in zip(drafts, outcomes, strict=True) if error is not None)


def _about(failure: Failure, path: str) -> ConsciousnessError:
    return failure if isinstance(failure, ConsciousnessError) else MappingError.of(failure, path)


class Batch:
    """Files that have their names and are not durable yet: `sync` makes them, all at once. Thread-safe.

    As long as one is not, a mark in its mode says so (layout.UNSYNCED_MODE), also after a power cut. What is made
    durable may lie on what another process has not made so: that becomes durable with it.

    Only new files: what replaces another is always durable, for what it replaces may have been.
    """

    def __init__(self, window_s: float = 1.0) -> None:
        self.window_s = window_s
        self._waiting: dict[str, NewFile] = {}
        self._failed: dict[str, tuple[NewFile, Failure]] = {}
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
        """Make durable what waits since `window_s`; whoever writes next calls it, and whatever it is. MappingError."""
        if self._waiting and time.monotonic() - self._since >= self.window_s:
            self.sync()

    def sync(self) -> None:
        """Make everything durable that was written before this call. MappingError names a file that is not.

        The system reports a write that failed only once: such a file is reported by each call until it is removed or
        replaced. One that no descriptor was left for waits for the next call.
        """
        with self._syncing:
            with self._lock:
                files = list(self._waiting.values())
            others, unlisted = _others_beside(files)
            errors = side_by_side(NewFile.sync, files)
            failed = _sync_folders(folder for file in files for folder in file.folders())
            for path, failure in zip(others, side_by_side(sync_whole, others), strict=True):
                if failure is not None:
                    failed[split(path)[0]] = failure
            waits: dict[str, Failure] = {}  # nothing was asked of the disk, so that nothing is lost
            with self._lock:
                for file, error in zip(files, errors, strict=True):
                    reasons = [each for each in (error, *map(failed.get, file.folders())) if each is not None]
                    lost = [each for each in reasons if getattr(each, "errno", None) not in _NO_DESCRIPTOR]
                    if lost:
                        self._failed[file.path] = (file, lost[0])
                    elif reasons or file.folder in unlisted:
                        waits[file.path] = reasons[0] if reasons else unlisted[file.folder]
                        continue
                    if self._waiting.get(file.path) is file:
                        del self._waiting[file.path]
                self._since = time.monotonic()
                self._failed = {path: each for path, each in self._failed.items() if each[0].is_there()}
                for path, reason in ({path: each[1] for path, each in self._failed.items()} | waits).items():
                    raise _about(reason, path) from reason


def _others_beside(files: Iterable[NewFile]) -> tuple[list[str], dict[str, Failure]]:
    """What other processes have written into the folders of files, and not made durable yet.

    And the folders that cannot be listed, with the reason.
    """
    own = {file.path for file in files}
    found: list[str] = []
    unlisted: dict[str, Failure] = {}
    for folder in dict.fromkeys(file.folder for file in files):
        try:
            found += [path for path in unsynced_in(folder) if path not in own]
        except OSError as error:
            unlisted[folder] = without_frames(error)
    return found, unlisted


def _sync_folders(folders: Iterable[str]) -> dict[str, Failure]:
    """Make the names in folders durable, in each once; those where that could not be, and why."""
    folders = list(dict.fromkeys(folders))
    errors = side_by_side(sync_folder, folders)
    return {folder: error for folder, error in zip(folders, errors, strict=True) if error is not None}


def without_frames(error: E) -> E:
    """The error without its traceback and its context: kept, their frames would keep the buffers being written."""
    error.__context__ = error.__cause__ = None
    error.with_traceback(None)
    return error


class _Crew:
    """Threads that wait for the disk together with this one, as long as it is entered.

    What waits together costs less: a file system commits many at once, and each of 64 fsyncs takes 180 us, instead of
    290 on a disk that is idle. This thread works too, so it goes on where no thread can be started, as at the end of
    the interpreter. There are none for one or two things to do.
    """

    def __init__(self, n_things: int) -> None:
        self._n_helpers = min(_N_THREADS, n_things) - 1 if n_things > 2 else 0
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        with suppress(RuntimeError):
            for _ in range(self._n_helpers):
                thread = threading.Thread(target=self._serve, name="jessy_mem-publish", daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def each(self, call: Callable[[T], object], items: Sequence[T]) -> list[Failure | None]:
        """Call it with each item, all of them side by side; for each None, or its error."""
        outcomes: list[Failure | None] = [None] * len(items)
        left = deque(range(len(items)))
        broken: list[BaseException] = []
        n_helpers, done = min(len(self._threads), max(len(items) - 1, 0)), threading.Semaphore(0)

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

        def help_out() -> None:
            work()
            done.release()

        try:
            for _ in range(n_helpers):
                self._work.put(help_out)
            work()
        finally:
            left.clear()  # an interrupt leaves some
            for _ in range(n_helpers):
                done.acquire()
        if broken:
            raise broken[0]
        return outcomes


def side_by_side(call: Callable[[T], object], items: Sequence[T]) -> list[Failure | None]:
    """Call it with each item, in some threads where there are many; for each None, or its error."""
    with _Crew(len(items)) as crew:
        return crew.each(call, items)
