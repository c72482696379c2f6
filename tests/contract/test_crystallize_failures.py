"""Whatever call of the system fails while a proto-dimension becomes a file: it stays whole, and nothing else stays."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack, contextmanager

import pytest
from faults import descriptors_left
from world import World, check_states, content_of, manager

import jessy_mem as jm
from helpers import read_region
from jessy_mem._core.changes import CHANGES_NAME, write_page
from jessy_mem.ids import LOCK_NAME

CALLS = (  # what crystallizing calls
    *(f"os.{name}" for name in "open mkdir write fsync link pread".split()),
    "fcntl.flock",
    # They call the system themselves, where a test cannot come between.
    *(f"jessy_mem._core.mapped.{name}" for name in ("read_begin", "Mapping")),
)
UNLOCKING = "fcntl.flock"  # also what unlocks a file that is going to be closed: its failure does no harm
N_BYTES = 70_000


class Proto:
    """A proto-dimension, and what must be true of it as long as it could not become a file."""

    def __init__(self, base) -> None:
        self.base = base
        World(base).write(1)
        write_page(os.path.join(base, CHANGES_NAME))  # made only where it can be: without it nothing fails
        self.memory = manager(base)
        self.memory.load_dimension(1)
        layers = [
            jm.LayerSpec(content=content_of(5, i, n_bytes=N_BYTES), depth=i, frequency=1 + i, keywords=(f"word{i}",))
            for i in range(2)
        ]
        self.dimension = self.memory.create_proto_dimension("Unharmed", layers)
        self.region = self.memory.region(self.dimension)
        self.used_bytes = self.memory.get_stats().total_allocated_bytes

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        del self.region
        self.memory.close()

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.base))
            for path in self.base.rglob("*")
            if path.name not in (LOCK_NAME, CHANGES_NAME)
        )

    def check_content(self, source: str) -> None:
        for i in range(2):
            view = self.memory.access_layer((self.dimension, i))
            assert bytes(view) == content_of(5, i, n_bytes=N_BYTES)
            assert (view.source, view.depth, view.frequency) == (source, i, 1 + i)
            assert self.memory.layers(keyword=f"word{i}") == [(self.dimension, i)]

    def check_unharmed(self) -> None:
        assert self.memory.region(self.dimension) is self.region
        self.check_content("pool")
        assert self.region.verify() == []
        stats = self.memory.get_stats()
        check_states(stats)
        assert stats.total_allocated_bytes == self.used_bytes
        assert stats.crystallization_count == 0
        assert self.files() == ["D01", "D01/region.mmap"]

    def check_crystallized(self) -> None:
        self.check_content("mmap")
        assert self.files() == ["D01", "D01/region.mmap", "D15", "D15/region.mmap"]
        data = (self.base / "D15" / "region.mmap").read_bytes()
        assert data == bytes(self.region)
        assert len(read_region(data).layers) == 2
        self.region = None
        stats = self.memory.get_stats()
        check_states(stats)
        assert stats.pool.used_bytes == 0
        assert stats.leased_bytes == 0


@pytest.fixture
def proto(tmp_path):
    with Proto(tmp_path) as made:
        yield made


def failure_of(proto: Proto) -> BaseException | None:
    """What crystallizing raises; None if it succeeds."""
    try:
        proto.memory.crystallize(proto.dimension)
    except BaseException as error:
        return error
    return None


FAULTS = [  # the call, its errno, how often it is called at least
    ("os.open", errno.EMFILE, 4),
    ("os.open", errno.EACCES, 4),
    ("os.mkdir", errno.EDQUOT, 1),
    ("os.write", errno.ENOSPC, 1),
    ("os.write", errno.EIO, 1),
    ("os.fsync", errno.EIO, 3),
    ("os.fsync", errno.ENOSPC, 3),
    ("os.link", errno.EIO, 1),
    ("os.pread", errno.EIO, 1),
    ("fcntl.flock", errno.ENOLCK, 1),
    ("jessy_mem._core.mapped.read_begin", errno.EIO, 1),  # see CALLS
    ("jessy_mem._core.mapped.Mapping", errno.ENOMEM, 1),  # see CALLS
]


@pytest.mark.parametrize(("call", "number", "n_calls"), FAULTS, ids=[f"{c}-{errno.errorcode[n]}" for c, n, _ in FAULTS])
def test_each_failing_call_leaves_the_proto_dimension_unharmed(proto, inject, call, number, n_calls):
    """The first call of its kind fails, then the second, until there is none left to fail."""
    kept = []
    for fault in inject.one_by_one(
        lambda at: inject(OSError(number, os.strerror(number)), call, at=at, for_good=False), n_calls
    ):
        with fault:
            failed = failure_of(proto)
        if failed is None:
            assert not fault.fired or call == UNLOCKING, "a failure was passed over"
            break
        kept.append(failed)
        assert type(kept[-1]) is jm.MappingError
        assert kept[-1].errno == number
        assert kept[-1].filename.startswith(str(proto.base))
        proto.check_unharmed()
    assert failed is None
    proto.check_crystallized()  # though all errors, with their tracebacks, are still there


@pytest.mark.parametrize("call", ["os.open", "os.write", "os.fsync", "os.link", *CALLS[-2:]])
def test_call_that_fails_for_good_leaves_the_proto_dimension_unharmed(proto, inject, call):
    """The way back fails at the same call, too."""
    for fault in inject.one_by_one(lambda at: inject(OSError(errno.EIO, "I/O error"), call, at=at)):
        with fault:
            failed = failure_of(proto)
        if failed is None:
            assert not fault.fired or call == UNLOCKING, "a failure was passed over"
            break
        assert isinstance(failed, jm.MappingError)
        assert failed.errno == errno.EIO
        proto.check_unharmed()
    assert failed is None
    proto.check_crystallized()


def test_interrupt_at_each_call_leaves_it_in_the_pool_or_in_the_file(proto, inject):
    """Ctrl-C comes at any moment: no state is lost, and crystallizing again ends well."""
    for fault in inject.one_by_one(lambda at: inject(KeyboardInterrupt(), *CALLS, at=at, for_good=False), at_least=12):
        with fault:
            failed = failure_of(proto)
        assert type(failed) is (KeyboardInterrupt if fault.fired else type(None))
        if proto.memory.access_layer((proto.dimension, 0)).source == "mmap":
            break
        proto.check_unharmed()
    proto.check_crystallized()


def test_file_that_cannot_be_taken_back_is_taken_by_the_next_try(proto, inject):
    """The folder could not be synced, and then the file not be removed: it is ours, and no other's."""
    path = proto.base / "D15" / "region.mmap"
    fsync = inject(OSError(errno.EIO, "I/O error"), "os.fsync", at=1)
    unlink = inject(OSError(errno.EROFS, "Read-only file system"), "os.unlink")
    with fsync, unlink, pytest.raises(jm.MappingError) as failed:
        proto.memory.crystallize(proto.dimension)
    assert failed.value.errno == errno.EIO
    assert path.exists()
    proto.check_content("pool")
    assert proto.memory.crystallize(proto.dimension) == path
    proto.check_crystallized()


def test_file_that_cannot_be_taken_back_is_forgotten_with_its_dimension(proto, inject):
    fsync = inject(OSError(errno.EIO, "I/O error"), "os.fsync", at=1)
    unlink = inject(OSError(errno.EROFS, "Read-only file system"), "os.unlink")
    with fsync, unlink, pytest.raises(jm.MappingError):
        proto.memory.crystallize(proto.dimension)
    proto.memory.forget(proto.dimension)
    assert proto.files() == ["D01", "D01/region.mmap"]


def test_file_that_was_damaged_while_it_was_written_is_not_taken(proto, inject):
    """What is mapped must be what was in the pool: the disk returned other bytes than it was given."""
    write = os.write

    def damaged(fd, data):
        return write(fd, bytes(data[:50]) + b"\xff" + bytes(data[51:]))

    with inject.instead("os.write", damaged), pytest.raises(jm.InvalidRegion):
        proto.memory.crystallize(proto.dimension)
    proto.check_unharmed()


def test_file_that_cannot_be_closed_is_not_taken(proto, inject):
    """Some systems tell of a failed write only then."""
    close = os.close
    files = []

    def fails_once(fd):
        close(fd)
        files.append(fd)
        if len(files) == 1:
            raise OSError(errno.EIO, "I/O error")

    with inject.instead("os.close", fails_once), pytest.raises(jm.MappingError) as failed:
        proto.memory.crystallize(proto.dimension)
    assert failed.value.errno == errno.EIO
    assert failed.value.filename == str(proto.base / "D15" / "region.mmap")
    proto.check_unharmed()
    proto.memory.crystallize(proto.dimension)
    proto.check_crystallized()


def test_short_writes_are_continued(proto, inject):
    write = os.write
    sizes = []

    def short(fd, data):
        sizes.append(write(fd, data[:10_007]))
        return sizes[-1]

    with inject.instead("os.write", short):
        proto.memory.crystallize(proto.dimension)
    assert len(sizes) > 10
    proto.check_crystallized()


def test_short_write_before_the_disk_is_full(proto):
    """A real one: the system writes what it may, and then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (N_BYTES, hard))
    try:
        with pytest.raises(jm.MappingError) as failed:
            proto.memory.crystallize(proto.dimension)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.errno == errno.EFBIG
    assert failed.value.filename == str(proto.base / "D15" / "region.mmap")
    proto.check_unharmed()
    proto.memory.crystallize(proto.dimension)
    proto.check_crystallized()


@contextmanager
def order_of(inject, *names: str):
    """A list of the calls of these functions of os: name, inode and bytes of the file at that time (0 of a path)."""
    calls = []

    def noted(name, function):
        def call(target, *args, **options):
            function(target, *args, **options)
            info = os.fstat(target) if isinstance(target, int) else None
            calls.append((name, info.st_ino, info.st_size) if info else (name, 0, 0))

        return call

    with ExitStack() as patches:
        for name in names:
            patches.enter_context(inject.instead(f"os.{name}", noted(name, getattr(os, name))))
        yield calls


def test_name_is_given_to_what_is_on_the_disk_and_is_there_itself_on_return(proto, inject):
    """A power cut between any two calls finds the whole file, or none."""
    with order_of(inject, "fsync", "link") as calls:
        path = proto.memory.crystallize(proto.dimension)
    file, folder, base = (each.stat() for each in (path, path.parent, proto.base))
    assert calls == [
        ("fsync", file.st_ino, proto.region.size),
        ("link", 0, 0),
        ("fsync", folder.st_ino, folder.st_size),
        ("fsync", base.st_ino, base.st_size),
    ]
    proto.check_crystallized()


def test_base_folder_is_on_the_disk_before_anything_in_it(tmp_path, inject):
    base = tmp_path / "a" / "b"
    with manager(base) as memory:
        with order_of(inject, "fsync") as calls:
            memory.create_proto_dimension("First", [jm.LayerSpec(text="x")])
            memory.create_proto_dimension("Second", [jm.LayerSpec(text="x")])
        assert [inode for _, inode, _ in calls] == [base.parent.stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("call", ["mkdir", "fsync"])
@pytest.mark.parametrize("at", [0, 1])
def test_base_folder_that_cannot_be_made_durable_is_not_left(tmp_path, inject, call, at):
    fault = inject(OSError(errno.EIO, "I/O error"), f"os.{call}", at=at, for_good=False)
    with manager(tmp_path / "a" / "b") as memory:
        with fault, pytest.raises(jm.MappingError) as failed:
            memory.create_proto_dimension("First", [jm.LayerSpec(text="x")])
        assert failed.value.errno == errno.EIO
        assert memory.get_stats().total_allocated_bytes == 0
        assert list(tmp_path.iterdir()) == []
        assert memory.create_proto_dimension("First", [jm.LayerSpec(text="x")]) == 15


def test_ids_are_on_the_disk_before_a_folder_goes_and_that_it_went_on_return(proto, inject):
    proto.memory.crystallize(proto.dimension)
    with order_of(inject, "fsync", "unlink", "rmdir") as calls:
        proto.memory.forget(proto.dimension)
    register, base = (proto.base / LOCK_NAME).stat(), proto.base.stat()
    line_bytes = register.st_size - calls[0][2]  # the name is let go once more when the file has gone
    assert 0 < line_bytes < 64
    assert calls == [
        ("fsync", register.st_ino, register.st_size - line_bytes),
        ("unlink", 0, 0),
        ("rmdir", 0, 0),
        ("fsync", base.st_ino, base.st_size),
    ]


@pytest.mark.parametrize("n_left", [0, 1])
def test_no_descriptor_left(proto, n_left):
    """A real one: the lock takes the last descriptor, or finds none."""
    with descriptors_left(n_left), pytest.raises(jm.MappingError) as failed:
        proto.memory.crystallize(proto.dimension)
    assert failed.value.errno == errno.EMFILE
    assert failed.value.filename
    proto.check_unharmed()
    proto.memory.crystallize(proto.dimension)
    proto.check_crystallized()


def test_folder_in_the_way(proto):
    (proto.base / "D15").write_bytes(b"a file where the folder should be")
    with pytest.raises(jm.MappingError) as failed:
        proto.memory.crystallize(proto.dimension)
    assert failed.value.errno == errno.ENOTDIR
    (proto.base / "D15").unlink()
    proto.check_unharmed()
