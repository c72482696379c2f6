"""Commands that read let the system forbid them to write: docs/command_line.md."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem.cli import landlock

# Runs each command in a child of its own, which then tries to write, under the base folder and under others.
TRYING = """
import json, os, sys
from jessy_mem.cli import landlock, run

base, others, commands = sys.argv[1:]

def attempts(pid):
    yield "open", lambda: open(f"{base}/spare", "r+b").close()
    yield "shorten", lambda: os.truncate(f"{base}/spare", 0)
    yield "make", lambda: open(f"{base}/new{pid}", "x").close()
    yield "folder", lambda: os.mkdir(f"{base}/folder{pid}")
    yield "link", lambda: os.link(f"{base}/spare", f"{base}/link{pid}")
    yield "move", lambda: os.rename(f"{base}/spare", f"{base}/D01/moved{pid}")
    yield "remove", lambda: os.unlink(f"{base}/other")
    yield "elsewhere", lambda: open(f"{others}/new{pid}", "x").close()
    yield "nowhere", lambda: open(os.devnull, "w").close()

def attempted(into):
    found = {}
    for name, write in attempts(os.getpid()):
        try:
            write()
            found[name] = 0
        except OSError as error:
            found[name] = error.errno
    os.write(into, json.dumps(found).encode())
    os._exit(0)

def forbid(version, call=landlock._call):
    def of_an_older_system(number, rules, *rest):
        return min(version, call(number, rules, *rest)) if rules is None else call(number, rules, *rest)

    landlock._call = of_an_older_system
    landlock.forbid_writing()

for words in json.loads(commands):
    for name in "spare", "other":
        open(f"{base}/{name}", "w").close()
    out, into = os.pipe()
    if os.fork() == 0:
        sys.stdout = open(os.devnull, "w")
        if type(words) is int:
            forbid(words)
        else:
            sys.argv[1:] = words
            try:
                run()
            except SystemExit as end:
                assert end.code in (0, 1), end.code
        attempted(into)
    os.close(into)
    os.write(2, os.read(out, 4096) + b"\\n")
    os.wait()
"""
NAMES = ("open", "shorten", "make", "folder", "link", "move", "remove", "elsewhere", "nowhere")
ALLOWED = dict.fromkeys(NAMES, 0)
REFUSED = ALLOWED | dict.fromkeys(NAMES[:-1], errno.EACCES)
ELSEWHERE = REFUSED | {"elsewhere": 0}


@pytest.fixture(scope="module")
def has_landlock():
    """The system has it, and a process can forbid itself to write."""
    code = "from jessy_mem.cli import landlock; print(landlock.forbid_writing())"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HUNG_S).stdout != b"True\n":
        pytest.skip("this system has no Landlock")


@pytest.fixture
def base(tmp_path):
    builder = jm.RegionBuilder(1, "Body").add_layer(jm.LayerSpec("Breath comes first.", keywords=("breath",)))
    builder.write(jm.region_path(tmp_path / "base", 1))
    (tmp_path / "others").mkdir()
    return tmp_path / "base"


def tried(base, *commands: object, env: dict[str, str] | None = None) -> list[dict[str, int]]:
    """What each of `commands` can do when it is done: 0, or an errno; a number is a version of Landlock."""
    words = [each if isinstance(each, int) else list(map(str, each)) for each in commands]
    script = [sys.executable, "-c", TRYING, str(base), str(base.parent / "others"), json.dumps(words)]
    environment = {name: value for name, value in os.environ.items() if name != "JESSY_MEM_LANDLOCK"} | (env or {})
    done = subprocess.run(script, capture_output=True, timeout=HUNG_S, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_commands_that_read_can_write_no_more(has_landlock, base):
    commands = [
        ("inspect", base), ("inspect", base / "D01"), ("verify", base), ("ask", base, "breath"), ("map", base),
        ("doctor", base), ("cat", base, "D01/L0"),
    ]  # fmt: skip
    assert tried(base, *commands) == [REFUSED] * len(commands)


def test_what_a_command_is_told_to_write_it_writes(has_landlock, base):
    page = base.parent / "others" / "page.html"
    assert tried(base, ("doctor", base, "--clean"), ("map", base, "--html", page)) == [ALLOWED, ELSEWHERE]
    assert page.stat().st_size > 1000


def test_whoever_must_write_at_the_end_turns_it_off(base):
    assert tried(base, ("inspect", base), env={"JESSY_MEM_LANDLOCK": "0"}) == [ALLOWED]


def test_older_systems_forbid_what_they_can(has_landlock, base):
    """The first version never lets a name move to another folder; the third is the first to forbid shortening."""
    assert tried(base, 1, 2, 3) == [REFUSED | {"shorten": 0}] * 2 + [REFUSED]


def test_without_landlock_nothing_changes(base):
    assert tried(base, 0) == [ALLOWED]


@pytest.mark.thread_unsafe(reason="it replaces what the module calls")
@pytest.mark.parametrize("refused_at", range(2))
def test_what_the_system_refuses_is_no_error(monkeypatch, refused_at):
    answers = iter([3, -1])
    # What asks the system: not there, or out of descriptors.
    monkeypatch.setattr(landlock, "_call", lambda *_: next(answers) if refused_at else -1)
    assert not landlock.forbid_writing()
