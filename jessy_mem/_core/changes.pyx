"""ChangePage: the page on which the processes of one base folder tell each other what changed.

It is one small file that everybody maps shared. It is a hint, never the truth: whoever deletes, truncates or overwrites
it takes freshness away and nothing else.

HAZARD: every byte of it may change, or go, at any moment, by anybody's hand.

    byte 0     what the file is: TITLE, 64 bytes that never change
         64    sequence: the number of the newest change, on a cache line of its own; the word that all compare
       4096    ring: change n in place n % N_ENTRIES, 32 bytes each
               n | generation | what << 32 | dimension | check

- `check` is computed from the other three words, so an entry that is torn, overwritten or random is none. A reader
  that wants change n and does not find it there looks at everything instead.
- A writer raises the sequence, and then fills the entry of that number, which is its own whoever else writes: this
  needs no lock. Who sees the number before the entry is there finds none, and looks at everything.
- A sequence begins at a random number, and is never 0. The page of another file, of a file that was truncated (the
  guard puts zeros there), or no page at all shows another word than the one last seen, so the hot path's one
  comparison notices them, too.
- A file is mapped over the one before, at the same address: who reads the word meanwhile reads one or the other.
- Who replaces a file that it had mapped jumps ahead on the old one first, for those who still have that.
"""
import contextlib
import os
import secrets
import struct

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp
from posix.unistd cimport close, pread

from jessy_mem._core.c.atomic cimport (
    jm_add_acq_rel, jm_load_acquire, jm_load_relaxed, jm_store_relaxed
)
from jessy_mem._core.c.os_memory cimport (
    jm_file_facts, jm_os_file_facts, jm_os_map_over, jm_os_open, jm_os_path_facts
)
from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.guard cimport guard_add, guard_damaged, guard_install, guard_remove, guard_reset
from jessy_mem._core.mapping cimport Mapping

cdef enum:
    ENTRY_WORDS = 4
    TITLE_BYTES = 64
    N_ATTEMPTS = 4
    SEQUENCE_WORD = 8        # byte 64
    RING_WORD = 512          # byte 4096
    PAGE_BYTES = 8 * (RING_WORD + N_ENTRIES * ENTRY_WORDS)

CHANGES_NAME = ".changes"
RING_CHANGES = N_ENTRIES
KINDS = ("added", "changed", "removed")

# In the byte order of this machine: memory is shared with nobody whose order is another.
cdef bytes TITLE = struct.pack("=16sIIQ32x", b"JESSY_CHANGES\0\0\0", 1, N_ENTRIES, PAGE_BYTES)


# One word into another, one to one in either (the finalizer of splitmix64, Steele et al. 2014).
cdef inline uint64_t mixed(uint64_t check, uint64_t word) noexcept nogil:
    check ^= word
    check = (check ^ (check >> 30)) * 0xBF58476D1CE4E5B9ULL
    check = (check ^ (check >> 27)) * 0x94D049BB133111EBULL
    return check ^ (check >> 31)


# What makes three words an entry.
cdef inline uint64_t check_of(uint64_t sequence, uint64_t generation, uint64_t event) noexcept nogil:
    return mixed(mixed(mixed(0x9E3779B97F4A7C15ULL, sequence), generation), event)


# Not one that has another name, too: that may lie outside of the folder.
cdef inline bint is_our_kind(const jm_file_facts *facts) noexcept nogil:
    return facts.is_regular and facts.n_bytes == PAGE_BYTES and facts.n_links == 1


@cython.final
cdef class ChangePage:
    """ChangePage(folder)\n--\n
    The newest changes of one base folder, as all processes see them.

    Made without touching a file: there is no page yet, and `sequence` is 0. `open` looks for it. The object stays,
    files come and go under it.

    Parameters
    ----------
    folder : str or os.PathLike
        The base folder; the file is ``.changes`` in it. An absolute path, if the working directory may change.

    Thread-safe; no call waits for another process. Who calls `append`, or `open` with ``create=True``, holds the
    folder's lock. After a fork parent and child both go on with it.
    """

    def __cinit__(self, folder):
        jm_disown(<PyObject *> self)
        self.guard = -1
        self.path = os.path.join(os.fsdecode(folder), CHANGES_NAME)
        self.path_bytes = os.fsencode(self.path)
        self.memory = Mapping(PAGE_BYTES)
        self.words = memoryview(self.memory).cast("Q")
        self.word = &self.words[SEQUENCE_WORD]
        guard_install()
        self.guard = guard_add(&self.words[0], PAGE_BYTES, True)
        if self.guard < 0:
            raise MemoryError

    def __dealloc__(self):
        if self.guard >= 0:
            guard_remove(self.guard)

    @property
    def sequence(self):
        """The number of the newest change; 0 while there is no page."""
        return jm_load_acquire(self.word)

    def open(self, *, bint create=False):
        """Look at the file, and return whether there is a page now.

        With `create`, for writing, under the folder's lock: a file that is missing, is no page or cannot be written is
        replaced, by another file and never in place. Without it nothing is ever written. Links are not followed, and
        what is no regular file is not waited for. Never raises OSError.
        """
        if not self.is_stale() and self.has_page(create):
            return True
        cdef Found found = self.map_now(create)
        if create and (found == NO_PAGE or found == MAPPED and not self.has_page(True)):
            try:
                write_page(self.path)
            except OSError:
                return self.has_page(False)
            self.map_now(False)
        return self.has_page(False)

    cdef bint has_page(self, bint for_writing) noexcept:
        with cython.critical_section(self):
            return self.is_mapped and (self.is_writable or not for_writing)

    # Map the file, or zeros if it is no page. `leaves`: this is a writer, who says so on the page it had, if any.
    cdef Found map_now(self, bint leaves) except *:
        cdef Found found
        with cython.critical_section(self):
            if leaves and self.is_writable:
                jm_add_acq_rel(&self.words[SEQUENCE_WORD], N_ENTRIES + 1)
            found = self.map_file()
            if found != MAPPED:
                self.map_zeros()
        return found

    cdef Found map_file(self) noexcept:
        cdef unsigned char[TITLE_BYTES + 8] head
        cdef jm_file_facts facts
        cdef Found found = NO_PAGE
        cdef bint writable = True
        cdef int fd
        if jm_os_path_facts(self.path_bytes, &facts) != 0 or not is_our_kind(&facts):
            return NO_PAGE  # to open a device or a FIFO would already do something
        fd = jm_os_open(self.path_bytes, True)
        if fd < 0:
            fd, writable = jm_os_open(self.path_bytes, False), False
        if fd < 0:
            return NO_PAGE
        if (
            jm_os_file_facts(fd, &facts) == 0 and is_our_kind(&facts)
            and pread(fd, head, sizeof(head), 0) == sizeof(head)
            and memcmp(head, <const char *> TITLE, TITLE_BYTES) == 0
            and (<uint64_t *> &head[TITLE_BYTES])[0] != 0
        ):
            guard_reset(self.guard)
            found = MAPPED if jm_os_map_over(&self.words[0], PAGE_BYTES, fd, writable) == 0 else NO_MEMORY
        close(fd)
        if found == MAPPED:
            self.device, self.inode = facts.device, facts.inode
            self.is_mapped, self.is_writable = True, writable
        return found

    cdef void map_zeros(self) noexcept:
        jm_os_map_over(&self.words[0], PAGE_BYTES, -1, True)
        self.is_mapped = self.is_writable = False

    def is_stale(self):
        """Whether there is no page, or it is not that of the file any more: deleted, replaced, truncated or damaged.

        One system call. `open` mends it, if it can be mended.
        """
        cdef jm_file_facts facts
        cdef const char *path = self.path_bytes
        cdef int failed
        with nogil:
            failed = jm_os_path_facts(path, &facts)
        if failed:
            return True
        with cython.critical_section(self):
            return not (
                self.is_sound() and is_our_kind(&facts)
                and facts.device == self.device and facts.inode == self.inode
            )

    # Whether what is mapped looks like a page; whose it is by now, only the path says.
    cdef bint is_sound(self) noexcept:
        return (
            self.is_mapped
            and memcmp(&self.words[0], <const char *> TITLE, TITLE_BYTES) == 0
            and jm_load_relaxed(self.word) != 0
            and not guard_damaged(self.guard)
        )

    def append(self, uint32_t dimension, str what not None, uint64_t generation):
        """Announce a change that is done and visible. Returns its number, or 0 if there is no page to write it to.

        Parameters
        ----------
        dimension : int
        what : "added", "changed" or "removed"
        generation : int
            Of the file that is there now; 0 for none.

        For whoever holds the folder's lock. A page that went, or cannot be written, is made anew. Raises ValueError for
        another `what`, never OSError.
        """
        cdef uint64_t event = dimension, sequence
        if what not in KINDS:
            raise ValueError(f"{what!r} is none of {', '.join(KINDS)}")
        event |= <uint64_t> (KINDS.index(what) + 1) << 32
        # It is written first, for the page is mostly there still: who has one that is not is told for nothing.
        for _attempt in range(N_ATTEMPTS):
            with cython.critical_section(self):
                sequence = self.write_entry(event, generation) if self.is_writable and self.is_sound() else 0
            if sequence and not self.is_stale():
                return sequence
            if not self.open(create=True):
                break
        return 0

    cdef uint64_t write_entry(self, uint64_t event, uint64_t generation) noexcept nogil:
        cdef uint64_t sequence = jm_add_acq_rel(&self.words[SEQUENCE_WORD], 1) + 1
        cdef uint64_t *entry = &self.words[RING_WORD + sequence % N_ENTRIES * ENTRY_WORDS]
        jm_store_relaxed(&entry[0], sequence)
        jm_store_relaxed(&entry[1], generation)
        jm_store_relaxed(&entry[2], event)
        jm_store_relaxed(&entry[3], check_of(sequence, generation, event))
        return sequence

    def read_since(self, uint64_t sequence):
        """What changed after `sequence`, and the number to ask with next time.

        Returns ``(changes, newest)``: `changes` is a list of (dimension, what, generation), oldest first, at most
        RING_CHANGES of them; or None if they are not to be had (too many, no page, or nothing that makes sense), and
        the caller has to look at everything. `newest` was read before that, so nothing falls in between.
        """
        cdef uint64_t newest = jm_load_acquire(self.word), event = 0, generation = 0, n
        cdef list found = []
        if newest == 0 or newest - sequence > N_ENTRIES:
            return None, newest
        for n in range(newest - sequence):
            if not self.read_entry(sequence + 1 + n, &event, &generation):
                return None, newest
            found.append((<uint32_t> event, KINDS[(event >> 32) - 1], generation))
        return found, newest

    cdef bint read_entry(self, uint64_t sequence, uint64_t *event, uint64_t *generation) noexcept nogil:
        cdef const uint64_t *entry = &self.words[RING_WORD + sequence % N_ENTRIES * ENTRY_WORDS]
        generation[0], event[0] = jm_load_relaxed(&entry[1]), jm_load_relaxed(&entry[2])
        return (
            jm_load_relaxed(&entry[0]) == sequence
            and jm_load_relaxed(&entry[3]) == check_of(sequence, generation[0], event[0])
            and 1 <= event[0] >> 32 <= 3
        )

    def close(self):
        """Let the file go. There is no page then, until `open`."""
        with cython.critical_section(self):
            self.map_zeros()

    def __reduce__(self):
        raise TypeError("a ChangePage cannot be copied or pickled")


def write_page(path):
    """Put a new page at `path`, in one step. Who may write to its folder may write to it. OSError on failure."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    sequence = 1 << 62 | secrets.randbits(62)
    whole = (TITLE + struct.pack("=Q", sequence)).ljust(PAGE_BYTES, b"\0")
    around = os.stat(folder)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # In full, not as a hole: a page of a hole is a fault when the disk is full.
        if os.write(fd, whole) != PAGE_BYTES:
            raise OSError("the disk is full")
        mode = around.st_mode & 0o666 | 0o600
        if os.fstat(fd).st_gid != around.st_gid:
            try:
                os.fchown(fd, -1, around.st_gid)
            except OSError:
                mode &= ~0o060  # the folder's group is meant, and no other
        os.fchmod(fd, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
