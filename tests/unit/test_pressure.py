"""How full a budget may become, and who is told: of a configuration alone."""

from __future__ import annotations

import logging
import threading

import pytest

from jessy_mem.config import MemoryConfig
from jessy_mem.pressure import EVICT_TO_PERCENT, LOG_INTERVAL_S, Pressure

MIB = 1 << 20


def pressure(**options):
    return Pressure(MemoryConfig(total_memory_mb=100, **options))


@pytest.fixture
def clock(inject):
    """Seconds that pass when the test says so."""
    now = [1000.0]
    with inject.instead("time.monotonic", lambda: now[0]):
        yield now


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("threshold", "to_percent"), [(85, EVICT_TO_PERCENT), (70, 70), (60, 60), (100, EVICT_TO_PERCENT)]
)
def test_eviction_goes_from_its_threshold_down_to_less(threshold, to_percent):
    made = pressure(warning_threshold=50, eviction_threshold=threshold, critical_threshold=100)
    assert made.evict_from_bytes == threshold * MIB
    assert made.evict_to_bytes == to_percent * MIB
    assert made.evict_to_bytes <= made.evict_from_bytes


def test_callbacks_are_told_of_each_crossing_in_the_order_they_came():
    made, told = pressure(), []
    made.call(lambda *args: told.append(("first", *args)))
    made.call(lambda *args: told.append(("second", *args)))
    made.tell(("warning", "eviction"), 90 * MIB)
    assert told == [
        (who, level, 90 * MIB, 100 * MIB) for level in ("warning", "eviction") for who in ("first", "second")
    ]


def test_callback_that_fails_stops_no_other_and_is_logged(caplog):
    made, told = pressure(enable_warnings=False), []

    def fail(*args):
        raise ZeroDivisionError("away")

    made.call(fail)
    made.call(lambda level, *numbers: told.append(level))
    made.tell(("warning", "critical"), 96 * MIB)
    assert told == ["warning", "critical"]
    assert lines(caplog) == ["a pressure callback failed"] * 2
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


def test_interruption_of_a_callback_is_not_swallowed():
    made = pressure()

    def interrupt(*args):
        raise KeyboardInterrupt

    made.call(interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.tell(("warning",), 80 * MIB)


def test_gravest_level_is_logged_with_what_is_in_use(caplog):
    pressure().tell(("warning", "eviction", "critical"), 96 * MIB)
    assert lines(caplog) == ["memory pressure critical: 96 MiB of 100 MiB in use"]


def test_log_is_quiet_for_a_while_and_callbacks_are_not(caplog, clock):
    made, told = pressure(), []
    made.call(lambda level, *numbers: told.append(level))
    for seconds in (0, LOG_INTERVAL_S / 2, LOG_INTERVAL_S / 2, LOG_INTERVAL_S - 1, 1):
        clock[0] += seconds
        made.tell(("warning",), 76 * MIB)
    assert len(lines(caplog)) == 3
    assert told == ["warning"] * 5


def test_nothing_is_logged_where_warnings_are_not_wanted(caplog):
    made, told = pressure(enable_warnings=False), []
    made.call(lambda level, *numbers: told.append(level))
    made.tell(("critical",), 96 * MIB)
    assert (lines(caplog), told) == ([], ["critical"])


def test_callbacks_run_outside_every_lock():
    """One may register another, and another thread may tell meanwhile."""
    made, told = pressure(), []

    def register(level, *numbers):
        made.call(lambda *args: told.append("late"))
        other = threading.Thread(target=lambda: made.call(lambda *args: None))
        other.start()
        other.join()
        told.append(level)

    made.call(register)
    made.tell(("warning",), 76 * MIB)
    assert told == ["warning"]  # who came inside is told from the next crossing on
    made.tell(("eviction",), 86 * MIB)
    assert sorted(told[1:]) == ["eviction", "late"]


def test_lock_that_a_forked_child_finds_held_is_renewed():
    made, told = pressure(), []
    made.call(lambda level, *numbers: told.append(level))
    made._lock.acquire()  # private: as another thread has it, for a moment that no fork can be made to meet
    made._renew()  # as each child does
    made.tell(("warning",), 76 * MIB)
    assert told == ["warning"]
