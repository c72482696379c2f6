"""LayerView: one layer, shared by all who read it. MmapRegion: a dimension's file and its views."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.format cimport LayerEntry
from jessy_mem._core.image cimport Image


cdef class LayerView:
    cdef object __weakref__
    cdef Image image                 # keeps the bytes, or (compressed) what they came from
    cdef object payload              # the owner of decompressed bytes, or None
    cdef uint64_t payload_bytes      # its memory, which image.decompressed_bytes counts
    cdef const uint8_t *data         # inside image or payload
    cdef Py_ssize_t size_bytes
    cdef uint8_t faulted             # atomic flag: the pages were touched once
    cdef uint8_t says_ascii          # what the file says of the text; a hint
    cdef readonly object id          # LayerId
    cdef readonly tuple keywords
    cdef readonly int depth
    cdef readonly double frequency   # Hz
    cdef readonly str source

    # The content decoded from UTF-8; UnicodeDecodeError names the layer.
    cdef str decode(self)


cdef class MmapRegion:
    cdef object __weakref__
    cdef Image image                 # None once closed; read under critical_section(self)
    cdef object allocate             # n_bytes -> writable buffer for a decompressed layer
    cdef uint8_t is_immutable        # by the plan or by the file's flag
    cdef uint8_t is_owned            # by a table: only the table lets go of it
    cdef uint8_t visited             # atomic flag for eviction: read since it was last looked at
    cdef dict views                  # layer -> LayerView; made on first access, then never replaced

    # The view of one layer, made on its first access; None if there is no such layer.
    cdef LayerView find_view(self, object layer)
    cdef LayerView make_view(self, Image image, uint32_t i)
    cdef int decompress(self, LayerView view, LayerEntry *entry) except -1
    cdef Image current(self)
