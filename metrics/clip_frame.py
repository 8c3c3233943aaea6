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


def consecutive(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/consecutive`: one value per pair (t, t+1)."""
    return _consistency(CONSECUTIVE, consecutive_cosines, inputs)


def all_pairs(inputs: MetricInputs) -> MetricValue:
    """`clip_frame/all_pairs`: one value per frame."""
    return _consistency(ALL_PAIRS, all_pairs_cosines, inputs)


def _consistency(
    name: str, cosines: Callable[[Tensor], Tensor], inputs: MetricInputs
) -> MetricValue:
    require_pairs(name, len(inputs.frames))
    encoder = require_encoder(name, inputs)
    return mean_of(cosines(image_features(name, inputs)), encoder=encoder.name)


class ConsecutiveFrameSimilarity(ClipMean):
    """`clip_frame/consecutive` over many clips."""

    higher_is_better = True

    def update(self, features: Tensor) -> None:
        """Add a clip by its (f, d) image embeddings."""
        self.add(consecutive_cosines(features))


class AllPairsFrameSimilarity(ClipMean):
    """`clip_frame/all_pairs` over many clips."""

    higher_is_better = True

    def update(self, features: Tensor) -> None:
        """Add a clip by its (f, d) image embeddings."""
        self.add(all_pairs_cosines(features))
