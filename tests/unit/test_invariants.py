"""The debug build checks: what cannot be stops the process, and says what, where, and with which numbers."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from jessy_mem._core.budget import Ledger
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe.budget import checks_invariants

needs_checks = pytest.mark.skipif(
    not checks_invariants, reason="this build checks no invariants; JESSY_MEM_PROFILE=debug does"
)
BEGIN = """
from jessy_mem._core.budget import Ledger
from jessy_mem._core.latency import LatencyHistogram
from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe import budget, latency, pool as pools
pool = PoolAllocator(((1, 4096),), 1)
"""
BROKEN = {  # name: (what breaks it, where that is noticed, what is said)
    "ledger": (
        "ledger = Ledger(100, {'a': 100}); ledger.reserve('a', 5); budget.release_more_than_was_charged(ledger, 6)",
        "account.pxd", "(granted_bytes >= n_bytes) (5, 6)",
    ),
    "double free": ("pools.release_twice_without_a_look(pool)", "arena.pyx", "(!status) (0, 4096)"),
    "zone": ("pools.claim_beyond_the_words(pool)", "bitmap.pxd", "(5, 4)"),
    "summary": ("pools.leave_a_word_lost(pool); del pool", "arena.pyx", "bitmap_count_lost"),
    "shard": (
        "h = LatencyHistogram(); h.record(5); latency.forget_the_groups(h); h.record(500); h.record(5)",
        "shard.pxd", "newest",
    ),
}  # fmt: skip


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, capture_output=True, text=True)


@needs_checks
@pytest.mark.parametrize("name", BROKEN)
def test_broken_invariant_aborts_and_says_where(name):
    code, file, said = BROKEN[name]
    done = run(code)
    assert done.returncode == -signal.SIGABRT, done.stderr
    place, _, message = done.stderr.partition(": jessy_mem: broken invariant: ")
    assert file in place
    assert place.rpartition(":")[2].isdigit()
    assert said in message
    assert "__pyx_v_" not in message


@needs_checks
def test_bounds_of_typed_views_are_checked():
    """What no invariant states is noticed by the view itself, and is an exception."""
    done = run("import sys; sys.exit(pools.read_beyond_the_words(pool))")
    assert "IndexError: Out of bounds" in done.stderr
    assert done.returncode == 1


def test_what_a_caller_gets_wrong_is_an_exception_in_every_build():
    ledger = Ledger(100, {"a": 100, "b": 100})
    ledger.reserve("a", 5)
    ledger.reserve("b", 7)
    for segment, n_bytes, holds in (("a", 6, 5), ("b", 8, 7), ("a", 2**64 - 1, 5)):
        with pytest.raises(ValueError, match=f"n_bytes: {n_bytes} are not charged to {segment}, {holds} are"):
            ledger.release(segment, n_bytes)
    assert ledger.segment_bytes() == {"a": (5, 100, 5), "b": (7, 100, 7)}
    assert ledger.used_bytes == 12
    pool = PoolAllocator(((1, 4096),), 1)
    block = pool.allocate(1)
    block.free()
    with pytest.raises(ValueError, match="freed before"):
        pool.deallocate(block)
