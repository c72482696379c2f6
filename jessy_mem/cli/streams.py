"""Standard output and standard error: closed, full, gone, or a terminal that knows little.

The result of a command goes to standard output; if it cannot be written, that is a failure of the command. What is said
on standard error is said as far as possible, and changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

from jessy_mem.cli.escape import escaped

__all__ = ["OWN_PROCESS", "Command", "OutputLost", "delivering", "finish", "give_up", "prepare", "say", "tell", "write"]

OWN_PROCESS = object()  # the context's object where the process ends with the command


class OutputLost(Exception):
    """Standard output does not take the result. `status` is the exit status that this means."""

    def __init__(self, error: OSError) -> None:
        self.gone = error.errno == errno.EPIPE  # whoever read it has seen enough
        self.status = 128 + signal.SIGPIPE if self.gone else 1
        super().__init__(f"standard output: {error.strerror or error}")


class _Closed(io.RawIOBase):
    """What stands for a standard output that was closed before the program began."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def prepare() -> None:
    """Make both streams safe to write to, whatever they are."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a region file would be opened as standard error
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(), encoding="utf-8", write_through=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what it cannot encode ends no program


@contextlib.contextmanager
def delivering() -> Iterator[None]:
    """Whatever the system says inside is about standard output: OutputLost."""
    try:
        yield
    except OSError as error:
        raise OutputLost(error) from error


def write(text: str) -> None:
    """Write text of our own, or that was escaped, to standard output."""
    with delivering():
        sys.stdout.write(text)


def finish() -> None:
    """Everything is written, or OutputLost."""
    with delivering():
        sys.stdout.flush()


def give_up(stream: TextIO | None) -> None:
    """Let what is left in the buffer of `stream` go nowhere, or the interpreter would complain at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(null)


def say(kind: str, colour: str, message: str) -> None:
    """One line on standard error, such as ``error: there is no file x``."""
    tell(f"{click.style(f'{kind}:', fg=colour, bold=True)} {escaped(message)}")


def tell(text: str) -> None:
    """Write text of our own, or that was escaped, to standard error, if that is possible."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    try:
        click.echo(text, file=sys.stderr, err=True, color=False if plain else None)
    except OSError:
        give_up(sys.stderr)


class Command(click.Command):
    """A command whose help is a result like any other."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with delivering():
            return super().make_context(*args, **extra)
