"""All at once, for a while: eight processes on one base folder learn, grow, read, examine and export, and are killed.

JESSY_MEM_SOAK_SECONDS says how long: 1 by default. docs/reliability.md has figures.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter

import grower
import pytest
from learner import Learner, Ledger
from world import content_of, manager

import jessy_mem as jm

SOAK_SECONDS = float(os.environ.get("JESSY_MEM_SOAK_SECONDS", "1"))
N_GROWERS, N_LEARNERS, N_READERS = 3, 2, 2
ROUNDS_OF_A_DIMENSION = 30  # then the growers turn to another


class Soak:
    """Who works, and what they told."""

    def __init__(self, base, stack: contextlib.ExitStack) -> None:
        self.base, self.chance, self.n = base, random.Random(1), Counter()
        n = N_GROWERS + N_LEARNERS
        self.workers = [stack.enter_context(Learner(timeout_s=600 + 3 * SOAK_SECONDS)) for _ in range(n)]
        self.ledger = Ledger(base)
        self.shared: list[str] = [""] * N_GROWERS  # what each grower works on
        self.appended: dict[tuple[str, int], int] = {}  # (dimension, layer) -> key, acknowledged
        self.gone: set[tuple[str, int]] = set()  # from when their removal begins they may be
        for i in range(n):
            self.begin(i)

    def begin(self, i: int) -> None:
        self.n["begun"] += 1
        first_key = 100 * self.n["begun"]  # of six digits at most, for content_of
        if i < N_GROWERS:
            self.shared[i] = f"Shared {self.n['begun'] // ROUNDS_OF_A_DIMENSION}"
            self.workers[i].begin(self.base, first_key, shared=self.shared[i])
        else:
            self.workers[i].begin(self.base, first_key, n=8)

    def end(self, i: int) -> None:
        """Kill one, or wait for it if it has just ended, and note what it told."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.workers[i].worker, signal.SIGKILL)
        status, told = self.workers[i].end()
        assert status in (0, -signal.SIGKILL)
        self.n["killed"] += status != 0
        if i >= N_GROWERS:
            self.ledger.enter(told)
            self.n["crystallized"] += sum(word == "crystallized" for word, _, _ in told)
            return
        for word, layer, key in told:
            if word == "appended":
                assert (self.shared[i], layer) not in self.appended, "a number was given twice"
                self.appended[self.shared[i], layer] = key
            else:
                self.gone.add((self.shared[i], layer))

    def check(self) -> None:
        jm.clean(jm.examine(self.base))
        assert [finding for finding in jm.examine(self.base) if finding.kind not in ("no dimension", "no page")] == []
        with manager(self.base) as memory:
            names = memory.names()
            for dimension in self.ledger.durable:
                self.ledger.check_file(dimension)
            forgotten = self.ledger.keys.keys() - self.ledger.durable - self.ledger.open
            assert not [each for each in forgotten if os.path.exists(jm.region_path(self.base, each))]
            for name in {name for name, _ in self.appended}:
                assert memory.load_dimension(names[name]).verify() == []
            for (name, layer), key in self.appended.items():
                if (name, layer) not in self.gone:
                    found = bytes(memory.access_layer((names[name], layer)))
                    assert found == content_of(key, key, n_bytes=grower.N_BYTES), "what was acknowledged is gone"


@pytest.mark.thread_unsafe(reason="it runs eight processes")
def test_all_at_once_for_a_while(tmp_path):
    base = tmp_path / "base"
    with contextlib.ExitStack() as stack:
        soak = Soak(base, stack)
        readers = [stack.enter_context(Learner(timeout_s=600 + 3 * SOAK_SECONDS)) for _ in range(N_READERS + 1)]
        for reader in readers[:-1]:
            reader.begin(base, 0, read_s=SOAK_SECONDS)
        readers[-1].begin(base, 0, care_s=SOAK_SECONDS)
        deadline = time.monotonic() + SOAK_SECONDS
        while time.monotonic() < deadline or not soak.appended.keys() - soak.gone:  # on a busy machine all take long
            time.sleep(soak.chance.uniform(0.05, 0.4))
            i = soak.chance.randrange(len(soak.workers))
            soak.end(i)
            soak.begin(i)
        for i in range(len(soak.workers)):
            soak.end(i)
        for reader in readers:
            status, told = reader.end()
            assert status == 0
            soak.n += Counter({word: n for word, n, _ in told})
        soak.check()
    assert soak.n["killed"] > 2
    assert soak.n["read"] > 0
