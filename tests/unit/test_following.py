"""What other processes do to a base folder is seen by the next access, whatever happens to the page of changes."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time

import pytest
from faults import descriptors_left
from inside import evict
from world import World, content_of, generation_of, manager, mapped_dimensions

import jessy_mem as jm
from helpers import HUNG_S
from jessy_mem._core.changes import RING_CHANGES, ChangePage
from jessy_mem.errors import InvalidRegion
from jessy_mem.following import Changes, Following


class FakeTable:
    """A table that only notes what it is asked."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int | None]] = []
        self.answers: dict[int, str | Exception] = {}
        self.seen: int | None = -1
        self.n_names = 0
        self.names_error: OSError | None = None
        self.meanwhile = lambda dimension, generation: None  # what others do while one is taken up

    def _take_up(self, dimension, generation):
        self.taken.append((dimension, generation))
        self.meanwhile(dimension, generation)
        answer = self.answers.get(dimension)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _all_dimensions(self):
        return [15, 16]

    def _forget_names(self):
        self.n_names += 1
        if self.names_error is not None:
            raise self.names_error

    def _set_gate(self, seen):
        self.seen = seen


@pytest.fixture
def told(tmp_path):
    """A page that another process writes to."""
    page = ChangePage(tmp_path)
    page.append(15, "added", 1)
    return page


@pytest.fixture
def at_once(monkeypatch):
    """What is looked at now and then is looked at whenever somebody comes."""
    monkeypatch.setattr("jessy_mem.following.LOOK_EVERY_S", 0)  # private: a tenth of a second, each time


def following(folder, follows=True) -> Following:
    return Following(ChangePage(folder), follows, threading.RLock())


def test_gate_is_open_up_to_what_was_followed(tmp_path, told):
    table, followed = FakeTable(), following(tmp_path)
    assert not followed.catch_up(table)
    assert (table.seen, table.taken) == (told.sequence, [])
    told.append(15, "changed", 2)
    told.append(15, "changed", 3)
    told.append(20, "removed", 0)
    assert followed.stop(table)
    assert (table.seen, table.taken) == (told.sequence, [(15, 3), (20, 0)])
    assert not followed.stop(table)


@pytest.mark.parametrize("is_first", [True, False], ids=["there was no page", "the page went"])
def test_who_tells_on_a_new_page_has_followed_what_it_told(tmp_path, is_first):
    """What is one's own is not taken up, and everything else is looked at once."""
    table, followed = FakeTable(), following(tmp_path)
    if not is_first:
        followed.announce(table, 15, "added", 1)
        table.taken.clear()
        os.unlink(tmp_path / ".changes")
    followed.announce(table, 15, "changed", 2)
    page = ChangePage(tmp_path)
    assert page.open()
    assert (table.seen, table.taken) == (page.sequence, [(15, None), (16, None)])
    assert page.read_since(page.sequence - 1)[0] == [(15, "changed", 2)]
    assert not followed.stop(table)


@pytest.mark.parametrize("n_told", [RING_CHANGES, RING_CHANGES + 1])
def test_everything_is_looked_at_when_the_ring_was_overrun(tmp_path, told, n_told):
    table, followed = FakeTable(), following(tmp_path)
    for generation in range(n_told):
        told.append(40, "changed", generation)
    followed.stop(table)
    assert table.taken == ([(40, n_told - 1)] if n_told == RING_CHANGES else [(15, None), (16, None)])
    assert table.seen == told.sequence


def test_own_changes_are_not_looked_at(tmp_path):
    table, followed = FakeTable(), following(tmp_path)
    followed.announce(table, 15, "added", 1)
    followed.stop(table)  # the page was not there before
    table.taken.clear()
    followed.announce(table, 15, "changed", 2)
    assert not followed.stop(table)
    ChangePage(tmp_path).append(16, "changed", 9)
    followed.announce(table, 15, "changed", 3)
    assert table.taken == [(16, 9)]
    assert not followed.stop(table)


def test_change_of_the_same_dimension_that_another_told_first_is_looked_at(tmp_path):
    """Where locks do nothing, who changes a dimension later may tell of it sooner."""
    table, followed, page = FakeTable(), following(tmp_path), ChangePage(tmp_path)
    followed.announce(table, 15, "added", 1)
    followed.stop(table)
    table.taken.clear()
    page.append(15, "changed", 3)
    followed.announce(table, 15, "changed", 2)
    assert table.taken == [(15, 3)]
    page.append(15, "changed", 5)
    page.append(15, "changed", 4)
    assert followed.stop(table)
    page.append(15, "removed", 0)
    followed.announce(table, 15, "changed", 6)
    assert table.taken == [(15, 3), (15, None), (15, 0)]
    assert not followed.stop(table)


@pytest.mark.parametrize("meet", ["not", "find", "refresh", "read"])
def test_what_another_learned_can_be_loaded_once_whether_it_was_met_before_or_not(two, meet):
    """How far this process has followed is chance to who calls."""
    one, other, _ = two
    second = one.ensure_dimension("second", [spec("two")])
    if meet == "find":
        assert other.find("second") == second
    elif meet == "refresh":
        assert other.refresh().added == [second]
    elif meet == "read":
        assert other[second, 0].text == "two"
    assert other.load_dimension(second).n_layers == 1
    with pytest.raises(jm.DimensionAlreadyLoaded):
        other.load_dimension(second)
    with pytest.raises(jm.DimensionAlreadyLoaded):
        one.load_dimension(second)


def test_what_another_learned_is_not_loaded_from_elsewhere_as_well(two, tmp_path):
    one, other, _ = two
    second = one.ensure_dimension("second", [spec("two")])
    other.refresh()
    elsewhere = jm.RegionBuilder(second, "other").add_layer(spec("x")).write(tmp_path / "elsewhere.mmap")
    with pytest.raises(jm.DimensionAlreadyLoaded):
        other.load_dimension(second, elsewhere)
    assert other[second, 0].text == "two"


@pytest.mark.parametrize("what", ["dimension", "names"])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
def test_what_could_not_be_looked_at_for_lack_of_something_is_looked_at_later(tmp_path, told, at_once, what, error):
    """Nobody tells of it a second time."""
    table, followed = FakeTable(), following(tmp_path)
    refusal = OSError(error, os.strerror(error))
    table.answers[20] = refusal if what == "dimension" else "added"
    table.names_error = refusal if what == "names" else None
    told.append(20, "added", 1)
    for _ in range(3):
        assert followed.stop(table)
        assert table.seen == told.sequence
    table.answers[20], table.names_error = "added", None
    assert followed.stop(table)
    n_taken, n_names = len(table.taken), table.n_names
    assert not followed.stop(table)
    assert (len(table.taken), table.n_names) == (n_taken, n_names)
    assert table.taken[:2] == [(20, 1), (20, None)][: 2 if what == "dimension" else 1]


def test_what_cannot_be_looked_at_is_not_looked_at_again_and_again(tmp_path, told, at_once):
    table, followed = FakeTable(), following(tmp_path)
    table.answers[20] = InvalidRegion("there", "magic", "nothing", "something")
    told.append(20, "changed", 2)
    assert followed.stop(table)
    assert not followed.stop(table)
    assert table.taken == [(20, 2)]


@pytest.mark.thread_unsafe(reason="how many descriptors there may be is the process's")
def test_reader_without_a_descriptor_sees_later_what_it_could_not_see_then(two, at_once):
    one, other, first = two
    heard = []
    other.on_change(lambda *what: heard.append(what))
    assert other.load_context((first, 0)).content == "one"
    added = one.append_layer(first, spec("two"))
    second = one.ensure_dimension("second", [spec("three")])
    with descriptors_left(0):
        assert other.load_context((first, 0)).content == "one"
    other.layers()
    assert other.load_context(added).content == "two"
    assert other.load_context((second, 0)).content == "three"
    assert sorted(heard) == [(first, "changed"), (second, "added")]


def test_page_is_found_when_it_comes(tmp_path):
    table, followed = FakeTable(), following(tmp_path)
    assert not followed.look(table)
    ChangePage(tmp_path).append(15, "added", 1)
    assert followed.look(table)
    assert table.taken == [(15, None), (16, None)]


def test_who_follows_nobody_tells_of_its_own(tmp_path):
    table, followed = FakeTable(), following(tmp_path, follows=False)
    other = following(tmp_path)
    followed.announce(table, 15, "added", 1)
    assert (table.seen, table.taken) == (0, [])
    assert other.look(FakeTable())
    assert not followed.look(table)
    assert followed.refresh(table) == Changes()
    assert not Changes()
    assert Changes(removed=[15])
    assert table.taken == [(15, None), (16, None)]


def test_a_failure_is_logged_once_and_stops_nothing(tmp_path, told, caplog):
    table, followed = FakeTable(), following(tmp_path)
    table.answers = {15: InvalidRegion("x", "magic", 1, 2), 16: "changed"}
    for generation in range(2, 5):
        told.append(15, "changed", generation)
        told.append(16, "changed", generation)
        with caplog.at_level(logging.WARNING):
            assert followed.stop(table)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "D15 stays what it was" in caplog.text
    assert (16, 4) in table.taken
    table.answers[15] = "changed"
    assert followed.refresh(table).changed == [15, 16]


def test_names_that_cannot_be_read_are_logged_and_stop_nothing(tmp_path, told, caplog):
    table, followed = FakeTable(), following(tmp_path)
    table.answers = {20: "added"}
    told.append(20, "added", 1)
    table.names_error = OSError(errno.EIO, "I/O error")
    with caplog.at_level(logging.WARNING):
        assert followed.stop(table)
    assert [record.getMessage() for record in caplog.records] == [
        "names that other processes gave or freed are not known: [Errno 5] I/O error"
    ]
    assert table.seen == told.sequence
    assert not followed.stop(table)


def test_who_tells_all_the_time_stops_nobody_for_good(tmp_path, told):
    """What is told while others are followed is followed, too; but not for ever: the rest is the next access's."""
    table, followed = FakeTable(), following(tmp_path)
    told.append(20, "changed", 1)
    table.meanwhile = lambda dimension, generation: told.append(dimension, "changed", generation + 1)
    assert followed.stop(table)
    n_rounds = len(table.taken)
    assert table.taken == [(20, generation + 1) for generation in range(n_rounds)]
    assert table.seen == told.sequence - 1
    table.meanwhile = lambda dimension, generation: None
    assert followed.stop(table)
    assert table.taken[n_rounds:] == [(20, n_rounds + 1)]
    assert table.seen == told.sequence


def test_callbacks_are_told_outside_of_the_lock(tmp_path, told, caplog):
    table, followed = FakeTable(), following(tmp_path)
    heard: list[tuple[int, str]] = []

    def hear(dimension, what):
        free = threading.Thread(target=followed.catch_up, args=(table,))
        free.start()
        free.join(30)
        assert not free.is_alive(), "the lock is held"
        heard.append((dimension, what))

    def fail(dimension, what):
        raise ValueError("not a good callback")

    followed.call(fail)
    followed.call(hear)
    table.answers = {15: "changed", 16: "added"}
    told.append(15, "changed", 2)
    told.append(16, "added", 1)
    told.append(17, "changed", 1)
    followed.stop(table)
    assert table.seen is None, "who comes next has something to tell"
    with caplog.at_level(logging.ERROR):
        followed.tell(table)
    assert heard == [(15, "changed"), (16, "added")]
    assert caplog.text.count("ValueError: not a good callback") == 2
    assert (table.seen, table.n_names) == (told.sequence, 1)


def test_gate_is_shut_for_a_swap_and_for_snapshots(tmp_path, told):
    table, followed = FakeTable(), following(tmp_path)
    one, other = jm.MmapManager(), jm.MmapManager()  # any readers
    with followed.swapping(table):
        assert table.seen is None
    assert table.seen == told.sequence
    with followed.inside(table, one):
        with followed.inside(table, other):
            assert followed.snapshot() is other
            assert following(tmp_path).snapshot() is None
        assert (followed.snapshot(), table.seen) == (one, None)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(followed.snapshot()))
        thread.start()
        thread.join()
        assert seen == [None] or hasattr(threading.Thread, "_context")
    assert (followed.snapshot(), table.seen) == (None, told.sequence)


# Two managers of one folder: what one does, the other sees


def spec(text: str) -> jm.LayerSpec:
    return jm.LayerSpec(text=text, keywords=("word",))


@pytest.fixture
def two(tmp_path):
    with manager(tmp_path) as one, manager(tmp_path) as other:
        first = one.ensure_dimension("first", [spec("one")])
        other.refresh()
        yield one, other, first


def test_each_change_is_seen_by_the_next_access(two):
    one, other, first = two
    heard = []
    other.on_change(lambda *what: heard.append(what))
    assert other.load_context((first, 0)).content == "one"
    for n in range(1, 40):  # through merges and new bases
        added = one.append_layer(first, spec(f"layer {n}"))
        assert other.load_context(added).content == f"layer {n}"
    one.update_layer((first, 0), spec("another"))
    assert other[first, 0].text == "another"
    one.remove_layer((first, 0))
    assert (first, 0) not in other
    with pytest.raises(jm.LayerNotFound):
        other.access_layer((first, 0))
    assert set(heard) == {(first, "changed")}
    second = one.ensure_dimension("second", [spec("two")])
    assert other.load_context((second, 0)).content == "two"
    assert other.find("second") == second
    one.forget(second)
    with pytest.raises(jm.LayerNotFound):
        other.access_layer((second, 0))
    assert other.find("second") is None
    assert heard[-2:] == [(second, "added"), (second, "removed")]
    assert other.refresh() == Changes()


def test_questions_see_what_others_learned(two):
    one, other, first = two
    assert other.layers(keyword="word") == [(first, 0)]
    second = one.ensure_dimension("user:ann", [spec("two"), spec("three")], user=True)
    assert other.layers(name="user:*") == [(second, 0), (second, 1)]
    assert other.layers(keyword="WORD") == one.layers()
    assert len(other) == 3
    one.append_layer(first, spec("four"))
    assert other.layers(dimension=first, keyword="word") == [(first, 0), (first, 1)]
    one.forget(first)
    assert list(other) == [(second, 0), (second, 1)]


def test_views_of_what_changed_stay(two):
    one, other, first = two
    view = other.access_layer((first, 0))
    one.update_layer((first, 0), spec("another"))
    one.compact(first)
    one.forget(first)
    other.refresh()
    assert view.text == "one"


def test_evicted_dimension_is_read_as_it_is_now(two):
    one, other, first = two
    other.access_layer((first, 0))
    evict(other, first)
    one.append_layer(first, spec("later"))
    assert other.layers(keyword="word") == [(first, 0), (first, 1)]
    evict(other, first)
    one.forget(first)
    with pytest.raises(jm.LayerNotFound):
        other.access_layer((first, 0))


def test_evicted_dimension_that_changed_and_is_damaged_is_not_found_and_told_of(tmp_path, caplog):
    with manager(tmp_path) as one, manager(tmp_path) as other:
        dimension = one.ensure_dimension("tea", [spec("a")])
        assert other.layers() == [(dimension, 0)]
        evict(other, dimension)
        one.append_layer(dimension, spec("b"))
        with (tmp_path / f"D{dimension}" / "region.mmap").open("r+b") as file:
            file.seek(84)
            file.write(b"NO MAGIC")
        assert other.layers() == []
        assert f"the layers of D{dimension} cannot be found" in caplog.text
        assert one.layers() == [(dimension, 0), (dimension, 1)]


def test_unloaded_dimension_does_not_come_back(two):
    one, other, first = two
    other.unload_dimension(first)
    one.append_layer(first, spec("later"))
    assert other.refresh() == Changes()
    with pytest.raises(jm.LayerNotFound):
        other.access_layer((first, 0))
    other.load_dimension(first)
    one.append_layer(first, spec("latest"))
    assert other.load_context((first, 2)).content == "latest"


def test_dimension_whose_unloading_was_interrupted_does_not_come_back(two, inject):
    one, other, first = two

    def then_interrupt(remove):
        def removed(*args):
            remove(*args)
            raise KeyboardInterrupt

        return removed

    # Private: the moment when it has just gone.
    with inject.around("jessy_mem.MmapManager._remove", then_interrupt), pytest.raises(KeyboardInterrupt):
        other.unload_dimension(first)
    one.append_layer(first, spec("later"))
    assert other.refresh() == Changes()
    with pytest.raises(jm.LayerNotFound):
        other.access_layer((first, 0))


@pytest.mark.parametrize(
    "ask",
    [
        lambda memory: memory.find("first") is not None,
        lambda memory: bool(memory.names()),
        lambda memory: bool(memory.layers(name="first")),
        lambda memory: bool(len(memory)),
        lambda memory: (15, 0) in memory,
        lambda memory: memory.region(15).n_layers == 1,
        lambda memory: len(in_snapshot(memory)) == 2,
        lambda memory: memory.user_dimensions() == [1000],
        lambda memory: memory.resolve(memory.layout.segment_of(15).address) == (15, 0),
    ],
    ids=["find", "names", "layers", "len", "in", "region", "snapshot", "user_dimensions", "resolve"],
)
def test_who_was_there_before_anybody_learned_hears_of_it_by_any_question(tmp_path, ask, monkeypatch):
    """There was no page when it came: it is looked for, as by accesses, when some time has passed."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with manager(tmp_path) as other:
        assert other.names() == {}
        with manager(tmp_path) as one:
            first = one.ensure_dimension("first", [spec("one")])
            assert first == 15
            one.ensure_dimension("hers", user=True)
            one.append_layer(1000, spec("hers"))
            now[0] += 0.1
            assert ask(other)


@pytest.mark.parametrize("timed", [True, False], ids=["timed", "untimed"])
@pytest.mark.parametrize(
    "read",
    [
        lambda memory, reader: bytes(memory[20, 0]),
        lambda memory, reader: bytes(memory.access_layer((20, 0))),
        lambda memory, reader: bytes(memory.access_many([(20, 0)])[0]),
        lambda memory, reader: bytes(memory.read_many([(20, 0)])[0]),
        lambda memory, reader: bytes(reader[20, 0]),
        lambda memory, reader: bytes(reader.access_layer((20, 0))),
        lambda memory, reader: bytes(reader.access_many([(20, 0)])[0]),
    ],
    ids=["item", "access", "many", "copied", "reader's item", "reader's access", "reader's many"],
)
def test_who_was_there_before_anybody_learned_hears_of_it_by_hits(tmp_path, read, timed):
    world = World(tmp_path)
    world.write(20)
    with manager(tmp_path, record_latency=timed) as other, manager(tmp_path) as one:
        other.load_all()
        with other.reader() as reader:
            assert [read(other, reader) for _ in range(3)] == [content_of(20, 0)] * 3
            one.load_all()
            one.update_layer((20, 0), spec("two"))
            deadline = time.monotonic() + HUNG_S
            while read(other, reader) != b"two" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert read(other, reader) == b"two"
            one.update_layer((20, 0), spec("three"))
            assert read(other, reader) == b"three"
        assert (other.get_stats().access_latency.count > 0) == timed


def test_name_of_what_waits_for_its_first_layer_is_free_for_all_when_one_forgets_it(two):
    one, other, _ = two
    empty = one.ensure_dimension("empty")
    assert other.find("empty") == empty
    assert other.names()["empty"] == empty
    one.forget(empty)
    assert other.find("empty") is None
    assert "empty" not in other.names()


def in_snapshot(memory):
    with memory.snapshot() as then:
        return list(then)


def test_without_following_only_refresh_sees(tmp_path):
    with manager(tmp_path) as one, manager(tmp_path, follow="never") as other:
        first = one.ensure_dimension("first", [spec("one")])
        with pytest.raises(jm.LayerNotFound):
            other.access_layer((first, 0))
        heard = []
        other.on_change(lambda *what: heard.append(what))
        assert other.refresh() == Changes(added=[first])
        assert other.load_context((first, 0)).content == "one"
        one.update_layer((first, 0), spec("two"))
        second = one.ensure_dimension("second", [spec("two")])
        assert other.load_context((first, 0)).content == "one"
        assert other.refresh() == Changes([second], [first], [])
        assert other.load_context((first, 0)).content == "two"
        one.forget(first)
        assert other.load_context((first, 0)).content == "two"
        assert other.refresh() == Changes(removed=[first])
        assert heard == [(first, "added"), (first, "changed"), (second, "added"), (first, "removed")]
        third = other.ensure_dimension("third", [spec("three")])
        assert one.load_context((third, 0)).content == "three"


def test_reader_makes_no_page(tmp_path):
    world = World(tmp_path)
    world.write(20)
    with manager(tmp_path, read_only=True) as memory:
        memory.load_all()
        memory.refresh()
        assert memory.layers(20)
    assert not (tmp_path / ".changes").exists()


def overwrite(page):
    page.write_bytes(os.urandom(page.stat().st_size))


def replace(make):
    def act(page):
        page.unlink()
        make(page)

    return act


SPOILED = {
    "deleted": lambda page: page.unlink(),
    "truncated": lambda page: os.truncate(page, 0),
    "cut short": lambda page: os.truncate(page, 5000),
    "random": overwrite,
    "read-only": lambda page: page.chmod(0o400),
    "zeros": lambda page: page.write_bytes(bytes(page.stat().st_size)),
    "a link": replace(lambda page: page.symlink_to("/dev/zero")),
    "a FIFO": replace(os.mkfifo),
    "a folder": replace(lambda page: page.mkdir()),
}


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_page_costs_freshness_and_nothing_else(two, how):
    one, other, first = two
    page = one.config.base_path + "/.changes"
    SPOILED[how](type(World(one.config.base_path).path(1))(page))
    assert other.load_context((first, 0)).content == "one"
    one.update_layer((first, 0), spec("two"))
    assert one.load_context((first, 0)).content == "two"
    assert other.load_context((first, 0)).content in ("one", "two")
    other.refresh()
    assert other.load_context((first, 0)).content == "two"
    second = one.ensure_dimension("second", [spec("new")])
    if how != "a folder":  # which nothing takes away: then only refresh sees
        assert other.load_context((second, 0)).content == "new"
    other.refresh()
    assert other.load_context((second, 0)).content == "new"


def test_layer_that_is_missed_is_looked_for_on_the_page_of_now(two):
    """Who made that never knew the page before, and so could not tell on it."""
    one, other, first = two
    assert other.load_context((first, 0)).content == "one"
    os.unlink(one.config.base_path + "/.changes")
    with manager(one.config.base_path) as new:
        added = new.append_layer(first, spec("new"))
    assert other.load_context(added).content == "new"


def test_keywords_overwritten_as_they_are_followed_are_not_found(two, inject, caplog):
    one, other, first = two

    def and_overwrite(plain):
        def opened(*args, **options):
            stack = plain(*args, **options)
            for path in World(one.config.base_path).path(first).parent.glob("delta-*.mmap"):
                with open(path, "r+b") as file:
                    file.seek(256)
                    file.write(b"\xff" * 40)
            return stack

        return opened

    assert other.layers(keyword="new") == []
    other.region(first)  # mapped
    one.append_layer(first, jm.LayerSpec(text="new", keywords=("new",)))
    # Private: the moment after the file was checked.
    with inject.around("jessy_mem.opening.reopen_stack", and_overwrite):
        other.refresh()
    assert other.layers(keyword="new") == []
    assert "cannot be found by keyword" in caplog.text
    assert other.load_context((first, 0)).content == "one"


def test_damaged_delta_leaves_what_was_there(two, caplog):
    one, other, first = two
    assert other.load_context((first, 0)).content == "one"
    path = World(one.config.base_path).path(first).parent / f"delta-{2:016d}.mmap"
    path.write_bytes(b"no region" * 100)
    ChangePage(one.config.base_path).append(first, "changed", 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert other.load_context((first, 0)).content == "one"
    assert caplog.text.count("stays what it was") == 1
    path.unlink()


def test_no_room_for_what_changed_leaves_it_to_the_next_access(tmp_path):
    with manager(tmp_path) as one, manager(tmp_path, 1) as other:
        first = one.ensure_dimension("first", [jm.LayerSpec(content=bytes(600_000))])
        other.refresh()
        held = other.access_layer((first, 0))
        one.update_layer((first, 0), jm.LayerSpec(content=bytes(500_000)))
        one.compact(first)
        with pytest.raises(jm.LimitExceeded):
            other.access_layer((first, 0))
        assert held.n_bytes == 600_000
        del held
        assert other.access_layer((first, 0)).n_bytes == 500_000


def test_questions_need_no_room_for_what_changed(tmp_path):
    """Of what is not mapped; and they evict nothing."""
    with manager(tmp_path) as one, manager(tmp_path, 1) as other:
        first = one.ensure_dimension("first", [jm.LayerSpec(content=bytes(600_000))])
        other.refresh()
        held = other.access_layer((first, 0))
        second = one.ensure_dimension("second", [jm.LayerSpec(content=bytes(600_000))])
        for n in range(1, 4):
            one.append_layer(second, jm.LayerSpec(text="more", keywords=(f"word{n}",)))
            assert other.layers(keyword=f"word{n}") == [(second, n)]
            assert other.layers(name="second") == [(second, layer) for layer in range(n + 1)]
        one.remove_layer((second, 2))
        assert ((second, 2) in other, (second, 3) in other, len(other)) == (False, True, 4)
        one.append_layer(second, jm.LayerSpec(text="last"))
        with other.snapshot() as then:
            assert [*then] == [*other] == [(first, 0), *((second, layer) for layer in (0, 1, 3, 4))]
        assert mapped_dimensions(other) == {first}
        assert other.get_stats().evictions == 0
        with pytest.raises(jm.LimitExceeded):
            other.access_layer((second, 4))
        del held
        assert other.access_layer((second, 4)).text == "last"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_follows_and_is_followed(tmp_path):
    with manager(tmp_path) as memory:
        first = memory.ensure_dimension("first", [spec("one")])
        proto = memory.create_proto_dimension("proto", [spec("in the pool")])
        (child_reads, parent_writes), (parent_reads, child_writes) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            told = b"failed"
            try:
                os.read(child_reads, 1)
                texts = [memory.load_context(each).content for each in ((first, 1), (proto, 0), (proto, 1))]
                memory.append_layer(first, spec("of the child"))
                told = ";".join(texts).encode()
            finally:
                os.write(child_writes, told)
                os._exit(0)
        memory.append_layer(first, spec("of the parent"))
        memory.crystallize(proto)
        memory.append_layer(proto, spec("in the file"))
        os.write(parent_writes, b"x")
        assert os.read(parent_reads, 1000) == b"of the parent;in the pool;in the file"
        assert memory.load_context((first, 2)).content == "of the child"
        assert os.waitpid(child, 0)[1] == 0
        for fd in (child_reads, parent_writes, parent_reads, child_writes):
            os.close(fd)


# Several at once, and one moment


def test_reload_many_is_all_or_none(tmp_path):
    world = World(tmp_path)
    world.write_all(20, 21, 22)
    with manager(tmp_path) as memory:
        memory.load_all()
        world.write_all(20, 21, 22, generation=2)
        assert memory.reload_many([20, 21, 20]) == [(1, 2), (1, 2)]
        assert generation_of(bytes(memory[20, 0])) == 2
        world.write_all(20, 21, 22, generation=3)
        world.path(22).write_bytes(b"no region" * 1000)
        with pytest.raises(jm.InvalidRegion):
            memory.reload_many([20, 21, 22])
        with pytest.raises(jm.RegionNotFound):
            memory.reload_many([20, 99])
        assert [memory.region(each).generation for each in (20, 21, 22)] == [2, 2, 1]
        assert memory.reload_many([]) == []
        evict(memory, 20)
        assert memory.reload_many([20, 21]) == [(2, 3), (2, 3)]
    with pytest.raises(jm.ManagerClosed):
        memory.reload_many([20])


def test_snapshot_is_of_one_moment(two):
    one, other, first = two
    gone = one.ensure_dimension("gone", [spec("gone")])
    with other.snapshot() as then:
        one.append_layer(first, spec("new"))
        one.update_layer((first, 0), spec("another"))
        one.forget(gone)
        come = one.ensure_dimension("come", [spec("come")])
        for memory in (then, other):
            assert list(memory) == memory.layers(keyword="word") == [(first, 0), (gone, 0)]
            assert (len(memory), (first, 1) in memory, (gone, 0) in memory, (come, 0) in memory) == (
                2,
                False,
                True,
                False,
            )
            assert memory.load_context((first, 0)).content == memory[first, 0].text == "one"
            assert [bytes(view) for view in memory.values()] == [b"one", b"gone"]
            assert memory.read_many([(gone, 0), (first, 0)]).data.tobytes() == b"goneone"
            assert memory.layers(name="come") == memory.layers(since_ns=1, name="co*") == []
            assert memory.get((come, 0)) is None
            for absent in ((first, 1), (come, 0)):
                with pytest.raises(jm.LayerNotFound):
                    memory.access_layer(absent)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(then[first, 0].text))
        thread.start()
        thread.join()
        assert elsewhere == ["one"]
        with other.snapshot() as later:
            assert later[first, 0].text == other[first, 0].text == "another"
            assert later.layers() == [(first, 0), (first, 1), (come, 0)]
            assert then[first, 0].text == "one"
        assert other[first, 0].text == "one"
        kept = then[gone, 0]
    assert list(other) == [(first, 0), (first, 1), (come, 0)]
    assert (kept.text, bool(then)) == ("gone", False)
    for ask in (lambda: then[first, 0], then.layers, lambda: len(then), lambda: (first, 0) in then):
        with pytest.raises(jm.ManagerClosed):
            ask()


def test_snapshots_of_two_managers_are_each_its_own(tmp_path):
    """The inner one is of another manager: what this one reads is as it was when its own began."""

    def read(memory):
        return memory[15, 0].text

    with manager(tmp_path / "one") as one, manager(tmp_path / "two") as two:
        for memory, text in ((one, "1"), (two, "2")):
            memory.ensure_dimension("tea", [jm.LayerSpec(text=text)])
        with one.snapshot(), two.snapshot():
            for memory in (one, two):
                memory.update_layer((15, 0), jm.LayerSpec(text="new"))
            assert (read(one), read(two)) == ("1", "2")
        assert (read(one), read(two)) == ("new", "new")


def test_snapshot_reads_like_its_manager(world):
    world.write_all(20, 21)
    with manager(world) as memory:
        memory.load_all()
        with memory.snapshot() as then:
            assert list(then.keys()) == list(then) == memory.layers()
            assert list(then.items()) == list(zip(then.keys(), then.values(), strict=True))
            assert then.get((20, 0)) is then[20, 0] is memory[20, 0]
            assert (then.get((99, 0)), then.get((99, 0), 7)) == (None, 7)
            assert "no id" not in then
            assert len(then.load_contexts([jm.NavigationPath(20, [(20, 0), (21, 0)])])) == 2
            assert repr(then) == "<Snapshot of 2 dimensions>"
    assert repr(then) == "<Snapshot ended>"


def test_what_is_decompressed_in_a_snapshot_is_settled(tmp_path):
    """It may take what is free of the budget: then somebody is told."""
    text, levels = "word " * 50_000, []
    spec = jm.LayerSpec(text=text, compress=True)
    jm.RegionBuilder(20, "Compressed").add_layer(spec).write(jm.region_path(tmp_path, 20))
    with manager(tmp_path, 0.3) as memory:
        memory.load_dimension(20)
        memory.on_pressure(lambda level, *numbers: levels.append(level))
        with memory.snapshot() as then:
            assert then[20, 0].text == text
    assert levels == ["warning"]


def test_writing_inside_a_snapshot_is_seen_after_it(two):
    one, other, first = two
    with other.snapshot():
        added = other.append_layer(first, spec("own"))
        assert added not in other
        assert one.load_context(added).content == "own"
    assert other[added].text == "own"
    assert other.get_stats().access_count > 0


def test_questions_in_a_snapshot_are_of_its_moment(two):
    one, other, first = two
    second = one.ensure_dimension("second", [spec("two")])
    third = one.ensure_dimension("third", [spec("three")])
    other.refresh()
    evict(other, third)
    with other.snapshot() as then:
        before = then.layers()
        assert before == [(first, 0), (second, 0), (third, 0)]
        other.append_layer(first, jm.LayerSpec(text="new", keywords=("new",)))
        other.forget(second)
        evict(other, first)
        assert then.layers() == before
        assert then.layers(keyword="new") == []
        assert [then[each].text for each in before] == ["one", "two", "three"]
    assert other.layers(keyword="new") == [(first, 1)]


def test_names_and_places_in_a_snapshot_are_of_now(two):
    one, other, first = two
    with other.snapshot():
        one.forget(first)
        second = one.ensure_dimension("second", [spec("two")], user=True)
        assert other.layers() == [(first, 0)]
        assert other[first, 0].text == "one"
        assert (other.find("first"), other.find("second")) == (None, second)
        assert other.names() == {"second": second}


def test_snapshot_of_what_was_evicted(two):
    one, other, first = two
    other.access_layer((first, 0))
    evict(other, first)
    with other.snapshot() as then:
        assert then[first, 0].text == "one"
        one.append_layer(first, spec("later"))
        assert (first, 1) not in then
    other.access_layer((first, 1))
    evict(other, first)
    with other.snapshot() as then:
        one.append_layer(first, spec("latest"))
        with pytest.raises(jm.LayerNotFound, match="has changed since"):
            then.access_layer((first, 0))
        with pytest.raises(jm.LayerNotFound, match="has changed since"):
            then.layers()
    assert other.load_context((first, 2)).content == "latest"


def test_snapshot_holds_what_is_replaced_and_no_longer(tmp_path):
    world = World(tmp_path)
    world.write(20)
    with manager(tmp_path) as memory:
        memory.load_all()
        with memory.snapshot() as then:
            world.write(20, generation=2)
            memory.reload_dimension(20)
            assert bytes(then[20, 0]) == content_of(20, 0)
            used_bytes = memory.get_stats().total_allocated_bytes
        assert memory.get_stats().total_allocated_bytes < used_bytes
        assert memory.leases() == []
        with memory.snapshot() as then:
            memory.close()
            with pytest.raises(jm.ManagerClosed):
                memory.access_layer((20, 0))


def test_what_is_told_while_a_manager_is_made_is_followed(tmp_path, monkeypatch):
    with manager(tmp_path) as other:
        other.ensure_dimension("first", [jm.LayerSpec(text="one")])
        begin, late = Following.__init__, []

        def begin_late(self, *args):
            begin(self, *args)
            late.append(other.ensure_dimension("late", [jm.LayerSpec(text="two")]))

        # Private: the moment between two steps of a constructor.
        monkeypatch.setattr(Following, "__init__", begin_late)
        with manager(tmp_path) as memory:
            assert memory.find("late") == late[0]
            assert bytes(memory.access_layer((late[0], 0))) == b"two"
