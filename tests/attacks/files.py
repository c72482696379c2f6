"""Region files that lie about what they hold: one function each, whose line says what the file claims.

A file is what is stored of it and the size it has; the rest is a hole. `@attack` says what must be raised when it is
opened, and which field is named. Single fields with wrong values are a table of their own, in
tests/contract/test_format.py: here is what would cost memory or time, if it were believed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from helpers import (
    DELTA_SAMPLE,
    RECORD_HEAD,
    Layer,
    align,
    extended_file,
    patch,
    plain_file,
    read_region,
    record,
    redigest,
)
from jessy_mem.errors import ChecksumMismatch, InvalidRegion, RegionTruncated

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
MOST_LAYERS = 65536
ONE = (Layer(0, b"x", 0, 1.0, (b"word",)),)
KNOWN = (Layer(0, b"x", attributes=b'{"a":1}'), Layer(1, b"y"))
REMOVED = (Layer(0, b"x"), Layer(1, b"", text_flags=4))


@dataclass(frozen=True)
class Attack:
    """`file` gives what is stored, and the size of the file; opening it raises exactly `error`, of `field`."""

    file: Callable[[], tuple[bytes, int]]
    error: type[InvalidRegion]
    field: str
    n_layers_there: int  # of whose records so much is there that a reader gets to them

    def __str__(self) -> str:
        return self.file.__name__


ATTACKS: list[Attack] = []


def attack(field: str, error: type[InvalidRegion] = InvalidRegion, n_layers_there: int = 2):
    def add(file):
        ATTACKS.append(Attack(file, error, field, n_layers_there))
        return file

    return add


def changed(sound: bytes, size: int | None, **fields: object) -> bytes:
    """A sound file with other values in `fields` ("layer_0_xxh3" is that of the first layer).

    Its checksum is right, if no `size` is given: what runs into a hole is refused before that is compared.
    """
    data, region = bytearray(sound), read_region(sound)
    if size is not None:
        patch(data, region, "total_size", size)
    for name, value in fields.items():
        of, _, rest = name.partition("_")
        number, _, of_layer = rest.partition("_")
        patch(data, region, f"layers[{number}].{of_layer}" if of == "layer" and number.isdigit() else name, value)
    if region.extended and size is None:
        redigest(data, region)
    return bytes(data)


def cut_behind_metadata(data: bytes) -> bytes:
    """The header and as much of the first record as is there without its keywords."""
    return data[: 256 + RECORD_HEAD.size]


def with_keywords(n: int, size: int) -> tuple[bytes, int]:
    return cut_behind_metadata(changed(plain_file(ONE), size, layer_0_keyword_count=n)), size


def with_metadata_size(n_bytes: int, size: int) -> tuple[bytes, int]:
    """An extended file whose record has a keyword as long as all of that, and whose table lies behind it."""
    data = bytearray(changed(extended_file(ONE), size, metadata_size=n_bytes))
    struct.pack_into("<Q", data, 128, -(-(256 + n_bytes) // 8) * 8)
    struct.pack_into("<I", data, 256 + RECORD_HEAD.size, n_bytes - 27)
    return bytes(data[:300]), size


# Plain V1 -------------------------------------------------------------------------------------------------------------


@attack("metadata")
def plain_with_keywords_of_a_gibibyte():
    """A record with as many empty keywords as a hole of 1 GiB has room for."""
    return with_keywords((GIB - 300) // 4, GIB)


@attack("metadata")
def plain_with_keywords_of_a_tebibyte():
    """A record with four billion keywords, in a hole of 1 TiB."""
    return with_keywords(2**32 - 1, TIB)


@attack("metadata")
def plain_with_keyword_of_4_gib():
    """One keyword of 4 GiB, in a hole of 5 GiB."""
    return changed(plain_file(ONE), 5 * GIB, **{"layer_0_keywords[0].length": 2**32 - 1})[:280], 5 * GIB


@attack("metadata")
def plain_with_keyword_of_a_mebibyte():
    """One keyword of 1 MiB, in a hole of 2 MiB."""
    return changed(plain_file(ONE), 2 * MIB, **{"layer_0_keywords[0].length": MIB})[:280], 2 * MIB


@attack("layer_num")
def plain_with_keyword_in_a_hole_that_is_small():
    """One keyword of 12 KiB, which is a hole: zeros are valid UTF-8, and the record behind them is all zeros."""
    sound = plain_file((*ONE, Layer(1, b"y")))
    return changed(sound, 2 * MIB, **{"layer_0_keywords[0].length": 12 * KIB})[:280], 2 * MIB


@attack("layer_num")
def plain_with_layers_in_a_hole():
    """65,536 layers, of which one record is there."""
    return changed(plain_file(ONE), 2 * MIB, layer_count=MOST_LAYERS)[:287], 2 * MIB


@attack("layer_count")
def plain_with_four_billion_layers():
    """2**32 - 1 layers, for which a hole of 1 TiB would have room."""
    return changed(plain_file(ONE), TIB, layer_count=2**32 - 1), TIB


@attack("total_size", RegionTruncated)
def plain_that_claims_more_than_there_is():
    """2**64 - 1 bytes, of which 300 are there."""
    data = changed(plain_file(ONE), 2**64 - 1)
    return data, len(data)


@attack("total_size")
def plain_that_claims_less_than_there_is():
    """256 bytes, of a hole of 1 TiB."""
    return changed(plain_file(ONE), 256), TIB


@attack("header", RegionTruncated)
def nothing():
    """Nothing at all."""
    return b"", 0


@attack("magic")
def hole():
    """1 TiB, all of it a hole."""
    return b"", TIB


@attack("content_offset", n_layers_there=MOST_LAYERS)
def plain_with_all_layers_in_one_place():
    """65,536 layers of one byte each, all at the same place: to compare each with each would take minutes."""
    end = 256 + 23 * MOST_LAYERS
    records = b"".join(record(Layer(i, b"x"), end) for i in range(MOST_LAYERS))
    head = bytearray(plain_file(ONE)[:256])
    struct.pack_into("<Q", head, 72, end + 1)
    struct.pack_into("<I", head, 80, MOST_LAYERS)
    return bytes(head) + records + b"x", end + 1


# Extension 1 ----------------------------------------------------------------------------------------------------------


@attack("metadata_size")
def metadata_of_4_gib():
    """Metadata of 4 GiB, in a hole of 5 GiB."""
    return with_metadata_size(2**32 - 1, 5 * GIB)


@attack("metadata_size")
def metadata_of_200_mib():
    """Metadata of 200 MiB, which is below the limit, in a hole."""
    return with_metadata_size(200 * MIB, GIB)


@attack("metadata_size")
def metadata_of_a_mebibyte():
    """Metadata of 1 MiB, in a hole of 2 MiB."""
    return with_metadata_size(MIB, 2 * MIB)


@attack("metadata_size")
def layers_in_a_hole():
    """65,536 layers with as much metadata as they need, of which one record is there."""
    n_bytes = 23 * MOST_LAYERS
    data = bytearray(with_metadata_size(n_bytes, 8 * MIB)[0])
    struct.pack_into("<I", data, 80, MOST_LAYERS)
    return bytes(data), 8 * MIB


@attack("extension_table_offset")
def table_behind_the_end_of_all():
    """A table at 2**64 - 8, where adding anything overflows."""
    data = changed(extended_file(ONE), None)
    return data[:128] + struct.pack("<Q", 2**64 - 8) + data[136:], len(data)


@attack("raw_size")
def layer_that_decompresses_to_16_exbibytes():
    """A frame of 20 bytes that holds 2**64 - 1 when it is decompressed."""
    sound = extended_file((replace(ONE[0], content=b"f" * 20, codec=1, raw_size=30, text_flags=0),))
    return changed(sound, None, layer_0_raw_size=2**64 - 1), len(sound)


@attack("content_offset")
def extended_with_content_far_away():
    """A layer at 1 TiB - 64, in a hole: an extended file has nothing between."""
    return changed(extended_file(ONE), TIB, layer_0_content_offset=TIB - 64), TIB


# Extension 2 ----------------------------------------------------------------------------------------------------------


@attack("attributes_size")
def attributes_of_all_layers():
    """65,536 bytes of attributes, in a hole where they have room, and contents where they then must be."""
    sound = extended_file(KNOWN, version=2)
    begin = read_region(sound).at["layers[0].attributes"][0]
    first = align(begin + 65536, 1)
    offsets = {"layer_0_content_offset": first, "layer_1_content_offset": align(first + 1, 1)}
    return changed(sound, offsets["layer_1_content_offset"] + 1, layer_0_attributes_size=65536, **offsets)[:begin], (
        offsets["layer_1_content_offset"] + 1
    )


@attack("attributes_size")
def attributes_of_4_gib():
    """Attributes of 4 GiB."""
    sound = extended_file(KNOWN, version=2)
    return changed(sound, 5 * GIB, layer_0_attributes_size=2**32 - 1), 5 * GIB


@attack("attributes_offset")
def attributes_somewhere_else():
    """Attributes at 1 TiB, where nothing is."""
    sound = extended_file(KNOWN, version=2)
    return changed(sound, 2 * TIB, layer_0_attributes_offset=TIB), 2 * TIB


@attack("attributes_offset", n_layers_there=1000)
def attributes_of_a_thousand_layers():
    """65,536 bytes of attributes for each of 1,000 layers, where those of the others are."""
    sound = extended_file([Layer(i, b"") for i in range(1000)], version=2)
    return changed(sound, TIB, **{f"layer_{i}_attributes_size": 65536 for i in range(1000)}), TIB


@attack("metadata_size")
def tables_of_extension_2_in_a_hole():
    """A table of 65,536 entries of 64 bytes in a hole."""
    n_bytes = 23 * MOST_LAYERS
    data = bytearray(with_metadata_size(n_bytes, 8 * MIB)[0])
    struct.pack_into("<I", data, 80, MOST_LAYERS)
    struct.pack_into("<H", data, 100, 2)
    return bytes(data), 8 * MIB


# Deltas and tombstones ------------------------------------------------------------------------------------------------


@attack("content_size")
def tombstone_of_4_gib():
    """A removed layer with 4 GiB of content, in a hole."""
    sound = extended_file(REMOVED, delta=True)
    return changed(sound, 5 * GIB, layer_1_content_size=2**32 - 1), 5 * GIB


@attack("attributes_size")
def tombstone_with_attributes():
    """A removed layer with 64 KiB of attributes, in a hole."""
    sound = extended_file(REMOVED, delta=True, version=2)
    return changed(sound, MIB, layer_1_attributes_size=65536)[:512], MIB


@attack("metadata_size")
def tombstones_in_a_hole():
    """A delta of 65,536 tombstones, of which one record is there."""
    data = bytearray(layers_in_a_hole()[0])
    struct.pack_into("<H", data, 102, 2)
    return bytes(data), 8 * MIB


@attack("text flags")
def tombstone_in_no_delta():
    """A removed layer in a file that says it has none."""
    return changed(extended_file(REMOVED, delta=True), None, required_features=0), len(extended_file(REMOVED))


@attack("required_features")
def immutable_delta():
    """A delta that nobody may change."""
    sound = extended_file(DELTA_SAMPLE, version=2, delta=True)
    return changed(sound, None, optional_features=1), len(sound)


# Immutables -----------------------------------------------------------------------------------------------------------


@attack("metadata_size")
def immutable_with_metadata_in_a_hole():
    """An immutable file with metadata of 200 MiB: the copy of it is made when its head was checked, not before."""
    data, size = with_metadata_size(200 * MIB, GIB)
    return data[:104] + struct.pack("<I", 1) + data[108:], size


@attack("content_sha256", ChecksumMismatch)
def immutable_with_another_digest():
    """An immutable file whose content is another's."""
    sound = extended_file(ONE, immutable=True)
    return sound[:-1] + b"y", len(sound)


@attack("content_sha256", ChecksumMismatch)
def immutable_with_a_hole():
    """An immutable file of 8 MiB, all but its first two pages a hole: the copy of it has that hole, too."""
    size = 8 * MIB
    longer = {"layer_0_content_size": size - 4096, "layer_0_raw_size": size - 4096}
    bytes_only = {"layer_0_text_flags": 0, "layer_0_characters": 0}
    sound = extended_file((Layer(0, b"x" * 4096),), immutable=True)
    data = bytearray(changed(sound, size, **longer, **bytes_only))
    redigest(data)
    return bytes(data), size
