"""The segment loop: a long talking clip is drawn a few frames at a time, each from the last ones.

Every segment is a sampling run of its own; what ties it to the one before are its motion frames,
pictures of which the networks see features. Nothing here knows the networks.

Shapes: T frames of sound, n motion frames, f frames of a segment, h height, w width; pictures are
float32 in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SAMPLE_RATE, FPS = 16_000, 25
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
GREY = 0.5
MotionSource = Literal["previous", "reference", "grey"]
# (segment, motion frames (n, 3, h, w)) -> frames (f, 3, h, w)
DrawSegment = Callable[["Segment", Tensor], Tensor]


@dataclass(frozen=True)
class Segment:
    """Frames `start` .. `stop` of a clip, drawn together; `index` counts from 0."""

    index: int
    start: int
    stop: int

    @property
    def frames(self) -> slice:
        """Where the segment lies among the frames of the sound."""
        return slice(self.start, self.stop)


def sound_frames(samples: int) -> int:
    """Frames at 25 fps that hold `samples` samples at 16 kHz, the last one perhaps in part."""
    return math.ceil(samples / SAMPLE_RATE * FPS)


def padded_frames(samples: int, length: int) -> int:
    """Frames that `samples` samples fill, made a multiple of `length`."""
    return -(-sound_frames(samples) // length) * length


def padded_samples(samples: int, length: int) -> int:
    """Samples after zeros were added so that the frames fill segments of `length` frames.

    Whole frames are added to what there is, so the end of the last frame may stay cut off.
    """
    missing = padded_frames(samples, length) - sound_frames(samples)
    return samples + missing * SAMPLES_PER_FRAME


def plan_segments(frames: int, length: int) -> tuple[Segment, ...]:
    """Return the segments of `length` frames that hold `frames` frames; the last may exceed them.

    What exceeds them is drawn from padded sound and cut off at the end.
    """
    count = math.ceil(frames / length)
    return tuple(Segment(i, i * length, (i + 1) * length) for i in range(count))


def audio_windows(frames: int, reach: int = 2) -> Tensor:
    """Return the features that each frame hears: indices (T, 2 reach + 1) int64.

    They are clamped to the whole padded clip, before it is cut into segments.
    """
    offsets = torch.arange(-reach, reach + 1)
    return (torch.arange(frames)[:, None] + offsets).clamp(0, frames - 1)


def motion_pictures(source: MotionSource, reference: Tensor, drawn: Tensor, count: int) -> Tensor:
    """Return the motion frames of the next segment, (n, 3, h, w).

    Args:
        source: "previous" takes the last frames that were drawn, copies of the reference before
            the first segment (as released); "reference" always copies; "grey" is what training
            puts in their place when it drops them.
        reference: (3, h, w).
        drawn: frames so far, (f, 3, h, w) with f = 0 before the first segment.
        count: n.
    """
    copies = reference.expand(count, *reference.shape)
    if source == "grey":
        return torch.full_like(copies, GREY)
    if source == "reference" or len(drawn) < count:
        return copies.clone()
    return drawn[len(drawn) - count :]


def draw_segments(
    draw: DrawSegment,
    reference: Tensor,
    frames: int,
    length: int,
    motion_frames: int,
    source: MotionSource = "previous",
) -> Tensor:
    """Draw a clip segment by segment: (frames, 3, h, w).

    Args:
        draw: makes the frames of one segment; called in order.
        reference: the portrait, (3, h, w).
        frames: of the clip, at least 1; what the last segment draws beyond them is cut off.
        length: frames of a segment.
        motion_frames: n; 0 lets every segment start anew.
        source: of the motion frames, see `motion_pictures`.
    """
    drawn = reference.new_empty(0, *reference.shape)
    for segment in plan_segments(frames, length):
        motion = motion_pictures(source, reference, drawn, motion_frames)
        drawn = torch.cat([drawn, draw(segment, motion)])
    return drawn[:frames]
