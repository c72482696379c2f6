"""The bitmap kernels, called through the probe."""

import pytest

from jessy_mem._probe.pool import BitmapProbe


def claim_all(bitmap, order=0, zone=None):
    claimed = []
    while (unit := bitmap.claim(order, zone)) >= 0:
        claimed.append(unit)
    return claimed


@pytest.mark.parametrize("n_units", [*range(1, 130), 4095, 4096, 4097])
def test_every_unit_is_claimed_once_and_none_past_the_end(n_units):
    bitmap = BitmapProbe(n_units)
    assert sorted(claim_all(bitmap)) == list(range(n_units))
    assert bitmap.n_claimed() == n_units
    assert bitmap.n_free() == 0
    assert all(bitmap.release(unit) for unit in range(n_units))
    assert bitmap.n_claimed() == 0
    assert bitmap.longest_free() == n_units


@pytest.mark.parametrize("order", range(7))
@pytest.mark.parametrize("n_units", [1, 63, 64, 65, 127, 128, 200])
def test_blocks_are_aligned_and_do_not_overlap(order, n_units):
    bitmap = BitmapProbe(n_units)
    size = 1 << order
    free_at_first = bitmap.n_free(size)
    claimed = claim_all(bitmap, order)
    assert sorted(claimed) == list(range(0, n_units - size + 1, size))
    assert free_at_first == len(claimed)
    assert bitmap.n_claimed() == len(claimed) * size


def test_a_block_fits_wherever_its_units_are_free():
    for hole in range(0, 64, 8):
        bitmap = BitmapProbe(64)
        claim_all(bitmap)
        assert bitmap.release(hole, 8)
        assert bitmap.claim(4) == -1
        assert bitmap.claim(3) == hole


def test_a_gap_that_is_not_aligned_holds_no_block():
    bitmap = BitmapProbe(64)
    claim_all(bitmap)
    assert bitmap.release(4, 8)  # units 4..11: no aligned 8, but two aligned 4
    assert bitmap.claim(3) == -1
    assert claim_all(bitmap, 2) == [4, 8]


def test_release_of_what_is_not_claimed_is_reported_and_writes_nothing():
    bitmap = BitmapProbe(200)
    assert not bitmap.release(7)
    assert bitmap.claim(2) == 0
    for unit, n_units in [(0, 8), (2, 4), (3, 2), (64, 1), (60, 10)]:
        assert not bitmap.release(unit, n_units)
        assert [bitmap.is_claimed(unit) for unit in range(5)] == [True] * 4 + [False]
        assert bitmap.n_claimed() == 4
    assert bitmap.release(0, 4)
    assert not bitmap.release(0, 4)


def test_release_of_a_run_with_a_free_unit_writes_nothing():
    for unit in (150, 0):
        bitmap = BitmapProbe(256)
        assert bitmap.claim_run(200) == 0
        assert bitmap.release(unit)
        assert not bitmap.release(0, 200)
        assert bitmap.n_claimed() == 199


@pytest.mark.parametrize("n_units", [1, 63, 64, 65, 100, 128, 129, 200])
@pytest.mark.parametrize("align_units", [1, 16, 64])
def test_run_takes_the_first_place_that_fits(n_units, align_units):
    bitmap = BitmapProbe(320)
    assert bitmap.claim_run(5) == 0
    begin = -(-5 // align_units) * align_units
    expected = begin if begin + n_units <= 320 else -1
    assert bitmap.claim_run(n_units, align_units) == expected
    assert bitmap.n_claimed() == 5 + (n_units if expected >= 0 else 0)


def test_run_that_does_not_fit_leaves_nothing_claimed():
    bitmap = BitmapProbe(300)
    bitmap.claim_run(1, zone=(150, 300))
    assert bitmap.claim_run(151) == -1
    assert bitmap.claim_run(301) == -1
    assert bitmap.claim_run(1 << 62) == -1
    assert bitmap.n_claimed() == 1


@pytest.mark.parametrize("zone", [(0, 64), (3, 5), (60, 70), (64, 128), (1, 199), (100, 100), (128, 200)])
def test_search_stays_inside_its_zone(zone):
    bitmap = BitmapProbe(200)
    assert sorted(claim_all(bitmap, zone=zone)) == list(range(*zone))
    assert bitmap.n_claimed() == zone[1] - zone[0]
    assert bitmap.claim_run(1, zone=zone) == -1
    assert bitmap.longest_free(zone) == 0


def test_full_word_is_marked_once_seen_and_unmarked_by_release():
    bitmap = BitmapProbe(128)
    for _ in range(64):
        bitmap.claim(zone=(0, 64))
    assert not bitmap.is_marked_full(0)  # nobody has looked at it in vain
    assert bitmap.claim() == 64
    assert bitmap.is_marked_full(0)
    assert bitmap.release(17)
    assert not bitmap.is_marked_full(0)
    assert bitmap.claim(zone=(0, 64)) == 17


def test_claim_finds_the_last_hole_behind_many_marked_words():
    bitmap = BitmapProbe(64 * 300)
    claim_all(bitmap)
    for hole in (0, 64 * 64, 64 * 299 + 63, 12_345):
        assert bitmap.release(hole)
        assert bitmap.claim() == hole
        assert bitmap.claim() == -1


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("order", [0, 2, 6])
def test_pairs_in_threads_leave_the_bitmap_as_it_was(order, n_threads):
    bitmap = BitmapProbe(4096)
    assert bitmap.pairs_ns(20_000, order, n_threads, depth=4) > 0
    assert bitmap.n_claimed() == 0
    assert bitmap.n_lost() == 0


@pytest.mark.parametrize("depth", [16, 60])
def test_threads_on_a_bitmap_that_is_nearly_full_lose_no_word(depth):
    """Words are seen full, marked and unmarked all the time; in the end each with room is found again."""
    bitmap = BitmapProbe(256)
    for _ in range(20):
        bitmap.pairs_ns(5_000, 0, 4, depth)
        assert bitmap.n_lost() == 0
    assert len(claim_all(bitmap)) == 256


def test_a_lost_word_is_counted():
    bitmap = BitmapProbe(128)
    bitmap.mark_full(1)
    assert bitmap.n_lost() == 1
    assert sorted(claim_all(bitmap)) == list(range(64))


def test_pairs_tell_when_claims_failed():
    bitmap = BitmapProbe(64)
    claim_all(bitmap)
    with pytest.raises(RuntimeError, match="claims failed"):
        bitmap.pairs_ns(10)
