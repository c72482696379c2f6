"""Replays of a trace: how many bytes each eviction policy would have found in memory, at each budget.

The replay is the textbook cache: dimensions come whole, an access to one that is in memory is a hit, a miss evicts
until the new one fits. What a trace cannot know is left out: immutable and leased dimensions, which are never evicted,
and the manager's habit of evicting in batches, from 85 % down to 70 %. So take a budget as the bytes left for what can
be evicted. `jessy_mem.eviction` says how near LRU and LFU in the manager come to their replay.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import index
from typing import Any

from jessy_mem.eviction import POLICIES, make_policy
from jessy_mem.sizes import parse_size_mb
from jessy_mem.trace import Access, read_trace

__all__ = ["ReplayResult", "advise", "footprint_bytes", "parse_budget", "replay"]

_FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the footprint: the default budgets

Trace = str | os.PathLike[str] | Iterable[Access]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What one policy did with one budget. A hit or a miss counts with all bytes of the dimension that was read.

    `miss_bytes` is what had to be loaded. `evictions` counts dimensions that had to go for others.
    """

    policy: str  # "sieve", "lru" or "lfu"
    budget_bytes: int  # what it had for dimensions
    hits: int  # accesses whose dimension was in memory
    misses: int  # accesses whose dimension was not
    hit_bytes: int  # of the dimensions of hits
    miss_bytes: int
    evictions: int

    @property
    def byte_hit_ratio(self) -> float:
        """The share of bytes that were found in memory, 0..1."""
        return self.hit_bytes / max(1, self.hit_bytes + self.miss_bytes)

    @property
    def hit_ratio(self) -> float:
        """The share of accesses that found their dimension in memory, 0..1."""
        return self.hits / max(1, self.hits + self.misses)

    def to_dict(self) -> dict[str, Any]:
        """The fields and both ratios by name; JSON-serialisable."""
        return asdict(self) | {"byte_hit_ratio": self.byte_hit_ratio, "hit_ratio": self.hit_ratio}


def replay(trace: Trace, policy_name: str, budget_bytes: int) -> ReplayResult:
    """Replay `trace` (a file, or accesses) over one policy: "sieve", "lru" or "lfu".

    A dimension larger than the budget is read past it, and evicts nothing. One whose size changed has a new generation:
    a miss. ValueError for an unknown policy, a budget below 1, or a damaged file.

    >>> trace = [Access(1, 0, 100), Access(2, 0, 100), Access(1, 1, 100), Access(3, 0, 100), Access(1, 0, 100)]
    >>> replay(trace, "lru", 200)
    ReplayResult(policy='lru', budget_bytes=200, hits=2, misses=3, hit_bytes=200, miss_bytes=300, evictions=1)
    """
    policy = make_policy(policy_name)
    budget_bytes = parse_budget(budget_bytes)
    resident: dict[int, int] = {}  # dimension -> bytes
    used_bytes = hits = misses = hit_bytes = miss_bytes = evictions = 0
    for dimension, _, n_bytes in _accesses(trace):
        held_bytes = resident.get(dimension)
        if held_bytes == n_bytes:
            hits += 1
            hit_bytes += n_bytes
            policy.touch(dimension)
            continue
        misses += 1
        miss_bytes += n_bytes
        if held_bytes is not None:
            policy.remove(dimension)
            used_bytes -= resident.pop(dimension)
        if n_bytes > budget_bytes:
            continue
        while used_bytes + n_bytes > budget_bytes:
            victim = policy.victim(_anything)
            assert victim is not None  # used_bytes > 0: something is resident
            used_bytes -= resident.pop(victim)
            evictions += 1
        policy.insert(dimension)
        resident[dimension] = n_bytes
        used_bytes += n_bytes
    return ReplayResult(policy_name, budget_bytes, hits, misses, hit_bytes, miss_bytes, evictions)


def advise(
    trace: Trace,
    budgets: Sequence[int | str] | None = None,
    policies: Sequence[str] = POLICIES,
    progress: Callable[[int, int], None] | None = None,
) -> list[ReplayResult]:
    """Replay `trace` over every policy and budget: one result for each, by budget and then in the order of `policies`.

    Parameters
    ----------
    trace : path or iterable of Access
        What ``MmapManager.record_trace`` wrote.
    budgets : sequence of int or str, optional
        In bytes, or text such as "64MB" (without a unit: bytes). By default 5, 10, 20, 40, 60, 80 and 100 % of the
        trace's footprint.
    policies : sequence of str
        Names from `jessy_mem.eviction.POLICIES`.
    progress : callable, optional
        Called with (replays done, replays in all).

    ValueError for an unknown policy, a budget that is none, or a trace that is damaged or holds no access.

    >>> trace = [Access(dimension, 0, 1 << 20) for dimension in (1, 2, 1, 3, 1, 4, 1)]
    >>> for result in advise(trace, budgets=["2MB"]):
    ...     print(f"{result.policy}: {result.byte_hit_ratio:.2f}")
    sieve: 0.43
    lru: 0.43
    lfu: 0.43
    """
    accesses = list(_accesses(trace))
    if not accesses:
        raise ValueError("the trace holds no access")
    if budgets is None:
        footprint = footprint_bytes(accesses)
        budgets = [max(1, round(fraction * footprint)) for fraction in _FRACTIONS]
    sizes = sorted({parse_budget(budget) for budget in budgets})
    pairs = [(policy, n_bytes) for n_bytes in sizes for policy in policies]
    results = []
    for policy, n_bytes in pairs:
        results.append(replay(accesses, policy, n_bytes))
        if progress is not None:
            progress(len(results), len(pairs))
    return results


def footprint_bytes(trace: Trace) -> int:
    """The bytes of all dimensions in `trace`, each at its largest: with such a budget nothing is ever evicted."""
    largest: dict[int, int] = {}
    for dimension, _, n_bytes in _accesses(trace):
        largest[dimension] = max(n_bytes, largest.get(dimension, 0))
    return sum(largest.values())


def parse_budget(budget: int | str) -> int:
    """A budget in bytes: an int, or text such as "64MB" or "4096" (bytes without a unit); ValueError if it is none.

    >>> parse_budget("64MB"), parse_budget("1.5 KiB"), parse_budget(4096)
    (67108864, 1536, 4096)
    """
    n_bytes = 0
    if not isinstance(budget, str):
        n_bytes = index(budget)
    else:
        with suppress(ValueError, OverflowError):  # more digits than a float has
            bare = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[Bb]?\s*", budget)
            n_bytes = int(float(bare[1]) if bare else parse_size_mb(budget) * (1 << 20))
    if n_bytes < 1:
        raise ValueError(f"{budget!r} is not a budget: expected at least 1 byte, or text such as '64MB'")
    return n_bytes


def _accesses(trace: Trace) -> Iterable[Access]:
    return read_trace(trace) if isinstance(trace, (str, os.PathLike)) else trace


def _anything(key: int) -> bool:
    return True
