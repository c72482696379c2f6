"""The credit of threads (`_core/kernels/account.pxd`, `_core/budget.pyx`): the limit holds, and who calls in is exact.

One account, `granted`, for the total: that segments are raised before it is the model of test_ledger. The valve is
(epoch, moves under way, how many have called in), a word of credit (epoch, bytes). Processes reserve and
release as `reserve_bytes` and `release_bytes` do; the names of the steps are those of account.pxd.
"""

from __future__ import annotations

import itertools

import pytest
from protocols.checker import Broken, add, cas, check, load, load_acquire, step, store, update, wait_for

LIMIT, CALM, EASY, CREDIT = 7, 5, 4, 2
ANY = 10**9


def is_good(word, valve, bug):
    """`credit_is_good`"""
    return not valve[2] and (word[0] == valve[0] or bug == "credit of any epoch")


def account_raise(n, ceiling, calm):
    granted = yield load("granted")
    while True:
        most = min(LIMIT, ceiling, calm) if granted <= calm else min(LIMIT, ceiling)
        if granted + n > most:
            return False
        found = yield cas("granted", granted, granted + n)
        if found == granted:
            return True
        granted = found


def reserve(me, n, bug):
    """`reserve_bytes`, then `reserve_apart`: whether they are charged"""
    valve = yield load_acquire("valve")  # reserve 1
    total = yield load("granted")
    if total <= CALM:
        word = yield load(f"credit {me}")
        if is_good(word, valve, bug) and n <= word[1]:  # reserve 2
            found = yield cas(f"credit {me}", word, (word[0], word[1] - n))
            if found == word:
                return True
    if n <= CREDIT and (yield from reserve_with_credit(me, n, bug)):  # reserve 3
        return True
    if (yield from account_raise(n, ANY, ANY if bug == "passes calm without calling in" else CALM)):  # reserve 4
        return True
    yield from call_in(bug)  # reserve 5
    yield add("exact", 1, orders=False)  # of the model: from here to the end nobody has credit
    fits = yield from account_raise(n, ANY, ANY)
    yield add("exact", -1, orders=False)
    yield update("valve", lambda valve: (valve[0], valve[1], valve[2] - 1))  # reopen
    return fits


def reserve_with_credit(me, n, bug):
    valve = yield load("valve")
    word = yield load(f"credit {me}")
    more = min(CREDIT // 2, CREDIT - word[1])
    while True:
        if valve[2] and bug != "moves at a closed valve":
            return False
        found = yield cas("valve", valve, (valve[0], valve[1] + 1, valve[2]))
        if found == valve:
            break
        valve = found
    fits = yield from account_raise(n + more, EASY, ANY)
    if fits:
        found = yield cas(f"credit {me}", word, (valve[0], word[1] + more))
        if found != word and bug != "takes nothing back":
            yield add("granted", -more)
    yield update("valve", lambda valve: (valve[0], valve[1] - 1, valve[2]))
    return fits


def release(me, n, bug):
    """`release_bytes`"""
    valve = yield load_acquire("valve")
    if (yield load("granted")) <= EASY:
        word = yield load(f"credit {me}")
        if is_good(word, valve, bug) and word[1] + n <= CREDIT:  # release 1
            if bug == "stores its word":
                yield store(f"credit {me}", (word[0], word[1] + n))
                return
            found = yield cas(f"credit {me}", word, (word[0], word[1] + n))
            if found == word:
                return
    yield add("granted", -n)  # release 2


def call_in(bug):
    is_same = bug == "calls in without a new epoch"
    before = yield update(
        "valve", lambda valve: (valve[0] + (not valve[2] and not is_same), valve[1] + 1, valve[2] + 1)
    )
    epoch = before[0] + (not before[2] and not is_same)
    for thread in (0, 1):
        word = yield update(f"credit {thread}", lambda word: (epoch, 0))
        if word[1]:
            yield add("granted", -word[1])
    yield update("valve", lambda valve: (valve[0], valve[1] - 1, valve[2]))
    if bug != "does not wait for moves":
        yield wait_for("valve", lambda valve: not valve[1])


def run(bug, plans):
    """A thread for each plan: what it reserves, and what of that it releases, in turn. The world is what is held."""

    has_room = sum(max(itertools.accumulate(plan)) for plan in plans) <= LIMIT

    def process_of(me, plan):
        def process():
            held = []
            for n in plan:
                if n < 0 and -n in held:
                    held.remove(-n)
                    yield from release(me, -n, bug)
                elif n > 0:
                    fits = yield from reserve(me, n, bug)
                    assert fits or not has_room, f"{n} were refused, and there is room"
                    held += [n] if fits else []
            yield step(lambda world: (world + sum(held), None))

        return process

    def always(memory, _held):
        assert memory["granted"] <= LIMIT, f"{memory['granted']} of {LIMIT}"
        credit = memory["credit 0"][1] + memory["credit 1"][1]
        assert memory["granted"] <= CALM or not credit, f"{memory['granted']} are granted, and {credit} are credit"
        assert not memory["exact"] or not credit, f"{credit} are credit of who was called in"

    def finally_(memory, held):
        credit = memory["credit 0"][1] + memory["credit 1"][1]
        assert memory["granted"] == held + credit, f"{memory['granted']} are granted, {held} held, {credit} credit"

    memory = {"granted": 0, "valve": (1, 0, 0), "credit 0": (1, 0), "credit 1": (1, 0), "exact": 0}
    return check(
        [process_of(i, plan) for i, plan in enumerate(plans)], memory, world=0, always=always, finally_=finally_
    )


PLANS = {
    "room for both": ((1, -1), (6,)),
    "and twice": ((1, 1), (5,)),
    "given back": ((1, -1), (6, -6)),
    "all from credit": ((1, -1), (1, -1)),
    "too much": ((2,), (6,)),
}


@pytest.mark.parametrize(
    "plan", [pytest.param(each, marks=[pytest.mark.slow] * (each in ("and twice", "given back"))) for each in PLANS]
)
def test_limit_holds_and_a_refusal_is_exact(plan):
    assert run(None, PLANS[plan]) > 1000


@pytest.mark.parametrize(
    ("bug", "plan"),
    [
        ("credit of any epoch", "room for both"),
        ("passes calm without calling in", "and twice"),
        ("moves at a closed valve", "room for both"),
        ("takes nothing back", "room for both"),
        ("stores its word", "room for both"),
        ("calls in without a new epoch", "room for both"),
        ("does not wait for moves", "room for both"),
    ],
)
def test_mutant_is_caught(bug, plan):
    with pytest.raises(Broken, match=r"credit|there is room"):
        run(bug, PLANS[plan])
