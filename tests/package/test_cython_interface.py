"""docs/cython.md is true: its example builds against the installed package and does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jessy_mem

DOCUMENT = Path(__file__).parents[2] / "docs" / "cython.md"
USE = """
import sys
import scratch
from jessy_mem._core.pool import PoolAllocator
pool = PoolAllocator(((1, 4096),), 1)
assert scratch.checksum(pool, bytes(range(256)) * 20) == 255 * 128 * 20
assert scratch.checksum(pool, b"") == 0
assert pool.usage()[0] == 0
blocks = [pool.allocate(4096) for _ in range(256)]
try:
    scratch.checksum(pool, b"x")
except MemoryError as error:
    assert "status 3" in str(error), error
else:
    raise AssertionError("a full pool gave a block")
import tempfile
import jessy_mem as jm
import letters
text = "here and there " * 1000
with tempfile.TemporaryDirectory() as base:
    jm.RegionBuilder(20, "letters").add_layer(jm.LayerSpec(text=text)).write(jm.region_path(base, 20))
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_dimension(20)
        assert letters.count(memory[20, 0], ord("e")) == text.count("e")
        pin = letters.Pin(memory[20, 0])
        (lease,) = memory.leases()
        assert lease.dimension == 20
        memory.unload_dimension(20)
        assert memory.trim() > 0
        assert pin.count(ord("t")) == text.count("t")
        assert memory.get_stats().leased_bytes == lease.n_bytes
        pin.release()
        assert memory.leases() == []
        assert memory.get_stats().leased_bytes == 0
if hasattr(sys, "_is_gil_enabled") and not sys.flags.gil:
    assert not sys._is_gil_enabled()
"""


@pytest.mark.slow
def test_the_documented_extension_builds_and_works(tmp_path):
    sources = re.findall(r"```(?:cython|python)\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert [name for name, _ in sources] == ["scratch.pyx", "setup.py", "letters.pyx"]
    for name, text in sources:
        (tmp_path / name).write_text(text)
    package_parent = str(Path(jessy_mem.__file__).parents[1])
    environment = {"PYTHONPATH": f"{tmp_path}:{package_parent}", "PATH": "/usr/bin:/bin", "CFLAGS": "-Werror=all"}
    for arguments in (["setup.py", "-q", "build_ext", "--inplace"], ["-W", "error", "-c", USE]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
