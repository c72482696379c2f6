"""Translate every .pyx with the directives of setup.py; Cython must have nothing to say.

A ``nogil`` function without ``noexcept`` takes the GIL back at each call. Cython calls that a performance hint, which
``-Werror`` lets pass; so any output at all is a failure. A file with such a function proves that it is noticed.
"""

import contextlib
import io
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

from Cython.Compiler import Main
from Cython.Compiler.CmdLine import parse_command_line

HINTED = "cdef void touch(int *at) nogil:\n    at[0] = 1\n"


def translate(source: Path, directives: dict[str, object], shared: str, folder: Path) -> str:
    """What Cython says about `source`."""
    arguments = ["-3", "-Werror", "--shared", shared, "-o", str(folder / f"{source.stem}.c")]
    for name, value in directives.items():
        arguments += ["-X", f"{name}={value}"]
    options, sources = parse_command_line([*arguments, str(source)])
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        result = Main.compile(sources, options)
    return said.getvalue() or (f"{source}: {result.num_errors} errors\n" if result.num_errors else "")


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
