"""The plan of the memory: layer identifiers, segments, slots and logical addresses.

The numbers come from ``data/dimensions.json``; addresses are computed from them and stored nowhere. A logical address
is a name: regions are mapped one by one, wherever the operating system puts them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, SupportsIndex

from jessy_mem.errors import OutOfBounds
from jessy_mem.given import integer

__all__ = [
    "MAX_LAYER",
    "MIB_BYTES",
    "DimensionPlan",
    "LayerId",
    "LayerPlan",
    "MemoryLayout",
    "Segment",
    "data_folder",
    "default_layout",
    "dimension_folder",
    "region_file",
    "region_path",
]

MIB_BYTES = 1 << 20
MAX_LAYER = 65535
MAX_DIMENSION = 2**32 - 1  # the width of the header's field


class LayerId(NamedTuple):
    """The name of one layer. A plain tuple ``(dimension, layer)`` is accepted wherever a LayerId is.

    >>> str(LayerId(1, 0)), LayerId.parse("D01/L0") == (1, 0)
    ('D01/L0', True)
    """

    dimension: int
    layer: int

    def __str__(self) -> str:
        return f"D{self.dimension:02d}/L{self.layer}"

    @classmethod
    def parse(cls, text: str) -> LayerId:
        """The LayerId that `text`, such as ``"D01/L0"``, names; ValueError if it names none."""
        match = re.fullmatch(r"[Dd]([0-9]{1,10})/[Ll]([0-9]{1,5})", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a layer: expected a name such as D01/L0")
        return cls.checked((int(match[1]), int(match[2])))

    @classmethod
    def checked(cls, layer_id: Iterable[SupportsIndex]) -> LayerId:
        """`layer_id` as a LayerId; TypeError or ValueError if it cannot be one. Integers of any type are accepted."""
        dimension, layer = cls.of(layer_id)
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension {dimension}: expected 1..{MAX_DIMENSION}")
        if not 0 <= layer <= MAX_LAYER:
            raise ValueError(f"layer {layer}: expected 0..{MAX_LAYER}")
        return cls(dimension, layer)

    @classmethod
    def of(cls, layer_id: Iterable[SupportsIndex]) -> LayerId:
        """The two integers of `layer_id`, whatever they are; TypeError if there are not two."""
        try:
            dimension, layer = layer_id
        except (TypeError, ValueError):
            raise TypeError(f"{layer_id!r} is not a layer id: expected (dimension, layer)") from None
        try:
            return cls(integer(dimension), integer(layer))
        except TypeError:
            raise TypeError(f"{layer_id!r} is not a layer id: expected two ints") from None


def dimension_folder(dimension: int) -> str:
    """The folder name of a dimension: ``D01``, ``D15``, ``D1000``."""
    return f"D{dimension:02d}"


def region_file(base_path: str, dimension: int) -> str:
    """`region_path` as text, for the loading path."""
    return f"{base_path}/{dimension_folder(dimension)}/region.mmap"


def region_path(base_path: str | os.PathLike[str], dimension: int) -> Path:
    """Where the region file of `dimension` lies under `base_path`."""
    return Path(region_file(os.fspath(base_path), dimension))


def data_folder() -> Path:
    """The bundled data: beside the package when installed, at the top of the tree when run from source."""
    package = Path(__file__).resolve().parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parent / "data"


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What the plan knows of one layer; `frequency` in Hz."""

    layer: int
    depth: int
    frequency: float
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DimensionPlan:
    """One core dimension: its slot in the plan, its band (low, high) in Hz, and its layers."""

    id: int
    name: str
    size_bytes: int
    frequency: float
    frequency_band: tuple[float, float]
    immutable: bool
    layers: tuple[LayerPlan, ...]
    address: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of logical addresses with a budget of its own."""

    name: str
    size_bytes: int
    first_dimension: int
    address: int


class MemoryLayout:
    """Segments and slots, and which address belongs to which.

    Immutable, so safe to share between threads.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """`plan` is the parsed ``dimensions.json``; ValueError names the entry that is wrong."""
        address = 0
        dimensions: dict[int, DimensionPlan] = {}
        try:
            for entry in plan["dimensions"]:
                planned = _dimension(entry, address)
                if planned.id in dimensions:
                    raise ValueError(f"dimension {planned.id} is planned twice")
                dimensions[planned.id] = planned
                address += planned.size_bytes
            self.segments = _segments(plan["segments"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the plan of dimensions is incomplete: {error!r}") from error
        self.dimensions: Mapping[int, DimensionPlan] = MappingProxyType(dimensions)
        if address > self.segments[0].size_bytes:
            raise ValueError(f"slots of {address} bytes do not fit into core, {self.segments[0].size_bytes} bytes")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"dimensions": dict(self.dimensions)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"dimensions": MappingProxyType(state["dimensions"])})

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> MemoryLayout:
        """Read a plan from a file such as the bundled ``dimensions.json``."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    @property
    def total_bytes(self) -> int:
        """The end of the address space: 280 MiB in the bundled plan."""
        return sum(segment.size_bytes for segment in self.segments)

    def segment_of(self, dimension: int) -> Segment:
        """The segment that pays for `dimension`."""
        for segment in reversed(self.segments):
            if segment.first_dimension <= dimension:
                return segment
        raise ValueError(f"dimension {dimension}: expected at least 1")

    def slot_bytes(self, dimension: int) -> int:
        """The most that the region file of `dimension` may take: its slot, or its whole segment outside the plan."""
        planned = self.dimensions.get(dimension)
        return planned.size_bytes if planned is not None else self.segment_of(dimension).size_bytes

    def is_immutable(self, dimension: int) -> bool:
        """Whether the plan forbids changing `dimension`; its file may forbid it as well."""
        planned = self.dimensions.get(dimension)
        return planned is not None and planned.immutable

    def resolve(self, address: int) -> tuple[int, int]:
        """The core dimension whose slot holds logical `address`, and the offset in it; OutOfBounds if none does."""
        for planned in self.dimensions.values():
            if planned.address <= address < planned.address + planned.size_bytes:
                return planned.id, address - planned.address
        raise OutOfBounds(address, 1, self.total_bytes)


def _dimension(entry: Mapping[str, Any], address: int) -> DimensionPlan:
    low, high = entry["frequency_band"]
    layers = tuple(
        LayerPlan(layer["layer"], layer["depth"], float(layer["frequency"]), tuple(layer["keywords"]))
        for layer in entry["layers"]
    )
    return DimensionPlan(
        id=LayerId.checked((entry["id"], 0)).dimension,
        name=entry["name"],
        size_bytes=_size_bytes(entry),
        frequency=float(entry["frequency"]),
        frequency_band=(float(low), float(high)),
        immutable=entry.get("immutable", False),
        layers=layers,
        address=address,
    )


def _segments(entries: Sequence[Mapping[str, Any]]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    address = 0
    for entry in entries:
        size_bytes = _size_bytes(entry)
        segments.append(Segment(entry["name"], size_bytes, entry["first_dimension"], address))
        address += size_bytes
    if not segments:
        raise ValueError("segments: there is no segment")
    first = [segment.first_dimension for segment in segments]
    if first[0] != 1 or first != sorted(set(first)):
        raise ValueError(f"segments: their first dimensions do not ascend from 1: {first}")
    return tuple(segments)


def _size_bytes(entry: Mapping[str, Any]) -> int:
    size_mb = entry["size_mb"]
    if isinstance(size_mb, bool) or not isinstance(size_mb, int) or size_mb <= 0:
        raise ValueError(f"{entry['name']}: size_mb: {size_mb!r} is not a number of MiB above 0")
    return size_mb * MIB_BYTES


@cache
def default_layout() -> MemoryLayout:
    """The bundled plan."""
    return MemoryLayout.from_json(data_folder() / "dimensions.json")
