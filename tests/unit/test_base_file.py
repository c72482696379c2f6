"""A base file that is opened again and again, and who pays for its stack."""

from __future__ import annotations

import pytest
from world import World

import jessy_mem as jm
from jessy_mem._core.base_file import BaseFile
from jessy_mem._core.budget import Charge, Ledger
from jessy_mem.errors import LimitExceeded

MIB = 1 << 20


class Admission:
    """Gives a charge of nothing, and remembers for what it was asked; or refuses."""

    def __init__(self, ledger, refusal=None):
        self.ledger, self.refusal, self.asked = ledger, refusal, []

    def __call__(self, place, n_bytes, below_bytes):
        self.asked.append((place, n_bytes, below_bytes))
        if self.refusal is not None:
            raise self.refusal
        return Charge(self.ledger, "core", 0)


@pytest.fixture
def ledger():
    return Ledger(MIB, {"core": MIB})


def test_the_ledger_pays_for_all_files_of_a_stack(tmp_path, ledger):
    world = World(tmp_path)
    path, delta = world.write(15), world.grow(15, 2, put=[0])
    n_bytes = path.stat().st_size + delta.stat().st_size
    admit = Admission(ledger)
    stack = BaseFile(str(path), 15, ledger=ledger, segment="core", most_bytes=MIB).open("place", admit)
    assert ([image.generation for image in stack], admit.asked) == ([1, 2], [])
    assert ledger.used_bytes == n_bytes
    del stack
    assert ledger.used_bytes == 0


@pytest.mark.parametrize("why", ["no ledger", "the segment is full", "it is more than may be"])
def test_who_opens_is_asked_for_what_the_ledger_does_not_pay(tmp_path, ledger, why):
    path = World(tmp_path).write(15)
    n_bytes = path.stat().st_size
    held = Charge(ledger, "core", MIB - n_bytes + 1) if why == "the segment is full" else None
    options = {} if why == "no ledger" else {"ledger": ledger, "segment": "core", "most_bytes": MIB}
    if why == "it is more than may be":
        options["most_bytes"] = n_bytes - 1
    file, used_bytes = BaseFile(str(path), 15, **options), ledger.used_bytes
    admit = Admission(ledger)
    assert len(file.open("place", admit)) == 1
    assert (admit.asked, ledger.used_bytes) == ([("place", n_bytes, 0)], used_bytes)
    with pytest.raises(LimitExceeded):
        file.open("place", Admission(ledger, LimitExceeded(9, 10, 5, "core")))
    assert ledger.used_bytes == used_bytes
    del held


def test_a_look_at_the_heads_is_not_charged(tmp_path, ledger):
    path = World(tmp_path).write(15)
    stack = BaseFile(str(path), 15, ledger=ledger, segment="core", most_bytes=MIB).open("place", None)
    assert (len(stack), ledger.used_bytes) == (1, 0)


def test_a_segment_that_is_not_there_is_a_value_error(tmp_path, ledger):
    file = BaseFile(str(World(tmp_path).write(15)), 15, ledger=ledger, segment="user", most_bytes=MIB)
    with pytest.raises(ValueError, match="user"):
        file.open("place", Admission(ledger))
    with pytest.raises(jm.DimensionNotFound):
        BaseFile(str(tmp_path / "nowhere"), 15).open("place", None)
