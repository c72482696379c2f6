"""On a free-threaded build the GIL stays off, whatever of the package is imported."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

import pytest

pytestmark = pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded build")

IMPORT_ALL = """
import importlib, pkgutil, sys
import jessy_mem
for module in pkgutil.walk_packages(jessy_mem.__path__, "jessy_mem."):
    if module.name != "jessy_mem.__main__":
        importlib.import_module(module.name)
        assert not sys._is_gil_enabled(), f"{module.name} switched the GIL on"
"""


def test_gil_stays_off_when_everything_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_gil_is_off_in_the_tests():
    assert not sys._is_gil_enabled(), "a dependency of the tests switched the GIL on"
