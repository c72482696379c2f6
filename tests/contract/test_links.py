"""Links in a base folder: whatever is done there, nothing outside is written, removed, or read unasked.

Each attack is a link, symbolic or hard, in one place of a base folder; then everything is done that a manager, doctor,
import, export and a trace can do. What lies outside is compared to the last byte, name, mode and time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from world import World, content_of, manager

import jessy_mem as jm
from jessy_mem.doctor import clean, examine
from jessy_mem.trace import TraceWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*ended, and lost:ResourceWarning")

LEARNED = 15  # has a delta; D16 has none
TOKEN = ".0123456789abcdef.tmp"


class Place:
    """A base folder with two dimensions, and a folder outside with the same and more."""

    def __init__(self, root: Path) -> None:
        self.root, self.base, self.outside = root, root / "base", root / "outside"
        for each in (self.base, self.outside):
            world = World(each)
            world.write(LEARNED, generation=1)
            world.grow(LEARNED, 2, put=[1])
            world.write(16, generation=1)
        (self.outside / "text").write_text("theirs")
        (self.outside / f"region.mmap{TOKEN}").write_text("theirs")
        self.folder, self.other = self.base / f"D{LEARNED}", self.outside / f"D{LEARNED}"
        (self.other / f".region.mmap{TOKEN}").write_text("theirs")
        self.delta = self.folder / "delta-0000000000000002.mmap"
        with manager(self.base) as memory:  # so that register and page are there
            memory.forget(memory.ensure_dimension("gone", [jm.LayerSpec(text="x")]))
        self.archive = root / "archive.tar"
        jm.export_base(self.outside, self.archive)

    def facts(self) -> dict[str, object]:
        """All that lies outside, but for its links' number."""
        found = {}
        for path in (self.outside, *sorted(self.outside.rglob("*"))):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            found[str(path)] = info.st_ino, info.st_mode, info.st_mtime_ns, info.st_size, content
        return found


def symbolic(path: Path, target: Path | str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def hard(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    os.link(target, path)


def folder_emptied_and(link: Callable[[Path, Path], None], place: Place) -> None:
    """The base file is gone; a temporary file and a delta that lie on nothing are links."""
    (place.folder / "region.mmap").unlink()
    link(place.folder / f".region.mmap{TOKEN}", place.outside / "text")
    link(place.delta, place.other / "delta-0000000000000002.mmap")


ATTACKS: dict[str, Callable[[Place], object]] = {
    "folder": lambda at: symbolic(at.folder, at.other),
    "folder, relative": lambda at: symbolic(at.folder, f"../outside/D{LEARNED}"),
    "folder, by two links": lambda at: (symbolic(at.root / "step", at.other), symbolic(at.folder, at.root / "step")),
    "folder, to nothing": lambda at: symbolic(at.folder, at.outside / "new"),
    "folder, to a file": lambda at: symbolic(at.folder, at.outside / "text"),
    "folder, to itself": lambda at: symbolic(at.folder, at.folder),
    "folder, to that of another dimension outside": lambda at: symbolic(at.folder, at.outside / "D16"),
    "folder, to the base folder": lambda at: symbolic(at.folder, at.base),
    "folder of the next dimension": lambda at: symbolic(at.base / "D18", at.outside / "D16"),
    "folder of the next dimension, to nothing": lambda at: symbolic(at.base / "D18", at.outside / "new"),
    "base file": lambda at: symbolic(at.folder / "region.mmap", at.other / "region.mmap"),
    "base file, to nothing": lambda at: symbolic(at.folder / "region.mmap", at.outside / "new"),
    "base file, to text": lambda at: symbolic(at.folder / "region.mmap", at.outside / "text"),
    "base file, to a device": lambda at: symbolic(at.folder / "region.mmap", "/dev/zero"),
    "base file, hard": lambda at: hard(at.folder / "region.mmap", at.other / "region.mmap"),
    "delta": lambda at: symbolic(at.delta, at.other / at.delta.name),
    "delta, to nothing": lambda at: symbolic(at.delta, at.outside / "new"),
    "delta, hard": lambda at: hard(at.delta, at.other / at.delta.name),
    "delta and temporary on nothing": lambda at: folder_emptied_and(symbolic, at),
    "delta and temporary on nothing, hard": lambda at: folder_emptied_and(hard, at),
    "the next delta": lambda at: symbolic(at.folder / "delta-0000000000000003.mmap", at.outside / "text"),
    "temporary of the base folder": lambda at: symbolic(at.base / f".x{TOKEN}", at.outside / "text"),
    "register": lambda at: symbolic(at.base / ".jessy_mem.lock", at.outside / "text"),
    "register, to nothing": lambda at: symbolic(at.base / ".jessy_mem.lock", at.outside / "new"),
    "register, hard": lambda at: hard(at.base / ".jessy_mem.lock", at.outside / "text"),
    "page of changes": lambda at: symbolic(at.base / ".changes", at.outside / "text"),
    "page of changes, hard": lambda at: hard(at.base / ".changes", at.outside / "text"),
    "trace": lambda at: symbolic(at.base / "trace", at.outside / "text"),
    "trace, hard": lambda at: hard(at.base / "trace", at.outside / "text"),
    "all at once": lambda at: [attack(at) for name, attack in ATTACKS.items() if name in TOGETHER],
}
TOGETHER = ("base file, hard", "delta", "the next delta", "register, hard", "page of changes", "trace")

SPEC = jm.LayerSpec(text="ours")


def trace(memory: jm.MmapManager, at: Place) -> None:
    with memory.record_trace(at.base / "trace"):
        memory.access_layer((16, 0))


DEEDS: dict[str, Callable[[jm.MmapManager, Place], object]] = {
    "load": lambda memory, at: memory.load_all(),
    "read": lambda memory, at: [bytes(view) for view in memory.values()],
    "append": lambda memory, at: memory.append_layer(LEARNED, SPEC),
    "update": lambda memory, at: memory.update_layer((LEARNED, 1), SPEC),
    "remove": lambda memory, at: memory.remove_layer((LEARNED, 0)),
    "extend": lambda memory, at: memory.extend(LEARNED, [SPEC] * 20),
    "compact": lambda memory, at: memory.compact(LEARNED),
    "crystallize": lambda memory, at: memory.crystallize(memory.create_proto_dimension("new", [SPEC])),
    "ensure": lambda memory, at: memory.ensure_dimension("ensured", [SPEC]),
    "sync": lambda memory, at: memory.sync(),
    "refresh": lambda memory, at: memory.refresh(),
    "reload": lambda memory, at: memory.reload_dimension(LEARNED),
    "trace": trace,
    "doctor": lambda memory, at: clean(examine(at.base)),
    "export": lambda memory, at: jm.export_base(at.base, at.root / "exported.tar"),
    "import": lambda memory, at: jm.import_base(at.archive, at.base),
    "import over": lambda memory, at: jm.import_base(at.archive, at.base, replace_existing=True),
    "forget": lambda memory, at: memory.forget(LEARNED),
    "forget all": lambda memory, at: [memory.forget(each) for each in set(memory.names().values())],
    "clean again": lambda memory, at: clean(examine(at.base)),
}


def do_all(at: Place, **options: object) -> dict[str, BaseException]:
    """Do everything; which deeds were refused, and how."""
    refused: dict[str, BaseException] = {}
    try:
        memory = manager(at.base, on_close="drop", **options)
    except (jm.ConsciousnessError, OSError) as error:
        return {"open": error}
    with memory:
        for name, deed in DEEDS.items():
            try:
                deed(memory, at)
            except (jm.ConsciousnessError, OSError) as error:
                refused[name] = error
    return refused


FOLLOWED = {"follow_links": True, "durability": "batch"}


@pytest.mark.parametrize("options", [{}, pytest.param(FOLLOWED, marks=pytest.mark.slow)], ids=["", "followed"])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_outside_is_written_or_removed(name, options, tmp_path):
    at = Place(tmp_path)
    ATTACKS[name](at)
    before = at.facts()
    refused = do_all(at, **options)
    assert at.facts() == before
    for deed, error in refused.items():
        assert isinstance(error, jm.ConsciousnessError), (deed, error)


def test_without_a_link_all_of_it_is_done(tmp_path):
    assert {deed: type(error) for deed, error in do_all(Place(tmp_path)).items()} == {"import": jm.ImportConflict}


SEEN = {  # attack -> the deeds that it must refuse, for it is reached there
    "folder": ["append", "update", "remove", "extend", "compact", "doctor", "import over", "forget"],
    "base file": ["append", "update", "compact", "import"],
    "delta": ["append", "update", "compact", "reload", "import"],
    "register": ["crystallize", "ensure", "append", "export", "forget"],
    "register, hard": ["crystallize", "ensure", "append", "export", "forget"],
    "trace": ["trace"],
    "trace, hard": ["trace"],
}


@pytest.mark.parametrize("name", SEEN)
def test_a_link_is_refused_by_name(name, tmp_path):
    at = Place(tmp_path)
    ATTACKS[name](at)
    refused = do_all(at)
    kinds = {deed: type(refused.get(deed)) for deed in SEEN[name]}
    assert set(kinds.values()) == {jm.LinkRefused}, kinds


LINKED = ("folder", "folder, relative", "folder, by two links", "base file", "delta")


@pytest.mark.parametrize("name", LINKED)
def test_what_is_behind_a_link_is_read_if_that_is_asked_for(name, tmp_path):
    at = Place(tmp_path)
    ATTACKS[name](at)
    with manager(at.base) as memory:
        with pytest.raises(jm.LinkRefused, match="follow_links=True allows it for reading") as caught:
            memory.load_dimension(LEARNED)
        assert caught.value.option == "follow_links"
        assert type(memory.load_all().skipped[LEARNED]) is jm.LinkRefused
        assert bytes(memory.access_layer((16, 0))) == content_of(16, 0)
    assert LEARNED in jm.export_base(at.base, tmp_path / "exported.tar").damaged
    with manager(at.base, follow_links=True) as memory:
        memory.load_all()
        assert bytes(memory.access_layer((LEARNED, 1))) == content_of(LEARNED, 1, 2)
        before = at.facts()
        if name.startswith("folder"):
            with pytest.raises(jm.LinkRefused):
                memory.forget(LEARNED)
        assert at.facts() == before
    with manager(at.base) as memory:
        memory.load_dimension(LEARNED, at.folder / "region.mmap")  # a path that the user names is followed


def test_the_base_folder_itself_may_be_a_link(tmp_path):
    at = Place(tmp_path)
    (tmp_path / "link").symlink_to("base")
    with manager(tmp_path / "link") as memory:
        memory.load_all()
        memory.append_layer(LEARNED, SPEC)
        memory.compact(LEARNED)
        with memory.record_trace(tmp_path / "link" / "trace"):
            memory.access_layer((16, 0))
        memory.forget(LEARNED)
    assert not at.folder.exists()


@pytest.mark.thread_unsafe(reason="the working folder is the process's")
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket"])
def test_what_is_no_file_is_refused_without_waiting(kind, tmp_path):
    at = Place(tmp_path)
    path = at.folder / "region.mmap"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as it:
            here = os.getcwd()
            os.chdir(at.folder)  # a socket's path is short
            try:
                it.bind("region.mmap")
            finally:
                os.chdir(here)
    else:
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("only root makes devices")
    with manager(at.base) as memory:
        for call in (memory.load_dimension, lambda each: memory.append_layer(each, SPEC)):
            with pytest.raises(jm.MappingError):
                call(LEARNED)


# Between the look and the deed


SWAPPED = ("load", "append", "compact", "crystallize", "forget", "import over", "doctor")
CALLS = ("os.open", "os.mkdir", "os.link", "os.rename", "os.unlink", "os.rmdir", "os.scandir", "os.fsync")
CALLS += ("jessy_mem._core.mapped.open_file",)  # which calls openat(2) where no test comes between


class Swap:
    """Puts a link in the place of a folder before call number `number` of the system."""

    def __init__(self, at: Place, folder: Path, number: int) -> None:
        self.at, self.folder, self.left, self.done = at, folder, number, False

    def before(self, plain: Callable) -> Callable:
        def swap_and_call(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                self.done = True
                if self.folder.exists():
                    self.folder.rename(self.at.root / "moved")
                self.folder.symlink_to(self.at.other)
            return plain(*args, **kwargs)

        return swap_and_call


@pytest.mark.parametrize("name", SWAPPED)
def test_a_folder_that_becomes_a_link_before_any_call(name, tmp_path, inject):
    """Before the first call of the system, before the second, and so on: until there are no more."""
    n_swapped = 0
    for number in range(1000):
        at = Place(tmp_path / str(number))
        before = at.facts()
        swap = Swap(at, at.base / "D18" if name == "crystallize" else at.folder, number)
        with manager(at.base, on_close="drop") as memory, contextlib.ExitStack() as stack:
            memory.load_dimension(LEARNED)
            if name == "load":
                memory.unload_dimension(LEARNED)
                memory.load_dimension(LEARNED)
                memory.unload_dimension(LEARNED)
            for call in CALLS:
                injection = stack.enter_context(inject.around(call, swap.before))
                injection.may_miss = True
            with contextlib.suppress(jm.ConsciousnessError, OSError):
                memory.load_dimension(LEARNED) if name == "load" else DEEDS[name](memory, at)
        assert at.facts() == before, f"before call {number}"
        n_swapped += swap.done
        if not swap.done:
            break
        shutil.rmtree(at.root)
    assert n_swapped >= 1


@pytest.mark.thread_unsafe(reason="it swaps a folder as fast as it can, in a thread of its own")
def test_a_folder_that_is_swapped_all_the_time(tmp_path):
    at = Place(tmp_path)
    before = at.facts()
    moved, done = tmp_path / "moved", threading.Event()

    def swap() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                at.folder.rename(moved)
                at.folder.symlink_to(at.other)
                at.folder.unlink()
                moved.rename(at.folder)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(3):
            do_all(at)
    finally:
        done.set()
        thread.join()
    assert at.facts() == before


def test_a_trace_is_not_written_through_a_link(tmp_path):
    (tmp_path / "text").write_text("theirs")
    symbolic(tmp_path / "symbolic", "text")
    hard(tmp_path / "hard", tmp_path / "text")
    for name in ("symbolic", "hard"):
        with pytest.raises(jm.LinkRefused):
            TraceWriter(tmp_path / name)
    assert (tmp_path / "text").read_text() == "theirs"
