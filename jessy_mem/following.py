"""Following: what other processes do to a base folder is seen here by the next access.

Each process announces a change on the page of changes (_core/changes.pyx) when it is done, and remembers up to which
number it has followed. A reader compares the two at the gate (_core/registry.pyx), and comes here when they differ:

    page  ... 41 42 43          the table's lock is taken, and what 43 announces is looked at on the disk: reopened if
    number        42            it is mapped, marked if it is evicted, remembered if it is new, dropped if it is gone

What the page says is never believed: it says where to look. Where it says nothing that makes sense, everything is
looked at. A dimension that cannot be looked at stays what it was, which is logged once, and no reader fails for it. If
that was the system's refusal, for lack of descriptors or memory, who reads later looks again.

The gate is also shut, for all readers, while several dimensions are swapped in one step, while somebody reads in a
snapshot, and while there is something to tell to callbacks.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from jessy_mem._core.changes import ChangePage
from jessy_mem._core.registry import LayerRegistry
from jessy_mem._core.whole import Afterwards
from jessy_mem.errors import ConsciousnessError
from jessy_mem.growth import Announce
from jessy_mem.names import EXHAUSTED

__all__ = ["ChangeCallback", "Changes", "Followed", "Following"]

ChangeCallback = Callable[[int, str], object]  # (dimension, "added" "changed" or "removed")

logger = logging.getLogger("jessy_mem")

LOOK_EVERY_S = 0.1  # for the page, by who asks something
N_ROUNDS = 64  # that one reader follows somebody who changes things faster than they are looked at


@dataclass(frozen=True, slots=True)
class Changes:
    """The ids of dimensions that other processes added, changed and removed, ascending; false if there are none."""

    added: list[int] = field(default_factory=list)  # that can be read now and could not
    changed: list[int] = field(default_factory=list)  # that have other layers now
    removed: list[int] = field(default_factory=list)  # that are forgotten

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


class Followed(Protocol):
    """What following asks of the table of regions. All of it is asked under the table's lock."""

    def _take_up(self, dimension: int, generation: int | None) -> str | None:
        """Make a dimension what its files are now: "added", "changed", "removed", or None if it was that already.

        `generation` is that of the newest file, if it is known. Makes no room but by evicting.
        """

    def _all_dimensions(self) -> Iterable[int]:
        """All that are loaded, and all that have a folder."""

    def _forget_names(self) -> None:
        """Names were given, or became free."""

    def _set_gate(self, seen: int | None) -> None:
        """Let readers pass as long as the newest change is `seen`; None: each must stop."""


# The snapshots that a thread, or a task of asyncio, reads in, of all tables; the innermost last.
_inside: ContextVar[tuple[tuple[Following, LayerRegistry], ...]] = ContextVar("jessy_mem_snapshots", default=())


class Following:
    """How far a table has followed what others did, and who must stop at its gate. Thread-safe.

    `page` is where changes are told. With `follows` it is read too; else only what `refresh` finds is followed. `lock`
    is the table's, which must be one that its holder can take again.
    """

    def __init__(self, page: ChangePage, follows: bool, lock: threading.RLock) -> None:
        self._page = page
        self._follows = follows
        self._lock = lock
        self._look_at_s = 0.0
        self._number = 0  # of the newest change that was followed
        self._failed: set[int] = set()  # dimensions that could not be looked at
        self._refused: set[int] = set()  # those where the system had not enough for it; 0: the names
        self._is_due = False  # whether it is time to look at those again
        self._snapshots: set[LayerRegistry] = set()  # that somebody reads in
        self._is_swapping = False
        self._callbacks: tuple[ChangeCallback, ...] = ()
        self._untold: deque[tuple[int, str]] = deque()
        if follows:
            page.open()
            self._number = page.sequence

    # Reading

    def use_lock(self, lock: threading.RLock) -> None:
        """The table's lock is another one now."""
        self._lock = lock

    def stop(self, table: Followed) -> bool:
        """What a reader does at the gate: wait, and follow. Whether anything was looked at.

        Now and then it also looks whether there is a page, or another: who only asks questions meets it nowhere else.
        """
        if self._follows and time.monotonic() >= self._look_at_s:
            self._find_page()
        if self._is_behind() or self._is_swapping or self._is_due:
            return self.catch_up(table)
        return False

    def _is_behind(self) -> bool:
        return self._follows and self._page.sequence != self._number

    def look(self, table: Followed) -> bool:
        """Look whether the page is there and still the same, and follow. Whether anything was looked at."""
        if self._follows:
            self._find_page()
        return self.stop(table)

    def _find_page(self) -> None:
        self._look_at_s = time.monotonic() + LOOK_EVERY_S
        self._is_due = bool(self._refused)
        if self._page.is_stale():
            self._page.open()

    def catch_up(self, table: Followed, own: tuple[int, int] | None = None) -> bool:
        """Follow all that was told; whether anything was. Takes the lock.

        `own` is a dimension that this process changed, and the generation that it made and shows already.
        """
        with self._lock:
            begin, looked_again = self._number, self._is_due
            if looked_again:
                self._is_due = False
                self._follow(table, dict.fromkeys(sorted(self._refused - {0})), renamed=0 in self._refused)
            # Again, for what was looked at may be newer than what was told when it was begun.
            for _ in range(N_ROUNDS):
                if not self._is_behind():
                    break
                told, newest = self._page.read_since(self._number)
                if told is None:
                    self._follow(table, dict.fromkeys(table._all_dimensions()), own)
                else:
                    renamed = any(what != "changed" for _, what, _ in told)
                    self._follow(table, _newest(told), own, renamed)
                self._number = newest
            self._set_gate(table)
            return looked_again or self._number != begin

    def refresh(self, table: Followed) -> Changes:
        """Compare all dimensions with the disk, whether or not there is a page. Takes the lock."""
        with self._lock:
            if self._follows and self._page.is_stale():
                self._page.open()
            newest = self._page.sequence
            found = self._follow(table, dict.fromkeys(table._all_dimensions()))
            if self._follows:
                self._number = newest
            self._set_gate(table)
        changes = Changes()
        for dimension, what in sorted(found.items()):
            getattr(changes, what).append(dimension)
        return changes

    def _follow(
        self,
        table: Followed,
        told: dict[int, int | None],
        own: tuple[int, int] | None = None,
        renamed: bool = False,
    ) -> dict[int, str]:
        """Look at the dimensions that were announced, and queue what it was; the caller holds the lock.

        `renamed`: names were given or became free, also of dimensions that have no file yet.
        """
        found: dict[int, str] = {}
        for dimension, generation in told.items():
            if own is not None and dimension == own[0] and generation is not None and 0 < generation <= own[1]:
                continue
            try:
                what = table._take_up(dimension, generation)
                self._failed.discard(dimension)
                self._refused.discard(dimension)
            except (ConsciousnessError, OSError) as error:
                if dimension not in self._failed:
                    logger.warning(
                        "D%02d stays what it was, though another process changed it: %s", dimension, str(error)
                    )
                self._failed.add(dimension)
                self._note_refusal(dimension, error)
                continue
            if what is not None:
                found[dimension] = what
        if renamed or {"added", "removed"} & {*found.values()}:
            try:
                table._forget_names()
                self._refused.discard(0)
            except (ConsciousnessError, OSError) as error:
                if 0 not in self._refused:
                    logger.warning("names that other processes gave or freed are not known: %s", str(error))
                self._note_refusal(0, error)
        if self._callbacks:
            self._untold.extend(found.items())
        return found

    def _note_refusal(self, dimension: int, error: Exception) -> None:
        """Look again if that is for lack of something: later there may be enough, and nobody will tell of it again."""
        if getattr(error, "errno", None) in EXHAUSTED:
            self._refused.add(dimension)
        else:
            self._refused.discard(dimension)

    # Telling

    def announce(self, table: Followed, dimension: int, what: str, generation: int) -> None:
        """Tell others of a change of this process's own. Under the folder's lock; takes the table's."""
        with self._lock:
            own = dimension, generation
            if self._is_behind():
                self.catch_up(table, own)
            number = self._page.append(dimension, what, generation)  # type: ignore[arg-type]
            if number == self._number + 1:
                self._number = number
                self._set_gate(table)
            else:  # the page is new, or another
                self.catch_up(table, own)

    def announcer(self, reference: weakref.ref[Followed]) -> Announce:
        """Tells others what a table did; also at the end of that, when nobody but the page is left to tell it to."""

        def announce(dimension: int, what: str, generation: int) -> None:
            table = reference()
            if table is None:
                self._page.append(dimension, what, generation)  # type: ignore[arg-type]
            else:
                self.announce(table, dimension, what, generation)

        return announce

    def call(self, callback: ChangeCallback) -> None:
        """Tell `callback` of what others do, from now on."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

    def tell(self, table: Followed) -> None:
        """Tell what was followed to the callbacks. With no lock held."""
        if not self._untold:
            return
        while True:
            try:
                dimension, what = self._untold.popleft()
            except IndexError:  # also if another thread tells the rest
                break
            for callback in self._callbacks:
                try:
                    callback(dimension, what)
                except Exception:
                    logger.exception("a callback for changes failed")
        with self._lock:
            self._set_gate(table)

    # What readers see in one step, or some of them only

    @contextmanager
    def swapping(self, table: Followed) -> Iterator[None]:
        """Shut the gate while several dimensions are swapped: who comes waits for the lock, which the caller holds."""
        self._is_swapping = True
        self._set_gate(table)
        try:
            yield
        finally:
            self._is_swapping = False
            self._set_gate(table)

    @contextmanager
    def inside(self, table: Followed, snapshot: LayerRegistry) -> Iterator[None]:
        """Let this thread, or task, read in `snapshot`."""
        with Afterwards(self._leave, table, snapshot):
            with self._lock:
                self._snapshots.add(snapshot)
                self._set_gate(table)
            _inside.set((*_inside.get(), (self, snapshot)))
            yield

    def _leave(self, table: Followed, snapshot: LayerRegistry) -> None:
        with self._lock:
            self._snapshots.discard(snapshot)
            self._set_gate(table)
        _inside.set(tuple([each for each in _inside.get() if each[1] is not snapshot]))

    def snapshot(self) -> LayerRegistry | None:
        """The innermost snapshot that this thread, or task, reads in."""
        if self._snapshots:
            for following, snapshot in reversed(_inside.get()):
                if following is self and snapshot in self._snapshots:  # one that has ended may be inherited
                    return snapshot
        return None

    def _set_gate(self, table: Followed) -> None:
        shut = self._snapshots or self._is_swapping or self._untold
        table._set_gate(None if shut else self._number)


def _newest(told: Iterable[tuple[int, str, int]]) -> dict[int, int | None]:
    """The newest generation of each dimension that was announced; None where it was not announced last.

    That is where locks do nothing, and somebody was slow to announce.
    """
    newest: dict[int, int | None] = {}
    for dimension, _, generation in told:
        before = newest.get(dimension, -1)
        newest[dimension] = generation if before is not None and before < generation else None
    return newest
