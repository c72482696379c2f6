"""MmapRegion and LayerView: bounds, buffers, lifetimes, damage."""

from __future__ import annotations

import copy
import errno
import gc
import mmap
import os
import re
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jessy_mem as jm
from helpers import (
    HAS_PROC,
    HUNG_S,
    SAMPLE,
    Holdings,
    Layer,
    extended_file,
    mapped_regions,
    open_files,
    plain_file,
    read_region,
    redigest_content,
)
from jessy_mem import compression, sealed
from jessy_mem._core.image import Image
from jessy_mem._core.mapped import map_file
from jessy_mem._core.mapping import Mapping
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.view import LayerView
from jessy_mem.builder import LayerSpec, RegionBuilder
from jessy_mem.errors import (
    ChecksumMismatch,
    InvalidRegion,
    LayerNotFound,
    LimitExceeded,
    ManagerClosed,
    MappingError,
    OutOfBounds,
    RegionTruncated,
)
from jessy_mem.layout import LayerId

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
needs_zstd = pytest.mark.skipif(not compression.is_available(), reason="zstd is not installed")

DATA = extended_file()
SOUND = read_region(DATA)
SIZE = len(DATA)


@pytest.fixture
def region(region_file):
    with MmapRegion(3, region_file(DATA)) as opened:
        yield opened


# What a region tells ----------------------------------------------------------------------------------------------


def test_region_tells_what_its_header_says(region, tmp_path):
    assert (region.dimension_id, region.name, region.generation, region.n_layers) == (3, "Intention", 1, 4)
    assert (region.size, region.source, region.immutable, region.stale) == (SIZE, "mmap", False, False)
    assert region.path == tmp_path / "region.mmap"
    assert isinstance(region.path, Path)
    assert region.layers() == [LayerId(3, 0), LayerId(3, 1), LayerId(3, 7), LayerId(3, 9)]
    assert all(type(layer_id) is LayerId for layer_id in region.layers())
    assert region.content_bytes == sum(len(layer.content) for layer in SAMPLE)
    assert repr(region) == f"<MmapRegion D03 Intention: 4 layers, {SIZE} bytes, generation 1, mmap>"


def test_plain_region_has_generation_0(region_file):
    with MmapRegion(3, region_file(plain_file())) as region:
        assert (region.generation, region.immutable) == (0, False)


def test_layer_facts_are_those_of_the_records(region):
    for facts, layer in zip(region.layer_facts(), SOUND.layers, strict=True):
        words = tuple(word.decode() for word in layer.keywords)
        size = len(layer.content)
        assert facts == (layer.layer, layer.depth, pytest.approx(layer.frequency), words, size, size, 10**18)


def test_region_is_made_once(region, region_file):
    with pytest.raises(TypeError, match="initialised once"):
        region.__init__(3, region.path)
    assert region.name == "Intention"


def test_region_that_was_never_made_is_closed():
    empty = MmapRegion.__new__(MmapRegion)
    assert repr(empty) == "<MmapRegion closed>"
    for use in (lambda: empty.layer(0), lambda: empty.size, lambda: memoryview(empty), lambda: empty.access(0, 1)):
        with pytest.raises(ManagerClosed):
            use()
    empty.close()


@pytest.mark.parametrize("verify", ["", "always", "LAZY"])
def test_verify_is_one_of_three(verify, region_file):
    with pytest.raises(ValueError, match=r"verify: .* is not one of lazy, open, never"):
        MmapRegion(3, region_file(DATA), verify=verify)


# Bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (0, 1), (0, SIZE), (SIZE, 0), (SIZE - 1, 1), (84, 16), (100, 3000)]
)
def test_access_inside_the_file_is_a_slice_of_it(offset, size, region):
    view = region.access(offset, size)
    assert (type(view), view.readonly, view.format, view.ndim, view.nbytes) == (memoryview, True, "B", 1, size)
    assert view == DATA[offset : offset + size]


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (-1, 1), (0, -1), (-1, -1), (-SIZE, SIZE), (0, SIZE + 1), (1, SIZE), (SIZE, 1), (SIZE + 1, 0), (SIZE + 1, -1),
        (2**31, 1), (2**32, 0), (2**63 - 1, 1), (2**63 - 1, 2**63 - 1), (1, 2**63 - 1), (2**63, 1), (1, 2**63),
        (2**64 - 1, 2), (2**64, 0), (-(2**63), 1), (-(2**63) - 1, 1), (1, -(2**63)), (10**30, 10**30),
    ],
)  # fmt: skip
def test_access_outside_the_file_is_out_of_bounds(offset, size, region):
    with pytest.raises(OutOfBounds) as caught:
        region.access(offset, size)
    error = caught.value
    assert (error.offset, error.size, error.region_size) == (offset, size, SIZE)
    assert str(error) == f"{size} bytes at offset {offset} do not lie inside the {SIZE} bytes there are"


def test_access_takes_ints_and_what_is_like_them(region):
    assert region.access(np.int64(84), np.uint8(5)) == b"JESSY"
    for offset, size in ((1.0, 1), (1, 1.0), ("1", 1), (None, 1)):
        with pytest.raises(TypeError):
            region.access(offset, size)


@pytest.mark.parametrize(
    "layer", [2, 8, 10, 65535, 65536, -1, 2**32, 2**63, 2**64, -(2**64), 7 + 2**16, 7 + 2**32, 7 + 2**64]
)
def test_layer_that_is_not_there_is_not_found(layer, region):
    for use in (region.layer, region.content_offset, lambda layer: region.prefetch([layer])):
        with pytest.raises(LayerNotFound) as caught:
            use(layer)
        assert (caught.value.dimension, caught.value.layer) == (3, layer)


@pytest.mark.parametrize("layer", ["0", None, 0.5, (3, 0)])
def test_layer_that_is_no_number_is_a_type_error(layer, region):
    for use in (region.layer, region.content_offset):
        with pytest.raises(TypeError):
            use(layer)


def test_layer_number_may_be_any_kind_of_int(region):
    assert region.layer(np.int32(7)) is region.layer(7)
    assert region.layer(True) is region.layer(1)
    assert region.layer(True).id == (3, 1)
    assert type(region.layer(True).id.layer) is int


# Buffers ----------------------------------------------------------------------------------------------------------


def both(region):
    return (region, DATA), (region.layer(7), SAMPLE[2].content)


def test_buffer_is_read_only_bytes_in_one_dimension(region):
    for owner, expected in both(region):
        view = memoryview(owner)
        assert (view.readonly, view.format, view.ndim, view.itemsize) == (True, "B", 1, 1)
        assert (view.shape, view.strides, view.nbytes) == ((len(expected),), (1,), len(expected))
        assert view.contiguous
        assert view.c_contiguous
        assert view == expected
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 1


def test_buffer_refuses_to_be_written_to(region, tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 10_000)
    for owner, expected in both(region):
        with (tmp_path / "source").open("rb") as source, pytest.raises((TypeError, BufferError)):
            source.readinto(owner)
        array = np.frombuffer(owner, np.uint8)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True
        assert array.tobytes() == expected


def test_numpy_reads_without_a_copy(region):
    whole = np.frombuffer(region, np.uint8)
    layer = np.frombuffer(region.layer(7), np.uint8)
    begin = region.content_offset(7)
    assert layer.__array_interface__["data"][0] == whole.__array_interface__["data"][0] + begin
    assert np.frombuffer(region.layer(7), "<u4").size == len(SAMPLE[2].content) // 4
    assert region.content_offset(7) % 4096 == whole.__array_interface__["data"][0] % 4096 == 0


def test_view_is_a_sequence_of_bytes(region):
    view, content = region.layer(7), SAMPLE[2].content
    assert (len(view), view.n_bytes) == (len(content), len(content))
    assert bytes(view) == content
    assert (view[0], view[255], view[-1], view[-len(content)]) == (content[0], content[255], content[-1], content[0])
    for key in (len(content), -len(content) - 1, 2**31):
        with pytest.raises(IndexError, match=f"byte {key} of {len(content)}"):
            view[key]
    with pytest.raises(IndexError):
        view[2**64]
    for key in ("0", 1.0, None):
        with pytest.raises(TypeError):
            view[key]


@pytest.mark.parametrize(
    "key", [slice(10, 20), slice(None), slice(-5, None), slice(None, None, 3), slice(20, 10), slice(5, 10**30),
            slice(-(10**30), 4), slice(None, None, -1)],
)  # fmt: skip
def test_slice_is_a_memoryview_without_a_copy(key, region):
    view, content = region.layer(7), SAMPLE[2].content
    part = view[key]
    assert (type(part), part.readonly, part.format) == (memoryview, True, "B")
    assert bytes(part) == content[key]
    assert part.obj is view


def test_empty_layer_is_empty_in_every_way(region):
    view = region.layer(9)
    assert (len(view), bytes(view), view.text, bytes(view[:]), memoryview(view).nbytes) == (0, b"", "", b"", 0)
    assert np.frombuffer(memoryview(view), np.uint8).size == 0
    with pytest.raises(IndexError):
        view[0]


# Views ------------------------------------------------------------------------------------------------------------


def test_view_is_one_object_for_all_and_hashes_by_identity(region, region_file):
    view = region.layer(0)
    assert region.layer(0) is view
    with MmapRegion(3, region_file(DATA, "other.mmap")) as other:
        assert other.layer(0) is not view
        assert other.layer(0) != view
        assert len({view, region.layer(0), other.layer(0), region.layer(1)}) == 3


def test_view_tells_what_its_record_says(region):
    view = region.layer(7)
    assert (view.id, view.depth, view.frequency, view.source) == (LayerId(3, 7), 2, 4.5, "mmap")
    assert view.keywords == ("größe", "")
    assert (type(view.id), type(view.depth), type(view.frequency)) == (LayerId, int, float)


@pytest.mark.parametrize("name", ["id", "depth", "frequency", "keywords", "source", "n_bytes", "text", "more"])
def test_view_cannot_be_changed(name, region):
    with pytest.raises(AttributeError):
        setattr(region.layer(0), name, 1)


def test_repr_is_short_and_without_content(region):
    assert repr(region.layer(0)) == "<LayerView D03/L0 25 bytes, 1.50 Hz, mmap>"
    assert repr(region.layer(1)) == "<LayerView D03/L1 21 bytes, 0.25 Hz, mmap>"
    assert SAMPLE[0].content.decode() not in repr(region)


def test_view_is_made_by_regions_only():
    with pytest.raises(TypeError, match="access_layer"):
        LayerView()
    empty = LayerView.__new__(LayerView)
    assert (bytes(empty), len(empty), empty.text, empty.id) == (b"", 0, "", None)
    assert (dict(empty.attributes), {empty: 1}[empty]) == ({}, 1)


def test_a_view_is_its_own_copy_and_a_region_has_none(region):
    view = region.layer(0)
    for move in (copy.copy, copy.deepcopy):
        assert move(view) is view
        with pytest.raises(TypeError, match="cannot be copied"):
            move(region)


def test_neither_view_nor_region_can_be_subclassed(region):
    for owner in (region, region.layer(0)):
        with pytest.raises(TypeError):
            type("Own", (type(owner),), {})


def test_text_is_decoded(region):
    assert region.layer(0).text == "surface: a plain sentence"
    assert region.layer(1).text == "Grüße aus der Tiefe"


@pytest.mark.parametrize("n_bytes", [3, 70_000])
def test_text_that_is_none_names_its_layer(n_bytes, region_file):
    layers = (Layer(0, b"sound"), Layer(4, b"a" * (n_bytes - 1) + b"\xff"))
    with MmapRegion(3, region_file(extended_file(layers))) as region:
        view = region.layer(4)
        with pytest.raises(UnicodeDecodeError, match=r"invalid start byte in layer D03/L4") as caught:
            _ = view.text
        assert (caught.value.start, caught.value.encoding) == (n_bytes - 1, "utf-8")
        assert bytes(view) == layers[1].content
        assert region.layer(0).text == "sound"


def test_long_text_is_decoded_from_any_page(region_file):
    text = "größe " * 50_000
    layers = (Layer(0, b"x"), Layer(1, text.encode()))
    offsets = [500, 1003]  # contents of a plain file need not begin with a page
    with MmapRegion(3, region_file(plain_file(layers, offsets=offsets))) as region:
        assert region.layer(1).text == text
        assert region.prefetch(wait=True) == 1.0


# Lifetimes --------------------------------------------------------------------------------------------------------


def test_views_outlive_the_region(region_file):
    path = region_file(DATA)
    region = MmapRegion(3, path)
    view, part, whole = region.layer(7), region.layer(0)[3:8], memoryview(region)
    array = np.frombuffer(region.access(84, 13), np.uint8)
    region.close()
    path.unlink()
    del region
    gc.collect()
    assert bytes(view) == SAMPLE[2].content
    assert bytes(part) == SAMPLE[0].content[3:8]
    assert whole == DATA
    assert array.tobytes() == b"JESSY_MMAP_V1"


@needs_proc
def test_mapping_goes_with_the_last_view(region_file):
    before = Holdings()
    region = MmapRegion(3, region_file(DATA))
    held = [region.layer(0), region.layer(1)[:], memoryview(region), np.frombuffer(region.layer(7), np.uint8)]
    region.close()
    while held:
        assert len(mapped_regions()) == len(before.mappings) + 1
        held.pop()
    assert before.new() == []


@needs_proc
def test_mapping_goes_with_the_region_when_nothing_was_taken(region_file):
    before = Holdings()
    region = MmapRegion(3, region_file(DATA))
    for layer_id in region.layers():
        region.layer(layer_id.layer)
    del region  # not closed
    assert before.new() == []


@pytest.mark.thread_unsafe(reason="looks at all descriptors of the process")
@needs_proc
@pytest.mark.parametrize("immutable", [False, True])
def test_mapped_region_holds_no_descriptor(immutable, region_file):
    before = open_files()
    with MmapRegion(3, region_file(extended_file(immutable=immutable))):
        assert open_files() == before


@needs_proc
def test_more_regions_than_descriptors_may_be_mapped(region_file):
    path = region_file(DATA)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_files(), default=0) + 40, limits[1]))
    try:
        regions = [MmapRegion(3, path) for _ in range(200)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {bytes(region.layer(0)) for region in regions} == {SAMPLE[0].content}


def test_closed_region_refuses_and_close_may_be_called_again(region):
    region.layer(0)
    region.close()
    region.close()
    assert repr(region) == "<MmapRegion closed>"
    uses = [lambda name=name: getattr(region, name) for name in ("dimension_id", "name", "path", "size", "generation",
            "n_layers", "source", "stale", "content_bytes")]  # fmt: skip
    uses += [
        lambda: region.layer(0), lambda: region.layer(1), lambda: region.layers(), lambda: region.access(0, 1),
        lambda: region.verify(), lambda: region.residency(), lambda: region.prefetch(), lambda: memoryview(region),
        lambda: region.layer_facts(), lambda: region.content_offset(0), lambda: region.__enter__(),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ManagerClosed, match="the region is closed"):
            use()


def test_context_manager_closes(region_file):
    with MmapRegion(3, region_file(DATA)) as region:
        assert region.layer(0).text
    with pytest.raises(ManagerClosed):
        region.layer(0)


@needs_proc
def test_closing_while_threads_read_keeps_no_mapping(region_file):
    """Views made while the region is closed belong to their holders alone."""
    path = region_file(extended_file(tuple(Layer(i, b"%d" % i) for i in range(200))))
    before = Holdings()
    for _ in range(30):
        region = MmapRegion(3, path)
        start = threading.Barrier(3)
        failures = []

        def read(region=region, start=start, failures=failures):
            start.wait()
            try:
                for i in range(200):
                    if region.layer(i).text != str(i):
                        failures.append(i)
            except ManagerClosed:
                pass

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        region.close()
        for thread in threads:
            thread.join()
        assert failures == []
        assert before.new() == []  # the closed region itself is alive


def test_views_of_many_threads_are_one_object(region_file):
    path = region_file(extended_file(tuple(Layer(i, b"x" * i) for i in range(300))))
    with MmapRegion(3, path) as region:
        start = threading.Barrier(4)
        found = []

        def read():
            start.wait()
            found.append([region.layer(i) for i in range(300)])

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(views[i] is found[0][i] for views in found for i in range(300))


def test_process_that_holds_views_exits_silently(region_file):
    code = (
        "import sys\n"
        "from jessy_mem._core.region import MmapRegion\n"
        "region = MmapRegion(3, sys.argv[1])\n"
        "views = [region.layer(0), memoryview(region), region.layer(1)[:]]\n"
        "class Late:\n"
        "    def __del__(self): assert bytes(views[0])\n"
        "late = Late()\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(region_file(DATA))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_view_survives_a_fork(region):
    view = region.layer(7)
    child = os.fork()
    if child == 0:
        os._exit(0 if bytes(view) == SAMPLE[2].content else 1)
    assert os.waitpid(child, 0)[1] == 0


# The file changes -------------------------------------------------------------------------------------------------


def test_region_is_stale_when_its_file_is_replaced_changed_or_removed(region_file, tmp_path):
    path = region_file(DATA)
    with MmapRegion(3, path) as region:
        assert not region.stale
        os.utime(path, ns=(1, 1))
        assert region.stale
    with MmapRegion(3, path) as region:
        (tmp_path / "new").write_bytes(DATA)
        os.rename(tmp_path / "new", path)
        assert region.stale
    with MmapRegion(3, path) as region:
        path.unlink()
        assert region.stale
        assert region.layer(0).text


def test_file_changed_in_place_cannot_lead_a_reader_outside(region_file):
    """What was checked at open is private: counts and offsets in the file are read once."""
    path = region_file(DATA)
    with MmapRegion(3, path) as region:
        kept = region.layer(0)
        with path.open("r+b") as file:
            file.write(b"\xff" * (SOUND.layers[0].offset))  # the whole head; the mapping shows it
        assert region.layers() == [(3, layer.layer) for layer in SAMPLE]
        assert (region.name, region.n_layers) == ("Intention", 4)
        assert kept.text == "surface: a plain sentence"
        damage = region.verify()
        assert [error.field for error in damage] == ["header"]
        assert region.layer(1).keywords == ()
        with pytest.raises(InvalidRegion, match="other bytes than at open"):
            region.layer(7)


@pytest.mark.parametrize("length", [1, 5, 100])  # too little, into the next length, beyond the end
def test_words_overwritten_in_place_are_damage(length, region_file):
    builder = jm.RegionBuilder(3, "Intention").add_layer(jm.LayerSpec(text="x", keywords=("ab", "cd")))
    path = region_file(builder.to_bytes())
    with MmapRegion(3, path) as region:
        with path.open("r+b") as file:
            file.seek(256 + 11)  # the length of the first word
            file.write(length.to_bytes(4, "little"))
        with pytest.raises(InvalidRegion, match="keyword of layer 0: found other bytes than at open"):
            region.layer(0)


def test_path_with_a_zero_byte_is_no_path():
    with pytest.raises(ValueError, match="null byte"):
        map_file("region\0.mmap", 3)


def test_attributes_overwritten_in_place_are_damage(region_file):
    builder = jm.RegionBuilder(3, "Intention").add_layer(jm.LayerSpec(text="x", attributes={"key": "value"}))
    data = builder.to_bytes()
    path = region_file(data)
    with MmapRegion(3, path) as region:
        view = region.layer(0)
        with path.open("r+b") as file:
            file.seek(data.index(b"value"))
            file.write(b"\xff")
        with pytest.raises(InvalidRegion, match="attributes of layer 0: found other bytes than at open"):
            _ = view.attributes


def test_file_shortened_before_it_is_mapped_is_truncated(region_file, inject):
    path = region_file(DATA)

    def shorten(read_begin):
        def read(fd):
            first, _, _ = read_begin(fd)
            os.truncate(path, 4096)
            return first, *read_begin(fd)[1:]

        return read

    # It calls pread(2), where no test comes between.
    with inject.around("jessy_mem._core.mapped.read_begin", shorten), pytest.raises(RegionTruncated) as caught:
        MmapRegion(3, path)
    assert caught.value.path == str(path)
    assert caught.value.expected == f"a file of {SIZE} bytes, as its header says"


# Failures of the system -------------------------------------------------------------------------------------------


# They call openat(2) and pread(2), where no test comes between.
@pytest.mark.parametrize("call", ["jessy_mem._core.mapped.open_file", "jessy_mem._core.mapped.read_begin"])
def test_refusal_of_the_system_is_a_mapping_error(call, region_file, inject):
    path = region_file(DATA)
    refusal = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with inject(refusal, call), pytest.raises(MappingError) as caught:
        MmapRegion(3, path)
    assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, str(path))


@needs_proc
@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("immutable", [False, True])
def test_no_descriptor_left_is_a_mapping_error_or_enough(spare, immutable, region_file):
    """With so few descriptors to spare, opening works or fails cleanly; with none it fails."""
    import resource

    path = region_file(extended_file(immutable=immutable))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(name) for name in os.listdir("/proc/self/fd"))
    before = Holdings()
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 40, hard))
        try:
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            filled = error.errno
        for _ in range(spare):
            os.close(fillers.pop())
        try:
            MmapRegion(3, path).close()
            refused = None
        except MappingError as error:
            refused = (error.errno, error.filename)
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert before.new() == []
    assert filled == errno.EMFILE
    assert refused == (errno.EMFILE, str(path)) or (spare and refused is None)
    MmapRegion(3, path).close()


# Damage -----------------------------------------------------------------------------------------------------------


def damaged(data: bytes, *positions: int) -> bytes:
    copied = bytearray(data)
    for position in positions:
        copied[position] ^= 0x40
    return bytes(copied)


def test_verify_lists_all_damage_and_goes_on(region_file):
    hurt = [SOUND.layers[0].offset, SOUND.layers[2].offset + 100]
    with MmapRegion(3, region_file(damaged(DATA, *hurt))) as region:
        damage = region.verify()
        assert [(type(error), error.field, error.layer) for error in damage] == [
            (ChecksumMismatch, "content", 0), (ChecksumMismatch, "content", 7)
        ]  # fmt: skip
        assert all(re.fullmatch("0x[0-9a-f]{16}", error.found) for error in damage)
        assert region.layer(1).text == "Grüße aus der Tiefe"  # sound layers stay readable
        assert bytes(region.layer(9)) == b""
        assert len(region.verify()) == 2
        for layer in (0, 7):
            with pytest.raises(ChecksumMismatch):
                region.layer(layer)


def test_verify_compares_afresh(region_file):
    path = region_file(DATA)
    with MmapRegion(3, path) as region:
        assert region.layer(0).text
        assert region.verify() == []
        with path.open("r+b") as file:
            file.seek(SOUND.layers[0].offset)
            file.write(b"S")
        assert [error.layer for error in region.verify()] == [0]


def test_verify_reports_its_progress(region):
    seen = []
    assert region.verify(lambda done, total: seen.append((done, total))) == []
    assert len(seen) == 4
    assert seen == sorted(seen)
    assert seen[-1] == (SIZE, SIZE)


def test_verify_passes_an_error_of_its_progress_on(region):
    def stop(_done, _total):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        region.verify(stop)


def test_verify_of_a_plain_region_has_nothing_to_compare(region_file):
    with MmapRegion(3, region_file(plain_file())) as region:
        assert region.verify() == []


@pytest.mark.parametrize(("verify", "at_open", "on_access"), [("open", True, True), ("lazy", False, True),
                                                              ("never", False, False)])  # fmt: skip
def test_verify_tells_when_content_is_compared(verify, at_open, on_access, region_file):
    path = region_file(damaged(DATA, SOUND.layers[1].offset))
    if at_open:
        with pytest.raises(ChecksumMismatch) as caught:
            MmapRegion(3, path, verify=verify)
        assert caught.value.layer == 1
        return
    with MmapRegion(3, path, verify=verify) as region:
        if on_access:
            with pytest.raises(ChecksumMismatch):
                region.layer(1)
        else:
            assert region.layer(1).n_bytes == len(SAMPLE[1].content)
        assert [error.layer for error in region.verify()] == [1]


# Pages ------------------------------------------------------------------------------------------------------------


def test_residency_is_a_share_and_prefetch_raises_it(region_file):
    layers = (Layer(0, b"x" * 100_000), Layer(1, b"y" * 300_000))
    with MmapRegion(3, region_file(extended_file(layers))) as region:
        assert 0 <= region.residency() <= 1
        assert 0 < region.prefetch([0], wait=True) <= 1
        assert region.prefetch(wait=True) == 1.0
        assert region.prefetch() == region.residency() == 1.0
        assert region.prefetch([]) == 1.0


# Immutable regions ------------------------------------------------------------------------------------------------


@needs_proc
@needs_memfd
@pytest.mark.thread_unsafe(reason="looks at all mappings of the process")
def test_immutable_region_is_mapped_from_sealed_memory(region_file):
    path = region_file(extended_file(immutable=True))
    before = set(mapped_regions())
    with MmapRegion(3, path) as region:
        assert region.immutable
        added = [line for line in mapped_regions() if line not in before]
        assert len(added) == 1
        assert "/memfd:jessy_mem" in added[0]
        assert added[0].split()[1].startswith("r-")
        # Whatever happens to the file, the bytes stay.
        with path.open("r+b") as file:
            file.write(bytes(SIZE))
            file.truncate(0)
        assert [bytes(region.layer(layer.layer)) for layer in SAMPLE] == [layer.content for layer in SAMPLE]
        assert region.stale
        assert region.verify() == []


@needs_proc
@needs_memfd
def test_sealed_memory_cannot_be_written_shrunk_or_grown(region_file, inject):
    import fcntl

    make, kept = os.memfd_create, []

    def make_and_keep(*args):
        kept.append(make(*args))
        return os.dup(kept[0])

    with inject.instead("os.memfd_create", make_and_keep):
        region = MmapRegion(3, region_file(extended_file(immutable=True)))
    with region:
        (fd,) = kept
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SHRINK
        assert seals & fcntl.F_SEAL_GROW
        for change in (lambda: os.write(fd, b"x"), lambda: os.truncate(fd, 0), lambda: os.truncate(fd, 2 * SIZE)):
            with pytest.raises(PermissionError):
                change()
        with pytest.raises(PermissionError):
            mmap.mmap(fd, SIZE)
        os.close(fd)


@needs_memfd
@needs_proc
def test_memory_is_sealed_before_it_is_checked(region_file, inject):
    import fcntl

    control, added = fcntl.fcntl, []

    def record(fd, command, argument=0):
        if command == fcntl.F_ADD_SEALS:
            added.append((argument, os.readlink(f"/proc/self/fd/{fd}")))
        return control(fd, command, argument)

    with inject.instead("fcntl.fcntl", record):
        MmapRegion(3, region_file(extended_file(immutable=True))).close()
    ((seals, name),) = added
    assert seals == fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    assert name.startswith("/memfd:jessy_mem")


def test_changed_immutable_region_is_refused_at_open(region_file):
    data = extended_file(immutable=True)
    with pytest.raises(ChecksumMismatch) as caught:
        MmapRegion(3, region_file(damaged(data, SOUND.layers[2].offset + 1000)))
    assert (caught.value.field, caught.value.layer) == ("content_sha256", None)
    assert caught.value.expected == data[144:176].hex()
    # The digest itself, which no other checksum covers.
    with pytest.raises(ChecksumMismatch) as caught:
        MmapRegion(3, region_file(damaged(data, 150)))
    assert caught.value.found == data[144:176].hex()


def without_memfd(monkeypatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)


def refusing(call: str, number: int) -> Callable[..., None]:
    """Let the system refuse `call`, as a sandbox does, with an error of this number."""

    def arrange(monkeypatch) -> None:
        def refuse(*_args, **_options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, refuse, raising=False)

    return arrange


REFUSALS = [
    without_memfd,
    *(refusing("memfd_create", getattr(errno, name)) for name in "EPERM EACCES ENOSYS EMFILE EINVAL".split()),
    *(refusing("sendfile", getattr(errno, name)) for name in "EPERM ENOSYS EINVAL".split()),
    refusing("ftruncate", errno.EFBIG),  # RLIMIT_FSIZE
]


@pytest.mark.parametrize("arrange", REFUSALS)
def test_immutable_region_without_sealed_memory_is_as_safe(arrange, region_file, monkeypatch):
    if not hasattr(os, "memfd_create") and arrange is not without_memfd:
        pytest.skip("needs memfd_create")
    arrange(monkeypatch)
    data = extended_file(immutable=True)
    path = region_file(data)
    with MmapRegion(3, path) as region:
        assert region.immutable
        with path.open("r+b") as file:
            file.truncate(0)
        assert bytes(memoryview(region)) == data
        assert memoryview(region).readonly
        assert region.verify() == []
    with pytest.raises(ChecksumMismatch, match="content_sha256"):
        MmapRegion(3, region_file(damaged(data, SIZE - 1)))


@needs_proc
def test_private_copy_of_an_immutable_region_cannot_be_written(region_file, monkeypatch):
    without_memfd(monkeypatch)
    with MmapRegion(3, region_file(extended_file(immutable=True))) as region:
        address = np.frombuffer(region, np.uint8).__array_interface__["data"][0]
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [([int(end, 16) for end in each[0].split("-")], each[1]) for each in maps]
        (mode,) = [mode for (begin, end), mode in spans if begin <= address < end]
        assert mode == "r--p"


@needs_memfd
@pytest.mark.parametrize("known", [True, False])
def test_sealed_memory_is_never_executable_where_the_system_knows_that(known, region_file, monkeypatch):
    make, asked = os.memfd_create, []

    def make_and_note(name, flags):
        asked.append(flags)
        if not known and flags & sealed.MFD_NOEXEC_SEAL:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return make(name, flags & ~sealed.MFD_NOEXEC_SEAL | os.MFD_ALLOW_SEALING)

    monkeypatch.setattr(os, "memfd_create", make_and_note)
    with MmapRegion(3, region_file(extended_file(immutable=True))) as region:
        assert region.verify() == []
    assert [flags & sealed.MFD_NOEXEC_SEAL for flags in asked] == ([8] if known else [8, 0])
    assert all(flags & os.MFD_CLOEXEC for flags in asked)


@needs_memfd
def test_refusal_while_sealing_is_a_mapping_error(region_file, monkeypatch):
    path = region_file(extended_file(immutable=True))
    refusing("sendfile", errno.ENOSPC)(monkeypatch)
    with pytest.raises(MappingError) as caught:
        MmapRegion(3, path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))


@pytest.mark.parametrize(
    "read", [lambda *_args: 0, lambda *_args: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error"))]
)
def test_file_that_cannot_be_copied_to_private_memory_is_an_error(read, region_file, monkeypatch):
    without_memfd(monkeypatch)
    monkeypatch.setattr(os, "preadv", read)
    with pytest.raises((RegionTruncated, MappingError)):
        MmapRegion(3, region_file(extended_file(immutable=True)))


@needs_memfd
def test_file_shortened_while_it_is_sealed_is_truncated(region_file, inject):
    path = region_file(extended_file(immutable=True))
    with inject.instead("os.sendfile", lambda *_args: 0), pytest.raises(RegionTruncated) as caught:
        MmapRegion(3, path)
    assert (caught.value.found, caught.value.expected) == ("0 bytes", f"a file of {SIZE} bytes")


def test_region_can_be_immutable_by_the_plan(region_file):
    """Without a digest of its own the whole content is compared with the checksums of the layers."""
    path = region_file(DATA)
    with make_region(map_file(path, 3, immutable=True), True, bytearray) as region:
        assert region.immutable
        assert not HAS_PROC or any("memfd:jessy_mem" in line for line in mapped_regions())
    with pytest.raises(ChecksumMismatch) as caught:
        map_file(region_file(damaged(DATA, SOUND.layers[1].offset)), 3, immutable=True)
    assert caught.value.layer == 1
    with make_region(map_file(region_file(plain_file()), 3, immutable=True), True, bytearray) as region:
        assert region.immutable
        assert region.layer(0).text


# Charges ----------------------------------------------------------------------------------------------------------


class Charge:
    alive = 0

    def __init__(self):
        Charge.alive += 1

    def __del__(self):
        Charge.alive -= 1


@pytest.mark.thread_unsafe(reason="looks at all mappings of the process")
@pytest.mark.parametrize("immutable", [False, True])
def test_charge_is_asked_before_the_file_is_mapped_and_lives_as_long_as_it(immutable, region_file):
    path = region_file(extended_file(immutable=immutable))
    asked = []

    def admit(n_bytes, below_bytes):
        asked.append((n_bytes, below_bytes, len(mapped_regions()) if HAS_PROC else 0))
        return Charge()

    mapped_before = len(mapped_regions()) if HAS_PROC else 0
    region = make_region(map_file(path, 3, admit=admit), False, bytearray)
    assert asked == [(SIZE, 0, mapped_before)]
    assert Charge.alive == 1
    view = region.layer(0)
    region.close()
    del region
    assert Charge.alive == 1
    del view
    assert Charge.alive == 0


@pytest.mark.thread_unsafe(reason="all threads share the count of charges")
@pytest.mark.parametrize("immutable", [False, True])
def test_charge_is_given_back_when_the_file_is_refused(immutable, region_file):
    data = damaged(extended_file(immutable=immutable), SOUND.layers[0].offset if immutable else 0)
    with pytest.raises(InvalidRegion):
        map_file(region_file(data), 3, admit=lambda *_: Charge())
    assert Charge.alive == 0


def test_refusal_to_charge_maps_nothing(region_file):
    def refuse(n_bytes, below_bytes):
        raise RuntimeError(f"{n_bytes} bytes on {below_bytes} are too many")

    with pytest.raises(RuntimeError, match=f"{SIZE} bytes on 50 are too many"):
        map_file(region_file(DATA), 3, admit=refuse, below_bytes=50)


# Images of other owners -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [DATA, bytearray(DATA), memoryview(b"_" + DATA)[1:], np.frombuffer(DATA, np.uint8)])
def test_image_reads_any_buffer(owner):
    """Also one that begins at an odd address: nothing in the format is read as if it were aligned."""
    region = make_region(Image(owner, "<test>", 3, "pool"), False, bytearray)
    for layer in SAMPLE:
        assert bytes(region.layer(layer.layer)) == layer.content
    assert (region.source, region.layer(0).source, region.stale) == ("pool", "pool", False)
    assert region.verify() == []
    assert 0 <= region.residency() <= 1


def test_image_holds_its_owner():
    owner = bytearray(DATA)
    image = Image(owner, "<test>", 3, "pool")
    with pytest.raises(BufferError):
        owner.clear()
    view = make_region(image, False, bytearray).layer(0)
    del image
    with pytest.raises(BufferError):
        owner.clear()
    del view
    owner.clear()


@pytest.mark.parametrize("n_bytes", [0, 1, 100, 255])
def test_image_of_too_few_bytes_is_truncated(n_bytes):
    owner = bytearray(n_bytes)
    with pytest.raises(RegionTruncated):
        Image(owner, "<test>", 3, "pool")
    owner.append(1)  # the buffer is not held


@pytest.mark.thread_unsafe(reason="looks at all mappings of the process")
@needs_proc
def test_charge_is_released_when_the_bytes_are_gone(region_file):
    class Charge:
        def __del__(self):
            found.append(mapped_regions())

    found = []
    with open(region_file(DATA), "rb") as file:
        image = Image(Mapping(SIZE, file.fileno()), "<test>", 3, "mmap", Charge())
    part = memoryview(image)[10:20]
    del image
    assert (len(mapped_regions()), found) == (1, [])
    del part
    assert found == [[]]


@pytest.mark.parametrize("begin", [None, -(2**70), -26, -25, -3, 0, 3, 24, 25, 26, 2**70])
def test_slices_are_those_of_bytes(region_file, begin):
    with MmapRegion(3, region_file(DATA)) as region:
        view = region.layer(0)
        content = bytes(view)
        assert len(content) == 25
        for end in (None, -(2**70), -26, -25, -3, 0, 3, 24, 25, 26, 2**70):
            for step in (None, 1, 2, -1, -7, 2**70):
                part = view[begin:end:step]
                assert (part.tobytes(), part.readonly, part.format) == (content[begin:end:step], True, "B")
                assert part.obj is view
        with pytest.raises(ValueError, match="zero"):
            view[begin::0]
        with pytest.raises(TypeError):
            view[begin:1.0]


class Number(int):
    pass


@pytest.mark.parametrize("kind", [int, bool, Number, np.int64, np.uint8])
def test_bound_of_a_slice_is_any_kind_of_int(kind, region):
    view, content = region.layer(7), SAMPLE[2].content
    assert bytes(view[kind(1) :]) == content[1:]
    assert bytes(view[: kind(1)]) == content[:1]
    assert bytes(view[kind(0) : kind(1)]) == content[:1]


def test_slice_holds_its_view_until_it_is_released(region_file):
    with MmapRegion(3, region_file(DATA)) as region:
        view = region.layer(7)
    weak, content = weakref.ref(view), SAMPLE[2].content
    part = view[10:20]
    smaller, largest = part[2:4], memoryview(part)
    del view
    part.release()
    assert weak() is smaller.obj is largest.obj
    smaller.release()
    assert (bytes(largest), weak() is None) == (content[10:20], False)
    largest.release()
    assert weak() is None


def test_slice_of_a_view_that_nobody_made_is_empty():
    part = LayerView.__new__(LayerView)[:]
    assert (bytes(part), part.nbytes, bytes(part[:])) == (b"", 0, b"")


@pytest.mark.parametrize("owner", [5, None, "text"])
def test_image_of_no_buffer_is_a_type_error(owner):
    with pytest.raises(TypeError, match="bytes-like"):
        Image(owner, "<test>", 3, "pool")


def test_image_is_made_once_and_of_something():
    image = Image(DATA, "<test>", 3, "pool")
    image.__init__(b"", "<test>", 4, "mmap")  # does nothing
    assert (image.n_layers, image.dimension_id, image.source) == (4, 3, "pool")
    with pytest.raises(TypeError):
        Image.__new__(Image)


def test_trusted_image_is_not_compared():
    data = damaged(DATA, SOUND.layers[0].offset)
    assert make_region(Image(data, "<test>", 3, "pool", trusted=True), False, bytearray).layer(0).n_bytes == 25
    with pytest.raises(ChecksumMismatch):
        make_region(Image(data, "<test>", 3, "pool"), False, bytearray).layer(0)


# Compressed layers ------------------------------------------------------------------------------------------------


def compressed_file(frame: bytes, raw_size: int, text_flags: int = 0, characters: int = 0) -> bytes:
    layers = (Layer(0, frame, codec=1, raw_size=raw_size, text_flags=text_flags, characters=characters),)
    return extended_file(layers)


def zstd_frame(raw: bytes) -> bytes:
    frame, codec = compression.compress(raw)
    assert codec == compression.ZSTD
    return bytes(frame)


@needs_zstd
def test_compressed_layer_is_decompressed_once_into_memory_of_the_owner(region_file):
    raw = b"again and again " * 1000
    asked = []

    def allocate(n_bytes):
        asked.append(bytearray(n_bytes))
        return asked[-1]

    path = region_file(compressed_file(zstd_frame(raw), len(raw), 3, len(raw)))
    region = make_region(map_file(path, 3), False, allocate)
    view = region.layer(0)
    assert bytes(view) == raw
    assert (view.n_bytes, view.text, len(view[3:7])) == (len(raw), raw.decode(), 4)
    assert region.layer(0) is view
    assert [len(memory) for memory in asked] == [len(raw)]
    asked[0][0] ^= 1
    assert view[0] == raw[0] ^ 1  # no further copy


@needs_zstd
@pytest.mark.parametrize("n_bytes", [64, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7])
def test_compressed_layer_of_any_size_is_whole(n_bytes, region_file):
    raw = (b"0123456789abcde" * (n_bytes // 15 + 1))[:n_bytes]
    with MmapRegion(3, region_file(compressed_file(zstd_frame(raw), n_bytes, 3, n_bytes))) as region:
        assert bytes(region.layer(0)) == raw
        assert region.verify() == []


@needs_zstd
def test_compressed_layer_that_is_no_whole_frame_of_its_size_is_refused(region_file):
    raw = b"again and again " * 100
    frame = zstd_frame(raw)
    rows = {
        "more than declared": (frame, len(raw) - 1),
        "less than declared": (frame, len(raw) + 1),
        "nothing declared": (frame, 0),
        "cut": (frame[:-3], len(raw)),
        "two frames": (frame + frame, 2 * len(raw)),
        "bytes behind": (frame + b"\0", len(raw)),
        "no frame": (b"x" * 40, 100),
        "empty": (b"", 0),
    }
    for what, (stored, raw_size) in rows.items():
        with MmapRegion(3, region_file(compressed_file(stored, raw_size))) as region:
            with pytest.raises(InvalidRegion) as caught:
                region.layer(0)
            assert (caught.value.field, caught.value.layer) == ("content", 0), what
            assert caught.value.expected == f"one zstd frame of {raw_size} bytes", what
            assert [str(error) for error in region.verify()] == [str(caught.value)], what


@needs_zstd
def test_empty_frame_is_an_empty_layer(region_file):
    frame = bytes.fromhex("28b52ffd2000010000")
    with MmapRegion(3, region_file(compressed_file(frame, 0))) as region:
        assert bytes(region.layer(0)) == b""
        assert region.verify() == []


@needs_zstd
@needs_proc
def test_frame_that_declares_gigabytes_costs_no_memory(region_file):
    """200 KB may hold 4 GiB as far as the format knows; what they do hold is found without taking that much."""
    peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # noqa: E731
    frame = zstd_frame(b"little" * 100)
    stored = frame + bytes(200_000 - len(frame))
    with MmapRegion(3, region_file(compressed_file(stored, 2**32)), max_decompressed_mb="4GB") as region:
        before = peak()
        with pytest.raises(InvalidRegion, match="one zstd frame of 4294967296 bytes"):
            region.layer(0)
        assert len(region.verify()) == 1
        assert peak() - before < 50_000  # KiB


@needs_zstd
def test_decompressed_layers_of_a_region_alone_are_limited(region_file):
    """A few KB may be a gigabyte. What counts is what is held at once, of all files of the region."""
    raw = bytes(1 << 20)
    packed = {"codec": 1, "raw_size": len(raw), "text_flags": 3, "characters": len(raw)}
    layers = [Layer(i, zstd_frame(raw), **packed) for i in range(4)]
    path = region_file(extended_file(layers))
    with MmapRegion(3, path) as region:
        assert sum(region.layer(i).n_bytes for i in range(4)) == 4 << 20
    with MmapRegion(3, path, max_decompressed_mb=2) as region:
        held = [region.layer(0), region.layer(1)]
        with pytest.raises(LimitExceeded, match="max_decompressed_mb") as caught:
            region.layer(2)
        error = caught.value
        assert (error.current_bytes, error.limit_bytes, error.requested_bytes) == (2 << 20, 2 << 20, 1 << 20)
        assert region.layer(0) is held[0]
        assert region.verify() == []
        assert region.layers() == [(3, i) for i in range(4)]
    huge = zstd_frame(bytes(1 << 28))
    with (
        MmapRegion(3, region_file(compressed_file(huge, 1 << 28, 3, 1 << 28))) as region,
        pytest.raises(LimitExceeded, match=f"0 of {64 << 20} bytes are in use"),
    ):
        region.layer(0)


@needs_zstd
def test_refusal_of_the_owner_is_passed_on_and_changes_nothing(region_file):
    raw = b"again and again " * 1000
    refuse = [True]

    def allocate(n_bytes):
        if refuse:
            raise builtins_memory_error(n_bytes)
        return bytearray(n_bytes)

    builtins_memory_error = MemoryError
    path = region_file(compressed_file(zstd_frame(raw), len(raw)))
    region = make_region(map_file(path, 3), False, allocate)
    with pytest.raises(MemoryError, match=str(len(raw))):
        region.layer(0)
    refuse.clear()
    assert bytes(region.layer(0)) == raw


def test_compressed_layer_without_a_decoder_names_the_extra(region_file, without_zstd):
    with MmapRegion(3, region_file(compressed_file(b"x" * 40, 100))) as region:
        with pytest.raises(ImportError, match=r"pip install 'jessy-mem\[zstd\]'"):
            region.layer(0)
        assert region.verify() == []  # what can be compared is


def test_damage_of_a_compressed_layer_is_found_before_it_is_decompressed(region_file):
    data = compressed_file(b"x" * 40, 100)
    position = read_region(data).layers[0].offset
    with MmapRegion(3, region_file(damaged(data, position))) as region:
        with pytest.raises(ChecksumMismatch):
            region.layer(0)
        assert [type(error) for error in region.verify()] == [ChecksumMismatch]


# Size -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def most_layers(tmp_path_factory):
    path = tmp_path_factory.mktemp("most") / "region.mmap"
    builder = RegionBuilder(3, "Most")
    for i in range(65536):
        builder.add_layer(LayerSpec(content=b"%d" % i))
    return builder.write(path)


def test_region_of_65536_layers_opens_without_as_many_objects(most_layers):
    MmapRegion(3, most_layers).close()
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    region = MmapRegion(3, most_layers)
    assert len(gc.get_objects()) - objects < 50
    assert sys.getallocatedblocks() - blocks < 500
    assert region.n_layers == 65536
    for layer in (0, 1, 40_000, 65535):
        assert region.layer(layer).text == str(layer)
    assert sys.getallocatedblocks() - blocks < 1000
    region.close()


def test_content_of_65536_layers_verifies(most_layers):
    with MmapRegion(3, most_layers) as region:
        assert region.verify() == []
        assert len(region.layers()) == 65536


def test_layers_with_holes_are_found(region_file):
    numbers = [0, 2, 3, 700, 65535]
    layers = tuple(Layer(number, b"%d" % number) for number in numbers)
    for data in (plain_file(layers), extended_file(layers)):
        with MmapRegion(3, region_file(data)) as region:
            for number in numbers:
                assert region.layer(number).text == str(number)
            for number in (1, 4, 699, 701, 65534, 65536):
                with pytest.raises(LayerNotFound):
                    region.layer(number)


@pytest.mark.thread_unsafe(reason="looks at the pages of the process")
def test_opening_reads_no_content(region_file):
    """Damage in content does not stop a region from opening: only the head is looked at."""
    layers = tuple(Layer(i, b"x" * 8192) for i in range(4))
    data = bytearray(extended_file(layers))
    sound = read_region(bytes(data))
    for layer in sound.layers:
        data[layer.offset : layer.offset + 8192] = os.urandom(8192)
    path = region_file(bytes(data))
    with MmapRegion(3, path) as region:
        assert len(region.verify()) == 4
    redigest_content(data, sound)
    with MmapRegion(3, region_file(bytes(data))) as region:
        assert region.verify() == []


# What a view and a region are to Python ---------------------------------------------------------------------------


def test_view_equals_the_bytes_it_shows(region_file):
    with MmapRegion(3, region_file(extended_file())) as region:
        view, content = region.layer(0), SAMPLE[0].content
        for same in (
            content,
            bytearray(content),
            memoryview(content),
            np.frombuffer(content, np.uint8),
            mmap_of(content),
        ):
            assert view == same
        assert content == view
        for other in (content[:-1], content + b"x", bytes(len(content)), b"", "text", None, 5, [*content], (3, 0)):
            assert view != other
        assert view != memoryview(content)[::2]
        assert region.layer(1 if len(SAMPLE[1].content) else 2) != content


def mmap_of(content: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(content))
    memory[:] = content
    return memory


def test_empty_view_equals_no_bytes(region_file):
    with MmapRegion(3, region_file(extended_file((Layer(0, b""), Layer(1, b"x"))))) as region:
        assert region.layer(0) == b""
        assert region.layer(0) != b"x"


def test_view_is_a_key_by_what_it_shows(region_file):
    layers = (Layer(0, b"same"), Layer(1, b"same"))
    with MmapRegion(3, region_file(extended_file(layers))) as region:
        one, other = region.layer(0), region.layer(1)
        assert one == region.layer(0)
        assert one != other
        assert len({one, other, region.layer(0)}) == 2
        assert hash(one) == hash(region.layer(0))


def test_view_is_the_same_key_when_its_file_is_mapped_again(region_file, tmp_path):
    content = extended_file((Layer(0, b"same"), Layer(1, b"same")))
    path = region_file(content)
    with MmapRegion(3, path) as region, MmapRegion(3, path, guard="copy") as again:
        view = region.layer(0)
        assert view == again.layer(0) is not view
        assert {view: "kept"}[again.layer(0)] == "kept"
        assert view != again.layer(1)
        (tmp_path / "other").write_bytes(content)
        os.utime(tmp_path / "other", ns=(0, os.stat(path).st_mtime_ns))
        with MmapRegion(3, tmp_path / "other") as other:
            assert view != other.layer(0)


def test_view_of_another_content_is_another_key_under_the_same_inode_and_age(region_file):
    """As where a file is written anew in place, or an inode is given again, within one tick of the file system."""
    path = region_file(extended_file((Layer(0, b"then"),)))
    age_ns = os.stat(path).st_mtime_ns
    with MmapRegion(3, path, guard="copy") as region:
        path.write_bytes(extended_file((Layer(0, b"now!"),)))
        os.utime(path, ns=(age_ns, age_ns))
        with MmapRegion(3, path, guard="copy") as again:
            assert region.layer(0) != again.layer(0)


def test_weak_references_let_views_and_regions_go(region_file):
    region = MmapRegion(3, region_file(extended_file()))
    cache = weakref.WeakValueDictionary({"region": region, "view": region.layer(0)})
    keys = weakref.WeakSet([region.layer(7)])
    assert cache["view"] is region.layer(0)
    assert list(keys) == [region.layer(7)]
    kept = cache["view"]
    region.close()
    del region
    assert dict(cache) == {"view": kept}
    assert not keys
    del kept
    assert not dict(cache)


def test_sizes_of_views_and_regions_are_their_own(region_file):
    """What is mapped is the file's, and counts for no object."""
    with MmapRegion(3, region_file(extended_file((Layer(0, b"x" * 1_000_000),)))) as region:
        assert sys.getsizeof(region.layer(0)) < 500
        assert sys.getsizeof(region) < 500
    assert sys.getsizeof(region) < 500


@pytest.mark.parametrize(
    "written", [0.6, 0.1, 1.6, 2.2, 7, 1e-3, 0.0123, 432.1, 1e6, 123456.7, 1e-30, 3e38, 1.1754944e-38, 16777216]
)
def test_frequency_is_the_number_that_was_written(written, region_file):
    data = RegionBuilder(3, "x").add_layer(LayerSpec(text="x", frequency=written)).to_bytes()
    with MmapRegion(3, region_file(data)) as region:
        assert region.layer(0).frequency == written
        assert region.layer_facts()[0][2] == written


def test_frequency_is_the_shortest_decimal_that_numpy_knows(region_file):
    rng = np.random.default_rng(7)
    bits = rng.integers(1, 0x7F800000, 2000, dtype=np.uint32).view(np.float32)
    stored = [*bits, *rng.uniform(0.001, 1000, 500).astype(np.float32)]
    builder = RegionBuilder(3, "x")
    for frequency in stored:
        builder.add_layer(LayerSpec(content=b"", frequency=frequency))
    with MmapRegion(3, region_file(builder.to_bytes())) as region:
        shown = [facts[2] for facts in region.layer_facts()]
    assert (np.array(shown, np.float32) == np.array(stored)).all()
    assert [len(repr(each)) for each in shown] == [len(repr(float(str(each)))) for each in stored]
