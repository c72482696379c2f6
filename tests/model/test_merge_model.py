"""Merging against a dict: whatever was added, replaced and removed, the newest record of each layer is what is left."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import COMPRESSED_SAMPLE, SAMPLE, Layer, extended_file, patch, plain_file, read_region
from jessy_mem._core.image import Image
from jessy_mem._core.mapped import map_file
from jessy_mem._core.merge import merge_images
from jessy_mem._core.packing import PackedRegion, pack_layers
from jessy_mem.builder import LayerSpec
from jessy_mem.errors import ChecksumMismatch, InvalidRegion

CREATED_NS = 10**18


def image_of(data: bytes) -> Image:
    return Image(data, "<memory>", 3, "mmap")


def bytes_of(packed: PackedRegion) -> bytes:
    data = bytearray(b"\xff") * packed.n_bytes
    packed.fill(data)
    assert b"".join(packed.pieces()) == data
    return bytes(data)


def merged(layers_of_each, as_base: bool, created_ns: int = CREATED_NS) -> dict[int, Layer]:
    """The model: what files of these layers, each made at its own time, say together."""
    newest: dict[int, Layer] = {}
    for generation, layers in enumerate(layers_of_each, 1):
        for layer in layers:
            made_ns = created_ns + generation if layer.created_ns is None else layer.created_ns
            newest[layer.layer] = replace(layer, created_ns=made_ns)
    if not as_base:
        return newest
    return {number: layer for number, layer in newest.items() if not layer.is_tombstone or number == max(newest)}


def facts(layer: Layer):
    return (layer.layer, layer.content, layer.depth, layer.frequency, layer.keywords, layer.is_tombstone, layer.codec,
            layer.created_ns, layer.attributes, layer.n_tokens)  # fmt: skip


NUMBERS = st.one_of(st.integers(0, 6), st.sampled_from([100, 65534, 65535]))
WORDS = st.lists(st.text("aß\N{SNOWMAN}", max_size=4).map(str.encode), max_size=3).map(tuple)
CONTENTS = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(str.encode),
    st.integers(4000, 9000).map(bytes),
    st.just(70_000).map(lambda n_bytes: b"x" * n_bytes),
)
LAYERS = st.builds(
    Layer,
    NUMBERS,
    CONTENTS,
    st.integers(0, 255),
    st.sampled_from([0.5, 1.0, 4.25]),
    WORDS,
    created_ns=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    attributes=st.sampled_from([b"", b"", b"{}", b'{"a":1}', '{"ort":"Köln"}'.encode()]),
    n_tokens=st.sampled_from([0, 0, 7, 2**32 - 1]),
)
TOMBSTONES = st.builds(Layer, NUMBERS, st.just(b""), text_flags=st.just(4))


def files(layers):
    return st.lists(layers, min_size=1, max_size=6, unique_by=lambda layer: layer.layer).map(
        lambda found: tuple(sorted(found, key=lambda layer: layer.layer))
    )


def spec_of(layer: Layer) -> LayerSpec | None:
    if layer.is_tombstone:
        return None
    return LayerSpec(
        content=layer.content,
        depth=layer.depth,
        frequency=layer.frequency,
        keywords=tuple(word.decode() for word in layer.keywords),
        attributes=json.loads(layer.attributes) if layer.attributes else None,
        n_tokens=layer.n_tokens,
        created_ns=layer.created_ns,
    )


@settings(max_examples=150, deadline=None)
@given(
    base=files(LAYERS),
    deltas=st.lists(files(st.one_of(LAYERS, TOMBSTONES)), max_size=4),
    plain=st.booleans(),
    as_base=st.booleans(),
    with_extra=st.booleans(),
)
def test_merge_is_what_a_dict_says(base, deltas, plain, as_base, with_extra):
    if plain:
        base = tuple(Layer(layer.layer, layer.content, 1, 2.0, layer.keywords, created_ns=0) for layer in base)
    images = [image_of(plain_file(base) if plain else extended_file(base, version=2, created_ns=CREATED_NS + 1))]
    extra = None
    for generation, layers in enumerate(deltas, 2):
        made_ns = CREATED_NS + generation
        if with_extra and generation == len(deltas) + 1:
            # An empty object is not stored, and says the same.
            layers = tuple(replace(layer, attributes=layer.attributes.replace(b"{}", b"")) for layer in layers)
            deltas = [*deltas[:-1], layers]
            specs = {layer.layer: spec_of(layer) for layer in layers}
            extra = pack_layers(77, b"another", 1, made_ns, specs, delta=True)
        else:
            images.append(
                image_of(extended_file(layers, generation=generation, created_ns=made_ns, version=2, delta=True))
            )
    packed = merge_images(images, as_base=as_base, generation=9, created_ns=CREATED_NS, extra=extra)
    region = read_region(bytes_of(packed))
    wanted = merged([base, *deltas], as_base)
    assert [facts(layer) for layer in region.layers] == [facts(wanted[number]) for number in sorted(wanted)]
    assert (region.dimension_id, region.name, region.generation) == (3, b"Intention", 9)
    assert (region.created_ns, region.immutable) == (CREATED_NS, False)
    assert region.delta == (not as_base or wanted[max(wanted)].is_tombstone)
    result = image_of(bytes_of(packed))
    assert result.damage() == []
    assert result.n_live_layers == sum(not layer.is_tombstone for layer in wanted.values())


def test_merge_takes_compressed_layers_as_they_are_stored():
    images = [image_of(extended_file(COMPRESSED_SAMPLE)), image_of(extended_file((Layer(7, b"new"),), delta=True))]
    region = read_region(bytes_of(merge_images(images, as_base=True, generation=2, created_ns=10**18)))
    assert region.layers[1] == replace(read_region(extended_file(COMPRESSED_SAMPLE)).layers[1],
                                       offset=region.layers[1].offset)  # fmt: skip
    assert (region.version, [layer.layer for layer in region.layers]) == (1, [0, 1, 7])


def test_merge_of_a_merge_is_the_same_in_any_grouping():
    layers = []
    for generation, number in enumerate((0, 3, 9, 5, 7)):
        pair = (Layer(number, b"%d" % generation), Layer(9 - number, b"", text_flags=4))
        layers.append(pair if number < 9 - number else pair[::-1])
    parts = [image_of(extended_file(each, generation=g + 2, delta=True)) for g, each in enumerate(layers)]
    base = image_of(extended_file())

    def merge(images, as_base):
        return bytes_of(merge_images(images, as_base=as_base, generation=7, created_ns=10**18))

    whole = merge([base, *parts], as_base=True)
    for at in range(1, len(parts)):
        left, right = image_of(merge(parts[:at], as_base=False)), image_of(merge(parts[at:], as_base=False))
        assert merge([base, left, right], as_base=True) == whole
        first = image_of(merge([base, *parts[:at]], as_base=True))
        assert merge([first, right], as_base=True) == whole


def test_merged_bytes_outlive_their_sources(tmp_path):
    path = tmp_path / "region.mmap"
    path.write_bytes(extended_file())
    packed = merge_images([map_file(path, 3)], as_base=True, generation=1, created_ns=10**18)
    path.unlink()
    assert bytes_of(packed) == extended_file()


def test_damaged_content_is_not_merged():
    data = bytearray(extended_file())
    data[read_region(bytes(data)).layers[1].offset] ^= 1
    images = [image_of(bytes(data))]
    with pytest.raises(ChecksumMismatch) as caught:
        merge_images(images, as_base=True, generation=2, created_ns=0)
    assert (caught.value.field, caught.value.layer) == ("content", 1)
    replaced = pack_layers(3, b"Intention", 2, 0, {1: LayerSpec(text="sound")}, delta=True)
    region = read_region(bytes_of(merge_images(images, as_base=True, generation=2, created_ns=0, extra=replaced)))
    assert region.layers[1].content == b"sound"  # nobody needs the damaged one any more


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("layers[0].keywords[0].length", 2**32 - 1, "keyword"),
        ("layers[0].keywords[1]", b"tear\xff", "keyword"),
        ("layers[0].attributes", b'{"a":\xff}', "attributes"),
    ],
)
def test_file_that_was_changed_since_it_was_opened_is_not_merged(field, value, named):
    layers = (replace(SAMPLE[0], attributes=b'{"a":1}'), *SAMPLE[1:])
    data = bytearray(extended_file(layers, version=2))
    region, image = read_region(bytes(data)), Image(data, "<memory>", 3, "mmap")
    patch(data, region, field, value)
    with pytest.raises(InvalidRegion) as caught:
        merge_images([image], as_base=True, generation=2, created_ns=0)
    assert (caught.value.field, caught.value.layer, caught.value.expected) == (named, 0, "an unchanged file")


def test_what_cannot_be_merged_is_refused():
    sound = image_of(extended_file())

    def merge(images, extra=None):
        merge_images(images, as_base=True, generation=2, created_ns=0, extra=extra)

    with pytest.raises(ValueError, match="there is none"):
        merge([])
    for other in (extended_file(dimension_id=4), extended_file(immutable=True)):
        with pytest.raises(ValueError, match="another dimension, or immutable"):
            merge([sound, Image(other, "<memory>", 0, "mmap")])
    for other in (None, b""):
        with pytest.raises(TypeError, match="no Image"):
            merge([sound, other])
    with pytest.raises(ValueError, match="nothing was packed"):
        merge([sound], PackedRegion())
    with pytest.raises(TypeError):
        merge([sound], sound)


@pytest.mark.slow
def test_most_layers_that_a_region_can_have_are_merged():
    base = image_of(extended_file(tuple(Layer(i, b"") for i in range(0, 65536, 2))))
    odd = image_of(extended_file(tuple(Layer(i, b"x") for i in range(1, 65536, 2)), generation=2, delta=True))
    packed = merge_images([base, odd], as_base=True, generation=2, created_ns=10**18)
    assert packed.n_layers == 65536
    result = image_of(bytes_of(packed))
    assert (result.n_live_layers, result.content_bytes, result.damage()) == (65536, 32768, [])
