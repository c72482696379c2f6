"""What a dimension goes through in its life, step by step, for tests that interrupt it, and what must be there then."""

from __future__ import annotations

from dataclasses import dataclass, field

from world import content_of, manager

import jessy_mem as jm

Layers = dict[int, bytes]
N_BYTES = 3000
NAME = "Grown"


def spec(key: int) -> jm.LayerSpec:
    return jm.LayerSpec(content=content_of(key, key, n_bytes=N_BYTES), keywords=(f"word{key}",))


@dataclass
class Life:
    """A dictionary that goes through the same steps: what is there after each of them, and before it."""

    layers: Layers = field(default_factory=dict)
    next_layer: int = 0
    is_file: bool = False
    is_forgotten: bool = False

    def step(self, what: str, *keys: int) -> None:
        if what in ("create", "append", "extend"):
            for key in keys:
                self.layers[self.next_layer] = content_of(key, key, n_bytes=N_BYTES)
                self.next_layer += 1
        elif what == "update":
            self.layers[keys[0]] = content_of(keys[1], keys[1], n_bytes=N_BYTES)
        elif what == "remove":
            del self.layers[keys[0]]
        elif what == "crystallize":
            self.is_file = True
        elif what == "forget":
            self.layers, self.is_forgotten = {}, True


STEPS = [
    ("create", 1, 2, 3, 4, 5, 6),
    ("append", 10),
    ("update", 1, 11),
    ("remove", 0),
    ("crystallize",),
    ("append", 20),
    ("sync",),
    ("update", 2, 21),
    ("remove", 3),
    ("extend", 22, 23, 24),  # more than the base has: all becomes one file
    ("append", 25),
    ("append", 26),
    ("compact",),
    ("remove", 10),
    ("append", 27),
    ("sync",),
    ("forget",),
]


def do(memory: jm.MmapManager, dimension: int, what: str, *keys: int) -> int:
    """One step; returns the dimension."""
    if what == "create":
        return memory.create_proto_dimension(NAME, [spec(key) for key in keys])
    if what == "append":
        memory.append_layer(dimension, spec(keys[0]))
    elif what == "extend":
        memory.extend(dimension, (spec(key) for key in keys))
    elif what == "update":
        memory.update_layer((dimension, keys[0]), spec(keys[1]))
    elif what == "remove":
        memory.remove_layer((dimension, keys[0]))
    elif what == "sync":
        memory.sync()
    else:
        getattr(memory, what)(dimension)
    return dimension


def lives() -> list[Life]:
    """How it stands after 0, 1, ... steps."""
    found = [Life()]
    for what, *keys in STEPS:
        last = found[-1]
        life = Life(dict(last.layers), last.next_layer, last.is_file, last.is_forgotten)
        life.step(what, *keys)
        found.append(life)
    return found


def stored(base, dimension: int) -> Layers:
    """What a new process finds of the dimension; nothing if it has no file."""
    with manager(base, on_close="raise") as memory:
        try:
            region = memory.load_dimension(dimension)
        except jm.DimensionNotFound:
            return {}
        assert region.verify() == []
        assert region.name == NAME
        found = {layer.layer: bytes(memory.access_layer(layer)) for layer in region.layers()}
        words = {memory.access_layer((dimension, layer)).keywords[0] for layer in found}
        assert all(memory.layers(keyword=word) for word in words)
        del region
    return found
