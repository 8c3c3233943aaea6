"""Frechet video distance: how far a set of videos is from another set.

It is a distance between sets and has no value for a single clip. In a grid every cell keeps its
features, and reports compare the cells of a row with those of the sentinel `source`; elsewhere use
`FrechetVideoDistance`. Shapes: n clips, f frames, d features.
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
from crossframe.weights import NETWORKS, locate
from metrics import frechet
from metrics.base import ClipFeatures, MetricInputs
from metrics.tables.networks import LEAST_CLIPS

NAME = "fvd"
LEAST_FRAMES, SIDE = 10, 224
I3D_OPTIONS = {"rescale": False, "resize": False, "return_features": True}
"""What the published TorchScript I3D wants to hear, to give logits of clips prepared here."""
Detector = Callable[[Tensor], Tensor]
"""Maps (n, 3, f, 224, 224) in [-1, 1] to (n, d) features."""


def frechet_distance(one: Tensor, two: Tensor) -> Tensor:
    """`metrics.frechet.frechet_distance` of two sets (n, d), (m, d): float64 scalar."""
    first, second = (part.detach().double().cpu().numpy() for part in (one, two))
    return torch.tensor(frechet.frechet_distance(first, second), dtype=torch.float64)


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
        raise NotAvailable(NAME, f"no feature network at {path}", NETWORKS["i3d"].command)
    network = torch.jit.load(str(path), map_location="cpu").eval()
    return lambda clips: network(clips, **options)


def load_i3d() -> Detector:
    """The published I3D in torch's folder of checkpoints. NotAvailable when it is absent."""
    return load_detector(locate("i3d"), **I3D_OPTIONS)


def fvd(inputs: MetricInputs) -> ClipFeatures:
    """`fvd`: the features of one clip, which have a value only as part of a set.

    Raises NotAvailable for fewer than 10 frames, or without the weights.
    """
    clip = prepare_clip(inputs.frames)
    detector = inputs.resident.get("i3d", load_i3d)
    features = detector(clip).flatten().float()
    return ClipFeatures(tuple(features.tolist()), {"network": NETWORKS["i3d"].id})


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
            raise NotAvailable(NAME, "needs a feature network", NETWORKS["i3d"].command)
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
