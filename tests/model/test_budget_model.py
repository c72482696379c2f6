"""The ledger against a plain model: every answer and every number equal after each of many operations."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from jessy_mem._core.budget import LEVELS, REARM_POINTS, Charge, Ledger
from jessy_mem.errors import LimitExceeded

NAMES = ("core", "reserve", "user")


class LedgerMachine(RuleBasedStateMachine):
    """The model: a list of (segment, bytes), thresholds as exact fractions, and which levels were told."""

    charges = Bundle("charges")

    @initialize(
        limit=st.integers(1, 2000) | st.just(280 << 20),
        ceilings=st.tuples(*[st.integers(0, 2000) | st.just(100 << 20)] * 3),
        thresholds=st.lists(st.integers(1, 100), min_size=3, max_size=3).map(sorted),
    )
    def make(self, limit, ceilings, thresholds):
        self.limit, self.ceilings = limit, dict(zip(NAMES, ceilings, strict=True))
        self.thresholds = dict(zip(LEVELS, thresholds, strict=True))
        self.ledger = Ledger(limit, self.ceilings, [float(threshold) for threshold in thresholds])
        self.held = []
        self.loose = dict.fromkeys(NAMES, 0)
        self.peaks = dict.fromkeys(NAMES, 0)
        self.peak = 0
        self.raised = set()
        self.pending = set()

    def used(self, name):
        return self.loose[name] + sum(n_bytes for segment, n_bytes in self.held if segment == name)

    @property
    def total(self):
        return sum(map(self.used, NAMES))

    def refusal(self, name, n_bytes):
        """The bound that refuses `n_bytes` for `name`, or None."""
        if self.used(name) + n_bytes > self.ceilings[name]:
            return name
        return "total" if self.total + n_bytes > self.limit else None

    def after_change(self):
        self.peak = max(self.peak, self.total)
        for name in NAMES:
            self.peaks[name] = max(self.peaks[name], self.used(name))
        for level, threshold in self.thresholds.items():
            if 100 * self.total >= threshold * self.limit and level not in self.raised:
                self.raised.add(level)
                self.pending.add(level)
            elif 100 * self.total <= max(threshold - REARM_POINTS, 0) * self.limit:
                self.raised.discard(level)

    def try_to(self, act, name, n_bytes):
        expected = self.refusal(name, n_bytes)
        current = self.total if expected == "total" else self.used(name)
        if expected is None:
            made = act(name, n_bytes)
            return True if made is None else made
        with pytest.raises(LimitExceeded) as caught:
            act(name, n_bytes)
        error, bound = caught.value, self.limit if expected == "total" else self.ceilings[name]
        assert (error.segment, error.current_bytes, error.limit_bytes) == (expected, current, bound)
        assert error.requested_bytes == n_bytes
        return None

    amounts = st.integers(0, 300) | st.integers(0, 2**64 - 1) | st.integers(0, 120 << 20)

    @rule(target=charges, name=st.sampled_from(NAMES), n_bytes=amounts)
    def charge(self, name, n_bytes):
        made = self.try_to(lambda *args: Charge(self.ledger, *args), name, n_bytes)
        if made is None:
            return []
        entry = [name, n_bytes]
        self.held.append(entry)
        self.after_change()
        return [(made, entry)]

    @rule(held=consumes(charges))
    def drop(self, held):
        for _, entry in held:
            self.held = [each for each in self.held if each is not entry]
        held.clear()
        self.after_change()

    @rule(name=st.sampled_from(NAMES), n_bytes=amounts)
    def reserve(self, name, n_bytes):
        if self.try_to(self.ledger.reserve, name, n_bytes):
            self.loose[name] += n_bytes
            self.after_change()

    @rule(name=st.sampled_from(NAMES), share=st.floats(0, 1))
    def release(self, name, share):
        n_bytes = int(self.loose[name] * share)
        self.ledger.release(name, n_bytes)
        self.loose[name] -= n_bytes
        self.after_change()

    @rule()
    def look_at_numbers(self):
        """Not after each step: whoever looks calls in all credit."""
        self.look()

    @rule(name=st.sampled_from(NAMES), n_bytes=st.integers(0, 400_000))
    def reserve_several(self, name, n_bytes):
        """Out of the own credit, and across its border."""
        for _ in range(3):
            if self.try_to(self.ledger.reserve, name, n_bytes):
                self.loose[name] += n_bytes
                self.after_change()

    @rule()
    def take(self):
        assert self.ledger.take_crossings() == tuple(level for level in LEVELS if level in self.pending)
        self.pending.clear()

    def look(self):
        segments = {name: (self.used(name), self.ceilings[name], self.peaks[name]) for name in NAMES}
        assert self.ledger.segment_bytes() == segments
        assert (self.ledger.used_bytes, self.ledger.peak_bytes) == (self.total, self.peak)
        reached = [level for level, threshold in self.thresholds.items() if 100 * self.total >= threshold * self.limit]
        pressure = reached[-1] if reached else "ok"
        assert self.ledger.sums() == ((self.total, self.limit, self.peak), pressure, segments)
        assert self.ledger.pressure == pressure

    def teardown(self):
        self.look()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
