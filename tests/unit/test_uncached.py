"""What is verified does not stay in the page cache, and what is said of it is what is said without that."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

import jessy_mem as jm
from helpers import Layer, extended_file
from jessy_mem import MmapRegion, compression, verify_region

RWF_DONTCACHE = 0x80
MIB = 1 << 20
# A layer of more than a piece that is read, many small ones, and gaps of a page nearly.
SIZES = [5 * MIB // 2, 4097, *[100] * 200, MIB, 12289, 2 * MIB, 0, 7]
CONTENTS = [random.Random(i).randbytes(n) for i, n in enumerate(SIZES)]


def data_of(**options) -> bytes:
    return extended_file([Layer(i, content) for i, content in enumerate(CONTENTS)], 3, b"dimension 3", **options)


DATA = data_of()


def cool(path) -> None:
    """Let no page of a file be in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # what is not on the disk cannot leave
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def cold(region_file):
    """Writes a file of which nothing is in memory; skips where the system reads nothing past its cache."""

    def make(data: bytes) -> Path:
        path = region_file(data)
        with path.open("rb") as file:
            try:
                os.preadv(file.fileno(), [bytearray(1)], 0, RWF_DONTCACHE)
            except (AttributeError, NotImplementedError, OSError) as error:
                pytest.skip(f"this file system reads nothing past its cache: {error}")
        cool(path)
        return path

    return make


def opened(path) -> MmapRegion:
    return MmapRegion(3, path, verify="never")


def verified_in_place(region, inject) -> list[jm.ConsciousnessError]:
    """What `verify` says where the file cannot be opened again, and nothing of it is in memory."""
    cool(region.path)
    with inject(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "os.open"):
        return region.verify()


def test_little_of_what_was_verified_stays_in_memory(cold, inject):
    path = cold(DATA)
    with opened(path) as region:
        assert region.residency() < 0.2
        done = []
        assert region.verify(lambda *each: done.append(each)) == []
        assert (done[-1], len(done)) == ((len(DATA), len(DATA)), len(SIZES))
        assert region.residency() < 0.2
        assert verify_region(path) == []
        assert region.residency() < 0.2
        with inject(OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)), "os.preadv"):
            assert region.verify() == []
        assert region.residency() > 0.9


def test_what_is_in_memory_is_compared_there(cold, inject):
    path = cold(DATA)
    with opened(path) as region:
        region.prefetch(wait=True)
        with inject(AssertionError("it was read"), "os.preadv") as read:
            read.may_miss = True
            assert region.verify() == []


def spoiled(*places: int) -> bytes:
    data = bytearray(DATA)
    for place in places:
        data[place] ^= 1
    return bytes(data)


def offset_of(layer: int) -> int:
    return DATA.index(CONTENTS[layer])


DAMAGES = {
    "begin": spoiled(offset_of(0)),
    "end of a piece": spoiled(2 * MIB - 1),
    "begin of a piece": spoiled(2 * MIB),
    "gap": spoiled(offset_of(1) - 1),
    "small": spoiled(offset_of(50)),
    "last": spoiled(len(DATA) - 1),
    "several": spoiled(offset_of(0) + 9, offset_of(1) - 1, offset_of(1), offset_of(202), len(DATA) - 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_the_same_as_without(damage, cold, inject):
    path = cold(DAMAGES[damage])
    with opened(path) as region:
        with inject.around("os.preadv", lambda plain: plain):  # it is read so
            found = region.verify()
        assert found
        assert list(map(repr, found)) == list(map(repr, verified_in_place(region, inject)))


@pytest.mark.parametrize("mended", [False, True], ids=["shortened", "and then as before"])
def test_pages_that_went_meanwhile_are_missed(mended, cold):
    """Who read there has zeros from then on, whatever the file is."""
    path = cold(DATA)
    then = path.stat().st_mtime_ns
    with opened(path) as region:
        os.truncate(path, 4 * MIB)
        with pytest.raises(jm.RegionTruncated):
            bytes(region.layer(len(SIZES) - 1))
        if mended:
            path.write_bytes(DATA)
            os.utime(path, ns=(then, then))
        cool(path)
        found = region.verify()
    assert 1 < len(found) < len(SIZES), "the file, and the layers behind the cut"


def test_file_that_has_taken_its_place_is_not_asked(cold, region_file):
    path = cold(spoiled(offset_of(1)))
    with opened(path) as region:
        region_file(DATA).rename(path)
        assert [error.layer for error in region.verify()] == [1]


@pytest.mark.parametrize("how", ["link", "fifo", "nothing"])
def test_what_is_no_file_any_more_is_not_waited_for(how, cold):
    path = cold(DATA)
    with opened(path) as region:
        kept = path.rename(path.with_suffix(".kept"))
        if how == "link":
            path.symlink_to(kept)
        elif how == "fifo":
            os.mkfifo(path)
        assert region.verify() == []


@pytest.mark.parametrize("at", range(3))
def test_what_cannot_be_read_there_is_read_where_readers_look(at, cold, inject):
    path = cold(DATA)
    with opened(path) as region, inject(OSError(errno.EIO, "no"), "os.preadv", at=at, for_good=False):
        assert region.verify() == []


@pytest.mark.parametrize("at", range(3))
def test_piece_of_which_only_the_begin_comes(at, cold, inject):
    def short(plain):
        numbers = iter(range(100))
        return lambda *args: 1 if next(numbers) == at else plain(*args)

    path = cold(DATA)
    with opened(path) as region, inject.around("os.preadv", short):
        assert region.verify() == []


def test_system_that_has_no_such_call(cold, inject):
    path = cold(DATA)
    with opened(path) as region, inject(NotImplementedError("no preadv2"), "os.preadv"):
        assert region.verify() == []


def test_what_is_exported_is_read_from_the_disk_once(cold, tmp_path, inject):
    folder = tmp_path / "base" / "D03"
    folder.mkdir(parents=True)
    cold(DATA).rename(folder / "region.mmap")
    flags = []
    # Without a flag the rest of a head is read so.
    with inject.around("os.preadv", lambda plain: lambda *args: [flags.extend(args[3:]), plain(*args)][1]):
        assert jm.export_base(folder.parent, tmp_path / "all.tar").n_bytes == len(DATA)
    assert flags == []


@pytest.mark.skipif(not compression.is_available(), reason="no zstd")
def test_compressed_layers_are_read_through_the_mapping(cold, inject):
    builder = jm.RegionBuilder(3, "dimension 3")
    for number in range(3):
        builder.add_layer(jm.LayerSpec(content=CONTENTS[0][number:]))
        builder.add_layer(jm.LayerSpec(text=f"what repeats itself {number} " * 100_000, compress=True))
    data = bytearray(builder.to_bytes())
    path = cold(bytes(data))
    with opened(path) as region:
        frame = region.content_offset(3) + 20
        with inject.around("os.preadv", lambda plain: plain):
            assert region.verify() == []
    data[frame] ^= 1
    with opened(cold(bytes(data))) as region:
        assert {error.layer for error in region.verify()} == {3}
