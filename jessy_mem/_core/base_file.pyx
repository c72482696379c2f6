"""The base file of a dimension: what stays the same from one opening of its stack to the next, and who pays for it.

A load is short enough that to say all of this each time, and to ask Python for the charge, is a tenth of it.
"""
cimport cython
from libc.stdint cimport uint64_t

from jessy_mem._core.budget cimport Charge, Ledger
from jessy_mem._core.c.typedefs cimport OK
from jessy_mem._core.stack cimport opened_stack

cdef uint64_t ANY = -1  # ceiling: that of the ledger


@cython.final
@cython.no_gc  # texts, a ledger and what knows no object of ours
cdef class BaseFile:
    """BaseFile(path, dimension_id, *, ledger=None, segment="", most_bytes=0, immutable=False, verify="lazy",
    deltas=True, bare=None, guard="reads", metadata_limit_bytes=None, follow_links=True)\n--\n
    The base file at `path`, whose stack is charged to `segment` of `ledger` as long as it takes no more than
    `most_bytes`; the others are those of `open_stack`. Thread-safe.
    """

    def __cinit__(
        self,
        str path not None,
        uint64_t dimension_id,
        *,
        Ledger ledger=None,
        str segment not None="",
        uint64_t most_bytes=0,
        bint immutable=False,
        str verify="lazy",
        bint deltas=True,
        dict bare=None,
        str guard="reads",
        metadata_limit_bytes=None,
        bint follow_links=True,
    ):
        self.path, self.dimension_id, self.ledger = path, dimension_id, ledger
        self.segment, self.most_bytes, self.immutable = segment, most_bytes, immutable
        self.verify, self.deltas, self.bare, self.guard = verify, deltas, bare, guard
        self.metadata_limit_bytes, self.follow_links = metadata_limit_bytes, follow_links

    def open(self, place, admit):
        """`open_stack`, charged; what the ledger has no room for, by ``admit(place, n_bytes, below_bytes)``.

        Without `admit` nothing is charged, and content is neither checked nor copied: for a look at the heads.
        """
        cdef Payer payer
        if admit is None:
            return opened_stack(
                self.path, self.dimension_id, None, False, "lazy", self.deltas, self.bare, "none",
                self.metadata_limit_bytes, self.follow_links,
            )
        payer = Payer.__new__(Payer)
        payer.file, payer.place, payer.admit = self, place, admit
        return opened_stack(
            self.path, self.dimension_id, payer, self.immutable, self.verify, self.deltas, self.bare, self.guard,
            self.metadata_limit_bytes, self.follow_links,
        )


@cython.final
@cython.internal
@cython.freelist(4)
cdef class Payer:
    """Who is asked for the charge of each file of a stack, while it is opened."""

    def __call__(self, uint64_t n_bytes, uint64_t below_bytes):
        cdef BaseFile file = self.file
        cdef Charge charge
        if file.ledger is not None and below_bytes <= file.most_bytes and n_bytes <= file.most_bytes - below_bytes:
            charge = Charge(file.ledger, file.segment, 0)  # first: for what is reserved no memory may be short
            if file.ledger.reserve_bytes(charge.segment, n_bytes, ANY) == OK:
                charge.n_bytes = n_bytes
                return charge
        return self.admit(self.place, n_bytes, below_bytes)
