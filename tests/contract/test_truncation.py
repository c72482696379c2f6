"""A file that is shortened while it is mapped, or rewritten while it is opened: a typed error, and never a signal.

Each call is tried in a process of its own, which dies of what should not be.
"""

from __future__ import annotations

import errno
import faulthandler
import itertools
import json
import os
import shutil
import signal
import traceback

import numpy as np
import pytest

import jessy_mem as jm
from helpers import Layer, plain_file
from jessy_mem.compression import is_available

pytestmark = pytest.mark.thread_unsafe(reason="each call is a process of its own")

N_LAYERS = 8
PAGE = os.sysconf("SC_PAGE_SIZE")
POINTS = (0.0, 0.03, 0.3, 0.5, 0.97, 1.0)  # shares of the file; and those of the pages around them
KINDS = ("plain", "extended", "long head", "compressed", "immutable")
SELDOM = ("extended", "long head", "immutable")  # of which most calls read as of the other two


def layer_text(number: int) -> str:
    return f"layer {number} grüßt. " * (10 + 120 * number)


def stored(kind: str) -> bytes:
    texts = [layer_text(number) for number in range(N_LAYERS)]
    words = [f"word{i:030}" for i in range(200 if kind == "long head" else 2)]
    if kind == "plain":
        encoded = tuple(word.encode() for word in words)
        return plain_file([Layer(i, text.encode(), 0, 1.0, encoded) for i, text in enumerate(texts)], 15)
    builder = jm.RegionBuilder(15, "Humor", immutable=kind == "immutable")
    for text in texts:
        builder.add_layer(
            jm.LayerSpec(text=text, keywords=words, attributes={"n": len(text)}, compress=kind == "compressed")
        )
    return builder.to_bytes()


def read_all(memory):
    return [memory.access_layer((15, number)) for number in range(N_LAYERS)]


def opened(base, path):
    memory = jm.MmapManager(base_path=base, simulation="never", follow="never")
    memory.load_dimension(15)
    return memory


def touched(base, path):
    memory = opened(base, path)
    read_all(memory)
    return memory


def region(base, path):
    return jm.MmapRegion(15, path)


def copied(base, path):
    memory = jm.MmapManager(base_path=base, simulation="never", follow="never", guard="copy")
    memory.load_dimension(15)
    return memory


def first_of(errors):
    if errors:
        raise errors[0]


LONG = jm.LayerSpec(text="long " * 100_000)
CALLS = {  # name: what is there before the file is shortened, and what is read of it after that
    "open": (lambda _base, path: path, lambda path: jm.MmapRegion(15, path).n_layers),
    "text": (touched, lambda memory: [view.text for view in read_all(memory)]),
    "bytes": (touched, lambda memory: [bytes(view) for view in read_all(memory)]),
    "byte": (touched, lambda memory: [view[-1] for view in read_all(memory)]),
    "compare": (touched, lambda memory: [view == layer_text(view.id.layer).encode() for view in read_all(memory)]),
    "load_context": (touched, lambda memory: [memory.load_context((15, i)).content for i in range(N_LAYERS)]),
    "read_many": (touched, lambda memory: bytes(memory.read_many([(15, i) for i in range(N_LAYERS)]).data)),
    "first access": (opened, lambda memory: [(view.n_bytes, view.keywords) for view in read_all(memory)]),
    "attributes": (touched, lambda memory: [dict(view.attributes) for view in read_all(memory)]),
    "facts": (region, lambda found: found.layer_facts()),
    "verify": (region, lambda found: first_of(found.verify())),
    "verify_region": (lambda _base, path: path, lambda path: first_of(jm.verify_region(path))),
    "prefetch": (region, lambda found: found.prefetch(wait=True) and None),
    "whole": (region, lambda found: bytes(memoryview(found))),
    "append": (touched, lambda memory: memory.append_layer(15, LONG)),
    "compact": (touched, lambda memory: [memory.append_layer(15, LONG), memory.compact(15)][:1]),
    "reload": (touched, lambda memory: memory.reload_dimension(15) and None),
    "examine": (lambda base, _path: base, lambda base: (jm.examine(base), None)[1]),
    "export": (lambda base, _path: base, lambda base: (jm.export_base(base, base / "out.tar"), None)[1]),
}


def place(base, data):
    shutil.rmtree(base, ignore_errors=True)
    path = base / "D15" / "region.mmap"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def outcomes(base, data, call, points):
    """What a child says that reads after the file was shortened to each of `points`: "ok" and what, or an error."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        with os.fdopen(theirs, "w") as out:
            try:
                faulthandler.disable()
                for n_left in points:
                    told = outcome(base, place(base, data), call, n_left)
                    print(json.dumps([n_left, told]), file=out, flush=True)
            except BaseException:
                print(json.dumps([0, traceback.format_exc()]), file=out, flush=True)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        said = list(map(json.loads, told))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"{call} died of {signal.Signals(-status).name} after {said[-1:]}, of {points}"
    assert [n_left for n_left, _ in said] == points, said[-1]
    return dict(said)


def outcome(base, path, call, n_left):
    prepare, read = CALLS[call]
    ready = prepare(base, path)
    os.truncate(path, n_left)
    try:
        return f"ok {read(ready)!r}"
    except jm.ConsciousnessError as error:
        return type(error).__name__


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [pytest.param(each, marks=[pytest.mark.slow] * (each in SELDOM)) for each in KINDS])
def test_shortened_file_is_an_error_and_no_signal(kind, call, tmp_path):
    if kind == "compressed" and not is_available():
        pytest.skip("there is no zstd")
    assert np  # imported once, and not by each child
    data = stored(kind)
    near = {int(share * len(data)) // PAGE * PAGE + more for share in POINTS for more in (0, 1, 300)}
    found = outcomes(tmp_path, data, call, [len(data), *sorted(n for n in near if n < len(data))])
    whole = found.pop(len(data))
    for n_left, said in found.items():
        # What is read is right, or it is an error that names the file; of what is sealed nothing is lost.
        assert said in (whole, "RegionTruncated"), (n_left, said[:200])
        if call in ("open", "verify_region") or (call in ("text", "verify") and kind in ("plain", "extended")):
            assert said == "RegionTruncated", n_left
        if kind == "immutable" and call not in ("open", "verify_region", "reload"):
            assert said == whole, n_left


def test_error_names_file_and_sizes(tmp_path):
    data = stored("extended")
    path = place(tmp_path, data)
    memory = touched(tmp_path, path)
    view = memory.access_layer((15, N_LAYERS - 1))
    os.truncate(path, 5000)
    with pytest.raises(jm.RegionTruncated) as caught:
        view.text  # noqa: B018
    error = caught.value
    assert (error.path, error.layer, error.found) == (str(path), N_LAYERS - 1, "5000 bytes")
    assert error.expected == f"a file of {len(data)} bytes, as when it was mapped"
    path.unlink()
    with pytest.raises(jm.RegionTruncated, match=r"found at most [0-9]+ bytes since then"):
        view.text  # noqa: B018
    path.write_bytes(data)
    memory.reload_dimension(15)
    assert memory.access_layer((15, N_LAYERS - 1)).text == layer_text(N_LAYERS - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_to_what_was_copied(kind, tmp_path):
    """Raw memoryviews, too, keep their bytes, and what is loaded later on does."""
    if kind == "compressed" and not is_available():
        pytest.skip("there is no zstd")
    data = stored(kind)
    path = place(tmp_path, data)
    memory = copied(tmp_path, path)
    assert memory.region(15).guard == "copy"
    raw = memoryview(memory.region(15))
    os.truncate(path, 0)
    assert bytes(raw) == data
    assert [view.text for view in read_all(memory)] == [layer_text(number) for number in range(N_LAYERS)]
    assert memory.region(15).verify() == []
    path.write_bytes(data)
    if kind != "immutable":
        memory.append_layer(15, jm.LayerSpec(text="more"))
        delta = next(each for each in path.parent.iterdir() if each != path)
        os.truncate(delta, 0)
        assert memory.access_layer((15, N_LAYERS)).text == "more"
        delta.unlink()
    with jm.MmapRegion(15, path, guard="copy") as region:
        assert (region.guard, region.verify()) == ("copy", [])
    with jm.MmapRegion(15, path) as region:
        assert region.guard == ("copy" if kind == "immutable" else "reads")


def test_system_that_knows_no_holes_copies_all(tmp_path, inject):
    def seek(lseek):
        def call(fd, at, how):
            if how in (os.SEEK_HOLE, os.SEEK_DATA):
                raise OSError(errno.EINVAL, "Invalid argument")
            return lseek(fd, at, how)

        return call

    path = tmp_path / "region"
    path.write_bytes(stored("extended"))
    with inject.around("os.lseek", seek), jm.MmapRegion(15, path, guard="copy") as region:
        assert (region.guard, region.verify()) == ("copy", [])
        assert region.layer(0).text == layer_text(0)


def test_copy_is_compared_with_its_checksums(tmp_path):
    data = bytearray(stored("extended"))
    data[-1] ^= 1
    path = tmp_path / "region"
    path.write_bytes(data)
    with jm.MmapRegion(15, path, guard="copy") as region:
        assert region.layer(0).text == layer_text(0)
        with pytest.raises(jm.ChecksumMismatch):
            region.layer(N_LAYERS - 1)
    with pytest.raises(jm.ChecksumMismatch):
        jm.MmapRegion(15, path, guard="copy", verify="open")
    with pytest.raises(ValueError, match="guard: 'none' is not one of"):
        jm.MmapRegion(15, path, guard="none")


@pytest.mark.parametrize("part", [lambda view: view, memoryview, lambda view: memoryview(view)[10:]])
def test_views_that_are_learned_are_those_of_the_file(part, tmp_path):
    """Whoever learns the content of a layer, without a copy of it, does not learn the zeros of a shortened file."""
    path = place(tmp_path, stored("extended"))
    memory = touched(tmp_path, path)
    view = memory.access_layer((15, N_LAYERS - 1))
    specs = [jm.LayerSpec(content=part(view))]
    dimension = memory.create_proto_dimension("Copied", specs)
    assert memory.access_layer((dimension, 0)) == bytes(part(view))
    os.truncate(path, PAGE)
    for learn in (
        lambda: memory.create_proto_dimension("Zeros", specs),
        lambda: memory.append_layer(dimension, specs[0]),
        lambda: jm.RegionBuilder(16, "Zeros").add_layer(specs[0]).write(tmp_path / "zeros"),
        lambda: jm.RegionBuilder(16, "Zeros").add_layer(specs[0]).to_bytes(),
    ):
        with pytest.raises(jm.RegionTruncated):
            learn()
    assert not (tmp_path / "zeros").exists()
    assert "Zeros" not in memory.names()


def test_what_is_left_of_a_shortened_file_can_be_read(tmp_path):
    data = stored("extended")
    path = place(tmp_path, data)
    views = read_all(opened(tmp_path, path))
    os.truncate(path, len(data) // 2)
    with pytest.raises(jm.RegionTruncated):
        views[-1].text  # noqa: B018
    assert views[0].text == layer_text(0)


def test_file_that_cannot_be_read_is_a_mapping_error(tmp_path):
    """Pages went although the file is what it was: the disk did not give them."""
    path = place(tmp_path, stored("extended"))
    view = read_all(opened(tmp_path, path))[-1]
    info = path.stat()
    os.truncate(path, 0)
    assert not any(memoryview(view))
    os.truncate(path, info.st_size)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(jm.MappingError) as caught:
        view.text  # noqa: B018
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


def test_content_that_ends_with_zeros_is_no_damage(tmp_path):
    builder = jm.RegionBuilder(15, "Humor").add_layer(jm.LayerSpec(content=b"x" * 5000 + bytes(5000)))
    with jm.MmapRegion(15, builder.write(tmp_path / "r")) as found:
        view = found.layer(0)
        assert bytes(view) == b"x" * 5000 + bytes(5000)
        assert (view[-1], found.verify()) == (0, [])
        (tmp_path / "r").rename(tmp_path / "elsewhere")
        assert bytes(view)[-1] == 0


@pytest.mark.parametrize("kind", KINDS[:3])
def test_merged_bytes_of_a_shortened_file_are_not_published(kind, tmp_path):
    """Contents are copied by the system, which finds a page that is gone before we do."""
    data = stored(kind)
    path = place(tmp_path, data)
    memory = touched(tmp_path, path)
    memory.append_layer(15, jm.LayerSpec(text="more"))
    before = sorted(each.name for each in path.parent.iterdir())
    os.truncate(path, len(data) // 2 // PAGE * PAGE)
    with pytest.raises(jm.RegionTruncated):
        memory.compact(15)
    assert sorted(each.name for each in path.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["plain", "extended", "long head", "immutable"])
def test_file_that_is_rewritten_in_place_is_opened_or_refused(kind, tmp_path):
    data = stored(kind)
    path = tmp_path / "region"
    path.write_bytes(data)
    writer = os.fork()
    if writer == 0:
        try:
            fd = os.open(path, os.O_RDWR)
            for turn in itertools.count():
                os.ftruncate(fd, (turn * 7919) % len(data))
                for at in range(0, len(data), 2 * PAGE):
                    os.pwrite(fd, data[at : at + 2 * PAGE], at)
        finally:
            os._exit(0)
    try:
        n_refused = 0
        while n_refused < 200:
            try:
                with jm.MmapRegion(15, path) as found:
                    found.verify()
                    for layer_id in found.layers():
                        found.layer(layer_id.layer).text  # noqa: B018
            except (jm.InvalidRegion, UnicodeDecodeError):
                n_refused += 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
