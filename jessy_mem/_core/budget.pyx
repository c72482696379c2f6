"""The ledger of the memory budget.

HAZARD: many threads reserve and release at once, and no limit may be exceeded, not even for a moment. An account is
raised by compare-and-swap only after the new value was seen to fit; add-then-check would overshoot. A reservation
raises its segment first and then the total, and takes the first back when the second refuses:

    reserve:  segment.used -- CAS up --> total.used -- CAS up --> done
                    ^                         |
                    +------- refund ----------+ does not fit

Pressure is looked at where the total changes, so a crossing is seen by the reservation that causes it. A level is
raised or armed after the total was changed, so two threads can do so in the wrong order; each looks at the total again
afterwards (`watch`). Whoever holds no lock then asks `take_crossings()` and tells the world.
"""
import time
from math import ceil, floor

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    JM_CACHE_LINE,
    jm_add_acq_rel,
    jm_and_acq_rel,
    jm_cas_weak_acq_rel,
    jm_load_acquire,
    jm_load_relaxed,
    jm_max_relaxed,
    jm_or_acq_rel,
    jm_sub_acq_rel,
)
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.typedefs cimport LIMIT_EXCEEDED, OK, Status

from jessy_mem.errors import error_of

LEVELS = ("warning", "eviction", "critical")
REARM_POINTS = 5  # percent of the total below a threshold where it is armed again

cdef enum:
    MAX_ATTEMPTS = 4096  # of a snapshot


cdef inline bint account_raise(
    Account *account, uint64_t n_bytes, uint64_t ceiling_bytes, uint64_t *after
) noexcept nogil:
    """Add n_bytes if the sum stays within limit and ceiling; `after` gets the new value."""
    cdef uint64_t used_bytes = jm_load_relaxed(&account.used_bytes)
    cdef uint64_t bound_bytes = min(account.limit_bytes, ceiling_bytes)
    while True:
        # used_bytes may be above the ceiling, so it is compared before it is subtracted.
        if used_bytes > bound_bytes or n_bytes > bound_bytes - used_bytes:
            return False
        if jm_cas_weak_acq_rel(&account.used_bytes, &used_bytes, used_bytes + n_bytes):
            after[0] = used_bytes + n_bytes
            jm_assert(after[0] <= account.limit_bytes, after[0], account.limit_bytes)
            return True


cdef inline uint64_t account_lower(Account *account, uint64_t n_bytes) noexcept nogil:
    """Take away n_bytes that were added: the new sum."""
    cdef uint64_t used_bytes = jm_sub_acq_rel(&account.used_bytes, n_bytes)
    jm_assert(used_bytes >= n_bytes, used_bytes, n_bytes)
    return used_bytes - n_bytes


@cython.no_gc
cdef class Ledger:
    """Ledger(limit_bytes, segments, thresholds=(100.0, 100.0, 100.0))\n--\n
    The bytes charged to each segment and to the whole budget, with peaks and pressure.

    Parameters
    ----------
    limit_bytes : int
        What all segments together may hold.
    segments : dict of str to int
        The ceiling of each segment in bytes. Their sum may be more than `limit_bytes`, which then binds first.
    thresholds : sequence of three float, optional
        Percentages of `limit_bytes` at which the pressure becomes "warning", "eviction" and "critical".

    Thread-safe and lock-free.
    """

    def __cinit__(self, *args, **kwargs):
        self.memory = NULL
        self.total = self.segments = &self.nothing  # until it is initialised
        self.names = ()

    def __init__(self, limit_bytes, segments, thresholds=(100.0, 100.0, 100.0)):
        cdef uint64_t[MAX_SEGMENTS] ceilings
        cdef int i
        if self.memory != NULL:
            raise TypeError("a Ledger is initialised once")
        if limit_bytes <= 0 or limit_bytes >> 63:
            raise ValueError(f"limit_bytes: {limit_bytes} is not in 1..2**63 - 1")
        if len(segments) > MAX_SEGMENTS:
            raise ValueError(f"segments: {len(segments)} are more than {MAX_SEGMENTS}")
        # What can fail comes first: a Ledger that was refused has no account.
        for i in range(N_LEVELS):
            if not thresholds[i] > 0:
                raise ValueError(f"thresholds: {thresholds[i]} is not above 0")
            self.rise_bytes[i] = ceil(limit_bytes * thresholds[i] / 100)
            self.rearm_bytes[i] = floor(limit_bytes * max(thresholds[i] - REARM_POINTS, 0) / 100)
        for i, n_bytes in enumerate(segments.values()):
            ceilings[i] = n_bytes
        self.memory = calloc(len(segments) + 2, sizeof(Account))
        if self.memory == NULL:
            raise MemoryError
        self.total = <Account *> ((<uintptr_t> self.memory + JM_CACHE_LINE - 1) & ~<uintptr_t> (JM_CACHE_LINE - 1))
        self.segments = self.total + 1
        self.total.limit_bytes = limit_bytes
        self.n_segments = len(segments)
        for i in range(self.n_segments):
            self.segments[i].limit_bytes = ceilings[i]
        self.names = tuple(segments)

    def __dealloc__(self):
        free(self.memory)

    cdef Status reserve_bytes(self, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes) noexcept nogil:
        cdef uint64_t segment_bytes, total_bytes
        if not account_raise(&self.segments[segment], n_bytes, ~<uint64_t> 0, &segment_bytes):
            return LIMIT_EXCEEDED
        if not account_raise(self.total, n_bytes, ceiling_bytes, &total_bytes):
            account_lower(&self.segments[segment], n_bytes)
            return LIMIT_EXCEEDED
        jm_max_relaxed(&self.segments[segment].peak_bytes, segment_bytes)
        jm_max_relaxed(&self.total.peak_bytes, total_bytes)
        if total_bytes >= self.rise_bytes[0] and self.raise_levels(total_bytes):
            self.watch()
        return OK

    cdef void release_bytes(self, unsigned int segment, uint64_t n_bytes) noexcept nogil:
        cdef uint64_t total_bytes = account_lower(self.total, n_bytes)
        account_lower(&self.segments[segment], n_bytes)
        if jm_load_relaxed(&self.raised) and self.arm_levels(total_bytes):
            self.watch()

    cdef bint raise_levels(self, uint64_t total_bytes) noexcept nogil:
        cdef uint64_t bit
        cdef bint changed = False
        cdef int i
        for i in range(N_LEVELS):
            bit = <uint64_t> 1 << i
            if (
                total_bytes >= self.rise_bytes[i]
                and not jm_load_relaxed(&self.raised) & bit
                and not jm_or_acq_rel(&self.raised, bit) & bit
            ):
                jm_or_acq_rel(&self.pending, bit)
                changed = True
        return changed

    cdef bint arm_levels(self, uint64_t total_bytes) noexcept nogil:
        cdef uint64_t bit
        cdef bint changed = False
        cdef int i
        for i in range(N_LEVELS):
            bit = <uint64_t> 1 << i
            if total_bytes <= self.rearm_bytes[i] and jm_and_acq_rel(&self.raised, ~bit) & bit:
                changed = True
        return changed

    cdef void watch(self) noexcept nogil:
        cdef uint64_t total_bytes
        while True:
            # A read that takes part in the order of all changes: whoever changes the total later sees the levels.
            total_bytes = jm_add_acq_rel(&self.total.used_bytes, 0)
            if not (self.raise_levels(total_bytes) or self.arm_levels(total_bytes)):
                return

    cdef int segment_index(self, str name) except -1:
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(f"segment {name!r}: expected one of {', '.join(self.names)}") from None

    def reserve(self, str segment, uint64_t n_bytes):
        """Charge `n_bytes` to `segment`, all or nothing; LimitExceeded if they do not fit."""
        if self.reserve_bytes(self.segment_index(segment), n_bytes, ~<uint64_t> 0) != OK:
            raise self.refusal(segment, n_bytes)

    def release(self, str segment, uint64_t n_bytes):
        """Give back `n_bytes` that were charged to `segment`; ValueError, and nothing changed, if it holds less."""
        cdef unsigned int number = self.segment_index(segment)
        cdef uint64_t used_bytes = jm_load_relaxed(&self.segments[number].used_bytes)
        # Taken from the segment first, so that of two who give back the same bytes one is refused.
        while True:
            if n_bytes > used_bytes:
                raise ValueError(f"n_bytes: {n_bytes} are not charged to {segment}, {used_bytes} are")
            if jm_cas_weak_acq_rel(&self.segments[number].used_bytes, &used_bytes, used_bytes - n_bytes):
                break
        used_bytes = account_lower(self.total, n_bytes)
        if jm_load_relaxed(&self.raised) and self.arm_levels(used_bytes):
            self.watch()

    def refusal(self, str segment, n_bytes, holders=(), hint=""):
        """The LimitExceeded that tells why `n_bytes` did not fit: the segment's ceiling, or the whole budget."""
        cdef Account *account = &self.segments[self.segment_index(segment)]
        name = segment
        used_bytes = jm_load_relaxed(&account.used_bytes)
        if used_bytes + n_bytes <= account.limit_bytes:
            account, name = self.total, "total"
            used_bytes = jm_load_relaxed(&account.used_bytes)
        return error_of(LIMIT_EXCEEDED, used_bytes, account.limit_bytes, n_bytes, name, holders, hint)

    def take_crossings(self):
        """The thresholds crossed upward since the last call, lowest first; each crossing is given to one caller."""
        cdef uint64_t taken
        cdef int i
        if not jm_load_relaxed(&self.pending):
            return ()
        taken = jm_and_acq_rel(&self.pending, 0)
        return tuple([LEVELS[i] for i in range(N_LEVELS) if taken >> i & 1])

    @property
    def pressure(self):
        """ "ok", "warning", "eviction" or "critical", by the bytes in use now."""
        return self.pressure_at(jm_load_relaxed(&self.total.used_bytes))

    cdef str pressure_at(self, uint64_t used_bytes):
        cdef int i
        cdef str level = "ok"
        for i in range(N_LEVELS):
            if used_bytes >= self.rise_bytes[i]:
                level = LEVELS[i]
        return level

    @property
    def used_bytes(self):
        return jm_load_relaxed(&self.total.used_bytes)

    @property
    def limit_bytes(self):
        return self.total.limit_bytes

    @property
    def peak_bytes(self):
        return jm_load_relaxed(&self.total.peak_bytes)

    def snapshot(self):
        """The total (used, limit, peak), the pressure, and each segment as `segment_bytes` gives it; they add up.

        A moment when no reservation is half done is looked for. While many threads reserve without a pause there may
        be none, and a segment then shows bytes that the total does not.
        """
        cdef uint64_t[MAX_SEGMENTS + 1] used
        cdef int i
        for i in range(MAX_ATTEMPTS):
            if self.read_used(used):
                break
            if i % 16 == 15:  # a thread may have been interrupted half-way, and needs a turn
                time.sleep(0)
        peak_bytes = max(used[0], jm_load_relaxed(&self.total.peak_bytes))
        return (used[0], self.total.limit_bytes, peak_bytes), self.pressure_at(used[0]), self.by_name(&used[1])

    def segment_bytes(self):
        """For each segment its bytes in use, limit and peak: dict of name to tuple."""
        cdef uint64_t[MAX_SEGMENTS + 1] used
        self.read_used(used)
        return self.by_name(&used[1])

    cdef bint read_used(self, uint64_t *used) noexcept nogil:
        cdef uint64_t rest_bytes = jm_load_acquire(&self.total.used_bytes)
        cdef int i
        used[0] = rest_bytes
        for i in range(self.n_segments):
            used[i + 1] = jm_load_acquire(&self.segments[i].used_bytes)
            rest_bytes -= used[i + 1]
        return rest_bytes == 0

    cdef dict by_name(self, const uint64_t *used):
        cdef int i
        return {
            name: (
                used[i], self.segments[i].limit_bytes, max(used[i], jm_load_relaxed(&self.segments[i].peak_bytes))
            )
            for i, name in enumerate(self.names)
        }


@cython.no_gc  # holds a Ledger, which holds names: no cycle can pass through it
cdef class Charge:
    """Charge(ledger, segment, n_bytes)\n--\n
    `n_bytes` charged to `segment` of `ledger` until this object dies; LimitExceeded if they do not fit.
    """

    def __cinit__(self, *args, **kwargs):
        jm_disown(<PyObject *> self)

    def __init__(self, Ledger ledger not None, str segment, uint64_t n_bytes):
        if self.ledger is not None:
            raise TypeError("a Charge is initialised once")
        self.segment = ledger.segment_index(segment)
        if ledger.reserve_bytes(self.segment, n_bytes, ~<uint64_t> 0) != OK:
            raise ledger.refusal(segment, n_bytes)
        self.n_bytes = n_bytes
        self.ledger = ledger

    def __dealloc__(self):
        if self.ledger is not None:
            self.ledger.release_bytes(self.segment, self.n_bytes)
