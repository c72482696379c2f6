"""A base folder in a tar: of one moment, carried whole, and believed nothing when it comes back."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from commands import fails, flip, json_of, run

import jessy_mem as jm
from helpers import Layer, extended_file

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

BASE, DELTA = "D15/region.mmap", "D15/delta-0000000000000002.mmap"


def learn(base: Path, name: str, *texts: str, user: bool = False) -> int:
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        dimension = memory.ensure_dimension(name, user=user)
        for text in texts:
            memory.append_layer(dimension, jm.LayerSpec(text=text))
    return dimension


def contents(base: Path) -> dict[tuple[int, int], str]:
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        memory.load_all()
        return {tuple(layer): view.text for layer, view in memory.items()}


def files(base: Path) -> dict[str, bytes]:
    return {str(path.relative_to(base)): path.read_bytes() for path in sorted(base.rglob("*.mmap"))}


@pytest.fixture
def base(tmp_path):
    """Two dimensions, of which D15 has grown, and an immutable one."""
    learn(tmp_path / "base", "tea", "a" * 1000, "b")
    learn(tmp_path / "base", "user:ann", "c", user=True)
    builder = jm.RegionBuilder(16, "stone", immutable=True).add_layer(jm.LayerSpec(text="d"))
    builder.write(tmp_path / "base" / "D16" / "region.mmap")
    return tmp_path / "base"


@pytest.mark.parametrize("order", [[20, 21, 22], [22, 21, 20], [21, 20, 22]])
def test_folder_in_which_several_have_one_name_comes_back_as_it_was(tmp_path, order):
    """It is no conflict among those that come: or an archive of such a folder is none, and half of it comes in."""
    source, base = tmp_path / "source", tmp_path / "base"
    for dimension in order:
        builder = jm.RegionBuilder(dimension, "twice").add_layer(jm.LayerSpec(text=f"{dimension}"))
        builder.write(source / f"D{dimension}" / "region.mmap")
    jm.export_base(source, tmp_path / "x.tar")
    assert jm.import_base(tmp_path / "x.tar", base) == ([20, 21, 22], [], [])
    assert jm.import_base(tmp_path / "x.tar", base) == ([], [], [20, 21, 22])
    assert files(base) == files(source)
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        assert memory.find("twice") == 20
        memory.forget(20)
        assert memory.find("twice") == 21
    assert jm.import_base(tmp_path / "x.tar", base) == ([20], [], [21, 22])


def test_name_that_one_of_the_folder_has_is_a_conflict_for_all_that_come_with_it(tmp_path):
    source, base = tmp_path / "source", tmp_path / "base"
    for dimension in (20, 21):
        jm.RegionBuilder(dimension, "twice").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(source, dimension))
    jm.export_base(source, tmp_path / "x.tar")
    assert learn(base, "twice", "mine") == 15
    with pytest.raises(jm.ImportConflict) as refused:
        jm.import_base(tmp_path / "x.tar", base)
    assert refused.value.dimensions.keys() == {20, 21}
    assert contents(base) == {(15, 0): "mine"}


@pytest.mark.parametrize("kind", [np.str_, Path, str])
def test_path_of_any_kind_names_the_same_folder(base, tmp_path, kind):
    region = base / "D15" / "region.mmap"
    assert jm.export_base(kind(base), kind(tmp_path / "memory.tar")).dimensions == [15, 16, 1000]
    assert jm.region_path(kind(base), 15) == region
    assert jm.stack_files(kind(region)) == [region, base / DELTA]
    assert jm.verify_region(kind(region)) == []
    assert [each.dimension for each in jm.MemoryMap.of_folder(kind(base)).present] == [15, 16, 1000]
    with jm.MmapRegion(15, kind(region)) as opened:
        assert opened.path == region


def test_path_of_bytes_is_a_type_error(base, tmp_path):
    with pytest.raises(TypeError, match="path of bytes"):
        jm.export_base(os.fsencode(base), tmp_path / "memory.tar")
    with pytest.raises(TypeError, match="path of bytes"):
        jm.region_path(os.fsencode(base), 15)


@pytest.fixture
def archive(base, tmp_path):
    run("export", base, tmp_path / "out.tar")
    return tmp_path / "out.tar"


class TestExport:
    @pytest.mark.parametrize("file", [DELTA, BASE])
    def test_a_file_that_is_shortened_between_its_checksum_and_its_writing(self, file, base, tmp_path):
        path = base / file

        def shorten(done, total):
            if done == total:
                os.truncate(path, 0)

        with pytest.raises(jm.RegionTruncated) as caught:
            jm.export_base(base, tmp_path / "out.tar", shorten)
        assert caught.value.path == str(path)
        assert [each.name for each in tmp_path.iterdir()] == ["base"]

    def test_other_tools_can_read_it(self, base, archive, tmp_path):
        (tmp_path / "out").mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "out"], check=True)
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
        assert files(tmp_path / "out") == files(base)
        assert {"D15/region.mmap", DELTA, "D16/region.mmap", "D1000/region.mmap"} == set(files(base))
        with tarfile.open(archive) as tar:
            assert tar.getnames()[0] == "SHA256SUMS"

    def test_what_it_tells(self, base, tmp_path):
        found = json_of(run("export", base, tmp_path / "x.tar", "--json"))
        assert (found["dimensions"], found["files"], found["damaged"]) == ([15, 16, 1000], 4, {})
        assert found["size_bytes"] == sum(map(len, files(base).values()))

    def test_the_same_folder_gives_the_same_bytes(self, base, archive, tmp_path):
        run("export", base, tmp_path / "again.tar")
        assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()

    def test_what_is_damaged_is_left_out_and_told_of(self, base, tmp_path):
        flip(base / DELTA)
        result = run("export", base, tmp_path / "x.tar")
        assert result.exit_code == 1
        assert result.stderr.startswith("warning: left out: ")
        assert DELTA in result.stderr
        assert json_of(run("import", tmp_path / "x.tar", tmp_path / "new", "--json"))["added"] == [16, 1000]

    def test_a_delta_that_is_in_its_base_already_is_not_exported(self, base, tmp_path):
        stale = (base / DELTA).read_bytes()
        with jm.MmapManager(base_path=base, simulation="never") as memory:
            memory.load_dimension(15)
            memory.compact(15)
        (base / DELTA).write_bytes(stale)
        assert json_of(run("export", base, tmp_path / "x.tar", "--json"))["files"] == 3

    def test_nothing_but_damage_is_an_error(self, tmp_path):
        learn(tmp_path / "base", "tea", "a")
        flip(tmp_path / "base" / BASE)
        fails(run("export", tmp_path / "base", tmp_path / "x.tar"), 1, "nothing is exported", BASE)
        assert not (tmp_path / "x.tar").exists()

    def test_a_folder_without_a_base_is_no_dimension(self, base, tmp_path):
        (base / "D17").mkdir()
        assert jm.export_base(base, tmp_path / "x.tar").dimensions == [15, 16, 1000]

    def test_a_lock_that_fails_is_told(self, base, tmp_path, inject):
        with (
            inject(OSError(errno.EIO, "I/O error"), "fcntl.flock"),
            pytest.raises(jm.MappingError, match="I/O error"),
        ):
            jm.export_base(base, tmp_path / "x.tar")
        assert not (tmp_path / "x.tar").exists()

    def test_no_dimension_is_an_error(self, tmp_path):
        (tmp_path / "empty").mkdir()
        fails(run("export", tmp_path / "empty", tmp_path / "x.tar"), 1, "no dimension")
        assert not (tmp_path / "x.tar").exists()

    def test_what_is_no_file_is_not_replaced(self, base, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        fails(run("export", base, tmp_path / "fifo"), 1, "regular file")
        assert (tmp_path / "fifo").is_fifo()

    def test_a_folder_that_cannot_be_locked(self, base, archive, tmp_path, inject):
        """It is looked at until two looks show the same: here, a dimension grows at the first one."""
        looks = []

        def and_change(opened):
            def look(path):
                found = opened(path)
                looks.append(path)
                if len(looks) == 1:
                    (base / DELTA).unlink()
                return found

            return look

        def refuse(self):
            raise jm.MappingError(errno.EROFS, "Read-only file system", base)

        # Private: a folder without a lock, and the moment between two looks.
        no_lock = inject.instead("jessy_mem.archive.IdRegister.__enter__", refuse)
        # Again.
        with no_lock, inject.around("jessy_mem.archive._opened", and_change):
            assert jm.export_base(base, tmp_path / "x.tar").n_files == 3
        assert len(looks) == 3

    def test_it_is_of_one_moment(self, tmp_path):
        """A writer appends the same number to two dimensions, one after the other: what is exported differs by one."""
        base, stop, failed = tmp_path / "base", threading.Event(), []

        def write():
            try:
                with jm.MmapManager(base_path=base, simulation="never") as memory:
                    both = [memory.ensure_dimension(name) for name in ("one", "two")]
                    number = 0
                    # A pause as long as the longest between two looks for the lock: who waits for it gets it.
                    while not stop.wait(0.01):
                        for dimension in both:
                            memory.append_layer(dimension, jm.LayerSpec(text=str(number)))
                        number += 1
                        begun.set()
            except BaseException as error:
                failed.append(error)
                begun.set()

        begun = threading.Event()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            begun.wait()
            for n in range(4):
                jm.export_base(base, tmp_path / f"{n}.tar")
        finally:
            stop.set()
            writer.join()
        assert not failed
        for n in range(4):
            jm.import_base(tmp_path / f"{n}.tar", tmp_path / str(n))
            found = [layer[0] for layer in contents(tmp_path / str(n))]
            assert found.count(15) - found.count(16) in (0, 1)


class TestImport:
    def test_a_new_folder_is_the_same(self, base, archive, tmp_path):
        found = json_of(run("import", archive, tmp_path / "new", "--json"))
        assert (found["added"], found["replaced"], found["unchanged"]) == ([15, 16, 1000], [], [])
        assert files(tmp_path / "new") == files(base)
        assert run("doctor", tmp_path / "new").exit_code == 0
        with jm.MmapManager(base_path=tmp_path / "new", simulation="never") as memory:
            assert memory.names() == {"tea": 15, "stone": 16, "user:ann": 1000}
            assert memory.create_proto_dimension("next", [jm.LayerSpec(text="x")]) == 17

    def test_what_says_the_same_is_left_alone(self, base, archive):
        with jm.MmapManager(base_path=base, simulation="never") as memory:
            memory.load_dimension(15)
            memory.compact(15)
        before = files(base)
        assert json_of(run("import", archive, base, "--json"))["unchanged"] == [15, 16, 1000]
        assert files(base) == before

    @pytest.mark.parametrize("more", [("e",), ("e" * 3000,), ("e", "f", "g")])
    def test_what_differs_is_not_overwritten_unless_it_is_to_be(self, more, base, archive):
        expected = contents(base)
        learn(base, "tea", *more)
        before = files(base)
        fails(run("import", archive, base), 1, "D15", "differs")
        assert files(base) == before
        found = json_of(run("import", archive, base, "--replace", "--json"))
        assert (found["replaced"], found["unchanged"]) == ([15], [16, 1000])
        assert contents(base) == expected
        assert run("doctor", base).exit_code == 0
        assert json_of(run("import", archive, base, "--json"))["unchanged"] == [15, 16, 1000]

    def test_what_is_newer_replaces_as_it_is(self, base, tmp_path):
        """One file of a later generation needs no other number, and neither does what nobody may change."""
        content = jm.RegionBuilder(15, "tea", generation=9).add_layer(jm.LayerSpec(text="new")).to_bytes()
        (tmp_path / "x.tar").write_bytes(with_list(BASE, content))
        assert run("import", tmp_path / "x.tar", base, "--replace").exit_code == 0
        assert files(base)[BASE] == content
        assert DELTA not in files(base)

    def test_what_came_after_it_was_looked_at_is_not_overwritten(self, archive, tmp_path, inject):
        def after_learning(put):
            def late(importer, dimension, images):
                if dimension == 15:
                    jm.RegionBuilder(15, "tea").add_layer(jm.LayerSpec(text="z")).write(tmp_path / "new" / BASE)
                put(importer, dimension, images)

            return late

        # Private: the moment after the last look.
        with inject.around("jessy_mem.archive._Importer.put", after_learning):
            fails(run("import", archive, tmp_path / "new"), 1, "D15", "differs")
        assert contents(tmp_path / "new")[15, 0] == "z"

    def test_nothing_is_written_if_one_differs(self, base, archive, tmp_path):
        learn(tmp_path / "new", "tea", "other")
        before = files(tmp_path / "new")
        fails(run("import", archive, tmp_path / "new"), 1, "D15")
        assert files(tmp_path / "new") == before

    @pytest.mark.parametrize("damaged", [BASE, DELTA])
    @pytest.mark.parametrize("at", [90, -1])
    def test_what_is_damaged_is_replaced(self, damaged, at, base, archive):
        expected = contents(base)
        flip(base / damaged, at)
        fails(run("import", archive, base), 1, "D15", "differs")
        run("import", archive, base, "--replace")
        assert contents(base) == expected

    def test_a_manager_that_has_it_loaded_goes_on_reading(self, base, archive):
        learn(base, "tea", "e")
        with jm.MmapManager(base_path=base, simulation="never") as memory:
            memory.load_dimension(15)
            view = memory[15, 2]
            run("import", archive, base, "--replace")
            assert view.text == "e"

    def test_a_manager_that_follows_sees_what_came_in(self, base, archive, tmp_path):
        """Without being asked, at its next access: what was replaced, and what is new."""
        learn(base, "tea", "e")
        (tmp_path / "new").mkdir()
        with (
            jm.MmapManager(base_path=base, simulation="never") as old,
            jm.MmapManager(base_path=tmp_path / "new", simulation="never") as new,
        ):
            old.load_dimension(15)
            new.ensure_dimension("mine", [jm.LayerSpec(text="m")], user=True)
            assert old[15, 2].text == "e"
            assert (old.names(), old.find("mine")) == ({"tea": 15, "stone": 16, "user:ann": 1000}, None)
            run("import", archive, base, "--replace")
            assert [layer.layer for layer in old.layers(15)] == [0, 1]
            run("export", tmp_path / "new", tmp_path / "mine.tar")
            run("import", tmp_path / "mine.tar", base, "--replace")
            assert old[1000, 0].text == "m"
            assert old.find("mine") == 1000

    def test_a_name_that_another_dimension_has(self, archive, tmp_path):
        learn(tmp_path / "new", "other", "x")
        (tmp_path / "new" / "D15").rename(tmp_path / "new" / "D17")
        jm.RegionBuilder(17, "tea").add_layer(jm.LayerSpec(text="x")).write(tmp_path / "new/D17/region.mmap")
        (tmp_path / "new" / ".jessy_mem.lock").unlink()
        for option in ((), ("--replace",)):
            fails(run("import", archive, tmp_path / "new", *option), 1, "D15", "'tea'", "D17")
        assert list(files(tmp_path / "new")) == ["D17/region.mmap"]

    def test_after_an_interruption_it_is_done_again(self, base, archive, tmp_path):
        """The deltas are there, and the base is not: that is nothing, and the next import makes it whole."""
        new = tmp_path / "new"
        (new / "D15").mkdir(parents=True)
        (new / DELTA).write_bytes((base / DELTA).read_bytes())
        assert contents(new) == {}
        assert run("import", archive, new).exit_code == 0
        assert contents(new) == contents(base)

    def test_deltas_of_another_that_lie_on_nothing_are_not_mixed_in(self, base, archive, tmp_path):
        new = tmp_path / "new"
        learn(new, "tea", "z" * 1000, "y", "x")
        (new / BASE).unlink()
        (new / ".jessy_mem.lock").unlink()
        assert run("import", archive, new).exit_code == 0
        assert contents(new) == contents(base)

    def test_a_folder_that_is_a_link_is_not_written_through(self, archive, tmp_path):
        (tmp_path / "outside").mkdir()
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "D15").symlink_to(tmp_path / "outside")
        fails(run("import", archive, tmp_path / "new"), 1, "link")
        assert not list((tmp_path / "outside").iterdir())


# Hostile archives -----------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def listed(*members: tuple[str, bytes], **instead: bytes) -> bytes:
    lines = b"".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode() for name, content in members)
    return member("SHA256SUMS", instead.get("sums", lines))


END = bytes(1024)


def region(**fields: object) -> bytes:
    return jm.RegionBuilder(15, "tea", **fields).add_layer(jm.LayerSpec(text="x")).to_bytes()


def with_list(name: str, content: bytes | None = None, **fields: object) -> bytes:
    """An archive of one file, whose list is true."""
    content = region() if content is None else content
    return listed((name, content)) + member(name, content, **fields) + END


def with_delta(name: str = "tea", generation: int = 2, base: bytes | None = None) -> bytes:
    """An archive of a base and of a delta that is sound by itself."""
    base = region(generation=1) if base is None else base
    delta = extended_file([Layer(0, b"y")], 15, name.encode(), generation=generation, version=2, delta=True)
    return listed((BASE, base), (DELTA, delta)) + member(BASE, base) + member(DELTA, delta) + END


GOOD = region(generation=1)
HOSTILE = {
    "empty": b"",
    "zeros": bytes(4096),
    "noise": bytes(range(256)) * 40,
    "cut off in the first header": with_list(BASE)[:200],
    "cut off in the list": with_list(BASE)[:520],
    "cut off before a member": with_list(BASE)[:1024],
    "cut off in a member": with_list(BASE)[:1700],
    "cut off at its end": with_list(BASE)[:-1024],
    "cut off in its end": with_list(BASE)[:-512],
    "no list": member(BASE, GOOD) + END,
    "list behind": member(BASE, GOOD) + listed((BASE, GOOD)) + END,
    "list of nothing": listed() + END,
    "list that is none": listed(sums=b"hello\n") + member(BASE, GOOD) + END,
    "list without end of line": listed(sums=hashlib.sha256(GOOD).hexdigest().encode() + b"  " + BASE.encode()),
    "list in upper case": listed(sums=b"A" * 64 + b"  " + BASE.encode() + b"\n") + member(BASE, GOOD) + END,
    "list that is no text": listed(sums=b"\xff" * 100 + b"\n") + END,
    "list that lies": listed((BASE, b"other")) + member(BASE, GOOD) + END,
    "list that is a link": member("SHA256SUMS", type=tarfile.SYMTYPE, linkname="/etc/passwd") + END,
    "list of enormous size": member("SHA256SUMS")[:124] + b"\x80" + b"\xff" * 11 + bytes(376) + END,
    "absolute name": with_list("/tmp/D15/region.mmap"),
    "name with dots": with_list("../D15/region.mmap"),
    "name with dots inside": with_list("D15/../region.mmap"),
    "name with a dot": with_list("./D15/region.mmap"),
    "another name": with_list("D15/other.mmap"),
    "name of the register": with_list(".jessy_mem.lock"),
    "name of a long id": with_list("D0000000015/region.mmap"),
    "id that is none": with_list("D00/region.mmap"),
    "id too large": with_list("D4294967296/region.mmap"),
    "name with a newline": with_list("D15/region.mmap\n"),
    "another name than listed": listed((BASE, GOOD)) + member("../evil", GOOD) + END,
    "more than is listed": listed((BASE, GOOD)) + member(BASE, GOOD) + member("D16/region.mmap", GOOD) + END,
    "less than is listed": listed((BASE, GOOD), ("D16/region.mmap", GOOD)) + member(BASE, GOOD) + END,
    "twice in the list": listed((BASE, GOOD), (BASE, GOOD)) + 2 * member(BASE, GOOD) + END,
    "twice in the tar": listed((BASE, GOOD)) + 2 * member(BASE, GOOD) + END,
    "size that is larger": listed((BASE, GOOD)) + member(BASE, GOOD, size=1 << 40) + END,
    "size that is a little larger": listed((BASE, GOOD)) + member(BASE, GOOD, size=len(GOOD) + 1) + END,
    "size that is smaller": listed((BASE, GOOD)) + member(BASE, GOOD, size=len(GOOD) - 1) + END,
    "size of nothing": listed((BASE, GOOD)) + member(BASE, GOOD, size=0) + END,
    "header with another checksum": with_list(BASE).replace(b"D15/region.mmap\0", b"D16/region.mmap\0"),
    "no region": with_list(BASE, b"hello"),
    "empty region": with_list(BASE, b""),
    "damaged region": with_list(BASE, GOOD[:-1] + b"y"),
    "region of another dimension": with_list("D16/region.mmap", GOOD),
    "delta without a base": with_list(DELTA, GOOD),
    "delta that is none": listed((BASE, GOOD), (DELTA, region(generation=2)))
    + member(BASE, GOOD)
    + member(DELTA, region(generation=2))
    + END,
    "delta of another name": with_delta("coffee"),
    "delta of another generation": with_delta(generation=3),
    "delta that is not newer than its base": with_delta(base=region(generation=2)),
    "delta of what nobody may change": with_delta(base=region(immutable=True)),
    "immutable with another digest": with_list(BASE, region(immutable=True)[:-1] + b"y"),
} | {
    f"a member that is {kind}": with_list(BASE, GOOD, type=type_, linkname="/etc/passwd")
    for kind, type_ in {
        "a hard link": tarfile.LNKTYPE,
        "a symbolic link": tarfile.SYMTYPE,
        "a device": tarfile.CHRTYPE,
        "a disk": tarfile.BLKTYPE,
        "a folder": tarfile.DIRTYPE,
        "a FIFO": tarfile.FIFOTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
        "a long name": tarfile.GNUTYPE_LONGNAME,
        "a pax header": tarfile.XHDTYPE,
    }.items()
}


class TestHostile:
    def test_a_sound_one_is_taken(self, tmp_path):
        """The table is of what is wrong, not of what any archive is refused for."""
        (tmp_path / "x.tar").write_bytes(with_list(BASE, GOOD))
        assert run("import", tmp_path / "x.tar", tmp_path / "new").exit_code == 0

    @pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
    def test_it_is_refused_in_one_line_and_nothing_is_written(self, data, tmp_path):
        (tmp_path / "x.tar").write_bytes(data)
        learn(tmp_path / "base", "kept", "x")
        before = sorted(str(path) for path in tmp_path.rglob("*")), files(tmp_path / "base")
        for target in ("base", "new"):
            result = run("import", tmp_path / "x.tar", tmp_path / target)
            fails(result, 1, "x.tar")
            assert len(result.stderr.splitlines()) == 1
        assert (sorted(str(path) for path in tmp_path.rglob("*")), files(tmp_path / "base")) == before

    def test_a_delta_that_belongs_to_its_base_is_taken(self, tmp_path):
        (tmp_path / "x.tar").write_bytes(with_delta())
        assert run("import", tmp_path / "x.tar", tmp_path / "new").exit_code == 0
        assert contents(tmp_path / "new") == {(15, 0): "y"}

    def test_a_list_that_is_larger_than_any_is_not_read(self, tmp_path):
        with (tmp_path / "x.tar").open("wb") as file:
            file.write(member("SHA256SUMS", size=1 << 40))
            file.truncate(1 << 41)  # a hole: there is room for what the header says
        fails(run("import", tmp_path / "x.tar", tmp_path / "new"), 1, f"{1 << 40} bytes are no list")

    def test_any_byte_that_is_another_is_noticed(self, base, archive, tmp_path):
        """What is not noticed lies in fields of headers, or in padding, that nobody reads."""
        data = archive.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            inside = [range(each.offset_data, each.offset_data + each.size) for each in tar]
        expected = files(base)
        for at in range(0, len(data), 211):
            (tmp_path / "x.tar").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
            try:
                jm.import_base(tmp_path / "x.tar", tmp_path / "new")
            except (jm.InvalidArchive, jm.InvalidRegion):
                assert not (tmp_path / "new").exists()
            else:
                assert not any(at in each for each in inside)
                assert files(tmp_path / "new") == expected
                subprocess.run(["rm", "-r", tmp_path / "new"], check=True)

    @pytest.mark.parametrize("kind", ["fifo", "folder", "missing"])
    def test_what_is_no_file(self, kind, tmp_path):
        path = tmp_path / "x.tar"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        fails(run("import", path, tmp_path / "new"), 1 if kind == "fifo" else 2, "x.tar")

    def test_names_in_it_are_escaped(self, tmp_path):
        (tmp_path / "x.tar").write_bytes(listed((BASE, GOOD)) + member("\x1b[2J", GOOD) + END)
        result = run("import", tmp_path / "x.tar", tmp_path / "new")
        fails(result, 1)
        assert "\x1b" not in result.stderr
