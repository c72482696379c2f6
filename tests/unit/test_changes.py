"""The page of changes: what is told, what is noticed, and that no state of its file does harm."""

from __future__ import annotations

import errno
import os
import pickle
import random
import struct
import threading
from types import SimpleNamespace

import pytest

from helpers import HAS_PROC, as_another_user, open_files
from jessy_mem._core.changes import RING_CHANGES, ChangePage, write_page
from jessy_mem._probe import changes as probe

FILE_BYTES = 4096 + 32 * RING_CHANGES
SEQUENCE_AT = 64


@pytest.fixture
def writer(tmp_path):
    page = ChangePage(tmp_path)
    assert page.open(create=True)
    return page


@pytest.fixture
def reader(tmp_path, writer):
    page = ChangePage(tmp_path)
    assert page.open()
    return page


def overwrite(path, data: bytes, at: int = 0) -> None:
    """Write into the file itself, as no program of ours does."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def check_follows(writer, reader) -> None:
    """What is appended reaches the reader, in whatever state both were before: told, or told to look at everything."""
    seen = reader.sequence
    appended = writer.append(77, "changed", 5)
    assert appended
    if reader.sequence != appended:  # whoever reads finds that it is stale as soon as it looks
        assert reader.is_stale()
        assert reader.open()
    assert reader.sequence == appended != seen
    changes, newest = reader.read_since(seen)
    assert newest == appended
    assert changes is None or changes[-1] == (77, "changed", 5)
    assert writer.append(78, "removed", 0) == appended + 1
    assert reader.read_since(appended) == ([(78, "removed", 0)], appended + 1)


# There is a page -------------------------------------------------------------------------------------------------


def test_changes_come_in_order_with_all_they_say(writer, reader):
    seen = reader.sequence
    told = [(1, "added", 1), (2**32 - 1, "changed", 2**64 - 1), (0, "removed", 0)]
    numbers = [writer.append(*each) for each in told]
    assert numbers == [seen + 1, seen + 2, seen + 3]
    assert reader.read_since(seen) == (told, numbers[-1])
    assert reader.read_since(numbers[0]) == (told[1:], numbers[-1])
    assert reader.read_since(numbers[-1]) == ([], numbers[-1])
    assert writer.read_since(seen) == (told, numbers[-1])


def test_ring_is_told_whole_and_not_more(writer, reader):
    seen = reader.sequence
    for n in range(RING_CHANGES):
        writer.append(n, "changed", n)
    changes, newest = reader.read_since(seen)
    assert changes == [(n, "changed", n) for n in range(RING_CHANGES)]
    writer.append(1, "added", 1)
    assert reader.read_since(seen) == (None, newest + 1)
    assert len(reader.read_since(seen + 1)[0]) == RING_CHANGES


def test_numbers_that_were_never_given_are_refused(writer, reader):
    newest = writer.append(1, "added", 1)
    for seen in (0, 1, newest + 1, newest + RING_CHANGES, 2**64 - 1, newest ^ 1 << 63):
        assert reader.read_since(seen) == (None, newest)


def test_whoever_reads_may_write_later(writer, reader):
    assert reader.open()
    appended = reader.append(5, "added", 9)
    assert appended == writer.sequence
    assert writer.read_since(appended - 1) == ([(5, "added", 9)], appended)


def test_wrong_arguments(writer):
    before = writer.sequence
    for wrong in ("deleted", ""):
        with pytest.raises(ValueError, match="is none of added, changed, removed"):
            writer.append(1, wrong, 1)
    with pytest.raises(TypeError):
        writer.append(1, None, 1)
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            writer.append(wrong, "added", 1)
    with pytest.raises(OverflowError):
        writer.append(1, "added", -1)
    assert writer.sequence == before
    with pytest.raises(TypeError):
        ChangePage(5)
    with pytest.raises(TypeError):
        pickle.dumps(writer)


@pytest.mark.skipif(not HAS_PROC, reason="reads /proc")
def test_no_descriptor_stays_open(tmp_path):
    before = open_files()
    page = ChangePage(tmp_path)
    page.append(1, "added", 1)
    assert page.open()
    assert not page.is_stale()
    assert open_files() == before


def test_each_new_page_begins_elsewhere(tmp_path):
    begun = set()
    for _ in range(20):
        page = ChangePage(tmp_path)
        page.open(create=True)
        begun.add(page.sequence)
        os.unlink(page.path)
    assert len(begun) == 20
    assert all(0 < sequence < 2**63 for sequence in begun)


def test_nothing_but_the_page_is_left_in_the_folder(tmp_path, writer):
    writer.append(1, "added", 1)
    os.unlink(writer.path)
    writer.append(1, "added", 1)
    assert os.listdir(tmp_path) == [".changes"]
    assert os.stat(writer.path).st_size == FILE_BYTES


@pytest.mark.parametrize("folder_mode", [0o700, 0o755, 0o775, 0o777, 0o1777])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_of_the_file_follows_the_folder(tmp_path, folder_mode, umask):
    tmp_path.chmod(folder_mode)
    before = os.umask(umask)
    try:
        assert ChangePage(tmp_path).open(create=True)
    finally:
        os.umask(before)
    assert (tmp_path / ".changes").stat().st_mode & 0o7777 == folder_mode & 0o666


# There is none ---------------------------------------------------------------------------------------------------


def test_page_that_does_not_fit_on_the_disk_is_none(tmp_path, inject):
    page = ChangePage(tmp_path)
    with inject.around("os.write", lambda plain: lambda fd, data: plain(fd, data[:5000])):
        assert not page.open(create=True)
    assert os.listdir(tmp_path) == []
    assert page.open(create=True)


def test_page_that_cannot_be_of_the_folder_s_group_is_of_no_group(tmp_path, inject):
    tmp_path.chmod(0o770)

    def of_another_group(plain):
        def stat(path, *args, **options):
            facts = plain(path, *args, **options)
            return SimpleNamespace(st_mode=facts.st_mode, st_gid=facts.st_gid + 1)

        return stat

    with inject(PermissionError(errno.EPERM, "not a member"), "os.fchown"), inject.around("os.stat", of_another_group):
        write_page(str(tmp_path / ".changes"))
    assert (tmp_path / ".changes").stat().st_mode & 0o777 == 0o600


def test_no_page_is_a_word_that_never_changes(tmp_path):
    page = ChangePage(tmp_path)
    assert page.sequence == 0
    assert page.is_stale()
    assert not page.open()
    assert page.read_since(0) == (None, 0)
    assert os.listdir(tmp_path) == []


def test_page_that_appears_shows_another_word(tmp_path):
    reader = ChangePage(tmp_path)
    writer = ChangePage(os.fspath(tmp_path))
    appended = writer.append(1, "added", 1)
    assert reader.sequence == 0
    assert reader.open()
    assert reader.sequence == appended
    assert reader.read_since(0) == (None, appended)


def test_no_folder(tmp_path):
    page = ChangePage(tmp_path / "missing")
    assert not page.open()
    assert not page.open(create=True)
    assert page.append(1, "added", 1) == 0
    assert os.listdir(tmp_path) == []


def test_closed_and_opened_again(writer, reader):
    appended = writer.append(1, "added", 1)
    reader.close()
    assert reader.sequence == 0
    assert reader.is_stale()
    reader.close()
    assert reader.open()
    assert reader.sequence == appended


def make_folder(path):
    os.mkdir(path)


def make_fifo(path):
    os.mkfifo(path)


def make_device(path):
    os.symlink("/dev/zero", path)


def make_link_to_a_page(path):
    other = os.path.join(os.path.dirname(path), "other")
    os.mkdir(other)
    assert ChangePage(other).open(create=True)
    os.symlink(os.path.join(other, ".changes"), path)


def make_hard_link_to_a_page(path):
    make_link_to_a_page(path)
    other = os.readlink(path)
    os.unlink(path)
    os.link(other, path)


def make_dangling_link(path):
    os.symlink(os.path.join(os.path.dirname(path), "nowhere"), path)


def make_file(data: bytes):
    def make(path):
        with open(path, "wb") as file:
            file.write(data)

    return make


def page_with(tmp_path, change) -> bytes:
    page = ChangePage(tmp_path)
    page.open(create=True)
    with open(page.path, "rb") as file:
        data = bytearray(file.read())
    os.unlink(page.path)
    change(data)
    return bytes(data)


WRONG = {
    "a folder": make_folder,
    "a FIFO": make_fifo,
    "a link to a device": make_device,
    "a link to a page": make_link_to_a_page,
    "a hard link to a page": make_hard_link_to_a_page,
    "a dangling link": make_dangling_link,
    "an empty file": make_file(b""),
    "zeros": make_file(bytes(FILE_BYTES)),
    "random bytes": make_file(random.Random(1).randbytes(FILE_BYTES)),
    "a file that is no page": make_file(b"\xff" * (FILE_BYTES + 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_page_is_none_for_who_reads_and_replaced_by_who_writes(tmp_path, what):
    path = tmp_path / ".changes"
    WRONG[what](path)
    stood = os.lstat(path)
    reader, writer = ChangePage(tmp_path), ChangePage(tmp_path)
    assert not reader.open()
    assert os.lstat(path).st_ino == stood.st_ino
    assert (reader.sequence, reader.read_since(0)) == (0, (None, 0))
    appended = writer.append(3, "added", 1)
    if what == "a folder":
        assert appended == 0
        assert path.is_dir()
        assert sorted(os.listdir(tmp_path)) == [".changes"]
    else:
        assert appended
        assert path.is_file()
        assert not path.is_symlink()
        assert reader.open()
        assert reader.sequence == appended
    if what in ("a link to a page", "a hard link to a page"):
        other = ChangePage(tmp_path / "other")
        assert other.open()
        assert other.sequence not in (appended, appended - 1)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("magic", lambda data: data.__setitem__(0, data[0] ^ 1)),
        ("version", lambda data: data.__setitem__(16, 2)),
        ("ring size", lambda data: data.__setitem__(21, 8)),
        ("bytes", lambda data: data.__setitem__(24, 1)),
        ("rest of the header", lambda data: data.__setitem__(63, 1)),
        ("sequence 0", lambda data: data.__setitem__(slice(64, 72), bytes(8))),
        ("one byte short", lambda data: data.__delitem__(-1)),
        ("one byte long", lambda data: data.append(0)),
    ],
)
def test_each_field_of_the_header_is_looked_at(tmp_path, what, change):
    make_file(page_with(tmp_path, lambda data: None))(tmp_path / ".changes")
    assert ChangePage(tmp_path).open()
    os.unlink(tmp_path / ".changes")
    make_file(page_with(tmp_path, change))(tmp_path / ".changes")
    assert not ChangePage(tmp_path).open()
    assert ChangePage(tmp_path).append(1, "added", 1)


# The file changes while it is mapped -------------------------------------------------------------------------------


def harm_delete(path):
    os.unlink(path)


def harm_truncate(n_bytes):
    return lambda path: os.truncate(path, n_bytes)


def harm_grow(path):
    os.truncate(path, FILE_BYTES + 4096)


def harm_random(path):
    overwrite(path, random.Random(7).randbytes(FILE_BYTES))


def harm_zeros(path):
    overwrite(path, bytes(FILE_BYTES))


def harm_header(path):
    overwrite(path, b"X")


def harm_by(make):
    def harm(path):
        os.unlink(path)
        make(path)

    return harm


def harm_another_page(path):
    os.unlink(path)
    assert ChangePage(os.path.dirname(path)).open(create=True)


HARM = {
    "deleted": harm_delete,
    "truncated to 0": harm_truncate(0),
    "truncated to half": harm_truncate(FILE_BYTES // 2),
    "truncated by a byte": harm_truncate(FILE_BYTES - 1),
    "truncated and grown again": lambda path: (os.truncate(path, 0), os.truncate(path, FILE_BYTES)),
    "grown": harm_grow,
    "random bytes": harm_random,
    "zeros": harm_zeros,
    "a header of another": harm_header,
    "replaced by another page": harm_another_page,
    "replaced by a link": harm_by(make_link_to_a_page),
    "replaced by a dangling link": harm_by(make_dangling_link),
    "linked from elsewhere": lambda path: os.link(path, path + ".other"),
    "replaced by a FIFO": harm_by(make_fifo),
    "replaced by random bytes": harm_by(make_file(b"\x5a" * FILE_BYTES)),
}


@pytest.mark.parametrize("looks", [False, True], ids=["reader looks afterwards", "reader looks first"])
@pytest.mark.parametrize("harm", HARM)
def test_file_is_harmed_while_it_is_mapped(writer, reader, harm, looks):
    seen = writer.append(1, "added", 1)
    HARM[harm](writer.path)
    assert writer.is_stale() or harm == "truncated and grown again"
    if looks:
        reader.open()
        assert reader.read_since(seen)[0] in (None, [])
    check_follows(writer, reader)
    assert not writer.is_stale()
    assert not reader.is_stale()


@pytest.mark.parametrize("harm", ["deleted", "truncated to 0", "truncated to half", "random bytes", "zeros"])
def test_word_of_who_maps_the_old_file_moves_when_it_is_replaced(writer, reader, harm):
    """Without a look at the path: the one comparison of the hot path is enough."""
    seen = reader.sequence
    HARM[harm](writer.path)
    writer.append(1, "added", 1)
    assert reader.sequence != seen
    assert reader.read_since(seen)[0] is None
    assert reader.is_stale()


def test_reader_without_permission_follows(shared_folder):
    writer = ChangePage(shared_folder)
    seen = writer.append(1, "added", 1)
    os.chmod(writer.path, 0o444)
    os.chmod(shared_folder, 0o555)

    def check():
        reader = ChangePage(shared_folder)
        assert reader.open()
        assert reader.read_since(seen - 1) == ([(1, "added", 1)], seen)
        assert reader.append(2, "added", 1) == 0
        assert reader.open(create=True)
        assert reader.sequence == seen
        assert not reader.is_stale()

    assert as_another_user(check)
    assert os.listdir(shared_folder) == [".changes"]


def test_second_user_of_a_shared_folder_writes_to_the_same_page(shared_folder):
    os.chmod(shared_folder, 0o777)
    writer = ChangePage(shared_folder)
    seen = writer.append(1, "added", 1)
    inode = os.stat(writer.path).st_ino

    def check():
        assert ChangePage(shared_folder).append(2, "changed", 1) == seen + 1

    assert as_another_user(check)
    assert os.stat(writer.path).st_ino == inode
    assert writer.read_since(seen) == ([(2, "changed", 1)], seen + 1)


def test_entries_of_random_bytes_are_none(writer, reader):
    """The header is right and the sequence makes sense; every entry is checked for itself."""
    seen = reader.sequence
    for n in range(100):
        writer.append(n, "added", n)
    chance = random.Random(3)
    overwrite(writer.path, chance.randbytes(FILE_BYTES - 4096), at=4096)
    for back in range(1, 101):
        assert reader.read_since(seen + 100 - back) == (None, seen + 100)
    check_follows(writer, reader)


@pytest.mark.parametrize("bit", [*range(0, 256, 7), 255])
def test_one_bit_of_an_entry_makes_it_none(writer, reader, bit):
    number = writer.append(0x01020304, "changed", 0x05060708)
    at = 4096 + number % RING_CHANGES * 32 + bit // 8
    with open(writer.path, "rb") as file:
        file.seek(at)
        byte = file.read(1)[0]
    overwrite(writer.path, bytes([byte ^ 1 << bit % 8]), at)
    assert reader.read_since(number - 1) == (None, number)


@pytest.mark.parametrize("word", [1, 2**63, 2**64 - 1, 2**64 - 2, 5])
def test_any_sequence_is_borne(writer, reader, word):
    seen = reader.sequence
    overwrite(writer.path, struct.pack("=Q", word), SEQUENCE_AT)
    assert reader.read_since(seen) == (None, word)
    for since in (0, word - 1, word - RING_CHANGES if word > RING_CHANGES else 0):
        changes, newest = reader.read_since(since)
        assert (changes, newest) == (None, word)
    for n in range(5):
        assert writer.append(n, "added", 1)
    assert reader.open()
    appended = writer.append(9, "removed", 0)
    assert reader.read_since(appended - 1) == ([(9, "removed", 0)], appended)


def test_moved_folder_is_noticed(tmp_path):
    (tmp_path / "base").mkdir()
    writer = ChangePage(tmp_path / "base")
    assert writer.append(1, "added", 1)
    os.rename(tmp_path / "base", tmp_path / "away")
    assert writer.is_stale()
    assert writer.append(1, "added", 1) == 0
    os.rename(tmp_path / "away", tmp_path / "base")
    assert writer.append(1, "added", 1)


# Threads and processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["truncated to 0", "truncated to half"])
def test_word_is_read_in_a_loop_while_the_file_goes(writer, reader, harm):
    seen, found = reader.sequence, []
    watching = threading.Thread(target=lambda: found.append(probe.wait_for_other(reader, seen)))
    watching.start()
    HARM[harm](writer.path)
    if harm == "truncated to half":  # the word itself is still there: the writer moves it as it leaves
        writer.append(1, "added", 1)
    watching.join()
    assert found[0] != seen
    if harm == "truncated to 0":
        assert found == [0]


def test_forked_child_goes_on_reading_and_writing(writer, reader):
    seen = reader.sequence
    pid = os.fork()
    if pid == 0:
        told = writer.append(1, "added", 1)
        os._exit(told == seen + 1 and reader.read_since(seen) == ([(1, "added", 1)], told))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert writer.append(2, "changed", 2) == seen + 2
    assert reader.read_since(seen)[0] == [(1, "added", 1), (2, "changed", 2)]


def test_two_writers_without_a_lock_are_both_told(writer, reader):
    """Where the folder's lock does nothing, two may write at once: neither writes over the other."""
    assert reader.append(1, "added", 1)  # both may write now
    assert probe.writers_without_a_lock(writer, reader, 20_000) == (20_000, 0)
    check_follows(writer, reader)
