"""LayerView: one layer, shared by those who read it."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from jessy_mem._core.image cimport Image


cdef class LayerView:
    cdef object __weakref__
    cdef Image image                 # keeps the bytes, or (compressed) what they came from
    cdef object payload              # (owner of decompressed bytes, its size), or None; of a copy, its view
    cdef object known_attributes     # a read-only mapping, once asked for; None before, and if nested
    cdef const uint8_t *data         # inside image or payload
    cdef Py_ssize_t size_bytes
    cdef uint16_t entry              # which layer of the image it is
    cdef uint8_t faulted             # atomic flag: the pages were touched once
    cdef uint8_t says_text           # the file knows the content as UTF-8, and counts its characters; a hint
    cdef uint8_t highest             # atomic flag: its highest byte, once it was decoded, which tells the width; a hint
    cdef readonly object id          # LayerId
    cdef readonly tuple keywords

    # The text: that which is kept, or a copy, which is kept if there is a cache with room for it.
    cdef str read_text(self, bint *is_copy)
    # Whether both show the same layer of the same image.
    cdef bint is_like(self, LayerView other)
    # The content decoded from UTF-8; UnicodeDecodeError names the layer. Raises what check_read does.
    cdef str decode(self)
    # The same of what the file says is text; None if it is not what it says.
    cdef str decode_known(self)
    # What `view[key]` is, whatever the key.
    cdef object part(self, key)
    # Asked after bytes of the content were read: whether they are the file's; see Image.
    cdef int check_read(self, const uint8_t *first, Py_ssize_t n_bytes) except -1


cdef extern from "c/pycompat.h":
    LayerView jm_stolen_view "jm_stolen"(PyObject *each)  # a cast of what jm_stolen returns counts one reference more


# What its bytes are: those of its image, or a block of the pool.
cdef inline str source_of(LayerView view):
    return "pool" if view.payload is not None else view.image.source


# The view of layer number `i` of an image, its content compared with its checksum. `allocate`: n_bytes -> writable
# buffer for a decompressed layer.
cdef LayerView make_view(Image image, uint32_t i, object allocate)
# Another view of the same bytes, for one thread alone.
cdef LayerView copy_of(LayerView view)
