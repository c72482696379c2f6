"""What the tests share: region files written and read by plain `struct`, and counters of what a process holds.

Nothing here uses the package's own writer or reader: the files of `plain_file` and `extended_file` and the checks of
`read_region` come from docs/format.md alone. `tests/unit/test_helpers.py` shows that each check can fail.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import struct
import sys
import sysconfig
import threading
import traceback
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import xxhash

HUNG_S = 600  # what takes longer hangs, however busy the machine is

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"

HEADER_BYTES = 256
MAGIC = b"JESSY_MMAP_V1\0\0\0"
HEADER = struct.Struct("<II64sQI16sHHIIQQQQ32s76s4s")
RECORD_HEAD = struct.Struct("<HBfI")
RECORD_TAIL = struct.Struct("<QI")
EXTENSION = struct.Struct("<QQBBHIQ")
WIDE = struct.Struct("<QQIIQ")  # what extension version 2 has behind it
RECORD_MIN_BYTES = RECORD_HEAD.size + RECORD_TAIL.size

# Header fields: name -> (offset, struct format), the table of docs/format.md.
HEADER_FIELDS = {
    "dimension_id": (0, "<I"),
    "dimension_name_len": (4, "<I"),
    "dimension_name": (8, "64s"),
    "total_size": (72, "<Q"),
    "layer_count": (80, "<I"),
    "magic": (84, "16s"),
    "extension_version": (100, "<H"),
    "required_features": (102, "<H"),
    "optional_features": (104, "<I"),
    "metadata_size": (108, "<I"),
    "generation": (112, "<Q"),
    "created_ns": (120, "<Q"),
    "extension_table_offset": (128, "<Q"),
    "metadata_xxh3": (136, "<Q"),
    "content_sha256": (144, "32s"),
    "reserved": (176, "76s"),
    "padding": (252, "4s"),
}
EXTENSION_FIELDS = {
    "xxh3": (0, "<Q"),
    "raw_size": (8, "<Q"),
    "codec": (16, "<B"),
    "text_flags": (17, "<B"),
    "zero": (18, "<H"),
    "characters": (20, "<I"),
    "zero_too": (24, "<Q"),
}
WIDE_FIELDS = {
    "created_ns": (32, "<Q"),
    "attributes_offset": (40, "<Q"),
    "attributes_size": (48, "<I"),
    "n_tokens": (52, "<I"),
    "zero_last": (56, "<Q"),
}


@dataclass(frozen=True)
class Layer:
    """One layer, to be written or as read. `content` is stored as it is; `codec` 1 says that it is a zstd frame."""

    layer: int
    content: bytes
    depth: int = 0
    frequency: float = 1.0
    keywords: tuple[bytes, ...] = ()
    codec: int = 0
    raw_size: int | None = None
    text_flags: int | None = None
    characters: int | None = None
    offset: int = 0
    created_ns: int | None = None  # that of the file
    attributes: bytes = b""  # as JSON
    n_tokens: int = 0

    @property
    def is_tombstone(self) -> bool:
        return self.text_flags == 4


@dataclass(frozen=True)
class Region:
    """What `read_region` found. `at` tells where each field lies: name -> (offset, struct format)."""

    dimension_id: int
    name: bytes
    generation: int
    created_ns: int
    immutable: bool
    extended: bool
    layers: tuple[Layer, ...]
    at: dict[str, tuple[int, str]] = field(default_factory=dict)
    delta: bool = False
    version: int = 0
    head_size: int = 0  # of an extended file


SAMPLE = (
    Layer(0, b"surface: a plain sentence", 0, 1.5, (b"mood", b"tears")),
    Layer(1, "Grüße aus der Tiefe".encode(), 1, 0.25, ()),
    Layer(7, bytes(range(256)) * 17, 2, 4.5, ("größe".encode(), b"")),
    Layer(9, b"", 3, 0.1),
)


def align(offset: int, n_bytes: int) -> int:
    """Where content of `n_bytes` begins at the earliest, at or behind `offset`."""
    step = 4096 if n_bytes >= 4096 else 64
    return -(-offset // step) * step


def record(layer: Layer, offset: int) -> bytes:
    words = b"".join(struct.pack("<I", len(word)) + word for word in layer.keywords)
    head = RECORD_HEAD.pack(layer.layer, layer.depth, layer.frequency, len(layer.keywords))
    return head + words + RECORD_TAIL.pack(offset, len(layer.content))


def plain_file(layers=SAMPLE, dimension_id=3, name=b"Intention", offsets=None) -> bytes:
    """A plain V1 file; `offsets` (by position) places the contents, which else follow each other without a gap."""
    cursor = HEADER_BYTES + sum(len(record(layer, 0)) for layer in layers)
    if offsets is None:
        offsets = []
        for layer in layers:
            offsets.append(cursor)
            cursor += len(layer.content)
    total = max([cursor] + [offset + len(layer.content) for offset, layer in zip(offsets, layers, strict=True)])
    data = bytearray(total)
    head = HEADER.pack(dimension_id, len(name), name, total, len(layers), MAGIC, 0, 0, 0, 0, 0, 0, 0, 0, b"", b"", b"")
    records = b"".join(record(layer, offset) for layer, offset in zip(layers, offsets, strict=True))
    data[: len(head) + len(records)] = head + records
    for offset, layer in zip(offsets, layers, strict=True):
        data[offset : offset + len(layer.content)] = layer.content
    return bytes(data)


def extended_file(
    layers=SAMPLE, dimension_id=3, name=b"Intention", immutable=False, generation=1, created_ns=10**18, version=1,
    delta=False,
) -> bytes:  # fmt: skip
    """A file of extension version 1 or 2."""
    metadata_size = sum(len(record(layer, 0)) for layer in layers)
    table_offset = -(-(HEADER_BYTES + metadata_size) // 8) * 8
    table_end = table_offset + (32 if version == 1 else 64) * len(layers)
    attributes = b"".join(layer.attributes for layer in layers)
    cursor, body, records, table, attributes_at = table_end + len(attributes), b"", b"", b"", table_end
    for layer in layers:
        offset = align(cursor, len(layer.content))
        body += bytes(offset - cursor) + layer.content
        cursor = offset + len(layer.content)
        records += record(layer, offset)
        table += extension(layer)
        if version == 2:
            made = created_ns if layer.created_ns is None else layer.created_ns
            table += WIDE.pack(made, attributes_at if layer.attributes else 0, len(layer.attributes), layer.n_tokens, 0)
            attributes_at += len(layer.attributes)
    head = HEADER.pack(
        dimension_id, len(name), name, cursor, len(layers), MAGIC, version,
        any(layer.codec for layer in layers) + 2 * delta,
        int(immutable), metadata_size, generation, created_ns, table_offset, 0, b"", b"", b"",
    )  # fmt: skip
    data = bytearray(head + records + bytes(table_offset - HEADER_BYTES - metadata_size) + table + attributes + body)
    if immutable:
        data[144:176] = hashlib.sha256(body).digest()
    redigest(data)
    return bytes(data)


def extension(layer: Layer) -> bytes:
    """The table entry of extension version 1, with which that of version 2 begins."""
    flags, characters = layer.text_flags, layer.characters
    if flags is None:
        try:
            text = layer.content.decode()
            flags, characters = 1 | 2 * text.isascii(), len(text)
        except UnicodeDecodeError:
            flags, characters = 0, 0
    raw_size = len(layer.content) if layer.raw_size is None else layer.raw_size
    checksum = xxhash.xxh3_64_intdigest(layer.content)
    return EXTENSION.pack(checksum, raw_size, layer.codec, flags, 0, characters or 0, 0)


def redigest(data: bytearray, sound: Region | None = None) -> None:
    """Set metadata_xxh3 to what it must be; the head ends where that of `sound` does, or where the header says."""
    if sound is not None:
        head_size = sound.head_size
    else:
        (version,), (layer_count,) = struct.unpack_from("<H", data, 100), struct.unpack_from("<I", data, 80)
        (table_offset,) = struct.unpack_from("<Q", data, 128)
        step = 32 if version < 2 else 64
        head_size = table_offset + step * layer_count
        if step == 64:
            sizes = (struct.unpack_from("<I", data, table_offset + 64 * i + 48)[0] for i in range(layer_count))
            head_size += sum(sizes)
    struct.pack_into("<Q", data, 136, head_checksum(data, head_size))


def head_checksum(data: bytes | bytearray, head_size: int) -> int:
    head = bytearray(data[:head_size])
    head[136:176] = bytes(40)
    return xxhash.xxh3_64_intdigest(bytes(head))


def redigest_content(data: bytearray, sound: Region) -> None:
    """Set the xxh3 of each layer, and the digest of an immutable file, to what they must be; then redigest."""
    for i, layer in enumerate(sound.layers):
        content = bytes(data[layer.offset : layer.offset + len(layer.content)])
        struct.pack_into("<Q", data, sound.at[f"layers[{i}].xxh3"][0], xxhash.xxh3_64_intdigest(content))
    if sound.immutable:
        data[144:176] = hashlib.sha256(bytes(data[sound.head_size :])).digest()
    redigest(data, sound)


def patch(data: bytearray, region: Region, name: str, value) -> None:
    """Write `value` into a field of the file that `region` was read from."""
    offset, layout = region.at[name]
    struct.pack_into(layout, data, offset, value)


def read_region(data: bytes, checksums: bool = True) -> Region:
    """Read a region file by plain `struct`; AssertionError for each rule of the format that it breaks.

    Without `checksums` they may be wrong.
    """
    assert len(data) >= HEADER_BYTES, "shorter than the header"
    (
        dimension_id, name_len, name, total_size, layer_count, magic, version, required, optional, metadata_size,
        generation, created_ns, table_offset, metadata_xxh3, sha256, reserved, padding,
    ) = HEADER.unpack_from(data)  # fmt: skip
    assert magic == MAGIC, "magic"
    assert version <= 2, "extension_version"
    assert dimension_id >= 1, "dimension_id"
    assert 1 <= name_len <= 64, "dimension_name_len"
    assert name[name_len:] == bytes(64 - name_len), "bytes behind the name"
    assert total_size == len(data), "total_size"
    assert 1 <= layer_count <= 65536, "layer_count"
    assert reserved + padding == bytes(80), "reserved bytes"
    at = dict(HEADER_FIELDS)
    layers, cursor = [], HEADER_BYTES
    for i in range(layer_count):
        number, depth, frequency, n_keywords = RECORD_HEAD.unpack_from(data, cursor)
        at |= {
            f"layers[{i}].layer_num": (cursor, "<H"),
            f"layers[{i}].depth": (cursor + 2, "<B"),
            f"layers[{i}].frequency": (cursor + 3, "<f"),
            f"layers[{i}].keyword_count": (cursor + 7, "<I"),
        }
        assert not layers or number > layers[-1].layer, "layer_num"
        assert 0 < frequency < float("inf"), "frequency"
        cursor += RECORD_HEAD.size
        keywords = []
        for j in range(n_keywords):
            (n_bytes,) = struct.unpack_from("<I", data, cursor)
            at[f"layers[{i}].keywords[{j}].length"] = (cursor, "<I")
            at[f"layers[{i}].keywords[{j}]"] = (cursor + 4, f"{n_bytes}s")
            keywords.append(data[cursor + 4 : cursor + 4 + n_bytes])
            keywords[-1].decode()
            cursor += 4 + n_bytes
        offset, size = RECORD_TAIL.unpack_from(data, cursor)
        at |= {f"layers[{i}].content_offset": (cursor, "<Q"), f"layers[{i}].content_size": (cursor + 8, "<I")}
        cursor += RECORD_TAIL.size
        assert offset + size <= len(data), "content behind the end"
        layers.append(Layer(number, data[offset : offset + size], depth, frequency, tuple(keywords), offset=offset))
    region = Region(
        dimension_id,
        name[:name_len],
        generation,
        created_ns,
        bool(optional & 1),
        version > 0,
        tuple(layers),
        at,
        bool(version and required & 2),
        version,
    )
    region.name.decode()
    if version == 0:
        assert data[100:256] == bytes(156), "reserved bytes of a plain file"
        assert all(layer.offset >= cursor for layer in layers), "content before the end of the metadata"
        spans = sorted((layer.offset, layer.offset + len(layer.content)) for layer in layers if layer.content)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), "overlap"
        return region
    assert generation >= 1, "generation"
    assert required & ~3 == 0, "required_features"
    assert not (region.delta and region.immutable), "an immutable delta"
    assert metadata_size == cursor - HEADER_BYTES, "metadata_size"
    assert table_offset == -(-cursor // 8) * 8, "extension_table_offset"
    assert data[cursor:table_offset] == bytes(table_offset - cursor), "padding before the extension table"
    step = 32 if version == 1 else 64
    attributes_at = table_offset + step * layer_count
    head_size = attributes_at
    if version == 2:
        head_size += sum(struct.unpack_from("<I", data, table_offset + 64 * i + 48)[0] for i in range(layer_count))
    assert not checksums or metadata_xxh3 == head_checksum(data, head_size), "metadata_xxh3"
    digest = hashlib.sha256(data[head_size:]).digest() if region.immutable else bytes(32)
    assert not checksums or sha256 == digest, "content_sha256"
    cursor, extended = head_size, []
    for i, layer in enumerate(layers):
        here = table_offset + step * i
        checksum, raw_size, codec, flags, zero, characters, zero_too = EXTENSION.unpack_from(data, here)
        at |= {f"layers[{i}].{key}": (here + off, layout) for key, (off, layout) in EXTENSION_FIELDS.items()}
        made_ns, attributes, n_tokens = created_ns, b"", 0
        if version == 2:
            at |= {f"layers[{i}].{key}": (here + off, layout) for key, (off, layout) in WIDE_FIELDS.items()}
            made_ns, attributes_offset, n_bytes, n_tokens, zero_last = WIDE.unpack_from(data, here + 32)
            assert zero_last == 0, "reserved bytes of the extension table"
            assert n_bytes <= 65536, "attributes_size"
            assert attributes_offset == attributes_at or (attributes_offset, n_bytes) == (0, 0), "attributes_offset"
            attributes = data[attributes_at : attributes_at + n_bytes]
            assert not attributes or type(json.loads(attributes.decode())) is dict, "attributes"
            at[f"layers[{i}].attributes"] = (attributes_at, f"{n_bytes}s")
            attributes_at += n_bytes
        assert layer.offset == align(cursor, len(layer.content)), "tiling"
        assert data[cursor : layer.offset] == bytes(layer.offset - cursor), "gap"
        cursor = layer.offset + len(layer.content)
        assert not checksums or checksum == xxhash.xxh3_64_intdigest(layer.content), "xxh3"
        assert (zero, zero_too) == (0, 0), "reserved bytes of the extension table"
        assert codec == 0 or (codec == 1 and required & 1), "codec"
        if flags == 4:
            assert region.delta, "a tombstone in no delta"
            silent = (raw_size, codec, characters, layer.content, layer.keywords, attributes, n_tokens)
            assert silent == (0, 0, 0, b"", (), b"", 0), "a tombstone that says something"
        elif codec == 0:
            assert raw_size == len(layer.content), "raw_size"
            known = EXTENSION.unpack(extension(layer))
            assert (flags, characters) == (known[3], known[5]), "text flags"
        facts = replace(layer, codec=codec, raw_size=raw_size, text_flags=flags, characters=characters)
        extended.append(replace(facts, created_ns=made_ns, attributes=attributes, n_tokens=n_tokens))
    assert cursor == len(data), "bytes behind the last content"
    return replace(region, layers=tuple(extended), head_size=head_size)


class RegionFiles:
    """Write bytes to a region file in `folder` and return its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: bytes, name: str = "region.mmap") -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)  # to write into a file that was emptied may wait for the disk
        path.write_bytes(data)
        return path


# Golden files -----------------------------------------------------------------------------------------------------

QUIET = b"Deep down the same words return, and return again, until they are quiet. " * 40
QUIET_FRAME = bytes.fromhex(  # zstd 1.5 at level 3; kept, because another release may write another frame
    "28b52ffd60680a650200e4034465657020646f776e207468652073616d6520776f7264732072657475726e2c20616e6420616761696e2c20"
    "756e74696c79206172652071756965742e2003001c63827f52b1cfbbe509"
)
COMPRESSED_SAMPLE = (
    SAMPLE[0],
    Layer(1, QUIET_FRAME, 1, 0.5, (b"quiet",), codec=1, raw_size=len(QUIET), text_flags=3, characters=len(QUIET)),
)

KNOWN_SAMPLE = (
    replace(SAMPLE[0], created_ns=10**18 - 1, attributes='{"lang":"en","ort":"Köln","tags":["a","b"]}'.encode()),
    replace(SAMPLE[1], n_tokens=6),
    *SAMPLE[2:],
)
DELTA_SAMPLE = (
    Layer(1, b"replaced", 1, 0.5, (b"new",)),
    Layer(7, b"", text_flags=4),
    Layer(10, b"added", 2, 2.0, (), attributes=b'{"source":"test"}', n_tokens=1),
)
TOMBSTONES = (Layer(9, b"", text_flags=4), Layer(10, b"", text_flags=4))


def merged_sample() -> tuple[Layer, ...]:
    """What a base says after KNOWN_SAMPLE, DELTA_SAMPLE and TOMBSTONES: 7 and 9 are gone, 10 is remembered."""
    layers = {layer.layer: replace(layer, created_ns=layer.created_ns or 10**18) for layer in KNOWN_SAMPLE}
    layers |= {layer.layer: replace(layer, created_ns=10**18 + 1) for layer in DELTA_SAMPLE}
    layers[10] = replace(TOMBSTONES[1], created_ns=10**18)
    return tuple(layers[number] for number in (0, 1, 10))


def golden_files() -> dict[str, bytes]:
    """The golden files by name, one of each version of the format and each kind, as they were written once.

    A new version of the format adds a line here and a file in data/golden; a line that is there never changes, and
    neither does its file: what was written once must stay readable. To write a new file and its sum::

        Path("data/golden/NAME").write_bytes(golden_files()["NAME"])
        sha256sum *.mmap > SHA256SUMS  # in data/golden
    """
    return {
        "extension-1-compressed.mmap": extended_file(COMPRESSED_SAMPLE, generation=3),
        "extension-1-immutable.mmap": extended_file(immutable=True),
        "extension-1-raw.mmap": extended_file(generation=2**40),
        "extension-1-tombstone.mmap": extended_file(TOMBSTONES, generation=6, delta=True),
        "extension-2-base.mmap": extended_file(KNOWN_SAMPLE, generation=4, version=2),
        "extension-2-delta.mmap": extended_file(
            DELTA_SAMPLE, generation=5, created_ns=10**18 + 1, version=2, delta=True
        ),
        "extension-2-merged.mmap": extended_file(  # base, delta and tombstone as one base
            merged_sample(), generation=6, created_ns=10**18 + 2, version=2, delta=True
        ),
        "plain-v1.mmap": plain_file(),
    }


# What this process holds ------------------------------------------------------------------------------------------

HAS_PROC = Path("/proc/self/maps").exists()
# Whether an object goes with its last reference, in whichever thread: on other versions it waits for its maker.
DISOWNS = not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.version_info[:2] == (3, 13)


def open_files() -> dict[int, str]:
    """The open descriptors of files, folders and memfds: number -> what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of this listing itself
            continue
        if not re.match(r"(pipe|socket|anon_inode):|/dev/|/proc/", target):
            found[int(name)] = target
    return found


def mapped_regions() -> list[str]:
    """The mappings of region files (named *.mmap) and of sealed copies, one line of /proc/self/maps each."""
    with open("/proc/self/maps", "rb", buffering=0) as file:
        maps = file.readall()
    if b".mmap" not in maps and b"/memfd:jessy_mem" not in maps:  # after nearly every test
        return []
    lines = maps.decode(errors="replace").splitlines()
    return [line for line in lines if re.search(r"\.mmap( \(deleted\))?$|/memfd:jessy_mem", line)]


class Holdings:
    """What the process holds now; `assert_nothing_new` fails if it holds more later."""

    def __init__(self) -> None:
        self.files = open_files()
        self.mappings = mapped_regions()

    def new(self, now: Holdings | None = None) -> list[str]:
        now = now or Holdings()
        files = [f"descriptor {fd}: {path}" for fd, path in now.files.items() if self.files.get(fd) != path]
        return files + [line for line in now.mappings if line not in self.mappings]

    def assert_nothing_new(self) -> Holdings:
        """What is held now, which is nothing that was not before."""
        now = Holdings()
        for generation in range(3):
            if self.new(now):  # cycles that are garbage are no leak; to find those that are young costs little
                gc.collect(generation)
                now = Holdings()
        left = self.new(now)
        assert not left, f"still held: {left}"
        return now


def as_another_user(check) -> bool:
    """Run `check` in a child that is not root, for whom modes hold; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def in_thread(call):
    """What `call` returns, or raises, in another thread."""
    found = []

    def target():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return found[0]


def run_threads(targets):
    """Run each target in a thread of its own; an exception in one is raised here."""
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
