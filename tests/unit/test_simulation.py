"""Simulated dimensions: their text, their size, and that they are regions like any other."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import weakref

import pytest
from inside import add_continued

from jessy_mem import prose
from jessy_mem._core.region import make_region
from jessy_mem.builder import LayerSpec, Passage, RegionBuilder
from jessy_mem.context import NavigationPath
from jessy_mem.errors import DimensionNotFound, LimitExceeded, MappingError
from jessy_mem.layout import LayerId, MemoryLayout, data_folder, default_layout
from jessy_mem.prose import MAX_CHARACTERS, write_paragraphs
from jessy_mem.simulation import create_simulated_contexts, simulate_dimension, simulated_image

PLAN = default_layout()
SEEDS = range(12)
GRAMMAR = json.loads((data_folder() / "grammar.json").read_text(encoding="utf-8"))
NOUNS = {kind: " ".join(lines).rstrip(",").split(", ") for kind, lines in GRAMMAR["nouns"].items()}
SINGULAR_VERBS = "is|was|has|does|becomes|deserves|looks|holds|belongs|keeps|bears|comes|it"
PLURAL_VERBS = "are|were|have|do|become|deserve|look|hold|belong|keep|bear|come|they"
DIGESTS = """
import hashlib, sys
from jessy_mem.simulation import simulate_dimension
for dimension in range(1, 15):
    region = simulate_dimension(dimension, seed=int(sys.argv[1]), scale=float(sys.argv[2]))
    print(hashlib.sha256(b"".join(region.pieces())).hexdigest())
"""


def region(dimension, **options):
    return make_region(simulated_image(dimension, **options), False, bytearray)


def bytes_of(dimension, **options):
    return b"".join(simulate_dimension(dimension, **options).pieces())


def texts(seed):
    """{LayerId: text} of the whole plan, read through the compiled path."""
    paths = [
        NavigationPath(d, [(d, layer.layer) for layer in planned.layers]) for d, planned in PLAN.dimensions.items()
    ]
    return {context.layer_id: context.content for context in create_simulated_contexts(paths, seed)}


def small_plan(keywords, *, depth=0, dimension=1, n_layers=1, size_mb=1, name="Emotion"):
    layers = [{"layer": i, "depth": depth, "frequency": 1.5, "keywords": keywords} for i in range(n_layers)]
    entry = {
        "id": dimension,
        "name": name,
        "size_mb": size_mb,
        "frequency": 1,
        "frequency_band": [1, 2],
        "layers": layers,
    }
    segments = [{"name": "core", "size_mb": 64, "first_dimension": 1}]
    return MemoryLayout({"segments": segments, "dimensions": [entry]})


def invented(keywords, depth, seed):
    planned = small_plan(keywords, depth=depth).dimensions[1]
    return "\n\n".join(write_paragraphs(planned, planned.layers[0], random.Random(seed)))


def prose_faults(text):
    """What is wrong with the form of `text`, as a list."""
    faults = [f"left over: {found}" for found in re.findall(r"[{}|]| {2,}| [,.;:?!]|[,;:][,.;:]|\s\Z|\n{3,}", text)]
    faults += [f"twice: {found}" for found in re.findall(r"\b(\w+)\s+\1\b", text, re.IGNORECASE)]
    faults += [f"article: {found}" for found in re.findall(r"\b[Aa] [aeio]\w*|\b[Aa]n [^\Waeiouh]\w*", text)]
    for paragraph in text.split("\n\n"):
        if not re.fullmatch(r'["“]?[A-Z].*[.?!]["”]?', paragraph):
            faults.append(f"not sentences: {paragraph}")
        faults += [f"lower case: {found}" for found in re.findall(r"(?<![A-Z])[.?!] [a-z]\w*", paragraph)]
    sentences = re.split(r"(?<=[.?!])\s+", text)
    faults += [f"said twice: {sentence}" for sentence in set(sentences) if sentences.count(sentence) > 1]
    return faults


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("A smile is near. anger is not.", "lower case: . anger"),
        ("a smile is near.", "not sentences: a smile is near."),
        ("A smile is near", "not sentences: A smile is near"),
        ("A smile is is near.", "twice: is"),
        ("The the smile is near.", "twice: The"),
        ("What {0} is.", "left over: {"),
        ("A smile  is near.", "left over:   "),
        ("A smile , is near.", "left over:  ,"),
        ("It is a earthworm.", "article: a earthworm"),
        ("It is an smile.", "article: an smile"),
        ("It is near. It is near.", "said twice: It is near."),
        ("One.\n\n\nTwo.", "left over: \n\n\n"),
    ],
)
def test_prose_check_finds_planted_faults(broken, fault):
    assert fault in prose_faults(broken)
    assert prose_faults("It is an hour. Who knows “J. P. Guilford”? He does.\n\n“I” is short.") == []


@pytest.mark.parametrize("seed", SEEDS)
def test_text_is_prose_of_the_right_length_and_different_everywhere(seed):
    written = texts(seed)
    assert len(written) == len(set(written.values())) == 56
    for layer_id, text in written.items():
        assert 300 <= len(text) <= MAX_CHARACTERS == 3000, layer_id
        assert text.count("\n\n") >= 2, layer_id
        assert prose_faults(text) == [], layer_id


@pytest.mark.parametrize("seed", SEEDS)
def test_text_mentions_the_keywords(seed):
    for planned in PLAN.dimensions.values():
        for layer in planned.layers:
            text = " ".join(write_paragraphs(planned, layer, random.Random(seed)))
            assert [word for word in layer.keywords if not re.search(rf"\b{re.escape(word)}\b", text, re.I)] == []
            assert planned.name in text


@pytest.mark.parametrize("seed", SEEDS)
def test_text_contains_sentences_of_the_bundled_content(seed):
    for layer_id, text in texts(seed).items():
        path = data_folder() / "content" / f"D{layer_id.dimension:02d}" / f"{layer_id.layer}.md"
        firsts = [re.split("[.?!]", block)[0] for block in path.read_text(encoding="utf-8").split("\n\n")[1:]]
        assert sum(first in text for first in firsts) == 3, layer_id


def test_bundled_text_is_cut_between_sentences_only():
    planned = PLAN.dimensions[8]
    # Private: in a whole text it cannot be told where a sentence of the content begins.
    sentences = prose._bundled(planned, planned.layers[1])[0]
    assert [sentence.split(" ")[0] for sentence in sentences] == ["Psychologists", "In", "J."]
    assert all(sentence.endswith(".") for sentence in sentences)


def test_two_seeds_share_no_text():
    first, second = texts(0), texts(1)
    assert all(first[layer_id] != second[layer_id] for layer_id in first)


def test_paragraphs_depend_on_the_depth():
    openings = {invented(["anger", "mood", "tears"], depth, 0).split(".")[0] for depth in range(4)}
    assert len(openings) == 4
    assert invented(["anger", "mood", "tears"], 9, 0) == invented(["anger", "mood", "tears"], 3, 0)


def test_grammar_knows_each_bundled_keyword_once():
    known = [noun for nouns in NOUNS.values() for noun in nouns]
    used = {word for planned in PLAN.dimensions.values() for layer in planned.layers for word in layer.keywords}
    assert sorted(known) == sorted(used)


def test_templates_use_no_word_that_is_a_keyword_there():
    for depth, own in enumerate(GRAMMAR["sentences"]):
        templates = " ".join(own + GRAMMAR["general"] + GRAMMAR["closings"] + GRAMMAR["openings"][depth]).casefold()
        for planned in PLAN.dimensions.values():
            for layer in planned.layers:
                if layer.depth == depth:
                    found = [word for word in layer.keywords if re.search(rf"\b{re.escape(word)}\b", templates)]
                    assert found == [], (planned.name, layer.layer)


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize(
    ("keyword", "verbs"), [("tears", SINGULAR_VERBS), ("anger", PLURAL_VERBS), ("earthworm", PLURAL_VERBS)]
)
def test_verbs_agree_with_a_keyword_that_stands_alone(keyword, verbs, depth):
    for seed in range(40):
        text = invented([keyword], depth, seed)
        assert len(text) >= 300
        assert re.search(rf"\b{keyword} ({verbs})\b", text, re.I) is None, text
        assert prose_faults(text) == []
        assert bool(re.search(rf"\b[Aa]n {keyword}", text)) == (keyword == "earthworm")


@pytest.mark.parametrize("depth", range(4))
def test_plural_keywords_agree_and_no_sentence_names_one_twice(depth):
    for seed in range(40):
        text = invented(["tears", "mistakes", "roles", "norms"], depth, seed)
        wrong = rf"(?<!about )(?<!account of )\b(tears|mistakes|roles|norms) ({SINGULAR_VERBS})\b"
        assert re.search(wrong, text, re.I) is None, text
        for sentence in text.split("."):
            if not re.search("alone|for last", sentence):  # the templates that name a keyword twice
                words = re.findall(r"\b(?:tears|mistakes|roles|norms)\b", sentence.casefold())
                assert len(words) == len(set(words)), sentence


@pytest.mark.parametrize("keywords", [["quarkiness"], ["Go", "über cool", "running late"], []])
def test_unknown_keywords_are_quoted_and_none_are_needed(keywords):
    text = invented(keywords, 0, 0)
    assert 300 <= len(text) <= 3000
    assert prose_faults(text) == []
    assert all(f"the idea of “{word}”" in text.replace("The idea", "the idea") for word in keywords or ["emotion"])


def test_many_long_keywords_stay_within_the_length():
    keywords = [f"{number} {'long ' * 40}word" for number in range(30)]
    assert 2000 < len(invented(keywords, 1, 0)) <= 3000


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_bytes_are_the_same_in_every_process(scale):
    here = [hashlib.sha256(bytes_of(d, seed=7, scale=scale)).hexdigest() for d in PLAN.dimensions]
    for hash_seed in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-c", DIGESTS, "7", str(scale)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.split() == here
    assert here[0] != hashlib.sha256(bytes_of(1, seed=8, scale=scale)).hexdigest()


def test_bytes_do_not_depend_on_the_clock(monkeypatch):
    before = bytes_of(1)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert bytes_of(1) == before


@pytest.mark.parametrize("dimension", PLAN.dimensions)
def test_region_has_everything_the_plan_says(dimension):
    planned = PLAN.dimensions[dimension]
    with region(dimension) as simulated:
        assert (simulated.dimension_id, simulated.name) == (dimension, planned.name)
        assert (simulated.source, simulated.immutable, simulated.generation) == ("simulated", planned.immutable, 1)
        assert str(simulated.path) == f"<simulated D{dimension:02d}>"
        assert simulated.layers() == [LayerId(dimension, layer.layer) for layer in planned.layers]
        for layer in planned.layers:
            view = simulated.layer(layer.layer)
            assert (view.depth, view.keywords, view.source) == (layer.depth, layer.keywords, "simulated")
            assert view.frequency == pytest.approx(layer.frequency)
            assert memoryview(view).readonly
        assert simulated.verify() == []
        assert not simulated.stale


@pytest.mark.parametrize("dimension", PLAN.dimensions)
@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0])
def test_region_fills_its_share_of_the_slot_and_never_more(dimension, scale):
    share_bytes = scale * PLAN.slot_bytes(dimension)
    n_bytes = simulate_dimension(dimension, scale=scale).n_bytes
    assert n_bytes <= share_bytes
    assert n_bytes >= share_bytes - 32768
    assert scale < 1 or n_bytes >= 0.95 * share_bytes


def test_scaled_layer_goes_on_with_numbered_passages():
    with region(14, scale=0.25) as scaled, region(14) as natural:
        for layer in range(4):
            text = scaled.layer(layer).text
            assert text.startswith(natural.layer(layer).text + "\n\nPassage 1.\n\n")
            numbers = [int(number) for number in re.findall(r"^Passage (\d+)\.$", text, re.M)]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= 3
            assert set(text.split("\n\n")) - {f"Passage {number}." for number in numbers} == set(
                natural.layer(layer).text.split("\n\n")
            )
        assert scaled.verify() == []


@pytest.mark.parametrize("immutable", [False, True])
def test_passages_give_the_same_bytes_as_one_text(immutable):
    def built(text, passages):
        builder = RegionBuilder(3, "Intention", immutable=immutable, created_ns=5)
        return add_continued(builder.add_layer(LayerSpec(text="a")), LayerSpec(text=text), passages).to_bytes()

    passages = ["é", "smile ", "é", ""] * 3000
    assert built("x", [Passage.of(each) for each in passages]) == built("x" + "".join(passages), ())
    with pytest.raises(ValueError, match="passages"):
        add_continued(RegionBuilder(3, "Intention"), LayerSpec(content=b"x"), [Passage.of("y")])


def test_memory_is_admitted_before_it_is_taken_and_released_with_the_last_view():
    class Charge:
        pass

    asked = []
    charges = []

    def admit(n_bytes):
        asked.append(n_bytes)
        charges.append(weakref.ref(charge := Charge()))
        return charge

    simulated = region(1, admit=admit)
    assert asked == [simulated.size]
    view = simulated.layer(0)
    simulated.close()
    assert charges[0]() is not None
    assert view.text
    del view
    assert charges[0]() is None


def test_system_without_memory_is_a_mapping_error_and_releases_the_charge(inject):
    class Charge:
        pass

    charges = []

    def admit(n_bytes):
        charges.append(weakref.ref(charge := Charge()))
        return charge

    # Private: it calls mmap(2) itself, where a test cannot come between.
    mapping = inject(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "jessy_mem.simulation.Mapping")
    with mapping, pytest.raises(MappingError, match="Cannot allocate memory") as caught:
        simulated_image(2, admit=admit)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, "<simulated D02>")
    del caught
    assert [charge() for charge in charges] == [None]


def test_refused_memory_is_not_taken():
    def admit(n_bytes):
        raise LimitExceeded(0, 1, n_bytes, "core")

    with pytest.raises(LimitExceeded):
        simulated_image(1, admit=admit)


def test_unplanned_dimension_cannot_be_simulated():
    for make in (simulate_dimension, simulated_image):
        with pytest.raises(DimensionNotFound) as caught:
            make(15)
        assert (caught.value.dimension, caught.value.path) == (15, "<simulated D15>")


@pytest.mark.parametrize("scale", [-0.1, 1.1, float("nan")])
def test_wrong_scale_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        simulate_dimension(1, scale=scale)


def test_contexts_keep_path_order_and_name_what_is_missing():
    paths = [NavigationPath(2, [(2, 3), (2, 9), (2, 3)]), NavigationPath(99, [(99, 0)]), NavigationPath(1, [(1, 0)])]
    contexts = create_simulated_contexts(paths)
    assert [context.layer_id for context in contexts] == [(2, 3), (2, 3), (1, 0)]
    assert contexts.missing == ((2, 9), (99, 0))
    assert {context.source for context in contexts} == {"simulated"}
    assert contexts == create_simulated_contexts(paths, seed=0)
    assert contexts != create_simulated_contexts(paths, seed=1)
    with region(2) as simulated:
        assert contexts[0].content == simulated.layer(3).text


def test_plan_of_the_user_is_simulated_too():
    layout = small_plan(["anger", "mood"], dimension=40, n_layers=3, size_mb=2, name="Own")
    with region(40, layout=layout, scale=1.0) as simulated:
        assert 0.95 * (2 << 20) <= simulated.size <= 2 << 20
        assert len({simulated.layer(layer).text for layer in range(3)}) == 3
        assert simulated.verify() == []
