"""A process that only reads tells the system so, and can take it back no more: Landlock, where Linux has it.

Whatever a file may lead it to do afterwards, it opens nothing for writing, and makes, renames and removes nothing.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from jessy_mem.cli.streams import OWN_PROCESS, Command

__all__ = ["ReadingCommand", "forbid_writing"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_SET_NO_NEW_PRIVS = 38
_OF_A_FILE = {1: 1 << 1, 3: 1 << 14}  # since which version it can be forbidden: to write, to shorten
_OF_A_FOLDER = {1: 0b1_1111_1111 << 4, 2: 1 << 13}  # to remove and make names in it, to move them to another


class ReadingCommand(Command):
    """A command that writes nothing, unless the flag `unless` is given, but into the folder of what `out` names."""

    def __init__(self, *args: Any, unless: str = "", out: str = "", **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.unless, self.out = unless, out

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.obj is OWN_PROCESS and not ctx.params.get(self.unless):
            out = ctx.params.get(self.out)
            forbid_writing([out.resolve().parent] if out else [])
        return super().invoke(ctx)


def forbid_writing(but_under: Iterable[Path] = ()) -> bool:
    """Let this thread, and all that it will start, write to what is open, to /dev/null and under some folders only.

    False if the system has no Landlock, and then nothing has changed. Modes, owners and times of files can be changed
    as before.
    """
    version = _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    of_a_file, of_a_folder = _known(_OF_A_FILE, version), _known(_OF_A_FOLDER, version)
    handled = struct.pack("=Q", of_a_file | of_a_folder)
    rules = _call(_CREATE_RULESET, handled, len(handled), 0)
    if rules < 0:
        return False
    try:
        _allow(rules, os.devnull, of_a_file)
        for folder in but_under:
            _allow(rules, folder, of_a_file | of_a_folder)
        if ctypes.CDLL(None).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return _call(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _known(rights: dict[int, int], version: int) -> int:
    return sum(right for since, right in rights.items() if since <= version)


def _allow(rules: int, path: str | Path, rights: int) -> None:
    """Let `rights` be used under `path`, if it is there: else who writes there is told that it is not."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """What a system call gives; -1 if it fails, or this system has others by these numbers."""
    if sys.platform != "linux" or os.uname().machine == "alpha":
        return -1
    given = [each if isinstance(each, bytes) else ctypes.c_long(each or 0) for each in arguments]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *given))
