"""A child that is stopped at each of its system calls, and killed at one of them, as by `kill -9` (ptrace(2)).

Whoever is killed at a call of Python's `os` only, is never killed between two calls that compiled code makes, nor
between a call and what it writes to shared memory after that. Here the system itself stops the child, twice for each
call: before it and when it is done, of whatever thread. Numbers and registers of calls, which differ between
machines, are not looked at: stops are counted.

    child   ......... SIGSTOP |  |  |  |  |  |  |  SIGSTOP ......... ends
                    `calls_are_stops`  0  1  2  3 ...         `kill_at(pid, 3)` kills here, before call 2
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

REFUSED = 77  # the status of a child that must not be traced here

_TRACEME, _DETACH, _SYSCALL, _SETOPTIONS = 0, 17, 24, 0x4200
_MARK_CALLS, _FOLLOW_THREADS, _KILL_WITH_PARENT = 0x1, 0x8, 0x100000  # PTRACE_O_TRACESYSGOOD, TRACECLONE, EXITKILL
_CALL = signal.SIGTRAP | 0x80  # what stops at a call, with _MARK_CALLS
_ALL_THREADS = 0x40000000 if sys.platform == "linux" else 0  # __WALL


@contextmanager
def calls_are_stops() -> Iterator[None]:
    """In the child: inside, each system call is a stop. To be used once. Where that is refused, the child ends."""
    os.setpgid(0, 0)  # so that the parent can wait for its threads, and for nobody else
    if sys.platform != "linux" or _ptrace(_TRACEME, 0):  # others call all of it otherwise
        os._exit(REFUSED)
    os.kill(os.getpid(), signal.SIGSTOP)
    yield
    os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def half_writes() -> Iterator[None]:
    """Inside, what is written from Python is written in two halves, so that a stop comes amid it."""
    plain = os.write, os.pwrite

    def halved(function):
        def call(fd: int, data: bytes, *offset: int) -> int:
            whole = memoryview(data).cast("B")
            n_half = len(whole) // 2
            done = function(fd, whole[:n_half], *offset)
            rest = [offset[0] + done] if offset else []
            return done + function(fd, whole[n_half:], *rest) if done == n_half else done

        return call

    os.write, os.pwrite = map(halved, plain)
    try:
        yield
    finally:
        os.write, os.pwrite = plain


def kill_at(pid: int, number: int) -> int:
    """In the thread that forked it: kill a child at its stop of that number, or let it end if it comes to fewer.

    Its status, as os.waitstatus_to_exitcode.
    """
    thread, status = os.waitpid(pid, _ALL_THREADS)
    if os.WIFSTOPPED(status):
        _ptrace(_SETOPTIONS, pid, _MARK_CALLS | _FOLLOW_THREADS | _KILL_WITH_PARENT)
        _ptrace(_SYSCALL, pid)
        thread, status = os.waitpid(-pid, _ALL_THREADS)
    n_stops = 0
    while os.WIFSTOPPED(status) or thread != pid:
        if os.WIFSTOPPED(status):
            reason = os.WSTOPSIG(status)
            if reason == _CALL:
                if n_stops == number:
                    os.kill(pid, signal.SIGKILL)
                n_stops += 1
            is_end = reason == signal.SIGSTOP and thread == pid
            is_own = reason in (_CALL, signal.SIGTRAP, signal.SIGSTOP)  # of tracing: a signal is passed on
            _ptrace(_DETACH if is_end else _SYSCALL, thread, 0 if is_own else reason)  # fails for what is killed
        thread, status = os.waitpid(-pid, _ALL_THREADS)
    return os.waitstatus_to_exitcode(status)


def _ptrace(request: int, pid: int, data: int = 0) -> int:
    function = ctypes.CDLL(None).ptrace
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return function(request, pid, None, data)
