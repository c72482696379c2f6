"""PackedRegion: a region as it will be stored, laid out before a byte of content is copied."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from jessy_mem._core.format cimport LayerEntry


cdef struct Piece:                 # a part of the head or of a content; never empty
    const uint8_t *first
    uint64_t n_bytes
    uint64_t off_bytes             # in the region


cdef struct Scratch:               # bytes that grow
    uint8_t *first
    uint64_t n_bytes
    uint64_t room_bytes


cdef class PackedRegion:
    cdef readonly uint64_t n_bytes  # 0 until the region is laid out
    cdef readonly uint32_t n_layers
    cdef uint64_t head_bytes
    cdef uint8_t[::1] head         # there once the region is laid out
    # Of each layer, and one more, which tells where the last ends. Until the region is laid out the keywords lie in
    # `words`, as in a record, and the attributes in `attributes`, and the offsets are those.
    cdef LayerEntry *layers
    cdef uint32_t room_layers
    cdef Piece *parts              # the head, then the contents in order; zeros between them
    cdef uint64_t n_parts
    cdef uint64_t room_parts
    cdef Scratch words
    cdef Scratch attributes
    cdef list owners               # whose bytes the pieces are
    cdef list sources              # what asks those that are mapped files, which others can shorten

    # Room for so many layers; once, before anything else.
    cdef int reserve(self, uint64_t n_layers) except -1
    # What is added next belongs to this layer, whose other fields are the caller's to fill in. There must be room.
    cdef LayerEntry *add_layer(self, uint32_t layer) noexcept nogil
    # False: no memory.
    cdef bint add_keyword(self, const uint8_t *first, Py_ssize_t n_bytes) noexcept nogil
    cdef bint add_piece(self, const uint8_t *first, uint64_t n_bytes) noexcept nogil
    # Give each layer its place, and write the head with its digests. ValueError for what the format cannot say.
    cdef int lay_out(
        self, uint32_t dimension_id, bytes name, uint64_t generation, uint64_t created_ns, bint immutable, bint delta
    ) except -1
    cdef void place_parts(self) noexcept nogil
    # After what the pieces point to was read: whether it is what was in the files.
    cdef int check_sources(self) except -1
    cdef int write_digests(self) except -1


# Append to what grows; False: no memory.
cdef bint scratch_add(Scratch *scratch, const void *first, uint64_t n_bytes) noexcept nogil
# Set the text flags of a content, and its number of characters.
cdef void measure_text(const uint8_t *first, uint64_t n_bytes, LayerEntry *entry) noexcept nogil
