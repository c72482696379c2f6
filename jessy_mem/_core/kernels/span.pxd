"""Kernels on byte ranges: every comparison is in a form that cannot overflow."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy


cdef inline bint span_inside(uint64_t off_bytes, uint64_t n_bytes, uint64_t total_bytes) noexcept nogil:
    """Whether [off_bytes, off_bytes + n_bytes) lies inside [0, total_bytes)."""
    return off_bytes <= total_bytes and n_bytes <= total_bytes - off_bytes


cdef inline const uint8_t *span_slice(const uint8_t[::1] bytes, int64_t off_bytes, int64_t n_bytes) noexcept nogil:
    """Where [off_bytes, off_bytes + n_bytes) of a buffer begins; NULL if it does not lie inside."""
    if bytes.shape[0] == 0 or off_bytes < 0 or n_bytes < 0 or not span_inside(off_bytes, n_bytes, bytes.shape[0]):
        return NULL
    return &bytes[0] + off_bytes


cdef inline const uint8_t *span_after_length(
    const uint8_t *base, uint64_t end, uint64_t *at, uint32_t *n_bytes
) noexcept nogil:
    """The bytes behind their length, 4 bytes at `*at`, which is moved behind both; NULL if they do not end by `end`."""
    cdef uint64_t begin = at[0] + 4
    if not span_inside(at[0], 4, end):
        return NULL
    memcpy(n_bytes, base + at[0], 4)
    if not span_inside(begin, n_bytes[0], end):
        return NULL
    at[0] = begin + n_bytes[0]
    return base + begin


cdef inline uint64_t span_align_up(uint64_t n_bytes, uint64_t alignment_bytes) noexcept nogil:
    """n_bytes rounded up to a multiple of a power of two; n_bytes must be at most 2**63."""
    return (n_bytes + alignment_bytes - 1) & ~(alignment_bytes - 1)


cdef inline bint span_is_zero(const uint8_t *first, uint64_t n_bytes) noexcept nogil:
    """Whether all bytes are zero: the range is compared with itself, one byte on."""
    return n_bytes == 0 or (first[0] == 0 and memcmp(first, first + 1, n_bytes - 1) == 0)


cdef inline void span_touch(const uint8_t *first, uint64_t n_bytes, uint64_t step_bytes) noexcept nogil:
    """Read a byte of each page (`step_bytes`) of a range, so that what may wait for a disk waits here."""
    cdef volatile uint8_t seen
    cdef uint64_t at = 0
    while at < n_bytes:
        seen = first[at]
        at += step_bytes
    if n_bytes:
        seen = first[n_bytes - 1]  # on a page of its own if the range does not begin with a page


cdef inline bint span_is_ascii(const uint8_t *first, uint64_t n_bytes) noexcept nogil:
    cdef uint64_t a, b, c, d
    cdef uint64_t at = 0
    cdef uint64_t seen = 0
    while n_bytes - at >= 32:  # compilers make two vectors of them
        memcpy(&a, first + at, 8)
        memcpy(&b, first + at + 8, 8)
        memcpy(&c, first + at + 16, 8)
        memcpy(&d, first + at + 24, 8)
        seen |= a | b | c | d
        at += 32
    while at < n_bytes:
        seen |= first[at]
        at += 1
    return (seen & <uint64_t> 0x8080808080808080) == 0


cdef inline bint span_copy_ascii(uint8_t *target, const uint8_t *source, uint64_t n_bytes) noexcept nogil:
    """Copy, and tell whether all is ASCII; if not, what was copied is a part.

    It is the copy that is looked at: the source may be a file that changes meanwhile.
    """
    cdef uint64_t at = 0
    cdef uint64_t piece_bytes
    while at < n_bytes:
        # Still in the fastest cache when it is looked at: text of 1 MiB takes 25 us, and 31 in one piece.
        piece_bytes = min(n_bytes - at, <uint64_t> 4096)
        memcpy(target + at, source + at, piece_bytes)
        if not span_is_ascii(target + at, piece_bytes):
            return False
        at += piece_bytes
    return True


cdef inline bint span_is_utf8(const uint8_t *first, uint64_t n_bytes) noexcept nogil:
    """Whether the bytes are valid UTF-8 (RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF)."""
    cdef uint64_t i = 0
    cdef uint64_t n_more
    cdef uint8_t lead, low, high
    while i < n_bytes:
        lead = first[i]
        i += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            n_more = 1
        elif 0xE0 <= lead <= 0xEF:
            n_more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            n_more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if n_more > n_bytes - i:
            return False
        while n_more:
            if not low <= first[i] <= high:
                return False
            low, high = 0x80, 0xBF
            i += 1
            n_more -= 1
    return True


cdef inline uint64_t span_count_characters(const uint8_t *first, uint64_t n_bytes) noexcept nogil:
    """How many characters valid UTF-8 is: as many as it has bytes that do not continue one."""
    cdef uint64_t i
    cdef uint64_t n_characters = 0
    for i in range(n_bytes):
        n_characters += (first[i] & 0xC0) != 0x80
    return n_characters
