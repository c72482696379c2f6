"""Eviction policies: which key goes next when room is needed. They know keys, and neither bytes nor regions.

All three share one habit: a key that cannot go now (`evictable` says no) is in use, and never stands in the way of the
others. SIEVE's hand passes over it; LRU ranks it as read just now; LFU ranks it as read twice as often as the victim.
So the same keys are not met again by every search, and the cost of an eviction does not grow with their number.

What `touch` means depends on who calls it. The **manager** keeps one visited bit for each region, sets it in the read
path, and passes it on (and clears it) only when it is about to evict: ten thousand reads between two evictions are one
touch, and touches of one moment come in no particular order. The **replay** of a trace touches at every access, in
order. SIEVE decides the same either way, for a bit is all it keeps. LRU and LFU become coarser in the manager: LRU
knows which regions were read since the last eviction, not in which order; LFU counts the evictions before which a
region was read, not its reads. A replay therefore shows what SIEVE does, and what LRU and LFU would do if they saw
every access. For both, the access that loads a key is its insertion and not a touch: else nothing would tell a key that
was read once from one that is read again, and SIEVE would be FIFO.

No policy is thread-safe: the caller holds a lock. `evictable` must not call the policy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Protocol

__all__ = ["POLICIES", "Policy", "make_policy"]


class Policy(Protocol):
    """What the manager and the replay ask of a policy. Every operation is O(1) amortised; LFU's `victim` is O(log n).

    Keys that are not there may be touched and removed: nothing happens. A key inserted twice is touched.
    """

    def insert(self, key: int) -> None:
        """`key` was loaded."""

    def touch(self, key: int) -> None:
        """`key` was read since it was last looked at."""

    def remove(self, key: int) -> None:
        """`key` is gone for another reason than eviction."""

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        """Remove and return the key to evict next, one that `evictable` allows; None if there is none."""

    def __len__(self) -> int: ...

    def __contains__(self, key: object) -> bool: ...


class _Node:
    """One key in SIEVE's queue."""

    __slots__ = ("key", "newer", "older", "visited")

    def __init__(self, key: int) -> None:
        self.key = key
        self.visited = False
        self.newer = self.older = self


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
        self._nodes: dict[int, _Node] = {}
        self._root = _Node(0)  # closes the ring: its `newer` is the oldest key, its `older` the newest
        self._hand = self._root  # the next candidate; the root stands for the oldest key

    def insert(self, key: int) -> None:
        if key in self._nodes:
            return self.touch(key)
        node = self._nodes[key] = _Node(key)
        node.older, node.newer = self._root.older, self._root
        node.older.newer = self._root.older = node
        return None

    def touch(self, key: int) -> None:
        node = self._nodes.get(key)
        if node is not None:
            node.visited = True

    def remove(self, key: int) -> None:
        node = self._nodes.pop(key, None)
        if node is None:
            return
        if node is self._hand:
            self._hand = node.newer
        node.older.newer, node.newer.older = node.newer, node.older
        node.older = node.newer = node  # no cycle is left for the collector

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        node = self._hand
        for _ in range(2 * len(self._nodes)):  # the first round clears what it can, so the second one finds a victim
            if node is self._root:
                node = node.newer
            if evictable(node.key):
                if not node.visited:
                    self._hand = node
                    self.remove(node.key)  # and the hand moves on
                    return node.key
                node.visited = False
            node = node.newer
        return None

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: object) -> bool:
        return key in self._nodes


class Lru:
    """Least recently used: what was touched or inserted longest ago goes first."""

    def __init__(self) -> None:
        self._keys: OrderedDict[int, None] = OrderedDict()  # longest ago first

    def insert(self, key: int) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key)

    def touch(self, key: int) -> None:
        if key in self._keys:
            self._keys.move_to_end(key)

    def remove(self, key: int) -> None:
        self._keys.pop(key, None)

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        for _ in range(len(self._keys)):
            key = next(iter(self._keys))
            if evictable(key):
                del self._keys[key]
                return key
            self._keys.move_to_end(key)  # if nothing can go, a whole round leaves the order as it was
        return None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys


class Lfu:
    """Least frequently used: the lowest count goes first; of equal counts, the one touched or inserted longest ago.

    Counts start at 1 with the insertion and are forgotten when the key leaves.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, tuple[int, int, int]] = {}  # key -> (count, tick of the last touch, key)
        # Each key has an entry that is not above its rank. A touch leaves the heap as it is: an entry that is not the
        # rank of its key is put right, or dropped if the key is gone, when it comes to the top.
        self._heap: list[tuple[int, int, int]] = []
        self._tick = 0

    def insert(self, key: int) -> None:
        if key in self._ranks:
            self.touch(key)
        else:
            heappush(self._heap, self._rank(key, 1))

    def touch(self, key: int) -> None:
        rank = self._ranks.get(key)
        if rank is not None:
            self._rank(key, rank[0] + 1)

    def remove(self, key: int) -> None:
        self._ranks.pop(key, None)
        if len(self._heap) > 2 * len(self._ranks) + 64:  # entries of removed keys
            self._heap = list(self._ranks.values())
            heapify(self._heap)

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        passed = []
        found = None
        while self._heap and found is None:
            entry = self._heap[0]
            rank = self._ranks.get(entry[2])
            if rank is not None and rank != entry:
                heapreplace(self._heap, rank)
                continue
            heappop(self._heap)
            if rank is None:
                continue
            if evictable(rank[2]):
                found = rank
            else:
                passed.append(rank)
        for rank in passed:
            heappush(self._heap, rank if found is None else self._rank(rank[2], 2 * found[0]))
        return None if found is None else self._ranks.pop(found[2])[2]

    def _rank(self, key: int, count: int) -> tuple[int, int, int]:
        self._tick += 1
        rank = self._ranks[key] = (count, self._tick, key)
        return rank

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: object) -> bool:
        return key in self._ranks


_POLICIES: dict[str, Callable[[], Policy]] = {"sieve": Sieve, "lru": Lru, "lfu": Lfu}

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
