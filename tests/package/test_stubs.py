"""The stubs name what the compiled modules have: the cheap half of stubtest, which CI runs in full."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import jessy_mem

STUBS = sorted((Path(jessy_mem.__file__).parent / "_core").glob("*.pyi"))


def public_names(body: list[ast.stmt]) -> set[str]:
    names = set()
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.add(statement.target.id)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_stub_names_what_the_module_has(path):
    module = importlib.import_module(f"jessy_mem._core.{path.stem}")
    tree = ast.parse(path.read_text())
    assert not [name for name in public_names(tree.body) if not hasattr(module, name)]
    for stub in (statement for statement in tree.body if isinstance(statement, ast.ClassDef)):
        real = getattr(module, stub.name)
        inherited = set().union(*(vars(base) for base in real.__mro__[1:]))
        has = {name for name in vars(real) if not name.startswith("_")} - inherited
        assert has <= public_names(stub.body), f"{stub.name}: not in the stub"
        assert public_names(stub.body) <= set(dir(real)), f"{stub.name}: only in the stub"
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert {name for name in own if not name.startswith("_")} <= public_names(tree.body)
