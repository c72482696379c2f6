"""What must be there of a dimension that was interrupted in its life (`grower`), by a kill or a power cut."""

from __future__ import annotations

import grower
from world import manager

import jessy_mem as jm


def last_told(told: list[tuple[str, int, int]]) -> tuple[int, int, int]:
    """How many steps were done, how many were begun, and of which dimension, by what a learner told."""
    begun = [number for word, number, _ in told if word == "begun"]
    done = [(number, dimension) for word, number, dimension in told if word == "done"]
    n_done, dimension = (done[-1][0] + 1, done[-1][1]) if done else (0, 15)
    return n_done, begun[-1] + 1 if begun else 0, dimension


def check_survived(base, dimension, before, after, seen, power_cut=False):
    """It is as it was before a step, or after it, whole, and goes on; which of them is added to `seen`.

    A power cut may bring back the number of what never had a file (ids.py), and take the page of changes, which is a
    hint, until somebody writes.
    """
    jm.clean(jm.examine(base))
    harmless = {"no dimension", "no page"} if power_cut else {"no dimension"}
    left = [finding for finding in jm.examine(base) if finding.kind not in harmless]
    assert not left, f"it is half done: {left}"
    found = grower.stored(base, dimension)
    possible = [life.layers if life.is_file else {} for life in (before, after)]
    assert found in possible, "it is half done, or what was acknowledged is gone"
    if possible[0] != possible[1]:
        seen.add("before" if found == possible[0] else "after")
    with manager(base) as memory:
        if found:  # a number that was given is not given again
            (appended,) = memory.extend(dimension, [grower.spec(99)])
            assert appended.layer >= before.next_layer
            assert bytes(memory.access_layer(appended)) == bytes(grower.spec(99).content)
            assert memory.ensure_dimension(grower.NAME) == dimension, "its name was given to another"
        elif not after.is_forgotten:
            assert memory.find(grower.NAME) in (None, dimension)
        new = memory.create_proto_dimension("New", [grower.spec(1)])
        is_given = before.is_file if power_cut else before.layers or before.is_forgotten
        assert new > dimension or not is_given, "an id was given twice"
