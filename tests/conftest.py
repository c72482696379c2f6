"""Fixtures of all tests, and what their child processes inherit."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest
from faults import Inject
from parallel import prepare
from world import World

from helpers import HAS_PROC, Holdings, RegionFiles
from jessy_mem import ReplayResult, compression, plot_advice

_FAILED = pytest.StashKey[bool]()
_last: list[Holdings] = []  # after the last test, which is before the next one: to look costs a millisecond

# An interpreter that a test starts in the source tree must find the installed package, not the sources.
os.environ["PYTHONSAFEPATH"] = "1"
# A shell makes what it runs in the background deaf to Ctrl-C; what a test starts must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    if int(config.getoption("parallel_threads", 1)) > 1:  # an option of pytest-run-parallel
        prepare(items)


def pytest_collection_finish():
    """What was collected stays: each gc.collect() of a test walked thousands of other tests, in 0.1 s and more."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def pytest_fixture_setup(fixturedef):
    """What a fixture of several tests makes is there before the test, and after it."""
    if fixturedef.scope != "function":
        _last.clear()


def pytest_fixture_post_finalizer(fixturedef):
    if fixturedef.scope != "function":
        _last.clear()


@pytest.fixture(autouse=True)
def nothing_leaks(request):
    """After each test no descriptor is open and no region is mapped that was not before: what was, if that is known."""
    if not HAS_PROC:
        yield None
        return
    before = _last.pop() if _last else Holdings()
    yield before
    # The traceback of a failed test holds what the test held.
    if not request.node.stash.get(_FAILED, True):
        _last.append(before.assert_nothing_new())


@pytest.fixture
def region_file(tmp_path):
    """Writes bytes to a region file and returns its path."""
    return RegionFiles(tmp_path)


@pytest.fixture
def world(tmp_path):
    """An empty base folder, and what writes known files into it."""
    return World(tmp_path / "base")


@pytest.fixture
def inject():
    """Puts faults in the way, for the whole process; see `faults.Inject`."""
    return Inject()


@pytest.fixture
def without_zstd(inject):
    """No library of zstd is there. That there is one is looked up once, and forgotten before and after."""
    forget = compression._zstd.cache_clear  # private: no user changes what is installed meanwhile
    forget()
    with inject(ImportError("none"), compression.__name__ + ".imported"):
        yield
    forget()


@pytest.fixture(scope="module")
def matplotlib(tmp_path_factory):
    """Skips without matplotlib; draws once, because it keeps the files of its fonts open."""
    pytest.importorskip("matplotlib")
    result = ReplayResult("lru", 200, 2, 3, 200, 300, 1)
    plot_advice([result], tmp_path_factory.mktemp("plot") / "warm.svg")
    plot_advice([result], tmp_path_factory.mktemp("plot") / "warm.png")


@pytest.fixture
def shared_folder():
    """A folder that every user can reach, unlike those of pytest."""
    places = [Path(each) for each in (tempfile.gettempdir(), "/tmp", "/var/tmp")]
    open_to_all = [each for each in places if all(above.stat().st_mode & 1 for above in (each, *each.parents))]
    if not open_to_all:
        pytest.skip("no temporary folder that all users can reach")
    with tempfile.TemporaryDirectory(dir=open_to_all[0]) as name:
        os.chmod(name, 0o755)
        yield name
        os.chmod(name, 0o755)
