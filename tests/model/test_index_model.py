"""Finding layers by keyword and frequency, against reading the metadata of all of them."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from world import World, manager

import jessy_mem as jm

N_LAYERS = 10_000
DIMENSIONS = (1, 2, 14, 15, 1000)
WORDS = ["mood", "Mood", "MOOD", "straße", "STRASSE", "Σίσυφος", "σίσυφοσ", "İ", "i̇", "", " ", "時", "tears", "rare"]


class Facts(dict):
    """{LayerId: (frequency, keywords)}, too long to be shown."""

    def __repr__(self):
        return f"<{len(self)} facts>"


def stored(frequency):
    """`frequency` as a file holds it, in 32 bits."""
    try:
        return struct.unpack("<f", struct.pack("<f", frequency))[0]
    except OverflowError:
        return float("inf")


def brute_force(facts, dimension=None, keyword=None, frequency=None):
    """The layers of `facts` that meet every condition, ascending."""
    found = []
    for layer_id, (hz, keywords) in facts.items():
        if dimension is not None and layer_id.dimension != dimension:
            continue
        if keyword is not None and keyword.casefold() not in {word.casefold() for word in keywords}:
            continue
        if frequency is not None and not stored(frequency[0]) <= hz <= stored(frequency[1]):
            continue
        found.append(layer_id)
    return sorted(found)


def specs(rng, n_layers):
    numbers = sorted(rng.sample(range(65536), n_layers))
    return [
        jm.LayerSpec(
            text="",
            layer=number,
            depth=number % 4,
            frequency=rng.choice([0.1, 1.6, 2.2, round(rng.uniform(0.1, 4.5), 2)]),
            keywords=rng.choices(WORDS[:-1], k=rng.randrange(4)) + ["rare"] * (rng.random() < 0.0005),
        )
        for number in numbers
    ]


def write(base, dimension, layers):
    builder = jm.RegionBuilder(dimension, f"dimension {dimension}")
    for spec in layers:
        builder.add_layer(spec)
    builder.write(jm.region_path(base, dimension))
    return {jm.LayerId(dimension, spec.layer): (stored(spec.frequency), spec.keywords) for spec in layers}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A manager with 10,000 layers, and what is known of them."""
    base, rng, facts = tmp_path_factory.mktemp("large"), random.Random(1), Facts()
    for dimension in DIMENSIONS:
        facts.update(write(base, dimension, specs(rng, N_LAYERS // len(DIMENSIONS))))
    with manager(base) as memory:
        assert memory.load_all().loaded == [*DIMENSIONS]
        yield memory, facts


bounds = st.one_of(
    st.sampled_from([0.1, 1.6, 2.2, 0, -1, 1e300, float("inf"), float("-inf"), float("nan")]),
    st.floats(0, 5),
    st.floats(0, 5, width=32),
)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "dimension": st.sampled_from([*DIMENSIONS, 3]),
        "keyword": st.one_of(st.sampled_from(WORDS), st.text(max_size=3)),
        "frequency": st.tuples(bounds, bounds),
    },
)


@settings(max_examples=150, deadline=None)
@given(asked=conditions)
def test_ten_thousand_layers_are_found_as_by_brute_force(large, asked):
    memory, facts = large
    assert memory.layers(**asked) == brute_force(facts, **asked)


def test_there_is_something_to_find(large):
    memory, facts = large
    assert len(facts) == len(memory.layers()) == N_LAYERS
    assert 0 < len(memory.layers(keyword="rare")) < 20
    assert memory.layers(keyword="strasse") == memory.layers(keyword="STRAßE") != []
    assert 0 < len(memory.layers(frequency=(2.2, 2.2))) < N_LAYERS
    assert memory.layers(frequency=(float("nan"), 1)) == []


steps = st.lists(
    st.tuples(
        st.sampled_from(["load", "unload", "reload", "publish", "proto", "crystallize", "append", "forget"]),
        st.sampled_from([1, 2, 15, 16, 17]),
        st.integers(0, 2**16),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, asked=conditions)
@example(steps=[("proto", 1, 39935), ("crystallize", 15, 0)], asked={})  # layers of several sheets
def test_the_index_is_current_after_every_change(tmp_path_factory, steps, asked):
    """Loads, unloads, reloads, files that change, and learning, against a dict of what readers must find."""
    world = World(tmp_path_factory.mktemp("changing"))
    on_disk, loaded, learned, numbers = {}, {}, set(), itertools.count()
    with manager(world) as memory:
        for step, dimension, seed in steps:
            rng = random.Random(seed)
            if step == "publish" and dimension < 3:
                on_disk[dimension] = write(world.base, dimension, specs(rng, rng.randrange(1, 6)))
            elif step == "load" and dimension in on_disk and dimension not in loaded:
                memory.load_dimension(dimension)
                loaded[dimension] = on_disk[dimension]
            elif step == "unload" and dimension in loaded and dimension not in learned:
                memory.unload_dimension(dimension)
                del loaded[dimension]
            elif step == "reload" and dimension in loaded and dimension in on_disk:
                memory.reload_dimension(dimension)
                loaded[dimension] = on_disk[dimension]
            elif step == "proto":
                layers = specs(rng, rng.randrange(1, 6))
                made = memory.create_proto_dimension(f"learned {next(numbers)}", layers)
                loaded[made] = {
                    jm.LayerId(made, spec.layer): (stored(spec.frequency), spec.keywords) for spec in layers
                }
                learned.add(made)
            elif step == "append" and dimension in learned:
                (spec,) = specs(rng, 1)
                spec = jm.LayerSpec(text="more", frequency=spec.frequency, keywords=spec.keywords)
                if max(loaded[dimension]).layer < 65535:
                    layer_id = memory.append_layer(dimension, spec)
                    loaded[dimension] = {**loaded[dimension], layer_id: (stored(spec.frequency), spec.keywords)}
            elif step == "crystallize" and dimension in learned:
                memory.crystallize(dimension)
                learned.remove(dimension)
                on_disk[dimension] = loaded[dimension]
            elif step == "forget" and dimension in learned:
                memory.forget(dimension)
                learned.remove(dimension)
                del loaded[dimension]
            facts = {layer_id: fact for each in loaded.values() for layer_id, fact in each.items()}
            for question in ({}, asked, {"keyword": "mood"}, {"frequency": (0.5, 2.0)}):
                assert memory.layers(**question) == brute_force(facts, **question), (step, dimension, question)
        for dimension in learned:
            memory.forget(dimension)
