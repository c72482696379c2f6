"""The page of changes, for tests and benchmarks: the hot path's comparison in a C loop, and writers at once."""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.atomic cimport jm_add_acq_rel, jm_load_acquire, jm_load_relaxed
from jessy_mem._core.c.clock cimport jm_clock_monotonic_ns
from jessy_mem._core.changes cimport ChangePage
from jessy_mem._probe.workers cimport Worker, run_workers, wait_for

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept


def wait_for_other(ChangePage page not None, uint64_t seen):
    """Read the word until it is not `seen`, without the GIL; what it is then."""
    cdef uint64_t word = seen
    cdef unsigned int n_reads = 0
    with nogil:
        while word == seen:
            word = jm_load_relaxed(page.word)
            n_reads += 1
            if n_reads % 1024 == 0:
                sched_yield()
    return word


def count_changes(ChangePage page not None, const uint64_t[::1] stop not None):
    """Read the word until ``stop[0]`` is not 0, without the GIL: how many reads, and how often it was another."""
    cdef uint64_t word, seen = jm_load_relaxed(page.word), n_reads = 0, n_changes = 0
    with nogil:
        while not jm_load_acquire(&stop[0]):
            word = jm_load_relaxed(page.word)
            n_changes += word != seen
            seen = word
            n_reads += 1
            if n_reads % 1024 == 0:
                sched_yield()
    return n_reads, n_changes


def compare_cost_ns(ChangePage page not None, const uint64_t[::1] walk not None, size_t n, bint follows):
    """Mean time of a step of `walk`, in nanoseconds, over `n`: each step waits for the one before.

    `follows` compares the word at each step, as an access does; the cost is the difference of the two.
    """
    cdef uint64_t begin_ns, end_ns, at = 0, seen = jm_load_relaxed(page.word), n_other = 0
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        if follows:
            for _i in range(n):
                if jm_load_relaxed(page.word) != seen:
                    n_other += 1
                    seen = jm_load_relaxed(page.word)
                at = jm_load_relaxed(&walk[at])
        else:
            for _i in range(n):
                at = jm_load_relaxed(&walk[at])
        end_ns = jm_clock_monotonic_ns()
    if n_other:
        raise ValueError("the page changed meanwhile")
    return (end_ns - begin_ns) / <double> n


cdef struct Writers:
    void *pages[2]         # ChangePages of the same file
    uint64_t n_rounds
    uint64_t n_met         # atomic


cdef void meet(Writers *task, uint64_t n) noexcept nogil:
    jm_add_acq_rel(&task.n_met, 1)
    wait_for(&task.n_met, 2 * n)


# Both write one change at once; then one looks. counts: rounds in which both are told, and in which a change is lost.
cdef void write_at_once(Worker *me, ChangePage page) noexcept nogil:
    cdef Writers *task = <Writers *> me.task
    cdef uint64_t[2] events
    cdef uint64_t before, generation = 0, n_met = 0, n_round
    cdef bint both
    for n_round in range(task.n_rounds):
        before = jm_load_acquire(page.word)
        n_met += 1
        meet(task, n_met)
        page.write_entry(<uint64_t> 1 << 32 | me.number, n_round)
        n_met += 1
        meet(task, n_met)
        if me.number == 0:
            both = (
                page.read_entry(before + 1, &events[0], &generation)
                and page.read_entry(before + 2, &events[1], &generation) and events[0] != events[1]
            )
            me.counts[0 if both else 1] += 1
        n_met += 1
        meet(task, n_met)


cdef void writer_job(Worker *me) noexcept nogil:
    write_at_once(me, <ChangePage> (<Writers *> me.task).pages[me.number])


def writers_without_a_lock(ChangePage one not None, ChangePage other not None, uint64_t n_rounds):
    """Two threads write a change each, at once, `n_rounds` times: (both told, lost)."""
    cdef Writers task
    task.pages[0], task.pages[1], task.n_rounds, task.n_met = <void *> one, <void *> other, n_rounds, 0
    counts = run_workers(writer_job, &task, 2)[1:]
    return tuple(counts[:2])
