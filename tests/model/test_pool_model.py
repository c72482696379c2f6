"""The pool against a model: plain Python sets of byte ranges."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import jessy_mem.errors as errors
from jessy_mem._core.pool import PoolAllocator

KIB = 1 << 10
MIB = 1 << 20
PLANS = [
    (((1, 4096), (1, 16384), (1, 65536), (1, 262144)), 4, False),
    (((1, 4096), (1, 16384), (1, 65536), (1, 262144)), 4, True),
    (((1, 4096), (1, 16384), (1, 65536), (1, 262144)), 1.5, False),
    (((1, 4096), (1, 16384), (1, 65536), (1, 262144)), 1.5, True),
    (((0.5, 8192), (0.25, 65536)), 1, False),
    (((0.0625, 64), (0.5, 512), (1, 262144)), 1.25, False),
    (((3, MIB), (2, 2 * MIB)), 6, False),
    (((0.125, 1024),), 0.125, False),
]


def charge_of(pools, n_bytes):
    sizes = sorted(block_size for _, block_size in pools)
    for block_size in sizes:
        if n_bytes <= block_size:
            return block_size, block_size
    return sizes[-1], -(-n_bytes // sizes[-1]) * sizes[-1]


def attempt(pool, n_bytes):
    try:
        return pool.allocate(n_bytes), None
    except errors.MemoryError as error:
        return None, error


class PoolMachine(RuleBasedStateMachine):
    """`live` maps the number of each block that is out to (block, bytes asked for, class, bytes charged, its fill).

    Rules pass numbers, not blocks: hypothesis keeps what it passes, and a dropped block must lose its last reference.
    """

    numbers = Bundle("numbers")
    freed_numbers = Bundle("freed_numbers")

    @initialize(plan=st.sampled_from(PLANS))
    def make(self, plan):
        self.pools, limit_mb, self.strict = plan
        self.limit_bytes = int(limit_mb * MIB)
        self.pool = PoolAllocator(self.pools, limit_mb, strict_classes=self.strict)
        self.live, self.freed = {}, {}
        self.n_allocated = 0
        self.peak_bytes = 0
        self.peaks = dict.fromkeys((block_size for _, block_size in self.pools), 0)

    def used_bytes(self):
        return sum(charge for _, _, _, charge, _ in self.live.values())

    def n_used(self, block_size):
        return sum(charge // size for _, _, size, charge, _ in self.live.values() if size == block_size)

    def check_refusal(self, error, block_size, charge):
        if isinstance(error, errors.LimitExceeded):
            assert self.used_bytes() + charge > self.limit_bytes
            assert (error.current_bytes, error.limit_bytes) == (self.used_bytes(), self.limit_bytes)
            return
        # Fragments, or a full strict class; what the error calls free must not hold the request.
        assert self.used_bytes() + charge <= self.limit_bytes
        assert error.free_blocks[block_size] == 0 or charge > block_size
        assert error.largest_free_bytes < 2 * charge  # or an aligned place for it would be inside
        if not self.strict and charge == block_size:  # a single block fails only where smaller ones lie about
            assert any(size < block_size for _, _, size, _, _ in self.live.values())

    @rule(target=numbers, n_bytes=st.one_of(st.integers(1, 5 * MIB), st.integers(1, 300 * KIB), st.integers(1, 9000)))
    def allocate(self, n_bytes):
        block_size, charge = charge_of(self.pools, n_bytes)
        block, error = attempt(self.pool, n_bytes)
        if error is not None:
            self.check_refusal(error, block_size, charge)
            return multiple()
        assert self.used_bytes() + charge <= self.limit_bytes
        assert (block.n_bytes, block.capacity) == (n_bytes, charge)
        self.n_allocated += 1
        fill = self.n_allocated % 255 + 1
        with memoryview(block) as view:
            view[:1] = view[-1:] = view[n_bytes // 2 : n_bytes // 2 + 1] = bytes([fill])
        self.live[self.n_allocated] = (block, n_bytes, block_size, charge, fill)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes())
        self.peaks[block_size] = max(self.peaks[block_size], self.n_used(block_size))
        return self.n_allocated

    def take(self, number):
        block, n_bytes, _, _, fill = self.live.pop(number)
        with memoryview(block) as view:
            assert view[0] == view[-1] == view[n_bytes // 2] == fill
        return block

    @rule(target=freed_numbers, number=consumes(numbers), how=st.sampled_from(["free", "deallocate", "with"]))
    def free(self, number, how):
        block = self.take(number)
        if how == "free":
            block.free()
        elif how == "deallocate":
            self.pool.deallocate(block)
        else:
            with block:
                pass
        self.freed[number] = block
        return number

    @rule(number=consumes(numbers))
    def drop(self, number):
        self.take(number)

    @rule(number=freed_numbers)
    def free_again(self, number):
        with pytest.raises(errors.DoubleFree):
            self.freed[number].free()

    @rule(number=numbers)
    def free_with_a_view(self, number):
        block = self.live[number][0]
        with memoryview(block), pytest.raises(BufferError):
            block.free()

    @rule()
    def trim(self):
        assert self.pool.trim() >= 0

    @invariant()
    def books_agree(self):
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert self.pool.usage() == (self.used_bytes(), self.limit_bytes)
        assert (stats.used_bytes, stats.peak_bytes) == (self.used_bytes(), self.peak_bytes)
        for each in stats.classes:
            assert each.n_used == self.n_used(each.block_size)
            assert each.peak_used == self.peaks[each.block_size]
            assert each.requested_bytes == sum(
                n_bytes for _, n_bytes, size, _, _ in self.live.values() if size == each.block_size
            )
            assert 0 <= each.n_borrowed <= each.n_used
            if self.strict:
                assert each.n_borrowed == 0
                assert each.n_used <= each.n_blocks


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
