"""The region file, JESSY_MMAP_V1, to the byte: docs/format.md is the text, these structs are the layout.

A region is checked once, when it is opened. The header is copied before it is checked; what is read afterwards comes
from that copy and from `LayerEntry` records in private memory: a file that is changed behind the mapping, even while it
is being opened, cannot lead a reader outside it.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from jessy_mem._core.kernels.span cimport span_align_up

cdef enum:
    HEADER_BYTES = 256
    NAME_BYTES = 64                # the most a dimension's name may take
    RESERVED_AT = 100              # from here on a plain V1 header is zero
    ZERO_AT = 176                  # from here on every header is zero
    RECORD_MIN_BYTES = 23          # a layer record without keywords
    RECORD_TAIL_BYTES = 12         # of them behind the keywords
    EXTENSION_BYTES = 32           # of a table entry in extension version 1
    WIDE_EXTENSION_BYTES = 64      # and in version 2
    MAX_LAYERS = 65536
    MAX_ATTRIBUTES_BYTES = 65536   # of one layer
    EXTENSION_VERSION = 2          # the newest that is read and written
    FEATURE_COMPRESSED = 1         # bits of required_features
    FEATURE_DELTA = 2              # there may be tombstones; a layer that is not named is that of the file under it
    KNOWN_FEATURES = 3
    OPTION_IMMUTABLE = 1           # bit of optional_features
    CODEC_RAW = 0
    CODEC_ZSTD = 1
    TEXT_UTF8 = 1                  # bits of text_flags
    TEXT_ASCII = 2
    TEXT_TOMBSTONE = 4             # the layer was removed: no content, no keywords, no attributes
    SMALL_ALIGNMENT_BYTES = 64
    PAGE_ALIGNMENT_BYTES = 4096    # of contents of at least this many bytes


cdef packed struct Header:         # little-endian, as in the file
    uint32_t dimension_id
    uint32_t dimension_name_len
    uint8_t[64] dimension_name
    uint64_t total_size
    uint32_t layer_count
    uint8_t[16] magic
    uint16_t extension_version
    uint16_t required_features
    uint32_t optional_features
    uint32_t metadata_size
    uint64_t generation
    uint64_t created_ns
    uint64_t extension_table_offset
    uint64_t metadata_xxh3
    uint8_t[32] content_sha256
    uint8_t[80] zero


cdef packed struct RecordHead:     # a layer record up to its keywords; then content_offset u64, content_size u32
    uint16_t layer_num
    uint8_t depth
    float frequency
    uint32_t keyword_count


cdef packed struct LayerExtension:
    uint64_t xxh3
    uint64_t raw_size
    uint8_t codec
    uint8_t text_flags
    uint16_t zero
    uint32_t characters
    uint64_t zero_too


cdef packed struct WideExtension:  # extension version 2
    LayerExtension narrow
    uint64_t created_ns
    uint64_t attributes_offset
    uint32_t attributes_size
    uint32_t n_tokens
    uint64_t zero


cdef struct LayerEntry:            # one layer as checked, in private memory
    uint64_t content_off_bytes
    uint64_t xxh3
    uint64_t raw_bytes             # after decompression
    uint64_t record_off_bytes      # of its record, for the keywords; that of the next record is where it ends
    uint64_t created_ns            # of the file in extension version 1; 0 in plain V1
    uint64_t attributes_off_bytes
    uint32_t content_bytes         # as stored
    uint32_t n_keywords
    uint32_t n_characters
    uint32_t attributes_bytes      # of the JSON object; 0: none
    uint32_t n_tokens              # 0: unknown
    float frequency_hz
    uint16_t layer
    uint8_t depth
    uint8_t codec
    uint8_t text_flags
    uint8_t verified               # atomic flag: the content was compared with xxh3


cdef enum FaultCode:               # a rule of the format that a file breaks; format.pyx names each
    NO_FAULT
    NO_MEMORY                      # not the file's fault
    SHORT_HEADER
    BAD_MAGIC
    BAD_EXTENSION_VERSION
    BAD_REQUIRED_FEATURES
    ZERO_DIMENSION_ID
    BAD_DIMENSION_ID
    BAD_NAME_LEN
    BAD_NAME_UTF8
    BAD_NAME_PADDING
    TRUNCATED
    BAD_TOTAL_SIZE
    BAD_LAYER_COUNT
    BAD_RESERVED
    BAD_GENERATION
    LARGE_METADATA_SIZE
    BAD_METADATA_SIZE
    BAD_EXTENSION_TABLE_OFFSET
    BAD_TABLE_PADDING
    BAD_DIGEST_PRESENCE
    SHORT_METADATA
    BAD_LAYER_ORDER
    BAD_FREQUENCY
    BAD_KEYWORD_COUNT
    BAD_KEYWORD_LEN
    BAD_KEYWORD_UTF8
    BAD_CONTENT_OFFSET
    BAD_CONTENT_BEGIN
    BAD_CONTENT_SIZE
    BAD_OVERLAP
    BAD_CONTENT_END
    BAD_RAW_SIZE
    LARGE_RAW_SIZE
    BAD_CODEC
    UNANNOUNCED_CODEC
    BAD_TEXT_FLAGS
    FEW_CHARACTERS
    MANY_CHARACTERS
    BAD_EXTENSION_ZERO
    BAD_GAP
    IMMUTABLE_DELTA
    UNANNOUNCED_TOMBSTONE
    TOMBSTONE_KEYWORDS
    TOMBSTONE_CONTENT
    TOMBSTONE_CODEC
    TOMBSTONE_CHECKSUM
    TOMBSTONE_ATTRIBUTES
    TOMBSTONE_TOKENS
    LARGE_ATTRIBUTES
    BAD_ATTRIBUTES_SIZE
    BAD_ATTRIBUTES_OFFSET
    BAD_ATTRIBUTES_UTF8


cdef struct Fault:
    FaultCode code
    int64_t layer                  # layer_num, or -1: not about one layer
    uint64_t found
    uint64_t expected


cdef inline const char *format_magic() noexcept nogil:
    return b"JESSY_MMAP_V1\0\0\0"


cdef inline bint entry_is_tombstone(const LayerEntry *entry) noexcept nogil:
    return entry.text_flags == TEXT_TOMBSTONE


cdef inline uint64_t format_content_off(uint64_t end_off_bytes, uint64_t n_bytes) noexcept nogil:
    """Where a content of `n_bytes` begins in an extended file, if what is before it ends at `end_off_bytes`."""
    return span_align_up(
        end_off_bytes, PAGE_ALIGNMENT_BYTES if n_bytes >= PAGE_ALIGNMENT_BYTES else SMALL_ALIGNMENT_BYTES
    )


# All check bytes that nobody vouches for, in time and memory proportional to header and metadata.
# They return True, or False, and then `fault` tells what is wrong.

# Copy the header, and check the copy. `head` is the beginning of a region of `n_bytes`; only the header is read.
# `dimension_id` 0 accepts every dimension.
cdef bint format_check_header(
    const uint8_t[::1] head, uint64_t n_bytes, uint64_t dimension_id, Header *header, Fault *fault
) noexcept nogil
# Where the head (header, records, table and attributes) of an extended file ends: past the table, which `head` holds, by
# what the table says.
cdef bint format_measure_head(
    const uint8_t[::1] head, const Header *header, uint64_t *head_bytes, Fault *fault
) noexcept nogil
# Fill `entries`, one for each layer of a checked header, and one more that tells where the records end. `head` is the
# whole region, or the head of an extended one.
cdef bint format_read_layers(
    const uint8_t[::1] head, const Header *header, uint64_t head_bytes, LayerEntry *entries, Fault *fault
) noexcept nogil
# Extended files: the bytes before the content of layer number `i`, from the content before or the head, are zero.
# `region` reaches to that content at least.
cdef bint format_check_gap(
    const uint8_t[::1] region, uint64_t head_bytes, const LayerEntry *entries, uint32_t i, Fault *fault
) noexcept nogil

# Where the table of an extended file ends, by its checked header.
cdef uint64_t format_table_end(const Header *header) noexcept nogil
# The error for a fault.
cdef object fault_error(const Fault *fault, const Header *header, str path)
# A private copy of the head of an extended file, `header` in the place of its header; None if its table has a fault.
cdef bytes format_copy_head(const uint8_t[::1] region, const Header *header, Fault *fault)
# XXH3-64 of the first `n_bytes` of `head`, the two digests of the header taken for zero.
cdef uint64_t format_head_checksum(const uint8_t[::1] head, uint64_t n_bytes) except? 0
# The keywords of one layer; read again from the file, so checked again: None if they are not what was opened.
cdef tuple format_keywords(const uint8_t[::1] region, const LayerEntry *entry)
