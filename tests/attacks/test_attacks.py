"""Opening a file that lies is one typed error that names the field, and costs what is there and not what is claimed."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from attacks.files import ATTACKS, MIB, Attack

import jessy_mem as jm
from helpers import HAS_PROC, Holdings
from jessy_mem._core.region import MmapRegion

FREE_BYTES = 64 << 10  # of memory, whatever there is
ENTRY_BYTES = 64  # of memory for each layer whose record is there
UNSEEN_BYTES = 16 << 10  # what is read without a look whether it was written

pytestmark = pytest.mark.thread_unsafe(reason="what is read and allocated is counted for the process")


@pytest.fixture
def hostile(tmp_path):
    """Writes the file of an attack: its path, and how much of it is there."""

    def write(attack: Attack):
        path = tmp_path / "D03" / "region.mmap"
        path.parent.mkdir()
        data, size = attack.file()
        path.write_bytes(data)
        os.truncate(path, size)
        if path.stat().st_blocks * 512 > len(data) + MIB:
            pytest.skip("the file system has no sparse files")
        return path, len(data)

    return write


@pytest.fixture
def n_read(inject):
    """How many bytes each read of a file has given."""
    found: list[int] = []

    def counting(plain):
        def call(*args):
            result = plain(*args)
            read = result[0] if isinstance(result, tuple) else result
            found.append(read if isinstance(read, int) else len(read))
            return result

        return call

    # The first calls pread(2), where no test comes between.
    begin = inject.around("jessy_mem._core.mapped.read_begin", counting)
    more = [inject.around(f"os.{name}", counting) for name in ("pread", "preadv")]
    for each in more:
        each.may_miss = True
    with begin, more[0], more[1]:
        yield found


@pytest.fixture
def copies(inject):
    """Second descriptors of the sealed copies that are made."""
    found: list[int] = []

    def keeping(plain):
        def call(*args):
            found.append(os.dup(fd := plain(*args)))
            return fd

        return call

    if not hasattr(os, "memfd_create"):
        yield found
        return
    create = inject.around("os.memfd_create", keeping)
    create.may_miss = True
    with create:
        yield found
    for fd in found:
        os.close(fd)


def refused(path, error: type[Exception]) -> tuple[jm.InvalidRegion, int]:
    """The error of opening, and the most memory that it took."""
    tracemalloc.start()
    try:
        with pytest.raises(jm.InvalidRegion) as caught:
            MmapRegion(None, path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.type is error
    return caught.value, peak_bytes


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_lie_costs_what_is_there(attack, hostile, n_read, copies):
    path, there_bytes = hostile(attack)
    before = Holdings() if HAS_PROC else None
    error, peak_bytes = refused(path, attack.error)
    if before is not None and not copies:
        assert before.new() == []  # at once, without a garbage collection
    assert (error.path, error.field) == (str(path), attack.field)
    assert peak_bytes <= FREE_BYTES + 2 * there_bytes + ENTRY_BYTES * attack.n_layers_there
    hashed_bytes = path.stat().st_size if attack.field == "content_sha256" else 0  # a digest is of all bytes
    assert sum(n_read) <= UNSEEN_BYTES + there_bytes + hashed_bytes
    assert sum(os.fstat(fd).st_blocks * 512 for fd in copies) <= there_bytes + 4096


def test_meters_see_what_is_read_allocated_and_copied(hostile, n_read, copies):
    """The bounds above could be missed: the very same counters, of a file that is large because it is there."""
    (attack,) = [each for each in ATTACKS if each.field == "content_sha256" and str(each).endswith("hole")]
    path, _ = hostile(attack)
    path.write_bytes(path.read_bytes())
    _, peak_bytes = refused(path, attack.error)
    assert peak_bytes > 20_000
    assert sum(n_read) > 7 * MIB
    assert sum(os.fstat(fd).st_blocks * 512 for fd in copies) > 7 * MIB


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_manager_refuses_it_and_holds_nothing(attack, hostile):
    path, _ = hostile(attack)
    is_large = path.stat().st_size > 256 * MIB
    with jm.MmapManager(base_path=path.parent.parent, simulation="never", total_memory_mb=256) as memory:
        before = memory.get_stats()
        with pytest.raises((attack.error, jm.LimitExceeded) if is_large else attack.error):
            memory.load_dimension(3)
        after = memory.get_stats()
        assert after.total_allocated_bytes == before.total_allocated_bytes
        assert (after.dimensions_loaded, after.active_regions) == (0, 0)


def test_each_attack_says_what_it_claims():
    assert all(attack.file.__doc__ and len(attack.file.__doc__.splitlines()) == 1 for attack in ATTACKS)
    assert len({str(attack) for attack in ATTACKS}) == len(ATTACKS) >= 30
