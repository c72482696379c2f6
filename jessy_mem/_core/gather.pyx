"""Gathered: layers that are to be copied together, wherever they lie.

HAZARD: whoever copies has no lock and no GIL, while dimensions are unloaded, grow and are evicted. So what keeps the
bytes, a stack or a view, is held here from the moment when a layer is added until the copy is done; and whoever copied
asks each file afterwards whether it had its bytes all the time.

    layers          spans                        target
    (1, 0), (1, 1)  first, n_bytes --memcpy--> [content of (1, 0)|content of (1, 1)|content of (7, 3)|...]
    (7, 3)          first, n_bytes              0                 offsets[1]        offsets[2]        offsets[n]
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from jessy_mem._core.c.asserts cimport jm_assert
from jessy_mem._core.c.atomic cimport jm_fence_acquire, jm_load_relaxed
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.gather cimport Span, gather_copy
from jessy_mem._core.view cimport LayerView


@cython.final
@cython.no_gc  # holds stacks and views, and no cycle can pass through them
cdef class Gathered:
    """Layers to be copied, in their order. For one thread, but for `copy`."""

    def __cinit__(self):
        self.held = []

    def __dealloc__(self):
        free(self.spans)
        free(self.sources)
        free(self.ends)

    cdef int reserve(self, Py_ssize_t n_layers) except -1:
        self.spans = <Span *> malloc(max(n_layers, 1) * sizeof(Span))
        self.sources = <Source *> malloc(max(n_layers, 1) * sizeof(Source))
        self.ends = <int64_t *> malloc(max(n_layers, 1) * sizeof(int64_t))
        if self.spans == NULL or self.sources == NULL or self.ends == NULL:
            raise MemoryError
        self.room = n_layers
        return 0

    cdef int add_view(self, LayerView view) except -1:
        cdef Py_ssize_t i = self.n_spans
        self.held.append(view)
        if view.payload is None:
            gathered_add(self, view.image, view.entry)
            return 0
        jm_assert(self.n_layers < self.room, self.n_layers, self.room)
        self.spans[i].first, self.spans[i].n_bytes, self.sources[i].image = view.data, view.size_bytes, NULL
        self.n_spans = i + 1
        self.n_bytes += view.size_bytes
        self.ends[self.n_layers] = self.n_bytes
        self.n_layers += 1
        return 0

    def __len__(self):
        return self.n_layers

    def offsets(self, int64_t[::1] target not None):
        """Write where each content begins, and where the last ends: n + 1 numbers; ValueError for other room."""
        if target.shape[0] != self.n_layers + 1:
            raise ValueError(f"target: room for {target.shape[0]} offsets, not {self.n_layers + 1}")
        target[0] = 0
        if self.n_layers:
            memcpy(&target[1], self.ends, self.n_layers * sizeof(int64_t))

    def copy(self, uint8_t[::1] target not None, uint64_t begin_bytes=0, end_bytes=None):
        """Copy those bytes of all that lie in [begin_bytes, end_bytes), to their place in `target`, without the GIL.

        ValueError if `target` is too small for all. Several threads may copy, each its part. `check` follows.
        """
        cdef uint64_t end = self.n_bytes if end_bytes is None else <uint64_t> end_bytes
        if <uint64_t> target.shape[0] < self.n_bytes:
            raise ValueError(f"target: {target.shape[0]} bytes, for a copy of {self.n_bytes}")
        if self.n_bytes:
            with nogil:
                gather_copy(&target[0], self.spans, self.n_spans, begin_bytes, end)

    def check(self):
        """Asked after a copy: whether it is what the files hold. RegionTruncated, MappingError."""
        self.check_read()

    cdef int check_read(self) except -1:
        cdef Py_ssize_t i
        cdef uint32_t entry
        cdef Image image
        jm_fence_acquire()
        for i in range(self.n_spans):
            if needs_a_look(&self.spans[i], self.sources[i].image):
                image = <Image> self.sources[i].image
                for entry in range(self.sources[i].entry, self.sources[i].end_entry):
                    image.check_read(image.content(entry), image.layers[entry].content_bytes, image.layers[entry].layer)
        return 0


cdef inline bint needs_a_look(const Span *span, void *image) noexcept:
    """Whether Image.check_read has to ask. A span that ends with another byte than zero was there to its end."""
    cdef const uint64_t *zeros_from = NULL
    cdef const uint8_t *end = span.first + span.n_bytes
    if image != NULL:
        zeros_from = (<Image> image).zeros_from
    if zeros_from == NULL or span.n_bytes == 0:
        return False
    return (end - 1)[0] == 0 or jm_load_relaxed(zeros_from) < <uint64_t> end
