"""The command line as tests call it: in this process, in one of its own, and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from helpers import HUNG_S
from jessy_mem.cli import main


def run(*args: object, **options):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args], **options)


def spawn(*args: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[bytes]:
    """Run it as a user does, in a process of its own."""
    command = [sys.executable, "-m", "jessy_mem", *map(str, args)]
    return subprocess.run(command, capture_output=True, env=os.environ | (env or {}), timeout=HUNG_S, **options)


def fails(result, status: int, *words: str) -> None:
    """`result` failed with `status`, and each line of its message says 'error:'; together they have all `words`."""
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert lines, "nothing is said"
    assert all(line.startswith("error: ") for line in lines), result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


def json_of(result, status: int = 0):
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def flip(path: Path, offset: int = -1) -> None:
    """Damage one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def on_terminal(
    *args: object,
    code: str | None = None,
    env: dict[str, str] | None = None,
    status: int = 0,
    answer: bytes = b"",
) -> bytes:
    """What the command, which ends with `status`, writes to a terminal on which `answer` is typed."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "jessy_mem", *map(str, args)] if code is None else [sys.executable, "-c", code]
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environment = kept | {"TERM": "xterm-256color", "COLUMNS": "80"} | (env or {})
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    os.write(parent, answer)
    output = b""
    try:
        while piece := os.read(parent, 65536):
            output += piece
    except OSError:  # the terminal has no writer left
        pass
    os.close(parent)
    assert process.wait(HUNG_S) == status, output
    return output
