"""The command line ``jessy-mem``: one file for each command, loaded when it is asked for.

What a script may rely on: standard output carries the result and standard error everything else; the exit status is 0
if all is sound, 1 if a problem was found, 2 for wrong use. Ctrl-C gives 130 and a closed pipe 141, as for other tools.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli.paths import reason

__all__ = ["main"]

COMMANDS = {
    "demo": "Build, map, read and learn on the bundled content, and measure it.",
    "build": "Make region files from a folder of texts.",
    "inspect": "Show what a region file, or a whole base folder, holds.",
    "cat": "Write the content of one layer to standard output.",
    "verify": "Compare every byte with its checksum, and list all damage.",
    "doctor": "Find (and clean) what crashes and copies left in a base folder.",
    "ask": "Find the layers that some words lead to, and show their text.",
    "advise": "Replay a recorded trace over eviction policies and budgets.",
    "bench": "Measure access, loading, pool and statistics on this machine.",
}


class Commands(click.Group):
    """A group whose commands are modules, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"jessy_mem.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _print_what_the_terminal_can()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                status = self._status(args, prog_name, complete_var, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            status = _reader_is_gone()
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _reader_is_gone()

    def _status(self, args: Any, prog_name: Any, complete_var: Any, **extra: Any) -> int:
        """Run the command; its exit status, after saying in one line what went wrong."""
        try:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "jessy-mem"
            return _fail(f"{path}: {error.format_message()} See '{path} --help'.", 2)
        except click.ClickException as error:
            return _fail(error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            return 128 + signal.SIGINT
        except (jm.ConsciousnessError, OSError, ImportError, UnicodeDecodeError) as error:
            return _fail(reason(error), 1)


def _fail(message: str, status: int) -> int:
    """Say each line of `message` on standard error, marked as an error."""
    for line in message.splitlines():
        click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    return status


def _reader_is_gone() -> int:
    """Let what is left in the buffer go to nobody, or the interpreter would complain at exit."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return 128 + signal.SIGPIPE


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {message}", err=True)


def _print_what_the_terminal_can() -> None:
    """A character that standard output cannot encode is escaped, instead of ending the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jessy-mem", prog_name="jessy-mem", message="%(prog)s %(version)s")
def main() -> None:
    """Layered content in memory-mapped files, under one hard budget.

    A dimension is a file BASE/Dnn/region.mmap, a layer is a slice of it with a depth, a frequency and keywords. Start
    with 'jessy-mem demo'.
    """
