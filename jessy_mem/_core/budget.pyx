"""The ledger of the memory budget.

HAZARD: many threads reserve and release at once, and no limit may be exceeded, not even for a moment. An account is
raised by compare-and-swap only after the new value was seen to fit; add-then-check would overshoot. A reservation
raises its segment first and then the total, and takes the first back when the second refuses:

    reserve:  segment.granted -- CAS up --> total.granted -- CAS up --> done
                    ^                             |
                    +---------- refund -----------+ does not fit

So that threads do not meet at these words, each has credit; how that is granted, used and called in, step by step, and
why it is right, stands in kernels/account.pxd.

A peak is what was granted without the own credit: exact with one thread, and too high by no more than what others have.

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

from jessy_mem._core.c.atomic cimport (
    JM_CACHE_LINE,
    jm_add_acq_rel,
    jm_and_acq_rel,
    jm_cas_acq_rel,
    jm_cas_weak_acq_rel,
    jm_load_acquire,
    jm_load_relaxed,
    jm_max_relaxed,
    jm_spin_pause,
    jm_sub_acq_rel,
    jm_unlikely,
)
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.thread cimport JM_MAX_THREADS, jm_thread_end, jm_thread_number, jm_thread_yield
from jessy_mem._core.c.typedefs cimport LIMIT_EXCEEDED, OK, Status
from jessy_mem._core.kernels.account cimport (
    ANY,
    BYTES,
    CLOSED,
    EPOCH,
    MAX_SEGMENTS,
    MOVE,
    MOVES,
    Account,
    Row,
    account_lower,
    account_raise,
    credit_is_good,
    row_bytes,
    valve_enter,
)

from jessy_mem.errors import error_of

LEVELS = ("warning", "eviction", "critical")
REARM_POINTS = 5  # percent of the total below a threshold where it is armed again

cdef enum:
    MAX_ATTEMPTS = 4096   # of a look at sums that add up
    N_BUSY = 1024         # of these, before it pauses for longer
    N_SHARES = 512        # this part of what is easy is the most credit of one thread in one segment
    HEADROOM_SHARES = 8   # and this part of what is calm, which all 64 may have, lies between easy and calm
    RAISED = (1 << N_LEVELS) - 1  # the bits of levels
    PENDING_SHIFT = 8


cdef inline Row *own_row(Ledger ledger) noexcept nogil:
    """Where this thread has its credit; NULL if it gets none."""
    cdef unsigned int number = jm_thread_number()
    return NULL if ledger.rows == NULL or number == JM_MAX_THREADS else &ledger.rows[number]


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

    Thread-safe and lock-free. `used_bytes`, `sums` and a refusal are exact; they call in what threads have as
    credit. Peaks are exact with one thread; each further one may put them too high by its credit, 1/512 of the budget.
    """

    def __cinit__(self, *args, **kwargs):
        self.memory = NULL
        self.rows = NULL
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
        calm_bytes = min(limit_bytes, *[self.rise_bytes[i] - 1 for i in range(N_LEVELS)])
        easy_bytes = min(calm_bytes - calm_bytes // HEADROOM_SHARES, *[self.rearm_bytes[i] for i in range(N_LEVELS)])
        credit_bytes = min(easy_bytes // N_SHARES, BYTES)
        n_rows = JM_MAX_THREADS if credit_bytes else 0
        self.memory = calloc(len(segments) + 2 + n_rows, sizeof(Account))
        if self.memory == NULL:
            raise MemoryError
        self.total = <Account *> ((<uintptr_t> self.memory + JM_CACHE_LINE - 1) & ~<uintptr_t> (JM_CACHE_LINE - 1))
        self.segments = self.total + 1
        if n_rows:
            self.rows = <Row *> (self.segments + len(segments))
        self.calm_bytes, self.easy_bytes, self.credit_bytes = calm_bytes, easy_bytes, credit_bytes
        self.total.limit_bytes = limit_bytes
        self.n_segments = len(segments)
        for i in range(self.n_segments):
            self.segments[i].limit_bytes = ceilings[i]
        self.names = tuple(segments)

    def __dealloc__(self):
        free(self.memory)

    cdef Status reserve_bytes(self, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes) noexcept nogil:
        cdef Row *row = own_row(self)
        cdef uint64_t valve = jm_load_acquire(&self.valve)
        cdef uint64_t total_bytes = jm_load_relaxed(&self.total.granted_bytes), segment_bytes, word
        if row != NULL and total_bytes <= self.calm_bytes and self.calm_bytes <= ceiling_bytes:
            word = jm_load_relaxed(&row.words[segment])
            if (
                credit_is_good(word, valve)
                and n_bytes <= word & BYTES
                and jm_cas_acq_rel(&row.words[segment], &word, word - n_bytes)
            ):
                word = (word & BYTES) - n_bytes
                segment_bytes = jm_load_relaxed(&self.segments[segment].granted_bytes)
                if jm_unlikely(
                    segment_bytes > jm_load_relaxed(&self.segments[segment].peak_bytes) + word
                    or total_bytes > jm_load_relaxed(&self.total.peak_bytes) + row_bytes(row, self.n_segments)
                ):
                    self.note_peaks(row, segment, segment_bytes, total_bytes)
                return OK
        return self.reserve_apart(row, segment, n_bytes, ceiling_bytes)

    cdef Status reserve_apart(
        self, Row *row, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes
    ) noexcept nogil:
        cdef bint fits
        if (
            row != NULL
            and self.calm_bytes <= ceiling_bytes
            and n_bytes <= self.credit_bytes
            and self.reserve_with_credit(row, segment, n_bytes)
        ) or self.grant(row, segment, n_bytes, ceiling_bytes, self.calm_bytes):
            return OK
        self.call_in()
        fits = self.grant(row, segment, n_bytes, ceiling_bytes, ANY)
        self.reopen()
        return OK if fits else LIMIT_EXCEEDED

    cdef bint reserve_with_credit(self, Row *row, unsigned int segment, uint64_t n_bytes) noexcept nogil:
        """Reserve, and take credit for later reservations; False, and nothing has changed, if that is not easy."""
        cdef uint64_t valve, word = jm_load_relaxed(&row.words[segment])
        cdef uint64_t step_bytes = min(self.credit_bytes // 2, self.credit_bytes - (word & BYTES))
        cdef uint64_t segment_bytes, total_bytes
        cdef bint fits = False
        valve_enter(&self.valve, &self.fork)
        valve = jm_load_relaxed(&self.valve)
        while True:
            if valve & CLOSED:
                return False
            if jm_cas_weak_acq_rel(&self.valve, &valve, valve + MOVE):
                break
        if account_raise(&self.segments[segment], n_bytes + step_bytes, ANY, ANY, &segment_bytes):
            fits = account_raise(self.total, n_bytes + step_bytes, self.easy_bytes, ANY, &total_bytes)
            if not fits:
                account_lower(&self.segments[segment], n_bytes + step_bytes)
        if fits:
            if not jm_cas_acq_rel(&row.words[segment], &word, (valve & ~BYTES) + (word & BYTES) + step_bytes):
                self.take_back(segment, step_bytes)  # somebody calls in
                segment_bytes -= step_bytes
                total_bytes -= step_bytes
            self.note_peaks(row, segment, segment_bytes, total_bytes)
        jm_sub_acq_rel(&self.valve, MOVE)
        return fits

    cdef bint grant(
        self, Row *row, unsigned int segment, uint64_t n_bytes, uint64_t ceiling_bytes, uint64_t calm_bytes
    ) noexcept nogil:
        """Raise a segment and the total, which does not pass `calm_bytes` from below; or neither."""
        cdef uint64_t segment_bytes, total_bytes
        if not account_raise(&self.segments[segment], n_bytes, ANY, ANY, &segment_bytes):
            return False
        if not account_raise(self.total, n_bytes, ceiling_bytes, calm_bytes, &total_bytes):
            account_lower(&self.segments[segment], n_bytes)
            return False
        self.note_peaks(row, segment, segment_bytes, total_bytes)
        if total_bytes >= self.rise_bytes[0] and self.raise_levels(total_bytes):
            self.watch()
        return True

    cdef uint64_t take_back(self, unsigned int segment, uint64_t n_bytes) noexcept nogil:
        """Lower the total and a segment: the new total."""
        cdef uint64_t total_bytes = account_lower(self.total, n_bytes)
        account_lower(&self.segments[segment], n_bytes)
        return total_bytes

    cdef void note_peaks(
        self, Row *row, unsigned int segment, uint64_t segment_bytes, uint64_t total_bytes
    ) noexcept nogil:
        """Of what is granted now, the own credit is not in use."""
        if row != NULL:
            segment_bytes -= min(segment_bytes, jm_load_relaxed(&row.words[segment]) & BYTES)
            total_bytes -= min(total_bytes, row_bytes(row, self.n_segments))
        jm_max_relaxed(&self.segments[segment].peak_bytes, segment_bytes)
        jm_max_relaxed(&self.total.peak_bytes, total_bytes)

    cdef void release_bytes(self, unsigned int segment, uint64_t n_bytes) noexcept nogil:
        cdef Row *row = own_row(self)
        cdef uint64_t valve = jm_load_acquire(&self.valve), word, total_bytes
        if row != NULL and jm_load_relaxed(&self.total.granted_bytes) <= self.easy_bytes:
            word = jm_load_relaxed(&row.words[segment])
            if (
                credit_is_good(word, valve)
                and n_bytes <= self.credit_bytes
                and (word & BYTES) + n_bytes <= self.credit_bytes
                and jm_cas_acq_rel(&row.words[segment], &word, word + n_bytes)
            ):
                return
        total_bytes = self.take_back(segment, n_bytes)
        if jm_load_relaxed(&self.levels) and self.arm_levels(total_bytes):
            self.watch()

    cdef void call_in(self) noexcept nogil:
        cdef uint64_t valve, after, epoch, word
        cdef unsigned int i, n_looks = 0, end = 0
        cdef int k
        valve_enter(&self.valve, &self.fork)
        valve = jm_load_relaxed(&self.valve)
        while True:
            after = valve + MOVE + 1
            if not valve & CLOSED:
                after += EPOCH
            if jm_cas_weak_acq_rel(&self.valve, &valve, after):
                break
        epoch = after & ~BYTES
        if self.rows != NULL:
            end = min(jm_thread_end(), <unsigned int> JM_MAX_THREADS)
        for i in range(end):
            for k in range(self.n_segments):
                word = jm_load_relaxed(&self.rows[i].words[k])
                while not jm_cas_weak_acq_rel(&self.rows[i].words[k], &word, epoch):
                    pass
                if word & BYTES:
                    self.take_back(k, word & BYTES)
        jm_sub_acq_rel(&self.valve, MOVE)
        while jm_load_acquire(&self.valve) & MOVES:
            n_looks += 1
            if n_looks % 8:
                jm_spin_pause()
            else:
                jm_thread_yield()

    cdef void reopen(self) noexcept nogil:
        jm_sub_acq_rel(&self.valve, 1)

    cdef uint64_t used(self) noexcept nogil:
        cdef uint64_t total_bytes = jm_load_acquire(&self.total.granted_bytes)
        if self.rows != NULL and total_bytes <= self.calm_bytes:
            self.call_in()
            total_bytes = jm_load_acquire(&self.total.granted_bytes)
            self.reopen()
        return total_bytes

    cdef bint raise_levels(self, uint64_t total_bytes) noexcept nogil:
        cdef uint64_t levels = jm_load_relaxed(&self.levels), bit
        cdef bint changed = False
        cdef int i
        for i in range(N_LEVELS):
            bit = <uint64_t> 1 << i
            while total_bytes >= self.rise_bytes[i] and not levels & bit:
                if jm_cas_weak_acq_rel(&self.levels, &levels, levels | bit | bit << PENDING_SHIFT):
                    levels |= bit
                    changed = True
        return changed

    cdef bint arm_levels(self, uint64_t total_bytes) noexcept nogil:
        cdef uint64_t bit
        cdef bint changed = False
        cdef int i
        for i in range(N_LEVELS):
            bit = <uint64_t> 1 << i
            if total_bytes <= self.rearm_bytes[i] and jm_and_acq_rel(&self.levels, ~bit) & bit:
                changed = True
        return changed

    cdef void watch(self) noexcept nogil:
        cdef uint64_t total_bytes
        while True:
            # A read that takes part in the order of all changes: whoever changes the total later sees the levels.
            total_bytes = jm_add_acq_rel(&self.total.granted_bytes, 0)
            if not (self.raise_levels(total_bytes) or self.arm_levels(total_bytes)):
                return

    cdef int segment_index(self, str name) except -1:
        cdef int i
        for i in range(self.n_segments):
            if name == <str> self.names[i]:
                return i
        raise ValueError(f"segment {name!r}: expected one of {', '.join(self.names)}")

    def reserve(self, str segment, uint64_t n_bytes):
        """Charge `n_bytes` to `segment`, all or nothing; LimitExceeded if they do not fit."""
        if self.reserve_bytes(self.segment_index(segment), n_bytes, ANY) != OK:
            raise self.refusal(segment, n_bytes)

    def release(self, str segment, uint64_t n_bytes):
        """Give back `n_bytes` that were charged to `segment`; ValueError, and nothing changed, if it holds less."""
        cdef unsigned int number = self.segment_index(segment)
        cdef uint64_t used_bytes
        cdef bint holds
        self.call_in()
        used_bytes = jm_load_relaxed(&self.segments[number].granted_bytes)
        # Taken from the segment first, so that of two who give back the same bytes one is refused.
        while True:
            holds = n_bytes <= used_bytes
            if not holds or jm_cas_weak_acq_rel(
                &self.segments[number].granted_bytes, &used_bytes, used_bytes - n_bytes
            ):
                break
        self.reopen()
        if not holds:
            raise ValueError(f"n_bytes: {n_bytes} are not charged to {segment}, {used_bytes} are")
        used_bytes = account_lower(self.total, n_bytes)
        if jm_load_relaxed(&self.levels) and self.arm_levels(used_bytes):
            self.watch()

    def refusal(self, str segment, n_bytes, holders=(), hint=""):
        """The LimitExceeded that tells why `n_bytes` did not fit: the segment's ceiling, or the whole budget."""
        cdef Account *account = &self.segments[self.segment_index(segment)]
        cdef uint64_t segment_bytes, total_bytes
        self.call_in()
        segment_bytes = jm_load_relaxed(&account.granted_bytes)
        total_bytes = jm_load_relaxed(&self.total.granted_bytes)
        self.reopen()
        if segment_bytes + n_bytes > account.limit_bytes:
            return error_of(LIMIT_EXCEEDED, segment_bytes, account.limit_bytes, n_bytes, segment, holders, hint)
        return error_of(LIMIT_EXCEEDED, total_bytes, self.total.limit_bytes, n_bytes, "total", holders, hint)

    def take_crossings(self):
        """The thresholds crossed upward since the last call, lowest first; each crossing is given to one caller."""
        cdef uint64_t taken
        cdef int i
        if not jm_load_relaxed(&self.levels) >> PENDING_SHIFT:
            return ()
        taken = jm_and_acq_rel(&self.levels, RAISED) >> PENDING_SHIFT
        return tuple([LEVELS[i] for i in range(N_LEVELS) if taken >> i & 1])

    @property
    def pressure(self):
        """ "ok", "warning", "eviction" or "critical", by the bytes in use now."""
        return self.pressure_at(self.used())

    cdef str pressure_at(self, uint64_t used_bytes):
        cdef int i
        cdef str level = "ok"
        for i in range(N_LEVELS):
            if used_bytes >= self.rise_bytes[i]:
                level = LEVELS[i]
        return level

    @property
    def used_bytes(self):
        return self.used()

    @property
    def limit_bytes(self):
        return self.total.limit_bytes

    @property
    def peak_bytes(self):
        return jm_load_relaxed(&self.total.peak_bytes)

    def sums(self):
        """The total (used, limit, peak), the pressure, and each segment as `segment_bytes` gives it; they add up.

        A moment when no reservation is half done is looked for. While many threads reserve without a pause there may
        be none, and a segment then shows bytes that the total does not.
        """
        cdef uint64_t[MAX_SEGMENTS + 1] used
        self.read_in_peace(used)
        peak_bytes = max(used[0], jm_load_relaxed(&self.total.peak_bytes))
        return (used[0], self.total.limit_bytes, peak_bytes), self.pressure_at(used[0]), self.by_name(&used[1])

    cdef int read_in_peace(self, uint64_t *used) except -1:
        cdef int i
        self.call_in()
        try:
            for i in range(MAX_ATTEMPTS):
                if self.read_used(used):
                    break
                if i % 16 == 15:  # a thread may have been interrupted half-way, and needs a turn
                    time.sleep(0 if i < N_BUSY else 0.0005)
        finally:
            self.reopen()
        return 0

    def segment_bytes(self):
        """For each segment its bytes in use, limit and peak: dict of name to tuple."""
        cdef uint64_t[MAX_SEGMENTS + 1] used
        self.call_in()
        self.read_used(used)
        self.reopen()
        return self.by_name(&used[1])

    cdef bint read_used(self, uint64_t *used) noexcept nogil:
        cdef uint64_t rest_bytes = jm_load_acquire(&self.total.granted_bytes)
        cdef int i
        used[0] = rest_bytes
        for i in range(self.n_segments):
            used[i + 1] = jm_load_acquire(&self.segments[i].granted_bytes)
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

    def __cinit__(self, Ledger ledger not None, str segment not None, uint64_t n_bytes):
        jm_disown(<PyObject *> self)
        self.segment = ledger.segment_index(segment)
        if ledger.reserve_bytes(self.segment, n_bytes, ANY) != OK:
            raise ledger.refusal(segment, n_bytes)
        self.n_bytes = n_bytes
        self.ledger = ledger

    def __dealloc__(self):
        if self.ledger is not None:
            self.ledger.release_bytes(self.segment, self.n_bytes)
