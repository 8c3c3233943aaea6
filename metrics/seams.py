"""Seams: jumps where a video was made in parts. Shapes: f frames, b borders between parts.

Parts are what was decoded together, or drawn together: chunks of a decoder, segments of a long run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.flicker import consecutive_mae

NAME = "seam/ratio"
STILL = 0.1 / 255
"""Mean change between frames, below which only rounding is left."""


def seam_ratio(frames: Tensor, borders: Sequence[int]) -> Tensor:
    """Change across each border over the mean change elsewhere: (b,) float64.

    frames: (f, 3, h, w) in [0, 1]. borders: frames 0 < t < f that were made apart from frame
    t - 1. Raises NotAvailable without borders, where every pair is one, and for a still video.
    """
    change = consecutive_mae(frames)
    at = torch.zeros(len(change), dtype=torch.bool)
    at[[border - 1 for border in borders]] = True
    if not at.any():
        raise NotAvailable(NAME, "the video was made at once", "make it in smaller parts")
    if at.all():
        raise NotAvailable(NAME, "every frame was made by itself, so nothing lies between seams")
    elsewhere = change[~at].mean()
    if elsewhere < STILL:
        raise NotAvailable(NAME, "the video stands still between its seams")
    return change[at] / elsewhere


def ratio(inputs: MetricInputs) -> MetricValue:
    """`seam/ratio`: one value per border."""
    if inputs.borders is None:
        raise NotAvailable(NAME, "nobody told where the video was made in parts")
    return mean_of(seam_ratio(inputs.frames, inputs.borders), borders=list(inputs.borders))


class SeamRatio(ClipMean):
    """`seam/ratio` over many clips: frames (f, 3, h, w) in [0, 1] and borders."""

    series = staticmethod(seam_ratio)
