"""Logical addresses of dimensions, in a plan of one slot and two segments that others share."""

from __future__ import annotations

import itertools

import pytest

from jessy_mem.addresses import Addresses
from jessy_mem.errors import OutOfBounds
from jessy_mem.layout import MemoryLayout

MIB = 1 << 20
RESERVE, USER, END = 4 * MIB, 7 * MIB, 9 * MIB  # where segments begin


@pytest.fixture(scope="module")
def layout():
    slot = {"id": 1, "name": "One", "size_mb": 2, "frequency": 1, "frequency_band": [0.5, 4], "layers": []}
    segments = [
        {"name": "core", "size_mb": 4, "first_dimension": 1},
        {"name": "reserve", "size_mb": 3, "first_dimension": 15},
        {"name": "user", "size_mb": 2, "first_dimension": 1000},
    ]
    return MemoryLayout({"dimensions": [slot], "segments": segments, "total_mb": 9})


@pytest.fixture
def addresses(layout):
    """Those that somebody has asked for already."""
    made = Addresses(layout)
    made.begin([])
    return made


def placed(addresses, *dimensions):
    return [addresses.find(dimension) for dimension in dimensions]


def test_nothing_is_kept_before_the_first_question(layout):
    addresses = Addresses(layout)
    addresses.put(15, 1000)
    addresses.remove(15)
    addresses.put(16, 1000)
    assert not addresses.in_use
    assert addresses.find(16) is None


def test_first_question_places_what_there_is_by_its_number(layout):
    addresses = Addresses(layout)
    addresses.begin([(17, 300), (15, 100), (16, 200), (1, MIB)])
    assert addresses.in_use
    assert placed(addresses, 15, 16, 17) == [RESERVE, RESERVE + 100, RESERVE + 300]


def test_dimension_of_the_plan_is_where_the_plan_says(addresses):
    assert addresses.find(1) == 0
    addresses.put(1, MIB)
    addresses.remove(1)
    assert addresses.find(1) == 0
    assert addresses.resolve(2 * MIB - 1) == (1, 2 * MIB - 1)  # its slot, whatever it holds


def test_dimensions_are_placed_in_their_own_segments(addresses):
    addresses.put(1000, 500)
    addresses.put(15, 700)
    assert placed(addresses, 15, 1000) == [RESERVE, USER]


def test_each_address_names_the_dimension_that_has_it(addresses):
    for dimension in (15, 16, 1000):
        addresses.put(dimension, 100)
    for dimension in (15, 16, 1000):
        begin = addresses.find(dimension)
        assert addresses.resolve(begin) == (dimension, 0)
        assert addresses.resolve(begin + 99) == (dimension, 99)


@pytest.mark.parametrize("address", [-1, 2 * MIB, RESERVE - 1, RESERVE + 100, USER - 1, USER, END - 1, END, 1 << 64])
def test_address_of_nothing_is_out_of_bounds(addresses, address):
    addresses.put(15, 100)
    with pytest.raises(OutOfBounds):
        addresses.resolve(address)


def test_room_of_what_is_gone_is_given_again(addresses):
    for dimension in (15, 16, 17):
        addresses.put(dimension, 1000)
    assert placed(addresses, 15, 16, 17) == [RESERVE, RESERVE + 1000, RESERVE + 2000]
    addresses.remove(16)
    with pytest.raises(OutOfBounds):
        addresses.resolve(RESERVE + 1000)
    for dimension, n_bytes in ((18, 1001), (19, 600), (20, 401), (21, 400)):
        addresses.put(dimension, n_bytes)
    # What is too large for the hole goes behind the last, and so does what is too large for the rest of it.
    assert placed(addresses, 18, 19, 20, 21) == [RESERVE + 3000, RESERVE + 1000, RESERVE + 4001, RESERVE + 1600]
    assert placed(addresses, 15, 17) == [RESERVE, RESERVE + 2000]


def test_what_goes_before_anybody_asks_takes_no_room(addresses):
    addresses.put(15, 1000)
    addresses.remove(15)
    addresses.put(16, 1000)
    assert placed(addresses, 15, 16) == [None, RESERVE]


def test_dimension_that_shrinks_stays_and_one_that_outgrows_its_place_moves(addresses):
    addresses.put(15, 1000)
    addresses.put(16, 1000)
    assert placed(addresses, 15, 16) == [RESERVE, RESERVE + 1000]
    addresses.put(15, 400)
    assert addresses.find(15) == RESERVE
    with pytest.raises(OutOfBounds):
        addresses.resolve(RESERVE + 400)
    addresses.put(15, 1000)  # what it gave up is free, and large enough
    assert addresses.find(15) == RESERVE
    addresses.put(15, 1001)
    assert placed(addresses, 15, 16) == [RESERVE + 2000, RESERVE + 1000]
    assert addresses.resolve(RESERVE + 3000) == (15, 1000)


def test_dimension_without_room_has_no_address_until_there_is_some(addresses):
    addresses.put(1000, 2 * MIB)
    addresses.put(1001, 1)
    assert placed(addresses, 1000, 1001) == [USER, None]
    assert addresses.resolve(END - 1) == (1000, 2 * MIB - 1)
    addresses.put(15, 3 * MIB + 1)  # another segment's room is not taken
    assert addresses.find(15) is None
    addresses.remove(1000)
    addresses.put(1001, 1)
    assert addresses.find(1001) == USER


def test_no_two_dimensions_ever_share_an_address(addresses):
    """Every order in which four of different sizes come, when one goes and one grows in between."""
    for order in itertools.permutations(range(15, 19)):
        for dimension in order:
            addresses.put(dimension, 100 * (dimension - 14))
        addresses.find(15)
        addresses.remove(order[1])
        addresses.put(order[2], 500)
        addresses.put(order[1], 250)
        sizes = {each: 100 * (each - 14) for each in order} | {order[2]: 500, order[1]: 250}
        spans = sorted((addresses.find(each), addresses.find(each) + n_bytes) for each, n_bytes in sizes.items())
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
        for dimension in order:
            addresses.remove(dimension)
