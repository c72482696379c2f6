"""What a fork finds that another thread is in the middle of: an import is waited for, and a lock is a new one."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem._probe.guard import with_region_locked
from jessy_mem.forking import imported

pytestmark = [
    pytest.mark.thread_unsafe(reason="it forks"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def test_it_is_imported_once():
    assert imported("json") is sys.modules["json"]
    assert imported("json") is imported("json")
    with pytest.raises(ImportError):
        imported("there_is_no_such_module")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_an_import(tmp_path, monkeypatch):
    """The child finds the module whole, and does not wait for a thread that it has not got."""
    began, forked = threading.Event(), threading.Event()
    shared = type(sys)("shared_with_a_slow_module")
    shared.began, shared.forked = began, forked
    (tmp_path / "slow_module.py").write_text(
        "from shared_with_a_slow_module import began, forked\n"
        "began.set()\n"
        "forked.wait(0.2)  # in vain, if the fork waits\n"
        "is_whole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, shared.__name__, shared)
    monkeypatch.delitem(sys.modules, "slow_module", raising=False)
    first = threading.Thread(target=imported, args=("slow_module",))
    first.start()
    began.wait(HUNG_S)
    child = os.fork()
    if not child:
        signal.alarm(HUNG_S // 10)
        os._exit(0 if imported("slow_module").is_whole else 1)
    forked.set()
    first.join()
    _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_region_that_another_thread_has_locked_is_open_in_the_child(tmp_path):
    """Without the GIL only: with it no thread stops while it has the lock."""
    path = jm.RegionBuilder(1, "One").add_layer(jm.LayerSpec(text="a text")).write(tmp_path / "region.mmap")
    with jm.MmapRegion(1, path) as region:
        locked, forked = threading.Event(), threading.Event()

        def stay() -> bool:
            locked.set()
            return forked.wait(HUNG_S)

        assert region.n_layers == 1
        other = threading.Thread(target=with_region_locked, args=(region, stay))
        other.start()
        assert locked.wait(HUNG_S)
        child = os.fork()
        if not child:
            signal.alarm(HUNG_S // 10)
            os._exit(0 if region.layer(0).text == "a text" and region.n_layers == 1 else 1)
        forked.set()
        other.join()
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert region.layer(0).text == "a text"  # and here it is the one that was locked
