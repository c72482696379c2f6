"""A small number for each live thread, and one for each process of a family; see thread.h."""
from libc.stdint cimport uint64_t

cdef extern from "c/thread.h" nogil:
    enum:
        JM_MAX_THREADS  # numbers below this belong to one live thread at a time

    unsigned int jm_thread_number() noexcept
    unsigned int jm_thread_row() noexcept
    unsigned int jm_thread_end() noexcept
    void jm_thread_yield() noexcept
    uint64_t jm_thread_serial() noexcept  # no other thread has it, or had it
    uint64_t jm_fork_number() noexcept  # a forked child has another one than who asked before
