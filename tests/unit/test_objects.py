"""What the library's objects are to Python: pickled, copied, referred to weakly, told apart by type checkers."""

from __future__ import annotations

import copy
import dataclasses
import errno
import gc
import json
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from world import manager

import jessy_mem as jm
from helpers import HAS_PROC
from jessy_mem.trace import TraceWriter


def travelled(each):
    """`each` by every way it can take to another process, or to a copy."""
    return [copy.copy(each), copy.deepcopy(each), *(pickle.loads(pickle.dumps(each, p)) for p in range(6))]


@pytest.fixture
def memory(world):
    world.write_all(1, 2, 9)
    with manager(world) as memory:
        memory.load_all()
        yield memory


def test_contexts_and_paths_travel(memory):
    path = jm.NavigationPath(1, [(1, 0), (99, 0)], frequency=0.6, confidence=0.5, keywords={"smile", "joke"})
    contexts = memory.load_contexts([path])
    assert (len(contexts), len(contexts.missing)) == (1, 1)
    for each in (path, contexts, contexts[0]):
        assert all(again == each and repr(again) == repr(each) for again in travelled(each))
    for again in travelled(contexts):
        assert again.missing == contexts.missing
        assert again.format() == contexts.format()


def test_statistics_reports_and_configurations_travel(memory):
    kept = memory.access_layer((1, 0))
    block = memory.allocate(5000)
    stats = memory.get_stats(residency=True)
    assert stats.access_count == 1
    for each in (stats, stats.pool, stats.access_latency, memory.config, *memory.leases(), *jm.metrics(memory)):
        for again in travelled(each):
            assert again == each
            assert dataclasses.asdict(again) == dataclasses.asdict(each)
    del kept, block


def test_report_travels_with_its_errors(world):
    world.path(7).parent.mkdir(parents=True)
    world.path(7).write_bytes(b"not a region" * 100)
    with manager(world) as memory:
        report = memory.load_all()
    for again in travelled(report):
        assert (again.loaded, again.simulated, list(again.skipped)) == (report.loaded, [], list(report.skipped))
        assert [vars(error) for error in again.skipped.values()] == [vars(error) for error in report.skipped.values()]


def test_batch_travels(memory):
    batch = memory.read_many([(1, 0), (2, 0)])
    for again in travelled(batch):
        assert bytes(again[1]) == bytes(batch[1])
        assert (again.offsets == batch.offsets).all()


def test_plan_travels():
    for again in travelled(jm.default_layout()):
        assert again.dimensions == jm.default_layout().dimensions
        assert again.segments == jm.default_layout().segments
        with pytest.raises(TypeError):
            again.dimensions[15] = None


def test_manager_and_what_it_gives_can_be_referred_to_weakly(world):
    world.write_all(1)
    memory = manager(world)
    memory.load_all()
    each = [memory, memory.region(1), memory.access_layer((1, 0)), memory.allocate(5)]
    gone = [weakref.ref(one) for one in each]
    memory.close()
    assert [reference() for reference in gone] == each
    each.clear()
    del memory
    gc.collect()
    assert [reference() for reference in gone] == [None] * 4


def test_recorded_traces_are_let_go(world, tmp_path):
    world.write_all(1)
    with manager(world) as memory:
        memory.load_all()
        with memory.record_trace(tmp_path / "outer") as outer:
            gone = []
            for i in range(50):
                with memory.record_trace(tmp_path / "inner") as inner:
                    memory.access_layer((1, 0))
                gone.append(weakref.ref(inner))
                assert (inner.n_accesses, outer.n_accesses) == (1, i + 1)
            del inner
            assert not [each for each in gone if each() is not None]
        memory.access_layer((1, 0))
        assert outer.n_accesses == 50
        assert len(memory.tracers_kept) <= 2 if hasattr(memory, "tracers_kept") else True


def test_call_sites_are_those_of_the_caller_while_traces_are_recorded(world, tmp_path):
    world.write_all(1)
    with manager(world, trace=True) as memory:
        memory.load_all()
        kept = [memory.access_layer((1, 0))]
        with memory.record_trace(tmp_path / "trace") as trace:
            kept.append(memory.access_layer((1, 1)))
        kept.append(memory.access_layer((1, 0)))
        (lease,) = memory.leases()
        assert len(lease.taken_at) == 3
        assert all(Path(__file__).name in site for site in lease.taken_at)
        assert trace.n_accesses == 1


# Numbers of every type ---------------------------------------------------------------------------------------------


def test_ids_and_ranges_may_be_of_any_type_of_number(memory):
    view = memory.access_layer((1, 0))
    for layer_id in (
        (np.int64(1), np.uint8(0)),
        np.array([1, 0]),
        iter((1, 0)),
        jm.LayerId(np.int8(1), np.array(0)),
        [1, 0],
    ):
        assert memory.access_layer(layer_id) is view
    low = np.float32(view.frequency)
    assert view.id in memory.layers(np.int16(1), frequency=(low, low))
    assert memory.layers(np.uint32(1)) == memory.layers(1) == memory.region(np.int64(1)).layers()
    assert len(memory.read_many(layer for layer in [(1, 0), (np.int8(2), 0)])) == 2
    path = jm.NavigationPath(np.int64(1), (layer for layer in [(np.int8(1), 0)]), np.float32(0.5), np.float64(0.5))
    assert path == jm.NavigationPath(1, [(1, 0)], 0.5, 0.5)
    assert [type(each) for each in (path.dimension, path.frequency, path.confidence)] == [int, float, float]
    assert json.dumps(dataclasses.asdict(path))
    with pytest.raises(TypeError, match="is not a number"):
        jm.NavigationPath(1, [(1, 0)], "0.5")


def test_layers_of_a_proto_dimension_may_be_an_iterator(world):
    with manager(world) as memory:
        learned = memory.create_proto_dimension("Learned", (jm.LayerSpec(text=text) for text in ("one", "two")))
        assert [memory.access_layer(layer).text for layer in memory.layers(learned)] == ["one", "two"]


def test_frequency_that_was_written_is_what_everything_shows(world):
    with manager(world) as memory:
        learned = memory.create_proto_dimension("Learned", [jm.LayerSpec(text="a", frequency=0.6)])
        for _ in range(2):
            assert memory.access_layer((learned, 0)).frequency == 0.6
            assert memory.load_context((learned, 0)).frequency == 0.6
            assert memory.region(learned).layer_facts()[0][2] == 0.6
            assert memory.dump_state()["regions"][str(learned)]["layers"][0]["frequency"] == 0.6
            assert memory.layers(frequency=(0.1, 0.6)) == memory.layers(frequency=(0.6, 0.9)) == [(learned, 0)]
            memory.crystallize(learned)


# Errors that say what to do ---------------------------------------------------------------------------------------


def test_proto_dimension_is_never_called_not_loaded(world):
    with manager(world) as memory:
        learned = memory.create_proto_dimension("Learned", [jm.LayerSpec(text="a")])
        for call in (memory.unload_dimension, memory.reload_dimension):
            with pytest.raises(jm.RegionNotFound, match="it is a proto-dimension") as caught:
                call(learned)
            assert "is not loaded" not in str(caught.value)


WITH_LITTLE_ADDRESS_SPACE = """
import resource, sys
from pathlib import Path
import jessy_mem as jm

memory = jm.MmapManager(16, base_path=sys.argv[1], simulation="never")
limit_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (int(sys.argv[3]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
try:
    if sys.argv[2] == "manager":
        jm.MmapManager(base_path=sys.argv[1])
    else:
        memory.load_dimension(int(sys.argv[2]))
except jm.MappingError as error:
    text = str(error)
    print(error.errno, error.requested_bytes >> 20, "ulimit -v" in text, "total_memory_mb" in text, error.hint in text)
"""


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
@pytest.mark.parametrize(("what", "left_mib", "requested_mib"), [("manager", 32, 280), ("1", 1, 8), ("9", 1, 8)])
def test_refused_memory_says_what_was_asked_for_and_what_to_change(what, left_mib, requested_mib, world):
    for dimension in (1, 9):
        builder = jm.RegionBuilder(dimension, "x", immutable=dimension == 9)
        builder.add_layer(jm.LayerSpec(content=bytes(8 << 20))).write(world.path(dimension))
    command = [sys.executable, "-c", WITH_LITTLE_ADDRESS_SPACE, str(world.base), what, str(left_mib)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{errno.ENOMEM} {requested_mib} True True True\n", "")


@pytest.mark.parametrize("folder", ["data", "./base", Path("/tmp/base"), "/srv/memory 1"])
def test_folder_in_the_place_of_the_budget_is_told_where_it_goes(folder):
    with pytest.raises(ValueError, match="base_path="):
        jm.MmapManager(folder)


def test_keyword_that_is_no_text_is_a_type_error(memory):
    with pytest.raises(TypeError, match="dimension="):
        memory.layers(keyword=3)


# Folders -----------------------------------------------------------------------------------------------------------


def test_relative_folders_and_files_stay_the_same(world, tmp_path, monkeypatch):
    world.write_all(1, 2)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    own = jm.RegionBuilder(20, "own").add_layer(jm.LayerSpec(text="own")).write("own.mmap")
    with jm.MmapManager(base_path="../base", simulation="never") as memory:
        monkeypatch.chdir("/")
        memory.load_dimension(1)
        monkeypatch.chdir(tmp_path / "here")
        memory.load_dimension(20, own)
        monkeypatch.chdir("/")
        assert memory.reload_dimension(20) == (1, 1)
        assert not memory.region(20).stale
        learned = memory.create_proto_dimension("Learned", [jm.LayerSpec(text="a")])
        assert memory.crystallize(learned).resolve() == tmp_path / "base" / f"D{learned}" / "region.mmap"
        assert memory.access_layer((1, 0)).source == "mmap"


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with jm.MmapManager(base_path="~/memory", simulation="never") as memory:
        learned = memory.create_proto_dimension("Learned", [jm.LayerSpec(text="a")])
        assert memory.crystallize(learned) == tmp_path / "memory" / f"D{learned}" / "region.mmap"


@pytest.mark.parametrize("name", [b"\xff", b"caf\xe9", "größe".encode("utf-16-le")[:3] + b"\xfe"])
def test_base_folder_that_is_not_utf8(name, tmp_path):
    name = name.replace(b"\0", b"0")
    base = os.fsencode(tmp_path) + b"/" + name
    try:
        os.mkdir(base)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    for given in (base, os.fsdecode(base), Path(os.fsdecode(base))):
        with jm.MmapManager(base_path=given, simulation="never") as memory:
            learned = memory.create_proto_dimension(f"Learned {given!r}"[-60:], [jm.LayerSpec(text="a joke")])
            memory.crystallize(learned)
            memory.unload_dimension(learned)
            assert learned in memory.load_all().loaded
            assert memory.access_layer((learned, 0)).text == "a joke"
            json.dumps(memory.dump_state()).encode()
            repr(memory)
            labels = {sample.labels["base_path"] for sample in jm.metrics(memory)}
            (label,) = labels
            assert label.encode()
            assert "\\x" in label


# A folder without extensions ---------------------------------------------------------------------------------------


def without_extensions(folder: Path) -> Path:
    """The package as it stands in a source tree: no compiled module."""
    package = Path(jm.__file__).parent
    for path in package.rglob("*.py"):
        target = folder / "jessy_mem" / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    "statement", ["import jessy_mem", "from jessy_mem import MmapManager", "import jessy_mem.layout"]
)
def test_import_in_a_source_tree_says_what_to_do(statement, tmp_path):
    tree = without_extensions(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tree)!r}); {statement}"],
        capture_output=True, text=True, cwd=tree,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\nImportError: jessy_mem is imported from a folder" in done.stderr
    assert str(tree / "jessy_mem") in done.stderr
    assert "pip install" in done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def test_import_without_a_dependency_names_that(tmp_path):
    (tmp_path / "xxhash.py").write_text("raise ModuleNotFoundError(\"No module named 'xxhash'\", name='xxhash')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import jessy_mem"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'xxhash'"


def test_trace_writer_can_be_referred_to_weakly(tmp_path):
    with TraceWriter(tmp_path / "trace") as trace:
        assert weakref.ref(trace)() is trace
