"""``jessy-mem build``: a folder of texts becomes region files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.source import DimensionSource, SourceError, passed_over, read_source


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--compress", is_flag=True, help="Store layers compressed with zstd where that makes them smaller.")
@screen.json_option
def command(source: Path, out: Path, compress: bool, as_json: bool) -> None:
    """Make OUT/Dnn/region.mmap from the texts of SOURCE.

    SOURCE holds dimensions.json and a folder for each dimension, Dnn or content/Dnn, with a text for each layer: 0.md,
    1.txt, and so on. A text may begin with front matter, which overrides dimensions.json:

    \b
      ---
      frequency: 1.6
      keywords: mood, laughter, tears
      depth: 0
      ---

    Nothing is written unless all of SOURCE is sound. Files that are there are replaced in one step, each.
    """
    dimensions = read_source(source, compress)
    for path in passed_over(source):
        screen.warn(f"{path} is passed over: layers are Dnn/0.md, Dnn/1.txt, and so on")
    built = build(dimensions, out)
    if as_json:
        screen.print_json({"out": str(out), "dimensions": built})
    else:
        _show(built, out)


def build(dimensions: list[DimensionSource], out: Path) -> list[dict[str, Any]]:
    """Write the region file of each dimension under `out`; returns what was written."""
    builders = {}
    problems = []
    for dimension in dimensions:
        builder = jm.RegionBuilder(dimension.id, dimension.name, immutable=dimension.immutable)
        for spec in dimension.layers:
            builder.add_layer(spec)
        n_bytes = builder.pack(1).n_bytes
        if n_bytes > dimension.slot_bytes:
            problems.append(_overflow(dimension, n_bytes))
        builders[dimension.id] = (builder, n_bytes)
    if problems:
        raise SourceError(problems)
    total_bytes = sum(n_bytes for _, n_bytes in builders.values())
    done_bytes = 0
    built = []
    with screen.progress_bar("building") as report:
        for dimension in dimensions:
            builder, n_bytes = builders[dimension.id]
            path = jm.region_path(out, dimension.id)
            builder.write(path, progress=partial(_report_from, report, done_bytes, total_bytes))
            done_bytes += n_bytes
            built.append(_facts(path, dimension))
    return built


def _overflow(dimension: DimensionSource, n_bytes: int) -> str:
    largest = max(dimension.layers, key=lambda spec: len(spec.content))
    return (
        f"D{dimension.id:02d} {dimension.name}: {n_bytes} bytes do not fit into its slot of {dimension.slot_bytes} "
        f"bytes; the largest layer is {largest.layer} with {len(largest.content)} bytes"
    )


def _facts(path: Path, dimension: DimensionSource) -> dict[str, Any]:
    with jm.MmapRegion(dimension.id, path, verify="never") as region:
        return {
            "id": region.dimension_id,
            "name": region.name,
            "path": str(path),
            "size_bytes": region.size,
            "layers": region.n_layers,
            "generation": region.generation,
            "immutable": region.immutable,
        }


def _show(built: list[dict[str, Any]], out: Path) -> None:
    console = screen.console()
    rows = [
        (
            f"D{facts['id']:02d}",
            facts["name"],
            str(facts["layers"]),
            screen.size(facts["size_bytes"]),
            str(facts["generation"]),
            "immutable" if facts["immutable"] else "",
        )
        for facts in built
    ]
    console.print(screen.table(console, "", ["", "~dimension", ">layers", ">size", "?>generation", "?"], rows))
    console.print()
    total_bytes = sum(facts["size_bytes"] for facts in built)
    console.print(Text(f"{len(built)} dimensions, {screen.size(total_bytes)}, in {out}"), soft_wrap=True)


def _report_from(report: screen.Report, before_bytes: int, total_bytes: int, done_bytes: int, _: int) -> None:
    report(before_bytes + done_bytes, total_bytes)
