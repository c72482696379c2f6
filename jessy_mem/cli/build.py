"""``jessy-mem build``: a folder of texts becomes region files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.paths import EXISTING_FOLDER, FOLDER, Problems
from jessy_mem.cli.plan import DimensionSource
from jessy_mem.cli.source import read_source
from jessy_mem.cli.streams import Command
from jessy_mem.units import counted, format_bytes

HELP = """Make OUT/Dnn/region.mmap from the texts of SOURCE.

SOURCE holds a folder for each dimension, Dnn, Dnn-Name or content/Dnn, with a text for each layer: 0.md, 1.txt, and so
on. It may hold a plan, dimensions.json, which says more of them. A text may begin with front matter, which overrides
the plan; tags are keywords too, and keys that are not used are reported:

\b
  ---
  frequency: 1.6
  keywords: [returns, "lost, found"]
  depth: 0
  ---

Nothing is written unless all of SOURCE is sound. Files that are there are replaced in one step, each; one that would
not change is left alone, and keeps its generation.
"""


@click.command(cls=Command, help=HELP)
@click.argument("source", type=EXISTING_FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--compress", is_flag=True, help="Store layers compressed with zstd where that makes them smaller.")
@screen.json_option
def command(source: Path, out: Path, compress: bool, as_json: bool) -> None:
    found = read_source(source, compress)
    for remark in found.remarks:
        screen.warn(remark)
    if not found.dimensions:
        raise Problems([f"{source}: there is nothing to build, for there is no text such as D15/0.md in it"])
    built = build(found.dimensions, out)
    if as_json:
        screen.print_json({"out": str(out), "dimensions": built})
    else:
        _show(built, out)


def build(dimensions: list[DimensionSource], out: Path) -> list[dict[str, Any]]:
    """Write the region file of each dimension under `out`, where it changes; returns what is there."""
    builders = {}
    problems = []
    for dimension in dimensions:
        builder = _builder(dimension)
        try:
            n_bytes = builder.pack(1).n_bytes
        except ValueError as error:
            problems.append(f"D{dimension.id:02d} {dimension.name}: {error}")
            continue
        if n_bytes > dimension.slot_bytes:
            problems.append(_overflow(dimension, n_bytes))
        builders[dimension.id] = (builder, n_bytes)
    if problems:
        raise Problems(problems)
    total_bytes = sum(n_bytes for _, n_bytes in builders.values())
    done_bytes = 0
    built = []
    with screen.progress_bar("building") as report:
        for dimension in dimensions:
            builder, n_bytes = builders[dimension.id]
            path = jm.region_path(out, dimension.id)
            changed = not _is_the_same(dimension, path)
            if changed:
                builder.write(path, progress=partial(_report_from, report, done_bytes, total_bytes))
            done_bytes += n_bytes
            built.append(_facts(path, dimension, changed))
    return built


def _builder(dimension: DimensionSource, like: jm.MmapRegion | None = None) -> jm.RegionBuilder:
    """The dimension, ready to be written; with the generation and the time of `like` if that is given."""
    stamp = {} if like is None else {"generation": like.generation, "created_ns": like.created_ns}
    builder = jm.RegionBuilder(dimension.id, dimension.name, immutable=dimension.immutable, **stamp)
    for spec in dimension.layers:
        builder.add_layer(spec)
    return builder


def _is_the_same(dimension: DimensionSource, path: Path) -> bool:
    """Whether the file at `path` is what would be written there, but for its generation and its time."""
    try:
        with jm.MmapRegion(dimension.id, path, verify="never") as region, memoryview(region) as stored:
            if region.plain:
                return False
            packed = _builder(dimension, region).pack(region.generation)
            return packed.n_bytes == len(stored) and _begins_with(stored, packed.pieces())
    except jm.ConsciousnessError:  # there is none, or it is damaged
        return False


def _begins_with(stored: memoryview, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
    at = 0
    for piece in pieces:
        if stored[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return True


def _overflow(dimension: DimensionSource, n_bytes: int) -> str:
    largest = max(dimension.layers, key=lambda spec: len(spec.content))
    return (
        f"D{dimension.id:02d} {dimension.name}: {n_bytes} bytes do not fit into its slot of {dimension.slot_bytes} "
        f"bytes; the largest layer is {largest.layer} with {len(largest.content)} bytes"
    )


def _facts(path: Path, dimension: DimensionSource, changed: bool) -> dict[str, Any]:
    with jm.MmapRegion(dimension.id, path, verify="never") as region:
        return {
            "id": region.dimension_id,
            "name": region.name,
            "path": str(path),
            "size_bytes": region.size,
            "layers": region.n_layers,
            "generation": region.generation,
            "immutable": region.immutable,
            "changed": changed,
        }


def _show(built: list[dict[str, Any]], out: Path) -> None:
    console = screen.console()
    rows = [
        (
            f"D{facts['id']:02d}",
            facts["name"],
            str(facts["layers"]),
            format_bytes(facts["size_bytes"]),
            str(facts["generation"]),
            "immutable" if facts["immutable"] else "",
            "" if facts["changed"] else "unchanged",
        )
        for facts in built
    ]
    console.print(screen.table(console, "", ["", "~dimension", ">layers", ">size", "?>generation", "?", ""], rows))
    console.print()
    total_bytes = sum(facts["size_bytes"] for facts in built)
    console.print(
        screen.text(f"{counted(len(built), 'dimension')}, {format_bytes(total_bytes)}, in {out}"), soft_wrap=True
    )


def _report_from(report: screen.Report, before_bytes: int, total_bytes: int, done_bytes: int, _: int) -> None:
    report(before_bytes + done_bytes, total_bytes)
