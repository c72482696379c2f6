"""Two processes learn, change and forget in one base folder and follow each other, against one oracle."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sides import Refused, Side, Stored, There, stored

import jessy_mem as jm

HERE, THERE = 0, 1
SIDES = st.sampled_from([HERE, THERE])
SHARED = ("user:ann", "user:ben", "Zoë")
KEYS = st.integers(1, 999)
SIZES = st.sampled_from([1, 100, 5000])
ERRORS = (jm.ConsciousnessError, Refused)


@dataclass
class Known:
    """A dimension as it must be."""

    name: str
    side: int | None  # in whose pool it is; None: it is a file, or waits for its first layer, for all
    layers: dict[int, Stored] = field(default_factory=dict)
    next_layer: int = 0


class TwoProcesses(RuleBasedStateMachine):
    """The side that is here, and the one that is there."""

    def __init__(self, there: There):
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.known: dict[int, Known] = {}
        self.given: set[int] = set()
        self.sides = (Side(), there)

    @initialize(here=st.sampled_from(["each", "batch"]), there=st.sampled_from(["each", "batch"]))
    def begin(self, here, there):
        self.durability = (here, there)
        for side in (HERE, THERE):
            self.sides[side].open(str(self.base), self.durability[side])

    def teardown(self):
        if hasattr(self, "durability"):
            for side in (HERE, THERE):
                self.sides[side].close()
            assert jm.examine(self.base) == [] or not any(known.next_layer for known in self.known.values())
        shutil.rmtree(self.base)

    def of_name(self, name: str) -> int | None:
        return next((dimension for dimension, known in self.known.items() if known.name == name), None)

    def enter(self, dimension: int, known: Known) -> None:
        assert dimension not in self.given, "an id was given twice"
        self.given.add(dimension)
        self.known[dimension] = known

    def put(self, known: Known, keys: list[int], n_bytes: int) -> list[int]:
        numbers = list(range(known.next_layer, known.next_layer + len(keys)))
        known.layers.update(zip(numbers, (stored(key, n_bytes) for key in keys), strict=True))
        known.next_layer += len(keys)
        return numbers

    # Making and forgetting

    @rule(side=SIDES, number=st.integers(0, 2), keys=st.lists(KEYS, max_size=3), n_bytes=SIZES)
    def create(self, side, number, keys, n_bytes):
        """A proto-dimension is its process's own; the name is taken for all."""
        name = f"{'here' if number % 2 else 'there'} {number}"
        if self.of_name(name) is None:
            dimension = self.sides[side].create(name, keys, n_bytes)
            self.enter(dimension, Known(name, side))
            self.put(self.known[dimension], keys, n_bytes)
        else:
            with pytest.raises(ERRORS, match="exists"):
                self.sides[side].create(name, keys, n_bytes)

    @rule(side=SIDES, name=st.sampled_from(SHARED), keys=st.lists(KEYS, max_size=3), n_bytes=SIZES)
    def ensure(self, side, name, keys, n_bytes):
        dimension = self.sides[side].ensure(name, keys, n_bytes)
        known = self.of_name(name)
        if known is None:
            self.enter(dimension, Known(name, None))
        else:
            assert dimension == known
        if not self.known[dimension].next_layer:
            self.put(self.known[dimension], keys, n_bytes)

    def drawn(self, data, side: int) -> tuple[int, Known]:
        """A dimension that this side can change."""
        own = sorted(dimension for dimension, known in self.known.items() if known.side in (None, side))
        dimension = data.draw(st.sampled_from(own)) if own else 0
        return dimension, self.known.get(dimension, Known("", None))

    @rule(data=st.data(), side=SIDES)
    def forget(self, data, side):
        dimension, _ = self.drawn(data, side)
        if dimension:
            self.sides[side].forget(dimension)
            del self.known[dimension]

    # Changes

    @rule(data=st.data(), side=SIDES, keys=st.lists(KEYS, min_size=1, max_size=9), n_bytes=SIZES)
    def append(self, data, side, keys, n_bytes):
        """In turns with the other side, if that can do it, too."""
        dimension, known = self.drawn(data, side)
        for turn, key in enumerate(keys if dimension else ()):
            by = side if known.side is not None else (side + turn) % 2
            assert [self.sides[by].append(dimension, key, n_bytes)] == self.put(known, [key], n_bytes)

    @rule(data=st.data(), side=SIDES, keys=st.lists(KEYS, max_size=20), n_bytes=SIZES)
    def extend(self, data, side, keys, n_bytes):
        dimension, known = self.drawn(data, side)
        if dimension:
            assert self.sides[side].extend(dimension, keys, n_bytes) == self.put(known, keys, n_bytes)

    @rule(data=st.data(), side=SIDES, key=KEYS, n_bytes=SIZES)
    def update(self, data, side, key, n_bytes):
        dimension, known = self.drawn(data, side)
        if known.layers:
            layer = data.draw(st.sampled_from(sorted(known.layers)))
            self.sides[side].update(dimension, layer, key, n_bytes)
            known.layers[layer] = stored(key, n_bytes)

    @rule(data=st.data(), side=SIDES)
    def remove(self, data, side):
        dimension, known = self.drawn(data, side)
        if dimension:
            layer = data.draw(st.integers(0, known.next_layer))
            if known.layers.pop(layer, None) is not None:
                self.sides[side].remove(dimension, layer)
            else:
                with pytest.raises(ERRORS):
                    self.sides[side].remove(dimension, layer)

    # Files

    @rule(data=st.data(), side=SIDES)
    def crystallize(self, data, side):
        dimension, known = self.drawn(data, side)
        if known.next_layer:
            self.sides[side].crystallize(dimension)
            known.side = None

    @rule(data=st.data(), side=SIDES)
    def compact(self, data, side):
        dimension, known = self.drawn(data, side)
        if known.next_layer and known.side is None:
            self.sides[side].compact(dimension)

    @rule(side=SIDES)
    def evict(self, side):
        self.sides[side].evict()

    @rule(side=SIDES)
    def sync(self, side):
        self.sides[side].sync()

    @rule(side=SIDES)
    def restart(self, side):
        """What was in its pool is a file then; what has no layer yet is gone."""
        self.sides[side].close()
        for dimension, known in list(self.known.items()):
            if known.side == side and known.next_layer:
                known.side = None
            elif known.side == side:
                del self.known[dimension]
        self.sides[side].open(str(self.base), self.durability[side])

    @precondition(lambda self: hasattr(self, "durability"))
    @invariant()
    def both_see_what_there_is(self):
        for side in (HERE, THERE):
            expected = {
                dimension: known.layers
                for dimension, known in self.known.items()
                if known.side in (None, side) and known.layers
            }
            assert self.sides[side].seen() == expected
            assert self.sides[side].named(list(SHARED)) == {name: self.of_name(name) for name in SHARED}


def test_two_processes():
    options = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    with There() as there:
        run_state_machine_as_test(lambda: TwoProcesses(there), settings=options)
