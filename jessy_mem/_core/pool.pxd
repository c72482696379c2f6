"""PoolAllocator and Block. The interface for other Cython packages: see docs/cython.md."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.arena cimport Arena, PoolBlock
from jessy_mem._core.c.thread cimport JM_MAX_THREADS
from jessy_mem._core.c.typedefs cimport Status


cdef class Keeper:
    """What a block holds of its pool's arena; those of one thread hold the same one."""
    cdef Arena arena
    cdef uint64_t[12] padding       # no two lie on one cache line


cdef class Block:
    """A writable buffer out of a pool. 88 bytes; no methods here, because a table of them would be 8 more."""
    cdef object __weakref__
    cdef Keeper keeper
    cdef PoolBlock held
    cdef uint64_t state             # by jm_gil_cas; 0: freed (or never allocated), 1 + n: allocated, with n views


cdef extern from "c/pycompat.h":
    Block jm_stolen_block "jm_stolen"(PyObject *each)  # a cast of what jm_stolen returns counts one reference more


cdef class PoolAllocator:
    """A pool of blocks; see pool.pyi for the Python face."""
    cdef object __weakref__
    cdef Arena arena
    cdef uint32_t segment           # of the arena's ledger, for blocks without a segment of their own
    cdef str segment_name
    # atomic; what the blocks of each thread hold, one for all with the GIL; NULL until it is needed
    cdef (void *)[JM_MAX_THREADS + 1] keepers
    cdef uint8_t is_open            # atomic flag

    # Claim n_bytes (not 0) without the GIL: OK, LIMIT_EXCEEDED or NO_FREE_BLOCK. Works on a closed pool too.
    cdef Status claim_block(self, uint64_t n_bytes, PoolBlock *block) noexcept nogil
    # OK; or DOUBLE_FREE, and nothing written, when this claim was released before. `block` must come from this pool.
    cdef Status release_block(self, const PoolBlock *block) noexcept nogil

    cdef Block allocate_block(self, object n_bytes, uint32_t segment)
    # The same of a pool that is open, as a reference that is the caller's, who disowns it (jm_disown); NULL if it is
    # refused, `status` and `n` saying what was.
    cdef PyObject *try_block(self, object n_bytes, uint32_t segment, int64_t *n, Status *status) except? NULL
    # DoubleFree, BufferError; ValueError for another pool's.
    cdef int free_block(self, Block block) except -1
    # What a block of this thread is to hold.
    cdef Keeper own_keeper(self)
    cdef object refusal(self, Status status, uint64_t n_bytes, uint32_t segment)
    cdef Arena made(self)
    cdef int check_open(self) except -1
