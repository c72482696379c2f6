"""The questions of ``bench --peers``, the content that they are about, and how whoever answers is set up."""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import os
import sysconfig
import timeit
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "ALLOCATE",
    "ALLOCATE_C",
    "BLOCK_BYTES",
    "BUFFER",
    "BUFFER_LARGE",
    "BYTES",
    "BYTES_LARGE",
    "LATENCIES_NS",
    "LATENCY_NS",
    "MOST_NS",
    "QUESTIONS",
    "RECORD",
    "RECORD_C",
    "STORE",
    "STORED",
    "STORE_DURABLE",
    "TOGETHER",
    "Missing",
    "Scale",
    "Setting",
    "Way",
    "address_of",
    "is_tiny",
    "library",
    "module",
    "scale",
]

BUFFER, BUFFER_LARGE = "layer of 4 KiB, a buffer", "layer of 1 MiB, a buffer"
BYTES, BYTES_LARGE = "layer of 4 KiB, bytes", "layer of 1 MiB, bytes"
TOGETHER = "1,000 x 128 B in one call"
STORE, STORE_DURABLE = "store 1 KiB", "store 1 KiB, durable"
ALLOCATE, ALLOCATE_C = "block of 4 KiB and free", "block of 4 KiB in C"
RECORD, RECORD_C = "record a latency", "record a latency in C"
QUESTIONS = (
    BUFFER, BUFFER_LARGE, BYTES, BYTES_LARGE, TOGETHER, STORE, STORE_DURABLE, ALLOCATE, ALLOCATE_C, RECORD, RECORD_C,
)  # fmt: skip
BLOCK_BYTES = 4096
STORED = b"what is stored".ljust(1024, b".")
LATENCY_NS = 1234
N_LATENCIES = 256
LATENCIES_NS = (
    np.random.default_rng(1).lognormal(4, 0.5, N_LATENCIES).astype(np.uint64)
)  # around 55 ns, as accesses are
MOST_NS = 60_000_000_000  # the highest latency that the histograms tell from others


@dataclass(frozen=True, slots=True)
class Scale:
    """How much content there is, and how long is measured."""

    n_small: int = 64
    small_bytes: int = 4096
    n_large: int = 4
    large_bytes: int = 1 << 20
    n_many: int = 1000
    n_rounds: int = 80
    turn_ns: float = 4e5  # what one turn of one library takes, about: short, so that some of them are undisturbed
    n_stored: int = 16  # in a turn: after so many changes of a dimension ours have been merged once
    question_ns: float = 0.8e9  # after which a question is not asked again, but for N_LEAST rounds

    def contents(self) -> list[bytes]:
        """The layers: small ones, large ones, many tiny ones; each is known by its place in this list."""
        sizes = [self.small_bytes] * self.n_small + [self.large_bytes] * self.n_large + [128] * self.n_many
        return [f"{i:08}".encode() * (n_bytes // 8) for i, n_bytes in enumerate(sizes)]

    @property
    def small(self) -> int:
        return self.n_small // 2

    @property
    def large(self) -> int:
        return self.n_small + self.n_large // 2

    @property
    def many(self) -> range:
        return range(self.n_small + self.n_large, self.n_small + self.n_large + self.n_many)


def is_tiny() -> bool:
    """Whether times shall mean nothing and come at once, as JESSY_BENCH_SMALL says, which tests set."""
    return bool(os.environ.get("JESSY_BENCH_SMALL"))


def scale() -> Scale:
    return Scale(2, 4096, 2, 8192, 20, 2, 2e4, 2, 0) if is_tiny() else Scale()


@dataclass(frozen=True, slots=True)
class Way:
    """How a library answers a question: the call in words, what tells the ns of one of `n` calls, and its result."""

    how: str
    run: Callable[[int], float]
    result: Callable[[], Any] = lambda: None


@dataclass(frozen=True, slots=True)
class Setting:
    """Where each library puts the content; what it leaves open is closed at the end."""

    base: Path
    scale: Scale
    contents: list[bytes]
    end: ExitStack

    def folder(self, name: str) -> str:
        path = self.base / name
        path.mkdir()
        return str(path)

    def packed(self) -> tuple[bytes, list[slice]]:
        """All content in one piece, and where each layer lies, for who knows places and no keys."""
        ends = list(itertools.accumulate(map(len, self.contents)))
        return b"".join(self.contents), list(map(slice, [0, *ends], ends))

    def timed(self, how: str, statement: str, **names: Any) -> Way:
        timer = timeit.Timer(statement, globals=names)
        self.end.callback(names.clear)  # the timer's function may outlive its use, views must not
        return Way(how, lambda n: timer.timeit(n) * 1e9 / n, lambda: eval(statement, names))

    def reads(
        self, buffer: tuple[str, str], content: tuple[str, str], key: Callable[[int], Any] = int, **names: Any
    ) -> dict[str, Way]:
        """Ways to read the small and the large layer, ``k``, as a buffer and as bytes: (call in words, statement)."""
        small, large = key(self.scale.small), key(self.scale.large)
        return {
            BUFFER: self.timed(*buffer, k=small, **names),
            BUFFER_LARGE: self.timed(*buffer, k=large, **names),
            BYTES: self.timed(*content, k=small, **names),
            BYTES_LARGE: self.timed(*content, k=large, **names),
        }


class Missing(Exception):
    """A library that is not here; the message says which."""


def module(name: str) -> Any:
    """A module that may not be there."""
    try:
        return import_module(name)
    except ImportError:
        raise Missing(name) from None


def library(name: str) -> ctypes.CDLL:
    """The C library lib``name``.so, or Missing.

    It is looked for in the folder that JESSY_BENCH_PEERS names, where cmeel's packages put theirs, and in the system.
    """
    folders = [os.environ.get("JESSY_BENCH_PEERS", ""), f"{sysconfig.get_path('platlib')}/cmeel.prefix/lib"]
    for path in [*(f"{folder}/lib{name}.so" for folder in folders if folder), ctypes.util.find_library(name)]:
        with suppress(OSError):
            if path:
                return ctypes.CDLL(path)
    raise Missing(f"lib{name}.so")


def address_of(function: Any) -> int:
    """Where a function of a C library lies, for _probe.peers."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0
