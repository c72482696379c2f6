"""The histogram's waiting event (`_core/kernels/shard.pxd`): a reader counts each event once, in its bucket or waiting.

Buckets 0 and 1, each a group of its own. The places are those of a Shard: `groups`, `newest` (number of the event and
its bucket), `count 0`, `count 1`. The owner records, a reader takes totals; both line by line.
"""

from __future__ import annotations

import pytest
from protocols.checker import Broken, check, load, load_acquire, store, store_release

NONE = (0, None)


def record(events, bug):
    """`shard_record_own` of one event after the other"""

    def owner():
        for bucket in events:
            groups = yield load("groups")  # groups = jm_load_relaxed(&shard.groups)
            if bug != "group after its bucket" and not groups >> bucket & 1:
                yield store("groups", groups | 1 << bucket)  # jm_store_relaxed(&shard.groups, groups | bit)
            number, last = yield load("newest")  # newest = jm_load_relaxed(&shard.newest)
            if bug == "event before the last is counted":
                yield store_release("newest", (number + 1, bucket))
            if number:  # shard_count_newest
                count = yield load(f"count {last}")
                yield (store if bug == "buckets are relaxed" else store_release)(f"count {last}", count + 1)
            if bug != "event before the last is counted":
                newest = store if bug == "event is relaxed" else store_release
                yield newest("newest", (number + 1, bucket))  # jm_store_release(&shard.newest, ...)
            if bug == "group after its bucket" and number:
                yield store("groups", groups | 1 << last)

    return owner


def totals(events, bug):
    """`totals_add`"""

    def reader():
        newest = yield (load if bug == "reads relaxed" else load_acquire)("newest")
        groups = yield load("groups")
        counts = [0, 0]
        for bucket in (0, 1):  # totals_add_groups
            if groups >> bucket & 1:
                counts[bucket] = yield load_acquire(f"count {bucket}")
        number, last = newest
        if number and bug != "no waiting event":  # totals_add_newest
            now = yield load_acquire("newest")
            if now != newest and bug != "counts without a second look":
                counts[last] = yield load(f"count {last}")
            elif bug == "always counts it" or sum(counts) < number:
                counts[last] += 1
        for bucket in (0, 1):
            before = events[:number].count(bucket)
            assert before <= counts[bucket] <= events.count(bucket), f"{counts} of {events}, {number} were told"

    return reader


def run(bug=None, events=(0, 1, 0)):
    memory = {"groups": 0, "newest": NONE, "count 0": 0, "count 1": 0}
    return check([record(events, bug), totals(events, bug)], memory)


@pytest.mark.parametrize("events", [(0,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 1, 1, 0)])
def test_each_event_is_counted_once(events):
    assert run(events=events) > 10


@pytest.mark.parametrize(
    "bug",
    [
        "no waiting event",
        "always counts it",
        "counts without a second look",
        "event before the last is counted",
        "event is relaxed",
        "buckets are relaxed",
        "reads relaxed",
        "group after its bucket",
    ],
)
def test_mutant_is_caught(bug):
    with pytest.raises(Broken, match="were told"):
        run_all(bug)


def run_all(bug):
    for events in ((0, 1), (1, 0), (0, 0), (0, 1, 0), (1, 0, 0), (0, 1, 1, 0), (1, 0, 1, 1)):
        run(bug, events)
