"""The bitmap and the pool for tests and benchmarks: kernels in a C loop, and in native threads.

Times are nanoseconds by the clock of clock.h.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc

from jessy_mem._core.arena cimport PoolBlock
from jessy_mem._core.c.atomic cimport (
    jm_add_acq_rel,
    jm_add_relaxed,
    jm_cas_weak_acq_rel,
    jm_load_acquire,
    jm_load_relaxed,
    jm_store_release,
    jm_sub_relaxed,
)
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.c.typedefs cimport (
    DOUBLE_FREE,
    LIMIT_EXCEEDED,
    NO_FREE_BLOCK,
    OK,
    OUT_OF_BOUNDS,
    unit_index_t,
    word_index_t,
)
from jessy_mem._core.kernels.bitmap cimport (
    WORD_UNITS,
    Holds,
    Zone,
    bitmap_claim,
    bitmap_claim_run,
    bitmap_count_claimed,
    bitmap_count_free,
    bitmap_count_lost,
    bitmap_longest_free,
    bitmap_release,
    run_mask,
    zone_of,
)
from jessy_mem._core.latency cimport clock_factor
from jessy_mem._core.mapping cimport Mapping
from jessy_mem._core.pool cimport PoolAllocator
from jessy_mem._probe.workers cimport Worker, next_random, run_workers, sched_yield, wait_for

jm_clock_use(clock_factor())


def kernel_statuses():
    """What kernels report, by name."""
    return {
        "OK": OK,
        "OUT_OF_BOUNDS": OUT_OF_BOUNDS,
        "LIMIT_EXCEEDED": LIMIT_EXCEEDED,
        "NO_FREE_BLOCK": NO_FREE_BLOCK,
        "DOUBLE_FREE": DOUBLE_FREE,
    }


# -- bitmap -----------------------------------------------------------------------------------------------------------

cdef enum:
    MAX_DEPTH = 64

cdef struct BitmapTask:
    void *probe           # a BitmapProbe
    Zone zone
    unsigned int order
    unsigned int depth    # blocks each thread keeps claimed
    uint64_t n_pairs


cdef inline unit_index_t probe_claim(BitmapTask *task, word_index_t *hint) noexcept nogil:
    cdef Zone *zone = &task.zone
    return bitmap_claim((<BitmapProbe> task.probe).words, (<BitmapProbe> task.probe).summary, zone, task.order, hint)


cdef inline void probe_release(BitmapTask *task, unit_index_t unit) noexcept nogil:
    cdef uint64_t n_units = <uint64_t> 1 << task.order
    bitmap_release((<BitmapProbe> task.probe).words, (<BitmapProbe> task.probe).summary, unit, n_units)


# Claim into a ring and release what was claimed `depth` pairs before. counts[0]: claims that failed.
cdef void bitmap_pairs(Worker *me) noexcept nogil:
    cdef BitmapTask *task = <BitmapTask *> me.task
    cdef unit_index_t[MAX_DEPTH] ring
    cdef uint64_t n_words = task.zone.end - task.zone.first, n_failed = 0
    cdef word_index_t hint = (task.zone.first + n_words * me.number // me.n_workers) & ~<uint64_t> 7
    cdef unsigned int k = 0
    for i in range(task.depth):
        ring[i] = probe_claim(task, &hint)
    for _ in range(task.n_pairs):
        if ring[k] >= 0:
            probe_release(task, ring[k])
            hint = <word_index_t> ring[k] // WORD_UNITS
        ring[k] = probe_claim(task, &hint)
        n_failed += ring[k] < 0
        k = k + 1 if k + 1 < task.depth else 0
    for i in range(task.depth):
        if ring[i] >= 0:
            probe_release(task, ring[i])
    me.counts[0] = n_failed


cdef class BitmapProbe:
    """BitmapProbe(n_units)\n--\n
    A bitmap of n_units units with its kernels as methods; `zone` arguments are (first unit, end unit)."""
    cdef uint64_t[::1] words
    cdef uint64_t[::1] summary
    cdef Holds holds
    cdef readonly uint64_t n_units
    cdef uint64_t n_padding
    cdef word_index_t hint

    def __cinit__(self, uint64_t n_units):
        cdef uint64_t n_words = (n_units + WORD_UNITS - 1) // WORD_UNITS
        if not 0 < n_units <= <uint64_t> 1 << 40:
            raise ValueError(f"n_units: {n_units} is not in 1..2**40")
        self.words = memoryview(Mapping(n_words * sizeof(uint64_t))).cast("Q")
        self.summary = memoryview(Mapping((n_words // WORD_UNITS + 1) * sizeof(uint64_t))).cast("Q")
        self.n_units = n_units
        self.n_padding = n_words * WORD_UNITS - n_units
        if self.n_padding:
            self.words[n_words - 1] = run_mask(n_units, self.n_padding, n_words - 1)

    cdef Zone zone(self, zone) except *:
        cdef uint64_t first, end
        if zone is None:
            return zone_of(0, self.n_units)
        first, end = zone
        if not first <= end <= self.n_units:
            raise IndexError(f"zone: {zone} does not lie in 0..{self.n_units}")
        return zone_of(first, end)

    cdef int check_units(self, unit_index_t unit, uint64_t n_units) except -1:
        if unit < 0 or n_units > self.n_units or <uint64_t> unit > self.n_units - n_units:
            raise IndexError(f"{n_units} units from {unit} do not lie in 0..{self.n_units}")
        return 0

    def claim(self, unsigned int order=0, zone=None):
        cdef Zone where = self.zone(zone)
        if order > 6:
            raise ValueError(f"order: {order} is more than a word")
        return bitmap_claim(self.words, self.summary, &where, order, &self.hint)

    def claim_run(self, uint64_t n_units, uint64_t align_units=1, zone=None):
        cdef Zone where = self.zone(zone)
        cdef uint64_t n_holds = 0
        if n_units == 0 or align_units == 0:
            raise ValueError(f"{n_units} units, aligned to {align_units}")
        return bitmap_claim_run(self.words, self.summary, &self.holds, &where, n_units, align_units, &n_holds)

    def release(self, unit_index_t unit, uint64_t n_units=1):
        """True when the units were released, False when the kernel reported DOUBLE_FREE."""
        self.check_units(unit, n_units)
        return bitmap_release(self.words, self.summary, unit, n_units) == OK

    def is_claimed(self, uint64_t unit):
        self.check_units(unit, 1)
        return jm_load_relaxed(&self.words[unit // WORD_UNITS]) >> (unit % WORD_UNITS) & 1 == 1

    def is_marked_full(self, uint64_t word):
        if word >= <uint64_t> self.words.shape[0]:
            raise IndexError(f"word {word} of {self.words.shape[0]}")
        return jm_load_relaxed(&self.summary[word // WORD_UNITS]) >> (word % WORD_UNITS) & 1 == 1

    def n_claimed(self):
        return bitmap_count_claimed(self.words) - self.n_padding

    def n_free(self, uint64_t n_units=1, zone=None):
        cdef Zone where = self.zone(zone)
        if n_units == 0:
            raise ValueError("n_units: 0")
        return bitmap_count_free(self.words, &where, n_units)

    def longest_free(self, zone=None):
        cdef Zone where = self.zone(zone)
        return bitmap_longest_free(self.words, &where)

    def n_lost(self):
        """Words that are marked full and have room, while nobody works."""
        return bitmap_count_lost(self.words, self.summary)

    def mark_full(self, uint64_t word):
        """Break the bitmap: mark a word that may have room, as no kernel leaves one."""
        if word >= <uint64_t> self.words.shape[0]:
            raise IndexError(f"word {word} of {self.words.shape[0]}")
        self.summary[word // WORD_UNITS] |= <uint64_t> 1 << (word % WORD_UNITS)

    def pairs_ns(self, uint64_t n_pairs, unsigned int order=0, unsigned int n_threads=1, unsigned int depth=1):
        """Nanoseconds for one claim and one release, in each of n_threads threads that use the whole bitmap at once."""
        cdef BitmapTask task
        if not 0 < depth <= MAX_DEPTH:
            raise ValueError(f"depth: {depth} is not in 1..{MAX_DEPTH}")
        task.probe, task.zone, task.order, task.depth, task.n_pairs = (
            <void *> self, zone_of(0, self.n_units), order, depth, n_pairs
        )
        t_ns, n_failed, *_ = run_workers(bitmap_pairs, &task, n_threads)
        if n_failed:
            raise RuntimeError(f"{n_failed} claims failed")
        return t_ns / n_pairs


# -- pool -------------------------------------------------------------------------------------------------------------

cdef struct PoolTask:
    void *pool                # PoolAllocator, borrowed from the caller
    uint64_t n_bytes
    uint64_t n_rounds
    unsigned int depth
    uint64_t limit_bytes
    uint64_t n_done           # atomic; workers that have finished
    uint64_t turn             # atomic; rounds that are ready
    uint64_t n_released       # atomic; releases tried in all rounds
    PoolBlock block           # of the current round
    uint64_t *table           # atomic; each 0 or the address of a Parcel
    uint64_t n_cells
    uint64_t live_bytes       # atomic; charged for the parcels that are out, counted late and discounted early


# As bitmap_pairs, through the C interface.
cdef void pool_pairs(Worker *me) noexcept nogil:
    cdef PoolTask *task = <PoolTask *> me.task
    cdef PoolBlock[MAX_DEPTH] ring
    cdef uint64_t i
    cdef unsigned int k = 0
    for i in range(task.depth):
        me.counts[0] += (<PoolAllocator> task.pool).claim_block(task.n_bytes, &ring[i]) != OK
    if me.counts[0]:
        return
    for _ in range(task.n_rounds):
        (<PoolAllocator> task.pool).release_block(&ring[k])
        if (<PoolAllocator> task.pool).claim_block(task.n_bytes, &ring[k]) != OK:
            ring[k].tag = 0
            me.counts[0] += 1
        k = k + 1 if k + 1 < task.depth else 0
    for i in range(task.depth):
        (<PoolAllocator> task.pool).release_block(&ring[i])


def pool_pairs_ns(
    PoolAllocator pool, uint64_t n_bytes, uint64_t n_pairs, unsigned int n_threads=1, unsigned int depth=1
):
    """Nanoseconds for claim_block and release_block, in each of n_threads threads that use the pool at once."""
    cdef PoolTask task
    if not 0 < depth <= MAX_DEPTH:
        raise ValueError(f"depth: {depth} is not in 1..{MAX_DEPTH}")
    task.pool, task.n_bytes, task.n_rounds, task.depth = <void *> pool, n_bytes, n_pairs, depth
    t_ns, n_failed, *_ = run_workers(pool_pairs, &task, n_threads)
    if n_failed:
        raise RuntimeError(f"{n_failed} claims failed")
    return t_ns / n_pairs


def pool_failure_ns(PoolAllocator pool, uint64_t n_bytes, uint64_t n_rounds):
    """Nanoseconds for a claim_block that finds nothing; the caller has filled the pool."""
    cdef PoolBlock block
    cdef uint64_t n_claimed = 0, begin
    with nogil:
        begin = jm_clock_ticks()
        for _ in range(n_rounds):
            if pool.claim_block(n_bytes, &block) == OK:
                n_claimed += 1
                pool.release_block(&block)
        begin = jm_clock_ns(begin, jm_clock_ticks())
    if n_claimed:
        raise RuntimeError(f"{n_claimed} claims found room")
    return begin / n_rounds


# Thread 0 claims a block for each round; then all release it at once. counts[0]: releases that succeeded.
# Every second round thread 0 has released it itself and claimed another before, so all releases are late: counts[1].
cdef void release_races(Worker *me) noexcept nogil:
    cdef PoolTask *task = <PoolTask *> me.task
    cdef PoolBlock block, next_owner
    cdef uint64_t i, n_ok
    cdef bint is_late
    for i in range(task.n_rounds):
        is_late = i % 2
        if me.number == 0:
            wait_for(&task.n_released, i * me.n_workers)
            (<PoolAllocator> task.pool).claim_block(task.n_bytes, &task.block)
            if is_late:
                (<PoolAllocator> task.pool).release_block(&task.block)
                (<PoolAllocator> task.pool).claim_block(task.n_bytes, &next_owner)
            jm_store_release(&task.turn, i + 1)
        else:
            wait_for(&task.turn, i + 1)
        block = task.block
        n_ok = (<PoolAllocator> task.pool).release_block(&block) == OK
        me.counts[is_late] += n_ok
        jm_add_acq_rel(&task.n_released, 1)
        if me.number == 0 and is_late:
            wait_for(&task.n_released, (i + 1) * me.n_workers)
            me.counts[2] += (<PoolAllocator> task.pool).release_block(&next_owner) != OK


def release_races_won(PoolAllocator pool, uint64_t n_bytes, uint64_t n_rounds, unsigned int n_threads=2):
    """n_threads threads release the same claim at once, n_rounds times.

    (successes in the even rounds, where one of them is in time; successes in the odd rounds, where the block has a new
    owner; new owners that lost their block).
    """
    cdef PoolTask task
    task.pool, task.n_bytes, task.n_rounds = <void *> pool, n_bytes, n_rounds
    task.turn = task.n_released = 0
    return tuple(run_workers(release_races, &task, n_threads)[1:4])


cdef struct Parcel:           # a claimed block on its way from thread to thread
    PoolBlock block
    uint64_t cookie

cdef enum:
    MARK_STEP = 256           # bytes between the marks that a parcel leaves in its block


# Write the parcel's marks, or count those that are not what was written.
cdef uint64_t parcel_marks(const Parcel *parcel, bint write) noexcept nogil:
    cdef uint64_t n_bad = 0, offset = 0
    cdef uint64_t *mark
    while offset + sizeof(uint64_t) <= parcel.block.capacity_bytes:
        mark = <uint64_t *> (<char *> parcel.block.address + offset)
        if write:
            mark[0] = parcel.cookie ^ offset
        else:
            n_bad += mark[0] != parcel.cookie ^ offset
        offset += MARK_STEP
    return n_bad


# Claim, mark, check, release; nothing but the pool stands between one owner's bytes and the next's.
# counts: 0 marks that were overwritten, 3 releases refused.
cdef void take_turns(Worker *me) noexcept nogil:
    cdef PoolTask *task = <PoolTask *> me.task
    cdef Parcel parcel
    for _ in range(task.n_rounds):
        while (<PoolAllocator> task.pool).claim_block(task.n_bytes, &parcel.block) != OK:
            sched_yield()
        parcel.cookie = next_random(&me.random)
        parcel_marks(&parcel, True)
        me.counts[0] += parcel_marks(&parcel, False)
        me.counts[3] += (<PoolAllocator> task.pool).release_block(&parcel.block) != OK


def handover_stress(PoolAllocator pool, uint64_t n_bytes, uint64_t n_rounds, unsigned int n_threads=2):
    """Threads that want more blocks than there are take turns: (overwritten marks, refused releases)."""
    cdef PoolTask task
    task.pool, task.n_bytes, task.n_rounds = <void *> pool, n_bytes, n_rounds
    _, n_overwritten, _, _, n_refused = run_workers(take_turns, &task, n_threads)
    return n_overwritten, n_refused


# Exchange blocks with the other threads through a table, after mimalloc's test-stress. The last worker only looks on.
# counts: 0 marks that were overwritten, 1 blocks claimed, 2 refused, 3 moments above the limit and releases refused.
cdef void exchange(Worker *me) noexcept nogil:
    cdef PoolTask *task = <PoolTask *> me.task
    cdef uint64_t *cell
    cdef uint64_t random, seen
    cdef Parcel *parcel
    if me.number + 1 == me.n_workers:
        while jm_load_acquire(&task.n_done) + 1 < me.n_workers:
            me.counts[3] += (<PoolAllocator> task.pool).arena.used_bytes() > task.limit_bytes
        return
    for _ in range(task.n_rounds):
        random = next_random(&me.random)
        cell = &task.table[random % task.n_cells]
        parcel = NULL
        if random >> 32 & 3:  # one step in four only takes away
            parcel = <Parcel *> malloc(sizeof(Parcel))
        if parcel != NULL:
            parcel.cookie = next_random(&me.random)
            # Sizes spread evenly over the powers of two below n_bytes, which may be more than the largest block.
            if (<PoolAllocator> task.pool).claim_block(
                1 + (parcel.cookie >> 8) % (task.n_bytes >> (random >> 40 & 7)), &parcel.block
            ) == OK:
                seen = jm_add_relaxed(&task.live_bytes, parcel.block.capacity_bytes) + parcel.block.capacity_bytes
                me.counts[3] += seen > task.limit_bytes
                parcel_marks(parcel, True)
                me.counts[1] += 1
            else:
                me.counts[2] += 1
                free(parcel)
                parcel = NULL
        seen = jm_load_acquire(cell)
        while not jm_cas_weak_acq_rel(cell, &seen, <uint64_t> parcel):
            pass
        parcel_end(me, <Parcel *> seen)
    jm_add_acq_rel(&task.n_done, 1)


cdef void parcel_end(Worker *me, Parcel *parcel) noexcept nogil:
    cdef PoolTask *task = <PoolTask *> me.task
    if parcel != NULL:
        me.counts[0] += parcel_marks(parcel, False)
        jm_sub_relaxed(&task.live_bytes, parcel.block.capacity_bytes)
        me.counts[3] += (<PoolAllocator> task.pool).release_block(&parcel.block) != OK
        free(parcel)


def exchange_stress(PoolAllocator pool, uint64_t n_bytes, uint64_t n_rounds, unsigned int n_threads=2, uint64_t seed=1):
    """Threads claim blocks of up to n_bytes, mark them, and swap them through a table; one more watches the limit.

    Counts: "overwritten" marks, "claimed" and "refused" blocks, and "violations": moments above the limit and releases
    that failed.
    """
    cdef PoolTask task
    cdef Worker last
    cdef unsigned int i
    task.pool, task.n_bytes, task.n_rounds = <void *> pool, n_bytes, n_rounds
    task.limit_bytes = pool.usage()[1]
    task.n_done, task.live_bytes, task.n_cells = 0, 0, 256
    task.table = <uint64_t *> calloc(task.n_cells, sizeof(uint64_t))
    if task.table == NULL:
        raise MemoryError
    try:
        results = run_workers(exchange, &task, n_threads + 1, seed)[1:]
    finally:
        last.task = &task
        for i in range(4):
            last.counts[i] = 0
        for i in range(task.n_cells):
            parcel_end(&last, <Parcel *> task.table[i])
        free(task.table)
    return dict(zip(
        ("overwritten", "claimed", "refused", "violations"), [results[i] + last.counts[i] for i in range(4)]
    ))


# -- invariants that are broken on purpose; see _probe/budget ---------------------------------------------------------

def release_twice_without_a_look(PoolAllocator pool, uint64_t n_bytes=1):
    """Give a claim back as its only holder may, and once more."""
    cdef PoolBlock block
    if pool.claim_block(n_bytes, &block) != OK:
        raise MemoryError
    pool.arena.give_back(&block)
    pool.arena.give_back(&block)


def claim_beyond_the_words(PoolAllocator pool):
    """Search in a zone that is larger than the bitmap."""
    cdef word_index_t hint = 0
    cdef Zone zone = zone_of(0, pool.arena.words.shape[0] * WORD_UNITS + 1)
    return bitmap_claim(pool.arena.words, pool.arena.summary, &zone, 0, &hint)


def leave_a_word_lost(PoolAllocator pool):
    """Mark a word full that has room; the arena notices when it goes."""
    pool.arena.summary[0] |= 1


def read_beyond_the_words(PoolAllocator pool):
    """Look at a word that the bitmap does not have; only a build that checks bounds may be asked."""
    return pool.arena.summary[pool.arena.summary.shape[0]]
