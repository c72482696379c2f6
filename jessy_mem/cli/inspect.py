"""``jessy-mem inspect``: what a region file, or a base folder, holds."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.paths import EXISTING, REGION, is_absent, reason, region_file, region_files
from jessy_mem.cli.streams import Command

N_LAYERS_SHOWN = 200
NEVER_HERE = ("access", "first touch", "pool", "changes")  # nothing of the kind happens in an inspection


HELP = """Show the header and the layers of a region FILE, or all dimensions of a folder BASE and the memory they take.

The content of layers is not read, but for immutable dimensions; 'verify' reads it all. The exit status is 1 if a
region of BASE cannot be loaded.
"""


@click.command(cls=Command, help=HELP)
@click.argument("target", metavar="FILE|BASE", type=EXISTING)
@screen.json_option
def command(target: Path, as_json: bool) -> int:
    if target.is_dir() and not (target / REGION).exists():
        return _inspect_base(target, as_json)
    with jm.MmapRegion(None, region_file(target)) as region:
        if as_json:
            screen.print_json(_region_dict(region) | {"layers": _layer_dicts(region)})
        else:
            _show_region(region)
    return 0


# One file -------------------------------------------------------------------------------------------------------------


def _region_dict(region: jm.MmapRegion) -> dict[str, Any]:
    frequencies = [fact[2] for fact in region.layer_facts()]
    return {
        "id": region.dimension_id,
        "name": region.name,
        "path": str(region.path),
        "format": "plain V1" if region.plain else "V1, extension 1",
        "size_bytes": region.size,
        "slot_bytes": jm.default_layout().slot_bytes(region.dimension_id),
        "content_bytes": region.content_bytes,
        "n_layers": region.n_layers,
        "frequency_band": [min(frequencies), max(frequencies)],
        "generation": region.generation,
        "created": _time(region.created_ns),
        "immutable": region.immutable,
        "residency": region.residency(),
    }


def _layer_dicts(region: jm.MmapRegion) -> list[dict[str, Any]]:
    names = ("layer", "depth", "frequency", "keywords", "stored_bytes", "size_bytes")
    return [
        dict(zip(names, facts, strict=True)) | {"offset": region.content_offset(facts[0])}
        for facts in region.layer_facts()
    ]


def _show_region(region: jm.MmapRegion) -> None:
    facts = _region_dict(region)
    out = screen.console()
    used, slot = facts["size_bytes"], facts["slot_bytes"]
    rows = [
        ("file", facts["path"]),
        ("dimension", f"D{facts['id']:02d} {facts['name']}" + (", immutable" if facts["immutable"] else "")),
        ("format", facts["format"] + ("; it carries no checksums" if region.plain else "")),
        ("generation", str(facts["generation"])),
        ("created", facts["created"] or "not recorded"),
        ("size", f"{screen.size(used)}, {_share(used, slot)} of its slot of {screen.size(slot)}"),
        ("content", f"{screen.size(facts['content_bytes'])} in {facts['n_layers']:,} layers"),
        ("frequencies", screen.band(facts["frequency_band"]) + " Hz"),
        ("in memory", f"{facts['residency']:.0%} of its pages"),
    ]
    out.print(screen.facts(f"D{facts['id']:02d} {facts['name']}", rows))
    out.print()
    headings = [">layer", ">depth", ">Hz", ">size", "?>stored", "?>offset", "~keywords"]
    layers = [
        (
            str(layer["layer"]),
            str(layer["depth"]),
            f"{layer['frequency']:.3g}",
            screen.size(layer["size_bytes"]),
            screen.size(layer["stored_bytes"]) if layer["stored_bytes"] < layer["size_bytes"] else "as is",
            str(layer["offset"]),
            ", ".join(layer["keywords"]),
        )
        for layer in _layer_dicts(region)[:N_LAYERS_SHOWN]
    ]
    out.print(screen.table(out, "Layers", headings, layers))
    if region.n_layers > N_LAYERS_SHOWN:
        out.print(f"... and {region.n_layers - N_LAYERS_SHOWN:,} more layers; --json has them all")


# A base folder --------------------------------------------------------------------------------------------------------


def _inspect_base(base: Path, as_json: bool) -> int:
    region_files(base)  # wrong use if there is none
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        report = memory.load_all()
        regions = [_region_dict(memory.region(dimension)) for dimension in report.loaded]
        absent = [d for d, error in report.skipped.items() if is_absent(base, d, error)]
        damaged = {d: error for d, error in report.skipped.items() if d not in absent}
        stats = memory.get_stats(residency=True)
    if as_json:
        screen.print_json(
            {
                "base": str(base),
                "dimensions": regions,
                "not_loadable": {str(dimension): reason(error) for dimension, error in damaged.items()},
                "absent": absent,
                "stats": stats.to_dict(),
            }
        )
    else:
        out = screen.console()
        out.print(_base_table(regions, f"Dimensions in {base}", out))
        for error in damaged.values():
            out.print(screen.text(("cannot be loaded  ", "bold red"), reason(error)), soft_wrap=True)
        if absent:
            out.print(screen.text(f"not there: {', '.join(f'D{dimension:02d}' for dimension in absent)}", style="dim"))
        out.print()
        rows = [(label, text) for label, text in stats.rows() if label not in NEVER_HERE]
        out.print(screen.facts("Memory with all of them loaded", rows))
    return 1 if damaged else 0


def _base_table(regions: list[dict[str, Any]], title: str, out: Console) -> Table:
    headings = ["", "~dimension", "?>layers", ">size", "?>slot", "Hz", "?>generation", "?"]
    rows = [
        (
            f"D{facts['id']:02d}",
            facts["name"],
            f"{facts['n_layers']:,}",
            screen.size(facts["size_bytes"]),
            screen.size(facts["slot_bytes"]),
            screen.band(facts["frequency_band"]),
            str(facts["generation"]),
            "immutable" if facts["immutable"] else "",
        )
        for facts in regions
    ]
    return screen.table(out, title, headings, rows)


def _share(part: int, whole: int) -> str:
    share = part / whole
    return f"{share:.0%}" if share >= 0.01 or not part else f"{share:.2%}" if share >= 0.0001 else "less than 0.01%"


def _time(t_ns: int) -> str | None:
    if t_ns == 0:
        return None
    try:
        return datetime.datetime.fromtimestamp(t_ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{t_ns} ns after 1970"
