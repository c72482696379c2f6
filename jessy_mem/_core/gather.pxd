"""Gathered: layers that are to be copied together, wherever they lie."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.format cimport LayerEntry
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.gather cimport Span
from jessy_mem._core.view cimport LayerView


cdef struct Source:              # whom to ask, after it was read, whether a span was read soundly
    void *image                  # borrowed: `held` keeps it; NULL: nobody, for nobody can change it
    uint32_t entry               # the first of its layers in that span
    uint32_t end_entry           # and the one behind the last


cdef class Gathered:
    cdef Span *spans             # layers that are neighbours in a file are one
    cdef Source *sources         # of each span
    cdef int64_t *ends           # of each layer, in the copy
    cdef Py_ssize_t n_layers     # that were added
    cdef Py_ssize_t n_spans
    cdef Py_ssize_t room         # for so many layers
    cdef readonly uint64_t n_bytes
    cdef list held               # what keeps the spans

    # Room for so many, before the first; MemoryError.
    cdef int reserve(self, Py_ssize_t n_layers) except -1
    # Add what a view shows, and keep the view.
    cdef int add_view(self, LayerView view) except -1
    # Whether all was read soundly, asked after it was: RegionTruncated, MappingError.
    cdef int check_read(self) except -1


# Add layer number `entry`, as stored, of an image that `held` keeps. There is room.
cdef inline void gathered_add(Gathered self, Image image, uint32_t entry) noexcept:
    cdef LayerEntry *layer = &image.layers[entry]
    cdef const uint8_t *first = &image.bytes[0] + layer.content_off_bytes
    cdef Span *span = &self.spans[self.n_spans - 1]
    cdef Source *source = &self.sources[self.n_spans - 1]
    jm_assert(self.n_layers < self.room, self.n_layers, self.room)
    jm_assert(layer.content_off_bytes <= image.n_bytes - layer.content_bytes, entry, image.n_bytes)
    self.n_bytes += layer.content_bytes
    self.ends[self.n_layers] = self.n_bytes
    self.n_layers += 1
    if (
        self.n_spans
        and source.image == <void *> image
        and source.end_entry == entry
        and span.first + span.n_bytes == first
    ):
        span.n_bytes += layer.content_bytes
        source.end_entry = entry + 1
    else:
        self.n_spans += 1
        span[1].first, span[1].n_bytes = first, layer.content_bytes
        source[1].image, source[1].entry, source[1].end_entry = <void *> image, entry, entry + 1
