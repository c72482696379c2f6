"""Many threads in one latency histogram: nothing is lost, and all totals are some that could have been."""

import sys
import threading
from functools import partial

import numpy as np
import pytest

from helpers import run_threads
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._probe import latency as probe

VALUES = np.concatenate(
    [np.random.default_rng(3).lognormal(7, 2, 3000).astype(np.uint64), np.array([0, 1, 10**12], np.uint64)]
)


def expected_of(n_times):
    histogram = LatencyHistogram()
    for _ in range(n_times):
        for value in VALUES.tolist():
            histogram.record(value)
    return histogram.to_dict()


def bytes_of_one_shard():
    histogram = LatencyHistogram()
    histogram.record(1)
    return histogram.n_bytes


def check_totals(totals):
    """Totals follow from each other."""
    assert totals["count"] == sum(n for _, _, n in totals["buckets"]) + totals["overflow"]
    if totals["count"]:
        percentiles = [totals[key] for key in ("min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")]
        assert percentiles == sorted(percentiles)
        assert totals["min_ns"] <= totals["mean_ns"] <= totals["max_ns"]


def test_check_totals_notices_what_does_not_add_up():
    totals = expected_of(1)
    check_totals(totals)
    with pytest.raises(AssertionError):
        check_totals({**totals, "count": totals["count"] + 1})
    with pytest.raises(AssertionError):
        check_totals({**totals, "p50_ns": totals["max_ns"] + 1})


@pytest.mark.parametrize("n_threads", [1, 2, 8, 64, 65, 100, 200])
def test_native_threads_equal_the_histogram_of_the_union(n_threads):
    histogram = LatencyHistogram()
    probe.record_threads(histogram, VALUES, n_threads, n_untimed=11)
    assert histogram.to_dict() == expected_of(n_threads)
    assert histogram.n_events == n_threads * (len(VALUES) + 11)


@pytest.mark.thread_unsafe(reason="other threads take numbers meanwhile")
def test_threads_that_follow_each_other_use_the_same_shards():
    histogram = LatencyHistogram()
    probe.record_threads(histogram, VALUES, 2)
    n_bytes = histogram.n_bytes
    for _ in range(50):
        probe.record_threads(histogram, VALUES, 2)
    assert histogram.n_bytes == n_bytes
    assert histogram.count == 51 * 2 * len(VALUES)


def test_more_threads_than_slots_share_one_shard():
    """64 threads have a shard each, all others count together, and what is merged and reset beside them adds up."""
    one_shard = bytes_of_one_shard()
    histogram = LatencyHistogram()
    for n_runs in range(1, 4):
        probe.record_threads(histogram, VALUES, 100, n_untimed=5)
        assert histogram.to_dict() == expected_of(100)
        assert histogram.n_events == n_runs * 100 * (len(VALUES) + 5)
        histogram.reset()
    assert 60 * one_shard <= histogram.n_bytes <= 66 * one_shard  # other threads of this process may have numbers
    other = LatencyHistogram()
    probe.record_threads(other, VALUES, 70)
    histogram.merge(other)
    assert histogram.to_dict() == expected_of(70)


def test_totals_while_threads_record_add_up():
    histogram, last = LatencyHistogram(), 0
    writer = threading.Thread(target=probe.record_threads, args=(histogram, np.tile(VALUES, 100), 4))
    writer.start()
    while writer.is_alive():
        totals = histogram.to_dict()
        check_totals(totals)
        assert totals["count"] >= last
        last = totals["count"]
        count, *percentiles, _mean_ns = histogram.summary()
        assert count >= last
        assert percentiles == sorted(percentiles)
    writer.join()
    assert histogram.count == histogram.n_events == 400 * len(VALUES)


@pytest.mark.parametrize(
    "values", [VALUES, np.array([7, 7, 7, 200, 7, 200, 200, 9000], np.uint64)], ids=["many", "few"]
)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_no_bucket_loses_an_event_that_was_seen_in_it(values, n_threads):
    """The newest event of a thread waits outside its bucket; a reader must find it all the same, and once."""
    histogram = LatencyHistogram()
    values = np.tile(values, 600_000 // len(values))
    writer = threading.Thread(target=probe.record_threads, args=(histogram, values, n_threads))
    writer.start()
    last = histogram.counts
    while writer.is_alive():
        counts = histogram.counts
        assert (counts >= last).all()
        last = counts
    writer.join()
    expected = LatencyHistogram()
    probe.record_threads(expected, values, 1)
    assert (histogram.counts == n_threads * expected.counts).all()
    assert int(histogram.counts.sum()) + histogram.overflow == histogram.n_events == n_threads * len(values)


def test_writer_that_stops_in_the_middle_of_a_record_changes_nothing():
    histogram = LatencyHistogram()
    probe.record_threads(histogram, VALUES, 3)
    before, n_events = histogram.to_dict(), histogram.n_events
    probe.count_newest(histogram)
    assert (histogram.to_dict(), histogram.n_events) == (before, n_events)
    histogram.reset()
    assert (histogram.count, histogram.n_events) == (0, n_events)


def test_reader_that_is_interrupted_misses_nothing_and_counts_nothing_twice():
    """Between two groups of buckets events are recorded, and the one that waited goes to its bucket."""
    chance, values = np.random.default_rng(11), np.array([1, 100, 5_000, 10**6], np.uint64)
    for _ in range(3000):
        histogram = LatencyHistogram()
        for value in chance.choice(values, chance.integers(1, 4)):
            histogram.record(value)
        before = histogram.counts
        seen = probe.counts_seen(histogram, chance.integers(5), chance.choice(values, chance.integers(4)))
        counts = np.zeros_like(before)
        counts[list(seen)] = list(seen.values())
        assert (before <= counts).all()
        assert (counts <= histogram.counts).all()


def test_resets_while_threads_record_count_each_event_once():
    """What each span between two resets held, taken by a merge just before, adds up to what was recorded, or less."""
    histogram, n_total = LatencyHistogram(), 300 * len(VALUES)
    writer = threading.Thread(target=probe.record_threads, args=(histogram, np.tile(VALUES, 100), 3))
    seen = 0
    writer.start()
    while writer.is_alive():
        seen += histogram.count
        histogram.reset()
        check_totals(histogram.to_dict())
    writer.join()
    seen += histogram.count
    assert seen <= n_total
    assert histogram.n_events == n_total
    histogram.reset()
    assert histogram.count == 0
    histogram.record(5)
    assert histogram.summary() == (1, 5, 5, 5, 5, 5, 5.0)


def test_python_threads_record_merge_and_reset_together():
    histogram, other, n_threads = LatencyHistogram(), LatencyHistogram(), 8
    start = threading.Barrier(n_threads)

    def run(number):
        start.wait()
        for i in range(500):
            histogram.record(i * number)
            if i % 50 == 0:
                other.merge(histogram)
                other.reset()
                check_totals(other.to_dict())
            check_totals(histogram.to_dict())

    run_threads([partial(run, number) for number in range(n_threads)])
    assert histogram.count == histogram.n_events == n_threads * 500


def test_gil_stays_off():
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    if is_enabled is None or not getattr(sys, "abiflags", "").endswith("t"):
        pytest.skip("this interpreter always has a GIL")
    assert not is_enabled()
