"""What an import costs and leaves behind: each test asks a fresh interpreter."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import jessy_mem
from helpers import HUNG_S

pytestmark = pytest.mark.thread_unsafe(reason="all of it happens in other processes")

COSTLY = {
    "asyncio", "click", "concurrent.futures", "hypothesis", "multiprocessing", "numpy", "rich", "ssl", "tarfile",
    "tomllib", "unittest",
}  # fmt: skip
SCRIPTS = {"jessy_mem.__main__"}  # run when imported
MODULES = [
    module.name for module in pkgutil.walk_packages(jessy_mem.__path__, "jessy_mem.") if module.name not in SCRIPTS
]


def run_alone(code: str, tmp_path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter, in an empty folder, with every warning an error."""
    command = [sys.executable, "-P", "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HUNG_S)


def assert_silent(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_prints_nothing(tmp_path):
    assert_silent(run_alone("import jessy_mem", tmp_path))


def test_import_leaves_costly_modules_alone(tmp_path):
    done = run_alone("import sys, jessy_mem; print(*sys.modules)", tmp_path)
    imported = set(done.stdout.split())
    assert "jessy_mem" in imported
    assert not COSTLY & imported


def test_import_changes_no_warnings_logging_or_signals(tmp_path):
    assert_silent(
        run_alone(
            "import logging, signal, sys, threading, warnings\n"
            "def state():\n"
            "    signals = [signal.getsignal(number) for number in signal.valid_signals()]\n"
            "    threads = threading.active_count()\n"
            "    return signals, warnings.filters[:], logging.root.handlers[:], threads, sys.excepthook\n"
            "before = state()\n"
            "import jessy_mem\n"
            "assert state() == before\n",
            tmp_path,
        )
    )


IMPORT_EACH_FIRST = """
import importlib.util, os, sys
import click, numpy, rich.console, rich.progress, rich.table, xxhash  # once, for all children
bare = importlib.util.module_from_spec(importlib.util.find_spec("jessy_mem"))
for module in sys.argv[1].split():
    child = os.fork()
    if child == 0:
        try:
            if module.split(".")[1] not in ("cli", "__main__"):  # which are built on the public face
                sys.modules["jessy_mem"] = bare  # else the package itself imports most modules, in its own order
            __import__(module)
        except BaseException as error:
            print(f"{module}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_module_can_be_imported_first(tmp_path, step):
    """No order of imports is needed, so there is no cycle: each module is the first in a process that has none yet.

    Each fifth of them; every one in the slow form.
    """
    assert len(MODULES) > 30
    assert_silent(run_alone(IMPORT_EACH_FIRST, tmp_path, " ".join(MODULES[::step])))


def test_public_names_exist_and_are_listed_once():
    assert len(jessy_mem.__all__) == len(set(jessy_mem.__all__))
    assert not [name for name in jessy_mem.__all__ if not hasattr(jessy_mem, name)]


def test_public_names_are_documented():
    bare = [name for name in jessy_mem.__all__ if not (getattr(jessy_mem, name).__doc__ or "").strip()]
    assert not bare


def test_no_file_is_read_in_the_encoding_of_the_locale(tmp_path):
    code = (
        "import jessy_mem as jm\n"
        "from jessy_mem import cgroups, layout, locking\n"
        "with jm.MmapManager(base_path='base', simulation='never') as memory:\n"
        "    memory.load_all()\n"
        "    memory.crystallize(memory.create_proto_dimension('name', [jm.LayerSpec(text='text')]))\n"
        "jm.MemoryLayout.from_json(layout.data_folder() / 'dimensions.json')\n"
        "cgroups.group_memory()\n"
        "locking.is_alive(locking.process_key())\n"
        "jm.examine('base')\n"
    )
    command = [sys.executable, "-P", "-X", "warn_default_encoding", "-W", "error", "-c", code]
    assert_silent(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HUNG_S))


def test_exit_is_silent_with_everything_open(tmp_path):
    """Nothing was closed, views and blocks live on in module globals, and the interpreter ends without a word."""
    assert_silent(
        run_alone(
            "import jessy_mem as jm\n"
            "data = jm.RegionBuilder(15, 'Humor').add_layer(jm.LayerSpec(text='a joke')).write('D15/region.mmap')\n"
            "region = jm.MmapRegion(15, data)\n"
            "view, piece = region.layer(0), memoryview(region.layer(0))\n"
            "memory = jm.MmapManager(base_path='.', simulation='never')\n"
            "memory.load_dimension(15)\n"
            "seen = memory.access_layer((15, 0))\n"
            "block = memory.allocate(100)\n"
            "written = memoryview(block)\n"
            "histogram = jm.LatencyHistogram()\n"
            "histogram.record(5)\n",
            tmp_path,
        )
    )


def test_daemon_thread_reads_on_when_the_program_ends(tmp_path):
    """What was learned is saved then, and nothing is closed under a thread that nobody waits for."""
    done = run_alone(
        "import atexit, os, sys, threading\n"
        "begun, go_on, done = threading.Event(), threading.Event(), threading.Event()\n"
        "def look():  # the last of all that is done at the end\n"
        "    go_on.set()\n"
        "    done.wait()\n"
        "    print(os.path.exists('D15/region.mmap'))\n"
        "atexit.register(look)\n"
        "import jessy_mem as jm\n"
        "memory = jm.MmapManager(base_path='.', simulation='never')\n"
        "assert memory.create_proto_dimension('Humor', [jm.LayerSpec(text='a joke')]) == 15\n"
        "def read():\n"
        "    begun.set()\n"
        "    go_on.wait()\n"
        "    print(memory.access_layer((15, 0)).text)\n"
        "    done.set()\n"
        "threading.Thread(target=read, daemon=True).start()\n"
        "begun.wait()\n",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a joke\nTrue\n", "")


def test_exit_is_silent_in_a_thread_that_is_still_reading(tmp_path):
    assert_silent(
        run_alone(
            "import threading, time\n"
            "import jessy_mem as jm\n"
            "jm.RegionBuilder(15, 'Humor').add_layer(jm.LayerSpec(text='a joke')).write('D15/region.mmap')\n"
            "memory = jm.MmapManager(base_path='.', simulation='never')\n"
            "memory.load_dimension(15)\n"
            "def read():\n"
            "    while True:\n"
            "        bytes(memory.access_layer((15, 0)))\n"
            "threading.Thread(target=read, daemon=True).start()\n"
            "time.sleep(0.1)\n",
            tmp_path,
        )
    )


def test_package_is_typed():
    spec = find_spec("jessy_mem")
    assert spec is not None
    assert [folder for folder in spec.submodule_search_locations or [] if (Path(folder) / "py.typed").is_file()]
