"""The arena of a pool: claim and release of blocks without the GIL and without a lock; see arena.pyx.

A `PoolBlock` is a plain value: copies of it name the same claim, and of all releases of one claim exactly one succeeds,
however late the others come.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.budget cimport Ledger
from jessy_mem._core.c.typedefs cimport Status, unit_index_t
from jessy_mem._core.kernels.bitmap cimport Holds, Zone
from jessy_mem._core.kernels.tally cimport Tally

cdef enum:
    MIN_BLOCK_BYTES = 64
    MAX_CLASSES = 32     # block sizes of 64 bytes to 128 GiB

cdef enum:
    GUARDED = 0x40000000  # in a block's class: behind its bytes is a page that faults


cdef struct PoolBlock:         # a claimed block, or run of blocks
    void *address
    Py_ssize_t n_bytes         # asked for
    uint64_t capacity_bytes    # writable, and charged; of a guarded block more is charged, see `charged_bytes`
    unit_index_t unit          # where it begins in the arena
    uint64_t tag               # odd; that of its first unit while this claim lives
    uint32_t size_class        # a run belongs to the largest class
    uint32_t segment           # of the ledger


cdef struct PoolClass:         # constant
    uint64_t block_bytes
    uint64_t n_units           # of one block
    unsigned int order         # log2(n_units)
    unsigned int n_elsewhere   # entries of `elsewhere`; 0 when classes are strict
    uint8_t[MAX_CLASSES] elsewhere  # the zones it borrows from, in this order


cdef struct Sum:               # the common part of a tally: a cache line of its own
    uint64_t value             # atomic
    uint64_t[7] padding


cdef struct Share:             # what one thread knows of one class: a cache line, written by that thread
    uint64_t hint              # word of the class's zone where it searches first
    Tally used                 # blocks; in the last share of a thread: units of all classes
    uint64_t n_borrowed        # blocks outside their home
    uint64_t requested_bytes
    uint64_t n_unguarded       # claims since the last that was guarded; in the last share of a thread
    uint64_t[2] padding        # with it two threads take 27 ns for a pair, and 55 without


cdef class Arena:
    """The memory and the books of a pool; lives until the pool and its last block are gone."""
    cdef uint8_t[::1] memory    # n_units units; pages are committed when first touched
    cdef uint64_t[::1] words    # one mapping holds these five, each from a cache line on; a bitmap, see bitmap.pxd
    cdef uint64_t[::1] summary
    cdef uint64_t[::1] tags     # for each unit: 1 more at each claim and release that begins there; odd while claimed
    cdef Sum *sums              # one for each class, in blocks; the last one, in units
    cdef Share *shares          # n_classes + 1 for each thread number, and as many for all threads without one
    cdef Holds holds
    cdef Zone[MAX_CLASSES + 1] zones     # home of each class; the last one: what the limit allows beyond them
    cdef Zone whole
    cdef PoolClass[MAX_CLASSES] classes  # by size, smallest first
    cdef unsigned int n_classes
    cdef uint8_t[65] class_of_log2       # the class for a request of at most 2**i bytes
    cdef uint64_t unit_bytes    # the smallest block size
    cdef unsigned int unit_order  # log2(unit_bytes)
    cdef uint64_t word_bytes    # of the units of one bitmap word
    cdef uint64_t largest_bytes  # the largest block size
    cdef uint64_t n_units
    cdef int64_t slack_units    # what one thread may keep from the sum of all classes
    cdef uint64_t n_padding     # bits claimed for ever
    cdef uint64_t limit_bytes
    cdef uint64_t plain_bytes   # blocks up to that need no further look: the limit; 0 where some are guarded
    cdef uint64_t guard_sample  # one in so many blocks gets a guard; 0: none
    cdef uint64_t ceiling_bytes  # atomic; bound of the ledger's total for new blocks
    cdef Ledger ledger          # None: the arena is no larger than the limit, so a claimed bit is the reservation
    cdef bint owns_ledger       # and nobody else charges it
    cdef bint strict
    cdef bint scrub
    cdef bint clears            # whether something is to be done with what a block leaves: scrub, or a guard

    # Fill in *block: OK, LIMIT_EXCEEDED or NO_FREE_BLOCK. n_bytes must not be 0; segment is one of the ledger's.
    cdef Status claim(self, uint64_t n_bytes, uint32_t segment, PoolBlock *block) noexcept nogil
    # OK; or DOUBLE_FREE, and nothing written, when this claim was released before.
    cdef Status release(self, const PoolBlock *block) noexcept nogil
    # The same for the only holder of this claim, who knows that it was not released before.
    cdef void give_back(self, const PoolBlock *block) noexcept nogil
    # What the ledger has for a block: its capacity, or all of the larger block that a guarded one lies in.
    cdef uint64_t charged_bytes(self, const PoolBlock *block) noexcept nogil
    # Bytes of claimed units (and of those held for a moment). Never above the limit.
    cdef uint64_t used_bytes(self) noexcept nogil
    # Give the pages of free units back: how many bytes of them were in memory.
    cdef uint64_t trim(self) noexcept nogil

    cdef uint32_t class_of(self, uint64_t n_bytes) noexcept nogil
    cdef uint64_t charge_of(self, uint64_t n_bytes) noexcept nogil
    cdef bint claim_guarded(self, uint64_t n_bytes, uint32_t segment, PoolBlock *block) noexcept nogil
    cdef PoolBlock clear(self, const PoolBlock *block) noexcept nogil
    cdef unit_index_t search(self, uint32_t k, uint64_t n_bytes, Share *shares) noexcept nogil
    # What all threads know of a class, added up, blocks in use as `used.delta`; for number n_classes: units of all.
    cdef Share total_of(self, unsigned int k) noexcept nogil
    cdef uint64_t discard(self, uint64_t unit, uint64_t n_units) noexcept nogil


# An arena for the classes `homes`, a list of (block bytes, home bytes), smallest first, checked by the caller. Nothing
# is claimed. MappingError when the system refuses the address space. Where it knows no guards, there are none.
cdef Arena arena_of(
    list homes, uint64_t limit_bytes, bint strict, bint scrub, uint64_t guard_sample, Ledger ledger
)
