"""What the site takes from the code: signatures from sources and stubs, text from docstrings.

Compiled classes have their signatures in stubs, the others in their source; both are read in the same way, so the
reference cannot tell which is which. Nothing here needs Sphinx, so the tests ask it what is on a page.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

SHIFT = "   "  # one level of reStructuredText


# What there is -----------------------------------------------------------------------------------------------------


def public(name: str) -> Any:
    """The object that a public name stands for: "MmapManager", "errors.MemoryError", "exporters.metrics"."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(f"jessy_mem.{module}".rstrip(".")), last)


def members(kind: type) -> list[str]:
    """The public names of a class, in the order of its source, but for those that Python documents."""
    strange = set().union(*(vars(base) for base in kind.__mro__ if base.__module__ in ("builtins", "collections.abc")))
    strange |= set(dir(tuple)) if issubclass(kind, tuple) else set()
    bodies = [class_statement(base).body for base in kind.__mro__ if base.__module__.startswith("jessy_mem")]
    order = [
        getattr(each, "name", "") or ast.unparse(getattr(each, "target", each)) for body in bodies for each in body
    ]
    named = [name for name in dir(kind) if not name.startswith("_") and name not in strange]
    return sorted(named, key=lambda name: order.index(name) if name in order else -1)


@functools.cache
def tree_of(module: str) -> ast.Module:
    """A module's source, or its stub if it is compiled."""
    path = Path(sys.modules[module].__file__ or "")
    path = path if path.suffix == ".py" else path.with_name(f"{module.rpartition('.')[2]}.pyi")
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(body: list[ast.stmt], name: str) -> list[Any]:
    """All that says what `name` is, in a class or module: one statement, or one for each overload."""
    found = [each for each in body if getattr(each, "name", None) == name]
    overloads = [each for each in found if "overload" in decorators(each)]
    if found:
        return overloads or found[:1]
    return [each for each in body if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == name]


def decorators(statement: Any) -> list[str]:
    return [ast.unparse(each).partition("(")[0] for each in getattr(statement, "decorator_list", [])]


def class_statement(kind: type) -> ast.ClassDef:
    (found,) = statements(tree_of(kind.__module__).body, kind.__name__)
    return found


def arguments(function: ast.FunctionDef, bound: bool) -> str:
    given = ast.unparse(function.args)
    if bound and "staticmethod" not in decorators(function):
        given = re.sub(r"^(self|cls)(, (/, )?|$)", "", given)
    return given


# How it is written ---------------------------------------------------------------------------------------------------


PARAMETER = re.compile(r"(\*{0,2}\w+(?:, \w+)*)(?: : (.*))?$")  # as numpydoc writes it; its text is indented below


def prose(thing: Any) -> list[str]:
    """A docstring as reStructuredText, which it is but for the parameters, whose section ends where their list does.

    The parameters of a dataclass are its fields, which have entries of their own.
    """
    lines = (inspect.getdoc(thing) or "").splitlines()
    parameters = of_section(lines, "Parameters")
    if parameters and has_fields(thing):
        del lines[parameters.start - 2 : parameters.stop]
        parameters = range(0)
    found: list[str] = []
    for i, line in enumerate(lines):
        if i in parameters:
            name, kind = PARAMETER.match(line).groups() if not line.startswith(" ") else (None, None)
            found.append(f"* **{name}** ({kind}):".replace(" (None)", "") if name else line.removeprefix("  "))
        elif re.fullmatch("-{3,}", line):
            found[-1:] = ["", f".. rubric:: {found[-1]}", ""]
        else:
            found.append(line)
    return found


def of_section(lines: list[str], heading: str) -> range:
    """The lines under a heading that are a list of parameters and their text."""
    begin = next((i + 2 for i, line in enumerate(lines[:-2]) if line == heading and lines[i + 1][:3] == "---"), 0)
    end = begin
    while begin and end < len(lines) and (lines[end].startswith("    ") or PARAMETER.match(lines[end])):
        end += 1
    return range(begin, end)


def has_fields(thing: Any) -> bool:
    return isinstance(thing, type) and "dataclass" in "".join(decorators(class_statement(thing)))


def field_texts(kind: type) -> dict[str, list[str]]:
    """What the docstring of a class says of each of its parameters and attributes."""
    lines = (inspect.getdoc(kind) or "").splitlines()
    found: dict[str, list[str]] = {}
    text: list[str] = []
    for line in (lines[i] for heading in ("Parameters", "Attributes") for i in of_section(lines, heading)):
        if line.startswith(" "):
            text.append(line.strip())
        else:  # one, or some that have their text in common
            text = []
            found |= dict.fromkeys(re.findall(r"\w+", line.partition(" : ")[0]), text)
    return found


def comment_of(kind: type, name: str) -> list[str]:
    """What the comment behind a field says, in the class's source, or its declaration if it is compiled."""
    path = Path(sys.modules[kind.__module__].__file__ or "")
    stem = kind.__module__.rpartition(".")[2]
    field = re.compile(rf"^    (?:cdef readonly [\w ]+ {name}|{name}: .*?) +# (.+)$", re.MULTILINE)
    for source in [path] if path.suffix == ".py" else [path.with_name(f"{stem}.pyx"), path.with_name(f"{stem}.pxd")]:
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        body = re.search(rf"^(?:cdef )?class {kind.__name__}\b.*\n((?:(?: .*)?\n)*)", text, re.MULTILINE)
        if body and (found := field.search(body[1])):
            return [f"{found[1][0].upper()}{found[1][1:]}."]
    return []


def entry(directive: str, signatures: list[str], text: list[str], options: dict[str, str]) -> Iterator[str]:
    """A directive of Sphinx's Python domain; its first signature stands beside its name, the others below it."""
    head = f".. py:{directive}:: "
    yield head + signatures[0]
    yield from (" " * len(head) + each for each in signatures[1:])
    yield from (f"{SHIFT}:{key}: {value}".rstrip() for key, value in options.items())
    yield ""
    yield from (SHIFT + line for line in text)
    yield ""


def constructor(kind: type, statement: ast.ClassDef) -> list[str]:
    """How a class is called; empty for one that others make."""
    made = [each for name in ("__init__", "__new__") for each in statements(statement.body, name)]
    if made:
        return [] if made[0].args.vararg else [arguments(made[0], bound=True)]
    if has_fields(kind) or issubclass(kind, tuple):
        fields = [each for each in statement.body if isinstance(each, ast.AnnAssign)]
        return [", ".join(ast.unparse(each) for each in fields)]
    base = kind.__mro__[1]
    return constructor(base, class_statement(base)) if base.__module__.startswith("jessy_mem") else [""]


def spelled(annotation: ast.expr, kind: type) -> str:
    """A type; instead of a name for some choices, as in ``Policy = Literal[...]``, the choices."""
    text = ast.unparse(annotation)
    choices = get_args(getattr(sys.modules[kind.__module__], text, None))
    return " | ".join(map(repr, choices)) if choices else text


def member(kind: type, name: str) -> Iterator[str]:
    owners = [base for base in kind.__mro__ if name in vars(base)]
    ours = [base for base in owners if base.__module__.startswith("jessy_mem")]
    # A class may be given a method of its own that stands in the source of a base.
    base = next((each for each in ours if statements(class_statement(each).body, name)), owners[0])
    said = statements(class_statement(base).body, name) if base in ours else []
    thing = inspect.getattr_static(kind, name)
    thing = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
    if said and isinstance(said[0], ast.FunctionDef):
        returns = [f" -> {ast.unparse(each.returns)}" if each.returns else "" for each in said]
        if {"property", "functools.cached_property"} & set(decorators(said[0])):
            text = prose(thing) or comment_of(base, name)
            yield from entry("property", [name], text, {"type": returns[0].removeprefix(" -> ")})
        else:
            signatures = [f"{name}({arguments(each, True)}){end}" for each, end in zip(said, returns, strict=True)]
            kinds = {each: "" for each in ("classmethod", "staticmethod") if each in decorators(said[0])}
            yield from entry("method", signatures, prose(thing), kinds)
    else:  # a field, whose descriptor says nothing of its own unless the library wrote it
        own = prose(thing) if inspect.isgetsetdescriptor(thing) else []
        own = (field_texts(kind).get(name) if has_fields(kind) else None) or own or comment_of(base, name)
        options = {"type": spelled(said[0].annotation, base)} if said else {}
        if said and said[0].value and ast.unparse(said[0].value) != "...":
            options["value"] = ast.unparse(said[0].value)
        yield from entry("attribute", [name], own, options)


def described(name: str) -> Iterator[str]:
    """A public name as reStructuredText."""
    thing, last = public(name), name.rpartition(".")[2]
    if not isinstance(thing, type):
        (said,) = statements(tree_of(thing.__module__).body, thing.__name__)
        yield from entry(
            "function", [f"{last}({arguments(said, False)}) -> {ast.unparse(said.returns)}"], prose(thing), {}
        )
        return
    error = issubclass(thing, BaseException)
    text = prose(thing)
    if error:
        kinds = [base.__name__ for base in thing.__bases__]
        text += ["", f"A {', '.join(kinds)}. The parameters are attributes, too."]
    for each in members(thing):
        text += ["", *member(thing, each)]
    signatures = [f"{last}({given})" for given in constructor(thing, class_statement(thing))] or [last]
    yield from entry("exception" if error else "class", signatures, text, {})
