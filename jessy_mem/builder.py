"""Build regions: collect layers, pack them, publish the file in one atomic step. The format is docs/format.md."""

from __future__ import annotations

import codecs
import hashlib
import math
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from jessy_mem import compression
from jessy_mem._core.format import read_header
from jessy_mem._core.mapping import copy_pieces
from jessy_mem._core.packing import pack_head, renumber_head, seal_head
from jessy_mem.layout import MAX_LAYER, LayerId
from jessy_mem.publish import Buffer, publish

__all__ = ["LayerSpec", "PackedRegion", "Passage", "RegionBuilder", "is_immutable_file"]

Progress = Callable[[int, int], object]

_MAX_CONTENT_BYTES = 2**32 - 1  # the format's content_size is 32 bits wide
_DECODED_BYTES = 1 << 20
_TEXT_UTF8, _TEXT_ASCII = 1, 2  # text flags of the format


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
    keywords : sequence of str
        Words the layer is found by.
    layer : int, optional
        0..65535; the position among the layers by default.
    compress : bool
        Store the layer compressed with zstd (the extra ``zstd``; Python 3.14 has it built in).
    """

    text: str | None = None
    content: Any = None
    depth: int = 0
    frequency: float = 1.0
    keywords: Sequence[str] = ()
    layer: int | None = None
    compress: bool = False

    def __post_init__(self) -> None:
        if (self.text is None) == (self.content is None):
            raise ValueError("text, content: give one of the two")
        if self.text is not None and not isinstance(self.text, str):
            raise ValueError(f"text: {type(self.text).__name__} is not str; bytes go into content")
        if self.content is not None:
            try:
                memoryview(self.content).release()
            except TypeError:
                raise ValueError(f"content: {type(self.content).__name__} is not bytes-like") from None
        if not isinstance(self.depth, int) or not 0 <= self.depth <= 255:
            raise ValueError(f"depth: {self.depth!r} is not in 0..255")
        if self.layer is not None and (not isinstance(self.layer, int) or not 0 <= self.layer <= MAX_LAYER):
            raise ValueError(f"layer: {self.layer!r} is not in 0..{MAX_LAYER}")
        if not _is_frequency(self.frequency):
            raise ValueError(f"frequency: {self.frequency!r} is not a finite number of Hz above 0")
        if isinstance(self.keywords, str) or not all(isinstance(word, str) for word in self.keywords):
            raise ValueError(f"keywords: {self.keywords!r} is not a sequence of str")
        object.__setattr__(self, "keywords", tuple(self.keywords))


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


def _is_frequency(frequency: object) -> bool:
    if not isinstance(frequency, (int, float)):
        return False
    try:
        stored = struct.unpack("<f", struct.pack("<f", frequency))[0]
    except OverflowError:
        return False
    return math.isfinite(stored) and stored > 0


class PackedRegion:
    """A region as it will be stored: the head, and the contents with the zeros between them."""

    def __init__(self, head: bytearray, offsets: list[int], contents: list[list[Buffer]], n_bytes: int) -> None:
        self.head = head
        self.n_bytes = n_bytes
        self._offsets = offsets
        self._contents = contents

    def seal(self, immutable: bool) -> None:
        """Fill in the digests of the header: over the head, and for an immutable region over what follows it."""
        digest = hashlib.sha256()
        if immutable:
            for piece in self.content_pieces():
                digest.update(piece)
        seal_head(self.head, digest.digest() if immutable else None)

    def renumber(self, dimension_id: int) -> None:
        """Give the region, which is not immutable, another id."""
        renumber_head(self.head, dimension_id)

    def pieces(self) -> Iterator[Buffer]:
        """The bytes in order, without a copy of any content."""
        yield self.head
        yield from self.content_pieces()

    def content_pieces(self) -> Iterator[Buffer]:
        """The bytes behind the head: for each content the gap before it, if there is one, and itself."""
        end = len(self.head)
        for offset, content in zip(self._offsets, self._contents, strict=True):
            if offset > end:
                yield bytes(offset - end)
            yield from content
            end = offset + _length(content)

    def fill(self, target: memoryview) -> None:
        """Copy the region into the first `n_bytes` of a writable buffer that may hold anything."""
        copy_pieces(target, self.pieces())


class RegionBuilder:
    """Builds one region file.

    Parameters
    ----------
    dimension_id : int
        At least 1.
    name : str
        1 to 64 bytes of UTF-8.
    immutable : bool
        The file carries a SHA-256 of its content and refuses every change.
    generation : int, optional
        By default 1, or one more than that of the file that is replaced.
    created_ns : int, optional
        The time of creation, since 1970; by default now, or ``SOURCE_DATE_EPOCH`` (in seconds) if that is set.

    Not thread-safe: one builder, one thread.

    >>> data = RegionBuilder(15, "Humor").add_layer(LayerSpec(text="a joke", keywords=("joke",))).to_bytes()
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
        self.name = name
        self.immutable = immutable
        self.generation = generation
        self.created_ns = created_ns
        if not isinstance(name, str):
            raise TypeError(f"name: {type(name).__name__} is not str")
        self._name_bytes = name.encode()
        if not 1 <= len(self._name_bytes) <= 64:
            raise ValueError(f"name: {name!r} takes {len(self._name_bytes)} bytes of UTF-8, expected 1..64")
        if generation is not None and (not isinstance(generation, int) or not 1 <= generation < 2**64):
            raise ValueError(f"generation: {generation!r} is not in 1..2**64 - 1")
        if created_ns is not None and (not isinstance(created_ns, int) or not 0 <= created_ns < 2**64):
            raise ValueError(f"created_ns: {created_ns!r} is not in 0..2**64 - 1")
        self._specs: dict[int, LayerSpec] = {}
        self._passages: dict[int, Sequence[Passage]] = {}

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
        self._passages[layer] = passages
        return self

    def pack(self, generation: int) -> PackedRegion:
        """Lay the region out and compute its checksums."""
        if not self._specs:
            raise ValueError("a region has at least one layer")
        contents: list[list[Buffer]] = []
        records: list[tuple[int, int, float, Sequence[bytes], int, int, int, int, int, int]] = []
        for layer, spec in sorted(self._specs.items()):
            raw, raw_bytes, flags, n_characters = _raw_content(layer, spec, self._passages[layer])
            stored, stored_bytes, codec = raw, raw_bytes, compression.RAW
            if spec.compress:
                frame, codec = compression.compress(b"".join(raw) if len(raw) > 1 else raw[0])
                stored, stored_bytes = [frame], len(frame)
            keywords = [_encoded(word, layer, "keyword") for word in spec.keywords]
            contents.append(stored)
            facts = (stored_bytes, raw_bytes, codec, flags, n_characters, _checksum(stored))
            records.append((layer, spec.depth, spec.frequency, keywords, *facts))
        created_ns = _now_ns() if self.created_ns is None else self.created_ns
        head, offsets, n_bytes = pack_head(
            self.dimension_id, self._name_bytes, self.immutable, generation, created_ns, records
        )
        region = PackedRegion(head, offsets, contents, n_bytes)
        region.seal(self.immutable)
        return region

    def to_bytes(self) -> bytes:
        """The whole region as bytes. ValueError if there is no layer."""
        return b"".join(self.pack(self.generation or 1).pieces())

    def write(self, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Publish the region at `path`, atomically and durably; folders are made.

        `progress(done_bytes, total_bytes)` is called as the file grows. Whoever has the old file mapped keeps it.
        Raises ValueError if there is no layer, MappingError (errno, filename) if the system refuses; the file that was
        there is then untouched and nothing is left behind. If only the last step fails, the fsync of the folder, then
        the new file is there, whole, and may be lost in a power cut.
        """
        target = Path(path)
        region = self.pack(self.generation or _stored_generation(target) + 1)

        def report(done_bytes: int) -> None:
            if progress is not None:
                progress(done_bytes, region.n_bytes)

        publish(region.pieces(), target, report, follow_links=True)
        return target


def _raw_content(layer: int, spec: LayerSpec, passages: Sequence[Passage]) -> tuple[list[Buffer], int, int, int]:
    """The pieces of a layer, their bytes, its text flags and its number of characters (0 if it is not text)."""
    raw: list[Buffer]
    if spec.text is None:
        raw = [_flat(spec.content)]
    else:
        raw = [_encoded(spec.text, layer, "text"), *[passage.data for passage in passages]]
    raw_bytes = _length(raw)
    if raw_bytes > _MAX_CONTENT_BYTES:
        raise ValueError(f"layer {layer}: {raw_bytes} bytes, a layer stores at most {_MAX_CONTENT_BYTES}")
    if spec.text is None:
        try:
            n_characters = _count_characters(raw[0])
        except UnicodeDecodeError:
            return raw, raw_bytes, 0, 0
    else:
        n_characters = len(spec.text) + sum([passage.n_characters for passage in passages])
    flags = _TEXT_UTF8 | (_TEXT_ASCII if n_characters == raw_bytes else 0)  # no other character takes one byte
    return raw, raw_bytes, flags, n_characters


def _count_characters(content: Buffer) -> int:
    """How many characters a content is; UnicodeDecodeError if it is not UTF-8.

    In parts: as one str it would take its memory once more, and the GIL all the time.
    """
    if len(content) <= _DECODED_BYTES:
        return len(str(content, "utf-8"))
    n_characters = at = 0
    with memoryview(content) as whole:
        while at < len(whole):
            end = min(at + _DECODED_BYTES, len(whole))
            text, n_bytes = codecs.utf_8_decode(whole[at:end], "strict", end == len(whole))
            n_characters += len(text)
            at += n_bytes
    return n_characters


def _length(pieces: list[Buffer]) -> int:
    return len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))


def _checksum(pieces: list[Buffer]) -> int:
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    checksum = xxhash.xxh3_64()
    for piece in pieces:
        checksum.update(piece)
    return checksum.intdigest()


def _flat(content: Any) -> Buffer:
    """The bytes of any buffer, without a copy if they lie in order."""
    if isinstance(content, bytes):
        return content
    view = memoryview(content)
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # strided, empty in several dimensions, or of a format that cannot be cast
        return view.tobytes()


def _encoded(text: str, layer: int, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        reason = f"{error.reason}, in a {what} of layer {layer}"
        raise UnicodeEncodeError(error.encoding, error.object, error.start, error.end, reason) from None


def _now_ns() -> int:
    """The time of creation: SOURCE_DATE_EPOCH if it is set, so that the same input gives the same bytes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return time.time_ns()
    if not (epoch.isascii() and epoch.isdecimal() and int(epoch) * 10**9 < 2**64):
        raise ValueError(f"SOURCE_DATE_EPOCH: {epoch!r} is not a number of seconds since 1970")
    return int(epoch) * 10**9


def _stored_generation(path: Path) -> int:
    """The generation of the region file at `path`; 0 if there is none, or no region."""
    _, _, generation, _ = _stored_header(path)
    return generation if generation < 2**64 - 1 else 0  # no writer comes that far; the next number must fit


def is_immutable_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a region file at `path` that says it is immutable; nothing else of it is looked at."""
    _, _, _, immutable = _stored_header(Path(path))
    return immutable


def _stored_header(path: Path) -> tuple[int, str, int, bool]:
    """The id, name, generation and immutability of the region file at `path`; all empty if it is none."""
    nothing = (0, "", 0, False)
    try:
        if not path.is_file():  # to open a FIFO would wait for its writer
            return nothing
        with path.open("rb") as file:
            return read_header(file) or nothing
    except OSError:
        return nothing
