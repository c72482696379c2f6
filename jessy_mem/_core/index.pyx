"""LayerIndex: which layers have a keyword, a frequency or an age.

    by_text  "lamp" --> Word --> numbers of layers by dimension: bytes, or a dict of bytes where several have it
                         ^
    known    15 -------> Known: name, sheets --> facts: layer, Hz, created_ns, and numbers of words
                                     +---------> ...

A question takes no lock while one thread changes the index: bytes, sheets and Knowns are put in the place of others as
a whole, and nobody changes them. So one question may see a part of a change, but of each word and dimension the old or
the new. What changes in one layer costs the sheet that it is on, and the numbers that its words have in its dimension.
"""
import unicodedata

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from jessy_mem._core.c.pycompat cimport jm_dict_get_or_none, jm_gil_turn, jm_pair_of
from jessy_mem._core.sheet cimport SHEET_BITS, Known, Range, Sheet, has, meets, merged, read_range, sheet_at
from jessy_mem._core.stack cimport layer_number
from jessy_mem._core.words cimport Spelling, WordScan

from jessy_mem import given
from jessy_mem.layout import LayerId

cdef enum:
    HOLDING_HEAD = 4  # the bytes of a holding begin with the number of its dimension, so that they sort by it

cdef object fold = given.folded


@cython.final
@cython.no_gc
cdef class Word:
    pass


cdef bint fits(Sheet sheet, uint32_t layer, const Range *wanted) noexcept:
    cdef uint32_t at = sheet.position(layer)
    return has(sheet, at, layer) and meets(&sheet.facts[at], wanted)


# Numbers of layers ------------------------------------------------------------------------------------------------


cdef inline const uint16_t *numbers_of(bytes holding, Py_ssize_t *n) noexcept:
    n[0] = (PyBytes_GET_SIZE(holding) - HOLDING_HEAD) // 2
    return <const uint16_t *> (PyBytes_AS_STRING(holding) + HOLDING_HEAD)


cdef inline uint32_t dimension_of(bytes holding) noexcept:
    cdef const uint8_t *head = <const uint8_t *> PyBytes_AS_STRING(holding)
    return <uint32_t> head[0] << 24 | <uint32_t> head[1] << 16 | <uint32_t> head[2] << 8 | head[3]


cdef bytes holding_of(uint32_t dimension, const uint16_t *numbers, Py_ssize_t n):
    cdef bytes holding = PyBytes_FromStringAndSize(NULL, HOLDING_HEAD + 2 * n)
    cdef uint8_t *head = <uint8_t *> PyBytes_AS_STRING(holding)
    head[0], head[1] = <uint8_t> (dimension >> 24), <uint8_t> (dimension >> 16)
    head[2], head[3] = <uint8_t> (dimension >> 8), <uint8_t> dimension
    memcpy(head + HOLDING_HEAD, numbers, 2 * n)
    return holding


cdef bytes changed(uint32_t dimension, bytes holding, Word word):
    """The numbers of a dimension without those that are gone, and with those that have come; None if none is left."""
    cdef Py_ssize_t n, i, n_new = 0
    cdef uint32_t gone = 0, come = 0
    cdef const uint16_t *old
    cdef uint16_t *new
    if holding is None:
        return holding_of(dimension, word.come, word.n_come) if word.n_come else None
    old = numbers_of(holding, &n)
    new = <uint16_t *> malloc(max(n + word.n_come, 1) * sizeof(uint16_t))
    if new == NULL:
        raise MemoryError
    for i in range(n):
        while come < word.n_come and word.come[come] < old[i]:
            new[n_new] = word.come[come]
            n_new += 1
            come += 1
        while gone < word.n_gone and word.gone[gone] < old[i]:
            gone += 1
        if gone < word.n_gone and word.gone[gone] == old[i]:
            continue
        new[n_new] = old[i]
        n_new += 1
    while come < word.n_come:
        new[n_new] = word.come[come]
        n_new += 1
        come += 1
    try:
        return holding_of(dimension, new, n_new) if n_new else None
    finally:
        free(new)


cdef inline int add_id(list found, dimension, uint32_t layer) except -1:
    """Append a LayerId: what `LayerId(dimension, layer)` is."""
    found.append(jm_pair_of(LayerId_type, dimension, layer))
    return 0


cdef PyObject *LayerId_type = <PyObject *> LayerId


cdef list holdings_of(Word word, dimensions):
    """What a word has in the dimensions that are meant, by dimension, ascending."""
    cdef list found
    with cython.critical_section(word):
        holders = word.holders
    if holders is None:
        return []
    found = [holders] if type(holders) is bytes else list(PyDict_Copy(holders).values())
    if dimensions is not None:
        found = [holding for holding in found if dimension_of(holding) in dimensions]
    found.sort()
    return found


# The index --------------------------------------------------------------------------------------------------------


@cython.final
cdef class LayerIndex:
    """LayerIndex()\n--\n
    Finds layers by keyword (NFC-normalised and case-folded), frequency, age and name.

    One thread at a time may change it: the owner locks. Questions are thread-safe and take no lock.
    """

    def __cinit__(self):
        self.known, self.by_text, self.words, self.free_numbers = {}, {}, [], []

    def __contains__(self, dimension):
        return dimension in self.known

    @property
    def n_words(self):
        """How many keywords there are that some layer has."""
        return len(self.by_text)

    def has_layer(self, dimension, layer):
        cdef Known known = jm_dict_get_or_none(self.known, dimension)
        cdef int64_t number = layer_number(layer)
        cdef Sheet sheet = None if known is None or number < 0 else sheet_at(known, number)
        return sheet is not None and has(sheet, sheet.position(number), number)

    def put(self, dimension, facts, str name=""):
        """Index a dimension, in place of what was known of it; facts are (layer, depth, Hz, keywords, ...)."""
        self.replace(dimension, unicodedata.normalize("NFC", name), self.sheet_of_facts([each for each in facts]), None)

    def put_stack(self, dimension, tuple stack not None, str name=""):
        """The same from the files of the dimension; InvalidRegion if keywords were overwritten, RegionTruncated."""
        cdef WordScan scan = WordScan.__new__(WordScan)
        scan.read(stack)
        self.replace_all(dimension, unicodedata.normalize("NFC", name), scan)

    def remove(self, dimension):
        """Forget a dimension, if it is known."""
        if dimension in self.known:
            self.replace(dimension, "", self.sheet_of_facts([]), None)
            del self.known[dimension]

    def change(self, dimension, facts, removed=()):
        """Layers of a dimension that is known were added or replaced (`facts`), or removed, if they were there."""
        cdef Known known = self.known[dimension]
        latest = {fact[0]: fact for fact in facts}
        come = self.sheet_of_facts([latest[layer] for layer in sorted(latest)])
        self.replace(dimension, known.name, come, set(removed) - latest.keys())

    cdef Word word_of(self, str text):
        cdef Word word = self.by_text.get(text)
        if word is None:
            word = Word.__new__(Word)
            word.text = text
            if self.free_numbers:
                word.number = self.free_numbers.pop()
                self.words[word.number] = word
            else:
                word.number = <uint32_t> len(self.words)
                self.words.append(word)
            self.by_text[text] = word
        return word

    cdef int add_word(self, Sheet sheet, str text) except -1:
        cdef Word word = self.word_of(text)
        if word.n_come != sheet.n_layers:  # as a mark: the last layer that has it; forget_unused takes it away
            word.n_come = sheet.n_layers
            sheet.add_word(word.number)
        return 0

    cdef Sheet sheet_of_facts(self, list facts):
        cdef Sheet sheet = Sheet.__new__(Sheet)
        sheet.reserve(<uint32_t> len(facts), 0)
        try:
            for layer, _, hz, keywords, _, _, created_ns in facts:
                sheet.add(layer, hz, created_ns)
                for keyword in keywords:
                    self.add_word(sheet, fold(keyword))
        except BaseException:
            self.forget_unused(sheet)
            raise
        clear_marks(self.words, sheet)
        return sheet

    cdef int forget_unused(self, Sheet sheet) except -1:
        """What `sheet`, which is given up, brought into being."""
        cdef uint32_t i
        clear_marks(self.words, sheet)
        for i in range(sheet.n_words):
            self.forget_if_unused(sheet.words[i])
        return 0

    cdef int forget_if_unused(self, uint32_t number) except -1:
        cdef Word word = self.words[number]
        if word is not None and word.holders is None:
            self.set_numbers(word, 0, None)
        return 0

    cdef int name_spellings(self, WordScan scan) except -1:
        """Give each spelling its word; words are marked (n_come) with the first of theirs, and 1."""
        cdef uint32_t i
        cdef Word word
        for i in range(scan.n_spellings):
            jm_gil_turn(i)
            word = self.word_of(scan.text(i))
            if word.n_come == 0:
                word.n_come = i + 1
            scan.spellings[i].number, scan.spellings[i].same_as = word.number, word.n_come - 1
            scan.n_named = i + 1
        return 0

    cdef int replace_all(self, dimension, str name, WordScan scan) except -1:
        """Put what was read in the place of all that is known of a dimension."""
        cdef Known old = self.known.get(dimension), new = Known.__new__(Known)
        cdef const Spelling *spelling
        cdef Word word
        cdef Sheet sheet
        cdef uint32_t i
        try:
            self.name_spellings(scan)
            scan.group()
            new.name, new.sheets = name, scan.sheet.parts()
            for i in range(scan.n_spellings):
                jm_gil_turn(i)
                spelling = &scan.spellings[i]
                if spelling.n_layers:
                    numbers = holding_of(dimension, scan.layers + spelling.begin, spelling.n_layers)
                    self.set_numbers(self.words[spelling.number], dimension, numbers)
            for sheet in () if old is None else old.sheets:
                for i in range(sheet.n_words):
                    word = self.words[sheet.words[i]]
                    if word is not None and word.n_come == 0:
                        self.set_numbers(word, dimension, None)
            self.known[dimension] = new
        finally:
            for i in range(scan.n_named):
                word = self.words[scan.spellings[i].number]
                if word is not None:
                    word.n_come = 0
                    self.forget_if_unused(word.number)
        return 0

    cdef int replace(self, dimension, str name, Sheet come, removed) except -1:
        """Put `come` in the place of what is known of its layers; those that are `removed` go, None: all others."""
        cdef Known old = self.known.get(dimension), new = Known.__new__(Known)
        cdef Sheet sheet, gone = Sheet.__new__(Sheet)
        cdef uint32_t n_gone = 0, begin, end = 0
        cdef dict sheets = {}
        if old is not None:
            for sheet in old.sheets:
                sheets[sheet.facts[0].layer >> SHEET_BITS] = sheet
                n_gone += sheet.n_layers
        gone.reserve(n_gone, n_gone)
        named = set(sheets) if removed is None else {layer >> SHEET_BITS for layer in removed if layer >= 0}
        begins = {}
        while end < come.n_layers:
            begin, end = end, come.part_end(end)
            begins[come.facts[begin].layer >> SHEET_BITS] = begin, end
        for shelf in sorted(named | begins.keys()):  # as what a word has is ascending, so is what goes
            begin, end = begins.get(shelf, (0, 0))
            sheet = sheets.pop(shelf, None)
            if sheet is not None or begin != end:
                sheet = merged(sheet, come, begin, end, removed, gone)
                if sheet is not None:
                    sheets[shelf] = sheet
        new.name, new.sheets = name, tuple([sheets[shelf] for shelf in sorted(sheets)])
        self.change_words(dimension, gone, come)
        self.known[dimension] = new
        return 0

    cdef int change_words(self, dimension, Sheet gone, Sheet come) except -1:
        cdef list touched = []
        cdef Word word
        cdef uint32_t i, at
        cdef uint16_t *numbers = <uint16_t *> malloc(max(gone.n_words + come.n_words, 1) * sizeof(uint16_t))
        cdef uint16_t *free_from = numbers
        if numbers == NULL:
            raise MemoryError
        try:
            for i in range(gone.n_words):
                word = self.words[gone.words[i]]
                if word.n_gone + word.n_come == 0:
                    touched.append(word)
                word.n_gone += 1
            for i in range(come.n_words):
                word = self.words[come.words[i]]
                if word.n_gone + word.n_come == 0:
                    touched.append(word)
                word.n_come += 1
            for word in touched:
                word.gone, word.come = free_from, free_from + word.n_gone
                free_from += word.n_gone + word.n_come
                word.n_gone = word.n_come = 0
            for i in range(gone.n_layers):
                for at in range(gone.facts[i].begin, gone.facts[i].end):
                    word = self.words[gone.words[at]]
                    word.gone[word.n_gone] = gone.facts[i].layer
                    word.n_gone += 1
            for i in range(come.n_layers):
                for at in range(come.facts[i].begin, come.facts[i].end):
                    word = self.words[come.words[at]]
                    word.come[word.n_come] = come.facts[i].layer
                    word.n_come += 1
            for i, word in enumerate(touched):
                jm_gil_turn(i)
                self.set_numbers(word, dimension, changed(dimension, holding_in(word, dimension), word))
        finally:
            for word in touched:
                word.n_gone = word.n_come = 0
            free(numbers)
        return 0

    cdef int set_numbers(self, Word word, dimension, bytes numbers) except -1:
        """What a word has in a dimension from now on. A word that nobody has any more is forgotten."""
        cdef object holders = word.holders
        if type(holders) is dict:
            if numbers is None:
                holders.pop(dimension, None)
            else:
                holders[dimension] = numbers
            if len(holders) == 1:
                (holders,) = holders.values()
        elif holders is None or dimension_of(holders) == dimension:
            holders = numbers
        elif numbers is not None:
            holders = {dimension_of(holders): holders, dimension: numbers}
        with cython.critical_section(word):
            word.holders = holders
        if holders is None:
            del self.by_text[word.text]
            self.words[word.number] = None
            self.free_numbers.append(word.number)
        return 0

    def find(self, dimension=None, keyword=None, frequency=None, name=None, since_ns=None, before_ns=None):
        """The layers that meet every condition given, ascending.

        `frequency` is (low, high) in Hz, inclusive. `name` is that of a dimension, or its beginning followed by ``*``.
        A layer was made at `since_ns` or later, and earlier than `before_ns`. TypeError for a condition of the wrong
        kind.
        """
        cdef Word word = None
        cdef Range wanted
        cdef bint in_range = frequency is not None or since_ns is not None or before_ns is not None
        if isinstance(dimension, str):
            raise TypeError(f"dimension: {dimension!r} is str, not int; text is asked for by keyword= or name=")
        if dimension is not None:
            dimension = given.integer(dimension)
        if keyword is not None and not isinstance(keyword, str):
            hint = "a dimension is given by dimension=" if isinstance(keyword, int) else "ask for one word at a time"
            raise TypeError(f"keyword: {keyword!r} is {type(keyword).__name__}, not str; {hint}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name: {name!r} is {type(name).__name__}, not str")
        if in_range and not read_range(frequency, since_ns, before_ns, &wanted):
            return []
        dimensions = None if dimension is None and name is None else self.dimensions_of(dimension, name)
        if keyword is None:
            return self.all_in(dimensions, &wanted if in_range else NULL)
        word = jm_dict_get_or_none(self.by_text, str.lower(keyword) if str.isascii(keyword) else fold(keyword))
        return [] if word is None else self.all_of(word, dimensions, &wanted if in_range else NULL)

    cdef list all_of(self, Word word, dimensions, const Range *wanted):
        """The layers that have a word."""
        cdef list found = []
        cdef bytes holding
        cdef const uint16_t *numbers
        cdef Py_ssize_t n, i
        cdef Known known
        cdef Sheet sheet
        for holding in holdings_of(word, dimensions):
            dimension = dimension_of(holding)
            numbers = numbers_of(holding, &n)
            known = None if wanted == NULL else jm_dict_get_or_none(self.known, dimension)
            sheet = None
            for i in range(n):
                if wanted != NULL:
                    if sheet is None or sheet.facts[0].layer >> SHEET_BITS != numbers[i] >> SHEET_BITS:
                        sheet = None if known is None else sheet_at(known, numbers[i])
                    if sheet is None or not fits(sheet, numbers[i], wanted):  # or was removed meanwhile
                        continue
                add_id(found, dimension, numbers[i])
        return found

    cdef list all_in(self, dimensions, const Range *wanted):
        """All layers of the dimensions that are meant."""
        cdef list found = []
        cdef dict here = PyDict_Copy(self.known)
        cdef Known known
        cdef Sheet sheet
        cdef uint32_t i
        for dimension in sorted(here if dimensions is None else dimensions & here.keys()):
            known = here[dimension]
            for sheet in known.sheets:
                if wanted != NULL and (
                    wanted.low_hz > sheet.highest_hz or wanted.high_hz < sheet.lowest_hz
                    or wanted.oldest_ns > sheet.newest_ns or wanted.newest_ns < sheet.oldest_ns
                ):
                    continue
                for i in range(sheet.n_layers):
                    if wanted == NULL or meets(&sheet.facts[i], wanted):
                        add_id(found, dimension, sheet.facts[i].layer)
        return found

    cdef object dimensions_of(self, dimension, name):
        """The dimensions that are meant."""
        cdef dict here
        if name is None:
            return {dimension}
        here = PyDict_Copy(self.known)
        wanted = unicodedata.normalize("NFC", name)
        found = here.keys() if dimension is None else {dimension} & here.keys()
        if wanted.endswith("*"):
            stem = wanted.removesuffix("*")
            return {each for each in found if (<Known> here[each]).name.startswith(stem)}
        return {each for each in found if (<Known> here[each]).name == wanted}


cdef int clear_marks(list words, Sheet sheet) except -1:
    cdef uint32_t i
    for i in range(sheet.n_words):
        (<Word> words[sheet.words[i]]).n_come = 0
    return 0


cdef bytes holding_in(Word word, dimension):
    """What a word has in a dimension, or None; for whoever changes it."""
    if type(word.holders) is dict:
        return (<dict> word.holders).get(dimension)
    return word.holders if word.holders is not None and dimension_of(word.holders) == dimension else None
