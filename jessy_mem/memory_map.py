"""The memory map: segments, the slots in them, and the dimensions that lie there, as they are at one moment.

It is made of a manager, or of a base folder that nobody needs to have open. Then nothing is written there, no content
is read, and what cannot be read is an entry that says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

from jessy_mem import given
from jessy_mem._core.folder import is_there
from jessy_mem._core.region import MmapRegion
from jessy_mem.errors import ConsciousnessError
from jessy_mem.forking import imported
from jessy_mem.layout import MemoryLayout, default_layout, region_file
from jessy_mem.names import dimensions_of
from jessy_mem.notebook import N_SHOWN, Part, bar, listing, never_fails, text
from jessy_mem.table import RegionTable
from jessy_mem.units import counted, format_bytes

__all__ = ["MapEntry", "MapSegment", "MemoryMap"]

N_PARTS = 200  # of a bar; more would be narrower than what is seen


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A slot of the plan, or a dimension outside it."""

    dimension: int  # its id
    name: str  # "" if that is not known
    segment: str  # the name of the one that pays for it
    state: Literal["file", "pool", "simulated", "evicted", "damaged", "none"]  # what there is of it
    slot_bytes: int | None = None  # of the plan's slot, if it has one
    n_bytes: int = 0  # of its files or blocks
    n_layers: int = 0  # that are in it
    n_deltas: int = 0  # files on its base
    generation: int = 0  # which version of it
    resident: float | None = None  # the share of its pages that are in memory, 0..1; None if that was not asked
    immutable: bool = False  # whether nothing may change it
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True, slots=True)
class MapSegment:
    """A segment of the plan."""

    name: str  # "core", "reserve" or "user" in the bundled plan
    address: int  # logical, of its first byte
    size_bytes: int  # its ceiling
    used_bytes: int  # of a manager: what is charged to it; of a folder: what its files take


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """What lies where, as it was when this was made; `MemoryMap.of` and `MemoryMap.of_folder` make one.

    A notebook shows it as bars to scale. Immutable, so safe to share between threads.

    >>> import tempfile
    >>> from jessy_mem import LayerSpec, RegionBuilder, region_path
    >>> with tempfile.TemporaryDirectory() as base:
    ...     _ = RegionBuilder(15, "policies").add_layer(LayerSpec(text="Free.")).write(region_path(base, 15))
    ...     made = MemoryMap.of_folder(base)
    >>> [(entry.name, entry.n_layers, entry.segment) for entry in made.present]
    [('policies', 1, 'reserve')]
    """

    base_path: str  # the folder
    segments: tuple[MapSegment, ...]  # in the order of their addresses
    entries: tuple[MapEntry, ...]  # by id; slots that are empty, too

    @classmethod
    def of(cls, memory: RegionTable, *, residency: bool = False) -> Self:
        """The map of what a manager has loaded; with `residency` also how much is in memory, which asks the system.

        Of a closed manager all slots are empty. Thread-safe; no reader waits.
        """
        layout = memory.layout
        with memory._lock:
            found = [_entry_of(region, layout, residency) for region in memory._regions.values()]
            for dimension in memory._evicted:
                evicted = memory._evicted.of(dimension)
                if evicted is not None:
                    found.append(_planned(layout, dimension, "evicted", evicted.size, evicted.n_layers))
            used = {name: numbers[0] for name, numbers in memory._ledger.sums()[2].items()}
        return cls._made(os.fspath(memory.config.base_path), layout, found, used)

    @classmethod
    def of_folder(cls, base_path: str | os.PathLike[str], layout: MemoryLayout | None = None) -> Self:
        """The map of the files in a base folder, with `layout`, or the bundled plan; OSError if it cannot be listed.

        Each dimension's files are opened for a moment and their headers read; a file that cannot be read is an entry
        whose state is "damaged". Thread-safe.
        """
        base, plan = given.plain_path(base_path), layout or default_layout()
        found = [entry for each in dimensions_of(os.listdir(base)) if (entry := _in_folder(base, each, plan))]
        used = dict.fromkeys((segment.name for segment in plan.segments), 0)
        for entry in found:
            used[entry.segment] += entry.n_bytes
        return cls._made(base, plan, found, used)

    @classmethod
    def _made(cls, base: str, layout: MemoryLayout, found: Iterable[MapEntry], used: dict[str, int]) -> Self:
        entries = {dimension: _planned(layout, dimension, "none") for dimension in layout.dimensions}
        entries |= {entry.dimension: entry for entry in found}
        segments = [
            MapSegment(each.name, each.address, each.size_bytes, used.get(each.name, 0)) for each in layout.segments
        ]
        return cls(base, tuple(segments), tuple(entries[dimension] for dimension in sorted(entries)))

    @property
    def present(self) -> tuple[MapEntry, ...]:
        """The entries that are more than an empty slot."""
        return tuple(entry for entry in self.entries if entry.state != "none")

    @property
    def total_bytes(self) -> int:
        """Of all segments."""
        return sum(segment.size_bytes for segment in self.segments)

    def in_segment(self, name: str) -> tuple[MapEntry, ...]:
        """The entries that a segment pays for, slots before what has none."""
        found = [entry for entry in self.entries if entry.segment == name]
        return tuple(sorted(found, key=lambda entry: (entry.slot_bytes is None, entry.dimension)))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; JSON-serialisable."""
        return dataclasses.asdict(self) | {
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
            "entries": [dataclasses.asdict(entry) for entry in self.entries],
        }

    def to_html(self) -> str:
        """One page that needs nothing else: the map, and a table of all there is; for the pointer and the keyboard."""
        present = self.present
        n_bytes = sum(entry.n_bytes for entry in present)
        n_damaged = sum(entry.state == "damaged" for entry in present)
        facts = [
            f"{counted(len(present), 'dimension')}, {format_bytes(n_bytes)}, "
            f"in a plan of {format_bytes(self.total_bytes)}",
            *([f"{n_damaged:,} cannot be read"] if n_damaged else []),
        ]
        bars = [
            (
                _heading(segment),
                [
                    (_part(entry, n_bytes, what), f"D{entry.dimension}" if entry is not None else "")
                    for entry, n_bytes, what in parts_of(self, segment)
                ],
            )
            for segment in self.segments
        ]
        rows = [
            (
                f"D{entry.dimension}",
                (
                    f"D{entry.dimension:02d}",
                    entry.name,
                    entry.segment,
                    format_bytes(entry.n_bytes) if entry.state != "none" else "",
                    format_bytes(entry.slot_bytes) if entry.slot_bytes else "",
                    f"{entry.n_layers:,}" if entry.state not in ("none", "damaged") else "",
                    f"{entry.n_deltas:,}" if entry.n_deltas else "",
                    "" if entry.resident is None else f"{entry.resident:.0%}",
                    entry.problem or ("an empty slot" if entry.state == "none" else entry.state),
                ),
            )
            for entry in self.entries
        ]
        headings = ("", "~dimension", "~segment", "size", "slot", "layers", "deltas", "in memory", "~from")
        html: str = imported("jessy_mem.map_page").page(f"Memory map of {self.base_path}", facts, bars, headings, rows)
        return html

    @never_fails
    def _repr_html_(self) -> str:
        present = self.present
        heading = f"{self.base_path}: {counted(len(present), 'dimension')}"
        bars = [bar(_heading(segment), [_part(*each) for each in parts_of(self, segment)]) for segment in self.segments]
        rows = (
            (
                f"D{entry.dimension:02d}",
                entry.name,
                f"{entry.n_layers:,}",
                format_bytes(entry.n_bytes),
                entry.state + (f": {entry.problem}" if entry.problem else ""),
            )
            for entry in present[:N_SHOWN]
        )
        headings = ("", "dimension", "layers", "size", "from")
        table = listing(headings, rows, len(present), "dimensions") if present else ""
        return f"<div><b>{text(heading)}</b></div>{''.join(bars)}{table}"


def told(entry: MapEntry) -> str:
    """An entry in one line."""
    name = f"D{entry.dimension:02d} {entry.name}".rstrip()
    if entry.state == "none":
        return f"{name}: an empty slot of {format_bytes(entry.slot_bytes or 0)}"
    if entry.problem:
        return f"{name}: {entry.problem}"
    slot = f" of a slot of {format_bytes(entry.slot_bytes)}" if entry.slot_bytes else ""
    deltas = f", in {1 + entry.n_deltas} files" if entry.n_deltas else ""
    resident = "" if entry.resident is None else f", {entry.resident:.0%} in memory"
    layers = counted(entry.n_layers, "layer")
    return f"{name}: {format_bytes(entry.n_bytes)}{slot}, {layers}{deltas}, {entry.state}{resident}"


def parts_of(memory_map: MemoryMap, segment: MapSegment) -> list[tuple[MapEntry | None, int, str]]:
    """What a bar of a segment is made of, to scale: (entry or None, bytes, what it is)."""
    entries = memory_map.in_segment(segment.name)
    found: list[tuple[MapEntry | None, int, str]] = [
        (entry, entry.slot_bytes or entry.n_bytes, told(entry)) for entry in entries[:N_PARTS]
    ]
    rest = entries[N_PARTS:]
    if rest:
        n_bytes = sum(entry.slot_bytes or entry.n_bytes for entry in rest)
        found.append((None, n_bytes, f"{len(rest):,} more dimensions: {format_bytes(n_bytes)}"))
    charged_bytes = sum(entry.n_bytes for entry in entries)
    if segment.used_bytes > charged_bytes:
        n_bytes = segment.used_bytes - charged_bytes
        found.append((None, n_bytes, f"blocks, and what is held of older versions: {format_bytes(n_bytes)}"))
    free_bytes = segment.size_bytes - sum(n_bytes for _, n_bytes, _ in found)
    if free_bytes > 0:
        found.append((None, free_bytes, f"free: {format_bytes(free_bytes)}"))
    return found


def _part(entry: MapEntry | None, n_bytes: int, what: str) -> Part:
    """How a part of a bar is drawn: a slot as full as it is."""
    if entry is None:
        return n_bytes, what, "none" if what.startswith("free") else "pool", 1.0
    return n_bytes, what, entry.state, entry.n_bytes / entry.slot_bytes if entry.slot_bytes else 1.0


def _heading(segment: MapSegment) -> str:
    return f"{segment.name}: {format_bytes(segment.used_bytes)} of {format_bytes(segment.size_bytes)}"


def _planned(
    layout: MemoryLayout, dimension: int, state: Any, n_bytes: int = 0, n_layers: int = 0, **more: Any
) -> MapEntry:
    """An entry with what the plan knows of it."""
    slot = layout.dimensions.get(dimension)
    known: dict[str, Any] = {"name": slot.name if slot else "", "immutable": slot is not None and slot.immutable} | more
    return MapEntry(
        dimension=dimension,
        segment=layout.segment_of(dimension).name,
        state=state,
        slot_bytes=slot.size_bytes if slot else None,
        n_bytes=n_bytes,
        n_layers=n_layers,
        **known,
    )


def _entry_of(region: MmapRegion, layout: MemoryLayout, residency: bool) -> MapEntry:
    source = region.source
    return _planned(
        layout,
        region.dimension_id,
        "file" if source == "mmap" else source,
        region.size,
        region.n_layers,
        name=region.name,
        n_deltas=region.n_deltas,
        generation=region.generation,
        resident=region.residency() if residency else None,
        immutable=region.immutable,
    )


def _in_folder(base: str, dimension: int, layout: MemoryLayout) -> MapEntry | None:
    """What a folder ``Dnn`` holds; None if that is nothing, or is gone by now."""
    path = region_file(base, dimension)
    try:
        with MmapRegion(dimension, path, verify="never") as region:
            return _entry_of(region, layout, residency=True)
    except (ConsciousnessError, OSError) as error:
        folder, n_bytes = os.path.dirname(path), 0
        if not is_there(path) and (os.path.isdir(folder) or not os.path.lexists(folder)):
            return None
        with contextlib.suppress(OSError):
            n_bytes = os.stat(path).st_size
        problem = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        return _planned(layout, dimension, "damaged", n_bytes, problem=problem)
