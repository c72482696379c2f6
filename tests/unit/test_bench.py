"""``jessy-mem bench`` with ``--peers`` and ``--threads``: what is compared is the same, and what is missing is told."""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import ExitStack
from itertools import groupby

import pytest
from commands import fails, json_of, run

from jessy_mem.cli import bench, peers, questions, scaling

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")
SMALL = {"JESSY_BENCH_SMALL": "1"}
PACKAGES = ["diskcache", "hdrh", "lmdb", "prometheus_client", "pyarrow", "safetensors"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setenv("JESSY_BENCH_SMALL", "1")
    return questions.scale()


@pytest.fixture
def none_installed(monkeypatch):
    """No package, and no C library, that only benchmarks need."""
    for name in [*PACKAGES, "hdrh.histogram", "safetensors.numpy"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("JESSY_BENCH_PEERS", "/nowhere")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)


class TestPeers:
    def test_ours_is_first_and_each_ratio_is_ours_over_its(self):
        report = json_of(run("bench", "--peers", "--json", env=SMALL))
        found = [list(of_one) for _, of_one in groupby(report["answers"], key=lambda each: each["question"])]
        assert [of_one[0]["question"] for of_one in found] == list(questions.QUESTIONS)
        for ours, *others in found:
            assert (ours["peer"], ours["ratio"]) == (peers.OURS, None)
            for each in others:
                assert each["ratio"] == ours["least_ns"] / each["least_ns"]
            assert all(0 < each["least_ns"] <= each["median_ns"] for each in (ours, *others))
        answered = {each["peer"] for each in report["answers"]}
        assert answered >= {"numpy.memmap", "sqlite3", "shared_memory", "numpy", "bytearray", "malloc"}
        assert len(answered) + len(report["not_installed"]) == len(peers.PEERS)

    def test_what_is_not_installed_is_told_in_one_line(self, none_installed, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        shown = run("bench", "--peers", env=SMALL | {"COLUMNS": "200"})
        assert shown.exit_code == 0
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith("not installed: ")]
        names, _, how = line.removeprefix("not installed: ").partition("; ")
        absent = "HdrHistogram_c diskcache hdrhistogram lmdb mimalloc prometheus_client pyarrow safetensors"
        assert sorted(names.split(", ")) == absent.split()
        assert how == "pip install 'jessy-mem[bench]'"
        assert "sqlite3" in shown.stdout
        assert list(tmp_path.iterdir()) == [], "it leaves something behind"

    def test_what_no_package_has_is_not_told_to_be_installed_by_one(self, monkeypatch):
        assert bench.BY_HAND in peers.PEERS
        # As if all others were installed.
        monkeypatch.setattr(bench, "ask", lambda base, here: ([], [bench.BY_HAND]))
        shown = run("bench", "--peers", env={"COLUMNS": "200"}).stdout
        assert f"not installed: {bench.BY_HAND}; no package has it, --help says where" in shown
        assert "pip install" not in shown

    @pytest.mark.parametrize("columns", [40, 80, 140])
    def test_table_fits_the_terminal(self, columns, monkeypatch):
        ratios = {peers.OURS: None} | dict.fromkeys(peers.PEERS, 0.00035)
        found = [
            peers.Answer(question, peer, "what is called, in words", 1.6e6, 12.8e6, ratio)
            for question in questions.QUESTIONS
            for peer, ratio in ratios.items()
        ]
        # What is shown of figures, however long it takes to find them.
        monkeypatch.setattr(bench, "ask", lambda base, here: (found, ["lmdb"]))
        lines = run("bench", "--peers", env={"COLUMNS": str(columns)}).stdout.splitlines()
        assert max(map(len, lines)) <= columns
        assert any("in words" in line for line in lines) == (columns == 140)
        assert any("12.8 ms" in line for line in lines) == (columns >= 80)
        assert any("prometheus_client" in line for line in lines) or columns == 40

    def test_shorter_and_longer_turns_are_counted_in_calls(self, tiny):
        seen = []

        def run(n):
            seen.append(n)
            return 100.0

        assert peers.loops(questions.BYTES, questions.Way("", run), tiny) == tiny.turn_ns / 100
        assert peers.loops(questions.STORE, questions.Way("", run), tiny) == tiny.n_stored
        assert seen[:2] == [1, 1]


@pytest.mark.parametrize("name", peers.PEERS)
def test_each_reads_the_same_content(name, tiny, tmp_path):
    with ExitStack() as end:
        setting = questions.Setting(tmp_path, tiny, tiny.contents(), end)
        try:
            ways = peers.PEERS[name](setting)
        except questions.Missing as missing:
            pytest.skip(str(missing))
        for asked, number in (
            ((questions.BUFFER, questions.BYTES), tiny.small),
            ((questions.BUFFER_LARGE, questions.BYTES_LARGE), tiny.large),
        ):
            for question in asked:
                if question in ways:
                    assert bytes(ways[question].result()) == setting.contents[number]
        assert all(way.run(2) > 0 for way in ways.values())
        assert ways


class TestThreads:
    def test_each_operation_is_compared_with_one_thread(self):
        report = json_of(run("bench", "--threads", "3,2", "--json", env=SMALL))
        assert [each["operation"] for each in report["scaling"]] == list(scaling.OPERATIONS)
        for each in report["scaling"]:
            assert list(each["per_s"]) == list(each["over_one"]) == ["1", "2", "3"]
            assert each["over_one"]["1"] == 1
            assert each["over_one"]["3"] == each["per_s"]["3"] / each["per_s"]["1"] > 0
        assert report["gil"] is getattr(sys, "_is_gil_enabled", lambda: True)()
        assert report["usable_cpus"] == scaling.usable_cpus() >= 1

    @pytest.mark.parametrize(("cpus", "counts"), [(1, [1, 2]), (2, [1, 2]), (3, [1, 2]), (16, [1, 2, 4, 8, 16])])
    def test_usual_counts_are_powers_of_two_up_to_the_cpus(self, cpus, counts, monkeypatch):
        monkeypatch.setattr(scaling, "usable_cpus", lambda: cpus)  # which this machine has not
        assert scaling.usual_counts() == counts
        assert bench.Counts().convert("", None, None) == counts

    @pytest.mark.parametrize("columns", [40, 80, 140])
    def test_table_fits_the_terminal(self, columns, monkeypatch):
        per_s = {n_threads: 812.0 * n_threads**3 for n_threads in (1, 2, 4, 8, 16)}
        found = [scaling.Scaling(operation, per_s) for operation in scaling.OPERATIONS]
        # What is shown of figures, however long it takes to find them.
        monkeypatch.setattr(bench, "measure_threads", lambda base, counts, is_tiny: found)
        lines = run("bench", "--threads", env={"COLUMNS": str(columns)}).stdout.splitlines()
        assert max(map(len, lines)) <= columns
        if columns >= 80:
            assert sum("812 /s" in line and "4096 x" in line for line in lines) == len(found)
        assert any("GIL" in line for line in lines)

    @pytest.mark.parametrize("wrong", ["0", "1,,2", "two", "257", "1,2.5", "-1", "-1,2", "-two", "9" * 400])
    def test_what_are_no_numbers_is_wrong_use(self, wrong):
        fails(
            run("bench", f"--threads={wrong}"),
            2,
            f"'--threads': {wrong!r} is not a list of whole numbers from 1 to 256",
        )

    def test_a_negative_number_is_a_value_and_another_option_is_none(self):
        fails(run("bench", "--threads", "-1"), 2, "'--threads': '-1' is not a list of whole numbers from 1 to 256")
        fails(run("bench", "--threads", "--peers"), 2, "ask for one")
        fails(run("bench", "--threads", "-x"), 2, "No such option '-x'")

    def test_two_measurements_at_once_are_wrong_use(self):
        fails(run("bench", "--threads", "--peers"), 2, "ask for one")

    def test_a_thread_that_fails_is_told_and_nobody_waits_for_it(self):
        # What no operation does: its setup fails in each thread but the first.
        turns = iter([0])
        failing = scaling.in_python("1", "next(turns)", turns=turns)
        with pytest.raises((StopIteration, threading.BrokenBarrierError)):
            failing.per_s(10, 3)
