"""Translate every .pyx with the directives of setup.py; Cython must have nothing to say.

A ``nogil`` function without ``noexcept`` takes the GIL back at each call. Cython calls that a performance hint, which
``-Werror`` lets pass; so any output at all is a failure. A file with such a function proves that it is noticed.
"""

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

HINTED = "cdef void touch(int *at) nogil:\n    at[0] = 1\n"


def translate(source: Path, directives: dict[str, object], shared: str, folder: Path) -> str:
    """What Cython says about `source`."""
    command = [sys.executable, "-m", "cython", "-3", "-Werror", "--shared", shared]
    command += ["-o", str(folder / f"{source.stem}.c")]
    for name, value in directives.items():
        command += ["-X", f"{name}={value}"]
    done = subprocess.run([*command, str(source)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout or (f"{source}: exit code {done.returncode}" if done.returncode else "")


def main() -> int:
    with mock.patch("setuptools.setup"):
        build = runpy.run_path("setup.py")
    directives, shared = build["DIRECTIVES"], build["SHARED"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hinted = folder / "hinted.pyx"
        hinted.write_text(HINTED)
        if "Exception check" not in translate(hinted, directives, shared, folder):
            print("a nogil function without noexcept was not noticed")
            return 1
        said = [translate(source, directives, shared, folder) for source in sorted(Path("jessy_mem").rglob("*.pyx"))]
    print("".join(said), end="")
    return 1 if any(said) else 0


if __name__ == "__main__":
    sys.exit(main())
