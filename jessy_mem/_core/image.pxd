"""Image: the bytes of one generation of a region, checked; whoever owns the bytes (a mapping, a pool block)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from jessy_mem._core.fault cimport Fault
from jessy_mem._core.format cimport Header, HeadCursor, LayerEntry
from jessy_mem._core.head cimport Head
from jessy_mem._core.texts cimport KeptTexts
from jessy_mem._core.uncached cimport Uncached


# An image whose content was looked at as `verify` says: "lazy", "open" or "never".
cdef Image checked(Image image, str verify)


cdef class Image:
    cdef object __weakref__
    cdef const uint8_t[::1] bytes    # the region, in its owner's buffer
    cdef readonly uint64_t n_bytes   # of it
    cdef const uint64_t *zeros_from  # the guard's mark of a file that others can shorten; else NULL
    cdef Header header               # as checked, in private memory
    cdef uint64_t head_bytes         # header, records, table and attributes of an extended file
    cdef LayerEntry *layers          # ascending by layer; one more tells where the records end
    cdef uint64_t n_entries          # for which `layers` has room
    cdef readonly uint32_t n_layers  # tombstones included
    cdef readonly uint32_t n_live_layers
    cdef readonly uint64_t content_bytes   # of all layers, as stored
    cdef public uint64_t charged_bytes     # to the budget
    cdef uint64_t decompressed_bytes       # atomic; memory that the live views of compressed layers have beside it
    cdef bint extended               # not a plain V1 file: there are checksums, and the tiling is exact
    cdef bint trusted                # nobody else can have written the bytes: content is not compared with checksums
    cdef readonly uint32_t dimension_id
    cdef readonly bint immutable     # by the file's flag
    cdef public bint unsynced        # the file has its name and is not on the disk: a power cut may tear it
    cdef readonly bint is_delta      # by the file's flag: there may be tombstones
    cdef readonly uint64_t generation
    cdef readonly str name
    cdef readonly str path
    cdef readonly str source         # "mmap", "pool" or "simulated"
    cdef readonly object identity    # (device, inode, mtime_ns, size) of the file, or None
    cdef object charge               # released after the buffer
    cdef object lease                # of the file that is mapped, or None
    cdef KeptTexts texts             # of its layers; None where none are kept; set before readers find it

    # Whether it is what `other` is: the name, and the bytes behind the header.
    cdef bint says_what(self, Image other)
    # Position of a layer in `layers`, or -1. It may be a tombstone: ask entry_is_tombstone.
    cdef int64_t find_layer(self, uint64_t layer) noexcept nogil
    # Compare the content of one layer with its checksum, once; ChecksumMismatch or InvalidRegion.
    cdef int check_content(self, uint32_t i) except -1
    # The same, always; in `file`, if there is one and all is well there: else here, where readers look.
    cdef int compare_content(self, uint32_t i, Uncached file) except -1
    # Asked after `n_bytes` at `first` were read: RegionTruncated if the file has not had them all the time, so that
    # zeros may have been read; MappingError if the system could not read it. `layer` is what it was about, or -1.
    cdef int check_read(self, const uint8_t *first, uint64_t n_bytes, int64_t layer) except -1
    # The same of what is not content, in which zeros cannot be taken for what was written.
    cdef int check_mark(self, const uint8_t *end, int64_t layer) except -1
    # "reads", "lease" or "copy": what happens to its bytes if its file is shortened.
    cdef str guard_of(self)
    cdef int check_there(self, const uint8_t *end, int64_t layer) except -1
    cdef int make_room(self, uint64_t head_bytes) except -1
    cdef int read_head(self, uint64_t dimension_id, Head head) except -1
    # Fill in `layers`, and `head_bytes` of an extended file; with the fault SHORT_HEAD it wants to be called again.
    cdef bint read_records(self, const uint8_t[::1] begin, HeadCursor *cursor, Fault *fault) noexcept nogil
    cdef const uint8_t[::1] reached(self, Head head, uint64_t n_bytes, str field)
    # Compare a head with its checksum; it reaches to the attributes' end.
    cdef int check_head(self, const uint8_t[::1] head) except -1
    # What an immutable region says its content hashes to is `found`, or ChecksumMismatch.
    cdef int compare_digest(self, bytes found) except -1
    # check_head, of the file as it is now.
    cdef int compare_head(self) except -1
    # A compressed layer is one whole frame of the size that is declared, if a decoder is installed; InvalidRegion.
    cdef int check_frame(self, uint32_t i) except -1
    # The error for one that is not.
    cdef object frame_error(self, uint32_t i)
    # Ask for the pages of a content, and wait for them; MappingError, RegionTruncated.
    cdef int prefetch(self, uint32_t i, bint wait) except -1
    # The pages that its bytes lie on, and those of them in memory; MappingError.
    cdef int count_pages(self, uint64_t *n_pages, uint64_t *n_resident) except -1
    cdef tuple keywords(self, uint32_t i)
    cdef bytes copied(self, uint64_t off_bytes, uint64_t n_bytes, uint32_t i)
    # The attributes of one layer as stored, a JSON object in valid UTF-8 by its writer's word; b"" if it has none.
    cdef bytes attributes(self, uint32_t i)
    # The same as a new dict; InvalidRegion if they are no JSON object.
    cdef dict parse_attributes(self, uint32_t i)
    # The error for what was read again and has changed.
    cdef object changed_error(self, uint32_t i, str field)
    # Where the content of layer number `i`, as stored, lies.
    cdef const uint8_t *content(self, uint32_t i) except NULL
