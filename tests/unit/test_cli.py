"""The command line as a user meets it: exit statuses, one-line errors, JSON, pipes and terminals."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from commands import fails, flip, json_of, on_terminal, run, spawn

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem.cli import COMMANDS, main
from jessy_mem.cli.measure import Ratio, Timing
from jessy_mem.cli.screen import PATIENCE_S

TEXTS = {0: "Jokes work by surprise.\n", 1: "Grüße aus der Tiefe\n"}
pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

PLAN = {
    "dimensions": [
        {
            "id": 3, "name": "Intention", "size_mb": 16, "frequency": 1.5, "immutable": False,
            "layers": [
                {"layer": 0, "depth": 0, "frequency": 2.25, "keywords": ["habit", "first step"]},
                {"layer": 1, "depth": 1, "frequency": 1.75, "keywords": ["goal"]},
            ],
        },
        {
            "id": 14, "name": "Security", "size_mb": 4, "frequency": 2.0, "immutable": True,
            "layers": [{"layer": 0, "depth": 0, "frequency": 2.9, "keywords": ["lock", "habit"]}],
        },
    ]
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """A source of two dimensions, one of them immutable."""
    folder = tmp_path / "source"
    for name, layers in (("D03", (0, 1)), ("D14", (0,))):
        (folder / name).mkdir(parents=True)
        for layer in layers:
            (folder / name / f"{layer}.md").write_text(TEXTS[layer], encoding="utf-8")
    (folder / "dimensions.json").write_text(json.dumps(PLAN))
    return folder


@pytest.fixture
def base(source, tmp_path):
    """A base folder built from `source`."""
    assert run("build", source, tmp_path / "base").exit_code == 0
    return tmp_path / "base"


def writer_of(fifo: Path) -> int:
    """A descriptor that writes to `fifo`, as soon as somebody reads it."""
    for _ in range(20 * HUNG_S):
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.05)
    raise AssertionError(f"nobody reads {fifo}")


def interrupted(process: subprocess.Popen) -> tuple[bytes, bytes]:
    """What `process` has printed when Ctrl-C has ended it. A signal that comes just before a read that waits is noticed
    by CPython after the read only: a person presses again."""
    for _ in range(HUNG_S):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=1)
    process.kill()
    raise AssertionError(f"Ctrl-C does not end {process.args}: {process.communicate()}")


class TestFrame:
    def test_help_names_every_command_and_loads_none(self):
        code = (
            "import sys; from jessy_mem.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit as e: assert e.code == 0\n"
            "assert 'rich' not in sys.modules and 'jessy_mem.cli.demo' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HUNG_S)
        assert done.returncode == 0, done.stderr
        assert all(f"\n  {name} " in done.stdout for name in COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_command_has_help(self, name):
        result = run(name, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: main {name} ")
        assert len(result.stdout.splitlines()) > 5

    @pytest.mark.parametrize("name", ["", *COMMANDS])
    def test_help_fits_a_narrow_terminal(self, name):
        result = run(*filter(None, [name]), "--help", env={"COLUMNS": "40"})
        assert result.exit_code == 0
        lines = [line for line in result.stdout.splitlines() if not line.startswith("    jessy-mem")]  # to be copied
        assert max(map(len, lines)) <= 40

    def test_importing_the_library_imports_no_command_line(self):
        code = "import sys, jessy_mem; assert not {'click', 'rich', 'jessy_mem.cli'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=HUNG_S)

    def test_version_is_that_of_the_package(self):
        assert jm.__version__ in run("--version").stdout

    def test_nothing_at_all_is_wrong_use_and_shows_help(self):
        result = run()
        assert result.exit_code == 2
        assert "Commands:" in result.stderr

    def test_unknown_command_is_wrong_use(self):
        fails(run("verfy"), 2, "'verfy'", "verify")

    def test_unknown_option_is_wrong_use(self, base):
        fails(run("verify", base, "--fast"), 2, "--fast")

    @pytest.mark.parametrize("wrong", ["-1", "0", "0.05", "many", "nan", "-inf", ""])
    @pytest.mark.parametrize(
        ("args", "option", "asked"),
        [
            (("ask", "word"), "--most", "whole number of at least 1"),
            (("ask", "word"), "-n", "whole number of at least 1"),
            (("top", "--once"), "--every", "number from 0.1 to 3,600"),
        ],
    )
    def test_a_number_that_is_none_names_its_option_and_its_range(self, args, option, asked, wrong, base):
        fails(run(args[0], base, *args[1:], option, wrong), 2, f"'{option}'", f"{wrong!r} is not a {asked}.")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_no_option_takes_a_number_without_saying_its_range(self, name):
        context = main.make_context("jessy-mem", [], resilient_parsing=True)
        types = [param.type for param in main.get_command(context, name).params]
        assert not [each for each in types if isinstance(each, (type(click.INT), type(click.FLOAT)))]

    @pytest.mark.parametrize(
        "args", [("build", "nowhere", "out"), ("inspect", "nowhere"), ("cat", "nowhere", "0"), ("verify", "nowhere"),
                 ("doctor", "nowhere"), ("ask", "nowhere", "word")]
    )  # fmt: skip
    def test_a_path_that_is_not_there_is_wrong_use(self, args):
        fails(run(*args), 2, "nowhere")

    @pytest.mark.parametrize("args", [["inspect"], ["verify"], ["ask", "word"]])
    def test_a_folder_without_dimensions_is_a_problem(self, args, tmp_path):
        (tmp_path / "notes.txt").write_text("not a dimension")
        fails(run(args[0], tmp_path, *args[1:]), 1, "holds no dimension", "Dnn/region.mmap", "jessy-mem build")

    def test_errors_in_a_process_have_no_traceback(self, tmp_path):
        (tmp_path / "region.mmap").write_bytes(b"short")
        done = spawn("inspect", tmp_path / "region.mmap")
        assert done.returncode == 1
        assert done.stdout == b""
        assert re.fullmatch(rb"error: .*region\.mmap: header: found 5 bytes, expected .*\n", done.stderr)

    def test_ctrl_c_is_quiet(self, tmp_path):
        folder = tmp_path / "source" / "D15"
        folder.mkdir(parents=True)
        os.mkfifo(folder / "0.md")  # reading it waits for a writer that never writes
        (folder.parent / "dimensions.json").write_text('{"dimensions": []}')
        command = [sys.executable, "-m", "jessy_mem", "build", str(folder.parent), str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        writer = writer_of(folder / "0.md")
        out, err = interrupted(process)
        os.close(writer)
        assert (process.returncode, out) == (130, b"")
        assert b"Traceback" not in err

    @pytest.mark.parametrize("args", [["cat", "0"], ["inspect", "--json"], ["inspect"]])
    def test_a_reader_that_goes_away_is_no_error(self, args, tmp_path):
        builder = jm.RegionBuilder(3, "Intention")
        for n_bytes in [4_000_000] + [10] * 300:
            builder.add_layer(jm.LayerSpec(content=b"x" * n_bytes, keywords=["keyword" * 10] * 20))
        command = [sys.executable, "-m", "jessy_mem", args[0], str(builder.write(tmp_path / "region.mmap")), *args[1:]]
        # Unbuffered, Python itself does not notice that the last write was cut short.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        process.stdout.read(10)
        process.stdout.close()
        with process.stderr:
            assert process.stderr.read() == b""
        assert process.wait(HUNG_S) == 128 + signal.SIGPIPE

    def test_a_terminal_that_knows_ascii_only_gets_ascii(self, base):
        done = spawn("inspect", base, env={"PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0
        done.stdout.decode("ascii")

    def test_a_file_name_that_is_no_text_is_shown(self, base):
        strange = os.fsencode(base) + b"/bad\xff.mmap"
        shutil.copy(base / "D03" / "region.mmap", strange)
        for command in ("inspect", "verify"):
            for option in ([], ["--json"]):
                done = subprocess.run(
                    [sys.executable, "-m", "jessy_mem", command, strange, *option], capture_output=True, timeout=HUNG_S
                )
                assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("columns", [20, 40, 80, 200])
    @pytest.mark.parametrize("command", ["inspect", "verify", "doctor"])
    def test_any_width_will_do(self, command, columns, base):
        result = run(command, base, env={"COLUMNS": str(columns)})
        assert result.exit_code == 0
        if command == "inspect":
            assert max(map(len, result.stdout.splitlines())) <= columns

    @pytest.mark.parametrize("columns", [0, 1, 19])
    @pytest.mark.parametrize("command", [("inspect",), ("verify",), ("doctor",), ("map",), ("top", "--once")])
    def test_no_width_at_all_ends_no_command(self, command, columns, base):
        """Terminals without a size, in containers for example, say that they have no columns."""
        name, *options = command
        result = run(name, base, *options, env={"COLUMNS": str(columns)})
        assert result.exit_code == 0, result.output
        assert result.stdout.strip()

    def test_group_knows_its_commands_and_no_other(self):
        assert main.list_commands(None) == list(COMMANDS)
        assert main.get_command(None, "nonsense") is None

    def test_group_called_from_python_leaves_the_process_alone(self, capsys):
        assert main.main(["bench", "--help"], standalone_mode=False) == 0
        assert capsys.readouterr().out.startswith("Usage:")

    def test_what_stands_for_the_standard_output_need_not_be_a_file(self):
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert (ended.value.code, out.getvalue()) == (0, f"jessy-mem {jm.__version__}\n")

    def test_a_dimension_that_may_not_be_looked_at_is_there(self, tmp_path, inject):
        (tmp_path / "D15").mkdir()
        with inject(OSError(errno.EACCES, "Permission denied"), "pathlib.Path.lstat", for_good=False):
            result = run("verify", tmp_path)
        assert (result.exit_code, "D15" in result.output) == (1, True)
        fails(run("verify", tmp_path), 1, "holds no dimension")

    @pytest.mark.parametrize("name", ["file/behind/a/file", "x" * 300])
    def test_a_path_that_cannot_be_looked_at_is_one_line(self, name, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        fails(run("inspect", tmp_path / name), 2)


class TestTerminal:
    def test_colour_only_on_a_terminal(self, base):
        assert b"\x1b[" not in spawn("verify", base).stdout
        assert b"\x1b[" in on_terminal("verify", base)
        assert b"\x1b[3" not in on_terminal("verify", base, env={"NO_COLOR": "1"})

    @pytest.mark.parametrize(("patience_s", "is_shown"), [(60, False), (-1, True)])
    def test_a_bar_appears_for_long_work_only(self, base, patience_s, is_shown):
        setting = f"from jessy_mem.cli import main, screen; screen.PATIENCE_S = {patience_s}"
        code = f"{setting}; main(['verify', {str(base)!r}])"
        assert (b"verifying" in on_terminal(code=code)) == is_shown
        assert PATIENCE_S > 0.5, "what is done at once shows none"


class TestBuild:
    def test_makes_a_region_of_each_dimension(self, source, tmp_path):
        report = json_of(run("build", source, tmp_path / "out", "--json"))
        assert [(each["id"], each["name"], each["layers"], each["immutable"]) for each in report["dimensions"]] == [
            (3, "Intention", 2, False), (14, "Security", 1, True)
        ]  # fmt: skip
        with jm.MmapRegion(3, tmp_path / "out" / "D03" / "region.mmap") as region:
            view = region.layer(1)
            assert (view.text, view.depth, view.frequency, view.keywords) == (TEXTS[1], 1, 1.75, ("goal",))

    def test_the_bundled_content(self, tmp_path):
        result = run("build", jm.data_folder(), tmp_path)
        assert result.exit_code == 0
        assert "14 dimensions" in result.stdout
        assert run("verify", tmp_path).exit_code == 0
        assert "not there" not in run("inspect", tmp_path).stdout

    def test_front_matter_overrides_the_plan(self, source, tmp_path):
        text = "---\nfrequency: 0.5 Hz\n# a remark\nkeywords: [one, 'two words', \"three\"]\n\ndepth: 9\n---\nBody\r\n"
        (source / "D03" / "0.md").write_bytes(text.encode())
        assert run("build", source, tmp_path / "out").exit_code == 0
        with jm.MmapRegion(3, tmp_path / "out" / "D03" / "region.mmap") as region:
            view = region.layer(0)
            assert (view.frequency, view.depth, view.keywords) == (0.5, 9, ("one", "two words", "three"))
            assert bytes(view) == b"Body\r\n"

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("---\nfrequency: fast\n---\n", 2, ["frequency", "'fast'"]),
            ("---\nfrequency: 0\n---\n", 2, ["above 0"]),
            ("---\nfrequency: inf\n---\n", 2, ["above 0"]),
            ("---\n\ndepth: 256\n---\n", 3, ["0..255"]),
            ("---\ndepth: -1\n---\n", 2, ["0..255"]),
            ("---\nkeywords: [a, b\n---\n", 2, ["bracket"]),
            ("---\ndepth: 1\nno colon here\n---\n", 3, ["key: value"]),
            ("---\nfrequency: 1\nText without an end", 1, ["not closed"]),
        ],
    )
    def test_bad_front_matter_names_file_and_line(self, text, line, words, source, tmp_path):
        path = source / "D03" / "1.md"
        path.write_text(text)
        fails(run("build", source, tmp_path / "out"), 1, f"{path}:{line}: ", *words)
        assert not (tmp_path / "out").exists()

    def test_bytes_that_are_no_text_name_their_line(self, source, tmp_path):
        (source / "D03" / "0.md").write_bytes(b"first\nsecond\nth\xffird\n")
        fails(run("build", source, tmp_path / "out"), 1, "0.md:3: byte 0xff is not UTF-8")

    def test_a_byte_order_mark_is_no_content(self, source, tmp_path):
        (source / "D03" / "0.md").write_bytes(b"\xef\xbb\xbf---\ndepth: 5\n---\nBody")
        assert run("build", source, tmp_path / "out").exit_code == 0
        with jm.MmapRegion(3, tmp_path / "out" / "D03" / "region.mmap") as region:
            assert (region.layer(0).depth, region.layer(0).text) == (5, "Body")

    def test_all_problems_are_told_at_once(self, source, tmp_path):
        (source / "D03" / "0.md").unlink()
        (source / "D03" / "1.txt").write_text("the same layer")
        shutil.rmtree(source / "D14")
        result = run("build", source, tmp_path / "out")
        fails(result, 1, "0.md: missing", "1.txt: layer 1 is in 1.md too", "D14: missing")
        assert len(result.stderr.splitlines()) == 3

    def test_a_layer_behind_the_last_possible_one(self, source, tmp_path):
        (source / "D03" / "70000.md").write_text("too far")
        fails(run("build", source, tmp_path / "out"), 1, "70000.md", "65535")

    def test_a_dimension_that_the_plan_does_not_know(self, source, tmp_path):
        (source / "D15").mkdir()
        (source / "D15" / "0.txt").write_text("---\nname: Humor\nkeywords: joke\n---\nHa.")
        (source / "content" / "D1000").mkdir(parents=True)
        (source / "content" / "D1000" / "2.md").write_text("Mine.")
        report = json_of(run("build", source, tmp_path / "out", "--json"))
        assert [(each["id"], each["name"]) for each in report["dimensions"]][2:] == [(15, "Humor"), (1000, "D1000")]

    @pytest.mark.parametrize(
        ("name", "told"), [("D00", True), ("D1", True), ("d03", True), ("D4294967296", True), ("notes", False)]
    )
    def test_folders_of_no_dimension_are_passed_over(self, name, told, source, tmp_path):
        (source / name).mkdir()
        (source / name / "0.md").write_text("not a layer")
        result = run("build", source, tmp_path / "out", "--json")
        assert len(json_of(result)["dimensions"]) == 2
        assert (f"{name} is passed over" in result.stderr) is told

    def test_files_that_are_no_layers_are_passed_over_aloud(self, source, tmp_path):
        for name in ("intro.md", "2.rst", ".hidden", "region.mmap"):
            (source / "D03" / name).write_text("not a layer")
        result = run("build", source, tmp_path / "out", "--json")
        assert json_of(result)["dimensions"][0]["layers"] == 2
        lines = result.stderr.splitlines()
        assert len(lines) == 2
        assert "2.rst is passed over" in lines[0]
        assert "intro.md is passed over" in lines[1]

    def test_a_slot_that_is_too_small(self, source, tmp_path):
        (source / "D14" / "0.md").write_bytes(b"x" * (4 << 20))
        out = tmp_path / "out"
        fails(run("build", source, out), 1, "D14 Security", str(4 << 20), "slot", "largest layer is 0")
        assert not out.exists()

    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            ('{"dimensions": [\n{"id": 1,}]}', ["dimensions.json:2: "]),
            ("[]", ["dimensions.json:1: expected an object"]),
            ('{"dimensions": [{"id": 1}]}', ["dimension 0", "'name' is missing"]),
            ('{"dimensions": [{"id": 0, "name": "None"}]}', ["dimension None", "expected 1.."]),
            ('{"dimensions": [{"id": 1, "name": "A"}, {"id": 1, "name": "B"}]}', ["dimension B", "there twice"]),
            ('{"dimensions": [{"id": 1, "name": "A", "layers": [{"layer": 0, "depth": 999}]}]}', ["depth: 999"]),
            ('{"dimensions": [{"id": 1, "name": "' + "x" * 65 + '"}]}', ["65 bytes"]),
            ('{"dimensions": [7]}', ["7 is not an object"]),
            ('{"dimensions": [{"id": 1, "name": 5}]}', ["name"]),
        ],
    )
    def test_a_plan_that_is_wrong(self, plan, words, source, tmp_path):
        (source / "dimensions.json").write_text(plan)
        fails(run("build", source, tmp_path / "out"), 1, *words)

    def test_out_that_is_a_file_is_wrong_use(self, source):
        fails(run("build", source, source / "dimensions.json"), 2, "OUT")

    def test_a_file_that_cannot_be_written_is_one_line(self, source, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "D03").write_text("a file in the place of a folder")
        fails(run("build", source, out), 1, "D03")

    def test_the_same_source_gives_the_same_bytes(self, source, tmp_path):
        for name in ("a", "b"):
            run("build", source, tmp_path / name, env={"SOURCE_DATE_EPOCH": "1700000000"})
        first, second = (tmp_path / name / "D03" / "region.mmap" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()

    def test_compressed_layers_are_read_back(self, source, tmp_path):
        pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        long_text = "again and again " * 1000
        (source / "D03" / "0.md").write_text(long_text)
        assert run("build", source, tmp_path / "out", "--compress").exit_code == 0
        path = tmp_path / "out" / "D03" / "region.mmap"
        assert path.stat().st_size < len(long_text)
        assert run("cat", path, 0).stdout_bytes == long_text.encode()


class TestInspect:
    def test_a_file(self, base):
        result = run("inspect", base / "D14" / "region.mmap", env={"COLUMNS": "100"})
        assert result.exit_code == 0
        for word in ("D14 Security", "immutable", "extension 1", "4 MiB", "lock, habit", "2.9"):
            assert word in result.stdout

    def test_a_file_as_json(self, base):
        report = json_of(run("inspect", base / "D03", "--json"))
        assert (report["id"], report["name"], report["immutable"], report["n_layers"]) == (3, "Intention", False, 2)
        assert report["size_bytes"] == (base / "D03" / "region.mmap").stat().st_size
        assert [layer["keywords"] for layer in report["layers"]] == [["habit", "first step"], ["goal"]]

    def test_a_base_folder(self, base):
        result = run("inspect", base, env={"COLUMNS": "100"})
        assert result.exit_code == 0
        for word in ("Intention", "Security", "not there: D01, D02, D04..D13", "budget", "reserve"):
            assert word in result.stdout

    def test_a_base_folder_as_json(self, base):
        report = json_of(run("inspect", base, "--json"))
        assert [each["id"] for each in report["dimensions"]] == [3, 14]
        assert report["stats"]["dimensions_loaded"] == 2
        assert report["stats"]["total_allocated_bytes"] == sum(each["size_bytes"] for each in report["dimensions"])
        assert 1 in report["absent"]

    def test_what_another_plan_has_room_for_is_shown_whatever_the_plan(self, base, tmp_path):
        spec = jm.LayerSpec(content=bytes(4 << 20))
        jm.RegionBuilder(14, "Security").add_layer(spec).write(base / "D14" / "region.mmap")
        report = json_of(run("inspect", base, "--json"), 1)
        assert [(each["id"], each["slot_bytes"]) for each in report["dimensions"]] == [(3, 16 << 20), (14, 4 << 20)]
        assert "the slot of D14 has 4 MiB" in report["not_loadable"]["14"]
        plan = tmp_path / "plan.json"
        plan.write_text('{"dimensions": [], "segments": [{"name": "memory", "size_mb": 280, "first_dimension": 1}]}')
        for options, slots in ((("--layout", plan), [280, 280]), (("--total", "560MB"), [32, 8])):
            report = json_of(run("inspect", base, "--json", *options))
            assert [each["slot_bytes"] >> 20 for each in report["dimensions"]] == slots
            assert report["not_loadable"] == {}
            assert json_of(run("inspect", base / "D14", "--json", *options))["slot_bytes"] >> 20 == slots[1]
        fails(run("inspect", base, "--layout", base / "D14" / "region.mmap"), 2)

    def test_damage_in_a_base_folder_is_a_problem(self, base):
        (base / "D03" / "region.mmap").write_bytes(b"")
        result = run("inspect", base, env={"COLUMNS": "100"})
        assert result.exit_code == 1
        assert "cannot be loaded" in result.stdout
        assert "Security" in result.stdout
        assert "D03" in next(iter(json_of(run("inspect", base, "--json"), 1)["not_loadable"].values()))

    def test_a_plain_file_says_that_it_has_no_checksums(self, region_file):
        from helpers import plain_file

        result = run("inspect", region_file(plain_file()))
        assert result.exit_code == 0
        assert "plain V1" in result.stdout
        assert "no checksums" in result.stdout
        assert "not recorded" in result.stdout

    def test_many_layers_are_not_all_printed(self, tmp_path):
        builder = jm.RegionBuilder(15, "Many")
        for layer in range(500):
            builder.add_layer(jm.LayerSpec(text=str(layer)))
        path = builder.write(tmp_path / "region.mmap")
        assert "300 more layers" in run("inspect", path).stdout
        assert len(json_of(run("inspect", path, "--json"))["layers"]) == 500


class TestCat:
    def test_exact_bytes(self, tmp_path):
        content = bytes(range(256)) * 9000
        spec = jm.LayerSpec(content=content, layer=7)
        path = jm.RegionBuilder(3, "Intention").add_layer(spec).write(tmp_path / "region.mmap")
        done = spawn("cat", path, "7")
        assert (done.returncode, done.stdout == content, done.stderr) == (0, True, b"")

    @pytest.mark.parametrize("layer", ["1", "L1", "l1"])
    def test_names_of_a_layer(self, layer, base):
        assert run("cat", base / "D03", layer).stdout == TEXTS[1]

    def test_a_name_that_no_layer_can_have(self, base):
        fails(run("cat", base, "D0/L0"), 2, "LAYER")

    def test_a_base_folder_and_a_name(self, base):
        assert run("cat", base, "D03/L1").stdout == TEXTS[1]

    def test_a_layer_that_is_not_there(self, base):
        fails(run("cat", base / "D03", "9"), 1, "D03/L9", "2 layers")

    @pytest.mark.parametrize("layer", ["one", "-1", "1.5", "", "D03"])
    def test_what_is_no_layer_is_wrong_use(self, layer, base):
        fails(run("cat", "--", base / "D03", layer), 2, "LAYER")

    def test_a_folder_without_a_region_is_wrong_use(self, base):
        fails(run("cat", base, "0"), 2, "region.mmap")
        fails(run("cat", base, "D09/L0"), 2, "D09")

    @pytest.mark.parametrize("n_left", [0, 1 << 20, (2 << 20) + 100])
    def test_a_file_that_is_shortened_while_it_is_written_out(self, n_left, tmp_path):
        """What was written by then is of the file, and then the file is named, not an address of this process."""
        content = b"tea " * (1 << 20)  # of which a pipe takes a part
        path = jm.RegionBuilder(15, "Tea").add_layer(jm.LayerSpec(content=content)).write(tmp_path / "region.mmap")
        command = [sys.executable, "-m", "jessy_mem", "cat", str(path), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            first = os.read(process.stdout.fileno(), 1)
            os.truncate(path, n_left)
            rest, said = process.communicate(timeout=HUNG_S)
        assert process.returncode == 1
        assert said.startswith(f"error: {path}: ".encode())
        assert b"ddress" not in said
        assert b"as when it was mapped" in said
        assert content.startswith(first + rest)

    def test_damage_is_not_printed(self, base):
        flip(base / "D03" / "region.mmap")
        result = run("cat", base / "D03", "1")
        fails(result, 1, "content of layer 1")
        assert result.stdout == ""


class TestVerify:
    def test_sound(self, base):
        result = run("verify", base)
        assert result.exit_code == 0
        assert "all sound" in result.stdout
        report = json_of(run("verify", base, "--json"))
        assert report["sound"] is True
        assert [each["damage"] for each in report["files"]] == [[], []]

    def test_all_damage_is_listed(self, base):
        path = base / "D03" / "region.mmap"
        with jm.MmapRegion(3, path) as region:
            offsets = [region.content_offset(layer) for layer in (0, 1)]
        for offset in offsets:
            flip(path, offset)
        flip(base / "D14" / "region.mmap")
        result = run("verify", base)
        assert result.exit_code == 1
        assert result.stdout.count("DAMAGED") == 2
        assert "content of layer 0" in result.stdout
        assert "content of layer 1" in result.stdout
        assert "2 files" in result.stdout
        first, second = json_of(run("verify", base, "--json"), 1)["files"]
        assert [damage["layer"] for damage in first["damage"]] == [0, 1]
        assert [damage["field"] for damage in second["damage"]] == ["content", "content_sha256"]

    def test_one_file(self, base):
        assert run("verify", base / "D03" / "region.mmap").exit_code == 0
        flip(base / "D03" / "region.mmap", 90)
        assert run("verify", base / "D03").exit_code == 1

    def test_a_region_in_the_folder_of_another_dimension(self, base):
        (base / "D05").mkdir()
        shutil.copy(base / "D03" / "region.mmap", base / "D05")
        result = run("verify", base)
        assert result.exit_code == 1
        assert "dimension_id" in result.stdout

    def test_a_folder_in_the_place_of_a_file(self, base):
        (base / "D05" / "region.mmap").mkdir(parents=True)
        result = run("verify", base)
        assert result.exit_code == 1
        assert "Is a directory" in result.stdout

    @pytest.mark.parametrize("hidden", ["link", "folder"])
    def test_what_cannot_be_looked_at_stops_nothing(self, hidden, base):
        if hidden == "link":
            (base / "D05").mkdir()
            (base / "D05" / "region.mmap").symlink_to("nowhere")
        else:
            if os.geteuid() == 0:
                pytest.skip("root may look at everything")
            (base / "D05").mkdir(mode=0)
        report = json_of(run("verify", base, "--json"), 1)
        assert [len(each["damage"]) for each in report["files"]] == [0, 1, 0]
        assert run("inspect", base).exit_code == 1

    def test_a_file_that_is_no_region(self, tmp_path):
        (tmp_path / "notes.txt").write_text("just text " * 100)
        result = run("verify", tmp_path / "notes.txt")
        assert result.exit_code == 1
        assert "DAMAGED" in result.stdout


class TestDoctor:
    def test_sound(self, base):
        result = run("doctor", base)
        assert result.exit_code == 0
        assert "sound" in result.stdout

    def test_what_the_guard_auto_would_be_here(self, base, monkeypatch):
        """D14 is immutable, and so copied whatever the guard."""
        with jm.MmapRegion(3, jm.region_path(base, 3), guard="auto") as region:
            expected = region.guard
        guard = json_of(run("doctor", base, "--json"))["guard"]
        assert guard["auto"] == {"lease": 0, "reads": 0} | {expected: 1, "copy": 1}
        assert (guard["why"] is None) == (expected == "lease")
        assert f'guard="auto" would guard 1 by {expected}' in run("doctor", base).stdout.replace("1 by copy, ", "")
        none = {"lease": 0, "copy": 1, "reads": 1}
        monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
        guard = json_of(run("doctor", base, "--json"))["guard"]
        assert guard["auto"] == none
        assert "half of the descriptors" in guard["why"] or expected == "reads"
        monkeypatch.delattr(fcntl, "F_SETLEASE", raising=False)
        assert json_of(run("doctor", base, "--json"))["guard"] == {
            "auto": none, "why": "this system gives no leases of files"
        }  # fmt: skip
        told = "would guard 1 by copy, 1 by reads: this system gives no leases of files"
        assert told in run("doctor", base).stdout

    def test_stray_files_are_found_told_and_removed(self, base):
        strays = [base / "D03" / ".region.mmap.0123456789abcdef.tmp", base / ".x.fedcba9876543210.tmp"]
        for stray in strays:
            stray.write_bytes(b"x" * 1000)
        result = run("doctor", base)
        assert result.exit_code == 1
        assert "2 stray files and free 2.0 KiB" in result.stdout
        assert all(stray.exists() for stray in strays)
        result = run("doctor", base, "--clean")
        assert result.exit_code == 0
        assert not any(stray.exists() for stray in strays)
        assert run("doctor", base).exit_code == 0

    def test_empty_folders_are_found_told_and_removed(self, base):
        """A write that was killed leaves them: before its temporary file was there, or with it."""
        (base / "D15").mkdir()
        (base / "D16").mkdir()
        (base / "D16" / ".region.mmap.0123456789abcdef.tmp").write_bytes(b"x" * 1000)
        result = run("doctor", base)
        assert result.exit_code == 1
        assert "1 stray file and 1 empty folder and free 1000 B" in result.stdout
        assert (base / "D15").is_dir()
        assert run("doctor", base, "--clean").exit_code == 0
        assert not (base / "D15").exists()
        assert not (base / "D16").exists()
        with jm.MmapManager(base_path=base, simulation="never") as memory:
            assert memory.create_proto_dimension("Next", [jm.LayerSpec(text="x")]) == 17, "an id came back"

    def test_clean_touches_nothing_else(self, base):
        before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
        flip(base / "D03" / "region.mmap")
        before[base / "D03" / "region.mmap"] = (base / "D03" / "region.mmap").read_bytes()
        (base / ".hidden.tmp").write_text("not ours")
        before[base / ".hidden.tmp"] = b"not ours"
        report = json_of(run("doctor", base, "--clean", "--json"), 1)
        assert [finding["kind"] for finding in report["findings"]] == ["damaged"]
        assert report["removed"] == []
        assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == before

    def test_ids_that_do_not_agree(self, base):
        (base / "D15").mkdir()
        shutil.copy(base / "D03" / "region.mmap", base / "D15")
        shutil.copytree(base / "D14", base / "D014")
        report = json_of(run("doctor", base, "--json"), 1)
        found = {(finding["kind"], Path(finding["path"]).relative_to(base).parts[0]) for finding in report["findings"]}
        assert found == {
            ("wrong id", "D15"), ("duplicate id", "D15"), ("duplicate id", "D03"), ("misnamed folder", "D014")
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["D00", "D0", "D1", "D4294967296", "D99999999999999", "D0003"])
    def test_folders_of_no_dimension(self, name, base):
        (base / name).mkdir()
        shutil.copy(base / "D03" / "region.mmap", base / name)
        assert [f["kind"] for f in json_of(run("doctor", base, "--json"), 1)["findings"]] == ["misnamed folder"]
        assert len(json_of(run("verify", base, "--json"))["files"]) == 2
        assert len(json_of(run("inspect", base, "--json"))["dimensions"]) == 2

    def test_links_and_things_that_are_no_files(self, base):
        (base / "D04").mkdir()
        (base / "D04" / "region.mmap").symlink_to("nowhere")
        (base / "D05" / "region.mmap").mkdir(parents=True)
        (base / "D06").mkdir()
        os.mkfifo(base / "D06" / "region.mmap")
        (base / "D07").symlink_to("D03")
        (base / "D08").symlink_to("D08")
        (base / ".link.0123456789abcdef.tmp").symlink_to(base / "D03" / "region.mmap")
        result = run("doctor", base, "--clean", "--json")
        report = json_of(result, 1)
        kinds = {Path(finding["path"]).relative_to(base).parts[0]: finding["kind"] for finding in report["findings"]}
        assert kinds["D05"] == kinds["D06"] == "unreadable"
        assert kinds["D04"] in ("unreadable", "damaged")
        assert {"D07", "D03"} <= kinds.keys()
        assert len(report["removed"]) == 1
        assert (base / "D03" / "region.mmap").exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read(self, base):
        (base / "D03" / "region.mmap").chmod(0)
        assert json_of(run("doctor", base, "--json"), 1)["findings"][0]["kind"] == "unreadable"

    def test_a_file_larger_than_its_slot(self, base):
        spec = jm.LayerSpec(content=bytes(4 << 20))
        jm.RegionBuilder(14, "Security").add_layer(spec).write(base / "D14" / "region.mmap")
        assert json_of(run("doctor", base, "--json"), 1)["findings"][0]["kind"] == "too large"

    def test_a_file_that_only_another_plan_has_room_for(self, base, tmp_path):
        spec = jm.LayerSpec(content=bytes(4 << 20))
        jm.RegionBuilder(14, "Security").add_layer(spec).write(base / "D14" / "region.mmap")
        assert json_of(run("doctor", base, "--json", "--total", "560MB"))["sound"]
        plan = tmp_path / "plan.json"
        plan.write_text('{"dimensions": [], "segments": [{"name": "memory", "size_mb": 280, "first_dimension": 1}]}')
        assert json_of(run("doctor", base, "--json", "--layout", plan))["sound"]
        for wrong in (("--total", "much"), ("--total", "0MB"), ("--layout", base / "D14" / "region.mmap")):
            fails(run("doctor", base, *wrong), 2)


class TestAsk:
    def test_the_best_layers_first(self, base):
        report = json_of(run("ask", base, "--json", "What is the FIRST step of a habit, the locks?"))
        assert [(each["layer"], each["matched"]) for each in report["layers"][:2]] == [
            ("D03/L0", ["first step", "habit"]), ("D14/L0", ["habit", "lock"])
        ]  # fmt: skip
        assert report["layers"][0]["text"] == TEXTS[0]

    def test_the_dominant_frequency_is_a_weighted_mean(self, base):
        report = json_of(run("ask", base, "--json", "-n", "2", "first step habit"))
        weights = [each["score"] for each in report["layers"]]
        expected = sum(w * each["frequency"] for w, each in zip(weights, report["layers"], strict=True)) / sum(weights)
        assert report["dominant_frequency"] == pytest.approx(expected, rel=1e-6)

    def test_text_and_reasons_are_shown(self, tmp_path):
        run("build", jm.data_folder(), tmp_path)
        result = run("ask", tmp_path, "trauma and therapy", "-n", 1, env={"COLUMNS": "80"})
        assert result.exit_code == 0
        assert result.stderr == ""
        for word in ("D01/L2 Emotion", "trauma", "therapy", "more lines", "dominant frequency 0.80 Hz"):
            assert word in result.stdout
        assert "more lines" not in run("ask", tmp_path, "trauma", "--full").stdout

    def test_nothing_found(self, base):
        result = run("ask", base, "xyzzy")
        assert result.exit_code == 1
        assert "xyzzy" in result.stdout
        assert json_of(run("ask", base, "xyzzy", "--json"), 1)["layers"] == []

    def test_simulation_and_damage_are_loud(self, base):
        flip(base / "D14" / "region.mmap")
        result = run("ask", base, "trauma", "--simulate")
        assert result.exit_code == 0
        assert "SIMULATED" in result.stdout
        first, second = result.stderr.splitlines()
        assert first.startswith("warning: simulated")
        assert "content_sha256" in second


@pytest.fixture(scope="module")
def demo():
    """The demo, run once."""
    return spawn("demo", env={"COLUMNS": "80"})


class TestDemo:
    def test_shows_everything(self, demo):
        text = demo.stdout.decode()
        assert (demo.returncode, demo.stderr) == (0, b"")
        for planned in jm.default_layout().dimensions.values():
            assert re.search(rf"^D{planned.id:02d}  {planned.name} ", text, re.MULTILINE)
        for words in ("56 layers", "payload copies: 0", "280 MiB", "Learned D15 policies in", "reads the same"):
            assert words in text.replace(" \n", " ")
        for target in ("<100 ms", "<50 ms", "<1 ms", "<10 us"):
            assert target in text
        assert max(map(len, text.splitlines())) <= 80

    def test_the_map_is_to_scale(self, demo):
        bar = next(line for line in demo.stdout.decode().splitlines() if re.fullmatch("[█▓]+░+▒+▚+", line))
        assert len(bar) == 80
        found = [bar.count("█") + bar.count("▓"), bar.count("░"), bar.count("▒"), bar.count("▚")]
        assert found == [pytest.approx(80 * mib / 280, abs=1) for mib in (148, 20, 80, 32)]

    def test_as_json(self):
        report = json_of(run("demo", "--json"))
        assert (len(report["dimensions"]), report["layers_read"], report["payload_copies"]) == (14, 56, 0)
        assert report["learned"]["source_before"] == "pool"
        assert report["learned"]["source_after"] == "mmap"
        assert report["learned"]["same_bytes"] is True
        assert [target["target_ns"] for target in report["targets"]] == [100e6, 50e6, 1e6, 1e6, 10e3]
        assert all(target["median_ns"] > 0 for target in report["targets"])
        assert [ratio["name"] for ratio in report["ratios"]] == ["create a manager", "load_dimension", "access_layer"]

    def test_narrow_and_ascii(self):
        done = spawn("demo", env={"COLUMNS": "40", "PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0
        assert max(map(len, done.stdout.decode("ascii").splitlines())) <= 40

    def test_says_so_if_a_layer_is_not_what_was_written(self, inject):
        def and_spoil(build):
            def built(sources, out):
                found = build(sources, out)
                builder = jm.RegionBuilder(1, sources[0].name, generation=9)
                for layer in range(4):
                    builder.add_layer(jm.LayerSpec(text="another", layer=layer))
                builder.write(jm.region_path(out, 1))
                return found

            return built

        # Private: the folder of the demo is its own, and gone at its end.
        with inject.around("jessy_mem.cli.demo.build", and_spoil):
            fails(run("demo"), 1, "D01/L0 is not what was written")

    def test_leaves_nothing_behind(self, tmp_path):
        done = spawn("demo", env={"TMPDIR": str(tmp_path)}, cwd=tmp_path)
        assert done.returncode == 0
        assert list(tmp_path.iterdir()) == []


class TestBench:
    def test_reports_medians_and_spread(self):
        report = json_of(run("bench", "--json"))
        for timing in report["timings"]:
            assert 0 < timing["low_ns"] <= timing["median_ns"] <= timing["high_ns"]
        assert {"Layer Access", "Dimension Loading", "Pool Allocation", "Stats Retrieval"} <= {
            timing["name"] for timing in report["timings"]
        }

    def test_shows_what_it_measured(self):
        text = run("bench").stdout
        for words in ("Times, warm", "Layer Access", "Dimension Loading", "quartile", "access_layer"):
            assert words in text

    def test_timings_and_ratios_compute(self):
        timing = Timing.of("x", [1.0, 2.0, 3.0, 4.0, 100.0], 3.5)
        assert (timing.low_ns, timing.median_ns, timing.high_ns, timing.met) == (2.0, 3.0, 4.0, True)
        assert not Ratio("x", "y", 30.0, 10.0, 2.0).met
        assert Ratio("x", "y", 30.0, 10.0, 3.0).to_dict()["ratio"] == 3.0


def test_struct_written_by_hand_is_inspected(tmp_path):
    """The command line reads what another program wrote."""
    text = b"written by a few lines of struct"
    record = struct.pack("<HBfIQI", 0, 3, 1.25, 0, 279, len(text))
    name = b"Humor".ljust(64, b"\0")
    header = struct.pack("<II64sQI16s", 15, 5, name, 279 + len(text), 1, b"JESSY_MMAP_V1\0\0\0") + bytes(156)
    path = tmp_path / "region.mmap"
    path.write_bytes(header + record + text)
    assert run("cat", path, 0).stdout == text.decode()
    assert json_of(run("inspect", path, "--json"))["layers"][0]["depth"] == 3
