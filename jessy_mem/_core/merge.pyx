"""Several files of one dimension become one: the newest record of each layer wins.

    oldest   base     0  1  2  3  4               with 4 removed last:
             delta       1'        5                a delta  0  1' 2" 3  4x 5
    newest   extra          2"    4x                a base   0  1' 2" 3     5

HAZARD: a source is a mapped file, which may change while it is read. Numbers come from what was checked when it was
opened; keywords and attributes are copied first, and the copy is checked. Whoever reads the contents asks each source
at the end whether it had them all the time.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from jessy_mem._core.c.pycompat cimport jm_memoryview_of
from jessy_mem._core.format cimport (
    MAX_LAYERS,
    RECORD_MIN_BYTES,
    LayerEntry,
    RecordHead,
    entry_is_tombstone,
)
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.span cimport span_after_length, span_is_utf8
from jessy_mem._core.packing cimport PackedRegion, Piece, measure_text, scratch_add

import xxhash

cdef object xxh3_64_intdigest = xxhash.xxh3_64_intdigest


cdef struct Source:
    const LayerEntry *layers       # and one more behind them
    uint32_t n_layers
    uint32_t at                    # the first that was not looked at
    const uint8_t *head
    const uint8_t *contents        # what content_off_bytes counts from; NULL: they are `parts`
    const Piece *parts             # the first that was not taken


cdef struct Choice:                # a layer of the result
    uint32_t source
    uint32_t i                     # in its layers


cdef enum Outcome:
    DONE
    OUT_OF_MEMORY
    CHANGED_KEYWORD
    CHANGED_ATTRIBUTES


cdef uint32_t choose(Source *sources, uint32_t n_sources, bint as_base, Choice *choices) noexcept nogil:
    """The newest of each layer, ascending; how many there are. Of a base's tombstones the one at the end stays."""
    cdef uint32_t n_choices = 0
    cdef uint32_t layer, s
    cdef Choice newest
    while True:
        layer = MAX_LAYERS
        for s in range(n_sources):
            if sources[s].at < sources[s].n_layers:
                layer = min(layer, <uint32_t> sources[s].layers[sources[s].at].layer)
        if layer == MAX_LAYERS:
            return n_choices
        for s in range(n_sources):
            if sources[s].at < sources[s].n_layers and sources[s].layers[sources[s].at].layer == layer:
                newest.source, newest.i = s, sources[s].at
                sources[s].at += 1
        if as_base and n_choices and entry_is_tombstone(chosen(sources, &choices[n_choices - 1])):
            n_choices -= 1
        choices[n_choices] = newest
        n_choices += 1


cdef inline const LayerEntry *chosen(const Source *sources, const Choice *choice) noexcept nogil:
    return &sources[choice.source].layers[choice.i]


cdef bint are_keywords(const uint8_t *first, uint64_t n_bytes, uint32_t n_keywords) noexcept nogil:
    cdef const uint8_t *word
    cdef uint64_t at = 0
    cdef uint32_t word_bytes
    while n_keywords:
        word = span_after_length(first, n_bytes, &at, &word_bytes)
        if word == NULL or not span_is_utf8(word, word_bytes):
            return False
        n_keywords -= 1
    return at == n_bytes


cdef Outcome copy_layer(PackedRegion region, Source *source, uint32_t i) noexcept nogil:
    cdef const LayerEntry *old = &source.layers[i]
    cdef LayerEntry *entry = region.add_layer(old.layer)
    cdef uint64_t words_at = entry.record_off_bytes
    cdef uint64_t attributes_at = entry.attributes_off_bytes
    cdef uint64_t n_bytes = source.layers[i + 1].record_off_bytes - old.record_off_bytes - RECORD_MIN_BYTES
    cdef uint64_t left_bytes = old.content_bytes
    entry[0] = old[0]
    entry.record_off_bytes, entry.attributes_off_bytes = words_at, attributes_at
    if not scratch_add(&region.words, source.head + old.record_off_bytes + sizeof(RecordHead), n_bytes):
        return OUT_OF_MEMORY
    if not are_keywords(region.words.first + words_at, n_bytes, old.n_keywords):
        return CHANGED_KEYWORD
    if not scratch_add(&region.attributes, source.head + old.attributes_off_bytes, old.attributes_bytes):
        return OUT_OF_MEMORY
    if not span_is_utf8(region.attributes.first + attributes_at, old.attributes_bytes):
        return CHANGED_ATTRIBUTES
    if source.contents != NULL:
        return DONE if region.add_piece(source.contents + old.content_off_bytes, left_bytes) else OUT_OF_MEMORY
    while left_bytes:
        if not region.add_piece(source.parts.first, source.parts.n_bytes):
            return OUT_OF_MEMORY
        left_bytes -= source.parts.n_bytes
        source.parts += 1
    return DONE


def merge_images(images, *, bint as_base, uint64_t generation, uint64_t created_ns, PackedRegion extra=None):
    """The files of one dimension as one region, which points into them.

    Parameters
    ----------
    images : sequence of Image
        The oldest first: a base, or deltas that follow each other.
    as_base : bool
        The result is a base: what was removed is not in it, but that the highest number was, so that it is never given
        again. A delta keeps all tombstones.
    generation, created_ns : int
        The result's.
    extra : PackedRegion, optional
        What is newer than all of them.

    Contents whose checksum was not compared yet are compared. Raises ChecksumMismatch or InvalidRegion for damage,
    ValueError for images of several dimensions, or immutable ones. Thread-safe.
    """
    cdef list given = list(images)
    cdef Image image, newest
    cdef uint64_t n_layers = 0
    cdef uint32_t n_choices, s
    cdef uint32_t n_sources = <uint32_t> len(given) + (extra is not None)
    cdef PackedRegion region = PackedRegion.__new__(PackedRegion)
    cdef Source *sources = NULL
    cdef Choice *choices = NULL
    if not given:
        raise ValueError("images: there is none")
    if extra is not None and extra.n_bytes == 0:
        raise ValueError("extra: nothing was packed")
    for each in given:
        if type(each) is not Image:
            raise TypeError(f"images: {type(each).__name__} is no Image")
    newest = given[len(given) - 1]
    try:
        sources = <Source *> calloc(n_sources, sizeof(Source))
        if sources == NULL:
            raise MemoryError
        for s in range(<uint32_t> len(given)):
            image = given[s]
            if image.dimension_id != newest.dimension_id or image.immutable:
                raise ValueError(f"images: {image.path} is of another dimension, or immutable")
            sources[s].layers, sources[s].n_layers = image.layers, image.n_layers
            sources[s].head = sources[s].contents = &image.bytes[0]
            n_layers += image.n_layers
        if extra is not None:
            sources[n_sources - 1].layers, sources[n_sources - 1].n_layers = extra.layers, extra.n_layers
            sources[n_sources - 1].head, sources[n_sources - 1].parts = &extra.head[0], extra.parts + 1
            n_layers += extra.n_layers
        choices = <Choice *> malloc(min(n_layers, <uint64_t> MAX_LAYERS) * sizeof(Choice))
        if choices == NULL:
            raise MemoryError
        with nogil:
            n_choices = choose(sources, n_sources, as_base, choices)
        check_contents(given, choices, n_choices)
        region.reserve(n_choices)
        region.owners = [*given, extra]
        region.sources = [each.check_file for each in given]
        copy_layers(region, sources, given, choices, n_choices)
        measure_plain(region, given, choices, n_choices)
        region.check_sources()
        region.lay_out(
            newest.dimension_id, newest.name.encode(), generation, created_ns, False,
            not as_base or entry_is_tombstone(&region.layers[n_choices - 1]),
        )
        return region
    finally:
        free(sources)
        free(choices)


cdef int check_contents(list images, const Choice *choices, uint32_t n_choices) except -1:
    cdef uint32_t k
    cdef Image image
    for k in range(n_choices):
        if choices[k].source < <uint32_t> len(images):
            image = images[choices[k].source]
            image.check_content(choices[k].i)
    return 0


cdef int copy_layers(
    PackedRegion region, Source *sources, list images, const Choice *choices, uint32_t n_choices
) except -1:
    cdef Outcome outcome = DONE
    cdef uint32_t k = 0
    cdef Image image
    with nogil:
        while k < n_choices:
            outcome = copy_layer(region, &sources[choices[k].source], choices[k].i)
            if outcome != DONE:
                break
            k += 1
    if outcome == OUT_OF_MEMORY:
        raise MemoryError
    if outcome != DONE:
        image = images[choices[k].source]
        image.check_file()
        raise image.changed_error(choices[k].i, "keyword" if outcome == CHANGED_KEYWORD else "attributes")
    return 0


cdef int measure_plain(PackedRegion region, list images, const Choice *choices, uint32_t n_choices) except -1:
    """What a plain V1 file does not say of its layers."""
    cdef uint32_t k
    cdef LayerEntry *entry
    cdef const uint8_t *first
    cdef Image image
    for k in range(n_choices):
        if choices[k].source >= <uint32_t> len(images):
            continue
        image = images[choices[k].source]
        if image.extended:
            continue
        entry = &region.layers[k]
        first = image.content(choices[k].i)
        with nogil:
            measure_text(first, entry.content_bytes, entry)
        entry.xxh3 = xxh3_64_intdigest(jm_memoryview_of(image, first, entry.content_bytes))
    return 0
