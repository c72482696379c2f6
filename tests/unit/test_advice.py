"""Replays: small traces worked by hand, long ones against simulators of a few lines; the command line; the plot."""

import json
import random

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from jessy_mem import eviction
from jessy_mem.advice import ReplayResult, advise, footprint_bytes, parse_budget, replay
from jessy_mem.cli import advise as cli
from jessy_mem.cli import main
from jessy_mem.eviction import POLICIES
from jessy_mem.trace import Access, TraceWriter


def reads(text, n_bytes=10):
    """One access for each letter of `text`: A is dimension 1."""
    return [Access(ord(letter) - ord("A") + 1, 0, n_bytes) for letter in text]


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "day.trace"
    with TraceWriter(path) as trace:
        for access in reads("ABCDAEFGHA", 1 << 20):
            trace.record(*access)
    return path


def run(*args):
    """Run ``jessy-mem advise``."""
    return CliRunner().invoke(main, ["advise", *map(str, args)])


# Replay ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "hits", "evictions"),
    [
        # A stays for its one hit: the hand cleared its bit, evicted B, and moved on. It takes C, D, E before A again.
        ("sieve", 2, 4),
        ("lru", 1, 5),  # A is the fourth to go, just before it is read
        ("lfu", 2, 4),  # A alone has a count of 2
    ],
)
def test_scan_worked_by_hand(policy, hits, evictions):
    result = replay(reads("ABCDAEFGHA"), policy, 40)
    assert result == ReplayResult(policy, 40, hits, 10 - hits, 10 * hits, 100 - 10 * hits, evictions)
    assert result.byte_hit_ratio == result.hit_ratio == hits / 10


@pytest.mark.parametrize("policy", POLICIES)
def test_sizes_worked_by_hand(policy):
    # 350 bytes: B (300) sends A (100) away; C (50) just fits; B is hit; A sends C and B away; C fits again.
    a, b, c = Access(1, 0, 100), Access(2, 0, 300), Access(3, 0, 50)
    result = replay([a, b, c, b, a, c], policy, 350)
    assert result == ReplayResult(policy, 350, hits=1, misses=5, hit_bytes=300, miss_bytes=600, evictions=3)
    assert result.byte_hit_ratio == pytest.approx(1 / 3)
    assert result.hit_ratio == pytest.approx(1 / 6)
    assert result.to_dict()["byte_hit_ratio"] == result.byte_hit_ratio
    json.dumps(result.to_dict())


@pytest.mark.parametrize("policy", POLICIES)
def test_loop_one_larger_than_the_budget_never_hits(policy):
    assert replay(reads("ABC" * 50), policy, 20).hits == 0
    assert replay(reads("ABC" * 50), policy, 30).hits == 147


@pytest.mark.parametrize("policy", POLICIES)
def test_layers_of_one_dimension_come_together(policy):
    assert replay([Access(1, layer, 10) for layer in range(5)], policy, 10).hits == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_dimension_larger_than_the_budget_evicts_nothing(policy):
    big = Access(9, 0, 31)
    result = replay([*reads("ABC"), big, big, *reads("ABC")], policy, 30)
    assert (result.hits, result.misses, result.evictions) == (3, 5, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_new_generation_is_a_miss_and_takes_its_new_size(policy):
    old, new = Access(1, 0, 10), Access(1, 0, 20)
    result = replay([old, old, new, new, *reads("B")], policy, 30)
    assert (result.hits, result.misses, result.hit_bytes, result.miss_bytes) == (2, 3, 30, 40)
    assert result.evictions == 0
    # Grown beyond the budget, it is not kept, and its old bytes are not counted any more.
    result = replay([old, Access(1, 0, 40), *reads("BCD")], policy, 30)
    assert (result.hits, result.evictions) == (0, 0)


def test_empty_trace_has_ratio_0():
    assert replay([], "lru", 1).byte_hit_ratio == 0
    assert replay([], "lru", 1).hit_ratio == 0


def simulate(policy, keys, n_slots):
    """Hits of a cache of `n_slots` equal keys, on one list and in the words of the papers."""
    hits, cache, counts, hand = 0, [], {}, 0  # `cache` is oldest first
    for key in keys:
        if key in cache:
            hits += 1
            counts[key] += 1
            if policy != "sieve":
                cache.append(cache.pop(cache.index(key)))
            continue
        if len(cache) == n_slots:
            if policy == "sieve":
                hand %= n_slots
                while counts[cache[hand]] > 1:
                    counts[cache[hand]] = 1
                    hand = (hand + 1) % n_slots
                at = hand
                if at == n_slots - 1:
                    hand = 0
            else:
                at = 0 if policy == "lru" else min(range(n_slots), key=lambda i: (counts[cache[i]], i))
            del counts[cache.pop(at)]
        cache.append(key)
        counts[key] = 1
    return hits


def zipf(n_reads):
    rng = random.Random(11)
    return rng.choices(range(1, 200), [1 / rank for rank in range(1, 200)], k=n_reads)


def zipf_and_scans(n_reads):
    popular = iter(zipf(n_reads))
    return [1000 + i % 300 if i // 150 % 3 == 2 else next(popular) for i in range(n_reads)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_slots", [1, 7, 40, 120])
@pytest.mark.parametrize(
    "keys",
    [zipf(4000), zipf_and_scans(4000), [1 + i % 50 for i in range(2000)]],
    ids=["zipf", "zipf and scans", "loop"],
)
def test_hits_equal_those_of_a_simulator(policy, n_slots, keys):
    trace = [Access(key, 0, 1000) for key in keys]
    result = replay(trace, policy, n_slots * 1000 + 999)
    assert result.hits == simulate(policy, keys, n_slots)
    assert result.hits + result.misses == len(keys)


@given(dimensions=st.lists(st.integers(1, 9), max_size=60))
@settings(deadline=None)
def test_larger_budget_never_hurts_lru(dimensions):
    trace = [Access(dimension, 0, 10) for dimension in dimensions]
    hits = [replay(trace, "lru", 10 * n_slots).hits for n_slots in range(1, 10)]
    assert hits == sorted(hits)


@given(
    trace=st.lists(st.builds(Access, st.integers(1, 9), st.integers(0, 3), st.integers(1, 50)), max_size=60),
    budget_bytes=st.integers(1, 200),
    policy=st.sampled_from(POLICIES),
)
@settings(deadline=None)
def test_replay_counts_every_access_once(trace, budget_bytes, policy):
    result = replay(trace, policy, budget_bytes)
    assert result.hits + result.misses == len(trace)
    assert result.hit_bytes + result.miss_bytes == sum(access.n_bytes for access in trace)
    assert result.evictions <= result.misses
    unbounded = replay(trace, policy, max(1, footprint_bytes(trace)))
    assert unbounded.evictions == 0
    assert unbounded.hits >= result.hits


def test_replay_refuses_nonsense():
    with pytest.raises(ValueError, match="'fifo' is not an eviction policy"):
        replay([], "fifo", 1)
    with pytest.raises(ValueError, match="0 is not a budget: expected at least 1 byte"):
        replay([], "lru", 0)


# Advice ---------------------------------------------------------------------------------------------------------------


def test_advise_by_default(trace_file):
    results = advise(trace_file)
    footprint = 8 << 20
    assert footprint_bytes(trace_file) == footprint
    assert [result.policy for result in results] == list(POLICIES) * 7
    budgets = sorted({result.budget_bytes for result in results})
    assert budgets == [round(share * footprint) for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)]
    for result in results[-3:]:
        assert (result.hits, result.misses, result.evictions) == (2, 8, 0)


def test_advise_over_chosen_budgets_and_policies(trace_file):
    seen = []
    results = advise(str(trace_file), ["4MB", 1 << 20, "4 MiB"], ["lru"], lambda *done: seen.append(done))
    assert [(r.policy, r.budget_bytes, r.hits) for r in results] == [("lru", 1 << 20, 0), ("lru", 4 << 20, 1)]
    assert seen == [(1, 2), (2, 2)]


def test_advise_takes_an_iterator_and_a_tiny_trace():
    assert advise(iter(reads("AAB", 1)), policies=["lru"])[-1].hits == 1
    assert [result.budget_bytes for result in advise(reads("AAB", 1), policies=["lru"])] == [1, 2]


def test_advise_refuses_nonsense(trace_file):
    with pytest.raises(ValueError, match="the trace holds no access"):
        advise([])
    with pytest.raises(ValueError, match="'fifo' is not an eviction policy"):
        advise(trace_file, policies=["fifo"])
    with pytest.raises(ValueError, match="'much' is not a budget"):
        advise(trace_file, budgets=["much"])


def test_footprint_takes_each_dimension_at_its_largest():
    assert footprint_bytes([Access(1, 0, 5), Access(1, 1, 9), Access(1, 0, 7), Access(2, 0, 1)]) == 10


@pytest.mark.parametrize(
    ("budget", "n_bytes"),
    [(7, 7), ("7", 7), ("7B", 7), (" 7 b ", 7), ("512 KiB", 512 << 10), ("64MB", 64 << 20), ("1.5GiB", 3 << 29)],
)
def test_budgets_are_parsed(budget, n_bytes):
    assert parse_budget(budget) == n_bytes


@pytest.mark.parametrize(
    "budget", [0, -1, "0", "0MB", "0.5", "-1", "", "MB", "5XB", "1e9", "9" * 400, f"{'9' * 400}MB"]
)
def test_budgets_that_are_none(budget):
    with pytest.raises(ValueError, match="is not a budget: expected at least 1 byte"):
        parse_budget(budget)


def test_budget_must_be_whole():
    with pytest.raises(TypeError):
        parse_budget(1.5)


# Command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_command_prints_a_table(trace_file):
    done = run(trace_file, "--budget", "4MB", "--budget", "8MB")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["budget", "sieve", "lru", "lfu", "best", "it", "loads"] in lines
    assert ["4", "MiB", "20.0%", "10.0%", "20.0%", "sieve,", "lfu", "8", "MiB"] in lines
    assert ["8", "MiB", "20.0%", "20.0%", "20.0%", "all", "the", "same", "8", "MiB"] in lines
    assert "4 MiB with sieve is the smallest of these budgets within one point of the best ratio, 20.0%" in done.stdout


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_command_prints_json(trace_file):
    done = run(trace_file, "--budget", "4MB", "--policy", "lru", "--policy", "lfu", "--json")
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert printed["accesses"] == 10
    assert [(r["policy"], r["budget_bytes"], r["byte_hit_ratio"]) for r in printed["results"]] == [
        ("lru", 4 << 20, 0.1),
        ("lfu", 4 << 20, 0.2),
    ]


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_command_draws_a_plot(trace_file, tmp_path, matplotlib):
    done = run(trace_file, "--plot", tmp_path / "advice.png")
    assert done.exit_code == 0
    assert (tmp_path / "advice.png").stat().st_size > 5000
    assert f"plot in {tmp_path / 'advice.png'}" in done.stdout
    done = run(trace_file, "--plot", tmp_path / "advice.nope")
    assert done.exit_code == 2
    assert "'--plot': Format 'nope' is not supported" in done.stderr


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--budget", "5XB"], "'5XB' is not a budget"),
        (["--budget", "0"], "'0' is not a budget: expected at least 1 byte"),
        (["--policy", "fifo"], "'fifo' is not one of"),
    ],
)
def test_command_wrong_use(trace_file, args, named):
    done = run(trace_file, *args)
    assert done.exit_code == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_command_missing_trace(tmp_path):
    assert run(tmp_path / "none.trace").exit_code == 2


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"not a trace", "damaged at offset 0: not an access trace of version 1"),
        (b"jessy-mem trace 1\n" + bytes(8), "damaged at offset 18: "),
        (b"jessy-mem trace 1\n", "the trace holds no access"),
    ],
)
def test_command_says_what_is_wrong_with_a_trace(tmp_path, data, named):
    path = tmp_path / "bad.trace"
    path.write_bytes(data)
    done = run(path)
    assert done.exit_code == 1
    assert done.stderr.strip().startswith(f"error: {path}: {named}")
    assert len(done.stderr.strip().splitlines()) == 1


def test_command_knows_every_policy():
    assert cli.POLICIES == eviction.POLICIES
