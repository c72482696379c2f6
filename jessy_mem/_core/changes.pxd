"""ChangePage: the page on which the processes of one base folder tell each other what changed."""
from libc.stdint cimport int64_t, uint64_t

from jessy_mem._core.mapping cimport Mapping

cdef enum:
    N_ENTRIES = 1024  # changes that the ring holds

cdef enum Found:  # at the path
    MAPPED
    NO_PAGE    # nothing, or something else
    NO_MEMORY  # a page, on a file system that does not map it


cdef class ChangePage:
    # The number of the newest change; 0 while there is no page. The address stays for the object's life, so a hot path
    # asks `jm_load_relaxed(page.word) != seen`, from any thread, and nothing else.
    cdef const uint64_t *word
    cdef readonly str path
    cdef bytes path_bytes       # as the system takes it
    cdef Mapping memory         # one address for whichever file is mapped there, or for zeros
    cdef uint64_t[::1] words    # all of `memory`
    cdef int64_t guard          # handle of the guard
    cdef uint64_t device        # of the file that is mapped
    cdef uint64_t inode
    cdef bint is_mapped         # a file, not zeros
    cdef bint is_writable       # and changes can be written to it

    cdef bint is_sound(self) noexcept
    cdef bint has_page(self, bint for_writing) noexcept
    cdef Found map_now(self, bint leaves) except *
    cdef Found map_file(self) noexcept
    cdef void map_zeros(self) noexcept
    cdef uint64_t write_entry(self, uint64_t event, uint64_t generation) noexcept nogil
    cdef bint read_entry(self, uint64_t sequence, uint64_t *event, uint64_t *generation) noexcept nogil
