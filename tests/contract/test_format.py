"""The format, rule by rule: docs/format.md against the reader, and the builder against docs/format.md."""

from __future__ import annotations

import errno
import os
import random
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import jessy_mem
from helpers import (
    COMPRESSED_SAMPLE,
    DELTA_SAMPLE,
    HAS_PROC,
    HEADER_BYTES,
    MAGIC,
    QUIET,
    RECORD_MIN_BYTES,
    SAMPLE,
    TOMBSTONES,
    Layer,
    Region,
    align,
    extended_file,
    patch,
    plain_file,
    read_region,
    redigest,
    redigest_content,
)
from jessy_mem import compression
from jessy_mem._core.mapped import map_file
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import LayerSpec, RegionBuilder
from jessy_mem.errors import ChecksumMismatch, DimensionNotFound, InvalidRegion, MappingError, RegionTruncated

WIDE_SAMPLE = (
    replace(SAMPLE[0], created_ns=7, attributes='{"ort":"Köln"}'.encode()),
    replace(SAMPLE[1], n_tokens=6),
    *SAMPLE[2:],
)
FILES = {
    "plain": plain_file(),
    "extended": extended_file(),
    "immutable": extended_file(immutable=True),
    "wide": extended_file(WIDE_SAMPLE, version=2),
    "delta": extended_file(DELTA_SAMPLE, version=2, delta=True),
    "compressed": extended_file((COMPRESSED_SAMPLE[0], replace(COMPRESSED_SAMPLE[1], keywords=(b"quiet!",)))),
}
SOUND = {kind: read_region(data) for kind, data in FILES.items()}


@dataclass(frozen=True)
class Hostile:
    """A sound file of `kind` with `field` (as helpers name it) set to `value`, and the error that it must give."""

    kind: str
    field: str
    value: object
    named: str  # the error's field
    found: object  # and what it found
    expected: str  # a regular expression
    layer: int | None = None
    error: type = InvalidRegion

    def __str__(self) -> str:
        value = self.value if not isinstance(self.value, bytes) else self.value[:8]
        return f"{self.kind}-{self.field}={value!r}"


def name_field(name: bytes) -> bytes:
    return name + bytes(64 - len(name))


def hostile_header(kind: str) -> list[Hostile]:
    """Rules of the header that hold for each kind of file."""
    size, n_layers = len(FILES[kind]), len(SOUND[kind].layers)
    most_layers = (size - HEADER_BYTES) // RECORD_MIN_BYTES
    rows = [
        Hostile(kind, "magic", b"JESSY_MMAP_V2\0\0\0", "magic", repr(b"JESSY_MMAP_V2\0\0\0"), re.escape(repr(MAGIC))),
        Hostile(kind, "magic", MAGIC[:13] + b"\0\0\1", "magic", repr(MAGIC[:13] + b"\0\0\1"), re.escape(repr(MAGIC))),
        Hostile(kind, "magic", bytes(16), "magic", repr(bytes(16)), "JESSY_MMAP_V1"),
        Hostile(kind, "dimension_id", 0, "dimension_id", 0, "at least 1"),
        Hostile(kind, "dimension_id", 4, "dimension_id", 4, "3, the dimension that was asked for"),
        Hostile(kind, "dimension_id", 2**32 - 1, "dimension_id", 2**32 - 1, "3, the dimension"),
        Hostile(kind, "dimension_name_len", 0, "dimension_name_len", 0, r"1\.\.64"),
        Hostile(kind, "dimension_name_len", 65, "dimension_name_len", 65, r"1\.\.64"),
        Hostile(kind, "dimension_name_len", 2**32 - 1, "dimension_name_len", 2**32 - 1, r"1\.\.64"),
        Hostile(kind, "dimension_name_len", 8, "dimension_name", "other bytes", "zeros after the name"),
        Hostile(kind, "dimension_name", name_field(b"Intention\1"), "dimension_name", "other bytes", "zeros after"),
        Hostile(kind, "dimension_name", b"Intention".ljust(63, b"\0") + b"x", "dimension_name", "other bytes", "zeros"),
    ]
    bad_utf8 = (b"\xff23456789", b"12345678\xc3", b"123456\xed\xa0\x80", b"1234567\xc0\xaf", b"12345\xf4\x90\x80\x80")
    for name in bad_utf8:
        rows.append(Hostile(kind, "dimension_name", name_field(name), "dimension_name", "other bytes", "valid UTF-8"))
    for total in (size + 1, 2 * size, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        expected = f"a file of {total} bytes, as its header says"
        rows.append(Hostile(kind, "total_size", total, "total_size", f"{size} bytes", expected, error=RegionTruncated))
    for total in (size - 1, HEADER_BYTES, 0):
        rows.append(Hostile(kind, "total_size", total, "total_size", total, f"{size}, the size of the file"))
    for count in (0, most_layers + 1, 65536, 65537, 2**31, 2**32 - 1):
        rows.append(
            Hostile(kind, "layer_count", count, "layer_count", count, f"at least 1, and at most {most_layers} in")
        )
    assert n_layers < most_layers < 65536
    rows += [
        Hostile(kind, "extension_version", 3, "extension_version", 3, "needs a reader of extension version 3"),
        Hostile(kind, "extension_version", 65535, "extension_version", 65535, "extension version 65535"),
        Hostile(kind, "required_features", 4, "required_features", "0x4", "no bit but 0x3: the file needs a reader"),
        Hostile(kind, "required_features", 0x8001, "required_features", "0x8001", "no bit but 0x3"),
        Hostile(kind, "reserved", b"\1" + bytes(75), "reserved", "other bytes", "zeros"),
        Hostile(kind, "reserved", bytes(75) + b"\x80", "reserved", "other bytes", "zeros"),
        Hostile(kind, "padding", b"\1\0\0\0", "reserved", "other bytes", "zeros"),
        Hostile(kind, "padding", b"\0\0\0\1", "reserved", "other bytes", "zeros"),
    ]
    return rows


def hostile_records(kind: str) -> list[Hostile]:
    """Rules of the layer records that hold for each kind of file."""
    region, size = SOUND[kind], len(FILES[kind])
    end = size if kind == "plain" else region.at["layers[0].xxh3"][0]
    rows = [
        Hostile(kind, "layers[1].layer_num", 0, "layer_num", 0, "more than 0, for layers ascend", 0),
        Hostile(kind, "layers[0].layer_num", 1, "layer_num", 1, "more than 1", 1),
        Hostile(kind, "layers[0].layer_num", 65535, "layer_num", 1, "more than 65535", 1),
    ]
    for value in (float("inf"), -float("inf"), 0.0, -0.0, -1.0, float("nan")):
        rows.append(Hostile(kind, "layers[1].frequency", value, "frequency", value, "finite and above 0 Hz", 1))
    left = (end - region.at["layers[0].keyword_count"][0] - 4 - 12) // 4
    counts = [2**32 - 1, 2**31] + ([left + 1] if kind == "plain" else [])
    for count in counts:
        rows.append(
            Hostile(kind, "layers[0].keyword_count", count, "keyword_count", count, "at most [0-9]+, for the bytes", 0)
        )
    for length in (2**32 - 1, 2**31, size):
        if "layers[0].keywords[1].length" in region.at:
            at = "layers[0].keywords[1].length"
            rows.append(Hostile(kind, at, length, "keyword length", length, "at most [0-9]+, for the bytes left", 0))
    if "layers[0].keywords[1]" in region.at:
        rows.append(Hostile(kind, "layers[0].keywords[1]", b"tear\xff", "keyword", "other bytes", "valid UTF-8", 0))
        rows.append(Hostile(kind, "layers[0].keywords[0]", b"moo\xc3", "keyword", "other bytes", "valid UTF-8", 0))
    for length in (2**32 - 1, size):
        field = "layers[1].content_size"
        if kind == "plain":
            left = size - region.layers[1].offset
            rows.append(Hostile(kind, field, length, "content_size", length, f"at most {left}, the bytes left", 1))
    return rows


def hostile_plain() -> list[Hostile]:
    """What only a plain V1 file can break."""
    region, size = SOUND["plain"], len(FILES["plain"])
    metadata_end = region.at["layers[3].content_size"][0] + 4
    rows = [
        Hostile("plain", "required_features", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "optional_features", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "metadata_size", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "generation", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "created_ns", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "extension_table_offset", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "metadata_xxh3", 1, "reserved", "other bytes", "zeros"),
        Hostile("plain", "content_sha256", bytes(31) + b"\1", "reserved", "other bytes", "zeros"),
        # Layer 0 has 25 bytes and ends where layer 1 begins; one byte on it runs into it, and so on.
        Hostile("plain", "layers[0].content_size", 26, "content_offset", metadata_end + 25,
                f"at least {metadata_end + 26}, where another layer ends", 1),
        Hostile("plain", "layers[1].content_offset", metadata_end + 24, "content_offset", metadata_end + 24,
                f"at least {metadata_end + 25}, where another", 1),
        Hostile("plain", "layers[2].content_offset", metadata_end, "content_offset", ".*", "where another layer ends",
                ".*"),
        Hostile("plain", "layers[2].content_size", len(SAMPLE[2].content) + 1, "content_size",
                len(SAMPLE[2].content) + 1, f"at most {len(SAMPLE[2].content)}, the bytes left", 7),
    ]  # fmt: skip
    for offset in (0, HEADER_BYTES, metadata_end - 1, size + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 25):
        rows.append(
            Hostile("plain", "layers[0].content_offset", offset, "content_offset", offset,
                    f"at least {metadata_end}, where the metadata ends, and inside the file", 0)
        )  # fmt: skip
    for offset in (size - 24, size):
        rows.append(
            Hostile("plain", "layers[0].content_offset", offset, "content_size", 25,
                    f"at most {size - offset}, the bytes left", 0)
        )  # fmt: skip
    return rows


def hostile_extended(kind: str) -> list[Hostile]:
    """What only an extended file can break."""
    region, size = SOUND[kind], len(FILES[kind])
    table = region.at["layers[0].xxh3"][0]
    metadata_size = struct.unpack_from("<I", FILES[kind], 108)[0]
    first = region.layers[0]
    rows = [
        Hostile(kind, "extension_version", 0, "reserved", "other bytes", "zeros"),
        Hostile(kind, "generation", 0, "generation", 0, "at least 1"),
        Hostile(kind, "metadata_size", 0, "extension_table_offset", table, "256"),
        Hostile(kind, "metadata_size", 2**32 - 1, "metadata_size", 2**32 - 1, f"at most {size - 256}, the"),
        Hostile(kind, "metadata_size", size - 255, "metadata_size", size - 255, f"at most {size - 256}"),
    ]
    for offset in (0, 256, table - 8, table + 8, table + 1, size, 2**63, 2**64 - 8, 2**64 - 1):
        rows.append(Hostile(kind, "extension_table_offset", offset, "extension_table_offset", offset, f"{table}"))
    padding = table - HEADER_BYTES - metadata_size
    assert padding in range(1, 8)  # so the rows below can break what they mean to
    rows += [
        Hostile(kind, "metadata_size", metadata_size + 1, "metadata_size", metadata_size + 1,
                f"{metadata_size}, the bytes of the layer records"),
        Hostile(kind, "layers[0].content_offset", first.offset + 64, "content_offset", first.offset + 64,
                f"{first.offset}, for contents follow each other", first.layer),
        Hostile(kind, "layers[0].content_offset", first.offset - 1, "content_offset", first.offset - 1,
                f"{first.offset}, for", first.layer),
        Hostile(kind, "layers[0].content_offset", 2**64 - 1, "content_offset", 2**64 - 1, f"{first.offset}, for",
                first.layer),
        Hostile(kind, "layers[1].content_offset", first.offset, "content_offset", first.offset, "[0-9]+, for contents",
                region.layers[1].layer),
        Hostile(kind, "layers[0].codec", 2, "codec", 2, r"0 \(raw\) or 1 \(zstd\)", first.layer),
        Hostile(kind, "layers[0].codec", 255, "codec", 255, r"0 \(raw\) or 1 \(zstd\)", first.layer),
        Hostile(kind, "layers[0].raw_size", len(first.content) + 1, "raw_size", len(first.content) + 1,
                f"{len(first.content)}, the bytes of the content", first.layer),
        Hostile(kind, "layers[0].raw_size", 2**64 - 1, "raw_size", 2**64 - 1, f"{len(first.content)}, the bytes",
                first.layer),
        Hostile(kind, "layers[0].text_flags", 2, "text flags", 2, "0, 1", first.layer),
        Hostile(kind, "layers[0].text_flags", 4, "text flags", 4, "0, 1", first.layer),
        Hostile(kind, "layers[0].text_flags", 0x83, "text flags", 0x83, "0, 1", first.layer),
        Hostile(kind, "layers[0].text_flags", 0, "characters", len(first.content), "at most 0, for", first.layer),
        Hostile(kind, "layers[0].characters", len(first.content) + 1, "characters", len(first.content) + 1,
                f"at most {len(first.content)}, for", first.layer),
        Hostile(kind, "layers[0].characters", len(first.content) - 1, "characters", len(first.content) - 1,
                f"at least {len(first.content)}, for", first.layer),
        Hostile(kind, "layers[0].characters", 2**32 - 1, "characters", 2**32 - 1, "at most", first.layer),
        Hostile(kind, "layers[0].zero", 1, "reserved bytes of the extension table", "other bytes", "zeros",
                first.layer),
        Hostile(kind, "layers[0].zero_too", 2**63, "reserved bytes of the extension table", "other bytes", "zeros",
                first.layer),
    ]  # fmt: skip
    if kind != "immutable":
        rows.append(Hostile(kind, "content_sha256", bytes(31) + b"\1", "content_sha256", "other bytes", "zeros, for"))
    if kind == "extended":
        last = region.layers[2]
        rows += [
            Hostile(kind, "layers[0].codec", 1, "codec", 1, r"0 \(raw\), for required_features announce no", 0),
            # Layer 1 holds 19 characters in 21 bytes; 6 are as few as 21 bytes can be.
            Hostile(kind, "layers[1].characters", 5, "characters", 5, "at least 6, for", 1),
            Hostile(kind, "layers[1].text_flags", 3, "characters", 19, "at least 21, for", 1),
            Hostile(kind, "layers[2].text_flags", 1, "characters", 0, "at least [0-9]+, for", 7),
            Hostile(kind, "layers[3].content_offset", size + 64, "content_offset", size + 64, f"{size}, for", 9),
            Hostile(kind, "layers[2].content_offset", last.offset - 64, "content_offset", last.offset - 64,
                    f"{last.offset}, for", 7),
        ]  # fmt: skip
    if kind == "compressed":
        most = len(COMPRESSED_SAMPLE[1].content) // 4 * 131072
        rows += [
            Hostile(kind, "layers[1].raw_size", most + 1, "raw_size", most + 1, f"at most {most}", 1),
            Hostile(kind, "layers[1].raw_size", 2**32 + 1, "raw_size", 2**32 + 1, f"at most {most}", 1),
            Hostile(kind, "layers[1].raw_size", 2**64 - 1, "raw_size", 2**64 - 1, f"at most {most}", 1),
        ]
    return rows


def hostile_wide() -> list[Hostile]:
    """What only a file of extension version 2 can break."""
    kind, region, size = "wide", SOUND["wide"], len(FILES["wide"])
    table_end, n_bytes = region.at["layers[0].attributes"][0], len(region.layers[0].attributes)
    rows = [
        Hostile(kind, "layers[0].attributes_size", 65537, "attributes_size", 65537, "at most 65536", 0),
        Hostile(kind, "layers[3].attributes_size", 2**32 - 1, "attributes_size", 2**32 - 1, "at most 65536", 9),
        Hostile(kind, "layers[0].attributes_size", 65536, "attributes_size", 65536,
                f"at most {size - table_end}, the bytes left", 0),
        Hostile(kind, "layers[1].attributes_size", size - table_end, "attributes_size", size - table_end,
                f"at most {size - table_end - n_bytes}, the bytes left", 1),
        Hostile(kind, "layers[0].attributes_size", n_bytes - 1, "gap", "other bytes", "zeros", 0),
        Hostile(kind, "layers[1].attributes_size", 1, "attributes_offset", 0, f"{table_end + n_bytes}", 1),
        Hostile(kind, "layers[0].zero_last", 1, "reserved bytes of the extension table", "other bytes", "zeros", 0),
        Hostile(kind, "layers[3].zero_last", 2**63, "reserved bytes of the extension table", "other bytes", "zeros", 9),
        Hostile(kind, "layers[0].attributes", b'{"ort":"K\xf6ln"}', "attributes", "other bytes", "valid UTF-8", 0),
    ]  # fmt: skip
    for offset in (0, 1, 256, table_end - 64, table_end + 1, size, 2**32, 2**63, 2**64 - 1):
        rows.append(Hostile(kind, "layers[0].attributes_offset", offset, "attributes_offset", offset,
                            f"{table_end} .*for attributes follow each other", 0))  # fmt: skip
    for offset in (1, table_end, table_end + n_bytes + 1, 2**64 - 1):
        rows.append(Hostile(kind, "layers[3].attributes_offset", offset, "attributes_offset", offset,
                            f"{table_end + n_bytes} .*for attributes follow", 9))  # fmt: skip
    return rows


def hostile_delta() -> list[Hostile]:
    """What only a file with tombstones can break."""
    kind, removed = "delta", "for the layer is removed"
    return [
        Hostile(kind, "required_features", 0, "text flags", 4, "for required_features announce no tombstone", 7),
        Hostile(kind, "optional_features", 1, "required_features", "0x2", "no bit 0x2 .*the dimension is immutable"),
        Hostile(kind, "layers[1].text_flags", 5, "text flags", 5, r"4 \(tombstone\)", 7),
        Hostile(kind, "layers[1].text_flags", 0x84, "text flags", 0x84, r"4 \(tombstone\)", 7),
        Hostile(kind, "layers[0].text_flags", 4, "keyword_count", 1, f"0, {removed}", 1),
        Hostile(kind, "layers[2].text_flags", 4, "content_size", 5, f"0, {removed}", 10),
        Hostile(kind, "layers[1].content_size", 1, "content_size", 1, f"0, {removed}", 7),
        Hostile(kind, "layers[1].raw_size", 1, "raw_size", 1, "0, the bytes of the content", 7),
        Hostile(kind, "layers[1].characters", 1, "characters", 1, "at most 0", 7),
        Hostile(kind, "layers[1].xxh3", 1, "xxh3", "0x0000000000000001", f"0x2d06800538d394c2, .*{removed}", 7),
        Hostile(kind, "layers[1].attributes_size", 2, "attributes_size", 2, f"0, {removed}", 7),
        Hostile(kind, "layers[1].n_tokens", 5, "n_tokens", 5, f"0, {removed}", 7),
    ]


HOSTILE = (
    [row for kind in FILES for row in hostile_header(kind) + (hostile_records(kind) if kind != "delta" else [])]
    + hostile_plain()
    + [row for kind in FILES if kind not in ("plain", "delta") for row in hostile_extended(kind)]
    + hostile_wide()
    + hostile_delta()
)


def refused(path: Path, dimension_id: int | None = 3) -> InvalidRegion:
    """The error that opening gives. Nothing is held then: the fixture of all tests sees to that."""
    with pytest.raises(InvalidRegion) as caught:
        MmapRegion(dimension_id, path)
    return caught.value


def matches(value: object, wanted: object) -> bool:
    return wanted == ".*" or str(value) == str(wanted)


@pytest.mark.thread_unsafe(reason="descriptors and mappings are of the process")
@pytest.mark.parametrize("row", HOSTILE, ids=str)
def test_each_broken_rule_is_one_typed_error(row, region_file, nothing_leaks):
    """Whatever the checksum of the head says."""
    data = bytearray(FILES[row.kind])
    region = SOUND[row.kind]
    patch(data, region, row.field, row.value)
    assert data != FILES[row.kind], "the row changes nothing"
    check_refusal(row, region_file(data), nothing_leaks)
    if region.extended:
        redigest(data, region)
        check_refusal(row, region_file(data), nothing_leaks)


def check_refusal(row: Hostile, path: Path, nothing_leaks) -> None:
    error = refused(path)
    assert nothing_leaks is None or nothing_leaks.new() == []  # at once, without a garbage collection
    assert type(error) is row.error
    assert (error.path, error.field) == (str(path), row.named)
    assert matches(error.found, row.found)
    assert re.search(row.expected, str(error.expected))
    assert matches(error.layer, row.layer)
    for part in (str(path), row.named, str(error.found), str(error.expected)):
        assert part in str(error)


def test_table_breaks_every_rule_of_the_format():
    """Each rule that the reader knows is broken by a row, or by a test below."""
    source = Path(jessy_mem.__file__).parent / "_core" / "fault.pyx"
    rules = re.findall(r'^    [A-Z_0-9]+: \((?:"([^"]+)"|repr)', source.read_text(), re.MULTILINE)
    broken_below = {"header", "metadata", "padding before the extension table"}
    assert len(rules) > 25
    assert set(rules) - broken_below == {row.named for row in HOSTILE}


@pytest.mark.parametrize("kind", ["extended", "compressed", "wide"])
def test_padding_before_the_extension_table_is_checked(kind, region_file):
    region, data = SOUND[kind], bytearray(FILES[kind])
    data[region.at["layers[0].xxh3"][0] - 1] = 1
    redigest(data, region)
    error = refused(region_file(data))
    assert (error.field, error.expected) == ("padding before the extension table", "zeros")


@pytest.mark.parametrize(
    ("tombstone", "named", "found"),
    [
        (Layer(7, b"", keywords=(b"x",), text_flags=4), "keyword_count", 1),
        (Layer(7, b"", codec=1, text_flags=4), "codec", 1),
        (Layer(7, b"x", text_flags=4), "content_size", 1),
        (Layer(7, b"", text_flags=4, attributes=b"{}"), "attributes_size", 2),
        (Layer(7, b"", text_flags=4, n_tokens=1), "n_tokens", 1),
    ],
)
def test_tombstone_that_says_more_is_refused(tombstone, named, found, region_file):
    error = refused(region_file(extended_file((SAMPLE[0], tombstone), version=2, delta=True)))
    assert (error.field, error.found, error.layer) == (named, found, 7)


@pytest.mark.parametrize("version", [1, 2])
def test_delta_says_that_it_is_one(version, region_file):
    image = map_file(region_file(extended_file(TOMBSTONES, version=version, delta=True)), 3, delta=True)
    assert (image.is_delta, image.n_layers, image.n_live_layers) == (True, 2, 0)
    path = region_file(extended_file(version=version))
    assert not map_file(path, 3).is_delta
    with pytest.raises(InvalidRegion) as caught:
        map_file(path, 3, delta=True)
    error = caught.value
    assert (error.field, error.found, error.expected) == (
        "required_features",
        "0x0",
        "bit 0x2, for the file is a delta",
    )


@pytest.mark.parametrize("where", ["first page", "table on it", "behind it"])
def test_attributes_are_checked_wherever_they_lie(where, region_file):
    n_words, n_bytes = {"first page": (0, 100), "table on it": (0, 9000), "behind it": (1000, 9000)}[where]
    attributes = b'{"long":"' + b"x" * n_bytes + '☃"}'.encode()
    layers = (Layer(0, b"x" * 5000, keywords=(b"word",) * n_words, attributes=attributes), Layer(1, b"y"))
    data = bytearray(extended_file(layers, version=2))
    with MmapRegion(3, region_file(data)) as region:
        assert region.verify() == []
    at = read_region(bytes(data)).at["layers[0].attributes"][0]
    data[at + len(attributes) - 3] = 0xFF
    redigest(data)
    error = refused(region_file(data))
    assert (error.field, error.expected, error.layer) == ("attributes", "valid UTF-8", 0)


@pytest.mark.parametrize(
    "attributes",
    [b"[]", b"1", b'"text"', b"null", b"{", b"{}{}", b"{'a':1}", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":[-1e999]}',
     b"\xef\xbb\xbf{}",
     b"\0{\0}", b'{"a":' * 9000, b" ", b'{"a":' + b"1" * 5000 + b"}"],
)  # fmt: skip
def test_attributes_that_are_no_json_object_are_damage(attributes, region_file):
    layers = (SAMPLE[0], Layer(7, b"content", attributes=attributes))
    with MmapRegion(3, region_file(extended_file(layers, version=2))) as region:
        (error,) = region.verify()
        assert (error.field, error.expected, error.layer) == ("attributes", "one JSON object", 7)
        assert region.layer(0).text == SAMPLE[0].content.decode()


@pytest.mark.parametrize("n_words", [*range(240, 256), 4000])
def test_head_of_more_than_a_page_is_read_whole(n_words, region_file):
    """The first page is read before the head's length is known; nothing may be looked for behind it there."""
    layers = (Layer(0, b"x" * 5000, keywords=(b"sixteen bytes ab",) * n_words),)
    for _ in range(20):
        with MmapRegion(3, region_file(extended_file(layers))) as region:
            assert len(region.layer(0).keywords) == n_words


def test_content_that_ends_before_the_file_does_is_refused(region_file):
    layers = SAMPLE[:2]
    for extra in (1, 64, 4096):
        data = bytearray(extended_file(layers) + bytes(extra))
        struct.pack_into("<Q", data, 72, len(data))
        redigest(data)
        error = refused(region_file(data))
        assert (error.field, error.found) == ("total_size", len(data))
        assert error.expected == f"{len(data) - extra}, where the last content ends"


@pytest.mark.parametrize("n_bytes", [81, 82, 4095, 4096, 2**31, 2**32 - 1])
def test_content_size_beyond_the_end_is_refused(n_bytes, region_file):
    """An extension that agrees with the size does not help; 80 bytes are there."""
    data = bytearray(extended_file((SAMPLE[0], Layer(1, b"\xff" * 80))))
    region = read_region(data)
    offset = align(region.layers[1].offset, n_bytes)
    patch(data, region, "layers[1].content_size", n_bytes)
    patch(data, region, "layers[1].content_offset", offset)
    patch(data, region, "layers[1].raw_size", n_bytes)
    redigest(data, region)
    error = refused(region_file(data))
    assert (error.field, error.layer, error.found) == ("content_size", 1, n_bytes)
    assert error.expected == f"at most {max(0, len(data) - offset)}, the bytes left"


def test_metadata_that_does_not_fit_is_refused(region_file):
    # Records that the metadata's size has no room for, though the file has.
    layers = SAMPLE[:3]
    data = bytearray(extended_file(layers))
    region = read_region(data)
    size = struct.unpack_from("<I", data, 108)[0]
    patch(data, region, "metadata_size", size - 8)
    patch(data, region, "extension_table_offset", region.at["layers[0].xxh3"][0] - 8)
    error = refused(region_file(data))
    assert error.field in ("metadata", "keyword length", "keyword_count", "padding before the extension table", "codec",
                           "raw_size", "reserved bytes of the extension table")  # fmt: skip
    # A table of extensions that runs over the end.
    data = bytearray(extended_file((Layer(0, b""),)))
    region = read_region(data)
    metadata_size = len(data) - HEADER_BYTES - 8
    patch(data, region, "metadata_size", metadata_size)
    patch(data, region, "extension_table_offset", HEADER_BYTES + metadata_size)
    error = refused(region_file(data))
    assert (error.field, error.found) == ("metadata", f"{len(data)} bytes")
    assert error.expected.startswith(f"at least {len(data) + 24} bytes")


def test_records_that_end_in_the_middle_are_refused(region_file):
    sound = plain_file((Layer(0, b"", keywords=(b"word", b"more")), Layer(1, b"")))
    region = read_region(sound)
    # Two layers fit by the smallest record, three do not by what the records hold.
    data = bytearray(sound)
    patch(data, region, "layer_count", 3)
    error = refused(region_file(data))
    assert (error.field, error.found) == ("layer_count", 3) or error.field == "metadata"
    data = bytearray(sound + bytes(22))
    struct.pack_into("<Q", data, 72, len(data))
    patch(data, region, "layer_count", 3)
    error = refused(region_file(data))
    assert (error.field, error.found) == ("metadata", f"{len(data)} bytes")
    assert error.expected.startswith(f"at least {len(data) + 1} bytes")


def gap_of(data: bytes, region: Region) -> list[int]:
    """The positions of all bytes between contents."""
    cursor, found = region.head_size, []
    for layer in region.layers:
        found += range(cursor, layer.offset)
        cursor = layer.offset + len(layer.content)
    return found


def test_gap_that_is_not_zero_is_found(region_file):
    far = (*SAMPLE[:2], Layer(3, bytes(9000)), Layer(4, b"behind"), Layer(5, bytes(4097)))
    data = extended_file(far)
    region = read_region(data)
    at_open = on_access = 0
    positions = gap_of(data, region)
    for position in [*positions[:300], *random.Random(3).sample(positions, 300), *positions[-70:]]:
        damaged = bytearray(data)
        damaged[position] = 0x80
        path = region_file(damaged)
        layer = next(layer.layer for layer in region.layers if layer.offset > position)
        try:
            with MmapRegion(3, path) as opened:
                with pytest.raises(InvalidRegion) as caught:
                    opened.layer(layer)
                damage = [(error.field, error.layer) for error in opened.verify()]
                on_access += 1
        except InvalidRegion as error:
            caught, damage = None, [(error.field, error.layer)]
            at_open += 1
        assert damage == [("gap", layer)]
        assert caught is None or caught.value.field == "gap"
    assert at_open > 0
    assert on_access > 0


@pytest.mark.parametrize("kind", FILES)
def test_file_cut_at_any_length_is_truncated(kind, region_file):
    data = FILES[kind]
    longer = range(257, len(data))
    for n_bytes in [*range(257), *random.Random(kind).sample(longer, min(300, len(longer))), len(data) - 1]:
        path = region_file(data[:n_bytes])
        error = refused(path)
        assert type(error) is RegionTruncated
        assert error.found == f"{n_bytes} bytes"
        if n_bytes < HEADER_BYTES:
            assert (error.field, error.expected) == ("header", "a file of at least 256 bytes")
        else:
            assert (error.field, error.expected) == ("total_size", f"a file of {len(data)} bytes, as its header says")


@pytest.mark.parametrize("kind", FILES)
def test_file_cut_and_told_so_is_refused(kind, region_file):
    """The header knows the cut, so what is missing is missed elsewhere."""
    data, region = FILES[kind], SOUND[kind]
    path = region_file(data)
    for n_bytes in {*range(HEADER_BYTES, min(HEADER_BYTES + 400, len(data))), *range(len(data) - 99, len(data))}:
        cut = bytearray(data[:n_bytes])
        struct.pack_into("<Q", cut, 72, n_bytes)
        if region.extended and n_bytes >= region.head_size:
            redigest(cut, region)
        error = refused(region_file(cut))
        assert (error.path, error.found is not None, bool(error.expected)) == (str(path), True, True)


@pytest.mark.parametrize("kind", FILES)
def test_bytes_behind_the_end_are_refused(kind, region_file):
    error = refused(region_file(FILES[kind] + b"\0"))
    assert (error.field, error.found) == ("total_size", len(FILES[kind]))
    assert error.expected == f"{len(FILES[kind]) + 1}, the size of the file"


# What is no file --------------------------------------------------------------------------------------------------


def test_missing_file_is_dimension_not_found(tmp_path):
    with pytest.raises(DimensionNotFound) as caught:
        MmapRegion(3, tmp_path / "none.mmap")
    assert (caught.value.dimension, caught.value.path) == (3, str(tmp_path / "none.mmap"))


def test_folder_is_a_mapping_error(tmp_path):
    with pytest.raises(MappingError, match="Is a directory") as caught:
        MmapRegion(3, tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "region.mmap")
    with pytest.raises(MappingError, match="Not a regular file") as caught:
        MmapRegion(3, tmp_path / "region.mmap")
    assert caught.value.filename == str(tmp_path / "region.mmap")


def test_path_through_a_file_is_a_mapping_error(region_file):
    path = region_file(FILES["plain"])
    with pytest.raises(MappingError) as caught:
        MmapRegion(3, path / "region.mmap")
    assert caught.value.filename == str(path / "region.mmap")


def test_path_of_bytes_or_number_is_a_type_error(region_file):
    path = region_file(FILES["plain"])
    with pytest.raises(TypeError):
        MmapRegion(3, os.fsencode(path))
    with pytest.raises(TypeError):
        MmapRegion(3, 0)


def test_file_without_permission_is_a_mapping_error(region_file):
    path = region_file(FILES["plain"])
    path.chmod(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # the superuser may read everything, so another user tries
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            n_open = len(os.listdir("/proc/self/fd")) if HAS_PROC else 0
            try:
                MmapRegion(3, path)
            except MappingError as error:
                n_open -= len(os.listdir("/proc/self/fd")) if HAS_PROC else 0
                os.write(writer, f"{error.errno} {error.filename} {n_open}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        assert answer.read().decode() == f"{errno.EACCES} {path} 0"
    assert os.waitpid(child, 0)[1] == 0


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "x" * 64, "ä" * 32, "\N{SNOWMAN}" * 21 + "x", "a\0b"])
def test_name_of_up_to_64_bytes_is_kept(name, region_file):
    for data in (
        plain_file(name=name.encode()),
        extended_file(name=name.encode()),
        RegionBuilder(3, name).add_layer(LayerSpec(text="x")).to_bytes(),
    ):
        assert read_region(data).name == name.encode()
        with MmapRegion(3, region_file(data)) as region:
            assert region.name == name


@pytest.mark.parametrize("name", ["", "x" * 65, "ä" * 33])
def test_name_of_more_bytes_is_refused_by_the_builder(name):
    with pytest.raises(ValueError, match=r"name: .* takes \d+ bytes of UTF-8, expected 1\.\.64"):
        RegionBuilder(3, name)


def test_wrong_dimension_is_refused_and_none_takes_each(region_file):
    path = region_file(FILES["extended"])
    error = refused(path, dimension_id=1)
    assert (error.field, error.found) == ("dimension_id", 3)
    with MmapRegion(None, path) as region:
        assert region.dimension_id == 3
    for dimension_id in (0, -1, 2**32, 2**64):
        with pytest.raises(ValueError, match="dimension"):
            MmapRegion(dimension_id, path)


# Numbers that ask for much ----------------------------------------------------------------------------------------


# Every byte -------------------------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """How damage in the file at `path` shows: "open", "access", "verify", or "" if it does not."""
    try:
        region = MmapRegion(3, path)
    except InvalidRegion:
        return "open"
    with region:
        damage = region.verify()
        assert all(isinstance(error, InvalidRegion) for error in damage)
        hurt = {error.layer for error in damage}
        raised = set()
        for layer_id in region.layers():
            try:
                assert bytes(region.layer(layer_id.layer)) is not None
            except InvalidRegion:
                raised.add(layer_id.layer)
            except ImportError:
                assert not compression.is_available()
        assert raised <= hurt
        return "access" if raised else "verify" if damage else ""


@pytest.mark.parametrize("kind", ["extended", "immutable", "compressed", "wide", "delta"])
def test_every_flipped_byte_is_found(kind, region_file):
    small = (SAMPLE[0], SAMPLE[1], Layer(5, b"\xff\x00" * 40), Layer(6, b""))
    data = FILES[kind]
    if kind in ("extended", "immutable"):
        data = extended_file(small, immutable=kind == "immutable")
    elif kind == "wide":
        small = (replace(small[0], attributes=b'{"a":"b"}'), *small[1:3], replace(small[3], attributes=b"{}"))
        data = extended_file(small, version=2)
    assert len(data) < 1000
    assert outcome(region_file(data)) == ""
    seen = {"open": 0, "access": 0}
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        seen[outcome(region_file(damaged))] += 1
    assert seen["open"] >= HEADER_BYTES
    assert (seen["access"] > 0) == (kind != "immutable")  # an immutable file is compared whole when it is opened


def test_every_flipped_byte_of_a_large_file_is_found(region_file):
    layers = tuple(Layer(i, bytes([i + 1]) * n) for i, n in enumerate((70_000, 5, 4096, 200_000, 63, 4095)))
    data = extended_file(layers)
    rng = random.Random(7)
    for position in rng.sample(range(len(data)), 5000):
        damaged = bytearray(data)
        damaged[position] ^= rng.randrange(1, 256)
        assert outcome(region_file(damaged)) in ("open", "access")


def test_damage_that_is_redigested_is_read_as_it_stands(region_file):
    """The helper that redigests makes a sound file again: the flips above are found by what they break."""
    data = bytearray(FILES["extended"])
    data[SOUND["extended"].layers[0].offset] ^= 1
    redigest_content(data, SOUND["extended"])
    assert outcome(region_file(data)) == ""
    assert read_region(bytes(data)).layers[0].content == b"r" + SAMPLE[0].content[1:]


# Any bytes --------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    redigested=st.booleans(),
)
@example(kind="extended", edits=[(80, b"\xff\xff\xff\xff")], redigested=True)
def test_mutated_file_is_refused_or_read_within_its_bounds(kind, edits, redigested, region_file):
    data, region = bytearray(FILES[kind]), SOUND[kind]
    for position, value in edits:
        position %= len(data) - 8
        data[position : position + len(value)] = value
    if redigested and region.extended:
        redigest(data, region)
    if outcome(region_file(data)) == "open":
        return
    with MmapRegion(3, region_file(data)) as opened:
        for layer_id in opened.layers():
            try:
                view = opened.layer(layer_id.layer)
            except (InvalidRegion, ImportError):
                continue
            assert len(bytes(view)) == view.n_bytes <= len(data) + len(QUIET)
            assert all(isinstance(word, str) for word in view.keywords)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=600), dress=st.booleans())
def test_random_bytes_are_refused(data, dress, region_file):
    if dress and len(data) >= HEADER_BYTES:  # get past the first rules
        data = bytearray(data)
        data[84:100] = MAGIC
        struct.pack_into("<I", data, 0, 3)
        struct.pack_into("<Q", data, 72, len(data))
    refused(region_file(bytes(data)))


# Both directions --------------------------------------------------------------------------------------------------


def assert_same(opened: MmapRegion, region: Region) -> None:
    assert (opened.dimension_id, opened.name) == (region.dimension_id, region.name.decode())
    assert (opened.generation, opened.immutable) == (region.generation, region.immutable)
    assert opened.n_layers == len(region.layers)
    assert opened.layers() == [(region.dimension_id, layer.layer) for layer in region.layers]
    for layer in region.layers:
        view = opened.layer(layer.layer)
        assert view.id == (region.dimension_id, layer.layer)
        assert bytes(view) == layer.content
        assert view.depth == layer.depth
        assert view.frequency == float(str(np.float32(layer.frequency)))  # numpy's shortest decimal
        assert view.keywords == tuple(word.decode() for word in layer.keywords)
        assert view.source == "mmap"
        assert opened.content_offset(layer.layer) == layer.offset
        assert bytes(opened.access(layer.offset, len(layer.content))) == layer.content


@pytest.mark.parametrize("kind", ["plain", "extended", "immutable", "wide"])
def test_file_written_by_struct_is_read(kind, region_file):
    with MmapRegion(3, region_file(FILES[kind])) as opened:
        assert_same(opened, SOUND[kind])
        assert opened.verify() == []


def test_plain_file_in_any_order_with_gaps_is_read(region_file):
    layers = (Layer(0, b"first"), Layer(1, b"second" * 1000), Layer(2, b""), Layer(65535, b"last"))
    data = plain_file(layers, offsets=[9000, 1001, 500, 7777])
    assert data[7001:7777] == bytes(776)
    region = read_region(data)
    with MmapRegion(3, region_file(data)) as opened:
        assert_same(opened, region)


def test_empty_content_of_a_plain_file_may_lie_anywhere_behind_the_metadata(region_file):
    layers = (Layer(0, b"abc"), Layer(1, b""))
    end = len(plain_file(layers))
    for offset in (end - 3, end - 2, end):
        with MmapRegion(3, region_file(plain_file(layers, offsets=[end - 3, offset]))) as opened:
            assert bytes(opened.layer(1)) == b""
            assert bytes(opened.layer(0)) == b"abc"


def test_unknown_optional_features_are_ignored(region_file):
    data = bytearray(FILES["extended"])
    struct.pack_into("<I", data, 104, 0xFFFFFFFE)
    redigest(data)
    with MmapRegion(3, region_file(data)) as opened:
        assert not opened.immutable
        assert opened.verify() == []


SPECS = (
    LayerSpec(text="surface: a plain sentence", depth=0, frequency=1.5, keywords=("mood", "tears")),
    LayerSpec(text="Grüße aus der Tiefe", depth=255, frequency=0.1),
    LayerSpec(content=bytes(range(256)) * 17, depth=2, frequency=4.5, keywords=("größe", ""), layer=7),
    LayerSpec(content=b"", layer=9),
    LayerSpec(text="x" * 4095, layer=10),
    LayerSpec(text="y" * 4096, layer=65535),
)


@pytest.mark.parametrize("immutable", [False, True])
def test_file_of_the_builder_is_read_by_struct(immutable, region_file, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    builder = RegionBuilder(1000, "Grenze", immutable=immutable, generation=7)
    for spec in SPECS:
        builder.add_layer(spec)
    data = builder.to_bytes()
    region = read_region(data)  # checks sizes, alignment, gaps, tiling and all three digests
    assert (region.dimension_id, region.name, region.generation) == (1000, b"Grenze", 7)
    assert region.created_ns == 1_700_000_000 * 10**9
    assert (region.immutable, region.extended) == (immutable, True)
    assert [layer.layer for layer in region.layers] == [0, 1, 7, 9, 10, 65535]
    for layer, spec in zip(region.layers, SPECS, strict=True):
        assert layer.content == (spec.content if spec.text is None else spec.text.encode())
        assert layer.keywords == tuple(word.encode() for word in spec.keywords)
        assert layer.depth == spec.depth
        assert layer.frequency == struct.unpack("<f", struct.pack("<f", spec.frequency))[0]
        assert layer.offset % (4096 if len(layer.content) >= 4096 else 64) == 0
    assert [layer.text_flags for layer in region.layers] == [3, 1, 0, 3, 3, 3]
    assert [layer.characters for layer in region.layers] == [25, 19, 0, 0, 4095, 4096]
    with MmapRegion(1000, region_file(data)) as opened:
        assert_same(opened, region)


def test_builder_and_struct_write_the_same_bytes(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for immutable in (False, True):
        builder = RegionBuilder(3, "Intention", immutable=immutable)
        for layer in SAMPLE:
            builder.add_layer(
                LayerSpec(
                    content=layer.content, depth=layer.depth, frequency=layer.frequency, layer=layer.layer,
                    keywords=tuple(word.decode() for word in layer.keywords),
                )
            )  # fmt: skip
        assert builder.to_bytes() == extended_file(immutable=immutable)


def test_checksum_of_the_head_is_compared(region_file):
    data = bytearray(FILES["extended"])
    patch(data, SOUND["extended"], "created_ns", 5)
    error = refused(region_file(data))
    assert type(error) is ChecksumMismatch
    assert (error.field, error.layer) == ("metadata_xxh3", None)
    assert error.found != error.expected


def test_checksum_of_a_layer_is_compared_on_its_first_access(region_file):
    data = bytearray(FILES["extended"])
    data[SOUND["extended"].layers[1].offset] ^= 0x20
    with MmapRegion(3, region_file(data)) as opened:
        assert bytes(opened.layer(0)) == SAMPLE[0].content
        for _ in range(2):
            with pytest.raises(ChecksumMismatch) as caught:
                opened.layer(1)
            assert (caught.value.field, caught.value.layer) == ("content", 1)


def test_digest_of_an_immutable_file_is_compared_at_open(region_file):
    data = bytearray(FILES["immutable"])
    position = SOUND["immutable"].layers[2].offset + 100
    data[position] ^= 1
    error = refused(region_file(data))
    assert (type(error), error.field, error.layer) == (ChecksumMismatch, "content_sha256", None)
    # A checksum of the layer that was made to fit does not help.
    redigest_content(data, replace(SOUND["immutable"], immutable=False))
    assert refused(region_file(data)).field == "content_sha256"
