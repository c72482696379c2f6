"""LayerIndex against a plain search through all layers."""

import random
import struct
import threading
import unicodedata
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import Layer, extended_file
from jessy_mem._core.index import LayerIndex
from jessy_mem._core.region import MmapRegion
from jessy_mem._probe.words import hashes_alike
from jessy_mem.builder import LayerSpec, RegionBuilder
from jessy_mem.errors import InvalidRegion
from jessy_mem.given import folded
from jessy_mem.layout import LayerId


def stored(frequency):
    """`frequency` as a region file keeps it."""
    return struct.unpack("<f", struct.pack("<f", frequency))[0]


def facts_of(*layers):
    """Facts as a region gives them, of (layer, frequency, keywords)."""
    return [(layer, 0, stored(frequency), tuple(keywords), 10, 10, 0) for layer, frequency, keywords in layers]


def search(known, dimension, keyword, frequency):
    """What LayerIndex.find must find among {dimension: facts}."""
    return [
        (each, layer)
        for each in sorted(known)
        for layer, _, layer_frequency, keywords, *_ in known[each]
        if (dimension is None or dimension == each)
        and (keyword is None or keyword.casefold() in [word.casefold() for word in keywords])
        and (frequency is None or stored(frequency[0]) <= layer_frequency <= stored(frequency[1]))
    ]


@pytest.fixture
def index():
    index = LayerIndex()
    index.put(7, facts_of((0, 2.2, ["Joke", "STRASSE"]), (3, 0.1, ["tears"]), (9, 4.5, [])))
    index.put(1, facts_of((0, 2.2, ["joke"]), (1, 1.0, ["Straße", "joke", "JOKE"])))
    return index


def test_every_layer_ascending(index):
    found = index.find()
    assert found == [(1, 0), (1, 1), (7, 0), (7, 3), (7, 9)]
    assert all(type(each) is LayerId for each in found)
    assert LayerIndex().find() == []


def test_by_dimension(index):
    assert index.find(dimension=7) == [(7, 0), (7, 3), (7, 9)]
    assert index.find(dimension=2) == []
    assert (7 in index, 2 in index) == (True, False)


def test_by_keyword_case_folded(index):
    for word in ("joke", "JOKE", "Joke"):
        assert index.find(keyword=word) == [(1, 0), (1, 1), (7, 0)]
    for word in ("straße", "STRASSE", "strasse"):
        assert index.find(keyword=word) == [(1, 1), (7, 0)]
    for word in ("jok", "jokes", "", " joke"):
        assert index.find(keyword=word) == []


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "CAFE\N{COMBINING ACUTE ACCENT}"),
        ("\N{ANGSTROM SIGN}ngstrom", "\N{LATIN SMALL LETTER A WITH RING ABOVE}ngstrom"),
        ("\uac00", "\u1100\u1161"),  # Hangul, whole and in its letters
        (
            "\N{GREEK SMALL LETTER ALPHA}\N{COMBINING GREEK YPOGEGRAMMENI}",
            "\N{GREEK SMALL LETTER ALPHA WITH YPOGEGRAMMENI}",
        ),
        ("\u0915\u093c", "\u0958"),  # Hindi
        ("STRASSE", "Straße"),
        ("C++", "c++"),
        ("\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}",) * 2,
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "DON\N{RIGHT SINGLE QUOTATION MARK}T"),
    ],
)
def test_keyword_is_found_however_it_was_typed(stored, asked):
    index = LayerIndex()
    index.put(1, facts_of((0, 1.0, [stored])))
    assert index.find(keyword=stored) == index.find(keyword=asked) == [(1, 0)]
    index.put(1, facts_of((0, 1.0, [asked])))
    assert index.find(keyword=stored) == index.find(keyword=asked) == [(1, 0)]


@pytest.mark.parametrize("keyword", [3, b"joke", ["joke"], ("joke",), 1.5, True])
def test_keyword_that_is_no_text_is_a_type_error(index, keyword):
    with pytest.raises(
        TypeError, match="keyword: .*not str; .*dimension=" if type(keyword) is int else "keyword: .*not str"
    ):
        index.find(keyword=keyword)


@pytest.mark.parametrize("dimension", ["1", 1.0, (1, 0), b"1"])
def test_dimension_that_is_no_number_is_a_type_error(index, dimension):
    with pytest.raises(TypeError):
        index.find(dimension)


@pytest.mark.parametrize(
    "frequency",
    [(0.1, 0.6), (np.float32(0.1), np.float32(0.6)), (np.float32(0.6), 1), [Decimal("0.6"), Fraction(3, 5)],
     np.array([0.6, 0.6]), np.array([0.6, 0.6], np.float32), iter((0, 0.6)), (0.6000000238418579, 1), (-1, 0.6)],
)  # fmt: skip
def test_range_meets_the_number_that_was_written(frequency):
    index = LayerIndex()
    index.put(1, facts_of((0, 0.6, []), (1, 1.5, [])))
    assert index.find(np.int8(1), frequency=frequency) == [(1, 0)]


def test_an_empty_keyword_is_a_keyword(index):
    index.put(2, facts_of((0, 1.0, [""])))
    assert index.find(keyword="") == [(2, 0)]


def test_by_frequency_inclusive(index):
    assert index.find(frequency=(0.1, 0.1)) == [(7, 3)]
    assert index.find(frequency=(2.2, 4.5)) == [(1, 0), (7, 0), (7, 9)]
    assert index.find(frequency=(2.2, 2.2)) == [(1, 0), (7, 0)], "a bound means the number that a file can store"
    assert index.find(frequency=(1, 3)) == [(1, 0), (1, 1), (7, 0)]
    assert index.find(frequency=(4.6, 1e400)) == []
    assert index.find(frequency=(-1e39, 1e39)) == index.find()
    assert index.find(frequency=(3, 2)) == []


@pytest.mark.parametrize("frequency", [(float("nan"), 9.0), (0.0, float("nan")), (float("nan"), float("nan"))])
def test_nothing_lies_between_bounds_that_are_no_numbers(index, frequency):
    assert index.find(frequency=frequency) == []
    assert index.find(keyword="joke", frequency=frequency) == []


@pytest.mark.parametrize("frequency", [1.0, (1.0,), (1.0, 2.0, 3.0), ("1", "2"), (None, 2.0)])
def test_what_is_no_range(index, frequency):
    with pytest.raises((TypeError, ValueError)):
        index.find(frequency=frequency)


def test_all_conditions_at_once(index):
    assert index.find(7, "joke", (2.0, 2.5)) == [(7, 0)]
    assert index.find(7, "joke", (0.0, 2.0)) == []
    assert index.find(1, "tears") == []
    assert index.find(7, frequency=(4, 5)) == [(7, 9)]
    assert index.find(keyword="straße", frequency=(0, 1.5)) == [(1, 1)]


def test_put_replaces_and_remove_forgets(index):
    index.put(7, facts_of((1, 1.0, ["new"])))
    assert index.find(dimension=7) == [(7, 1)]
    assert index.find(keyword="tears") == []
    assert index.find(keyword="joke") == [(1, 0), (1, 1)]
    assert index.find(frequency=(4, 5)) == []
    index.remove(1)
    index.remove(1)
    index.remove(99)
    assert index.find() == [(7, 1)]
    assert index.find(keyword="joke") == []
    index.remove(7)
    assert index.find() == index.find(keyword="new") == index.find(frequency=(0, 9)) == []


def test_a_dimension_without_layers_that_can_be_found(index):
    index.put(5, [])
    assert 5 in index
    assert index.find(dimension=5) == []
    index.remove(5)
    assert 5 not in index


def test_what_was_found_is_the_callers(index):
    for conditions in ({}, {"dimension": 7}, {"keyword": "joke"}, {"frequency": (0, 9)}):
        expected = list(index.find(**conditions))
        index.find(**conditions).clear()
        assert index.find(**conditions) == expected


def test_the_largest_dimension(index):
    index.put(2, facts_of(*[(layer, 1 + layer % 100, [f"w{layer % 1000}"]) for layer in range(65536)]))
    assert len(index.find(dimension=2)) == 65536
    assert index.find(keyword="w999") == [(2, layer) for layer in range(999, 65536, 1000)]
    assert index.find(2, "w7", (8, 8)) == [(2, layer) for layer in range(7, 65536, 1000)]


WORDS = st.sampled_from(["joke", "Joke", "JOKE", "Straße", "STRASSE", "ß", "ss", "İ", "i̇", "", "tears"])
FREQUENCIES = st.sampled_from([0.1, 0.5, 1.0, 1.1, 2.2, 4.5]) | st.floats(0.01, 100)
LAYER = st.tuples(st.integers(0, 50), FREQUENCIES, st.lists(WORDS, max_size=4))
LAYERS = st.lists(LAYER, max_size=6, unique_by=lambda layer: layer[0]).map(sorted)
QUESTION = st.tuples(st.none() | st.integers(1, 6), st.none() | WORDS, st.none() | st.tuples(FREQUENCIES, FREQUENCIES))


@given(st.lists(st.tuples(st.integers(1, 6), st.none() | LAYERS, QUESTION), min_size=1, max_size=25))
@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is none of the test's faults
def test_like_a_search_through_everything(steps):
    index, known = LayerIndex(), {}
    for dimension, layers, question in steps:
        if layers is None:
            index.remove(dimension)
            known.pop(dimension, None)
        else:
            known[dimension] = facts_of(*layers)
            index.put(dimension, known[dimension])
        assert index.find(*question) == search(known, *question)
        assert index.find() == search(known, None, None, None)


CHANGES = st.tuples(LAYERS, st.lists(st.integers(0, 50), max_size=3), st.integers(0, 3))  # facts, removed, age
NAMES = {1: "Humor", 2: "Humus", 3: "user:ann", 4: "user:", 5: "", 6: "Größe"}
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "dimension": st.integers(1, 6),
        "keyword": WORDS,
        "frequency": st.tuples(FREQUENCIES, FREQUENCIES),
        "name": st.sampled_from([*NAMES.values(), "Hum*", "user:*", "*", "Gro\u0308\u00dfe"]),
        "since_ns": st.integers(0, 4),
        "before_ns": st.integers(0, 4),
    },
)


def meets(each, fact, name=None, since_ns=None, before_ns=None, **others):
    wanted = None if name is None else unicodedata.normalize("NFC", name)
    return (
        bool(search({each: [fact]}, others.get("dimension"), others.get("keyword"), others.get("frequency")))
        and (wanted is None or NAMES[each] == wanted or (wanted[-1:] == "*" and NAMES[each].startswith(wanted[:-1])))
        and (since_ns is None or fact[6] >= since_ns)
        and (before_ns is None or fact[6] < before_ns)
    )


@given(st.lists(st.tuples(st.integers(1, 6), CHANGES, ASKED), min_size=1, max_size=25))
def test_changes_of_layers_are_like_a_dict_that_is_updated(steps):
    index, known = LayerIndex(), {}
    for dimension, (layers, removed, age), asked in steps:
        facts = [(*fact[:6], age) for fact in facts_of(*layers)]
        removed = [layer for layer in removed if layer not in {fact[0] for fact in facts}]
        if dimension not in known:
            index.put(dimension, [], NAMES[dimension])
        now = known.setdefault(dimension, {})
        now.update((fact[0], fact) for fact in facts)
        for layer in removed:
            now.pop(layer, None)
        index.change(dimension, facts, removed)
        expected = [
            (each, layer)
            for each in sorted(known)
            for layer, fact in sorted(known[each].items())
            if meets(each, fact, **asked)
        ]
        assert index.find(**asked) == expected
        assert all(index.has_layer(dimension, layer) == (layer in now) for layer in range(51))


def test_many_changes_at_once_are_like_one_after_the_other():
    index, other = LayerIndex(), LayerIndex()
    for each in (index, other):
        each.put(3, facts_of(*[(layer, 1 + layer % 7, [f"w{layer % 5}"]) for layer in range(0, 2000, 2)]))
        each.find(frequency=(0, 1))
        each.find(since_ns=0)
    facts = facts_of(*[(layer, 2 + layer % 3, ["w0", "new"]) for layer in range(500, 1500)])
    index.change(3, facts, range(1500, 1800))
    for fact in facts:
        other.change(3, [fact])
    for layer in range(1500, 1800):
        other.change(3, [], [layer])
    for asked in ({}, {"keyword": "w0"}, {"keyword": "w3"}, {"keyword": "new"}, {"frequency": (2, 3)}, {"since_ns": 0}):
        assert index.find(**asked) == other.find(**asked)
    index.remove(3)
    assert index.find(frequency=(0, 99)) == index.find(since_ns=0) == index.find(keyword="w0") == []


# From the files of a dimension ------------------------------------------------------------------------------------

SPELLINGS = [
    "joke",
    "JOKE",
    "Straße",
    "STRASSE",
    "İ",
    "i̇",
    "",
    " ",
    "時",
    "don't",
    "Ångström",
    "a" * 300,
    "\u1fb3",
    "ͅα",
]


def random_layers(seed, n_layers, highest):
    rng = random.Random(seed)
    return [
        Layer(
            layer, b"", frequency=rng.choice([0.1, 1.0, 2.2, 4.5]), created_ns=rng.randrange(5),
            keywords=tuple(word.encode() for word in rng.choices(SPELLINGS, k=rng.randrange(5))),
        )
        for layer in sorted(rng.sample(range(highest), n_layers))
    ]  # fmt: skip


QUESTIONS = [
    {}, {"frequency": (1, 3)}, {"since_ns": 2}, {"before_ns": 3}, {"since_ns": 1, "before_ns": 2, "frequency": (0, 2)},
    *[{"keyword": word} for word in SPELLINGS], {"keyword": "joke", "frequency": (1, 3), "since_ns": 1},
]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_what_the_files_say_is_what_their_facts_say(seed, tmp_path):
    path = tmp_path / "D01" / "region.mmap"
    path.parent.mkdir()
    path.write_bytes(extended_file(random_layers(seed, 300, 9000), 1, version=2))
    delta = random_layers(seed + 100, 20, 9000)
    path.with_name(f"delta-{2:016}.mmap").write_bytes(extended_file(delta, 1, version=2, generation=2, delta=True))
    with MmapRegion(1, path) as region:
        assert region.n_deltas == 1
        files, facts = LayerIndex(), LayerIndex()
        files.put(1, facts_of((1, 1.0, ["what was there before"])))
        files.put_stack(1, region._stack, "Humor")  # what a catalogue hands over
        facts.put(1, region.layer_facts(), "Humor")
    for asked in QUESTIONS:
        assert files.find(**asked) == facts.find(**asked)
        assert files.find(1, name="Hum*", **asked) == facts.find(**asked)
    assert files.n_words == facts.n_words == len({folded(word) for word in SPELLINGS})


@pytest.mark.parametrize("n_layers", [8, 800])  # with the GIL, and without it
def test_files_are_found_by_words_of_one_hash(n_layers, region_file):
    builder = RegionBuilder(3, "Words")
    for layer in range(n_layers):
        builder.add_layer(LayerSpec(content=b"", keywords=(f"Wort{layer % 7}", f"WORT{layer % 7}", f"Öl{layer % 5}")))
    index = LayerIndex()
    with hashes_alike(), MmapRegion(3, region_file(builder.to_bytes())) as region:
        index.put_stack(3, region._stack)  # what a catalogue hands over
    assert index.n_words == 12
    for number in range(7):
        assert index.find(keyword=f"wort{number}") == [(3, layer) for layer in range(number, n_layers, 7)]
    for number in range(5):
        assert index.find(keyword=f"ÖL{number}") == [(3, layer) for layer in range(number, n_layers, 5)]


def test_files_whose_words_cannot_be_folded_change_nothing(index, region_file, inject):
    builder = RegionBuilder(1, "Words").add_layer(LayerSpec(content=b"", keywords=("new", "Öl", "Ära")))
    before, n_words = index.find(), index.n_words
    with MmapRegion(1, region_file(builder.to_bytes())) as region:
        with inject(KeyboardInterrupt(), "unicodedata.normalize", at=3), pytest.raises(KeyboardInterrupt):
            index.put_stack(1, region._stack)  # the same
        assert (index.find(), index.n_words, index.find(keyword="new")) == (before, n_words, [])
        index.put_stack(1, region._stack)  # the same
    assert index.find(keyword="new") == index.find(keyword="öl") == [(1, 0)]


def test_words_that_nobody_has_any_more_are_forgotten(index):
    before = index.n_words
    for turn in range(3):
        index.put(3, facts_of(*[(layer, 1.0, [f"{turn} {layer}", "joke"]) for layer in range(5000)]))
        assert index.n_words == before + 5000
        index.change(3, facts_of((0, 1.0, ["other"])), range(1, 5000))
        assert index.n_words == before + 1
    index.remove(3)
    assert index.n_words == before
    assert index.find(keyword="joke") == [(1, 0), (1, 1), (7, 0)]


def test_facts_that_cannot_be_read_change_nothing(index):
    before, n_words = index.find(), index.n_words
    with pytest.raises(AttributeError):
        index.put(1, [*facts_of((5, 1.0, ["new"])), (6, 0, 1.0, (None,), 0, 0, 0)])
    with pytest.raises(ValueError, match="unpack"):
        index.change(1, [*facts_of((5, 1.0, ["new"])), (6,)])
    assert (index.find(), index.n_words, index.find(keyword="new")) == (before, n_words, [])


def test_keywords_that_were_overwritten_change_nothing(index, tmp_path):
    path = tmp_path / "region.mmap"
    path.write_bytes(extended_file([Layer(0, b"", keywords=(b"sound",)), Layer(1, b"", keywords=(b"damaged",))], 1))
    before, n_words = index.find(), index.n_words
    with MmapRegion(1, path) as region:
        data = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(data.index(b"damaged"))
            file.write(b"\xff")
        with pytest.raises(InvalidRegion, match="keyword"):
            index.put_stack(1, region._stack)  # the same
    assert (index.find(), index.n_words) == (before, n_words)


def test_questions_while_a_dimension_changes_see_the_old_or_the_new(index):
    old, new = (facts_of(*[(layer, hz, ["word"]) for layer in range(9)]) for hz in (1.0, 2.0))
    few = facts_of((4, 1.0, ["word", "rare"]))
    expected = {tuple(index.find(keyword="joke"))}
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            n_found = len(index.find(keyword="word"))
            wrong.extend([n_found] if n_found not in (0, 1, 9) else [])
            wrong.extend({tuple(index.find(keyword="joke"))} - expected)
            wrong.extend(each for each in index.find(keyword="rare", frequency=(0, 9)) if each != (3, 4))
            index.find(frequency=(1, 1))
            index.find(name="*")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            index.put(3, old)
            index.put(3, few)
            index.put(3, new, "Other")
            index.remove(3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_others_run_while_a_dimension_is_indexed(region_file):
    n_layers, builder = 20_000, RegionBuilder(3, "Many words")
    for number in range(n_layers):
        builder.add_layer(LayerSpec(content=b"", keywords=(f"word {number}",)))
    index, seen, done = LayerIndex(), set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(index.n_words)

    with MmapRegion(3, region_file(builder.to_bytes())) as region:
        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            for _ in range(100):  # until the system has run the watcher at such a moment
                index.put_stack(1, region._stack)  # what a catalogue hands over
                index.remove(1)
                if seen - {0, n_layers}:
                    break
        finally:
            done.set()
            watcher.join()
    assert seen - {0, n_layers}
    assert index.n_words == 0
