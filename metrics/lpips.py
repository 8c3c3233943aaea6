"""LPIPS (Zhang et al. 2018) between frames, over AlexNet.

The linear weights are those of the authors' version 0.1, which torchmetrics carries unchanged.
Shapes: n pictures, f frames, p = f-1 pairs, h height, w width.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import require_source
from metrics.trunks import Trunk, load_alexnet

CONSECUTIVE, TO_SOURCE, TEMPORAL = "lpips/consecutive", "lpips/to_source", "tlpips"
SMALLEST_SIDE = 32  # pixels; less does not survive AlexNet's two poolings
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """The distance. weights: per tapped layer of the trunk, (d,) weights of its channels."""

    def __init__(self, trunk: Trunk, weights: list[Tensor]) -> None:
        super().__init__()
        self.trunk = trunk
        self.weights = weights

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Two (n, 3, h, w) in [0, 1] -> (n,) distances, 0 for equal pictures."""
        layers = zip(self._features(one), self._features(two), self.weights, strict=True)
        distances = [
            ((a - b).square() * weight.view(1, -1, 1, 1)).sum(1).mean((1, 2))
            for a, b, weight in layers
        ]
        return torch.stack(distances).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (images.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        tapped = self.trunk((images * 2 - 1 - shift) / scale)
        return [F.normalize(layer, dim=1, eps=1e-10) for layer in tapped]


def load_lpips() -> Lpips:
    """LPIPS over AlexNet. Raises NotAvailable when AlexNet's weights are absent."""
    trunk = load_alexnet()
    state = torch.load(linear_weights(), map_location="cpu", weights_only=True)
    return Lpips(trunk, [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)])


def linear_weights() -> Path:
    """Return torchmetrics' copy of the authors' linear weights for AlexNet."""
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise NotAvailable("lpips", "needs torchmetrics", "pip install torchmetrics")
    return Path(package.origin).parent / "functional" / "image" / "lpips_models" / "alex.pth"


def consecutive_lpips(frames: Tensor, distance: nn.Module) -> Tensor:
    """(f, 3, h, w) in [0, 1] -> (p,) distances of frames t and t+1."""
    require_pairs(CONSECUTIVE, len(frames))
    distances: Tensor = distance(frames[:-1], frames[1:])
    return distances


def lpips_to(frames: Tensor, source: Tensor, distance: nn.Module) -> Tensor:
    """Two (f, 3, h, w) in [0, 1] -> (f,) distances frame by frame."""
    distances: Tensor = distance(frames, source)
    return distances


def temporal_lpips(frames: Tensor, source: Tensor, distance: nn.Module) -> Tensor:
    """100 |LPIPS of the output's pair - LPIPS of the source's pair|: (p,) (TecoGAN's tLP)."""
    return 100 * (consecutive_lpips(frames, distance) - consecutive_lpips(source, distance)).abs()


def consecutive(inputs: MetricInputs) -> MetricValue:
    """`lpips/consecutive`: one value per pair."""
    require_pairs(CONSECUTIVE, len(inputs.frames))
    return mean_of(consecutive_lpips(inputs.frames, _network(CONSECUTIVE, inputs)))


def to_source(inputs: MetricInputs) -> MetricValue:
    """`lpips/to_source`: one value per frame."""
    source = require_source(TO_SOURCE, inputs)
    return mean_of(lpips_to(inputs.frames, source, _network(TO_SOURCE, inputs)))


def temporal(inputs: MetricInputs) -> MetricValue:
    """`tlpips`: one value per pair."""
    require_pairs(TEMPORAL, len(inputs.frames))
    source = require_source(TEMPORAL, inputs)
    return mean_of(temporal_lpips(inputs.frames, source, _network(TEMPORAL, inputs)))


def _network(metric: str, inputs: MetricInputs) -> Lpips:
    if min(inputs.frames.shape[-2:]) < SMALLEST_SIDE:
        raise NotAvailable(metric, f"needs {SMALLEST_SIDE} pixels a side")
    return inputs.resident.get("lpips", load_lpips)


class ConsecutiveLpips(ClipMean):
    """`lpips/consecutive` over clips: frames (f, 3, h, w) in [0, 1], the distance."""

    higher_is_better = False
    series = staticmethod(consecutive_lpips)


class SourceLpips(ClipMean):
    """`lpips/to_source` over clips: frames and source (f, 3, h, w) in [0, 1], the distance."""

    higher_is_better = False
    series = staticmethod(lpips_to)


class TemporalLpips(ClipMean):
    """`tlpips` over clips: frames and source (f, 3, h, w) in [0, 1], the distance."""

    higher_is_better = False
    series = staticmethod(temporal_lpips)
