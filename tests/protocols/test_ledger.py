"""The ledger's accounts and levels (`_core/budget.pyx`): no limit is ever exceeded, and pressure is what it says.

Two segments, `a` and `b`, and the `total`; of `levels` the bits of one level, RAISED and PENDING. Processes reserve and
release as `grant` and `take_back` do: without the credit of threads, which is a model of its own (test_ledger_credit).
"""

from __future__ import annotations

import pytest
from protocols.checker import Broken, add, and_, cas, check, load, step, store

LIMITS = {"a": 2, "b": 2, "total": 3}
RAISED, PENDING = 1, 2
RISE, REARM = 2, 1  # the total at which the level is raised, and armed again


def account_raise(account, n, bug):
    """`account_raise`: the new value, or None if it does not fit"""
    if bug == "adds, then checks":
        after = (yield add(account, n)) + n
        if after > LIMITS[account]:
            yield add(account, -n)
            return None
        return after
    used = yield load(account)
    while True:
        if used > LIMITS[account] or n > LIMITS[account] - used:
            return None
        if bug == "stores what it saw to fit":
            yield store(account, used + n)
            return used + n
        found = yield cas(account, used, used + n)
        if found == used:
            return used + n
        used = found


def raise_levels(total, bug):
    levels = yield load("levels")
    while total >= RISE and not levels & RAISED:
        more = RAISED if bug == "tells nobody" else RAISED | PENDING
        found = yield cas("levels", levels, levels | more)
        if found == levels:
            return True
        levels = found
    return False


def arm_levels(total):
    return total <= REARM and bool((yield and_("levels", ~RAISED)) & RAISED)


def watch(bug):
    while bug != "does not look again":
        total = yield (load("total") if bug == "looks again with a plain load" else add("total", 0))
        if not ((yield from raise_levels(total, bug)) or (yield from arm_levels(total))):
            return


def reserve(segment, n, bug):
    """`grant`: whether they were charged"""
    if (yield from account_raise(segment, n, bug)) is None:
        return False
    total = yield from account_raise("total", n, bug)
    if total is None:
        if bug != "no refund":
            yield add(segment, -n)
        return False
    if total >= RISE and (yield from raise_levels(total, bug)):
        yield from watch(bug)
    return True


def release(segment, n, bug):
    """`take_back`, then the levels"""
    total = (yield add("total", -n)) - n
    yield add(segment, -n)
    if (yield load("levels")) and (yield from arm_levels(total)):
        yield from watch(bug)


def run(bug, plans):
    """Each process reserves, and releases if its plan says so. The world is what is held."""

    def process_of(plan):
        def process():
            for segment, n, gives_back in plan:
                if not (yield from reserve(segment, n, bug)):
                    continue
                if gives_back:
                    yield from release(segment, n, bug)
                else:
                    yield step(lambda held, segment=segment, n=n: ((*held, (segment, n)), None))

        return process

    def always(memory, _held):
        for account, limit in LIMITS.items():
            assert 0 <= memory[account] <= limit, f"{account} is {memory[account]} of {limit}"

    def finally_(memory, held):
        for segment in ("a", "b"):
            kept = sum(n for where, n in held if where == segment)
            assert memory[segment] == kept, f"{segment} has {memory[segment]}, {kept} are held"
        total = memory["total"]
        assert total == memory["a"] + memory["b"], "the total is another than that of its segments"
        if total >= RISE or total <= REARM:
            assert bool(memory["levels"] & RAISED) == (total >= RISE), (
                f"raised is {memory['levels'] & RAISED} at {total}"
            )
        assert memory["levels"] & PENDING or not memory["levels"] & RAISED, "a crossing is told to nobody"

    memory = {"a": 0, "b": 0, "total": 0, "levels": 0}
    return check([process_of(plan) for plan in plans], memory, world=(), always=always, finally_=finally_)


PLANS = [
    ((("a", 2, True),), (("b", 2, False),)),
    ((("a", 2, True),), (("a", 1, False),)),
    ((("a", 2, True),), (("b", 1, True),)),
    ((("a", 1, False),), (("b", 1, True),)),
]


@pytest.mark.parametrize("plans", PLANS)
def test_no_limit_is_exceeded_and_nothing_is_lost(plans):
    assert run(None, plans) > 100


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("adds, then checks", " of "),
        ("stores what it saw to fit", "total|held| of "),
        ("no refund", "are held"),
        ("does not look again", "raised is"),
        ("looks again with a plain load", "raised is"),
        ("tells nobody", "told to nobody"),
    ],
)
def test_mutant_is_caught(bug, message):
    with pytest.raises(Broken, match=message):
        run_all(bug)


def run_all(bug):
    for plans in PLANS:
        run(bug, plans)
