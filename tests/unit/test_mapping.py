"""Mapped memory: what it shows, what it refuses, and when it goes."""

from __future__ import annotations

import os
import pickle
import threading
from contextlib import suppress

import pytest

from helpers import HAS_PROC, mapped_regions, open_files
from jessy_mem._core.mapping import Mapping, UnmapTogether

PAGE = os.sysconf("SC_PAGE_SIZE")

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="reads /proc")


@pytest.fixture
def mapped(tmp_path):
    """Map a new file of `n_bytes`, named as regions are."""

    def make(n_bytes: int = 5000, **options):
        path = make.path(len(list(tmp_path.iterdir())))
        path.write_bytes(b"x" * n_bytes)
        fd = os.open(path, os.O_RDONLY)
        try:
            return Mapping(n_bytes, fd, **options)
        finally:
            os.close(fd)

    make.path = lambda number: tmp_path / f"{number}.mmap"
    return make


def test_file_is_shown_read_only(mapped):
    mapping = mapped()
    with memoryview(mapping) as view:
        assert view.readonly
        assert view == b"x" * 5000
    assert (mapping.n_bytes, mapping.writable) == (5000, False)


@needs_proc
def test_no_descriptor_stays_open(mapped):
    before = open_files()
    mapping = mapped()
    assert open_files() == before
    assert bytes(memoryview(mapping)[:1]) == b"x"


@pytest.mark.parametrize("options", [{}, {"huge": True}, {"reserve": True}], ids=["plain", "huge", "reserve"])
@pytest.mark.parametrize("n_bytes", [1, 4096, 3 << 20])
def test_memory_without_a_file_is_zeroed_and_writable(n_bytes, options):
    mapping = Mapping(n_bytes, **options)
    with memoryview(mapping) as view:
        assert view == bytes(n_bytes)
        view[-1] = 7
        assert view[-1] == 7
    assert mapping.writable


@needs_proc
def test_reserved_memory_counts_when_it_is_touched():
    mapping = Mapping(1 << 40, reserve=True)  # more than any machine here has
    with memoryview(mapping) as view:
        view[1 << 39] = 7
        assert (view[1 << 39], view[-1]) == (7, 0)


@needs_proc
def test_mapping_goes_with_its_last_view(mapped):
    mapping = mapped()
    views = [memoryview(mapping) for _ in range(3)]
    del mapping
    assert len(mapped_regions()) == 1
    while views:
        assert bytes(views.pop()[:2]) == b"xx"
        if views:
            assert len(mapped_regions()) == 1
    assert mapped_regions() == []


def test_pages_that_the_file_does_not_have_are_zeros(mapped):
    mapping = mapped(1)
    assert bytes(memoryview(mapping)) == b"x"
    mapping = mapped(3 * PAGE)
    os.truncate(mapped.path(1), PAGE)
    assert bytes(memoryview(mapping)) == b"x" * PAGE + bytes(2 * PAGE)


def test_pages_that_the_system_does_not_tell_of_are_an_error(mapped, tmp_path):
    mapping = mapped(3 * PAGE)
    with (tmp_path / "pagemap").open("x+b") as nothing, pytest.raises(OSError, match=r"\[Errno"):
        mapping.own_bytes(nothing.fileno())


def test_only_a_whole_file_moves_and_only_to_as_many_bytes(mapped):
    assert Mapping(PAGE).move(Mapping(PAGE)) is False, "it is no file's"
    mapping = mapped(PAGE)
    assert mapping.move(mapping) is False
    assert mapping.move(Mapping(2 * PAGE)) is False
    assert bytes(memoryview(mapping)) == b"x" * PAGE
    os.truncate(mapped.path(0), 0)
    assert bytes(memoryview(mapping)) == bytes(PAGE)
    assert mapping.move(Mapping(PAGE)) is False, "its pages are gone"


def test_who_has_moved_is_empty(mapped):
    mapping, copy = mapped(PAGE), Mapping(PAGE)
    memoryview(copy)[:] = b"z" * PAGE
    assert mapping.move(copy)
    assert (bytes(memoryview(mapping)), bytes(memoryview(copy)), copy.n_bytes) == (b"z" * PAGE, b"", 0)


@pytest.mark.thread_unsafe(reason="a descriptor that is closed may be another thread's next")
def test_refusals(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        Mapping(0, fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Mapping(100, fd)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Mapping(1 << 62)
    with pytest.raises(OverflowError):
        Mapping(-1)
    with pytest.raises(TypeError, match="copied or pickled"):
        pickle.dumps(Mapping(1))


# Unmapping together -----------------------------------------------------------------------------------------------


@needs_proc
def test_what_is_dropped_together_goes_at_the_end(mapped):
    held = mapped()
    with UnmapTogether():
        dropped = [mapped(n_bytes) for n_bytes in (1, PAGE, PAGE + 1, 10 * PAGE, 5000)]
        dropped.clear()
        assert len(mapped_regions()) == 6
    (line,) = mapped_regions()
    assert line.endswith("/0.mmap")
    assert bytes(memoryview(held)) == b"x" * 5000


@needs_proc
def test_neighbours_of_what_goes_stay(mapped):
    """Of mappings side by side each second one goes: no range may be taken for longer than it is."""
    mappings = [mapped(size) for size in (PAGE, 3 * PAGE, 100, 2 * PAGE, PAGE, 7 * PAGE, 1) * 20]
    with UnmapTogether():
        del mappings[::2]
    assert len(mapped_regions()) == len(mappings)
    assert all(bytes(memoryview(each)) == b"x" * each.n_bytes for each in mappings)


@needs_proc
def test_the_outermost_end_counts(mapped):
    with UnmapTogether():
        with UnmapTogether():
            mapped()
        assert len(mapped_regions()) == 1
    assert mapped_regions() == []
    mapped()
    assert mapped_regions() == []  # at once again


@needs_proc
def test_an_exception_leaves_nothing_behind(mapped):
    with suppress(ZeroDivisionError), UnmapTogether():
        mapped()
        raise ZeroDivisionError
    assert mapped_regions() == []


@needs_proc
def test_another_thread_does_not_wait_for_the_end(mapped):
    found = []

    def drop():
        mapped()
        found.append(mapped_regions())

    with UnmapTogether():
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
    assert found == [[]]
