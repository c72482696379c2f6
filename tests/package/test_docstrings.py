"""The examples in docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import jessy_mem

NEEDS = {"jessy_mem.plots": "matplotlib"}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(jessy_mem.__path__, "jessy_mem.")
    if not module.name.endswith("__main__")
]


def examples_of(module: str) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder().find(importlib.import_module(module)) if found.examples]


@pytest.mark.thread_unsafe(reason="doctest takes the process's standard output")
@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, tmp_path, monkeypatch):
    if module in NEEDS and importlib.util.find_spec(NEEDS[module]) is None:
        pytest.skip(f"needs {NEEDS[module]}")
    monkeypatch.chdir(tmp_path)
    for found in examples_of(module):
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(found)


def test_examples_are_found_in_python_and_in_what_is_compiled():
    for module in ("manager", "context", "exporters", "_core.records", "_core.latency", "_core.pool"):
        assert examples_of(f"jessy_mem.{module}"), module
