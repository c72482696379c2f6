"""The lease of a file (`leases.py`): who truncates waits until the bytes were copied, and nobody waits for ever.

The world is the system's, and what the lock guards: the file, the lease, the signal, and what is registered. Each step
is one system call, or what is done while `_lock` is held. A process loads the file with `guard="lease"`, one truncates
it at any moment, the watcher serves, and the reader reads what was mapped.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from protocols.checker import Broken, check, step


class World(NamedTuple):
    is_whole: bool = True  # the file
    is_leased: bool = False
    is_asked: bool = False  # who truncates waits for the lease
    is_signalled: bool = False  # SIGIO waits for the watcher
    is_held: bool = False  # the lease is in `_held`
    fd: bool = False  # lease._fd is open
    covers: bool = False  # lease._mapping
    memory: str = ""  # what is mapped: the "file", or its "copy"; "gone" bytes were copied


def system_call(change):
    """A step that changes some of the world."""

    def call(world):
        changes, result = change(world)
        return world._replace(**changes), result

    call.__name__ = change.__name__
    return step(call)


def set_lease(world):  # fcntl(F_SETLEASE, F_RDLCK), behind F_SETOWN_EX
    if not world.is_whole:
        return {}, False  # it is shorter than was asked for, which opening finds
    return {"is_leased": True, "fd": True}, True


def register(world):  # _held[own] = weakref.ref(lease)
    return {"is_held": True}, None


def map_file(world):
    return {"memory": "file"}, None


def cover(world):  # Lease.cover
    return {"covers": world.fd}, None


def look_at_lease(world):  # _fd < 0 or fcntl(F_GETLEASE) == F_RDLCK
    return {}, world.fd and world.is_asked


def move(world):  # Lease._move
    if not world.covers:
        return {}, None
    return {"memory": "copy" if world.is_whole else "gone"}, None


def give_back(world):  # Lease._give_back: fcntl(F_SETLEASE, F_UNLCK)
    return {"is_leased": False, "is_asked": False, "fd": False, "covers": False, "is_held": False}, None


def is_covered(world):  # image.guard_of() is not "reads"
    return {}, world.fd or world.memory == "copy"


def sigwait(world):
    return (world._replace(is_signalled=False), None) if world.is_signalled else None


def read(world):  # of raw memory, for which nothing is asked
    return world, world.memory == "copy" or (world.memory == "file" and world.is_whole)


def serve_at_once(world):
    """`Lease.serve`, all of it under the lock: what a process sees that must have the lock for anything else."""
    for change in (move, give_back) if look_at_lease(world)[1] else ():
        world = world._replace(**change(world)[0])
    return world, None


def serve(bug):
    if bug == "serves without the lock":
        if not (yield system_call(look_at_lease)):
            return
        yield system_call(move)
        yield system_call(give_back)
    elif bug == "gives back before the bytes are copied":
        if (yield system_call(look_at_lease)):
            covered = yield step(lambda world: (world, world.covers))
            yield system_call(give_back)
            if covered:
                yield system_call(lambda world: ({"memory": "copy" if world.is_whole else "gone"}, None))
    else:
        yield step(serve_at_once)


def run(bug=None):
    def loader():  # map_file of _core/mapped.pyx
        if not (yield system_call(set_lease)):
            return
        yield system_call(register)
        if bug != "nobody looks after it was registered":
            yield from serve(None)
        yield system_call(map_file)
        if bug == "covers without the lock":
            fd = yield step(lambda world: (world, world.fd))
            yield system_call(lambda world: ({"covers": fd}, None))
        elif bug != "covers nothing":
            yield system_call(cover)
        refused = not (yield system_call(is_covered)) and bug != "is not asked whether it is covered"
        if not refused:
            for _ in range(2):  # what was promised of raw memory
                assert (yield step(read)), "a read finds bytes that are gone"

    def truncater():
        def ask(world):
            if not world.is_leased:
                return world._replace(is_whole=False), True
            return world._replace(is_asked=True, is_signalled=True), False

        def go_on(world):
            return None if world.is_leased else (world._replace(is_whole=False), None)

        if not (yield step(ask)):
            yield step(go_on)

    def watcher():  # _watch
        for _ in range(2):
            yield step(sigwait)
            if (yield step(lambda world: (world, world.is_held))):  # list(_held.values())
                yield from serve(bug)

    return check([loader, truncater], {}, world=World(), servers=[watcher])


def test_who_truncates_waits_and_nobody_for_ever():
    assert run() > 30


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("nobody looks after it was registered", "for ever waiting"),
        ("gives back before the bytes are copied", "gone"),
        ("covers nothing", "gone"),
        ("is not asked whether it is covered", "gone"),
        ("serves without the lock", "gone"),
    ],
)
def test_mutant_is_caught(bug, message):
    with pytest.raises(Broken, match=message):
        run(bug)
