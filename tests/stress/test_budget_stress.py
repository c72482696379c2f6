"""Many threads at one ledger: no limit is passed, not for a moment, nothing is lost, and every crossing is told."""

import threading
import time

import pytest

from jessy_mem._core.budget import LEVELS, Charge, Ledger
from jessy_mem._probe import budget as probe
from jessy_mem.errors import LimitExceeded

SEGMENTS = {"core": 600, "reserve": 500, "user": 200}


def check_empty_and_armed(ledger):
    """All was released, and the next climb to the limit crosses each threshold once."""
    assert ledger.sums()[0][0] == 0
    assert [used for used, _, _ in ledger.segment_bytes().values()] == [0] * len(ledger.names)
    ledger.take_crossings()
    ledger.reserve("core", 600)
    ledger.reserve("reserve", 400)
    assert ledger.take_crossings() == LEVELS
    ledger.release("core", 600)
    ledger.release("reserve", 400)


def test_check_empty_and_armed_notices_what_is_left():
    ledger = Ledger(1000, SEGMENTS, (75.0, 85.0, 95.0))
    check_empty_and_armed(ledger)
    ledger.reserve("user", 1)
    with pytest.raises(AssertionError):
        check_empty_and_armed(ledger)
    ledger.reserve("core", 600)
    ledger.reserve("reserve", 199)
    ledger.release("core", 50)
    ledger.release("user", 1)
    ledger.reserve("reserve", 1)
    assert ledger.take_crossings() == ("warning",)
    with pytest.raises(AssertionError):
        check_empty_and_armed(ledger)


@pytest.mark.parametrize("n_all", [80_000, pytest.param(400_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_threads", [1, 2, 4, 16])
@pytest.mark.parametrize("n_bytes", [1, 7, 150, 500, 1500])
def test_native_threads_never_pass_a_limit(n_threads, n_bytes, n_all):
    ledger = Ledger(1000, SEGMENTS, (75.0, 85.0, 95.0))
    n_rounds = n_all // n_threads
    counts = probe.ledger_stress(ledger, n_bytes, n_rounds, n_threads, seed=n_bytes)
    assert counts["violations"] == 0
    assert counts["granted"] + counts["refused"] == n_threads * n_rounds
    assert counts["granted"] > 0
    if n_bytes * 8 * n_threads > 4000:
        assert counts["refused"] > 0, "the limits were never reached, so this run says little"
    assert ledger.peak_bytes <= 1000
    for name, (_, limit, peak) in ledger.segment_bytes().items():
        assert 0 < peak <= limit == SEGMENTS[name]
    check_empty_and_armed(ledger)


N_HELD = 8  # reservations that a thread of the probe holds at most


@pytest.mark.parametrize("n_threads", [1, 2, 4, 16])
@pytest.mark.parametrize("n_bytes", [100, 50_000])
def test_nobody_is_refused_for_the_credit_of_others(n_threads, n_bytes):
    """A segment holds exactly what all threads together ever want: each refusal is one because of idle credit."""
    wanted = n_threads * N_HELD * n_bytes
    ledger = Ledger(1 << 30, {"narrow": wanted, "wide": 1 << 30}, (75.0, 85.0, 95.0))
    n_rounds = 200_000 // n_threads
    counts = probe.ledger_stress(ledger, n_bytes, n_rounds, n_threads, seed=n_bytes)
    assert (counts["refused"], counts["violations"]) == (0, 0)
    assert counts["granted"] == n_threads * n_rounds
    assert ledger.used_bytes == 0
    ledger.reserve("narrow", wanted)
    with pytest.raises(LimitExceeded):
        ledger.reserve("narrow", 1)


def test_credit_is_never_shown_as_used():
    """While threads take credit of megabytes for reservations of bytes, every number that is shown is of the bytes."""
    n_threads, n_bytes = 4, 10
    ledger = Ledger(4 << 30, {"a": 4 << 30, "b": 4 << 30, "c": 1 << 30})
    given = (ledger, n_bytes, 200_000, n_threads)
    most, n_looks, failures, counts = n_threads * N_HELD * n_bytes, 0, [], []
    while n_looks == 0:  # on a busy machine they may have ended before the first look
        stress = threading.Thread(target=lambda: counts.append(probe.ledger_stress(*given)))
        stress.start()
        while stress.is_alive():
            (used_bytes, _, _), pressure, segments = ledger.sums()
            seen = [used_bytes, ledger.used_bytes, *[used for used, _, _ in ledger.segment_bytes().values()]]
            if max(seen) > most or pressure != "ok" or sum(used for used, _, _ in segments.values()) != used_bytes:
                failures.append((seen, pressure))
            n_looks += 1
        stress.join()
    assert failures == []
    assert {each["refused"] for each in counts} == {0}
    assert ledger.used_bytes == 0


@pytest.mark.parametrize("n_threads", [2, 16])
def test_a_limit_is_never_passed_where_threads_have_credit(n_threads):
    """As above, up and down through what is easy, what is calm, the levels and the limit; a crossing is told once."""
    scale = 100_000
    ledger = Ledger(1000 * scale, {"core": 600 * scale, "reserve": 500 * scale, "user": 30_000}, (75.0, 85.0, 95.0))
    crossings = []
    for filled in (0, 500, 540, 600):
        ledger.reserve("core", filled * scale)
        ledger.reserve("reserve", filled // 3 * scale)
        counts = probe.ledger_stress(ledger, 20_000, 200_000 // n_threads, n_threads, seed=filled)
        assert counts["violations"] == 0
        assert counts["granted"] > 0
        assert counts["refused"] > 0, "the narrow segment was never full, so this run says little"
        assert ledger.used_bytes == (filled + filled // 3) * scale
        crossings.append(ledger.take_crossings())
        ledger.release("core", filled * scale)
        ledger.release("reserve", filled // 3 * scale)
    assert crossings == [(), (), (), ("warning",)]
    assert ledger.peak_bytes <= 1000 * scale
    for name, (used_bytes, limit_bytes, peak_bytes) in ledger.segment_bytes().items():
        assert used_bytes == 0 < peak_bytes <= limit_bytes, name


@pytest.mark.parametrize("n_races", [60_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_levels_are_right_after_every_race(n_races):
    """Two threads at a threshold, one up and one down: whatever the order, the level ends as the total says."""
    assert probe.levels_left_wrong(n_races) == (0, 0)


def test_python_threads_hold_charges_and_a_sampler_watches():
    ledger = Ledger(1000, SEGMENTS, (75.0, 85.0, 95.0))
    stop, failures, granted = threading.Event(), [], []

    def hold(number):
        held, n_granted = [], 0
        for i in range(3000):
            try:
                held.append(Charge(ledger, ledger.names[(i + number) % 3], 1 + 37 * i % 150))
                n_granted += 1
            except LimitExceeded as error:
                if error.current_bytes > error.limit_bytes:
                    failures.append(error)
                held.clear()
            if len(held) > 3:
                del held[:2]
        granted.append(n_granted)

    def sample():
        while not stop.is_set():
            (used_bytes, limit_bytes, peak_bytes), _, segments = ledger.sums()
            if not used_bytes <= peak_bytes <= limit_bytes:
                failures.append((used_bytes, peak_bytes))
            if sum(used for used, _, _ in segments.values()) != used_bytes:
                failures.append((used_bytes, segments))
            if any(not used <= peak <= limit for used, limit, peak in segments.values()):
                failures.append(segments)
            time.sleep(0)

    sampler = threading.Thread(target=sample)
    threads = [threading.Thread(target=hold, args=(number,)) for number in range(6)]
    sampler.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    sampler.join()
    assert failures == []
    assert len(granted) == 6
    assert min(granted) > 0
    check_empty_and_armed(ledger)
