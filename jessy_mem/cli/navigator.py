"""A small navigator and a small interference engine: what ``ask`` finds layers and their common frequency with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import jessy_mem as jm

__all__ = ["KeywordNavigator", "WeightedMean"]

N_WORDS = 3  # of the longest keyword that is looked for
SUFFIXES = ("s", "es", "ing", "ed")


class KeywordNavigator:
    """Scores each layer by the keywords of it that are in a query; a rare keyword counts more than a common one.

    It is a `jessy_mem.Navigator`: each path leads to one layer, its `confidence` is the score relative to the best, and
    its `keywords` are those that matched.
    """

    def __init__(self, memory: jm.MmapManager) -> None:
        self._memory = memory

    def navigate(self, query: str) -> list[jm.NavigationPath]:
        matched: dict[jm.LayerId, dict[str, float]] = defaultdict(dict)
        for phrase in _phrases(query):
            layers = self._memory.layers(keyword=phrase)
            for layer in layers:
                matched[layer][phrase] = len(phrase.split()) / len(layers)
        scores = {layer: sum(weights.values()) for layer, weights in matched.items()}
        best = max(scores.values(), default=1.0)
        return [
            jm.NavigationPath(layer.dimension, [layer], confidence=scores[layer] / best, keywords=tuple(matched[layer]))
            for layer in sorted(scores, key=lambda layer: (-scores[layer], layer))
        ]


@dataclass
class WeightedMean:
    """The dominant frequency as the mean, weighted by how sure the navigator is. A `jessy_mem.InterferenceEngine`."""

    weights: Sequence[float] = field(default_factory=list)

    def dominant_frequency(self, frequencies: NDArray[np.float32]) -> float:
        return float(np.average(frequencies, weights=self.weights or None))


def _phrases(query: str) -> Iterator[str]:
    """The words of a query, and two and three of them in a row, each with and without an ending; none twice."""
    words = re.findall(r"[\w'-]+", query.casefold())
    seen = set()
    for n_words in range(N_WORDS, 0, -1):
        for i in range(len(words) - n_words + 1):
            phrase = " ".join(words[i : i + n_words])
            for form in _forms(phrase):
                if form not in seen:
                    seen.add(form)
                    yield form


def _forms(phrase: str) -> Iterator[str]:
    yield phrase
    for suffix in SUFFIXES:
        yield phrase + suffix
        if phrase.endswith(suffix) and len(phrase) > len(suffix) + 2:
            yield phrase.removesuffix(suffix)
