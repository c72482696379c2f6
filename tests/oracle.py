"""What MemoryStats must show, worked out in plain Python from the rules of budget, loading and learning alone.

The oracle is told what was asked of a manager, which files there are, and which dimensions were evicted, in order. All
else it predicts: whether the call succeeds, what is charged and when it is released, and each number of the statistics.
"""

from __future__ import annotations

import mmap
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jessy_mem as jm

MIB = 1 << 20
PAGE = mmap.PAGESIZE
PERCENT_OF_LEVEL = {"warning": 75, "eviction": 85, "critical": 95}
EVICT_TO_PERCENT = 70
CEILINGS = {"core": 168 * MIB, "reserve": 80 * MIB, "user": 32 * MIB}
CLOCKS = {  # the summaries of times, and the events that each counts
    "access_latency": "hits",
    "first_touch_latency": "first_touches",
    "load_latency": "loads",
    "allocate_latency": "allocations",
    "deallocate_latency": "deallocations",
    "crystallize_latency": "crystallizations",
}


def segment_of(dimension: int) -> str:
    return "core" if dimension <= 14 else "reserve" if dimension < 1000 else "user"


@dataclass(frozen=True)
class File:
    """A region file: its size, and for each layer its bytes in the file and decompressed."""

    n_bytes: int
    layers: dict[int, tuple[int, int]]
    immutable: bool = False
    source: str = "mmap"


@dataclass(eq=False)
class Piece:
    """A block of the pool."""

    n_bytes: int
    capacity: int
    block_size: int
    segment: str
    borrowed: bool


@dataclass(eq=False)
class Generation:
    """The bytes of a dimension from when they were charged until nobody holds them."""

    dimension: int
    file: File
    block: Piece | None = None  # of a proto-dimension
    seen: set[int] = field(default_factory=set)  # layers whose view was made
    payloads: dict[int, Piece] = field(default_factory=dict)  # of decompressed layers
    views: Counter[int] = field(default_factory=Counter)  # held by users, by layer
    n_regions: int = 0  # regions, held by users
    n_buffers: int = 0  # memoryviews of the whole file

    @property
    def held(self) -> bool:
        return self.views.total() + self.n_regions + self.n_buffers > 0

    @property
    def n_bytes(self) -> int:
        return self.block.capacity if self.block else self.file.n_bytes

    @property
    def all_bytes(self) -> int:
        return self.n_bytes + sum(piece.capacity for piece in self.payloads.values())


class Oracle:
    """The state of a manager; each operation returns the error that it must raise, or None."""

    def __init__(self, limit_bytes: int, pools: dict[int, int], on_full: str, timed: bool, simulated: dict[int, File]):
        self.limit_bytes, self.on_full, self.timed = limit_bytes, on_full, timed
        self.pools = pools  # block size -> blocks at home; only those of the smallest class may be too few
        self.simulated = simulated  # what is invented for dimensions of the plan that have no file
        self.files: dict[int, File] = {}
        self.victims: deque[int] = deque()  # the dimensions that the manager evicted in this operation
        self.table: dict[int, Generation] = {}
        self.unmapped: dict[int, tuple[int, str]] = {}  # evicted: layers and source
        self.protos: list[int] = []  # oldest first
        self.retired: list[Generation] = []
        self.pieces: set[Piece] = set()
        self.used = dict.fromkeys(CEILINGS, 0)
        self.peaks = dict.fromkeys(CEILINGS, 0)
        self.peak = self.pool_peak = 0
        self.class_peaks = dict.fromkeys(pools, 0)
        self.count: Counter[str] = Counter()
        self.accessed: Generation | None = None  # by the last access that succeeded

    # Charging

    @property
    def total(self) -> int:
        return sum(self.used.values())

    def charge(self, segment: str, n_bytes: int) -> None:
        self.used[segment] += n_bytes
        self.peaks[segment] = max(self.peaks[segment], self.used[segment])
        self.peak = max(self.peak, self.total)

    def new_piece(self, n_bytes: int, segment: str) -> Piece:
        block_size, capacity = self.block_for(n_bytes)
        at_home = sum(not piece.borrowed for piece in self.pieces if piece.block_size == block_size)
        piece = Piece(n_bytes, capacity, block_size, segment, at_home >= self.pools[block_size])
        self.pieces.add(piece)
        self.charge(segment, capacity)
        self.pool_peak = max(self.pool_peak, self.pool_used)
        self.class_peaks[block_size] = max(self.class_peaks[block_size], self.n_used(block_size))
        return piece

    def free_piece(self, piece: Piece) -> None:
        self.pieces.remove(piece)
        self.used[piece.segment] -= piece.capacity

    def block_for(self, n_bytes: int) -> tuple[int, int]:
        """The class of a request, and what it is charged: one block, or a run of the largest."""
        for block_size in self.pools:
            if n_bytes <= block_size:
                return block_size, block_size
        return block_size, -(-n_bytes // block_size) * block_size

    @property
    def pool_used(self) -> int:
        return sum(piece.capacity for piece in self.pieces)

    def n_used(self, block_size: int) -> int:
        return sum(piece.capacity // block_size for piece in self.pieces if piece.block_size == block_size)

    def release_unheld(self) -> None:
        """What left the table goes with its last holder."""
        for generation in self.retired:
            if not generation.n_regions:
                for layer in [layer for layer in generation.payloads if not generation.views[layer]]:
                    self.free_piece(generation.payloads.pop(layer))
            if not generation.held:
                if generation.block:
                    self.free_piece(generation.block)
                else:
                    self.used[segment_of(generation.dimension)] -= generation.n_bytes
        self.retired = [generation for generation in self.retired if generation.held]

    @contextmanager
    def holding(self, generation: Generation | None) -> Iterator[None]:
        """As long as a call works with a generation, it is held like one that a user holds."""
        if generation is None:
            yield
            return
        generation.n_regions += 1
        yield
        generation.n_regions -= 1
        self.release_unheld()

    # Making room

    def excess(self, segment: str, n_bytes: int, bound: int) -> tuple[int, int]:
        """What is too much in the segment, and in all."""
        return self.used[segment] + n_bytes - CEILINGS[segment], self.total + n_bytes - bound

    def can_go(self) -> list[Generation]:
        return [
            generation
            for generation in self.table.values()
            if not (generation.block or generation.file.immutable or generation.held)
        ]

    def evict_next(self, segment: str | None = None) -> None:
        assert self.victims, "nothing was evicted, though room was needed and could be had"
        dimension = self.victims.popleft()
        generation = self.table[dimension]
        assert generation in self.can_go(), f"D{dimension:02d} must not be evicted"
        assert segment in (None, segment_of(dimension)), f"D{dimension:02d} makes no room in {segment}"
        self.remember_unmapped(dimension, generation.file)
        self.retire(dimension)
        self.count["evictions"] += 1

    def remember_unmapped(self, dimension: int, file: File) -> None:
        self.unmapped[dimension] = len(file.layers), file.source

    def make_room(self, segment: str, n_bytes: int, bound: int) -> bool:
        """Evict until it fits; what could not be reached is not begun."""
        candidates = self.can_go()
        in_segment = sum(each.all_bytes for each in candidates if segment_of(each.dimension) == segment)
        of_segment, of_all = self.excess(segment, n_bytes, bound)
        if of_segment > in_segment or of_all > sum(each.all_bytes for each in candidates):
            return False
        while self.excess(segment, n_bytes, bound)[0] > 0:
            self.evict_next(segment)
        while self.excess(segment, n_bytes, bound)[1] > 0:
            self.evict_next()
        return True

    def fits(self, segment: str, n_bytes: int, bound: int) -> bool:
        return max(self.excess(segment, n_bytes, bound)) <= 0

    def relieve(self, segment: str, n_bytes: int, bound: int, changing: int | None = None) -> bool:
        """Let the oldest proto-dimension go, if all of them and all that can be evicted would do."""
        for_block = bound < self.limit_bytes
        if self.on_full == "raise" or (self.on_full == "drop" and not for_block):
            return False
        protos = [self.table[dimension] for dimension in self.protos if dimension != changing]
        protos = [each for each in protos if not each.held]  # it would free nothing
        candidates = protos + self.can_go()
        of_segment, of_all = self.excess(segment, n_bytes, bound)
        if of_segment > 0:
            protos, candidates = (
                [each for each in some if segment_of(each.dimension) == segment] for some in (protos, candidates)
            )
        if not protos or sum(each.all_bytes for each in candidates) < (of_segment if of_segment > 0 else of_all):
            return False
        oldest = protos[0].dimension
        if self.on_full == "crystallize":
            self.publish(oldest)
        else:
            self.protos.remove(oldest)
            self.retire(oldest)
            self.count["drops"] += 1
        return True

    def settle(self) -> None:
        """From 85 percent on, evict down to 70 or until nothing can go."""
        if 100 * self.total >= PERCENT_OF_LEVEL["eviction"] * self.limit_bytes:
            while 100 * self.total > EVICT_TO_PERCENT * self.limit_bytes and self.can_go():
                self.evict_next()

    def admit(self, dimension: int, n_bytes: int, old: Generation | None) -> bool:
        """Charge a file, after making room if that is needed, which does not take what it replaces."""
        segment = segment_of(dimension)
        while not self.fits(segment, n_bytes, self.limit_bytes):
            with self.holding(old):
                done = self.make_room(segment, n_bytes, self.limit_bytes)
            hopeless = n_bytes > min(CEILINGS[segment], self.limit_bytes)
            if not done and (hopeless or not self.relieve(segment, n_bytes, self.limit_bytes)):
                return False
        self.charge(segment, n_bytes)
        return True

    def take_block(self, n_bytes: int, segment: str, changing: int | None = None) -> Piece | None:
        """A piece of the pool, after making room if that is needed; None if that fails, which is counted."""
        capacity = self.block_for(n_bytes)[1]
        bound = PERCENT_OF_LEVEL["critical"] * self.limit_bytes // 100
        while not self.fits(segment, capacity, bound):
            if not self.make_room(segment, capacity, bound) and not self.relieve(segment, capacity, bound, changing):
                self.count["failures"] += 1
                return None
        return self.new_piece(n_bytes, segment)

    # The table

    def install(self, dimension: int, generation: Generation) -> None:
        if dimension in self.table:
            self.retire(dimension)
        self.table[dimension] = generation
        self.unmapped.pop(dimension, None)

    def retire(self, dimension: int) -> None:
        self.retired.append(self.table.pop(dimension))
        self.release_unheld()

    def open(self, dimension: int, known_source: str | None = None, old: Generation | None = None):
        """The generation that is to be found now, charged; or the error."""
        file = self.files.get(dimension)
        if file is None and known_source != "mmap":
            file = self.simulated.get(dimension)
        if file is None:
            return jm.DimensionNotFound
        return Generation(dimension, file) if self.admit(dimension, file.n_bytes, old) else jm.LimitExceeded

    def restore(self, dimension: int):
        """The generation in the table, mapped again if it was evicted; or the error."""
        if dimension in self.table:
            return self.table[dimension]
        if dimension not in self.unmapped:
            return jm.LayerNotFound
        opened = self.open(dimension, self.unmapped[dimension][1])
        if isinstance(opened, Generation):
            self.install(dimension, opened)
            with self.holding(opened):
                self.settle()
        return jm.LayerNotFound if opened is jm.DimensionNotFound else opened

    # Operations

    def load(self, dimension: int):
        if dimension in self.table or dimension in self.unmapped:
            return jm.DimensionAlreadyLoaded
        opened = self.open(dimension)
        if not isinstance(opened, Generation):
            return opened
        self.install(dimension, opened)
        with self.holding(opened):
            self.settle()
        self.count["loads"] += 1
        return None

    def load_all(self) -> None:
        for dimension in sorted({*range(1, 15), *self.table, *self.unmapped, *self.files}):
            known = self.source_of(dimension)
            if known is None:
                self.load(dimension)
            elif known == "simulated" and dimension in self.files:
                self.reload(dimension)

    def source_of(self, dimension: int) -> str | None:
        if dimension in self.table:
            return "pool" if self.table[dimension].block else self.table[dimension].file.source
        return self.unmapped[dimension][1] if dimension in self.unmapped else None

    def unload(self, dimension: int):
        if self.source_of(dimension) in (None, "pool"):
            return jm.RegionNotFound
        if self.unmapped.pop(dimension, None) is None:
            self.retire(dimension)
        return None

    def reload(self, dimension: int):
        known = self.source_of(dimension)
        if known in (None, "pool"):
            return jm.RegionNotFound
        opened = self.open(dimension, known, self.table.get(dimension))
        if not isinstance(opened, Generation):
            return opened
        self.install(dimension, opened)
        self.settle()
        self.count["loads"] += 1
        return None

    def access(self, dimension: int, layer: int, n_copies: int = 0, hold: bool = False):
        generation = self.restore(dimension)
        if not isinstance(generation, Generation):
            return generation
        if layer not in generation.file.layers:
            return jm.LayerNotFound
        with self.holding(generation):
            if layer in generation.seen:
                self.count["hits"] += 1
            elif self.see(generation, layer):
                if layer in generation.payloads:
                    self.settle()
                self.count["first_touches"] += 1
            else:
                return jm.LimitExceeded
            self.count["copies"] += n_copies
            generation.views[layer] += hold
            self.accessed = generation
        return None

    def see(self, generation: Generation, layer: int, changing: int | None = None) -> bool:
        """Make the view of a layer, decompressed if it must be."""
        stored_bytes, raw_bytes = generation.file.layers[layer]
        if stored_bytes != raw_bytes and layer not in generation.payloads:
            payload = self.take_block(raw_bytes, segment_of(generation.dimension), changing)
            if payload is None:
                return False
            generation.payloads[layer] = payload
            self.count["copies"] += 1
        generation.seen.add(layer)
        return True

    def find_region(self, dimension: int):
        generation = self.restore(dimension)
        if isinstance(generation, Generation):
            return None
        return jm.RegionNotFound if generation is jm.LayerNotFound else generation

    def allocate(self, n_bytes: int):
        """The piece, or the error."""
        piece = self.take_block(n_bytes, "reserve")
        if piece is None:
            return jm.LimitExceeded
        self.settle()
        self.count["allocations"] += 1
        return piece

    def create(self, file: File, user: bool):
        """The block of a new proto-dimension, which `introduce` takes; or the error."""
        return self.take_block(file.n_bytes, "user" if user else "reserve") or jm.LimitExceeded

    def introduce(self, dimension: int, file: File, block: Piece) -> None:
        assert dimension not in {*self.table, *self.unmapped, *self.files}, "the number is taken"
        self.install(dimension, Generation(dimension, file, block))
        self.protos.append(dimension)
        self.settle()

    def is_immutable(self, dimension: int) -> bool:
        return dimension in (9, 14)

    def crystallize(self, dimension: int):
        if dimension in self.protos:
            self.publish(dimension)
            self.settle()
            return None
        if self.source_of(dimension) is not None and dimension > 14 and dimension in self.files:
            self.settle()  # as each call that learns; it is a file already
            return None
        return jm.ImmutableDimension if self.is_immutable(dimension) else jm.RegionNotFound

    def publish(self, dimension: int) -> None:
        """Let a file take the place of the block; both are charged for a moment, or the file is mapped later."""
        layers = self.table[dimension].file.layers
        file = self.files[dimension] = File(self.table[dimension].file.n_bytes, layers)
        segment = segment_of(dimension)
        self.protos.remove(dimension)
        if self.fits(segment, file.n_bytes, self.limit_bytes) or self.make_room(
            segment, file.n_bytes, self.limit_bytes
        ):
            self.charge(segment, file.n_bytes)
            self.install(dimension, Generation(dimension, file))
        else:
            self.remember_unmapped(dimension, file)
            self.retire(dimension)
        self.count["crystallizations"] += 1

    def forget(self, dimension: int):
        if dimension <= 14:
            return jm.ImmutableDimension
        if self.source_of(dimension) is None and dimension not in self.files:
            return jm.RegionNotFound
        self.files.pop(dimension, None)
        self.unmapped.pop(dimension, None)
        if dimension in self.protos:
            self.protos.remove(dimension)
        if dimension in self.table:
            self.retire(dimension)
        self.settle()
        return None

    def close(self) -> None:
        self.unmapped.clear()
        self.protos.clear()
        for dimension in list(self.table):
            self.retire(dimension)

    # Numbers

    def stats(self) -> dict[str, object]:
        """Each field of MemoryStats; of a summary of times the number of events, of residency what is exact."""
        mapped = [each for each in self.table.values() if not each.block]
        unheld = [each for each in self.table.values() if not each.held]
        evictable = sum(each.all_bytes for each in self.can_go())
        pinned = sum(each.all_bytes for each in unheld) - evictable
        reached = [level for level, at in PERCENT_OF_LEVEL.items() if 100 * self.total >= at * self.limit_bytes]
        simulated = tuple(sorted(each for each in [*self.table, *self.unmapped] if self.source_of(each) == "simulated"))
        count = self.count
        return {
            "total_allocated_bytes": self.total,
            "total_used_bytes": sum(stored for each in mapped for stored, _ in each.file.layers.values())
            + sum(piece.n_bytes for piece in self.pieces),
            "limit_bytes": self.limit_bytes,
            "available_bytes": self.limit_bytes - self.total,
            "utilization": 100 * self.total / self.limit_bytes,
            "pressure": reached[-1] if reached else "ok",
            "dimensions_loaded": len(self.table) + len(self.unmapped),
            "layers_loaded": sum(len(each.file.layers) for each in self.table.values())
            + sum(n_layers for n_layers, _ in self.unmapped.values()),
            "active_regions": len(mapped),
            "leased_bytes": self.total - evictable - pinned,
            "evictable_bytes": evictable,
            "pinned_bytes": pinned,
            "peak_usage_bytes": self.peak,
            "access_count": count["hits"] + count["first_touches"],
            "load_count": count["loads"],
            "allocation_count": count["allocations"],
            "deallocation_count": count["deallocations"],
            "allocation_failures": count["failures"],
            "crystallization_count": count["crystallizations"],
            "evictions": count["evictions"],
            "drops": count["drops"],
            "copies": count["copies"],
            "simulation_mode": bool(simulated),
            "simulated_dimensions": simulated,
            "segments": {name: (self.used[name], CEILINGS[name], self.peaks[name]) for name in CEILINGS},
            "pool": (self.pool_used, self.limit_bytes, self.pool_peak, [self.pool_class(size) for size in self.pools]),
            "residency": self.residency(),
            "text_bytes": 0,  # none is kept by default; tests/model/test_text_model.py has an oracle of those that are
        } | {name: count[events] if self.timed else 0 for name, events in CLOCKS.items()}

    def pool_class(self, block_size: int) -> tuple[int, ...]:
        pieces = [piece for piece in self.pieces if piece.block_size == block_size]
        n_borrowed = sum(piece.borrowed for piece in pieces)
        requested_bytes = sum(piece.n_bytes for piece in pieces)
        n_used, peak = self.n_used(block_size), self.class_peaks[block_size]
        return block_size, self.pools[block_size], n_used, peak, n_borrowed, requested_bytes

    def residency(self) -> tuple[int, int, int]:
        generations = [*self.table.values(), *self.retired]
        mapped = [each for each in generations if not each.block]
        mapped_bytes = sum(-(-each.n_bytes // PAGE) * PAGE for each in mapped)
        decompressed_bytes = sum(piece.capacity for each in generations for piece in each.payloads.values())
        return mapped_bytes, self.pool_used - decompressed_bytes, decompressed_bytes
