"""Writers that do everything at once in one base folder, and what must be there however they are killed.

`write` is one of them: it tells what was acknowledged, and before it, what may show before it is acknowledged.
Each word is followed by the number of a dimension, or of a layer (`place`), and by a key: that of the layer's content,
or of the dimension's name. A `Record` is told all of it and then looks at the folder.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from world import content_of, generation_of, manager

import jessy_mem as jm

N_SHARED = 4  # dimensions that all writers change
IMPORTED = range(200, 203)  # what an archive holds, and nobody changes
DEEDS = {  # and how often
    "append": 30, "extend": 10, "update": 10, "remove": 8, "compact": 2, "make": 8, "make_many": 3, "forget": 5,
    "forget_shared": 1, "import_one": 2, "look": 5, "sync": 2,
}  # fmt: skip


def place(dimension: int, layer: int) -> int:
    return dimension << 16 | layer


def spec(key: int) -> jm.LayerSpec:
    return jm.LayerSpec(content=content_of(0, 0, key, 200 + key % 7 * 400), keywords=(f"word{key % 5}",))


def archive(folder: Path, key: int) -> Path:
    """An archive of IMPORTED, each layer of which has the content of `key`."""
    for dimension in IMPORTED:
        builder = jm.RegionBuilder(dimension, f"imported {dimension}", generation=key)
        for _ in range(3):
            builder.add_layer(spec(key))
        builder.write(folder / f"{key}" / f"D{dimension}" / "region.mmap")
    jm.export_base(folder / f"{key}", folder / f"{key}.tar")
    return folder / f"{key}.tar"


class Writer:
    """What one process does, deed by deed. Keys are its own; it changes only layers that it has made."""

    def __init__(self, memory: jm.MmapManager, first_key: int, archives: list[str], tell: Callable[..., None]) -> None:
        self.memory, self.key, self.archives, self.tell = memory, first_key, archives, tell
        self.chance = random.Random(first_key)
        self.layers: list[tuple[int, int]] = []
        self.files: list[tuple[int, int]] = []  # dimensions of its own, and the keys of their names

    def do(self) -> None:
        (deed,) = self.chance.choices([*DEEDS], [*DEEDS.values()])
        # What another has forgotten meanwhile is not there; Record knows whether anybody did.
        with contextlib.suppress(jm.RegionNotFound, jm.DimensionNotFound, jm.LayerNotFound):
            getattr(self, deed)()

    def next_key(self) -> int:
        self.key += 1
        return self.key

    def shared(self) -> int:
        number = self.chance.randrange(N_SHARED)
        dimension = self.memory.ensure_dimension(f"shared {number}", user=True)
        self.tell("shared", dimension, number)
        return dimension

    def append(self) -> None:
        dimension, key = self.shared(), self.next_key()
        layer = self.memory.append_layer(dimension, spec(key))
        self.tell("appended", place(*layer), key)
        self.layers.append(layer)

    def extend(self) -> None:
        dimension, keys = self.shared(), [self.next_key() for _ in range(3)]
        self.tell("extending", dimension, keys[0])
        layers = self.memory.extend(dimension, [spec(key) for key in keys])
        for layer, key in zip(layers, keys, strict=True):
            self.tell("appended", place(*layer), key)

    def pick(self) -> tuple[int, int]:
        if not self.layers:
            self.append()
        return self.layers.pop(self.chance.randrange(len(self.layers)))

    def update(self) -> None:
        layer, key = self.pick(), self.next_key()
        self.tell("updating", place(*layer), key)
        self.memory.update_layer(layer, spec(key))
        self.tell("updated", place(*layer), key)
        self.layers.append(layer)

    def remove(self) -> None:
        layer = self.pick()
        self.tell("removing", place(*layer), 0)
        self.memory.remove_layer(layer)
        self.tell("removed", place(*layer), 0)

    def compact(self) -> None:
        self.memory.compact(self.shared())

    def create(self) -> tuple[int, int]:
        key = self.next_key()
        dimension = self.memory.create_proto_dimension(f"own {key}", [spec(key)], user=True)
        self.tell("created", dimension, key)
        self.memory.append_layer(dimension, spec(key))
        return dimension, key

    def make(self) -> None:
        own = self.create()
        self.memory.crystallize(own[0])
        self.made(own)

    def make_many(self) -> None:
        own = [self.create() for _ in range(4)]
        self.memory.crystallize_many([dimension for dimension, _ in own])
        self.made(*own)

    def made(self, *own: tuple[int, int]) -> None:
        for dimension, key in own:
            self.tell("crystallized", dimension, key)
        self.files += own

    def forget(self) -> None:
        if self.files:
            self.forget_now(self.files.pop(0)[0])

    def forget_shared(self) -> None:
        self.forget_now(self.shared())

    def forget_now(self, dimension: int) -> None:
        self.tell("forgetting", dimension, 0)
        self.memory.forget(dimension)
        self.tell("forgotten", dimension, 0)

    def import_one(self) -> None:
        chosen = self.chance.choice(self.archives)
        jm.import_base(chosen, self.memory.config.base_path, replace_existing=True)
        self.tell("imported", 0, 0)

    def look(self) -> None:
        names = self.memory.names()
        for dimension, key in self.files:
            assert names[f"own {key}"] == self.memory.find(f"own {key}") == dimension, "a name is gone"

    def sync(self) -> None:
        self.memory.sync()


def write(base: str, first_key: int, durability: str, archives: list[str], tell: Callable[..., None]) -> None:
    """Do this and that, for ever."""
    with manager(Path(base), durability=durability) as memory:
        writer = Writer(memory, first_key, archives, tell)
        while True:
            writer.do()


class Record:
    """What writers of one base folder told, and what must therefore be there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layers: dict[int, set[int]] = {}  # place -> the keys of which it has one
        self.going: set[int] = set()  # places that are being removed
        self.gone: set[int] = set()
        self.names: dict[int, str] = {}  # of dimensions that have had them
        self.files: set[int] = set()  # that must be there, unless they are being forgotten
        self.forgetting: set[int] = set()
        self.forgotten: set[int] = set()
        self.batches: set[int] = set()  # first keys of an extend: all or none
        self.n_told: Counter[str] = Counter()

    def enter(self, told: list[tuple[str, int, int]]) -> None:
        for word, number, key in told:
            self.n_told[word] += 1
            if word in ("shared", "created"):
                name = f"shared {key}" if word == "shared" else f"own {key}"
                assert self.names.setdefault(number, name) == name, f"id {number} was given twice"
            elif word == "appended":
                assert number not in self.layers, f"layer {number & 0xFFFF} of D{number >> 16} was given twice"
                self.layers[number] = {key}
                self.batches.discard(key - 2)  # the last of three
            elif word == "updating":
                self.layers[number].add(key)
            elif word == "updated":
                self.layers[number] = {key}
            elif word == "removing":
                self.going.add(number)
            elif word == "removed":
                self.gone.add(number)
            elif word == "extending":
                self.batches.add(key)
            elif word == "crystallized":
                self.files.add(number)
            elif word == "forgetting":
                self.forgetting.add(number)
            elif word == "forgotten":
                self.forgotten.add(number)

    def check(self) -> None:
        """As after a restart: nobody writes."""
        jm.clean(jm.examine(self.base))
        assert {finding.kind for finding in jm.examine(self.base)} <= {"no dimension"}
        with manager(self.base, total_memory_mb=1000) as memory:
            found = self.read(memory)
            known = memory.names()
        dimensions = {at >> 16 for at in found}
        must = (self.files | {at >> 16 for at in self.layers.keys() - self.going}) - self.forgetting
        assert must <= dimensions, "an acknowledged dimension is gone"
        assert not self.forgotten & dimensions, "a forgotten dimension is back"
        named = must | {dimension for dimension, name in self.names.items() if name.startswith("shared")}
        expected = {self.names[each]: each for each in named - self.forgetting}
        assert expected.items() - known.items() == set(), "a name is gone"
        for dimension in IMPORTED:
            keys = [key for at, key in found.items() if at >> 16 == dimension]
            assert len(keys) == 3 * len(set(keys)), "a mixture of two imports"
            assert keys or not self.n_told["imported"], "what was imported is gone"
        self.check_layers({at: key for at, key in found.items() if at >> 16 not in IMPORTED})
        self.forgotten |= self.forgetting - dimensions - {*known.values()}  # what has no layer is there by its name
        self.forgetting &= self.forgotten

    def read(self, memory: jm.MmapManager) -> dict[int, int]:
        """The key of each layer that is there."""
        assert memory.load_all().skipped.keys() <= {*memory.layout.dimensions}
        found = {place(*layer): generation_of(bytes(view)) for layer, view in memory.items()}
        assert all(memory.region(dimension).verify() == [] for dimension in {at >> 16 for at in found})
        for word in range(5):
            expected = [at for at, key in found.items() if key % 5 == word]
            assert sorted(place(*layer) for layer in memory.layers(keyword=f"word{word}")) == sorted(expected)
        return found

    def check_layers(self, found: dict[int, int]) -> None:
        must = {at for at in self.layers.keys() - self.going if at >> 16 not in self.forgetting}
        assert must <= found.keys(), "an acknowledged layer is gone"
        assert not self.gone & found.keys(), "a removed layer is back"
        for at, key in found.items():
            assert key in self.layers.get(at, {key}), "another layer than was acknowledged"
        keys = Counter(key for at, key in found.items() if self.names[at >> 16].startswith("shared"))
        assert max(keys.values(), default=1) == 1, "a change was made twice"
        own = Counter(at >> 16 for at in found if self.names[at >> 16].startswith("own"))
        assert set(own.values()) <= {2}, "half of a dimension"
        for first in self.batches:
            assert sum(keys[key] for key in range(first, first + 3)) in (0, 3), "half of an extend"
        # What was not acknowledged and is there, stays; what is not, does not come back.
        self.layers |= {at: {key} for at, key in found.items()}
        self.gone |= self.going - found.keys()
        self.going &= self.gone
        self.batches.clear()
