"""What callers give, as the library keeps it: numbers of every kind there is, words from any iterable, text to look up.

An integer is what `operator.index` takes and a number is what `float` takes of numbers: numpy scalars and 0-d arrays,
Decimal, Fraction. Text is no number. Nothing here imports anything else of the package, or numpy.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from decimal import Decimal
from operator import index
from pathlib import Path
from typing import Any

__all__ = [
    "amount",
    "decoded",
    "dimension_number",
    "encoded",
    "finder",
    "flag",
    "folded",
    "integer",
    "integer_in",
    "number",
    "plain",
    "scalar",
    "text_of",
    "words",
]


def integer(value: Any) -> int:
    """`value` as an int; TypeError for what is no integer, as 1.0 is none.

    >>> integer(True), type(integer(True))
    (1, <class 'int'>)
    """
    return int(index(scalar(value)))


def dimension_number(value: Any) -> int:
    """The number of a dimension as an int; TypeError for what is none, and who gives the name hears what is missing."""
    try:
        return index(value)
    except TypeError:
        if isinstance(value, str):
            raise TypeError(f"dimension: {value!r} is no number; {finder(value)}") from None
        raise


def finder(name: str) -> str:
    """What is said to who gives a name where the number of a dimension is asked for."""
    return f"find({name!r}) gives the number of a name"


def integer_in(field: str, value: Any, low: int, high: int) -> int:
    """`value` as an int of low..high; ValueError, naming `field`, for anything else."""
    try:
        found = integer(value)
    except (TypeError, ValueError):
        found = low - 1
    if not low <= found <= high:
        most = f"2**{high.bit_length()} - 1" if high in (2**32 - 1, 2**64 - 1) else high
        raise ValueError(f"{field}: {value!r} is not in {low}..{most}")
    return found


def number(value: Any) -> float:
    """`value` as a float, infinite if it is too large for one; TypeError for what is no number, as text is none.

    >>> from fractions import Fraction
    >>> number(Fraction(3, 5)), number(10**400)
    (0.6, inf)
    """
    value = scalar(value)
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"{value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def amount(value: Any) -> int | float:
    """`value` as an int if it is an integer, else as a float; TypeError for what is no number, as True is none here."""
    value = scalar(value)
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return integer(value) if hasattr(value, "__index__") else number(value)


def flag(value: Any) -> bool:
    """`value`, which is True or False, or what numpy has for them; TypeError for everything else."""
    value = scalar(value)
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not True or False")
    return value


def words(value: Iterable[Any]) -> tuple[str, ...]:
    """The words of any iterable, which is read once; those of a set sorted, so that the same set is the same tuple.

    TypeError for one str, which is an iterable of its letters, and for anything in it that is no str.

    >>> words({"returns", "lamp"}), words(word.lower() for word in ["Returns", "Lamp"])
    (('lamp', 'returns'), ('returns', 'lamp'))
    """
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{value!r} is not a sequence of str")
    try:
        found = tuple(value)
    except TypeError:
        raise TypeError(f"{value!r} is not a sequence of str") from None
    if not all(isinstance(word, str) for word in found):
        raise TypeError(f"{found!r} is not a sequence of str")
    found = tuple(map(str.__str__, found))  # of a subclass, such as numpy's, the plain str
    return tuple(sorted(found)) if isinstance(value, (set, frozenset)) else found


def folded(text: str) -> str:
    """`text` as it is compared: NFC-normalised and case-folded, whichever way an accent or a case was typed.

    >>> folded("CAFE\\N{COMBINING ACUTE ACCENT}") == folded("caf\\N{LATIN SMALL LETTER E WITH ACUTE}")
    True
    """
    if text.isascii():
        return text.lower()
    # Unicode's canonical caseless matching (definition D145), but composed: the same texts are equal.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def plain_path(value: str | os.PathLike[str]) -> str:
    """A path as plain text: of a subclass of str, such as numpy's, its str. TypeError if it is none, or of bytes.

    >>> plain_path(Path("memory"))
    'memory'
    """
    found = os.fspath(value)
    if not isinstance(found, str):
        raise TypeError(f"{value!r} is a path of bytes, not of str")
    return str.__str__(found)


def text_of(path: str | os.PathLike[str]) -> str:
    """The text of a file, with or without a byte order mark; ValueError names the file if it is not UTF-8."""
    data = Path(path).read_bytes().removeprefix(BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{os.fspath(path)}:{line}: byte {data[error.start]:#04x} is not UTF-8") from None


def encoded(value: Any) -> str:
    """`value` as JSON, numbers and arrays of every kind too; TypeError or ValueError if it is none.

    >>> from fractions import Fraction
    >>> encoded({"weights": (Fraction(1, 2), 3)})
    '{"weights":[0.5,3]}'
    """
    return _ENCODER.encode(value)


def plain(value: Any) -> Any:
    """`value` as it is read back from JSON."""
    return json.loads(encoded(value))


def decoded(text: str) -> Any:
    """What JSON says; ValueError or RecursionError for what is none, or for a number that no float holds: 1e999 would
    become infinite, for which JSON has no word.

    >>> decoded('{"weights":[0.5,3]}')
    {'weights': [0.5, 3]}
    """
    return _DECODER.decode(text)


def _finite(digits: str) -> float:
    found = float(digits)
    if math.isinf(found):
        raise ValueError(f"{digits} is too large for a float")
    return found


def _plain(value: Any) -> Any:
    """What JSON has for a value that it does not know."""
    if hasattr(value, "tolist"):  # scalars and arrays of numpy
        return value.tolist()
    if isinstance(value, (numbers.Number, Decimal)):
        return amount(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_plain)
_DECODER = json.JSONDecoder(parse_constant=int, parse_float=_finite)  # int("NaN") is a ValueError


def scalar(value: Any) -> Any:
    """What a numpy scalar or a 0-d array holds; everything else as it is, but an array of more than that is refused."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return value
    if tuple(shape) != ():
        raise TypeError(f"an array of shape {tuple(shape)} is not one number")
    return value.item()
