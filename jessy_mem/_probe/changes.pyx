"""Doors to the page of changes for tests and benchmarks: the hot path's comparison in a C loop."""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.atomic cimport jm_load_acquire, jm_load_relaxed
from jessy_mem._core.c.clock cimport jm_clock_init, jm_clock_monotonic_ns
from jessy_mem._core.changes cimport ChangePage

jm_clock_init()

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
