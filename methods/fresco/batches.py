"""Key frames in batches that share frames, so that long clips stay of one piece."""

from __future__ import annotations

from dataclasses import dataclass

ANCHORS = 2
FEWEST_NEW = 3


@dataclass(frozen=True)
class Batch:
    """Key frames that are drawn together.

    members: positions in the list of key frames, ascending. known: how many of them, from the
        front, were drawn by earlier batches: 0, or 2 (the clip's first and the newest).
    """

    members: tuple[int, ...]
    known: int


def make_batches(count: int, size: int) -> tuple[Batch, ...]:
    """Divide `count` key frames into batches of at most `size` (>= 3).

    The first batch begins at the beginning; each later one holds the very first key frame, the last
    of the batch before, and new ones (paper section 4.3). A last batch with fewer than three new
    ones takes some from the batch before it, as far as that stays filled. One batch is enough where
    all fit.
    """
    if size <= ANCHORS:
        raise ValueError(f"a batch holds 3 frames or more, not {size}")
    if count <= size:
        return (Batch(tuple(range(count)), 0),)
    fresh = size - ANCHORS
    starts = [0, *range(size, count, fresh)]
    wanted = min(FEWEST_NEW, fresh)
    lacking = wanted - (count - starts[-1])
    if lacking > 0:
        starts[-1] -= min(lacking, starts[-1] - starts[-2] - 1)
    ends = [*starts[1:], count]
    first = Batch(tuple(range(ends[0])), 0)
    later = (
        Batch((0, start - 1, *range(start, end)), ANCHORS)
        for start, end in zip(starts[1:], ends[1:], strict=True)
    )
    return first, *later
