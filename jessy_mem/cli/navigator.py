"""A small navigator and a small interference engine: what ``ask`` finds layers and their common frequency with."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import jessy_mem as jm

__all__ = ["KeywordNavigator", "WeightedMean"]

N_ATOMS = 24  # of the longest keyword that is looked for inside a query
SUFFIXES = ("s", "es", "ing", "ed")
UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))  # Thai and Lao, Burmese, Khmer
JOINERS = "_\u200c\u200d"

Span = tuple[int, int]


class KeywordNavigator:
    """Scores each layer by the keywords of it that are in a query; a rare keyword counts more than a common one.

    It is a `jessy_mem.Navigator`: each path leads to one layer, its `confidence` is the score relative to the best, and
    its `keywords` are those that matched.
    """

    def __init__(self, memory: jm.MmapManager) -> None:
        self._memory = memory

    def navigate(self, query: str) -> list[jm.NavigationPath]:
        matched: dict[jm.LayerId, dict[str, float]] = defaultdict(dict)
        for phrase, layers in self._hits(query):
            for layer in layers:
                matched[layer][phrase] = len(phrase.split()) / len(layers)
        scores = {layer: sum(weights.values()) for layer, weights in matched.items()}
        best = max(scores.values(), default=1.0)
        return [
            jm.NavigationPath(layer.dimension, [layer], confidence=scores[layer] / best, keywords=tuple(matched[layer]))
            for layer in sorted(scores, key=lambda layer: (-scores[layer], layer))
        ]

    def _hits(self, query: str) -> Iterator[tuple[str, list[jm.LayerId]]]:
        """The keywords that are in `query`, the longest first, and their layers; none twice.

        A part of a word counts only where the whole word is no keyword: who asks for C++ does not mean C.
        """
        seen: set[str] = set()
        taken: list[Span] = []
        for begin, end in _spans(query):
            if any(_is_part(query, (begin, end), longer) for longer in taken):
                continue
            for form in _forms(query[begin:end]):
                if form not in seen:
                    seen.add(form)
                    layers = self._memory.layers(keyword=form)
                    if layers:
                        taken.append((begin, end))
                        yield folded(form), layers


@dataclass
class WeightedMean:
    """The dominant frequency as the mean, weighted by how sure the navigator is. A `jessy_mem.InterferenceEngine`."""

    weights: Sequence[float] = field(default_factory=list)

    def dominant_frequency(self, frequencies: NDArray[np.float32]) -> float:
        return float(np.average(frequencies, weights=self.weights or None))


def folded(text: str) -> str:
    """`text` as keywords are compared: NFC-normalised and case-folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _spans(query: str) -> Iterator[Span]:
    """The whole query, and every run of up to N_ATOMS atoms in it, the longest first."""
    yield 0, len(query)
    atoms = _atoms(query)
    for n_atoms in range(min(N_ATOMS, len(atoms)), 0, -1):
        for i in range(len(atoms) - n_atoms + 1):
            yield atoms[i][0], atoms[i + n_atoms - 1][1]


def _atoms(query: str) -> list[Span]:
    """What a keyword may begin or end with: a word, a character of a script without spaces, a sign such as + or #."""
    atoms: list[Span] = []
    grows = False  # whether the next letter goes on with the last atom
    for at, character in enumerate(query):
        if character.isspace():
            grows = False
            continue
        category = unicodedata.category(character)[0]
        joins = category == "M" or character in JOINERS
        if atoms and atoms[-1][1] == at and (joins or (grows and category in "LN" and not _is_unspaced(character))):
            atoms[-1] = (atoms[-1][0], at + 1)
        else:
            atoms.append((at, at + 1))
            grows = joins or (category in "LN" and not _is_unspaced(character))
    return atoms


def _is_unspaced(character: str) -> bool:
    """Whether words of its script stand side by side, without a space."""
    return unicodedata.east_asian_width(character) in "WF" or any(
        low <= ord(character) <= high for low, high in UNSPACED
    )


def _is_part(query: str, span: Span, longer: Span) -> bool:
    """Whether `span` lies in `longer` and does not consist of whole words of it."""
    begin, end = span
    if span == longer or begin < longer[0] or end > longer[1]:
        return False
    starts_word = begin == longer[0] or query[begin - 1].isspace()
    ends_word = end == longer[1] or query[end].isspace()
    return not (starts_word and ends_word)


def _forms(phrase: str) -> Iterator[str]:
    """What `phrase` may be stored as: so, as it is typed, and with another ending."""
    word = folded(phrase)
    yield word
    if word != phrase.casefold():
        yield phrase.casefold()
    if len(word) > 2 and word[-1].isalpha():
        for suffix in SUFFIXES:
            yield word + suffix
            if word.endswith(suffix) and len(word) > len(suffix) + 2:
                yield word.removesuffix(suffix)
