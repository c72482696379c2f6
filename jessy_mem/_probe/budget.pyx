"""The ledger, for tests and benchmarks: native threads that reserve and release."""
from libc.stdint cimport uint64_t

from jessy_mem._core.budget cimport Ledger
from jessy_mem._core.c.asserts cimport JM_CHECKED
from jessy_mem._core.c.atomic cimport jm_add_acq_rel, jm_load_acquire, jm_load_relaxed, jm_sub_acq_rel
from jessy_mem._core.c.thread cimport jm_thread_yield
from jessy_mem._core.c.typedefs cimport OK
from jessy_mem._core.kernels.account cimport ANY, MOVE, account_raise
from jessy_mem._probe.workers cimport Worker, next_random, run_workers, wait_for

cdef enum:
    N_HELD = 8  # reservations that a thread holds at most


cdef struct LedgerTask:
    void *ledger           # a Ledger
    uint64_t n_segments
    uint64_t n_bytes       # of a reservation, at most
    uint64_t n_rounds
    uint64_t n_done        # atomic; threads that have ended
    uint64_t before_bytes  # in use when they began


cdef struct Held:
    unsigned int segment
    uint64_t n_bytes


# Reserve and release at random, and release everything in the end. counts: granted, refused.
cdef void reserve_and_release(Worker *me) noexcept nogil:
    cdef LedgerTask *task = <LedgerTask *> me.task
    cdef Held[N_HELD] held
    cdef Held *each
    cdef uint64_t draw, ceiling_bytes
    cdef uint64_t i, n_held = N_HELD
    for i in range(n_held):
        held[i].n_bytes = 0
    for i in range(task.n_rounds + n_held):
        each = &held[i % n_held]
        if each.n_bytes:
            (<Ledger> task.ledger).release_bytes(each.segment, each.n_bytes)
            each.n_bytes = 0
        if i >= task.n_rounds:
            continue
        draw = next_random(&me.random)
        each.segment = draw % task.n_segments
        each.n_bytes = 1 + (draw >> 16) % task.n_bytes
        ceiling_bytes = ~<uint64_t> 0
        if draw >> 62 == 0:
            ceiling_bytes = (<Ledger> task.ledger).total.limit_bytes // 2
        if (<Ledger> task.ledger).reserve_bytes(each.segment, each.n_bytes, ceiling_bytes) == OK:
            me.counts[0] += 1
        else:
            me.counts[1] += 1
            each.n_bytes = 0
    jm_add_acq_rel(&task.n_done, 1)


# Look at every account until all others have ended, and now and then at the bytes in use. counts: looks, and accounts
# seen above their limit, or more in use than all can hold.
cdef void watch_limits(Worker *me, Ledger ledger) noexcept nogil:
    cdef LedgerTask *task = <LedgerTask *> me.task
    cdef uint64_t k, used_bytes, most_bytes = task.before_bytes + (me.n_workers - 1) * N_HELD * task.n_bytes
    while jm_load_acquire(&task.n_done) < me.n_workers - 1:
        for k in range(1 + task.n_segments):  # the total, and the segments behind it
            me.counts[3] += jm_load_relaxed(&ledger.total[k].granted_bytes) > ledger.total[k].limit_bytes
        me.counts[2] += 1
        if me.counts[2] % 16 == 0:
            used_bytes = ledger.used()
            me.counts[3] += used_bytes < task.before_bytes or used_bytes > most_bytes


cdef void ledger_job(Worker *me) noexcept nogil:
    if me.number == me.n_workers - 1:
        watch_limits(me, <Ledger> (<LedgerTask *> me.task).ledger)
    else:
        reserve_and_release(me)


def ledger_stress(
    Ledger ledger not None, uint64_t n_bytes, uint64_t n_rounds, unsigned int n_threads=2, uint64_t seed=1
):
    """Threads reserve up to n_bytes at a time in all segments and release; one more looks for what is above its limit,
    and for bytes in use that nobody can hold.

    Counts: "granted" and "refused" reservations, "looks", and "violations" found. Everything is released in the end.
    """
    cdef LedgerTask task
    task.ledger, task.n_segments, task.n_done = <void *> ledger, len(ledger.names), 0
    task.n_bytes, task.n_rounds, task.before_bytes = n_bytes, n_rounds, ledger.used()
    counts = run_workers(ledger_job, &task, n_threads + 1, seed)[1:]
    return dict(zip(("granted", "refused", "looks", "violations"), counts))


cdef void begin(Ledger ledger, unsigned int segment, uint64_t n_bytes) noexcept nogil:
    cdef uint64_t after
    jm_add_acq_rel(&ledger.valve, MOVE)
    account_raise(&ledger.segments[segment], n_bytes, ANY, ANY, &after)
    account_raise(ledger.total, n_bytes, ANY, ANY, &after)


cdef void end(Ledger ledger, unsigned int segment, uint64_t n_bytes) noexcept nogil:
    ledger.take_back(segment, n_bytes)
    jm_sub_acq_rel(&ledger.valve, MOVE)


def begin_move(Ledger ledger not None, uint64_t n_bytes):
    """As a thread that is interrupted while it takes credit: bytes are granted, and neither in use nor credit yet."""
    begin(ledger, 0, n_bytes)


def end_move(Ledger ledger not None, uint64_t n_bytes):
    """The same thread goes on, and gives them back."""
    end(ledger, 0, n_bytes)


# One thread is interrupted for n_rounds turns of others while it takes credit; the other asks for the bytes in use.
cdef void move_and_ask(Worker *me) noexcept nogil:
    cdef LedgerTask *task = <LedgerTask *> me.task
    cdef uint64_t _turn
    if me.number == 0:
        begin(<Ledger> task.ledger, 0, task.n_bytes)
        jm_add_acq_rel(&task.n_done, 1)
        for _turn in range(task.n_rounds):
            jm_thread_yield()
        end(<Ledger> task.ledger, 0, task.n_bytes)
    else:
        wait_for(&task.n_done, 1)
        me.counts[0] = (<Ledger> task.ledger).used()


def used_while_credit_is_taken(Ledger ledger not None, uint64_t n_bytes, uint64_t n_turns):
    """The bytes in use that one thread is told while another takes credit, which lasts for so many turns of others."""
    cdef LedgerTask task
    task.ledger, task.n_segments, task.n_done, task.n_bytes, task.n_rounds = <void *> ledger, 1, 0, n_bytes, n_turns
    return run_workers(move_and_ask, &task, 2)[1]


# Wait until all threads of a two-thread job have come here for the n-th time.
cdef void meet(LedgerTask *task, uint64_t n) noexcept nogil:
    jm_add_acq_rel(&task.n_done, 1)
    wait_for(&task.n_done, 2 * n)


# One thread goes up across the first threshold while the other goes down: 300 bytes at least are below it, 500 above.
# counts[0], [1]: rounds that ended below and left the level raised, or above and left it armed.
cdef void level_races(Worker *me) noexcept nogil:
    cdef LedgerTask *task = <LedgerTask *> me.task
    cdef uint64_t n_met = 0, every = ~<uint64_t> 0
    while n_met < 4 * task.n_rounds:
        if me.number == 1:
            (<Ledger> task.ledger).reserve_bytes(0, 300, every)
        n_met += 1
        meet(task, n_met)
        if me.number == 0:
            (<Ledger> task.ledger).reserve_bytes(0, 300, every)
        else:
            (<Ledger> task.ledger).release_bytes(0, 300)
        n_met += 1
        meet(task, n_met)
        if me.number == 1:
            me.counts[0] += (<Ledger> task.ledger).levels & 1
            (<Ledger> task.ledger).reserve_bytes(0, 300, every)
        n_met += 1
        meet(task, n_met)
        if me.number == 0:
            (<Ledger> task.ledger).release_bytes(0, 300)
        else:
            (<Ledger> task.ledger).reserve_bytes(0, 250, every)
        n_met += 1
        meet(task, n_met)
        if me.number == 1:
            me.counts[1] += not (<Ledger> task.ledger).levels & 1
            (<Ledger> task.ledger).release_bytes(0, 550)


def levels_left_wrong(uint64_t n_rounds):
    """How often two threads, one up and one down across a threshold, left its level wrong: (below, above)."""
    cdef Ledger ledger = Ledger(1000, {"all": 1000}, (50.0, 100.0, 100.0))
    cdef LedgerTask task
    task.ledger, task.n_segments, task.n_done, task.n_bytes, task.n_rounds = <void *> ledger, 1, 0, 0, n_rounds
    counts = run_workers(level_races, &task, 2)[1:]
    return counts[0], counts[1]


# Reserve and release n_bytes in one segment, one after the other; nothing is refused.
cdef void pairs(Worker *me) noexcept nogil:
    cdef LedgerTask *task = <LedgerTask *> me.task
    cdef uint64_t _i
    for _i in range(task.n_rounds):
        (<Ledger> task.ledger).reserve_bytes(0, task.n_bytes, ~<uint64_t> 0)
        (<Ledger> task.ledger).release_bytes(0, task.n_bytes)


def ledger_pairs_ns(Ledger ledger not None, uint64_t n_bytes, uint64_t n_rounds, unsigned int n_threads=1):
    """Nanoseconds for one reservation of n_bytes and its release, in each of n_threads threads."""
    cdef LedgerTask task
    task.ledger, task.n_segments, task.n_done = <void *> ledger, len(ledger.names), 0
    task.n_bytes, task.n_rounds = n_bytes, n_rounds
    return run_workers(pairs, &task, n_threads)[0] / n_rounds


# -- invariants that are broken on purpose: these end the process, but only in a build that checks -------------------

checks_invariants = bool(JM_CHECKED)


def release_more_than_was_charged(Ledger ledger not None, uint64_t n_bytes):
    """Break the ledger as no caller from Python can."""
    ledger.release_bytes(0, n_bytes)
