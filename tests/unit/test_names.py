"""Names: what is one, who has it, for how long; the register that tells, whatever happens to it."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import random
import shutil
import signal
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

import jessy_mem as jm
from jessy_mem import ids, journal
from jessy_mem import register as register_file
from jessy_mem.ids import LOCK_NAME, IdRegister
from jessy_mem.names import NameMap, checked_name, dimensions_in, stored_names

DEAD = "999999999.1.0.0"  # the key of a process that is not
HEAD = journal.line("!", "0123456789abcdef")


def register(base, **options) -> IdRegister:
    return IdRegister(str(base), options.pop("layout", jm.default_layout()), **options)


def write(base, dimension, name) -> Path:
    return jm.RegionBuilder(dimension, name).add_layer(jm.LayerSpec(text="x")).write(jm.region_path(base, dimension))


def in_child(deed) -> object:
    """What it returns in a forked child."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            os.write(told, pickle.dumps(deed()))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(told)
    with open(ready, "rb") as file:
        answer = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pickle.loads(answer)


# What a name is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [("user:ann", "user:ann"), ("x", "x"), ("e\u0301", "\u00e9"), ("\u00e9", "\u00e9"), ("a" * 64, "a" * 64),
     ("\U0001f600" * 16, "\U0001f600" * 16), (" a\nb%0A\0", " a\nb%0A\0"), ("\u00e9" * 32, "\u00e9" * 32),
     ("e\u0301" * 32, "\u00e9" * 32)],
)  # fmt: skip
def test_name_is_normalised_and_otherwise_kept(name, kept):
    assert checked_name(name) == kept


@pytest.mark.parametrize("name", ["", "a" * 65, "\u00e9" * 33, "\ud800"])
def test_what_is_too_short_too_long_or_no_text_is_no_name(name):
    with pytest.raises(ValueError, match=r"1\.\.64|surrogates"):
        checked_name(name)


@pytest.mark.parametrize("name", [None, b"x", 1, ["x"]])
def test_what_is_no_str_is_no_name(name, tmp_path):
    with pytest.raises(TypeError, match="is not a str"):
        checked_name(name)
    with pytest.raises(TypeError):
        register(tmp_path).find(name)


def test_map_gives_the_lowest_of_several():
    names = NameMap()
    for dimension in (20, 15, 30):
        names.put(dimension, "a")
    names.put(16, "b")
    assert (names.by_name, names.duplicates()) == ({"a": 15, "b": 16}, {"a": [15, 20, 30]})
    names.remove(15)
    assert (names.by_name["a"], names.duplicates()) == (20, {"a": [20, 30]})
    names.put(30, "c")
    assert (names.by_name, names.duplicates()) == ({"a": 20, "b": 16, "c": 30}, {})
    names.put(20, "b")
    assert (names.by_name, names.duplicates()) == ({"b": 16, "c": 30}, {"b": [16, 20]})
    for dimension in (20, 16, 30, 30):
        names.remove(dimension)
    assert (names.by_name, names.of, names.duplicates()) == ({}, {}, {})


def test_names_are_read_from_the_headers_of_sound_files(tmp_path):
    write(tmp_path, 15, "one")
    write(tmp_path, 16, "e\u0301")
    no_text = write(tmp_path, 23, "no text").read_bytes().replace(b"no text", b"no \xff\xff\xff\xff")
    for dimension, damage in ((17, b""), (18, b"x" * 300), (19, None), (23, no_text)):
        path = write(tmp_path, dimension, "damaged")
        path.unlink()
        if damage is None:
            os.mkfifo(path)
        else:
            path.write_bytes(damage)
    (tmp_path / "D20").mkdir()
    os.rename(write(tmp_path, 22, "of another"), tmp_path / "D20" / "region.mmap")
    (tmp_path / "D21").symlink_to("nowhere")
    assert dimensions_in(tmp_path) == list(range(15, 24))
    assert list(stored_names(str(tmp_path), dimensions_in(tmp_path))) == [(15, "one"), (16, "\u00e9")]


# Giving and finding -----------------------------------------------------------------------------------------------


def test_name_is_given_once(tmp_path):
    one, other = register(tmp_path), register(tmp_path)
    assert one.find("user:ann") is None
    assert one.reserve("user:ann", "user") == (1000, True)
    assert one.reserve("user:ann", "user") == other.reserve("user:ann", "reserve") == (1000, False)
    assert other.reserve("User:Ann", "user") == (1001, True)
    assert other.reserve("e\u0301", "reserve") == (15, True)
    assert one.reserve("\u00e9", "reserve") == (15, False)
    assert one.find("e\u0301") == one.find("\u00e9") == other.find("\u00e9") == 15
    assert one.names() == other.names() == {"user:ann": 1000, "User:Ann": 1001, "\u00e9": 15}
    assert (one.name_of(15), one.name_of(16)) == ("\u00e9", None)


@pytest.mark.parametrize("name", ["a b  c ", "\n", "a\nb", "%0A", "%", "\x85\u2028", "\0", "-", "+ 15 - x y", "\t"])
def test_any_name_comes_back_as_it_was(tmp_path, name):
    register(tmp_path).reserve(name, "user", for_all=True)
    assert register(tmp_path).names() == {name: 1000}


def test_name_of_the_plan_is_taken(tmp_path):
    names = register(tmp_path)
    assert names.reserve("Emotion", "reserve") == (1, False)
    assert names.find("Emotion") is None  # there is no file
    write(tmp_path, 1, "Emotion")
    assert register(tmp_path).find("Emotion") == 1


def test_released_name_is_free_and_its_id_is_not(tmp_path):
    one, other = register(tmp_path), register(tmp_path)
    one.reserve("a", "reserve")
    assert other.find("a") == 15
    one.release(15)
    assert one.find("a") is None
    other.refresh()
    assert other.find("a") is None
    assert other.reserve("a", "reserve") == (16, True)
    assert register(tmp_path).names() == {"a": 16}


def test_id_of_a_file_that_was_forgotten_is_not_given(tmp_path):
    """It came from elsewhere: no register gave it."""
    names = register(tmp_path)
    path = write(tmp_path, 15, "copied")
    assert names.find("copied") == 15
    names.release(15)
    path.unlink()
    path.parent.rmdir()
    assert register(tmp_path).reserve("a", "reserve") == (16, True)


def test_ids_go_on_in_the_next_range(tmp_path):
    plan = {"dimensions": [], "segments": [
        {"name": "reserve", "size_mb": 1, "dimensions": [[3, 5], [50, 51]]},
        {"name": "user", "size_mb": 1, "dimensions": [[1000, 2000]]},
    ]}  # fmt: skip
    names = register(tmp_path, layout=jm.MemoryLayout(plan))
    assert [names.give("reserve") for _ in range(3)] == [3, 4, 5]
    assert [names.reserve(f"n{i}", "reserve").dimension for i in range(2)] == [50, 51]
    with pytest.raises(jm.LimitExceeded, match=r"3\.\.5, 50\.\.51"):
        names.give("reserve")
    with pytest.raises(ValueError, match="'core' is not one of"):
        names.give("core")
    # Another plan on the same folder gives none of them again.
    assert register(tmp_path).reserve("n", "reserve") == (52, True)
    assert register(tmp_path, layout=jm.MemoryLayout.free(1)).reserve("m", "reserve") == (53, True)


def test_register_of_before_is_read_and_its_process_goes_on(tmp_path):
    path = tmp_path / LOCK_NAME
    path.write_bytes(b"%20d %20d" % (40, 1007))
    names = register(tmp_path)
    assert [names.give("reserve"), names.give("user")] == [40, 1007]
    # As a process of before does it: two numbers in the first bytes, written over.
    assert [int(word) for word in path.read_bytes()[:44].split()] == [41, 1008]
    with path.open("r+b") as file:
        file.write(b"%20d %20d" % (43, 1008))
    assert [names.give("reserve"), names.reserve("a", "reserve").dimension] == [43, 44]
    assert register(tmp_path).give("reserve") == 45


# Files are the truth ----------------------------------------------------------------------------------------------


def test_names_of_files_are_known_without_a_register(tmp_path):
    for dimension, name in ((15, "one"), (1000, "user:ann"), (2**31, "late"), (3, "Sense")):
        write(tmp_path, dimension, name)
    names = register(tmp_path)
    assert names.names() == {"one": 15, "user:ann": 1000, "late": 2**31, "Sense": 3}
    assert names.reserve("late", "user") == (2**31, False)
    assert names.reserve("new", "user") == (1001, True)
    # Private: which files are read is seen by their cost only.
    with mock.patch.object(ids, "stored_names", return_value=[]) as read:
        assert register(tmp_path).find("one") == 15  # the claim told of them all
    assert read.call_args[0][1] == []


def test_two_files_of_one_name_are_both_known(tmp_path):
    for dimension in (1003, 20, 1001):
        write(tmp_path, dimension, "twin")
    for _ in range(2):
        names = register(tmp_path)
        assert names.find("twin") == 20
        assert names.duplicates() == {"twin": [20, 1001, 1003]}
        names.reserve("other", "user")
    names.release(20)
    assert (names.find("twin"), names.duplicates()) == (1001, {"twin": [1001, 1003]})


def test_name_that_a_file_was_seen_to_have_is_told_to_others(tmp_path):
    names = register(tmp_path)
    names.reserve("old", "reserve", for_all=True)
    names.note(15, "new")  # of a file that has gone by now
    assert (names.find("new"), names.find("old")) == (None, None)
    write(tmp_path, 15, "new")
    names.note(15, "new")
    assert (names.find("new"), names.find("old")) == (15, None)
    names.reserve("x", "reserve", for_all=True)
    # Not from the files: the journal tells it.
    with mock.patch.object(ids, "stored_names", return_value=[]):
        assert register(tmp_path).names() == {"new": 15, "x": 16}


@pytest.mark.parametrize("is_given", [True, False])
def test_id_is_not_given_for_a_name_that_the_file_beside_it_has(tmp_path, is_given):
    """It was copied there after the folder was looked at."""
    names = register(tmp_path)
    assert names.names() == {}
    if is_given:
        names.reserve("mine", "user", for_all=True)
    copied = 1000 + is_given
    write(tmp_path, copied, "user:ann")
    assert names.reserve("user:ann", "user") == (copied, False)
    assert names.reserve("next", "user") == (copied + 1, True)


def test_name_that_is_told_is_known_to_who_has_looked_before(tmp_path):
    one, other = register(tmp_path), register(tmp_path)
    assert one.give("reserve") == 15
    assert one.names() == other.names() == {}
    write(tmp_path, 1500, "user:ann")
    with one:
        one.tell(1500, "user:ann")
        n_bytes = (tmp_path / LOCK_NAME).stat().st_size
        one.tell(1500, "user:ann")  # which is known
    assert (tmp_path / LOCK_NAME).stat().st_size == n_bytes
    assert other.find("user:ann") == 1500
    assert other.reserve("user:ann", "user") == (1500, False)
    assert other.reserve("next", "user") == (1000, True)


def test_name_goes_with_a_file_that_somebody_removed(tmp_path):
    path = write(tmp_path, 15, "a")
    names = register(tmp_path)
    names.reserve("b", "reserve")
    path.unlink()
    path.parent.rmdir()
    assert names.reserve("a", "reserve") == (17, True)
    assert register(tmp_path).find("a") == 17


# The latter calls openat2(2), where no test comes between.
@pytest.mark.parametrize("call", ["os.listdir", "jessy_mem.names.read_beneath"])
def test_folder_that_cannot_be_read_now_frees_no_name(tmp_path, call):
    write(tmp_path, 15, "a")
    register(tmp_path).reserve("b", "reserve", for_all=True)
    write(tmp_path, 17, "c")
    names = register(tmp_path)
    with mock.patch(call, side_effect=OSError(errno.EMFILE, "Too many open files")), pytest.raises(jm.MappingError):
        names.find("c")
    assert names.names() == {"a": 15, "b": 16, "c": 17}


# Processes --------------------------------------------------------------------------------------------------------


def test_name_of_a_process_that_ended_without_a_file_is_free(tmp_path):
    names = register(tmp_path)
    assert in_child(lambda: names.reserve("a", "reserve")) == (15, True)
    assert in_child(lambda: names.reserve("for all", "reserve", for_all=True)) == (16, True)
    assert in_child(lambda: [names.reserve("kept", "reserve"), write(tmp_path, 17, "kept")][0]) == (17, True)
    for each in (names, register(tmp_path)):
        assert each.find("a") is None
        assert each.names() == {"for all": 16, "kept": 17}
        assert each.find("kept") == 17
    assert names.reserve("a", "user") == (1000, True)
    assert register(tmp_path).find("a") == 1000


def test_name_of_a_process_that_lives_is_taken(tmp_path):
    names = register(tmp_path)
    assert names.reserve("a", "reserve") == (15, True)
    assert in_child(lambda: (names.find("a"), names.reserve("a", "user"))) == (15, (15, False))
    assert in_child(lambda: register(tmp_path).find("a")) == 15


def test_child_can_use_a_register_that_a_thread_was_reading(tmp_path):
    names = register(tmp_path)
    names.reserve("a", "reserve")
    inside, leave = threading.Event(), threading.Event()

    def hold():
        # Private: what a thread holds while it reads anew, for a moment that no fork can be made to meet.
        with names._mutex:
            names._names = NameMap()  # in the middle of it
            inside.set()
            leave.wait()
            names._start_again()  # its end

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        assert in_child(lambda: (names.find("a"), names.reserve("b", "reserve"))) == (15, (16, True))
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("locks_work", [True, False])
def test_processes_that_ask_at_once_get_one_id_for_a_name_and_no_id_twice(tmp_path, locks_work):
    """What was appended first counts, even where the file system's locks do nothing."""

    def work(number):
        names = register(tmp_path)
        if not locks_work:
            fcntl.flock = lambda fd, operation: None
        shared = [names.reserve(f"shared {i}", "user", for_all=True) for i in range(40)]
        own = [names.reserve(f"own {number} {i}", "user") for i in range(20)]
        return (
            [tuple(each) for each in shared],
            [tuple(each) for each in own],
            [names.give("reserve") for _ in range(20)],
        )

    start, go = os.pipe()

    def started(number):
        os.read(start, 1)
        return work(number)

    results = [None] * 4
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, in_child(lambda: started(i)))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    os.write(go, b"xxxx")
    for thread in threads:
        thread.join()
    os.close(start)
    os.close(go)
    assert len({tuple(d for d, _ in shared) for shared, _, _ in results}) == 1
    assert [sum(shared[i][1] for shared, _, _ in results) for i in range(40)] == [1] * 40
    of_names = [d for d, _ in results[0][0]] + [d for _, own, _ in results for d, _ in own]
    given = [d for _, _, more in results for d in more]
    assert len(set(of_names)) == 40 + 80
    assert len(set(given)) == 80
    assert all(is_new for _, own, _ in results for _, is_new in own)


@pytest.mark.parametrize("kind", ["user", "reserve"])  # which would have the same id, or another
def test_name_that_another_takes_while_locks_do_nothing_is_its(tmp_path, inject, kind):
    """Both have looked; the claim that stands first in the register counts."""
    one, other, first = register(tmp_path), register(tmp_path), []
    with mock.patch("fcntl.flock"):
        one.give("user")  # which begins the register

    def around(plain):
        def append(fd, data, *place):
            if not place and not first:
                first.append(None)
                first[:] = [other.reserve("name", "user", for_all=True)]
            plain(fd, data, *place)

        return append

    # Private: the moment of what is appended.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register._write_all", around):
        assert one.reserve("name", kind, for_all=True) == (first[0].dimension, False)
        assert one.give("user") > first[0].dimension
    assert first[0].is_new


def test_name_that_is_told_after_it_was_forgotten_while_locks_do_nothing_is_none(tmp_path, inject):
    """Who looked at the folders has the name from the file, and tells it when that is gone."""
    one, reader = register(tmp_path), register(tmp_path)
    with mock.patch("fcntl.flock"):
        for each in (one, reader):  # which know that locks do nothing, and look at no folder any more
            each.give("user")
            assert each.names() == {}
        write(tmp_path, 15, "name")
        late = register(tmp_path)
        assert late.names() == {"name": 15}

    def around(plain):
        def append(fd, data, *place):
            if (tmp_path / "D15").exists():
                shutil.rmtree(tmp_path / "D15")
                one.release(15)
            plain(fd, data, *place)

        return append

    # Private: the moment of what is appended.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register._write_all", around):
        other = late.reserve("other", "user", for_all=True).dimension
    with mock.patch("fcntl.flock"):
        for each in (one, late, reader, register(tmp_path)):
            assert (each.find("name"), each.names()) == (None, {"other": other})


def test_register_that_another_writes_anew_while_locks_do_nothing_is_read_on(tmp_path, inject):
    one, path, replaced = register(tmp_path), tmp_path / LOCK_NAME, []

    def around(plain):
        def append(fd, data, *place):
            plain(fd, data, *place)
            if not place and not replaced:
                replaced.append(path.stat().st_ino)
                shutil.copyfile(path, tmp_path / "new")
                os.rename(tmp_path / "new", path)

        return append

    # Private: the moment of what is appended.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register._write_all", around):
        first = one.reserve("first", "user", for_all=True)
        second = one.reserve("second", "user", for_all=True)
    assert path.stat().st_ino != replaced[0]
    assert register(tmp_path).names() == {"first": first.dimension, "second": second.dimension}


def write_anew(names):
    with names:
        names._write_anew()  # private: else it needs 64 KiB of what is past


@pytest.mark.parametrize("deed", ["release", "reserve", "write anew"])
@pytest.mark.parametrize("releases", [False, True])
def test_nothing_is_lost_in_a_register_that_another_has_just_written_anew_while_locks_do_nothing(
    tmp_path, inject, deed, releases
):
    """Another writes it anew before one appends to the file that it has open, or puts a short one in its place."""
    one, other, done = register(tmp_path), register(tmp_path), []
    with mock.patch("fcntl.flock"):
        given = [other.reserve(f"{i}", "user", for_all=True).dimension for i in range(3)]
    deeds = {
        "release": lambda: one.release(given[0]),
        "reserve": lambda: given.append(one.reserve("3", "user", for_all=True).dimension),
        "write anew": lambda: write_anew(one),
    }
    one.refresh()

    def around(plain):
        def append(fd, data, *place):
            if not place and not done:
                done.append(True)
                write_anew(other)
                if releases:
                    other.release(given[1])
            plain(fd, data, *place)

        return append

    # Private: the moment of what is appended.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register._write_all", around):
        deeds[deed]()
        assert other.give("user") > max(given)
    released = {given[0]} if deed == "release" else set()
    released |= {given[1]} if releases else set()
    expected = {f"{i}": dimension for i, dimension in enumerate(given) if dimension not in released}
    for each in (one, other, register(tmp_path)):
        assert each.names() == expected
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


def two_names_of(other, one):
    """Two names that `other` has reserved and `one` has read, where locks do nothing."""
    with mock.patch("fcntl.flock"):
        given = {name: other.reserve(name, "user", for_all=True).dimension for name in ("first", "second")}
        one.refresh()
    return given


@pytest.mark.parametrize("n_times", [1, 2])
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_nothing_is_lost_if_two_write_a_register_anew_at_once_while_locks_do_nothing(
    tmp_path, inject, n_times, is_interrupted
):
    """The second would replace what the first wrote, and what was appended to that, between its look and its renaming.

    What the first wrote anew twice tells nothing of the names that it released between.
    """
    one, other, done = register(tmp_path), register(tmp_path), []
    given = two_names_of(other, one)

    def around(plain):
        def exchanged(path, name):
            if done:
                return plain(path, name)
            done.append(True)
            write_anew(other)
            given["third"] = other.reserve("third", "user", for_all=True).dimension
            other.release(given.pop("first"))
            for _ in range(n_times - 1):
                write_anew(other)
            is_exchanged = plain(path, name)
            if is_interrupted:
                raise KeyboardInterrupt
            return is_exchanged

        return exchanged

    # Private: the moment between the look and the renaming.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register.exchange", around):
        if is_interrupted:
            with pytest.raises(KeyboardInterrupt):
                write_anew(one)
        else:
            write_anew(one)
        assert [each.names() for each in (one, other, register(tmp_path))] == [given] * 3
        assert other.give("user") > max(given.values())
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


@pytest.mark.parametrize("is_faster", [False, True])
def test_nothing_is_lost_that_is_appended_to_a_register_in_the_moment_it_is_replaced_while_locks_do_nothing(
    tmp_path, inject, is_faster
):
    """One more appends to the new file after it has the name, before what others wrote to the old one is there.

    With `is_faster` another had written it anew already, and that one stays.
    """
    one, other, third, done = register(tmp_path), register(tmp_path), register(tmp_path), []
    given = two_names_of(other, one)

    def around(plain):
        def exchanged(path, name):
            if done:
                return plain(path, name)
            done.append(True)
            if is_faster:
                write_anew(other)
            given["other"] = other.reserve("other", "user", for_all=True).dimension
            is_exchanged = plain(path, name)
            third.release(given.pop("first"))
            return is_exchanged

        return exchanged

    # Private: the same moment.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register.exchange", around):
        write_anew(one)
        assert [each.names() for each in (one, other, third, register(tmp_path))] == [given] * 4
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


def test_register_is_written_anew_where_files_cannot_be_exchanged(tmp_path, inject):
    one, other = register(tmp_path), register(tmp_path)
    given = two_names_of(other, one)
    with mock.patch("fcntl.flock"):
        # Private: no file system of these machines refuses it.
        with inject(OSError(errno.EINVAL, "no flags here"), "jessy_mem.publish._rename"):
            write_anew(one)
        assert [each.names() for each in (one, other, register(tmp_path))] == [given] * 3
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


def test_name_of_a_process_that_has_ended_is_left_out_of_a_register_that_is_written_anew(tmp_path):
    one = register(tmp_path)
    kept = one.reserve("kept", "user", for_all=True).dimension
    gone = in_child(lambda: register(tmp_path).reserve("gone", "user").dimension)
    assert b"gone" in (tmp_path / LOCK_NAME).read_bytes()
    write_anew(one)
    assert b"gone" not in (tmp_path / LOCK_NAME).read_bytes()
    assert register(tmp_path).names() == {"kept": kept}
    assert register(tmp_path).give("user") > max(kept, gone)


# Private: the exchange of two files.
@pytest.mark.parametrize("call", ["jessy_mem.publish._rename", "os.fsync"])
def test_register_that_cannot_be_written_anew_stays_as_it_was(tmp_path, inject, call):
    one, other = register(tmp_path), register(tmp_path)
    with mock.patch("fcntl.flock"):
        given = {name: other.reserve(name, "user", for_all=True).dimension for name in ("first", "second")}
        before = (tmp_path / LOCK_NAME).stat().st_ino
        with inject(OSError(errno.EIO, "the disk"), call), pytest.raises(OSError, match="the disk"):
            write_anew(one)
        assert (tmp_path / LOCK_NAME).stat().st_ino == before
        assert [each.names() for each in (one, other, register(tmp_path))] == [given] * 3
        given["third"] = one.reserve("third", "user", for_all=True).dimension
        assert other.names() == given
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


def test_name_of_a_file_that_another_removes_while_it_is_told_is_free_while_locks_do_nothing(tmp_path, inject):
    one, other, done = register(tmp_path), register(tmp_path), []
    with mock.patch("fcntl.flock"):
        assert other.give("reserve") == 15
        assert one.names() == other.names() == {}
    path = write(tmp_path, 15, "a")
    one.note(15, "a")

    def around(plain):
        def append(fd, data, *place):
            if not place and not done:
                done.append(os.unlink(path))
                other.release(15)
            plain(fd, data, *place)

        return append

    # Private: the moment of what is appended.
    with mock.patch("fcntl.flock"), inject.around("jessy_mem.register._write_all", around):
        expected = {"b": one.reserve("b", "user", for_all=True).dimension}
    for each in (one, other, register(tmp_path)):
        assert each.names() == expected


def test_others_read_only_what_is_new(tmp_path):
    one, other = register(tmp_path), register(tmp_path)
    for i in range(100):
        one.reserve(f"n{i}", "user", for_all=True)
    assert other.find("n99") == 1099
    one.reserve("new", "user", for_all=True)
    read, pread = [], os.pread

    def noted(fd, n_bytes, offset):
        data = pread(fd, n_bytes, offset)
        read.append(len(data))
        return data

    with mock.patch("os.pread", noted):
        assert other.find("new") == 1100
        assert 0 < sum(read) < 250
        read.clear()
        assert other.find("new") == other.find("n5") + 95
        assert other.find("nobody") is None
        assert read == []


def test_who_may_not_write_finds_names_and_changes_nothing(tmp_path):
    write(tmp_path, 15, "a")
    names = register(tmp_path)
    assert (names.find("a"), names.find("b"), names.names()) == (15, None, {"a": 15})
    assert os.listdir(tmp_path) == ["D15"]


# The file ---------------------------------------------------------------------------------------------------------


def test_register_is_written_anew_when_most_of_it_is_past(tmp_path):
    one, other, path = register(tmp_path), register(tmp_path), tmp_path / LOCK_NAME
    kept = {f"kept {i}": one.reserve(f"kept {i}", "user", for_all=True).dimension for i in range(5)}
    other.refresh()
    sizes, inodes = set(), set()
    for i in range(1500):
        one.release(one.reserve(f"gone {i}", "reserve").dimension)
        sizes.add(path.stat().st_size)
        inodes.add(path.stat().st_ino)
    assert max(sizes) <= (64 << 10) + 200
    assert len(inodes) > 1
    assert other.names() == one.names() == register(tmp_path).names() == kept
    assert other.reserve("next", "reserve") == (2**31 + 1500 - 985, True)
    assert register(tmp_path).give("user") == 1005
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_line_that_was_torn_is_passed_over(tmp_path, cut):
    one, path = register(tmp_path), tmp_path / LOCK_NAME
    one.reserve("a", "reserve", for_all=True)
    n_bytes = path.stat().st_size
    one.reserve("b" * 40, "reserve", for_all=True)
    os.truncate(path, max(n_bytes, path.stat().st_size - cut))
    for names in (register(tmp_path), one):
        names.refresh()
    names = register(tmp_path)
    assert names.find("a") == 15
    assert names.find("b" * 40) is None
    assert names.reserve("c", "reserve", for_all=True) == (17, True)  # the first line knows more
    assert register(tmp_path).names() == {"a": 15, "c": 17}
    one.refresh()
    assert one.find("c") == 17


NO_TEXT = b"= 15 \xff"  # under a checksum that is right
TAILS = [
    b"\0" * 5000,
    b"\n\n\n",
    b"x",
    b"\xff" * 3000 + b"\n",
    journal.line("?", 1, 2),
    b"%08x %b\n" % (zlib.crc32(NO_TEXT), NO_TEXT),
]


@pytest.mark.parametrize("tail", TAILS)
def test_what_is_no_line_is_passed_over(tmp_path, tail):
    one = register(tmp_path)
    one.reserve("a", "reserve", for_all=True)
    with (tmp_path / LOCK_NAME).open("ab") as file:
        file.write(tail)
    assert register(tmp_path).reserve("b", "reserve", for_all=True) == (16, True)
    assert one.names() == register(tmp_path).names() == {"a": 15, "b": 16}


@pytest.mark.parametrize("loss", ["unlinked", "empty", "first line", "random", "other journal"])
def test_register_that_is_lost_is_written_from_what_is_known(tmp_path, loss):
    names, path = register(tmp_path), tmp_path / LOCK_NAME
    names.reserve("proto", "reserve")
    names.reserve("ensured", "user", for_all=True)
    write(tmp_path, names.reserve("file", "reserve").dimension, "file")
    if loss == "unlinked":
        path.unlink()
    else:
        content = {
            "empty": b"",
            "first line": journal.first_line((15, 1000)),
            "random": random.Random(1).randbytes(3000),
            "other journal": journal.first_line((15, 1000)) + HEAD,
        }[loss]
        path.write_bytes(content)
    assert names.reserve("more", "reserve").dimension == 17
    assert names.give("user") == 1001
    assert names.find("file") == register(tmp_path).find("file") == 16
    if loss != "other journal":  # which says that there are none
        assert names.names() == register(tmp_path).names() == {"proto": 15, "ensured": 1000, "file": 16, "more": 17}


def test_older_register_that_is_put_back_and_grows_again_is_read_anew(tmp_path):
    """Its end is behind what the other has read of it, and in the midst of a line."""
    one, other, path = register(tmp_path), register(tmp_path), tmp_path / LOCK_NAME
    write(tmp_path, one.reserve("first", "reserve", for_all=True).dimension, "first")
    older = path.read_bytes()
    write(tmp_path, one.reserve("second", "reserve", for_all=True).dimension, "second")
    assert other.names() == {"first": 15, "second": 16}
    path.write_bytes(older)
    for name in ("third", "fourth"):
        write(tmp_path, one.reserve(name, "reserve", for_all=True).dimension, name)
    expected = {"first": 15, "second": 16, "third": 17, "fourth": 18}
    assert one.names() == other.names() == register(tmp_path).names() == expected
    assert [other.reserve(name, "reserve", for_all=True) for name in expected] == [(n, False) for n in range(15, 19)]


@pytest.mark.parametrize("look", [IdRegister.names, lambda names: names.give("reserve")], ids=["reads", "writes"])
@pytest.mark.parametrize("n_lines", range(1, 6))
def test_register_that_was_cut_between_two_lines_is_mended_by_who_knew_it(tmp_path, n_lines, look):
    """It looks whole; others have gone on with it."""
    names, path = register(tmp_path), tmp_path / LOCK_NAME
    names.reserve("proto", "reserve")
    names.reserve("ensured", "user", for_all=True)
    write(tmp_path, names.reserve("file", "reserve").dimension, "file")
    names.reserve("second", "user", for_all=True)
    expected = {"proto": 15, "ensured": 1000, "file": 16, "second": 1001}
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: 1 + n_lines]))
    assert register(tmp_path).reserve("third", "user", for_all=True) == (1002, True)
    look(names)
    assert names.reserve("more", "reserve").dimension in (17, 18)
    assert names.names().items() >= {**expected, "third": 1002}.items()
    assert register(tmp_path).names() == names.names()


def test_register_that_was_replaced_by_another_of_the_same_size_is_read(tmp_path):
    """In the same file, as by `cp`."""
    one, path = register(tmp_path / "one"), tmp_path / "one" / LOCK_NAME
    one.reserve("ann", "reserve", for_all=True)
    assert one.names() == {"ann": 15}
    register(tmp_path / "two").reserve("bob", "reserve", for_all=True)
    path.write_bytes((tmp_path / "two" / LOCK_NAME).read_bytes().ljust(path.stat().st_size, b"\n"))
    assert one.names() == register(tmp_path / "one").names() == {"bob": 15}


@pytest.mark.parametrize("loss", ["unlinked", "empty", "random"])
def test_what_was_named_between_two_losses_of_the_register_is_known(tmp_path, loss):
    """Neither register that the other sees has it; its file does."""
    one, other, path = register(tmp_path), register(tmp_path), tmp_path / LOCK_NAME
    write(tmp_path, one.reserve("first", "reserve", for_all=True).dimension, "first")
    assert other.find("first") == 15
    for name in ("second", "third"):
        if loss == "unlinked":
            path.unlink()
        else:
            path.write_bytes(b"" if loss == "empty" else random.Random(1).randbytes(300))
        if name == "second":
            write(tmp_path, one.reserve(name, "reserve").dimension, name)
    assert other.reserve("second", "reserve") == (16, False)
    assert other.reserve("third", "reserve") == (17, True)
    path.unlink()
    assert other.find("second") == register(tmp_path).find("second") == 16


def hostile_registers() -> list[bytes]:
    chance = random.Random(14)
    first = journal.first_line((15, 1000))
    sound = (
        first
        + HEAD
        + b"".join(
            [journal.line("+", 15 + i, DEAD, "n", f"name {i}") for i in range(5)] + [journal.line("=", 999, "file")]
        )
    )
    big = 10**30
    rows = [
        b"", b"\0", b"\n", b"x" * 43, bytes(44), bytes(10_000), b"%20d %20d" % (0, -1), b"-5 -5", b"1 2 3",
        b"%d %d" % (big, big),
        b"%20d %20d" % (999, 2**31), b"%20d %20d" % (1000, 2**31 + 1), b"\xff" * 44, "\u0661\u0665 \u0661".encode(),
        b"15", b"1e3 1e3",
        first, first + b"\n", first + HEAD[:-1], first + HEAD[:5], first + HEAD + HEAD, first + b"\n" + HEAD,
    ]  # fmt: skip
    for fields in (
        ("+", 0, "-", "n", "x"), ("+", big, "-", "n", "x"), ("+", -1, "-", "n", "x"), ("+", 2**32, "-", "n", "x"),
        ("+", "\u0661\u0665", "-", "n", "x"), ("+", 15), ("+", 15, "-", "n", "x" * 100_000),
        ("=", 15, ""), ("=", 15, "\xff" * 500),
        ("-", 15), ("-", big), ("^", 15, big), ("^", 15, 2**32), ("^", 1000, 2**31), ("^", 1, 2**32), ("^", 0, 0),
        ("^", 40, 20), ("!", "fedcba9876543210"), ("+", 15, "9" * 5000 + ".1.1.1", "n", "x"),
        ("", ""), ("=", 2**32 - 1, "x"),
    ):  # fmt: skip
        rows.append(first + HEAD + journal.line(*fields))
    rows += [sound[:n] for n in range(0, len(sound), 9)]
    for _ in range(200):
        damaged = bytearray(sound)
        for _ in range(chance.choice([1, 1, 2, 8, 64])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        rows.append(bytes(damaged))
    rows += [chance.randbytes(chance.choice([1, 40, 44, 45, 100, 5000])) for _ in range(100)]
    rows += [first + HEAD + chance.randbytes(chance.choice([1, 30, 500, 3000])) for _ in range(100)]
    return rows


@pytest.mark.parametrize("name", ["a b", "100 %", "%0A", "%250A", "two\nlines", " ", ""])
def test_what_is_written_says_what_will_be_read(name):
    told = [
        journal.Event("+", 15, 0, "-", "n", name),
        journal.Event("=", 16, name=name),
        journal.Event("-", 17),
        journal.Event("^", 18, 20),
    ]
    assert list(journal.events(b"".join([event.line() for event in told]))) == told


def test_hostile_registers_give_no_id_twice(tmp_path):
    """Whatever stands in it: an id or LimitExceeded, none of a file, none given since, and names that agree."""
    for number, content in enumerate(hostile_registers()):
        base = tmp_path / str(number)
        for dimension in (16, 1000):
            (base / f"D{dimension}").mkdir(parents=True)
        path = base / LOCK_NAME
        path.write_bytes(content)
        given = []
        for names in (register(base), register(base)):
            names.names()
            names.duplicates()
            for segment in ("reserve", "user"):
                for _ in range(2):
                    with suppress(jm.LimitExceeded):
                        given.append(names.give(segment))
            with suppress(jm.LimitExceeded):
                found = names.reserve("wanted", "user", for_all=True)
                if found.is_new:
                    given.append(found.dimension)
                assert names.find("wanted") == found.dimension == register(base).find("wanted")
        assert len(set(given)) == len(given), content[:200]
        assert not {16, 1000} & set(given)
        assert len(given) >= 4 or b"^" in content
        assert path.stat().st_size < len(content) + 4000


def test_register_of_a_terabyte_of_nothing_is_none(tmp_path):
    path = tmp_path / LOCK_NAME
    path.write_bytes(journal.first_line((20, 1005)) + HEAD)
    os.truncate(path, 1 << 40)
    names = register(tmp_path)
    assert names.find("a") is None
    assert names.reserve("a", "reserve") == (20, True)
    assert path.stat().st_size < 1000
    assert register(tmp_path).find("a") == 20


@pytest.mark.parametrize("call", ["open", "pread", "pwrite", "write", "fsync", "rename", "fstat"])
def test_each_call_that_fails_is_told_and_the_next_try_succeeds(tmp_path, call):
    """Also while the register is written anew; an id may be lost by it, and never be given twice."""
    names, given = register(tmp_path), []
    names.reserve("a", "reserve")
    function, at, n_calls = getattr(os, call), 0, 1

    def fails(*args, **options):
        nonlocal n_calls
        n_calls += 1
        if n_calls == at + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*args, **options)

    errors = []
    # Private: so that the register is written anew at each change, not at one of thousands.
    with mock.patch.object(register_file, "_SMALL_BYTES", 0), mock.patch.object(register_file, "_BYTES_EACH", 0):
        while n_calls > at:
            n_calls = 0
            with mock.patch.object(os, call, fails):
                try:
                    given.append(names.reserve(f"n{at}", "reserve").dimension)
                except jm.MappingError as told:
                    errors.append((told.errno, told.filename))
            assert names.find("a") == register(tmp_path).find("a") == 15
            given.append(register(tmp_path).give("reserve"))
            at += 1
    assert errors
    assert set(errors) == {(errno.ENOSPC, str(tmp_path / LOCK_NAME))}
    assert len(set(given)) == len(given)
    assert sorted(os.listdir(tmp_path)) == [LOCK_NAME]
