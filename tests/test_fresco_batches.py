"""Batches of key frames: every frame once, in batches that share their anchors."""

from __future__ import annotations

from itertools import pairwise

import pytest

from methods.fresco.batches import make_batches

PAIRS = [(count, size) for size in range(3, 10) for count in range(1, 40)]


@pytest.mark.parametrize(("count", "size"), PAIRS)
def test_every_key_frame_is_drawn_once_and_later_batches_begin_with_their_anchors(count, size):
    batches = make_batches(count, size)
    drawn = [member for batch in batches for member in batch.members[batch.known :]]
    assert drawn == list(range(count))
    assert max(len(batch.members) for batch in batches) <= size
    for before, batch in pairwise(batches):
        assert batch.known == 2
        assert batch.members[:2] == (0, before.members[-1])
        assert batch.members[1] > 0
    assert batches[0].known == 0


def test_batches_of_the_paper():
    """Batch k holds {1, (k-1)(N-2)+2, ..., k(N-2)+2}, counted from 1 (section 4.3)."""
    size, batches = 8, make_batches(32, 8)
    for k, batch in enumerate(batches[1:], start=2):
        low, high = (k - 1) * (size - 2) + 2, k * (size - 2) + 2
        assert [member + 1 for member in batch.members] == [1, *range(low, high + 1)]


def test_a_short_tail_borrows():
    assert [len(batch.members) - batch.known for batch in make_batches(15, 8)] == [8, 4, 3]


def test_all_in_one_batch():
    assert [batch.members for batch in make_batches(8, 8)] == [tuple(range(8))]
    with pytest.raises(ValueError, match="3 frames or more"):
        make_batches(8, 2)
