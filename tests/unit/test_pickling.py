"""What pickle takes to another process: managers, views and regions by reference, values by value."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
from inside import evict
from world import content_of

import jessy_mem as jm
from helpers import HUNG_S, Layer, plain_file
from jessy_mem import compression

HEADROOM_BYTES, DIMENSION_BYTES = 1024, 100


def travelled(it: object) -> object:
    return pickle.loads(pickle.dumps(it))


def manager(world, **options) -> jm.MmapManager:
    return jm.MmapManager(base_path=world.base, simulation="never", **options)


def test_a_manager_travels_as_its_configuration_and_what_is_loaded(world, tmp_path):
    world.write_all(1, 2, 3, 4)
    other = shutil.copy(world.path(4), tmp_path / "other.mmap")
    with manager(world, total_memory_mb=64, verify="open") as memory:
        for dimension in (1, 2, 3):
            memory.load_dimension(dimension)
        memory.load_dimension(4, other)
        memory.unload_dimension(3)
        evict(memory, 2)
        with travelled(memory) as again:
            assert again.config == memory.config
            assert again.number != memory.number
            assert again.layers() == memory.layers()
            assert again.region(4).path == memory.region(4).path == other
            assert bytes(again.access_layer((2, 1))) == content_of(2, 1)
            with pytest.raises(jm.RegionNotFound):
                again.region(3)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("n", [0, 1, 14, 500])
def test_a_manager_is_small_on_its_way(n, protocol, world):
    dimensions = range(15, 15 + n)
    for dimension in dimensions:
        world.write(dimension, n_layers=1, n_bytes=32)
    with manager(world) as memory:
        memory.load_all()
        assert len(pickle.dumps(memory, protocol)) <= HEADROOM_BYTES + DIMENSION_BYTES * n


IN_CHILD = """
    import pickle, sys
    if __name__ == "__main__":
        memory, views = pickle.load(sys.stdin.buffer)
        assert memory.access_layer(views[0].id) is views[0], "views come from the manager that came with them"
        print(memory.config.base_path)
        for view in views:
            print(view.id, view.text)
        memory.close()
"""


@pytest.mark.thread_unsafe(reason="all of it happens in another process")
def test_a_manager_opens_its_folder_in_another_process(world, tmp_path):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        views = [memory.access_layer(layer_id) for layer_id in memory.layers()]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(IN_CHILD)],
            cwd=tmp_path, input=pickle.dumps((memory, views)), capture_output=True, timeout=HUNG_S, check=True,
        )  # fmt: skip
    told = done.stdout.decode().splitlines()
    assert told == [str(world.base), *(f"{view.id} {view.text}" for view in views)]


@pytest.mark.slow
@pytest.mark.thread_unsafe(reason="all of it happens in other processes")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_of_processes_take_managers_and_views(method, world, tmp_path):
    world.write_all(1, 2)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, sys
        import jessy_mem as jm

        def begin(it):
            global memory
            memory = it

        def read(view):
            return view.id, view.text, memory.access_layer(view.id) is view

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with jm.MmapManager(base_path=sys.argv[1], simulation="never") as memory:
                memory.load_all()
                views = list(memory.values())
                with context.Pool(2, begin, [memory]) as pool:
                    assert pool.map(read, views) == [(view.id, view.text, True) for view in views]
                with context.Pool(1) as pool:
                    assert pool.map(len, views) == [len(view) for view in views], "without a manager"
        """)
    )
    subprocess.run([sys.executable, script, world.base], cwd=tmp_path, timeout=HUNG_S, check=True)


def test_what_has_no_file_does_not_travel(world):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        humor = memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
        with pytest.raises(jm.UnsavedLearning, match=f"D{humor}") as caught:
            pickle.dumps(memory)
        assert caught.value.dimensions == (humor,)
        for it in (memory.access_layer((humor, 0)), memory.region(humor)):
            with pytest.raises(TypeError, match="crystallize"):
                pickle.dumps(it)
        memory.crystallize(humor)
        with travelled(memory) as again:
            assert again.access_layer((humor, 0)).text == "a joke"


@pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
def test_what_is_simulated_is_simulated_again(world):
    with jm.MmapManager(base_path=world.base) as memory:
        memory.load_dimension(2)
        with pytest.raises(TypeError, match="has no file"):
            pickle.dumps(memory.access_layer((2, 0)))
        with travelled(memory) as again:
            assert again.region(2).source == "simulated"
            assert again.access_layer((2, 0)).text == memory.access_layer((2, 0)).text


def test_what_is_closed_does_not_travel(world):
    world.write(1)
    memory = manager(world)
    region = memory.load_dimension(1)
    alone = jm.MmapRegion(1, world.path(1))
    alone.close()
    with memory.snapshot() as then, pytest.raises(TypeError, match="of one moment"):
        pickle.dumps(then)
    memory.close()
    for it in (memory, alone):
        with pytest.raises(jm.ManagerClosed):
            pickle.dumps(it)
    assert bytes(travelled(region.layer(0))) == content_of(1, 0), "a view outlives its manager"


@pytest.mark.thread_unsafe(reason="the managers that are open are of the process")
def test_a_manager_whose_file_is_gone_does_not_arrive_and_leaves_nothing_open(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        memory.load_all()
        sent = pickle.dumps(memory)
        world.path(2).unlink()
        before = jm.manager.open_managers()
        with pytest.raises(jm.DimensionNotFound):
            pickle.loads(sent)
        assert jm.manager.open_managers() == before == [memory]


# Views and regions


def test_a_view_comes_from_the_open_manager_of_its_folder(world, tmp_path, monkeypatch):
    world.write(1)
    (tmp_path / "link").symlink_to(world.base)
    with manager(world) as memory:
        memory.load_dimension(1)
        view = memory.access_layer((1, 2))
        charged = memory.get_stats().total_allocated_bytes
        assert travelled(view) is view
        assert travelled([view, {view.id: view}]) == [view, {view.id: view}]
        assert travelled(memory.region(1)) is memory.region(1)
        sent = pickle.dumps(view)
        del view
        evict(memory, 1)
        assert bytes(pickle.loads(sent)) == content_of(1, 2), "it is mapped again"
        assert memory.get_stats().total_allocated_bytes == charged
    with jm.MmapManager(base_path=tmp_path / "link", simulation="never") as other:
        other.load_dimension(1)
        assert bytes(pickle.loads(sent)) == content_of(1, 2), "by another name of the folder"
    monkeypatch.chdir(world.base)
    view = jm.MmapRegion(1, "D01/region.mmap").layer(0)
    sent = pickle.dumps(view)
    monkeypatch.chdir("/")
    assert bytes(pickle.loads(sent)) == content_of(1, 0), "a reference is absolute"


def test_views_without_a_manager_share_one_mapping_and_let_it_go(world):
    path = world.write(1)
    with jm.MmapRegion(1, path) as region:
        sent = pickle.dumps([region.layer(layer.layer) for layer in region.layers()])
        sent_region = pickle.dumps(region)
    views = pickle.loads(sent) + pickle.loads(sent)
    assert [bytes(view) for view in views] == [content_of(1, layer) for layer in range(4)] * 2
    assert mapped(path) == 1
    again = pickle.loads(sent_region)
    assert (again.path, again.generation, bytes(again.layer(3))) == (path, 1, content_of(1, 3))
    path.unlink()
    with pytest.raises(jm.LayerNotFound, match="is gone"):
        pickle.loads(sent)
    assert bytes(views[0]) == content_of(1, 0)
    del views, again
    assert mapped(path) == 0


def mapped(path) -> int:
    with open("/proc/self/maps") as maps:
        return sum(str(path) in line for line in maps)


def test_a_reference_gives_the_bytes_it_was_made_of_or_an_error(world):
    world.write(15)
    with manager(world) as memory:
        memory.load_dimension(15)
        old, region = memory.access_layer((15, 0)), memory.region(15)
        sent, sent_region = pickle.dumps(old), pickle.dumps(region)
        memory.update_layer((15, 0), jm.LayerSpec(text="new"))
        new = memory.access_layer((15, 0))
        assert travelled(new) is new
        assert bytes(pickle.loads(sent)) == bytes(old), "its file is still there, under another"
        with pytest.raises(jm.RegionNotFound, match=r"generation 1 of .* is gone: generation 2 is there"):
            pickle.loads(sent_region)
        sent_new = pickle.dumps(new)
        memory.compact(15)
        for gone in (sent, sent_new):
            with pytest.raises(jm.LayerNotFound, match=r"generation [12] of .* is gone") as caught:
                pickle.loads(gone)
            assert (caught.value.dimension, caught.value.layer) == (15, 0)
        memory.forget(15)
        with pytest.raises(jm.RegionNotFound, match="is gone"):
            pickle.loads(sent_region)


def test_a_plain_file_has_no_generation_so_what_is_there_is_read(world):
    path = world.publish(3, plain_file([Layer(0, b"one")]))
    view = jm.MmapRegion(3, path).layer(0)
    held = travelled(view)
    world.publish(3, plain_file([Layer(0, b"two")]))
    assert bytes(held) == bytes(view) == b"one"
    assert bytes(travelled(view)) == b"two"


@pytest.mark.skipif(not compression.is_available(), reason="zstd is not installed")
def test_compressed_layers_of_a_file_alone_have_their_limit(world):
    path = world.path(15)
    builder = jm.RegionBuilder(15, "large")
    for _ in range(2):
        builder.add_layer(jm.LayerSpec(content=bytes(40 << 20), compress=True))
    builder.write(path)
    region = jm.MmapRegion(15, path)
    sent = [pickle.dumps(region.layer(0)), b""]
    sent[1] = pickle.dumps(jm.MmapRegion(15, path).layer(1))
    first = pickle.loads(sent[0])
    with pytest.raises(jm.LimitExceeded, match="decompressed"):
        pickle.loads(sent[1])
    del first
    assert len(pickle.loads(sent[1])) == 40 << 20


# By value


def test_values_travel_by_value(world):
    world.write_all(1, 2)
    with manager(world) as memory:
        report = memory.load_all()
        path = jm.NavigationPath(1, [(1, 0), (2, 1), (3, 0)], confidence=0.5, keywords=("a",))
        contexts = memory.load_contexts([path])
        values = [
            jm.LayerId(1, 2), path, contexts, contexts[0], memory.config, memory.layout, report,
            memory.get_stats(residency=True), *memory.leases(), jm.LayerSpec(text="x"), memory.refresh(),
        ]  # fmt: skip
        for value in values:
            again = travelled(value)
            assert again == value or repr(again) == repr(value), "errors in a report are equal by identity"
            assert type(again) is type(value)


# Interpreters

INTERPRETERS = """
    import sys
    try:
        import _interpreters
        def run(kind, code):
            failed = _interpreters.exec(_interpreters.create(kind), code)
            assert failed is None, failed
    except ImportError:
        import _xxsubinterpreters
        def run(kind, code):
            _xxsubinterpreters.run_string(_xxsubinterpreters.create(isolated=kind == "isolated"), code)
    IMPORT = '''
    try:
        import jessy_mem
    except ImportError as error:
        print(error, flush=True)
    else:
        print("imported", flush=True)
    '''
    for kind in sys.argv[1:]:
        exec(IMPORT) if kind == "main" else run(kind, IMPORT)
"""


@pytest.mark.thread_unsafe(reason="all of it happens in other processes")
@pytest.mark.parametrize("kinds", [("main", "legacy", "isolated"), ("legacy", "main")])
def test_a_second_interpreter_is_told_why_not(kinds, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERPRETERS), *kinds],
        cwd=tmp_path, capture_output=True, text=True, timeout=HUNG_S,
    )  # fmt: skip
    first, *others = done.stdout.splitlines()
    assert first == "imported", done
    assert len(others) == len(kinds) - 1
    for told in others:
        assert "jessy_mem is loaded once in a process" in told
        assert "Use threads, or processes" in told
    assert os.fspath(tmp_path) not in done.stderr
