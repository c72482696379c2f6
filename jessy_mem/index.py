"""Which layers have a keyword, a frequency or an age: an inverted index and sorted lists over layer metadata.

What changes in one layer costs what that layer costs: lists stay sorted and are searched by bisection, and nothing is
made anew. Lists by a number (frequency, age) are made when somebody asks for a range of it for the first time.
"""

from __future__ import annotations

import sys
import unicodedata
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Sequence
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

from jessy_mem import given
from jessy_mem._core.format import stored_frequency
from jessy_mem.layout import LayerId

__all__ = ["LayerFacts", "LayerIndex"]

# layer, depth, Hz, keywords, stored bytes, bytes, created_ns
LayerFacts = tuple[int, int, float, tuple[str, ...], int, int, int]

_FEW = 64  # so many are put one by one into a sorted list; more of them are sorted with it


class _Known(NamedTuple):
    """What is known of one layer."""

    layer_id: LayerId
    frequency: float
    created_ns: int
    words: tuple[str, ...]


class LayerIndex:
    """Finds layers by keyword (NFC-normalised and case-folded), frequency, age and name.

    Not thread-safe: the owner locks.
    """

    def __init__(self) -> None:
        self._known: dict[int, dict[int, _Known]] = {}  # dimension -> layer -> what is known of it
        self._layers: dict[int, list[LayerId]] = {}
        self._names: dict[int, str] = {}
        self._keywords: dict[str, dict[int, list[LayerId]]] = {}
        self._ordered: dict[str, list[tuple[float, LayerId]]] = {}  # by a number, once a range of it was asked for

    def __contains__(self, dimension: int) -> bool:
        return dimension in self._known

    def has_layer(self, dimension: int, layer: int) -> bool:
        return layer in self._known.get(dimension, ())

    def put(self, dimension: int, facts: Iterable[LayerFacts], name: str = "") -> None:
        """Index a dimension, in place of what was known of it."""
        self.remove(dimension)
        self._known[dimension], self._layers[dimension] = {}, []
        self._names[dimension] = unicodedata.normalize("NFC", name)
        self.change(dimension, facts)

    def remove(self, dimension: int) -> None:
        """Forget a dimension, if it is known."""
        if dimension in self._known:
            self.change(dimension, (), list(self._known[dimension]))
            del self._known[dimension], self._layers[dimension], self._names[dimension]

    def change(self, dimension: int, facts: Iterable[LayerFacts], removed: Iterable[int] = ()) -> None:
        """Layers of a dimension that is known were added or replaced (`facts`), or removed, if they were there."""
        known = self._known[dimension]
        come: dict[int, _Known] = {}
        gone = {layer: known.pop(layer) for layer in removed if layer in known}
        for layer, _, frequency, keywords, _, _, created_ns in facts:
            words = tuple({sys.intern(given.folded(keyword)): None for keyword in keywords})
            come[layer] = _Known(LayerId(dimension, layer), stored_frequency(frequency), created_ns, words)
            if layer in known:
                gone[layer] = known.pop(layer)
        known |= come
        old, new = gone.values(), come.values()
        _change(
            self._layers[dimension],
            [each.layer_id for layer, each in gone.items() if layer not in come],
            [each.layer_id for layer, each in come.items() if layer not in gone],
        )
        self._change_words(dimension, _by_word(old), _by_word(new))
        for what, entries in self._ordered.items():
            _change(entries, _by(what, old), _by(what, new))

    def _change_words(self, dimension: int, old: dict[str, list[LayerId]], new: dict[str, list[LayerId]]) -> None:
        for word in {**old, **new}:
            holders = self._keywords.setdefault(word, {})
            layers = holders.setdefault(dimension, [])
            _change(layers, old.get(word, []), new.get(word, []))
            if not layers:
                del holders[dimension]
            if not holders:
                del self._keywords[word]

    def find(
        self,
        dimension: int | None = None,
        keyword: str | None = None,
        frequency: tuple[float, float] | None = None,
        name: str | None = None,
        since_ns: int | None = None,
        before_ns: int | None = None,
    ) -> list[LayerId]:
        """The layers that meet every condition given, ascending.

        `frequency` is (low, high) in Hz, inclusive. `name` is that of a dimension, or its beginning followed by ``*``.
        A layer was made at `since_ns` or later, and earlier than `before_ns`. TypeError for a condition of the wrong
        kind.
        """
        if dimension is not None:
            dimension = given.integer(dimension)
        if keyword is not None and not isinstance(keyword, str):
            hint = "a dimension is given by dimension=" if isinstance(keyword, int) else "ask for one word at a time"
            raise TypeError(f"keyword: {keyword!r} is {type(keyword).__name__}, not str; {hint}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name: {name!r} is {type(name).__name__}, not str")
        word = None if keyword is None else given.folded(keyword)
        if frequency is None and since_ns is None and before_ns is None:
            return self._named(dimension, name, word)
        low, high = (-inf, inf) if frequency is None else _bounds(frequency)
        oldest = -inf if since_ns is None else _moment("since_ns", since_ns)
        newest = inf if before_ns is None else _moment("before_ns", before_ns) - 1
        if not (low <= high and oldest <= newest):  # nor if a bound is NaN
            return []
        ranges = []
        if frequency is not None:
            ranges.append(self._range("frequency", low, high))
        if since_ns is not None or before_ns is not None:
            ranges.append(self._range("created_ns", oldest, newest))
        found = min(ranges, key=len)
        dimensions = self._dimensions(dimension, name)
        if dimensions is not self._layers or word is not None:
            found = min(found, self._named(dimension, name, word), key=len)
        elif len(ranges) == 1:
            return sorted(found)
        known = self._known
        return [
            layer_id
            for layer_id in sorted(found)
            if low <= (each := known[layer_id.dimension][layer_id.layer]).frequency <= high
            and oldest <= each.created_ns <= newest
            and layer_id.dimension in dimensions
            and (word is None or word in each.words)
        ]

    def _named(self, dimension: int | None, name: str | None, word: str | None) -> list[LayerId]:
        """All layers of the dimensions that are meant, or those that have a keyword, ascending."""
        holders = self._layers if word is None else self._keywords.get(word)
        if not holders:
            return []
        dimensions = self._dimensions(dimension, name)
        if dimensions is self._layers:
            return [layer_id for each in sorted(holders) for layer_id in holders[each]]
        few, many = sorted((dimensions, holders), key=len)
        return [layer_id for each in sorted(few) if each in many for layer_id in holders[each]]

    def _dimensions(self, dimension: int | None, name: str | None) -> Collection[int]:
        """The dimensions that are meant."""
        if dimension is None and name is None:
            return self._layers
        found = self._names if dimension is None else {dimension} & self._names.keys()
        if name is None:
            return found
        wanted = unicodedata.normalize("NFC", name)
        if wanted.endswith("*"):
            return {each for each in found if self._names[each].startswith(wanted[:-1])}
        return {each for each in found if self._names[each] == wanted}

    def _range(self, what: str, low: float, high: float) -> list[LayerId]:
        """The layers whose `what` is in ``[low, high]``, in no order."""
        entries = self._ordered.get(what)
        if entries is None:
            entries = self._ordered[what] = sorted(
                _by(what, [each for known in self._known.values() for each in known.values()])
            )
        begin = bisect_left(entries, low, key=itemgetter(0))
        end = bisect_right(entries, high, key=itemgetter(0))
        return [layer_id for _, layer_id in entries[begin:end]]


def _by(what: str, some: Iterable[_Known]) -> list[tuple[float, LayerId]]:
    return [(getattr(each, what), each.layer_id) for each in some]


def _by_word(some: Iterable[_Known]) -> dict[str, list[LayerId]]:
    found: dict[str, list[LayerId]] = {}
    for each in some:
        for word in each.words:
            found.setdefault(word, []).append(each.layer_id)
    return found


def _change(entries: list[Any], gone: Sequence[Any], come: Sequence[Any]) -> None:
    """Take what is `gone` out of a sorted list, and put in what has `come`."""
    if len(gone) <= _FEW:
        for entry in gone:
            del entries[bisect_left(entries, entry)]
    else:
        left = set(gone)
        entries[:] = [entry for entry in entries if entry not in left]
    if len(come) <= _FEW:
        for entry in come:
            insort(entries, entry)
    else:
        entries += come
        entries.sort()


def _moment(field: str, value: Any) -> int:
    try:
        return given.integer(value)
    except TypeError:
        raise TypeError(f"{field}: {value!r} is no integer, which times in ns are; time.time_ns() gives one") from None


def _bounds(frequency: Any) -> tuple[float, float]:
    """A range as regions store its ends, in 32 bits, so that a bound of 2.2 meets a layer of 2.2 Hz."""
    try:
        low, high = (stored_frequency(given.number(bound)) for bound in frequency)
    except (TypeError, ValueError):
        raise TypeError(f"frequency: {frequency!r} is not a pair (low, high) of numbers of Hz") from None
    return low, high
