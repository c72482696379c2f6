"""A stack: the files of one dimension as a tuple of Images, the base first; the newest says what a layer is."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from jessy_mem._core.image cimport Image


cdef struct Place:         # where a layer is
    uint32_t file          # position in the stack
    uint32_t entry         # position in that image's layers


# `stack`, if it is one; else TypeError.
cdef tuple checked_stack(tuple stack)
# The same, as a tuple that nobody else knows, and that any thread may drop.
cdef tuple own_stack(tuple stack)
# `open_stack` for compiled callers, without the defaults.
cdef tuple opened_stack(
    str path, uint64_t dimension_id, object admit, bint immutable, str verify, bint deltas, dict bare, str guard,
    object metadata_limit_bytes, bint follow_links
)
# The number that `layer` says, -1 if no layer can have it; TypeError if it is no integer.
cdef int64_t layer_number(object layer) except -2
# Where a layer that is not removed is; False if there is none.
cdef bint stack_find(tuple stack, int64_t layer, Place *place) noexcept
# All layers that are not removed, ascending; `n` becomes their number. The caller frees them.
cdef Place *stack_layers(tuple stack, uint32_t *n) except NULL
# Their numbers.
cdef list stack_numbers(tuple stack)
# How many there are, counted from `n_layers`, which `other` has, if that begins with the same files.
cdef uint32_t stack_count(tuple stack, tuple other, int64_t n_layers)
# How many layers more there are if `image` is laid on `stack`.
cdef int64_t stack_gain(tuple stack, Image image) noexcept
# All damage of all files, as a list of errors; `progress` as that of MmapRegion.verify.
cdef list stack_damage(tuple stack, object progress)
# The share of the pages of all files that are in memory.
cdef double stack_residency(tuple stack) except -1
# Bytes of all files.
cdef uint64_t stack_bytes(tuple stack)
# For each layer (layer, depth, frequency in Hz, keywords, stored bytes, bytes, created_ns), ascending.
cdef list stack_facts(tuple stack)
# The facts of those of `layers` that there are, and the numbers of the others.
cdef tuple stack_facts_of(tuple stack, object layers)
# Of the layers that files of `stack` name which are not in `old`, those that are not known as they were.
cdef list stack_news(tuple old, tuple stack)
