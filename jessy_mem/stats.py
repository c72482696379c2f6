"""Statistics as frozen snapshots: numbers only, no reference to what they were taken from.

What is made often is compiled and comes from _core/records; it is at home here.
"""

from __future__ import annotations

import dataclasses

from jessy_mem._core.records import LatencySummary, MemoryStats, PoolClassStats, PoolStats, SegmentStats
from jessy_mem.notebook import facts, listing, never_fails
from jessy_mem.units import counted, format_bytes, format_ns

__all__ = [
    "LatencySummary",
    "Lease",
    "Leases",
    "LoadReport",
    "MemoryStats",
    "PoolClassStats",
    "PoolStats",
    "Residency",
    "SegmentStats",
    "format_bytes",
    "format_ns",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Residency:
    """What memory the budget really is, in bytes, that of retired generations which are still held included.

    Mapped files, the pool, kept texts and the library's tables are disjoint. Resident is part of mapped. Used and
    decompressed are disjoint, and make up the pool's blocks in use; what of them was ever written to is part of
    committed.
    """

    mapped_bytes: int  # of region files, page by page
    resident_bytes: int  # of them, in memory now
    pool_committed_bytes: int  # pages of the pool that were touched and not given back
    pool_used_bytes: int  # blocks in use, but for those of compressed layers
    decompressed_bytes: int  # blocks of compressed layers
    metadata_bytes: int  # the library's own tables of layers and counters
    text_bytes: int = 0  # decoded texts that are kept (text_cache_mb), and what keeps them
    group_limit_bytes: int | None = None  # of this process's cgroup (v2) and those around it, the lowest memory.max
    group_high_bytes: int | None = None  # the lowest memory.high, above which the system slows them down
    group_used_bytes: int | None = None  # memory of the cgroup, all its processes and their page cache included

    def to_dict(self) -> dict[str, int | None]:
        """The fields by name; JSON-serialisable."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A generation of a dimension that somebody holds views of."""

    dimension: int  # its id
    generation: int  # which version of it is held
    n_bytes: int  # charged for it and for its decompressed layers
    n_views: int  # that others hold
    retired: bool = False  # unloaded, replaced or evicted; it goes with its last view
    taken_at: tuple[str, ...] = ()  # where views were taken, with trace=True in the configuration

    def __str__(self) -> str:
        size = format_bytes(self.n_bytes)
        return f"D{self.dimension:02d} generation {self.generation} ({size}, {self.n_views} views)"

    @never_fails
    def _repr_html_(self) -> str:
        rows = [
            ("size", format_bytes(self.n_bytes)),
            ("views held", f"{self.n_views:,}"),
            ("retired", "yes: it goes with its last view" if self.retired else "no"),
            *(("taken at", site) for site in self.taken_at),
        ]
        return facts(f"D{self.dimension:02d}, generation {self.generation}", rows)


class Leases(list[Lease]):
    """What ``leases()`` gives: a list, which a notebook shows as a table."""

    @never_fails
    def _repr_html_(self) -> str:
        headings = ["dimension", "generation", "size", "views held", "retired"]
        if any(each.taken_at for each in self):
            headings.append("taken at")
        rows = (
            (f"D{each.dimension:02d}", each.generation, format_bytes(each.n_bytes), f"{each.n_views:,}",
             "yes" if each.retired else "no", ", ".join(each.taken_at))[: len(headings)]
            for each in self
        )  # fmt: skip
        n_bytes = format_bytes(sum(each.n_bytes for each in self))
        told = f"<div><b>{counted(len(self), 'lease')}, {n_bytes}</b></div>"
        return told + (listing(headings, rows, len(self), "leases") if self else "")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadReport:
    """What ``load_all`` did: ids loaded from files, ids simulated, and for each id skipped its error."""

    loaded: list[int]  # ids, from files
    simulated: list[int]  # ids, for they have no file
    skipped: dict[int, Exception]  # id -> why

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} loaded, {len(self.simulated)} simulated, {len(self.skipped)} skipped"]
        lines += [f"  D{dimension:02d}: {error}" for dimension, error in self.skipped.items()]
        return "\n".join(lines)

    @never_fails
    def _repr_html_(self) -> str:
        first = str(self).partition("\n")[0]
        skipped = ((f"D{dimension:02d}", error) for dimension, error in self.skipped.items())
        return f"<div><b>{first}</b></div>" + (
            listing(("skipped", "why"), skipped, len(self.skipped), "dimensions") if self.skipped else ""
        )
