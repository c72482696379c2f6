"""No call of anything compiled, with any argument, ends the process: at worst it raises.

Each module is tried in a process of its own, see `anything`.
"""

from __future__ import annotations

import signal

import pytest
from anything import MODULES, Trier, classes_of

pytestmark = pytest.mark.thread_unsafe(reason="one process tries one module after the other")


@pytest.fixture(scope="module")
def trier():
    with Trier() as found:
        yield found


def test_all_that_is_compiled_is_found():
    assert len(MODULES) >= 14
    found = {name for module in MODULES for name in classes_of(module)}
    assert found >= {"Image", "Ledger", "Charge", "LayerRegistry", "Holders", "MmapRegion", "LayerView", "Block"}
    assert found >= {"PoolAllocator", "Arena", "LatencyHistogram", "Mapping", "MemoryStats", "BitmapProbe"}
    assert found >= {"Reader", "RegionTable", "LayerIndex", "TextCache", "ChangePage", "Descriptor"}


@pytest.mark.parametrize("module", MODULES)
def test_all_that_is_compiled_takes_anything(module, trier, tmp_path):
    status, n_calls, last, errors = trier.tries(module, tmp_path)
    assert status == 0, f"{status} after: {last}\n{errors[-2000:]}"
    assert n_calls > 10


def test_one_that_dies_tells_its_last_call(trier, tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import ctypes\ndef die(*given): ctypes.string_at(8 if len(given) > 2 else b'')\n"
    )
    status, n_calls, last, errors = trier.tries("deadly", tmp_path)
    assert (status, last) == (-signal.SIGSEGV, "die: 3 times None")
    assert n_calls > 3
    assert "Segmentation fault" in errors
