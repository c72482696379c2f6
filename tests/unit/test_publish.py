"""Publishing: in one step, never over another's file, never through a link; taking back the very file; many at once."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from faults import Injection, descriptors_left

from jessy_mem import publish as publishing
from jessy_mem.batch import Batch, publish_many, side_by_side
from jessy_mem.durable import make_folder, make_folders, remove_folders
from jessy_mem.errors import AlreadyPublished, LinkRefused, MappingError
from jessy_mem.layout import UNSYNCED_MODE
from jessy_mem.publish import NewFile, exchange, publish, remove, withdraw

NAMELESS = getattr(os, "O_TMPFILE", 0)
opened = os.open


def refuses_nameless(path, flags, *args, **options):
    if NAMELESS and flags & NAMELESS == NAMELESS:
        raise OSError(errno.EOPNOTSUPP, "not here")
    return opened(path, flags, *args, **options)


@pytest.fixture(params=["nameless", "temporary", "without links"])
def way(request, monkeypatch):
    """The ways to a name, of which a system may have one only."""
    if request.param != "nameless":
        monkeypatch.setattr(os, "open", refuses_nameless)
    if request.param == "without links":
        monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "no links here")))
    return request.param


# A rename replaces what is there, so no link is tried.
of_a_replacement = pytest.mark.parametrize("way", ["nameless", "temporary"], indirect=True)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# A new file -------------------------------------------------------------------------------------------------------


def test_new_file_is_whole_and_alone(tmp_path, way):
    path = tmp_path / "D15" / "region.mmap"
    file = NewFile(path)
    assert not file.is_there()
    file.publish([b"one", b"", b"two"])
    assert path.read_bytes() == b"onetwo"
    assert file.is_there()
    assert files_below(tmp_path) == ["D15/region.mmap"]
    assert path.stat().st_nlink == 1
    assert way != "without links" or os.link.called


def test_system_that_knows_no_nameless_files_gets_a_temporary_one(tmp_path):
    with mock.patch("os.open", refuses_nameless):
        NewFile(tmp_path / "file").publish([b"x"])
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_name_that_is_taken_stays_what_it_is(tmp_path, way, kind):
    path = tmp_path / "D15" / "region.mmap"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"theirs")
    before = path.lstat()
    file = NewFile(path)
    with pytest.raises(AlreadyPublished) as refused:
        file.publish([b"ours"])
    assert (refused.value.errno, refused.value.filename) == (errno.EEXIST, str(path))
    assert path.lstat() == before
    file.take_back()
    assert path.lstat() == before
    assert os.listdir(path.parent) == ["region.mmap"]


def test_name_taken_while_ours_is_written_is_theirs(tmp_path, way):
    """Checked before, it would be free."""
    path = tmp_path / "D15" / "region.mmap"

    def pieces():
        yield b"ours"
        path.write_bytes(b"theirs")

    with pytest.raises(AlreadyPublished):
        NewFile(path).publish(pieces())
    assert path.read_bytes() == b"theirs"
    assert os.listdir(path.parent) == ["region.mmap"]


def test_of_many_writers_at_once_one_publishes(tmp_path, way):
    path, outcomes, start = tmp_path / "file", [], threading.Barrier(8)

    def write(number):
        start.wait()
        try:
            NewFile(path).publish([b"%d" % number])
        except AlreadyPublished:
            return
        outcomes.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert path.read_bytes() == b"%d" % outcomes[0]
    assert files_below(tmp_path) == ["file"]


def test_system_that_can_do_neither_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_NAMELESS", 0)  # as on a system that does not have the word
    monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "no links here")))
    library = mock.Mock(spec=[])
    with mock.patch("ctypes.CDLL", return_value=library), pytest.raises(MappingError) as refused:
        NewFile(tmp_path / "file").publish([b"x"])
    assert refused.value.errno == errno.ENOSYS
    assert files_below(tmp_path) == []


# A replacement ----------------------------------------------------------------------------------------------------


@of_a_replacement
def test_replacement_is_another_file_of_the_same_mode(tmp_path, way):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with path.open("rb") as held:
        publish([b"new"], path)
        assert held.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert files_below(tmp_path) == ["file"]


def test_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MappingError, match="Not a directory") as told:
        NewFile(str(tmp_path / "file" / "region.mmap")).publish((b"x",))
    assert told.value.errno == errno.ENOTDIR
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.thread_unsafe(reason="the working folder is the process's")
@pytest.mark.parametrize("folder", ["/proc/none", "/proc/none/of/ours", "removed", "removed/D15"])
def test_folder_in_which_nothing_can_be_made_is_told(folder, tmp_path):
    """It is there, and the system says of what would be made in it that it is not there."""
    os.mkdir(tmp_path / "removed")
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path / "removed")
        os.rmdir(tmp_path / "removed")
        with pytest.raises(MappingError) as refused:
            NewFile(folder.replace("removed", "new") + "/region.mmap").publish([b"x"])
        assert refused.value.errno == errno.ENOENT
    finally:
        os.fchdir(here)
        os.close(here)
    with pytest.raises(FileNotFoundError):
        make_folder("/proc/none/of/ours")


def test_folders_of_any_depth_are_made(tmp_path):
    deep, made = f"{tmp_path}{'/a' * 1500}", []
    make_folders(deep, made)
    assert os.path.isdir(deep)
    assert made == sorted(made, key=len)
    assert len(made) == 1500
    remove_folders(made)
    assert files_below(tmp_path) == []


def test_link_to_nowhere_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "D15").symlink_to("nowhere")
    with pytest.raises(MappingError) as refused:
        NewFile(tmp_path / "D15" / "region.mmap", follow_links=True).publish([b"x"])
    assert (refused.value.errno, os.listdir(tmp_path)) == (errno.ENOTDIR, ["D15"])


def test_bytes_that_the_system_cannot_fetch_are_read_by_us(tmp_path, inject):
    """A piece is of a mapped file whose pages went: its end asks for them, not the write."""
    with inject(OSError(errno.EFAULT, "Bad address"), "os.write", for_good=False):
        NewFile(str(tmp_path / "region.mmap")).publish((b"one", b"two"))
    assert (tmp_path / "region.mmap").read_bytes() == b"onetwo"


def test_two_files_exchange_their_names_or_nothing_is_done(tmp_path, inject):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "nothing")
    with inject(OSError(errno.EINVAL, "no flags here"), "jessy_mem.publish._rename"):  # private: a kind of file system
        assert not exchange(one, other)
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    if exchange(one, other):
        assert (one.read_bytes(), other.read_bytes()) == (b"2", b"1")
    assert files_below(tmp_path) == ["one", "other"]


@of_a_replacement
def test_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path, way):
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    path = tmp_path / "D15" / "region.mmap"
    path.parent.mkdir()
    path.symlink_to(outside)
    publish([b"ours"], path)
    assert not path.is_symlink()
    assert (path.read_bytes(), outside.read_bytes()) == (b"ours", b"theirs")


# Links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path):
    """A base folder whose D15 is a link to a folder outside, with a file in it."""
    outside, base = tmp_path / "outside", tmp_path / "base"
    outside.mkdir()
    base.mkdir()
    (outside / "region.mmap").write_bytes(b"theirs")
    (outside / ".region.mmap.0123456789abcdef.tmp").write_bytes(b"theirs")
    (base / "D15").symlink_to(outside)
    yield base / "D15"
    assert files_below(outside) == [".region.mmap.0123456789abcdef.tmp", "region.mmap"]
    assert (outside / "region.mmap").read_bytes() == b"theirs"
    assert (base / "D15").is_symlink()


@pytest.mark.parametrize(
    "deed",
    [
        lambda folder: NewFile(folder / "delta.mmap").publish([b"ours"]),
        lambda folder: publish([b"ours"], folder / "region.mmap"),
        lambda folder: publish([b"ours"], folder / "delta.mmap", exclusive=True),
        lambda folder: withdraw(folder / "region.mmap"),
        lambda folder: remove(folder / "region.mmap"),
        lambda folder: Batch().publish(NewFile(folder / "delta.mmap"), [b"ours"]),
    ],
)
def test_nothing_is_written_or_removed_through_a_linked_folder(linked, deed):
    with pytest.raises(LinkRefused) as refused:
        deed(linked)
    assert (refused.value.errno, refused.value.filename) == (errno.ELOOP, str(linked))


def test_many_files_are_told_apart_from_one_behind_a_link(linked):
    good = NewFile(linked.parent / "D16" / "region.mmap")
    outcomes = publish_many([(NewFile(linked / "delta.mmap"), [b"x"]), (good, [b"x"])])
    assert [type(each) for each in outcomes] == [LinkRefused, type(None)]
    assert good.is_there()


def test_link_that_a_caller_names_is_followed(linked):
    path = linked / "more.mmap"
    publish([b"x"], path, follow_links=True)
    assert path.read_bytes() == b"x"
    remove(path, follow_links=True)


def test_base_folder_may_be_reached_through_a_link(tmp_path, way):
    (tmp_path / "real").mkdir()
    (tmp_path / "base").symlink_to("real")
    NewFile(tmp_path / "base" / "D15" / "region.mmap").publish([b"x"])
    assert files_below(tmp_path / "real") == ["D15/region.mmap"]


# Taking back ------------------------------------------------------------------------------------------------------


def test_taken_back_with_its_folder(tmp_path, way):
    file = NewFile(tmp_path / "D15" / "region.mmap")
    file.publish([b"x"])
    file.take_back()
    assert not file.is_there()
    assert os.listdir(tmp_path) == []
    file.take_back()


def test_folder_with_something_else_stays(tmp_path):
    file = NewFile(tmp_path / "D15" / "region.mmap")
    file.publish([b"x"])
    (tmp_path / "D15" / "other").touch()
    file.take_back()
    assert files_below(tmp_path) == ["D15/other"]


@pytest.mark.parametrize("content", [b"theirs", b"ours"])
def test_file_of_another_in_its_place_is_not_taken_back(tmp_path, content):
    path = tmp_path / "D15" / "region.mmap"
    file = NewFile(path)
    file.publish([b"ours"])
    other = tmp_path / "other"
    other.write_bytes(content)
    other.rename(path)
    assert not file.is_there()
    file.take_back()
    assert path.read_bytes() == content


def test_what_another_removes_while_it_is_taken_back_is_gone(tmp_path, inject):
    file = NewFile(tmp_path / "D15" / "region.mmap")
    file.publish([b"ours"])

    def removed_before(path, follow_links):
        os.unlink(path)
        return remove(path, follow_links)

    # In between its look and this call there is nothing else that could be replaced.
    with inject.instead("jessy_mem.publish.remove", removed_before):
        file.take_back()
    assert os.listdir(tmp_path) == []


def test_nothing_is_taken_back_through_a_folder_that_became_a_link(tmp_path):
    file = NewFile(tmp_path / "D15" / "region.mmap")
    file.publish([b"ours"])
    (tmp_path / "D15").rename(tmp_path / "outside")
    (tmp_path / "D15").symlink_to("outside")
    with pytest.raises(MappingError) as refused:
        file.take_back()
    assert refused.value.errno == errno.ELOOP
    assert (tmp_path / "outside" / "region.mmap").read_bytes() == b"ours"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "mkdir", "fstat", "close"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_each_call_that_fails_leaves_nothing_and_the_next_try_succeeds(tmp_path, way, call, error):
    path = tmp_path / "D15" / "region.mmap"
    if call == "link" and way == "without links":
        pytest.skip("that call fails as it is")
    n_failed = 0
    while failure_of(NewFile(path), call, n_failed, error):
        assert files_below(tmp_path) == []
        n_failed += 1
    assert n_failed
    assert path.read_bytes() == b"x"


def failure_of(file, call, at, error):
    """Publish it while call number `at` fails; whether that stopped it, with the error that it is to raise."""
    function, numbers = getattr(os, call), itertools.count()

    def fails(*args, **options):
        if next(numbers) != at:
            return function(*args, **options)
        if call == "close":
            function(*args, **options)
        raise error

    expected = MappingError if isinstance(error, OSError) else KeyboardInterrupt
    with mock.patch.object(os, call, fails):
        try:
            file.publish([b"x"])
        except expected:
            return True
    return False


def test_withdrawn_in_the_order_that_was_asked_for(tmp_path):
    folder = tmp_path / "D15"
    folder.mkdir()
    names, gone = ["b", "a", "c"], []
    for name in names:
        (folder / name).touch()
    unlink = os.unlink

    def noted(name, **options):
        gone.append(name)
        unlink(name, **options)

    with mock.patch("os.unlink", noted):
        withdraw(*(folder / name for name in ["b", "missing", "a", "c"]))
    assert gone == ["b", "missing", "a", "c"]
    assert not folder.exists()


def test_what_is_nothing_without_the_file_goes_when_that_is_gone_from_the_disk_and_may_stay(tmp_path):
    folder = tmp_path / "D15"
    folder.mkdir()
    for name in ("region.mmap", "delta"):
        (folder / name).touch()
    seen = []

    def fsync(fd):
        seen.append(sorted(os.listdir(folder)))

    def unlink(name, **options):
        if name == "delta":
            raise OSError(errno.EIO, "I/O error")
        os.remove(name, **options)

    with mock.patch("os.fsync", fsync), mock.patch("os.unlink", unlink):
        withdraw(folder / "region.mmap", folder / "delta")
    assert seen[0] == ["delta"]
    assert sorted(os.listdir(folder)) == ["delta"]


# Many -------------------------------------------------------------------------------------------------------------


@contextmanager
def synced():
    """The files and folders that are fsynced inside, by inode."""
    inodes, fsync = [], os.fsync

    def noted(fd):
        inodes.append(os.fstat(fd).st_ino)
        fsync(fd)

    with mock.patch("os.fsync", noted):
        yield inodes


def test_many_files_are_durable_and_each_folder_is_synced_once(tmp_path):
    paths = [tmp_path / f"D{15 + i // 2}" / f"{i % 2}" for i in range(40)]
    with synced() as inodes:
        assert publish_many([(NewFile(path), [b"x", b"y"]) for path in paths]) == [None] * 40
    assert sorted(inodes) == sorted(p.stat().st_ino for p in [*paths, *{p.parent for p in paths}, tmp_path])
    assert all(path.read_bytes() == b"xy" for path in paths)


def test_none_of_many_is_none():
    assert publish_many([]) == []


def test_of_many_those_that_fail_say_why_and_leave_nothing(tmp_path):
    paths = [tmp_path / f"D{15 + i}" / "region.mmap" for i in range(6)]
    paths[1].parent.mkdir()
    paths[1].write_bytes(b"theirs")
    paths[3].parent.touch()
    outcomes = publish_many([(NewFile(path), [b"x"]) for path in paths])
    assert [type(outcomes[1]), type(outcomes[3])] == [AlreadyPublished, MappingError]
    assert outcomes[::2] == [None] * 3
    assert outcomes[5] is None
    assert outcomes[3].errno == errno.ENOTDIR
    assert paths[1].read_bytes() == b"theirs"
    assert files_below(tmp_path) == [f"D{i}/region.mmap" for i in (15, 16, 17)] + ["D18"] + [
        f"D{i}/region.mmap" for i in (19, 20)
    ]


def test_file_whose_folder_cannot_be_synced_is_taken_back(tmp_path):
    files = [NewFile(tmp_path / f"D{15 + i}" / "region.mmap") for i in range(4)]
    fsync = os.fsync

    def fails(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode) and os.path.samestat(os.fstat(fd), os.stat(tmp_path / "D16")):
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    with mock.patch.object(os, "fsync", fails):
        outcomes = publish_many([(file, [b"x"]) for file in files])
    assert [getattr(each, "errno", None) for each in outcomes] == [None, errno.EIO, None, None]
    assert [file.is_there() for file in files] == [True, False, True, True]


@pytest.mark.parametrize("n_descriptors", [2, 3, 20])
def test_many_files_need_few_descriptors(tmp_path, n_descriptors):
    paths = [tmp_path / f"D{15 + i}" / "region.mmap" for i in range(30)]
    used, opened, closed = set(), os.open, os.close

    def open_if_left(*args, **options):
        if len(used) == n_descriptors:
            raise OSError(errno.EMFILE, "Too many open files")
        used.add(fd := opened(*args, **options))
        return fd

    def close(fd):
        used.discard(fd)
        closed(fd)

    with mock.patch("os.open", open_if_left), mock.patch("os.close", close):
        outcomes = publish_many([(NewFile(path), [b"x"]) for path in paths[:-1]])
        with opened_for_good(n_descriptors - 1):
            refused = publish_many([(NewFile(paths[-1]), [b"x"])])
    assert outcomes == [None] * 29
    assert refused[0].errno == errno.EMFILE
    assert files_below(tmp_path) == sorted(f"D{15 + i}/region.mmap" for i in range(29))


@contextmanager
def opened_for_good(n):
    """So many descriptors are in use inside."""
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(n)]
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def test_interrupt_among_many_leaves_none(tmp_path):
    def pieces():
        yield b"x"
        raise KeyboardInterrupt

    files = [(NewFile(tmp_path / f"D{15 + i}" / "region.mmap"), [b"x"]) for i in range(30)]
    files[7] = (files[7][0], pieces())
    with pytest.raises(KeyboardInterrupt):
        publish_many(files)
    assert files_below(tmp_path) == []


def test_one_crew_of_threads_publishes_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr("jessy_mem.batch._N_TOGETHER", 7)  # so that 60 files are many
    paths = [tmp_path / f"D{15 + i}" / "region.mmap" for i in range(60)]
    threads = Injection(("threading.Thread.start",), lambda plain: plain)
    with threads, synced() as inodes:
        assert publish_many([(NewFile(path), [b"x"]) for path in paths]) == [None] * 60
    assert threads.n_calls == 15
    assert sorted(inodes) == sorted(p.stat().st_ino for p in [*paths, *{p.parent for p in paths}, tmp_path])


def test_side_by_side_goes_on_where_no_thread_starts():
    seen = []
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't create new thread")):
        assert side_by_side(seen.append, list(range(50))) == [None] * 50
    assert seen == list(range(50))


def test_side_by_side_hides_no_error_of_another_kind():
    with pytest.raises(IndexError):
        side_by_side([].__getitem__, [0, 1, 2, 3])


# Later ------------------------------------------------------------------------------------------------------------


def test_batch_syncs_each_file_and_its_mark_and_each_folder_once(tmp_path):
    batch = Batch()
    paths = [tmp_path / f"D{15 + i // 10}" / f"delta-{i}" for i in range(40)]
    with synced() as inodes:
        for path in paths:
            batch.publish(NewFile(path), [b"x"])
        assert inodes == []
        assert len(batch) == 40
        batch.sync()
        assert sorted(inodes) == sorted(p.stat().st_ino for p in [*paths, *paths, *{p.parent for p in paths}, tmp_path])
        assert len(batch) == 0
        batch.sync()
        assert len(inodes) == 85


def test_batch_that_waits_for_a_second_is_synced_by_who_writes_next(tmp_path):
    batch, clock = Batch(), mock.Mock(return_value=100.0)
    with mock.patch("time.monotonic", clock), synced() as inodes:
        batch.publish(NewFile(tmp_path / "a"), [b"x"])
        clock.return_value = 100.9
        batch.publish(NewFile(tmp_path / "b"), [b"x"])
        assert inodes == []
        clock.return_value = 101.0
        batch.publish(NewFile(tmp_path / "c"), [b"x"])
        assert inodes == [(tmp_path / name).stat().st_ino for name in "aabb"] + [tmp_path.stat().st_ino]
        assert len(batch) == 1
        clock.return_value = 101.9
        batch.publish(NewFile(tmp_path / "d"), [b"x"])
        assert len(inodes) == 5


def test_file_that_is_gone_or_replaced_needs_no_sync(tmp_path):
    batch = Batch()
    for name in "abc":
        batch.publish(NewFile(tmp_path / "D15" / name), [b"x"])
    (tmp_path / "D15" / "a").unlink()
    (tmp_path / "D15" / "b").unlink()
    os.mkfifo(tmp_path / "D15" / "b")
    batch.sync()
    for path in (tmp_path / "D15").iterdir():
        path.unlink()
    (tmp_path / "D15").rmdir()
    batch.publish(NewFile(tmp_path / "D16" / "a"), [b"x"])
    batch.sync()


def test_write_that_failed_is_told_until_its_file_is_replaced(tmp_path):
    """The system reports it once; a second fsync would succeed, and the bytes be gone."""
    batch, path = Batch(), tmp_path / "delta"
    batch.publish(NewFile(path), [b"x"])
    batch.publish(NewFile(tmp_path / "other"), [b"x"])
    inode, fsync = path.stat().st_ino, os.fsync

    def fails_once(fd):
        if os.fstat(fd).st_ino == inode and not failed:
            failed.append(fd)
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    failed = []
    with mock.patch("os.fsync", fails_once):
        for _ in range(3):
            with pytest.raises(MappingError) as told:
                batch.sync()
            assert (told.value.errno, told.value.filename) == (errno.EIO, str(path))
    publish([b"again"], path)
    batch.sync()


@pytest.mark.thread_unsafe(reason="how many descriptors there may be is the process's")
@pytest.mark.parametrize("n_left", range(3))
def test_sync_without_a_descriptor_is_told_and_done_by_the_next_one(tmp_path, n_left):
    """Nothing was asked of the disk: so nothing that it reported once is lost."""
    batch = Batch()
    for name in ("D15/a", "D15/b", "D16/a"):
        batch.publish(NewFile(tmp_path / name), [b"x"])
    with descriptors_left(n_left), suppress(MappingError):
        batch.sync()
    n_waiting = len(batch)
    assert n_waiting or n_left > 1
    with synced() as inodes:
        batch.sync()
    assert bool(inodes) == bool(n_waiting)
    assert len(batch) == 0
    assert not [path for path in tmp_path.rglob("[ab]") if path.stat().st_mode & UNSYNCED_MODE]


def test_what_another_wrote_beside_is_synced_first_and_its_failure_told(tmp_path):
    """A delta that lies on another process's delta is nothing without that."""
    batch, other, fsync = Batch(), Batch(), os.fsync
    other.publish(NewFile(tmp_path / "theirs"), [b"x"])
    batch.publish(NewFile(tmp_path / "ours"), [b"x"])
    inode = (tmp_path / "theirs").stat().st_ino

    def fails(fd):
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    with mock.patch("os.fsync", fails), pytest.raises(MappingError) as told:
        batch.sync()
    assert (told.value.errno, told.value.filename) == (errno.EIO, str(tmp_path / "ours"))


def test_file_that_is_replaced_while_it_is_synced_waits_again(tmp_path, inject):
    batch, path = Batch(), tmp_path / "a"
    batch.publish(NewFile(path), [b"x"])

    def and_another(fsync):
        def call(fd):
            fsync(fd)
            if path.exists():
                path.unlink()
                batch.publish(NewFile(path), [b"y"])

        return call

    with inject.around("os.fsync", and_another):
        batch.sync()
    assert len(batch) == 1
    batch.sync()
    assert (len(batch), path.read_bytes()) == (0, b"y")


def test_child_can_use_a_batch_that_a_thread_was_syncing(tmp_path):
    batch = Batch()
    batch.publish(NewFile(tmp_path / "a"), [b"x"])
    with batch._lock, batch._syncing:  # private: a moment that no fork can be made to meet
        pid = os.fork()
        if pid == 0:
            batch.publish(NewFile(tmp_path / "b"), [b"x"])
            batch.sync()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "b").exists()
