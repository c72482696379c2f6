"""Processes that append to one page of changes and read it: in order, all of it, or told to look at everything."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import HUNG_S
from jessy_mem._core.changes import ChangePage

WRITER = """
import fcntl, os, sys, time
from jessy_mem._core.changes import ChangePage
folder, number, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
page = ChangePage(folder)
lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT)
for generation in range(n):
    fcntl.flock(lock, fcntl.LOCK_EX)
    while not page.append(number, "changed", generation):
        pass  # the file went again while it was made
    fcntl.flock(lock, fcntl.LOCK_UN)
    if generation % 64 == 0:
        time.sleep(0.001)
"""

READER = """
import json, os, sys, time
from jessy_mem._core.changes import RING_CHANGES, ChangePage
folder, naps, until_lapped = sys.argv[1], float(sys.argv[2]), len(sys.argv) > 3
page = ChangePage(folder)
page.open()
seen, newest, n_told, n_looks, begun = page.sequence, {}, 0, 0, True
print("ready", flush=True)
while True:
    done = os.path.exists(os.path.join(folder, "done"))
    if page.sequence == seen:
        if page.is_stale():
            page.open()
        if done and page.sequence == seen:
            break
        time.sleep(0.0001)
        continue
    changes, seen = page.read_since(seen)
    if changes is None:
        n_looks += 1
        if page.is_stale():
            page.open()
        seen, begun = page.sequence, False
        newest = {}
        continue
    for number, what, generation in changes:
        assert what == "changed", what
        if number in newest or begun:
            assert generation == newest.get(number, -1) + 1, (number, generation, newest)
        newest[number] = generation
    n_told += len(changes)
    time.sleep(naps)
    while until_lapped and not done and page.sequence - seen <= RING_CHANGES:
        time.sleep(naps)
        done = os.path.exists(os.path.join(folder, "done"))
print(json.dumps([n_told, n_looks]))
"""


def start(source: str, *arguments) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    try:
        out, error = process.communicate(timeout=HUNG_S)
    finally:
        process.kill()
    assert process.returncode == 0, (process.returncode, error)
    return out


def run(
    folder: Path, n_writers: int, n_each: int, naps: list[float], disturb=None, until_lapped: bool = False
) -> list[tuple[int, int]]:
    """Let writers and readers run; what each reader was told, and how often it was told to look at everything.

    With `until_lapped` each waits, after all that it reads, until there is more than the ring holds.
    """
    assert ChangePage(folder).open(create=True)
    readers = [start(READER, folder, nap, *["until lapped"] * until_lapped) for nap in naps]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n", reader.communicate()
    writers = [start(WRITER, folder, number, n_each) for number in range(n_writers)]
    while disturb is not None and any(writer.poll() is None for writer in writers):
        disturb()
    for writer in writers:
        end(writer)
    (folder / "done").touch()
    return [tuple(json.loads(end(reader))) for reader in readers]


def test_every_reader_sees_every_change_in_order(tmp_path):
    for n_told, n_looks in run(tmp_path, n_writers=3, n_each=3000, naps=[0, 0, 0.0005]):
        assert n_told == 9000 or n_looks
        assert n_told <= 9000


def test_slow_reader_is_told_that_it_missed_some(tmp_path):
    ((n_told, n_looks),) = run(tmp_path, n_writers=2, n_each=6000, naps=[0.001], until_lapped=True)
    assert n_looks
    assert n_told < 12000


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_file_is_harmed_all_the_time(tmp_path, seed):
    """Nobody dies, nobody hangs, nothing is told twice or out of order."""
    chance = random.Random(seed)
    path = tmp_path / ".changes"
    harms = []

    def disturb():
        time.sleep(chance.uniform(0, 0.01))
        harm = chance.choice(["delete", "truncate", "random", "word", "fifo", "link"])
        harms.append(harm)
        try:
            if harm == "delete":
                path.unlink()
            elif harm == "truncate":
                os.truncate(path, chance.choice([0, 63, 4096, 20000, 36863]))
            elif harm in ("random", "word"):
                fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                n_bytes, at = (8, 64) if harm == "word" else (4096, chance.randrange(0, 36864, 64))
                try:
                    os.pwrite(fd, chance.randbytes(min(n_bytes, 36864 - at)), at)
                finally:
                    os.close(fd)
            else:
                path.unlink(missing_ok=True)
                os.mkfifo(path) if harm == "fifo" else path.symlink_to("/dev/zero")
        except OSError:  # it is not there just now
            pass

    results = run(tmp_path, n_writers=3, n_each=3000, naps=[0, 0, 0.001], disturb=disturb)
    assert len(harms) > 10
    assert all(n_looks for _, n_looks in results)
    page = ChangePage(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = page.append(1, "removed", 0)
    other = ChangePage(tmp_path)
    assert other.open()
    assert other.read_since(number - 1) == ([(1, "removed", 0)], number)
