"""The rules of the house (docs/design.md) that the sources can be asked for: who knows whom, what stands where."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import jessy_mem
from jessy_mem._core.registry import LayerRegistry
from jessy_mem.manager import MmapManager
from jessy_mem.table import RegionTable

PACKAGE = Path(jessy_mem.__file__).parent
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
MAX_LINES = 480  # a file of twice what it should weigh hides two ideas
FACE = "manager.py"  # what a user calls: two thirds of it are the documentation of short methods
MAX_FACE_LINES, MAX_METHOD_LINES = 690, 15

# Storeys of the compiled core are folders. A module may import what stands on a lower one; on its own, what stands
# before it. A new module gets its place here, as low as it can stand.
STOREYS = ("_core.c", "_core.kernels", "_core", "_probe")
OBJECTS = """
    whole guard records mapping uncached changes fault format head packing budget texts image mapped folder merge arena
    pool counts latency stack base_file sheet words index view gather shelf region holders registry reader
""".split()
HOUSE = """
    forking errors sealed leases
    given sizes units cgroups looks notebook notices compression eviction layout stats trace
    config context locking watching durable unlinked publish batch journal names register ids prose advice addresses
    pressure evicted victims room builder simulation opening catalogue reading table snapshot growth following uptake
    loading files protos relief learning ending cooling report pickling map_page memory_map manager plots workers
    exporters archive doctor
""".split()
STRANGERS = [  # objects that meet through the buffer protocol or in the registry, and do not know each other
    ("_core.pool", "_core.region"),
    ("_core.pool", "_core.image"),
    ("_core.pool", "_core.latency"),
    ("_core.region", "_core.latency"),
    ("_core.image", "_core.latency"),
    ("_core.image", "_core.budget"),
    ("_core.region", "_core.budget"),
]
IMPORT = re.compile(r"^[ ]*(?:from[ ]+([\w.]+)[ ]+c?import[ ]+(\([^)]*\)|[^#\n]*)|c?import[ ]+([\w.]+))", re.MULTILINE)
LATE_IMPORT = re.compile(r'imported\("jessy_mem\.([\w.]+)"\)')
parses = pytest.mark.thread_unsafe(reason="ast.parse of CPython 3.11 counts its depth for all threads together")
SOURCES = sorted(path for suffix in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}"))


def module_of(path: Path) -> str:
    """`path` as a name below jessy_mem: "layout", "_core.pool", "cli.build"; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules of the package that a source imports or cimports, named as by `module_of`."""
    found = set()
    for source, names, plain in IMPORT.findall(path.read_text()):
        base = source or plain
        if base.partition(".")[0] != "jessy_mem":
            continue
        below = base.partition(".")[2]
        taken = [name.strip().split(" ")[0] for name in names.strip("()\n ").split(",") if name.strip()]
        modules = {f"{below}.{name}".strip(".") for name in taken} & KNOWN
        found |= modules or {below}
    return (found | {*LATE_IMPORT.findall(path.read_text())}) - {module_of(path)}


def without_text(source: str) -> str:
    """A source without comments and docstrings, its lines kept."""
    source = re.sub(r'""".*?"""', lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL)
    return re.sub(r"#.*", "", source)


KNOWN = {module_of(path) for path in SOURCES}
LIBRARY = [path for path in SOURCES if not re.match(r"(__main__|cli\b.*)?$", module_of(path))]
CORE = [path for path in LIBRARY if module_of(path).startswith("_") and path.stem != "__init__"]
HOUSED = [path for path in LIBRARY if not module_of(path).startswith("_")]
COMPILED = [*CORE, *(path for path in HOUSED if path.suffix == ".pyx")]


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_reader_of_imports_sees_them():
    assert {"_core.image", "_core.kernels.span", "errors", "layout"} <= imports(PACKAGE / "_core" / "region.pyx")
    assert "manager" in imports(PACKAGE / "__init__.py")


def storey_of(module: str) -> int:
    return STOREYS.index(module.rpartition(".")[0])


def wrong_in(paths: Iterable[Path], check: Callable[[Path], object]) -> dict[str, object]:
    """What `check` finds, by the names of those files in which it finds something."""
    return {named(path): found for path in paths if (found := check(path))}


def above(path: Path) -> list[str]:
    """What a compiled module imports and stands above it."""
    module = module_of(path)
    found = []
    for name in imports(path):
        if not name.startswith("_"):  # objects may know the names, errors and helpers of the library; kernels nothing
            allowed = storey_of(module) >= STOREYS.index("_core") and name in HOUSE
        elif storey_of(name) == storey_of(module) == STOREYS.index("_core"):
            allowed = OBJECTS.index(name.removeprefix("_core.")) < OBJECTS.index(module.removeprefix("_core."))
        else:
            allowed = storey_of(name) <= storey_of(module)
        if not allowed:
            found.append(name)
    return found


def test_no_compiled_module_imports_upward():
    assert wrong_in(CORE, above) == {}


def test_nothing_imports_upward():
    """Neither what stands above it, nor what stands below the objects."""
    assert not {module_of(path) for path in HOUSED} - {*HOUSE}, "what has no place in HOUSE yet"

    def upward(path: Path) -> set[str]:
        below = HOUSE[: HOUSE.index(module_of(path))]
        core = {f"_core.{name}" for name in OBJECTS}
        if path.suffix == ".pyx":  # the table is compiled, and knows what compilers know
            core |= {name for name in KNOWN if name.startswith("_core.c.")}
        return imports(path) - {*below, *core}

    assert wrong_in(HOUSED, upward) == {}


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_strangers_do_not_know_each_other(one, other):
    for module, unknown in ((one, other), (other, one)):
        for path in LIBRARY:
            if module_of(path) == module:
                assert unknown not in imports(path), f"{named(path)} knows {unknown}"


# Commands that measure: what takes nanoseconds is looped in C, and meets in native threads, in the probes.
MEASURING = {
    "cli.peers": {"_probe.latency", "_probe.peers", "_probe.pool"},
    "cli.scaling": {"_core.budget", "_probe.budget", "_probe.latency"},
}


def test_command_line_knows_only_the_public_face():
    def known(path: Path) -> set[str]:
        others = {name for name in imports(path) if name and name.partition(".")[0] != "cli"}
        return (others - {"units"}) ^ MEASURING.get(module_of(path), set())

    assert wrong_in([path for path in SOURCES if module_of(path)[:3] == "cli"], known) == {}


def test_declarations_import_nothing_of_python():
    def imported(path: Path) -> list[str]:
        return re.findall(r"^\s*(?:from\s+\S+\s+)?import\s.*", without_text(path.read_text()), re.MULTILINE)

    assert wrong_in([path for path in SOURCES if path.suffix == ".pxd"], imported) == {}


# What stands, or is done, in one place only, and where.
ONE_HOME = {
    r"\bjm_clock_measure\(\)$": "_core.latency",
    r"\bMAX_ATTRIBUTES_BYTES = \d": "_core.format",
    r"\bHEADER_BYTES = \d": "_core.format",
}


REFERENCES = re.compile(r"\b(jm_refcount|jm_dict_shared_values|Py_REFCNT|getrefcount|refcount)\b|\bob_ref")


def test_what_a_count_of_references_means_is_known_to_holders():
    """Others drop references or take them; how many there are, and of whom, is asked in one place."""
    found = {module_of(path) for path in LIBRARY if REFERENCES.search(without_text(path.read_text()))}
    assert found == {"_core.c.pycompat", "_core.holders"}
    headers = {named(path) for path in PACKAGE.rglob("*.h") if REFERENCES.search(path.read_text())}
    assert headers == {"_core/c/pycompat.h"}


@pytest.mark.parametrize("pattern", ONE_HOME)
def test_fact_has_one_home(pattern):
    found = {module_of(path) for path in SOURCES if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert found == {ONE_HOME[pattern]}


def test_what_cython_declares_of_the_system_is_not_declared_again():
    declared = re.compile(r"extern from \"<(?:unistd|fcntl|errno)\.h>\"")
    modules = [path for path in SOURCES if path.suffix == ".pyx"]
    assert wrong_in(modules, lambda path: declared.findall(path.read_text())) == {}


def test_nogil_is_never_without_noexcept():
    """Blocks (`with nogil:`) and external headers aside; a function of a header is noexcept by itself."""

    def bare(path: Path) -> list[str]:
        lines = [line for line in without_text(path.read_text()).splitlines() if re.search(r"\bnogil\b", line)]
        return [line for line in lines if not re.search(r"\bnoexcept\b|with nogil:|cdef extern from", line)]

    assert wrong_in([path for path in SOURCES if path.suffix in (".pyx", ".pxd")], bare) == {}


# Dicts that compiled code asks with get(), which Cython makes of a borrowed reference: without the GIL, another thread
# may take away what was found before it is counted. So each is one that nobody else changes then; others are asked with
# jm_dict_get_or_none.
ASKED_ALONE = {
    "_core.holders": {"self.regions": "the caller holds the table's lock"},
    "_core.index": {
        "self.by_text": "by who changes the index, and the owner locks",
        "self.known": "the same",
        "begins": "a local one",
        "word.holders)": "by who changes the index, and the owner locks",
    },
    "_core.packing": {"passages": "the caller's own"},
    "table": {"self.regions": "under the table's lock"},
}

# What no typed memoryview can be, in the declarations of the objects: each with its reason.
POINTERS = {
    "guard.base": "an address to watch, whoever owns the memory; nothing is read through it",
    "changes.word": "one number for atomics, read by a hot path",
    "changes.event": "numbers that the caller keeps on its stack",
    "changes.generation": "the same",
    "mapping.base": "the memory that the views are of; a view of its own would keep it",
    "registry.word": "an atomic: of the page that the registry keeps, or of its own",
    "registry.look_ticks": "an atomic number, which an access loads only if it needs it",
    "gather.ends": "made for one call, beside the structs that it belongs to",
    "gather.first": "a variable of what is compiled into other modules: a part of the image that it is given",
    "index.gone": "numbers in memory of whoever changes a dimension, for that change",
    "index.come": "the same",
    "sheet.words": "one in each sheet, of which there is one for each dimension: as in a LayerView",
    "words.layers": "numbers of layers, for one change of an index, beside the structs that say whose they are",
    "stack.n": "a number that the caller keeps on its stack",
    "pool.n": "the same",
    "gather.image": "in a struct, for nothing is counted while the GIL is not held; `held` keeps it",
    "shelf.edition": "an atomic: of the region that the caller holds",
    "view.first": "a range of a layer, of which is asked whether it was read soundly",
    "view.data": "one in each layer's view: a typed memoryview is three times as large and takes an object",
    "guard.guard_mark": "an atomic word, which is there as long as a range is guarded",
    "image.zeros_from": "the same, of the mapping that `bytes` holds",
    "image.first": "a range of `bytes`, of which pages are touched, or asked whether they were read soundly",
    "image.end": "the end of one",
    "image.n_pages": "numbers that the caller keeps on its stack",
    "image.n_resident": "the same",
    "image.content": "where a layer lies in `bytes`, told to who holds the image",
    "format.format_magic": "a constant of C",
    "packing.first": "in structs, and spans of keywords and contents: most are in an ASCII str, which is no buffer",
    "arena.address": "in a struct: an address for callers without the GIL",
    "budget.memory": "what is freed at the end: read and written are the structs in it, by atomics",
    "budget.used": "numbers that the caller keeps on its stack",
}
POINTER = re.compile(r"\b(?:(?:void|char|float|double|Py_ssize_t|u?int\d+_t) \*+|Py_buffer \*?)(\w+)")


def test_buffers_cross_borders_as_typed_memoryviews():
    """A buffer in a field, or handed from one module to another, knows its length and holds its owner."""
    declared = [path for path in COMPILED if path.suffix == ".pxd" and path.parent.name == "_core"]
    found = {f"{path.stem}.{name}" for path in declared for name in POINTER.findall(without_text(path.read_text()))}
    assert found == set(POINTERS)


def slices_in_loops(source: str) -> list[str]:
    """The lines of a module, inside loops, that slice what is declared as a typed memoryview there."""
    names = {name for names in re.findall(r"\[(?::, )*::1\] ([\w, ]+)", source) for name in re.findall(r"\w+", names)}
    loops: list[int] = []  # how far those that are open are indented
    found = []
    for line in without_text(source).splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        loops = [each for each in loops if each < indent]
        in_loop = bool(loops) or " for " in line
        if in_loop and names & set(re.findall(r"(\w+)\[[^]\[]*:[^]\[]*\]", line)):
            found.append(line.strip())
        if re.match(r"\s*(for|while)\b", line):
            loops.append(indent)
    return found


def test_reader_of_slices_sees_those_in_loops():
    source = """
cdef int f(const uint8_t[::1] v, uint64_t[:, ::1] rows) noexcept nogil:
    cdef const uint8_t *first = &v[0]
    v = v[1:]
    while first[0]:
        g(v)
        for i in range(3):
            first += v[i] + text[1:2]
        g(v[1:2])
    g([rows[i:] for i in range(3)])
    g(rows[2:])
"""
    assert slices_in_loops(source) == ["g(v[1:2])", "g([rows[i:] for i in range(3)])"]


def test_no_typed_memoryview_is_sliced_in_a_loop():
    """A slice counts a reference and copies 208 bytes; a kernel takes the whole view and an offset."""
    cython = [path for path in COMPILED if path.suffix in (".pyx", ".pxd")]
    assert wrong_in(cython, lambda path: slices_in_loops(path.read_text())) == {}


def test_what_is_imported_in_a_call_is_asked_for_where_a_fork_waits():
    def late(path: Path) -> list[str]:
        source = without_text(path.read_text())
        found = re.findall("import_module|__import__", source) if path.name != "forking.py" else []
        typing = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
        inside = re.findall(r"^(?: {4})+((?:from [\w.]+ )?import .*)", source, re.MULTILINE)
        return found + [line for line in inside if line not in typing]

    assert wrong_in([path for path in LIBRARY if path.suffix != ".pxd"], late) == {}


def test_compiled_module_has_a_stub():
    modules = [path for path in SOURCES if path.suffix == ".pyx"]
    assert wrong_in(modules, lambda path: not path.with_suffix(".pyi").is_file()) == {}


def test_file_is_short_enough_to_hold_one_idea():
    def n_too_many(path: Path) -> int:
        n_lines = len(path.read_text().splitlines())
        return max(0, n_lines - (MAX_FACE_LINES if named(path) == FACE else MAX_LINES))

    assert wrong_in([*SOURCES, *PACKAGE.rglob("*.h"), *PACKAGE.rglob("*.pyi")], n_too_many) == {}


def test_each_module_has_its_storey_in_the_design():
    table = DESIGN.read_text().partition("| storey |")[2].partition("\n\n")[0]
    assert [name for name in OBJECTS if f"`{name}`" not in table and f"`_core/{name}`" not in table] == []
    assert [name for name in HOUSE if f"`{name}`" not in table] == []


@parses
def test_what_a_user_calls_is_said_in_the_face_and_done_in_a_part():
    tree = ast.parse((PACKAGE / FACE).read_text())
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)]
    bodies = {each.name: each.body[1:] if ast.get_docstring(each) else each.body for each in functions}
    del bodies["__init__"]  # which makes the parts
    n_lines = {name: body[-1].end_lineno - body[0].lineno + 1 for name, body in bodies.items() if body}
    assert len(n_lines) > 50
    assert not {name: n for name, n in n_lines.items() if n > MAX_METHOD_LINES}


def test_manager_extends_the_table_which_extends_the_read_path():
    """What is called millions of times a second is compiled, and the manager's own where that is called faster."""
    assert [each.__name__ for each in MmapManager.__mro__] == ["MmapManager", "RegionTable", "LayerRegistry", "object"]
    for name in ("__getitem__", "load_context"):
        assert getattr(MmapManager, name) is getattr(LayerRegistry, name)
    for base, name in ((LayerRegistry, "access_layer"), (RegionTable, "allocate"), (RegionTable, "deallocate")):
        method, compiled = getattr(MmapManager, name), getattr(base, name)
        assert type(method) is type(compiled)
        assert (method.__objclass__, method.__doc__) == (MmapManager, compiled.__doc__)


def test_module_says_what_it_is_for():
    modules = [path for path in SOURCES if path.suffix == ".py" and path.stat().st_size]
    assert wrong_in(modules, lambda path: not path.read_text().lstrip().startswith(('"""', 'r"""'))) == {}


def test_systems_and_compilers_are_known_in_headers_only():
    """Which system or compiler this is: asked in the headers, and nowhere else."""
    asked = re.compile(r"__linux__|__APPLE__|__GNUC__|UNAME_SYSNAME|__builtin_|__atomic_")
    assert not [named(path) for path in SOURCES if asked.search(without_text(path.read_text()))]
    asked = re.compile(r"__atomic_\w+\(")
    assert [named(path) for path in PACKAGE.rglob("*.h") if asked.search(path.read_text())] == ["_core/c/atomic.h"]


def test_dicts_that_others_change_are_not_asked_for_what_is_borrowed():
    asked = {
        module_of(path): set(re.findall(r"([\w.]+\)?)\.get\(", without_text(path.read_text())))
        for path in COMPILED
        if path.suffix == ".pyx"
    }
    assert {module: names for module, names in asked.items() if names} == {
        module: set(reasons) for module, reasons in ASKED_ALONE.items()
    }


def test_stolen_reference_is_not_cast():
    """Cython counts one more for the cast and one less for what was cast: without the GIL, two atomics on each hit."""
    assert not [named(path) for path in SOURCES if re.search(r"<\w+> jm_stolen\(", path.read_text())]


def test_slots_are_those_of_the_plan():
    """One word for each thing (docs/design.md): nothing in the compiled core is a slot, for it knows no plan."""
    files = [path for folder in ("_core", "_probe") for path in (PACKAGE / folder).rglob("*")]
    core = [path for path in files if path.suffix in (".pyx", ".pxd", ".pyi", ".h")]
    assert {".h", ".pyx"} < {path.suffix for path in core}
    assert not [named(path) for path in core if re.search(r"slots?(?![a-z])", path.read_text(), re.IGNORECASE)]


def test_library_prints_nothing():
    called = re.compile(r"(?<![\w.])print\(|sys\.std(out|err)")
    assert not [named(path) for path in LIBRARY if called.search(without_text(path.read_text()))]


# Tests -------------------------------------------------------------------------------------------------------------

TESTS = Path(__file__).parent.parent
INSIDE = "inside.py"  # what several tests reach behind the public API, each with its reason
OWN = {"self", "cls", "os", "sys"}  # whose private names a test may use
# What takes the name of what it reaches for as text.
BY_TEXT = {"setattr", "getattr", "patch", "object", "instead", "around", "inject", "Injection", "Fault"}
REPLACING = {"setattr", "delattr", "object"}  # of monkeypatch and mock.patch: their first argument is an owner
NOT_PRIVATE = re.compile(r"__|_core$|_probe$|_\w*_$|_replace$")  # Python's, packages, _repr_html_, of a NamedTuple
IN_A_MODULE = re.compile(r"jessy_mem(\.\w+){2,}")  # what is public has a name in the package itself


def is_private(name: str) -> bool:
    return name.startswith("_") and not NOT_PRIVATE.match(name)


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`; empty for what has no name."""
    return getattr(node, "attr", "") or getattr(node, "id", "")


def unexplained(source: str) -> list[int]:
    """The lines on which a test reaches for what is private, with no comment there or just above.

    That is a name with an underscore, or anything that is replaced in the package.
    """
    found = set()
    nodes = list(ast.walk(ast.parse(source)))
    ours = {"jm", "jessy_mem"}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jessy_mem"):
            ours |= {each.asname or each.name for each in node.names}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and IN_A_MODULE.fullmatch(node.value):
            found |= {node.lineno}
        called = last_name(node.func) if isinstance(node, ast.Call) else ""
        if called in REPLACING:
            found |= {node.lineno for each in node.args[:1] if ast.unparse(each).partition(".")[0] in ours}
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in OWN:
            found |= {node.end_lineno}
        if called in BY_TEXT:
            arguments = [] if {*map(ast.unparse, node.args[:1])} & OWN else node.args
            texts = [each for argument in arguments for each in ast.walk(argument) if isinstance(each, ast.Constant)]
            named = [each for each in texts if isinstance(each.value, str)]
            found |= {each.lineno for each in named if is_private(each.value.rpartition(".")[2])}
    comments = comments_in(source) if found else {}
    return sorted(line for line in found if line not in comments and not comments.get(line - 1))


def comments_in(source: str) -> dict[int, bool]:
    """The lines with a comment that explains something: number -> whether that is all of it."""
    return {
        token.start[0]: token.line.strip().startswith("#")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not re.match("# (fmt|noqa|type):", token.string)
    }


@parses
def test_reader_of_private_uses_sees_those_without_a_reason():
    source = """\
with memory._lock: memory.x
memory._unmap(1)  # a reason
# A reason
patch("jessy_mem.batch._N", 7)
monkeypatch.setattr(publish, "_N", 7)
self._own, cls._own, os._exit, getattr(sys, "_getframe"), jessy_mem._core, memory.__dict__, stats._repr_html_()
x = 1  # another line's
super()._evict(memory._pool)  # fmt: skip
inject(OSError(), "os.read", "jessy_mem.a._b")
from jessy_mem import batch as b
CALLS = ["os.read", "jessy_mem.batch.Batch.sync", "jessy_mem.Batch"]
mock.patch.object(b.Batch, "sync"), mock.patch.object(os, "open")
monkeypatch.delattr(jm, "Batch")  # a reason
"""
    assert unexplained(source) == [1, 5, 8, 9, 11, 12]


# What of the system a test replaces, and why there is no other way to see it. In the package each place has its own
# reason, as above.
OF_THE_SYSTEM = {
    "a disk that is full, broken or has no such call, and what comes between two calls": """
        os.* os.close os.fchmod os.fchown os.fstat os.fsync os.link os.listdir os.lseek os.lstat os.mkdir os.open
        os.path.lexists os.pread os.preadv os.pwrite os.rename os.rmdir os.scandir os.stat os.unlink
        os.write pathlib.Path.lstat pathlib.Path.open pathlib.Path.read_bytes
    """,
    "a file system whose locks and leases do nothing": "fcntl.F_SETLEASE fcntl.fcntl fcntl.flock",
    "a system that makes and fills no copy in memory": "os.memfd_create os.sendfile",
    "a limit, which would hold for what runs beside it, too": "resource.getrlimit threading.Thread.start",
    "hours and days": "time.monotonic time.sleep",
    "Ctrl-C amid what only Python can fold": "unicodedata.normalize",
    "a system without /proc": "os.kill os.path.isdir pathlib.Path.read_text",
    "any call: what replaces others is tested with it": "os.getpid",
    "what is installed, and where": """
        ctypes.CDLL ctypes.util.find_library sys.path sysconfig.get_path tempfile.tempdir
    """,
    "an error that nobody can catch": "sys.unraisablehook",
}
SYSTEM = {name: reason for reason, names in OF_THE_SYSTEM.items() for name in names.split()}
MODULES = {name.partition(".")[0] for name in SYSTEM}


def of_the_system(source: str) -> set[str]:
    """What a test replaces in Python's own modules: what it gives by name, as text or with its owner.

    Where it has a name as text for several calls, that is seen if it is of one of the MODULES.
    """
    given, texts = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant):
            texts |= {str(node.value)}
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if called in BY_TEXT - {"getattr"}:
            given |= {str(each.value) for each in node.args if isinstance(each, ast.Constant)}
        if called in REPLACING and len(node.args) > 1:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else "*"
            given |= {f"{ast.unparse(node.args[0])}.{name}"}
    found = {each for each in given if each.partition(".")[0] in sys.stdlib_module_names}
    found |= {each for each in texts if each.partition(".")[0] in MODULES and not each.endswith(".md")}
    return {each for each in found if re.fullmatch(r"[a-z]+(\.[\w*]+)+", each)}


@parses
def test_reader_of_what_is_replaced_in_the_system_sees_it():
    source = """\
CALLS = ["os.read", "time", "jessy_mem.batch"]
monkeypatch.setattr(os, "open", refuse), mock.patch.object(os, call, refuse), monkeypatch.delattr(os.path, "isdir")
monkeypatch.setattr("time.sleep", sleep), inject(OSError(), "zlib.crc32"), patch(data, region, "layers[0].depth", 1)
"""
    assert of_the_system(source) == {"os.read", "os.open", "os.*", "os.path.isdir", "time.sleep", "zlib.crc32"}


@parses
def test_what_tests_replace_in_the_system_has_a_reason():
    here = Path(__file__)
    found = [of_the_system(path.read_text()) for path in TESTS.rglob("*.py") if path != here]
    assert set().union(*found) == set(SYSTEM)


@parses
def test_what_a_test_reaches_for_inside_has_a_reason():
    sources = {path.relative_to(TESTS).as_posix(): path.read_text() for path in sorted(TESTS.rglob("*.py"))}
    functions = [each for each in ast.parse(sources.pop(INSIDE)).body if isinstance(each, ast.FunctionDef)]
    assert functions
    assert [each.name for each in functions if not ast.get_docstring(each)] == []
    assert {name: lines for name, source in sources.items() if (lines := unexplained(source))} == {}
