"""Which frames of a longer video go with those of a shorter one, told from small pictures.

Shapes: n frames of the shorter, m of the longer, k the side of the small pictures. Torch-free.

Edits change colours and light but mostly keep outlines, so outlines are compared; and only how they
change over time counts, because what stands still says nothing about time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Pixels of a small picture's side; the video's shape is given up."""

CLEAR = 0.2
"""Least likeness at which a selection is believed. Excerpts of one clip at every seventh frame
reached 0.3 to 0.6 after tone curve and noise had ruined their grey values, and the best of all
selections from another clip 0.11."""

FEWEST = 4
"""Frames from which a likeness says anything."""

LEAST_CHANGE = 1e-6
"""Change over time, in grey levels, below which there is only rounding."""

Outlines = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """The selection of the longer video's frames that is most like the shorter video.

    likeness: in [-1, 1]. second, next_likeness: the best of the others that do not only shift it by
    a frame; None where there is none.
    """

    frames: range
    likeness: float
    second: range | None = None
    next_likeness: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the selection can be believed."""
        return len(self.frames) >= FEWEST and self.likeness >= CLEAR


def outlines(frames: NDArray[np.uint8]) -> Outlines:
    """Frames (f, h, w, 3) uint8 -> (f, k*k): the slope of small grey versions of them."""
    grey = np.stack([_small(frame) for frame in frames])
    return np.hypot(*np.gradient(grey, axis=(1, 2))).reshape(len(frames), -1)


def likeness(one: Outlines, other: Outlines) -> float:
    """Pearson correlation of two (n, k*k) over time and place, of what differs from the mean frame.

    0 where nothing moves.
    """
    a, b = one - one.mean(0), other - other.mean(0)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    return float((a * b).sum() / np.prod(lengths)) if min(lengths) > LEAST_CHANGE else 0.0


def align(shorter: Outlines, longer: Outlines) -> Alignment:
    """Return the evenly spaced frames of `longer` that are most like all of `shorter`; n <= m."""
    found = sorted(
        ((likeness(shorter, longer[frames]), frames) for frames in selections(shorter, longer)),
        key=lambda item: -item[0],
    )
    value, best = found[0]
    others = [item for item in found[1:] if not _shifted(item[1], best)]
    if not others:
        return Alignment(best, value)
    return Alignment(best, value, others[0][1], others[0][0])


def selections(shorter: Outlines, longer: Outlines) -> Iterator[range]:
    """Yield every evenly spaced choice of n of m frames, by step and start."""
    n, m = len(shorter), len(longer)
    for step in range(1, (m - 1) // (n - 1) + 1 if n > 1 else 2):
        for start in range(m - step * (n - 1)):
            yield range(start, start + step * (n - 1) + 1, step)


def written(frames: range) -> str:
    """Return START:STOP:STEP, as the command line takes it."""
    return f"{frames.start}:{frames[-1] + 1}:{frames.step}"


def _shifted(one: range, other: range) -> bool:
    return one.step == other.step and abs(one.start - other.start) <= 1


def _small(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    image = Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image, np.float64)
