"""``jessy-mem inspect``: what a region file, or a base folder, holds."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.landlock import ReadingCommand
from jessy_mem.cli.own_plan import plan_options
from jessy_mem.cli.paths import EXISTING, REGION, is_absent, reason, region_file, region_files
from jessy_mem.units import counted, format_bytes

N_LAYERS_SHOWN = 200
GUARDS = {  # an inspection takes no lease: `doctor` tells whether one is to be had
    "reads": "mapped; what is read of it is right or an error",
    "copy": "a copy that nobody can change",
}
NEVER_HERE = ("access", "first touch", "pool", "changes")  # nothing of the kind happens in an inspection


HELP = """Show the header and the layers of a region FILE, or all dimensions of a folder BASE and the memory they take.

A region that has grown is a stack of files, a base and deltas, of which each is shown. The content of layers is not
read, but for immutable dimensions, and compressed layers with --layers; 'verify' reads it all. The exit status is 1 if
a region of BASE cannot be loaded. What is only too large for the plan is shown with the others.
"""


@click.command(cls=ReadingCommand, help=HELP)
@click.argument("target", metavar="FILE|BASE", type=EXISTING)
@click.option("--layers", "with_attributes", is_flag=True, help="Of each layer: its attributes, date and tokens too.")
@screen.json_option
@plan_options
def command(target: Path, with_attributes: bool, as_json: bool, config: jm.MemoryConfig) -> int:
    if target.is_dir() and not (target / REGION).exists():
        if with_attributes:
            raise click.UsageError("--layers is for one region: give its FILE, or the folder it is in.")
        return _inspect_base(target, config, as_json)
    layout = config.plan.scaled(config.total_bytes)
    with jm.MmapRegion(None, region_file(target), verify="never") as region:
        if as_json:
            layers = _layer_dicts(region, region.n_layers if with_attributes else 0)
            screen.print_json(_region_dict(region, layout) | {"layers": layers})
        else:
            _show_region(region, layout, with_attributes)
    return 0


# One file -------------------------------------------------------------------------------------------------------------


def _region_dict(region: jm.MmapRegion, layout: jm.MemoryLayout) -> dict[str, Any]:
    frequencies = [fact[2] for fact in region.layer_facts()]
    files = jm.region_files(region)
    extension = max(file.extension for file in files)
    return {
        "id": region.dimension_id,
        "name": region.name,
        "path": str(region.path),
        "format": f"V1, extension {extension}" if extension else "plain V1",
        "size_bytes": region.size,
        "slot_bytes": layout.slot_bytes(region.dimension_id),
        "content_bytes": region.content_bytes,
        "n_layers": region.n_layers,
        "frequency_band": [min(frequencies), max(frequencies)] if frequencies else None,
        "generation": region.generation,
        "created": _time(region.created_ns),
        "immutable": region.immutable,
        "guard": region.guard,
        "residency": region.residency(),
        "files": [
            {
                "path": str(file.path),
                "generation": file.generation,
                "size_bytes": file.n_bytes,
                "added": file.n_added,
                "replaced": file.n_replaced,
                "removed": file.n_removed,
            }
            for file in files
        ],
    }


def _layer_dicts(region: jm.MmapRegion, n_with_attributes: int = 0) -> list[dict[str, Any]]:
    """What is known of each layer; of the first `n_with_attributes` also what is kept with the layer itself."""
    names = ("layer", "depth", "frequency", "keywords", "stored_bytes", "size_bytes", "created")
    found: list[dict[str, Any]] = [
        dict(zip(names, facts, strict=True)) | {"offset": region.content_offset(facts[0])}
        for facts in region.layer_facts()
    ]
    for layer in found:
        layer["created"] = _time(layer["created"])
    for layer in found[:n_with_attributes]:
        view = region.layer(layer["layer"])
        layer |= {"n_tokens": view.n_tokens or None, "attributes": dict(view.attributes)}
    return found


def _show_region(region: jm.MmapRegion, layout: jm.MemoryLayout, with_attributes: bool) -> None:
    facts = _region_dict(region, layout)
    out = screen.console()
    used, slot = facts["size_bytes"], facts["slot_bytes"]
    rows = [
        ("file", facts["path"]),
        ("dimension", f"D{facts['id']:02d} {facts['name']}" + (", immutable" if facts["immutable"] else "")),
        ("format", facts["format"] + ("; it carries no checksums" if region.plain else "")),
        ("generation", str(facts["generation"])),
        ("guard", f"{facts['guard']}: {GUARDS[facts['guard']]}"),
        ("created", facts["created"] or "not recorded"),
        ("size", f"{format_bytes(used)}, {_share(used, slot)} of its slot of {format_bytes(slot)}"),
        ("content", f"{format_bytes(facts['content_bytes'])} in {counted(facts['n_layers'], 'layer')}"),
        ("frequencies", _band(facts) + " Hz" * bool(facts["frequency_band"])),
        ("in memory", f"{facts['residency']:.0%} of its pages"),
    ]
    out.print(screen.facts(f"D{facts['id']:02d} {facts['name']}", rows))
    out.print()
    if len(facts["files"]) > 1:
        out.print(_stack_table(facts["files"], out))
        out.print()
    layers = _layer_dicts(region, N_LAYERS_SHOWN if with_attributes else 0)[:N_LAYERS_SHOWN]
    out.print(_attributes_table(layers, out) if with_attributes else _layers_table(layers, out))
    if region.n_layers > N_LAYERS_SHOWN:
        out.print(f"... and {region.n_layers - N_LAYERS_SHOWN:,} more layers; --json has them all")


def _stack_table(files: list[dict[str, Any]], out: Console) -> Table:
    """The files of a region as they lie on each other: the newest on top, which says what a layer is."""
    rows = [
        (
            Path(file["path"]).name,
            str(file["generation"]),
            *(str(file[what] or "") for what in ("added", "replaced", "removed")),
            format_bytes(file["size_bytes"]),
        )
        for file in reversed(files)
    ]
    headings = ["~file, newest first", "?>generation", ">added", ">replaced", ">removed", ">size"]
    return screen.table(out, "Stack", headings, rows)


def _layers_table(layers: list[dict[str, Any]], out: Console) -> Table:
    headings = [">layer", ">depth", ">Hz", ">size", "?>stored", "?>offset", "~keywords"]
    rows = [
        (
            str(layer["layer"]),
            str(layer["depth"]),
            f"{layer['frequency']:.3g}",
            format_bytes(layer["size_bytes"]),
            format_bytes(layer["stored_bytes"]) if layer["stored_bytes"] < layer["size_bytes"] else "as is",
            str(layer["offset"]),
            ", ".join(layer["keywords"]),
        )
        for layer in layers
    ]
    return screen.table(out, "Layers", headings, rows)


def _attributes_table(layers: list[dict[str, Any]], out: Console) -> Table:
    headings = [">layer", ">Hz", ">size", "?created", "?>tokens", "~keywords", "~attributes"]
    rows = [
        (
            str(layer["layer"]),
            f"{layer['frequency']:.3g}",
            format_bytes(layer["size_bytes"]),
            layer["created"] or "not recorded",
            f"{layer['n_tokens']:,}" if layer["n_tokens"] else "",
            ", ".join(layer["keywords"]),
            json.dumps(layer["attributes"], ensure_ascii=False) if layer["attributes"] else "",
        )
        for layer in layers
    ]
    return screen.table(out, "Layers", headings, rows)


# A base folder --------------------------------------------------------------------------------------------------------


def _inspect_base(base: Path, config: jm.MemoryConfig, as_json: bool) -> int:
    region_files(base)  # wrong use if there is none
    with jm.MmapManager(config=config.replace(base_path=base)) as memory:
        report, layout = memory.load_all(), memory.layout
        found = {dimension: _region_dict(memory.region(dimension), layout) for dimension in report.loaded}
        absent = [d for d, error in report.skipped.items() if is_absent(base, d, error)]
        damaged = {d: error for d, error in report.skipped.items() if d not in absent}
        for dimension, error in damaged.items():
            if isinstance(error, jm.LimitExceeded):  # another plan may have room for it
                with jm.MmapRegion(dimension, jm.region_path(base, dimension), verify="never") as region:
                    found[dimension] = _region_dict(region, layout)
        regions = [found[dimension] for dimension in sorted(found)]
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
            out.print(screen.text(f"not there: {screen.dimensions(absent)}", style="dim"))
        out.print()
        rows = [(label, text) for label, text in stats.rows() if label not in NEVER_HERE]
        out.print(screen.facts("Memory with all of them loaded", rows))
    return 1 if damaged else 0


def _base_table(regions: list[dict[str, Any]], title: str, out: Console) -> Table:
    headings = ["", "~dimension", "?>layers", ">size", "?>slot", "Hz", "?>generation", "?>deltas", "?guard"]
    rows = [
        (
            f"D{facts['id']:02d}",
            facts["name"],
            f"{facts['n_layers']:,}",
            format_bytes(facts["size_bytes"]),
            format_bytes(facts["slot_bytes"]),
            _band(facts),
            str(facts["generation"]),
            str(len(facts["files"]) - 1 or ""),
            f"{facts['guard']}, immutable" if facts["immutable"] else facts["guard"],
        )
        for facts in regions
    ]
    return screen.table(out, title, headings, rows)


def _band(facts: dict[str, Any]) -> str:
    return screen.band(facts["frequency_band"]) if facts["frequency_band"] else "none"


def _share(part: int, whole: int) -> str:
    share = part / whole
    return f"{share:.0%}" if share >= 0.01 or not part else f"{share:.2%}" if share >= 0.0001 else "less than 0.01%"


def _time(t_ns: int) -> str | None:
    if t_ns == 0:
        return None
    return datetime.datetime.fromtimestamp(t_ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
