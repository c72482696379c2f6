"""The arena: memory in blocks of a few power-of-two sizes, claimed and given back without a lock.

One range of address space is counted in units (the smallest block size), with one bit for each. Every class has a home,
largest blocks first, so that every home begins at a multiple of its block size:

    memory  | 256 KiB home | 64 KiB home | 16 KiB home | 4 KiB home | commons |  commons: limit above the homes' sum
    bitmap  | w0 w1 w2 ...                                                    |  one bit for 4 KiB, 64 for 256 KiB

A home is where a class looks first, not what it owns: a full class takes blocks of its own size in the next larger
home, and pays for its own size. Strict classes stay at home.

HAZARDS
- The limit may not be passed for a moment. Where the arena is no larger than the limit, the compare-and-swap that
  claims the bits is the reservation, and threads share nothing else. Where it is larger, or the ledger is not its own,
  the ledger is charged before the search and refunded when that fails.
- A late release must not free the next owner's block. Each claim leaves an odd tag at its first unit and takes it
  along; a release must first swap that very tag. Whoever wins it owns the bits until they are cleared.
- A guard is in a block that is claimed, and nowhere else: it stands after the claim and goes before the release.
- Trim and runs claim units that they give back at once. A claim that finds nothing while such a hold is under way says
  nothing about the arena, so it looks again.
"""
cimport cython
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_add_acq_rel,
    jm_cas_acq_rel,
    jm_clz,
    jm_ctz,
    jm_load_acquire,
    jm_load_relaxed,
    jm_spin_pause,
    jm_store_relaxed,
    jm_unlikely,
)
from jessy_mem._core.c.os_memory cimport jm_os_discard, jm_os_guard_pages, jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.c.thread cimport JM_MAX_THREADS, jm_thread_end, jm_thread_number
from jessy_mem._core.c.typedefs cimport (
    DOUBLE_FREE,
    LIMIT_EXCEEDED,
    NO_FREE_BLOCK,
    OK,
    Status,
    bit_index_t,
    unit_index_t,
    word_index_t,
)
from jessy_mem._core.kernels.bitmap cimport (
    LINE_WORDS,
    WORD_UNITS,
    Bitmap,
    bitmap_claim,
    bitmap_claim_run,
    bitmap_count_claimed,
    bitmap_count_lost,
    bitmap_of,
    bitmap_release,
    run_mask,
    word_claim_rest,
    word_lowest_run,
    word_release,
    zone_of,
)
from jessy_mem._core.kernels.span cimport span_inside
from jessy_mem._core.kernels.tally cimport share_add, tally_add
from jessy_mem._core.mapping cimport Mapping

from jessy_mem.errors import MappingError

cdef enum:
    SLACK_BLOCKS = 8   # what one thread may keep from a class's common sum; see tally.pxd
    SLACK_LARGEST = 2  # and from the sum of all classes, in largest blocks


# Count a claim (`sign` 1) or a release (-1): with both known where it stands, half of this is not there. `mine` is the
# first share of the thread, or of all that have no own one (`shared`).
cdef inline void count(Arena arena, const PoolBlock *block, Share *mine, int sign, bint shared) noexcept nogil:
    cdef Share *share = mine + block.size_class
    cdef Share *whole = mine + arena.n_classes
    cdef Zone *home = &arena.zones[block.size_class]
    cdef int64_t n_units = <int64_t> (block.capacity_bytes >> arena.unit_order)
    cdef int64_t n_blocks = n_units >> arena.classes[block.size_class].order
    tally_add(&arena.sums[block.size_class].value, &share.used, sign, n_blocks, SLACK_BLOCKS, shared)
    tally_add(&arena.sums[arena.n_classes].value, &whole.used, sign, n_units, arena.slack_units, shared)
    share_add(&share.requested_bytes, sign * <int64_t> block.n_bytes, shared)
    if jm_unlikely(block.unit < home.first_unit or block.unit >= home.end_unit):
        share_add(&share.n_borrowed, sign * n_blocks, shared)
    elif sign < 0:  # what was freed last is warm, and using it again keeps the footprint small
        jm_store_relaxed(&share.hint, <word_index_t> block.unit // WORD_UNITS)


cdef void count_shared(Arena arena, const PoolBlock *block, Share *shares, int sign) noexcept nogil:
    count(arena, block, shares, sign, True)


@cython.final
@cython.no_gc  # holds a Ledger, which holds names: no cycle can pass through it
cdef class Arena:
    def __dealloc__(self):
        if self.sums != NULL:  # it got its memory, and nobody is in the middle of anything now
            jm_assert(bitmap_count_lost(self.words, self.summary) == 0, self.n_units, self.n_padding)

    cdef uint32_t class_of(self, uint64_t n_bytes) noexcept nogil:
        if n_bytes > self.largest_bytes:
            return self.n_classes - 1
        return self.class_of_log2[64 - jm_clz(n_bytes - 1) if n_bytes > 1 else 0]

    cdef uint64_t charge_of(self, uint64_t n_bytes) noexcept nogil:
        cdef uint64_t block_bytes = self.classes[self.class_of(n_bytes)].block_bytes
        return block_bytes if n_bytes <= block_bytes else (n_bytes + block_bytes - 1) & ~(block_bytes - 1)

    cdef Status claim(self, uint64_t n_bytes, uint32_t segment, PoolBlock *block) noexcept nogil:
        cdef uint32_t k = self.class_of(n_bytes)
        cdef PoolClass *each = &self.classes[k]
        cdef uint64_t charge_bytes = each.block_bytes
        cdef unsigned int number = jm_thread_number()
        cdef Share *shares = self.shares + number * (self.n_classes + 1)
        cdef unit_index_t unit = -1
        if jm_unlikely(n_bytes > charge_bytes):
            charge_bytes = self.charge_of(n_bytes)
        if jm_unlikely(charge_bytes > self.plain_bytes):
            if charge_bytes > self.limit_bytes:
                return LIMIT_EXCEEDED
            if self.claim_guarded(charge_bytes, segment, block):
                block.n_bytes = n_bytes
                return OK
        if self.ledger is not None and self.ledger.reserve_bytes(
            segment, charge_bytes, jm_load_relaxed(&self.ceiling_bytes)
        ) != OK:
            return LIMIT_EXCEEDED
        if charge_bytes <= self.word_bytes and charge_bytes == each.block_bytes:
            unit = bitmap_claim(self.words, self.summary, &self.zones[k], each.order, &shares[k].hint)
        if jm_unlikely(unit < 0):
            unit = self.search(k, charge_bytes, shares)
            if unit < 0:
                if self.ledger is not None:
                    self.ledger.release_bytes(segment, charge_bytes)
                return NO_FREE_BLOCK
        block.address = &self.memory[unit << self.unit_order]
        block.n_bytes = n_bytes
        block.capacity_bytes = charge_bytes
        block.unit = unit
        block.tag = jm_load_relaxed(&self.tags[unit]) + 1  # the bits are ours, so nobody else writes the tag
        jm_assert(block.tag & 1, unit, block.tag)
        jm_assert(span_inside(unit, charge_bytes >> self.unit_order, self.n_units), unit, charge_bytes)
        block.size_class = k
        block.segment = segment
        jm_store_relaxed(&self.tags[unit], block.tag)
        if jm_unlikely(number == JM_MAX_THREADS):
            count_shared(self, block, shares, 1)
        else:
            count(self, block, shares, 1, False)
        return OK

    # One in `guard_sample` blocks of a thread lies at the beginning of one that is larger by a page at least, and that
    # page faults. False if it is not this one's turn, or there is no room for it: the block is one like others then.
    cdef bint claim_guarded(self, uint64_t n_bytes, uint32_t segment, PoolBlock *block) noexcept nogil:
        cdef Share *share = &self.shares[jm_thread_number() * (self.n_classes + 1) + self.n_classes]
        cdef uint64_t n = jm_load_relaxed(&share.n_unguarded) + 1, page_bytes = jm_page_bytes()
        jm_store_relaxed(&share.n_unguarded, n)
        if n < self.guard_sample or n_bytes & (page_bytes - 1):
            return False
        jm_store_relaxed(&share.n_unguarded, <uint64_t> -1)  # nor is it the turn of the larger one
        if self.claim(n_bytes + page_bytes, segment, block) != OK:
            return False
        if jm_os_guard_pages(<char *> block.address + n_bytes, page_bytes, True) != 0:
            self.give_back(block)
            return False
        block.capacity_bytes = n_bytes
        block.size_class |= GUARDED
        return True

    cdef uint64_t charged_bytes(self, const PoolBlock *block) noexcept nogil:
        return self.charge_of(block.capacity_bytes + (jm_page_bytes() if block.size_class & GUARDED else 0))

    # Take away what the owner of a block left, and the guard: the block as the books have it.
    cdef PoolBlock clear(self, const PoolBlock *block) noexcept nogil:
        cdef PoolBlock whole = block[0]
        cdef int failed
        if block.size_class & GUARDED:
            failed = jm_os_guard_pages(<char *> block.address + block.capacity_bytes, jm_page_bytes(), False)
            jm_assert(not failed, block.unit, block.capacity_bytes)
            whole.capacity_bytes = self.charged_bytes(block)
            whole.n_bytes = block.capacity_bytes + jm_page_bytes()
            whole.size_class ^= GUARDED
        if self.scrub:
            memset(whole.address, 0, whole.capacity_bytes)
        return whole

    # Look wherever the class may, again as long as others hold units for a moment: the first unit, or -1.
    cdef unit_index_t search(self, uint32_t k, uint64_t n_bytes, Share *shares) noexcept nogil:
        cdef PoolClass *each = &self.classes[k]
        cdef bint is_run = n_bytes > self.word_bytes or n_bytes != each.block_bytes
        cdef uint64_t n_units = n_bytes >> self.unit_order, n_ended, n_own
        cdef unit_index_t unit
        cdef unsigned int i, z
        while True:
            n_ended = jm_load_acquire(&self.holds.n_ended)
            n_own = 0
            if is_run:
                unit = bitmap_claim_run(
                    self.words, self.summary, &self.holds, &self.zones[k], n_units, each.n_units, &n_own
                )
                if unit < 0 and not self.strict:
                    unit = bitmap_claim_run(
                        self.words, self.summary, &self.holds, &self.whole, n_units, each.n_units, &n_own
                    )
            else:
                unit = bitmap_claim(self.words, self.summary, &self.zones[k], each.order, &shares[k].hint)
                for i in range(each.n_elsewhere):
                    if unit >= 0:
                        break
                    z = each.elsewhere[i]
                    unit = bitmap_claim(self.words, self.summary, &self.zones[z], each.order, &shares[z].hint)
            # A hold other than the own ones since n_ended was read: what it held may be free now.
            if unit >= 0 or jm_add_acq_rel(&self.holds.n_begun, 0) == n_ended + n_own:
                return unit
            jm_spin_pause()

    cdef Status release(self, const PoolBlock *block) noexcept nogil:
        cdef uint64_t tag = block.tag
        if not tag & 1 or not jm_cas_acq_rel(&self.tags[block.unit], &tag, tag + 1):
            return DOUBLE_FREE
        self.give_back(block)
        return OK

    cdef void give_back(self, const PoolBlock *block) noexcept nogil:
        cdef unsigned int number = jm_thread_number()
        cdef Share *shares = self.shares + number * (self.n_classes + 1)
        cdef Status status
        cdef PoolBlock whole
        jm_assert(span_inside(block.unit, block.capacity_bytes >> self.unit_order, self.n_units), block.unit, 0)
        jm_assert(jm_load_relaxed(&self.tags[block.unit]) - block.tag <= 1, block.unit, block.tag)
        jm_store_relaxed(&self.tags[block.unit], block.tag + 1)
        if self.clears:
            whole = self.clear(block)
            block = &whole
        if jm_unlikely(number == JM_MAX_THREADS):
            count_shared(self, block, shares, -1)
        else:
            count(self, block, shares, -1, False)
        status = bitmap_release(self.words, self.summary, block.unit, block.capacity_bytes >> self.unit_order)
        jm_assert(not status, block.unit, block.capacity_bytes)
        if self.ledger is not None:
            self.ledger.release_bytes(block.segment, block.capacity_bytes)

    cdef uint64_t used_bytes(self) noexcept nogil:
        if self.owns_ledger:
            return self.ledger.used()
        # A block that moves while the words are read can count twice, so the sum alone could pass the limit.
        return min((bitmap_count_claimed(self.words) - self.n_padding) * self.unit_bytes, self.limit_bytes)

    cdef Share total_of(self, unsigned int k) noexcept nogil:
        cdef Share total
        cdef Share *share
        cdef unsigned int t
        cdef int64_t used = <int64_t> jm_load_relaxed(&self.sums[k].value), peak = 0
        memset(&total, 0, sizeof(total))
        for t in range(jm_thread_end()):
            share = &self.shares[t * (self.n_classes + 1) + k]
            used += <int64_t> jm_load_relaxed(&share.used.delta)
            peak = max(peak, <int64_t> jm_load_relaxed(&share.used.peak))
            total.n_borrowed += jm_load_relaxed(&share.n_borrowed)
            total.requested_bytes += jm_load_relaxed(&share.requested_bytes)
        total.used.delta = max(used, 0)
        total.used.peak = max(used, peak)
        return total

    cdef uint64_t trim(self) noexcept nogil:
        cdef uint64_t n_bytes = 0, held, left, n_units
        cdef word_index_t w
        cdef bit_index_t bit
        cdef Bitmap bitmap = bitmap_of(self.words, self.summary)
        if self.total_of(self.n_classes).used.peak == 0:  # nothing was claimed yet; to ask the system takes 0.7 ms
            return 0
        for w in range(<word_index_t> self.words.shape[0]):
            jm_add_acq_rel(&self.holds.n_begun, 1)
            held = left = word_claim_rest(&bitmap, w)
            while left:
                n_units = word_lowest_run(left, &bit)
                n_bytes += self.discard(w * WORD_UNITS + bit, n_units)
                left &= ~run_mask(bit, n_units, 0)
            if held:
                word_release(&bitmap, w, held)
            jm_add_acq_rel(&self.holds.n_ended, 1)
        return n_bytes

    # Discard the whole pages inside units that the caller holds: the bytes of those that were in memory.
    cdef uint64_t discard(self, uint64_t unit, uint64_t n_units) noexcept nogil:
        cdef uintptr_t page_bytes = jm_page_bytes(), begin, end
        cdef uint64_t n_pages, n_resident
        begin = <uintptr_t> &self.memory[0] + unit * self.unit_bytes
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

# n words, rounded up to whole cache lines.
cdef uint64_t to_line(uint64_t n_words) noexcept nogil:
    return (n_words + LINE_WORDS - 1) & ~<uint64_t> (LINE_WORDS - 1)


cdef Arena arena_of(
    list homes, uint64_t limit_bytes, bint strict, bint scrub, uint64_t guard_sample, Ledger ledger
):
    cdef Arena arena = Arena()
    cdef uint64_t home_bytes = sum([n_bytes for _, n_bytes in homes])
    cdef PoolClass *each
    cdef unsigned int i, k
    if ledger is None and home_bytes > limit_bytes:
        ledger = Ledger(limit_bytes, {"pool": limit_bytes})
        arena.owns_ledger = True
    arena.ledger = ledger
    arena.strict, arena.scrub = strict, scrub
    arena.limit_bytes = limit_bytes
    arena.ceiling_bytes = UINT64_MAX
    arena.n_classes = len(homes)
    arena.unit_bytes, arena.largest_bytes = homes[0][0], homes[arena.n_classes - 1][0]
    arena.word_bytes = arena.unit_bytes * WORD_UNITS
    arena.unit_order = jm_ctz(arena.unit_bytes)
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
    if guard_sample and knows_guards(&arena.memory[0]):
        arena.guard_sample = guard_sample
    arena.plain_bytes = 0 if arena.guard_sample else limit_bytes
    arena.clears = scrub or arena.guard_sample != 0
    return arena


cdef bint knows_guards(void *memory) noexcept:
    return jm_os_guard_pages(memory, jm_page_bytes(), True) == 0 == jm_os_guard_pages(memory, jm_page_bytes(), False)


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
        places = [n] if at < arena.n_units else []
        places += [*range(k + 1, n), *reversed(range(k))]
        arena.classes[k].n_elsewhere = len(places)
        for i, z in enumerate(places):
            arena.classes[k].elsewhere[i] = z


cdef int arena_map(Arena arena) except -1:
    cdef unsigned int n_zones = arena.n_classes + 1, t, z, i, spread
    cdef uint64_t n_words = arena.whole.end, n_marks = (n_words + WORD_UNITS - 1) // WORD_UNITS, at = 0, first
    cdef uint64_t sums_at = to_line(n_words) + to_line(n_marks)  # in words of 8 bytes, like all of the books
    cdef uint64_t shares_at = sums_at + n_zones * (sizeof(Sum) // sizeof(uint64_t))
    cdef uint64_t tags_at = shares_at + (JM_MAX_THREADS + 1) * n_zones * (sizeof(Share) // sizeof(uint64_t))
    cdef uint64_t[::1] books
    cdef Zone *zone
    try:
        pages = Mapping((tags_at + arena.n_units) * sizeof(uint64_t), reserve=True)
        arena.memory = Mapping(arena.n_units * arena.unit_bytes, reserve=True)
    except OSError as error:
        raise MappingError.of(error, "pool", arena.n_units * arena.unit_bytes) from None
    books = memoryview(pages).cast("Q")
    arena.words = books[:n_words]
    arena.summary = books[to_line(n_words):to_line(n_words) + n_marks]
    arena.tags = books[tags_at:]
    arena.sums = <Sum *> &books[sums_at]
    arena.shares = <Share *> &books[shares_at]
    for k in reversed(range(arena.n_classes)):  # in the order of their addresses
        claim_padding(arena, at, arena.zones[k].first_unit)
        at = arena.zones[k].end_unit
    claim_padding(arena, arena.n_units, n_words * WORD_UNITS)
    for t in range(JM_MAX_THREADS + 1):
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
            arena.words[w] |= run_mask(first_unit, end_unit - first_unit, w)
