"""RegionBuilder: what it accepts, what it writes, and that a file is replaced whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import mmap
import os
import pickle
import random
import stat
import threading
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from inside import add_continued, remove_layer

from helpers import HAS_PROC, MAGIC, Layer, extended_file, mapped_regions, read_region
from jessy_mem import compression
from jessy_mem._core.head import read_header
from jessy_mem._core.packing import PackedRegion, pack_layers
from jessy_mem._core.region import MmapRegion
from jessy_mem.builder import LayerSpec, Passage, RegionBuilder, is_immutable_file
from jessy_mem.errors import MappingError
from jessy_mem.publish import is_temporary, publish

needs_zstd = pytest.mark.skipif(not compression.is_available(), reason="zstd is not installed")


def builder(*texts: str, dimension_id: int = 15, **options) -> RegionBuilder:
    made = RegionBuilder(dimension_id, "Humor", **options)
    for text in texts or ("a joke",):
        made.add_layer(LayerSpec(text=text))
    return made


# What goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text, content: give one of the two"),
        ({"text": "a", "content": b"a"}, "text, content: give one of the two"),
        ({"text": b"a"}, "text: bytes is not str; bytes go into content"),
        ({"content": "a"}, "content: str is not bytes-like"),
        ({"content": 5}, "content: int is not bytes-like"),
        ({"text": "a", "depth": -1}, r"depth: -1 is not in 0\.\.255"),
        ({"text": "a", "depth": 256}, r"depth: 256 is not in 0\.\.255"),
        ({"text": "a", "depth": 1.0}, r"depth: 1\.0 is not in 0\.\.255"),
        ({"text": "a", "layer": -1}, r"layer: -1 is not in 0\.\.65535"),
        ({"text": "a", "layer": 65536}, r"layer: 65536 is not in 0\.\.65535"),
        ({"text": "a", "layer": "1"}, r"layer: '1' is not in 0\.\.65535"),
        ({"text": "a", "frequency": 0}, "frequency: 0 is not a finite number of Hz above 0"),
        ({"text": "a", "frequency": -1.5}, r"frequency: -1\.5 is not"),
        ({"text": "a", "frequency": float("nan")}, "frequency: nan is not"),
        ({"text": "a", "frequency": float("inf")}, "frequency: inf is not"),
        ({"text": "a", "frequency": 1e39}, "frequency: 1e.39 is not"),
        ({"text": "a", "frequency": 1e-46}, "frequency: 1e-46 is not"),
        ({"text": "a", "frequency": "1"}, "frequency: '1' is not"),
        ({"text": "a", "keywords": "joke"}, "keywords: 'joke' is not a sequence of str"),
        ({"text": "a", "keywords": (b"joke",)}, "keywords: .* is not a sequence of str"),
    ],
)
def test_spec_that_cannot_be_stored_is_refused_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        LayerSpec(**fields)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"depth": np.uint8(3)}, {"depth": 3}),
        ({"depth": np.array(3)}, {"depth": 3}),
        ({"depth": True}, {"depth": 1}),
        ({"layer": np.int64(500)}, {"layer": 500}),
        ({"frequency": np.float32(0.5)}, {"frequency": 0.5}),
        ({"frequency": np.float64(2.2)}, {"frequency": 2.2}),
        ({"frequency": np.array(2.5)}, {"frequency": 2.5}),
        ({"frequency": np.int16(7)}, {"frequency": 7.0}),
        ({"frequency": Decimal("2.2")}, {"frequency": 2.2}),
        ({"frequency": Fraction(5, 2)}, {"frequency": 2.5}),
        ({"keywords": (word for word in ("joke", "pun"))}, {"keywords": ("joke", "pun")}),
        ({"keywords": map(str.lower, ("Joke", "Pun"))}, {"keywords": ("joke", "pun")}),
        ({"keywords": dict.fromkeys(("pun", "joke"))}, {"keywords": ("pun", "joke")}),
        ({"keywords": np.array(["joke", "pun"])}, {"keywords": ("joke", "pun")}),
        ({"keywords": {"pun", "joke", "wit"}}, {"keywords": ("joke", "pun", "wit")}),
        ({"keywords": frozenset(("pun", "joke"))}, {"keywords": ("joke", "pun")}),
    ],
)
def test_spec_keeps_plain_values_of_whatever_it_is_given(fields, kept):
    spec = LayerSpec(text="a", **fields)
    for field, value in kept.items():
        assert getattr(spec, field) == value
        assert type(getattr(spec, field)) is type(value)
    assert {type(word) for word in spec.keywords} <= {str}


class Marked(str):
    """As libraries for HTML and templates have it."""

    def __str__(self) -> str:
        return "another text"


@pytest.mark.parametrize("text", [np.str_("a joke"), Marked("a joke")])
def test_text_of_any_kind_of_str_is_its_characters(text):
    spec = LayerSpec(text=text)
    assert (spec.text, type(spec.text)) == ("a joke", str)
    plain = RegionBuilder(15, "Humor", created_ns=1).add_layer(LayerSpec(text="a joke", created_ns=1))
    assert (
        RegionBuilder(15, Marked("Humor"), created_ns=1).add_layer(LayerSpec(text=text, created_ns=1)).to_bytes()
        == plain.to_bytes()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": np.float64(3)}, {"depth": Decimal(3)}, {"depth": np.array([3])}, {"layer": np.int64(65536)},
        {"frequency": np.array([1.0])}, {"frequency": 1j}, {"frequency": Decimal("Infinity")},
        {"frequency": Decimal("sNaN")}, {"frequency": np.float64("nan")}, {"frequency": b"1"}, {"frequency": 10**400},
        {"keywords": 5}, {"keywords": b"joke"}, {"keywords": [["joke"]]}, {"keywords": (word for word in ("joke", 5))},
    ],
)  # fmt: skip
def test_spec_refuses_what_is_no_number_or_no_words(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        LayerSpec(text="a", **fields)


def test_same_set_of_keywords_gives_the_same_file(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    words = [f"word {i}" for i in range(100)]
    files = {
        RegionBuilder(1, "x").add_layer(LayerSpec(text="a", keywords=given)).to_bytes()
        for given in (set(words), {*words[::-1]}, frozenset(words), sorted(words))
    }
    assert len(files) == 1


def test_region_numbers_may_be_of_any_integer_type():
    made = RegionBuilder(np.int32(15), "x", generation=np.uint64(2**63), created_ns=np.array(7))
    region = read_region(made.add_layer(LayerSpec(text="a")).to_bytes())
    assert (region.dimension_id, region.generation, region.created_ns) == (15, 2**63, 7)
    assert [type(each) for each in (made.dimension_id, made.generation, made.created_ns)] == [int] * 3


def test_name_is_the_same_however_an_accent_was_typed():
    typed = ["Gef\N{LATIN SMALL LETTER U WITH DIAERESIS}hl", "Gefu\N{COMBINING DIAERESIS}hl"]
    assert len({read_region(builder_of(name)).name for name in typed}) == 1


def builder_of(name: str) -> bytes:
    return RegionBuilder(1, name).add_layer(LayerSpec(text="a")).to_bytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attributes": [("a", 1)]}, "attributes: list is not a mapping"),
        ({"attributes": "a"}, "attributes: str is not a mapping"),
        ({"attributes": {1: "a"}}, "attributes: the key 1 is not str"),
        ({"attributes": {"a": float("nan")}}, "attributes: Out of range float values are not JSON compliant"),
        ({"attributes": {"a": -float("inf")}}, "attributes: Out of range"),
        ({"attributes": {"a": b"bytes"}}, "attributes: Object of type bytes is not JSON serializable"),
        ({"attributes": {"a": {1: 2, "b": 3}}}, "attributes: "),
        ({"attributes": {"a": "half \ud800"}}, "attributes: .*surrogates not allowed"),
        ({"attributes": {"a": "x" * 65529}}, "attributes: 65537 bytes of JSON, expected at most 65536"),
        ({"n_tokens": -1}, r"n_tokens: -1 is not in 0\.\.2\*\*32 - 1"),
        ({"n_tokens": 2**32}, "n_tokens: 4294967296 is not in"),
        ({"n_tokens": 1.0}, r"n_tokens: 1\.0 is not in"),
        ({"created_ns": -1}, r"created_ns: -1 is not in 0\.\.2\*\*64 - 1"),
        ({"created_ns": 2**64}, "created_ns: 18446744073709551616 is not in"),
        ({"created_ns": "now"}, "created_ns: 'now' is not in"),
    ],
)
def test_what_is_known_of_a_layer_is_checked_when_it_is_said(fields, message):
    with pytest.raises(ValueError, match=message):
        LayerSpec(text="a", **fields)


def test_attributes_that_hold_themselves_are_refused():
    endless = {}
    endless["again"] = endless
    with pytest.raises(ValueError, match="attributes: "):
        LayerSpec(text="a", attributes=endless)


def test_attributes_are_those_of_the_moment_when_the_spec_was_made():
    tags = ["a"]
    spec = LayerSpec(text="a", attributes={"tags": tags, "ort": "Köln", "n": 1.5})
    tags.append("b")
    assert spec.attributes == {"tags": ["a"], "ort": "Köln", "n": 1.5}
    stored = RegionBuilder(1, "x").add_layer(spec).to_bytes()
    assert read_region(stored).layers[0].attributes == '{"n":1.5,"ort":"Köln","tags":["a"]}'.encode()
    assert pickle.loads(pickle.dumps(spec)) == spec == replace(spec)
    assert (
        RegionBuilder(1, "x", created_ns=5).add_layer(pickle.loads(pickle.dumps(spec))).to_bytes()
        == RegionBuilder(1, "x", created_ns=5).add_layer(replace(spec)).to_bytes()
    )


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({}, 1),
        ({"attributes": {}}, 1),
        ({"n_tokens": 0}, 1),
        ({"created_ns": 10**18}, 1),
        ({"attributes": {"a": None}}, 2),
        ({"attributes": {"a": "x" * 65528}}, 2),
        ({"n_tokens": 1}, 2),
        ({"n_tokens": 2**32 - 1}, 2),
        ({"created_ns": 0}, 2),
        ({"created_ns": 2**64 - 1}, 2),
    ],
)
@pytest.mark.parametrize("immutable", [False, True])
def test_region_is_written_with_the_lowest_version_that_can_say_it(fields, version, immutable, region_file):
    made = RegionBuilder(3, "Intention", created_ns=10**18, immutable=immutable)
    data = (
        made.add_layer(LayerSpec(text="one"))
        .add_layer(LayerSpec(text="ß" * 5000, keywords=("word",), **fields))
        .to_bytes()
    )
    region = read_region(data)
    assert (region.version, region.delta) == (version, False)
    known = {"attributes": {}, "n_tokens": 0, "created_ns": 10**18} | fields
    layers = [Layer(0, b"one"), Layer(1, "ß".encode() * 5000, keywords=(b"word",), n_tokens=known["n_tokens"],
                                      created_ns=known["created_ns"])]  # fmt: skip
    if known["attributes"]:
        layers[1] = replace(layers[1], attributes=json.dumps(known["attributes"], separators=(",", ":")).encode())
    assert data == extended_file(layers, immutable=immutable, version=version)
    with MmapRegion(3, region_file(data)) as opened:
        assert opened.verify() == []
        assert opened.layer(1).text == "ß" * 5000


@pytest.mark.parametrize("fields", [{}, {"attributes": {"a": 1}}])
def test_layer_that_is_removed_makes_a_delta(fields):
    made = RegionBuilder(3, "Intention", created_ns=10**18)
    remove_layer(made.add_layer(LayerSpec(text="one", **fields)), 7)
    with pytest.raises(ValueError, match="layer 7 was added before"):
        remove_layer(made, 7)
    with pytest.raises(ValueError, match="layer 0 was added before"):
        remove_layer(made, 0)
    layers = (Layer(0, b"one", attributes=b'{"a":1}' if fields else b""), Layer(7, b"", text_flags=4))
    assert made.to_bytes() == extended_file(layers, version=2 if fields else 1, delta=True)
    with pytest.raises(ValueError, match="layer 7: only a delta says that a layer is removed"):
        pack_layers(3, b"x", 1, 0, {7: None})


def test_spec_is_frozen_and_its_keywords_are_a_tuple():
    words = ["joke", "pun"]
    spec = LayerSpec(text="a", keywords=words)
    words.append("more")
    assert spec.keywords == ("joke", "pun")
    with pytest.raises(AttributeError):
        spec.text = "b"


@pytest.mark.parametrize("dimension_id", [0, -1, 2**32])
def test_dimension_out_of_range_is_refused(dimension_id):
    with pytest.raises(ValueError, match=f"dimension {dimension_id}: expected"):
        RegionBuilder(dimension_id, "x")


@pytest.mark.parametrize("dimension_id", ["1", None, 1.0])
def test_dimension_that_is_no_int_is_a_type_error(dimension_id):
    with pytest.raises(TypeError):
        RegionBuilder(dimension_id, "x")


@pytest.mark.parametrize("name", [b"x", None, 5])
def test_name_that_is_no_str_is_a_type_error(name):
    with pytest.raises(TypeError, match=r"name: .* is not str"):
        RegionBuilder(1, name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("generation", 0), ("generation", 2**64), ("generation", 1.0), ("created_ns", -1), ("created_ns", 2**64)],
)
def test_number_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: {value} is not in"):
        RegionBuilder(1, "x", **{field: value})


def test_layer_number_is_its_position_or_what_is_asked():
    data = (
        RegionBuilder(1, "x")
        .add_layer(LayerSpec(text="zero"))
        .add_layer(LayerSpec(text="far", layer=500))
        .add_layer(LayerSpec(text="two"))
        .add_layer(LayerSpec(text="one", layer=1))
        .to_bytes()
    )
    assert [(layer.layer, layer.content) for layer in read_region(data).layers] == [
        (0, b"zero"), (1, b"one"), (2, b"two"), (500, b"far")
    ]  # fmt: skip


def test_layer_number_that_is_taken_is_refused():
    made = builder("zero")
    with pytest.raises(ValueError, match="layer 0 was added before"):
        made.add_layer(LayerSpec(text="again", layer=0))
    made.add_layer(LayerSpec(text="two", layer=2))
    made.add_layer(LayerSpec(text="one", layer=1))
    assert [layer.content for layer in read_region(made.to_bytes()).layers] == [b"zero", b"one", b"two"]


def test_region_without_layers_is_refused(tmp_path):
    empty = RegionBuilder(1, "x")
    with pytest.raises(ValueError, match="at least one layer"):
        empty.to_bytes()
    with pytest.raises(ValueError, match="at least one layer"):
        empty.write(tmp_path / "D01" / "region.mmap")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        bytearray(b"0123456789"),
        memoryview(b"0123456789"),
        memoryview(b"_0_1_2_3_4_5_6_7_8_9")[1::2],
        np.frombuffer(b"0123456789", np.uint8),
        np.frombuffer(b"0123456789", ">u2"),
        np.frombuffer(b"0123456789", np.uint8).reshape(5, 2),
        np.frombuffer(b"0516273849", np.uint8).reshape(5, 2).T,
    ],
)
def test_content_is_any_buffer_in_its_own_order(content):
    data = RegionBuilder(1, "x").add_layer(LayerSpec(content=content)).to_bytes()
    assert read_region(data).layers[0].content == b"0123456789"


@pytest.mark.parametrize("content", [b"", bytearray(), np.empty(0, np.uint8), np.empty((0, 3), np.uint8)])
def test_empty_content_is_a_layer(content):
    layer = read_region(RegionBuilder(1, "x").add_layer(LayerSpec(content=content)).to_bytes()).layers[0]
    assert (layer.content, layer.text_flags, layer.characters) == (b"", 3, 0)


@pytest.mark.parametrize(
    ("content", "flags", "characters"),
    [
        (b"ascii", 3, 5),
        ("größe".encode(), 1, 5),
        ("\N{GRINNING FACE}".encode(), 1, 1),
        (b"\xff", 0, 0),
        (b"\xed\xa0\x80", 0, 0),
    ],
)
def test_text_flags_tell_what_the_content_is(content, flags, characters):
    layer = read_region(RegionBuilder(1, "x").add_layer(LayerSpec(content=content)).to_bytes()).layers[0]
    assert (layer.text_flags, layer.characters) == (flags, characters)


@pytest.mark.parametrize("n_before", [0, 31, 4096, 65533, 2_000_000])
@pytest.mark.parametrize(
    ("word", "flags", "characters"),
    [("\N{GRINNING FACE}".encode(), 1, 1), (b"\xe2\x82", 0, 0), (b"\x80", 0, 0), (b"ascii", 3, 5)],
)
def test_text_flags_of_a_content_of_any_length(n_before, word, flags, characters):
    content = b"".join([b"x" * n_before, word, b"y" * 40])
    layer = read_region(RegionBuilder(1, "x").add_layer(LayerSpec(content=content)).to_bytes()).layers[0]
    assert (layer.text_flags, layer.characters) == (flags, flags and n_before + characters + 40)


def test_text_flags_of_a_content_that_is_cut_off_in_a_character():
    content = b"x" * 70_000 + "ß".encode()
    for end, flags in ((None, 1), (-1, 0)):
        layer = read_region(RegionBuilder(1, "x").add_layer(LayerSpec(content=content[:end])).to_bytes()).layers[0]
        assert layer.text_flags == flags


@pytest.mark.parametrize(("field", "what"), [("text", "text"), ("keywords", "keyword")])
def test_text_that_is_not_unicode_names_its_layer(field, what):
    fields = {"text": "sound", field: "half \ud800" if field == "text" else ("half \ud800",)}
    made = builder("zero").add_layer(LayerSpec(**fields))
    with pytest.raises(UnicodeEncodeError, match=f"in a {what} of layer 1"):
        made.to_bytes()


def test_passages_go_on_where_the_text_ends():
    passages = (Passage.of("größe, "), Passage.joined([Passage.of("c"), Passage.of(", ")])) * 2
    more = (*passages, Passage.of("größe, c, ").repeated(1))
    made = add_continued(RegionBuilder(1, "x"), LayerSpec(text="a, "), more)
    layer = read_region(made.to_bytes()).layers[0]
    assert layer.content.decode() == "a, " + "größe, c, " * 3
    with pytest.raises(ValueError, match="passages"):
        add_continued(made, LayerSpec(content=b"bytes"), passages)


def test_same_input_gives_the_same_bytes_with_source_date_epoch(monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    first = builder("one", "two", immutable=True).to_bytes()
    assert builder("one", "two", immutable=True).to_bytes() == first
    assert read_region(first).created_ns == 1234567890 * 10**9
    assert builder("one", "two", immutable=True).write(tmp_path / "a.mmap").read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert read_region(builder().to_bytes()).created_ns == 0
    for unset in (lambda: monkeypatch.setenv("SOURCE_DATE_EPOCH", ""), lambda: monkeypatch.delenv("SOURCE_DATE_EPOCH")):
        unset()
        assert read_region(builder().to_bytes()).created_ns > 1234567890 * 10**9
    assert read_region(builder(created_ns=77).to_bytes()).created_ns == 77


@pytest.mark.parametrize("epoch", ["soon", "-1", "1.5", "99999999999999999999", "²"])
def test_source_date_epoch_that_is_no_time_is_refused(epoch, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ValueError, match=r"SOURCE_DATE_EPOCH: .* is not a number of seconds"):
        builder().to_bytes()


def test_packing_refuses_what_would_overflow_its_fields():
    spec = LayerSpec(text="x")
    for name in (b"", b"x" * 65):
        with pytest.raises(ValueError, match=f"name: {len(name)} bytes"):
            pack_layers(1, name, 1, 0, {0: spec})
    for layers in ({}, dict.fromkeys(range(65537), spec)):
        with pytest.raises(ValueError, match="at least one layer, and at most 65536"):
            pack_layers(1, b"x", 1, 0, layers)
    for layer in (-1, 65536, 2**40):
        with pytest.raises(ValueError, match=f"layer {layer} is not in"):
            pack_layers(1, b"x", 1, 0, {layer: spec})


def test_packed_region_that_nobody_packed_is_empty():
    empty = PackedRegion()
    assert (empty.n_bytes, empty.n_layers, list(empty.pieces())) == (0, 0, [])
    empty.fill(bytearray(1))
    with pytest.raises(ValueError, match="nothing was packed"):
        empty.renumber(1)


@pytest.mark.parametrize("n_bytes", [0, 5, 4096, 65535, 65536, 70_000, 3 << 20])
@pytest.mark.parametrize("n_layers", [1, 2, 60])
def test_pieces_are_what_fills_a_buffer(n_bytes, n_layers):
    contents = [bytes([65 + i]) * (n_bytes if i % 3 else 7) for i in range(n_layers)]
    packed = pack_layers(1, b"x", 1, 0, {i: LayerSpec(content=content) for i, content in enumerate(contents)})
    pieces = list(packed.pieces())
    assert all(len(piece) for piece in pieces)
    assert len(pieces) <= 2 + 2 * n_layers * (n_bytes >= 65536) + packed.n_bytes // (1 << 20)
    data = bytearray(b"\xff") * packed.n_bytes
    packed.fill(data)
    assert b"".join(pieces) == data
    assert [layer.content for layer in read_region(bytes(data)).layers] == contents


def test_packed_region_that_does_not_fit_writes_nothing():
    packed = builder("one").pack(1)
    target = bytearray(packed.n_bytes - 1)
    with pytest.raises(ValueError, match=f"{packed.n_bytes} bytes do not fit into {packed.n_bytes - 1}"):
        packed.fill(target)
    with pytest.raises(BufferError):
        packed.fill(bytes(packed.n_bytes))
    assert target == bytes(packed.n_bytes - 1)
    target.append(1)  # which a bytearray whose buffer is held refuses


def test_pieces_outlive_what_they_come_from():
    long = next(piece for piece in builder("x" * 100_000).pack(1).pieces() if isinstance(piece, memoryview))
    assert long == b"x" * 100_000


def test_packed_region_fills_a_buffer_that_held_other_bytes():
    packed = builder("one", "y" * 5000).pack(1)
    target = bytearray(b"\xff" * (packed.n_bytes + 10))
    packed.fill(memoryview(target))
    assert bytes(target[: packed.n_bytes]) == b"".join(packed.pieces())
    assert target[packed.n_bytes :] == b"\xff" * 10
    read_region(bytes(target[: packed.n_bytes]))


def test_packed_region_can_be_given_another_number():
    packed = builder("one", "two").pack(1)
    packed.renumber(77)
    region = read_region(b"".join(packed.pieces()))
    assert (region.dimension_id, region.layers[1].content) == (77, b"two")


def test_header_tells_what_the_region_is():
    data = builder("one", dimension_id=77, generation=5, immutable=True).to_bytes()
    assert read_header(io.BytesIO(data)) == (77, "Humor", 5, True)
    packed = builder("one").pack(3)
    packed.renumber(2**31)
    assert read_header(io.BytesIO(b"".join(packed.pieces()))) == (2**31, "Humor", 3, False)


@pytest.mark.parametrize("change", [lambda data: data[:255], lambda data: b"", lambda data: data[:84] + bytes(172)])
def test_header_of_no_region_tells_nothing(change):
    assert read_header(io.BytesIO(change(builder("one").to_bytes()))) is None


def test_header_with_a_wrong_name_is_told_without_reading_outside_it():
    data = bytearray(builder("one").to_bytes())
    data[4:9] = b"\xff\xff\xff\xff\xff"  # the length of the name, and its first byte
    (_, name, _, _) = read_header(io.BytesIO(data))
    assert name == "\N{REPLACEMENT CHARACTER}umor" + "\0" * 59


def test_packed_bytes_are_published_as_they_are(tmp_path):
    data = builder("one").to_bytes()
    publish([memoryview(data)], tmp_path / "region.mmap")
    assert (tmp_path / "region.mmap").read_bytes() == data


# Compression ------------------------------------------------------------------------------------------------------


@needs_zstd
def test_passages_are_compressed_with_the_text_they_go_on(region_file):
    passages = [Passage.of("größe, ").repeated(50)] * 2
    made = add_continued(RegionBuilder(1, "x"), LayerSpec(text="a, ", compress=True), passages)
    text = "a, " + "größe, " * 100
    with MmapRegion(1, region_file(made.to_bytes())) as region:
        assert region.layer(0).text == text
    layer = read_region(made.to_bytes()).layers[0]
    assert (layer.codec, layer.raw_size, layer.characters) == (1, len(text.encode()), len(text))


@needs_zstd
def test_compressed_layer_is_read_as_it_was(region_file):
    text = "the same words again and again, " * 500
    data = (
        RegionBuilder(1, "x")
        .add_layer(LayerSpec(text=text, compress=True))
        .add_layer(LayerSpec(content=random.Random(1).randbytes(5000), compress=True))
        .add_layer(LayerSpec(text="", compress=True))
        .to_bytes()
    )
    layers = read_region(data).layers
    assert [layer.codec for layer in layers] == [1, 0, 0]  # what does not get smaller stays raw
    assert (layers[0].raw_size, layers[0].characters, layers[0].text_flags) == (len(text), len(text), 3)
    assert len(layers[0].content) < len(text) // 20
    with MmapRegion(1, region_file(data)) as region:
        assert region.layer(0).text == text
        assert region.layer(0) is region.layer(0)
        assert region.layer(1).n_bytes == 5000
        assert region.verify() == []
        facts = [(stored, raw) for *_, stored, raw, _ in region.layer_facts()]
        assert facts[0] == (len(layers[0].content), len(text))


def test_compression_without_a_library_names_the_extra(without_zstd):
    assert not compression.is_available()
    with pytest.raises(ImportError, match=r"pip install 'jessy-mem\[zstd\]'"):
        builder().add_layer(LayerSpec(text="x" * 100, compress=True)).to_bytes()


# Publishing -------------------------------------------------------------------------------------------------------


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_write_makes_folders_and_leaves_one_file(tmp_path):
    path = tmp_path / "base" / "D15" / "region.mmap"
    assert builder().write(path) == path
    assert files_below(tmp_path) == ["base", "base/D15", "base/D15/region.mmap"]
    assert read_region(path.read_bytes()).generation == 1


def test_write_accepts_text_as_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert builder().write("region.mmap") == Path("region.mmap")
    assert files_below(tmp_path) == ["region.mmap"]


def test_write_counts_the_generation_up(tmp_path):
    path = tmp_path / "region.mmap"
    for generation in (1, 2, 3):
        builder().write(path)
        assert read_region(path.read_bytes()).generation == generation
    builder(generation=9).write(path)
    builder().write(path)
    assert read_region(path.read_bytes()).generation == 10


@pytest.mark.parametrize(
    "there", [b"", b"no region", b"\xff" * 300, bytes(84) + MAGIC + bytes(12) + b"\xff" * 8 + bytes(136)]
)
def test_write_over_what_is_no_region_begins_with_generation_1(there, tmp_path):
    path = tmp_path / "region.mmap"
    path.write_bytes(there)
    builder().write(path)
    assert read_region(path.read_bytes()).generation == 1


def test_write_over_a_fifo_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "region.mmap")
    builder().write(tmp_path / "region.mmap")
    read_region((tmp_path / "region.mmap").read_bytes())


def test_device_is_not_replaced_by_a_file(tmp_path):
    """A write to /dev/null, by root, would leave the system without one."""
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    for kwargs in ({}, {"progress": lambda done, total: None}):
        with pytest.raises(MappingError, match="it is a device") as caught:
            builder().write(path, **kwargs)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(path))
    assert stat.S_ISCHR(path.stat().st_mode)
    assert [each.name for each in tmp_path.iterdir()] == ["null"]


@pytest.mark.parametrize("device", ["/dev/null", "/proc/self/fd/1"])  # as /dev/stdout is one
def test_link_to_a_device_is_not_replaced_by_a_file(device, tmp_path):
    path = tmp_path / "stdout"
    path.symlink_to(device)
    with pytest.raises(MappingError, match="it is a device"):
        builder().write(path)
    assert os.readlink(path) == device
    assert [each.name for each in tmp_path.iterdir()] == ["stdout"]


def test_file_takes_the_permissions_of_the_one_it_replaces(tmp_path):
    path = tmp_path / "region.mmap"
    umask = os.umask(0o027)
    try:
        builder().write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o444, 0o666):
            path.chmod(mode)
            builder().write(path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(umask)


def test_mapped_file_is_untouched_by_its_replacement(tmp_path):
    path = tmp_path / "region.mmap"
    old = builder("old").write(path).read_bytes()
    with MmapRegion(15, path) as region:
        view = region.layer(0)
        assert not region.stale
        builder("new and longer").write(path)
        assert region.stale
        assert bytes(memoryview(region)) == old
        assert view.text == "old"
        assert region.verify() == []
        with MmapRegion(15, path) as newer:
            assert (newer.generation, newer.layer(0).text) == (2, "new and longer")


def test_progress_grows_to_the_size_of_the_file(tmp_path):
    seen = []
    path = builder("x" * 10_000_000, "y").write(tmp_path / "region.mmap", lambda *numbers: seen.append(numbers))
    size = path.stat().st_size
    assert {total for _, total in seen} == {size}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == size
    assert len(seen) > 3


def test_short_writes_are_gone_on_with(tmp_path, inject):
    write = os.write
    with inject.instead("os.write", lambda fd, data: write(fd, data[: max(1, len(data) // 2)])):
        path = builder("x" * 1000, "y" * 5000).write(tmp_path / "region.mmap")
    assert [layer.content for layer in read_region(path.read_bytes()).layers] == [b"x" * 1000, b"y" * 5000]


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("call", "there"),
    [(call, there) for there in (False, True) for call in ("open", "write", "fsync", "rename")]
    + [("mkdir", False), ("fchmod", True)],
)
def test_failure_of_the_system_leaves_the_old_file_and_nothing_else(call, there, tmp_path, inject):
    path = tmp_path / "base" / "D15" / "region.mmap"
    old = builder("old").write(path).read_bytes() if there else None
    before = files_below(tmp_path)
    with inject(no_space(), f"os.{call}"), pytest.raises(MappingError, match="No space left on device") as caught:
        builder("new").write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert isinstance(caught.value.__cause__, OSError)
    assert files_below(tmp_path) == before
    assert old is None or path.read_bytes() == old
    builder("new").write(path)
    assert read_region(path.read_bytes()).layers[0].content == b"new"


def test_failure_in_the_middle_of_the_file_leaves_nothing(tmp_path, inject):
    write = os.write
    path = tmp_path / "region.mmap"
    old = builder("old").write(path).read_bytes()
    some = inject.instead("os.write", lambda fd, data: write(fd, data[:100]))
    with some, inject(no_space(), "os.write", at=2), pytest.raises(MappingError):
        builder("x" * 10_000).write(path)
    assert files_below(tmp_path) == ["region.mmap"]
    assert path.read_bytes() == old


def test_failure_to_make_the_name_durable_leaves_the_new_file_whole(tmp_path, inject):
    path = tmp_path / "region.mmap"
    builder("old").write(path)
    fsync, synced = os.fsync, []

    def fsync_files(fd):
        synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        if synced[-1]:
            raise no_space()
        fsync(fd)

    with inject.instead("os.fsync", fsync_files), pytest.raises(MappingError):
        builder("new").write(path)
    assert synced == [False, True]  # the file before its name, the folder after
    assert files_below(tmp_path) == ["region.mmap"]
    assert read_region(path.read_bytes()).layers[0].content == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "region.mmap"
    old = builder("old").write(path).read_bytes()

    def stop(_done_bytes, _total_bytes):
        raise error

    for target in (path, tmp_path / "D16" / "region.mmap"):
        with pytest.raises(error):
            builder("new").write(target, stop)
    assert files_below(tmp_path) == ["region.mmap"]
    assert path.read_bytes() == old


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "region.mmap").mkdir()
    with pytest.raises(MappingError) as caught:
        builder().write(tmp_path / "region.mmap")
    assert caught.value.filename == str(tmp_path / "region.mmap")
    assert files_below(tmp_path) == ["region.mmap"]


def test_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "D15").write_bytes(b"")
    with pytest.raises(MappingError, match="Not a directory"):
        builder().write(tmp_path / "D15" / "region.mmap")
    assert files_below(tmp_path) == ["D15"]


def test_temporary_file_is_a_recognisable_sibling(tmp_path, inject):
    seen = []
    rename = os.rename

    def seen_rename(source, target, **folders):
        seen.append(source)
        rename(source, target, **folders)

    with inject.instead("os.rename", seen_rename):
        builder().write(tmp_path / "region.mmap")
        builder().write(tmp_path / "region.mmap")
    assert len(set(seen)) == 2
    for temporary in seen:
        assert os.path.dirname(temporary) == ""  # of the same folder
        assert is_temporary(tmp_path / temporary)


@pytest.mark.parametrize(
    "name",
    ["region.mmap", ".region.mmap.tmp", ".region.mmap.0123.tmp", "region.mmap.0123456789abcdef.tmp", ".tmp",
     ".region.mmap.0123456789ABCDEF.tmp", ".region.mmap.0123456789abcdeg.tmp", ".region.mmap.0123456789abcdef"],
)  # fmt: skip
def test_other_names_are_not_taken_for_temporary_files(name):
    assert not is_temporary(Path("D15") / name)
    assert is_temporary(Path("D15/.region.mmap.0123456789abcdef.tmp"))


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / "region.mmap"
    texts = [letter * 20_000 for letter in "abcdef"]

    def write(text):
        for _ in range(5):
            builder(text, text).write(path)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            with MmapRegion(15, path, verify="open") as region:
                assert region.layer(0).text == region.layer(1).text
    for thread in threads:
        thread.join()
    assert files_below(tmp_path) == ["region.mmap"]


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_builder_maps_nothing(tmp_path):
    before = mapped_regions()
    builder("x" * 100_000).write(tmp_path / "region.mmap")
    assert mapped_regions() == before


@pytest.mark.thread_unsafe(reason="shares nothing, and takes a second")
def test_most_layers_that_a_region_can_have():
    made = RegionBuilder(1, "x")
    for _ in range(65536):
        made.add_layer(LayerSpec(content=b""))
    with pytest.raises(ValueError, match="layer 65536: a region has at most 65536 layers"):
        made.add_layer(LayerSpec(content=b""))
    with pytest.raises(ValueError, match="layer 65535 was added before"):
        made.add_layer(LayerSpec(content=b"", layer=65535))
    data = made.to_bytes()
    assert len(data) == 256 + 65536 * (23 + 32)
    assert [layer.layer for layer in read_region(data).layers] == list(range(65536))


def test_content_of_more_than_32_bits_is_refused():
    content = mmap.mmap(-1, 2**32)  # no page of it is ever touched
    with pytest.raises(ValueError, match="layer 0: 4294967296 bytes, a layer stores at most 4294967295"):
        RegionBuilder(1, "x").add_layer(LayerSpec(content=content)).to_bytes()


def test_file_that_cannot_be_read_is_replaced_by_generation_1(tmp_path, inject):
    path = builder("old", generation=7).write(tmp_path / "region.mmap")
    with inject(OSError(errno.EIO, "I/O error"), "pathlib.Path.open"):
        builder("new").write(path)
    assert read_region(path.read_bytes()).generation == 1


def test_attributes_may_be_numbers_of_any_kind():
    spec = LayerSpec(
        text="x", attributes={"n": np.int64(3), "w": np.array([0.5, 1]), "d": Decimal("2.5"), "b": np.True_}
    )
    plain = {"n": 3, "w": [0.5, 1.0], "d": 2.5, "b": True}
    assert spec.attributes == plain
    assert LayerSpec(text="x", attributes=plain) == spec


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="layer 0: str is not a LayerSpec"):
        RegionBuilder(1, "Emotion").add_layer("a joke")


def test_whether_a_file_is_immutable_is_not_known_where_the_system_refuses_to_look(tmp_path):
    assert not is_immutable_file(tmp_path / "nothing")
    with pytest.raises(MappingError) as caught:
        is_immutable_file(tmp_path / ("long" * 100))
    assert caught.value.errno == errno.ENAMETOOLONG
