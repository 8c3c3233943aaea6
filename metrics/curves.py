"""Saturation, contrast and sharpness over time, against those of the picture at the beginning.

Guidance that is too strong shows in them: colours burn in and edges harden, often more from frame
to frame. The picture is the first frame of the source clip. Shapes: f frames, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.shared import require_source
from metrics.sync import LUMA

Curve = Callable[[Tensor, Tensor], Tensor]
"""(frames (f, 3, h, w), picture (1, 3, h, w)) -> (f,)."""
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
LEVEL = 1 / 255


def saturation(frames: Tensor) -> Tensor:
    """Mean over pixels of largest minus smallest channel: (f, 3, h, w) in [0, 1] -> (f,) float64.

    Not divided by brightness, as HSV's saturation is, so the noise of dark pixels does not count.
    """
    low, high = frames.double().aminmax(dim=1)
    return (high - low).mean((1, 2))


def tone_spread(frames: Tensor) -> Tensor:
    """Standard deviation of Rec. 601 luma over pixels: (f, 3, h, w) in [0, 1] -> (f,) float64."""
    return _luma(frames).flatten(1).std(1, correction=0)


def sharpness(frames: Tensor) -> Tensor:
    """Variance of the Laplacian of luma over inner pixels: (f, 3, h, w), h, w >= 3 -> (f,).

    float64; the Laplacian is that of four neighbours (Pech-Pacheco et al. 2000).
    """
    kernel = torch.tensor(LAPLACIAN, dtype=torch.float64).view(1, 1, 3, 3)
    edges = F.conv2d(_luma(frames)[:, None], kernel.to(frames.device))
    return edges.flatten(1).var(1, correction=0)


def saturation_curve(frames: Tensor, picture: Tensor) -> Tensor:
    """Saturation of each frame over the picture's: (f,). NotAvailable for a grey picture."""
    return _relative("saturation", saturation, frames, picture, LEVEL)


def contrast_curve(frames: Tensor, picture: Tensor) -> Tensor:
    """Contrast of each frame over the picture's: (f,). NotAvailable for a flat picture."""
    return _relative("contrast", tone_spread, frames, picture, LEVEL)


def sharpness_curve(frames: Tensor, picture: Tensor) -> Tensor:
    """Sharpness of each frame over the picture's: (f,). NotAvailable for a flat picture."""
    return _relative("sharpness", sharpness, frames, picture, LEVEL**2)


def saturation_ratio(inputs: MetricInputs) -> MetricValue:
    """`saturation/ratio`: one value per frame."""
    return mean_of(_series("saturation/ratio", saturation_curve, inputs))


def saturation_last(inputs: MetricInputs) -> MetricValue:
    """`saturation/last`: the value of the last frame; the series has all."""
    return _last(_series("saturation/last", saturation_curve, inputs))


def contrast_ratio(inputs: MetricInputs) -> MetricValue:
    """`contrast/ratio`: one value per frame."""
    return mean_of(_series("contrast/ratio", contrast_curve, inputs))


def sharpness_ratio(inputs: MetricInputs) -> MetricValue:
    """`sharpness/ratio`: one value per frame."""
    return mean_of(_series("sharpness/ratio", sharpness_curve, inputs))


def sharpness_last(inputs: MetricInputs) -> MetricValue:
    """`sharpness/last`: the value of the last frame; the series has all."""
    return _last(_series("sharpness/last", sharpness_curve, inputs))


def _luma(frames: Tensor) -> Tensor:
    """(f, 3, h, w) -> (f, h, w) float64."""
    return (frames.double() * frames.new_tensor(LUMA).double().view(1, 3, 1, 1)).sum(1)


def _relative(
    what: str, measure: Callable[[Tensor], Tensor], frames: Tensor, picture: Tensor, least: float
) -> Tensor:
    reference = measure(picture)
    if reference.item() < least:
        reason = f"the first source frame has hardly any ({reference.item():.2g})"
        raise NotAvailable(what, reason, "choose another clip")
    return measure(frames) / reference


def _series(metric: str, curve: Curve, inputs: MetricInputs) -> Tensor:
    return curve(inputs.frames, require_source(metric, inputs)[:1])


def _last(series: Tensor) -> MetricValue:
    return MetricValue(series[-1].item(), tuple(series.tolist()))


class SaturationRatio(ClipMean):
    """`saturation/ratio` over many clips: frames (f, 3, h, w) and picture (1, 3, h, w)."""

    series = staticmethod(saturation_curve)


class ContrastRatio(ClipMean):
    """`contrast/ratio` over many clips: frames (f, 3, h, w) and picture (1, 3, h, w)."""

    series = staticmethod(contrast_curve)


class SharpnessRatio(ClipMean):
    """`sharpness/ratio` over many clips: frames (f, 3, h, w) and picture (1, 3, h, w).

    For the metrics `.../last`, give the last frame (1, 3, h, w) alone.
    """

    series = staticmethod(sharpness_curve)
