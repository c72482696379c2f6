"""What a file that is no region looks like, and what an error about it says."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers import extended_file
from jessy_mem._core.region import MmapRegion
from jessy_mem.errors import InvalidRegion, RegionTruncated
from jessy_mem.looks import looks_like

REGION = extended_file()


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(file) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("region.mmap", REGION)


def database() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table layers (id int)")
        return connection.serialize()


FILES = {
    "gzip": gzip.compress(REGION),
    "zip": written(zipped),
    "bzip2": bz2.compress(REGION),
    "xz": lzma.compress(REGION),
    "NumPy": written(lambda file: np.save(file, np.arange(100))),
    "SQLite": database(),
    "ELF": Path(sys.executable).read_bytes()[:4096],
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(300),
    "PDF": b"%PDF-1.7\n" + bytes(300),
    "JSON": json.dumps({"dimensions": list(range(200))}).encode(),
    "HTML": b"<!DOCTYPE html>\n<html><body>not found</body></html>" + b" " * 300,
    "text": ("A smile spreads. " * 40).encode(),
    "UTF-16": ("A smile spreads. " * 40).encode("utf-16"),
    "zeros": bytes(5000),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 300,
    "version 2": REGION.replace(b"JESSY_MMAP_V1", b"JESSY_MMAP_V2", 1),
    "access trace": b"jessy-mem trace 1\n" + bytes(300),
}


@pytest.mark.parametrize("kind", FILES)
def test_error_says_what_the_file_looks_like(kind, region_file):
    path = region_file(FILES[kind], "a file.mmap")
    with pytest.raises(InvalidRegion) as caught:
        MmapRegion(None, path)
    assert kind in caught.value.hint
    assert f"; {caught.value.hint}" in str(caught.value)
    assert str(caught.value).endswith(f"jessy-mem verify '{path}' tells more")
    assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        (b"a note", "text"),
        (b"\x1f\x8b\x08", "gzip"),
        ("größe".encode()[:4], "text"),
        (b"{}", "JSON"),
    ],
)
def test_file_shorter_than_a_header_is_told_too(data, kind, region_file):
    with pytest.raises(RegionTruncated) as caught:
        MmapRegion(None, region_file(data))
    assert kind in caught.value.hint


@pytest.mark.parametrize("at", range(250, 258))
def test_text_is_text_wherever_its_beginning_is_cut_off(at):
    assert looks_like(("x" * at + "ß" * 200).encode()[:256]).startswith("text")


@pytest.mark.parametrize("data", [b"\x80\x81" * 200, bytes(range(256)), b"\0" * 200 + b"\1" * 56, b"text\0text" * 50])
def test_nothing_is_said_of_what_is_not_known(data, region_file):
    assert looks_like(data) == ""
    with pytest.raises(InvalidRegion) as caught:
        MmapRegion(None, region_file(data))
    assert "looks like" not in str(caught.value)


@pytest.mark.parametrize(("at", "value"), [(100, b"\x09\x00"), (102, b"\x00\x80")])
def test_file_of_a_newer_version_says_who_wrote_it(at, value, region_file):
    data = bytearray(REGION)
    data[at : at + 2] = value
    with pytest.raises(InvalidRegion, match="a newer jessy_mem wrote it; pip install -U jessy-mem"):
        MmapRegion(None, region_file(bytes(data)))
