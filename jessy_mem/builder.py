"""Build regions: collect layers, pack them, publish the file in one atomic step. The format is docs/format.md."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jessy_mem import given
from jessy_mem._core.folder import delta_generations
from jessy_mem._core.format import stored_frequency
from jessy_mem._core.head import MAX_LAYER_ATTRIBUTES_BYTES, MAX_NAME_BYTES, read_header
from jessy_mem._core.packing import PackedRegion, pack_layers
from jessy_mem.errors import MappingError
from jessy_mem.layout import MAX_LAYER, LayerId, has_deltas
from jessy_mem.publish import publish

__all__ = ["LayerSpec", "PackedRegion", "Passage", "RegionBuilder", "is_immutable_file"]

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What goes into one layer. Give `text` or `content`, not both.

    Parameters
    ----------
    text : str, optional
        Stored as UTF-8.
    content : bytes-like, optional
        Stored as it is; it must stay unchanged until the region is written.
    depth : int
        0..255.
    frequency : float
        Hz; finite, above 0. Stored as a 32-bit float.
    keywords : iterable of str
        Words the layer is found by; it is read once. Those of a set are sorted.
    layer : int, optional
        0..65535; the position among the layers by default.
    compress : bool
        Store the layer compressed with zstd (the extra ``zstd``; Python 3.14 has it built in).
    attributes : mapping of str to JSON values, optional
        What else is known of the layer; copied. At most 65,536 bytes as JSON in UTF-8.
    n_tokens : int, optional
        How many tokens the content is for a model, 0..2**32 - 1; 0 or None: unknown.
    created_ns : int, optional
        The time of creation, since 1970; by default that of the file.

    Numbers may be of any type: numpy scalars, Decimal, Fraction. Raises ValueError, which names the field, for what
    cannot be stored.
    """

    text: str | None = None
    content: Any = None
    depth: int = 0
    frequency: float = 1.0
    keywords: Iterable[str] = ()  # a tuple, once it is made
    layer: int | None = None
    compress: bool = False
    attributes: Mapping[str, Any] | None = None
    n_tokens: int | None = None
    created_ns: int | None = None
    _attributes_json: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.content is None):
            raise ValueError("text, content: give one of the two")
        if self.text is not None and type(self.text) is not str:
            if not isinstance(self.text, str):
                raise ValueError(f"text: {type(self.text).__name__} is not str; bytes go into content")
            object.__setattr__(self, "text", str.__str__(self.text))  # of a subclass, such as numpy's, the plain str
        if self.content is not None:
            try:
                memoryview(self.content).release()
            except TypeError:
                raise ValueError(f"content: {type(self.content).__name__} is not bytes-like") from None
        frequency = _frequency(self.frequency)
        try:
            keywords = given.words(self.keywords)
        except TypeError as error:
            raise ValueError(f"keywords: {error}") from None
        object.__setattr__(self, "depth", given.integer_in("depth", self.depth, 0, 255))
        for field_name, most in (("layer", MAX_LAYER), ("n_tokens", 2**32 - 1), ("created_ns", 2**64 - 1)):
            value = getattr(self, field_name)
            if value is not None:
                object.__setattr__(self, field_name, given.integer_in(field_name, value, 0, most))
        object.__setattr__(self, "frequency", frequency)
        object.__setattr__(self, "keywords", keywords)
        if self.attributes is not None:
            encoded = _encoded_attributes(self.attributes)
            object.__setattr__(self, "attributes", json.loads(encoded))
            if encoded != b"{}":
                object.__setattr__(self, "_attributes_json", encoded)


class Passage(NamedTuple):
    """A piece of text, encoded once however often it recurs."""

    data: bytes
    n_characters: int

    @classmethod
    def of(cls, text: str) -> Passage:
        return cls(text.encode(), len(text))

    @classmethod
    def joined(cls, parts: Iterable[Passage]) -> Passage:
        data, n_characters = zip(*parts, strict=True)
        return cls(b"".join(data), sum(n_characters))

    def repeated(self, n: int) -> Passage:
        return Passage(n * self.data, n * self.n_characters)


def _encoded_attributes(attributes: object) -> bytes:
    """Attributes as they are stored; ValueError if they cannot be."""
    if not isinstance(attributes, Mapping):
        raise ValueError(f"attributes: {type(attributes).__name__} is not a mapping")
    for key in attributes:
        if not isinstance(key, str):  # JSON would take it for its text
            raise ValueError(f"attributes: the key {key!r} is not str")
    try:
        encoded = given.encoded(dict(attributes)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"attributes: {error}") from error
    if len(encoded) > MAX_LAYER_ATTRIBUTES_BYTES:
        raise ValueError(f"attributes: {len(encoded)} bytes of JSON, expected at most {MAX_LAYER_ATTRIBUTES_BYTES}")
    return encoded


def _frequency(value: Any) -> float:
    try:
        frequency = given.number(value)
    except (TypeError, ValueError):
        frequency = math.nan
    if not 0 < stored_frequency(frequency) < math.inf:
        raise ValueError(f"frequency: {value!r} is not a finite number of Hz above 0")
    return frequency


class RegionBuilder:
    """Builds one region file.

    Parameters
    ----------
    dimension_id : int
        At least 1.
    name : str
        1 to 64 bytes of UTF-8, NFC-normalised here.
    immutable : bool
        The file carries a SHA-256 of its content and refuses every change.
    generation : int, optional
        By default 1, or one more than that of the newest file that is replaced: no delta beside it lies on what is new.
    created_ns : int, optional
        The time of creation, since 1970; by default now, or ``SOURCE_DATE_EPOCH`` (in seconds) if that is set.

    Not thread-safe: one builder, one thread.

    >>> returns = LayerSpec(text="Returns are free for 30 days.", keywords=["returns"])
    >>> data = RegionBuilder(15, "policies").add_layer(returns).to_bytes()
    >>> data[84:97]
    b'JESSY_MMAP_V1'
    """

    def __init__(
        self,
        dimension_id: int,
        name: str,
        *,
        immutable: bool = False,
        generation: int | None = None,
        created_ns: int | None = None,
    ) -> None:
        self.dimension_id = LayerId.checked((dimension_id, 0)).dimension
        self.immutable = immutable
        self.generation = None if generation is None else given.integer_in("generation", generation, 1, 2**64 - 1)
        self.created_ns = None if created_ns is None else given.integer_in("created_ns", created_ns, 0, 2**64 - 1)
        if not isinstance(name, str):
            raise TypeError(f"name: {type(name).__name__} is not str")
        self.name = unicodedata.normalize("NFC", name)  # the same name is the same bytes, however it was typed
        self._name_bytes = self.name.encode()
        if not 1 <= len(self._name_bytes) <= MAX_NAME_BYTES:
            n_bytes = len(self._name_bytes)
            raise ValueError(f"name: {name!r} takes {n_bytes} bytes of UTF-8, expected 1..{MAX_NAME_BYTES}")
        self._specs: dict[int, LayerSpec | None] = {}  # None: a tombstone
        self._passages: dict[int, Sequence[Passage]] = {}
        self._delta = False

    def add_layer(self, spec: LayerSpec) -> RegionBuilder:
        """Add a layer; ValueError if its number is taken or it cannot be stored. Returns the builder."""
        return self._add_continued(spec, ())

    def _add_continued(self, spec: LayerSpec, passages: Sequence[Passage]) -> RegionBuilder:
        """Add a layer whose text goes on with `passages`.

        One that recurs is held once, so that a layer can be much larger than what it is made from.
        """
        if not isinstance(spec, LayerSpec):
            raise TypeError(f"layer {len(self._specs)}: {type(spec).__name__} is not a LayerSpec")
        layer = len(self._specs) if spec.layer is None else spec.layer
        if layer in self._specs:
            raise ValueError(f"layer {layer} was added before")
        if layer > MAX_LAYER:
            raise ValueError(f"layer {layer}: a region has at most {MAX_LAYER + 1} layers")
        if passages and spec.text is None:
            raise ValueError("passages: they continue a text, and there is none")
        self._specs[layer] = spec
        if passages:
            self._passages[layer] = passages
        return self

    def _remove_layer(self, layer: int) -> RegionBuilder:
        """Say that a layer is removed, which makes the region a delta."""
        if layer in self._specs:
            raise ValueError(f"layer {layer} was added before")
        self._specs[layer] = None
        self._delta = True
        return self

    def pack(self, generation: int) -> PackedRegion:
        """Lay the region out and compute its checksums."""
        if not self._specs:
            raise ValueError("a region has at least one layer")
        created_ns = now_ns() if self.created_ns is None else self.created_ns
        return pack_layers(
            self.dimension_id, self._name_bytes, generation, created_ns, self._specs, self._passages,
            immutable=self.immutable, delta=self._delta,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """The whole region as bytes. ValueError if there is no layer."""
        return b"".join(self.pack(self.generation or 1).pieces())

    def write(self, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Publish the region at `path`, atomically and durably; folders are made.

        `progress(done_bytes, total_bytes)` is called as the file grows. Whoever has the old file mapped keeps it.
        Raises ValueError if there is no layer, MappingError (errno, filename) if the system refuses, or `path` is a
        device or a link to one; the file that was there is then untouched and nothing is left behind. If only the last
        step fails, the fsync of the folder, then the new file is there, whole, and may be lost in a power cut.
        """
        target = Path(path)
        region = self.pack(self.generation or _newest_generation(target) + 1)

        def report(done_bytes: int) -> None:
            if progress is not None:
                progress(done_bytes, region.n_bytes)

        publish(region.pieces(), target, report, follow_links=True)
        return target


def now_ns() -> int:
    """The time of creation: SOURCE_DATE_EPOCH if it is set, so that the same input gives the same bytes."""
    if "SOURCE_DATE_EPOCH" not in os.environ:  # to get what is missing takes twice as long
        return time.time_ns()
    epoch = os.environ["SOURCE_DATE_EPOCH"]
    if not epoch:
        return time.time_ns()
    if not (epoch.isascii() and epoch.isdecimal() and int(epoch) * 10**9 < 2**64):
        raise ValueError(f"SOURCE_DATE_EPOCH: {epoch!r} is not a number of seconds since 1970")
    return int(epoch) * 10**9


def _newest_generation(path: Path) -> int:
    """The generation of the region file at `path`, or of the newest delta beside it; 0 if there is neither."""
    base = os.fspath(path)
    generation = max([stored_generation(path), *(delta_generations(base) if has_deltas(base) else ())])
    return generation if generation < 2**64 - 1 else 0  # no writer comes that far; the next number must fit


def is_immutable_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a region file at `path` that says it is immutable; MappingError if it cannot be read."""
    try:
        return _stored_header(Path(path))[3]
    except OSError as error:
        raise MappingError.of(error, path) from error


def stored_generation(path: str | os.PathLike[str]) -> int:
    """The generation of the region file at `path`; 0 if it says none, or there is none that can be read."""
    try:
        return _stored_header(Path(path))[2]
    except OSError:
        return 0


def _stored_header(path: Path) -> tuple[int, str, int, bool]:
    """The id, name, generation and immutability of the region file at `path`; all empty if it is none."""
    nothing = (0, "", 0, False)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO would wait for its writer
            return nothing
        with path.open("rb") as file:
            return read_header(file) or nothing
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return nothing
        raise
