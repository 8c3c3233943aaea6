"""Which steps are smoothed, which frames are replaced, how a long video is cut. Torch-free.

Frames are counted from 0. The released code is YBYBZhang/ControlVideo at 4eac95f.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Parity = Literal["repo", "paper"]
Boundary = Literal["pull", "keep"]
Replaced = Literal["odd", "even"]

SMALLEST_WINDOW = 3
"""Frames: two keys and one between them."""


def smoothed_steps(
    steps: int, at: float, count: int, remaining: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Return the loop indices, 0 .. steps - 1, of the steps that are smoothed, ascending.

    Steps are counted by how many remain, the step itself included, so that a choice means a noise
    level and not a number of steps already taken.

    at: share of the steps that remains at the first smoothed one; never fewer than `count` steps.
    count: consecutive steps from there on.
    remaining: replaces both: the exact counts, as `smooth_steps` of the released code.
    """
    first = max(count, round(at * steps))
    counts = range(first, first - count, -1) if remaining is None else remaining
    return tuple(sorted({steps - left for left in counts}))


def replaced_frames(index: int, steps: int, parity: Parity) -> Replaced:
    """Return which frames the step `index` of `steps` replaces.

    `repo`: an even loop index replaces the odd frames. `paper`: Algorithm 1, where even t replaces
    the even frames; t counts as in `smoothed_steps`.
    """
    if parity == "repo":
        return "odd" if index % 2 == 0 else "even"
    return "even" if (steps - index) % 2 == 0 else "odd"


def middle_frames(
    frames: int, replaced: Replaced, boundary: Boundary
) -> tuple[tuple[int, int, int], ...]:
    """Return (left, right, replaced) for each frame that becomes the middle of two others.

    With `pull` the end frames among the even ones become the middle of themselves and their only
    neighbour, as in the released code; with `keep` they stay. A last frame that is odd stays.
    """
    triples = []
    for frame in range(1 if replaced == "odd" else 0, frames, 2):
        left, right = max(frame - 1, 0), min(frame + 1, frames - 1)
        inside = right - left == 2
        if inside or (boundary == "pull" and replaced == "even"):
            triples.append((left, right, frame))
    return tuple(triples)


@dataclass(frozen=True)
class Clip:
    """Frames between two keys. `batch`: as the networks see them, keys first."""

    left: int
    right: int
    interior: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """Frame numbers of the left key, the right key and the interior."""
        return (self.left, self.right, *self.interior)


@dataclass(frozen=True)
class VideoLayout:
    """A long video, cut: `keys` are sampled together, then each of `clips` on its own."""

    keys: tuple[int, ...]
    clips: tuple[Clip, ...]

    @property
    def evaluations(self) -> int:
        """Frames that pass through the networks per step."""
        return len(self.keys) + sum(len(clip.batch) for clip in self.clips)


def window_of(frames: int, window: int | Literal["sqrt"]) -> int:
    """Return the window in frames; `sqrt` is the released command line's int(sqrt(frames))."""
    return math.isqrt(frames) if window == "sqrt" else window


def cut_video(frames: int, window: int) -> VideoLayout:
    """Cut a video of `frames` frames: every (window - 1)th frame is a key, and the last one.

    Neighbouring keys without frames between them make no clip. Raises ValueError for a window of
    fewer than 3 frames.
    """
    if window < SMALLEST_WINDOW:
        raise ValueError(f"a window of {window} frames has no interior")
    keys = tuple(sorted({*range(0, frames, window - 1), frames - 1}))
    clips = (Clip(a, b, tuple(range(a + 1, b))) for a, b in pairwise(keys))
    return VideoLayout(keys, tuple(clip for clip in clips if clip.interior))
