"""Frame consistency: cosines between the embeddings of a clip's frames.

Shapes: f frames, d embedding size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import image_features, require_encoder

CONSECUTIVE, ALL_PAIRS = "clip_frame/consecutive", "clip_frame/all_pairs"
FIRST, VBENCH = "clip_frame/first", "clip_frame/vbench"


def consecutive_cosines(features: Tensor) -> Tensor:
    """(f, d) embeddings of any length -> (f-1,) cosines of frames t and t+1. Needs f >= 2."""
    require_pairs(CONSECUTIVE, len(features))
    return F.cosine_similarity(features[:-1], features[1:], dim=-1)


def all_pairs_cosines(features: Tensor) -> Tensor:
    """(f, d) embeddings of any length -> (f,) mean cosine of a frame with the others; f >= 2.

    Their mean is that over all ordered pairs of different frames (TGVE 2023, `clip_score_frame`).
    """
    require_pairs(ALL_PAIRS, len(features))
    unit = F.normalize(features, dim=-1)
    cosines = unit @ unit.T
    return (cosines.sum(1) - cosines.diagonal()) / (len(features) - 1)


def first_cosines(features: Tensor) -> Tensor:
    """(f, d) embeddings of any length -> (f-1,) cosines of frame 0 and frame t; f >= 2."""
    require_pairs(FIRST, len(features))
    return F.cosine_similarity(features[:1], features[1:], dim=-1)


def vbench_cosines(features: Tensor) -> Tensor:
    """(f, d) embeddings of any length -> (f-1,) mean of two cosines, each not below 0; f >= 2.

    The two are with the frame before and with the first frame (VBench, subject and background
    consistency).
    """
    require_pairs(VBENCH, len(features))
    return (consecutive_cosines(features).clamp(min=0) + first_cosines(features).clamp(min=0)) / 2


def consecutive(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/consecutive`: one value per pair (t, t+1)."""
    return _consistency(CONSECUTIVE, consecutive_cosines, inputs)


def all_pairs(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/all_pairs`: one value per frame."""
    return _consistency(ALL_PAIRS, all_pairs_cosines, inputs)


def first(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/first`: one value per frame after the first."""
    return _consistency(FIRST, first_cosines, inputs)


def vbench(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/vbench`: one value per frame after the first."""
    return _consistency(VBENCH, vbench_cosines, inputs)


def _consistency(
    name: str, cosines: Callable[[Tensor], Tensor], inputs: MetricInputs
) -> MetricValue:
    require_pairs(name, len(inputs.frames))
    encoder = require_encoder(name, inputs)
    return mean_of(cosines(image_features(name, inputs)), encoder=encoder.name)


class ConsecutiveFrameSimilarity(ClipMean):
    """`clip_frame/consecutive` over many clips, given by their (f, d) image embeddings."""

    higher_is_better = True
    series = staticmethod(consecutive_cosines)


class AllPairsFrameSimilarity(ClipMean):
    """`clip_frame/all_pairs` over many clips, given by their (f, d) image embeddings."""

    higher_is_better = True
    series = staticmethod(all_pairs_cosines)


class FirstFrameSimilarity(ClipMean):
    """`clip_frame/first` over many clips, given by their (f, d) image embeddings."""

    higher_is_better = True
    series = staticmethod(first_cosines)


class VBenchFrameSimilarity(ClipMean):
    """`clip_frame/vbench`, `dino_subject/vbench` over many clips, by (f, d) image embeddings.

    The mean is over clips. VBench's own is over all frames of all clips on one GPU, and over clips
    on several.
    """

    higher_is_better = True
    series = staticmethod(vbench_cosines)
