"""The command line ``jessy-mem``: one file for each command, loaded when it is asked for.

What a script may rely on: standard output carries the result and standard error everything else; the exit status is 0
if all is sound, 1 if a problem was found or the result could not be written, 2 for wrong use. Ctrl-C gives 130 and a
reader that goes away 141, as for other tools. What cannot be said on standard error changes nothing.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

import jessy_mem as jm
from jessy_mem.cli.paths import Problems, reason
from jessy_mem.cli.streams import OWN_PROCESS, OutputLost, delivering, finish, give_up, prepare, say, tell

__all__ = ["main", "run"]

COMMANDS = {
    "demo": "Build, map, read and learn on the bundled content, and measure it.",
    "build": "Make region files from a folder of texts.",
    "learn": "Add texts as layers to a named dimension.",
    "forget": "Remove a learned dimension for good.",
    "inspect": "Show what a region file, or a whole base folder, holds.",
    "map": "Show which dimensions lie where, on the terminal or as a page.",
    "top": "Watch a base folder, and the processes that use it.",
    "cat": "Write the content of one layer to standard output.",
    "verify": "Compare every byte with its checksum, and list all damage.",
    "doctor": "Find (and clean) what crashes and copies left in a base folder.",
    "export": "Write a base folder, as of one moment, into a tar.",
    "import": "Verify the dimensions of such a tar, and put them into a base folder.",
    "ask": "Find the layers that some words lead to, and show their text.",
    "advise": "Replay a recorded trace over eviction policies and budgets.",
    "bench": "Measure access, loading, pool and statistics on this machine.",
}
MODULES = {"import": "import_"}  # a command whose name is no module's


class Commands(click.Group):
    """A group whose commands are modules, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = MODULES.get(cmd_name, cmd_name)
        command: click.Command = importlib.import_module(f"jessy_mem.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}; there are {', '.join(COMMANDS)}.")
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
        prepare()
        try:
            status = self._status(args, prog_name, complete_var, **extra)
            finish()
        except OutputLost as lost:
            give_up(sys.stdout)
            status = lost.status if lost.gone else _fail([str(lost)], lost.status)
        sys.exit(status)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        # As wide as the terminal, if it is narrower than the 50 columns that click takes at least.
        extra.setdefault("terminal_width", max(20, min(shutil.get_terminal_size().columns, 80) - 2))
        with delivering():  # the help
            return super().make_context(*args, **extra)

    def _status(self, args: Any, prog_name: Any, complete_var: Any, **extra: Any) -> int:
        """Run the command; its exit status, after saying in one line what went wrong."""
        try:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            tell(error.format_message())
            return 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "jessy-mem"
            return _fail([f"{path}: {error.format_message()} See '{path} --help'."], 2)
        except Problems as error:
            return _fail(error.lines, error.exit_code)
        except click.ClickException as error:
            return _fail([error.format_message()], error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            return 128 + signal.SIGINT
        except (jm.ConsciousnessError, OSError, ImportError, UnicodeError) as error:
            return _fail([reason(error)], 1)


def _fail(messages: Sequence[str], status: int) -> int:
    """Say each of `messages` on a line of standard error, marked as an error."""
    for message in messages:
        say("error", "red", message)
    return status


HELP = """Texts that several processes read without a copy and add to, in the files of a folder BASE.

A dimension is a file of texts that belong together, BASE/Dnn/region.mmap; a layer is one of them, with keywords, a
depth and a frequency. Start with 'jessy-mem demo'.

Exit status: 0 all is sound, 1 a problem was found or the result could not be written, 2 wrong use, 130 Ctrl-C, 141 the
reader of a pipe went away.
"""


@click.command(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(jm.__version__, prog_name="jessy-mem", message="%(prog)s %(version)s")
def main() -> None:
    pass


def run(prog_name: str | None = None) -> None:
    """`main` for a process that ends with it: a command that reads lets the system forbid it to write.

    Not so with JESSY_MEM_LANDLOCK=0 in the environment, for whoever must write at the end, as coverage does.
    """
    main(prog_name=prog_name, obj=None if os.environ.get("JESSY_MEM_LANDLOCK") == "0" else OWN_PROCESS)
