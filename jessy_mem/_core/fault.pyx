"""The rules of the region file, and the error for each that a file breaks."""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

import shlex

from jessy_mem.errors import InvalidRegion, RegionTruncated
from jessy_mem.looks import looks_like

NEWER = "a newer jessy_mem wrote it; pip install -U jessy-mem"

# code: (field, what is expected). {0} is the number that was expected, {1} the one that was found.
_RULES = {
    SHORT_HEADER: ("header", "a file of at least {0} bytes"),
    BAD_MAGIC: ("magic", repr(b"JESSY_MMAP_V1\0\0\0")),
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
    BAD_TEXT_FLAGS: ("text flags", "0, 1 (UTF-8), 3 (ASCII) or 4 (tombstone)"),
    FEW_CHARACTERS: ("characters", "at least {0}, for the bytes and flags of the text"),
    MANY_CHARACTERS: ("characters", "at most {0}, for the bytes and flags of the text"),
    BAD_EXTENSION_ZERO: ("reserved bytes of the extension table", "zeros"),
    BAD_GAP: ("gap", "zeros before the content"),
    IMMUTABLE_DELTA: ("required_features", "no bit {0:#x} (tombstones), for the dimension is immutable"),
    MISSING_DELTA: ("required_features", "bit {0:#x}, for the file is a delta"),
    UNANNOUNCED_TOMBSTONE: ("text flags", "0, 1 (UTF-8) or 3 (ASCII), for required_features announce no tombstone"),
    TOMBSTONE_KEYWORDS: ("keyword_count", "0, for the layer is removed"),
    TOMBSTONE_CONTENT: ("content_size", "0, for the layer is removed"),
    TOMBSTONE_CODEC: ("codec", "0 (raw), for the layer is removed"),
    TOMBSTONE_CHECKSUM: ("xxh3", "{0:#018x}, that of no bytes, for the layer is removed"),
    TOMBSTONE_ATTRIBUTES: ("attributes_size", "0, for the layer is removed"),
    TOMBSTONE_TOKENS: ("n_tokens", "0, for the layer is removed"),
    LARGE_ATTRIBUTES: ("attributes_size", "at most {0}"),
    BAD_ATTRIBUTES_SIZE: ("attributes_size", "at most {0}, the bytes left"),
    BAD_ATTRIBUTES_OFFSET: ("attributes_offset", "{0} (or 0 if there are none), for attributes follow each other"),
    BAD_ATTRIBUTES_UTF8: ("attributes", "valid UTF-8"),
}


cdef inline float read_float(uint32_t bits) noexcept nogil:
    cdef float number
    memcpy(&number, &bits, sizeof(number))
    return number


cdef object fault_error(const Fault *fault, str path, bytes first=None):
    if fault.code == NO_MEMORY:
        return MemoryError()
    field, expected = _RULES[fault.code]
    found = fault.found
    expected = expected.format(fault.expected, found)
    layer = None if fault.layer < 0 else fault.layer
    hint = advice(path, first if fault.code == BAD_MAGIC else None)
    if fault.code == SHORT_HEADER or fault.code == TRUNCATED:
        return RegionTruncated(path, field, f"{found} bytes", expected, layer, hint)
    if fault.code == SHORT_METADATA:
        found = f"{found} bytes"
    elif fault.code == BAD_MAGIC:  # the first and the second half of it
        found = repr(fault.found.to_bytes(8, "little") + fault.expected.to_bytes(8, "little"))
    elif fault.code == BAD_EXTENSION_VERSION:
        hint = NEWER
    elif fault.code == BAD_REQUIRED_FEATURES:
        found, hint = hex(found), NEWER
    elif fault.code in (IMMUTABLE_DELTA, MISSING_DELTA):
        found = hex(found)
    elif fault.code == TOMBSTONE_CHECKSUM:
        found = f"{found:#018x}"
    elif fault.code == BAD_FREQUENCY:
        found = read_float(<uint32_t> fault.found)
    elif fault.code in (
        BAD_NAME_UTF8, BAD_NAME_PADDING, BAD_RESERVED, BAD_TABLE_PADDING, BAD_DIGEST_PRESENCE,
        BAD_KEYWORD_UTF8, BAD_EXTENSION_ZERO, BAD_GAP, BAD_ATTRIBUTES_UTF8,
    ):
        found = "other bytes"
    return InvalidRegion(path, field, found, expected, layer, hint)


def advice(str path not None, bytes first=None):
    """What to do about the file at `path`, which is no sound region; `first` are its first bytes if it may be none."""
    kind = "" if first is None else looks_like(first)
    command = "" if path.startswith("<") else f"jessy-mem verify {shlex.quote(path)} tells more"
    return "; ".join([each for each in (f"it looks like {kind}" if kind else "", command) if each])
