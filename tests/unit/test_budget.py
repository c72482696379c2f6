"""Ledger and Charge: exact to the byte, all or nothing, and each crossing of a threshold told once."""

import gc
import os
import random
import weakref

import pytest

from jessy_mem._core.budget import LEVELS, REARM_POINTS, Charge, Ledger
from jessy_mem._probe import budget as probe
from jessy_mem.errors import LimitExceeded

SEGMENTS = {"core": 60, "reserve": 50, "user": 20}


@pytest.fixture
def ledger():
    return Ledger(100, SEGMENTS, (75.0, 85.0, 95.0))


def used(ledger):
    """What each segment holds; that the total is their sum is checked."""
    by_segment = {name: used_bytes for name, (used_bytes, _, _) in ledger.segment_bytes().items()}
    assert sum(by_segment.values()) == ledger.used_bytes
    return by_segment


def test_a_new_ledger_is_empty(ledger):
    assert used(ledger) == dict.fromkeys(SEGMENTS, 0)
    assert ledger.segment_bytes() == {name: (0, limit, 0) for name, limit in SEGMENTS.items()}
    assert (ledger.used_bytes, ledger.limit_bytes, ledger.peak_bytes) == (0, 100, 0)
    assert (ledger.pressure, ledger.take_crossings(), ledger.names) == ("ok", (), tuple(SEGMENTS))


def test_reserve_and_release_are_exact(ledger):
    ledger.reserve("core", 33)
    ledger.reserve("core", 0)
    ledger.reserve("user", 20)
    assert used(ledger) == {"core": 33, "reserve": 0, "user": 20}
    ledger.release("core", 13)
    ledger.release("user", 20)
    assert used(ledger) == {"core": 20, "reserve": 0, "user": 0}
    assert ledger.segment_bytes() == {"core": (20, 60, 33), "reserve": (0, 50, 0), "user": (0, 20, 20)}
    assert ledger.peak_bytes == 53


@pytest.mark.parametrize("n_bytes", [61, 100, 101, 2**63, 2**64 - 1])
def test_the_ceiling_of_a_segment_is_never_passed(ledger, n_bytes):
    with pytest.raises(LimitExceeded, match="core") as caught:
        ledger.reserve("core", n_bytes)
    error = caught.value
    assert (error.current_bytes, error.limit_bytes, error.requested_bytes, error.segment) == (0, 60, n_bytes, "core")
    assert used(ledger) == dict.fromkeys(SEGMENTS, 0)
    assert ledger.segment_bytes()["core"] == (0, 60, 0)
    ledger.reserve("core", 60)
    with pytest.raises(LimitExceeded):
        ledger.reserve("core", 1)
    assert used(ledger)["core"] == 60


def test_the_limit_of_all_is_never_passed(ledger):
    ledger.reserve("core", 60)
    ledger.reserve("reserve", 35)
    with pytest.raises(LimitExceeded, match="total") as caught:
        ledger.reserve("user", 6)
    error = caught.value
    assert (error.current_bytes, error.limit_bytes, error.requested_bytes, error.segment) == (95, 100, 6, "total")
    assert used(ledger) == {"core": 60, "reserve": 35, "user": 0}
    assert ledger.segment_bytes()["user"] == (0, 20, 0), "a refusal leaves no trace in the segment"
    ledger.reserve("user", 5)
    with pytest.raises(LimitExceeded, match="total"):
        ledger.reserve("user", 1)
    assert ledger.used_bytes == ledger.peak_bytes == 100


def test_numbers_that_are_none_are_refused(ledger):
    for wrong in (-1, 2**64):
        with pytest.raises(OverflowError):
            ledger.reserve("core", wrong)
        with pytest.raises(OverflowError):
            ledger.release("core", wrong)
    for wrong in ("1", None):
        with pytest.raises(TypeError):
            ledger.reserve("core", wrong)
    for call in (ledger.reserve, ledger.release):
        with pytest.raises(ValueError, match="'other': expected one of core, reserve, user"):
            call("other", 1)
    assert ledger.used_bytes == 0


@pytest.mark.parametrize("limit", [0, -1, 2**63])
def test_a_limit_that_is_none(limit):
    with pytest.raises(ValueError, match="limit_bytes"):
        Ledger(limit, SEGMENTS)


def test_the_largest_limit():
    limit = 2**63 - 1
    ledger = Ledger(limit, {"a": limit, "b": limit})
    ledger.reserve("a", limit - 1)
    ledger.reserve("b", 1)
    with pytest.raises(LimitExceeded):
        ledger.reserve("b", 2**64 - 1)
    assert used(ledger) == {"a": limit - 1, "b": 1}


def test_a_ledger_is_initialised_once(ledger):
    ledger.reserve("core", 1)
    with pytest.raises(TypeError, match="once"):
        ledger.__init__(10, SEGMENTS)
    assert (ledger.used_bytes, ledger.limit_bytes) == (1, 100)


def test_a_ledger_has_at_most_eight_segments():
    assert len(Ledger(10, {str(i): 10 for i in range(8)}).segment_bytes()) == 8
    with pytest.raises(ValueError, match="segments: 9"):
        Ledger(10, {str(i): 10 for i in range(9)})


@pytest.mark.parametrize("at", range(3))
def test_a_threshold_of_nothing_is_none(at):
    thresholds = [75.0, 85.0, 95.0]
    thresholds[at] = 0.0
    with pytest.raises(ValueError, match="thresholds: 0"):
        Ledger(100, SEGMENTS, tuple(thresholds))


def test_refusal_names_the_bound_that_binds(ledger):
    ledger.reserve("core", 50)
    ledger.reserve("reserve", 40)
    cases = (("core", 11, "core", 50), ("user", 15, "total", 90), ("user", 21, "user", 0))
    for segment, n_bytes, bound, current in cases:
        refusal = ledger.refusal(segment, n_bytes, ["D01"], "a hint")
        assert (refusal.segment, refusal.current_bytes) == (bound, current)
        assert (refusal.holders, refusal.hint) == (("D01",), "a hint")
        assert str(refusal).endswith("held by D01; a hint")


# Pressure ----------------------------------------------------------------------------------------------------------


def move(ledger, percent):
    """Bring the total to `percent` of 100 bytes, by the byte; what was crossed on the way."""
    crossed = []
    while ledger.used_bytes != percent:
        down = ledger.used_bytes > percent
        name = next(
            name
            for name, (used_bytes, limit, _) in ledger.segment_bytes().items()
            if (used_bytes > 0 if down else used_bytes < limit)
        )
        (ledger.release if down else ledger.reserve)(name, 1)
        crossed += ledger.take_crossings()
    return crossed


def test_pressure_follows_the_bytes(ledger):
    expected = {0: "ok", 74: "ok", 75: "warning", 84: "warning", 85: "eviction", 94: "eviction", 95: "critical"}
    for percent, level in expected.items():
        move(ledger, percent)
        assert ledger.pressure == level
        assert ledger.sums()[1] == level
    move(ledger, 94)
    assert ledger.pressure == "eviction", "pressure has no memory; only the telling has"


@pytest.mark.parametrize(("level", "at"), [("warning", 75), ("eviction", 85), ("critical", 95)])
def test_each_crossing_is_told_once_and_again_after_it_was_armed(ledger, level, at):
    move(ledger, at - 1)
    assert move(ledger, at) == [level]
    assert move(ledger, 100) == list(LEVELS[LEVELS.index(level) + 1 :])
    for _ in range(3):
        move(ledger, at - REARM_POINTS + 1)
        assert level not in move(ledger, 100), "not armed yet"
    move(ledger, at - REARM_POINTS)
    assert level not in move(ledger, at - 1)
    assert move(ledger, at) == [level]


def test_one_reservation_that_crosses_everything_tells_everything_once(ledger):
    move(ledger, 40)
    ledger.reserve("core", 60 - used(ledger)["core"])
    ledger.reserve("reserve", 100 - ledger.used_bytes)
    assert ledger.take_crossings() == LEVELS
    assert ledger.take_crossings() == ()


def test_crossings_that_nobody_took_are_told_once(ledger):
    for _ in range(3):
        ledger.reserve("core", 60)
        ledger.reserve("reserve", 20)
        ledger.release("core", 60)
        ledger.release("reserve", 20)
    assert ledger.take_crossings() == ("warning",)
    assert ledger.take_crossings() == ()


def test_a_refused_reservation_crosses_nothing(ledger):
    ledger.reserve("core", 60)
    with pytest.raises(LimitExceeded):
        ledger.reserve("user", 21)
    with pytest.raises(LimitExceeded):
        ledger.reserve("reserve", 51)
    ledger.reserve("reserve", 10)
    with pytest.raises(LimitExceeded):
        ledger.reserve("reserve", 31)
    assert ledger.take_crossings() == ()


def test_a_threshold_between_two_bytes_is_crossed_by_the_byte_above():
    ledger = Ledger(7, {"all": 7}, (50.0, 60.0, 99.0))  # 3.5, 4.2 and 6.93 bytes
    told = {}
    for n_bytes in range(1, 8):
        ledger.reserve("all", 1)
        told |= dict.fromkeys(ledger.take_crossings(), n_bytes)
    assert told == {"warning": 4, "eviction": 5, "critical": 7}
    ledger.release("all", 3)
    ledger.reserve("all", 1)
    assert ledger.take_crossings() == (), "armed at 45 % and 55 % of 7: at 3 bytes, not at 4"
    ledger.release("all", 2)
    ledger.reserve("all", 2)
    assert ledger.take_crossings() == ("warning", "eviction")


def test_a_threshold_of_a_few_percent_is_armed_when_nothing_is_left():
    ledger = Ledger(100, {"all": 100}, (3.0, 4.0, 5.0))
    for _ in range(2):
        ledger.reserve("all", 5)
        assert ledger.take_crossings() == LEVELS
        ledger.release("all", 4)
        ledger.reserve("all", 4)
        assert ledger.take_crossings() == ()
        ledger.release("all", 5)


def test_thresholds_of_a_hundred_percent():
    ledger = Ledger(100, {"all": 100})
    ledger.reserve("all", 99)
    assert (ledger.take_crossings(), ledger.pressure) == ((), "ok")
    ledger.reserve("all", 1)
    assert (ledger.take_crossings(), ledger.pressure) == (LEVELS, "critical")


def test_snapshot_is_all_numbers_at_once(ledger):
    ledger.reserve("core", 50)
    ledger.reserve("user", 20)
    ledger.reserve("reserve", 10)
    ledger.release("user", 1)
    total, pressure, segments = ledger.sums()
    assert total == (79, 100, 80)
    assert pressure == "warning"
    assert segments == ledger.segment_bytes() == {"core": (50, 60, 50), "reserve": (10, 50, 10), "user": (19, 20, 20)}


# Charges -----------------------------------------------------------------------------------------------------------


def test_a_charge_lasts_as_long_as_it_lives(ledger):
    charge = Charge(ledger, "core", 40)
    other = charge
    assert (charge.n_bytes, used(ledger)["core"]) == (40, 40)
    del charge
    assert used(ledger)["core"] == 40
    del other
    assert used(ledger)["core"] == 0
    assert ledger.segment_bytes()["core"] == (0, 60, 40)


def test_a_refused_charge_releases_nothing(ledger):
    held = Charge(ledger, "core", 50)
    for segment, n_bytes, error in (
        ("core", 11, LimitExceeded), ("other", 1, ValueError), ("core", -1, OverflowError),
        (None, 1, (TypeError, ValueError)),
    ):  # fmt: skip
        with pytest.raises(error):
            Charge(ledger, segment, n_bytes)
    assert used(ledger) == {"core": 50, "reserve": 0, "user": 0}
    assert held.n_bytes == 50


def test_a_charge_that_was_never_made_releases_nothing(ledger):
    ledger.reserve("core", 10)
    with pytest.raises(TypeError):
        Charge.__new__(Charge)
    for arguments in ((None, "core", 1), (ledger, None, 1)):
        with pytest.raises(TypeError):
            Charge(*arguments)
    assert used(ledger)["core"] == 10


def test_a_charge_is_initialised_once(ledger):
    charge = Charge(ledger, "core", 10)
    charge.__init__(ledger, "core", 20)  # does nothing
    assert used(ledger)["core"] == 10
    del charge
    assert used(ledger)["core"] == 0


def test_a_charge_keeps_its_ledger():
    class Tracked(Ledger):
        pass

    gc.disable()
    try:
        ledger = Tracked(100, SEGMENTS)
        gone = weakref.ref(ledger)
        charge = Charge(ledger, "core", 10)
        del ledger
        assert gone().used_bytes == 10
        del charge
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("seed", range(5))
def test_peaks_are_exact_while_a_thread_has_credit_in_several_segments(seed):
    names, chance = ("first", "second", "third"), random.Random(seed)
    ledger = Ledger(1 << 20, dict.fromkeys(names, 1 << 20))
    charges, used_bytes, peaks, peak = [], dict.fromkeys(names, 0), dict.fromkeys(names, 0), 0
    for _ in range(300):
        if charges and chance.random() < 0.45:
            charge, name = charges.pop(chance.randrange(len(charges)))
            used_bytes[name] -= charge.n_bytes
            del charge
        else:
            name, n_bytes = chance.choice(names), chance.randrange(1500)
            charges.append((Charge(ledger, name, n_bytes), name))
            used_bytes[name] += n_bytes
        peaks = {name: max(peaks[name], used_bytes[name]) for name in names}
        peak = max(peak, sum(used_bytes.values()))
        assert ledger.peak_bytes == peak  # which calls no credit in
    assert ledger.segment_bytes() == {name: (used_bytes[name], 1 << 20, peaks[name]) for name in names}


def test_a_number_is_exact_however_long_a_thread_takes_its_credit():
    ledger = Ledger(1 << 20, {"all": 1 << 20})
    ledger.reserve("all", 1000)
    assert probe.used_while_credit_is_taken(ledger, 512, n_turns=10_000) == 1000
    assert used(ledger) == {"all": 1000}


@pytest.mark.thread_unsafe(reason="forks")
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have():
    ledger = Ledger(1 << 20, {"all": 1 << 20})
    ledger.reserve("all", 1000)
    probe.begin_move(ledger, 512)
    pid = os.fork()
    if pid == 0:
        try:
            seen = [ledger.used_bytes]
            ledger.reserve("all", 3000)
            seen.append(ledger.used_bytes)
            ledger.release("all", 4000)
            os._exit(seen != [1512, 4512] or used(ledger) != {"all": 512})  # too high by what was being granted
        finally:
            os._exit(99)
    probe.end_move(ledger, 512)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert used(ledger) == {"all": 1000}
