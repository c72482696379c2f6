"""A dimension is a stack of files: its base, and on it the deltas that were learned since, oldest first.

    region.mmap              layers 0 1 2 3 4
    delta-...7.mmap                 .  2' .  .  5      replaced and added
    delta-...9.mmap                 .  .  x  .  5'     removed (a tombstone), replaced
                                    0 1 2'   4  5'     what readers see

In memory it is a tuple of Images that nobody changes: who holds one sees one moment. It is read without a lock.

HAZARD: others write while this lists and opens. A writer publishes what takes the place of older files before it
removes them, so a folder shows the whole truth at each moment, and the names are read before the first file is opened:
a base that is newer than they are holds all they stand for, and one that has gone meanwhile shows that there is
something newer, and all begins again.

A file that has its name before it is on the disk (batch.py) bears a mark in its mode until it is. If a power cut tore
such a file, nobody was told that it is there: a delta is passed over then, and what is under it is read; a base is what
an InvalidRegion says. A file without the mark that is damaged is never passed over.
"""
import logging
import os
import stat

from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.errno cimport ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from jessy_mem._core.c.pycompat cimport jm_disown
from jessy_mem._core.c.os_folder cimport jm_os_folder_mtime, jm_os_numbers_beside
from jessy_mem._core.format cimport MAX_LAYERS, RECORD_TAIL_BYTES, LayerEntry, RecordHead, entry_is_tombstone
from jessy_mem._core.image cimport Image
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_slice

from jessy_mem import layout
from jessy_mem._core.image import checked
from jessy_mem._core.mapped import map_file
from jessy_mem.errors import DimensionNotFound, InvalidRegion, MappingError

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(str path)

cdef enum:
    USUAL_DELTAS = 64  # more than a writer leaves

cdef object warn = logging.getLogger("jessy_mem").warning
cdef set told = set()  # torn deltas that were told of; each once, however often it is passed over

cdef bytes prefix = layout.DELTA_PREFIX.encode()
cdef bytes suffix = layout.DELTA_SUFFIX.encode()
assert layout.DELTA_DIGITS == 16  # what os_folder.h counts


cdef tuple checked_stack(tuple stack):
    for image in stack or (None,):
        if not isinstance(image, Image):
            raise TypeError("a stack is a tuple of Images, the base first")
    return stack


cdef tuple own_stack(tuple stack):
    cdef tuple own = tuple(list(checked_stack(stack)))
    jm_disown(<PyObject *> own)
    return own


cdef int64_t layer_number(layer) except -2:
    cdef int64_t number
    try:
        number = PyNumber_Index(layer)  # a conversion alone would cut a float off
    except OverflowError:
        return -1
    return number if 0 <= number < MAX_LAYERS else -1


cdef bint stack_find(tuple stack, int64_t layer, Place *place) noexcept:
    cdef Py_ssize_t file = PyTuple_GET_SIZE(stack)
    cdef int64_t entry
    if layer < 0:
        return False
    while file:
        file -= 1
        entry = image_at(stack, file).find_layer(layer)
        if entry >= 0:
            place.file, place.entry = file, entry
            return not entry_is_tombstone(&image_at(stack, file).layers[entry])
    return False


cdef inline Image image_at(tuple stack, Py_ssize_t file):
    return <Image> PyTuple_GET_ITEM(stack, file)


cdef Place *stack_layers(tuple stack, uint32_t *n) except NULL:
    cdef Py_ssize_t n_files = PyTuple_GET_SIZE(stack), file
    cdef uint32_t *next_entry  # of each file
    cdef Place *places
    cdef Place newest
    cdef Image image
    cdef int64_t lowest
    cdef uint64_t n_entries = 0
    n[0] = 0
    for image in stack:
        n_entries += image.n_layers
    places = <Place *> malloc(n_entries * sizeof(Place) + n_files * sizeof(uint32_t))
    if places == NULL:
        raise MemoryError
    next_entry = <uint32_t *> (places + n_entries)
    for file in range(n_files):
        next_entry[file] = 0
    while True:
        lowest = MAX_LAYERS
        for file in range(n_files):
            image = image_at(stack, file)
            if next_entry[file] < image.n_layers and image.layers[next_entry[file]].layer <= lowest:
                lowest = image.layers[next_entry[file]].layer
                newest.file, newest.entry = file, next_entry[file]
        if lowest == MAX_LAYERS:
            return places
        for file in range(n_files):
            image = image_at(stack, file)
            next_entry[file] += next_entry[file] < image.n_layers and image.layers[next_entry[file]].layer == lowest
        if not entry_is_tombstone(&image_at(stack, newest.file).layers[newest.entry]):
            places[n[0]] = newest
            n[0] += 1


cdef uint32_t stack_count(tuple stack):
    cdef Py_ssize_t n_files = PyTuple_GET_SIZE(stack), file
    cdef int64_t n_layers = image_at(stack, 0).n_live_layers
    for file in range(1, n_files):
        n_layers += stack_gain(stack[:file], image_at(stack, file))
    return n_layers


cdef int64_t stack_gain(tuple stack, Image image) noexcept:
    cdef int64_t gain = 0
    cdef uint32_t i
    cdef Place place
    for i in range(image.n_layers):
        gain += not entry_is_tombstone(&image.layers[i])
        gain -= stack_find(stack, image.layers[i].layer, &place)
    return gain


cdef uint64_t stack_bytes(tuple stack):
    cdef Image image
    cdef uint64_t n_bytes = 0
    for image in stack:
        n_bytes += image.n_bytes
    return n_bytes


cdef tuple facts_at(tuple stack, const Place *place):
    cdef Image image = image_at(stack, place.file)
    cdef LayerEntry *entry = &image.layers[place.entry]
    return (
        entry.layer, entry.depth, decimal_of(entry.frequency_hz), image.keywords(place.entry),
        entry.content_bytes, entry.raw_bytes, entry.created_ns,
    )


cdef list stack_numbers(tuple stack):
    cdef uint32_t n, i
    cdef Place *places = stack_layers(stack, &n)
    try:
        return [image_at(stack, places[i].file).layers[places[i].entry].layer for i in range(n)]
    finally:
        free(places)


cdef list stack_facts(tuple stack):
    cdef uint32_t n, i
    cdef Place *places = stack_layers(stack, &n)
    try:
        return [facts_at(stack, &places[i]) for i in range(n)]
    finally:
        free(places)


cdef tuple stack_facts_of(tuple stack, layers):
    cdef Place place
    cdef list facts = [], gone = []
    for layer in layers:
        if stack_find(stack, layer_number(layer), &place):
            facts.append(facts_at(stack, &place))
        else:
            gone.append(layer)
    return facts, gone


cdef list stack_news(tuple old, tuple stack):
    cdef Image image
    cdef Place before, now
    cdef uint32_t i
    cdef bint was_there, is_there
    cdef list news = []
    for image in stack:
        if image in old:
            continue
        for i in range(image.n_layers):
            was_there = stack_find(old, image.layers[i].layer, &before)
            is_there = stack_find(stack, image.layers[i].layer, &now)
            if was_there != is_there or (is_there and not same_facts(
                image_at(old, before.file), before.entry, image_at(stack, now.file), now.entry
            )):
                news.append(image.layers[i].layer)
    return news


# Whether facts_at would say the same; without what it makes, for a merged file names hundreds that are what they were.
cdef bint same_facts(Image one, uint32_t i, Image other, uint32_t j):
    cdef LayerEntry *a = &one.layers[i]
    cdef LayerEntry *b = &other.layers[j]
    return (
        a.layer == b.layer and a.depth == b.depth and a.frequency_hz == b.frequency_hz
        and a.content_bytes == b.content_bytes and a.raw_bytes == b.raw_bytes and a.created_ns == b.created_ns
        and a.n_keywords == b.n_keywords and (a.n_keywords == 0 or same_words(one, i, other, j))
    )


cdef bint same_words(Image one, uint32_t i, Image other, uint32_t j):
    cdef uint64_t first = one.layers[i].record_off_bytes, others = other.layers[j].record_off_bytes
    cdef uint64_t n_bytes = one.layers[i + 1].record_off_bytes - first
    return other.layers[j + 1].record_off_bytes - others == n_bytes and memcmp(
        span_slice(one.bytes, first + sizeof(RecordHead), n_bytes - sizeof(RecordHead)),
        span_slice(other.bytes, others + sizeof(RecordHead), n_bytes - sizeof(RecordHead)),
        n_bytes - sizeof(RecordHead) - RECORD_TAIL_BYTES,
    ) == 0


def open_stack(
    str path not None,
    uint64_t dimension_id,
    *,
    admit=None,
    bint immutable=False,
    str verify="lazy",
    bint deltas=True,
    dict bare=None,
    str guard="reads",
    metadata_limit_bytes=None,
):
    """The stack whose base is at `path`, mapped and checked: a tuple of Images; without `deltas` the base only.

    `admit(n_bytes, below_bytes)` is called before a file is mapped, with its size and that of the files under it; it
    returns the charge, or raises. An immutable base has no deltas. `bare` is that of `delta_generations`, by dimension;
    `guard` and `metadata_limit_bytes` are those of `map_file`.
    Raises what `map_file` raises, for each of them; then nothing stays open.
    """
    cdef list listed, before = None
    cdef tuple stack
    while True:
        listed = generations_beside(path, dimension_id, bare) if deltas and not immutable else []
        try:
            image = map_file(
                path, dimension_id, admit=admit, immutable=immutable, guard=guard,
                metadata_limit_bytes=metadata_limit_bytes,
            )
            stack = (checked(image, verify),)
        except InvalidRegion as error:
            if not is_unsynced(path):
                raise
            hint = "a power cut tore it before it was on the disk; 'jessy-mem doctor --clean' removes it"
            raise type(error)(path, error.field, error.found, error.expected, error.layer, hint=hint) from None
        stack = laid_on(stack, path, listed, admit, verify, guard, metadata_limit_bytes, listed == before)
        if stack is not None:
            return stack
        before = listed


def reopen_stack(
    tuple stack not None,
    str path not None,
    *,
    admit=None,
    str verify="lazy",
    str guard="reads",
    metadata_limit_bytes=None,
):
    """What `open_stack` would give now, made of those Images of `stack` whose files have not changed.

    `stack` itself if nothing has; None if the base is another file now, so that all is to be opened.
    """
    cdef Image base = checked_stack(stack)[0]
    cdef list listed, before = None
    cdef tuple kept, grown
    while True:
        listed = generations_beside(path, None, None)
        if base.identity is None or identity_of(path, base.dimension_id) != base.identity:
            return None
        listed = [generation for generation in listed if generation > base.generation]
        kept = stack
        if not {(<Image> image).generation for image in stack[1:]}.issubset(listed):
            kept = still_there(stack, listed)  # some were merged
        grown = laid_on(kept, path, listed, admit, verify, guard, metadata_limit_bytes, listed == before)
        if grown is not None:
            return grown
        before = listed


cdef tuple still_there(tuple stack, list listed):
    """The lowest images of a stack, up to the first whose file has gone, or is another."""
    cdef list kept = [stack[0]]
    cdef Image image
    for image in stack[1:]:
        try:
            if image.generation not in listed or identity_of(image.path, image.dimension_id) != image.identity:
                break
        except DimensionNotFound:
            break
        kept.append(image)
    return tuple(kept)


def open_delta(
    tuple stack not None,
    str path not None,
    uint64_t generation,
    *,
    admit=None,
    str verify="lazy",
    str guard="reads",
    metadata_limit_bytes=None,
):
    """The delta of `generation` that lies on `stack`, whose base is the file at `path`, as an Image.

    Raises what `map_file` raises, and InvalidRegion if its header names another dimension or generation.
    """
    cdef Image base = checked_stack(stack)[0], image
    cdef str name = layout.delta_file(path, generation)
    image = map_file(
        name, base.dimension_id, admit=admit, below_bytes=stack_bytes(stack), delta=True, guard=guard,
        metadata_limit_bytes=metadata_limit_bytes,
    )
    if image.generation != generation:
        raise InvalidRegion(name, "generation", image.generation, f"{generation}, which the name of the file says")
    if image.name != base.name:
        raise InvalidRegion(name, "dimension_name", repr(image.name), f"{base.name!r}, the name in the base")
    return checked(image, verify)


cdef tuple laid_on(
    tuple stack, str path, list generations, admit, str verify, str guard, metadata_limit_bytes, bint again
):
    """`stack` with the deltas of `generations` that are newer; None if one has gone, and is not looked for `again`."""
    cdef Image newest
    for generation in generations:
        newest = stack[PyTuple_GET_SIZE(stack) - 1]
        if newest.immutable or generation <= newest.generation:
            continue
        try:
            delta = open_delta(
                stack, path, generation, admit=admit, verify=verify, guard=guard,
                metadata_limit_bytes=metadata_limit_bytes,
            )
            stack = (*stack, delta)
        except DimensionNotFound:
            if again:
                raise MappingError(ENOENT, os.strerror(ENOENT), layout.delta_file(path, generation)) from None
            return None
        except InvalidRegion as error:
            name = layout.delta_file(path, generation)
            if not is_unsynced(name):
                raise
            if name not in told:
                told.add(name)
                warn("%s is passed over: a power cut tore it before it was on the disk: %s", name, str(error))
    return stack


cdef bint is_unsynced(str path):
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and mode & layout.UNSYNCED_MODE != 0


def is_torn(str path not None):
    """Whether a power cut tore a file of a stack before it was on the disk: nobody was told that it is there."""
    if not is_unsynced(path):
        return False
    try:
        checked(map_file(path, 0), "open")
    except InvalidRegion:
        return True
    except (DimensionNotFound, MappingError):
        pass
    return False


cdef object identity_of(str path, dimension_id):
    """What `Image.identity` would be of the file that is there now."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise DimensionNotFound(dimension_id, path) from None
    except OSError as error:
        raise MappingError.of(error, path) from None
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size


def delta_generations(str path not None, key=None, dict bare=None):
    """The generations of the deltas beside the base file at `path`, ascending; none if there is no folder.

    `bare` remembers by `key` when names last changed in a folder that had none: to ask for that again is enough then.
    """
    return generations_beside(path, key, bare)


cdef list generations_beside(str path, key, dict bare):
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *base_path = encoded
    cdef const char *prefix_name = prefix
    cdef const char *suffix_name = suffix
    cdef uint64_t usual[USUAL_DELTAS]
    cdef uint64_t *numbers = usual
    cdef int64_t n = 0, room = USUAL_DELTAS, mtime_ns = 0
    cdef int failed = 0
    if bare is not None and key in bare:
        with nogil:
            mtime_ns = jm_os_folder_mtime(base_path)
        if mtime_ns == bare[key]:
            return []
        del bare[key]
    try:
        while True:
            with nogil:
                n = jm_os_numbers_beside(base_path, prefix_name, suffix_name, numbers, room, &mtime_ns)
                if n < 0:
                    failed = errno
            if n <= room:
                break
            if numbers != usual:
                free(numbers)
            room = 2 * n
            numbers = <uint64_t *> malloc(room * sizeof(uint64_t))
            if numbers == NULL:
                raise MemoryError
        if n < 0 and failed not in (ENOENT, ENOTDIR):
            raise MappingError(failed, os.strerror(failed), path)
        if n == 0 and mtime_ns and bare is not None:
            bare[key] = mtime_ns
        return sorted([numbers[i] for i in range(n)]) if n > 0 else []
    finally:
        if numbers != usual:
            free(numbers)
