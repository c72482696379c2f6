"""The text cache: what layers were decoded to, kept within a bound and the budget."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from jessy_mem._core.budget cimport Ledger


cdef class KeptText:
    """A text that is kept: charged as long as this object lives. Nothing of it changes but its place in the ring."""
    cdef str text
    cdef TextCache cache         # which charged it; None: it is not charged
    cdef uint64_t n_bytes        # of the str, and RECORD_BYTES
    cdef dict home               # where it is found, by its layer
    cdef object layer
    cdef uint8_t found           # atomic flag: found again since it was last looked at
    cdef KeptText older, newer   # in the ring; None: it is not there


cdef class KeptTexts:
    """The texts of one Image's layers that are kept; they go with it."""
    cdef TextCache cache
    cdef dict by_layer           # layer -> KeptText

    # The text of a layer, or None.
    cdef str find(self, object layer)
    # `text`, which a layer was decoded to and nobody else knows, kept if there is room; or the one that another kept.
    cdef str keep(self, object layer, str text)
    # Keep the text of a layer no longer.
    cdef int drop(self, object layer) except -1


cdef class TextCache:
    cdef Ledger ledger
    cdef unsigned int segment    # of the ledger
    cdef uint64_t bound_bytes    # atomic; 0 once it is closed
    cdef uint64_t n_bytes        # atomic; of what is kept
    cdef KeptText ring           # stands between the newest and the oldest

    # A new image's.
    cdef KeptTexts of_image(self)
    # What could be kept in addition without passing the bound or a threshold; below 0 if one is passed.
    cdef int64_t spare_bytes(self) noexcept
    # Charge n_bytes, after older texts went if that makes room; False, and nothing is charged, if it does not.
    cdef bint charge(self, uint64_t n_bytes) except -1
    cdef void release(self, uint64_t n_bytes) noexcept
    # Into the ring, as the newest; the second under the critical section.
    cdef int link(self, KeptText kept) except -1
    cdef void put_newest(self, KeptText kept) noexcept
    # Out of the ring, by who takes it out of `home` then; False if it was not there.
    cdef bint unlink(self, KeptText kept) except -1
    # The same of the oldest that was not found again; None if there is none.
    cdef KeptText unlink_oldest(self)
