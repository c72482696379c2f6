"""What a fork waits for, so that a child finds nothing half done that no thread of its own will finish."""

from __future__ import annotations

import importlib
import threading
from typing import Any

__all__ = ["fork_lock", "imported"]

# Held while a process forks (locking.py): who holds it is not just in the middle of a fork.
fork_lock = threading.RLock()
_whole: dict[str, Any] = {}  # modules that were imported to the end


def imported(name: str) -> Any:
    """The module `name`, which is imported when somebody asks for the first time; ImportError.

    A child that is forked while another thread imports a module has it half done, and would wait for it for ever. So a
    fork waits until it is whole. What imports something in a call of the library asks here.

    It is remembered here: CPython 3.13 without the GIL may leave the lock of `sys.modules` taken for the thread that
    imported numpy, and then a look there takes 15 us.
    """
    module = _whole.get(name)
    if module is None:
        with fork_lock:
            module = _whole[name] = importlib.import_module(name)
    return module
