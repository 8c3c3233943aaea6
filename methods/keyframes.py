"""Key frames by how much the picture changes, after FRESCO (arXiv 2403.12962, Algorithm 1).

The released code measures change by the mean squared difference of consecutive frames, resized and
blurred; the paper writes the L2 distance of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from methods.base import SampleRequest
from methods.keyframe_config import KeyFrames

SHORT_SIDE, MULTIPLE, BLUR = 512, 64, 9


def only_frames(request: SampleRequest, frames: Sequence[int]) -> SampleRequest:
    """Return the request for some of its frames; `truth` stays that of the whole clip."""
    index = list(frames)
    controls = {kind: maps[index] for kind, maps in request.controls.items()}
    return replace(request, frames=request.frames[index], controls=controls)


def choose_keyframes(frames: np.ndarray, options: KeyFrames) -> tuple[int, ...]:
    """Return the key frames of (f, h, w, 3) uint8 RGB, ascending; frame 0 is always one."""
    count = len(frames)
    if options.min == options.max:
        spaced = range(0, count, options.min)
        return tuple(sorted({*spaced, count - 1})) if options.last else tuple(spaced)
    return greedy_keyframes(CHANGES[options.change](frames), options.min, options.max)


def greedy_keyframes(changes: Sequence[float], shortest: int, longest: int) -> tuple[int, ...]:
    """Return key frames: the first, the last, and the most changed between them.

    changes: of each frame against the one before. A new key frame is the first of the most
    changed; afterwards `shortest` frames before it and as many from it on are out of the question,
    as are the first and last `shortest` of the clip. It ends when no gap is longer than `longest`,
    or no frame is left.
    """
    keys = {0, len(changes) - 1}
    left = np.array(changes, dtype=np.float64)
    left[:shortest] = left[max(len(left) - shortest, 0) :] = -np.inf
    while _longest_gap(keys) > longest and np.isfinite(left).any():
        new = int(left.argmax())
        keys.add(new)
        left[max(new - shortest, 0) : new + shortest] = -np.inf
    return tuple(sorted(keys))


def frame_changes(frames: np.ndarray) -> list[float]:
    """Return how much each frame differs from the one before, 0 for the first.

    Mean squared difference in [-1, 1] at short side 512 (sides rounded to multiples of 64), blurred
    by a Gaussian of 9 x 9 pixels. frames: (f, h, w, 3) uint8 RGB.
    """
    changes, before = [0.0], None
    for frame in frames:
        now = _prepared(frame)
        if before is not None:
            changes.append(float(np.mean(np.square(now - before), dtype=np.float64)))
        before = now
    return changes


def plain_changes(frames: np.ndarray) -> list[float]:
    """Return how much each frame differs from the one before, 0 for the first: the L2 distance.

    frames: (f, h, w, 3) uint8 RGB; the distance is of values in [0, 1].
    """
    scaled = frames.astype(np.float64) / 255
    return [0.0, *(float(np.linalg.norm(b - a)) for a, b in pairwise(scaled))]


CHANGES: Mapping[str, Callable[[np.ndarray], list[float]]] = {
    "blurred": frame_changes,
    "plain": plain_changes,
}
"""Measures of change by name: (f, h, w, 3) uint8 RGB -> one number per frame."""


def _prepared(frame: np.ndarray) -> np.ndarray:
    """Resized and blurred, float32 in [-1, 1]."""
    height, width = frame.shape[:2]
    grow = SHORT_SIDE / min(height, width)
    sides = [int(np.round(side * grow / MULTIPLE)) * MULTIPLE for side in (width, height)]
    how = cv2.INTER_LANCZOS4 if grow > 1 else cv2.INTER_AREA
    resized = cv2.resize(np.ascontiguousarray(frame), sides, interpolation=how)
    blurred = cv2.GaussianBlur(resized, (BLUR, BLUR), 0)
    return blurred.astype(np.float32) / 127.5 - 1


def _longest_gap(keys: set[int]) -> int:
    return max((b - a for a, b in pairwise(sorted(keys))), default=0)
