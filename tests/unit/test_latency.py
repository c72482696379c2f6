"""The latency histogram, its buckets and its clock, one behaviour at a time."""

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from helpers import HAS_PROC
from jessy_mem._core.latency import LatencyHistogram, clock_name, clock_resolution_ns
from jessy_mem._probe import latency as probe
from jessy_mem.stats import LatencySummary

LIMIT_NS = 60_000_000_000
LARGEST = 2**64 - 1


def histogram_of(values, max_ns=LIMIT_NS):
    histogram = LatencyHistogram(max_ns)
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # index, lowest, middle and highest value: width 1 below 128, then doubled at each power of two
        (0, (0, 0, 0, 0)),
        (63, (63, 63, 63, 63)),
        (64, (64, 64, 64, 64)),
        (127, (127, 127, 127, 127)),
        (128, (128, 128, 128, 129)),
        (129, (128, 128, 128, 129)),
        (255, (191, 254, 254, 255)),
        (256, (192, 256, 257, 259)),
        (LARGEST, (3775, LARGEST - 2**57 + 1, LARGEST - 2**56, LARGEST)),
    ],
)
def test_bucket_of_known_values(value, expected):
    assert probe.bucket(value) == expected


def test_buckets_follow_each_other_without_gap():
    edges = {0, *(2**k + d for k in range(64) for d in (-1, 0, 1)), LARGEST}
    for value in sorted(edges - {-1}):
        index, low, _, high = probe.bucket(value)
        assert low <= value <= high
        assert high == LARGEST or probe.bucket(high + 1)[:2] == (index + 1, high + 1)


def test_empty_histogram_is_all_zeros():
    histogram = LatencyHistogram()
    assert histogram.summary() == (0, 0, 0, 0, 0, 0, 0.0)
    assert (histogram.count, histogram.overflow, histogram.n_events) == (0, 0, 0)
    assert (histogram.min_ns, histogram.max_ns, histogram.mean_ns) == (0, 0, 0.0)
    assert [histogram.percentile(q) for q in (0, 50, 100)] == [0, 0, 0]
    assert histogram.to_dict()["buckets"] == []
    assert not histogram.counts.any()


def test_one_value_is_shown_exactly():
    histogram = histogram_of([123_457])
    assert histogram.summary() == (1, 123_457, 123_457, 123_457, 123_457, 123_457, 123_457.0)
    assert histogram.min_ns == histogram.percentile(0) == 123_457


def test_zero_is_a_value():
    histogram = histogram_of([0])
    assert (histogram.count, histogram.min_ns, histogram.max_ns, histogram.mean_ns) == (1, 0, 0, 0.0)
    assert histogram.counts[0] == 1


def test_ends_and_mean_are_exact():
    values = [1_000_003, 77, 123_456_789, 5]
    histogram = histogram_of(values)
    assert (histogram.percentile(0), histogram.percentile(100)) == (5, 123_456_789)
    assert (histogram.min_ns, histogram.max_ns) == (5, 123_456_789)
    assert histogram.mean_ns == sum(values) / 4


def test_percentile_is_the_nearest_rank():
    histogram = histogram_of(range(1, 101))  # exact buckets
    expected = {0: 1, 0.5: 1, 1: 1, 1.5: 2, 50: 50, 50.1: 51, 99: 99, 99.9: 100, 100: 100}
    assert {q: histogram.percentile(q) for q in expected} == expected


def test_percentile_does_not_slip_a_rank_by_rounding():
    histogram = histogram_of([10] * 999 + [100])
    assert histogram.percentile(99.9) == 10
    assert histogram.summary()[4] == 10
    assert histogram.percentile(99.91) == 100


@pytest.mark.parametrize("q", [-0.001, 100.001, math.inf, -math.inf, math.nan, 10**400, -(10**400)])
def test_percentile_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match=r"q: .* is not in 0\.\.100"):
        histogram_of([1]).percentile(q)


@pytest.mark.parametrize("t_ns", [-1, -(2**63), -(2**100)])
def test_negative_time_is_refused_and_not_counted(t_ns):
    histogram = LatencyHistogram()
    with pytest.raises(ValueError, match=rf"t_ns: {t_ns} is negative"):
        histogram.record(t_ns)
    assert histogram.n_events == 0


@pytest.mark.parametrize("t_ns", [1.5, "1", None])
def test_time_that_is_no_integer_is_refused(t_ns):
    with pytest.raises(TypeError):
        LatencyHistogram().record(t_ns)


def test_numpy_integers_are_recorded():
    assert histogram_of(np.array([7, 9], np.int64)).mean_ns == 8.0


@pytest.mark.parametrize("max_ns", [0, -1, 2**63, 2**70])
def test_limit_outside_its_range_is_refused(max_ns):
    with pytest.raises(ValueError, match=rf"max_ns: {max_ns} is not in 1\.\.2\*\*63 - 1"):
        LatencyHistogram(max_ns)


def test_limit_itself_has_a_bucket_and_the_next_value_overflows():
    histogram = histogram_of([1000, 1001], max_ns=1000)
    assert (histogram.count, histogram.overflow, int(histogram.counts.sum())) == (2, 1, 1)
    assert histogram.counts[-1] == 1
    assert histogram.to_dict()["buckets"] == [[1000, 1000, 1]]


def test_overflow_is_part_of_all_numbers():
    histogram = histogram_of([10, 20, 5000], max_ns=1000)
    assert histogram.summary() == (3, 20, 5000, 5000, 5000, 5000, 5030 / 3)
    assert (histogram.min_ns, histogram.max_ns, histogram.overflow) == (10, 5000, 1)


def test_only_overflow():
    histogram = histogram_of([2000, 3000, 4000], max_ns=1000)
    assert (histogram.min_ns, histogram.max_ns, histogram.mean_ns) == (2000, 4000, 3000.0)
    assert histogram.percentile(50) == 4000  # of the overflow only the ends are known


def test_integer_of_any_size_overflows():
    assert histogram_of([2**63]).max_ns == 2**63
    histogram = histogram_of([2**64 - 1, 2**64, 10**30])
    assert (histogram.overflow, histogram.max_ns) == (3, LARGEST)
    assert LIMIT_NS < histogram.mean_ns <= float(LARGEST)  # the sum has wrapped; the mean stays within its bounds


def test_largest_limit_keeps_the_smallest_error():
    histogram = histogram_of([1, 2**62, 2**63 - 1], max_ns=2**63 - 1)
    assert histogram.overflow == 0
    assert abs(histogram.percentile(50) - 2**62) <= 2**62 * 0.016
    assert histogram.bucket_bounds_ns[-1] == 2**63


@pytest.mark.parametrize("max_ns", [1, 63, 64, 127, 128, 1000, LIMIT_NS, 2**63 - 1])
def test_counts_and_bounds_describe_the_same_buckets(max_ns):
    values = sorted({0, 1, max_ns // 3, max_ns // 2, max_ns - 1, max_ns})
    histogram = histogram_of(values, max_ns)
    counts, bounds = histogram.counts, histogram.bucket_bounds_ns
    assert counts.dtype == bounds.dtype == np.uint64
    assert len(bounds) == len(counts) + 1
    assert (bounds[0], bounds[-1]) == (0, max_ns + 1)
    assert (np.diff(bounds.astype(object)) > 0).all()
    expected = np.zeros(len(counts), np.uint64)
    for value in values:
        expected[np.searchsorted(bounds, np.uint64(value), side="right") - 1] += 1
    assert (counts == expected).all()


def test_counts_are_of_one_moment():
    histogram = histogram_of([5])
    before = histogram.counts
    histogram.record(5)
    assert (before[5], histogram.counts[5]) == (1, 2)
    before[5] = 99
    assert histogram.counts[5] == 2


def test_to_dict_is_json_and_adds_up():
    histogram = histogram_of([3, 3, 300, 10**12])
    plain = json.loads(json.dumps(histogram.to_dict()))
    assert plain == histogram.to_dict()
    assert plain["buckets"] == [[3, 3, 2], [300, 303, 1]]
    assert plain["count"] == 4 == sum(n for _, _, n in plain["buckets"]) + plain["overflow"]
    assert (plain["min_ns"], plain["max_ns"], plain["limit_ns"]) == (3, 10**12, LIMIT_NS)


def test_merge_equals_recording_into_one():
    a, b = [1, 500, 10**11], [2, 500, 70_000]
    merged = histogram_of(a)
    merged.merge(histogram_of(b))
    assert merged.to_dict() == histogram_of(a + b).to_dict()


def test_merge_with_itself_doubles():
    histogram = histogram_of([1, 500])
    histogram.merge(histogram)
    assert histogram.to_dict() == histogram_of([1, 500] * 2).to_dict()


def test_merge_of_an_empty_one_changes_nothing():
    histogram = histogram_of([7])
    histogram.merge(LatencyHistogram())
    assert histogram.to_dict() == histogram_of([7]).to_dict()


def test_merge_with_other_buckets_is_refused():
    histogram = histogram_of([7])
    with pytest.raises(ValueError, match="limit_ns is 1000, here it is 60000000000"):
        histogram.merge(LatencyHistogram(1000))
    for other in (None, [1]):
        with pytest.raises(TypeError):
            histogram.merge(other)
    assert histogram.count == 1


def test_reset_forgets_times_but_not_events():
    histogram = histogram_of([5, 50_000, 10**12])
    histogram.reset()
    assert histogram.summary() == LatencyHistogram().summary()
    assert (histogram.overflow, histogram.n_events) == (0, 3)
    assert not histogram.counts.any()
    histogram.record(50_001)
    assert histogram.to_dict() == histogram_of([50_001]).to_dict()
    histogram.reset()
    assert (histogram.count, histogram.n_events) == (0, 4)


def test_merge_after_reset_takes_what_came_since():
    other = histogram_of([5, 6])
    probe.untimed_cost_ns(other, 3)
    other.reset()
    other.record(7)
    probe.untimed_cost_ns(other, 2)
    histogram = LatencyHistogram()
    histogram.merge(other)
    assert histogram.to_dict() == histogram_of([7]).to_dict()
    assert histogram.n_events == 3


def test_ticks_are_events_without_a_time():
    histogram = histogram_of([5])
    probe.untimed_cost_ns(histogram, 10)
    assert (histogram.count, histogram.n_events) == (1, 11)
    assert histogram.mean_ns == 5.0


def test_memory_of_a_shard_is_small_and_comes_when_used():
    histogram = LatencyHistogram()
    assert histogram.n_bytes == 0
    histogram.record(1)
    one_shard = histogram.n_bytes
    assert 0 < one_shard <= 20_000
    assert histogram_of([1], max_ns=2**63 - 1).n_bytes <= 64 << 10
    probe.record_threads(histogram, np.array([1], np.uint64), 2)
    assert histogram.n_bytes == 3 * one_shard
    histogram.reset()
    assert histogram.n_bytes == 4 * one_shard


@pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
def test_what_nobody_recorded_takes_no_memory():
    """The rows of threads that never recorded are addresses only, also after everything was read."""
    code = """
import mmap
from jessy_mem._core.latency import LatencyHistogram
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE
def use(histogram):
    histogram.record(5)
    histogram.summary(), histogram.n_events, histogram.to_dict()
    return histogram
first = use(LatencyHistogram())
before = resident()
held = [use(LatencyHistogram()) for _ in range(200)]
assert resident() - before < 200 * 2 * first.n_bytes, (resident() - before, first.n_bytes)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_address_space_that_the_system_refuses_is_mapping_error():
    code = """
import errno, resource
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem.errors import MappingError
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, resource.RLIM_INFINITY))
held = []
try:
    while True:
        held.append(LatencyHistogram())
except MappingError as error:
    assert error.errno == errno.ENOMEM, error.errno
for histogram in held:
    histogram.record(5)  # needs nothing more
    assert histogram.count == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def travelled(histogram: LatencyHistogram) -> list[LatencyHistogram]:
    """The histogram by every way it can take."""
    pickled = [pickle.loads(pickle.dumps(histogram, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    plain = LatencyHistogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    return [*pickled, copy.copy(histogram), copy.deepcopy(histogram), plain]


@pytest.mark.parametrize(
    "values", [[], [0], [5], [7, 7, 10**12], list(range(0, 10**6, 997)), [10**11], [2**63 - 1, 2**64 - 1]]
)
def test_histogram_travels_with_all_it_counted(values):
    histogram = histogram_of(values)
    probe.untimed_cost_ns(histogram, 3)
    *copies, plain = travelled(histogram)
    assert {again.n_events for again in copies} == {histogram.n_events}  # in JSON, what was timed is told
    for again in (*copies, plain):
        assert again.to_dict() == histogram.to_dict()
        assert (again.counts == histogram.counts).all()
        again.record(1)
        assert again.count == histogram.count + 1


def test_histogram_travels_without_what_was_reset():
    histogram = LatencyHistogram(10**6)
    histogram.record(5)
    histogram.reset()
    histogram.record(50)
    for again in travelled(histogram):
        assert (again.limit_ns, again.count, again.min_ns, again.max_ns, again.mean_ns) == (10**6, 1, 50, 50, 50.0)


RECORD_ELSEWHERE = """
import pickle, sys
from jessy_mem import LatencyHistogram
histogram = LatencyHistogram()
for value in sys.argv[1:]:
    histogram.record(int(value))
sys.stdout.buffer.write(pickle.dumps(histogram))
"""


def test_histograms_of_other_processes_are_brought_together():
    histogram = histogram_of([50])
    for values in (["100", "200"], [], [str(10**12)]):
        done = subprocess.run([sys.executable, "-c", RECORD_ELSEWHERE, *values], capture_output=True, check=True)
        histogram.merge(pickle.loads(done.stdout))
    assert histogram.to_dict() == histogram_of([50, 100, 200, 10**12]).to_dict()


def test_histogram_is_made_from_counts_alone():
    histogram = LatencyHistogram.from_dict({"limit_ns": 1000, "buckets": [[100, 100, 2], [900, 903, 1], [100, 100, 1]]})
    assert (histogram.count, histogram.percentile(50), histogram.overflow) == (4, 100, 0)
    assert 896 <= histogram.min_ns + 796 <= histogram.max_ns <= 903
    assert 299 <= histogram.mean_ns <= 301
    made = histogram_of([100, 100, 100, 901])
    counts = zip(made.bucket_bounds_ns.tolist(), made.bucket_bounds_ns[1:].tolist(), made.counts.tolist(), strict=False)
    again = LatencyHistogram.from_dict({"limit_ns": made.limit_ns, "buckets": [each for each in counts if each[2]]})
    assert (again.counts == made.counts).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"buckets": [[-1, 0, 1]]}, {"buckets": [[1, 1, -1]]}, {"buckets": [[1, 1, "one"]]}, {"buckets": [[1, 1]]},
        {"buckets": 5}, {"buckets": [[10**6, 10**6, 1]]}, {"buckets": [[2**64, 2**64, 1]]}, {"overflow": -1},
        {"untimed": None}, {"sum_ns": 2**64}, {"min_ns": "5"}, {"limit_ns": 0}, {"limit_ns": -5}, {"buckets": [None]},
    ],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"fields|limit_ns|max_ns|unpack"):
        LatencyHistogram.from_dict({"limit_ns": 1000, "buckets": [], **wrong})


@pytest.mark.parametrize("missing", ["limit_ns", "buckets"])
def test_counts_without_their_buckets_are_refused(missing):
    fields = histogram_of([5]).to_dict()
    del fields[missing]
    with pytest.raises(KeyError, match=missing):
        LatencyHistogram.from_dict(fields)


def test_size_of_a_histogram_is_that_of_its_counters():
    histogram = LatencyHistogram()
    before = sys.getsizeof(histogram) - histogram.n_bytes
    assert before > 0
    histogram.record(5)
    assert sys.getsizeof(histogram) - before == histogram.n_bytes > 10_000


def test_it_is_final():
    with pytest.raises(TypeError):
        type("Derived", (LatencyHistogram,), {})
    with pytest.raises(TypeError):
        LatencyHistogram("1")


def test_summary_is_what_latency_summary_takes():
    summary = LatencySummary(*histogram_of([40, 60]).summary())
    assert summary == LatencySummary(2, 40, 60, 60, 60, 60, 50.0)
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()
    assert list(summary.to_dict()) == ["count", "p50", "p90", "p99", "p999", "max", "mean_ns"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.count = 3


def test_clock_counts_nanoseconds():
    """A span by the library's clock lies between the inner and the outer span by the monotonic clock around it."""
    begin_before, begin_ticks, begin_after = probe.clock_pair()
    while probe.clock_pair()[0] - begin_before < 20_000_000:
        pass
    end_before, end_ticks, end_after = probe.clock_pair()
    span_ns = probe.clock_ns(begin_ticks, end_ticks)
    assert (end_before - begin_after) * 0.999 <= span_ns <= (end_after - begin_before) * 1.001


def test_clock_span_that_runs_backwards_is_zero():
    assert probe.clock_ns(1000, 1000) == 0
    assert probe.clock_ns(1000, 999) == 0
    assert probe.clock_ns(2**63, 0) == 0


def test_clock_spans_of_all_lengths_agree():
    """The short path of the conversion (one word) and the long one (two words) meet without a step."""
    per_tick = probe.clock_ns(0, 2**40) / 2**40
    for ticks in (1, 1000, 2**28 - 1, 2**28, 2**28 + 1, 2**50):
        assert probe.clock_ns(0, ticks) == pytest.approx(ticks * per_tick, rel=1e-9, abs=1)


def test_clock_tells_its_name_and_resolution():
    assert clock_name() in ("tsc", "monotonic")
    assert 0 < clock_resolution_ns() < 1e6


def test_import_does_not_import_numpy():
    code = "import jessy_mem._core.latency as m, sys; m.LatencyHistogram().summary(); sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
