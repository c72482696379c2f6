"""The latency histogram against a sorted list, and its buckets against HdrHistogram's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._probe import latency as probe

LIMIT_NS = 10**9
MAX_ERROR = 1 / 64
times_ns = st.one_of(
    st.integers(0, 200),
    st.integers(0, 2 * LIMIT_NS),
    st.sampled_from([LIMIT_NS - 1, LIMIT_NS, LIMIT_NS + 1, 2**63, 2**64 - 1]),
    st.builds(lambda power, step: 2**power + step, st.integers(2, 40), st.integers(-2, 2)),
)


def nearest_rank(ordered, q):
    # Python's integers keep the rank exact: q is taken in thousandths.
    return ordered[max(-(-len(ordered) * round(q * 1000) // 100_000), 1) - 1]


def check_equal(histogram, values):
    """All that `histogram` shows is what the list `values` says, within a bucket where it has to be."""
    ordered = sorted(values)
    inside = [value for value in ordered if value <= LIMIT_NS]
    count, p50, p90, p99, p999, largest, mean_ns = histogram.summary()
    assert count == histogram.count == len(ordered)
    assert histogram.overflow == len(ordered) - len(inside)
    assert int(histogram.counts.sum()) == len(inside)
    if not ordered:
        assert histogram.summary() == (0, 0, 0, 0, 0, 0, 0.0)
        return
    assert (histogram.min_ns, largest) == (ordered[0], ordered[-1])
    if sum(ordered) < 2**64:
        assert mean_ns == pytest.approx(sum(ordered) / len(ordered), rel=1e-12)
    assert ordered[0] * (1 - 1e-12) <= mean_ns <= ordered[-1] * (1 + 1e-12)
    assert (p50, p90, p99, p999) == tuple(histogram.percentile(q) for q in (50, 90, 99, 99.9))
    for q in (0, 0.1, 1, 10, 25, 50, 75, 90, 99, 99.9, 100):
        exact, shown = nearest_rank(ordered, q), histogram.percentile(q)
        if exact <= LIMIT_NS:
            assert abs(shown - exact) <= exact * MAX_ERROR, (q, exact, shown)
        else:  # among the overflow only the largest is known, and the smallest where nothing else is
            assert shown in (exact, ordered[-1])


@given(st.lists(times_ns, max_size=200))
def test_histogram_against_a_sorted_list(values):
    histogram = LatencyHistogram(LIMIT_NS)
    for value in values:
        histogram.record(value)
    check_equal(histogram, values)


@given(st.lists(st.lists(times_ns, max_size=30), max_size=6))
def test_merge_of_parts_equals_the_whole(parts):
    whole, merged = LatencyHistogram(LIMIT_NS), LatencyHistogram(LIMIT_NS)
    for part in parts:
        piece = LatencyHistogram(LIMIT_NS)
        for value in part:
            whole.record(value)
            piece.record(value)
        merged.merge(piece)
    assert merged.to_dict() == whole.to_dict()
    assert (merged.counts == whole.counts).all()


@given(st.integers(0, 2**64 - 1))
def test_bucket_is_never_wider_than_a_64th(value):
    index, low, middle, high = probe.bucket(value)
    assert low <= value <= high
    assert low <= middle <= high
    assert high - low < max(low * MAX_ERROR, 1)
    assert 0 <= index < 3776


class HistogramMachine(RuleBasedStateMachine):
    """Any order of record (timed or not), merge and reset, also by more threads than shards, against a list."""

    def __init__(self):
        super().__init__()
        self.histogram = LatencyHistogram(LIMIT_NS)
        self.values = []
        self.n_events = 0

    @rule(values=st.lists(times_ns, max_size=20))
    def record(self, values):
        for value in values:
            self.histogram.record(value)
        self.values += values
        self.n_events += len(values)

    @rule(n=st.integers(1, 5))
    def record_untimed(self, n):
        probe.untimed_cost_ns(self.histogram, n)
        self.n_events += n

    @rule(values=st.lists(times_ns, max_size=20), n_threads=st.sampled_from([1, 2, 3, 66]))
    def record_in_threads(self, values, n_threads):
        probe.record_threads(self.histogram, np.array(values, np.uint64), n_threads)
        self.values += values * n_threads
        self.n_events += len(values) * n_threads

    @rule(values=st.lists(times_ns, max_size=20))
    def merge(self, values):
        other = LatencyHistogram(LIMIT_NS)
        for value in values:
            other.record(value)
        self.histogram.merge(other)
        self.values += values
        self.n_events += len(values)

    @rule()
    def reset(self):
        self.histogram.reset()
        self.values = []

    @invariant()
    def equals_the_list(self):
        check_equal(self.histogram, self.values)
        assert self.histogram.n_events == self.n_events


HistogramMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
test_any_order_of_operations = HistogramMachine.TestCase


def test_checker_notices_a_lost_event():
    histogram = LatencyHistogram(LIMIT_NS)
    histogram.record(5)
    with pytest.raises(AssertionError):
        check_equal(histogram, [5, 5])
    with pytest.raises(AssertionError):
        check_equal(histogram, [6])


def test_percentiles_of_a_million_log_normal_samples():
    values = np.random.default_rng(7).lognormal(math.log(50_000), 1.8, 1_000_000).astype(np.uint64)
    histogram = LatencyHistogram()
    probe.record_threads(histogram, values, 1)
    ordered = np.sort(values).tolist()
    assert (histogram.count, histogram.min_ns, histogram.max_ns) == (len(ordered), ordered[0], ordered[-1])
    assert histogram.mean_ns == sum(ordered) / len(ordered)
    for q in (0, 0.01, 0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 99.999, 100):
        exact = nearest_rank(ordered, q)
        assert abs(histogram.percentile(q) - exact) <= exact * 0.016


def test_buckets_are_those_of_hdrhistogram():
    """Two digits there are 128 values for each power of two: each of our buckets is two of theirs, above 255."""
    hdrh = pytest.importorskip("hdrh.histogram")
    theirs = hdrh.HdrHistogram(1, 2**40, 2)
    assert theirs.sub_bucket_half_count == 128
    for value in sorted({2**k + d for k in range(2, 39) for d in (-1, 0, 1, 2 ** (k - 2))}):
        index, low, _, high = probe.bucket(value)
        low_there = theirs.get_lowest_equivalent_value(value)
        width_there = theirs.get_highest_equivalent_value(value) - low_there + 1
        assert low <= low_there <= low_there + width_there - 1 <= high
        if value >= 256:
            assert high - low + 1 == 2 * width_there
            assert theirs.get_lowest_equivalent_value(low) == low
            assert theirs.get_highest_equivalent_value(high) == high
        elif value < 128:
            assert index == low == high == value


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200))
def test_percentiles_agree_with_hdrhistogram(values):
    hdrh = pytest.importorskip("hdrh.histogram")
    theirs, ours = hdrh.HdrHistogram(1, 10**10, 3), LatencyHistogram()
    for value in values:
        theirs.record_value(value)
        ours.record(value)
    for q in (1, 25, 50, 75, 99, 100):  # their rank is rounded to the nearest: compare between the neighbouring ranks
        there = theirs.get_value_at_percentile(q)
        step = 100 / len(values)
        low, high = ours.percentile(max(q - step, 0)), ours.percentile(min(q + step, 100))
        assert low * (1 - MAX_ERROR) - 1 <= there <= high * (1 + MAX_ERROR) + 1
