"""What callers give becomes what the library keeps."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from jessy_mem import given


class Depth(enum.IntEnum):
    DEEP = 3


class Word(enum.StrEnum):
    JOKE = "joke"


class Indexed:
    def __index__(self) -> int:
        return 5


class Measured:
    def __float__(self) -> float:
        return 2.5


class Place:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("value", ["a/b", np.str_("a/b"), Path("a/b"), Place("a/b"), Place(np.str_("a/b"))])
def test_path(value):
    assert given.plain_path(value) == "a/b"
    assert type(given.plain_path(value)) is str


@pytest.mark.parametrize("value", [b"a/b", Place(b"a/b"), 1, None])
def test_no_path(value):
    with pytest.raises(TypeError):
        given.plain_path(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (True, 1),
        (np.uint8(5), 5),
        (np.array(5), 5),
        (Depth.DEEP, 3),
        (Indexed(), 5),
        (np.True_, 1),
        (2**70, 2**70),
    ],
)
def test_integer(value, expected):
    assert given.integer(value) == expected
    assert type(given.integer(value)) is int


@pytest.mark.parametrize(
    "value", [1.0, "1", b"1", None, Decimal(1), Fraction(1), np.float64(1), np.array([1]), np.array(1.0)]
)
def test_no_integer(value):
    with pytest.raises(TypeError):
        given.integer(value)
    with pytest.raises(ValueError, match=r"depth: .* is not in 0\.\.9"):
        given.integer_in("depth", value, 0, 9)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (True, 1.0), (Decimal("0.6"), 0.6), (Fraction(3, 5), 0.6), (np.float32(0.5), 0.5), (np.array(0.5), 0.5),
     (Measured(), 2.5), (Indexed(), 5.0), (10**400, math.inf), (-(10**400), -math.inf), (Fraction(10**400), math.inf)],
)  # fmt: skip
def test_number(value, expected):
    assert given.number(value) == expected
    assert type(given.number(value)) is float


@pytest.mark.parametrize("value", ["1", b"1", bytearray(b"1"), memoryview(b"1"), None, 1j, [1.0], np.array([1.0])])
def test_no_number(value):
    with pytest.raises(TypeError):
        given.number(value)


@pytest.mark.parametrize("value", [0, 1, None, "True", np.array([True]), np.int8(1)])
def test_no_flag(value):
    with pytest.raises(TypeError, match=r"True or False|not one number"):
        given.flag(value)
    assert given.flag(np.array(True)) is True


def test_words_are_plain_and_read_once():
    assert given.words(word for word in (Word.JOKE, np.str_("pun"))) == ("joke", "pun")
    assert [type(word) for word in given.words((Word.JOKE, np.str_("pun")))] == [str, str]
    assert given.words({"b", "a"}) == given.words(frozenset("ba")) == ("a", "b")
    assert given.words(["b", "a"]) == ("b", "a")


def test_folding_is_folded_for_good():
    for text in (
        "Straße",
        "\N{ANGSTROM SIGN}",
        "\N{GREEK SMALL LETTER ALPHA}\N{COMBINING GREEK YPOGEGRAMMENI}",
        "İ",
        "\ud800",
    ):
        assert given.folded(given.folded(text)) == given.folded(text)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.True_, True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.str_("x"), "x"),
        (Decimal("2.5"), 2.5),
        (Decimal(7), 7.0),
        (Fraction(1, 4), 0.25),
        ((1, [np.int8(2)]), [1, [2]]),
        ({"a": MappingProxyType({"b": Fraction(1, 2)})}, {"a": {"b": 0.5}}),
    ],
)
def test_plain_value_of_what_json_does_not_know(value, plain):
    assert given.plain(value) == plain


@pytest.mark.parametrize(
    "value", [math.nan, np.float64("inf"), Decimal("NaN"), 1j, b"x", {1, 2}, object(), np.datetime64("2024-01-01")]
)
def test_what_json_cannot_say(value):
    with pytest.raises((TypeError, ValueError)):
        given.encoded(value)


@pytest.mark.parametrize("value", [None, 1.0, b"15", [15]])
def test_what_is_no_number_of_a_dimension_is_told_of_no_name(value):
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        given.dimension_number(value)
    with pytest.raises(TypeError, match="'user:ann' is no number"):
        given.dimension_number("user:ann")
