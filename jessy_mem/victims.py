"""Victims: what goes when room is needed, in the order of the policy, and chosen before the first is unmapped.

A region that may go is the policy's as long as it is mapped: an error in the middle of an eviction, whatever it is,
gives back what it left mapped. What an interruption took from the policy all the same is found again before anybody is
refused. What comes is told to the policy when it is asked: many a dimension comes and goes before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from jessy_mem._core.holders import Holders
from jessy_mem._core.region import MmapRegion
from jessy_mem.eviction import Policy

__all__ = ["Need", "Victims"]

Asked = Callable[[int], bool] | None  # whether a dimension may be asked for bytes; None: each may
Need = tuple[int, Asked]  # bytes that have to come free, and from where


class Victims:
    """Which of the mapped regions go. Not thread-safe: the owner locks."""

    def __init__(self, policy: Policy, regions: Mapping[int, MmapRegion], holders: Holders) -> None:
        self._policy = policy  # of what may be evicted, held or not
        self._regions = regions
        self._holders = holders
        self.remove = policy.remove  # what is gone, and not as a victim

    def take_in(self) -> None:
        """Tell the policy what came since it was last told: it may be evicted, or not any more."""
        came = self._holders.came
        for dimension, may_go in list(came.items()):
            (self._policy.insert if may_go else self._policy.remove)(dimension)
            came.pop(dimension, None)  # last: what an interrupt stopped is told again

    def touch(self, dimensions: Iterable[int]) -> None:
        """They were read since this was last called."""
        self.take_in()
        for dimension in dimensions:
            self._policy.touch(dimension)

    def choose(self, needs: Sequence[Need]) -> tuple[list[int], bool]:
        """What has to go to meet all `needs`; nothing if all that can go would not do. And whether any was held.

        What is chosen is to be evicted.
        """
        self.take_in()
        victims, any_held = self._choose(needs)
        if not victims and self._take_back_lost():
            victims, any_held = self._choose(needs)
        return victims, any_held

    def _choose(self, needs: Sequence[Need]) -> tuple[list[int], bool]:
        freed_bytes_of, any_held, freed_bytes = self._holders.freed_bytes, False, 0
        victims: list[int] = []
        try:
            for missing_bytes, is_asked in needs:
                if freed_bytes >= missing_bytes:
                    continue

                def can_go(dimension: int, is_asked: Asked = is_asked) -> bool:
                    nonlocal any_held
                    if is_asked is not None and not is_asked(dimension):
                        return False
                    if freed_bytes_of(dimension):
                        return True
                    any_held = True
                    return False

                while freed_bytes < missing_bytes:
                    victim = self._policy.victim(can_go)
                    if victim is None:
                        self._policy.put_back(victims)
                        return [], any_held
                    victims.append(victim)
                    freed_bytes += freed_bytes_of(victim)
        except BaseException:
            self._policy.put_back(victims)
            raise
        return victims, any_held

    def evict(self, victims: list[int], unmap: Callable[[int], object]) -> None:
        """Unmap what was chosen."""
        try:
            for victim in victims:
                unmap(victim)
        except BaseException:
            self._policy.put_back([victim for victim in victims if victim in self._regions])
            raise

    def evict_until(self, enough: Callable[[], bool], unmap: Callable[[int], object]) -> None:
        """Unmap one after the other, until it is enough or nothing more can go."""
        self.take_in()
        while not enough() and (victim := self._policy.victim(self._is_free)) is not None:
            self.evict([victim], unmap)

    def _is_free(self, dimension: int) -> bool:
        return self._holders.freed_bytes(dimension) > 0

    def _take_back_lost(self) -> bool:
        """Give the policy what can go and is not in it; whether there was any. Walks all regions."""
        lost = [each for each, _ in self._holders.evictable() if each not in self._policy]
        for dimension in lost:
            self._policy.insert(dimension)
        return bool(lost)
