"""Spatial consistency of FRESCO: whether parts that look alike in the source still do.

Shapes: f frames, d channels, h, w cells of the feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from metrics.shared import require_source
from metrics.trunks import load_vgg16

NAME = "spat_con/fresco"
SMALLEST_SIDE = 32  # pixels; 4x4 cells of relu4_3


def self_similarity_gap(features: Tensor, source: Tensor) -> Tensor:
    """Mean absolute difference of the frames' tables of cosines between cells: (f,) float64.

    features, source: (f, d, h, w). In [0, 2]; the table of FRESCO (2024), eq. for L_spat, as the
    mean absolute difference that its released code takes, without the factor 100.
    """
    return torch.stack(
        [
            (_cosines(one) - _cosines(two)).abs().double().mean()
            for one, two in zip(features, source, strict=True)
        ]
    )


def spat_con(inputs: MetricInputs) -> MetricValue:
    """`spat_con/fresco`: one value per frame. NotAvailable without VGG-16's weights."""
    source = require_source(NAME, inputs)
    if min(inputs.frames.shape[-2:]) < SMALLEST_SIDE:
        raise NotAvailable(NAME, f"needs {SMALLEST_SIDE} pixels a side")
    trunk = inputs.resident.get("vgg16", load_vgg16)
    features = (trunk(_normalised(video))[-1] for video in (inputs.frames, source))
    return mean_of(self_similarity_gap(*features))


def _cosines(features: Tensor) -> Tensor:
    """(d, h, w) -> (h w, h w) cosines between all pairs of cells."""
    cells = F.normalize(features.flatten(1), dim=0)
    return cells.T @ cells


def _normalised(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


class SelfSimilarityGap(ClipMean):
    """`spat_con/fresco` over many clips: features of output and source, each (f, d, h, w)."""

    higher_is_better = False
    series = staticmethod(self_similarity_gap)
