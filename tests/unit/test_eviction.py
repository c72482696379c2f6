"""Eviction policies against naive ones: flat lists, searched from end to end."""

import pickle
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jessy_mem.eviction import POLICIES, make_policy


def everything(key):
    return True


def nothing(key):
    return False


class NaiveSieve:
    """The algorithm of the paper on a list: index 0 is the oldest key; the hand is an index."""

    def __init__(self):
        self.queue = []  # [key, visited]
        self.hand = 0

    def index(self, key):
        return next((i for i, (k, _) in enumerate(self.queue) if k == key), None)

    def insert(self, key):
        if self.index(key) is None:
            self.queue.append([key, False])

    def touch(self, key):
        if (i := self.index(key)) is not None:
            self.queue[i][1] = True

    def remove(self, key):
        if (i := self.index(key)) is not None:
            del self.queue[i]
            if i < self.hand:
                self.hand -= 1
            if self.hand == len(self.queue) and i == self.hand:
                self.hand = 0  # the hand was on the newest key: it wraps

    def victim(self, evictable):
        if not any(evictable(key) for key, _ in self.queue):
            return None
        while True:
            if self.hand >= len(self.queue):
                self.hand = 0
            key, visited = self.queue[self.hand]
            if not evictable(key):
                self.hand += 1
            elif visited:
                self.queue[self.hand][1] = False
                self.hand += 1
            else:
                del self.queue[self.hand]
                if self.hand == len(self.queue):
                    self.hand = 0
                return key

    def keys(self):
        return {key for key, _ in self.queue}


class NaiveRanked:
    """The lowest rank goes. What cannot go is set aside, for as many evictions as keys are."""

    def __init__(self, step):
        self.step = step
        self.ranks = {}
        self.now = 0
        self.aside = set()
        self.patience = 0

    def rank(self, key, count):
        self.now += 1
        self.ranks[key] = (count, self.now)

    def insert(self, key):
        if key not in self.ranks:
            self.rank(key, 1)

    def touch(self, key):
        if key in self.ranks:
            self.rank(key, self.ranks[key][0] + self.step)

    def remove(self, key):
        self.ranks.pop(key, None)
        self.aside.discard(key)

    def victim(self, evictable):
        if self.patience == 0:
            self.aside.clear()
        for _ in range(2):
            for key in sorted(self.ranks.keys() - self.aside, key=self.ranks.get):
                if evictable(key):
                    del self.ranks[key]
                    self.patience = max(0, self.patience - 1)
                    return key
                self.aside.add(key)
                self.patience = len(self.aside)
            self.aside.clear()
        return None

    def keys(self):
        return set(self.ranks)


NAIVE = {"sieve": NaiveSieve, "lru": lambda: NaiveRanked(0), "lfu": lambda: NaiveRanked(1)}

keys = st.integers(0, 12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), keys),
        st.tuples(st.just("touch"), keys),
        st.tuples(st.just("remove"), keys),
        st.tuples(st.just("victim"), st.sets(keys)),
        st.tuples(st.just("victim"), st.just(frozenset())),
    ),
    max_size=120,
)


@pytest.mark.parametrize("name", POLICIES)
@given(steps=steps)
@settings(max_examples=300, deadline=None)
def test_policy_decides_as_the_naive_one(name, steps):
    policy, naive = make_policy(name), NAIVE[name]()
    for step, what in steps:
        if step == "victim":
            assert policy.victim(lambda key: key not in what) == naive.victim(lambda key: key not in what)  # noqa: B023
        else:
            getattr(policy, step)(what)
            getattr(naive, step)(what)
        assert len(policy) == len(naive.keys())
        assert {key for key in range(13) if key in policy} == naive.keys()
    while (victim := naive.victim(everything)) is not None:
        assert policy.victim(everything) == victim
    assert policy.victim(everything) is None
    assert len(policy) == 0


@pytest.mark.parametrize("name", POLICIES)
def test_policy_decides_as_the_naive_one_on_a_long_skewed_run(name):
    rng = random.Random(7)
    policy, naive = make_policy(name), NAIVE[name]()
    for _ in range(6000):
        key = min(int(rng.paretovariate(0.7)), 300)
        if key in policy:
            policy.touch(key)
            naive.touch(key)
            continue
        if len(policy) == 40:
            leased = {rng.randrange(1, 300) for _ in range(30)}
            assert policy.victim(lambda key: key not in leased) == naive.victim(lambda key: key not in leased)  # noqa: B023
        policy.insert(key)
        naive.insert(key)


def test_sieve_worked_by_hand():
    # A..G, G newest, with A, B and G visited; then H, A, D, I, B, J are requested from a cache of seven.
    policy = make_policy("sieve")
    for key in "ABCDEFG":
        policy.insert(key)
    for key in "ABG":
        policy.touch(key)
    assert policy.victim(everything) == "C"  # the hand cleared A and B on its way
    policy.insert("H")
    policy.touch("A")
    policy.touch("D")
    assert policy.victim(everything) == "E"
    policy.insert("I")
    policy.touch("B")
    assert policy.victim(everything) == "F"
    policy.insert("J")
    assert [policy.victim(everything) for _ in range(7)] == ["H", "I", "J", "D", "G", "A", "B"]


def test_sieve_hand_stays_when_its_key_is_removed():
    policy = make_policy("sieve")
    for key in range(5):
        policy.insert(key)
    policy.touch(0)
    assert policy.victim(everything) == 1  # the hand is on 2
    policy.remove(2)
    assert [policy.victim(everything) for _ in range(4)] == [3, 4, 0, None]


@pytest.mark.parametrize("name", POLICIES)
def test_what_could_not_go_keeps_its_place(name):
    policy = make_policy(name)
    for key in range(6):
        policy.insert(key)
    assert policy.victim(lambda key: key > 1) == 2  # 0 and 1 are in use
    assert policy.victim(lambda key: key > 1) == 3
    if name == "sieve":
        assert [policy.victim(everything) for _ in range(4)] == [4, 5, 0, 1]  # the hand is past 0 and 1
    else:
        assert [policy.victim(everything) for _ in range(4)] == [0, 1, 4, 5]


@pytest.mark.parametrize("name", ["lru", "lfu"])
def test_what_could_not_go_is_asked_again_at_once_when_nothing_else_can(name):
    policy = make_policy(name)
    for key in range(5):
        policy.insert(key)
    assert policy.victim(lambda key: key > 3) == 4
    assert policy.victim(lambda key: key == 2) == 2


@pytest.mark.parametrize("name", POLICIES)
def test_evictions_do_not_ask_what_is_leased_again_and_again(name):
    n_asked = 0

    def evictable(key):
        nonlocal n_asked
        n_asked += 1
        return key % 2 == 1

    policy = make_policy(name)
    for key in range(2000):
        policy.insert(key)
    for key in range(0, 2000, 3):
        policy.touch(key)
    for _ in range(1000):
        assert policy.victim(evictable) % 2 == 1
    assert n_asked < 5000  # 2,000 are the least; asking all that are leased each time would be 500,000
    assert policy.victim(evictable) is None


def test_lfu_breaks_ties_by_age():
    policy = make_policy("lfu")
    for key in range(4):
        policy.insert(key)
    policy.touch(0)
    policy.touch(1)
    policy.touch(2)
    policy.touch(2)
    assert [policy.victim(everything) for _ in range(4)] == [3, 0, 1, 2]


def test_lfu_forgets_the_count_of_a_key_that_left():
    policy = make_policy("lfu")
    policy.insert(1)
    for _ in range(9):
        policy.touch(1)
    policy.remove(1)
    policy.insert(2)
    policy.touch(2)
    policy.insert(1)
    assert policy.victim(everything) == 1


@pytest.mark.parametrize("name", POLICIES)
def test_policy_does_not_grow_with_removed_keys(name):
    policy = make_policy(name)
    for key in range(10_000):
        policy.insert(key)
        policy.remove(key)
    assert len(pickle.dumps(policy)) < 20_000, "ten thousand keys would take more"


@pytest.mark.parametrize("name", POLICIES)
def test_victim_when_nothing_is_evictable(name):
    policy = make_policy(name)
    assert policy.victim(everything) is None
    for key in range(50):
        policy.insert(key)
    for key in range(0, 50, 2):
        policy.touch(key)
    for _ in range(3):
        assert policy.victim(nothing) is None
        assert len(policy) == 50
    # A search without result changed nothing.
    fresh = make_policy(name)
    for key in range(50):
        fresh.insert(key)
    for key in range(0, 50, 2):
        fresh.touch(key)
    assert [policy.victim(everything) for _ in range(50)] == [fresh.victim(everything) for _ in range(50)]


@pytest.mark.parametrize("name", POLICIES)
def test_victim_when_evictable_changes_its_mind(name):
    policy = make_policy(name)
    for key in range(20):
        policy.insert(key)
    rng = random.Random(3)
    gone = [policy.victim(lambda key: rng.random() < 0.1) for _ in range(500)]
    gone = [key for key in gone if key is not None]
    assert sorted(gone) == list(range(20))


@pytest.mark.parametrize("name", POLICIES)
def test_keys_that_are_not_there(name):
    policy = make_policy(name)
    policy.touch(1)
    policy.remove(1)
    assert len(policy) == 0
    policy.insert(1)
    policy.insert(1)
    assert len(policy) == 1
    assert 1 in policy
    assert 2 not in policy


@pytest.mark.parametrize("name", POLICIES)
def test_a_key_that_is_inserted_again_stays_where_it_is(name):
    policy = make_policy(name)
    for key in (1, 2, 3, 1):
        policy.insert(key)
    assert [policy.victim(everything) for _ in range(4)] == [1, 2, 3, None]


def lines_run(function):
    """How many lines of Python `function` runs: what it costs, the same on any machine."""
    n_lines = 0

    def count(_frame, event, _arg):
        nonlocal n_lines
        n_lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return n_lines


@pytest.mark.parametrize("name", POLICIES)
def test_evicting_a_key_costs_the_same_among_many(name):
    lines = {}
    for n_keys in (500, 4000):
        rng = random.Random(n_keys)
        policy = make_policy(name)
        for key in range(n_keys):
            policy.insert(key)
        for _ in range(5 * n_keys):
            policy.touch(rng.randrange(n_keys))
        lines[n_keys] = lines_run(
            lambda policy=policy, n_keys=n_keys: [policy.victim(everything) for _ in range(n_keys)]
        )
        assert len(policy) == 0
    assert lines[4000] / 4000 < 1.2 * lines[500] / 500


def test_unknown_name():
    with pytest.raises(ValueError, match="'fifo' is not an eviction policy: expected one of sieve, lru, lfu"):
        make_policy("fifo")


@pytest.mark.parametrize("name", POLICIES)
def test_victims_that_are_put_back_stay_and_go_first(name):
    policy = make_policy(name)
    for key in range(10):
        policy.insert(key)
    for key in (0, 0, 3, 3, 3):
        policy.touch(key)

    def victims(n):
        return [policy.victim(lambda key: key != 5) for _ in range(n)]

    before = victims(4)
    policy.put_back(before)
    assert len(policy) == 10
    assert all(key in policy for key in before)
    assert victims(4) == before
    policy.put_back([])
    assert 5 not in victims(6)
    assert policy.victim(lambda key: True) == 5
    assert len(policy) == 0


def test_counts_of_victims_that_are_put_back_are_kept():
    policy = make_policy("lfu")
    for key in range(3):
        policy.insert(key)
        for _ in range(2 - key):
            policy.touch(key)
    everything = [policy.victim(lambda key: True) for _ in range(3)]
    assert everything == [2, 1, 0]
    policy.put_back(everything)
    policy.touch(2)
    policy.touch(2)  # as often as 0, and later
    assert [policy.victim(lambda key: True) for _ in range(3)] == [1, 0, 2]
