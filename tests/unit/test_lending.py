"""Blocks as users of a manager get them: as the pool gives them, counted, timed, and with what follows a charge."""

from __future__ import annotations

import pytest

import jessy_mem as jm
from jessy_mem._core.pool import PoolAllocator
from jessy_mem.table import RegionTable

MIB = 1 << 20


@pytest.fixture
def memory(tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never", follow="never") as memory:
        yield memory


def counts(memory):
    found = memory.get_stats()
    return found.allocation_count, found.deallocation_count, found.allocation_failures


def test_a_block_is_counted_timed_and_charged(memory):
    block = memory.allocate(5000)
    assert (block.n_bytes, block.capacity) == (5000, 16384)
    found = memory.get_stats()
    assert counts(memory) == (1, 0, 0)
    assert found.allocate_latency.count == 1
    assert found.total_allocated_bytes == found.pool.used_bytes == found.leased_bytes == 16384
    assert found.segments["reserve"].used_bytes == 16384
    memory.deallocate(block)
    found = memory.get_stats()
    assert counts(memory) == (1, 1, 0)
    assert found.deallocate_latency.count == 1
    assert found.total_allocated_bytes == 0
    memory.allocate(n_bytes=1).free()
    with memory.allocate(1):
        assert memory.get_stats().total_allocated_bytes == 4096
    assert counts(memory) == (3, 1, 0), "free is the block's own"
    assert memory.get_stats().total_allocated_bytes == 0


def test_without_times_it_is_counted(tmp_path):
    with jm.MmapManager(base_path=tmp_path, simulation="never", record_latency=False) as memory:
        memory.deallocate(memory.allocate(100))
        found = memory.get_stats()
        assert (found.allocation_count, found.deallocation_count) == (1, 1)
        assert (found.allocate_latency.count, found.deallocate_latency.count) == (0, 0)


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (None, TypeError)])
def test_what_is_no_size_is_refused_and_counts_as_nothing(memory, wrong, error):
    with pytest.raises(error):
        memory.allocate(wrong)
    assert counts(memory) == (0, 0, 0)
    assert memory.get_stats().total_allocated_bytes == 0


@pytest.mark.parametrize("n_bytes", [281 * MIB, 1 << 62, 1 << 70])
def test_what_never_fits_is_refused_and_counts_as_a_failure(memory, n_bytes):
    with pytest.raises(jm.LimitExceeded):
        memory.allocate(n_bytes)
    assert counts(memory) == (0, 0, 1)
    assert memory.get_stats().total_allocated_bytes == 0


def test_what_cannot_be_given_back_counts_as_nothing(memory):
    pool = PoolAllocator(((1, 4096),), 1)
    with pytest.raises(ValueError, match="another pool"):
        memory.deallocate(pool.allocate(1))
    block = memory.allocate(1)
    with memoryview(block), pytest.raises(BufferError):
        memory.deallocate(block)
    memory.deallocate(block)
    with pytest.raises(jm.DoubleFree):
        memory.deallocate(block)
    for wrong in (None, 1, memoryview(b"1")):
        with pytest.raises(TypeError):
            memory.deallocate(wrong)
    assert counts(memory) == (1, 1, 0)


def test_what_follows_a_charge_follows_at_once(memory):
    told = []
    memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append((level, used_bytes)))
    reserve_bytes = memory.get_stats().segments["reserve"].limit_bytes
    held = [memory.allocate(MIB) for _ in range(reserve_bytes // MIB)]
    assert told == [], "the reserve alone is below every threshold"
    with pytest.raises(jm.LimitExceeded, match="reserve"):
        memory.allocate(MIB)
    assert counts(memory) == (len(held), 0, 1)


def test_a_threshold_is_told_by_the_allocation_that_crosses_it(tmp_path):
    options = {"warning_threshold": 60.0, "eviction_threshold": 70.0}
    with jm.MmapManager(280, base_path=tmp_path, simulation="never", **options) as memory:
        told, held = [], []
        memory.on_pressure(lambda level, used_bytes, limit_bytes: told.append((level, used_bytes)))
        # Private: files of hundreds of MiB would charge the same.
        memory._ledger.reserve("core", 150 * MIB)
        while len(told) < 2:
            held.append(memory.allocate(256 << 10))
        for (level, used_bytes), name, share in zip(told, ("warning", "eviction"), (0.6, 0.7), strict=True):
            assert level == name
            assert used_bytes - (256 << 10) < share * 280 * MIB <= used_bytes
        held.clear()
        memory._ledger.release("core", 150 * MIB)  # private: as above


def test_a_closed_manager_lends_nothing(tmp_path):
    memory = jm.MmapManager(base_path=tmp_path, simulation="never")
    block = memory.allocate(1)
    memory.close()
    for call in (lambda: memory.allocate(1), lambda: memory.deallocate(block)):
        with pytest.raises(jm.ManagerClosed) as caught:
            call()
        assert "the pool" not in str(caught.value), "who is closed is the manager"
    block.free()


def test_what_was_never_made_lends_nothing():
    block = PoolAllocator(((1, 4096),), 1).allocate(1)
    for kind in (RegionTable, jm.MmapManager):
        table = kind.__new__(kind)
        for call in (lambda table=table: table.allocate(1), lambda table=table: table.deallocate(block)):
            with pytest.raises(jm.ManagerClosed):
                call()
