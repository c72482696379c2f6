"""Other libraries on the same content, with the same questions, as ``jessy-mem bench --peers`` prints them.

What is not installed is left out; `pip install '.[bench]'` brings most of it.
"""

import ctypes
import tempfile
from functools import cache
from pathlib import Path

from jessy_mem._core.pool import PoolAllocator
from jessy_mem._probe.peers import allocator_pairs_ns
from jessy_mem._probe.pool import pool_pairs_ns
from jessy_mem.cli.peers import OURS, PEERS, ask
from jessy_mem.cli.questions import QUESTIONS, Missing, address_of, library, scale

from .pool import BLOCK_SIZES, N_PAIRS, N_REPEATS

SCALE = scale()


@cache
def measured():
    """Our least time over its, by question and library: all of it is one run, in which they take turns."""
    with tempfile.TemporaryDirectory() as folder:
        answers, _ = ask(Path(folder), SCALE)
    return {(answer.question, answer.peer): answer.ratio for answer in answers}


class Answers:
    """Our least time over that of another library, for each question that it has an answer for."""

    params = (QUESTIONS, tuple(name for name in PEERS if name != OURS))
    param_names = ("question", "peer")
    unit = "x"

    def setup_cache(self):
        return measured()

    def setup(self, found, question, peer):
        if (question, peer) not in found:
            raise NotImplementedError(f"{peer} has no answer, or is not installed")

    def track_ours_over_its(self, found, question, peer):
        return found[question, peer]


class Allocators:
    """claim_block and release_block beside malloc and free of glibc and of mimalloc, in one run. Bar: 1.0 x the better.

    Of a class, the block is not touched by anybody; without mimalloc, glibc is the better.
    """

    params = BLOCK_SIZES
    param_names = ("n_bytes",)

    def setup(self, n_bytes):
        self.pool = PoolAllocator()
        libc = ctypes.CDLL(None)
        self.glibc = address_of(libc.malloc), address_of(libc.free)

    def mimalloc(self):
        try:
            found = library("mimalloc")
        except Missing as missing:
            raise NotImplementedError(missing) from None
        return address_of(found.mi_malloc), address_of(found.mi_free)

    def least_ns(self, n_bytes, *allocators):
        """Of the pool, and of each of `allocators`, taken in turns."""
        least = [float("inf")] * (1 + len(allocators))
        for _ in range(N_REPEATS):
            turns = [pool_pairs_ns(self.pool, n_bytes, N_PAIRS)]
            turns += [allocator_pairs_ns(*each, n_bytes, N_PAIRS) for each in allocators]
            least = [min(pair) for pair in zip(least, turns, strict=True)]
        return least

    def track_ratio_to_glibc(self, n_bytes):
        ours, glibc = self.least_ns(n_bytes, self.glibc)
        return ours / glibc

    def track_ratio_to_mimalloc(self, n_bytes):
        ours, theirs = self.least_ns(n_bytes, self.mimalloc())
        return ours / theirs

    def track_ratio_to_the_better(self, n_bytes):
        ours, *theirs = self.least_ns(n_bytes, self.glibc, self.mimalloc())
        return ours / min(theirs)

    track_ratio_to_glibc.unit = track_ratio_to_mimalloc.unit = track_ratio_to_the_better.unit = "x"
