"""Which layers have a keyword, or a frequency in a range: an inverted index and a sorted array over layer metadata."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from jessy_mem import given
from jessy_mem._core.format import stored_frequency
from jessy_mem.layout import LayerId

__all__ = ["LayerFacts", "LayerIndex"]

LayerFacts = tuple[int, int, float, tuple[str, ...], int, int]  # layer, depth, Hz, keywords, stored bytes, bytes


class LayerIndex:
    """Finds layers by keyword (NFC-normalised and case-folded) and by frequency. Not thread-safe: the owner locks."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[LayerId, ...]] = {}
        self._keywords: dict[str, dict[int, tuple[LayerId, ...]]] = {}
        self._words: dict[int, frozenset[str]] = {}
        self._by_frequency: dict[int, list[tuple[float, LayerId]]] = {}
        self._sorted: list[tuple[float, LayerId]] | None = []

    def __contains__(self, dimension: int) -> bool:
        return dimension in self._layers

    def put(self, dimension: int, facts: Sequence[LayerFacts]) -> None:
        """Index a dimension, in place of what was known of it."""
        self.remove(dimension)
        found: dict[str, list[LayerId]] = {}
        for layer, _, _, keywords, _, _ in facts:
            for word in dict.fromkeys(map(given.folded, keywords)):
                found.setdefault(word, []).append(LayerId(dimension, layer))
        for word, layers in found.items():
            self._keywords.setdefault(word, {})[dimension] = tuple(layers)
        self._words[dimension] = frozenset(found)
        self._layers[dimension] = tuple(LayerId(dimension, fact[0]) for fact in facts)
        self._by_frequency[dimension] = [(stored_frequency(fact[2]), LayerId(dimension, fact[0])) for fact in facts]
        self._sorted = None

    def remove(self, dimension: int) -> None:
        """Forget a dimension, if it is known."""
        if self._layers.pop(dimension, None) is None:
            return
        for word in self._words.pop(dimension):
            holders = self._keywords[word]
            del holders[dimension]
            if not holders:
                del self._keywords[word]
        del self._by_frequency[dimension]
        self._sorted = None

    def find(
        self, dimension: int | None = None, keyword: str | None = None, frequency: tuple[float, float] | None = None
    ) -> list[LayerId]:
        """The layers that meet every condition given, ascending; `frequency` is (low, high) in Hz, inclusive.

        TypeError for a condition of the wrong kind.
        """
        if dimension is not None:
            dimension = given.integer(dimension)
        if keyword is not None and not isinstance(keyword, str):
            hint = "a dimension is given by dimension=" if isinstance(keyword, int) else "ask for one word at a time"
            raise TypeError(f"keyword: {keyword!r} is {type(keyword).__name__}, not str; {hint}")
        if keyword is not None:
            holders = self._keywords.get(given.folded(keyword), {})
            if dimension is not None:
                found: Iterable[LayerId] = holders.get(dimension, ())
            else:
                found = [layer for each in sorted(holders) for layer in holders[each]]
            if frequency is None:
                return list(found)
            in_range = set(self._in_range(frequency))
            return [layer for layer in found if layer in in_range]
        if frequency is not None:
            return sorted(layer for layer in self._in_range(frequency) if dimension in (None, layer.dimension))
        if dimension is not None:
            return list(self._layers.get(dimension, ()))
        return [layer for each in sorted(self._layers) for layer in self._layers[each]]

    def _in_range(self, frequency: tuple[float, float]) -> list[LayerId]:
        low, high = _bounds(frequency)
        if not low <= high:  # nor if one is NaN
            return []
        if self._sorted is None:
            self._sorted = sorted(entry for entries in self._by_frequency.values() for entry in entries)
        begin = bisect_left(self._sorted, low, key=itemgetter(0))
        end = bisect_right(self._sorted, high, key=itemgetter(0))
        return [layer for _, layer in self._sorted[begin:end]]


def _bounds(frequency: Any) -> tuple[float, float]:
    """A range as regions store its ends, in 32 bits, so that a bound of 2.2 meets a layer of 2.2 Hz."""
    try:
        low, high = (stored_frequency(given.number(bound)) for bound in frequency)
    except (TypeError, ValueError):
        raise TypeError(f"frequency: {frequency!r} is not a pair (low, high) of numbers of Hz") from None
    return low, high
