"""The suite under pytest-run-parallel, which runs each test in several threads at once.

What a fixture made is there once, for all threads, except `tmp_path`: each thread has its own. So what stands for a
folder only is made again in each. A test that shares anything else runs in one thread.
"""

from __future__ import annotations

import functools
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from helpers import RegionFiles

OF_A_FOLDER = {"region_file": RegionFiles, "world": lambda folder: World(folder / "base")}
SHARED_WITHOUT_HARM = {*OF_A_FOLDER, "tmp_path", "tmp_path_factory", "request", "nothing_leaks", "many_switches"}

OF_THE_PROCESS = {"hashes_alike", "open_files", "setrlimit", "umask"}


def prepare(items: list[pytest.Item]) -> None:
    """Make each test ready for several threads, or mark it thread_unsafe."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("thread_unsafe"):
            continue
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        shared = set(item.fixturenames) - SHARED_WITHOUT_HARM - set(parameters)
        shared |= {name for name in OF_A_FOLDER if has_content(item, name)}
        if shared:
            item.add_marker(pytest.mark.thread_unsafe(reason=f"all threads share {', '.join(sorted(shared))}"))
        elif calls(item.function, "fork"):
            item.add_marker(pytest.mark.thread_unsafe(reason="a forked child keeps the pipes of all threads open"))
        elif calls(item.function, "subprocess") or calls(item.function, "Popen"):
            item.add_marker(pytest.mark.thread_unsafe(reason="what it tests is another process, which has one thread"))
        elif calls(item.function, "tracemalloc"):
            item.add_marker(pytest.mark.thread_unsafe(reason="tracemalloc is of the process, and starts in one thread"))
        elif calls(item.function, "settrace"):
            item.add_marker(pytest.mark.thread_unsafe(reason="lines that are traced are marked in code of all threads"))
        elif OF_THE_PROCESS & names_in(item.function.__code__):
            item.add_marker(pytest.mark.thread_unsafe(reason="descriptors, limits, umask and hash are of the process"))
        elif hasattr(item.obj, "hypothesis"):
            item.add_marker(pytest.mark.thread_unsafe(reason="hypothesis draws the random numbers of the process"))
        elif any(map(is_read_once, parameters.values())):
            item.add_marker(pytest.mark.thread_unsafe(reason="a parameter can be read once"))
        elif OF_A_FOLDER.keys() & set(item.fixturenames):
            item.obj = with_its_own(item)


def has_content(item: pytest.Function, name: str) -> bool:
    """Whether the fixture `name` is not the bare one of a folder, but one of that name that a module has made."""
    definitions = item._fixtureinfo.name2fixturedefs.get(name)  # pytest's own: it has no public way
    return name in OF_A_FOLDER and bool(definitions) and not definitions[-1].func.__module__.endswith("conftest")


def calls(test: types.FunctionType, name: str) -> bool:
    """Whether a test calls what has this name, or does so by a function that it calls."""
    names = names_in(test.__code__)
    called = map(test.__globals__.get, names)
    return name in names.union(*(names_in(each.__code__) for each in called if isinstance(each, types.FunctionType)))


def names_in(code: types.CodeType) -> set[str]:
    """The names that it has, or a function, lambda or (before Python 3.12) comprehension inside of it."""
    return set(code.co_names).union(*(names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)))


def is_read_once(value: object) -> bool:
    """Whether it is an iterator, or a dict of such."""
    return any(map(is_read_once, value.values())) if isinstance(value, dict) else isinstance(value, Iterator)


def with_its_own(item: pytest.Function):
    """The test of `item`, to be called by each thread."""
    test = item.obj
    kinds = {name: kind for name, kind in OF_A_FOLDER.items() if name in item.fixturenames}

    def its_own(fixtures):
        folder = fixtures.get("tmp_path") or Path(tempfile.mkdtemp(dir=item.funcargs["tmp_path"]))
        return fixtures | {name: kind(folder) for name, kind in kinds.items() if name in fixtures}

    def call(**fixtures):
        test(**its_own(fixtures))

    # pytest-run-parallel looks into the globals of a test for what is not made for threads.
    call = types.FunctionType(call.__code__, test.__globals__, closure=call.__closure__)
    return functools.wraps(test)(call)
