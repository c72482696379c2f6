"""Regions as a writer makes them: laid out, then given their digests; format.pyx reads them.

A layer's facts, its keywords and its attributes are collected first, for the head's size decides where contents lie:

    specs --> layers, words, attributes --> head            no content is copied until somebody asks for the bytes:
          \\-> parts: pointers to contents, in order --------> fill() into a buffer, pieces() into a file

HAZARD: `parts` point into what others own: `owners` holds it, and nobody may change it until the region is written. Of
mapped files somebody may, so they are asked when everything was read, and what was read is then not used.
"""
import hashlib

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from jessy_mem._core.c.pycompat cimport jm_memoryview_of
from jessy_mem._core.format cimport (
    CODEC_ZSTD,
    EXTENSION_BYTES,
    FEATURE_COMPRESSED,
    FEATURE_DELTA,
    HEADER_BYTES,
    MAX_LAYERS,
    NAME_BYTES,
    OPTION_IMMUTABLE,
    RECORD_MIN_BYTES,
    RECORD_TAIL_BYTES,
    TEXT_ASCII,
    TEXT_TOMBSTONE,
    TEXT_UTF8,
    WIDE_EXTENSION_BYTES,
    XXH3_OF_NOTHING,
    Header,
    LayerEntry,
    RecordHead,
    WideExtension,
    format_content_off,
    format_magic,
)
from jessy_mem._core.kernels.span cimport span_align_up, span_count_characters, span_is_ascii, span_is_utf8

import xxhash

from jessy_mem import compression

cdef object xxh3_64 = xxhash.xxh3_64
cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest

cdef enum:
    MAX_CONTENT_BYTES = 0xFFFFFFFF
    LONG_BYTES = 65536    # what is shorter is copied before another thread could take the GIL
    CHUNK_BYTES = 1 << 20  # short pieces are written together


cdef bint scratch_add(Scratch *scratch, const void *first, uint64_t n_bytes) noexcept nogil:
    cdef uint64_t room_bytes
    cdef uint8_t *larger
    if n_bytes > scratch.room_bytes - scratch.n_bytes:
        room_bytes = max(2 * scratch.room_bytes, scratch.n_bytes + n_bytes, <uint64_t> 64)
        larger = <uint8_t *> realloc(scratch.first, room_bytes)
        if larger == NULL:
            return False
        scratch.first, scratch.room_bytes = larger, room_bytes
    if n_bytes:
        memcpy(scratch.first + scratch.n_bytes, first, n_bytes)
    scratch.n_bytes += n_bytes
    return True


cdef void measure_text(const uint8_t *first, uint64_t n_bytes, LayerEntry *entry) noexcept nogil:
    entry.text_flags, entry.n_characters = 0, 0
    if span_is_ascii(first, n_bytes):
        entry.text_flags, entry.n_characters = TEXT_UTF8 | TEXT_ASCII, <uint32_t> n_bytes
    elif span_is_utf8(first, n_bytes):
        entry.text_flags, entry.n_characters = TEXT_UTF8, <uint32_t> span_count_characters(first, n_bytes)


cdef bint is_wide(const LayerEntry *layers, uint32_t n_layers, uint64_t created_ns) noexcept nogil:
    """Whether only extension 2 can say what there is to say."""
    cdef uint32_t i
    for i in range(n_layers):
        if layers[i].attributes_bytes or layers[i].n_tokens or layers[i].created_ns != created_ns:
            return True
    return False


cdef void write_head(
    uint8_t[::1] target, Header *header, LayerEntry *layers, const uint8_t *words, const uint8_t *attributes, bint wide
) noexcept nogil:
    """Write records, table and attributes behind a header with all but the size, and the offsets of `layers` anew."""
    cdef uint8_t *head = &target[0]
    cdef RecordHead record
    cdef WideExtension extension
    cdef LayerEntry *entry
    cdef uint64_t step = WIDE_EXTENSION_BYTES if wide else EXTENSION_BYTES
    cdef uint64_t record_at = HEADER_BYTES
    cdef uint64_t table_at = header.extension_table_offset
    cdef uint64_t attributes_at = table_at + header.layer_count * step
    cdef uint64_t cursor = attributes_at + layers[header.layer_count].attributes_off_bytes
    cdef uint64_t n_bytes
    cdef uint32_t i
    memset(&extension, 0, sizeof(extension))
    for i in range(header.layer_count):
        entry = &layers[i]
        n_bytes = layers[i + 1].record_off_bytes - entry.record_off_bytes
        record.layer_num, record.depth, record.frequency = entry.layer, entry.depth, entry.frequency_hz
        record.keyword_count = entry.n_keywords
        memcpy(head + record_at, &record, sizeof(record))
        if n_bytes:
            memcpy(head + record_at + sizeof(record), words + entry.record_off_bytes, n_bytes)
        entry.record_off_bytes = record_at
        record_at += sizeof(record) + n_bytes
        cursor = format_content_off(cursor, entry.content_bytes)
        entry.content_off_bytes = cursor
        memcpy(head + record_at, &entry.content_off_bytes, 8)
        memcpy(head + record_at + 8, &entry.content_bytes, 4)
        record_at += RECORD_TAIL_BYTES
        cursor += entry.content_bytes
        extension.narrow.xxh3, extension.narrow.raw_size = entry.xxh3, entry.raw_bytes
        extension.narrow.codec, extension.narrow.text_flags = entry.codec, entry.text_flags
        extension.narrow.characters = entry.n_characters
        extension.created_ns, extension.n_tokens = entry.created_ns, entry.n_tokens
        if entry.attributes_bytes:
            memcpy(head + attributes_at, attributes + entry.attributes_off_bytes, entry.attributes_bytes)
        entry.attributes_off_bytes = attributes_at
        attributes_at += entry.attributes_bytes
        extension.attributes_offset = entry.attributes_off_bytes if entry.attributes_bytes else 0
        extension.attributes_size = entry.attributes_bytes
        memcpy(head + table_at, &extension, step)
        table_at += step
        if entry.codec == CODEC_ZSTD:
            header.required_features |= FEATURE_COMPRESSED
    layers[header.layer_count].record_off_bytes = record_at
    layers[header.layer_count].attributes_off_bytes = attributes_at
    header.total_size = cursor
    memcpy(head, header, sizeof(Header))


cdef void copy_parts(
    uint8_t *target, uint64_t begin, const Piece *parts, uint64_t n_parts, uint64_t end
) noexcept nogil:
    """Copy what a region has from `begin` to `end`; `parts` are those between, none of them cut."""
    cdef uint64_t i
    for i in range(n_parts):
        memset(target, 0, parts[i].off_bytes - begin)
        target += parts[i].off_bytes - begin
        memcpy(target, parts[i].first, parts[i].n_bytes)
        target += parts[i].n_bytes
        begin = parts[i].off_bytes + parts[i].n_bytes
    memset(target, 0, end - begin)


@cython.final
cdef class PackedRegion:
    """A region as it will be stored: the head, and the contents where others have them.

    Whoever packs or merges makes one. Not thread-safe. What it was packed from must stay unchanged while it lives.
    """

    def __dealloc__(self):
        free(self.layers)
        free(self.parts)
        free(self.words.first)
        free(self.attributes.first)

    cdef int reserve(self, uint64_t n_layers) except -1:
        if not 1 <= n_layers <= MAX_LAYERS:
            raise ValueError(f"a region has at least one layer, and at most {<uint32_t> MAX_LAYERS}")
        self.owners, self.sources = [], []
        self.layers = <LayerEntry *> calloc(n_layers + 1, sizeof(LayerEntry))
        self.room_layers, self.room_parts = <uint32_t> n_layers, n_layers + 1
        self.parts = <Piece *> malloc(self.room_parts * sizeof(Piece))
        if self.layers == NULL or self.parts == NULL:
            raise MemoryError
        self.n_parts = 1  # the head
        return 0

    cdef LayerEntry *add_layer(self, uint32_t layer) noexcept nogil:
        cdef LayerEntry *entry = &self.layers[self.n_layers]
        entry.layer = <uint16_t> layer
        entry.record_off_bytes, entry.attributes_off_bytes = self.words.n_bytes, self.attributes.n_bytes
        self.n_layers += 1
        return entry

    cdef bint add_keyword(self, const uint8_t *first, Py_ssize_t n_bytes) noexcept nogil:
        cdef uint32_t length_bytes = <uint32_t> n_bytes  # of one that is longer, lay_out finds the metadata too long
        return scratch_add(&self.words, &length_bytes, 4) and scratch_add(&self.words, first, n_bytes)

    cdef bint add_piece(self, const uint8_t *first, uint64_t n_bytes) noexcept nogil:
        cdef Piece *more
        if n_bytes == 0:
            return True
        if self.n_parts == self.room_parts:
            more = <Piece *> realloc(self.parts, 2 * self.room_parts * sizeof(Piece))
            if more == NULL:
                return False
            self.parts, self.room_parts = more, 2 * self.room_parts
        self.parts[self.n_parts].first, self.parts[self.n_parts].n_bytes = first, n_bytes
        self.n_parts += 1
        return True

    cdef int lay_out(
        self, uint32_t dimension_id, bytes name, uint64_t generation, uint64_t created_ns, bint immutable, bint delta
    ) except -1:
        cdef Header header
        cdef uint64_t metadata_bytes = <uint64_t> self.n_layers * RECORD_MIN_BYTES + self.words.n_bytes
        cdef bint wide = is_wide(self.layers, self.n_layers, created_ns)
        if not 1 <= len(name) <= NAME_BYTES:
            raise ValueError(f"name: {len(name)} bytes")
        if metadata_bytes >> 32:
            raise ValueError(f"layers: {metadata_bytes} bytes of metadata do not fit into the format's 32 bits")
        memset(&header, 0, sizeof(header))
        header.dimension_id, header.dimension_name_len = dimension_id, <uint32_t> len(name)
        memcpy(header.dimension_name, PyBytes_AS_STRING(name), len(name))
        memcpy(header.magic, format_magic(), sizeof(header.magic))
        header.layer_count, header.extension_version = self.n_layers, 2 if wide else 1
        header.required_features = FEATURE_DELTA if delta else 0
        header.optional_features = OPTION_IMMUTABLE if immutable else 0
        header.metadata_size = <uint32_t> metadata_bytes
        header.extension_table_offset = span_align_up(HEADER_BYTES + metadata_bytes, 8)
        header.generation, header.created_ns = generation, created_ns
        self.layers[self.n_layers].record_off_bytes = self.words.n_bytes
        self.layers[self.n_layers].attributes_off_bytes = self.attributes.n_bytes
        self.head_bytes = self.attributes.n_bytes + header.extension_table_offset + <uint64_t> self.n_layers * (
            WIDE_EXTENSION_BYTES if wide else EXTENSION_BYTES
        )
        self.head = PyByteArray_FromStringAndSize(NULL, self.head_bytes)
        with nogil:
            memset(&self.head[0], 0, self.head_bytes)
            write_head(self.head, &header, self.layers, self.words.first, self.attributes.first, wide)
            self.place_parts()
        self.n_bytes = header.total_size
        self.write_digests()
        return 0

    cdef void place_parts(self) noexcept nogil:
        """Tell each part where it lies: those of a content follow each other."""
        cdef uint64_t part = 1
        cdef uint64_t at, end
        cdef uint32_t i
        self.parts[0].first, self.parts[0].n_bytes, self.parts[0].off_bytes = &self.head[0], self.head_bytes, 0
        for i in range(self.n_layers):
            at = self.layers[i].content_off_bytes
            end = at + self.layers[i].content_bytes
            while at < end:
                self.parts[part].off_bytes = at
                at += self.parts[part].n_bytes
                part += 1

    cdef int check_sources(self) except -1:
        for check in self.sources or ():
            check()
        return 0

    cdef int write_digests(self) except -1:
        """Fill in the digests of the header: over the head, and for an immutable region over what follows it."""
        cdef Header *header = <Header *> &self.head[0]
        header.metadata_xxh3 = 0
        memset(header.content_sha256, 0, sizeof(header.content_sha256))
        header.metadata_xxh3 = xxh3_64_intdigest(jm_memoryview_of(self, &self.head[0], self.head_bytes))
        if header.optional_features & OPTION_IMMUTABLE:
            digest = hashlib.sha256()
            for chunk in self._chunks(1, self.head_bytes):
                digest.update(chunk)
            found = digest.digest()
            memcpy(header.content_sha256, PyBytes_AS_STRING(found), sizeof(header.content_sha256))
        return 0

    def renumber(self, uint32_t dimension_id):
        """Give the region another id."""
        if self.n_bytes == 0:
            raise ValueError("nothing was packed")
        (<Header *> &self.head[0]).dimension_id = dimension_id
        self.write_digests()

    def pieces(self):
        """The bytes in order, as buffers: the short together, the long without a copy; at the end RegionTruncated."""
        return self._chunks(0, 0)

    def _chunks(self, uint64_t part, uint64_t begin):
        """The bytes from `begin` on; `part` is the first that lies behind it."""
        cdef uint64_t first, end
        cdef bytearray chunk
        while begin < self.n_bytes:
            first, end = part, begin
            while part < self.n_parts and self.parts[part].n_bytes < LONG_BYTES and end - begin < CHUNK_BYTES:
                end = self.parts[part].off_bytes + self.parts[part].n_bytes
                part += 1
            if part == self.n_parts:
                end = self.n_bytes
            elif self.parts[part].n_bytes >= LONG_BYTES:
                end = self.parts[part].off_bytes
            if end > begin:
                chunk = PyByteArray_FromStringAndSize(NULL, end - begin)
                copy_parts(<uint8_t *> PyByteArray_AS_STRING(chunk), begin, &self.parts[first], part - first, end)
                yield chunk
                begin = end
            if part < self.n_parts and self.parts[part].n_bytes >= LONG_BYTES:
                yield jm_memoryview_of(self, self.parts[part].first, self.parts[part].n_bytes)
                begin = self.parts[part].off_bytes + self.parts[part].n_bytes
                part += 1
        self.check_sources()

    def fill(self, uint8_t[::1] target not None):
        """Copy the region to the beginning of a writable buffer that may hold anything; ValueError if it is too short.

        What is long is copied without the GIL.
        """
        if <uint64_t> target.shape[0] < self.n_bytes:
            raise ValueError(f"{self.n_bytes} bytes do not fit into {target.shape[0]}")
        if self.n_bytes < LONG_BYTES:
            copy_parts(&target[0], 0, self.parts, self.n_parts, self.n_bytes)
        else:
            with nogil:
                copy_parts(&target[0], 0, self.parts, self.n_parts, self.n_bytes)
        self.check_sources()


# From specs ------------------------------------------------------------------------------------------------------


def pack_layers(
    uint32_t dimension_id,
    bytes name not None,
    uint64_t generation,
    uint64_t created_ns,
    dict layers not None,
    dict passages=None,
    *,
    bint immutable=False,
    bint delta=False,
):
    """Lay out a region and compute its checksums.

    `layers` holds a LayerSpec for each number, or None for one that is removed, which only a delta says; `passages`,
    for some, what their text goes on with. Raises ValueError for what cannot be stored.
    """
    cdef PackedRegion region = PackedRegion.__new__(PackedRegion)
    cdef LayerEntry *entry
    region.reserve(len(layers))
    for number in sorted(layers) if len(layers) > 1 else layers:
        spec = layers[number]
        if not 0 <= number < MAX_LAYERS:
            raise ValueError(f"layer {number} is not in 0..{<uint32_t> MAX_LAYERS - 1}")
        entry = region.add_layer(number)
        entry.created_ns, entry.frequency_hz = created_ns, 1.0
        if spec is not None:
            pack_spec(region, entry, spec, None if passages is None else passages.get(number))
            continue
        if not delta:
            raise ValueError(f"layer {number}: only a delta says that a layer is removed")
        entry.xxh3, entry.text_flags = <uint64_t> XXH3_OF_NOTHING, TEXT_TOMBSTONE
    region.lay_out(dimension_id, name, generation, created_ns, immutable, delta)
    return region


cdef object utf8_holder(str text, uint16_t layer, str what):
    """What holds a text as UTF-8: itself where all is ASCII, for other str keep what they were once encoded to."""
    if text.isascii():
        return text
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        reason = f"{error.reason}, in a {what} of layer {layer}"
        raise UnicodeEncodeError(error.encoding, error.object, error.start, error.end, reason) from None


cdef object flat_holder(content, list sources):
    """What holds the bytes of any buffer, without a copy if they lie in order."""
    if type(content) is bytes:
        return content
    view = memoryview(content)
    check = getattr(view.obj, "_check_file", None)  # a LayerView has it
    if check is not None:
        sources.append(check)
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # strided, empty in several dimensions, or of a format that cannot be cast
        return view.tobytes()


cdef const uint8_t *bytes_of(holder, Py_ssize_t *n_bytes) except? NULL:
    """The bytes that a holder has: bytes, an ASCII str or a memoryview in order."""
    if type(holder) is bytes:
        n_bytes[0] = len(<bytes> holder)
        return <const uint8_t *> PyBytes_AS_STRING(holder)
    if isinstance(holder, str):
        return <const uint8_t *> PyUnicode_AsUTF8AndSize(holder, n_bytes)
    n_bytes[0] = PyMemoryView_GET_BUFFER(holder).len
    return <const uint8_t *> PyMemoryView_GET_BUFFER(holder).buf


cdef object buffer_of(holder, const uint8_t *first, Py_ssize_t n_bytes):
    """The same bytes for who wants a Python object: a str is no buffer."""
    return jm_memoryview_of(holder, first, n_bytes) if isinstance(holder, str) else holder


cdef int pack_spec(PackedRegion region, LayerEntry *entry, spec, passages) except -1:
    cdef bytes attributes = spec._attributes_json
    cdef const uint8_t *first
    cdef Py_ssize_t n_bytes
    entry.depth, entry.frequency_hz = spec.depth, spec.frequency
    for word in <tuple?> spec.keywords:
        holder = utf8_holder(word, entry.layer, "keyword")
        first = bytes_of(holder, &n_bytes)
        if not region.add_keyword(first, n_bytes):
            raise MemoryError
        entry.n_keywords += 1
    if attributes is not None:
        entry.attributes_bytes = <uint32_t> len(attributes)
        if not scratch_add(&region.attributes, PyBytes_AS_STRING(attributes), len(attributes)):
            raise MemoryError
    given = spec.created_ns
    if given is not None:
        entry.created_ns = given
    entry.n_tokens = spec.n_tokens or 0
    return pack_content(region, entry, spec, passages or ())


cdef int pack_content(PackedRegion region, LayerEntry *entry, spec, passages) except -1:
    cdef const uint8_t *first
    cdef Py_ssize_t n_bytes
    cdef uint64_t n_characters = 0
    text = spec.text
    holder = flat_holder(spec.content, region.sources) if text is None else utf8_holder(text, entry.layer, "text")
    first = bytes_of(holder, &n_bytes)
    entry.raw_bytes = n_bytes
    if text is not None:
        n_characters = len(<str> text)
        for passage in passages:
            entry.raw_bytes += len(passage.data)
            n_characters += passage.n_characters
    if entry.raw_bytes > MAX_CONTENT_BYTES:
        raise ValueError(
            f"layer {entry.layer}: {entry.raw_bytes} bytes, a layer stores at most {<uint32_t> MAX_CONTENT_BYTES}"
        )
    if text is None:
        if n_bytes < LONG_BYTES:
            measure_text(first, n_bytes, entry)
        else:
            with nogil:
                measure_text(first, n_bytes, entry)
    else:  # no character but those of ASCII takes one byte
        entry.text_flags = TEXT_UTF8 | (TEXT_ASCII if n_characters == entry.raw_bytes else 0)
        entry.n_characters = <uint32_t> n_characters
    if spec.compress:
        raw = buffer_of(holder, first, n_bytes)
        if passages:
            raw = b"".join([raw, *[passage.data for passage in passages]])
        holder, codec = compression.compress(raw)
        first, entry.codec, passages = bytes_of(holder, &n_bytes), codec, ()
    add_bytes(region, entry, holder, first, n_bytes)
    if not passages:
        entry.xxh3 = xxh3_64_intdigest(buffer_of(holder, first, n_bytes))
        return 0
    checksum = xxh3_64(buffer_of(holder, first, n_bytes))
    for passage in passages:
        holder = passage.data
        first = bytes_of(holder, &n_bytes)
        add_bytes(region, entry, holder, first, n_bytes)
        checksum.update(holder)
    entry.xxh3 = checksum.intdigest()
    return 0


cdef int add_bytes(
    PackedRegion region, LayerEntry *entry, holder, const uint8_t *first, Py_ssize_t n_bytes
) except -1:
    region.owners.append(holder)
    if not region.add_piece(first, n_bytes):
        raise MemoryError
    entry.content_bytes += <uint32_t> n_bytes
    return 0
