"""What a type checker says of code that uses the library: nothing where it is right, something where it is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

RIGHT = """
from pathlib import Path
import numpy as np
import jessy_mem as jm

def read(view: jm.LayerView, block: jm.Block, region: jm.MmapRegion) -> int:
    arrays = [np.frombuffer(each, np.uint8) for each in (view, block, region)]
    memoryview(block)[:5] = b"hello"
    if view == b"hello" or view in {view}:
        return sum(map(len, arrays)) + len(bytes(view)) + len(memoryview(region)) + view[0] + len(view[1:5])
    return int(view.frequency)

def make(config: jm.MemoryConfig) -> None:
    jm.MmapManager()
    jm.MmapManager("64MB", base_path=Path("data"), simulation="never", verify="open", eviction_policy="lru", scrub=True)
    jm.MmapManager(64, config=config.replace(total_memory_mb=1.5, on_full="raise"), pool_configs=((1, 4096),))
    region: jm.MmapRegion = jm.MmapManager().load_dimension(1, Path("a"), exist_ok=True)
    jm.LayerSpec(text="a", keywords={"a", "b"})
    jm.LayerSpec(text="a", keywords=(word for word in "ab"))
    jm.LatencyHistogram().merge(jm.LatencyHistogram.from_dict(jm.LatencyHistogram().to_dict()))
"""
WRONG = """
import jessy_mem as jm
jm.MmapManager(bas_path="data")
jm.MmapManager(simulation="nevr")
jm.MmapManager(eviction_policy="fifo")
jm.MmapManager(scrub="yes")
jm.MmapManager(config=None, verify=True)
jm.MmapManager(warning_threshold="75")
jm.MemoryConfig(on_full="wait")
jm.MemoryConfig().replace(verify="lazily")
jm.MemoryConfig().replace(verfy="lazy")
jm.LayerSpec(text="a", keywords=[1])
jm.MmapManager().load_dimension(1, exists_ok=True)
jm.MmapManager().load_dimension("1")
"""


@pytest.mark.slow
def test_type_checker_passes_what_is_right_and_nothing_else(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    # Before 3.12 a type checker knows no class that is a buffer, and numpy's stubs list those that they take.
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-version",
        "3.12",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    done = subprocess.run([*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    found = re.findall(r"^(\w+)\.py:(\d+): error", done.stdout, re.MULTILINE)
    lines = range(3, 1 + len(WRONG.splitlines()))
    assert sorted(set(found)) == sorted(("wrong", str(line)) for line in lines), done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_says_the_same(tmp_path):
    pytest.importorskip("pyright")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "pyright", "--pythonversion", "3.12", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "--outputjson", "."], cwd=tmp_path, capture_output=True, text=True)
    told = json.loads(done.stdout)["generalDiagnostics"]
    found = {(each["file"].rpartition("/")[2], each["range"]["start"]["line"] + 1) for each in told}
    assert found == {("wrong.py", line) for line in range(3, 1 + len(WRONG.splitlines()))}, done.stdout
