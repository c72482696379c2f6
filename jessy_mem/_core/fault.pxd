"""What is wrong with a region file: a rule of docs/format.md and the two numbers that do not agree."""
from libc.stdint cimport int64_t, uint64_t


cdef enum FaultCode:               # a rule of the format that a file breaks; fault.pyx names each
    NO_FAULT
    NO_MEMORY                      # not the file's fault
    SHORT_HEAD                     # nor this: `expected` bytes of the head must be there to go on
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
    MISSING_DELTA
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


# Return False, as whoever found the fault does.
cdef inline bint fault_set(
    Fault *fault, FaultCode code, int64_t layer, uint64_t found, uint64_t expected
) noexcept nogil:
    fault.code, fault.layer, fault.found, fault.expected = code, layer, found, expected
    return False


# The error for a fault of the file at `path`.
cdef object fault_error(const Fault *fault, str path, bytes first=*)
