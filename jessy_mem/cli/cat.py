"""``jessy-mem cat``: the bytes of one layer."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import BinaryIO

import click

import jessy_mem as jm
from jessy_mem.cli.paths import region_file

CHUNK_BYTES = 1 << 20


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.argument("layer")
def command(file: Path, layer: str) -> None:
    """Write the content of LAYER of the region FILE to standard output, byte for byte.

    LAYER is a number, or a name such as L0. Compressed layers are decompressed, and checksums compared.

    \b
    Examples:
      jessy-mem cat BASE/D01/region.mmap 0
      jessy-mem cat BASE D01/L0
    """
    path, number = _find(file, layer)
    out = sys.stdout.buffer
    with jm.MmapRegion(None, path) as region, memoryview(region.layer(number)) as content:
        for at in range(0, len(content), CHUNK_BYTES):
            _write(out, content[at : at + CHUNK_BYTES])
        out.flush()


def _write(out: BinaryIO, chunk: memoryview) -> None:
    """Write all of `chunk`; unbuffered output may take a part of it."""
    while chunk:
        chunk = chunk[out.write(chunk) :]


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
