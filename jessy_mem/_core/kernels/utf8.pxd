"""Decode UTF-8 into characters of one, two or four bytes, as strings of CPython hold them. Inline kernels.

HAZARD: the source may be a file that changes while it is read. So each character is made of bytes that were loaded
once and checked as loaded, nothing is written behind the target, and what does not come out as it was announced, in
number or in width, is False: CPython's decoder reads it again then, and says what is wrong.

    ..ASCII ASCII ASCII | 2 bytes | ASCII ... | 2 2 2 2 | ASCII | 2 2 2 2 | ASCII ...
      32 at once          one       32 at once  4 at once  one, without a look at 32: between words of such letters
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from jessy_mem._core.c.atomic cimport jm_ctz
from jessy_mem._core.c.bytes cimport jm_high_bits

cdef enum:
    LOOK_BYTES = 64      # bytes to read, and characters to write, while 32 are looked at once
    LEADS = 0x80         # from here on bytes are of characters above U+007F,
    MIDDLE_LEADS = 0xC4  # lead bytes of those above U+00FF,
    WIDE_LEADS = 0xF0    # and of those above U+FFFF

ctypedef fused Unit:
    uint8_t
    uint16_t
    uint32_t


cdef inline uint8_t utf8_highest(const uint8_t *first, int64_t n_bytes) noexcept nogil:
    """The highest byte, which tells how wide the widest character of valid UTF-8 is."""
    cdef uint8_t highest = 0
    cdef int64_t i
    for i in range(n_bytes):  # compilers make vectors of it
        highest = max(highest, first[i])
    return highest


cdef inline uint32_t utf8_largest(uint8_t highest) noexcept nogil:
    """The largest character that a string of the same width could hold."""
    if highest < LEADS:
        return 0x7F
    if highest < MIDDLE_LEADS:
        return 0xFF
    return 0xFFFF if highest < WIDE_LEADS else 0x10FFFF


cdef inline int64_t utf8_next(const uint8_t *first, int64_t n_bytes, uint32_t *character) noexcept nogil:
    """The character at `first`, and how many of `n_bytes`, of which there is one at least, it takes; 0: it is none."""
    cdef uint8_t byte = first[0]
    cdef uint32_t found = byte
    cdef uint32_t lowest = 0
    cdef int64_t n = 1, i
    if byte >= 0xF5 or 0x80 <= byte < 0xC2:
        return 0
    if byte >= 0xF0:
        n, found, lowest = 4, byte & 0x07, 0x10000
    elif byte >= 0xE0:
        n, found, lowest = 3, byte & 0x0F, 0x800
    elif byte >= 0xC2:
        n, found, lowest = 2, byte & 0x1F, 0x80
    if n > n_bytes:
        return 0
    for i in range(1, n):
        byte = first[i]
        if byte & 0xC0 != 0x80:
            return 0
        found = found << 6 | (byte & 0x3F)
    if found < lowest or found > 0x10FFFF or 0xD800 <= found < 0xE000:
        return 0
    character[0] = found
    return n


cdef inline uint64_t utf8_pairs(uint64_t word, int64_t *n_pairs, uint64_t *kept) noexcept nogil:
    """The characters of two bytes that eight bytes begin with, one in each 16 bits; `kept` has no other bits."""
    cdef uint64_t others = (word ^ <uint64_t> 0x80C080C080C080C0) & <uint64_t> 0xC0E0C0E0C0E0C0E0
    cdef uint64_t characters = (word & <uint64_t> 0x001F001F001F001F) << 6 | (word >> 8 & <uint64_t> 0x003F003F003F003F)
    # A lead of C0 or C1 would be a longer form of ASCII: bits 1 to 4 of it are zero.
    others |= ~((word & <uint64_t> 0x001E001E001E001E) + <uint64_t> 0x7FFE7FFE7FFE7FFE) & <uint64_t> 0x8000800080008000
    n_pairs[0], kept[0] = 4, characters
    if others:
        n_pairs[0] = jm_ctz(others) >> 4
        kept[0] &= (<uint64_t> 1 << 16 * n_pairs[0]) - 1
    return characters


cdef inline bint utf8_decode(
    const uint8_t *first, int64_t n_bytes, Unit *target, int64_t n_characters, uint32_t narrower
) noexcept nogil:
    """Decode `n_bytes` to exactly `n_characters`, one of them above `narrower`; False if they are something else."""
    cdef int64_t i = 0, at = 0, n, k, begin
    cdef uint32_t character = 0, word
    cdef uint64_t long_word, kept
    cdef uint64_t seen = 0  # bits of all characters; those of pairs in four lanes
    cdef uint8_t piece[32]
    cdef uint8_t byte
    while n_bytes - i >= LOOK_BYTES and n_characters - at >= LOOK_BYTES:
        memcpy(piece, first + i, 32)
        word = jm_high_bits(piece)
        for k in range(32):
            target[at + k] = piece[k]
        if word == 0:
            i += 32
            at += 32
            continue
        n = jm_ctz(word)
        i += n
        at += n
        while True:
            memcpy(&word, first + i, 4)
            if word & 0xC0E0 == 0x80C0:
                if Unit is uint16_t and first[i + 2] >= 0x80:
                    begin = at
                    while True:
                        memcpy(&long_word, first + i, 8)
                        long_word = utf8_pairs(long_word, &n, &kept)
                        memcpy(target + at, &long_word, 8)
                        seen |= kept
                        i += 2 * n
                        at += n
                        if n < 4 or n_bytes - i < LOOK_BYTES or n_characters - at < LOOK_BYTES:
                            break
                    if at == begin:
                        return False
                    byte = first[i]
                    if byte < 0x80 and first[i + 1] >= 0x80:
                        target[at] = byte
                        i += 1
                        at += 1
                else:
                    character = (word & 0x1F) << 6 | (word >> 8 & 0x3F)
                    if character < 0x80 or (Unit is uint8_t and character > 0xFF):
                        return False
                    target[at] = <Unit> character
                    seen |= character
                    i += 2
                    at += 1
            elif Unit is not uint8_t and word & 0xC0C0F0 == 0x8080E0:
                while True:
                    character = (word & 0x0F) << 12 | (word >> 2 & 0xFC0) | (word >> 16 & 0x3F)
                    if character < 0x800 or character - 0xD800 < 0x800:  # the second wraps below
                        return False
                    target[at] = <Unit> character
                    seen |= character
                    i += 3
                    at += 1
                    memcpy(&word, first + i, 4)
                    if word & 0xC0C0F0 != 0x8080E0 or n_bytes - i < 16 or n_characters - at < 16:
                        break
                byte = first[i]
                if byte < 0x80 and first[i + 1] >= 0x80:
                    target[at] = byte
                    i += 1
                    at += 1
            elif Unit is uint32_t and word & <uint32_t> 0xC0C0C0F8 == <uint32_t> 0x808080F0:
                while True:
                    character = (word & 7) << 18 | (word << 4 & 0x3F000) | (word >> 10 & 0xFC0) | (word >> 24 & 0x3F)
                    if character - 0x10000 > 0xFFFFF:
                        return False
                    target[at] = <Unit> character
                    seen |= character
                    i += 4
                    at += 1
                    memcpy(&word, first + i, 4)
                    if (
                        word & <uint32_t> 0xC0C0C0F8 != <uint32_t> 0x808080F0
                        or n_bytes - i < 16
                        or n_characters - at < 16
                    ):
                        break
            else:
                return False
            if first[i] < 0x80 or n_bytes - i < 16 or n_characters - at < 16:
                break
    if Unit is uint16_t:
        seen |= seen >> 32
        seen = (seen | seen >> 16) & 0xFFFF
    while i < n_bytes and at < n_characters:
        n = utf8_next(first + i, n_bytes - i, &character)
        if n == 0 or (Unit is uint8_t and character > 0xFF) or (Unit is uint16_t and character > 0xFFFF):
            return False
        target[at] = <Unit> character
        seen |= character
        i += n
        at += 1
    return i == n_bytes and at == n_characters and seen > narrower
