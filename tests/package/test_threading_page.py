"""docs/threading.md lists each field that is written while several threads may know it: compared with the sources."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from pathlib import Path

import pytest

import jessy_mem
from helpers import DISOWNS

PACKAGE = Path(jessy_mem.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "threading.md"

# What one thread makes, uses and drops, and what is never written after it was made.
OF_ONE_THREAD = {"archive", "builder", "errors", "layout", "prose", "publish"}
OWNED = {"Descriptor", "Gathered", "PackedRegion", "Sheet", "Uncached", "WordScan", "_Crew"}
BEGINNINGS = {"__init__", "__cinit__", "__dealloc__", "__post_init__", "__new__"}
CHANGES = set("add append clear discard extend insert pop popitem popleft remove setdefault update".split())
# Parts that have methods of such names; their own fields are in the list.
PARTS = {
    "_addresses", "_catalogue", "_evicted", "_holders", "_index", "_learner", "_page", "_policy", "_protos", "_tracing",
    "_victims", "evicted", "protos",
}  # fmt: skip


def fields_of(target):
    """The field of `self` that an assignment to `target` changes; none if it changes something else."""
    while isinstance(target, ast.Subscript):
        target = target.value
    if isinstance(target, ast.Tuple):
        return [name for each in target.elts for name in fields_of(each)]
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
        return [target.attr]
    return []


def changed_in_python(source):
    """{(class, field)} of what its methods change, and {(class, field)} of all that there is."""
    changed, known = set(), set()
    for kind in ast.walk(ast.parse(source)):
        if not isinstance(kind, ast.ClassDef):
            continue
        for method in kind.body:
            if isinstance(method, ast.AnnAssign) and isinstance(method.target, ast.Name):
                known.add((kind.name, method.target.id))
            for node in ast.walk(method) if isinstance(method, ast.FunctionDef) else ():
                targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
                stored = [name for target in targets for name in fields_of(target)]
                known |= {(kind.name, name) for name in stored}
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
                    stored += [name for name in fields_of(node.func.value) if name not in PARTS]
                if method.name not in BEGINNINGS:
                    changed |= {(kind.name, name) for name in stored}
    return changed, known


def changed_in_cython(source):
    """{(class, field)} of what its methods assign, or hand to what writes atomically."""
    changed, kind, method = set(), "", ""
    for line in source.splitlines():
        if re.match(r"\S", line) and not line.startswith(("@", "#")):
            found = re.match(r"(?:cdef )?class (\w+)", line)
            kind = found[1] if found else ""
        found = re.match(r"    (?:cpdef|cdef|def) .*?(\w+)\(", line)
        method = found[1] if found else method
        if kind and method not in BEGINNINGS:
            names = re.findall(r"self\.(\w+)(?:\[[^\]]*\])? *(?:[-+|&]?=)(?!=)", line)
            names += re.findall(
                r"jm_(?:flag_)?(?:store|add|sub|cas|or|and|exchange)\w*\([^,]*self\.(\w+)\b(?!\()", line
            )
            changed |= {(kind, name) for name in names}
    return changed


def known_to_cython(source):
    kinds = re.findall(r"^cdef class (\w+)[^\n]*:\n((?:    .*\n|\n)*)", source, re.MULTILINE)
    return {(kind, name) for kind, body in kinds for name in re.findall(r"\b(\w+)\b", re.sub(r"#.*", "", body))}


def listed(text):
    """What the list says, {(class, field)}."""
    order = "atomic|section|table|one step|learning|its lock|the lock|owned"
    rows = re.findall(rf"^\| `(\w+)` \| (`.*?`) \| (?:{order})", text, re.MULTILINE)
    return {(kind, name) for kind, names in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.fixture(scope="module")
def sources():
    """What is changed, and all that is known, of the whole package."""
    changed, known = set(), set()
    for path in PACKAGE.glob("*.py"):
        if path.stem not in OF_ONE_THREAD:
            found, there = changed_in_python(path.read_text())
            changed, known = changed | found, known | there | found
    for path in [*PACKAGE.glob("_core/*.pyx"), PACKAGE / "table.pyx"]:
        changed |= changed_in_cython(path.read_text())
    for path in [*PACKAGE.glob("_core/*.pxd"), PACKAGE / "table.pyx"]:
        known |= known_to_cython(path.read_text())
    return {each for each in changed if each[0] not in OWNED}, known


def test_finders_see_what_is_changed():
    source = """
class A:
    def __init__(self):
        self.a = 1
        self.e = {}
    def f(self):
        self.b += 1
        self.c[0], self.d = 2, 3
        self.e.pop(1)
        other.x = self.y
        self.f.g = 1
"""
    assert changed_in_python(source)[0] == {("A", name) for name in "bcde"}
    source = """
cdef class A:
    def __cinit__(self):
        self.a = 1
    cdef int f(self) except -1:
        self.b = self.c == 1
        jm_store_relaxed(&self.d, 1)
        return jm_load_relaxed(&self.e)
def g(self):
    self.h = 1
"""
    assert changed_in_cython(source) == {("A", "b"), ("A", "d")}


def test_list_is_what_there_is(sources):
    changed, known = sources
    found = listed(PAGE.read_text())
    assert len(changed) > 80
    assert changed - found == set(), "list them in docs/threading.md, or their class as OWNED"
    assert found - known == set(), "these are not there any more"


def test_versions_on_which_objects_have_no_maker_are_those_that_were_read():
    """Private fields of the interpreter are written on no other; whoever adds one has read it, and says so here."""
    header = (PACKAGE / "_core" / "c" / "pycompat.h").read_text()
    (condition,) = re.findall(r"^#if (.*)\n#define JM_DISOWNS 1$", header, re.MULTILINE)
    bounds = "PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000"
    assert condition == f"defined(Py_GIL_DISABLED) && {bounds}"
    assert "done on CPython 3.13 only" in PAGE.read_text()
    assert header.count("&& jm_may_disown()") == 2, "each asks what was tried first"
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert (not is_free_threaded or 0x030D0000 <= sys.hexversion < 0x030E0000) is DISOWNS
