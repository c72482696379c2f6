"""The pool under native threads: no block with two owners, no limit passed, no release that succeeds twice."""

import threading

import pytest

import jessy_mem.errors as errors
from jessy_mem._core.budget import Ledger
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe.pool import (
    exchange_stress,
    handover_stress,
    pool_failure_ns,
    pool_pairs_ns,
    release_races_won,
)

MIB = 1 << 20
FOUR = ((4, 4096), (4, 16384), (4, 65536), (4, 262144))

PLANS = {
    "the arena is the limit": (FOUR, 16, {}),
    "a limit below the arena": (FOUR, 6, {}),
    "strict classes": (FOUR, 16, {"strict_classes": True}),
    "strict classes below the arena": (FOUR, 6, {"strict_classes": True}),
    "one class": (((4, 16384),), 4, {}),
    "commons": (((1, 4096), (1, 65536)), 6, {}),
    "blocks of many words": (((1, 64), (1, 4096), (2, 262144)), 4, {}),
    "scrub": (FOUR, 16, {"scrub": True}),
    "guards": (FOUR, 6, {"guard_sample": 3}),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("seed", [1, 2])
def test_exchanged_blocks_keep_their_marks_and_the_limit_holds(plan, seed):
    pools, limit_mb, options = PLANS[plan]
    pool = PoolAllocator(pools, limit_mb, **options)
    counts = exchange_stress(pool, 512 * 1024, 10_000, n_threads=3, seed=seed)
    assert counts["overwritten"] == 0
    assert counts["violations"] == 0
    assert counts["claimed"] > 0
    assert pool.usage()[0] == 0
    stats = pool.stats()
    assert all(each.n_used == each.n_borrowed == each.requested_bytes == 0 for each in stats.classes)
    assert 0 < stats.peak_bytes <= stats.limit_bytes


def test_the_plans_reach_the_limit():
    """So that the test above has something to prove."""
    pool = PoolAllocator(FOUR, 6)
    assert exchange_stress(pool, 512 * 1024, 10_000, n_threads=2)["refused"] > 0


@pytest.mark.parametrize(
    ("pools", "n_bytes", "n_threads"),
    [(((0.25, 262144),), 5000, 2), (((0.5, 262144),), 262144, 3), (((0.5, 2048),), 2048 * 150, 2)],
    ids=["one block", "two blocks, three threads", "runs of words"],
)
def test_a_block_is_handed_over_with_all_its_bytes(pools, n_bytes, n_threads):
    """The last owner's writes come before the next owner's: the order that ThreadSanitizer looks for here."""
    pool = PoolAllocator(pools, pools[0][0])
    assert handover_stress(pool, n_bytes, 3_000, n_threads) == (0, 0)
    assert pool.usage()[0] == 0


def test_shared_ledger_never_passes_its_limit():
    ledger = Ledger(6 * MIB, {"reserve": 5 * MIB, "core": 6 * MIB})
    pool = PoolAllocator(FOUR, 16, ledger=ledger, segment="reserve")
    done, seen = threading.Event(), []

    def watch():
        while not done.is_set() or not seen:
            seen.append((ledger.used_bytes, ledger.segment_bytes()["reserve"][0]))

    def charge_core():
        while not done.is_set():
            try:
                ledger.reserve("core", MIB)
            except errors.LimitExceeded:
                continue
            ledger.release("core", MIB)

    helpers = [threading.Thread(target=run) for run in (watch, charge_core)]
    for helper in helpers:
        helper.start()
    stress = threading.Thread(target=lambda: counts.update(exchange_stress(pool, 512 * 1024, 10_000, n_threads=2)))
    counts = {}
    stress.start()
    stress.join()
    done.set()
    for helper in helpers:
        helper.join()
    assert (counts["overwritten"], counts["violations"]) == (0, 0)
    assert max(total for total, _ in seen) <= 6 * MIB
    assert max(reserve for _, reserve in seen) <= 5 * MIB
    assert ledger.used_bytes == 0


@pytest.mark.slow
def test_one_claim_is_released_once_whoever_tries():
    in_time, late, robbed = release_races_won(PoolAllocator(), 4096, 1_000_000)
    assert (in_time, late, robbed) == (500_000, 0, 0)


@pytest.mark.parametrize("n_bytes", [4096, 262144, MIB])
@pytest.mark.parametrize("n_threads", [2, 3])
def test_release_races(n_bytes, n_threads):
    n_rounds = 20_000 if n_threads == 2 else 500
    assert release_races_won(PoolAllocator(FOUR, 16), n_bytes, n_rounds, n_threads) == (n_rounds // 2, 0, 0)


def test_trim_beside_native_threads_takes_nothing_from_them():
    pool = PoolAllocator(FOUR, 16)
    counts, done = {}, threading.Event()

    def trim():
        while not done.is_set():
            pool.trim()

    trimmer = threading.Thread(target=trim)
    trimmer.start()
    for _ in range(5):
        counts = exchange_stress(pool, 128 * 1024, 5_000, n_threads=2)
        assert (counts["overwritten"], counts["violations"]) == (0, 0)
    done.set()
    trimmer.join()
    assert pool.usage()[0] == 0


def test_claim_never_fails_because_of_a_trim():
    """Each thread has room for its one block; only units that trim holds for a moment could be in its way."""
    pool = PoolAllocator(((0.5, 262144),), 0.5)
    done = threading.Event()

    def trim():
        while not done.is_set():
            pool.trim()

    trimmer = threading.Thread(target=trim)
    trimmer.start()
    try:
        assert pool_pairs_ns(pool, 262144, 20_000, n_threads=2) > 0
    finally:
        done.set()
        trimmer.join()


def test_runs_beside_blocks_fail_only_when_full():
    pool = PoolAllocator(((4, 4096), (4, 65536)), 8)
    assert pool_pairs_ns(pool, 2 * MIB, 5_000, n_threads=2) > 0  # 4 of 8 MiB, at any alignment of 64 KiB
    assert pool.usage()[0] == 0


def test_python_threads_share_one_pool():
    pool = PoolAllocator(FOUR, 16)
    problems = []

    def run(number):
        try:
            for i in range(2000):
                n_bytes = 1 + (i * 7919 + number * 104729) % 20_000
                with pool.allocate(n_bytes) as block:
                    view = memoryview(block)
                    view[0] = view[-1] = number
                    if (view[0], view[-1]) != (number, number):
                        problems.append(number)
                    view.release()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert pool.usage()[0] == 0


def test_racing_frees_of_one_block_succeed_once():
    pool, n_threads, n_rounds = PoolAllocator(FOUR, 16), 3, 500
    barrier = threading.Barrier(n_threads)
    blocks = [pool.allocate(5000) for _ in range(n_rounds)]
    outcomes = []

    def run():
        for block in blocks:
            barrier.wait()
            try:
                block.free()
                outcomes.append("freed")
            except errors.DoubleFree:
                outcomes.append("double")

    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("freed") == n_rounds
    assert outcomes.count("double") == (n_threads - 1) * n_rounds
    assert pool.usage()[0] == 0


def test_probes_tell_when_they_measure_something_else():
    pool = PoolAllocator(((1, 4096),), 1)
    with pytest.raises(RuntimeError, match="claims found room"):
        pool_failure_ns(pool, 4096, 10)
    blocks = [pool.allocate(4096) for _ in range(256)]
    with pytest.raises(RuntimeError, match="claims failed"):
        pool_pairs_ns(pool, 4096, 10)
    assert pool_failure_ns(pool, 4096, 10) > 0
    del blocks
