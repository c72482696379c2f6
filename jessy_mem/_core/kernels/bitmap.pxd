"""Two-level bitmap: which units of an arena are claimed. Inline kernels; no lock, no Python object.

A unit is the smallest block. A block of 2**order units (order 0..6) is that many neighbouring bits of one word, aligned
to their number, so one compare-and-swap claims it and one gives it back. Free neighbours need no merging: they are free
bits side by side, and a larger block finds them.

    summary   0 0 1 0 ...                     bit w: word w was seen full
              | | +-------------+
    words   [w0][w1]          [w2]  ...       bit b of word w: unit 64 * w + b is claimed
             0000000011110001  1111111111111111

HAZARD: the summary is a second fact about the same units. A word may be full with its summary bit clear (it is looked
at in vain), but a word with room must never stay marked, or its units are lost. So only a searcher that saw the word
full marks it, and looks again; a release clears the mark after it has changed the word. All of these are
read-modify-writes: whichever of "look again" and "change the word" comes second sees what the other did before.

    searcher:  mark summary,  then look at word again -> unmark if it has room
    release:   change word,   then look at summary    -> unmark if it is marked
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.atomic cimport (
    jm_add_acq_rel,
    jm_and_acq_rel,
    jm_cas_acq_rel,
    jm_cas_weak_acq_rel,
    jm_clz,
    jm_ctz,
    jm_load_relaxed,
    jm_or_acq_rel,
    jm_popcount,
    jm_store_relaxed,
    jm_unlikely,
)
from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.typedefs cimport DOUBLE_FREE, OK, Status, bit_index_t, unit_index_t, word_index_t
from jessy_mem._core.kernels.span cimport span_inside

cdef enum:
    WORD_UNITS = 64
    LINE_WORDS = 8  # words of one cache line

cdef extern from *:
    """
    #define JM_WORD_FULL UINT64_MAX
    """
    const uint64_t JM_WORD_FULL


cdef struct Bitmap:        # what a kernel takes of the two views that are a bitmap, once for each call
    uint64_t *words        # atomic; aligned to a cache line; the bits past the last unit are claimed for ever
    uint64_t *summary      # atomic; one bit for each word


cdef struct Holds:         # times that units were claimed which may be given back at once
    uint64_t n_begun       # atomic
    uint64_t n_ended       # atomic


cdef struct Zone:          # the units [first_unit, end_unit) a search may take from; constant
    unit_index_t first_unit
    unit_index_t end_unit
    word_index_t first     # words [first, end) hold them
    word_index_t end
    uint64_t before        # the bits of word `first` below the zone
    uint64_t after         # the bits of word `end - 1` above the zone


cdef inline Bitmap bitmap_of(uint64_t[::1] words, uint64_t[::1] summary) noexcept nogil:
    cdef Bitmap bitmap
    bitmap.words, bitmap.summary = &words[0], &summary[0]
    return bitmap


# -- masks ------------------------------------------------------------------------------------------------------------

# The zone of the units [first_unit, end_unit).
cdef inline Zone zone_of(unit_index_t first_unit, unit_index_t end_unit) noexcept nogil:
    cdef Zone zone
    zone.first_unit, zone.end_unit = first_unit, end_unit
    zone.first = <word_index_t> first_unit // WORD_UNITS
    zone.end = (<word_index_t> end_unit + WORD_UNITS - 1) // WORD_UNITS
    zone.before = (<uint64_t> 1 << (first_unit % WORD_UNITS)) - 1
    zone.after = JM_WORD_FULL << (end_unit % WORD_UNITS) if end_unit % WORD_UNITS else 0
    return zone


# The bits of word w that do not belong to the zone.
cdef inline uint64_t zone_outside(const Zone *zone, word_index_t w) noexcept nogil:
    return (zone.before if w == zone.first else 0) | (zone.after if w + 1 == zone.end else 0)


# The bits of a word where groups of 2**order units begin.
cdef inline uint64_t group_starts(unsigned int order) noexcept nogil:
    if order == 0:
        return JM_WORD_FULL
    elif order == 1:
        return 0x5555555555555555ULL
    elif order == 2:
        return 0x1111111111111111ULL
    elif order == 3:
        return 0x0101010101010101ULL
    elif order == 4:
        return 0x0001000100010001ULL
    elif order == 5:
        return 0x0000000100000001ULL
    else:
        return 1


# The first bit of the lowest free group of 2**order units, or -1. Subtracting 1 from every group borrows into the top
# bit of those that are 0; a group above the lowest such one may be marked by the borrow alone, the lowest never is.
cdef inline int word_first_fit(uint64_t word, unsigned int order) noexcept nogil:
    cdef uint64_t starts = group_starts(order)
    cdef bit_index_t last_unit = (1 << order) - 1
    cdef uint64_t marks = (word - starts) & ~word & (starts << last_unit)
    return <int> (jm_ctz(marks) & ~last_unit) if marks else -1


# The first bits of all free groups of 2**order units.
cdef inline uint64_t word_fits(uint64_t word, unsigned int order) noexcept nogil:
    cdef uint64_t fits = ~word
    cdef unsigned int i
    for i in range(order):
        fits &= fits >> (1 << i)
    return fits & group_starts(order)


# The bits of word w that the units [unit, unit + n_units) have in it; w must hold at least one of them.
cdef inline uint64_t run_mask(unit_index_t unit, uint64_t n_units, word_index_t w) noexcept nogil:
    cdef uint64_t begin = <uint64_t> unit, end = begin + n_units, base = w * WORD_UNITS
    cdef uint64_t mask = JM_WORD_FULL
    if begin > base:
        mask <<= begin - base
    if end < base + WORD_UNITS:
        mask &= JM_WORD_FULL >> (base + WORD_UNITS - end)
    return mask


# The length of the lowest run of set bits, and its first bit; word must not be 0.
cdef inline uint64_t word_lowest_run(uint64_t word, bit_index_t *first) noexcept nogil:
    first[0] = jm_ctz(word)
    word >>= first[0]
    return WORD_UNITS if word == JM_WORD_FULL else jm_ctz(~word)


# -- one word ---------------------------------------------------------------------------------------------------------

# Mark word w full, unless it has got room meanwhile.
cdef inline void word_mark_full(const Bitmap *bitmap, word_index_t w) noexcept nogil:
    cdef uint64_t *summary = &bitmap.summary[w // WORD_UNITS]
    cdef uint64_t bit = <uint64_t> 1 << (w % WORD_UNITS)
    if jm_load_relaxed(summary) & bit:
        return
    jm_or_acq_rel(summary, bit)
    if jm_or_acq_rel(&bitmap.words[w], 0) != JM_WORD_FULL:  # the read half of a read-modify-write is never stale
        jm_and_acq_rel(summary, ~bit)


# Claim 2**order units of word w: the first bit, or -1 when they do not fit. Bits of `outside` are left alone.
cdef inline int word_claim(const Bitmap *bitmap, word_index_t w, uint64_t outside, unsigned int order) noexcept nogil:
    cdef uint64_t mask = JM_WORD_FULL >> (WORD_UNITS - (1 << order))
    cdef uint64_t word = jm_load_relaxed(&bitmap.words[w])
    cdef int bit
    while True:
        bit = word_first_fit(word | outside, order)
        if bit < 0:
            if word == JM_WORD_FULL:
                word_mark_full(bitmap, w)
            return -1
        if jm_cas_weak_acq_rel(&bitmap.words[w], &word, word | mask << bit):
            return bit


# Claim exactly the bits of `mask`: False, and nothing changed, when one of them is claimed.
cdef inline bint word_claim_mask(const Bitmap *bitmap, word_index_t w, uint64_t mask) noexcept nogil:
    cdef uint64_t word = jm_load_relaxed(&bitmap.words[w])
    while not word & mask:
        if jm_cas_weak_acq_rel(&bitmap.words[w], &word, word | mask):
            return True
    return False


# Claim every free bit of word w: the bits taken, 0 when it was full.
cdef inline uint64_t word_claim_rest(const Bitmap *bitmap, word_index_t w) noexcept nogil:
    cdef uint64_t word = jm_load_relaxed(&bitmap.words[w])
    while word != JM_WORD_FULL:
        if jm_cas_weak_acq_rel(&bitmap.words[w], &word, JM_WORD_FULL):
            return ~word
    return 0


# Release the bits of `mask`: DOUBLE_FREE, and nothing written, when one of them is not claimed.
cdef inline Status word_release(const Bitmap *bitmap, word_index_t w, uint64_t mask) noexcept nogil:
    cdef uint64_t word = jm_load_relaxed(&bitmap.words[w]), bit
    cdef uint64_t *summary
    while True:
        if word & mask != mask:
            return DOUBLE_FREE
        if jm_cas_weak_acq_rel(&bitmap.words[w], &word, word & ~mask):
            break
    summary = &bitmap.summary[w // WORD_UNITS]
    bit = <uint64_t> 1 << (w % WORD_UNITS)
    if jm_load_relaxed(summary) & bit:  # a look first: the line stays shared while nothing is full
        jm_and_acq_rel(summary, ~bit)
    return OK


# -- search -----------------------------------------------------------------------------------------------------------

# The first word of [w, end) that is not marked full; end if there is none.
cdef inline word_index_t bitmap_next_open(const Bitmap *bitmap, word_index_t w, word_index_t end) noexcept nogil:
    cdef word_index_t s = w // WORD_UNITS
    cdef uint64_t unmarked
    if w >= end:
        return end
    unmarked = ~jm_load_relaxed(&bitmap.summary[s]) & (JM_WORD_FULL << (w % WORD_UNITS))
    while not unmarked:
        s += 1
        if s * WORD_UNITS >= end:
            return end
        unmarked = ~jm_load_relaxed(&bitmap.summary[s])
    return min(s * WORD_UNITS + jm_ctz(unmarked), end)


# Claim a block in the words [first, end) of the zone: its first unit, or -1.
cdef inline unit_index_t bitmap_claim_between(
    const Bitmap *bitmap, const Zone *zone, unsigned int order, word_index_t first, word_index_t end
) noexcept nogil:
    cdef word_index_t w = bitmap_next_open(bitmap, first, end)
    cdef int bit
    while w < end:
        bit = word_claim(bitmap, w, zone_outside(zone, w), order)
        if bit >= 0:
            return <unit_index_t> (w * WORD_UNITS + <word_index_t> bit)
        w = bitmap_next_open(bitmap, w + 1, end)
    return -1


# Claim a block of 2**order units (order 0..6) inside the zone: its first unit, or -1 when none fits.
# `hint` is the caller's own: the word where it looks first; it becomes the word where the block was found. Threads
# whose hints lie on different cache lines do not meet; when two do, the one that loses goes on to the next line.
cdef inline unit_index_t bitmap_claim(
    uint64_t[::1] words, uint64_t[::1] summary, const Zone *zone, unsigned int order, word_index_t *hint
) noexcept nogil:
    cdef Bitmap bitmap = bitmap_of(words, summary)
    cdef uint64_t mask = JM_WORD_FULL >> (WORD_UNITS - (1 << order))
    cdef word_index_t w = jm_load_relaxed(hint)
    cdef uint64_t word
    cdef unit_index_t unit
    cdef int bit
    if jm_unlikely(w < zone.first or w >= zone.end):
        w = zone.first
    jm_assert(zone.end <= <word_index_t> words.shape[0], zone.end, words.shape[0])
    word = jm_load_relaxed(&bitmap.words[w])
    bit = word_first_fit(word | zone_outside(zone, w), order)
    if bit >= 0:
        if not jm_unlikely(not jm_cas_acq_rel(&bitmap.words[w], &word, word | mask << bit)):
            return <unit_index_t> (w * WORD_UNITS + <word_index_t> bit)
        w = (w | (LINE_WORDS - 1)) + 1
        if w >= zone.end:
            w = zone.first
    unit = bitmap_claim_between(&bitmap, zone, order, w, zone.end)
    if unit < 0:
        unit = bitmap_claim_between(&bitmap, zone, order, zone.first, w)
    if unit >= 0:
        w = <word_index_t> unit // WORD_UNITS
    jm_store_relaxed(hint, w)
    return unit


# Release the run of units that begins at `unit` and goes on in the next word or farther; see bitmap_release.
cdef inline Status bitmap_release_run(const Bitmap *bitmap, unit_index_t unit, uint64_t n_units) noexcept nogil:
    cdef Status status
    cdef word_index_t first = <word_index_t> unit // WORD_UNITS
    cdef word_index_t last = (<word_index_t> unit + n_units - 1) // WORD_UNITS
    cdef word_index_t w
    cdef uint64_t mask
    for w in range(first + 1, last + 1):
        mask = run_mask(unit, n_units, w)
        if jm_load_relaxed(&bitmap.words[w]) & mask != mask:
            return DOUBLE_FREE
    if word_release(bitmap, first, run_mask(unit, n_units, first)) != OK:
        return DOUBLE_FREE
    for w in range(first + 1, last + 1):
        status = word_release(bitmap, w, run_mask(unit, n_units, w))
        jm_assert(not status, unit, w)  # of two that release a run, the first word sent one away
    return OK


# Release the n_units units at `unit`, a block or a run: DOUBLE_FREE, and nothing written, when one of them is not
# claimed. Of two threads that release the same run exactly one gets OK: the first word decides.
cdef inline Status bitmap_release(
    uint64_t[::1] words, uint64_t[::1] summary, unit_index_t unit, uint64_t n_units
) noexcept nogil:
    cdef Bitmap bitmap = bitmap_of(words, summary)
    cdef bit_index_t bit = <word_index_t> unit % WORD_UNITS
    jm_assert(span_inside(unit, n_units, words.shape[0] * WORD_UNITS), unit, n_units)
    if jm_unlikely(bit + n_units > WORD_UNITS):
        return bitmap_release_run(&bitmap, unit, n_units)
    return word_release(&bitmap, <word_index_t> unit // WORD_UNITS, (JM_WORD_FULL >> (WORD_UNITS - n_units)) << bit)


# The last claimed unit of [unit, unit + n_units), or -1.
cdef inline unit_index_t bitmap_last_claimed(const uint64_t *words, unit_index_t unit, uint64_t n_units) noexcept nogil:
    cdef word_index_t first = <word_index_t> unit // WORD_UNITS
    cdef word_index_t w = (<word_index_t> unit + n_units - 1) // WORD_UNITS
    cdef uint64_t claimed
    while True:
        claimed = jm_load_relaxed(words + w) & run_mask(unit, n_units, w)
        if claimed:
            return <unit_index_t> (w * WORD_UNITS + WORD_UNITS - 1 - jm_clz(claimed))
        if w == first:
            return -1
        w -= 1


# Claim a run of n_units units that begins at a multiple of align_units inside the zone: its first unit, or -1.
# Words are claimed upward, and given back when one of them was lost; of two runs that meet the upper one wins. Adds the
# number of its own holds to *n_own. Whoever finds nothing while others hold units must look again; see Arena.search.
cdef inline unit_index_t bitmap_claim_run(
    uint64_t[::1] words, uint64_t[::1] summary, Holds *holds, const Zone *zone, uint64_t n_units,
    uint64_t align_units, uint64_t *n_own
) noexcept nogil:
    cdef Bitmap bitmap = bitmap_of(words, summary)
    cdef unit_index_t align = <unit_index_t> align_units
    cdef unit_index_t unit = (zone.first_unit + align - 1) // align * align, claimed
    cdef word_index_t first, last, w
    cdef Status status
    while unit <= zone.end_unit and n_units <= <uint64_t> (zone.end_unit - unit):
        claimed = bitmap_last_claimed(bitmap.words, unit, n_units)
        if claimed >= 0:
            unit = (claimed + align) // align * align
            continue
        first = <word_index_t> unit // WORD_UNITS
        last = (<word_index_t> unit + n_units - 1) // WORD_UNITS
        jm_add_acq_rel(&holds.n_begun, 1)
        n_own[0] += 1
        w = first
        while w <= last and word_claim_mask(&bitmap, w, run_mask(unit, n_units, w)):
            w += 1
        if w <= last:
            while w > first:  # lost word w: give back those below it, then look at the same place again
                w -= 1
                status = word_release(&bitmap, w, run_mask(unit, n_units, w))
                jm_assert(not status, unit, w)
            w = first
        jm_add_acq_rel(&holds.n_ended, 1)
        if w > last:
            return unit
    return -1


# -- counts: each word is read once, so a count taken while others work belongs to no single moment --------------------

# Claimed units, those past the end included.
cdef inline uint64_t bitmap_count_claimed(uint64_t[::1] words) noexcept nogil:
    cdef const uint64_t *first = &words[0]
    cdef uint64_t n_claimed = 0, word
    cdef word_index_t w
    for w in range(<word_index_t> words.shape[0]):
        word = jm_load_relaxed(first + w)
        if word == JM_WORD_FULL:
            n_claimed += WORD_UNITS
        elif word:
            n_claimed += jm_popcount(word)
    return n_claimed


# How many aligned blocks of n_units units (a power of two) are free inside the zone.
cdef inline uint64_t bitmap_count_free(uint64_t[::1] words, const Zone *zone, uint64_t n_units) noexcept nogil:
    cdef const uint64_t *first = &words[0]
    cdef uint64_t n_free = 0
    cdef unsigned int order
    cdef unit_index_t unit
    cdef word_index_t w
    if n_units <= WORD_UNITS:
        order = jm_ctz(n_units)
        for w in range(zone.first, zone.end):
            n_free += jm_popcount(word_fits(jm_load_relaxed(first + w) | zone_outside(zone, w), order))
        return n_free
    unit = zone.first_unit
    while unit + <unit_index_t> n_units <= zone.end_unit:
        n_free += bitmap_last_claimed(first, unit, n_units) < 0
        unit += <unit_index_t> n_units
    return n_free


# Units of the longest free run inside the zone.
cdef inline uint64_t bitmap_longest_free(uint64_t[::1] words, const Zone *zone) noexcept nogil:
    cdef const uint64_t *first = &words[0]
    cdef uint64_t longest = 0, here = 0, word
    cdef word_index_t w
    cdef bit_index_t bit
    for w in range(zone.first, zone.end):
        word = jm_load_relaxed(first + w) | zone_outside(zone, w)
        if word == 0:
            here += WORD_UNITS
        else:
            for bit in range(<bit_index_t> WORD_UNITS):
                if word >> bit & 1:
                    longest = max(longest, here)
                    here = 0
                else:
                    here += 1
    return max(longest, here)


# Words that are marked full and have room: none, unless somebody is in the middle of a claim or a release.
cdef inline uint64_t bitmap_count_lost(uint64_t[::1] words, uint64_t[::1] summary) noexcept nogil:
    cdef Bitmap bitmap = bitmap_of(words, summary)
    cdef uint64_t n_lost = 0, marks
    cdef word_index_t s, w
    for s in range(<word_index_t> summary.shape[0]):
        marks = jm_load_relaxed(bitmap.summary + s)
        while marks:
            w = s * WORD_UNITS + jm_ctz(marks)
            marks &= marks - 1
            n_lost += jm_load_relaxed(bitmap.words + w) != JM_WORD_FULL
    return n_lost
