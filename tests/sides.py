"""A manager that a test drives by orders, in this process or in another, which answers over a pipe."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from inside import evict
from world import content_of, manager

import jessy_mem as jm
from jessy_mem._core.changes import ChangePage

Stored = tuple[bytes, str]  # content and keyword


def stored(key: int, n_bytes: int) -> Stored:
    return content_of(key, key, n_bytes=n_bytes), f"word{key % 7}"


def spec(key: int, n_bytes: int) -> jm.LayerSpec:
    content, word = stored(key, n_bytes)
    return jm.LayerSpec(content=content, keywords=(word,))


class Side:
    """One manager after the other. Each order gives plain data."""

    def open(self, base: str, durability: str) -> None:
        ChangePage(base).open(create=True)  # from the beginning, so that each change is seen at once
        self.memory = manager(Path(base), durability=durability)
        self.memory.refresh()

    def close(self) -> None:
        self.memory.close()
        del self.memory

    def create(self, name: str, keys: list[int], n_bytes: int) -> int:
        return self.memory.create_proto_dimension(name, [spec(key, n_bytes) for key in keys])

    def ensure(self, name: str, keys: list[int], n_bytes: int) -> int:
        return self.memory.ensure_dimension(name, [spec(key, n_bytes) for key in keys], user=True)

    def extend(self, dimension: int, keys: list[int], n_bytes: int) -> list[int]:
        return [layer for _, layer in self.memory.extend(dimension, [spec(key, n_bytes) for key in keys])]

    def append(self, dimension: int, key: int, n_bytes: int) -> int:
        return self.memory.append_layer(dimension, spec(key, n_bytes)).layer

    def update(self, dimension: int, layer: int, key: int, n_bytes: int) -> None:
        self.memory.update_layer((dimension, layer), spec(key, n_bytes))

    def remove(self, dimension: int, layer: int) -> None:
        self.memory.remove_layer((dimension, layer))

    def crystallize(self, dimension: int) -> None:
        self.memory.crystallize(dimension)

    def compact(self, dimension: int) -> None:
        self.memory.compact(dimension)

    def forget(self, dimension: int) -> None:
        self.memory.forget(dimension)

    def evict(self) -> None:
        evict(self.memory)

    def sync(self) -> None:
        self.memory.sync()

    def seen(self) -> dict[int, dict[int, Stored]]:
        """All that there is, as it is read layer by layer; what questions say of it is the same."""
        memory = self.memory
        found: dict[int, dict[int, Stored]] = {}
        for layer_id in memory:
            view = memory.access_layer(layer_id)
            found.setdefault(layer_id.dimension, {})[layer_id.layer] = bytes(view), view.keywords[0]
        for number in range(7):
            word = f"word{number}"
            expected = {(d, n) for d, layers in found.items() for n, (_, own) in layers.items() if own == word}
            assert set(memory.layers(keyword=word)) == expected
        return found

    def named(self, names: list[str]) -> dict[str, int | None]:
        return {name: self.memory.find(name) for name in names}


class There:
    """A Side in a process of its own: the same orders. A context manager."""

    def __enter__(self) -> There:
        here = str(Path(__file__).resolve().parent)
        main = f"import sys; sys.path.insert(0, {here!r}); import sides; sides.serve()"
        command = [sys.executable, "-W", "error", "-c", main]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __getattr__(self, order: str) -> Any:
        def call(*args: Any) -> Any:
            pickle.dump((order, args), self.process.stdin)
            self.process.stdin.flush()
            refusal, result = pickle.load(self.process.stdout)
            if refusal is not None:
                raise Refused(refusal, result)
            return result

        return call


class Refused(Exception):
    """An order ended with an error in the other process: its name, and what it says."""


def serve() -> None:
    side = Side()
    with contextlib.suppress(EOFError):
        while True:
            order, args = pickle.load(sys.stdin.buffer)
            try:
                answer = None, getattr(side, order)(*args)
            except Exception as error:
                answer = type(error).__name__, str(error)
            pickle.dump(answer, sys.stdout.buffer)
            sys.stdout.buffer.flush()
