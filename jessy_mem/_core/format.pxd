"""The region file, JESSY_MMAP_V1, to the byte: docs/format.md is the text, these structs are the layout.

A region is checked once, when it is opened. The header is copied before it is checked; what is read afterwards comes
from that copy and from `LayerEntry` records in private memory: a file that is changed behind the mapping, even while it
is being opened, cannot lead a reader outside it.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from jessy_mem._core.fault cimport Fault
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
    XXH3_OF_NOTHING = 0x2D06800538D394C2
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
    uint8_t viewed                 # atomic flag: a view was made, so that the content is sound


cdef struct HeadCursor:            # how far format_read_layers has come; zeros at the beginning
    uint64_t at                    # in the head
    uint64_t attributes_at         # where those of the next layer begin
    uint64_t pause_at
    uint32_t n_layers              # that were read
    uint32_t n_keywords            # of the layer that was begun
    bint begun


cdef inline const char *format_magic() noexcept nogil:
    return b"JESSY_MMAP_V1\0\0\0"


cdef inline bint entry_is_tombstone(const LayerEntry *entry) noexcept nogil:
    return entry.text_flags == TEXT_TOMBSTONE


cdef inline uint64_t format_content_off(uint64_t end_off_bytes, uint64_t n_bytes) noexcept nogil:
    """Where a content of `n_bytes` begins in an extended file, if what is before it ends at `end_off_bytes`."""
    return span_align_up(
        end_off_bytes, PAGE_ALIGNMENT_BYTES if n_bytes >= PAGE_ALIGNMENT_BYTES else SMALL_ALIGNMENT_BYTES
    )


cdef inline uint64_t format_extension_bytes(const Header *header) noexcept nogil:
    return EXTENSION_BYTES if header.extension_version < 2 else WIDE_EXTENSION_BYTES


# All check bytes that nobody vouches for, in time and memory proportional to header and metadata.
# They return True, or False, and then `fault` tells what is wrong.

# Copy the header, and check the copy. `head` is the beginning of a region of `n_bytes`; only the header is read.
# `dimension_id` 0 accepts every dimension.
cdef bint format_check_header(
    const uint8_t[::1] head, uint64_t n_bytes, uint64_t dimension_id, Header *header, Fault *fault
) noexcept nogil
# Fill `entries`, zeros, one for each layer of a checked header, and one more that tells where the records end. `head`
# is the begin of the region. With the fault SHORT_HEAD it is called again, when more of it is there, or as much: that
# is the moment for an interrupt.
cdef bint format_read_layers(
    const uint8_t[::1] head, const Header *header, LayerEntry *entries, HeadCursor *cursor, Fault *fault
) noexcept nogil
# The attributes of all layers are valid UTF-8. `head` reaches to their end.
cdef bint format_check_attributes(
    const uint8_t[::1] head, const Header *header, const LayerEntry *entries, Fault *fault
) noexcept nogil
# Extended files: where the bytes before the content of layer number `i` begin.
cdef inline uint64_t format_gap_begin(uint64_t head_bytes, const LayerEntry *entries, uint32_t i) noexcept nogil:
    return entries[i - 1].content_off_bytes + entries[i - 1].content_bytes if i else head_bytes
# The bytes before the content of layer number `i`, from the content before or the head, are zero.
# `region` reaches to that content at least.
cdef bint format_check_gap(
    const uint8_t[::1] region, uint64_t head_bytes, const LayerEntry *entries, uint32_t i, Fault *fault
) noexcept nogil

# Where the table of an extended file ends, by its checked header.
cdef uint64_t format_table_end(const Header *header) noexcept nogil
# Where its head (header, records, table and attributes) ends, by entries that were read.
cdef uint64_t format_head_bytes(const Header *header, const LayerEntry *entries) noexcept nogil
# XXH3-64 of the first `head_bytes`, the two digests of the header taken for zero.
cdef uint64_t format_head_checksum(const uint8_t[::1] head, uint64_t head_bytes) except? 0
# The keywords of a copy of one layer's record; read again from the file, so checked again: None if they are not
# what was opened.
cdef tuple format_keywords(bytes record, uint32_t n_keywords)
