"""The checker itself: what it must find, and what it must not, in programs whose outcomes are known."""

from __future__ import annotations

import pytest
from protocols.checker import (
    Broken,
    add,
    cas,
    check,
    fence_acquire,
    load,
    load_acquire,
    or_,
    step,
    store,
    store_release,
)


def test_relaxed_message_may_be_passed_by_its_flag():
    def program(tell, hear, fences=False):
        def writer():
            yield store("data", 1)
            yield tell("flag", 1)

        def reader():
            flag = yield hear("flag")
            if fences:
                yield fence_acquire()
            data = yield load("data")
            assert not flag or data, "the flag came first"

        return [writer, reader]

    memory = {"data": 0, "flag": 0}
    assert check(program(store_release, load_acquire), memory) == 13
    assert check(program(store_release, load, fences=True), memory) > 13
    for tell, hear in ((store, load_acquire), (store_release, load), (store, load)):
        with pytest.raises(Broken, match="the flag came first"):
            check(program(tell, hear), memory)


def test_two_may_miss_each_other_without_read_modify_writes():
    def program(look):
        def side(mine, other):
            def run():
                yield store_release(mine, 1)
                seen = yield look(other)
                yield step(lambda world: ((*world, seen), None))

            return run

        return [side("a", "b"), side("b", "a")]

    def finally_(_memory, world):
        assert any(world), "neither saw the other"

    with pytest.raises(Broken, match="neither saw"):
        check(program(load_acquire), {"a": 0, "b": 0}, world=(), finally_=finally_)

    def ordered(mine, other):
        def run():
            yield or_(mine, 1)
            yield or_("both", 0)
            seen = yield load(other)
            yield step(lambda world: ((*world, seen), None))

        return run

    memory = {"a": 0, "b": 0, "both": 0}
    check([ordered("a", "b"), ordered("b", "a")], memory, world=(), finally_=finally_)


def test_update_is_lost_without_read_modify_write():
    def careless():
        value = yield load("n")
        yield store("n", value + 1)

    def careful():
        yield add("n", 1, orders=False)

    def swapping():
        value = yield load("n")
        while (found := (yield cas("n", value, value + 1))) != value:
            value = found

    def finally_(memory, _world):
        assert memory["n"] == 2, "lost"

    for process in (careful, swapping):
        check([process] * 2, {"n": 0}, finally_=finally_)
    with pytest.raises(Broken, match="lost"):
        check([careless] * 2, {"n": 0}, finally_=finally_)


def test_history_of_one_place_never_goes_back():
    def writer():
        for n in (1, 2, 3):
            yield store("n", n)

    def reader():
        first = yield load("n")
        second = yield load("n")
        assert first <= second

    check([writer, reader, reader], {"n": 0})


def test_who_waits_for_ever_is_found_and_what_always_holds_is_asked():
    def locker(first, second):
        def run():
            for name in (first, second):
                yield step(lambda world, name=name: (world | {name}, None) if name not in world else None)
            yield step(lambda world: (world - {first, second}, None))

        return run

    check([locker("a", "b")] * 2, {}, world=frozenset())
    with pytest.raises(Broken, match="for ever waiting"):
        check([locker("a", "b"), locker("b", "a")], {}, world=frozenset())
    with pytest.raises(Broken, match="too many"):
        check([locker("a", "b")], {}, world=frozenset(), always=lambda _, world: one_at_most(world))


def one_at_most(world):
    assert len(world) < 2, "too many"


def test_broken_run_tells_its_steps():
    def writer():
        yield store("x", 1)

    with pytest.raises(Broken) as caught:
        check([writer], {"x": 0}, finally_=lambda memory, _: fail(memory["x"]))
    assert str(caught.value) == "x is 1\n\n0 writer: store x gives None"


def fail(x):
    raise AssertionError(f"x is {x}")
