"""Frechet video distance: how far a set of videos is from another set.

It is a distance between sets and has no value for a single clip: use `FrechetVideoDistance`, or
`frechet_distance` over your own features. Shapes: n clips, f frames, d features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs, MetricValue

NAME = "fvd"
LEAST_CLIPS = 1000
"""Below this the estimate depends on n more than on the videos."""
LEAST_FRAMES, SIDE = 10, 224
HOW_TO_GET_I3D = (
    "place a TorchScript I3D (Kinetics-400, 400 logits) on this machine and pass its path to "
    "metrics.fvd.load_detector"
)
Detector = Callable[[Tensor], Tensor]
"""Maps (n, 3, f, 224, 224) in [-1, 1] to (n, d) features."""


def frechet_distance(one: Tensor, two: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets (n, d), (m, d): float64 scalar.

    Covariances divide by n - 1. tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of the
    symmetric C1^(1/2) C2 C1^(1/2).
    """
    one, two = one.double(), two.double()
    shift = (one.mean(0) - two.mean(0)).square().sum()
    first, second = (torch.atleast_2d(torch.cov(part.T)) for part in (one, two))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return shift + first.trace() + second.trace() - 2 * mixed


def prepare_clip(frames: Tensor) -> Tensor:
    """(f, 3, h, w) in [0, 1] -> (1, 3, f, 224, 224) in [-1, 1], squashed bilinearly.

    Raises NotAvailable for fewer than 10 frames.
    """
    if len(frames) < LEAST_FRAMES:
        raise NotAvailable(NAME, f"needs {LEAST_FRAMES} frames a clip, not {len(frames)}")
    resized = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (resized * 2 - 1).transpose(0, 1)[None]


def load_detector(path: str | Path, **options: Any) -> Detector:
    """Load a TorchScript network from a file; `options` go to every call of it.

    The published I3D scripts want rescale=False, resize=False, return_features=True. Raises
    NotAvailable when there is no such file.
    """
    if not Path(path).is_file():
        raise NotAvailable(NAME, f"no feature network at {path}", HOW_TO_GET_I3D)
    network = torch.jit.load(str(path), map_location="cpu").eval()
    return lambda clips: network(clips, **options)


def fvd(inputs: MetricInputs) -> MetricValue:
    """`fvd` has no value for one clip: always raises NotAvailable."""
    what = f"is a distance between two sets of {LEAST_CLIPS} clips or more, not a score of one clip"
    raise NotAvailable(NAME, what, "use metrics.fvd.FrechetVideoDistance")


class FrechetVideoDistance(Metric):
    """`fvd` of two sets of clips; keeps the features of all of them.

    detector: the feature network. least: smallest number of clips of each set for which `compute`
    gives a value.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    made: list[Tensor]
    real: list[Tensor]

    def __init__(
        self, detector: Detector | None = None, least: int = LEAST_CLIPS, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.detector = detector
        self.least = least
        self.add_state("made", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, frames: Tensor, *, real: bool) -> None:
        """Add a clip (f, 3, h, w) in [0, 1] to the real or to the generated ones."""
        if self.detector is None:
            raise NotAvailable(NAME, "needs a feature network", HOW_TO_GET_I3D)
        with torch.no_grad():
            (self.real if real else self.made).append(self.detector(prepare_clip(frames)))

    def compute(self) -> Tensor:
        """Return the distance. Raises NotAvailable when a set is too small."""
        made, real = (_stack(part) for part in (self.made, self.real))
        if min(len(made), len(real)) < self.least:
            what = f"needs {self.least} clips in each set, not {len(made)} and {len(real)}"
            raise NotAvailable(NAME, what, "report the per-clip metrics instead")
        return frechet_distance(made, real)


def _stack(features: list[Tensor] | Tensor) -> Tensor:
    """Features as kept here, or as torchmetrics leaves them after a reduction."""
    if isinstance(features, Tensor):
        return features
    return torch.cat(features) if features else torch.empty(0, 1)
