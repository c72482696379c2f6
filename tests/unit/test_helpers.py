"""The helpers that assert, shown to fail: a check that cannot fail checks nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
import subprocess
import sys
import types

import pytest
from interrupts import Interrupt
from learner import changes_in, check_holders
from parallel import calls, with_its_own
from world import World

import jessy_mem as jm
from helpers import (
    DELTA_SAMPLE,
    EXTENSION_FIELDS,
    HAS_PROC,
    HEADER_FIELDS,
    HUNG_S,
    SAMPLE,
    Holdings,
    Layer,
    RegionFiles,
    align,
    extended_file,
    mapped_regions,
    open_files,
    patch,
    plain_file,
    read_region,
    redigest,
    run_threads,
)
from jessy_mem._core.changes import ChangePage
from jessy_mem._core.region import MmapRegion
from jessy_mem.layout import dimension_folder
from jessy_mem.locking import FolderLock
from jessy_mem.names import dimensions_of
from jessy_mem.register import LOCK_NAME


@pytest.mark.parametrize(("immutable", "kind"), [(False, "extended"), (True, "immutable")])
def test_reader_fails_for_every_flipped_byte(immutable, kind):
    data = extended_file((*SAMPLE[:2], Layer(5, b"\xff" * 70)), immutable=immutable)
    assert read_region(data).immutable == immutable
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x11
        with pytest.raises((AssertionError, UnicodeDecodeError, struct.error)):
            read_region(bytes(damaged))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers[1].content_offset", 64, "tiling"),
        ("layers[0].characters", 3, "text flags"),
        ("layers[0].raw_size", 3, "raw_size"),
        ("layers[0].codec", 1, "codec"),
        ("layers[0].xxh3", 3, "xxh3"),
        ("layers[0].zero", 3, "reserved bytes of the extension"),
        ("layers[1].layer_num", 0, "layer_num"),
        ("generation", 0, "generation"),
        ("required_features", 4, "required_features"),
        ("content_sha256", b"x", "content_sha256"),
        ("total_size", 300, "total_size"),
    ],
)
def test_reader_names_the_rule_that_a_redigested_file_breaks(field, value, message):
    data = bytearray(extended_file())
    region = read_region(bytes(data))
    patch(data, region, field, value)
    redigest(data, region)
    with pytest.raises(AssertionError, match=message):
        read_region(bytes(data))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("required_features", 0, "a tombstone in no delta"),
        ("optional_features", 1, "an immutable delta"),
        ("layers[1].n_tokens", 1, "a tombstone that says something"),
        ("layers[2].zero_last", 1, "reserved bytes of the extension"),
        ("layers[2].attributes_offset", 3, "attributes_offset"),
        ("layers[2].attributes", b'["source","test"]', "attributes"),
    ],
)
def test_reader_names_the_rule_that_a_redigested_delta_breaks(field, value, message):
    data = bytearray(extended_file(DELTA_SAMPLE, version=2, delta=True))
    region = read_region(bytes(data))
    patch(data, region, field, value)
    redigest(data, region)
    with pytest.raises(AssertionError, match=message):
        read_region(bytes(data))


def test_reader_fails_for_a_gap_that_is_not_zero_and_for_bytes_behind_the_end():
    data = bytearray(extended_file())
    data[read_region(bytes(data)).layers[1].offset - 1] = 1
    with pytest.raises(AssertionError, match="gap"):
        read_region(bytes(data))
    data = bytearray(extended_file() + b"\0")
    struct.pack_into("<Q", data, 72, len(data))
    redigest(data)
    with pytest.raises(AssertionError, match="behind the last content"):
        read_region(bytes(data))


def test_reader_fails_for_a_plain_file_whose_contents_overlap_or_lie_in_the_metadata():
    layers = (Layer(0, b"abcd"), Layer(1, b"efgh"))
    end = len(plain_file(layers)) - 8
    assert read_region(plain_file(layers, offsets=[end + 4, end])).layers[1].content == b"efgh"
    with pytest.raises(AssertionError, match="overlap"):
        read_region(plain_file(layers, offsets=[end, end + 3]))
    data = bytearray(plain_file(layers))
    patch(data, read_region(bytes(data)), "layers[0].content_offset", end - 1)
    with pytest.raises(AssertionError, match="before the end of the metadata"):
        read_region(bytes(data))


def test_fields_lie_where_the_table_says():
    covered = []
    for offset, layout in HEADER_FIELDS.values():
        covered += range(offset, offset + struct.calcsize(layout))
    assert covered == list(range(256))
    covered = []
    for offset, layout in EXTENSION_FIELDS.values():
        covered += range(offset, offset + struct.calcsize(layout))
    assert covered == list(range(32))


def test_alignment_is_of_64_bytes_and_of_a_page():
    rng = random.Random(2)
    for _ in range(200):
        offset, n_bytes = rng.randrange(20_000), rng.choice([0, 1, 4095, 4096, 10_000])
        begin = align(offset, n_bytes)
        step = 4096 if n_bytes >= 4096 else 64
        assert begin % step == 0
        assert offset <= begin < offset + step


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_holdings_see_a_descriptor(tmp_path):
    before = Holdings()
    before.assert_nothing_new()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert open_files()[fd] == str(tmp_path)
        with pytest.raises(AssertionError, match=f"descriptor {fd}: {tmp_path}"):
            before.assert_nothing_new()
    finally:
        os.close(fd)
    before.assert_nothing_new()


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
@pytest.mark.parametrize("immutable", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_holdings_see_a_mapping(immutable, removed, region_file):
    before = Holdings()
    path = region_file(extended_file(immutable=immutable))
    region = MmapRegion(3, path)
    if removed:
        path.unlink()
    assert len(mapped_regions()) == len(before.mappings) + 1
    with pytest.raises(AssertionError, match="memfd:jessy_mem" if immutable else str(path)):
        before.assert_nothing_new()
    region.close()
    before.assert_nothing_new()


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_fixture_of_all_tests_fails_a_test_that_leaks(tmp_path):
    """The suite's own conftest, run on a test that leaves a region mapped and on one that does not."""
    source = (
        "from jessy_mem._core.region import MmapRegion\n"
        "held = []\n"
        "def test_clean(region_file): MmapRegion(3, region_file(DATA)).close()\n"
        "def test_leaky(region_file): held.append(MmapRegion(3, region_file(DATA)))\n"
    )
    (tmp_path / "test_leak.py").write_text(f"DATA = {extended_file(SAMPLE[:1])!r}\n{source}")
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(here, "conftest.py"), encoding="utf-8") as fixtures:
        (tmp_path / "conftest.py").write_text(fixtures.read())
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
            "--basetemp", str(tmp_path / "inner"), str(tmp_path),  # else it removes what other runs left, for 20 s
        ],
        capture_output=True, text=True, timeout=HUNG_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])},
    )  # fmt: skip
    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "still held" in done.stdout
    assert "ERROR" in done.stdout.split("short test summary")[1]
    assert "test_leaky" in done.stdout.split("short test summary")[1]


def test_holder_that_hangs_is_told_from_many_that_were_faster(tmp_path):
    page = ChangePage(tmp_path)
    page.open(create=True)
    n_before = changes_in(tmp_path)
    with FolderLock(os.path.join(tmp_path, LOCK_NAME)):
        with pytest.raises(jm.LockTimeout, match=f"process {os.getpid()} held the lock"):
            check_holders(tmp_path, n_before, timeout_s=0.01)
        page.append(5, "changed", 2)
        check_holders(tmp_path, n_before, timeout_s=0.01)
    check_holders(tmp_path, changes_in(tmp_path), timeout_s=0.01)
    page.close()


def test_run_threads_passes_exceptions_on():
    with pytest.raises(KeyError):
        run_threads([{}.popitem, list])


def read_nothing():
    return os.open(os.devnull, os.O_RDONLY)


def test_fault_happens_where_it_is_told_to(inject):
    """Call number 1 fails, others do not; what was in the way is taken away."""
    plain = os.open
    with inject(OSError(5, "I/O error"), "os.open", at=1, for_good=False) as fault:
        os.close(read_nothing())
        assert not fault.fired
        with pytest.raises(OSError, match="I/O error"):
            read_nothing()
        os.close(read_nothing())
    assert (fault.n_calls, os.open) == (3, plain)


def test_fault_for_good_stays(inject):
    with inject(OSError(5, "I/O error"), "os.open", "os.mkdir", at=1) as fault:
        os.close(read_nothing())
        for _ in range(2):
            with pytest.raises(OSError, match="I/O error"):
                os.mkdir("never")
    assert fault.fired


@pytest.mark.parametrize("at", [0, 1])
def test_fault_that_is_never_reached_fails_the_test(inject, at):
    plain = os.open
    fault = inject(OSError(), "os.open", at=at)
    fault.__enter__()
    for _ in range(at):
        os.close(read_nothing())
    with pytest.raises(AssertionError, match=rf"never reached: os\.open, called {at} times"):
        fault.__exit__()
    assert os.open is plain


def test_fault_that_is_never_reached_fails_a_test_that_expects_another_error(inject):
    fault = inject(OSError("injected"), "os.open")
    with pytest.raises(AssertionError, match="never reached"), pytest.raises(OSError, match="another"), fault:
        raise OSError("another")


def test_stand_in_that_is_never_called_fails_the_test(inject):
    with inject.instead("os.getpid", lambda: 7):
        assert os.getpid() == 7
    with pytest.raises(AssertionError, match=r"never reached: os\.getpid"), inject.instead("os.getpid", lambda: 7):
        pass


def test_what_is_put_around_a_call_is_given_the_plain_one_and_must_be_called(inject):
    with inject.around("os.getpid", lambda plain: lambda: -plain()):
        assert os.getpid() < 0
    with (
        pytest.raises(AssertionError, match=r"never reached: os\.getpid"),
        inject.around("os.getpid", lambda plain: plain),
    ):
        assert os.getppid() > 0


def test_faults_one_by_one_end_behind_the_last_call(inject):
    def two_calls():
        for _ in range(2):
            os.close(read_nothing())

    failed = []
    for fault in inject.one_by_one(lambda at: inject(OSError(), "os.open", at=at)):
        try:
            with fault:
                two_calls()
        except OSError:
            failed.append(fault.at)
    assert failed == [0, 1]
    faults = inject.one_by_one(lambda at: inject(OSError(), "os.open", at=at), at_least=3)
    for fault in itertools.islice(faults, 3):
        with contextlib.suppress(OSError), fault:
            two_calls()
    with pytest.raises(AssertionError, match=r"never reached: call 2 of os\.open"):
        next(faults)


def test_fault_in_the_package_happens_in_a_call_of_its_own(inject):
    before = sys.getprofile()
    with pytest.raises(ZeroDivisionError) as raised, inject.in_package(ZeroDivisionError(), at=1):
        jm.RegionBuilder(15, "Humor").add_layer(jm.LayerSpec(text="a joke")).to_bytes()
    assert jm.__path__[0] in str(raised.traceback[-2].path)
    with pytest.raises(AssertionError, match="never reached: a function of"), inject.in_package(ZeroDivisionError()):
        random.random()
    assert sys.getprofile() is before


def test_each_thread_of_a_parallel_run_has_its_own_folder(tmp_path):
    """What pytest-run-parallel does, with the least of an item that will do."""
    found = []

    def sample(world, region_file, number):
        found.append((world.base, region_file(b"mine").read_bytes(), region_file.folder, number))

    item = types.SimpleNamespace(
        obj=sample, fixturenames=["world", "region_file", "tmp_path"], funcargs={"tmp_path": tmp_path}
    )
    fixtures = {"world": World(tmp_path / "base"), "region_file": RegionFiles(tmp_path), "number": 7}
    run_threads([lambda: with_its_own(item)(**fixtures)] * 2)
    assert {(content, number) for _, content, _, number in found} == {(b"mine", 7)}
    assert len({base for base, *_ in found} | {fixtures["world"].base}) == 3
    assert len({folder for _, _, folder, _ in found} | {tmp_path}) == 3


def test_what_a_test_calls_is_seen_inside_of_what_it_defines():
    """Before Python 3.12 the names of a comprehension are not among those of its function."""

    def forks_in_a_comprehension():
        return [os.fork for _ in "ab"]

    def forks_in_a_function():
        return lambda: os.fork

    assert all(calls(each, "fork") for each in (forks_in_a_comprehension, forks_in_a_function))
    assert calls(test_fixture_of_all_tests_fails_a_test_that_leaks, "subprocess")
    assert not calls(test_what_a_test_calls_is_seen_inside_of_what_it_defines, "waitpid")


@pytest.mark.thread_unsafe(reason="it traces")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="some functions are not traced by instruction from 3.12 on")
def test_an_interrupt_may_come_when_a_function_begins():
    with Interrupt() as found:
        dimension_folder(1)  # which calls nothing
    assert found.n_points == 1
    with pytest.raises(KeyboardInterrupt), Interrupt(0):
        dimension_folder(1)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="some functions are not traced by instruction from 3.12 on")
def test_points_of_an_interrupt_in_a_loop_are_those_of_its_first_and_last_round():
    def points_of(n_rounds):
        with Interrupt() as found:
            assert dimensions_of([f"D{number}" for number in range(1001, 1001 + n_rounds)])
        assert found.distinct()[:: len(found.distinct()) - 1] == [0, found.n_points - 1]
        return found.n_points, len(found.distinct())

    (few, few_distinct), (many, many_distinct) = points_of(3), points_of(50)
    assert many > 2 * few
    assert many_distinct == few_distinct < few
