"""The page of changes (`_core/changes.pyx`): no change is told wrongly, and none is missed.

The places are the `sequence` and the words of a ring of two entries: number, event, check (the generation goes the way
of the event). The world is which changes are visible, which they are before they are told, and who has the folder's
lock. A reader that gets no list looks at everything that is visible then.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from protocols.checker import Broken, add, check, load, load_acquire, step, store

N_ENTRIES = 2
BEGIN = 10


def check_of(number, event, bug):
    if bug == "check leaves out the number":
        return event
    return number if bug == "check leaves out the event" else (number, event)


class World(NamedTuple):
    visible: frozenset[str] = frozenset()
    is_locked: bool = False
    n_ended: int = 0


def publish(event):
    def is_visible(world):
        return world._replace(visible=world.visible | {event}), None

    return step(is_visible)


def lock(world):
    return None if world.is_locked else (world._replace(is_locked=True), None)


def unlock(world):
    return world._replace(is_locked=False), None


def end(world):
    return world._replace(n_ended=world.n_ended + 1), None


def look(world):
    return world, world.visible


def writer_of(events, bug, locks):
    """`append`, which is `write_entry`, for one change after the other"""

    def writer():
        for event in events:
            if locks:
                yield step(lock)
            yield publish(event)
            if bug == "takes its number in two steps":
                number = 1 + (yield load_acquire("sequence"))
                yield store("sequence", number)
            else:
                number = 1 + (yield add("sequence", 1))
            at = number % N_ENTRIES
            for word, value in (("number", number), ("event", event), ("check", check_of(number, event, bug))):
                yield store(f"{word} {at}", value)
            if locks:
                yield step(unlock)
        yield step(end)

    return writer


def read_since(sequence, bug):
    """`read_since`: what was told, or None, and the number to ask with next time"""
    newest = yield load_acquire("sequence")
    if newest - sequence > N_ENTRIES:
        return None, newest
    found = []
    for number in range(sequence + 1, newest + 1):
        at = number % N_ENTRIES
        event = yield load(f"event {at}")
        n = yield load(f"number {at}")
        told = yield load(f"check {at}")
        if bug == "believes what it reads" or (n == number and told == check_of(number, event, bug)):
            found.append(event)
        else:
            return None, newest
    if bug == "asks for the newest at the end":
        newest = yield load_acquire("sequence")
    return found, newest


def run(bug, plans, locks, n_looks=1):
    """One writer for each plan, and a reader that looks now and then, and once more when all has ended."""
    everything = {event for plan in plans for event in plan}

    def all_ended(world):
        return (world, None) if world.n_ended == len(plans) else None

    def reader():
        known, told, sequence = frozenset(), frozenset(), BEGIN
        for i in range(n_looks + 1):
            if i == n_looks:
                yield step(all_ended)
            found, sequence = yield from read_since(sequence, bug)
            seen = yield step(look)
            if found is None:
                known |= seen
                continue
            assert {*found} <= seen, f"{found} was told, {sorted(seen)} is visible"
            if locks:
                assert not told & {*found}, f"{found}: told twice"
                for plan in plans:
                    mine = [event for event in found if event in plan]
                    assert mine == [event for event in plan if event in mine], f"{found}: told in another order"
            known, told = known | {*found}, told | {*found}
        assert known == everything, f"{sorted(everything - known)} was missed"

    memory = {"sequence": BEGIN}
    for at in range(N_ENTRIES):
        memory |= {f"number {at}": 0, f"event {at}": "", f"check {at}": ""}
    return check([reader, *(writer_of(plan, bug, locks) for plan in plans)], memory, world=World())


LAPPED = {"plans": (("a", "b", "c"),), "locks": True}  # a ring is one change too short
IN_TURN = {"plans": (("a",), ("b",)), "locks": True}
AT_ONCE = {"plans": (("a",), ("b",)), "locks": False}


@pytest.mark.parametrize("n_looks", [1, 2])
@pytest.mark.parametrize("case", [LAPPED, IN_TURN, AT_ONCE], ids=["lapped", "in turn", "without locks"])
def test_no_change_is_missed_or_told_wrongly(case, n_looks):
    assert run(None, **case, n_looks=n_looks) > 500


@pytest.mark.parametrize(
    ("bug", "case", "message"),
    [
        ("check leaves out the number", LAPPED, "another order"),
        ("check leaves out the event", LAPPED, "another order"),
        ("believes what it reads", LAPPED, "another order"),
        ("asks for the newest at the end", IN_TURN, "was missed"),
        ("takes its number in two steps", AT_ONCE, "was missed"),
    ],
)
def test_mutant_is_caught(bug, case, message):
    with pytest.raises(Broken, match=message):
        run(bug, **case)
