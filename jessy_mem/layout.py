"""The plan of the memory: layer identifiers, segments, slots and logical addresses.

The numbers come from ``data/dimensions.json``; addresses are computed from them and stored nowhere. A logical address
is a name: regions are mapped one by one, wherever the operating system puts them.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, SupportsIndex, TypeVar

from jessy_mem._core.format import stored_frequency
from jessy_mem._core.head import MAX_NAME_BYTES
from jessy_mem.errors import OutOfBounds
from jessy_mem.given import amount, finder, flag, integer, integer_in, number, plain_path, text_of, words

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
    "delta_file",
    "dimension_folder",
    "has_deltas",
    "region_file",
    "region_path",
]

MIB_BYTES = 1 << 20
MAX_LAYER = 65535
MAX_DIMENSION = 2**32 - 1  # the width of the header's field
REGION_NAME = "region.mmap"
DELTA_PREFIX, DELTA_DIGITS, DELTA_SUFFIX = "delta-", 16, ".mmap"  # the generation between them
UNSYNCED_MODE = stat.S_ISVTX  # a bit in the mode of a file that has its name before it is on the disk

Ranges = tuple[tuple[int, int], ...]
_IDS: Mapping[str, Ranges] = {"reserve": ((15, 999), (2**31, MAX_DIMENSION)), "user": ((1000, 2**31 - 1),)}
"""What learning gives in a layout that has no segment of that name."""


class LayerId(NamedTuple):
    """The name of one layer. A plain tuple ``(dimension, layer)`` is accepted wherever a LayerId is.

    >>> str(LayerId(1, 0)), LayerId.parse("D01/L0") == (1, 0)
    ('D01/L0', True)
    """

    dimension: int  # its number, 1 or more
    layer: int  # its number in the dimension, 0..65535

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
            hint = f"; {finder(dimension)}" if isinstance(dimension, str) else ""
            raise TypeError(f"{layer_id!r} is not a layer id: expected two ints{hint}") from None


def dimension_folder(dimension: int) -> str:
    """The folder name of a dimension: ``D01``, ``D15``, ``D1000``."""
    return f"D{dimension:02d}"


def region_file(base_path: str, dimension: int) -> str:
    """`region_path` as text, for the loading path."""
    return f"{base_path}/{dimension_folder(dimension)}/{REGION_NAME}"


def region_path(base_path: str | os.PathLike[str], dimension: int) -> Path:
    """Where the region file of `dimension` lies under `base_path`."""
    return Path(region_file(plain_path(base_path), dimension))


def delta_file(region_path: str, generation: int) -> str:
    """Where the delta of that generation lies that belongs to the region file at `region_path`.

    >>> delta_file("base/D15/region.mmap", 7)
    'base/D15/delta-0000000000000007.mmap'
    """
    return f"{region_path.rpartition('/')[0] or '.'}/{DELTA_PREFIX}{generation:0{DELTA_DIGITS}}{DELTA_SUFFIX}"


def has_deltas(path: str) -> bool:
    """Whether deltas beside the file at `path` belong to it: it is named as in a base folder, ``Dnn/region.mmap``."""
    folder, _, name = os.path.abspath(path).rpartition("/")
    return name == REGION_NAME and re.fullmatch(r"D[0-9]{2,10}", folder.rpartition("/")[2]) is not None


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
    """A range of logical addresses with a budget of its own, and the dimensions that it pays for.

    `dimensions` are ranges (first, last), in the order in which learning gives their ids.
    """

    name: str
    size_bytes: int
    first_dimension: int
    address: int
    dimensions: Ranges = ()


T = TypeVar("T")
Planned = TypeVar("Planned", Segment, DimensionPlan)


class MemoryLayout:
    """Segments and slots, and which address belongs to which.

    Immutable, so safe to share between threads. Equal to another that plans the same.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """`plan` is the parsed ``dimensions.json``; ValueError names the entry that is wrong.

        Each of its "segments" has a "name"; "size_mb", or "share" of the plan's "total_mb"; and "first_dimension", or
        "dimensions": ranges of ids such as ``[[15, 999], [2147483648, 4294967295]]``. Without ranges a segment ends
        where the next begins and the last at 2**31; the second also has the ids from there on. "dimensions" of the plan
        are the slots, which lie in the first segment; there may be none. A dimension that no range names belongs to the
        last segment.
        """
        address = 0
        dimensions: dict[int, DimensionPlan] = {}
        try:
            for entry in plan["dimensions"]:
                planned = _dimension(entry, address)
                if planned.id in dimensions:
                    raise ValueError(f"dimension {planned.id} is planned twice")
                dimensions[planned.id] = planned
                address += planned.size_bytes
            segments = _segments(plan["segments"], plan.get("total_mb"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the plan of dimensions is incomplete: {error!r}") from error
        if address > segments[0].size_bytes:
            raise ValueError(f"slots of {address} bytes do not fit into core, {segments[0].size_bytes} bytes")
        self._hold(segments, dimensions)

    def _hold(self, segments: tuple[Segment, ...], dimensions: Mapping[int, DimensionPlan]) -> None:
        self.segments = segments
        self.dimensions: Mapping[int, DimensionPlan] = MappingProxyType(dict(dimensions))
        self.id_ranges: Ranges = tuple(sorted({*self.ids_of("reserve"), *self.ids_of("user")}))
        """All that learning gives ids of, ascending."""
        self._owners = sorted((first, last, i) for i, each in enumerate(segments) for first, last in each.dimensions)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> MemoryLayout:
        """Read a plan from a file such as the bundled ``dimensions.json``; ValueError for what is no plan."""
        try:
            plan = json.loads(text_of(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{os.fspath(path)}:{error.lineno}: {error.msg}") from None
        except RecursionError:
            raise ValueError(f"{os.fspath(path)}: it is nested too deeply") from None
        return cls(plan)

    @classmethod
    def free(cls, total_mb: int | float) -> MemoryLayout:
        """A layout of one segment, "memory", and no slots: any dimension takes what there is.

        Learning gives the same ids as in the bundled plan, so both may be used on one base folder.

        >>> layout = MemoryLayout.free(64)
        >>> layout.slot_bytes(1) == layout.slot_bytes(15) == 64 * MIB_BYTES
        True
        """
        return cls({"dimensions": [], "segments": [{"name": "memory", "size_mb": total_mb, "first_dimension": 1}]})

    def scaled(self, total_bytes: int) -> MemoryLayout:
        """The layout with all slots and segments larger alike, to `total_bytes` in all; itself if that is not more."""
        own_bytes = self.total_bytes
        if total_bytes <= own_bytes:
            return self

        def grown(items: Iterable[Planned]) -> list[Planned]:
            found, address = [], 0
            for each in items:
                found.append(replace(each, size_bytes=each.size_bytes * total_bytes // own_bytes, address=address))
                address += found[-1].size_bytes
            return found

        return _restored(tuple(grown(self.segments)), {each.id: each for each in grown(self.dimensions.values())})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.segments, dict(self.dimensions))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryLayout):
            return NotImplemented
        return self.segments == other.segments and self.dimensions == other.dimensions

    def __hash__(self) -> int:
        return hash(self.segments)

    def __repr__(self) -> str:
        return f"MemoryLayout({', '.join(f'{each.name}: {each.size_bytes} bytes' for each in self.segments)})"

    @property
    def total_bytes(self) -> int:
        """The end of the address space: 280 MiB in the bundled plan."""
        return sum(segment.size_bytes for segment in self.segments)

    def ids_of(self, segment: str) -> Ranges:
        """The ids that learning gives for "reserve" or "user": ranges, used one after the other.

        Those of the segment of that name; those of the bundled plan where the layout has none: 15..999 and from 2**31
        for the reserve, 1000..2**31 - 1 for users. ValueError for any other name that there is no segment of.
        """
        for each in self.segments:
            if each.name == segment:
                return each.dimensions
        if segment not in _IDS:
            raise ValueError(f"segment: {segment!r} is not one of {', '.join([each.name for each in self.segments])}")
        return _IDS[segment]

    def is_user(self, dimension: int) -> bool:
        """Whether `dimension` has an id of those given for users."""
        return any(first <= dimension <= last for first, last in self.ids_of("user"))

    def segment_of(self, dimension: int) -> Segment:
        """The segment that pays for `dimension`."""
        if dimension < 1:
            raise ValueError(f"dimension {dimension}: expected at least 1")
        at = bisect_right(self._owners, (dimension, MAX_DIMENSION + 1, 0)) - 1
        if at >= 0 and dimension <= self._owners[at][1]:
            return self.segments[self._owners[at][2]]
        return self.segments[-1]

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
        address = integer(address)
        for planned in self.dimensions.values():
            if planned.address <= address < planned.address + planned.size_bytes:
                return planned.id, address - planned.address
        raise OutOfBounds(address, 1, self.total_bytes)


def _restored(segments: tuple[Segment, ...], dimensions: Mapping[int, DimensionPlan]) -> MemoryLayout:
    layout = object.__new__(MemoryLayout)
    layout._hold(segments, dimensions)
    return layout


def _dimension(entry: Mapping[str, Any], address: int) -> DimensionPlan:
    dimension = LayerId.checked((entry["id"], 0)).dimension
    try:
        layers = tuple(_layer(layer) for layer in entry["layers"])
        if len({layer.layer for layer in layers}) < len(layers):
            raise ValueError("layers: two have the same number")
        return DimensionPlan(
            id=dimension,
            name=_checked("name", _name, entry["name"]),
            size_bytes=_size_bytes(entry),
            frequency=_checked("frequency", _hertz, entry["frequency"]),
            frequency_band=_checked("frequency_band", _band, entry["frequency_band"]),
            immutable=_checked("immutable", flag, entry.get("immutable", False)),
            layers=layers,
            address=address,
        )
    except ValueError as error:
        raise ValueError(f"dimension {dimension}: {error}") from None


def _layer(entry: Mapping[str, Any]) -> LayerPlan:
    """What is planned of a layer, by the rules of what a region file can hold."""
    layer = integer_in("layer", entry["layer"], 0, MAX_LAYER)
    depth = integer_in("depth", entry["depth"], 0, 255)
    frequency = _checked("frequency", _hertz, entry["frequency"])
    return LayerPlan(layer, depth, frequency, _checked("keywords", words, entry["keywords"]))


def _checked(field: str, check: Callable[[Any], T], value: Any) -> T:
    """What `check` makes of the value of `field`; ValueError names it."""
    try:
        return check(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field}: {error}") from None


def _hertz(value: Any) -> float:
    hertz = number(value)
    if not 0 < stored_frequency(hertz) < math.inf:
        raise ValueError(f"{value!r} is not a finite number of Hz above 0")
    return hertz


def _band(value: Any) -> tuple[float, float]:
    low, high = map(_hertz, value)
    if low > high:
        raise ValueError(f"{value!r} does not ascend")
    return low, high


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not str")
    if not 1 <= len(value.encode()) <= MAX_NAME_BYTES:
        raise ValueError(f"{value!r} does not take 1..{MAX_NAME_BYTES} bytes of UTF-8")
    return value


def _segments(entries: Sequence[Mapping[str, Any]], total_mb: Any) -> tuple[Segment, ...]:
    if not entries:
        raise ValueError("segments: there is no segment")
    ranges = _ranges(entries)
    segments: list[Segment] = []
    address = 0
    for entry, dimensions in zip(entries, ranges, strict=True):
        size_bytes = _share_bytes(entry, total_mb) if "share" in entry else _size_bytes(entry)
        segments.append(
            Segment(_checked("segments: name", _name, entry["name"]), size_bytes, dimensions[0][0], address, dimensions)
        )
        address += size_bytes
    names = [segment.name for segment in segments]
    if len(set(names)) < len(names):
        raise ValueError(f"segments: two have the same name: {names}")
    return tuple(segments)


def _ranges(entries: Sequence[Mapping[str, Any]]) -> list[Ranges]:
    """The ids of each segment: as they are given, or from one first dimension to the next."""
    n_given = sum("dimensions" in entry for entry in entries)
    if n_given == len(entries):
        ranges = [tuple((integer(first), integer(last)) for first, last in entry["dimensions"]) for entry in entries]
        flat = sorted(each for some in ranges for each in some)
        is_sound = all(ranges) and all(1 <= first <= last <= MAX_DIMENSION for first, last in flat)
        if not (is_sound and all(last < first for (_, last), (first, _) in pairwise(flat))):
            raise ValueError(f"segments: dimensions: {flat} are not ranges in 1..{MAX_DIMENSION} that lie apart")
        return ranges
    if n_given:
        raise ValueError("segments: some have dimensions and some have not")
    first = [integer(entry["first_dimension"]) for entry in entries]
    if first[0] != 1 or first != sorted(set(first)) or first[-1] >= 2**31:
        raise ValueError(f"segments: their first dimensions do not ascend from 1: {first}")
    ends = [*first[1:], 2**31]
    ranges = [((begin, end - 1),) for begin, end in zip(first, ends, strict=True)]
    dynamic = min(1, len(ranges) - 1)
    ranges[dynamic] = (*ranges[dynamic], (2**31, MAX_DIMENSION))
    return ranges


def _share_bytes(entry: Mapping[str, Any], total_mb: Any) -> int:
    share = _amount(entry["share"])
    if not 0 < share <= 1:
        raise ValueError(f"{entry['name']}: share: {entry['share']!r} is not a share of 0..1")
    return max(1, int(share * _size_bytes({"name": "the plan", "size_mb": total_mb})))


def _size_bytes(entry: Mapping[str, Any]) -> int:
    size_mb = _amount(entry["size_mb"])
    if not 0 < size_mb < 2**40 or size_mb * MIB_BYTES < 1:
        raise ValueError(f"{entry['name']}: size_mb: {entry['size_mb']!r} is not a number of MiB above 0")
    return int(size_mb * MIB_BYTES)


def _amount(value: Any) -> int | float:
    """A number, or nan for what is none."""
    try:
        return amount(value)
    except (TypeError, ValueError):
        return math.nan


@cache
def default_layout() -> MemoryLayout:
    """The bundled plan."""
    return MemoryLayout.from_json(data_folder() / "dimensions.json")
