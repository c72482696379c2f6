"""What a file that is no region looks like, by its first bytes, for whoever is told that it is none."""

from __future__ import annotations

import re

from jessy_mem._core.head import N_HEADER_BYTES

__all__ = ["looks_like"]

_KINDS = (  # (where, how it begins, what it is)
    (0, b"\x1f\x8b", "a gzip file; gunzip it"),
    (0, b"PK\x03\x04", "a zip archive; unzip it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; decompress it with zstd -d"),
    (0, b"BZh", "a bzip2 file; bunzip2 it"),
    (0, b"\xfd7zXZ\0", "an xz file; decompress it with xz -d"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"RIFF", "a RIFF file (WAV, AVI or WebP)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"SQLite format 3\0", "a SQLite database"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"jessy-mem trace", "an access trace; jessy-mem advise reads it"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; git lfs pull gets the file"),
    (0, b"\xff\xfe", "text in UTF-16"),
    (0, b"\xfe\xff", "text in UTF-16"),
)
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def looks_like(first: bytes) -> str:
    """What a file that begins with `first` looks like, and what to do about it; "" if nothing is known of it.

    >>> looks_like(b"%PDF-1.7 ..."), looks_like(bytes(512))
    ('a PDF document', 'nothing but zeros: it was cut off by a crash, or never filled')
    """
    if not first:
        return "an empty file"
    version = re.search(rb"JESSY_MMAP_V([0-9]+)\0", first[:N_HEADER_BYTES])
    if version is not None and version[1] != b"1":
        return f"a region of version {int(version[1])} of the format; pip install -U jessy-mem"
    for at, magic, kind in _KINDS:
        if first.startswith(magic, at):
            return kind
    if not first.strip(b"\0"):
        return "nothing but zeros: it was cut off by a crash, or never filled"
    return _kind_of_text(first)


def _kind_of_text(first: bytes) -> str:
    """The kind of text it is, or ""."""
    try:
        text = first.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end < len(first) or error.reason != "unexpected end of data":  # else a character is cut off here
            return ""
        text = first[: error.start].decode("utf-8-sig", "replace")
    if _CONTROLS.search(text):
        return ""
    begin = text.lstrip()[:15].lower()
    if begin.startswith(("{", "[")):
        return "JSON"
    if begin.startswith(("<!doctype html", "<html")):
        return "an HTML page"
    return "text; jessy-mem build makes region files of folders of text"
