"""tOF: how much the flow of the output differs from that of the source, with Farneback's method.

Shapes: f frames, p = f-1 pairs, h height, w width.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from crossframe.flow.fields import to_levels
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import require_source

NAME = "tof"
SCALE, LEVELS, WINDOW, STEPS, NEIGHBOURS, SIGMA = 0.5, 3, 15, 3, 5, 1.2


def farneback(frames: np.ndarray) -> Tensor:
    """(f, h, w, 3) uint8 RGB -> flow (p, 2, h, w), with the settings of TecoGAN's metrics."""
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    settings = (SCALE, LEVELS, WINDOW, STEPS, NEIGHBOURS, SIGMA, 0)
    flows = [cv2.calcOpticalFlowFarneback(one, two, None, *settings) for one, two in pairwise(grey)]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)


def flow_difference(output: Tensor, source: Tensor) -> Tensor:
    """Mean length of the difference of two flows (p, 2, h, w): (p,) float64 pixels."""
    return (output - source).double().square().sum(1).sqrt().mean((1, 2))


def tof(inputs: MetricInputs) -> MetricValue:
    """`tof`: one value per pair, pixels. Raises NotAvailable for a single frame."""
    require_pairs(NAME, len(inputs.frames))
    videos = inputs.frames, require_source(NAME, inputs)
    return mean_of(flow_difference(*(farneback(to_levels(video)) for video in videos)))


class TemporalFlowDifference(ClipMean):
    """`tof` over many clips: flow of output and source, each (p, 2, h, w)."""

    higher_is_better = False
    series = staticmethod(flow_difference)
