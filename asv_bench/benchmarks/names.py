"""Names and ids: finding one among many, a start with many files, giving one; many files made durable at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import jessy_mem as jm
from jessy_mem.batch import Batch, publish_many
from jessy_mem.ids import LOCK_NAME, IdRegister
from jessy_mem.publish import NewFile

from . import common
from .learning import publish

N_NAMES = 200 if common.SMALL else 100_000
N_FILES = 20 if common.SMALL else 1000
N_TURNS = 1 if common.SMALL else 5


def register(base: Path) -> IdRegister:
    return IdRegister(os.fspath(base), jm.default_layout())


class Names:
    """A base folder with region files of 100,000 users, made once and kept in the folder for temporary files."""

    timeout = 1800

    def setup_cache(self) -> str:
        base = Path(tempfile.gettempdir()) / f"jessy_mem-names-{os.getuid()}-{N_NAMES}-{jm.__version__}"
        if not base.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{base.name}-", dir=base.parent) as made:
                self.build(Path(made) / "base")
                os.rename(Path(made) / "base", base)
        return os.fspath(base)

    def build(self, base: Path) -> None:
        data = bytearray(jm.RegionBuilder(1, "x" * 12).add_layer(jm.LayerSpec(text="x")).to_bytes())
        for i in range(N_NAMES):
            data[:4] = (1000 + i).to_bytes(4, "little")
            data[8:20] = b"user:%07d" % i
            (base / f"D{1000 + i}").mkdir(parents=True)
            (base / f"D{1000 + i}" / "region.mmap").write_bytes(data)


class Find(Names):
    """find of a name among 100,000. Bar: 1 us warm."""

    def setup(self, base: str) -> None:
        self.find = register(Path(base)).find
        assert self.find(f"user:{N_NAMES - 1:07d}") == 1000 + N_NAMES - 1
        self.names = [f"user:{i:07d}" for i in range(0, N_NAMES, max(1, N_NAMES // 1000))]

    def track_find(self, base: str) -> float:
        find, names = self.find, self.names
        best = float("inf")
        for _ in range(20):
            begin = time.perf_counter()
            for name in names:
                find(name)
            best = min(best, (time.perf_counter() - begin) / len(names))
        return best * 1e9

    track_find.unit = "ns"


class Start(Names):
    """Names known in a new process: from the headers of 100,000 files, or from the register. Bar: 2 s."""

    params = ("files", "register")
    param_names = ("from",)

    def setup(self, base: str, source: str) -> None:
        self.path = Path(base) / LOCK_NAME
        self.path.unlink(missing_ok=True)
        if source == "register":
            names = register(Path(base))
            names.release(names.reserve("one more", "user").dimension)  # which says all the others too

    def track_start(self, base: str, source: str) -> float:
        begin = time.perf_counter()
        names = register(Path(base)).names()
        passed_s = time.perf_counter() - begin
        assert len(names) == N_NAMES
        return passed_s

    track_start.unit = "s"


class Give:
    """reserve of a new name, and give of an id."""

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.register = register(Path(self.folder.name))
        self.numbers = count()
        self.register.give("user")

    def teardown(self) -> None:
        self.folder.cleanup()

    def time_reserve(self) -> None:
        self.register.reserve(f"user:{next(self.numbers)}", "user", for_all=True)

    def time_give(self) -> None:
        self.register.give("user")


class Publish:
    """1,000 new files of 1 KiB in folders of their own side by side, and 1,000 in a batch, against one by one."""

    timeout = 600

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=".")
        self.bases = (Path(self.folder.name).resolve() / str(i) for i in count())
        self.data = os.urandom(1024)

    def teardown(self) -> None:
        self.folder.cleanup()

    def files(self, n_files: int) -> list[NewFile]:
        base = next(self.bases)
        return [NewFile(base / f"D{1000 + i}" / "region.mmap") for i in range(n_files)]

    def one_by_one(self) -> float:
        files = self.files(max(1, N_FILES // 10))
        begin = time.perf_counter()
        for file in files:
            file.publish([self.data])
        return (time.perf_counter() - begin) / len(files)

    def side_by_side(self) -> float:
        files = self.files(N_FILES)
        begin = time.perf_counter()
        publish_many([(file, [self.data]) for file in files])
        return (time.perf_counter() - begin) / len(files)

    def in_a_batch(self) -> float:
        base, batch = next(self.bases), Batch()
        files = [NewFile(base / "D1000" / f"delta-{i:016d}.mmap") for i in range(N_FILES)]
        begin = time.perf_counter()
        for file in files:
            batch.publish(file, [self.data])
        passed_s = (time.perf_counter() - begin) / len(files)
        batch.sync()
        return passed_s

    def one_of_a_folder(self) -> float:
        base = next(self.bases)
        files = [NewFile(base / "D1000" / f"delta-{i:016d}.mmap") for i in range(max(1, N_FILES // 10))]
        begin = time.perf_counter()
        for file in files:
            file.publish([self.data])
        return (time.perf_counter() - begin) / len(files)

    def bare(self) -> float:
        base = next(self.bases)
        base.mkdir()
        n_files = max(1, N_FILES // 10)
        begin = time.perf_counter()
        for i in range(n_files):
            publish(base, self.data)
            os.rename(base / "file", base / str(i))
        return (time.perf_counter() - begin) / n_files

    def ratio(self, one: Callable[[], float], other: Callable[[], float]) -> float:
        """The median of the ratios of turns that follow each other: what else the disk does changes."""
        ratios = sorted(one() / other() for _ in range(N_TURNS))
        return ratios[len(ratios) // 2]

    def track_side_by_side(self) -> float:
        """How many times as fast as one by one. Bar: 4."""
        return self.ratio(self.one_by_one, self.side_by_side)

    def track_batch(self) -> float:
        """How many times as fast as durable each. Bar: 20."""
        return self.ratio(self.one_of_a_folder, self.in_a_batch)

    def track_bare(self) -> float:
        """One file, over write, fsync, rename and fsync of the folder. Bar: 1.3."""
        return self.ratio(self.one_of_a_folder, self.bare)

    track_side_by_side.unit = track_batch.unit = track_bare.unit = "x"
