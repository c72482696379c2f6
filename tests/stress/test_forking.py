"""A process that forks beside threads that do everything: each call works in the child, or raises at once."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import threading
import time

import pytest
from world import World, manager

import jessy_mem as jm
from helpers import HUNG_S

pytestmark = [
    pytest.mark.thread_unsafe(reason="it forks"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*ended, and lost:ResourceWarning"),
]

SPEC = jm.LayerSpec(text="ours")
TEA = 15
LOST = 3  # what a child ends with if a call failed otherwise than it may
PAUSE_S = 0.02  # between two deeds beside a child that is at work: without it they would take a core from all children


def learn(memory: jm.MmapManager) -> None:
    """Append, crystallize, forget."""
    memory.append_layer(TEA, SPEC)
    dimension = memory.create_proto_dimension("new", [SPEC])
    memory.crystallize(dimension)
    memory.forget(dimension)


def snapshot(memory: jm.MmapManager) -> None:
    with memory.snapshot() as then:
        then.layers()
        then.access_layer((1, 0))


def read(memory: jm.MmapManager) -> None:
    with memory.reader() as reader:
        reader.read_many([(1, 0), (2, 0)])
        assert reader.load_context((TEA, 0)).content


def allocate(memory: jm.MmapManager) -> None:
    with memory.allocate(4000) as block, memoryview(block) as view:
        view[:4] = b"ours"


def measure(memory: jm.MmapManager) -> None:
    memory.get_stats(residency=True)
    jm.metrics()
    memory.dump_state()


def watched(memory: jm.MmapManager) -> None:
    memory.on_change(lambda *_: None)
    memory.on_evict(lambda *_: None)
    memory.on_pressure(lambda *_: None)


def own_manager(memory: jm.MmapManager) -> None:
    with manager(memory.config.base_path, on_close="drop") as own:
        own.load_all()
        own.append_layer(own.create_proto_dimension("new", [SPEC]), SPEC)
        jm.metrics()


BESIDE = {
    "a loader": lambda memory: memory.reload_dimension(1),
    "a reader": lambda memory: memory.load_contexts([jm.NavigationPath(1, [(1, 0), (TEA, 0)])]),
    "a Reader": read,
    "a learner": learn,
    "a snapshot": snapshot,
    "metrics": measure,
    "an allocator": allocate,
    "a listener": watched,
}
IN_CHILD = {
    "layers": lambda memory: memory.layers(keyword="x"),
    "access": lambda memory: memory.access_layer((1, 0)).text,
    "contexts": BESIDE["a reader"],
    "reader": read,
    "read_many": lambda memory: memory.read_many([(1, 0), (2, 1)]),
    "names": lambda memory: (memory.names(), memory.find("x")),
    "refresh": lambda memory: memory.refresh(),
    "load": lambda memory: memory.load_all(),
    "reload": lambda memory: memory.reload_dimension(2),
    "unload": lambda memory: memory.unload_dimension(2),
    "allocate": allocate,
    "measure": measure,
    "snapshot": snapshot,
    "listen": watched,
    "trim": lambda memory: memory.trim(),
    "update": lambda memory: memory.update_layer((TEA, 0), SPEC),
    "learn": learn,
    "compact": lambda memory: memory.compact(TEA),
    "sync": lambda memory: memory.sync(),
    "examine": lambda memory: jm.examine(memory.config.base_path),
    "a manager of its own": own_manager,
    "close": lambda memory: memory.close(),
}


def child(memory: jm.MmapManager, told: int) -> None:
    """Every call, each of them told of before it is made; it does not return."""
    status = 0
    try:
        for name, call in IN_CHILD.items():
            os.write(told, f"{name}\n".encode())
            with contextlib.suppress(jm.ConsciousnessError):
                call(memory)
    except BaseException as error:
        os.write(told, f"{error!r}\n".encode())
        status = LOST
    os._exit(status)


def forked(memory: jm.MmapManager, busy: threading.Event) -> str:
    """What is wrong with a child that is forked now: empty, or the call that hung or failed."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        child(memory, theirs)
    busy.clear()
    os.close(theirs)
    killer = threading.Timer(HUNG_S, os.kill, (pid, signal.SIGKILL))  # its end closes the pipe
    killer.start()
    with os.fdopen(ours) as told:
        said = told.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    killer.cancel()
    return f"{status}: {said[-2:]}" if status else ""


def forks_beside(deeds, n_forks: int, base) -> list[str]:
    """What is wrong with `n_forks` children, forked while a thread for each of `deeds` goes round and round."""
    world = World(base)
    world.write_all(1, 2, TEA, n_layers=2)
    stop, busy = threading.Event(), threading.Event()
    failed: list[BaseException] = []
    chance = random.Random(0)

    def go_round(deed) -> None:
        try:
            while not stop.is_set():
                with contextlib.suppress(jm.ConsciousnessError):
                    deed(memory)
                busy.wait(PAUSE_S)
        except BaseException as error:
            failed.append(error)

    with manager(base, durability="batch", on_close="drop") as memory:
        memory.load_all()
        for call in BESIDE.values():  # what is imported late is imported then: CPython forks with an import half done
            call(memory)
        threads = [threading.Thread(target=go_round, args=(deed,)) for deed in deeds]
        for thread in threads:
            thread.start()
        try:
            found = []
            for _ in range(n_forks):
                busy.set()
                time.sleep(chance.uniform(0, 0.003))  # so that it forks anywhere in a deed
                found.append(forked(memory, busy))
        finally:
            stop.set()
            busy.set()
            for thread in threads:
                thread.join()
        assert failed == []
        learn(memory)  # the children took nothing that is the parent's
    return [each for each in found if each]


def test_each_call_works_in_a_child_or_raises(tmp_path):
    assert forks_beside(BESIDE.values(), 5, tmp_path / "base") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_a_thousand_children(name, tmp_path):
    assert forks_beside([BESIDE[name]], 1000 // len(BESIDE), tmp_path / "base") == []
