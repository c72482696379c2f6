"""``jessy-mem cat``: the bytes of one layer."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

import jessy_mem as jm
from jessy_mem.cli.escape import escaped
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.paths import EXISTING, region_file
from jessy_mem.cli.streams import delivering, write

CHUNK_BYTES = 1 << 20

HELP = """Write the content of LAYER of the region FILE to standard output, byte for byte.

On a terminal, what it would obey instead of showing it is written as \\x1b, \\u202e and so on, and so is what is no
text; --raw sends the bytes there too. LAYER is a number, or a name such as L0. Compressed layers are decompressed, and
checksums compared.

\b
Examples:
  jessy-mem cat BASE/D01/region.mmap 0
  jessy-mem cat BASE D01/L0
"""


@click.command(cls=ReadingCommand, help=HELP)
@click.argument("file", type=EXISTING)
@click.argument("layer")
@click.option("--raw", is_flag=True, help="Send the bytes as they are to a terminal too.")
def command(file: Path, layer: str, raw: bool) -> None:
    path, number = _find(file, layer)
    with jm.MmapRegion(None, path) as region:
        chunks = _chunks(region.layer(number))
        if raw or not sys.stdout.isatty():
            with delivering():
                sys.stdout.flush()
            for chunk in chunks:
                with delivering():
                    _write(sys.stdout.buffer, chunk)
            with delivering():
                sys.stdout.buffer.flush()
        else:
            for text in _shown(chunks):
                write(text)


def _chunks(layer: jm.LayerView) -> Iterator[bytes]:
    """The content, piece by piece: copies, for of a mapped page that is gone the system would write nothing."""
    for at in range(0, layer.n_bytes, CHUNK_BYTES):
        chunk = bytes(layer[at : at + CHUNK_BYTES])
        layer[at + len(chunk) - 1]  # read by the library, which says whether the file has all bytes up to here
        yield chunk


def _write(out: BinaryIO, chunk: bytes) -> None:
    """Write all of `chunk`; unbuffered output may take a part of it."""
    left = memoryview(chunk)
    while left:
        left = left[out.write(left) :]


def _shown(chunks: Iterator[bytes]) -> Iterator[str]:
    """The content as text that a terminal shows and does not obey."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    held = ""
    for chunk in chunks:
        text = held + decoder.decode(chunk)
        held = "\r" if text.endswith("\r") else ""  # what follows may be its line feed
        yield escaped(text.removesuffix(held).replace("\r\n", "\n"), keep="\n\t")
    yield escaped(held + decoder.decode(b"", final=True), keep="\n\t")


def _find(file: Path, layer: str) -> tuple[Path, int]:
    """The region file and the number of the layer that the two arguments name."""
    if re.fullmatch(r"[Dd][0-9]+/[Ll][0-9]+", layer) and file.is_dir():
        try:
            dimension, number = jm.LayerId.parse(layer)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="LAYER") from None
        return region_file(file / f"D{dimension:02d}"), number
    match = re.fullmatch(r"[Ll]?([0-9]{1,9})", layer)
    if match is None:
        raise click.BadParameter(f"{layer!r} is not the number of a layer.", param_hint="LAYER")
    return region_file(file), int(match[1])
