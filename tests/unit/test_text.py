"""Text of layers against CPython's decoder: what is text, in every width, and what is none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jessy_mem as jm
from helpers import Layer, extended_file
from jessy_mem._core.region import MmapRegion

# ruff: noqa: RUF001
SCRIPTS = {
    "English": "the quick brown fox jumps over the lazy dog",
    "French": "où déjà été garçon élève naïve la forêt",
    "Turkish": "küçük bir çocuk büyük ağacın altında yaşlı görmüş",
    "Russian": "Съешь ещё этих мягких французских булок",
    "Hindi": "नमस्ते दुनिया यह एक परीक्षण है",
    "Chinese": "天地玄黄 宇宙洪荒 日月盈昃 辰宿列张",
    "emoji": "😀 🎉 👍🏽 ❤️ 🚀 🌍",
    "edges": "\x00 \x7f \x80 ÿ Ā \u07ff \u0800 \ud7ff \ue000 \uffff \U00010000 \U0010ffff",
}
CHARACTERS = st.one_of(
    st.characters(max_codepoint=0x7F),
    st.characters(min_codepoint=0x80, max_codepoint=0xFF),
    st.characters(min_codepoint=0x100, max_codepoint=0x7FF),
    st.characters(min_codepoint=0x800, max_codepoint=0xFFFF, exclude_categories=["Cs"]),
    st.characters(min_codepoint=0x10000),
)
RUNS = st.lists(st.tuples(CHARACTERS, st.integers(1, 60)), min_size=1, max_size=12)
# What cannot stand in UTF-8: bytes alone, longer forms, surrogates, what is above the last character, cut sequences.
DAMAGE = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xfe", b"\xc3",
    b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3\xc3", b"\xe2\x82\xe2", b"\xf0\x9f\x98\xf0", b"\xf8\x88\x80\x80\x80",
]  # fmt: skip


def prose(script, n_characters, seed=0):
    words = SCRIPTS[script].split(" ")
    rng = random.Random(f"{script} {seed}")
    return " ".join(rng.choices(words, k=n_characters))[:n_characters]


def text_of(tmp_path, text, content=None):
    """What a view says that its file calls `text`, of which it holds `content` instead."""
    stored = text.encode()
    data = jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text=text)).to_bytes()
    if content is not None:
        assert len(content) == len(stored)
        data = data[: data.rindex(stored)] + content
    path = tmp_path / "region.mmap"
    path.write_bytes(data)
    with MmapRegion(1, path, verify="never") as region:
        view = region.layer(0)
        return [decoded(lambda: view.text) for _ in range(2)]


def decoded(decode):
    """A text with the width of its characters in memory, or where and why it is none."""
    try:
        text = decode()
    except UnicodeDecodeError as error:
        return error.encoding, error.object, error.start, error.end, error.reason.partition(" in layer")[0]
    return text, text.__sizeof__()


@pytest.mark.parametrize("n_characters", [1, 63, 64, 65, 100, 1000, 30_001, 200_000])
@pytest.mark.parametrize("script", SCRIPTS)
def test_text_of_a_script_is_what_was_written(script, n_characters, tmp_path):
    text = prose(script, n_characters)
    assert text_of(tmp_path, text) == [(text, text.encode().decode().__sizeof__())] * 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_contexts_have_the_same_text(script, tmp_path):
    text = prose(script, 5000)
    jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text=text)).write(jm.region_path(tmp_path, 1))
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        memory.load_dimension(1)
        assert memory.load_context((1, 0)).content == memory.access_layer((1, 0)).text == text


@settings(max_examples=150, deadline=None)
@given(runs=RUNS)
def test_runs_of_every_width_are_what_was_written(runs, tmp_path_factory):
    text = "".join(character * n for character, n in runs)
    assert text_of(tmp_path_factory.getbasetemp(), text) == [decoded(lambda: text.encode().decode())] * 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_no_text_is_an_error_at_the_same_place(script, tmp_path):
    text = prose(script, 400)
    stored, rng = text.encode(), random.Random(script)
    for damage in DAMAGE:
        for at in (0, len(stored) - len(damage), *(rng.randrange(len(stored) - len(damage)) for _ in range(3))):
            content = stored[:at] + damage + stored[at + len(damage) :]
            assert text_of(tmp_path, text, content) == [decoded(lambda content=content: content.decode())] * 2


@settings(max_examples=150, deadline=None)
@given(script=st.sampled_from([*SCRIPTS]), other=st.sampled_from([*SCRIPTS]), seed=st.integers(0, 1 << 30))
def test_other_bytes_than_the_file_counts_are_decoded_as_they_are(script, other, seed, tmp_path_factory):
    """Another number of characters, and another width, than the file says; and bytes of no text at all."""
    text, rng = prose(script, 300, seed), random.Random(seed)
    n_bytes = len(text.encode())
    content = bytearray(prose(other, n_bytes, seed).encode()[:n_bytes])
    for _ in range(rng.choice([0, 0, 1, 2])):
        content[rng.randrange(n_bytes)] = rng.randrange(256)
    content = bytes(content)
    folder = tmp_path_factory.getbasetemp()
    assert text_of(folder, text, content) == [decoded(lambda: content.decode())] * 2


def test_a_file_that_tells_nothing_of_its_text(tmp_path):
    text = prose("Turkish", 500)
    path = tmp_path / "region.mmap"
    path.write_bytes(extended_file((Layer(0, text.encode()), Layer(1, text.encode()[:-1] + b"\xff"))))
    with MmapRegion(None, path) as region:
        assert region.layer(0).text == text
        with pytest.raises(UnicodeDecodeError, match="invalid start byte in layer"):
            _ = region.layer(1).text
