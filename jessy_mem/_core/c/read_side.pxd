"""Who reads and who changes memory that is read without a lock; see read_side.h. With the GIL all of it is nothing."""


cdef extern from "c/read_side.h" nogil:
    ctypedef struct jm_read_flag:
        pass
    ctypedef struct jm_read_side:
        pass

    bint jm_read_side_begin(jm_read_side *side, int n_flags) noexcept
    void jm_read_side_end(jm_read_side *side) noexcept
    jm_read_flag *jm_read_flag_begin() noexcept
    void jm_read_flag_end(jm_read_flag *flag) noexcept
    bint jm_read_enter(const jm_read_side *side, jm_read_flag *flag) noexcept
    void jm_read_leave(jm_read_flag *flag) noexcept
    bint jm_read_enter_row(const jm_read_side *side, unsigned int row) noexcept
    void jm_read_leave_row(const jm_read_side *side, unsigned int row) noexcept
    jm_read_flag *jm_read_flag_of(const jm_read_side *side, unsigned int row) noexcept
    void jm_read_wait(const jm_read_flag *flag) noexcept
    void jm_change_begin(jm_read_side *side) noexcept
    void jm_change_end(jm_read_side *side) noexcept
    void jm_change_lock(jm_read_side *side) noexcept
    void jm_change_unlock(jm_read_side *side) noexcept
