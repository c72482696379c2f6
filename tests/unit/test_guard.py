"""The guard: what is read where a file was truncated, whose faults it takes, and whose it leaves alone."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

import pytest

from jessy_mem._core.guard import install
from jessy_mem._probe import guard

PAGE = os.sysconf("SC_PAGE_SIZE")


class Mapped:
    """A file of pages of "x", mapped by the standard library; `file` shrinks under it."""

    def __init__(self, path, n_pages: int = 8, access: int = mmap.ACCESS_READ) -> None:
        path.write_bytes(b"x" * n_pages * PAGE)
        self.path = path
        self.n_bytes = n_pages * PAGE
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), self.n_bytes, access=mmap.ACCESS_COPY)
            if access == mmap.ACCESS_WRITE:
                self.map.close()
                self.map = mmap.mmap(file.fileno(), self.n_bytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def bytes_of_pages(self) -> list[int]:
        return [guard.read_byte(self.address + at) for at in range(0, self.n_bytes, PAGE)]


@pytest.fixture
def guarded(tmp_path):
    """Map a new file and guard it: (what is mapped, its handle)."""
    handles = []

    def make(**options):
        mapped = Mapped(tmp_path / f"{len(handles)}", **options)
        handles.append(guard.add(mapped.address, mapped.n_bytes, options.get("access") == mmap.ACCESS_WRITE))
        return mapped, handles[-1]

    yield make
    for handle in handles:
        guard.remove(handle)


@pytest.mark.parametrize("n_left", [0, 3, 7])
def test_pages_that_are_gone_read_as_zeros(guarded, n_left):
    mapped, handle = guarded()
    assert mapped.bytes_of_pages() == [120] * 8
    assert not guard.damaged(handle)
    os.truncate(mapped.path, n_left * PAGE)
    assert mapped.bytes_of_pages() == [120] * n_left + [0] * (8 - n_left)
    assert guard.damaged(handle)


def test_only_what_lies_behind_the_fault_becomes_zeros(guarded):
    mapped, handle = guarded()
    os.truncate(mapped.path, 2 * PAGE)
    assert guard.read_byte(mapped.address + 5 * PAGE) == 0
    os.truncate(mapped.path, 8 * PAGE)
    mapped.path.write_bytes(b"y" * 8 * PAGE)
    assert mapped.bytes_of_pages() == [121] * 5 + [0] * 3
    assert guard.damaged(handle)


def test_damage_is_that_of_one_range(guarded):
    one, one_handle = guarded()
    other, other_handle = guarded()
    os.truncate(one.path, 0)
    assert one.bytes_of_pages() == [0] * 8
    assert other.bytes_of_pages() == [120] * 8
    assert (guard.damaged(one_handle), guard.damaged(other_handle)) == (True, False)


def test_file_that_goes_again_and_again(guarded):
    """The same address in the same thread, more often than a fault that cannot be mended is tried."""
    mapped, handle = guarded()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    map_fixed = 0x10
    for _ in range(300):
        mapped.path.write_bytes(b"x" * mapped.n_bytes)
        fd = os.open(mapped.path, os.O_RDONLY)
        at = libc.mmap(mapped.address, mapped.n_bytes, mmap.PROT_READ, mmap.MAP_SHARED | map_fixed, fd, 0)
        os.close(fd)
        assert at == mapped.address
        guard.reset(handle)
        assert guard.read_byte(mapped.address) == 120
        os.truncate(mapped.path, 0)
        assert guard.read_byte(mapped.address) == 0
        assert guard.damaged(handle)


def test_what_is_written_to_a_page_that_is_gone_goes_nowhere(guarded):
    mapped, handle = guarded(access=mmap.ACCESS_WRITE)
    os.truncate(mapped.path, PAGE)
    guard.write_byte(mapped.address + PAGE, 7)
    assert guard.damaged(handle)
    assert guard.read_byte(mapped.address + PAGE) == 7
    assert mapped.path.stat().st_size == PAGE


def test_native_threads_meet_in_the_same_fault(guarded):
    mapped, handle = guarded(n_pages=64)
    os.truncate(mapped.path, 16 * PAGE)
    assert guard.read_threads(mapped.address, mapped.n_bytes, PAGE, 8) == (8 * 16, 8 * 64)
    assert guard.damaged(handle)


def test_python_reads_go_on(guarded):
    mapped, handle = guarded()
    os.truncate(mapped.path, 0)
    assert bytes(mapped.map) == bytes(mapped.n_bytes)
    assert guard.damaged(handle)


@pytest.mark.thread_unsafe(reason="looks at all ranges of the process")
def test_ten_thousand_ranges(tmp_path):
    """All of them are found, slots are used again, and the one that is damaged is the one that is told."""
    mapped = Mapped(tmp_path / "file", n_pages=10_000)
    handles = [guard.add(mapped.address + at, PAGE) for at in range(0, mapped.n_bytes, PAGE)]
    try:
        assert len(set(handles)) == 10_000
        for number in range(0, 10_000, 2):
            guard.remove(handles[number])
        freed = {handles[number] for number in range(0, 10_000, 2)}
        for number in range(0, 10_000, 2):
            handles[number] = guard.add(mapped.address + number * PAGE, PAGE)
        assert {handles[number] for number in range(0, 10_000, 2)} == freed
        os.truncate(mapped.path, 0)
        chosen = {0, 1, 511, 512, 5_000, 9_999}
        assert [guard.read_byte(mapped.address + number * PAGE) for number in sorted(chosen)] == [0] * 6
        assert {number for number, handle in enumerate(handles) if guard.damaged(handle)} == chosen
    finally:
        for handle in handles:
            guard.remove(handle)


def test_ranges_come_and_go_while_others_fault(guarded, tmp_path):
    mapped, handle = guarded(n_pages=64)
    quiet = Mapped(tmp_path / "quiet", n_pages=64)
    results = []
    churning = threading.Thread(
        target=lambda: results.append(guard.churn_threads(quiet.address, PAGE, 2000, 4)),
    )
    churning.start()
    for _ in range(100):
        os.truncate(mapped.path, 0)
        assert guard.read_threads(mapped.address, mapped.n_bytes, PAGE, 2) == (0, 2 * 64)
    churning.join()
    assert results == [(4 * 16 * 2000, 0)]
    assert guard.damaged(handle)


def test_forked_child_is_guarded_too(guarded):
    mapped, handle = guarded()
    pid = os.fork()
    if pid == 0:
        os.truncate(mapped.path, 0)
        os._exit(mapped.bytes_of_pages() == [0] * 8 and guard.damaged(handle))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not guard.damaged(handle), "the child's damage is its own until we read"
    assert mapped.bytes_of_pages() == [0] * 8
    assert guard.damaged(handle)


# Faults that are not ours: in a process of their own, for it dies of them; a fork of one that has done nothing yet.

PARENT = """
import ctypes, faulthandler, json, mmap, os, resource, signal, sys, tempfile
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from jessy_mem._core.guard import install
from jessy_mem._probe import guard
PAGE = os.sysconf("SC_PAGE_SIZE")

def mapped():
    file = tempfile.TemporaryFile()
    file.write(b"x" * PAGE)
    file.flush()
    found = mmap.mmap(file.fileno(), PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    file.truncate(0)
    keep.append((file, found))
    return ctypes.addressof(ctypes.c_char.from_buffer(found))

def ours():
    return guard.add(mapped(), PAGE, True)

def fault():
    guard.read_byte(mapped())

def on_and_off():
    for _ in range(9):
        faulthandler.enable()
        install()
        faulthandler.disable()

def mended():
    address = mapped()
    handle = guard.add(address, PAGE, True)
    assert guard.read_byte(address) == 0 and guard.damaged(handle)
    print("mended", flush=True)

def region():
    import jessy_mem as jm
    path = os.path.join(tempfile.mkdtemp(), "r")
    opened = jm.MmapRegion(1, jm.RegionBuilder(1, "One").add_layer(jm.LayerSpec(text="x" * 2 * PAGE)).write(path))
    view = opened.layer(0)
    os.truncate(path, PAGE)
    try:
        view.text
    except jm.RegionTruncated:
        print("mended", flush=True)

keep = []

for line in sys.stdin:
    source, output, errors = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
        exec(source)
        break  # it ends as a program does
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def parent():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    environment["ASAN_OPTIONS"] = "detect_leaks=0:handle_sigbus=0:handle_segv=0"  # it would take them for its own
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.communicate()


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def child(parent, tmp_path):
    """Runs a program in a child of `parent`."""

    def run(source: str) -> Done:
        output, errors = tmp_path / "output", tmp_path / "errors"
        parent.stdin.write(json.dumps([source, str(output), str(errors)]) + "\n")
        return Done(int(parent.stdout.readline()), output.read_text(), errors.read_text())

    return run


def n_dumps(done: Done) -> int:
    return done.stderr.count("Fatal Python error: Bus error")


@pytest.mark.parametrize(
    ("source", "n_expected"),
    [
        ("mended(); fault()", 0),
        ("faulthandler.enable(); mended(); fault()", 1),
        ("ours(); faulthandler.enable(); mended(); fault()", 1),
        ("ours(); faulthandler.enable(); install(); fault()", 1),
        ("ours(); faulthandler.enable(); fault()", 1),
        ("faulthandler.enable(); ours(); faulthandler.disable(); mended(); fault()", 0),
        ("ours(); faulthandler.enable(); install(); faulthandler.disable(); mended(); fault()", 0),
        ("on_and_off(); mended(); fault()", 0),
        ("on_and_off(); faulthandler.enable(); install(); fault()", 1),
        ("ours(); on_and_off(); mended(); fault()", 0),
        ("ours(); on_and_off(); faulthandler.enable(); install(); fault()", 1),
        ("mended()\nif os.fork() == 0: fault()\nos.kill(os.getpid(), signal.SIGBUS)", 0),
        ("mended(); os.kill(os.getpid(), signal.SIGBUS)", 0),
        ("faulthandler.enable(); mended(); os.kill(os.getpid(), signal.SIGBUS)", 1),
        ("ours(); faulthandler.enable(); mended(); os.kill(os.getpid(), signal.SIGBUS)", 1),
        ("mended(); ctypes.string_at(mapped(), 1)", 0),
        ("guard.remove(ours()); fault()", 0),
        ("region(); fault()", 0),
        ("faulthandler.enable(); region(); fault()", 1),
        ("region(); faulthandler.enable(); region(); fault()", 1),
        ("region(); faulthandler.enable(); region(); faulthandler.disable(); region(); fault()", 0),
        ("a = mapped(); guard.remove(guard.add(a, PAGE)); guard.read_byte(a)", 0),
    ],
)
def test_foreign_fault_kills_as_it_would_without_us(source, n_expected, child):
    done = child(source)
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert n_dumps(done) == n_expected, done.stderr
    assert done.stdout.split() == ["mended"] * (source.count("mended()") + source.count("region()"))


def test_signal_that_was_ignored_is_ignored(child):
    done = child(
        "signal.signal(signal.SIGBUS, signal.SIG_IGN); mended(); os.kill(os.getpid(), signal.SIGBUS); print('on')"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["mended", "on"]), done.stderr


def test_python_handler_gets_a_signal_that_was_sent(child):
    done = child(
        "signal.signal(signal.SIGBUS, lambda *_: print('got it')); mended(); os.kill(os.getpid(), signal.SIGBUS)\n"
        "print('on')"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["mended", "got", "it", "on"]), done.stderr


def test_write_to_what_is_read_only_is_no_case_for_zeros(child):
    done = child("a = mapped(); guard.add(a, PAGE, False); assert guard.read_byte(a) == 0; guard.write_byte(a, 1)")
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS), done.stderr


def test_installed_twice_is_installed_once(child):
    install()
    install()
    done = child("install(); install(); mended(); install(); fault()")
    assert done.returncode == -signal.SIGBUS
