"""A small number for each live thread; see thread.h."""


cdef extern from "c/thread.h" nogil:
    enum:
        JM_MAX_THREADS  # numbers below this belong to one live thread at a time

    unsigned int jm_thread_number() noexcept
    unsigned int jm_thread_row() noexcept
    unsigned int jm_thread_end() noexcept
    void jm_thread_yield() noexcept
