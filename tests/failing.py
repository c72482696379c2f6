"""failing.h, compiled: the library in which calls of the system fail when they are told to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import HUNG_S

TESTS = Path(__file__).parent
COMPILER = shutil.which("gcc") or shutil.which("cc")


def compiled(folder: Path) -> Path:
    """The library, made in `folder`."""
    path = folder / "failing.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-x", "c", "-o", path, TESTS / "failing.h", "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return path


def swept(library: Path, module: str, step: int, *names: str, **environment: str) -> list[dict]:
    """What `main` of a module of the tests tells in a process of its own, in which the library is loaded first."""
    environment = os.environ | {"LD_PRELOAD": str(library), "JESSY_MEM_FAILING": str(library)} | environment
    main = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import {module}; {module}.main(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", main, str(step), *names], env=environment, capture_output=True, text=True, timeout=HUNG_S
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
