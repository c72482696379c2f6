"""The lock of a base folder: who has it, who waits and for how long, and what a forked child does not keep."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from unittest import mock

import pytest
from interrupts import Interrupt

import jessy_mem as jm
from helpers import HAS_PROC, HUNG_S, open_files, run_threads
from jessy_mem.errors import LinkRefused, LockTimeout, MappingError
from jessy_mem.ids import IdRegister
from jessy_mem.locking import FolderLock, is_alive, is_busy, process_key

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


def take(lock):
    with lock:
        pass


@contextmanager
def held_by_a_thread(lock):
    """Another thread holds the lock for as long as this lasts."""
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def is_locked(path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def holder(path):
    """Another process that has the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()


def test_lock_is_held_inside_only(path):
    lock = FolderLock(path)
    with lock as fd:
        assert is_locked(path)
        with lock as again:
            assert again == fd
        assert is_locked(path)
    assert not is_locked(path)


def test_threads_take_turns(path):
    locks, inside, n_inside = [FolderLock(path) for _ in range(2)], [], 0

    def work(lock):
        nonlocal n_inside
        for _ in range(50):
            with lock:
                n_inside += 1
                inside.append(n_inside)
                n_inside -= 1

    threads = [threading.Thread(target=work, args=(locks[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [1] * 300


def test_stopped_process_is_named_by_who_waited_long_enough(path, holder, inject):
    holder.send_signal(signal.SIGSTOP)
    readings_s = [i / 20 for i in range(100)]
    clock = inject.instead("time.monotonic", lambda: readings_s.pop(0))
    message = f"process {holder.pid} held the lock for 0.2 s"
    with clock, pytest.raises(LockTimeout, match=message) as told:
        FolderLock(path, 0.2).__enter__()
    assert readings_s[0] > 0.2
    assert (told.value.path, told.value.timeout_s, told.value.holder_pid) == (path, 0.2, holder.pid)
    assert isinstance(told.value, TimeoutError)
    assert told.value.errno == errno.ETIMEDOUT


def test_locks_of_other_kinds_tell_of_no_holder(path, holder, tmp_path):
    with (tmp_path / "other").open("w") as other:
        fcntl.lockf(other, fcntl.LOCK_EX)
        with pytest.raises(LockTimeout) as told:
            FolderLock(path, 0).__enter__()
    assert told.value.holder_pid == holder.pid


def test_holder_that_the_system_does_not_tell_is_another_process(path, holder):
    with mock.patch("pathlib.Path.read_text", side_effect=OSError), pytest.raises(LockTimeout) as told:
        FolderLock(path, 0).__enter__()
    assert told.value.holder_pid is None
    assert "another process" in str(told.value)


def test_thread_that_holds_it_is_named_too(path):
    lock = FolderLock(path, 0.05)
    with held_by_a_thread(lock):
        for waiting in (lock, FolderLock(path, 0.05)):
            with pytest.raises(LockTimeout) as told:
                waiting.__enter__()
            assert told.value.holder_pid == os.getpid()
    with lock:
        pass


def test_who_waits_gets_it_when_it_is_free(path, holder):
    lock, got = FolderLock(path, None), threading.Event()

    def wait():
        with lock:
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.1)
    holder.stdin.close()
    thread.join()
    assert got.is_set()


def test_who_asks_again_at_once_comes_after_those_who_wait(path):
    order, waits, sleep = [], threading.Event(), time.sleep

    def told_sleep(seconds):
        waits.set()
        sleep(seconds)

    def wait():
        with FolderLock(path):
            order.append("waited")

    again = FolderLock(path)
    thread = threading.Thread(target=wait)
    with mock.patch("time.sleep", told_sleep):
        with again:
            thread.start()
            assert waits.wait(HUNG_S)
        with again:
            order.append("asked again")
    thread.join()
    assert order == ["waited", "asked again"]


def test_interrupt_ends_the_wait_and_leaves_no_descriptor(path, holder):
    lock = FolderLock(path, None)
    open_before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with mock.patch("time.sleep", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        lock.__enter__()
    assert not open_before or len(os.listdir("/proc/self/fd")) == open_before
    holder.kill()
    holder.wait()
    with lock:
        pass


@pytest.mark.parametrize("call", ["os.open", "os.fstat", "os.stat", "fcntl.flock"])
def test_interrupt_at_each_call_leaves_it_free(path, call):
    function, at = {"os": os, "fcntl": fcntl}[call.split(".")[0]].__dict__[call.split(".")[1]], 0
    lock = FolderLock(path, 1)
    while True:
        n_calls = [0]

        def interrupts(*args, _n_calls=n_calls, _at=at, **options):
            _n_calls[0] += 1
            if _n_calls[0] == _at + 1:
                raise KeyboardInterrupt
            return function(*args, **options)

        with mock.patch(call, interrupts), suppress(KeyboardInterrupt), lock:
            pass
        assert not os.path.exists(path) or not is_locked(path)
        if n_calls[0] <= at:
            break
        at += 1
    assert at
    with lock:
        assert is_locked(path)


def test_file_that_another_makes_meanwhile_is_the_lock(path, inject):
    open(path, "x").close()
    inode = os.stat(path).st_ino
    # Private: it was not there yet when this one looked.
    missing = inject(FileNotFoundError(errno.ENOENT, "not yet"), "jessy_mem.locking.open_file", for_good=False)
    with missing, FolderLock(path) as fd:
        assert os.fstat(fd).st_ino == inode


def test_file_that_was_removed_while_one_waited_is_not_the_lock(path):
    lock, flock, seen = FolderLock(path), fcntl.flock, []

    def removes(fd, operation):
        if operation & fcntl.LOCK_EX and not seen:
            seen.append(os.unlink(path))
        flock(fd, operation)

    with mock.patch("fcntl.flock", removes), lock as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        assert lock.is_current()
        os.unlink(path)
        assert not lock.is_current()


def test_lock_is_busy_for_its_own_folder_only(path, tmp_path):
    with FolderLock(path):
        assert is_busy(tmp_path)
        assert not is_busy(tmp_path.parent)
        assert not is_busy(tmp_path / "none")
    assert not is_busy(tmp_path)


def test_file_that_was_replaced_while_one_waited_is_not_the_lock(path, tmp_path):
    """Whoever writes the file anew holds both."""
    lock, flock, seen = FolderLock(path), fcntl.flock, []

    def replaces(fd, operation):
        if operation & fcntl.LOCK_EX and not seen:
            seen.append(os.fstat(fd).st_ino)
            (tmp_path / "new").touch()
            os.rename(tmp_path / "new", path)
        flock(fd, operation)

    with mock.patch("fcntl.flock", replaces), lock as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        assert os.fstat(fd).st_ino != seen[0]


@pytest.mark.parametrize("harm", ["deleted", "replaced", "replaced by a link", "linked from elsewhere"])
def test_file_that_stays_open_is_the_lock_as_long_as_it_has_the_name(tmp_path, path, harm):
    other = tmp_path / "other"
    other.touch()
    lock = FolderLock(path)
    with lock as fd:
        before = os.fstat(fd).st_ino
    assert lock.descriptor == -1
    with lock as fd:
        assert os.fstat(fd).st_ino == before
    if harm == "linked from elsewhere":
        os.link(path, tmp_path / "another")
    else:
        os.unlink(path)
    if harm == "replaced":
        os.rename(other, path)
    if harm == "replaced by a link":
        os.symlink(other, path)
    if "link" in harm:
        with pytest.raises(LinkRefused):
            lock.__enter__()
        os.unlink(path)
    with lock as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
        assert is_locked(path)
    assert not is_locked(path)


@pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
@pytest.mark.thread_unsafe(reason="counts the descriptors of the process")
def test_file_stays_open_until_it_is_let_go_of(path):
    before, lock = open_files(), FolderLock(path)
    with lock:
        lock.close()  # not now
        assert is_locked(path)
    assert len(open_files()) == len(before) + 1
    lock.close()
    assert open_files() == before
    with lock:
        assert is_locked(path)
    del lock
    assert open_files() == before


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "link to nothing"])
def test_what_is_no_file_of_its_own_is_refused(tmp_path, path, kind):
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    make = {
        "link": lambda: os.symlink(other, path),
        "link to nothing": lambda: os.symlink(tmp_path / "nothing", path),
        "hard link": lambda: os.link(other, path),
        "pipe": lambda: os.mkfifo(path),
        "folder": lambda: os.mkdir(path),
    }
    make[kind]()
    with pytest.raises(LinkRefused if "link" in kind else (MappingError, IsADirectoryError)):
        FolderLock(path).__enter__()
    assert other.read_bytes() == b"theirs"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o700, 0o2775])
def test_who_may_write_into_the_folder_may_write_the_file(tmp_path, mode):
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(mode)
    umask = os.umask(0o077)
    try:
        with FolderLock(str(base / "lock")):
            pass
    finally:
        os.umask(umask)
    facts = (base / "lock").stat()
    assert facts.st_mode & 0o777 == mode & 0o666
    assert facts.st_gid == base.stat().st_gid


@pytest.mark.skipif(os.geteuid() != 0, reason="who may give a folder to any group")
def test_file_is_of_the_group_of_its_folder(tmp_path):
    os.chown(tmp_path, -1, os.getegid() + 1)
    with FolderLock(str(tmp_path / "lock")):
        pass
    assert (tmp_path / "lock").stat().st_gid == os.getegid() + 1


def test_locks_that_do_nothing_are_known(path):
    lock = FolderLock(path)
    with lock:
        pass
    assert lock.excludes
    lock = FolderLock(path)
    with mock.patch("fcntl.flock"), lock:
        pass
    assert not lock.excludes


# Forks ------------------------------------------------------------------------------------------------------------


def in_child(deed) -> int:
    """Do it in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            deed()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_child_that_was_forked_inside_has_not_got_the_lock_and_the_parent_keeps_it(path):
    lock = FolderLock(path, 0.05)

    def deed():
        with pytest.raises(LockTimeout):
            lock.__enter__()

    with lock:
        assert in_child(deed) == 0
        assert is_locked(path)
    assert in_child(lambda: lock.__enter__()) == 0


def test_child_leaves_the_block_that_it_was_forked_in(path):
    lock = FolderLock(path, 0.05)
    with lock:
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not is_locked(path)


def test_child_of_a_thread_that_does_not_hold_it_can_take_it_later(path):
    lock = FolderLock(path)
    ready, go = os.pipe()

    def deed():
        os.close(go)
        os.read(ready, 1)
        with lock:
            pass

    with ExitStack() as stack:
        stack.callback(os.close, ready)
        with held_by_a_thread(lock):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                deed()
                os._exit(0)
        os.close(go)
        assert os.waitpid(pid, 0)[1] == 0


def test_lock_goes_with_a_killed_holder_that_had_forked(path):
    """The orphan lives on, and has nothing."""
    ready, told = os.pipe()
    end, of_orphan = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(of_orphan)
        with FolderLock(path):
            if os.fork() == 0:
                os.write(told, b"x")
                os.read(end, 1)
                os._exit(0)
            time.sleep(60)
    os.close(end)
    assert os.read(ready, 1) == b"x"
    assert is_locked(path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not is_locked(path)
    for fd in (of_orphan, ready, told):
        os.close(fd)


# Who is there -----------------------------------------------------------------------------------------------------


def test_this_process_is_alive_and_a_child_is_another():
    mine = process_key()
    assert is_alive(mine)
    assert in_child(lambda: (_ for _ in ()).throw(ValueError) if process_key() == mine else None) == 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="some functions are not traced by instruction from 3.12 on")
def test_close_that_is_interrupted_anywhere_leaves_nothing_held(path):
    for number in itertools.count():
        lock = FolderLock(path, 0.0)
        take(lock)
        with suppress(KeyboardInterrupt), Interrupt(number) as interrupt:
            lock.close()
        for each in (lock, FolderLock(path, 0.0), lock):
            run_threads([partial(take, each)])
            take(each)
        if not interrupt.fired:
            break
    assert number > 5


def test_process_is_alive_until_it_ends():
    ready, told = os.pipe()
    end, of_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(of_child)
        os.write(told, process_key().encode())
        os.read(end, 1)
        os._exit(0)
    key = os.read(ready, 200).decode()
    assert is_alive(key)
    number, _, rest = key.partition(".")
    started, _, surroundings = rest.partition(".")
    assert not is_alive(f"{number}.{int(started) + 1}.{surroundings}")  # its number given again
    for fd in (of_child, ready, told, end):
        os.close(fd)
    while is_alive(key):  # until it has ended; nobody has waited for it yet
        time.sleep(0.001)
    os.waitpid(pid, 0)
    assert not is_alive(key)


@pytest.mark.parametrize(
    "key", ["", "-", "1", "1.", "x.1.2.3", "-1.1.1.1", "1.1", "9" * 400 + ".1.1.1", "1.1.a.b", "²"]
)
def test_what_is_no_key_of_a_process_of_now_is_not_alive(key):
    assert not is_alive(key)


@pytest.mark.parametrize(
    ("error", "alive"),
    [(None, True), (PermissionError(errno.EPERM, "not ours"), True), (ProcessLookupError(errno.ESRCH, "none"), False)],
)
def test_without_proc_a_process_is_asked_whether_it_takes_signals(error, alive, inject):
    _, _, surroundings = process_key().split(".", 2)
    key = f"{os.getppid()}.1.{surroundings}"
    assert not is_alive(key)  # it was started at another time
    asked = []

    def kill(pid, number):
        asked.append((pid, number))
        if error is not None:
            raise error

    with (
        inject(FileNotFoundError(errno.ENOENT, "no /proc"), "pathlib.Path.read_text"),
        inject.instead("os.path.isdir", lambda path: False),
        inject.instead("os.kill", kill),
    ):
        assert is_alive(key) is alive
    assert asked == [(os.getppid(), 0)]


def test_process_of_another_container_of_this_machine_is_taken_to_be_alive():
    boot, space = process_key().split(".")[2:]
    assert is_alive(f"1.1.{boot}.{space}x")
    assert not is_alive(f"1.1.{boot}x.{space}")


# In the register --------------------------------------------------------------------------------------------------


def test_register_waits_as_long_as_it_is_told(tmp_path):
    register = IdRegister(str(tmp_path), jm.default_layout(), lock_timeout_s=0.05)
    assert register.give("reserve") == 15
    with (tmp_path / ".jessy_mem.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for deed in (
            lambda: register.give("reserve"),
            lambda: register.reserve("name", "user"),
            lambda: register.release(15),
            lambda: register.__enter__(),
        ):
            with pytest.raises(LockTimeout):
                deed()
        assert register.find("name") is None
    assert register.give("reserve") == 16


@pytest.mark.parametrize("timeout_s", [1e10, 2.0**64, 1e300])
def test_timeout_longer_than_any_thread_can_wait_is_one(timeout_s, tmp_path):
    lock = FolderLock(f"{tmp_path}/lock", timeout_s)
    taken = threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            time.sleep(0.02)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(HUNG_S)
    with lock:
        holder.join()
    with jm.MmapManager(base_path=tmp_path / "base", simulation="never", lock_timeout_s=timeout_s) as memory:
        assert memory.append_layer(memory.ensure_dimension("name"), jm.LayerSpec(text="text"))
