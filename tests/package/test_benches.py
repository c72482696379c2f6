"""A benchmark is code under test: each one of asv_bench runs once with each of its parameters, on a small corpus."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "asv_bench"
PREFIXES = ("time_", "mem_", "peakmem_", "track_", "timeraw_")


def load_modules():
    """The benchmark modules, imported as asv does: `benchmarks` is a package at the top."""
    with mock.patch.dict(os.environ, JESSY_BENCH_SMALL="1"), mock.patch.object(sys, "path", [str(FOLDER), *sys.path]):
        package = importlib.import_module("benchmarks")
        found = pkgutil.walk_packages(package.__path__, "benchmarks.")
        return [importlib.import_module(module.name) for module in found]


def benchmarks():
    """For each benchmark and combination of its params: (module or class, function name, values)."""
    if not (FOLDER / "benchmarks" / "__init__.py").is_file():
        return
    for module in load_modules():
        owners = [module, *(value for value in vars(module).values() if isinstance(value, type))]
        for owner in owners:
            if isinstance(owner, type) and owner.__module__ != module.__name__:
                continue
            for name in dir(owner):
                if name.startswith(PREFIXES):
                    yield from with_params(module, owner, name)


def with_params(module, owner, name):
    function = getattr(owner, name)
    params = getattr(function, "params", getattr(owner, "params", []))
    if params and not isinstance(params[0], (list, tuple)):
        params = [params]
    of_class = f"{owner.__name__}." if isinstance(owner, type) else ""
    for values in itertools.product(*params):
        title = f"{module.__name__.removeprefix('benchmarks.')}.{of_class}{name}"
        yield pytest.param(owner, name, values, id=f"{title}-{'-'.join(map(str, values))}" if values else title)


def run_once(owner, name, values):
    subject = owner() if isinstance(owner, type) else owner
    arguments = list(values)
    if hasattr(subject, "setup_cache"):
        made = subject.setup_cache()
        if made is not None:
            arguments.insert(0, made)
    try:
        if hasattr(subject, "setup"):
            subject.setup(*arguments)
    except NotImplementedError as reason:
        pytest.skip(f"the benchmark leaves these values out: {reason}")
    try:
        return getattr(subject, name)(*arguments)
    finally:
        if hasattr(subject, "teardown"):
            subject.teardown(*arguments)


FOUND = list(benchmarks())


@pytest.fixture(scope="module", autouse=True)
def corpus_folder(tmp_path_factory):
    """The corpus of the benchmarks is made in a folder of this test run."""
    with mock.patch.object(tempfile, "tempdir", str(tmp_path_factory.mktemp("corpus"))):
        yield


@pytest.mark.slow
@pytest.mark.skipif(not FOUND, reason="no asv_bench beside the tests")
@pytest.mark.parametrize(("owner", "name", "values"), FOUND)
def test_benchmark_runs(owner, name, values):
    result = run_once(owner, name, values)
    if name.startswith("track_"):
        assert isinstance(result, (int, float))
    elif name.startswith("mem_"):
        assert result is not None


def test_params_have_names():
    """asv shows a table of results by these names."""
    for parameter in FOUND:
        owner, name, values = parameter.values
        names = getattr(getattr(owner, name), "param_names", getattr(owner, "param_names", []))
        assert len(names) == len(values), f"{parameter.id}: params without param_names"


@pytest.mark.skipif(not FOUND, reason="no asv_bench beside the tests")
def test_each_trick_that_is_measured_stands_in_the_table_of_tricks():
    (tricks,) = (module.Tricks for module in load_modules() if module.__name__ == "benchmarks.tricks")
    table = (FOLDER.parent / "docs" / "design.md").read_text().partition("## Tricks, what each buys")[2]
    assert [trick for trick in tricks.params if f'`tricks.py`, "{trick}" |' not in table] == []


@pytest.mark.skipif(not FOUND, reason="no asv_bench beside the tests")
def test_regressions_have_a_threshold_and_the_docs_take_the_site_from_where_it_is_made():
    settings = json.loads((FOLDER / "asv.conf.json").read_text())
    (threshold,) = settings["regressions_thresholds"].values()
    assert 0 < threshold <= 0.25
    assert '"asv_bench" / ".asv" / "html"' in (FOLDER.parent / "docs" / "conf.py").read_text()
    assert settings["html_dir"] == ".asv/html"
    assert 'href="asv/index.html"' in (FOLDER.parent / "docs" / "benchmarks.md").read_text()
