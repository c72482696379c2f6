"""Native threads for the probes: one function run by many threads that begin at once.

Native threads have no Python state and hold no GIL, so they meet as hard as the machine can, on every interpreter.
Times go from the moment the first one begins to the moment the last one ends, so that threads which did not really run
at once look slow, never fast.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from jessy_mem._core.c.atomic cimport jm_add_acq_rel, jm_load_acquire, jm_spin_pause
from jessy_mem._core.c.clock cimport jm_clock_ns, jm_clock_ticks, jm_clock_use
from jessy_mem._core.latency cimport clock_factor

cdef extern from "<pthread.h>" nogil:
    int pthread_create(pthread_t *thread, const void *attributes, void *(*run)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)

jm_clock_use(clock_factor())


cdef void wait_for(const uint64_t *count, uint64_t goal) noexcept nogil:
    cdef unsigned int n_spins = 0
    while jm_load_acquire(count) < goal:
        n_spins += 1
        if n_spins % 256:
            jm_spin_pause()
        else:
            sched_yield()


cdef uint64_t next_random(uint64_t *state) noexcept nogil:  # xorshift64* (Vigna 2016)
    state[0] ^= state[0] >> 12
    state[0] ^= state[0] << 25
    state[0] ^= state[0] >> 27
    return state[0] * 0x2545F4914F6CDD1DULL


cdef void *worker_run(void *argument) noexcept nogil:
    cdef Worker *me = <Worker *> argument
    jm_add_acq_rel(me.n_arrived, 1)
    wait_for(me.n_arrived, me.n_workers)
    me.begin_ticks = jm_clock_ticks()
    me.job(me)
    me.end_ticks = jm_clock_ticks()
    jm_add_acq_rel(me.n_ended, 1)
    wait_for(me.n_ended, me.n_workers)  # all live to the end, so that none gets the number of another
    return NULL


cdef list run_workers(job_t job, void *task, unsigned int n_workers, uint64_t seed=1):
    cdef Worker *workers = <Worker *> calloc(n_workers, sizeof(Worker))
    cdef uint64_t n_arrived = 0, n_ended = 0, begin_ticks, end_ticks
    cdef unsigned int i, k, n_started = 0
    if workers == NULL:
        raise MemoryError
    try:
        with nogil:
            for i in range(n_workers):
                workers[i].job, workers[i].task = job, task
                workers[i].n_arrived, workers[i].n_ended = &n_arrived, &n_ended
                workers[i].n_workers, workers[i].number = n_workers, i
                workers[i].random = (seed + i) * 0x9E3779B97F4A7C15ULL | 1
                if pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) != 0:
                    break
                n_started += 1
            if n_started < n_workers:
                jm_add_acq_rel(&n_arrived, n_workers)  # nobody waits for those that never came
                jm_add_acq_rel(&n_ended, n_workers)
            for i in range(n_started):
                pthread_join(workers[i].thread, NULL)
        if n_started < n_workers:
            raise RuntimeError(f"only {n_started} of {n_workers} threads could be started")
        begin_ticks, end_ticks = workers[0].begin_ticks, workers[0].end_ticks
        for i in range(n_workers):
            begin_ticks = min(begin_ticks, workers[i].begin_ticks)
            end_ticks = max(end_ticks, workers[i].end_ticks)
        sums = [sum([workers[i].counts[k] for i in range(n_workers)]) for k in range(4)]
        return [jm_clock_ns(begin_ticks, end_ticks), *sums]
    finally:
        free(workers)
