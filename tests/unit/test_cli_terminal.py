"""What reaches a terminal or a pipe: nothing that it would obey, and the right status when it takes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from commands import on_terminal, run, spawn

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem.cli import COMMANDS
from jessy_mem.cli.escape import escaped
from jessy_mem.cli.screen import rate

pytestmark = pytest.mark.thread_unsafe(reason="click takes the standard output of the process")

HOSTILE = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;https://a.example\x1b\\click\x1b]8;;\x1b\\",
    "C1 CSI": "\x9b31m",
    "backspace": "safe\b\b\b\bevil",
    "carriage return": "sound\rDAMAGED",
    "line feed": "one\nerror: forged",
    "NUL and DEL": "\0\x7f",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "zero width": "a\u200bb\ufeffc\u2060",
    "separators": "a\u2028b\u2029c\x85d",
    "tags": "a\U000e0041b",
    "markup": "[bold]a[/bold] [/var/log] [link=http://a]b[/link] [/]",
    "emoji code": ":smile:",
}


def obeyed(text: str) -> set[str]:
    """The characters of an output that a terminal obeys, but for the ends of lines."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")}


@pytest.fixture(params=HOSTILE, ids=list(HOSTILE))
def hostile(request) -> str:
    return HOSTILE[request.param]


@pytest.fixture
def base(hostile, tmp_path) -> Path:
    """A base folder with `hostile` in all its names, keywords and texts, and in its own."""
    folder = tmp_path / f"base {hostile}".replace("/", "_").replace("\0", "")
    spec = jm.LayerSpec(text=f"before {hostile} after", keywords=["plain", hostile])
    jm.RegionBuilder(15, f"A{hostile}"[:30]).add_layer(spec).write(jm.region_path(folder, 15))
    damaged = jm.RegionBuilder(16, "B").add_layer(spec).write(jm.region_path(folder, 16))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    (folder / "D17").symlink_to(f"x{hostile}".replace("/", "_").replace("\0", ""))
    return folder


@pytest.mark.parametrize("command", ["inspect", "verify", "doctor", "ask", "cat"])
def test_no_command_sends_what_a_terminal_obeys(command, base, hostile):
    words = {"ask": ["plain"], "cat": ["D99/L0"]}.get(command, [])
    for options in ([], ["--json"] if command != "cat" else []):
        result = run(command, base, *words, *options, env={"COLUMNS": "200"})
        assert obeyed(result.output) == set()
        assert "Traceback" not in result.output
        assert result.exit_code == {"ask": 0, "cat": 2}.get(command, 1)
        if options:
            report = json.loads(result.stdout)  # which has everything as it is
            assert report.get("base", str(base)) == str(base)
            assert "\x7f" not in result.stdout


def test_markup_is_shown_as_it_is_written(tmp_path):
    text = HOSTILE["markup"] + HOSTILE["emoji code"]
    spec = jm.LayerSpec(text=text, keywords=[text])
    path = jm.RegionBuilder(15, "x[/y]").add_layer(spec).write(jm.region_path(tmp_path, 15))
    shown = run("inspect", path, env={"COLUMNS": "300"}).stdout
    assert text in shown
    assert "x[/y]" in shown
    assert text in run("ask", tmp_path, "--full", text, env={"COLUMNS": "300"}).stdout


def test_build_shows_the_names_of_files_escaped(hostile, tmp_path):
    name = hostile.replace("/", "_").replace("\0", "")
    (tmp_path / "D15").mkdir()
    (tmp_path / "D15" / "0.md").write_text("---\ndepth: 1\nhello there\n---\n")
    (tmp_path / "D15" / f"x{name}.rst").write_text("passed over")
    failed = run("build", tmp_path, tmp_path / f"out{name}")
    assert (failed.exit_code, obeyed(failed.output)) == (1, set())
    (tmp_path / "D15" / "0.md").write_text(f"---\nunused {name.splitlines()[0]}: 1\ndepth: 1\n---\nx", newline="")
    done = run("build", tmp_path, tmp_path / f"out{name}")
    assert obeyed(done.output) == set()
    assert "passed over" in done.stderr or done.exit_code == 1


@pytest.mark.parametrize(
    ("args", "status"), [(["inspect", "no\x1b[31mwhere"], 2), (["no\x1b[2Jcommand"], 2), (["advise", "TRACE"], 1)]
)
def test_messages_of_errors_are_escaped(args, status, tmp_path):
    trace = tmp_path / "tr\x1b[31mace"
    trace.write_text('{"\x1b[2J": \u202e}')
    result = run(*(str(trace) if arg == "TRACE" else arg for arg in args))
    assert (result.exit_code, obeyed(result.output)) == (status, set())
    assert r"\x1b" in result.stderr


def test_commands_print_only_what_went_through_the_door():
    """Text of rich, and click's echo, are made in `screen` and `streams`; the map draws what it has made itself."""
    for path in Path(jm.__file__).parent.joinpath("cli").glob("*.py"):
        if path.name not in ("screen.py", "streams.py", "plan_map.py"):
            source = path.read_text()
            assert " Text(" not in source
            assert "(Text(" not in source
            assert "click.echo" not in source


@pytest.mark.parametrize("text", ["", "plain", "Grüße 日本 हिन्दी 😀", "back\\slash", "no-break\xa0space"])
def test_what_is_harmless_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_escaping_twice_changes_nothing(text):
    assert obeyed(escaped(text)) == set()
    assert escaped(escaped(text)) == escaped(text)


class TestCat:
    CONTENT = b"a\x1b[31m\r\nb\rc\t\xff\xe2\x80\xae \xf0\x9f\x98\x80\n"

    @pytest.fixture
    def path(self, tmp_path):
        return jm.RegionBuilder(15, "x").add_layer(jm.LayerSpec(content=self.CONTENT)).write(tmp_path / "region.mmap")

    def test_a_pipe_gets_the_bytes(self, path):
        assert spawn("cat", path, 0).stdout == self.CONTENT

    def test_a_terminal_gets_what_it_can_show(self, path):
        expected = "a\\x1b[31m\nb\\rc\t\\xff\\u202e 😀\n".replace("\n", "\r\n")  # the terminal makes CRLF
        assert on_terminal("cat", path, 0, env={"PYTHONUTF8": "1"}).decode() == expected

    def test_a_terminal_gets_the_bytes_if_it_insists(self, path):
        assert on_terminal("cat", path, 0, "--raw") == self.CONTENT.replace(b"\n", b"\r\n")

    def test_what_is_cut_between_two_pieces_is_put_together(self, monkeypatch):
        from jessy_mem.cli import cat

        shown = cat._shown  # private: where a file is cut into pieces is the system's choice

        pieces = [memoryview(self.CONTENT[at : at + 1]) for at in range(len(self.CONTENT))]
        assert "".join(shown(iter(pieces))) == "a\\x1b[31m\nb\\rc\t\\xff\\u202e 😀\n"
        assert "".join(shown(iter([memoryview(b"end\r")]))) == "end\\r"


# Streams that are closed, full or gone --------------------------------------------------------------------------------

CALLS = {
    "help": ["--help"],
    "help of a command": ["build", "--help"],
    "inspect": ["inspect", "BASE"],
    "inspect json": ["inspect", "BASE", "--json"],
    "ask": ["ask", "BASE", "word"],
    "cat": ["cat", "BASE", "D15/L0"],
    "build": ["build", "SOURCE", "OUT"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "source" / "D15").mkdir(parents=True)
    (folder / "source" / "D15" / "0.md").write_text("---\nkeywords: word\n---\nText.\n")
    assert run("build", folder / "source", folder / "base").exit_code == 0
    return {"BASE": str(folder / "base"), "SOURCE": str(folder / "source"), "OUT": str(folder / "out")}


def through_shell(call: list[str], redirected: str, places: dict[str, str]) -> tuple[int, str, str]:
    """Status, output and errors of a command whose streams the shell has redirected."""
    command = ["sh", "-c", f'"$@" {redirected}', "sh", sys.executable, "-m", "jessy_mem"]
    done = subprocess.run(
        [*command, *(places.get(arg, arg) for arg in call)], capture_output=True, text=True, timeout=HUNG_S
    )
    return done.returncode, done.stdout, done.stderr


def in_some_ways(calls: dict[str, list[str]], *ways: str):
    """Each second call in one of these ways, in the slow form each in all of them: each is a program that starts."""
    return pytest.mark.parametrize(
        ("call", "way"),
        [
            pytest.param(call, way, id=f"{name}, {way}", marks=[pytest.mark.slow] * (i % 2 or i // 2 % len(ways) != j))
            for i, (name, call) in enumerate(calls.items())
            for j, way in enumerate(ways)
        ],
    )


class TestStreams:
    @in_some_ways(CALLS, ">&-", ">/dev/full")
    def test_standard_output_that_is_closed_or_full_is_a_failure_in_one_line(self, call, way, places):
        reason = {">&-": "Bad file descriptor", ">/dev/full": "No space left on device"}[way]
        status, _, errors = through_shell(call, way, places)
        assert (status, errors) == (1, f"error: standard output: {reason}\n")

    @in_some_ways(CALLS, "2>&-", "2>/dev/full", "<&- 2>&-")
    def test_standard_error_that_is_closed_or_full_changes_nothing(self, call, way, places):
        status, output, _ = through_shell(call, way, places)
        assert (status, bool(output)) == (0, True)

    @in_some_ways(CALLS, ">&- 2>&-", ">/dev/full 2>/dev/full", ">&- 2>/dev/full")
    def test_both_at_once(self, call, way, places):
        assert through_shell(call, way, places) == (1, "", "")

    @in_some_ways(CALLS, "before the first byte")
    def test_a_reader_that_is_gone_is_no_failure(self, call, way, places):
        assert way == "before the first byte"
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "jessy_mem", *(places.get(arg, arg) for arg in call)]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=HUNG_S)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")


WRONG = {"no command": ["nonsense"], "no folder": ["inspect", "nowhere"], "nothing": []}


@in_some_ways(WRONG, "2>&-", "2>/dev/full", ">&- 2>&-")
def test_wrong_use_is_a_status_even_if_nobody_hears_of_it(call, way, places):
    assert through_shell(call, way, places)[0] == 2


def test_no_region_becomes_standard_error(places):
    """A file that is opened when descriptor 2 is free would get what the interpreter has to say."""
    code = (
        "import os, sys; from jessy_mem.cli.streams import prepare; prepare(); "
        "sys.exit(os.open(os.devnull, os.O_RDONLY) <= 2)"
    )
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, timeout=HUNG_S).returncode == 0


QUESTIONS = {
    "inspect": ["inspect"],
    "ask": ["ask", "plain"],
    "verify json": ["verify", "--json"],
    "inspect json": ["inspect", "--json"],
}
LOCALES = {
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "not coerced": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"},
    "dumb terminal": {"TERM": "dumb", "COLUMNS": "40"},
}


@in_some_ways(QUESTIONS, *LOCALES)
def test_any_locale_will_do(call, way, tmp_path):
    folder = os.fsencode(tmp_path) + b"/base\xff\xe9"
    base = os.fsdecode(folder)
    spec = jm.LayerSpec(text="Grüße aus 東京", keywords=["東京", "plain"])
    jm.RegionBuilder(15, "Größe").add_layer(spec).write(jm.region_path(base, 15))
    command = [sys.executable, "-m", "jessy_mem", call[0], folder, *call[1:]]
    done = subprocess.run(command, capture_output=True, env=os.environ | LOCALES[way], timeout=HUNG_S)
    assert (done.returncode, done.stderr) == (0, b"")


def test_terminals_without_colour_get_none(tmp_path):
    jm.RegionBuilder(15, "x").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path, 15))
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "unknown"}):
        assert b"\x1b[3" not in on_terminal("verify", tmp_path, env=env)
        assert b"\x1b[3" not in on_terminal("bad", env=env, status=2)
    assert b"\x1b[31m" in on_terminal("bad", status=2)


def test_help_keeps_its_text_without_docstrings():
    code = (
        "from jessy_mem.cli import COMMANDS, main\n"
        "for name in ('', *COMMANDS): main.main([name, '--help'][not name:], 'jessy-mem', standalone_mode=False)"
    )
    plain, without = (
        subprocess.run(
            [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=HUNG_S, check=True
        )
        for options in ([], ["-OO"])
    )
    assert without.stdout == plain.stdout
    assert plain.stdout.count("Usage: ") == len(COMMANDS) + 1
    assert "reader of a pipe went away" in " ".join(plain.stdout.split())


@pytest.mark.parametrize("command", ["inspect", "verify", "doctor"])
def test_the_home_folder_needs_no_shell(command, tmp_path):
    jm.RegionBuilder(15, "x").add_layer(jm.LayerSpec(text="x")).write(jm.region_path(tmp_path / "base", 15))
    assert run(command, "~/base", env={"HOME": str(tmp_path)}).exit_code == 0


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(0, "0 /s"), (812, "812 /s"), (1_000, "1.0 k/s"), (45_300, "45.3 k/s"), (22_340_000, "22.3 M/s")],
)
def test_rate_has_the_unit_that_keeps_it_short(per_s, text):
    assert rate(per_s) == text
