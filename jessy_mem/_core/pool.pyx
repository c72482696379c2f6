"""The pool as Python sees it: PoolAllocator hands out Blocks of an Arena.

HAZARD: a view outlives everything. What keeps the memory is the chain view -> Block -> Keeper -> Arena; PoolAllocator
is only one more holder of the Arena, so a pool may be closed or gone while views of its blocks live. A Block's `state`
counts its views, and the step from "no views" to "freed" is one exchange, so that no view is taken of a block that is
being freed. Without the GIL each thread has a Keeper of its own: 16 threads that count references in one place allocate
1.5 times as much as one does, and with this 9 times.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t

from jessy_mem._core.arena cimport GUARDED, MAX_CLASSES, MIN_BLOCK_BYTES, Arena, PoolBlock, Share, arena_of
from jessy_mem._core.budget cimport Ledger
from jessy_mem._core.c.atomic cimport (
    jm_flag_load_acquire,
    jm_flag_store_release,
    jm_gil_cas,
    jm_load_relaxed,
    jm_ptr_cas,
    jm_ptr_load_acquire,
    jm_store_relaxed,
    jm_unlikely,
)
from jessy_mem._core.c.os_memory cimport jm_os_resident_pages, jm_page_bytes
from jessy_mem._core.c.pycompat cimport JM_FREE_THREADED, jm_disown
from jessy_mem._core.c.thread cimport jm_thread_number
from jessy_mem._core.c.typedefs cimport DOUBLE_FREE, LIMIT_EXCEEDED, MIB_BYTES, OK, Status
from jessy_mem._core.kernels.bitmap cimport Zone, bitmap_count_free, bitmap_longest_free

import os

from jessy_mem import sizes
from jessy_mem._core.records import PoolClassStats, PoolStats
from jessy_mem.errors import ManagerClosed, error_of

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef char *BYTES_FORMAT = "B"

assert MAX_CLASSES == sizes.MAX_CLASSES and MIN_BLOCK_BYTES == sizes.MIN_BLOCK_BYTES


cdef int fit_homes(list homes, object limit_bytes) except -1:
    """Shrink homes that are larger than the limit together, all alike: address space that no block could ever use.

    Each is whole blocks of the largest class, so that none of them lies across a border. A home is only where a class
    looks first, so nothing else changes.
    """
    largest_bytes = homes[len(homes) - 1][0]
    total_bytes = sum([home_bytes for _, home_bytes in homes])
    if total_bytes <= limit_bytes:
        return 0
    for i, (block_bytes, home_bytes) in enumerate(homes):
        n_largest = -(-home_bytes * limit_bytes // (total_bytes * largest_bytes))
        homes[i] = (block_bytes, min(home_bytes, n_largest * largest_bytes))
    return 0


@cython.final
@cython.no_gc  # holds an Arena: no cycle can pass through it
cdef class Keeper:
    pass


@cython.final
@cython.no_gc  # holds a Keeper: no cycle can pass through it
@cython.freelist(64)
cdef class Block:
    """A writable buffer of `n_bytes` bytes out of a pool; made by `PoolAllocator.allocate`.

    It goes back to the pool by `free()`, at the end of its `with` block, or with its last reference. While a view of it
    lives it can not be freed. The bytes are those the last owner left, unless the pool was made with ``scrub=True``.

    Thread-safe: of several threads that free one block exactly one succeeds.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("blocks are made by PoolAllocator.allocate")

    def __dealloc__(self):
        if self.state:  # no view is left: each holds a reference to this object
            self.keeper.arena.give_back(&self.held)

    def free(self):
        """Give the block back to its pool; BufferError while a view of it lives, DoubleFree the second time."""
        block_free(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # After an error the traceback may hold views: the block then goes back with its last reference.
        cdef uint64_t state = jm_load_relaxed(&self.state)
        if state and (kind is None or state == 1):
            block_free(self)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef uint64_t state = jm_load_relaxed(&self.state)
        while True:
            if state == 0:
                raise BufferError("the block was freed")
            if jm_gil_cas(&self.state, &state, state + 1):
                break
        view.obj = self
        view.buf = self.held.address
        view.len = self.held.n_bytes
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = BYTES_FORMAT if flags & PyBUF_FORMAT else NULL
        view.shape = &self.held.n_bytes if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __releasebuffer__(self, Py_buffer *view):
        cdef uint64_t state = jm_load_relaxed(&self.state)
        while not jm_gil_cas(&self.state, &state, state - 1):
            pass

    def __len__(self):
        return self.held.n_bytes

    def __repr__(self):
        what = "" if self.state else "freed "
        return f"<{what}Block of {self.held.n_bytes} bytes (capacity {self.capacity})>"

    def __sizeof__(self):
        return object.__sizeof__(self) + (0 if self.freed else self.capacity)

    @property
    def n_bytes(self):
        """The bytes that were asked for: the length of the buffer."""
        return self.held.n_bytes

    @property
    def capacity(self):
        """The bytes that are charged: the whole block, or all blocks of a run, the guard included."""
        if self.keeper is None:
            return 0
        return self.keeper.arena.charged_bytes(&self.held)

    @property
    def freed(self):
        """Whether it was given back."""
        return jm_load_relaxed(&self.state) == 0


cdef int block_free(Block block) except -1:
    cdef uint64_t state = 1, block_bytes
    if not jm_gil_cas(&block.state, &state, 0):
        if state:
            raise BufferError(f"{state - 1} views of the block are alive; release them before it is freed")
        if block.keeper is None:  # Block.__new__(Block): nothing was ever held
            raise error_of(DOUBLE_FREE, 0, 0)
        block_bytes = block.keeper.arena.classes[block.held.size_class & ~<uint32_t> GUARDED].block_bytes
        raise error_of(DOUBLE_FREE, block_bytes, block.held.unit * block.keeper.arena.unit_bytes // block_bytes)
    if block.keeper.arena.scrub:
        with nogil:
            block.keeper.arena.give_back(&block.held)
    else:
        block.keeper.arena.give_back(&block.held)
    return 0


@cython.final
@cython.no_gc  # holds an Arena and a name
cdef class PoolAllocator:
    """PoolAllocator(pools=None, limit_mb=280, *, strict_classes=False, scrub=False, guard_sample=0, ledger=None,
    segment="pool")\n--\n
    A pool of blocks of a few power-of-two sizes in anonymous memory that is committed when first used.

    Parameters
    ----------
    pools : sequence of (int, int), optional
        For each class (size in MiB, block size in bytes); block sizes are powers of two of at least 64. The default is
        32 MiB of 4 KiB, 128 of 16 KiB, 80 of 64 KiB and 40 of 256 KiB: `jessy_mem.sizes.DEFAULT_POOLS`.
    limit_mb : int or float
        What all blocks together may hold, in MiB, counted by block size.
    strict_classes : bool
        Keep each class within its own size. Otherwise a full class borrows, next larger class first.
    scrub : bool
        Zero a block when it is freed.
    guard_sample : int
        One in so many blocks that a thread claims lies before a page that nobody may touch: who writes past its end,
        as only native code can, gets a SIGSEGV then and there, instead of writing into a neighbour. Such a block takes
        a larger one, with a page more at least, which is charged. Blocks that are no whole pages are never guarded. 0:
        none; nor are there any where the system has none (before Linux 6.13).
    ledger : Ledger, optional
        A budget to share: blocks are charged to its `segment`, and `limit_mb` bounds the single request only.
    segment : str
        The segment of `ledger`, and the name in a LimitExceeded.

    Raises
    ------
    ValueError
        A size that is not positive, no power of two, or given twice, or no whole number of blocks; an unknown segment.
    MappingError
        The system refuses the address space.

    Thread-safe and lock-free. Classes that are larger than the limit together are reserved in proportion, unless they
    are strict: a small limit takes little address space. `sys.getsizeof` counts the pool's books, and what is in use
    for its block. Block layout: one bit for each smallest block, claimed in aligned groups, after
    mimalloc's arena bitmaps (Leijen, Zorn and de Moura, "Mimalloc: Free List Sharding in Action", 2019).

    >>> pool = PoolAllocator()
    >>> with pool.allocate(10_000) as block:
    ...     memoryview(block)[:5] = b"hello"
    ...     block.capacity
    16384
    >>> pool.usage()
    (0, 293601280)
    """

    def __init__(
        self,
        pools=None,
        limit_mb=280,
        *,
        strict_classes=False,
        scrub=False,
        guard_sample=0,
        Ledger ledger=None,
        str segment="pool",
    ):
        if self.arena is not None:
            raise TypeError("a PoolAllocator is initialised once")
        try:
            classes = sizes.check_pools(sizes.DEFAULT_POOLS if pools is None else pools)
        except ValueError as error:
            raise ValueError(f"pools: {error}") from None
        try:
            limit_bytes = int(sizes.check_total_mb(limit_mb) * MIB_BYTES)
        except ValueError as error:
            raise ValueError(f"limit_mb: {error}") from None
        try:
            sample = sizes.check_guard_sample(guard_sample)
        except ValueError as error:
            raise ValueError(f"guard_sample: {error}") from None
        homes = [(block_bytes, int(size_mb * MIB_BYTES)) for size_mb, block_bytes in classes]
        if not strict_classes:
            fit_homes(homes, limit_bytes)
        self.segment = 0 if ledger is None else ledger.segment_index(segment)
        self.segment_name = segment
        self.arena = arena_of(homes, limit_bytes, strict_classes, scrub, sample, ledger)
        jm_flag_store_release(&self.is_open, 1)

    cdef Status claim_block(self, uint64_t n_bytes, PoolBlock *block) noexcept nogil:
        return self.arena.claim(n_bytes, self.segment, block)

    cdef Status release_block(self, const PoolBlock *block) noexcept nogil:
        return self.arena.release(block)

    def __dealloc__(self):
        for keeper in self.keepers:
            Py_XDECREF(<PyObject *> keeper)

    cdef Keeper own_keeper(self):
        cdef void **place = &self.keepers[jm_thread_number() if JM_FREE_THREADED else 0]
        cdef void *kept = jm_ptr_load_acquire(place)
        cdef Keeper keeper
        if jm_unlikely(kept == NULL):
            keeper = Keeper.__new__(Keeper)
            jm_disown(<PyObject *> keeper)
            keeper.arena = self.arena
            if jm_ptr_cas(place, &kept, <void *> keeper):
                Py_INCREF(keeper)
                kept = <void *> keeper
        return <Keeper> kept

    cdef Arena made(self):
        if self.arena is None:
            raise TypeError("PoolAllocator.__init__ was not called")
        return self.arena

    cdef int check_open(self) except -1:
        if not jm_flag_load_acquire(&self.is_open):
            raise ManagerClosed("the pool")
        return 0

    cdef Block allocate_block(self, object n_bytes, uint32_t segment):
        cdef int64_t n
        cdef Status status
        cdef PyObject *made
        if not jm_flag_load_acquire(&self.is_open):
            raise ManagerClosed("the pool")
        made = self.try_block(n_bytes, segment, &n, &status)
        if made == NULL:
            raise self.refusal(status, n, segment)
        jm_disown(made)
        return jm_stolen_block(made)

    cdef PyObject *try_block(self, object n_bytes, uint32_t segment, int64_t *n, Status *status) except? NULL:
        cdef int overflow = 0
        cdef Block block
        n[0] = PyLong_AsLongLongAndOverflow(n_bytes, &overflow)
        if n[0] <= 0:
            if overflow <= 0:
                raise ValueError(f"n_bytes: {n_bytes} is not positive")
            n[0] = INT64_MAX
        block = Block.__new__(Block)  # disowned at the end: without the GIL, to count its references takes atomics then
        block.keeper = self.own_keeper()
        status[0] = self.arena.claim(n[0], segment, &block.held)
        if status[0] != OK:
            return NULL
        block.state = 1
        Py_INCREF(block)
        return <PyObject *> block

    cdef int free_block(self, Block block) except -1:
        if block.keeper is None or block.keeper.arena is not self.arena:
            raise ValueError("the block belongs to another pool")
        return block_free(block)

    def allocate(self, n_bytes, /):
        """A Block of `n_bytes` bytes: the smallest class that holds them, or a run of the largest blocks.

        ValueError when `n_bytes` is not positive, LimitExceeded when its block does not fit into the limit,
        AllocationFailed when no free block (or run) is left. Thread-safe and lock-free.
        """
        return self.allocate_block(n_bytes, self.segment)

    def _allocate_in(self, n_bytes, str segment):
        """As `allocate`, charged to another segment of the shared ledger until the block is freed."""
        self.check_open()
        if self.arena.ledger is None:
            raise ValueError("segment: this pool shares no ledger")
        return self.allocate_block(n_bytes, self.arena.ledger.segment_index(segment))

    def deallocate(self, Block block not None):
        """Free a block of this pool; ValueError for another pool's, else as `Block.free`."""
        self.check_open()
        self.free_block(block)

    cdef object refusal(self, Status status, uint64_t n_bytes, uint32_t segment):
        """The error that tells why a claim of `n_bytes` bytes failed."""
        cdef Arena arena = self.arena
        cdef uint64_t charge_bytes = arena.charge_of(n_bytes), used_bytes = arena.used_bytes()
        cdef uint64_t ceiling_bytes = jm_load_relaxed(&arena.ceiling_bytes)
        cdef Zone *zone = &arena.whole
        cdef unsigned int k
        if status == LIMIT_EXCEEDED and charge_bytes <= arena.limit_bytes:
            hint = "" if ceiling_bytes == UINT64_MAX else f"new blocks are refused above {ceiling_bytes} bytes in all"
            return arena.ledger.refusal(arena.ledger.names[segment], charge_bytes, (), hint)
        if arena.ledger is None and used_bytes + charge_bytes > arena.limit_bytes:
            status = LIMIT_EXCEEDED  # a block is missing because the limit is
        if status == LIMIT_EXCEEDED:
            return error_of(status, used_bytes, arena.limit_bytes, charge_bytes, self.segment_name)
        if arena.strict:
            zone = &arena.zones[arena.class_of(n_bytes)]
        free_blocks = {}
        for k in range(arena.n_classes):
            free_blocks[arena.classes[k].block_bytes] = bitmap_count_free(
                arena.words, &arena.zones[k] if arena.strict else zone, arena.classes[k].n_units
            )
        return error_of(status, n_bytes, bitmap_longest_free(arena.words, zone) * arena.unit_bytes, free_blocks)

    def usage(self):
        """(bytes charged for all blocks, limit in bytes)."""
        cdef Arena arena = self.made()
        return arena.used_bytes(), arena.limit_bytes

    def committed_bytes(self):
        """Bytes of the arena that are in memory now; a system call for each 16 MiB."""
        cdef Arena arena = self.made()
        cdef uint64_t n_pages = 0, n_resident = 0
        cdef int failed
        with nogil:
            failed = jm_os_resident_pages(&arena.memory[0], arena.n_units << arena.unit_order, &n_pages, &n_resident)
        if failed:
            raise OSError(errno, os.strerror(errno))
        return n_resident * jm_page_bytes()

    def stats(self):
        """PoolStats: exact when no other thread is in the middle of a call.

        Peaks are exact with one thread. Each further thread that claimed or released meanwhile may put a class's peak
        wrong by 8 blocks, and the pool's by two of the largest blocks.
        """
        cdef Arena arena = self.made()
        cdef Share total = arena.total_of(arena.n_classes)
        # A block that moves between two threads while the shares are read can count twice.
        cdef uint64_t used_bytes = min(total.used.delta * arena.unit_bytes, arena.limit_bytes)
        cdef uint64_t peak_bytes = min(total.used.peak * arena.unit_bytes, arena.limit_bytes)
        cdef unsigned int k
        classes = []
        for k in range(arena.n_classes):
            total = arena.total_of(k)
            n_blocks = (arena.zones[k].end_unit - arena.zones[k].first_unit) >> arena.classes[k].order
            used = total.used.delta, total.used.peak, total.n_borrowed, total.requested_bytes
            classes.append(PoolClassStats(arena.classes[k].block_bytes, n_blocks, *used))
        return PoolStats(tuple(classes), used_bytes, arena.limit_bytes, peak_bytes)

    def trim(self):
        """Give the pages of free blocks back to the system: how many bytes of memory that freed."""
        cdef uint64_t n_bytes
        self.check_open()
        with nogil:
            n_bytes = self.arena.trim()
        return n_bytes

    def close(self):
        """Refuse new blocks and give free memory back; live blocks and views stay valid. May be called twice."""
        cdef Arena arena = self.made()
        jm_flag_store_release(&self.is_open, 0)
        with nogil:
            arena.trim()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close()

    def __sizeof__(self):
        cdef Arena arena = self.made()
        return object.__sizeof__(self) + (arena.words.shape[0] + arena.tags.shape[0]) * sizeof(uint64_t)

    def __repr__(self):
        used_bytes, limit_bytes = self.usage()
        return f"<PoolAllocator: {used_bytes} of {limit_bytes} bytes in use>"

    @property
    def _ceiling_bytes(self):
        """Above how many bytes in the whole shared ledger new blocks are refused; None: only above its limit."""
        cdef uint64_t n_bytes = jm_load_relaxed(&self.made().ceiling_bytes)
        return None if n_bytes == UINT64_MAX else n_bytes

    @_ceiling_bytes.setter
    def _ceiling_bytes(self, n_bytes):
        jm_store_relaxed(&self.made().ceiling_bytes, UINT64_MAX if n_bytes is None else <uint64_t> n_bytes)
