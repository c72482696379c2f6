"""All that can be learned, changed and forgotten, against dictionaries, through restarts."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inside import evict
from world import content_of, manager

import jessy_mem as jm

NAMES = ("Ann", "Ben", "Zoë", "user:4", "five")
KEYS = st.integers(1, 999)
SIZES = st.sampled_from([0, 1, 100, 5000, 40_000])


@dataclass
class Known:
    """A dimension as it must be."""

    name: str
    user: bool
    layers: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    next_layer: int = 0
    is_file: bool = False


class Growth(RuleBasedStateMachine):
    """One manager after the other on one base folder."""

    def __init__(self):
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.known: dict[int, Known] = {}
        self.given: set[int] = set()
        self.n_specs = 0

    @initialize(durability=st.sampled_from(["each", "batch"]))
    def begin(self, durability):
        self.options = {"durability": durability}
        self.memory = manager(self.base, **self.options)

    def teardown(self):
        self.memory.close()
        self.check_files()
        shutil.rmtree(self.base)

    def spec(self, key, n_bytes, **options):
        content, word = content_of(key, key, n_bytes=n_bytes), f"word{key % 7}"
        return jm.LayerSpec(content=content, keywords=(word,), **options), (content, word)

    def enter(self, dimension, name, user, stored, is_file):
        assert dimension not in self.given, "an id was given twice"
        assert (dimension >= 1000) == user
        self.given.add(dimension)
        self.known[dimension] = Known(name, user, dict(enumerate(stored)), len(stored), is_file)

    def names(self):
        return {known.name: dimension for dimension, known in self.known.items()}

    # Making, naming and forgetting

    @rule(name=st.sampled_from(NAMES), keys=st.lists(KEYS, max_size=4), n_bytes=SIZES, user=st.booleans())
    def create(self, name, keys, n_bytes, user):
        specs = [self.spec(key, n_bytes) for key in keys]
        if name in self.names():
            with pytest.raises(jm.DimensionExists) as exists:
                self.memory.create_proto_dimension(name, (each for each, _ in specs), user=user)
            assert (exists.value.name, exists.value.dimension) == (name, self.names()[name])
        else:
            dimension = self.memory.create_proto_dimension(name, (each for each, _ in specs), user=user)
            self.enter(dimension, name, user, [stored for _, stored in specs], False)

    @rule(name=st.sampled_from(NAMES), keys=st.lists(KEYS, max_size=4), n_bytes=SIZES, user=st.booleans())
    def ensure(self, name, keys, n_bytes, user):
        specs = [self.spec(key, n_bytes) for key in keys]
        dimension = self.memory.ensure_dimension(name, [each for each, _ in specs], user=user)
        if name not in self.names():
            self.enter(dimension, name, user, [stored for _, stored in specs], True)
            return
        assert dimension == self.names()[name]
        known = self.known[dimension]
        if not known.next_layer:  # it was waiting for its first layers
            known.layers, known.next_layer = dict(enumerate([stored for _, stored in specs])), len(specs)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def forget(self, data):
        dimension = data.draw(st.sampled_from(sorted(self.known)))
        self.memory.forget(dimension)
        del self.known[dimension]
        with pytest.raises(jm.RegionNotFound):
            self.memory.forget(dimension)

    # Changes

    def drawn(self, data):
        dimension = data.draw(st.sampled_from(sorted(self.known)))
        return dimension, self.known[dimension]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), keys=st.lists(KEYS, min_size=1, max_size=9), n_bytes=SIZES)
    def append(self, data, keys, n_bytes):
        dimension, known = self.drawn(data)
        for key in keys:
            spec, stored = self.spec(key, n_bytes)
            assert self.memory.append_layer(dimension, spec) == (dimension, known.next_layer)
            known.layers[known.next_layer] = stored
            known.next_layer += 1

    @precondition(lambda self: self.known)
    @rule(data=st.data(), keys=st.lists(KEYS, max_size=30), gap=st.integers(0, 3), n_bytes=SIZES)
    def extend(self, data, keys, gap, n_bytes):
        dimension, known = self.drawn(data)
        first = known.next_layer + gap
        pairs = [self.spec(key, n_bytes, layer=first + i if gap else None) for i, key in enumerate(keys)]
        expected = [(dimension, first + i) for i in range(len(keys))]
        assert self.memory.extend(dimension, (spec for spec, _ in pairs)) == expected
        for (_, layer), (_, stored) in zip(expected, pairs, strict=True):
            known.layers[layer] = stored
            known.next_layer = layer + 1

    @precondition(lambda self: self.known)
    @rule(data=st.data(), key=KEYS, n_bytes=SIZES)
    def update(self, data, key, n_bytes):
        dimension, known = self.drawn(data)
        layer = data.draw(st.integers(0, max(known.next_layer, 1)))
        spec, stored = self.spec(key, n_bytes)
        if layer in known.layers:
            assert self.memory.update_layer((dimension, layer), spec) == (dimension, layer)
            known.layers[layer] = stored
        else:
            with pytest.raises(jm.LayerNotFound):
                self.memory.update_layer((dimension, layer), spec)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def remove(self, data):
        dimension, known = self.drawn(data)
        layer = data.draw(st.integers(0, max(known.next_layer, 1)))
        if layer in known.layers:
            self.memory.remove_layer((dimension, layer))
            del known.layers[layer]
        else:
            with pytest.raises(jm.LayerNotFound):
                self.memory.remove_layer((dimension, layer))

    # Files

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def crystallize(self, data):
        dimension, known = self.drawn(data)
        if known.next_layer:
            assert self.memory.crystallize(dimension) == jm.region_path(self.base, dimension)
            known.is_file = True
        else:
            with pytest.raises(jm.RegionNotFound):
                self.memory.crystallize(dimension)

    @rule()
    def crystallize_many(self):
        protos = [each for each, known in self.known.items() if not known.is_file and known.next_layer]
        assert set(self.memory.crystallize_many()) == {jm.region_path(self.base, each) for each in protos}
        for each in protos:
            self.known[each].is_file = True

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def compact(self, data):
        dimension, known = self.drawn(data)
        if known.is_file and known.next_layer:
            path = self.memory.compact(dimension)
            assert [each.name for each in path.parent.iterdir()] == ["region.mmap"]
        else:
            with pytest.raises(jm.RegionNotFound):
                self.memory.compact(dimension)

    @rule()
    def evict(self):
        evict(self.memory)

    @rule()
    def sync(self):
        self.memory.sync()

    @rule(drop=st.booleans(), load=st.booleans())
    def restart(self, drop, load):
        """What had no file is saved, but for what has no layer; or all of it is dropped."""
        if drop:
            for dimension in [each for each, known in self.known.items() if not known.is_file]:
                self.memory.forget(dimension)
                del self.known[dimension]
        self.memory.close()
        self.memory = None
        self.check_files()
        for dimension, known in list(self.known.items()):
            if known.is_file or known.next_layer:
                known.is_file = True
            else:
                del self.known[dimension]
        self.memory = manager(self.base, **self.options)
        if load:
            self.memory.load_all()

    def check_files(self):
        """What a reader of files alone finds."""
        for dimension, known in self.known.items():
            if not known.next_layer:
                continue
            with jm.MmapRegion(dimension, jm.region_path(self.base, dimension)) as region:
                assert region.name == known.name
                assert region.verify() == []
                assert {layer.layer for layer in region.layers()} == known.layers.keys()
                for layer, (content, _) in known.layers.items():
                    assert bytes(region.layer(layer)) == content

    @invariant()
    def all_is_as_it_must_be(self):
        if not hasattr(self, "memory"):
            return
        assert self.memory.names() == self.names()
        for name in NAMES:
            assert self.memory.find(name) == self.names().get(name)
        loaded = {layer_id.dimension for layer_id in self.memory.layers()}
        for dimension, known in self.known.items():
            if dimension not in loaded:
                continue
            assert [layer.layer for layer in self.memory.layers(dimension)] == sorted(known.layers)
            for layer, (content, word) in known.layers.items():
                view = self.memory.access_layer((dimension, layer))
                assert bytes(view) == content
                assert view.keywords == (word,)
        for word in (f"word{i}" for i in range(7)):
            expected = {
                (dimension, layer)
                for dimension, known in self.known.items()
                if dimension in loaded
                for layer, (_, own) in known.layers.items()
                if own == word
            }
            assert set(self.memory.layers(keyword=word)) == expected


TestGrowth = Growth.TestCase
TestGrowth.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
