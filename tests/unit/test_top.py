"""``jessy-mem top``, on a terminal and without one: what it shows, its keys, and a folder that changes meanwhile."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from commands import fails, run, spawn

import jessy_mem as jm
from helpers import HUNG_S

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # no Unicode


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "home"
    jm.RegionBuilder(1, "Emotion \x1b[2J[bold]").add_layer(jm.LayerSpec(text="x" * 9000)).write(
        jm.region_path(folder, 1)
    )
    jm.RegionBuilder(15, "tea").add_layer(jm.LayerSpec(text="x" * 90_000)).write(jm.region_path(folder, 15))
    return folder


class Terminal:
    """``jessy-mem top`` on a terminal of its own."""

    def __init__(self, *args: object, columns: int = 80, lines: int = 30, env: dict[str, str] | None = None) -> None:
        self.parent, self.child = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.child)
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jessy_mem", "top", *map(str, args), "--every", "0.1"],
            stdin=self.child,
            stdout=self.child,
            stderr=self.child,
            env=kept | {"TERM": "xterm-256color"} | (env or {}),
        )
        self.output = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, wanted: str, after: int = 0) -> str:
        """What was shown since `after` when `wanted` was."""
        deadline = time.monotonic() + HUNG_S
        while wanted not in self.shown(after):
            assert time.monotonic() < deadline, f"{wanted!r} was never shown: {self.output!r}"
            ready, _, _ = select.select([self.parent], [], [], HUNG_S)
            assert ready, self.output
            self.output += os.read(self.parent, 65536)
        return self.shown(after)

    def shown(self, after: int = 0) -> str:
        text = self.output[after:].decode("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def type(self, keys: bytes) -> int:
        """Type; where what is shown from now on begins."""
        at = len(self.output)
        os.write(self.parent, keys)
        return at

    def end(self) -> int:
        """The status, after the terminal is as it was."""
        while self.process.poll() is None:
            ready, _, _ = select.select([self.parent], [], [], 0.05)
            if ready:
                self.output += os.read(self.parent, 65536)
        while select.select([self.parent], [], [], 0)[0]:
            self.output += os.read(self.parent, 65536)
        assert termios.tcgetattr(self.child) == self.before
        assert self.output.rindex(b"\x1b[?1049l") > self.output.rindex(b"\x1b[?1049h"), "the screen that was there"
        assert self.output.rindex(b"\x1b[?25h") > self.output.rindex(b"\x1b[?25l"), "the cursor"
        assert b"Traceback" not in self.output
        return self.process.returncode


@pytest.fixture
def terminal(base):
    made: list[Terminal] = []

    def make(*args, **options):
        made.append(Terminal(*(args or (base,)), **options))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()
        os.close(each.parent)
        os.close(each.child)


def test_screen_shows_what_is_seen_and_q_ends_it(base, terminal):
    top = terminal(columns=120)
    shown = top.until("q quit")
    for word in ("2 dimensions", "core", "reserve", "user", "Processes that map it: 0", "see --metrics", "tea"):
        assert word in shown
    assert r"\x1b[2J[bold]" in shown
    top.type(b"q")
    assert top.end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_and_leave_the_terminal_as_it_was(number, status, terminal):
    top = terminal()
    top.until("q quit")
    top.process.send_signal(number)
    assert top.end() == status


def test_arrows_choose_the_order_and_the_first_dimension(terminal):
    top = terminal()
    top.until("by changes")
    at = top.type(b"\x1b[C\x1b[C\x1b[C")
    top.until("by size", at)
    shown = top.until("q quit", at)
    assert shown.rindex("tea") < shown.rindex("Emotion")
    at = top.type(b"\x1bOD")
    top.until("by memory", at)
    at = top.type(b"\x1b[C")
    top.until("by size", at)
    at = top.type(b"\x1b[B\x1b[B\x1b[B")
    top.until("q quit", at)
    at = len(top.output)
    shown = top.until("q quit", at)
    assert "Emotion" in shown
    assert "tea" not in shown
    top.type(b"\x1b[A")
    top.until("tea", len(top.output))
    top.type(b"q")
    assert top.end() == 0


def test_terminal_that_goes_ends_it(base):
    parent, child = pty.openpty()
    try:
        command = [sys.executable, "-m", "jessy_mem", "top", base, "--every", "60"]
        shown, shows = pty.openpty()
        process = subprocess.Popen(command, stdin=child, stdout=shows, stderr=shows, env=os.environ | {"TERM": "xterm"})
        output = b""
        while b"q quit" not in output:
            output += os.read(shown, 65536)
    finally:
        os.close(child)
        os.close(parent)
    assert process.wait(HUNG_S) == 129
    os.close(shown)
    os.close(shows)


def test_changes_of_other_processes_are_seen(base, terminal):
    top = terminal()
    top.until("q quit")
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_dimension(15)
        view = memory.access_layer((15, 0))
        memory.append_layer(15, jm.LayerSpec(text="new"))
        top.until("D15 tea: +1 layer")
        top.until("Processes that map it: 1")
        learned = memory.ensure_dimension("cake", [jm.LayerSpec(text="x")])
        top.until("cake: added")
        memory.forget(learned)
        top.until("cake: removed")
        del view
    top.type(b"q")
    assert top.end() == 0


def test_folder_that_empties_vanishes_and_comes_back(base, terminal):
    top = terminal()
    top.until("q quit")
    for dimension in ("D01", "D15"):
        shutil.rmtree(base / dimension)
    top.until("no dimension is there yet")
    base.rmdir()
    top.until("waiting for it to come back")
    at = len(top.output)
    path = jm.RegionBuilder(15, "back").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(base, 15))
    top.until("back: added", at)
    at = len(top.output)
    path.write_bytes(b"no region")
    top.until("1 damaged", at)
    top.type(b"q")
    assert top.end() == 0


def test_window_of_another_size(terminal):
    top = terminal(columns=140)
    top.until("q quit")
    top.resize(40, 12)
    top.process.send_signal(signal.SIGWINCH)
    at = len(top.output)
    top.until("q quit", at)
    at = len(top.output)
    top.until("q quit", at)
    shown = top.until("q quit", top.output.rindex(b"\x1b[H") if b"\x1b[H" in top.output[at:] else at)
    assert max(map(len, shown.splitlines())) <= 40
    top.type(b"q")
    assert top.end() == 0


def test_terminal_without_unicode(terminal):
    top = terminal(columns=40, env=PLAIN)
    assert top.until("q quit").isascii()
    top.type(b"q")
    assert top.end() == 0


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_without_a_terminal_it_looks_once(columns, base):
    for env in (PLAIN, {"PYTHONUTF8": "1"}):
        done = spawn("top", base, env={"COLUMNS": str(columns)} | env, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\x1b" not in done.stdout
        lines = done.stdout.decode().splitlines()
        assert max(map(len, lines)) <= columns
        assert any("tea" in line for line in lines)


def test_what_is_damaged_empty_or_not_there(base, tmp_path):
    path = jm.region_path(base, 15)
    path.write_bytes(path.read_bytes()[:100])
    done = run("top", base, "--once")
    assert done.exit_code == 1
    assert "1 damaged" in done.stdout
    (tmp_path / "empty").mkdir()
    fails(run("top", tmp_path / "empty"), 1, "holds no dimension")
    fails(run("top", tmp_path / "nowhere"), 2, "does not exist")


SERVICE = """
import sys
import jessy_mem as jm
from jessy_mem.exporters import prometheus_collector
from prometheus_client import Counter
Counter("other", "of another library").inc()
memory = jm.MmapManager(base_path=sys.argv[1], simulation="never")
memory.load_dimension(15)
held = [memory.access_layer((15, 0)) for _ in range(100)]
collector = prometheus_collector()
print("ready", flush=True)
sys.stdin.read()
"""


def test_numbers_that_processes_publish(base, tmp_path, terminal):
    pytest.importorskip("prometheus_client")
    folder = tmp_path / "metrics"
    folder.mkdir()
    assert "nobody publishes numbers" in run("top", base, "--metrics", folder, env={"COLUMNS": "140"}).stdout
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, base],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )
    with service:
        assert service.stdout.readline() == b"ready\n"
        shown = run("top", base, env={"COLUMNS": "140", "PROMETHEUS_MULTIPROC_DIR": str(folder)}).stdout
        top = terminal(base, "--metrics", folder, columns=60)
        top.until("accesses/s")
        top.until("evictions")
        top.type(b"q")
        assert top.end() == 0
        service.stdin.close()
    assert service.returncode == 0
    assert re.search(r"0/1 +91.9 KiB of 280 MiB ok +leased 91.9 KiB", shown)
    assert "p99" in shown
    assert str(service.pid) in shown
    (folder / "counter_1.db").write_bytes(b"none")
    assert f"{folder}: " in run("top", base, "--metrics", folder, env={"COLUMNS": "140"}).stdout


def test_system_that_does_not_tell_of_processes(base, inject):
    def around(plain):
        return lambda path: path != "/proc/self" and plain(path)

    with inject.around("os.path.isdir", around):
        assert "this system does not tell" in run("top", base, env={"COLUMNS": "140"}).stdout


def test_without_prometheus_client_it_says_which_extra(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    shown = run("top", base, "--metrics", tmp_path, env={"COLUMNS": "140"}).stdout
    assert "pip install 'jessy-mem[prometheus]'" in shown
