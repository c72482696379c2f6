"""Simulated dimensions as a user of a manager meets them: when, how loud, and who takes their place."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError, fields

import pytest
from world import MIB, PLANNED, check_reading, check_states, manager

import jessy_mem as jm
from helpers import Layer, extended_file, run_threads
from jessy_mem import simulation as simulation_module

SILENT = pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning")
LOUD = re.compile(r"dimensions? (D.*?) (?:is|are) simulated")


def named(message):
    """The dimensions that a message says to be simulated; none if it says something else."""
    found = LOUD.match(message)
    return [int(each[1:]) for each in found[1].split(", ")] if found else []


N_LAYERS = sum(len(planned.layers) for planned in jm.default_layout().dimensions.values())


def sources(memory):
    """{dimension: the one source of its layers}, for all that are loaded."""
    found = {}
    for layer_id in memory.layers():
        found.setdefault(layer_id.dimension, set()).add(memory.access_layer(layer_id).source)
    assert all(len(each) == 1 for each in found.values())
    return {dimension: each.pop() for dimension, each in found.items()}


def logged(caplog):
    """The dimensions that the log tells to be simulated, in order."""
    return [each for record in caplog.records if record.levelname == "WARNING" for each in named(record.getMessage())]


def test_a_folder_without_any_file_gives_every_layer_and_one_warning(world, caplog):
    with manager(world, simulation="auto") as memory:
        with pytest.warns(UserWarning, match=f"no file in {re.escape(str(world.base))}") as warned:
            report = memory.load_all()
        assert [named(str(each.message)) for each in warned] == [[*PLANNED]]
        assert len(caplog.records) == 1
        assert logged(caplog) == [*PLANNED]
        assert (report.loaded, report.simulated, report.skipped) == ([], [*PLANNED], {})
        assert sources(memory) == dict.fromkeys(PLANNED, "simulated")
        texts = {memory.load_context(layer_id).content for layer_id in memory.layers()}
        assert len(texts) == N_LAYERS == len(memory.layers())
        assert all(300 <= len(text) <= 3000 for text in texts)
        stats = memory.get_stats()
        check_states(stats)
        assert stats.simulation_mode
        assert stats.simulated_dimensions == PLANNED
        assert "SIMULATED" in str(stats)
        assert all(region["source"] == "simulated" for region in memory.dump_state()["regions"].values())
        assert not world.base.exists(), "nothing is written"
        again = memory.load_all()
        assert (again.loaded, again.simulated) == ([], [*PLANNED])
        assert logged(caplog) == [*PLANNED], "said once"


def test_the_warning_points_at_the_line_of_the_caller(world, tmp_path):
    """Whichever call it is, and through whatever frames of the library it went."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, jessy_mem\n"
        "memory = jessy_mem.MmapManager(base_path=sys.argv[1])\n"
        "memory.load_dimension(1)\n"
        "memory.load_dimension(2, exist_ok=True)\n"
        "memory.load_all()\n"
        "memory.load_all()\n"
        "def again():\n"
        "    memory.unload_dimension(5)\n"
        "    return memory.load_all()\n"
        "again()\n"
    )
    done = subprocess.run([sys.executable, script, world.base], capture_output=True, text=True, check=True)
    found = re.findall(r"script.py:(\d+): UserWarning: (.*)", done.stderr)
    assert [(int(line), named(message)) for line, message in found] == [
        (3, [1]), (4, [2]), (5, [*PLANNED[2:]]), (9, [5]),
    ]  # fmt: skip


def test_a_warning_that_is_an_error_is_raised_when_all_is_loaded(world):
    """As pytest makes them: load_all has done its work, and the next one has nothing to say."""
    with manager(world, simulation="auto") as memory, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"D01, .*, D14 are simulated"):
            memory.load_all()
        assert memory.load_all().simulated == [*PLANNED]


def test_threads_that_load_side_by_side_tell_what_each_has_simulated(world):
    """What one gathers is its own: together they name each dimension once."""
    with manager(world, simulation="auto") as memory, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run_threads([memory.load_all] * 4)
    assert sorted(each for warning in warned for each in named(str(warning.message))) == [*PLANNED]


def test_what_is_loaded_again_and_again_is_logged_once(world, caplog):
    with manager(world, simulation="auto") as memory:
        for _ in range(3):
            with pytest.warns(UserWarning, match="D01 is simulated"):
                memory.load_dimension(1)
            memory.unload_dimension(1)
        assert logged(caplog) == [1]
        path = world.write(1)
        memory.load_dimension(1)
        memory.unload_dimension(1)
        path.unlink()
        with pytest.warns(UserWarning, match="D01 is simulated"):
            memory.load_dimension(1)
        assert logged(caplog) == [1, 1], "there was a file meanwhile"


def test_detection_is_per_dimension(world, caplog):
    """9 real files, 3 missing, 2 damaged, one of which nothing can be read of and one of which a layer is wrong."""
    missing, damaged = (3, 9, 12), (5, 14)
    real = [dimension for dimension in PLANNED if dimension not in missing + damaged]
    world.write_all(*real, *damaged)
    world.publish(5, b"no region at all")
    world.damage(14)
    with manager(world, simulation="auto") as memory:
        with pytest.warns(UserWarning, match="D03, D09, D12 are simulated") as warned:
            report = memory.load_all()
        assert len(warned) == 1
        assert (report.loaded, report.simulated) == (real, [*missing])
        assert list(report.skipped) == [*damaged]
        assert isinstance(report.skipped[5], jm.RegionTruncated)
        assert isinstance(report.skipped[14], jm.ChecksumMismatch)
        assert logged(caplog) == [*missing]
        assert sources(memory) == {d: "simulated" if d in missing else "mmap" for d in sorted([*real, *missing])}
        for dimension in real:
            check_reading(memory, dimension)
        assert memory.get_stats().simulated_dimensions == missing
        for dimension in damaged:
            with pytest.raises(jm.LayerNotFound):
                memory.access_layer((dimension, 0))


@pytest.mark.parametrize("simulation", ["auto", "never", "always"])
def test_a_damaged_file_is_simulated_over_only_when_that_is_wanted(world, caplog, simulation):
    world.publish(1, b"no region at all")
    with manager(world, simulation=simulation) as memory:
        if simulation == "always":  # does not look at files
            assert memory.load_dimension(1).source == "simulated"
            assert logged(caplog) == [], "asked for, so there is nothing to be loud about"
        else:
            with pytest.raises(jm.RegionTruncated):
                memory.load_dimension(1)
    if simulation == "auto":
        with manager(world, simulation=simulation, simulate_damaged=True) as memory:
            with pytest.warns(UserWarning, match="D01 is simulated.* its file is damaged"):
                assert memory.load_dimension(1).source == "simulated"
            assert logged(caplog) == [1]
            assert memory.access_layer((1, 0)).text
            assert memory.get_stats().simulated_dimensions == (1,)
    elif simulation == "never":
        with manager(world, simulation=simulation, simulate_damaged=True) as memory, pytest.raises(jm.RegionTruncated):
            memory.load_dimension(1)


@SILENT
def test_a_damaged_file_leaves_the_simulated_dimension_as_it_was(world):
    with manager(world, simulation="always") as memory:
        memory.load_dimension(1)
        held = memory.access_layer((1, 0))
    with manager(world, simulation="auto") as memory:
        memory.load_dimension(1)
        world.publish(1, b"no region at all")
        with pytest.raises(jm.RegionTruncated):
            memory.reload_dimension(1)
        assert memory.access_layer((1, 0)).text == held.text
        assert memory.load_all().skipped.keys() >= {1}
        assert memory.access_layer((1, 0)).source == "simulated"


def test_never_simulates_nothing(world):
    with manager(world, simulation="never") as memory:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            report = memory.load_all()
        assert (report.loaded, report.simulated, warned) == ([], [], [])
        assert all(isinstance(error, jm.DimensionNotFound) for error in report.skipped.values())
        assert list(report.skipped) == [*PLANNED]
        assert not memory.get_stats().simulation_mode


def test_what_is_not_in_the_plan_is_never_simulated(world):
    for simulation in ("auto", "always"):
        with manager(world, simulation=simulation) as memory:
            for dimension in (15, 999, 1000):
                with pytest.raises(jm.DimensionNotFound):
                    memory.load_dimension(dimension)


def test_what_the_plan_names_no_layers_of_is_not_simulated_and_stops_no_others(world):
    slot = {"id": 1, "name": "own", "size_mb": 1, "frequency": 1, "frequency_band": [1, 2], "layers": []}
    segment = {"name": "memory", "size_mb": 4, "first_dimension": 1}
    layout = jm.MemoryLayout({"dimensions": [slot], "segments": [segment]})
    jm.RegionBuilder(15, "own").add_layer(jm.LayerSpec(text="there")).write(jm.region_path(world.base, 15))
    for simulation in ("auto", "always"):
        with manager(world, simulation=simulation, layout=layout, total_memory_mb=4) as memory:
            report = memory.load_all()
            assert (report.loaded, report.simulated, list(report.skipped)) == ([15], [], [1])
            assert isinstance(report.skipped[1], jm.DimensionNotFound)


@SILENT
def test_a_file_that_appears_is_taken_by_reload(world, caplog):
    with manager(world, simulation="auto") as memory:
        memory.load_dimension(1)
        held = memory.access_layer((1, 0))
        before = held.text
        assert memory.layers(keyword="tears")
        assert memory.reload_dimension(1) == (1, 1), "still no file: simulated again"
        world.write(1, generation=7, keywords=(b"found",))
        assert memory.access_layer((1, 0)).source == "simulated", "not before somebody asks"
        assert memory.reload_dimension(1) == (1, 7)
        check_reading(memory, 1, generation=7)
        assert sources(memory) == {1: "mmap"}
        assert (memory.layers(keyword="tears"), len(memory.layers(keyword="found"))) == ([], 4)
        assert not memory.get_stats().simulation_mode
        assert (held.source, held.text) == ("simulated", before)
        assert logged(caplog) == [1]


def test_a_file_that_appears_is_left_alone_by_always(world):
    with manager(world, simulation="always") as memory:
        memory.load_all()
        world.write(1)
        report = memory.load_all()
        assert (report.loaded, report.simulated) == ([], [*PLANNED])
        memory.reload_dimension(1)
        assert sources(memory)[1] == "simulated"


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize(
    "call", ["append_layer", "extend", "update_layer", "remove_layer", "compact", "ensure_dimension"]
)
def test_what_is_always_simulated_is_not_changed_in_its_file(world, call, is_loaded):
    """What is read is not what would be changed."""
    before, spec = world.write(3).read_bytes(), jm.LayerSpec(text="learned")
    with manager(world, simulation="always") as memory:
        arguments = {
            "append_layer": (3, spec),
            "extend": (3, [spec]),
            "update_layer": ((3, 0), spec),
            "remove_layer": ((3, 0),),
            "compact": (3,),
            "ensure_dimension": (memory.layout.dimensions[3].name, [spec]),
        }
        if is_loaded:
            memory.load_dimension(3)
        with pytest.raises(jm.RegionNotFound, match="it is simulated, and no file at"):
            getattr(memory, call)(*arguments[call])
    assert [path.name for path in world.path(3).parent.iterdir()] == ["region.mmap"]
    assert world.path(3).read_bytes() == before


@SILENT
def test_an_evicted_dimension_comes_back_as_it_was_without_another_warning(world, caplog):
    """D01 to D04 at full size are 56 MiB: with 48 they cannot all be there."""
    with manager(world, total_memory_mb=48, simulation="auto", simulation_scale=1.0) as memory:
        for dimension in (1, 2, 3, 4):
            memory.load_dimension(dimension)
        stats = memory.get_stats()
        assert stats.evictions > 0
        assert stats.dimensions_loaded == 4
        assert stats.simulated_dimensions == (1, 2, 3, 4), "evicted ones are simulated still"
        lost = next(d for d in (1, 2, 3, 4) if str(d) not in memory.dump_state()["regions"])
        world.write(lost)
        check_reading(memory, lost)  # what comes back is what there is now
        other = next(d for d in (1, 2, 3, 4) if d != lost)
        assert memory.access_layer((other, 0)).source == "simulated"
        assert logged(caplog) == [1, 2, 3, 4]


def bytes_of(**options):
    with jm.MmapManager(simulation="always", **options) as memory:
        memory.load_all()
        return {layer_id: bytes(memory.access_layer(layer_id)) for layer_id in memory.layers()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = bytes_of(), bytes_of(simulation_seed=0), bytes_of(simulation_seed=1)
    assert first == again
    assert first.keys() == other.keys()
    assert not [layer_id for layer_id in first if first[layer_id] == other[layer_id]]


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_scale_fills_the_plan(world, scale):
    with manager(world, simulation="always", simulation_scale=scale) as memory:
        report = memory.load_all()
        assert report.simulated == [*PLANNED]
        stats = memory.get_stats()
        check_states(stats)
        planned_bytes = sum(jm.default_layout().slot_bytes(dimension) for dimension in PLANNED)
        assert planned_bytes == 148 * MIB
        assert 0.95 * scale * planned_bytes <= stats.total_allocated_bytes <= scale * planned_bytes
        assert memory.get_stats().pressure == "ok"
        longest = max(memory.access_layer(layer_id).n_bytes for layer_id in memory.layers())
        assert longest > scale * 3 * MIB
        assert memory.load_context((1, 0)).content.endswith((".", "”"))


# Ahead ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def invented(inject):
    """Which dimensions are invented, in order."""
    found, real = [], simulation_module.simulate_dimension

    def simulate_dimension(dimension, *args, **options):
        found.append(dimension)
        return real(dimension, *args, **options)

    # Private: what was made, and thrown away, no result tells.
    with inject.instead("jessy_mem.simulation.simulate_dimension", simulate_dimension):
        yield found


def test_scaled_dimensions_are_invented_each_once_and_come_out_the_same(world, invented):
    with manager(world, simulation="always", simulation_scale=0.1) as memory:
        assert memory.load_all().simulated == [*PLANNED]
        assert invented == [*PLANNED]
        for dimension in PLANNED:
            alone = b"".join(simulation_module.simulate_dimension(dimension, scale=0.1).pieces())
            assert bytes(memoryview(memory.region(dimension))) == alone
        del invented[:]
        assert memory.load_all().simulated == [*PLANNED]
        assert invented == []


@SILENT
def test_only_what_is_missing_is_invented(world, invented):
    world.write_all(*range(1, 12))
    with manager(world, simulation="auto", simulation_scale=0.1) as memory:
        memory.load_dimension(12)
        del invented[:]
        assert memory.load_all().simulated == [12, 13, 14]
        assert invented == [13, 14]
    with manager(world, simulation="never", simulation_scale=0.1) as memory:
        assert memory.load_all().skipped.keys() == {12, 13, 14}
        assert len(invented) == 2


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_error_while_a_dimension_is_invented_leaves_nothing(world, inject, error):
    with manager(world, simulation="always", simulation_scale=0.05) as memory:
        # Private: it is all computing, and nothing of the system that could fail.
        with inject(error(), "jessy_mem.simulation.simulate_dimension", at=2), pytest.raises(error):
            memory.load_all()
        assert memory.get_stats().dimensions_loaded == 2
        check_states(memory.get_stats())
        assert memory.load_all().simulated == [*PLANNED]


def test_many_threads_load_all_at_once(world):
    reports = []
    with manager(world, simulation="always", simulation_scale=0.05) as memory:
        run_threads([lambda: reports.append(memory.load_all())] * 4)
        assert [report.simulated for report in reports] == [[*PLANNED]] * 4
        check_states(memory.get_stats())


# Charges, contexts ------------------------------------------------------------------------------------------------


def test_simulated_dimensions_are_charged_and_refused_like_any_other(world):
    with manager(world, total_memory_mb=10, simulation="always", simulation_scale=1.0) as memory:
        with pytest.raises(jm.LimitExceeded):
            memory.load_dimension(1)  # 16 MiB
        assert memory.get_stats().total_allocated_bytes == 0
        assert memory.load_dimension(4).size <= 8 * MIB
        assert memory.get_stats().total_allocated_bytes == memory.region(4).size
        memory.unload_dimension(4)
        assert memory.get_stats().total_allocated_bytes == 0


# Contexts ----------------------------------------------------------------------------------------------------------


@SILENT
def test_contexts_do_not_change_in_form_when_real_files_appear(world):
    """The same lines of a user, with and without files."""
    paths = [jm.NavigationPath(1, [(1, 3), (1, 0)]), jm.NavigationPath(2, [(2, 0)])]
    with manager(world, simulation="auto") as memory:
        memory.load_all()
        simulated = memory.load_contexts(paths)
        for dimension in (1, 2):
            world.write(dimension)
        memory.load_all()
        real = memory.load_contexts(paths)
    assert [context.layer_id for context in simulated] == [context.layer_id for context in real]
    assert {context.source for context in simulated} == {"simulated"}
    assert {context.source for context in real} == {"mmap"}
    assert simulated == jm.create_simulated_contexts(paths)


def test_contexts_name_each_missing_layer_as_often_as_it_was_asked_for(world, caplog):
    world.write(1)
    with manager(world) as memory:
        memory.load_dimension(1)
        before = memory.get_stats()
        paths = [jm.NavigationPath(2, [(2, 0), (1, 1), (2, 0)]), jm.NavigationPath(1, [(1, 1), (1, 9), (1, 0)])]
        contexts = memory.load_contexts(iter(paths))
        assert [context.layer_id for context in contexts] == [(1, 1), (1, 1), (1, 0)]
        assert contexts.missing == ((2, 0), (2, 0), (1, 9))
        assert [record.getMessage() for record in caplog.records] == [
            f"{layer} is not available and was skipped" for layer in ("D02/L0", "D01/L9")
        ]
        after = memory.get_stats()
        assert (after.access_count - before.access_count, after.copies - before.copies) == (3, 3)
        for layer_id in contexts.missing:
            with pytest.raises(jm.LayerNotFound, match=str(layer_id)):
                memory.load_contexts([jm.NavigationPath(1, [(1, 0), layer_id])], strict=True)


TEXTS = {
    "of 2 bytes": "Grüße aus der Tiefe, ÿ߿",
    "of 3 bytes": "時は流れる ࠀ￿",
    "of 4 bytes": "😀 \U00010000 \U0010ffff",
    "of all": "aé時😀" * 30_000,
    "ASCII": "plain " * 30_000,
    "none": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_of_every_width_is_decoded(world, text):
    world.publish(1, extended_file([Layer(0, text.encode())], 1))
    with manager(world) as memory:
        memory.load_dimension(1)
        context = memory.load_context((1, 0))
        assert (context.content, context.n_bytes) == (text, len(text.encode()))
        assert memory.load_contexts([jm.NavigationPath(1, [(1, 0)])]).total_bytes == len(text.encode())


@pytest.mark.parametrize("n_bytes", [0, 1, 63, 64, 65, 95, 96, 97, 4095, 4096, 4097, 8191, 65536, 100_001])
def test_text_of_every_length_is_decoded(world, n_bytes):
    """ASCII is copied in pieces and by words; the last byte of each is looked at too."""
    ascii_text = bytes(33 + i % 94 for i in range(n_bytes))
    layers = [Layer(0, ascii_text)]
    for i, at in enumerate(sorted({0, 31, 63, n_bytes // 2, n_bytes - 2}), 1):
        if 0 <= at <= n_bytes - 2:  # says that it is ASCII, which is not so
            content = ascii_text[:at] + "é".encode() + ascii_text[at + 2 :]
            layers.append(Layer(i, content, text_flags=3, characters=n_bytes))
    world.publish(1, extended_file(layers, 1))
    with manager(world) as memory:
        memory.load_dimension(1)
        for layer in layers:
            context = memory.load_context((1, layer.layer))
            assert context.content == memory.access_layer((1, layer.layer)).text == layer.content.decode()
            assert context.content.isascii() == (layer.layer == 0)


def test_what_says_that_it_is_ascii_and_is_no_text_is_named(world):
    content = b"a" * 100 + b"\x80"
    world.publish(1, extended_file([Layer(0, content, text_flags=3, characters=len(content))], 1))
    with manager(world, verify="never") as memory:
        memory.load_dimension(1)
        with pytest.raises(UnicodeDecodeError, match="D01/L0"):
            memory.load_context((1, 0))


def test_a_context_is_what_its_class_would_make(world):
    world.write(1, keywords=(b"mood",))
    with manager(world) as memory:
        memory.load_dimension(1)
        context = memory.load_context((1, 2))
        assert type(context) is jm.LoadedContext
        same = jm.LoadedContext.of(memory.access_layer((1, 2)))
        assert context == same == copy.deepcopy(context) == pickle.loads(pickle.dumps(context))
        assert (hash(context), repr(context)) == (hash(same), repr(same))
        assert all(type(getattr(context, field.name)) is type(getattr(same, field.name)) for field in fields(context))
        with pytest.raises(FrozenInstanceError):
            context.depth = 7
        assert gc.is_tracked(context)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a" * 100_000 + b"\x80"],
    ids=["no lead", "cut off", "overlong", "surrogate", "above Unicode", "late"],
)  # fmt: skip
def test_what_is_no_text_is_named_and_still_there_as_bytes(world, content):
    world.publish(1, extended_file([Layer(0, b"text"), Layer(1, content)], 1))
    with manager(world) as memory:
        memory.load_dimension(1)
        for load in (
            lambda: memory.load_context((1, 1)),
            lambda: memory.load_contexts([jm.NavigationPath(1, [(1, 0), (1, 1)])]),
            lambda: memory.access_layer((1, 1)).text,
        ):
            with pytest.raises(UnicodeDecodeError, match="D01/L1") as caught:
                load()
            assert caught.value.object == content
        assert bytes(memory.access_layer((1, 1))) == content


def test_a_layer_of_64_mib_is_text(world):
    path = world.publish(15, sparse_text(64 * MIB))
    with path.open("r+b") as file:
        file.truncate(4096 + 64 * MIB)
    with manager(world, verify="never") as memory:
        memory.load_dimension(15)
        context = memory.load_context((15, 0))
        assert len(context.content) == context.n_bytes == 64 * MIB
        assert context.content.count("\0") == 64 * MIB


def sparse_text(n_bytes):
    """The first page of a plain file with one layer of `n_bytes` behind it, all of them a hole."""
    from helpers import plain_file

    data = bytearray(plain_file([Layer(0, b"x")], 15, offsets=[4096])[:4096])
    data[72:80] = (4096 + n_bytes).to_bytes(8, "little")
    data[275:279] = n_bytes.to_bytes(4, "little")
    return bytes(data)


@SILENT
def test_stats_of_simulated_dimensions_are_serialisable(world):
    with manager(world, simulation="auto") as memory:
        memory.load_dimension(14)
        plain = json.loads(json.dumps(memory.get_stats().to_dict()))
        assert (plain["simulation_mode"], plain["simulated_dimensions"]) == (True, [14])
        json.dumps(memory.dump_state())
