"""Text for simulated layers: sentences about keywords, and passages from the bundled text.

The grammar is ``data/grammar.json``. Its templates hold places such as ``{0}`` for a noun phrase and ``{0:is|are}`` for
the words that agree with it. It knows the bundled keywords as nouns; any other is quoted, which is always correct.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from jessy_mem.layout import DimensionPlan, LayerPlan, data_folder, default_layout, dimension_folder

__all__ = ["MAX_CHARACTERS", "write_paragraphs"]

MAX_CHARACTERS = 3000  # of a layer, its paragraphs separated by blank lines
_N_BUNDLED = 3  # paragraphs that open with bundled text
_PLACE = re.compile(r"\{(\d)")
# Behind a full stop, which may be quoted, but not behind an initial such as those of "J. P. Guilford". The space stands
# first, so that only spaces are looked at.
_SENTENCE_END = re.compile(r' (?=[A-Z“"])(?:(?<=[.?!] )|(?<=[.?!]["”] ))(?<!\b[A-Z]\. )')


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: compared by identity, which is quicker
class _Noun:
    """A noun phrase: ``{0}`` is the phrase, ``{0:is|are}`` its verb."""

    phrase: str
    plural: bool = False

    def __format__(self, spec: str) -> str:
        singular, _, plural = spec.partition("|")
        return (plural if self.plural else singular) if spec else self.phrase


class _Grammar:
    def __init__(self) -> None:
        self.folder = data_folder()
        parts = json.loads((self.folder / "grammar.json").read_text(encoding="utf-8-sig"))
        words = {kind: ", ".join(lines).replace(",,", ",").split(", ") for kind, lines in parts["nouns"].items()}
        self.nouns = {word: _Noun(word) for word in words["mass"]}
        self.nouns |= {word: _Noun(word, plural=True) for word in words["plural"]}
        self.nouns |= {word: _Noun(f"the {word}") for word in words["definite"]}
        self.nouns |= {word: _Noun(f"an {word}" if word[0] in "aeiou" else f"a {word}") for word in words["count"]}
        self.openings: list[list[str]] = parts["openings"]  # by depth, as the sentences are
        self.sentences = [_templates(texts + parts["general"]) for texts in parts["sentences"]]
        self.closings: list[str] = parts["closings"]

    def noun(self, keyword: str) -> _Noun:
        return self.nouns.get(keyword) or _Noun(f"the idea of “{keyword}”")


def _templates(texts: list[str]) -> list[tuple[int, str]]:
    return [(len(set(_PLACE.findall(text))), text) for text in texts]


_grammar = cache(_Grammar)


def write_paragraphs(dimension: DimensionPlan, layer: LayerPlan, rng: random.Random) -> list[str]:
    """Five paragraphs about the keywords of `layer`, together at most `MAX_CHARACTERS`; `rng` makes every choice.

    An opening, three paragraphs that begin with bundled sentences if the plan is the bundled one, and a close. No
    template serves twice, and no keyword comes again before each has had its turn.
    """
    grammar = _grammar()
    depth = min(layer.depth, len(grammar.sentences) - 1)
    keywords = layer.keywords or (dimension.name.lower(),)
    deal = _dealer([grammar.noun(keyword) for keyword in dict.fromkeys(keywords)], rng)
    templates = rng.sample(grammar.sentences[depth], len(grammar.sentences[depth]))

    def write(n_sentences: int) -> list[str]:
        written: list[str] = []
        while templates and len(written) < n_sentences:
            n_places, template = templates.pop()
            if nouns := deal(n_places):
                written.append(_capital(template.format(*nouns)))
        return written

    opening = rng.choice(grammar.openings[depth])
    listed = [noun.phrase for noun in deal(3) or deal(1)]
    listed = [", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed
    blocks = [[opening.format(name=dimension.name, list=" and ".join(listed)), *write(2)]]
    bundled = _bundled(dimension, layer)
    for i in sorted(rng.sample(range(len(bundled)), _N_BUNDLED)) if len(bundled) >= _N_BUNDLED else []:
        blocks.append([*bundled[i][: rng.randint(1, 2)], *write(rng.randint(1, 2))])
    while len(blocks) <= _N_BUNDLED:
        blocks.append(write(rng.randint(2, 3)))
    closing = rng.choice(grammar.closings).format(*deal(1), frequency=f"{layer.frequency:g}")
    blocks.append([*write(1), closing])
    paragraphs = [" ".join(block) for block in blocks if block]
    while len(paragraphs) > 1 and sum(map(len, paragraphs)) + 2 * len(paragraphs) > MAX_CHARACTERS:
        del paragraphs[-1]
    return paragraphs


def _dealer(nouns: list[_Noun], rng: random.Random) -> Callable[[int], list[_Noun]]:
    """Deals n different nouns from a shuffled deck, which is filled up when it runs out; none if there are not n."""
    deck: list[_Noun] = []

    def deal(n: int) -> list[_Noun]:
        if n > len(nouns):
            return []
        if len(deck) < n:
            rest = [noun for noun in nouns if noun not in deck]
            rng.shuffle(rest)
            deck.extend(rest)
        dealt = deck[:n]
        del deck[:n]
        return dealt

    return deal


def _bundled(dimension: DimensionPlan, layer: LayerPlan) -> Sequence[Sequence[str]]:
    """The bundled text about these keywords, as paragraphs of sentences; nothing if there is none."""
    planned = default_layout().dimensions.get(dimension.id)
    if planned is None or not any(
        (each.layer, each.keywords) == (layer.layer, layer.keywords) for each in planned.layers
    ):
        return ()
    return _bundled_paragraphs(dimension.id, layer.layer)


@cache  # of 56 short texts, for dimensions that are evicted and simulated again
def _bundled_paragraphs(dimension: int, layer: int) -> Sequence[Sequence[str]]:
    folder = os.path.join(_grammar().folder, "content", dimension_folder(dimension))
    with open(os.path.join(folder, f"{layer}.md"), encoding="utf-8-sig") as file:
        blocks = file.read().strip().split("\n\n")
    return tuple(tuple(_SENTENCE_END.split(block)) for block in blocks if not block.startswith("#"))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
