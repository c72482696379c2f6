"""The end of a manager: by `close`, by its last reference, or by the normal end of the program, which closes nothing.

What `on_close` says is done with what was learned. Where nothing can be raised, what is lost is a ResourceWarning.

HAZARD: a last reference may go anywhere, for the collector runs anywhere: also inside a call of another manager, which
holds the folder's lock that this end needs, or a lock that the holder of the folder's lock waits for. So an end by the
last reference never waits for a thread of this process: it is late then, and happens when that thread lets go.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Protocol

from jessy_mem.config import MemoryConfig
from jessy_mem.learning import Learner
from jessy_mem.locking import after_release, is_busy

__all__ = ["Ending", "at_end", "close", "end_unreferenced", "keep_open", "open_ones"]

logger = logging.getLogger("jessy_mem")


class LearningLost(ResourceWarning):
    """What a manager had learned and not saved is gone, where nothing can be raised."""


if not sys.warnoptions:  # Python hides a ResourceWarning unless it is asked for; who loses something is to see it
    warnings.simplefilter("always", LearningLost)


class Ending(Protocol):
    """What is asked of a manager that is to end."""

    number: int  # 0: it was not made to the end
    _lock: threading.RLock
    _learner: Learner

    @property
    def config(self) -> MemoryConfig: ...
    @property
    def _closed(self) -> bool: ...
    def _let_go(self) -> None:
        """Be closed: let go of all dimensions and of the pool."""


at_end: list[Callable[[Ending], object]] = []
"""Called with each manager that has just ended, without a lock; perhaps by the collector, so nothing there may wait."""

_numbers = count(1)
_open: weakref.WeakValueDictionary[int, Ending] = weakref.WeakValueDictionary()
_program_ended = False


class Late:
    """The end of a manager whose last reference is gone: it comes when this goes, and an error in it reaches nobody."""

    def __init__(self, it: Ending) -> None:
        self.folder = it.config.base_path
        self._it = it
        self._pid = os.getpid()

    def __del__(self) -> None:
        if self._pid == os.getpid():  # a child that was forked meanwhile owns nothing of it
            _end_bound(self._it)


_late: list[Late] = []


def keep_open(it: Ending) -> None:
    """From now on it is open, and has a number: it is whole, and the end of the program ends it."""
    it.number = next(_numbers)
    _open[it.number] = it


def open_ones() -> list[Ending]:
    """Those of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [it for reference in _open.valuerefs() if (it := reference()) is not None]


def close(it: Ending) -> None:
    """Save what was learned, and let go of everything; UnsavedLearning, or why something cannot be saved."""
    empty: dict[int, str] = {}
    while not it._closed:
        empty |= it._learner.end()
        _let_go(it, unless_unsaved=True)
    _tell_of_names(it, empty)


def end_unreferenced(it: Ending) -> None:
    """The end by the last reference; late, if a thread of this process has the folder's lock."""
    if not it.number or it._closed or _program_ended:  # half made, or of no use to anybody any more
        return
    if is_busy(it.config.base_path):
        _late.append(Late(it))
        _end_late()  # if that thread let go meanwhile, it did not see this one
    else:
        _end_bound(it)


def _end_late() -> None:
    """Let those end that need not wait any more."""
    for late in [late for late in _late if not is_busy(late.folder)]:
        with suppress(ValueError):  # another thread was faster
            _late.remove(late)


def _end_bound(it: Ending) -> None:
    """The end of what is whole; in a cycle weak references to it are dead already."""
    it._learner.bind(it)  # type: ignore[arg-type]
    try:
        _end(it)
    finally:
        it._learner.bind(weakref.proxy(it))


def _end(it: Ending) -> None:
    """Close where nobody can be told: what is lost is a ResourceWarning."""
    try:
        _or_warn(close, it)
    finally:
        _let_go(it, unless_unsaved=False)


def _or_warn(save: Callable[[Ending], None], it: Ending) -> None:
    try:
        save(it)
    except Exception as error:
        unsaved = ", ".join(f"D{each:02d}" for each in it._learner.unsaved())
        message = f"{it!r} ended, and lost what it had learned and not saved, {unsaved}: {error}"
        warnings.warn(message, LearningLost, stacklevel=2)


def _tell_of_names(it: Ending, empty: dict[int, str]) -> None:
    """Names that nothing was learned under: no file keeps them, and nothing is lost."""
    if empty:
        names = ", ".join(f"{name!r} (D{each:02d})" for each, name in empty.items())
        logger.info("%r ended, and dimensions without a layer with it, whose names are free again: %s", it, names)


def _let_go(it: Ending, unless_unsaved: bool) -> None:
    with it._lock:
        if it._closed or (unless_unsaved and it._learner.unsaved()):  # what was learned meanwhile
            return
        try:
            it._let_go()
        finally:  # an interrupt comes when it is done
            _open.pop(it.number, None)
    for tell in at_end:
        tell(it)


def _end_all() -> None:
    """The end of the program, when threads that are waited for are done and logging still works.

    Nothing more can be learned then, but nothing is closed: a daemon thread reads on until it is stopped.
    """
    global _program_ended
    _late.clear()
    for it in open_ones():
        _or_warn(lambda it: _tell_of_names(it, it._learner.end_for_good()), it)
        for tell in at_end:
            tell(it)
    _program_ended = True


atexit.register(_end_all)
after_release(_end_late)
