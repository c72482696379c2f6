"""The stubs name what the compiled modules have: the cheap half of stubtest, which CI runs in full."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import jessy_mem
from jessy_mem._core.registry import LayerRegistry

STUBS = sorted(Path(jessy_mem.__file__).parent.glob("_*/*.pyi"))


def module_of(stub: Path):
    return importlib.import_module(f"jessy_mem.{stub.parent.name}.{stub.stem}")


def public_names(body: list[ast.stmt]) -> set[str]:
    names = set()
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.add(statement.target.id)
    return {name for name in names if not name.startswith("_")}


def constructors():
    """The stub of each compiled class that can be made, its name, and the parameters with their defaults."""
    for path in STUBS:
        for stub in (
            statement for statement in ast.parse(path.read_text()).body if isinstance(statement, ast.ClassDef)
        ):
            made = [each for each in stub.body if isinstance(each, ast.FunctionDef) and each.name in MAKERS]
            refuses = [each for each in made if each.args.vararg]  # objects that others make
            if made and not refuses:
                yield path, stub.name, made[0].args


MAKERS = ("__init__", "__new__")
CONSTRUCTORS = list(constructors())


def parameters_of(arguments: ast.arguments) -> dict[str, tuple[object, object]]:
    positional, keyword = arguments.args[1:], arguments.kwonlyargs
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    kinds = ["POSITIONAL_OR_KEYWORD"] * len(positional) + ["KEYWORD_ONLY"] * len(keyword)
    return {
        each.arg: (kind, inspect.Parameter.empty if default is None else ast.literal_eval(default))
        for each, kind, default in zip(positional + keyword, kinds, defaults, strict=True)
    }


def test_constructors_are_found():
    assert {"PoolAllocator", "LatencyHistogram", "MmapRegion", "Ledger", "Charge", "Mapping", "BitmapProbe"} <= {
        name for _, name, _ in CONSTRUCTORS
    }
    assert str(inspect.signature(LayerRegistry)) == "()"


@pytest.mark.parametrize(("path", "name", "arguments"), CONSTRUCTORS, ids=[name for _, name, _ in CONSTRUCTORS])
def test_constructor_has_the_signature_of_its_stub(path, name, arguments):
    cls = getattr(module_of(path), name)
    has = {each.name: (each.kind.name, each.default) for each in inspect.signature(cls).parameters.values()}
    assert has == parameters_of(arguments)
    assert not inspect.getdoc(cls).startswith(name), "the signature is no part of the text"


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_stub_names_what_the_module_has(path):
    module = module_of(path)
    tree = ast.parse(path.read_text())
    assert not [name for name in public_names(tree.body) if not hasattr(module, name)]
    for stub in tree.body:
        if not isinstance(stub, ast.ClassDef) or stub.name.startswith("_"):  # a Protocol that only the stub has
            continue
        real = getattr(module, stub.name)
        inherited = set().union(*(vars(base) for base in real.__mro__[1:]))
        has = {name for name in vars(real) if not name.startswith("_")} - inherited
        assert has <= public_names(stub.body), f"{stub.name}: not in the stub"
        assert public_names(stub.body) <= set(dir(real)), f"{stub.name}: only in the stub"
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert {name for name in own if not name.startswith("_")} <= public_names(tree.body)
