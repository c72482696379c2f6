"""The pool: blocks of a few power-of-two sizes out of one arena.

The arena is one range of address space, counted in units (the smallest block size), with one bit for each unit. Every
class has a home, largest blocks first, so that every home begins at a multiple of its block size:

    memory  | 256 KiB home | 64 KiB home | 16 KiB home | 4 KiB home | commons |     commons: limit above the homes' sum
    bitmap  | w0 w1 w2 ...                                                    |     one bit for 4 KiB, 64 for 256 KiB

A home is where a class looks first, not what it owns: a full class takes a block of its own size in the next larger home,
and pays for its own size. Strict classes stay at home.

HAZARDS
- The limit may not be passed for a moment. Where the arena is no larger than the limit, the compare-and-swap that claims
  the bits is the reservation, and nothing else is shared. Otherwise, or when the ledger is the manager's, the ledger is
  charged before the search and refunded when it fails.
- A late release must not free the next owner's block. Each claim leaves an odd tag at its first unit and takes it along;
  a release must first swap that very tag. Whoever wins it owns the bits until they are cleared.
- Trim and runs claim units that they give back at once. A claim that finds nothing while such a hold is under way says
  nothing about the pool, so it looks again.
- A view outlives everything: view -> Block -> Arena. PoolAllocator is only one more holder of the Arena.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset, strerror

from jessy_mem._core.atomic cimport (
    JM_CACHE_LINE,
    jm_add_acq_rel,
    jm_cas_acq_rel,
    jm_clz,
    jm_ctz,
    jm_flag_load_acquire,
    jm_flag_store_release,
    jm_load_acquire,
    jm_load_relaxed,
    jm_spin_pause,
    jm_store_relaxed,
    jm_sub_acq_rel,
)
from jessy_mem._core.bitmap cimport (
    JM_WORD_FULL,
    LINE_WORDS,
    WORD_UNITS,
    bitmap_claim,
    bitmap_claim_run,
    bitmap_count_claimed,
    bitmap_count_free,
    bitmap_longest_free,
    bitmap_release,
    run_mask,
    word_claim_rest,
    word_release,
    zone_of,
)
from jessy_mem._core.os_memory cimport jm_os_discard, jm_os_release, jm_os_reserve, jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.tally cimport share_add, tally_add
from jessy_mem._core.thread cimport JM_THREAD_SLOTS, jm_thread_number
from jessy_mem._core.typedefs cimport (
    DOUBLE_FREE,
    LIMIT_EXCEEDED,
    MIB_BYTES,
    NO_FREE_BLOCK,
    OK,
    Status,
    unit_index_t,
    word_index_t,
)

from operator import index

from jessy_mem.errors import AllocationFailed, DoubleFree, LimitExceeded, ManagerClosed, MappingError
from jessy_mem.stats import PoolClassStats, PoolStats

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    SLACK_BLOCKS = 8   # what one thread may keep from a class's common sum; see tally.pxd
    SLACK_LARGEST = 2  # and from the sum of all classes, in largest blocks

cdef char *BYTES_FORMAT = "B"

DEFAULT_POOLS = ((32, 4096), (128, 16384), (80, 65536), (40, 262144))
MAX_LIMIT_MB = 1 << 26  # 64 TiB


# -- the arena --------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc  # holds a Ledger, which holds names: no cycle can pass through it
cdef class Arena:
    def __dealloc__(self):
        jm_os_release(self.memory, self.n_units * self.unit_bytes)
        jm_os_release(self.books, self.books_bytes)

    cdef uint32_t class_of(self, uint64_t n_bytes) noexcept nogil:
        if n_bytes > self.largest_bytes:
            return self.n_classes - 1
        return self.class_of_log2[64 - jm_clz(n_bytes - 1) if n_bytes > 1 else 0]

    cdef uint64_t charge_of(self, uint64_t n_bytes) noexcept nogil:
        cdef uint64_t block_bytes = self.classes[self.class_of(n_bytes)].block_bytes
        return block_bytes if n_bytes <= block_bytes else (n_bytes + block_bytes - 1) & ~(block_bytes - 1)

    cdef Status claim(self, uint64_t n_bytes, uint32_t segment, PoolBlock *block) noexcept nogil:
        cdef uint64_t charge_bytes = self.charge_of(n_bytes), n_ended
        cdef uint32_t size_class = self.class_of(n_bytes)
        cdef bint in_word = charge_bytes <= self.unit_bytes * WORD_UNITS and n_bytes <= self.largest_bytes
        cdef unit_index_t unit
        if charge_bytes > self.limit_bytes:
            return LIMIT_EXCEEDED
        if self.ledger is not None and self.ledger.reserve_bytes(
            segment, charge_bytes, jm_load_relaxed(&self.ceiling_bytes)
        ) != OK:
            return LIMIT_EXCEEDED
        while True:
            n_ended = jm_load_acquire(&self.n_holds_ended)
            if in_word:
                unit = self.search(size_class)
            else:
                unit = self.search_run(size_class, charge_bytes)
            if unit >= 0:
                break
            # A hold other than the own one since n_ended was read: what it held may be free now.
            if jm_add_acq_rel(&self.n_holds_begun, 0) == n_ended + (not in_word):
                if self.ledger is not None:
                    self.ledger.release_bytes(segment, charge_bytes)
                return NO_FREE_BLOCK
            jm_spin_pause()
        block.address = self.memory + <uint64_t> unit * self.unit_bytes
        block.n_bytes = n_bytes
        block.capacity_bytes = charge_bytes
        block.unit = unit
        block.generation = jm_load_relaxed(&self.tags[unit]) + 1  # the bits are ours, so nobody else writes the tag
        block.size_class = size_class
        block.segment = segment
        jm_store_relaxed(&self.tags[unit], block.generation)
        self.account(block, 1)
        return OK

    cdef Status release(self, const PoolBlock *block) noexcept nogil:
        cdef uint64_t generation = block.generation
        if not generation & 1 or not jm_cas_acq_rel(&self.tags[block.unit], &generation, generation + 1):
            return DOUBLE_FREE
        if self.scrub:
            memset(block.address, 0, block.capacity_bytes)
        self.account(block, -1)
        bitmap_release(&self.bitmap, block.unit, block.capacity_bytes // self.unit_bytes)
        if self.ledger is not None:
            self.ledger.release_bytes(block.segment, block.capacity_bytes)
        return OK

    cdef unit_index_t search(self, uint32_t size_class) noexcept nogil:
        cdef Share *shares = self.shares + jm_thread_number() * (self.n_classes + 1)
        cdef PoolClass *home = &self.classes[size_class]
        cdef unit_index_t unit = bitmap_claim(&self.bitmap, &self.zones[size_class], home.order, &shares[size_class].hint)
        cdef unsigned int i, z
        for i in range(home.n_elsewhere):
            if unit >= 0:
                break
            z = home.elsewhere[i]
            unit = bitmap_claim(&self.bitmap, &self.zones[z], home.order, &shares[z].hint)
        return unit

    cdef unit_index_t search_run(self, uint32_t size_class, uint64_t n_bytes) noexcept nogil:
        cdef uint64_t align_units = self.classes[size_class].n_units
        cdef uint64_t n_units = n_bytes // self.unit_bytes
        cdef unit_index_t unit
        jm_add_acq_rel(&self.n_holds_begun, 1)
        unit = bitmap_claim_run(&self.bitmap, &self.zones[size_class], n_units, align_units)
        if unit < 0 and not self.strict:
            unit = bitmap_claim_run(&self.bitmap, &self.whole, n_units, align_units)
        jm_add_acq_rel(&self.n_holds_ended, 1)
        return unit

    cdef void account(self, const PoolBlock *block, int sign) noexcept nogil:
        cdef unsigned int number = jm_thread_number()
        cdef bint shared = number == JM_THREAD_SLOTS
        cdef Share *shares = self.shares + number * (self.n_classes + 1)
        cdef Share *mine = shares + block.size_class
        cdef Zone *home = &self.zones[block.size_class]
        cdef int64_t n_units = <int64_t> (block.capacity_bytes // self.unit_bytes)
        cdef int64_t n_blocks = n_units >> self.classes[block.size_class].order
        tally_add(&self.sums[block.size_class].value, &mine.used, sign * n_blocks, SLACK_BLOCKS, shared)
        tally_add(
            &self.sums[self.n_classes].value, &shares[self.n_classes].used, sign * n_units, self.slack_units, shared
        )
        share_add(&mine.requested_bytes, sign * <int64_t> block.n_bytes, shared)
        if block.unit < home.first_unit or block.unit >= home.end_unit:
            share_add(&mine.n_borrowed, sign * n_blocks, shared)

    cdef uint64_t used_bytes(self) noexcept nogil:
        return (bitmap_count_claimed(&self.bitmap) - self.n_padding) * self.unit_bytes

    # Blocks of a class in use now (as delta) and at most; for number n_classes: units of all classes.
    cdef Tally tally_of(self, unsigned int k) noexcept nogil:
        cdef Tally all_threads
        cdef Tally *share
        cdef unsigned int t
        cdef int64_t used = <int64_t> jm_load_relaxed(&self.sums[k].value), peak = 0
        for t in range(JM_THREAD_SLOTS + 1):
            share = &self.shares[t * (self.n_classes + 1) + k].used
            used += <int64_t> jm_load_relaxed(&share.delta)
            peak = max(peak, <int64_t> jm_load_relaxed(&share.peak))
        all_threads.delta = max(used, 0)
        all_threads.peak = max(used, peak)
        return all_threads

    cdef uint64_t trim(self) noexcept nogil:
        cdef uint64_t n_bytes = 0, free_bits, mask
        cdef word_index_t w
        cdef unsigned int bit, n_bits
        for w in range(self.bitmap.n_words):
            jm_add_acq_rel(&self.n_holds_begun, 1)
            free_bits = mask = word_claim_rest(&self.bitmap, w)
            bit = 0
            while mask:  # one run of free units after the other, lowest first
                n_bits = jm_ctz(mask)
                bit += n_bits
                mask >>= n_bits
                n_bits = WORD_UNITS - bit if mask == JM_WORD_FULL >> bit else jm_ctz(~mask)
                n_bytes += self.discard(w * WORD_UNITS + bit, n_bits)
                mask = mask >> n_bits if n_bits < WORD_UNITS else 0
                bit += n_bits
            if free_bits:
                word_release(&self.bitmap, w, free_bits)
            jm_add_acq_rel(&self.n_holds_ended, 1)
        return n_bytes

    # Discard the whole pages inside units that the caller holds: the bytes of those that were in memory.
    cdef uint64_t discard(self, uint64_t unit, uint64_t n_units) noexcept nogil:
        cdef uintptr_t page_bytes = jm_page_bytes(), begin, end
        cdef uint64_t n_pages, n_resident
        begin = <uintptr_t> self.memory + unit * self.unit_bytes
        end = (begin + n_units * self.unit_bytes) & ~(page_bytes - 1)
        begin = (begin + page_bytes - 1) & ~(page_bytes - 1)
        if (
            begin >= end
            or jm_os_resident_pages(<void *> begin, end - begin, &n_pages, &n_resident) != 0
            or n_resident == 0
            or jm_os_discard(<void *> begin, end - begin) != 0
        ):
            return 0
        return n_resident * page_bytes


# -- construction -----------------------------------------------------------------------------------------------------

cdef uint64_t to_line(uint64_t n) noexcept nogil:
    return (n + JM_CACHE_LINE - 1) & ~<uint64_t> (JM_CACHE_LINE - 1)


def check_pools(pools, limit_mb):
    """The classes as a list of (block bytes, home bytes), smallest first; ValueError names what is wrong."""
    if not 0 < limit_mb <= MAX_LIMIT_MB:
        raise ValueError(f"limit_mb: {limit_mb} is not above 0 and at most {MAX_LIMIT_MB}")
    homes = sorted((index(block_bytes), size_mb) for size_mb, block_bytes in pools)
    if not 0 < len(homes) <= MAX_CLASSES:
        raise ValueError(f"pools: {len(homes)} classes, expected 1 to {MAX_CLASSES}")
    if len({block_bytes for block_bytes, _ in homes}) < len(homes):
        raise ValueError("pools: two classes have the same block size")
    for i, (block_bytes, size_mb) in enumerate(homes):
        if block_bytes < MIN_BLOCK_BYTES or block_bytes & (block_bytes - 1):
            raise ValueError(f"pools: block size {block_bytes} is not a power of two of at least {MIN_BLOCK_BYTES}")
        home_bytes = size_mb * MIB_BYTES
        if not block_bytes <= home_bytes <= MAX_LIMIT_MB * MIB_BYTES or home_bytes % block_bytes:
            raise ValueError(f"pools: {size_mb} MiB is not a whole number of blocks of {block_bytes} bytes")
        homes[i] = (block_bytes, int(home_bytes))
    return homes


cdef Arena arena_of(list homes, uint64_t limit_bytes, bint strict, bint scrub, Ledger ledger):
    """Lay an arena out and map it, with nothing claimed but the padding; MappingError when the system refuses."""
    cdef Arena arena = Arena()
    cdef uint64_t home_bytes = sum([n_bytes for _, n_bytes in homes])
    cdef PoolClass *each
    cdef unsigned int i, k
    if ledger is None and home_bytes > limit_bytes:
        ledger = Ledger(limit_bytes, {"pool": limit_bytes})
    arena.ledger = ledger
    arena.strict, arena.scrub = strict, scrub
    arena.limit_bytes = limit_bytes
    arena.ceiling_bytes = UINT64_MAX
    arena.n_classes = len(homes)
    arena.unit_bytes, arena.largest_bytes = homes[0][0], homes[arena.n_classes - 1][0]
    arena.slack_units = SLACK_LARGEST * arena.largest_bytes // arena.unit_bytes
    for k in range(arena.n_classes):
        each = &arena.classes[k]
        each.block_bytes = homes[k][0]
        each.n_units = each.block_bytes // arena.unit_bytes
        each.order = jm_ctz(each.n_units)
        for i in range(jm_ctz(each.block_bytes) + 1):
            if arena.class_of_log2[i] == 0 and (k == 0 or i > jm_ctz(homes[k - 1][0])):
                arena.class_of_log2[i] = k
    arena_place_homes(arena, homes)
    arena_map(arena)
    return arena


# Give each class its home, largest first, and the order in which it looks elsewhere.
cdef void arena_place_homes(Arena arena, list homes):
    cdef uint64_t at = 0, n_units, border
    cdef PoolClass *each
    cdef unsigned int k, n = arena.n_classes
    for k in reversed(range(n)):
        each = &arena.classes[k]
        if arena.strict:  # each home gets words and cache lines of its own
            border = max(each.n_units, <uint64_t> WORD_UNITS * LINE_WORDS)
            at = (at + border - 1) // border * border
        n_units = homes[k][1] // arena.unit_bytes
        arena.zones[k] = zone_of(at, at + n_units)
        at += n_units
    arena.n_units = at if arena.strict else max(at, arena.limit_bytes // arena.unit_bytes)
    arena.zones[n] = zone_of(at, arena.n_units)
    arena.whole = zone_of(0, arena.n_units)
    if arena.strict:
        return
    for k in range(n):
        order = [n] if at < arena.n_units else []
        order += [*range(k + 1, n), *reversed(range(k))]
        arena.classes[k].n_elsewhere = len(order)
        for i, z in enumerate(order):
            arena.classes[k].elsewhere[i] = z


cdef int arena_map(Arena arena) except -1:
    cdef unsigned int n_zones = arena.n_classes + 1, t, z, i, spread
    cdef uint64_t n_words = arena.whole.end, at = 0, first, offset
    cdef Zone *zone
    cdef uint64_t[5] part_bytes = [
        to_line(n_words * sizeof(uint64_t)),
        to_line((n_words + WORD_UNITS - 1) // WORD_UNITS * sizeof(uint64_t)),
        n_zones * sizeof(Sum),
        (JM_THREAD_SLOTS + 1) * n_zones * sizeof(Share),
        arena.n_units * sizeof(uint64_t),
    ]
    for i in range(5):
        arena.books_bytes += part_bytes[i]
    arena.books = jm_os_reserve(arena.books_bytes)
    if arena.books != NULL:
        arena.memory = <char *> jm_os_reserve(arena.n_units * arena.unit_bytes)
    if arena.memory == NULL:
        raise MappingError(errno, strerror(errno).decode(), "pool")
    arena.bitmap.words = <uint64_t *> arena.books
    arena.bitmap.summary = <uint64_t *> (<char *> arena.bitmap.words + part_bytes[0])
    arena.sums = <Sum *> (<char *> arena.bitmap.summary + part_bytes[1])
    arena.shares = <Share *> (<char *> arena.sums + part_bytes[2])
    arena.tags = <uint64_t *> (<char *> arena.shares + part_bytes[3])
    arena.bitmap.n_words = n_words
    for k in reversed(range(arena.n_classes)):  # in the order of their addresses
        claim_padding(arena, at, arena.zones[k].first_unit)
        at = arena.zones[k].end_unit
    claim_padding(arena, arena.n_units, n_words * WORD_UNITS)
    for t in range(JM_THREAD_SLOTS + 1):
        spread = 0  # the bits of t reversed: whichever threads live, their hints lie far apart
        for i in range(6):
            spread |= (t >> i & 1) << (5 - i)
        for z in range(n_zones):
            zone = &arena.zones[z]
            first = (zone.first + ((zone.end - zone.first) * spread >> 6)) & ~<uint64_t> (LINE_WORDS - 1)
            arena.shares[t * n_zones + z].hint = max(first, zone.first)
    return 0


cdef void claim_padding(Arena arena, uint64_t first_unit, uint64_t end_unit) noexcept:
    cdef word_index_t w
    arena.n_padding += end_unit - first_unit
    if first_unit < end_unit:
        for w in range(first_unit // WORD_UNITS, (end_unit + WORD_UNITS - 1) // WORD_UNITS):
            arena.bitmap.words[w] |= run_mask(first_unit, end_unit - first_unit, w)


# -- Python objects ---------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc  # holds an Arena: no cycle can pass through it
@cython.freelist(64)
cdef class Block:
    """A writable buffer of `n_bytes` bytes out of a pool; made by `PoolAllocator.allocate`.

    It goes back to the pool by `free()`, at the end of its `with` block, or with its last reference. While a view of it
    lives it can not be freed. The bytes are those the last owner left, unless the pool was made with ``scrub=True``.

    Thread-safe: of several threads that free one block exactly one succeeds.
    """

    def __init__(self):
        raise TypeError("blocks are made by PoolAllocator.allocate")

    def __dealloc__(self):
        if self.state:  # no view is left: each holds a reference to this object
            self.arena.release(&self.held)

    cdef int free_block(self) except -1:
        cdef uint64_t state = 1
        if not jm_cas_acq_rel(&self.state, &state, 0):
            if state:
                raise BufferError(f"{state - 1} views of the block are alive; release them before it is freed")
            raise self.double_free()
        if self.arena.scrub:
            with nogil:
                self.arena.release(&self.held)
        else:
            self.arena.release(&self.held)
        return 0

    cdef object double_free(self):
        if self.arena is None:  # Block.__new__(Block): nothing was ever held
            return DoubleFree(0, 0)
        block_bytes = self.arena.classes[self.held.size_class].block_bytes
        return DoubleFree(block_bytes, self.held.unit * self.arena.unit_bytes // block_bytes)

    def free(self):
        """Give the block back to its pool; BufferError while a view of it lives, DoubleFree the second time."""
        self.free_block()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # After an error the traceback may hold views: the block then goes back with its last reference.
        cdef uint64_t state = jm_load_relaxed(&self.state)
        if state and (kind is None or state == 1):
            self.free_block()

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef uint64_t state = jm_load_relaxed(&self.state)
        while True:
            if state == 0:
                raise BufferError("the block was freed")
            if jm_cas_acq_rel(&self.state, &state, state + 1):
                break
        view.obj = self
        view.buf = self.held.address
        view.len = self.length
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = BYTES_FORMAT if flags & PyBUF_FORMAT else NULL
        view.shape = &self.length if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __releasebuffer__(self, Py_buffer *view):
        jm_sub_acq_rel(&self.state, 1)

    def __len__(self):
        return self.length

    def __repr__(self):
        what = "" if self.state else "freed "
        return f"<{what}Block of {self.length} bytes (capacity {self.held.capacity_bytes})>"

    @property
    def n_bytes(self):
        """The bytes that were asked for: the length of the buffer."""
        return self.length

    @property
    def capacity(self):
        """The bytes that are charged: the whole block, or all blocks of a run."""
        return self.held.capacity_bytes

    @property
    def freed(self):
        return jm_load_relaxed(&self.state) == 0


@cython.no_gc  # holds an Arena and a name
cdef class PoolAllocator:
    """A pool of blocks of a few power-of-two sizes in anonymous memory that is committed when first used.

    Parameters
    ----------
    pools : sequence of (int, int)
        For each class (size in MiB, block size in bytes); block sizes are powers of two of at least 64.
    limit_mb : int or float
        What all blocks together may hold, in MiB, counted by block size.
    strict_classes : bool
        Keep each class within its own size. Otherwise a full class borrows, next larger class first.
    scrub : bool
        Zero a block when it is freed.
    ledger : Ledger, optional
        A budget to share: blocks are charged to its `segment`, and `limit_mb` bounds the single request only.
    segment : str
        The segment of `ledger`, and the name in a LimitExceeded.

    Raises
    ------
    ValueError
        A size that is not positive, no power of two, or given twice; an unknown segment.
    MappingError
        The system refuses the address space.

    Thread-safe and lock-free. Block layout: one bit for each smallest block, claimed in aligned groups, after
    mimalloc's arena bitmaps (Leijen, Zorn and de Moura, "Mimalloc: Free List Sharding in Action", 2019).

    >>> pool = PoolAllocator()
    >>> with pool.allocate(10_000) as block:
    ...     memoryview(block)[:5] = b"hello"
    ...     block.capacity
    16384
    >>> pool.usage()
    (0, 293601280)
    """

    def __init__(
        self, pools=DEFAULT_POOLS, limit_mb=280, *, strict_classes=False, scrub=False, Ledger ledger=None, str segment="pool"
    ):
        if self.arena is not None:
            raise TypeError("a PoolAllocator is initialised once")
        homes = check_pools(pools, limit_mb)
        self.segment = 0 if ledger is None else ledger.segment_index(segment)
        self.segment_name = segment
        self.arena = arena_of(homes, int(limit_mb * MIB_BYTES), strict_classes, scrub, ledger)
        jm_flag_store_release(&self.is_open, 1)

    cdef Status claim_block(self, uint64_t n_bytes, PoolBlock *block) noexcept nogil:
        return self.arena.claim(n_bytes, self.segment, block)

    cdef Status release_block(self, const PoolBlock *block) noexcept nogil:
        return self.arena.release(block)

    cdef int check_open(self) except -1:
        if not jm_flag_load_acquire(&self.is_open):
            raise ManagerClosed("the pool")
        return 0

    cdef Block allocate_block(self, object n_bytes, uint32_t segment):
        cdef int overflow = 0
        cdef int64_t n = PyLong_AsLongLongAndOverflow(n_bytes, &overflow)
        cdef Block block
        cdef Status status
        if n <= 0:
            if overflow <= 0:
                raise ValueError(f"n_bytes: {n_bytes} is not positive")
            n = INT64_MAX
        self.check_open()
        block = Block.__new__(Block)
        block.arena = self.arena
        status = self.arena.claim(n, segment, &block.held)
        if status != OK:
            raise self.refusal(status, n, segment)
        block.length = n
        block.state = 1
        return block

    def allocate(self, n_bytes):
        """A Block of `n_bytes` bytes: the smallest class that holds them, or a run of the largest blocks.

        ValueError when `n_bytes` is not positive, LimitExceeded when its block does not fit into the limit,
        AllocationFailed when no free block (or run) is left. Thread-safe and lock-free.
        """
        return self.allocate_block(n_bytes, self.segment)

    def allocate_in(self, n_bytes, str segment):
        """As `allocate`, charged to another segment of the shared ledger until the block is freed."""
        self.check_open()
        if self.arena.ledger is None:
            raise ValueError("segment: this pool shares no ledger")
        return self.allocate_block(n_bytes, self.arena.ledger.segment_index(segment))

    def deallocate(self, Block block not None):
        """Free a block of this pool; ValueError for another pool's, else as `Block.free`."""
        self.check_open()
        if block.arena is not self.arena:
            raise ValueError("the block belongs to another pool")
        block.free_block()

    cdef object refusal(self, Status status, uint64_t n_bytes, uint32_t segment):
        """The error that tells why a claim of `n_bytes` bytes failed."""
        cdef Arena arena = self.arena
        cdef uint64_t charge_bytes = arena.charge_of(n_bytes), used_bytes = arena.used_bytes()
        cdef uint64_t ceiling_bytes = jm_load_relaxed(&arena.ceiling_bytes)
        cdef Zone *zone = &arena.whole
        cdef unsigned int k
        if status == LIMIT_EXCEEDED and charge_bytes <= arena.limit_bytes:
            hint = "" if ceiling_bytes == UINT64_MAX else f"new blocks are refused above {ceiling_bytes} bytes in all"
            return arena.ledger.refusal(arena.ledger.names[segment], charge_bytes, (), hint)
        if charge_bytes > arena.limit_bytes or (arena.ledger is None and used_bytes + charge_bytes > arena.limit_bytes):
            return LimitExceeded(used_bytes, arena.limit_bytes, charge_bytes, self.segment_name)
        if arena.strict:
            zone = &arena.zones[arena.class_of(n_bytes)]
        free_blocks = {}
        for k in range(arena.n_classes):
            free_blocks[arena.classes[k].block_bytes] = bitmap_count_free(
                &arena.bitmap, &arena.zones[k] if arena.strict else zone, arena.classes[k].n_units
            )
        return AllocationFailed(n_bytes, bitmap_longest_free(&arena.bitmap, zone) * arena.unit_bytes, free_blocks)

    def usage(self):
        """(bytes charged for all blocks, limit in bytes)."""
        return self.arena.used_bytes(), self.arena.limit_bytes

    def stats(self):
        """PoolStats: each number is exact when no other thread is in the middle of a call.

        With several threads a peak may miss the last few blocks (8 for each class and thread) that others held at that moment.
        """
        cdef Arena arena = self.arena
        cdef unsigned int n_zones = arena.n_classes + 1, k, t
        cdef Tally units = arena.tally_of(n_zones - 1), used
        cdef uint64_t used_bytes = arena.used_bytes(), n_borrowed, requested_bytes
        cdef Share *share
        classes = []
        for k in range(arena.n_classes):
            used = arena.tally_of(k)
            n_borrowed = requested_bytes = 0
            for t in range(JM_THREAD_SLOTS + 1):
                share = &arena.shares[t * n_zones + k]
                n_borrowed += jm_load_relaxed(&share.n_borrowed)
                requested_bytes += jm_load_relaxed(&share.requested_bytes)
            n_blocks = (arena.zones[k].end_unit - arena.zones[k].first_unit) >> arena.classes[k].order
            classes.append(PoolClassStats(
                arena.classes[k].block_bytes, n_blocks, used.delta, used.peak, n_borrowed, requested_bytes
            ))
        peak_bytes = max(units.peak * arena.unit_bytes, used_bytes)
        return PoolStats(tuple(classes), used_bytes, arena.limit_bytes, peak_bytes)

    def trim(self):
        """Give the pages of free blocks back to the system: how many bytes of memory that freed. Live blocks keep theirs."""
        cdef uint64_t n_bytes
        self.check_open()
        with nogil:
            n_bytes = self.arena.trim()
        return n_bytes

    def close(self):
        """Refuse new blocks and give all free memory back; blocks and views that live stay valid. May be called twice."""
        jm_flag_store_release(&self.is_open, 0)
        with nogil:
            self.arena.trim()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close()

    def __repr__(self):
        used_bytes, limit_bytes = self.usage()
        return f"<PoolAllocator: {used_bytes} of {limit_bytes} bytes in use>"

    @property
    def ceiling_bytes(self):
        """Above how many bytes in the whole shared ledger new blocks are refused; None: only above its limit."""
        cdef uint64_t n_bytes = jm_load_relaxed(&self.arena.ceiling_bytes)
        return None if n_bytes == UINT64_MAX else n_bytes

    @ceiling_bytes.setter
    def ceiling_bytes(self, n_bytes):
        jm_store_relaxed(&self.arena.ceiling_bytes, UINT64_MAX if n_bytes is None else <uint64_t> n_bytes)
