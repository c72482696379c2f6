"""The bitmap's summary (`_core/kernels/bitmap.pxd`): a word with room never stays marked full.

One word of two units and its bit of the summary; the places are `word` and `mark`. Processes are the kernels, line by
line, each memory access an operation of the model.
"""

from __future__ import annotations

import pytest
from protocols.checker import Broken, and_, cas, check, load, or_

FULL = 0b11


def mark_full(bug):
    """`word_mark_full`"""
    if (yield load("mark")):  # if jm_load_relaxed(summary) & bit: return
        return
    yield or_("mark", 1)  # jm_or_acq_rel(summary, bit)
    if bug == "marks without a second look":
        return
    if bug == "looks again with a plain load":
        word = yield load("word")
    else:
        word = yield or_("word", 0, orders=bug != "looks again relaxed")  # jm_or_acq_rel(&bitmap.words[w], 0)
    if word != FULL and bug != "does not unmark":
        yield and_("mark", 0)  # jm_and_acq_rel(summary, ~bit)


def claim(bug):
    """`word_claim` of one unit: the unit, or -1."""
    word = yield load("word")  # jm_load_relaxed(&bitmap.words[w])
    while True:
        free = ~word & FULL
        if not free:
            yield from mark_full(bug)
            return -1
        unit = free & -free
        found = yield cas("word", word, word | unit)  # jm_cas_weak_acq_rel(...)
        if found == word:
            return unit
        word = found


def release(bits, bug):
    """`word_release` of `bits`"""
    if bug == "release looks before":
        mark = yield load("mark")
    word = yield load("word")
    while True:
        assert word & bits == bits, "what is mine is claimed"
        found = yield cas("word", word, word & ~bits, orders=bug != "release is relaxed")  # jm_cas_weak_acq_rel(...)
        if found == word:
            break
        word = found
    if bug != "release looks before":
        mark = yield load("mark")  # if jm_load_relaxed(summary) & bit
    if mark:
        yield and_("mark", 0)  # jm_and_acq_rel(summary, ~bit)


def run(bug=None, searchers=1, holders=(0b01, 0b10)):
    def searcher():
        unit = yield from claim(bug)
        if unit > 0:
            yield from release(unit, bug)

    def holder_of(bits):
        def holder():
            yield from release(bits, bug)

        return holder

    def finally_(memory, _world):
        assert memory["word"] == 0, "all was given back"
        assert not memory["mark"], "a word with room is marked full: its units are lost"

    processes = [searcher] * searchers + [holder_of(bits) for bits in holders]
    return check(processes, {"word": FULL, "mark": 0}, finally_=finally_)


@pytest.mark.parametrize(("searchers", "holders"), [(1, (0b01, 0b10)), (2, (0b11,))])
def test_word_with_room_never_stays_marked(searchers, holders):
    assert run(None, searchers, holders) > 1000


@pytest.mark.parametrize(
    "bug",
    [
        "marks without a second look",
        "looks again with a plain load",
        "does not unmark",
        "release looks before",
        "looks again relaxed",
        "release is relaxed",
    ],
)
def test_mutant_is_caught(bug):
    with pytest.raises(Broken, match="its units are lost"):
        run(bug)
