"""access_many and read_many: many layers in one call, against one after the other."""

from __future__ import annotations

import ctypes
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World, content_of, manager

import jessy_mem as jm
from helpers import Layer, extended_file
from jessy_mem import compression

LAYERS = [b"one", b"", b"two" * 2000, b"\x00", b"three", b"z\x00\x00", b"x" * 200, b"", b"four"]
NUMBERS = [0, 1, 2, 5, 6, 7, 100, 3000, 60_000]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Dimensions 15 and 16 in one file each, 1000 as a proto-dimension is made by the fixture below."""
    world = World(tmp_path_factory.mktemp("many"))
    for dimension in (15, 16):
        layers = [Layer(number, content, text_flags=0) for number, content in zip(NUMBERS, LAYERS, strict=True)]
        world.publish(dimension, extended_file(layers, dimension))
    builder = jm.RegionBuilder(17, "Compressed")
    for i in range(4):
        builder.add_layer(jm.LayerSpec(text=f"layer {i} " * 500, compress=compression.is_available()))
    builder.write(jm.region_path(world.base, 17))
    return world.base


@pytest.fixture
def memory(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    with manager(tmp_path / "base") as memory:
        for dimension in (15, 16, 17):
            memory.load_dimension(dimension)
        memory.create_proto_dimension("learned", [jm.LayerSpec(text="first"), jm.LayerSpec(text="second")], user=True)
        memory.append_layer(16, jm.LayerSpec(text="appended"))
        memory.update_layer((16, 2), jm.LayerSpec(text="updated"))
        memory.remove_layer((16, 100))
        yield memory


def contents(memory, layer_ids):
    return [bytes(memory.access_layer(layer_id)) for layer_id in layer_ids]


def parts(batch):
    return [bytes(batch[i]) for i in range(len(batch))]


@pytest.mark.parametrize("order", [lambda ids: ids, lambda ids: ids[::-1], lambda ids: ids[::2] + ids * 2])
@pytest.mark.parametrize("again", [False, True])
def test_many_are_what_each_is(memory, order, again):
    wanted = order(memory.layers())
    assert len({dimension for dimension, _ in wanted}) == 4
    if again:  # what was read before makes no view
        memory.read_many(wanted)
    batch = memory.read_many(wanted)
    views = memory.access_many(wanted)
    assert parts(batch) == [bytes(view) for view in views] == contents(memory, wanted)
    assert batch.offsets.tolist() == [0, *np.cumsum([len(view) for view in views])]
    assert all(view is memory.access_layer(layer_id) for view, layer_id in zip(views, wanted, strict=True))


def test_numbers_of_every_kind_in_every_iterable(memory):
    wanted = memory.layers()
    expected = contents(memory, wanted)
    for given_as in (
        tuple(wanted),
        (tuple(each) for each in wanted),
        [(np.int64(dimension), np.uint16(layer)) for dimension, layer in wanted],
        [(int(f"{dimension}"), int(f"{layer}")) for dimension, layer in wanted],  # each an int of its own
        dict.fromkeys(wanted),
    ):
        given_as = list(given_as)
        assert parts(memory.read_many(iter(given_as))) == parts(memory.read_many(given_as)) == expected
        assert [bytes(view) for view in memory.access_many(iter(given_as))] == expected
    assert memory.access_many([]) == []


def test_offsets_have_their_room(memory):
    gathered = memory._gather([(15, 0), (15, 1)])  # private: read_many gives it the room it needs
    for n in (2, 4):
        with pytest.raises(ValueError, match=f"target: room for {n} offsets, not 3"):
            gathered.offsets(np.zeros(n, np.int64))


@pytest.mark.parametrize("read", [jm.MmapManager.read_many, jm.MmapManager.access_many])
@pytest.mark.parametrize(
    ("bad", "error"),
    [((15, 3), jm.LayerNotFound), ((15, 65536), jm.LayerNotFound), ((15, -1), jm.LayerNotFound),
     ((15, 1 << 70), jm.LayerNotFound), ((-1 << 70, 0), jm.LayerNotFound), ((99, 0), jm.LayerNotFound),
     ((16, 100), jm.LayerNotFound), ((15,), TypeError), ((15, "0"), TypeError), ((15, 0.0), TypeError),
     (None, TypeError), (15, TypeError)],
)  # fmt: skip
def test_one_that_cannot_be_had_is_an_error_and_nothing_is_held(memory, read, bad, error):
    memory.read_many([(15, 0), (15, 1)])
    with pytest.raises(error):
        read(memory, [(15, 0), bad, (15, 1)])
    assert memory.leases() == []


def test_counted_as_often_as_one_by_one(memory):
    before = memory.get_stats().access_count
    memory.access_many([(15, 0), (15, 1), (15, 0)])
    assert memory.get_stats().access_count == before + 3
    memory.read_many([(15, 0), (15, 1), (15, 2)])
    assert memory.get_stats().access_count == before + 6
    with pytest.raises(jm.LayerNotFound):
        memory.read_many([(15, 0), (15, 1), (99, 0)])
    assert memory.get_stats().access_count == before + 8
    assert memory.get_stats().copies == 3


def test_a_trace_has_each_of_many(memory, tmp_path):
    memory.read_many([(15, 0), (15, 1)])
    with memory.record_trace(tmp_path / "trace") as trace:
        memory.read_many([(15, 0), (15, 1), (15, 0)])
        memory.access_many([(15, 0), (16, 0)])
        assert trace.n_accesses == 5


def test_evicted_dimensions_come_back(world):
    n_bytes = 300_000
    for dimension in range(15, 25):
        world.write(dimension, n_layers=2, n_bytes=n_bytes)
    wanted = [(dimension, layer) for layer in range(2) for dimension in range(15, 18)] * 2
    with manager(world, total_memory_mb=2.2) as memory:
        for dimension in range(15, 25):
            memory.load_dimension(dimension)
        assert memory.get_stats().evictions
        expected = [content_of(*layer_id, n_bytes=n_bytes) for layer_id in wanted]
        assert parts(memory.read_many(wanted)) == expected
        assert [bytes(view) for view in memory.access_many(wanted)] == expected


def test_a_snapshot_reads_many_as_they_were(memory):
    wanted = [(15, 0), (16, 2), (16, 0)]
    before = contents(memory, wanted)
    with memory.snapshot() as then:
        memory.update_layer((16, 2), jm.LayerSpec(text="later"))
        for _ in range(2):
            assert parts(then.read_many(wanted)) == parts(memory.read_many(wanted)) == before
            assert [bytes(view) for view in then.access_many(wanted)] == before
            assert [bytes(view) for view in memory.access_many(wanted)] == before
    assert parts(memory.read_many(wanted)) == [before[0], b"later", before[2]]


# Into a buffer of the caller's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [bytearray, lambda n: memoryview(bytearray(n)), lambda n: np.zeros(n, np.uint8),
     lambda n: np.zeros(-(-n // 4), np.int32), lambda n: np.zeros((-(-n // 8), 8), np.int8)],
)  # fmt: skip
@pytest.mark.parametrize("threads", [1, 3])
def test_out_is_written_from_its_begin(memory, make, threads):
    wanted = memory.layers()
    expected = b"".join(contents(memory, wanted))
    out = make(len(expected))
    batch = memory.read_many(wanted, out=out, threads=threads)
    assert bytes(memoryview(out).cast("B"))[: len(expected)] == batch.data.tobytes() == expected
    assert np.shares_memory(batch.data, np.frombuffer(out, np.uint8))
    larger = make(len(expected) + 100)
    assert memory.read_many(wanted, out=larger).data.size == len(expected)
    assert not any(bytes(memoryview(larger).cast("B"))[len(expected) + 16 :])


def test_out_that_is_too_small_stays_as_it_is(memory):
    out = bytearray(b"kept!")
    with pytest.raises(jm.OutOfBounds) as caught:
        memory.read_many([(15, 0), (15, 6)], out=out)
    assert (caught.value.size, caught.value.region_size) == (len(LAYERS[0]) + len(LAYERS[4]), 5)
    assert out == b"kept!"
    assert memory.read_many([(15, 6)], out=out).data.tobytes() == out == b"three"
    assert memory.read_many([(15, 1)], out=bytearray()).data.size == 0
    assert memory.read_many([], out=np.empty(0)).offsets.tolist() == [0]


@pytest.mark.parametrize("out", [b"bytes", np.zeros(64, np.uint8)[::2], object(), 5, "text", memoryview(b"x" * 64)])
def test_out_that_is_no_writable_buffer_is_a_type_error(memory, out):
    with pytest.raises(TypeError, match="out"):
        memory.read_many([(15, 0)], out=out)


OF_OBJECTS = np.dtype([("n", np.int32), ("it", object)])


@pytest.mark.parametrize("out", [np.full(64, None), np.zeros(9, OF_OBJECTS), (ctypes.py_object * 9)()])
def test_out_of_objects_is_a_type_error_and_keeps_them(memory, out):
    """Bytes in the place of references end the process when the array goes."""
    before = bytes(memoryview(out))
    with pytest.raises(TypeError, match="objects"):
        memory.read_many([(15, 0)], out=out)
    assert bytes(memoryview(out)) == before


def test_out_may_have_fields_of_any_name(memory):
    out = np.zeros(64, np.dtype([("O", np.int16), ("xOx", np.uint8)]))
    assert memory.read_many([(15, 0)], out=out).data.tobytes() == LAYERS[0] == out.tobytes()[: len(LAYERS[0])]


@pytest.mark.parametrize("threads", [0, -1, 65, 1.5, "2"])
def test_threads_that_are_no_number_of_threads(memory, threads):
    with pytest.raises(ValueError, match="threads"):
        memory.read_many([(15, 0)], threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
def test_several_threads_copy_each_its_part(memory, threads):
    for wanted in (memory.layers(), [(15, 2)], [(15, 0)], [(15, 1)], []):
        assert parts(memory.read_many(wanted, threads=threads)) == contents(memory, wanted)


@pytest.mark.thread_unsafe(reason="no thread of the process can start another")
def test_threads_that_cannot_be_started_are_done_without(memory, inject):
    wanted = memory.layers()
    with inject(RuntimeError("can't start new thread"), "threading.Thread.start"):
        assert parts(memory.read_many(wanted, threads=7)) == contents(memory, wanted)


# Files that are shortened -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_of_which_one_is_gone_are_an_error_that_names_it(tmp_path, threads):
    n_layers, n_bytes = 6, 3 * 4096
    contents = [bytes([65 + i]) * n_bytes for i in range(n_layers)]
    path = World(tmp_path).publish(15, extended_file([Layer(i, each) for i, each in enumerate(contents)], 15))
    wanted = [(15, i) for i in range(n_layers)]
    with manager(tmp_path, follow="never") as memory:
        memory.load_dimension(15)
        assert parts(memory.read_many(wanted)) == contents
        assert parts(memory.read_many(wanted)) == contents
        os.truncate(path, memory.region(15).content_offset(3) + 5000)
        with pytest.raises(jm.RegionTruncated) as caught:
            memory.read_many(wanted, threads=threads)
        assert caught.value.layer == 3
        assert parts(memory.read_many(wanted[:3], threads=threads)) == contents[:3]


# Against each by itself -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readable(base):
    with manager(base, follow="never") as memory:
        for dimension in (15, 16, 17):
            memory.load_dimension(dimension)
        yield memory, memory.layers()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_choice_in_any_order(readable, data):
    memory, ids = readable
    wanted = data.draw(st.lists(st.sampled_from(ids), max_size=30))
    runs = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=3))
    wanted += [layer_id for begin in runs for layer_id in ids[begin : begin + 6]]
    out = bytearray(sum(len(each) for each in contents(memory, wanted)))
    batch = memory.read_many(wanted, out=out, threads=data.draw(st.sampled_from([1, 1, 2, 5])))
    assert parts(batch) == contents(memory, wanted)
    assert out == b"".join(contents(memory, wanted))


def test_a_list_that_grows_meanwhile_is_read_as_long_as_it_was(memory):
    wanted = [(15, 0), (15, 2)]

    class Growing:
        def __index__(self):
            wanted.extend([(15, 0)] * 1000)
            return 1

    wanted.insert(1, (15, Growing()))
    assert parts(memory.read_many(wanted)) == [LAYERS[0], LAYERS[1], LAYERS[2]]
    assert len(wanted) == 1003
