"""Processes that learn, append and forget in one folder see the same, and no reader sees two editions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from world import World, content_of, generation_of, manager

import jessy_mem as jm
from helpers import HUNG_S

WORKER = """
import fcntl, hashlib, json, sys
import jessy_mem as jm

base, number, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if sys.argv[4] == "without locks":  # as on file systems where they do nothing
    fcntl.flock = lambda fd, operation: None
memory = jm.MmapManager(base_path=base, simulation="never", durability="batch", lock_timeout_s=None)
memory.load_all()


def text_of(dimension):
    return [memory.load_context(each).content for each in memory.layers(dimension)]


def seen():
    return {name: hashlib.sha256("|".join(text_of(dimension)).encode()).hexdigest()
            for name, dimension in sorted(memory.names().items())}


for key in range(n):
    name = f"{number}/{key}"
    dimension = memory.ensure_dimension(name, [jm.LayerSpec(text=name, keywords=("learned",))])
    for added in range(3):
        memory.append_layer(dimension, jm.LayerSpec(text=f"{name}: {added}"))
    shared = memory.ensure_dimension("shared")
    memory.append_layer(shared, jm.LayerSpec(text=f"{name} in the shared one"))
    if key % 3 == 2:
        memory.forget(dimension)
print("learned", flush=True)
sys.stdin.readline()
print(json.dumps([seen(), len(memory), len(memory.layers(keyword="learned"))]), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("n_processes", "n", "locks"),
    [
        (2, 8, "with locks"),
        (2, 8, "without locks"),
        (8, 8, "with locks"),
        (8, 8, "without locks"),
        pytest.param(8, 200, "with locks", marks=pytest.mark.slow),
        # Four times the work where it is twice as much: whoever comes too late begins again.
        pytest.param(8, 100, "without locks", marks=pytest.mark.slow),
    ],
)
def test_processes_see_the_same_at_the_end(tmp_path, n_processes, n, locks):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [
        subprocess.Popen(
            [*command, str(number), str(n), locks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(n_processes)
    ]
    try:
        with manager(tmp_path) as watching:
            watching.load_all()  # what the first of them learned before it was there
            for worker in workers:
                assert worker.stdout.readline() == "learned\n"
                watching.get((15, 0))
            told = []
            for worker in workers:
                print(file=worker.stdin, flush=True)
                told.append(json.loads(worker.stdout.readline()))
            names = watching.names()
            texts = {
                name: "|".join(watching.load_context(each).content for each in watching.layers(dimension))
                for name, dimension in sorted(names.items())
            }
            n_kept = n_processes * (n - n // 3)
            shared = n_processes * n
            assert texts.keys() == {"shared"} | {
                f"{number}/{key}" for number in range(n_processes) for key in range(n) if key % 3 < 2
            }
            expected = [
                {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
                4 * n_kept + shared,
                n_kept,
            ]
            assert told == [expected] * n_processes
            assert len(texts["shared"].split("|")) == shared
            assert len(watching) == expected[1]
            assert watching.refresh() == jm.Changes()
    finally:
        for worker in workers:
            worker.communicate("\n", timeout=HUNG_S)
    assert [worker.returncode for worker in workers] == [0] * n_processes
    assert jm.examine(tmp_path) == []


DIMENSIONS = (20, 21, 22)
N_GENERATIONS = 60


def run_at_once(*jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


def reload_generations(memory, world, stop):
    """Write and reload one generation after another of all dimensions; at the end, set `stop`."""
    try:
        for generation in range(2, N_GENERATIONS):
            world.write_all(*DIMENSIONS, generation=generation)
            memory.reload_many(DIMENSIONS)
    finally:
        stop.set()


def test_no_reader_sees_a_new_one_and_then_an_old_one(tmp_path):
    world = World(tmp_path)
    world.write_all(*DIMENSIONS)
    stop = threading.Event()
    with manager(tmp_path) as memory:
        memory.load_all()

        def read():
            newest = 0
            while not stop.is_set():
                for dimension in DIMENSIONS:
                    generation = generation_of(bytes(memory[dimension, 0]))
                    assert generation >= newest, "an old one after a new one"
                    newest = generation

        run_at_once(partial(reload_generations, memory, world, stop), read, read, read)
        assert {memory.region(each).generation for each in DIMENSIONS} == {N_GENERATIONS - 1}


def test_snapshot_shows_one_edition(tmp_path):
    world = World(tmp_path)
    world.write_all(*DIMENSIONS)
    stop = threading.Event()
    with manager(tmp_path) as memory:
        memory.load_all()

        def read_in_snapshots():
            newest = 0
            while not stop.is_set():
                with memory.snapshot() as then:
                    views = [each[dimension, 0] for dimension in DIMENSIONS * 3 for each in (then, memory)]
                    seen = {generation_of(bytes(view)) for view in views}
                    del views
                assert len(seen) == 1, "two editions"
                assert newest <= max(seen)
                newest = max(seen)

        def read():
            newest = 0
            while not stop.is_set():
                generation = generation_of(bytes(memory[20, 0]))
                assert generation >= newest, "another thread's snapshot"
                newest = generation

        run_at_once(partial(reload_generations, memory, world, stop), read_in_snapshots, read_in_snapshots, read)
        assert memory.leases() == []
        assert bytes(memory[20, 0]) == content_of(20, 0, N_GENERATIONS - 1)
