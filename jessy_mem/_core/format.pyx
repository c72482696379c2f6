"""Parse and check the region file; packing.pyx writes it.

HAZARD: the bytes come from anyone. Each count and offset is compared with what is left before it is used, in a form
that cannot overflow, and nothing is allocated on the word of the file alone.

    0        256             metadata_size    extension_table_offset
    +--------+---------------+--------------+-----------------+-----+-----------+-----+-----------+
    | header | layer records | zeros to 8   | extension table | gap | content 0 | gap | content 1 |
    +--------+---------------+--------------+-----------------+-----+-----------+-----+-----------+
    |<------------------ head, checked at open -------------->|     64 or 4096 aligned      total_size

Gaps on the pages of the head are checked at open; the others lie on pages of content and are checked with the content.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset

import shlex

import xxhash

from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_align_up, span_inside, span_is_utf8, span_is_zero

from jessy_mem.errors import InvalidRegion, RegionTruncated
from jessy_mem.looks import looks_like

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "region files are little-endian and are read in place: this machine cannot"
    #endif
    """

NEWER = "a newer jessy_mem wrote it; pip install -U jessy-mem"
cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest

cdef enum:
    MAX_RAW_BYTES = 4294967296  # 4 GiB
    # A block of zstd (RFC 8878) holds at most 128 KiB and takes at least 4 bytes: what a frame can hold is bounded.
    BLOCK_RAW_BYTES = 131072
    BLOCK_MIN_BYTES = 4

assert sizeof(Header) == HEADER_BYTES and sizeof(LayerExtension) == EXTENSION_BYTES

# code: (field, what is expected). {0} is the number that was expected, {1} the one that was found.
_RULES = {
    SHORT_HEADER: ("header", "a file of at least {0} bytes"),
    BAD_MAGIC: ("magic", repr(format_magic()[:16])),
    BAD_EXTENSION_VERSION: ("extension_version", "at most {0}: the file needs a reader of extension version {1}"),
    BAD_REQUIRED_FEATURES: ("required_features", "no bit but {0:#x}: the file needs a reader of a later version"),
    ZERO_DIMENSION_ID: ("dimension_id", "at least {0}"),
    BAD_DIMENSION_ID: ("dimension_id", "{0}, the dimension that was asked for"),
    BAD_NAME_LEN: ("dimension_name_len", "1..{0}"),
    BAD_NAME_UTF8: ("dimension_name", "valid UTF-8"),
    BAD_NAME_PADDING: ("dimension_name", "zeros after the name"),
    TRUNCATED: ("total_size", "a file of {0} bytes, as its header says"),
    BAD_TOTAL_SIZE: ("total_size", "{0}, the size of the file"),
    BAD_LAYER_COUNT: ("layer_count", "at least 1, and at most {0} in a file of this size"),
    BAD_RESERVED: ("reserved", "zeros"),
    BAD_GENERATION: ("generation", "at least {0}"),
    LARGE_METADATA_SIZE: ("metadata_size", "at most {0}, the bytes behind the header"),
    BAD_METADATA_SIZE: ("metadata_size", "{0}, the bytes of the layer records"),
    BAD_EXTENSION_TABLE_OFFSET: ("extension_table_offset", "{0}"),
    BAD_TABLE_PADDING: ("padding before the extension table", "zeros"),
    BAD_DIGEST_PRESENCE: ("content_sha256", "zeros, for the dimension is not immutable"),
    SHORT_METADATA: ("metadata", "at least {0} bytes, for the layer records and the extension table"),
    BAD_LAYER_ORDER: ("layer_num", "more than {0}, for layers ascend"),
    BAD_FREQUENCY: ("frequency", "finite and above 0 Hz"),
    BAD_KEYWORD_COUNT: ("keyword_count", "at most {0}, for the bytes left"),
    BAD_KEYWORD_LEN: ("keyword length", "at most {0}, for the bytes left"),
    BAD_KEYWORD_UTF8: ("keyword", "valid UTF-8"),
    BAD_CONTENT_OFFSET: ("content_offset", "{0}, for contents follow each other, aligned"),
    BAD_CONTENT_BEGIN: ("content_offset", "at least {0}, where the metadata ends, and inside the file"),
    BAD_CONTENT_SIZE: ("content_size", "at most {0}, the bytes left"),
    BAD_OVERLAP: ("content_offset", "at least {0}, where another layer ends"),
    BAD_CONTENT_END: ("total_size", "{0}, where the last content ends"),
    BAD_RAW_SIZE: ("raw_size", "{0}, the bytes of the content, which is not compressed"),
    LARGE_RAW_SIZE: ("raw_size", "at most {0}"),
    BAD_CODEC: ("codec", "0 (raw) or 1 (zstd)"),
    UNANNOUNCED_CODEC: ("codec", "0 (raw), for required_features announce no compressed layer"),
    BAD_TEXT_FLAGS: ("text flags", "0, 1 (UTF-8) or 3 (ASCII)"),
    FEW_CHARACTERS: ("characters", "at least {0}, for the bytes and flags of the text"),
    MANY_CHARACTERS: ("characters", "at most {0}, for the bytes and flags of the text"),
    BAD_EXTENSION_ZERO: ("reserved bytes of the extension table", "zeros"),
    BAD_GAP: ("gap", "zeros before the content"),
}


def stored_frequency(double hz):
    """`hz` as it is read when it was stored in 32 bits: 0 or infinite if they cannot hold it."""
    return decimal_of(<float> hz)


cdef bint fault_set(Fault *fault, FaultCode code, int64_t layer, uint64_t found, uint64_t expected) noexcept nogil:
    fault.code, fault.layer, fault.found, fault.expected = code, layer, found, expected
    return False


cdef object fault_error(const Fault *fault, const Header *header, str path):
    if fault.code == NO_MEMORY:
        return MemoryError()
    field, expected = _RULES[fault.code]
    found = fault.found
    expected = expected.format(fault.expected, found)
    layer = None if fault.layer < 0 else fault.layer
    hint = advice(path)
    if fault.code == SHORT_HEADER or fault.code == TRUNCATED:
        return RegionTruncated(path, field, f"{found} bytes", expected, layer, hint)
    if fault.code == SHORT_METADATA:
        found = f"{found} bytes"
    elif fault.code == BAD_MAGIC:
        found = repr(PyBytes_FromStringAndSize(<const char *> header.magic, 16))
        hint = advice(path, PyBytes_FromStringAndSize(<const char *> header, sizeof(Header)))
    elif fault.code == BAD_EXTENSION_VERSION:
        hint = NEWER
    elif fault.code == BAD_REQUIRED_FEATURES:
        found, hint = hex(found), NEWER
    elif fault.code == BAD_FREQUENCY:
        found = read_float(<uint32_t> fault.found)
    elif fault.code in (
        BAD_NAME_UTF8, BAD_NAME_PADDING, BAD_RESERVED, BAD_TABLE_PADDING, BAD_DIGEST_PRESENCE,
        BAD_KEYWORD_UTF8, BAD_EXTENSION_ZERO, BAD_GAP,
    ):
        found = "other bytes"
    return InvalidRegion(path, field, found, expected, layer, hint)


def advice(str path not None, bytes first=None):
    """What to do about the file at `path`, which is no sound region; `first` are its first bytes if it may be none."""
    kind = "" if first is None else looks_like(first)
    command = "" if path.startswith("<") else f"jessy-mem verify {shlex.quote(path)} tells more"
    return "; ".join([each for each in (f"it looks like {kind}" if kind else "", command) if each])


cdef inline float read_float(uint32_t bits) noexcept nogil:
    cdef float number
    memcpy(&number, &bits, sizeof(number))
    return number


cdef bint format_check_header(
    const uint8_t[::1] head, uint64_t n_bytes, uint64_t dimension_id, Header *header, Fault *fault
) noexcept nogil:
    cdef uint64_t most_layers
    if head.shape[0] < HEADER_BYTES or n_bytes < HEADER_BYTES:
        return fault_set(fault, SHORT_HEADER, -1, n_bytes, HEADER_BYTES)
    memcpy(header, &head[0], sizeof(Header))
    if memcmp(header.magic, format_magic(), 16) != 0:
        return fault_set(fault, BAD_MAGIC, -1, 0, 0)
    if header.extension_version > EXTENSION_VERSION:
        return fault_set(fault, BAD_EXTENSION_VERSION, -1, header.extension_version, EXTENSION_VERSION)
    if header.required_features & ~FEATURE_COMPRESSED:
        return fault_set(fault, BAD_REQUIRED_FEATURES, -1, header.required_features, FEATURE_COMPRESSED)
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
    if not header.optional_features & OPTION_IMMUTABLE and not span_is_zero(header.content_sha256, 32):
        return fault_set(fault, BAD_DIGEST_PRESENCE, -1, 0, 0)
    if header.metadata_size > n_bytes - HEADER_BYTES:
        return fault_set(fault, LARGE_METADATA_SIZE, -1, header.metadata_size, n_bytes - HEADER_BYTES)
    metadata_end = HEADER_BYTES + <uint64_t> header.metadata_size
    table_off = span_align_up(metadata_end, 8)
    if header.extension_table_offset != table_off:
        return fault_set(fault, BAD_EXTENSION_TABLE_OFFSET, -1, header.extension_table_offset, table_off)
    if not span_inside(table_off, format_head_bytes(header) - table_off, n_bytes):
        return fault_set(fault, SHORT_METADATA, -1, n_bytes, format_head_bytes(header))
    return True


cdef bint read_record(
    const uint8_t *base, uint64_t *cursor, uint64_t end, int64_t previous, LayerEntry *entry, Fault *fault
) noexcept nogil:
    """Read the record at `cursor`, which must end by `end`, and move the cursor behind it."""
    cdef const RecordHead *head
    cdef uint32_t length_bytes, frequency_bits
    cdef uint32_t _i
    cdef uint64_t at = cursor[0]
    if not span_inside(at, RECORD_MIN_BYTES, end):
        return fault_set(fault, SHORT_METADATA, -1, end, at + RECORD_MIN_BYTES)
    head = <const RecordHead *> (base + at)
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
    for _i in range(entry.n_keywords):
        if not span_inside(at, 4 + RECORD_TAIL_BYTES, end):
            return fault_set(fault, SHORT_METADATA, entry.layer, end, at + 4 + RECORD_TAIL_BYTES)
        memcpy(&length_bytes, base + at, 4)
        at += 4
        if not span_inside(at, <uint64_t> length_bytes + RECORD_TAIL_BYTES, end):
            return fault_set(fault, BAD_KEYWORD_LEN, entry.layer, length_bytes, end - at - RECORD_TAIL_BYTES)
        if not span_is_utf8(base + at, length_bytes):
            return fault_set(fault, BAD_KEYWORD_UTF8, entry.layer, 0, 0)
        at += length_bytes
    memcpy(&entry.content_off_bytes, base + at, 8)
    memcpy(&entry.content_bytes, base + at + 8, 4)
    cursor[0] = at + RECORD_TAIL_BYTES
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
    if extension.codec == CODEC_RAW and extension.raw_size != entry.content_bytes:
        return fault_set(fault, BAD_RAW_SIZE, layer, extension.raw_size, entry.content_bytes)
    most = min(<uint64_t> MAX_RAW_BYTES, <uint64_t> entry.content_bytes // BLOCK_MIN_BYTES * BLOCK_RAW_BYTES)
    if extension.codec == CODEC_ZSTD and extension.raw_size > most:
        return fault_set(fault, LARGE_RAW_SIZE, layer, extension.raw_size, most)
    if extension.text_flags > 3 or extension.text_flags == TEXT_ASCII:
        return fault_set(fault, BAD_TEXT_FLAGS, layer, extension.text_flags, 0)
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
    const uint8_t[::1] head, const Header *header, LayerEntry *entries, Fault *fault
) noexcept nogil:
    cdef const uint8_t *base = &head[0]
    cdef bint extended = header.extension_version != 0
    cdef uint64_t cursor = HEADER_BYTES
    cdef uint64_t end = header.total_size
    cdef int64_t previous = -1
    cdef uint32_t i
    if extended:
        end = HEADER_BYTES + <uint64_t> header.metadata_size
        if not span_is_zero(base + end, header.extension_table_offset - end):
            return fault_set(fault, BAD_TABLE_PADDING, -1, 0, 0)
    for i in range(header.layer_count):
        memset(&entries[i], 0, sizeof(LayerEntry))
        if not read_record(base, &cursor, end, previous, &entries[i], fault):
            return False
        previous = entries[i].layer
        if not extended:
            entries[i].raw_bytes = entries[i].content_bytes
        elif not read_extension(
            base + header.extension_table_offset + <uint64_t> i * EXTENSION_BYTES, header.required_features,
            &entries[i], fault,
        ):
            return False
    if not extended:
        return check_plain_contents(header, entries, cursor, fault)
    if cursor != end:
        return fault_set(fault, BAD_METADATA_SIZE, -1, header.metadata_size, cursor - HEADER_BYTES)
    return check_tiling(header, entries, format_head_bytes(header), fault)


cdef uint64_t format_head_bytes(const Header *header) noexcept nogil:
    return header.extension_table_offset + <uint64_t> header.layer_count * EXTENSION_BYTES


cdef bint format_check_gap(
    const uint8_t[::1] region, const Header *header, const LayerEntry *entries, uint32_t i, Fault *fault
) noexcept nogil:
    cdef uint64_t begin = format_head_bytes(header)
    if i:
        begin = entries[i - 1].content_off_bytes + entries[i - 1].content_bytes
    if not span_is_zero(&region[0] + begin, entries[i].content_off_bytes - begin):
        return fault_set(fault, BAD_GAP, entries[i].layer, begin, entries[i].content_off_bytes)
    return True


cdef bytes format_copy_head(const uint8_t[::1] head, const Header *header):
    cdef bytes copy = PyBytes_FromStringAndSize(<const char *> &head[0], format_head_bytes(header))
    memcpy(<char *> copy, header, sizeof(Header))  # nobody else knows these bytes yet
    return copy


cdef uint64_t format_head_checksum(const uint8_t[::1] head, uint64_t n_bytes) except? 0:
    cdef bytes copy = PyBytes_FromStringAndSize(<const char *> &head[0], n_bytes)
    cdef Header *header = <Header *> <char *> copy
    header.metadata_xxh3 = 0
    memset(header.content_sha256, 0, sizeof(header.content_sha256))
    return xxh3_64_intdigest(copy)


cdef tuple format_keywords(const uint8_t[::1] region, const LayerEntry *entry):
    cdef const uint8_t *base = &region[0]
    cdef uint64_t n_bytes = region.shape[0]
    cdef LayerEntry again
    cdef Fault fault
    cdef uint64_t at = entry.record_off_bytes
    cdef uint32_t length_bytes
    cdef list keywords = []
    if not read_record(base, &at, n_bytes, -1, &again, &fault) or again.n_keywords != entry.n_keywords:
        return None
    at = entry.record_off_bytes + sizeof(RecordHead)
    for _ in range(entry.n_keywords):
        memcpy(&length_bytes, base + at, 4)
        if not span_inside(at, 4 + <uint64_t> length_bytes, n_bytes):
            return None
        keywords.append(PyUnicode_DecodeUTF8(<const char *> base + at + 4, length_bytes, b"replace"))
        at += 4 + length_bytes
    return tuple(keywords)


def read_header(file):
    """What a region file says of itself: (dimension_id, name, generation, immutable); None if it is none.

    `file` is open for reading bytes, at its beginning. The generation of a plain V1 file is 0. Nothing is checked but
    the magic: a region that is to be used is opened.
    """
    cdef Header header
    cdef const uint8_t[::1] head = file.read(HEADER_BYTES)
    if head.shape[0] < HEADER_BYTES:
        return None
    memcpy(&header, &head[0], sizeof(header))
    if memcmp(header.magic, format_magic(), sizeof(header.magic)) != 0:
        return None
    name = PyUnicode_DecodeUTF8(
        <const char *> header.dimension_name, min(header.dimension_name_len, <uint32_t> NAME_BYTES), b"replace"
    )
    immutable = header.extension_version != 0 and header.optional_features & OPTION_IMMUTABLE != 0
    return header.dimension_id, name, header.generation, immutable
