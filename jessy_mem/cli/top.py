"""``jessy-mem top``: a base folder, and the processes that use it, again and again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

import jessy_mem as jm
from jessy_mem.cli import screen
from jessy_mem.cli.map import segment_bar
from jessy_mem.cli.numbers import Number
from jessy_mem.cli.paths import EXISTING_FOLDER, FOLDER, region_files
from jessy_mem.cli.streams import Command
from jessy_mem.cli.watching import STATES, Seen, Watch, Worker
from jessy_mem.units import counted, format_bytes, format_ns

N_PROCESSES, N_WORKERS, N_CHANGES = 4, 4, 4  # lines
SORTS: dict[str, Callable[[jm.MapEntry, Seen], tuple[float, int]]] = {
    "changes": lambda entry, seen: (-seen.n_changes[entry.dimension], entry.dimension),
    "readers": lambda entry, seen: (-seen.n_readers[entry.dimension], entry.dimension),
    "memory": lambda entry, seen: (-(entry.resident or 0) * entry.n_bytes, entry.dimension),
    "size": lambda entry, seen: (-entry.n_bytes, entry.dimension),
    "id": lambda entry, seen: (0, entry.dimension),
}
KEYS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left", b"s": "right", b"q": "quit"}
KEYS |= {key.replace(b"[", b"O"): what for key, what in KEYS.items() if key[:2] == b"\x1b["}
BUSY = 4  # times what a look takes is waited at least


HELP = """Watch BASE: segments, the processes that have it mapped, changes, and the dimensions that change most.

It is seen from outside, and nothing is written there: sizes, layers, changes and what is in memory come from the files,
who has them mapped from the system, as far as it tells. Budget, pressure, latency and leases are each process's own: of
those that publish them in Prometheus's multiprocess mode they are read from the folder that --metrics names.

Readers are processes that have a dimension mapped, memory is how much of its files is there now, whoever reads them.
How often a dimension is read is counted nowhere: that would cost each access.

Keys: q ends it, left and right choose the order, up and down move through the dimensions. Where standard input or
output is no terminal, it looks once, like --once; then the exit status is 1 if a file of BASE cannot be read.
"""


@click.command(cls=Command, help=HELP)
@click.argument("base", type=EXISTING_FOLDER)
@click.option("--metrics", type=FOLDER, envvar="PROMETHEUS_MULTIPROC_DIR", help="Where processes publish numbers.")
@click.option("--every", default=1.0, type=Number(0.1, 3600), show_default=True, help="Seconds from look to look.")
@click.option("--once", is_flag=True, help="Look once, print it, and end.")
def command(base: Path, metrics: Path | None, every: float, once: bool) -> int:
    watch, out = Watch(base, metrics), screen.console()
    if once or not _is_live():
        region_files(base)  # says so if there is none
        seen = watch.look()
        out.print(_frame(seen, base, out, "size", 0, None))
        return 1 if seen.map is None or any(entry.problem for entry in seen.map.entries) else 0
    return Top(watch, base, out, every).run()


def _is_live() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (
        None,
        "dumb",
        "unknown",
    )  # fmt: skip


class Top:
    """The live screen: looks, draws, and obeys keys, until it is told to end."""

    def __init__(self, watch: Watch, base: Path, out: Console, every_s: float) -> None:
        self._watch, self._base, self._out, self._every_s = watch, base, out, every_s
        self._sort, self._first = 0, 0
        self._status: int | None = None

    def run(self) -> int:
        """The exit status, after the terminal is as it was."""
        with _raw_keys(), self._signals() as wake, Live(console=self._out, screen=True, auto_refresh=False) as live:
            while self._status is None:
                begin = time.monotonic()
                seen = self._watch.look()
                now = time.monotonic()
                due = now + max(self._every_s, BUSY * (now - begin))
                while self._status is None:
                    live.update(self._drawn(seen), refresh=True)
                    ready, _, _ = select.select([sys.stdin, wake], [], [], max(0.0, due - time.monotonic()))
                    if not ready:
                        break
                    if wake in ready:
                        os.read(wake, 64)
                    if sys.stdin in ready:
                        self._obey(_typed())
        return self._status

    def _drawn(self, seen: Seen) -> Group:
        n_entries = 0 if seen.map is None else len(seen.map.present)
        self._first = max(0, min(self._first, n_entries - 1))
        return _frame(seen, self._base, self._out, list(SORTS)[self._sort], self._first, self._out.height)

    def _obey(self, typed: bytes) -> None:
        if not typed:  # the terminal is gone
            self._status = 128 + signal.SIGHUP
        while typed:
            key = next((key for key in KEYS if typed.startswith(key)), typed[:1])
            typed = typed[len(key) :]
            match KEYS.get(key):
                case "quit":
                    self._status = 0
                case "right":
                    self._sort = (self._sort + 1) % len(SORTS)
                case "left":
                    self._sort = (self._sort - 1) % len(SORTS)
                case "down":
                    self._first += 1
                case "up":
                    self._first = max(0, self._first - 1)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """A descriptor that can be read when the window has another size, or when it is time to end."""
        wake, woken = os.pipe()

        def end(number: int, frame: object) -> None:
            self._status = 128 + number
            os.write(woken, b".")

        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, end),
            signal.SIGHUP: signal.signal(signal.SIGHUP, end),
            signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda number, frame: os.write(woken, b".")),
        }
        try:
            yield wake
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(woken)


@contextlib.contextmanager
def _raw_keys() -> Iterator[None]:
    """Keys come one by one and are not shown; Ctrl-C is still Ctrl-C, and Ctrl-Z does nothing."""
    import termios

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    changed[6][termios.VSUSP] = os.fpathconf(fd, "PC_VDISABLE").to_bytes(1, "little")
    termios.tcsetattr(fd, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _typed() -> bytes:
    """What was typed; nothing if the terminal is gone."""
    typed = b""
    with contextlib.suppress(OSError):  # for a moment it is an error
        typed = os.read(sys.stdin.fileno(), 64)
    return typed


# What is drawn --------------------------------------------------------------------------------------------------------


def _frame(seen: Seen, base: Path, out: Console, sort: str, first: int, height: int | None) -> Group:
    """One look, as lines that fit the terminal; all dimensions if there is no `height`."""
    lines = _head(seen, base, out)
    tail = _changes(seen, N_CHANGES if height is None or height >= 30 else N_CHANGES // 2)
    if height is not None:
        tail.append(screen.text(f"q quit  left/right: by {sort}  up/down", style="reverse"))
    room = None if height is None else max(1, height - len(lines) - len(tail) - 1)
    lines += _dimensions(seen, out, sort, first, room)
    lines += [screen.text("")] * (0 if height is None else max(0, height - len(lines) - len(tail)))
    lines += tail
    for line in lines:
        line.no_wrap, line.overflow = True, "crop"
        line.truncate(out.width, overflow="crop")
    return Group(*(lines if height is None else lines[:height]))


def _head(seen: Seen, base: Path, out: Console) -> list[Text]:
    clock = time.strftime("%H:%M:%S")
    if seen.map is None:
        return [screen.text((clock, "dim"), f"  {base}"), screen.text(("cannot be read: ", "bold red"), seen.problem)]
    n_bytes = sum(entry.n_bytes for entry in seen.map.present)
    n_damaged = sum(bool(entry.problem) for entry in seen.map.present)
    n_present = len(seen.map.present)
    told = f"{counted(n_present, 'dimension')}, {format_bytes(n_bytes)}"
    lines = [
        screen.text((clock, "dim"), f"  {told}", (f", {n_damaged} damaged" if n_damaged else "", "bold red")),
        screen.text((str(base), "bold")),
    ]
    for segment in seen.map.segments:
        told = f" {format_bytes(segment.used_bytes)} of {format_bytes(segment.size_bytes)}"
        width = max(8, min(out.width, 100) - 8 - 20)
        bar = segment_bar(seen.map, segment, width, out.options.ascii_only)
        lines.append(screen.text(f"{segment.name:<8.8}").append(bar).append(screen.text(told)))
    return [*lines, *_processes(seen), *_workers(seen, out)]


def _processes(seen: Seen) -> list[Text]:
    lines = [
        screen.text(
            f"{process.pid:>9} {process.name:<9.9} {process.n_files:>5} "
            f"{'file' if process.n_files == 1 else 'files':<5}{format_bytes(process.n_bytes):>9}",
            (f"  {process.n_gone} of older versions" if process.n_gone else "", "yellow"),
        )
        for process in seen.processes[:N_PROCESSES]
    ]
    more = len(seen.processes) - len(lines)
    told = f"Processes that map it: {len(seen.processes)}"
    last = [screen.text(f"  ... and {more} more", style="dim")] if more else []
    return [screen.text((told, "bold"), (f"; {seen.hidden}" if seen.hidden else "", "dim")), *lines, *last]


def _workers(seen: Seen, out: Console) -> list[Text]:
    if not seen.workers:
        heading = screen.text("Budget, pressure, latency, leases", style="bold")
        told = textwrap.wrap(seen.unpublished, out.width - 2, break_on_hyphens=False)[:N_WORKERS]
        return [heading, *(screen.text(f"  {line}", style="dim") for line in told)]
    lines = [screen.text(("Published, by worker/manager", "bold"))]
    for worker in seen.workers[:N_WORKERS]:
        lines += _worker(worker, out)
    more = len(seen.workers) - N_WORKERS
    return [*lines, *([screen.text(f"  ... and {more} more", style="dim")] if more > 0 else [])]


def _worker(worker: Worker, out: Console) -> list[Text]:
    style = {"ok": "green", "warning": "yellow"}.get(worker.pressure, "bold red")
    used = f"  {worker.name:<5} {format_bytes(worker.used_bytes)} of {format_bytes(worker.limit_bytes)} "
    parts = [f"{state} {format_bytes(worker.states.get(state, 0))}" for state in STATES]
    if worker.accesses_per_s is not None:
        parts.append(f"{worker.accesses_per_s:,.0f} accesses/s")
    if worker.p99_s is not None:
        parts.append(f"p99 {format_ns(1e9 * worker.p99_s)}")
    parts.append(f"{worker.n_evictions:,} evictions")
    first = screen.text(used, (worker.pressure, style))
    told = ", ".join(parts)
    if len(first) + 2 + len(told) <= out.width:
        return [first.append(screen.text(f"  {told}"))]
    whole = textwrap.wrap(", ".join(part.replace(" ", "\0") for part in parts), out.width - 8)  # no part is broken
    return [first, *(screen.text("        " + line.replace("\0", " ")) for line in whole)]


def _dimensions(seen: Seen, out: Console, sort: str, first: int, room: int | None) -> list[Text]:
    if seen.map is None:
        return [screen.text("waiting for it to come back", style="dim")]
    entries = sorted(seen.map.present, key=lambda entry: SORTS[sort](entry, seen))
    if not entries:
        return [screen.text("no dimension is there yet", style="dim")]
    wide = out.width >= screen.NARROW
    name = max(8, min(40, out.width - (59 if wide else 32)))
    more = f"{'layers':>8}{'deltas':>8}" if wide else ""
    counted = f"{'readers':>9}{'changes':>9}" if wide else f"{'rd':>4}{'chg':>4}"
    width = 9 if wide else 4
    lines = [
        screen.text((f"{'':<7}{'name':<{name}}{'size':>9}{more}{'memory':>8}{counted}", "dim")),
    ]
    for entry in entries[first : None if room is None else first + room]:
        more = f"{entry.n_layers:>8,}{entry.n_deltas or '':>8}" if wide else ""
        memory = "damaged" if entry.problem else "" if entry.resident is None else f"{entry.resident:.0%}"
        counts = f"{seen.n_readers[entry.dimension] or '':>{width}}{seen.n_changes[entry.dimension] or '':>{width}}"
        told = screen.text(entry.name)
        told.truncate(name - 1, pad=True)
        line = screen.text(f"D{entry.dimension:02d}".ljust(7)).append(told)
        lines.append(line.append(screen.text(f" {format_bytes(entry.n_bytes):>9}{more}{memory:>8}{counts}")))
    return lines


def _changes(seen: Seen, n_shown: int) -> list[Text]:
    if not seen.changes:
        return []
    lines = [
        screen.text((time.strftime("%H:%M:%S", time.localtime(at)), "dim"), f"  {what}")
        for at, what in seen.changes[:n_shown]
    ]
    return [screen.text((f"Changes: {sum(seen.n_changes.values()):,} since it looks", "bold")), *lines]
