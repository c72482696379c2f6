"""Eviction policies: which key goes next when room is needed. They know keys, and neither bytes nor regions.

A key that cannot go now (`evictable` says no: it is in use, or room is needed elsewhere) keeps its place in the order
and never stands in the way of the others. SIEVE's hand passes over it. LRU and LFU set it aside and ask again after as
many evictions as keys were set aside, or as soon as nothing else can go. So no search meets the same keys again and
again, and the cost of an eviction does not grow with their number.

What `touch` means depends on who calls it. The **manager** keeps one visited bit for each region, sets it in the read
path, and passes it on (and clears it) only when it is about to evict: ten thousand reads between two evictions are one
touch, and touches of one moment come in no particular order. The **replay** of a trace touches at every access, in
order. SIEVE decides the same either way, for a bit is all it keeps. LRU and LFU become coarser in the manager: LRU
knows which regions were read since the last eviction, not in which order; LFU counts the evictions before which a
region was read, not its reads. A replay therefore shows what SIEVE does, and what LRU and LFU would do if they saw
every access. In both, the access that loads a key is its insertion and not a touch: else nothing would tell a key that
was read once from one that is read again, and SIEVE would be FIFO.

No policy is thread-safe: the caller holds a lock. `evictable` must not call the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Protocol

__all__ = ["POLICIES", "Policy", "make_policy"]


class Policy(Protocol):
    """What the manager and the replay ask of a policy. Amortised O(1); `victim` of LRU and LFU is O(log n).

    Keys that are not there may be touched and removed, and keys that are there inserted: nothing happens.
    """

    def insert(self, key: int) -> None:
        """`key` was loaded."""

    def touch(self, key: int) -> None:
        """`key` was read since it was last looked at."""

    def remove(self, key: int) -> None:
        """`key` is gone for another reason than eviction."""

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        """Remove and return the key to evict next, one that `evictable` allows; None if there is none."""

    def put_back(self, keys: Sequence[int]) -> None:
        """Undo: `keys`, of the last that `victim` gave, in that order, stay after all, and are the next to go."""

    def __len__(self) -> int: ...

    def __contains__(self, key: object) -> bool: ...


class Sieve:
    """SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024).

    ::

        oldest  A  B* C  D* E  newest      * visited: read since the hand last passed
                      ^ hand ->            inserts at the newest end; wraps from the newest to the oldest

    A read sets a bit and moves nothing. The hand goes from old to new: it clears the bit of what was read and leaves it
    in its place, and evicts the first key whose bit is clear. It stays where it stopped, so keys that were read keep
    their place in the old part while new ones that are never read again go soon after they came.
    """

    def __init__(self) -> None:
        # A ring of the keys; None closes it: what is newer than None is the oldest key, and the other way round.
        self._newer: dict[int | None, int | None] = {None: None}
        self._older: dict[int | None, int | None] = {None: None}
        self._visited: set[int] = set()
        self._hand: int | None = None  # the next candidate; None stands for the oldest key

    def insert(self, key: int, newer: int | None = None) -> None:
        if key not in self._newer:
            older = self._older[newer]
            self._older[key] = older  # first, and without memory for the next it is not there
            self._newer[key] = newer
            self._newer[older] = self._older[newer] = key

    def touch(self, key: int) -> None:
        if key in self._newer:
            self._visited.add(key)

    def remove(self, key: int) -> None:
        if key not in self._newer:
            return
        newer, older = self._newer.pop(key), self._older.pop(key)
        self._newer[older], self._older[newer] = newer, older
        self._visited.discard(key)
        if key == self._hand:
            self._hand = newer

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        key = self._hand
        for _ in range(2 * len(self)):  # the first round clears what it can, so the second one finds a victim
            if key is None:
                key = self._newer[None]
            assert key is not None  # there is one
            if evictable(key):
                if key not in self._visited:
                    self._hand = key
                    self.remove(key)  # and the hand moves on
                    return key
                self._visited.discard(key)
            key = self._newer[key]
        return None

    def put_back(self, keys: Sequence[int]) -> None:
        hand = self._hand
        keys = [key for key in keys if key not in self]
        for key in keys:
            self.insert(key, hand)
        if keys:
            self._hand = keys[0]

    def __len__(self) -> int:
        return len(self._newer) - 1

    def __contains__(self, key: object) -> bool:
        return key is not None and key in self._newer


class Ranked:
    """The lowest rank goes first: LRU and LFU, which differ in what a touch adds to the count of a key.

    A rank is (count, turn of the last touch or insertion, key). Counts begin at 1 and leave with their key. LRU
    adds 0, so that the turn decides: what was touched longest ago goes. LFU adds 1: the lowest count goes, and of
    equal counts what was touched longest ago.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._turn = 0
        self._ranks: dict[int, tuple[int, int, int]] = {}
        # Each key that is not set aside has an entry no higher than its rank. A touch leaves the heap as it is: what is
        # not the rank of its key is put right, or dropped if the key is gone or set aside, when it comes to the top.
        self._heap: list[tuple[int, int, int]] = []
        self._aside: dict[int, None] = {}
        self._patience = 0  # evictions before the keys set aside are asked again
        self._given: dict[int, tuple[int, int, int]] = {}  # ranks of the victims since the last insertion

    def insert(self, key: int) -> None:
        self._given.clear()
        if key not in self._ranks:
            rank = self._next_rank(key, 1)
            heappush(self._heap, rank)  # first, and without memory for the next it is that of a key that is gone
            self._ranks[key] = rank

    def touch(self, key: int) -> None:
        rank = self._ranks.get(key)
        if rank is not None:
            self._ranks[key] = self._next_rank(key, rank[0] + self._step)

    def remove(self, key: int) -> None:
        self._ranks.pop(key, None)
        self._aside.pop(key, None)
        if len(self._heap) > 2 * len(self._ranks) + 64:  # entries of removed keys
            self._heap = [rank for rank in self._ranks.values() if rank[2] not in self._aside]
            heapify(self._heap)

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        if self._patience <= 0:
            self._take_back()
        for _ in range(2):  # the second search asks the keys again that earlier ones set aside
            key = self._search(evictable)
            if key is not None:
                return key
            self._take_back()
        return None

    def put_back(self, keys: Sequence[int]) -> None:
        for key in keys:
            if key in self._given and key not in self._ranks:
                rank = self._ranks[key] = self._given.pop(key)
                heappush(self._heap, rank)
            else:  # something was inserted since
                self.insert(key)

    def _search(self, evictable: Callable[[int], bool]) -> int | None:
        """Remove and return the first key in the heap that can go; set aside those before it."""
        while self._heap:
            entry = self._heap[0]
            key = entry[2]
            rank = self._ranks.get(key)
            if rank is None or key in self._aside:
                heappop(self._heap)
            elif rank != entry:
                heapreplace(self._heap, rank)
            elif evictable(key):
                heappop(self._heap)
                self._given[key] = self._ranks.pop(key)
                self._patience -= 1
                return key
            else:
                self._aside[key] = None
                self._patience = len(self._aside)
        return None

    def _take_back(self) -> None:
        for key in self._aside:
            heappush(self._heap, self._ranks[key])
        self._aside.clear()

    def _next_rank(self, key: int, count: int) -> tuple[int, int, int]:
        self._turn += 1
        return count, self._turn, key

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: object) -> bool:
        return key in self._ranks


_POLICIES: dict[str, Callable[[], Policy]] = {"sieve": Sieve, "lru": lambda: Ranked(0), "lfu": lambda: Ranked(1)}

POLICIES = tuple(_POLICIES)


def make_policy(name: str) -> Policy:
    """An empty policy: "sieve", "lru" or "lfu"; ValueError for another name.

    >>> policy = make_policy("sieve")
    >>> for key in (1, 2, 3):
    ...     policy.insert(key)
    >>> policy.touch(1)
    >>> policy.victim(lambda key: True), policy.victim(lambda key: key != 3), len(policy)
    (2, 1, 1)
    """
    try:
        return _POLICIES[name]()
    except KeyError:
        raise ValueError(f"{name!r} is not an eviction policy: expected one of {', '.join(POLICIES)}") from None
