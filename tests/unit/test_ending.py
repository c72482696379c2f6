"""The end of a manager: what it had learned is saved, or dropped because that was asked for, or somebody is told."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from unittest import mock

import pytest
from inside import folder_locked, lock_of
from world import content_of, manager

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem import ending

FULL = OSError(errno.ENOSPC, "No space left on device")


def learn(memory, name="Learned"):
    return memory.create_proto_dimension(name, [jm.LayerSpec(content=content_of(1, 1))])


def saved(base):
    return sorted(path.parent.name for path in base.glob("D*/region.mmap"))


def test_close_saves_what_was_learned(tmp_path):
    with manager(tmp_path) as memory:
        dimensions = [learn(memory, f"Learned {i}") for i in range(20)]
        memory.append_layer(dimensions[3], jm.LayerSpec(text="more"))
        kept = memory.access_layer((dimensions[3], 1))
    assert saved(tmp_path) == [f"D{dimension}" for dimension in dimensions]
    assert kept.text == "more"
    with manager(tmp_path) as memory:
        assert memory.load_all().loaded == dimensions
        assert memory.access_layer((dimensions[3], 1)).text == "more"
        assert memory.find("Learned 7") == dimensions[7]


@pytest.mark.filterwarnings("error")
def test_what_is_to_be_dropped_is_dropped_in_silence(tmp_path, caplog):
    with manager(tmp_path, on_close="drop") as memory:
        learn(memory)
    memory = manager(tmp_path, on_close="drop")
    learn(memory, "Another")
    del memory
    gc.collect()
    assert saved(tmp_path) == []
    assert caplog.text == ""


def test_close_that_would_lose_something_says_so_and_does_not_happen(tmp_path):
    memory = manager(tmp_path, on_close="raise")
    kept, lost = learn(memory, "Kept"), learn(memory, "Lost")
    memory.crystallize(kept)
    with pytest.raises(jm.UnsavedLearning, match=f"D{lost}") as refused:
        memory.close()
    assert refused.value.dimensions == (lost,)
    assert isinstance(refused.value, RuntimeError)
    assert bytes(memory.access_layer((lost, 0))) == content_of(1, 1)
    memory.forget(lost)
    memory.close()
    memory.close()
    assert saved(tmp_path) == [f"D{kept}"]


def test_end_of_the_block_that_would_lose_something_says_so(tmp_path):
    with pytest.raises(jm.UnsavedLearning), manager(tmp_path, on_close="raise") as memory:
        dimension = learn(memory)
    memory.forget(dimension)
    memory.close()


def test_error_of_the_block_is_told_and_nothing_is_lost(tmp_path):
    memory = manager(tmp_path, on_close="raise")
    lost = learn(memory)
    with pytest.raises(ZeroDivisionError), memory:
        _ = 1 / 0
    assert memory.access_layer((lost, 0))
    with pytest.raises(jm.UnsavedLearning):
        memory.close()
    memory.crystallize(lost)
    memory.close()


def test_close_that_cannot_save_raises_and_can_be_tried_again(tmp_path):
    memory = manager(tmp_path)
    dimensions = [learn(memory, f"Learned {i}") for i in range(3)]
    with mock.patch("os.write", side_effect=FULL), pytest.raises(jm.MappingError) as failed:
        memory.close()
    assert failed.value.errno == errno.ENOSPC
    assert all(bytes(memory.access_layer((each, 0))) == content_of(1, 1) for each in dimensions)
    memory.close()
    assert saved(tmp_path) == [f"D{each}" for each in dimensions]


def test_last_reference_saves(tmp_path):
    memory = manager(tmp_path)
    dimension = learn(memory)
    view = memory.access_layer((dimension, 0))
    del memory
    assert saved(tmp_path) == [f"D{dimension}"]
    assert bytes(view) == content_of(1, 1)


def test_manager_in_a_cycle_saves(tmp_path):
    memory = manager(tmp_path)
    dimension = learn(memory)
    cycle = [memory]
    cycle.append(cycle)
    del memory, cycle
    gc.collect()
    assert saved(tmp_path) == [f"D{dimension}"]


@pytest.fixture
def collected_by_hand():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("in_a_cycle", [True, False])
@pytest.mark.parametrize("path", ["base", "link"])
def test_last_reference_that_goes_inside_a_call_of_another_manager_saves_after_it(tmp_path, path, in_a_cycle):
    """The thread that has the folder's lock would wait for itself."""
    folder = tmp_path / "base"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    held = [manager(folder)]
    dimension = learn(held[0])
    if in_a_cycle:
        held[0].cycle = held[0]
    with manager(tmp_path / path) as other:
        with folder_locked(other):
            with folder_locked(other):
                held.clear()
                gc.collect()
            assert saved(folder) == []
        assert saved(folder) == [f"D{dimension}"]
        assert other.region(dimension).source == "mmap"
    assert not ending._late  # private: what stays there is kept for ever, and nobody sees it


@pytest.mark.usefixtures("collected_by_hand")
def test_last_reference_waits_for_no_thread_that_may_wait_for_this_one(tmp_path):
    other, held = manager(tmp_path), [manager(tmp_path)]
    dimension = learn(held[0])
    inside = threading.Event()

    def change():
        with folder_locked(other):
            inside.set()
            with lock_of(other):
                pass

    thread = threading.Thread(target=change)
    with lock_of(other):
        thread.start()
        inside.wait()
        held.clear()
        assert saved(tmp_path) == []
    thread.join()
    assert saved(tmp_path) == [f"D{dimension}"]
    other.close()


@pytest.mark.usefixtures("collected_by_hand")
def test_last_reference_that_goes_while_another_folder_is_busy_saves_at_once(tmp_path):
    held = [manager(tmp_path / "one")]
    dimension = learn(held[0])
    with manager(tmp_path / "other") as other, folder_locked(other):
        held.clear()
        assert saved(tmp_path / "one") == [f"D{dimension}"]


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_late_end_that_loses_something_is_told_and_fails_nobody(tmp_path):
    held = [manager(tmp_path, on_close="raise")]
    dimension = learn(held[0])
    told = []
    with manager(tmp_path) as other, mock.patch("sys.unraisablehook", lambda args: told.append(str(args.exc_value))):
        with folder_locked(other):
            held.clear()
            assert told == []
        assert len(told) == 1
        assert f"D{dimension}" in told[0]
    assert not ending._late  # private: what stays there is kept for ever, and nobody sees it


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_ends_nothing_that_is_late_in_its_parent(tmp_path):
    held = [manager(tmp_path)]
    held[0].cycle = held[0]
    dimension = learn(held[0])
    del held[0]
    with manager(tmp_path) as other:
        with folder_locked(other):
            gc.collect()
            pid = os.fork()
            if pid == 0:
                ending._end_all()  # private: what a child does at its end; a real one would be that of pytest
                os._exit(len(saved(tmp_path)))
            assert os.waitpid(pid, 0)[1] == 0
        assert saved(tmp_path) == [f"D{dimension}"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_forgets_for_itself_what_is_its_parents(tmp_path):
    with manager(tmp_path) as memory:
        dimension = learn(memory)
        pid = os.fork()
        if pid == 0:
            is_left = True
            try:
                memory.forget(dimension)
                is_left = (dimension, 0) in memory
            finally:
                os._exit(is_left)
        assert os.waitpid(pid, 0)[1] == 0
        assert (dimension, 0) in memory
        assert memory.find(memory.region(dimension).name) == dimension


@pytest.mark.parametrize("fault", ["raise", "disk full"])
def test_last_reference_that_loses_something_warns(tmp_path, fault, inject):
    held = [manager(tmp_path, on_close="raise" if fault == "raise" else "crystallize")]
    dimension = learn(held[0])
    full = inject(FULL, "os.write") if fault == "disk full" else contextlib.nullcontext()
    with full, pytest.warns(ResourceWarning, match=rf"lost .* D{dimension}"):
        held.clear()
    assert saved(tmp_path) == []


def test_manager_that_was_not_made_ends_in_silence(tmp_path, inject):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="base_path"):
            jm.MmapManager(base_path=7)
        # Private: an error in the middle of a constructor.
        with inject(MemoryError(), "jessy_mem.manager.Learner"), pytest.raises(MemoryError):
            manager(tmp_path)
        gc.collect()


def test_what_is_learned_while_it_is_closed_is_saved_or_refused(tmp_path, inject):
    """Another thread learns as soon as everything there was is saved."""
    memory = manager(tmp_path)
    learn(memory, "First")
    late = []

    def and_learn(end):
        def end_and_learn(learner):
            empty = end(learner)
            if not late:
                late.append(learn(memory, "Late"))
            return empty

        return end_and_learn

    # Private: the moment between two steps of `close`.
    with inject.around("jessy_mem.learning.Learner.end", and_learn):
        memory.close()
    assert saved(tmp_path) == ["D15", f"D{late[0]}"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("on_close", ["crystallize", "raise", "drop"])
@pytest.mark.parametrize("by_reference", [False, True])
def test_name_without_a_layer_that_goes_is_logged(tmp_path, caplog, on_close, by_reference):
    """Nothing is lost, so nobody is warned; of what was dropped nothing is told."""
    memory = manager(tmp_path, on_close=on_close)
    dimension = memory.create_proto_dimension("Humor")
    memory.forget(memory.create_proto_dimension("Irony"))
    waiting = memory.ensure_dimension("Waiting")
    with caplog.at_level("INFO", "jessy_mem"):
        if not by_reference:
            memory.close()
            memory.close()
        del memory
    told = [text for text in caplog.messages if "whose names are free again" in text]
    assert [text.rpartition(": ")[2] for text in told] == [f"'Humor' (D{dimension})"] * (on_close != "drop")
    with manager(tmp_path) as memory:
        assert memory.names() == {"Waiting": waiting}


# Whole programs -----------------------------------------------------------------------------------------------------


def run(base, code, first="", options=("-X", "dev")):
    """Run `first`, and `code` after a manager `m` of `base` has learned; its status, and what it writes to stderr."""
    head = f"""
    import logging, os, sys, threading
    import jessy_mem as jm
    on_close = os.environ.get("ON_CLOSE", "crystallize")
    guard = os.environ.get("GUARD", "reads")
    m = jm.MmapManager(base_path={os.fspath(base)!r}, simulation="never", on_close=on_close, guard=guard)
    d = m.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
    """
    command = [sys.executable, *options, "-c", "".join(map(textwrap.dedent, (first, head, code)))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(
    "code",
    ["", "sys.exit(0)", "t = threading.Thread(target=m.access_layer, args=((d, 0),)); t.start()", "m.cycle = [m]"],
    ids=["end", "exit", "thread", "cycle"],
)
def test_end_of_the_program_saves(tmp_path, code):
    assert run(tmp_path, code) == (0, "")
    assert saved(tmp_path) == ["D15"]


@pytest.mark.parametrize("guard", ["reads", "copy", "lease", "auto"])
def test_end_of_the_program_saves_without_another_thread(tmp_path, guard):
    """Since Python 3.12 none can be started then."""
    code = """
    import atexit
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    @atexit.register
    def end():
        threading.Thread.start = refuse
    """
    first = f"import os\nos.environ['GUARD'] = {guard!r}\n"
    assert run(tmp_path, code, first) == (0, "")
    assert saved(tmp_path) == ["D15"]


def test_what_comes_after_the_end_of_the_program_reads_and_does_not_learn(tmp_path):
    """A function that was registered before the library was imported is called after its end."""
    code = """
    import atexit, os
    @atexit.register
    def last():
        assert os.listdir(os.path.join(m.config.base_path, "D15")) == ["region.mmap"]
        assert m.access_layer((d, 0)).text == "a joke"
        try:
            m.create_proto_dimension("Late", [jm.LayerSpec(text="x")])
        except jm.ManagerClosed as error:
            print(error, file=sys.stderr)
    """
    assert run(tmp_path, "", first=code) == (0, "the program ends, and its manager is closed\n")
    assert saved(tmp_path) == ["D15"]


def test_program_that_fails_saves(tmp_path):
    status, told = run(tmp_path, "raise SystemError('away')")
    assert (status, "away" in told, saved(tmp_path)) == (1, True, ["D15"])


def test_end_of_the_program_that_loses_something_warns(tmp_path, monkeypatch):
    """Whatever the logging."""
    monkeypatch.setenv("ON_CLOSE", "raise")
    status, told = run(tmp_path, "logging.disable()")
    assert (status, saved(tmp_path)) == (0, [])
    assert "LearningLost" in told
    assert "D15" in told


@pytest.mark.parametrize(("options", "is_shown"), [((), True), (("-W", "ignore"), False)], ids=["plain", "ignored"])
def test_what_is_lost_is_shown_unless_python_is_told_not_to(tmp_path, monkeypatch, options, is_shown):
    """Python hides other warnings of resources."""
    monkeypatch.setenv("ON_CLOSE", "raise")
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    status, told = run(tmp_path, "", options=options)
    assert (status, "LearningLost" in told, saved(tmp_path)) == (0, is_shown, [])
    assert issubclass(ending.LearningLost, ResourceWarning)


def test_end_of_the_program_that_cannot_save_warns(tmp_path):
    status, told = run(tmp_path, "logging.disable()\nopen(os.path.join(m.config.base_path, 'D15'), 'w').close()")
    assert status == 0
    assert "LearningLost" in told
    assert "D15" in told


def test_forked_child_owns_nothing_of_its_parent(tmp_path):
    """It reads what the parent learned, saves what it learned itself, and warns of nothing."""
    code = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    if os.fork() == 0:
        assert m.access_layer((d, 0)).text == "a joke"
        for change in (lambda: m.append_layer(d, jm.LayerSpec(text="x")), lambda: m.crystallize(d)):
            try:
                change()
            except LookupError:
                continue
            os._exit(9)
        m.create_proto_dimension("Child's", [jm.LayerSpec(text="mine")])
        sys.exit(0)
    pid, status = os.wait()
    assert status == 0, status
    assert sorted(os.listdir(m.config.base_path)) == [".changes", ".jessy_mem.lock", "D16"]
    m.append_layer(d, jm.LayerSpec(text="a better one"))
    """
    assert run(tmp_path, code) == (0, "")
    assert saved(tmp_path) == ["D15", "D16"]
    with manager(tmp_path) as memory:
        memory.load_all()
        assert memory.access_layer((15, 1)).text == "a better one"
        assert memory.access_layer((16, 0)).text == "mine"
