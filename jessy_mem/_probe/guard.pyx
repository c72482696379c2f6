"""The guard, for tests and benchmarks: ranges at any address, and reads that may fault, without the GIL.

And the lock of a region, as a thread has it that is in the middle of a change.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from jessy_mem._core.c.clock cimport jm_clock_monotonic_ns
from jessy_mem._core.c.pycompat cimport jm_mutex_lock, jm_mutex_unlock
from jessy_mem._core.guard cimport guard_add, guard_damaged, guard_install, guard_remove, guard_reset
from jessy_mem._core.region cimport MmapRegion
from jessy_mem._probe.workers cimport Worker, run_workers


def add(size_t address, size_t n_bytes, bint is_writable=False):
    """Guard [address, address + n_bytes); a handle."""
    cdef int64_t handle
    guard_install()
    handle = guard_add(<void *> address, n_bytes, is_writable)
    if handle < 0:
        raise MemoryError
    return handle


def remove(int64_t handle):
    """Forget a range."""
    guard_remove(handle)


def damaged(int64_t handle):
    """Whether pages of the range have become zeros."""
    return guard_damaged(handle)


def reset(int64_t handle):
    """Call a range undamaged."""
    guard_reset(handle)


def read_byte(size_t address):
    """The byte at an address; without the GIL."""
    cdef uint8_t byte
    with nogil:
        byte = (<volatile uint8_t *> address)[0]
    return byte


def write_byte(size_t address, uint8_t byte):
    """Write a byte at an address; without the GIL."""
    with nogil:
        (<volatile uint8_t *> address)[0] = byte


cdef struct ReadTask:
    size_t address
    size_t n_bytes
    size_t stride


cdef void read_all(Worker *me) noexcept nogil:
    cdef ReadTask *task = <ReadTask *> me.task
    cdef size_t at = 0
    while at < task.n_bytes:
        me.counts[0] += (<volatile uint8_t *> (task.address + at))[0] != 0
        me.counts[1] += 1
        at += task.stride


def read_threads(size_t address, size_t n_bytes, size_t stride, unsigned int n_threads):
    """Native threads that read every `stride`-th byte at once: how many were not zero, and how many were read."""
    cdef ReadTask task
    task.address, task.n_bytes, task.stride = address, n_bytes, stride
    counts = run_workers(read_all, &task, n_threads)[1:]
    return counts[0], counts[1]


cdef struct ChurnTask:
    size_t address
    size_t n_bytes
    uint64_t n_rounds


# Register ranges, look, remove. counts: added, damaged although nobody read.
cdef void churn(Worker *me) noexcept nogil:
    cdef ChurnTask *task = <ChurnTask *> me.task
    cdef int64_t[16] held
    cdef uint64_t _round, i
    for _round in range(task.n_rounds):
        for i in range(16):
            held[i] = guard_add(<void *> (task.address + (16 * me.number + i) * task.n_bytes), task.n_bytes, False)
            me.counts[0] += held[i] >= 0
        for i in range(16):
            if held[i] >= 0:
                me.counts[1] += guard_damaged(held[i])
                guard_remove(held[i])


def churn_threads(size_t address, size_t n_bytes, uint64_t n_rounds, unsigned int n_threads):
    """Native threads that register 16 ranges of n_bytes each and remove them: how many were added, how many damaged.

    Thread i takes [address + 16 * i * n_bytes, address + 16 * (i + 1) * n_bytes).
    """
    cdef ChurnTask task
    task.address, task.n_bytes, task.n_rounds = address, n_bytes, n_rounds
    counts = run_workers(churn, &task, n_threads)[1:]
    return counts[0], counts[1]


def damaged_cost_ns(int64_t handle, size_t n):
    """Mean cost of asking whether a range is damaged, in nanoseconds, over `n`."""
    cdef uint64_t begin_ns, end_ns, n_damaged = 0
    cdef size_t _i
    with nogil:
        begin_ns = jm_clock_monotonic_ns()
        for _i in range(n):
            n_damaged += guard_damaged(handle)
        end_ns = jm_clock_monotonic_ns()
    return (end_ns - begin_ns) / <double> n if not n_damaged else 0.0


def with_region_locked(MmapRegion region not None, act):
    """Call `act` while a region is locked, with the GIL as if it were; what that returns."""
    jm_mutex_lock(&region.mutex)
    try:
        return act()
    finally:
        jm_mutex_unlock(&region.mutex)
