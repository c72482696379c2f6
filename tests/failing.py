"""failing.h, compiled: the library in which calls of the system fail when they are told to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
COMPILER = shutil.which("gcc") or shutil.which("cc")


def compiled(folder: Path) -> Path:
    """The library, made in `folder`."""
    path = folder / "failing.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-x", "c", "-o", path, TESTS / "failing.h", "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return path
