"""Fixtures of all tests, and what their child processes inherit."""

from __future__ import annotations

import os
import signal

import pytest
from world import World

from helpers import HAS_PROC, Holdings

_FAILED = pytest.StashKey[bool]()

# An interpreter that a test starts in the source tree must find the installed package, not the sources.
os.environ["PYTHONSAFEPATH"] = "1"
# A shell makes what it runs in the background deaf to Ctrl-C; what a test starts must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def nothing_leaks(request):
    """After each test no descriptor is open and no region is mapped that was not before."""
    before = Holdings() if HAS_PROC else None
    yield
    # The traceback of a failed test holds what the test held.
    if before is not None and not request.node.stash.get(_FAILED, True):
        before.assert_nothing_new()


@pytest.fixture
def region_file(tmp_path):
    """Write bytes to a region file and return its path."""

    def write(data: bytes, name: str = "region.mmap"):
        path = tmp_path / name
        path.unlink(missing_ok=True)  # to write into a file that was emptied may wait for the disk
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def world(tmp_path):
    """An empty base folder, and what writes known files into it."""
    return World(tmp_path / "base")
