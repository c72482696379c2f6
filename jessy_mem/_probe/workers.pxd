"""Native threads for the probes: one function run by many threads that begin at once."""
from libc.stdint cimport uint64_t

ctypedef void (*job_t)(Worker *me) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef struct Worker:
    pthread_t thread
    job_t job
    void *task            # what all workers share
    uint64_t *n_arrived   # atomic; counts workers that are ready
    uint64_t *n_ended     # atomic; counts workers that have done their job
    uint64_t n_workers
    uint64_t number       # 0..n_workers - 1
    uint64_t random       # seeded by the number
    uint64_t begin_ticks
    uint64_t end_ticks
    uint64_t[4] counts    # results

# Wait until *count has reached `goal`, without starving a machine that has fewer cores than threads.
cdef void wait_for(const uint64_t *count, uint64_t goal) noexcept nogil
cdef uint64_t next_random(uint64_t *state) noexcept nogil
# Run `job` in n_workers threads at once: the time in ns, followed by the four sums of their counts.
cdef list run_workers(job_t job, void *task, unsigned int n_workers, uint64_t seed=*)
