"""Who reads and who changes memory that is read without a lock; see doors.h. With the GIL all of it is nothing."""


cdef extern from "c/doors.h" nogil:
    ctypedef struct jm_door:
        pass
    ctypedef struct jm_hall:
        pass

    bint jm_hall_begin(jm_hall *hall, int n_doors) noexcept
    void jm_hall_end(jm_hall *hall) noexcept
    jm_door *jm_door_begin() noexcept
    void jm_door_end(jm_door *door) noexcept
    bint jm_door_enter(const jm_hall *hall, jm_door *door) noexcept
    void jm_door_leave(jm_door *door) noexcept
    bint jm_hall_enter(const jm_hall *hall, unsigned int row) noexcept
    void jm_hall_leave(const jm_hall *hall, unsigned int row) noexcept
    void jm_door_wait(const jm_door *door) noexcept
    void jm_change_begin(jm_hall *hall) noexcept
    void jm_change_end(jm_hall *hall) noexcept
    void jm_hall_lock(jm_hall *hall) noexcept
    void jm_hall_unlock(jm_hall *hall) noexcept
