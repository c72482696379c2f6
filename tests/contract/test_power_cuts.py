"""The power is cut before each system call of a dimension's life, on a disk: what was acknowledged is there, all whole.

What is simulated is in tests/unit/test_power_cut.py; here an ext4 or xfs of its own is shut down (FS_IOC_SHUTDOWN), so
that what its journal and its caches had not written is lost, and mounted again.
"""

from __future__ import annotations

import shutil

import grower
import pytest
from disk import FLUSHES, LOSES_DATA, LOSES_JOURNAL, CannotMount, Disk
from learner import Learner
from survivors import check_survived, last_told

pytestmark = pytest.mark.thread_unsafe(reason="it mounts a disk")
SHORT_FORM = 12  # so many of the calls


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path, request):
    try:
        made = Disk(tmp_path, request.param)
    except CannotMount as error:
        pytest.skip(f"no disk of our own: {error}")
    yield made
    made.throw_away()


class Cuts:
    """One life after the other, each on the same disk, and cut at another call."""

    def __init__(self, disk: Disk, learner: Learner) -> None:
        self.disk, self.learner = disk, learner
        self.lives, self.seen, self.n_lives = grower.lives(), set(), 0

    def live(self, kill_before: int, how: int, syncs_folders: bool = True) -> int:
        """The power goes before a call, or there are fewer; check what is there then. How many calls there were."""
        self.n_lives += 1
        folder = self.disk.folder / f"{self.n_lives}"  # what was removed from the disk may be there again
        folder.mkdir()
        self.learner.begin(folder, 0, kill_before=kill_before, cut_power=how, syncs_folders=syncs_folders)
        status, told = self.learner.end()
        assert (status == 0) == (told[-1][0] == "calls")
        self.disk.restart()
        if (folder / "base").exists():
            n_done, n_begun, dimension = last_told(told)
            check_survived(folder / "base", dimension, self.lives[n_done], self.lives[n_begun], self.seen, True)
        else:
            assert not any(word == "done" and number > 3 for word, number, _ in told), "the folder is gone"
        shutil.rmtree(folder, ignore_errors=True)
        return told[-1][1] if status == 0 else 0


@pytest.fixture
def cuts(disk):
    with Learner() as learner:
        yield Cuts(disk, learner)


def test_power_is_cut_in_a_life(cuts):
    n_calls = cuts.live(10**9, LOSES_JOURNAL)
    for i in range(SHORT_FORM):
        cuts.live((2 * i + 1) * n_calls // (2 * SHORT_FORM), (LOSES_JOURNAL, LOSES_JOURNAL, LOSES_DATA, FLUSHES)[i % 4])
    assert n_calls > 200


@pytest.mark.slow
@pytest.mark.parametrize("how", [LOSES_JOURNAL, LOSES_DATA, FLUSHES])
def test_power_is_cut_before_each_call_of_a_life(cuts, how):
    n_calls = cuts.live(10**9, how)
    assert n_calls > 200
    for kill_before in range(0, n_calls, 1 if how == LOSES_JOURNAL else 15):
        cuts.live(kill_before, how)
    assert cuts.seen == {"before", "after"}


def test_without_the_folders_fsync_it_is_seen(cuts):
    """The test above can fail: where names are not made durable, an acknowledged change is gone after a cut."""
    n_calls = cuts.live(10**9, FLUSHES)
    with pytest.raises(AssertionError, match="gone"):
        live_carelessly(cuts, n_calls)


def live_carelessly(cuts, n_calls):
    for kill_before in range(n_calls // 2, n_calls, n_calls // 40):
        cuts.live(kill_before, LOSES_JOURNAL, syncs_folders=False)
