"""An interrupt (Ctrl-C) at any point where CPython can take one in the library's Python code.

It looks for signals when a Python function begins, when a loop goes back, and when a call of something compiled
returns; never between two other instructions. So a `with` that takes a lock cannot lose it, but what a call gave can be
lost before it is stored. What compiled code of the library does is one step but for the Python functions it calls.

What is raised after a call belongs to that call: inside a `with`, its end is reached. Here it can only be raised at the
next instruction; so where that is in another block, as after ``return f()`` in a `with`, it is not raised.
"""

from __future__ import annotations

import dis
import sys
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jessy_mem

PACKAGE = str(Path(jessy_mem.__file__).parent)
_LOOKS = {dis.opmap[name] for name in ("RESUME", "JUMP_BACKWARD")}
_CALLS = {dis.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW") if name in dis.opmap}


@cache
def _blocks(code: CodeType) -> list[tuple[int, int, int]]:
    """Where instructions that are in a block begin and end, and what is done when they raise."""
    entries = dis._parse_exception_table(code)  # no public function reads the table
    return [(each.start, each.end, each.target) for each in entries]


def _block(code: CodeType, at: int) -> int | None:
    return next((target for start, end, target in _blocks(code) if start <= at < end), None)


Stack = tuple[tuple[CodeType, int], ...]


def _stack(frame: FrameType | None) -> Stack:
    """Where the library is, from the innermost function outwards."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


class Interrupt:
    """A context manager: KeyboardInterrupt at point number `at` (from 0) of this thread; `n_points` are counted."""

    errors = (KeyboardInterrupt,)

    def __init__(self, at: int = -1) -> None:
        self.at, self.n_points = at, 0
        self.where = ""
        self._stacks: list[Stack] = []  # of each point, if none is meant
        self._last: dict[FrameType, int] = {}  # the instruction that each frame is at, until it is left

    @property
    def fired(self) -> bool:
        return 0 <= self.at < self.n_points

    def distinct(self) -> list[int]:
        """All points but those of a loop between its first and its last round, where the same was called."""
        numbers = {stack: number for number, stack in reversed([*enumerate(self._stacks)])}
        return sorted({*numbers.values(), *{stack: number for number, stack in enumerate(self._stacks)}.values()})

    def excuses(self, error: BaseException, file: str) -> bool:
        return False

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)
        self._last.clear()

    def _call(self, frame: FrameType, event: str, _arg: Any) -> Any:
        caller = frame.f_back
        if caller is not None and caller in self._last:
            self._last[caller] = -1  # what returns is a Python function, after which nobody looks
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self._last[frame] = frame.f_lasti  # of RESUME: its event is this one
        return self._step

    def _step(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode":
            code, at, last = frame.f_code, frame.f_lasti, self._last[frame]
            self._last[frame] = at
            done = code.co_code[last] if last >= 0 else None
            if done in _LOOKS or (done in _CALLS and _block(code, last) == _block(code, at)):
                self._point(frame)
        elif event == "exception":  # a call that raises: nobody looks before the handler
            self._last[frame] = -1
        elif event == "return":
            self._last.pop(frame, None)
        return self._step

    def _point(self, frame: FrameType) -> None:
        if self.at < 0:
            self._stacks.append(_stack(frame))
        self.n_points += 1
        if self.n_points == self.at + 1:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_qualname}"
            raise KeyboardInterrupt
