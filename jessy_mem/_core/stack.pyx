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

The folder is opened once, and all is found in it, so that all is of one folder; unless links are followed it is none,
and no file in it is one.

A file that has its name before it is on the disk (batch.py) bears a mark in its mode until it is. If a power cut tore
such a file, nobody was told that it is there: a delta is passed over then, and what is under it is read; a base is what
an InvalidRegion says. A file without the mark that is damaged is never passed over.
"""
import logging
import os
import stat

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.errno cimport ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport close

from jessy_mem._core.c.pycompat cimport jm_dict_get_or_none, jm_disown
from jessy_mem._core.c.os_folder cimport jm_folder_facts
from jessy_mem._core.format cimport MAX_LAYERS, RECORD_TAIL_BYTES, LayerEntry, RecordHead, entry_is_tombstone
from jessy_mem._core.folder cimport folder_of, generations_in, identity_in, open_folder
from jessy_mem._core.image cimport Image, checked
from jessy_mem._core.kernels.decimal cimport decimal_of
from jessy_mem._core.kernels.span cimport span_slice
from jessy_mem._core.mapped cimport mapped_file

from jessy_mem import layout
from jessy_mem.errors import DimensionNotFound, InvalidRegion, MappingError

cdef object warn = logging.getLogger("jessy_mem").warning
MAX_BARE = 256  # dimensions of which this is remembered: enough for those that are loaded again and again
cdef set told = set()  # torn deltas that were reported; each once, however often it is passed over


cdef struct Bare:  # the folder of a dimension without deltas and the file in it, as they were
    jm_folder_facts folder
    uint64_t device
    uint64_t inode


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


cdef uint32_t stack_count(tuple stack, tuple other, int64_t n_layers):
    cdef Py_ssize_t n_files = PyTuple_GET_SIZE(stack), n_others = PyTuple_GET_SIZE(other), n_same = 0, file
    while n_same < min(n_files, n_others) and image_at(stack, n_same) is image_at(other, n_same):
        n_same += 1
    if n_same == 0:
        n_same, n_others, n_layers = 1, 0, image_at(stack, 0).n_live_layers
    for file in range(n_same, n_others):
        n_layers -= stack_gain(other[:file], image_at(other, file))
    for file in range(n_same, n_files):
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


cdef list stack_damage(tuple stack, progress):
    cdef Image image
    cdef uint64_t below_bytes = 0, all_bytes = stack_bytes(stack)
    cdef list found = []
    for image in stack:
        found += image.damage(
            None if progress is None else lambda done, _, below=below_bytes: progress(below + done, all_bytes)
        )
        below_bytes += image.n_bytes
    return found


cdef double stack_residency(tuple stack) except -1:
    cdef Image image
    cdef uint64_t n_pages, n_resident, n_all_pages = 0, n_all_resident = 0
    for image in stack:
        image.count_pages(&n_pages, &n_resident)
        n_all_pages += n_pages
        n_all_resident += n_resident
    return <double> n_all_resident / n_all_pages


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
    bint follow_links=True,
):
    """The stack whose base is at `path`, mapped and checked: a tuple of Images; without `deltas` the base only.

    `admit(n_bytes, below_bytes)` is called before a file is mapped, with its size and that of the files under it; it
    returns the charge, or raises. An immutable base has no deltas. `bare` remembers some dimensions that had none, so
    that neither the folder is listed nor opened again while names in it stay what they were. `guard`,
    `metadata_limit_bytes` and `follow_links` are those of `map_file`; without the last the folder is no link either.
    Raises what `map_file` raises, for each of them; then nothing stays open.
    """
    return opened_stack(
        path, dimension_id, admit, immutable, verify, deltas, bare, guard, metadata_limit_bytes, follow_links
    )


cdef tuple opened_stack(
    str path, uint64_t dimension_id, admit, bint immutable, str verify, bint deltas, dict bare, str guard,
    metadata_limit_bytes, bint follow_links
):
    cdef list listed, before = None
    cdef tuple stack
    cdef bint listable = deltas and not immutable
    cdef jm_folder_facts facts
    cdef Bare known
    cdef int folder = -1
    cdef Image image
    cdef bytes remembered = None if bare is None else jm_dict_get_or_none(bare, dimension_id)
    if remembered is not None and len(remembered) == sizeof(Bare):
        memcpy(&known, <const char *> remembered, sizeof(Bare))
        if listable and folder_of(path, follow_links, &facts) and memcmp(&facts, &known.folder, sizeof(facts)) == 0:
            image = mapped_file(
                path, dimension_id, admit, 0, False, False, guard, metadata_limit_bytes, -1, follow_links
            )
            if is_at(image, known.device, known.inode):  # so no link was put in the place of the folder meanwhile
                return (checked(image, verify),)
            image = None
        bare.pop(dimension_id, None)
    folder = open_folder(path, dimension_id, follow_links, listable) if listable or not follow_links else -1
    facts.mtime_ns = 0
    try:
        while True:
            listed = generations_in(folder, path, &facts, before is not None) if listable else []
            try:
                image = mapped_file(
                    path, dimension_id, admit, 0, immutable, False, guard, metadata_limit_bytes, folder, follow_links
                )
                stack = (checked(image, verify),)
            except InvalidRegion as error:
                if not is_unsynced(path):
                    raise
                hint = "a power cut tore it before it was on the disk; 'jessy-mem doctor --clean' removes it"
                raise type(error)(path, error.field, error.found, error.expected, error.layer, hint=hint) from None
            if listed:
                options = (admit, guard, metadata_limit_bytes, folder, follow_links)
                stack = laid_on(stack, path, listed, verify, options, listed == before)
            if stack is not None:
                if bare is not None and not listed and facts.mtime_ns:
                    if len(bare) >= MAX_BARE:
                        bare.clear()
                    known.folder, known.device, known.inode = facts, image.identity[0], image.identity[1]
                    bare[dimension_id] = PyBytes_FromStringAndSize(<const char *> &known, sizeof(Bare))
                return stack
            before = listed
    finally:
        if folder >= 0:
            close(folder)


cdef bint is_at(Image image, uint64_t device, uint64_t inode) except -1:
    """Whether an image was made from that file."""
    return <uint64_t> image.identity[0] == device and <uint64_t> image.identity[1] == inode


def reopen_stack(
    tuple stack not None, str path not None, *, admit=None, str verify="lazy", str guard="reads",
    metadata_limit_bytes=None, bint follow_links=True
):
    """What `open_stack` would give now, made of those Images of `stack` whose files have not changed.

    `stack` itself if nothing has; None if the base is another file now, so that all is to be opened.
    """
    cdef Image base = checked_stack(stack)[0]
    cdef list listed, before = None
    cdef tuple kept, grown
    cdef int folder = open_folder(path, base.dimension_id, follow_links, True)
    options = (admit, guard, metadata_limit_bytes, folder, follow_links)
    try:
        while True:
            listed = generations_in(folder, path, NULL, before is not None)
            if base.identity is None or identity_in(folder, path, base.dimension_id, follow_links) != base.identity:
                return None
            listed = [generation for generation in listed if generation > base.generation]
            kept = stack
            if not {(<Image> image).generation for image in stack[1:]}.issubset(listed):
                kept = still_there(folder, stack, listed, follow_links)  # some were merged
            grown = laid_on(kept, path, listed, verify, options, listed == before)
            if grown is not None:
                return grown
            before = listed
    finally:
        close(folder)


cdef tuple still_there(int folder, tuple stack, list listed, bint follow_links):
    """The lowest images of a stack, up to the first whose file has gone, or is another."""
    cdef list kept = [stack[0]]
    cdef Image image
    for image in stack[1:]:
        try:
            if (
                image.generation not in listed
                or identity_in(folder, image.path, image.dimension_id, follow_links) != image.identity
            ):
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
    bint follow_links=True,
    int folder=-1,
):
    """The delta of `generation` that lies on `stack`, whose base is the file at `path`, as an Image.

    `folder` is the open folder of both, if the caller has it. Raises what `map_file` raises, and InvalidRegion if its
    header names another dimension or generation.
    """
    cdef Image base = checked_stack(stack)[0]
    cdef int own = -1 if follow_links or folder >= 0 else open_folder(path, base.dimension_id, False, False)
    options = (admit, guard, metadata_limit_bytes, max(folder, own), follow_links)
    try:
        return delta_on(stack, path, generation, verify, options)
    finally:
        if own >= 0:
            close(own)


cdef Image delta_on(tuple stack, str path, uint64_t generation, str verify, tuple options):
    cdef Image base = stack[0], image
    cdef str name = layout.delta_file(path, generation)
    admit, guard, metadata_limit_bytes, folder, follow_links = options
    image = mapped_file(
        name, base.dimension_id, admit, stack_bytes(stack), False, True, guard, metadata_limit_bytes, folder,
        follow_links,
    )
    if image.generation != generation:
        raise InvalidRegion(name, "generation", image.generation, f"{generation}, which the name of the file says")
    if image.name != base.name:
        raise InvalidRegion(name, "dimension_name", repr(image.name), f"{base.name!r}, the name in the base")
    return checked(image, verify)


cdef tuple laid_on(tuple stack, str path, list generations, str verify, tuple options, bint again):
    """`stack` with the deltas of `generations` that are newer; None if one has gone, and is not looked for `again`."""
    cdef Image newest
    for generation in generations:
        newest = stack[PyTuple_GET_SIZE(stack) - 1]
        if newest.immutable or generation <= newest.generation:
            continue
        try:
            stack = (*stack, delta_on(stack, path, generation, verify, options))
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
        checked(mapped_file(path, 0, None, 0, False, False, "reads", None, -1, True), "open")
    except InvalidRegion:
        return True
    except (DimensionNotFound, MappingError):
        pass
    return False
