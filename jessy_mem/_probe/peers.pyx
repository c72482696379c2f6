"""What benchmarks compare with: functions of other C libraries, by their addresses, in the same C loops.

An address is that of a function whose library the caller keeps loaded; any other ends the process. Not for use by the
library itself.
"""
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from jessy_mem._core.c.clock cimport jm_clock_monotonic_ns
from jessy_mem._probe.workers cimport Worker, run_workers

ctypedef void *(*malloc_t)(size_t n_bytes) noexcept nogil
ctypedef void (*free_t)(void *block) noexcept nogil
ctypedef bint (*record_t)(void *histogram, int64_t value) noexcept nogil

cdef struct Allocator:
    malloc_t malloc
    free_t free
    size_t n_bytes
    uint64_t n_rounds


# As pool_pairs, one block out.
cdef void allocator_pairs(Worker *me) noexcept nogil:
    cdef Allocator *task = <Allocator *> me.task
    cdef void *block = task.malloc(task.n_bytes)
    cdef uint64_t _i
    for _i in range(task.n_rounds):
        task.free(block)
        block = task.malloc(task.n_bytes)
        me.counts[0] += block == NULL
    task.free(block)


def allocator_pairs_ns(
    uintptr_t malloc_address, uintptr_t free_address, size_t n_bytes, uint64_t n_pairs, unsigned int n_threads=1
):
    """Nanoseconds for malloc and free of another allocator, in each of n_threads threads; the block is not touched."""
    cdef Allocator task
    task.malloc, task.free = <malloc_t> malloc_address, <free_t> free_address
    task.n_bytes, task.n_rounds = n_bytes, n_pairs
    t_ns, n_failed, *_ = run_workers(allocator_pairs, &task, n_threads)
    if n_failed:
        raise RuntimeError(f"{n_failed} allocations failed")
    return t_ns / n_pairs


def record_cost_ns(
    uintptr_t record_address, uintptr_t histogram_address, const uint64_t[::1] values not None, size_t n_rounds
):
    """Mean cost of one hdr_record_value of HdrHistogram_c, in nanoseconds, over `n_rounds` times all `values`."""
    cdef record_t record = <record_t> record_address
    cdef void *histogram = <void *> histogram_address
    cdef uint64_t begin_ns, end_ns
    cdef size_t i, _round
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        for _round in range(n_rounds):
            for i in range(<size_t> values.shape[0]):
                record(histogram, <int64_t> values[i])
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> (n_rounds * <size_t> values.shape[0])
