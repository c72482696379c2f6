"""The one guard of this process: mapped memory whose file may go, read without a signal; see guard.h."""
from libc.stdint cimport int64_t, uint64_t

# Stand in front of whoever handles the signal by now; it costs a system call.
cdef void guard_install() noexcept nogil
# Guard [base, base + n_bytes): a handle, or -1 without memory. What takes the place of pages that are gone is writable
# if `is_writable`, which it must be where the mapping is.
cdef int64_t guard_add(void *base, size_t n_bytes, bint is_writable) noexcept nogil
# Forget a range before it is unmapped.
cdef void guard_remove(int64_t handle) noexcept nogil
# Asked after a read: whether that may have seen zeros that stand for pages that are gone.
cdef bint guard_damaged(int64_t handle) noexcept nogil
# The same for a part of a range: the address from which on its pages have become zeros, an atomic word that is there as
# long as the range is guarded. It is read behind a fence.
cdef const uint64_t *guard_mark(int64_t handle) noexcept nogil
# Call the range undamaged, before another file is mapped in its place.
cdef void guard_reset(int64_t handle) noexcept nogil
