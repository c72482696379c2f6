"""What tests reach behind the public API, all in one place: each function says why no public call serves instead.

A test of one part may use the public names of that part's own module. What else is private stands here, or on a line
with a comment that says the same; `tests/package/test_house.py` looks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import jessy_mem as jm
from jessy_mem._core.texts import RECORD_BYTES


def evict(memory: jm.MmapManager, *dimensions: int) -> None:
    """Evict `dimensions`; without any, all that can go. To load others would do it, and need their files."""
    with lock_of(memory):
        for dimension in dimensions:
            memory._unmap(dimension)
        if not dimensions:
            memory._evict_until(lambda: False)


def lock_of(memory: jm.MmapManager) -> threading.RLock:
    """The table's lock: to hold it is what a thread in the middle of a load does, and no call stays there."""
    return memory._lock


def is_locked_by_me(memory: jm.MmapManager) -> bool:
    """Whether this thread holds the table's lock. Nothing else shows a change without it but a race that is lost."""
    return lock_of(memory)._is_owned()


def folder_locked(memory: jm.MmapManager) -> AbstractContextManager[None]:
    """The lock of the base folder, as a writer has it inside a call that is not over yet."""
    return memory._ids


def kept_size(text: str) -> int:
    """What is charged for a text that is kept: what finds it depends on the interpreter."""
    return sys.getsizeof(text) + RECORD_BYTES


def stack_of(region: jm.MmapRegion) -> tuple[Any, ...]:
    """The files or blocks of a region. Public calls count them; that an older one was kept only its identity shows."""
    return region._stack


def open_delta(memory: jm.MmapManager, dimension: int, stack: tuple[Any, ...], generation: int) -> Any:
    """A delta that is charged, and on no stack yet: the public calls lay it on at once."""
    return memory._opener.open_delta(memory._opener.place_of(dimension), memory._admit, stack, generation)


def grow(memory: jm.MmapManager, dimension: int, region: jm.MmapRegion, delta: Any) -> bool:
    """Lay a delta on `region` as a writer does: those of a manager choose the content and the generation themselves."""
    return restack(memory, dimension, region, (*stack_of(region), delta))


def restack(memory: jm.MmapManager, dimension: int, region: jm.MmapRegion, stack: tuple[Any, ...]) -> bool:
    """The same with a whole stack: when to merge is a writer's own decision."""
    return memory._exchange(dimension, region, stack)


def refresh_dimension(memory: jm.MmapManager, dimension: int) -> bool:
    """What a writer does before a change. The public `refresh` compares all dimensions, and passes over errors."""
    return memory._refresh_dimension(dimension)


def freed_bytes(memory: jm.MmapManager, dimension: int) -> int:
    """What would come free if a dimension went. The statistics know the sum only."""
    return memory._holders.freed_bytes(dimension)


def take_visits(memory: jm.MmapManager) -> list[int]:
    """The dimensions that were read since this was last asked: the table tells its policy, before it evicts."""
    return list(memory._take_visits())


def watch_policy(memory: jm.MmapManager, watcher: Callable[[Any], Any]) -> Any:
    """Put `watcher` around the policy of eviction, and give it: whom that was asked for, no result tells."""
    victims = memory._victims
    victims._policy = watched = watcher(victims._policy)
    return watched


def add_continued(builder: jm.RegionBuilder, spec: jm.LayerSpec, passages: Iterable[Any]) -> jm.RegionBuilder:
    """Add a layer whose text goes on with `passages`: only a simulation writes that way."""
    return builder._add_continued(spec, passages)


def remove_layer(builder: jm.RegionBuilder, layer: int) -> jm.RegionBuilder:
    """Add a tombstone: only what the Learner writes has them."""
    return builder._remove_layer(layer)
