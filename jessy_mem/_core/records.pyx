"""Small values that are made often: what a reader gets of a layer, and what is counted.

Frozen dataclasses like any other (fields, ``asdict``, ``replace``, equal, hashed and pickled by value), compiled, so
that one is made in tens of nanoseconds. Their docstrings begin with the signature, which Cython does not write.
jessy_mem.context and jessy_mem.stats are where they are at home.
"""
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict, fields

from cython cimport dataclasses

from jessy_mem.forking import imported
from jessy_mem.layout import LayerId
from jessy_mem.units import counted, format_bytes, format_ns


# Cython 3.3 writes its memoryview code into every module with a dataclass, and finds its type only where one is used.
cdef const unsigned char[::1] needed_by_dataclasses = None


cdef class Record:
    """What a compiled dataclass lacks: the words of the others for what is frozen, a way to be pickled, and a repr that
    works in all threads (Cython's works in the one that imported it)."""

    def __setattr__(self, name, value):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __reduce__(self):
        return type(self), tuple([getattr(self, field.name) for field in fields(self)])

    def __repr__(self):
        values = ", ".join([f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)])
        return f"{type(self).__qualname__}({values})"


@dataclasses.dataclass(frozen=True, repr=False)
cdef class LoadedContext(Record):
    """LoadedContext(layer_id, content, frequency, keywords, depth, source)\n--\n
    One layer as text, with its metadata.

    `frequency` is in Hz; `source` is ``"mmap"``, ``"pool"`` or ``"simulated"``. It owns its text: nothing that happens
    to the region changes it. Immutable, so safe to share between threads. From the seed.

    >>> LoadedContext(LayerId(15, 0), "Returns are free.", 1.6, ("returns",), 0, "mmap").n_bytes
    17
    """

    layer_id: LayerId  # which layer it is
    content: str  # the text
    frequency: float
    keywords: tuple  # those of the layer
    depth: int  # that of the layer
    source: str

    @classmethod
    def of(cls, view):
        """The layer that `view`, a LayerView, shows; UnicodeDecodeError, naming the layer, if it is not text."""
        return cls(view.id, view.text, view.frequency, view.keywords, view.depth, view.source)

    @property
    def n_bytes(self):
        """Bytes of the content as UTF-8."""
        return len(self.content) if self.content.isascii() else len(self.content.encode())

    def _repr_html_(self):
        return imported("jessy_mem.notebook").context(self)


@dataclasses.dataclass(frozen=True, repr=False)
cdef class LatencySummary(Record):
    """LatencySummary(count, p50, p90, p99, p999, max, mean_ns)\n--\n
    How long the events of one kind took; every time is in nanoseconds, and 0 when there was no event.

    Parameters
    ----------
    count : int
        Events that were timed.
    p50, p90, p99, p999 : int
        The 50th, 90th, 99th and 99.9th percentile: so many percent of the events took no longer. Within 0.8 %.
    max : int
        The longest event, exact.
    mean_ns : float
        The mean, exact.

    >>> LatencySummary(2, 40, 60, 60, 60, 60, 50.0).to_dict()
    {'count': 2, 'p50': 40, 'p90': 60, 'p99': 60, 'p999': 60, 'max': 60, 'mean_ns': 50.0}
    """

    count: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    mean_ns: float

    def to_dict(self):
        """The fields by name, in nanoseconds; JSON-serialisable."""
        return asdict(self)

    def __str__(self):
        if not self.count:
            return "none"
        times = [format_ns(t_ns) for t_ns in (self.p50, self.p99, self.p999, self.max)]
        return "p50 {}, p99 {}, p99.9 {}, max {}".format(*times)


@dataclasses.dataclass(frozen=True, repr=False)
cdef class PoolClassStats(Record):
    """PoolClassStats(block_size, n_blocks, n_used, peak_used, n_borrowed, requested_bytes)\n--\n
    One size class of the pool. `n_used` and `peak_used` count blocks wherever they lie in the arena."""

    block_size: int  # bytes of a block
    n_blocks: int  # that the class has room for at home
    n_used: int
    peak_used: int
    n_borrowed: int  # of n_used: blocks that lie in the room of another class
    requested_bytes: int  # what the callers of the n_used blocks asked for

    @property
    def fragmentation(self):
        """The share of the used blocks' bytes that nobody asked for, 0..1."""
        charged_bytes = self.n_used * self.block_size
        return 1 - self.requested_bytes / charged_bytes if charged_bytes else 0.0

    def to_dict(self):
        """The fields by name; JSON-serialisable."""
        return asdict(self)


@dataclasses.dataclass(frozen=True, repr=False)
cdef class PoolStats(Record):
    """PoolStats(classes, used_bytes, limit_bytes, peak_bytes)\n--\n
    The pool: its classes, smallest first, and the bytes charged for their blocks."""

    classes: tuple  # a PoolClassStats for each, smallest blocks first
    used_bytes: int  # charged for blocks in use
    limit_bytes: int  # the most that blocks may take together
    peak_bytes: int  # the most that they ever took

    @property
    def requested_bytes(self):
        """What the callers of all used blocks asked for."""
        return sum([each.requested_bytes for each in self.classes])

    def to_dict(self):
        """The same numbers as plain dicts and lists, for JSON."""
        return {**asdict(self), "classes": [each.to_dict() for each in self.classes]}


@dataclasses.dataclass(frozen=True, repr=False)
cdef class SegmentStats(Record):
    """SegmentStats(used_bytes, limit_bytes, peak_bytes)\n--\n
    One segment of the budget, in bytes."""

    used_bytes: int  # charged to it
    limit_bytes: int  # its ceiling
    peak_bytes: int  # the most that was ever charged to it

    def __iter__(self):
        return iter((self.used_bytes, self.limit_bytes))

    def to_dict(self):
        """The fields by name; JSON-serialisable."""
        return asdict(self)


@dataclasses.dataclass(frozen=True, repr=False)
cdef class MemoryStats(Record):
    """MemoryStats(total_allocated_bytes, total_used_bytes, limit_bytes, available_bytes, utilization, pressure,
    dimensions_loaded, layers_loaded, active_regions, leased_bytes, evictable_bytes, pinned_bytes,
    peak_usage_bytes, avg_access_latency_us, access_latency, first_touch_latency, load_latency,
    allocate_latency, deallocate_latency, crystallize_latency, access_count, load_count, allocation_count,
    deallocation_count, allocation_failures, crystallization_count, evictions, drops, copies, simulation_mode,
    simulated_dimensions, segments, pool, residency=None, text_bytes=0)\n--\n
    The state of a manager at one moment; bytes, nanoseconds and counts since it was made.

    ``leased_bytes + evictable_bytes + pinned_bytes + available_bytes == limit_bytes``. ``str`` gives a table to read,
    ``to_dict`` plain values for machines.
    """

    total_allocated_bytes: int  # mapped regions, pool blocks and kept texts: what is charged to the budget
    total_used_bytes: int  # layer content, and what the callers of pool blocks asked for
    limit_bytes: int  # the budget
    available_bytes: int  # what is left of it
    utilization: float  # percent of the limit
    pressure: str  # "ok", "warning", "eviction" or "critical"
    dimensions_loaded: int  # evicted ones count
    layers_loaded: int  # those of all loaded dimensions
    active_regions: int  # that are mapped now
    leased_bytes: int  # held by views and blocks of users
    evictable_bytes: int  # regions and kept texts that could go to make room
    pinned_bytes: int  # immutable and proto-dimensions
    peak_usage_bytes: int  # the most that was ever charged
    avg_access_latency_us: float  # the mean of access_latency, in microseconds
    access_latency: LatencySummary  # layers that were read before
    first_touch_latency: LatencySummary  # layers that were read for the first time since they were mapped
    load_latency: LatencySummary  # dimensions loaded or reloaded
    allocate_latency: LatencySummary  # blocks of the pool
    deallocate_latency: LatencySummary  # blocks given back
    crystallize_latency: LatencySummary  # proto-dimensions that became files
    access_count: int  # layers read, for the first time or again
    load_count: int  # dimensions loaded or reloaded
    allocation_count: int  # blocks allocated
    deallocation_count: int  # blocks given back
    allocation_failures: int  # blocks refused
    crystallization_count: int  # proto-dimensions that became files
    evictions: int  # regions unmapped to make room
    drops: int  # proto-dimensions given up with on_full="drop"
    copies: int  # payload copies made: decoded text, read_many, decompressed layers
    simulation_mode: bool  # whether anything is simulated
    simulated_dimensions: tuple  # their ids
    segments: Mapping  # a SegmentStats for each segment of the plan, by name
    pool: PoolStats  # the pool
    residency: Residency | None = None  # what memory it really is; None unless it was asked for
    text_bytes: int = 0  # decoded texts that are kept (text_cache_mb)

    def to_dict(self):
        """All fields as JSON-serialisable values."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def rows(self):
        """What `str` shows, as (label, text)."""
        rows = [
            (
                "budget",
                f"{format_bytes(self.total_allocated_bytes)} of {format_bytes(self.limit_bytes)}"
                f" ({self.utilization:.1f} %, {self.pressure}), peak {format_bytes(self.peak_usage_bytes)}",
            ),
            (
                "states",
                f"leased {format_bytes(self.leased_bytes)}, evictable {format_bytes(self.evictable_bytes)}, "
                f"pinned {format_bytes(self.pinned_bytes)}, free {format_bytes(self.available_bytes)}",
            ),
        ]
        for name, segment in self.segments.items():
            rows.append((f"  {name}", f"{format_bytes(segment.used_bytes)} of {format_bytes(segment.limit_bytes)}"))
        rows += [
            (
                "content",
                f"{format_bytes(self.total_used_bytes)} in {counted(self.layers_loaded, 'layer')} of "
                f"{counted(self.dimensions_loaded, 'dimension')}, {self.active_regions} mapped"
                + (f"; {format_bytes(self.text_bytes)} of text kept" if self.text_bytes else ""),
            ),
            ("access", f"{self.access_count:,} hits and first touches: {self.access_latency}"),
            ("first touch", str(self.first_touch_latency)),
            ("load", f"{self.load_count:,}: {self.load_latency}"),
            (
                "pool",
                f"{self.allocation_count:,} allocated, {self.deallocation_count:,} given back, "
                f"{self.allocation_failures:,} refused: {self.allocate_latency}",
            ),
            (
                "changes",
                f"{self.crystallization_count:,} crystallized, {self.evictions:,} evicted, "
                f"{self.drops:,} dropped, {self.copies:,} payload copies",
            ),
        ]
        if self.simulation_mode:
            rows.append(("SIMULATED", ", ".join(f"D{dimension:02d}" for dimension in self.simulated_dimensions)))
        if self.residency is not None:
            real = self.residency
            rows.append(
                (
                    "memory",
                    f"mapped {format_bytes(real.mapped_bytes)} ({format_bytes(real.resident_bytes)} resident), "
                    f"pool {format_bytes(real.pool_committed_bytes)} committed, "
                    f"{format_bytes(real.pool_used_bytes)} used, "
                    f"decompressed {format_bytes(real.decompressed_bytes)}, texts {format_bytes(real.text_bytes)}, "
                    f"tables {format_bytes(real.metadata_bytes)}",
                )
            )
        return rows

    def __str__(self):
        return "\n".join(f"{label:<12} {text}" for label, text in self.rows())

    def _repr_html_(self):
        return imported("jessy_mem.notebook").stats(self)


def _plain(value):
    """`value` as something json.dumps takes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.to_dict() if hasattr(value, "to_dict") else value
