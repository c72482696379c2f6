"""The buffer protocol as Block exports it."""

import ctypes
import hashlib
import io
import struct
import threading
import zlib

import numpy as np
import pytest

from jessy_mem._core.pool import PoolAllocator
from jessy_mem.errors import DoubleFree


@pytest.fixture
def pool():
    return PoolAllocator(((1, 4096), (1, 65536)), 2)


def test_view_describes_plain_writable_bytes(pool):
    with pool.allocate(1000) as block, memoryview(block) as view:
        assert (view.format, view.itemsize, view.ndim) == ("B", 1, 1)
        assert (view.shape, view.strides, view.suboffsets) == ((1000,), (1,), ())
        assert view.nbytes == 1000
        assert view.contiguous
        assert view.c_contiguous
        assert not view.readonly
        assert view.obj is block


def test_consumers_of_every_kind_accept_it(pool):
    with pool.allocate(256) as block:
        memoryview(block)[:] = bytes(range(256))
        assert bytes(block) == bytearray(block) == bytes(range(256))
        assert hashlib.sha256(block).digest() == hashlib.sha256(bytes(range(256))).digest()
        assert zlib.crc32(block) == zlib.crc32(bytes(range(256)))
        assert struct.unpack_from("<4B", block, 4) == (4, 5, 6, 7)
        assert b"".join([block, block]) == bytes(range(256)) * 2
        assert io.BytesIO(b"abcd").readinto(block) == 4
        assert bytes(block)[:4] == b"abcd"
        array = np.frombuffer(block, np.uint8)
        assert array.flags.writeable
        array[0] = 7
        assert bytes(block)[0] == 7
        assert not np.shares_memory(array, np.frombuffer(bytes(block), np.uint8))
        del array


def test_views_alias_and_cast(pool):
    with pool.allocate(64) as block:
        first, second = memoryview(block), memoryview(block).cast("Q")
        first[:8] = (12345).to_bytes(8, "little")
        assert second[0] == 12345
        first.release()
        second.release()


def test_no_combination_of_flags_breaks_it(pool):
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    for flags in {*range(0x200)} - {0x100}:  # PyBUF_READ is no request
        with pool.allocate(100) as block:
            raw = ctypes.create_string_buffer(256)  # larger than any Py_buffer
            assert get(ctypes.py_object(block), raw, flags) == 0, hex(flags)
            address, _, n_bytes, itemsize = struct.unpack_from("PPnn", raw)
            assert address
            assert (n_bytes, itemsize) == (100, 1), hex(flags)
            with pytest.raises(BufferError):
                block.free()
            release(raw)
            block.free()


def test_free_waits_for_every_view(pool):
    block = pool.allocate(10)
    views = [memoryview(block) for _ in range(5)]
    for left in range(5, 0, -1):
        with pytest.raises(BufferError, match=f"{left} views"):
            block.free()
        with pytest.raises(BufferError):
            pool.deallocate(block)
        views.pop().release()
    block.free()


def test_freed_block_gives_no_view(pool):
    block = pool.allocate(10)
    block.free()
    for use in (memoryview, bytes, lambda b: np.frombuffer(b, np.uint8)):
        with pytest.raises((BufferError, ValueError)):
            use(block)


def test_slices_count_as_views(pool):
    block = pool.allocate(10)
    part = memoryview(block)[2:4]
    with pytest.raises(BufferError):
        block.free()
    del part
    block.free()


def test_views_and_frees_from_many_threads(pool):
    """Whoever gets a view holds the block's bytes; whoever frees it was alone."""
    n_threads, n_rounds = 4, 300
    barrier = threading.Barrier(n_threads)
    block, freed, problems = pool.allocate(4096), [], []

    def run(number):
        nonlocal block
        for i in range(n_rounds):
            if barrier.wait() == 0:
                freed.append(0)
                block = pool.allocate(4096)
            barrier.wait()
            mine = block
            try:
                if (number + i) % 2:
                    with memoryview(mine) as view:
                        view[number] = number
                        if view[number] != number:
                            problems.append("another owner's bytes")
                else:
                    mine.free()
                    freed[-1] += 1
            except (BufferError, DoubleFree):
                pass
            barrier.wait()
            mine = None

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert max(freed) <= 1
    assert len(freed) == n_rounds
    block = None
    assert pool.usage()[0] == 0
