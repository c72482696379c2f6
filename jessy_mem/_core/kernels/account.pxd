"""Accounts of the ledger, and the credit of threads. Inline kernels; no lock, no Python object.

    granted = in use + credit of all threads + what is between the two for a moment (a move)

With credit a reservation and its release take 12 ns in each of two threads, and 50 without; in one thread 12 and 24.
Granted bytes never pass a limit, so used bytes do not. What needs the used bytes to the byte (a refusal, a level, a
number that is shown) calls all credit in first, and looks while nobody can have any. The protocol, which budget.pyx
follows; "closed" means that the low 16 bits of `valve` are not 0, and a word of credit is good only for an open valve
of its epoch:

reserve  1  read `valve` (acquire): open; then total.granted: at most `calm_bytes`, and the ceiling is no lower
         2  the own word is of the valve's epoch and holds n: CAS word - n (acq_rel). Done
         3  else with more credit: CAS `valve` to one move more, if it is open; raise segment and total by n + step, the
            total to at most `easy_bytes`; CAS the own word, as it was read before, to step more, of that epoch; if
            somebody else has written it, lower total and segment by step; one move less. Done, if both could be raised
         4  else raise segment and total by n, if the total does not pass `calm_bytes` from below. Done
         5  else call in; raise them by n, whatever the total; reopen. Done, or refused
release  1  as above, and the total at most `easy_bytes`, and the word with n more at most `credit_bytes`: CAS word + n
         2  else lower total and segment by n
call in  1  CAS `valve` to one more who has called in and one move more, and to the next epoch if it was open
         2  exchange each word for (this epoch, 0); lower total and segment by what it held
         3  one move less; wait until there is none
         4  do what needs it; reopen: one less who has called in

Why it is right. A word is written by its owner, by CAS from a value that he read, and by who calls in; so each byte
that leaves a word is taken by one of them. A CAS of step 2 or release 1 that succeeds comes before the exchange of
every later epoch, because that changes the word; so who has called in finds what it did. A move begins only at an
open valve, by a CAS of the same word that closes it: who has called in sees each move that began before, and waits.
While he has called in the epoch stays, and nobody has read it from an open valve: all credit is 0. The total passes
`calm_bytes` upward only there, and credit is used only by who found the total not above it after he had read the valve;
so above `calm_bytes` nobody has credit, and granted is used. All levels and ceilings lie above it. A forked child may
find moves of threads that it does not have: before the first of its own they are forgotten (`valve_enter`), and what
they had raised stays so, a step each.
"""
from libc.stdint cimport uint64_t

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport (
    jm_and_acq_rel,
    jm_cas_acq_rel,
    jm_cas_weak_acq_rel,
    jm_load_acquire,
    jm_load_relaxed,
    jm_store_release,
    jm_sub_acq_rel,
)
from jessy_mem._core.c.thread cimport jm_fork_number, jm_thread_yield

cdef enum:
    MAX_SEGMENTS = 8

cdef extern from *:
    """
    #define JM_CLOSED 0xffffull
    #define JM_MOVE 0x10000ull
    #define JM_MOVES 0xffff0000ull
    #define JM_EPOCH 0x100000000ull
    #define JM_BYTES 0xffffffffull
    """
    # Parts of the valve; its epoch is its high half, as it is of a word of credit.
    const uint64_t CLOSED "JM_CLOSED"  # how many have called in
    const uint64_t MOVE "JM_MOVE"
    const uint64_t MOVES "JM_MOVES"  # under way
    const uint64_t EPOCH "JM_EPOCH"
    const uint64_t BYTES "JM_BYTES"  # of a word of credit
    const uint64_t ANY "UINT64_MAX"  # no ceiling


cdef struct Account:            # one cache line, so that segments do not disturb each other
    uint64_t granted_bytes      # atomic; in use or credit of a thread; granted_bytes <= limit_bytes at every moment
    uint64_t peak_bytes         # atomic, only grows
    uint64_t limit_bytes        # constant
    uint64_t[5] padding


cdef struct Row:                # the credit of one thread: a cache line, written by that thread and by who calls in
    uint64_t[MAX_SEGMENTS] words  # atomic; for each segment an epoch of the valve (32 bits) and bytes (32 bits)


cdef inline bint account_raise(
    Account *account, uint64_t n_bytes, uint64_t ceiling_bytes, uint64_t calm_bytes, uint64_t *after
) noexcept nogil:
    """Add n_bytes if the sum stays within limit and ceiling, and does not pass `calm_bytes` from below; `after` gets
    the new value."""
    cdef uint64_t granted_bytes = jm_load_relaxed(&account.granted_bytes)
    cdef uint64_t bound_bytes = min(account.limit_bytes, ceiling_bytes), most_bytes
    while True:
        most_bytes = min(bound_bytes, calm_bytes) if granted_bytes <= calm_bytes else bound_bytes
        # granted_bytes may be above the ceiling, so it is compared before it is subtracted.
        if granted_bytes > most_bytes or n_bytes > most_bytes - granted_bytes:
            return False
        if jm_cas_weak_acq_rel(&account.granted_bytes, &granted_bytes, granted_bytes + n_bytes):
            after[0] = granted_bytes + n_bytes
            jm_assert(after[0] <= account.limit_bytes, after[0], account.limit_bytes)
            return True


cdef inline uint64_t account_lower(Account *account, uint64_t n_bytes) noexcept nogil:
    """Take away n_bytes that were added: the new sum."""
    cdef uint64_t granted_bytes = jm_sub_acq_rel(&account.granted_bytes, n_bytes)
    jm_assert(granted_bytes >= n_bytes, granted_bytes, n_bytes)
    return granted_bytes - n_bytes


cdef inline uint64_t row_bytes(const Row *row, int n_segments) noexcept nogil:
    """The credit of a thread in all segments."""
    cdef uint64_t n_bytes = 0
    cdef int i
    for i in range(n_segments):
        n_bytes += jm_load_relaxed(&row.words[i]) & BYTES
    return n_bytes


cdef inline bint credit_is_good(uint64_t word, uint64_t valve) noexcept nogil:
    """Whether a word of credit is of the epoch of a valve that is open."""
    return not valve & CLOSED and (word ^ valve) < EPOCH


cdef inline void valve_enter(uint64_t *valve, uint64_t *fork) noexcept nogil:
    """Before a move: in a forked child those of its parent's threads are forgotten. `fork` is twice the number of the
    process that the moves are of, and 1 more while they are forgotten."""
    cdef uint64_t own = jm_fork_number() << 1, seen = jm_load_acquire(fork)
    while seen != own:
        if seen == own | 1:  # by another thread
            jm_thread_yield()
            seen = jm_load_acquire(fork)
        elif jm_cas_acq_rel(fork, &seen, own | 1):
            jm_and_acq_rel(valve, ~MOVES)
            jm_store_release(fork, own)
            seen = own
