"""Folders that others change meanwhile, that are no base, and links that lead nowhere; the rest through the CLI."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from commands import run

import jessy_mem as jm


def region(base, dimension: int):
    return (
        jm.RegionBuilder(dimension, "Kept").add_layer(jm.LayerSpec(text="kept")).write(jm.region_path(base, dimension))
    )


def test_examine_while_a_region_is_forgotten(tmp_path):
    region(tmp_path, 15)
    forgotten = region(tmp_path, 16).parent
    seen = []

    def forget(done_bytes, total_bytes):
        seen.append(done_bytes)
        shutil.rmtree(forgotten, ignore_errors=True)

    assert jm.examine(tmp_path, forget) == []
    assert seen


def test_examine_while_a_folder_goes(tmp_path, inject):
    """Both folders were listed; the second goes when the first is looked at."""
    first = region(tmp_path, 15)
    gone = region(tmp_path, 16).parent
    lexists = os.path.lexists

    def look(path):
        if path == first:
            shutil.rmtree(gone)
        return lexists(path)

    with inject.instead("os.path.lexists", look):
        assert jm.examine(tmp_path) == []
    assert not gone.exists()


def test_examine_while_a_stack_is_merged(tmp_path, inject):
    """Its deltas were listed; they are in the base when they are looked at."""
    folder = grown(tmp_path)

    def and_merge(header_of):
        def look(path):
            with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
                memory.load_dimension(15)
                memory.compact(15)
            return header_of(path)

        return look

    # Private: the moment between the list and the look.
    with inject.around("jessy_mem.doctor._header_of", and_merge):
        assert jm.examine(tmp_path) == []
    assert [path.name for path in folder.iterdir()] == ["region.mmap"]


def test_what_is_gone_by_then_is_not_removed(tmp_path):
    folder = grown(tmp_path)
    (folder / "region.mmap").unlink()
    findings = jm.examine(tmp_path)
    assert [each.removable for each in findings] == [True, True]
    findings[0].path.unlink()
    assert jm.clean(findings) == findings[1:]


def kinds(base) -> list[tuple[str, str]]:
    return [(str(finding.path.relative_to(base)), finding.kind) for finding in jm.examine(base)]


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize("leftover", ["", "notes.txt", "d15/region.mmap", "sub/D15/region.mmap"])
def test_a_folder_without_dimensions_is_no_base(leftover, tmp_path):
    if leftover:
        (tmp_path / leftover).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / leftover).write_text("x")
    (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path, finding.removable) == ("no dimension", tmp_path, False)
    assert "Dnn/region.mmap" in finding.detail
    assert "build" in finding.detail
    for command in ("doctor", "verify", "inspect"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "Dnn/region.mmap" in result.output
    assert run("doctor", tmp_path, "--clean").exit_code == 1


def test_a_base_whose_last_dimension_was_forgotten_is_sound(tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        dimension = memory.create_proto_dimension("Gone", [jm.LayerSpec(text="x")])
        memory.crystallize(dimension)
        memory.forget(dimension)
    assert jm.examine(tmp_path) == []


BROKEN = {
    "a link of the folder": ("D32", "nowhere"),
    "a link of the file": ("D32/region.mmap", "../gone"),
    "a loop": ("D32", "D32"),
    "a link to a file": ("D32", "D15/region.mmap"),
}


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
@pytest.mark.parametrize(("place", "target"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_named(place, target, tmp_path):
    region(tmp_path, 15)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(target)
    assert kinds(tmp_path) == [(place, "unreadable")]
    for command in ("doctor", "verify", "inspect"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "D32" in result.output
        assert "D00" not in result.output
    if target in ("nowhere", "../gone"):
        assert f"a link to {target}, which is not there" in run("verify", tmp_path).output
    assert run("verify", tmp_path / "D15").exit_code == 0


@pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    region(tmp_path, 15)
    (tmp_path / "D32").write_text("x")
    assert kinds(tmp_path) == [("D32", "unreadable")]
    assert "D32" in run("verify", tmp_path).stdout


def test_verify_of_a_file_that_is_not_there(tmp_path):
    (error,) = jm.verify_region(tmp_path / "region.mmap")
    assert error.errno == errno.ENOENT
    (error,) = jm.verify_region(tmp_path / "region.mmap", 32)
    assert isinstance(error, jm.DimensionNotFound)
    assert error.dimension == 32


def test_folder_that_cannot_be_looked_at_is_a_finding(tmp_path, inject):
    path = region(tmp_path, 15)
    with inject(OSError(errno.EIO, "I/O error"), "os.path.lexists", for_good=False):
        (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path, finding.detail) == ("unreadable", path.parent, "I/O error")
    assert str(finding) == f"{path.parent}: unreadable: I/O error"


# Stacks, names and the page of changes


def grown(base, n_deltas: int = 2):
    """A dimension with deltas; the folder of it."""
    with jm.MmapManager(base_path=base, simulation="never") as memory:
        dimension = memory.ensure_dimension("Grown", [jm.LayerSpec(text="x" * 10_000)])
        for _ in range(n_deltas):
            memory.append_layer(dimension, jm.LayerSpec(text="y"))
    return base / "D15"


def delta(folder, generation: int):
    return folder / f"delta-{generation:016}.mmap"


def test_a_stack_is_sound(tmp_path):
    grown(tmp_path)
    assert jm.examine(tmp_path) == []


def test_deltas_that_are_in_their_base_are_removed_and_no_others(tmp_path):
    folder = grown(tmp_path)
    old = {generation: delta(folder, generation).read_bytes() for generation in (2, 3)}
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        memory.load_dimension(15)
        memory.compact(15)
        memory.append_layer(15, jm.LayerSpec(text="z"))
    for generation, content in old.items():
        delta(folder, generation).write_bytes(content)
    findings = jm.examine(tmp_path)
    assert [(each.kind, each.path, each.removable) for each in findings] == [
        ("stale delta", delta(folder, 2), True),
        ("stale delta", delta(folder, 3), True),
    ]
    assert jm.clean(findings) == findings
    assert sorted(path.name for path in folder.iterdir()) == [delta(folder, 4).name, "region.mmap"]
    assert jm.examine(tmp_path) == []


def test_a_delta_that_is_needed_again_is_not_removed(tmp_path):
    """The base was put back, from a copy, after it was examined."""
    folder = grown(tmp_path)
    before, old = (folder / "region.mmap").read_bytes(), delta(folder, 3).read_bytes()
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        memory.load_dimension(15)
        memory.compact(15)
    delta(folder, 3).write_bytes(old)
    findings = jm.examine(tmp_path)
    (folder / "region.mmap").write_bytes(before)
    assert jm.clean(findings) == []
    assert delta(folder, 3).exists()


def test_deltas_without_a_base_are_nothing_and_are_removed(tmp_path):
    folder = grown(tmp_path)
    base = folder / "region.mmap"
    kept = base.read_bytes()
    base.unlink()
    with jm.MmapManager(base_path=tmp_path, simulation="never") as memory:
        assert not memory.load_all().loaded
        with pytest.raises(jm.DimensionNotFound):
            memory.load_dimension(15)
    findings = jm.examine(tmp_path)
    assert [(each.kind, each.path, each.removable) for each in findings] == [
        ("stray delta", delta(folder, 2), True),
        ("stray delta", delta(folder, 3), True),
    ]
    base.write_bytes(kept)  # put back, from a copy, after it was examined
    assert jm.clean(findings) == []
    base.unlink()
    assert jm.clean(findings) == findings
    assert jm.examine(tmp_path) == []
    assert not folder.exists()


def test_a_delta_of_another_dimension(tmp_path):
    folder = grown(tmp_path)
    region(tmp_path, 16)
    shutil.copy(delta(folder, 3), tmp_path / "D16" / delta(folder, 3).name)
    (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path.parent.name, finding.removable) == ("wrong id", "D16", False)
    assert "D15" in finding.detail


def test_an_immutable_dimension_with_deltas(tmp_path):
    folder = grown(tmp_path)
    builder = jm.RegionBuilder(15, "Grown", immutable=True, generation=1).add_layer(jm.LayerSpec(text="x"))
    builder.write(folder / "region.mmap")
    assert {(each.kind, each.removable) for each in jm.examine(tmp_path)} == {("stray delta", False)}
    assert all("immutable" in each.detail for each in jm.examine(tmp_path))


def test_a_stack_that_outgrew_its_slot(tmp_path):
    layout = jm.default_layout()
    planned = min(layout.dimensions.values(), key=lambda each: layout.slot_bytes(each.id))
    half = b"x" * (layout.slot_bytes(planned.id) // 2)
    folder = jm.region_path(tmp_path, planned.id).parent
    for generation, name in ((1, "region.mmap"), (2, delta(folder, 2).name)):
        builder = jm.RegionBuilder(planned.id, planned.name, generation=generation)
        builder.add_layer(jm.LayerSpec(content=half, layer=generation)).write(folder / name)
    assert "too large" in [finding.kind for finding in jm.examine(tmp_path)]


def test_what_is_too_large_depends_on_the_plan(tmp_path):
    """A total above the plan's scales the slots, and a plan may be another one."""
    with jm.MmapManager(base_path=tmp_path, simulation="never", total_memory_mb=560) as memory:
        slot_bytes = jm.default_layout().slot_bytes(13)
        memory.ensure_dimension(memory.layout.dimensions[13].name, [jm.LayerSpec(content=bytes(slot_bytes + 1))])
        layout = memory.layout
    (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path) == ("too large", jm.region_path(tmp_path, 13))
    assert finding.detail.endswith(f"its slot has {jm.default_layout().slot_bytes(13)} in a plan of 280 MiB")
    assert jm.examine(tmp_path, layout=layout) == jm.examine(tmp_path, layout=jm.MemoryLayout.free(64)) == []
    assert [each.kind for each in jm.examine(tmp_path, layout=jm.MemoryLayout.free(1))] == ["too large"]


def test_two_dimensions_of_one_name(tmp_path):
    for dimension in (15, 17, 20):
        region(tmp_path, dimension)
    found = [(each.kind, each.path.parent.name, each.removable) for each in jm.examine(tmp_path)]
    assert found == [("duplicate name", "D17", False), ("duplicate name", "D20", False)]
    assert "D15" in jm.examine(tmp_path)[0].detail


@pytest.mark.parametrize("kind", ["text", "nothing", "link", "fifo", "folder"])
def test_a_page_of_changes_that_is_none(kind, tmp_path):
    region(tmp_path, 15)
    page = tmp_path / ".changes"
    make = {
        "text": lambda: page.write_text("x" * 8192),
        "nothing": lambda: page.write_text(""),
        "link": lambda: page.symlink_to("D15/region.mmap"),
        "fifo": lambda: os.mkfifo(page),
        "folder": page.mkdir,
    }
    make[kind]()
    (finding,) = jm.examine(tmp_path)
    assert (finding.kind, finding.path, finding.removable) == ("no page", page, False)


@pytest.mark.parametrize("what", ["base", b"base", 15, None])
def test_files_are_asked_of_a_region(what):
    with pytest.raises(TypeError, match="verify_region"):
        jm.region_files(what)
