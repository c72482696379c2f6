"""PoolAllocator and Block: sizes, limits, borrowing, runs, errors."""

import ctypes
import errno
import gc
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import jessy_mem.errors as errors
from helpers import in_thread
from jessy_mem._core.budget import Ledger
from jessy_mem._core.pool import Block, PoolAllocator
from jessy_mem.sizes import DEFAULT_POOLS

MIB = 1 << 20
KIB = 1 << 10
SMALL = ((1, 4096), (1, 16384), (1, 65536), (1, 262144))  # 4 MiB


@pytest.fixture
def pool():
    return PoolAllocator(SMALL, 4)


def fill(pool, n_bytes):
    blocks = []
    try:
        while True:
            blocks.append(pool.allocate(n_bytes))
    except errors.MemoryError as error:
        return blocks, error.with_traceback(None)  # whose frames would keep the blocks


def class_of(pool, block_size):
    (found,) = [each for each in pool.stats().classes if each.block_size == block_size]
    return found


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_bytes", "capacity"),
    [
        (1, 4096),
        (4095, 4096),
        (4096, 4096),
        (4097, 16384),
        (16384, 16384),
        (16385, 65536),
        (65537, 262144),
        (262144, 262144),
        (262145, 524288),
        (3 * 262144 + 1, MIB),
        (4 * MIB, 4 * MIB),
    ],
)
def test_request_gets_the_smallest_class_or_a_run(pool, n_bytes, capacity):
    block = pool.allocate(n_bytes)
    assert (block.n_bytes, len(block), block.capacity, block.freed) == (n_bytes, n_bytes, capacity, False)
    assert pool.usage() == (capacity, 4 * MIB)
    block.free()
    assert block.freed
    assert pool.usage() == (0, 4 * MIB)


@pytest.mark.parametrize("n_bytes", [0, -1, -(2**63), -(2**100)])
def test_size_that_is_not_positive_is_value_error(pool, n_bytes):
    with pytest.raises(ValueError, match=f"n_bytes: {n_bytes} is not positive"):
        pool.allocate(n_bytes)


@pytest.mark.parametrize("n_bytes", [4 * MIB + 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 + 4096, 2**200])
def test_size_above_the_limit_is_limit_exceeded(pool, n_bytes):
    with pytest.raises(errors.LimitExceeded) as caught:
        pool.allocate(n_bytes)
    assert caught.value.limit_bytes == 4 * MIB
    assert caught.value.current_bytes == 0
    assert caught.value.requested_bytes > 4 * MIB
    assert caught.value.segment == "pool"
    assert pool.usage()[0] == 0


@pytest.mark.parametrize("n_bytes", [1.0, "1", None, b"1"])
def test_size_that_is_no_integer_is_type_error(pool, n_bytes):
    with pytest.raises(TypeError):
        pool.allocate(n_bytes)


def test_anything_with_an_index_is_a_size(pool):
    class Size:
        def __index__(self):
            return 5000

    assert pool.allocate(Size()).capacity == 16384


@pytest.mark.parametrize(
    ("pools", "limit_mb"),
    [
        ((), 1),
        (((1, 4095),), 1),
        (((1, 0),), 1),
        (((1, -4096),), 1),
        (((1, 32),), 1),
        (((1, 4096), (2, 4096)), 1),
        (((0, 4096),), 1),
        (((-1, 4096),), 1),
        (((0.001, 4096),), 1),
        (((1, 2**21),), 1),
        (((1, 4096),), 0),
        (((1, 4096),), -1),
        (((1, 4096),), float("nan")),
        (((1, 4096),), float("inf")),
        (((1, 4096),), 2**60),
        (((2**60, 4096),), 1),
        (((1, 4096),) * 40, 1),
        (((1, 2**70),), 1),
    ],
)
def test_bad_configuration_is_value_error(pools, limit_mb):
    with pytest.raises(ValueError, match=r"limit_mb|pools"):
        PoolAllocator(pools, limit_mb)


def test_address_space_that_the_system_refuses_is_mapping_error():
    code = """
import errno, resource
from jessy_mem._core.pool import PoolAllocator
from jessy_mem.errors import MappingError
resource.setrlimit(resource.RLIMIT_AS, (1 << 32, resource.RLIM_INFINITY))
for limit_mb in (1 << 13, 1 << 26):  # the arena is refused; its books are
    try:
        PoolAllocator(((1, 64),), limit_mb)
    except MappingError as error:
        assert error.errno == errno.ENOMEM, error.errno
    else:
        raise AssertionError(limit_mb)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pool_is_initialised_once_and_never_half():
    pool = PoolAllocator(SMALL, 4)
    with pytest.raises(TypeError):
        pool.__init__(SMALL, 4)
    raw = PoolAllocator.__new__(PoolAllocator)
    with pytest.raises(errors.ManagerClosed):
        raw.allocate(1)
    for use in (raw.usage, raw.stats, raw.close):
        with pytest.raises(TypeError):
            use()


# -- limit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [4096, 16384, 65536, 262144])
def test_each_size_alone_can_use_the_whole_limit(n_bytes):
    pool = PoolAllocator()
    blocks, error = fill(pool, n_bytes)
    assert len(blocks) * n_bytes == 280 * MIB
    assert isinstance(error, errors.LimitExceeded)
    assert (error.current_bytes, error.limit_bytes, error.requested_bytes) == (280 * MIB, 280 * MIB, n_bytes)


def test_large_blocks_fit_again_after_small_ones_filled_the_pool():
    pool = PoolAllocator()
    fill(pool, 4096)
    assert pool.usage()[0] == 0
    blocks, _ = fill(pool, 262144)
    assert len(blocks) * 262144 == 280 * MIB


@pytest.mark.parametrize("limit_mb", [0.25, 1, 1.5, 3, 4, 5.5])
def test_limit_binds_by_block_bytes(limit_mb):
    pool = PoolAllocator(SMALL, limit_mb)
    blocks, error = fill(pool, 1)
    assert isinstance(error, errors.LimitExceeded)
    assert pool.usage() == (limit_mb * MIB, limit_mb * MIB)
    assert len(blocks) == limit_mb * MIB // 4096
    peak = pool.stats()
    assert peak.peak_bytes == peak.used_bytes == limit_mb * MIB


def test_limit_smaller_than_one_block():
    pool = PoolAllocator(((1, 65536),), 0.03125)
    with pytest.raises(errors.LimitExceeded):
        pool.allocate(1)


def test_failure_by_fragmentation_tells_what_is_free():
    pool = PoolAllocator(((1, 4096), (1, 65536)), 2)
    blocks, _ = fill(pool, 4096)
    for block in blocks[::2]:
        block.free()
    with pytest.raises(errors.AllocationFailed) as caught:
        pool.allocate(8192)
    assert caught.value.requested_bytes == 8192
    assert caught.value.largest_free_bytes == 4096
    assert caught.value.free_blocks == {4096: 256, 65536: 0}
    assert pool.usage()[0] == MIB


# -- classes ----------------------------------------------------------------------------------------------------------


def test_stats_of_the_default_plan():
    stats = PoolAllocator().stats()
    assert [(each.block_size, each.n_blocks) for each in stats.classes] == [
        (block_size, size_mb * MIB // block_size) for size_mb, block_size in DEFAULT_POOLS
    ]
    assert stats.limit_bytes == 280 * MIB
    assert stats.to_dict()["classes"][0]["n_used"] == 0


def test_full_class_borrows_and_pays_for_its_own_size(pool):
    blocks = [pool.allocate(4096) for _ in range(257)]
    stats = class_of(pool, 4096)
    assert (stats.n_used, stats.peak_used, stats.n_borrowed) == (257, 257, 1)
    assert pool.usage()[0] == 257 * 4096
    del blocks
    stats = class_of(pool, 4096)
    assert (stats.n_used, stats.peak_used, stats.n_borrowed) == (0, 257, 0)


def test_borrowing_takes_from_the_next_larger_class_first(pool):
    fill_home = [pool.allocate(4096) for _ in range(256)]
    borrowed = pool.allocate(4096)
    others = [pool.allocate(16384) for _ in range(64)]  # the home of 16 KiB has only 63 left
    assert class_of(pool, 16384).n_borrowed == 1
    assert class_of(pool, 65536).n_borrowed == 0
    del fill_home, borrowed, others


def test_strict_class_fails_when_it_is_full():
    pool = PoolAllocator(SMALL, 4, strict_classes=True)
    blocks, error = fill(pool, 4096)
    assert len(blocks) == 256
    assert isinstance(error, errors.AllocationFailed)
    assert error.free_blocks == {4096: 0, 16384: 64, 65536: 16, 262144: 4}
    assert error.largest_free_bytes == 0
    assert class_of(pool, 4096).n_borrowed == 0
    run = pool.allocate(MIB)  # fills the home of the largest class
    assert run.capacity == MIB
    with pytest.raises(errors.AllocationFailed):
        pool.allocate(262144)


def test_strict_classes_larger_than_the_limit_are_bound_by_it():
    pool = PoolAllocator(SMALL, 0.5, strict_classes=True)
    blocks, error = fill(pool, 4096)
    assert len(blocks) == 128
    assert isinstance(error, errors.LimitExceeded)


def test_requested_bytes_tell_internal_fragmentation(pool):
    blocks = [pool.allocate(1024), pool.allocate(2048), pool.allocate(12_288)]
    assert class_of(pool, 4096).requested_bytes == 3072
    assert class_of(pool, 4096).fragmentation == pytest.approx(1 - 3072 / 8192)
    assert pool.stats().requested_bytes == 15_360
    del blocks
    assert pool.stats().requested_bytes == 0
    assert class_of(pool, 4096).fragmentation == 0


@pytest.mark.parametrize(
    "pools",
    [
        ((1, 64),),
        ((1, 64), (1, MIB)),
        ((3, MIB), (4, 2 * MIB), (8, 8 * MIB)),
        ((0.25, 256), (0.5, 128), (4, 262144)),
        ((1, 65536), (1, 262144)),
        ((2, 1024), (1, 131072), (5, 4096)),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_any_powers_of_two_work_and_every_byte_is_usable(pools, strict):
    limit_mb = sum(size_mb for size_mb, _ in pools)
    pool = PoolAllocator(pools, limit_mb, strict_classes=strict)
    for size_mb, block_size in pools:
        blocks, _ = fill(pool, block_size)
        usable_mb = size_mb if strict else limit_mb
        assert len(blocks) == usable_mb * MIB // block_size
        memoryview(blocks[-1])[:] = bytes(block_size)
        del blocks
    assert pool.usage()[0] == 0


def test_commons_above_the_homes_are_usable():
    pool = PoolAllocator(((1, 4096), (1, 65536)), 3)
    assert len(fill(pool, 4096)[0]) == 768
    assert len(fill(pool, 65536)[0]) == 48
    assert len(fill(pool, 3 * MIB)[0]) == 1


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_blocks_do_not_share_bytes(pool):
    blocks, _ = fill(pool, 16384)
    for i, block in enumerate(blocks):
        memoryview(block)[:] = bytes([i % 251]) * 16384
    assert all(bytes(block) == bytes([i % 251]) * 16384 for i, block in enumerate(blocks))


def test_second_free_is_double_free_and_changes_nothing(pool):
    first = pool.allocate(16384)
    first.free()
    second = pool.allocate(16384)  # the same place
    for free in (first.free, lambda: pool.deallocate(first)):
        with pytest.raises(errors.DoubleFree) as caught:
            free()
        assert caught.value.block_size == 16384
        assert 0 <= caught.value.index < 256
    assert pool.usage()[0] == 16384
    assert not second.freed
    memoryview(second)[0] = 1


def test_block_goes_back_with_its_last_reference(pool):
    block = pool.allocate(100)
    view = memoryview(block)
    del block
    gc.collect()
    assert pool.usage()[0] == 4096
    view.release()
    del view
    assert pool.usage()[0] == 0


def test_context_manager_frees(pool):
    with pool.allocate(100) as block:
        assert not block.freed
    assert block.freed
    with pool.allocate(100) as block:
        block.free()
    assert pool.usage()[0] == 0


def test_context_manager_refuses_while_a_view_lives(pool):
    with pytest.raises(BufferError), pool.allocate(100) as block:
        view = memoryview(block)
    assert not block.freed
    view.release()
    block.free()


def test_context_manager_does_not_hide_an_error(pool):
    block, other = pool.allocate(100), pool.allocate(100)
    view = memoryview(block)
    with pytest.raises(KeyError), block:
        raise KeyError
    with pytest.raises(KeyError), other:
        raise KeyError
    assert (block.freed, other.freed) == (False, True)
    view.release()


def test_block_of_another_pool_is_refused(pool):
    block = PoolAllocator(SMALL, 4).allocate(1)
    with pytest.raises(ValueError, match="another pool"):
        pool.deallocate(block)
    assert not block.freed
    with pytest.raises(TypeError):
        pool.deallocate(None)
    with pytest.raises(TypeError):
        pool.deallocate(bytearray(1))


def test_blocks_are_made_by_pools_only(pool):
    with pytest.raises(TypeError):
        Block()
    raw = Block.__new__(Block)
    assert (raw.freed, raw.capacity) == (True, 0)
    with pytest.raises(errors.DoubleFree):
        raw.free()
    with pytest.raises(BufferError):
        memoryview(raw)
    with pytest.raises(TypeError):
        pickle.dumps(pool.allocate(1))
    with pytest.raises(TypeError):
        type("Sub", (Block,), {})


def test_scrub_zeroes_a_freed_block():
    pool = PoolAllocator(((1, 4096),), 1, scrub=True)
    for n_bytes in (10, 4096, 10_000):
        block = pool.allocate(n_bytes)
        memoryview(block)[:] = b"s" * n_bytes
        block.free()
        assert bytes(pool.allocate(n_bytes)) == bytes(n_bytes)


# -- guards -----------------------------------------------------------------------------------------------------------


def faults(block, offset):
    """Whether what lies `offset` bytes behind the first of a block is no memory, as the system finds that reads it."""
    out, into = os.pipe()
    try:
        os.write(into, (ctypes.c_char * 1).from_address(ctypes.addressof(ctypes.c_char.from_buffer(block)) + offset))
    except OSError as error:
        return error.errno == errno.EFAULT
    finally:
        os.close(out)
        os.close(into)
    return False


@pytest.fixture(scope="module")
def has_guards():
    pool = PoolAllocator(SMALL, 4, guard_sample=1)
    if pool.allocate(4096).capacity == 4096:
        pytest.skip("this system has no guard pages")


GUARDED = [(4096, 4096, 16384), (10_000, 16384, 65536), (65537, 262144, 524288), (262145, 524288, 786432)]


@pytest.mark.parametrize(("n_bytes", "writable", "charge"), GUARDED)
def test_guarded_block_ends_at_a_page_that_faults(has_guards, n_bytes, writable, charge):
    pool = PoolAllocator(SMALL, 4, guard_sample=1)
    block = pool.allocate(n_bytes)
    assert (block.n_bytes, block.capacity, pool.usage()[0]) == (n_bytes, charge, charge)
    assert pool.stats().used_bytes == charge
    assert not faults(block, writable - 1)
    assert faults(block, writable)
    assert faults(block, writable + mmap.PAGESIZE - 1)
    assert not faults(block, writable + mmap.PAGESIZE)
    pool.trim()
    assert faults(block, writable)
    block.free()
    assert pool.usage()[0] == 0
    with pytest.raises(errors.DoubleFree):
        block.free()


@pytest.mark.parametrize("scrub", [False, True])
def test_guard_goes_with_its_block(has_guards, scrub):
    pool = PoolAllocator(SMALL, 4, guard_sample=1, scrub=scrub)
    for block in fill(pool, 4096)[0]:
        memoryview(block)[:] = b"g" * 4096
        block.free()
    for block in fill(pool, MIB)[0]:
        assert not any(faults(block, offset) for offset in range(0, MIB, 4096))
        memoryview(block)[:] = b"f" * MIB
    del block
    assert pool.usage()[0] == 0
    assert all(each.n_used == each.n_borrowed == each.requested_bytes == 0 for each in pool.stats().classes)


def test_one_in_so_many_blocks_is_guarded(has_guards):
    pool = PoolAllocator(SMALL, 4, guard_sample=10)
    blocks = [pool.allocate(4096) for _ in range(100)]
    assert [faults(block, 4096) for block in blocks] == [i % 10 == 9 for i in range(100)]


@pytest.mark.parametrize("sample", [-1, 2**32, 1.0, "1", None, True])
def test_a_sample_is_what_the_configuration_takes(sample):
    with pytest.raises(ValueError, match=r"guard_sample: .* is not in 0\.\.4294967295"):
        PoolAllocator(SMALL, 4, guard_sample=sample)


def test_where_there_is_no_room_for_a_guard_a_block_has_none(has_guards):
    ledger = Ledger(3 * 4096, {"pool": 3 * 4096})
    pool = PoolAllocator(((1, 4096),), 1, guard_sample=1, ledger=ledger)
    blocks, error = fill(pool, 4096)
    assert isinstance(error, errors.LimitExceeded)
    assert [block.capacity for block in blocks] == [8192, 4096]
    assert [faults(block, 4096) for block in blocks] == [True, False]


def test_blocks_that_are_no_whole_pages_have_no_guard(has_guards):
    pool = PoolAllocator(((1, 64), (1, 16384)), 2, guard_sample=1)
    assert (pool.allocate(64).capacity, pool.allocate(65).capacity) == (64, 32768)
    assert len(fill(pool, 64)[0]) > 1000


def test_native_code_that_writes_past_its_block_ends_there(has_guards):
    code = (
        "import ctypes; from jessy_mem._core.pool import PoolAllocator\n"
        "block = PoolAllocator(guard_sample=1).allocate(4096)\n"
        "ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, 4097)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGSEGV


@pytest.mark.thread_unsafe(reason="it forks")
def test_forked_child_has_the_guards_of_its_parent(has_guards):
    pool = PoolAllocator(SMALL, 4, guard_sample=1)
    block = pool.allocate(4096)
    child = os.fork()
    if child == 0:
        was = faults(block, 4096)
        block.free()
        os._exit(0 if was and pool.usage()[0] == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert faults(block, 4096)


def test_repr_is_short(pool):
    block = pool.allocate(10)
    assert repr(block) == "<Block of 10 bytes (capacity 4096)>"
    block.free()
    assert repr(block) == "<freed Block of 10 bytes (capacity 4096)>"
    assert repr(pool) == "<PoolAllocator: 0 of 4194304 bytes in use>"


# -- life -------------------------------------------------------------------------------------------------------------


def test_closed_pool_refuses_and_its_blocks_live_on():
    pool = PoolAllocator(SMALL, 4)
    block = pool.allocate(4096)
    view = memoryview(block)
    view[:] = b"x" * 4096
    pool.close()
    pool.close()
    for use, *arguments in ((pool.allocate, 1), (allocate_in, pool, 1, "a"), (pool.deallocate, block), (pool.trim,)):
        with pytest.raises(errors.ManagerClosed):
            use(*arguments)
    assert pool.usage() == (4096, 4 * MIB)
    assert pool.stats().used_bytes == 4096
    del pool, use, arguments
    gc.collect()
    assert bytes(view) == b"x" * 4096
    view.release()
    block.free()


def test_pool_is_a_context_manager():
    with PoolAllocator(SMALL, 4) as pool:
        pool.allocate(1)
    with pytest.raises(errors.ManagerClosed):
        pool.allocate(1)


def test_views_survive_the_pool_and_the_block():
    views = [memoryview(PoolAllocator(SMALL, 4).allocate(4096)) for _ in range(3)]
    gc.collect()
    for view in views:
        view[:] = b"y" * 4096
        assert bytes(view) == b"y" * 4096


def test_free_at_interpreter_exit_is_silent():
    code = """
import sys, threading
from jessy_mem._core.pool import PoolAllocator
pool = PoolAllocator()
class Holder:
    def __init__(self): self.block = pool.allocate(5000); self.view = memoryview(self.block)
    def __del__(self): self.view.release(); self.block.free()
holders = [Holder() for _ in range(10)]
sys.keep = [pool.allocate(1), memoryview(pool.allocate(300_000)), Holder()]
cycle = [pool, pool.allocate(1)]; cycle.append(cycle)
local = threading.local(); local.block = pool.allocate(1)
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.thread_unsafe(reason="looks at the pages of the process")
def test_trim_gives_free_pages_back_and_keeps_live_ones():
    pool = PoolAllocator()
    assert pool.trim() == 0
    blocks = [pool.allocate(65536) for _ in range(1000)]
    for i, block in enumerate(blocks):
        memoryview(block)[:] = bytes([i % 251]) * 65536
    touched = resident_bytes()
    kept = blocks[::100]
    del blocks, block
    assert pool.trim() == 990 * 65536
    assert touched - resident_bytes() >= 0.95 * 990 * 65536
    assert all(bytes(block) == bytes([i * 100 % 251]) * 65536 for i, block in enumerate(kept))
    assert pool.usage()[0] == 10 * 65536
    assert pool.trim() == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_new_pool_takes_address_space_and_no_memory():
    before = resident_bytes()
    pools = [PoolAllocator() for _ in range(8)]
    assert (resident_bytes() - before) / len(pools) < MIB


@pytest.mark.thread_unsafe(reason="looks at the address space of the process")
@pytest.mark.parametrize("limit_mb", [16, 4, 1, 280, 0.25])
def test_small_limit_takes_little_address_space(limit_mb):
    before = mapped_bytes()
    pool = PoolAllocator(limit_mb=limit_mb)
    taken = mapped_bytes() - before
    assert taken < limit_mb * MIB + 2 * MIB
    if limit_mb >= 1:
        for n_bytes in (1, 5000, 20_000, 200_000, 1_000_000):  # whatever the homes, each size may have it all
            blocks, error = fill(pool, n_bytes)
            assert pool.usage()[0] > 0.9 * limit_mb * MIB or n_bytes > 262144
            assert isinstance(error, errors.MemoryError)
            del blocks, error


def mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


@pytest.mark.thread_unsafe(reason="looks at the address space of the process")
def test_blocks_of_several_threads_keep_the_memory_of_a_pool_that_is_gone():
    """Each thread's blocks hold it by an object of their own, where there is no GIL."""
    pool = PoolAllocator(((256, 4096),), 256)
    blocks = [pool.allocate(4096), *(in_thread(partial(pool.allocate, 4096)) for _ in range(2))]
    for i, block in enumerate(blocks):
        memoryview(block)[:] = bytes([i]) * 4096
    del pool, block
    before = mapped_bytes()
    assert [bytes(block) for block in blocks] == [bytes([i]) * 4096 for i in range(3)]
    in_thread(blocks.clear)
    assert mapped_bytes() <= before - 128 * MIB  # the last thread may have a stack and an arena of malloc: 72 MiB


def test_homes_that_fit_stay_as_they_were_given():
    sizes = [(each.block_size, each.n_blocks) for each in PoolAllocator(SMALL, 4).stats().classes]
    assert sizes == [(4096, 256), (16384, 64), (65536, 16), (262144, 4)]
    strict = PoolAllocator(SMALL, 2, strict_classes=True)
    assert [each.n_blocks for each in strict.stats().classes] == [256, 64, 16, 4]
    halved = PoolAllocator(SMALL, 2)
    assert [each.n_blocks for each in halved.stats().classes] == [128, 32, 8, 2]


def test_pool_without_address_space_says_what_to_change():
    script = """
import resource
import jessy_mem as jm
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    jm.PoolAllocator(((1 << 14, 4096),), 1 << 14)
except jm.MappingError as error:
    assert error.requested_bytes == 1 << 34, error.requested_bytes
    assert str(error.requested_bytes) in str(error) and "ulimit -v" in str(error) and "total_memory_mb" in str(error)
    print(error.errno, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{errno.ENOMEM} pool\n", "")


@pytest.mark.parametrize(
    ("pools", "limit_mb"),
    [
        (((1, 4096) for _ in range(1)), 4),
        (np.array([[1, 4096], [2, 16384]], np.int16), np.int8(4)),
        ([(Fraction(1, 2), np.uint32(4096))], Decimal("0.5")),
        (iter([iter([1.0, 4096])]), np.float32(1)),
    ],
)
def test_sizes_may_be_of_any_type_of_number(pools, limit_mb):
    pool = PoolAllocator(pools, limit_mb)
    assert pool.usage() == (0, int(limit_mb * MIB if not hasattr(limit_mb, "item") else limit_mb.item() * MIB))
    block = pool.allocate(np.int16(1000))
    assert (block.n_bytes, block.capacity) == (1000, 4096)
    assert pool.allocate(np.array(5)).n_bytes == 5
    with pytest.raises(TypeError):
        pool.allocate(np.float64(5))


def test_weak_references_let_pools_and_blocks_go(pool):
    block = pool.allocate(10)
    gone, callbacks = weakref.ref(block), []
    weakref.finalize(pool, callbacks.append, "pool")
    weakref.finalize(block, callbacks.append, "block")
    assert gone() is block
    block.free()
    assert gone() is block
    del block
    assert gone() is None
    assert callbacks == ["block"]
    cache = weakref.WeakValueDictionary()
    for i in range(200):  # more than the list of free objects keeps
        kept = cache[i] = pool.allocate(10)
    assert list(cache.values()) == [kept]


def test_sizes_of_blocks_and_pools_are_what_they_hold(pool):
    block = pool.allocate(5000)
    held = sys.getsizeof(block)
    assert held - 16384 == sys.getsizeof(Block.__new__(Block))
    block.free()
    assert sys.getsizeof(block) == held - 16384
    assert 100 < sys.getsizeof(pool) < MIB


def test_trim_of_blocks_smaller_than_a_page_keeps_their_neighbours():
    pool = PoolAllocator(((1, 64), (1, 1024)), 2)
    blocks = [pool.allocate(64) for _ in range(16384)]
    for i, block in enumerate(blocks):
        memoryview(block)[:] = bytes([i % 251]) * 64
    kept = blocks[:: mmap.PAGESIZE // 16]  # one for each four pages
    del blocks, block
    assert pool.trim() >= MIB // 2
    assert all(bytes(block) == bytes([i * (mmap.PAGESIZE // 16) % 251]) * 64 for i, block in enumerate(kept))


# -- a shared ledger --------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger():
    return Ledger(8 * MIB, {"reserve": 2 * MIB, "user": MIB, "core": 8 * MIB})


def allocate_in(pool, n_bytes, segment):
    return pool._allocate_in(n_bytes, segment)  # private: only a table has several segments


def test_blocks_are_charged_to_their_segment_and_refunded(ledger):
    pool = PoolAllocator(SMALL, 4, ledger=ledger, segment="reserve")
    block, user_block = pool.allocate(5000), allocate_in(pool, 100, "user")
    assert {name: used for name, (used, _, _) in ledger.segment_bytes().items()} == {
        "reserve": 16384,
        "user": 4096,
        "core": 0,
    }
    assert pool.usage() == (20_480, 4 * MIB)
    user_block.free()
    block.free()
    assert ledger.used_bytes == 0


def test_segment_binds_before_the_pool(ledger):
    pool = PoolAllocator(SMALL, 4, ledger=ledger, segment="reserve")
    blocks, error = fill(pool, 65536)
    assert len(blocks) == 32
    assert isinstance(error, errors.LimitExceeded)
    assert (error.segment, error.current_bytes, error.requested_bytes) == ("reserve", 2 * MIB, 65536)
    assert allocate_in(pool, 65536, "user").capacity == 65536


def test_what_others_charge_binds_too(ledger):
    pool = PoolAllocator(SMALL, 4, ledger=ledger, segment="reserve")
    ledger.reserve("core", 7 * MIB)
    blocks, error = fill(pool, 65536)
    assert len(blocks) == 16
    assert error.segment == "total"


def test_ceiling_refuses_new_blocks_below_the_limit(ledger):
    pool = PoolAllocator(SMALL, 4, ledger=ledger, segment="reserve")
    assert pool._ceiling_bytes is None  # private: only a table sets it
    pool._ceiling_bytes = MIB  # as it does
    blocks, error = fill(pool, 65536)
    assert len(blocks) == 16
    assert str(MIB) in error.hint
    pool._ceiling_bytes = None  # as at first
    assert not pool.allocate(65536).freed


def test_refused_search_refunds_the_ledger(ledger):
    pool = PoolAllocator(((1, 4096),), 1, strict_classes=True, ledger=ledger, segment="reserve")
    blocks, error = fill(pool, 4096)
    assert len(blocks) == 256
    assert isinstance(error, errors.AllocationFailed)
    assert ledger.used_bytes == MIB


def test_segments_must_exist(pool, ledger):
    with pytest.raises(ValueError, match="segment"):
        PoolAllocator(SMALL, 4, ledger=ledger, segment="nope")
    with pytest.raises(ValueError, match="segment"):
        allocate_in(PoolAllocator(SMALL, 4, ledger=ledger, segment="reserve"), 1, "nope")
    with pytest.raises(ValueError, match="ledger"):
        allocate_in(pool, 1, "reserve")


# -- threads ----------------------------------------------------------------------------------------------------------


def test_more_threads_than_shares_still_count_right():
    pool = PoolAllocator(SMALL, 4)
    n_threads, barrier, kept = 80, threading.Barrier(81), []

    def run():
        mine = [pool.allocate(4096) for _ in range(3)]
        barrier.wait()
        mine.pop().free()
        kept.extend(mine)
        barrier.wait()

    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    barrier.wait()
    for thread in threads:
        thread.join()
    stats = class_of(pool, 4096)
    assert stats.n_used == len(kept) == 2 * n_threads
    assert stats.requested_bytes == stats.n_used * 4096
    assert pool.usage()[0] == pool.stats().used_bytes == stats.n_used * 4096
    kept.clear()
    assert class_of(pool, 4096).n_used == 0
    assert class_of(pool, 4096).requested_bytes == 0
