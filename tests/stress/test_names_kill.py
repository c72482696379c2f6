"""Killed at each system call of the register, or at random: what was acknowledged is known, no id is given twice."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import stopping

import jessy_mem as jm
from jessy_mem import register as register_file
from jessy_mem.batch import Batch, publish_many
from jessy_mem.ids import LOCK_NAME, IdRegister
from jessy_mem.publish import NewFile, is_temporary, publish


def run_killed(deed, number: int) -> tuple[bool, list[str]]:
    """Do it in a child that is killed at that stop; whether it was, and what it told of."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        write = os.write
        try:
            with stopping.half_writes(), stopping.calls_are_stops():
                deed(lambda *words: write(told, (" ".join(map(str, words)) + "\n").encode()))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(told)
    status = stopping.kill_at(pid, number)
    with open(ready) as file:
        words = file.read().splitlines()
    if status == stopping.REFUSED:
        pytest.skip("nobody may trace a child here")
    assert status in (0, -signal.SIGKILL)
    return status != 0, words


def register(base) -> IdRegister:
    return IdRegister(str(base), jm.default_layout(), lock_timeout_s=20)


SOME_OR_EACH = pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])


@SOME_OR_EACH
@pytest.mark.parametrize("written_anew", [False, True])
def test_register_survives_a_kill_at_each_call(tmp_path, written_anew, stride):
    # Private: so that the register is written anew at each change, not at one of thousands, or never.
    limits = mock.patch.object(register_file, "_SMALL_BYTES", 0 if written_anew else 1 << 20)
    number, was_killed = 0, True
    with limits, mock.patch.object(register_file, "_BYTES_EACH", 0):  # as well
        while was_killed:
            if number % (5 * stride) == 0:  # what is given is never given back, and each name costs a call
                base, given, known = tmp_path / str(number), set(), {}
                base.mkdir()

            def deed(tell, number=number, base=base):
                names = register(base)
                tell("given", names.reserve(f"first {number}", "user", for_all=True).dimension)
                tell("given", names.reserve(f"second {number}", "user", for_all=True).dimension)
                tell("given", names.give("reserve"))
                names.release(names.find(f"first {number}"))
                tell("released")

            was_killed, words = run_killed(deed, number)
            dimensions = [int(word.split()[1]) for word in words if word.startswith("given")]
            assert not given & set(dimensions), "an id was given twice"
            given |= set(dimensions)
            found = register(base).names()
            if dimensions[1:]:
                known[f"second {number}"] = dimensions[1]
            if "released" in words:
                assert f"first {number}" not in found
            elif dimensions and len(dimensions) < 3:
                assert found[f"first {number}"] == dimensions[0]
            assert known.items() <= found.items(), "a name that was given is gone"
            asked = {f"{which} {i}" for which in ("first", "second") for i in range(number + 1)}
            assert found.keys() <= known.keys() | asked
            assert len(set(found.values())) == len(found)
            next_given = register(base).give("reserve")
            assert next_given not in given
            given.add(next_given)
            strays = {name for name in os.listdir(base) if name != LOCK_NAME}
            assert all(is_temporary(Path(name)) for name in strays)
            assert written_anew or not strays
            for name in strays:
                os.unlink(base / name)
            number += stride
    assert number > 30


@SOME_OR_EACH
@pytest.mark.parametrize("way", ["new", "many", "batch", "replacement"])
def test_file_is_whole_or_absent_after_a_kill_at_each_call(tmp_path, way, stride):
    number, outcomes, was_killed = 0, set(), True
    while was_killed:
        base = tmp_path / str(number)
        paths = [base / f"D{15 + i}" / "region.mmap" for i in range(2)]
        if way == "replacement":
            for path in paths:
                path.parent.mkdir(parents=True)
                path.write_bytes(b"old")

        def deed(tell, paths=paths):
            batch = Batch()
            if way == "many":
                assert publish_many([(NewFile(path), [b"new", b"er"]) for path in paths]) == [None, None]
            for path in paths:
                if way == "new":
                    NewFile(path).publish([b"new", b"er"])
                elif way == "batch":
                    batch.publish(NewFile(path), [b"new", b"er"])
                elif way == "replacement":
                    publish([b"new", b"er"], path)
            batch.sync()
            tell("done")

        was_killed, words = run_killed(deed, number)
        contents = [path.read_bytes() if path.exists() else None for path in paths]
        assert set(contents) <= {b"newer", b"old" if way == "replacement" else None}
        assert not words or contents == [b"newer"] * 2
        outcomes.add(tuple(contents))
        strays = [path for path in base.rglob("*") if path.is_file() and path not in paths]
        assert all(is_temporary(path) for path in strays)
        assert not strays or way == "replacement" or not hasattr(os, "O_TMPFILE")
        number += stride
    assert number > 12
    assert len(outcomes) >= 2


@pytest.mark.parametrize("n_rounds", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_names_of_processes_that_are_killed_at_random(tmp_path, n_rounds):
    """Four at a time; each tells what it was given. They go on until they were given some."""
    chance, given, names_of = random.Random(5), [], {}  # id -> name, for those that were not released
    for round_number in itertools.count():
        if round_number >= n_rounds and len(given) > 100:
            break
        children = []
        for number in range(4):
            ready, told = os.pipe()
            pid = os.fork()
            if pid == 0:
                names = register(tmp_path)
                for i in range(10**6):
                    name = f"{round_number} {number} {i}"
                    dimension = names.reserve(name, "user", for_all=True).dimension
                    os.write(told, f"{dimension} {name}\n".encode())
                    if i % 3 == 2:
                        names.release(dimension)
                        os.write(told, f"{dimension} -\n".encode())
            os.close(told)
            children.append((pid, ready))
        time.sleep(chance.uniform(0.02, 0.15))
        for pid, ready in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            with open(ready) as file:
                lines = file.read().splitlines()
            for line in lines:
                dimension, _, name = line.partition(" ")
                if name == "-":
                    del names_of[int(dimension)]
                else:
                    given.append(int(dimension))
                    names_of[int(dimension)] = name
    for_all = {name: dimension for dimension, name in names_of.items()}
    assert len(set(given)) == len(given), "an id was given twice"
    found = register(tmp_path).names()
    missing = for_all.keys() - found.keys()  # released just then: each process was at most in one of them
    assert len(missing) <= 4 * round_number
    assert all(int(name.split()[2]) % 3 == 2 for name in missing)
    assert all(found[name] == for_all[name] for name in for_all.keys() - missing)
