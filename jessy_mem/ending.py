"""The end of a manager: by `close`, by its last reference, or by the normal end of the program. The same each time.

What `on_close` says is done with what was learned. Where nothing can be raised, what is lost is a ResourceWarning.
"""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections.abc import Callable
from itertools import count
from typing import Protocol

from jessy_mem.learning import Learner

__all__ = ["Ending", "at_end", "close", "end_unreferenced", "keep_open", "open_ones"]


class Ending(Protocol):
    """What is asked of a manager that is to end."""

    number: int  # 0: it was not made to the end
    _closed: bool
    _lock: threading.RLock
    _learner: Learner

    def _let_go(self) -> None:
        """Be closed: let go of all dimensions and of the pool."""


at_end: list[Callable[[Ending], object]] = []
"""Called with each manager that has just ended, without a lock; perhaps by the collector, so nothing there may wait."""

_numbers = count(1)
_open: weakref.WeakValueDictionary[int, Ending] = weakref.WeakValueDictionary()


def keep_open(it: Ending) -> None:
    """From now on it is open, and has a number: it is whole, and the end of the program ends it."""
    it.number = next(_numbers)
    _open[it.number] = it


def open_ones() -> list[Ending]:
    """Those of this process that are open, oldest first; keeps none of them alive. Thread-safe."""
    return [it for reference in _open.valuerefs() if (it := reference()) is not None]


def close(it: Ending) -> None:
    """Save what was learned, and let go of everything; UnsavedLearning, or why something cannot be saved."""
    while not it._closed:
        it._learner.end()
        _let_go(it, unless_unsaved=True)


def end_unreferenced(it: Ending) -> None:
    """The end by the last reference: `it` is whole, but in a cycle weak references to it are dead already."""
    if not it.number or it._closed:  # half made
        return
    it._learner.bind(it)  # type: ignore[arg-type]
    try:
        _end(it)
    finally:
        it._learner.bind(weakref.proxy(it))


def _end(it: Ending) -> None:
    """Close where nobody can be told: what is lost is a ResourceWarning."""
    try:
        close(it)
    except Exception as error:
        unsaved = ", ".join(f"D{each:02d}" for each in it._learner.unsaved())
        message = f"{it!r} ended, and lost what it had learned and not saved, {unsaved}: {error}"
        try:
            warnings.warn(message, ResourceWarning, stacklevel=2)
        finally:
            _let_go(it, unless_unsaved=False)


def _let_go(it: Ending, unless_unsaved: bool) -> None:
    with it._lock:
        if it._closed or (unless_unsaved and it._learner.unsaved()):  # what was learned meanwhile
            return
        it._let_go()
        _open.pop(it.number, None)
    for tell in at_end:
        tell(it)


def _end_all() -> None:
    """The end of the program, when threads that are waited for are done and logging still works."""
    for it in open_ones():
        _end(it)


atexit.register(_end_all)
