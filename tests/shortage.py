"""A process in which there is no memory, once: each allocation in turn, in every call of a manager.

Run with `failing.h` compiled and loaded before all else, and Python told to ask malloc for all it needs, by
tests/contract/test_no_memory.py. Each trial is a forked child, so that one that dies of a signal is seen. It tells one
line, as JSON, for each trial.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

from deeds import DEEDS, Trial, make_template, quick
from interrupts import PACKAGE
from sweeper import MALLOC, TYPED, System

MANY = 1_000  # perhaps because something was imported
LOST = ("digital envelope routines", "can't allocate lock", "not PosixPath")


class Shortage:
    """A context manager: allocation number `at` (from 0) of this thread gets no memory; `n` are counted."""

    errors = TYPED

    def __init__(self, system: System, at: int = -1) -> None:
        self.at, self._system = at, system

    @property
    def n(self) -> int:
        return self._system.count(MALLOC)

    @property
    def fired(self) -> bool:
        return 0 <= self.at < self.n

    def excuses(self, error: BaseException, file: str) -> bool:
        """Some MemoryErrors are lost on the way: by CPython, its library, or OpenSSL. Their words are not ours."""
        lost = isinstance(error, SystemError) or any(words in str(error) for words in LOST)
        return lost or not file.startswith((PACKAGE, "jessy_mem"))

    def __enter__(self) -> Shortage:
        self._system.arm(MALLOC, self.at)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._system.disarm()


def in_child(system: System, name: str, at: int, template: Path, root: Path, clean: Trial) -> dict[str, object]:
    """What comes of one trial."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        told: dict[str, object] = {}
        try:
            os.close(reader)
            trial = Trial(name, Shortage(system, at), template, root, clean)
            told = {"fired": trial.fault.fired, "spared": system.spared, "wrong": trial.problems}
            told |= {"raised": trial.raised, "where": trial.where}
        except BaseException as error:
            told = {"fired": True, "wrong": [f"ended by {error!r}"]}
        finally:
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        told = json.loads(file.read() or b"{}")
    _, status = os.waitpid(child, 0)
    shutil.rmtree(root, ignore_errors=True)
    found = {"call": name, "at": at, "fired": True, "raised": "", "wrong": []} | told
    if status:
        found["wrong"] = [f"signal {os.WTERMSIG(status)}"]
    return found


def main(step: str, *names: str) -> None:
    """Let every `step`th allocation fail, in DEEDS of these names, or in all; one at least in each."""
    warnings.simplefilter("ignore")
    logging.getLogger("jessy_mem").setLevel(logging.CRITICAL)
    system = System()
    with tempfile.TemporaryDirectory() as place, quick():
        template = make_template(Path(place, "template"))
        gc.freeze()  # each trial looks for its own garbage, and not through what all of them share
        for name in names or DEEDS:
            clean = Trial(name, Shortage(system), template, Path(place, "clean"))
            if clean.fault.n > MANY:
                clean = Trial(name, Shortage(system), template, Path(place, "clean"))
            assert clean.problems == []
            begin = zlib.crc32(name.encode()) % max(min(int(step), clean.fault.n // 2), 1)
            for at in range(begin, 2 * clean.fault.n, int(step)):
                found = in_child(system, name, at, template, Path(place, "one"), clean)
                if not found["fired"]:
                    break
                print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
