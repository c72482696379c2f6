"""Parse and check the region file; packing.pyx writes it.

HAZARD: the bytes come from anyone. Each count and offset is compared with what is left before it is used, in a form
that cannot overflow, and nothing is allocated on the word of the file alone.

    0        256             metadata_size    extension_table_offset
    +--------+---------------+--------------+-----------------+------------+-----+-----------+-----+-----------+
    | header | layer records | zeros to 8   | extension table | attributes | gap | content 0 | gap | content 1 |
    +--------+---------------+--------------+-----------------+------------+-----+-----------+-----+-----------+
    |<------------------------- head, checked at open -------------------->|     64 or 4096 aligned      total_size

Gaps on the pages of the head are checked at open; the others lie on pages of content and are checked with the content.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset

import xxhash

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.fault cimport (
    BAD_ATTRIBUTES_OFFSET,
    BAD_ATTRIBUTES_SIZE,
    BAD_ATTRIBUTES_UTF8,
    BAD_CODEC,
    BAD_CONTENT_BEGIN,
    BAD_CONTENT_END,
    BAD_CONTENT_OFFSET,
    BAD_CONTENT_SIZE,
    BAD_DIGEST_PRESENCE,
    BAD_DIMENSION_ID,
    BAD_EXTENSION_TABLE_OFFSET,
    BAD_EXTENSION_VERSION,
    BAD_EXTENSION_ZERO,
    BAD_FREQUENCY,
    BAD_GAP,
    BAD_GENERATION,
    BAD_KEYWORD_COUNT,
    BAD_KEYWORD_LEN,
    BAD_KEYWORD_UTF8,
    BAD_LAYER_COUNT,
    BAD_LAYER_ORDER,
    BAD_MAGIC,
    BAD_METADATA_SIZE,
    BAD_NAME_LEN,
    BAD_NAME_PADDING,
    BAD_NAME_UTF8,
    BAD_OVERLAP,
    BAD_RAW_SIZE,
    BAD_REQUIRED_FEATURES,
    BAD_RESERVED,
    BAD_TABLE_PADDING,
    BAD_TEXT_FLAGS,
    BAD_TOTAL_SIZE,
    FEW_CHARACTERS,
    IMMUTABLE_DELTA,
    LARGE_ATTRIBUTES,
    LARGE_METADATA_SIZE,
    LARGE_RAW_SIZE,
    MANY_CHARACTERS,
    NO_FAULT,
    NO_MEMORY,
    SHORT_HEAD,
    SHORT_HEADER,
    SHORT_METADATA,
    TOMBSTONE_ATTRIBUTES,
    TOMBSTONE_CHECKSUM,
    TOMBSTONE_CODEC,
    TOMBSTONE_CONTENT,
    TOMBSTONE_KEYWORDS,
    TOMBSTONE_TOKENS,
    TRUNCATED,
    UNANNOUNCED_CODEC,
    UNANNOUNCED_TOMBSTONE,
    ZERO_DIMENSION_ID,
    Fault,
    fault_set,
)
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_after_length, span_align_up, span_inside, span_is_utf8, span_is_zero

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "region files are little-endian and are read in place: this machine cannot"
    #endif
    """

cdef object xxh3_64 = xxhash.xxh3_64
cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest

cdef enum:
    MAX_RAW_BYTES = 4294967296  # 4 GiB
    # A block of zstd (RFC 8878) holds at most 128 KiB and takes at least 4 bytes: what a frame can hold is bounded.
    BLOCK_RAW_BYTES = 131072
    BLOCK_MIN_BYTES = 4
    COPIED_BYTES = 8192   # a head of no more is copied for its checksum, which costs less than to begin one in parts
    STEP_BYTES = 4194304  # of keywords that are read before somebody may interrupt

assert sizeof(Header) == HEADER_BYTES
assert sizeof(LayerExtension) == EXTENSION_BYTES and sizeof(WideExtension) == WIDE_EXTENSION_BYTES


def stored_frequency(double hz):
    """`hz` as it is read when it was stored in 32 bits: 0 or infinite if they cannot hold it."""
    return decimal_of(<float> hz)


cdef bint format_check_header(
    const uint8_t[::1] head, uint64_t n_bytes, uint64_t dimension_id, Header *header, Fault *fault
) noexcept nogil:
    cdef uint64_t most_layers
    cdef uint64_t[2] halves
    if head.shape[0] < HEADER_BYTES or n_bytes < HEADER_BYTES:
        return fault_set(fault, SHORT_HEADER, -1, n_bytes, HEADER_BYTES)
    memcpy(header, &head[0], sizeof(Header))
    if memcmp(header.magic, format_magic(), 16) != 0:
        memcpy(&halves, header.magic, sizeof(halves))
        return fault_set(fault, BAD_MAGIC, -1, halves[0], halves[1])
    if header.extension_version > EXTENSION_VERSION:
        return fault_set(fault, BAD_EXTENSION_VERSION, -1, header.extension_version, EXTENSION_VERSION)
    if header.required_features & ~KNOWN_FEATURES:
        return fault_set(fault, BAD_REQUIRED_FEATURES, -1, header.required_features, KNOWN_FEATURES)
    if header.dimension_id == 0:
        return fault_set(fault, ZERO_DIMENSION_ID, -1, 0, 1)
    if dimension_id != 0 and header.dimension_id != dimension_id:
        return fault_set(fault, BAD_DIMENSION_ID, -1, header.dimension_id, dimension_id)
    if not 1 <= header.dimension_name_len <= NAME_BYTES:
        return fault_set(fault, BAD_NAME_LEN, -1, header.dimension_name_len, NAME_BYTES)
    if not span_is_utf8(header.dimension_name, header.dimension_name_len):
        return fault_set(fault, BAD_NAME_UTF8, -1, 0, 0)
    if not span_is_zero(header.dimension_name + header.dimension_name_len, NAME_BYTES - header.dimension_name_len):
        return fault_set(fault, BAD_NAME_PADDING, -1, 0, 0)
    if header.total_size > n_bytes:
        return fault_set(fault, TRUNCATED, -1, n_bytes, header.total_size)
    if header.total_size < n_bytes:
        return fault_set(fault, BAD_TOTAL_SIZE, -1, header.total_size, n_bytes)
    most_layers = min((n_bytes - HEADER_BYTES) // RECORD_MIN_BYTES, <uint64_t> MAX_LAYERS)
    if not 1 <= header.layer_count <= most_layers:
        return fault_set(fault, BAD_LAYER_COUNT, -1, header.layer_count, most_layers)
    if not span_is_zero(header.zero, sizeof(header.zero)):
        return fault_set(fault, BAD_RESERVED, -1, 0, 0)
    if header.extension_version == 0:
        if not span_is_zero(<const uint8_t *> header + RESERVED_AT, ZERO_AT - RESERVED_AT):
            return fault_set(fault, BAD_RESERVED, -1, 0, 0)
        return True
    return check_extended_header(header, fault)


cdef bint check_extended_header(const Header *header, Fault *fault) noexcept nogil:
    cdef uint64_t n_bytes = header.total_size
    cdef uint64_t metadata_end, table_off
    if header.generation == 0:
        return fault_set(fault, BAD_GENERATION, -1, 0, 1)
    if header.required_features & FEATURE_DELTA and header.optional_features & OPTION_IMMUTABLE:
        return fault_set(fault, IMMUTABLE_DELTA, -1, header.required_features, FEATURE_DELTA)
    if not header.optional_features & OPTION_IMMUTABLE and not span_is_zero(header.content_sha256, 32):
        return fault_set(fault, BAD_DIGEST_PRESENCE, -1, 0, 0)
    if header.metadata_size > n_bytes - HEADER_BYTES:
        return fault_set(fault, LARGE_METADATA_SIZE, -1, header.metadata_size, n_bytes - HEADER_BYTES)
    metadata_end = HEADER_BYTES + <uint64_t> header.metadata_size
    table_off = span_align_up(metadata_end, 8)
    if header.extension_table_offset != table_off:
        return fault_set(fault, BAD_EXTENSION_TABLE_OFFSET, -1, header.extension_table_offset, table_off)
    if not span_inside(table_off, format_table_end(header) - table_off, n_bytes):
        return fault_set(fault, SHORT_METADATA, -1, n_bytes, format_table_end(header))
    return True


cdef inline bint have(const uint8_t[::1] head, uint64_t off_bytes, uint64_t n_bytes, Fault *fault) noexcept nogil:
    return span_inside(off_bytes, n_bytes, head.shape[0]) or fault_set(
        fault, SHORT_HEAD, -1, head.shape[0], off_bytes + n_bytes
    )


cdef bint begin_record(
    const uint8_t[::1] region, HeadCursor *cursor, uint64_t end, int64_t previous, LayerEntry *entry, Fault *fault
) noexcept nogil:
    """Read the record at the cursor, which must end by `end`, up to its keywords."""
    cdef const RecordHead *head
    cdef uint32_t frequency_bits
    cdef uint64_t at = cursor.at
    if not span_inside(at, RECORD_MIN_BYTES, end):
        return fault_set(fault, SHORT_METADATA, -1, end, at + RECORD_MIN_BYTES)
    if not have(region, at, RECORD_MIN_BYTES, fault):
        return False
    head = <const RecordHead *> (&region[0] + at)
    entry.record_off_bytes = at
    entry.layer, entry.depth, entry.frequency_hz = head.layer_num, head.depth, head.frequency
    entry.n_keywords = head.keyword_count
    if <int64_t> entry.layer <= previous:
        return fault_set(fault, BAD_LAYER_ORDER, entry.layer, entry.layer, previous)
    if not (isfinite(entry.frequency_hz) and entry.frequency_hz > 0):
        memcpy(&frequency_bits, &head.frequency, sizeof(frequency_bits))
        return fault_set(fault, BAD_FREQUENCY, entry.layer, frequency_bits, 0)
    at += sizeof(RecordHead)
    # RECORD_MIN_BYTES counts the bytes behind the keywords; they are kept free in every comparison.
    if entry.n_keywords > (end - at - RECORD_TAIL_BYTES) // 4:
        return fault_set(
            fault, BAD_KEYWORD_COUNT, entry.layer, entry.n_keywords, (end - at - RECORD_TAIL_BYTES) // 4
        )
    cursor.at, cursor.n_keywords, cursor.begun = at, 0, True
    return True


cdef bint end_record(
    const uint8_t[::1] region, HeadCursor *cursor, uint64_t end, LayerEntry *entry, Fault *fault
) noexcept nogil:
    """Read the keywords and the rest of a record that was begun, and move the cursor behind it."""
    cdef const uint8_t *base = &region[0]
    cdef uint32_t length_bytes
    cdef uint64_t at = cursor.at
    while cursor.n_keywords < entry.n_keywords:
        cursor.at = at
        if not span_inside(at, 4 + RECORD_TAIL_BYTES, end):
            return fault_set(fault, SHORT_METADATA, entry.layer, end, at + 4 + RECORD_TAIL_BYTES)
        if at > cursor.pause_at:
            return fault_set(fault, SHORT_HEAD, -1, at, at)
        jm_assert(span_inside(at, 4, region.shape[0]), at, region.shape[0])  # it is in what was kept free behind `at`
        memcpy(&length_bytes, base + at, 4)
        if not span_inside(at + 4, <uint64_t> length_bytes + RECORD_TAIL_BYTES, end):
            return fault_set(fault, BAD_KEYWORD_LEN, entry.layer, length_bytes, end - at - 4 - RECORD_TAIL_BYTES)
        if not have(region, at + 4, <uint64_t> length_bytes + RECORD_TAIL_BYTES, fault):
            return False
        at += 4
        if not span_is_utf8(base + at, length_bytes):
            return fault_set(fault, BAD_KEYWORD_UTF8, entry.layer, 0, 0)
        at += length_bytes
        cursor.n_keywords += 1
    memcpy(&entry.content_off_bytes, base + at, 8)
    memcpy(&entry.content_bytes, base + at + 8, 4)
    cursor.at, cursor.begun = at + RECORD_TAIL_BYTES, False
    return True


cdef bint check_tombstone(
    const LayerExtension *extension, uint16_t features, const LayerEntry *entry, Fault *fault
) noexcept nogil:
    """What read_extension does not check for every layer."""
    cdef int64_t layer = entry.layer
    if not features & FEATURE_DELTA:
        return fault_set(fault, UNANNOUNCED_TOMBSTONE, layer, TEXT_TOMBSTONE, 0)
    if entry.n_keywords:
        return fault_set(fault, TOMBSTONE_KEYWORDS, layer, entry.n_keywords, 0)
    if entry.content_bytes:
        return fault_set(fault, TOMBSTONE_CONTENT, layer, entry.content_bytes, 0)
    if extension.codec != CODEC_RAW:
        return fault_set(fault, TOMBSTONE_CODEC, layer, extension.codec, CODEC_RAW)
    if extension.xxh3 != <uint64_t> XXH3_OF_NOTHING:
        return fault_set(fault, TOMBSTONE_CHECKSUM, layer, extension.xxh3, <uint64_t> XXH3_OF_NOTHING)
    return True


cdef bint read_extension(const uint8_t *at, uint16_t features, LayerEntry *entry, Fault *fault) noexcept nogil:
    cdef LayerExtension extension
    cdef int64_t layer = entry.layer
    cdef uint64_t fewest, most
    memcpy(&extension, at, sizeof(extension))
    if extension.codec > CODEC_ZSTD:
        return fault_set(fault, BAD_CODEC, layer, extension.codec, CODEC_ZSTD)
    if extension.codec == CODEC_ZSTD and not features & FEATURE_COMPRESSED:
        return fault_set(fault, UNANNOUNCED_CODEC, layer, extension.codec, CODEC_RAW)
    if extension.text_flags == TEXT_TOMBSTONE:
        if not check_tombstone(&extension, features, entry, fault):
            return False
    elif extension.text_flags > 3 or extension.text_flags == TEXT_ASCII:
        return fault_set(fault, BAD_TEXT_FLAGS, layer, extension.text_flags, 0)
    if extension.codec == CODEC_RAW and extension.raw_size != entry.content_bytes:
        return fault_set(fault, BAD_RAW_SIZE, layer, extension.raw_size, entry.content_bytes)
    most = min(<uint64_t> MAX_RAW_BYTES, <uint64_t> entry.content_bytes // BLOCK_MIN_BYTES * BLOCK_RAW_BYTES)
    if extension.codec == CODEC_ZSTD and extension.raw_size > most:
        return fault_set(fault, LARGE_RAW_SIZE, layer, extension.raw_size, most)
    fewest, most = 0, 0
    if extension.text_flags & TEXT_UTF8:
        most = extension.raw_size
        fewest = most if extension.text_flags & TEXT_ASCII else most // 4 + (most & 3 != 0)
    if extension.characters < fewest:
        return fault_set(fault, FEW_CHARACTERS, layer, extension.characters, fewest)
    if extension.characters > most:
        return fault_set(fault, MANY_CHARACTERS, layer, extension.characters, most)
    if extension.zero or extension.zero_too:
        return fault_set(fault, BAD_EXTENSION_ZERO, layer, 0, 0)
    entry.xxh3, entry.raw_bytes, entry.codec = extension.xxh3, extension.raw_size, extension.codec
    entry.text_flags, entry.n_characters = extension.text_flags, extension.characters
    return True


cdef bint read_wide(
    const uint8_t *at, uint64_t *cursor, uint64_t end, LayerEntry *entry, Fault *fault
) noexcept nogil:
    """Read what version 2 has more; `cursor` is where the attributes before end, and is moved behind these."""
    cdef WideExtension wide
    cdef int64_t layer = entry.layer
    memcpy(&wide, at, sizeof(wide))
    if entry_is_tombstone(entry) and wide.attributes_size:
        return fault_set(fault, TOMBSTONE_ATTRIBUTES, layer, wide.attributes_size, 0)
    if entry_is_tombstone(entry) and wide.n_tokens:
        return fault_set(fault, TOMBSTONE_TOKENS, layer, wide.n_tokens, 0)
    if wide.attributes_size > MAX_ATTRIBUTES_BYTES:
        return fault_set(fault, LARGE_ATTRIBUTES, layer, wide.attributes_size, MAX_ATTRIBUTES_BYTES)
    if wide.attributes_size > end - cursor[0]:
        return fault_set(fault, BAD_ATTRIBUTES_SIZE, layer, wide.attributes_size, end - cursor[0])
    if wide.attributes_offset != cursor[0] and (wide.attributes_size or wide.attributes_offset):
        return fault_set(fault, BAD_ATTRIBUTES_OFFSET, layer, wide.attributes_offset, cursor[0])
    if wide.zero:
        return fault_set(fault, BAD_EXTENSION_ZERO, layer, 0, 0)
    entry.created_ns, entry.n_tokens = wide.created_ns, wide.n_tokens
    entry.attributes_off_bytes, entry.attributes_bytes = cursor[0], wide.attributes_size
    cursor[0] += wide.attributes_size
    return True


cdef bint check_tiling(const Header *header, LayerEntry *entries, uint64_t cursor, Fault *fault) noexcept nogil:
    """An extended file is header, head and contents in order, with no byte between that alignment does not ask for."""
    cdef uint32_t i
    cdef uint64_t aligned
    for i in range(header.layer_count):
        aligned = format_content_off(cursor, entries[i].content_bytes)
        if entries[i].content_off_bytes != aligned:
            return fault_set(fault, BAD_CONTENT_OFFSET, entries[i].layer, entries[i].content_off_bytes, aligned)
        if not span_inside(aligned, entries[i].content_bytes, header.total_size):
            return fault_set(
                fault, BAD_CONTENT_SIZE, entries[i].layer, entries[i].content_bytes,
                header.total_size - aligned if aligned < header.total_size else 0,
            )
        cursor = aligned + entries[i].content_bytes
    if cursor != header.total_size:
        return fault_set(fault, BAD_CONTENT_END, -1, header.total_size, cursor)
    return True


cdef int compare_offsets(const void *left, const void *right) noexcept nogil:
    cdef uint64_t a = (<const LayerEntry * const *> left)[0].content_off_bytes
    cdef uint64_t b = (<const LayerEntry * const *> right)[0].content_off_bytes
    return (a > b) - (a < b)


cdef bint check_plain_contents(
    const Header *header, LayerEntry *entries, uint64_t metadata_end, Fault *fault
) noexcept nogil:
    """A plain V1 file has any order and gaps; contents lie behind the metadata, in the file, and do not overlap."""
    cdef uint32_t i
    cdef uint64_t cursor = 0
    cdef LayerEntry **sorted_entries
    for i in range(header.layer_count):
        if entries[i].content_off_bytes < metadata_end or entries[i].content_off_bytes > header.total_size:
            return fault_set(fault, BAD_CONTENT_BEGIN, entries[i].layer, entries[i].content_off_bytes, metadata_end)
        if not span_inside(entries[i].content_off_bytes, entries[i].content_bytes, header.total_size):
            return fault_set(
                fault, BAD_CONTENT_SIZE, entries[i].layer, entries[i].content_bytes,
                header.total_size - entries[i].content_off_bytes,
            )
    sorted_entries = <LayerEntry **> malloc(header.layer_count * sizeof(LayerEntry *))
    if sorted_entries == NULL:
        return fault_set(fault, NO_MEMORY, -1, 0, 0)
    for i in range(header.layer_count):
        sorted_entries[i] = &entries[i]
    qsort(sorted_entries, header.layer_count, sizeof(LayerEntry *), compare_offsets)
    fault.code = NO_FAULT
    for i in range(header.layer_count):
        if sorted_entries[i].content_bytes == 0:
            continue
        if sorted_entries[i].content_off_bytes < cursor:
            fault_set(fault, BAD_OVERLAP, sorted_entries[i].layer, sorted_entries[i].content_off_bytes, cursor)
            break
        cursor = sorted_entries[i].content_off_bytes + sorted_entries[i].content_bytes
    free(sorted_entries)
    return fault.code == NO_FAULT


cdef bint format_read_layers(
    const uint8_t[::1] head, const Header *header, LayerEntry *entries, HeadCursor *cursor, Fault *fault
) noexcept nogil:
    cdef const uint8_t *base = &head[0]
    cdef bint extended = header.extension_version != 0
    cdef uint64_t step = format_extension_bytes(header)
    cdef uint64_t end = header.total_size
    cdef uint64_t table_at
    cdef uint32_t i
    if extended:
        end = HEADER_BYTES + <uint64_t> header.metadata_size
        if not have(head, 0, format_table_end(header), fault):
            return False
        if not span_is_zero(base + end, header.extension_table_offset - end):
            return fault_set(fault, BAD_TABLE_PADDING, -1, 0, 0)
    if cursor.at == 0:
        cursor.at, cursor.attributes_at = HEADER_BYTES, format_table_end(header)
    cursor.pause_at = cursor.at + STEP_BYTES
    while cursor.n_layers < header.layer_count:
        i = cursor.n_layers
        if not cursor.begun and not begin_record(
            head, cursor, end, <int64_t> entries[i - 1].layer if i else -1, &entries[i], fault
        ):
            return False
        if not end_record(head, cursor, end, &entries[i], fault):
            return False
        cursor.n_layers += 1
        entries[i].raw_bytes = entries[i].content_bytes
        if not extended:
            continue
        entries[i].created_ns, entries[i].attributes_off_bytes = header.created_ns, cursor.attributes_at
        table_at = header.extension_table_offset + i * step
        if not read_extension(base + table_at, header.required_features, &entries[i], fault):
            return False
        if step == WIDE_EXTENSION_BYTES and not read_wide(
            base + table_at, &cursor.attributes_at, header.total_size, &entries[i], fault
        ):
            return False
    entries[header.layer_count].record_off_bytes = cursor.at
    entries[header.layer_count].attributes_off_bytes = cursor.attributes_at
    if not extended:
        return check_plain_contents(header, entries, cursor.at, fault)
    if cursor.at != end:
        return fault_set(fault, BAD_METADATA_SIZE, -1, header.metadata_size, cursor.at - HEADER_BYTES)
    return check_tiling(header, entries, cursor.attributes_at, fault)


cdef uint64_t format_table_end(const Header *header) noexcept nogil:
    return header.extension_table_offset + <uint64_t> header.layer_count * format_extension_bytes(header)


cdef uint64_t format_head_bytes(const Header *header, const LayerEntry *entries) noexcept nogil:
    return entries[header.layer_count].attributes_off_bytes


cdef bint format_check_attributes(
    const uint8_t[::1] head, const Header *header, const LayerEntry *entries, Fault *fault
) noexcept nogil:
    cdef uint32_t i
    for i in range(header.layer_count):
        if not span_is_utf8(&head[0] + entries[i].attributes_off_bytes, entries[i].attributes_bytes):
            return fault_set(fault, BAD_ATTRIBUTES_UTF8, entries[i].layer, 0, 0)
    return True


cdef bint format_check_gap(
    const uint8_t[::1] region, uint64_t head_bytes, const LayerEntry *entries, uint32_t i, Fault *fault
) noexcept nogil:
    cdef uint64_t begin = format_gap_begin(head_bytes, entries, i)
    if not span_is_zero(&region[0] + begin, entries[i].content_off_bytes - begin):
        return fault_set(fault, BAD_GAP, entries[i].layer, begin, entries[i].content_off_bytes)
    return True


cdef uint64_t format_head_checksum(const uint8_t[::1] head, uint64_t head_bytes) except? 0:
    cdef uint64_t begin_bytes = head_bytes if head_bytes <= COPIED_BYTES else HEADER_BYTES
    cdef bytes copy = PyBytes_FromStringAndSize(<const char *> &head[0], begin_bytes)
    cdef Header *copied = <Header *> <char *> copy
    copied.metadata_xxh3 = 0
    memset(copied.content_sha256, 0, sizeof(copied.content_sha256))
    if begin_bytes == head_bytes:
        return xxh3_64_intdigest(copy)
    checksum = xxh3_64(copy)
    checksum.update(head[begin_bytes:head_bytes])
    return checksum.intdigest()


cdef tuple format_keywords(bytes record, uint32_t n_keywords):
    cdef const uint8_t *base = record
    cdef const uint8_t *word
    cdef uint64_t end = len(record) - RECORD_TAIL_BYTES
    cdef uint64_t at = sizeof(RecordHead)
    cdef uint32_t n_bytes
    cdef list keywords = []
    for _ in range(n_keywords):
        word = span_after_length(base, end, &at, &n_bytes)
        if word == NULL or not span_is_utf8(word, n_bytes):
            return None
        keywords.append(PyUnicode_DecodeUTF8(<const char *> word, n_bytes, NULL))
    return tuple(keywords) if at == end else None
