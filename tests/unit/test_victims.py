"""What goes when room is needed, of regions that only a table of numbers stands for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jessy_mem.eviction import POLICIES, make_policy
from jessy_mem.victims import Victims


class FakeHolders:
    """Says of each dimension that is mapped what it frees: ten bytes, or nothing if it is held."""

    def __init__(self, regions):
        self.regions = regions
        self.held = set()
        self.came = {}

    def freed_bytes(self, dimension):
        return 10 if dimension in self.regions and dimension not in self.held else 0

    def evictable(self):
        return [(each, 10) for each in self.regions if each not in self.held and may_go(self.regions[each])]


def may_go(region):
    return not region.immutable and region.source != "pool"


def region(source="mmap", immutable=False):
    return SimpleNamespace(source=source, immutable=immutable)


anywhere = None  # what may be asked for bytes: each


class World:
    """Ten dimensions that are mapped, numbered from 1; what is unmapped is noted."""

    def __init__(self, policy):
        self.regions = {}
        self.holders = FakeHolders(self.regions)
        self.policy = policy
        self.victims = Victims(policy, self.regions, self.holders)
        self.gone = []
        for dimension in range(1, 11):
            self.put(dimension)

    def put(self, dimension, **facts):
        self.regions[dimension] = region(**facts)
        self.holders.came[dimension] = may_go(self.regions[dimension])

    def unmap(self, dimension):
        del self.regions[dimension]
        self.gone.append(dimension)

    def check_whole(self):
        """The policy has what may go, and nothing else."""
        self.victims.take_in()
        assert {each for each in range(1, 20) if each in self.policy} == {
            each for each, it in self.regions.items() if may_go(it)
        }


@pytest.fixture(params=POLICIES)
def world(request):
    return World(make_policy(request.param))


def test_what_meets_the_need_goes_in_the_order_of_the_policy(world):
    victims, any_held = world.victims.choose([(25, anywhere)])
    assert (victims, any_held) == ([1, 2, 3], False)
    world.victims.evict(victims, world.unmap)
    assert world.gone == [1, 2, 3]
    world.check_whole()


def test_what_was_read_goes_later(world):
    world.victims.touch([1, 2])
    assert world.victims.choose([(10, anywhere)])[0] == [3]


def test_what_met_one_need_counts_for_the_next(world):
    needs = [(15, lambda dimension: dimension > 5), (25, anywhere)]
    victims, _ = world.victims.choose(needs)
    assert len(victims) == 3
    assert min(victims[:2]) > 5


def test_need_that_cannot_be_met_takes_nothing(world):
    world.holders.held = {4}
    assert world.victims.choose([(95, anywhere)]) == ([], True)
    world.check_whole()
    assert world.victims.choose([(20, anywhere)])[0] == [1, 2]


def test_need_of_what_is_not_there_takes_nothing(world):
    assert world.victims.choose([(20, lambda dimension: dimension == 5)]) == ([], False)
    world.check_whole()


def test_what_is_in_the_pool_or_immutable_never_goes(world):
    world.put(1, source="pool")
    world.put(2, immutable=True)
    world.check_whole()
    assert world.victims.choose([(10, anywhere)])[0] == [3]


def test_what_was_unloaded_is_no_victim(world):
    world.victims.remove(1)
    del world.regions[1]
    assert world.victims.choose([(10, anywhere)])[0] == [2]


class Interrupted:
    """A policy; at the second dimension of those that it is told of somebody interrupts, once."""

    def __init__(self, policy, before):
        self.policy, self.before, self.told = policy, before, []

    def insert(self, key):
        self.told.append(key)
        if len(self.told) == 2 and self.before:
            raise KeyboardInterrupt
        self.policy.insert(key)
        if len(self.told) == 2:
            raise KeyboardInterrupt

    def __getattr__(self, name):
        return getattr(self.policy, name)


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_while_the_policy_is_told_loses_nothing_and_keeps_the_order(world, before):
    # Private: a policy that is interrupted cannot be asked for what it has.
    world.victims._policy = Interrupted(world.policy, before)
    with pytest.raises(KeyboardInterrupt):
        world.victims.take_in()
    assert world.victims.choose([(100, anywhere)])[0] == list(range(1, 11))
    assert world.holders.came == {}


def test_a_dimension_that_may_not_go_any_more_is_taken_from_the_policy(world):
    world.check_whole()
    world.put(1, immutable=True)
    world.check_whole()
    assert world.victims.choose([(10, anywhere)])[0] == [2]


def test_one_after_the_other_goes_until_it_is_enough(world):
    world.holders.held = {2}
    world.victims.evict_until(lambda: len(world.regions) <= 7, world.unmap)
    assert world.gone == [1, 3, 4]
    world.victims.evict_until(lambda: False, world.unmap)
    assert list(world.regions) == [2]
    world.check_whole()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [True, False])
def test_what_an_error_leaves_mapped_can_go_another_time(world, error, before):
    def unmap(dimension):
        if dimension == 2 and before:
            raise error
        world.unmap(dimension)
        if dimension == 2:
            raise error

    victims, _ = world.victims.choose([(40, anywhere)])
    with pytest.raises(error):
        world.victims.evict(victims, unmap)
    world.check_whole()
    with pytest.raises(error):
        world.victims.evict_until(lambda: False, unmap if before else error_of(error))
    world.check_whole()
    world.victims.evict_until(lambda: False, world.unmap)
    assert not world.regions


def error_of(error):
    def unmap(dimension):
        raise error

    return unmap


def test_error_while_victims_are_chosen_gives_them_back(world):
    def asked(dimension):
        if dimension == 3:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        world.victims.choose([(40, asked)])
    world.check_whole()
    assert world.victims.choose([(10, anywhere)])[0] == [1]


def test_what_the_policy_lost_is_found_before_anybody_is_refused(world):
    """An interruption in the very moment in which the policy gives something up."""
    world.check_whole()
    for dimension in range(1, 11):
        world.policy.remove(dimension)
    world.holders.held = {7}
    victims, _ = world.victims.choose([(90, anywhere)])
    assert sorted(victims) == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    world.victims.evict(victims, world.unmap)
    assert world.victims.choose([(10, anywhere)]) == ([], False)


def test_what_came_back_meanwhile_is_the_policys_once(world):
    """A finalizer that runs inside an eviction maps what goes, and something else."""

    def unmap(dimension):
        world.unmap(dimension)
        world.put(dimension)
        world.put(11)
        raise KeyboardInterrupt

    victims, _ = world.victims.choose([(20, anywhere)])
    with pytest.raises(KeyboardInterrupt):
        world.victims.evict(victims, unmap)
    world.check_whole()
    assert len(world.policy) == 11
