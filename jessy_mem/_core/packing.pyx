"""The head of a region file, as a writer makes it: packed, then sealed with its digests; format.pyx reads it."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from jessy_mem._core.format cimport (
    CODEC_ZSTD,
    EXTENSION_BYTES,
    EXTENSION_VERSION,
    FEATURE_COMPRESSED,
    HEADER_BYTES,
    NAME_BYTES,
    OPTION_IMMUTABLE,
    RECORD_MIN_BYTES,
    RECORD_TAIL_BYTES,
    Header,
    LayerExtension,
    RecordHead,
    format_content_off,
    format_head_checksum,
    format_magic,
)
from jessy_mem._core.kernels.span cimport span_align_up


def pack_head(
    uint32_t dimension_id, bytes name, bint immutable, uint64_t generation, uint64_t created_ns, list layers
):
    """The head of an extended file, as a bytearray; the offset of each content, as a list; the size of the file.

    `layers` holds, in ascending order, tuples (layer, depth, frequency_hz, keywords as a list of bytes, content_bytes,
    raw_bytes, codec, text_flags, characters, xxh3). The values must have been checked. The two digests of the header
    are left zero: `seal_head` fills them in.
    """
    cdef Header header
    cdef RecordHead record
    cdef LayerExtension extension
    cdef uint64_t metadata_bytes = 0
    cdef uint64_t table_off, head_bytes, cursor, record_at, table_at
    cdef uint32_t content_bytes, length_bytes
    cdef bytearray head
    cdef list offsets = []
    cdef uint8_t[::1] view
    cdef uint8_t *out
    cdef bytes keyword
    if len(name) > NAME_BYTES:
        raise ValueError(f"name: {len(name)} bytes")
    for layer in layers:
        metadata_bytes += RECORD_MIN_BYTES
        for keyword in layer[3]:
            metadata_bytes += 4 + len(keyword)
    if metadata_bytes >> 32:
        raise ValueError(f"layers: {metadata_bytes} bytes of metadata do not fit into the format's 32 bits")
    table_off = span_align_up(HEADER_BYTES + metadata_bytes, 8)
    head_bytes = table_off + <uint64_t> len(layers) * EXTENSION_BYTES
    head = bytearray(head_bytes)
    view = head
    out = &view[0]
    memset(&header, 0, sizeof(header))
    header.dimension_id, header.dimension_name_len = dimension_id, <uint32_t> len(name)
    memcpy(header.dimension_name, <const char *> name, len(name))
    memcpy(header.magic, format_magic(), sizeof(header.magic))
    header.layer_count, header.extension_version = <uint32_t> len(layers), EXTENSION_VERSION
    header.optional_features = OPTION_IMMUTABLE if immutable else 0
    header.metadata_size, header.extension_table_offset = <uint32_t> metadata_bytes, table_off
    header.generation, header.created_ns = generation, created_ns

    cursor, record_at, table_at = head_bytes, HEADER_BYTES, table_off
    memset(&extension, 0, sizeof(extension))
    for number, depth, frequency_hz, keywords, content_bytes, raw_bytes, codec, text_flags, characters, xxh3 in layers:
        record.layer_num, record.depth, record.frequency = number, depth, frequency_hz
        record.keyword_count = <uint32_t> len(keywords)
        memcpy(out + record_at, &record, sizeof(record))
        record_at += sizeof(record)
        for keyword in keywords:
            length_bytes = <uint32_t> len(keyword)
            memcpy(out + record_at, &length_bytes, 4)
            memcpy(out + record_at + 4, <const char *> keyword, length_bytes)
            record_at += 4 + length_bytes
        cursor = format_content_off(cursor, content_bytes)
        memcpy(out + record_at, &cursor, 8)
        memcpy(out + record_at + 8, &content_bytes, 4)
        record_at += RECORD_TAIL_BYTES
        offsets.append(cursor)
        cursor += content_bytes
        extension.xxh3, extension.raw_size, extension.codec = xxh3, raw_bytes, codec
        extension.text_flags, extension.characters = text_flags, characters
        memcpy(out + table_at, &extension, sizeof(extension))
        table_at += sizeof(extension)
        if codec == CODEC_ZSTD:
            header.required_features |= FEATURE_COMPRESSED
    header.total_size = cursor
    memcpy(out, &header, sizeof(header))
    return head, offsets, cursor


def seal_head(uint8_t[::1] head not None, bytes content_sha256=None):
    """Fill in the digests of a head that `pack_head` made: over itself, and for an immutable region over what follows.

    `content_sha256` is the SHA-256 of all bytes behind the head, or None. Another thread must not write to the head.
    """
    cdef Header *header
    if head.shape[0] < HEADER_BYTES:
        raise ValueError(f"head: {head.shape[0]} bytes")
    if content_sha256 is not None and len(content_sha256) != sizeof(header.content_sha256):
        raise ValueError(f"content_sha256: {len(content_sha256)} bytes")
    header = <Header *> &head[0]
    header.metadata_xxh3 = format_head_checksum(head, head.shape[0])
    memset(header.content_sha256, 0, sizeof(header.content_sha256))
    if content_sha256 is not None:
        memcpy(header.content_sha256, <const char *> content_sha256, sizeof(header.content_sha256))


def renumber_head(uint8_t[::1] head not None, uint32_t dimension_id):
    """Give a head, whose region is not immutable, another dimension, and seal it again."""
    if head.shape[0] < HEADER_BYTES:
        raise ValueError(f"head: {head.shape[0]} bytes")
    (<Header *> &head[0]).dimension_id = dimension_id
    seal_head(head)
