"""Likeness to the source: PSNR and SSIM, over whole frames or outside the edited objects.

Shapes: f frames, h height, w width.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.shared import require_source

CEILING = 100.0
"""PSNR of equal frames, decibels; without it a single frame makes the mean infinite."""
WINDOW, SIGMA = 11, 1.5
STABILISERS = (0.01**2, 0.03**2)


def psnr_series(frames: Tensor, source: Tensor, keep: Tensor | None = None) -> Tensor:
    """PSNR of each frame in decibels, at most 100: (f,) float64.

    frames, source: (f, 3, h, w) in [0, 1]. keep: (f, h, w) bool, the pixels that count.
    """
    squares = (frames - source).double().square().mean(1)
    error = _mean_over(squares, keep)
    return (-10 * error.clamp(min=10 ** (-CEILING / 10)).log10()).clamp(max=CEILING)


def ssim_map(frames: Tensor, source: Tensor) -> Tensor:
    """SSIM of each pixel, averaged over channels: (f, h-10, w-10) float64.

    frames, source: (f, 3, h, w) in [0, 1]. Gaussian window of 11 pixels, sigma 1.5; only pixels
    whose window lies inside the picture; K1 = 0.01, K2 = 0.03 (Wang et al. 2004).
    """
    x, y = frames.double(), source.double()
    x_mean, y_mean = _blur(x), _blur(y)
    x_var, y_var = _blur(x * x) - x_mean.square(), _blur(y * y) - y_mean.square()
    shared = _blur(x * y) - x_mean * y_mean
    one, two = STABILISERS
    likeness = (2 * x_mean * y_mean + one) * (2 * shared + two)
    return (likeness / ((x_mean**2 + y_mean**2 + one) * (x_var + y_var + two))).mean(1)


def ssim_series(frames: Tensor, source: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean SSIM of each frame: (f,) float64 in [-1, 1]. Arguments as of `psnr_series`.

    Raises NotAvailable for pictures smaller than the window.
    """
    if min(frames.shape[-2:]) < WINDOW:
        raise NotAvailable("ssim", f"needs {WINDOW} pixels a side")
    edge = WINDOW // 2
    inner = None if keep is None else keep[:, edge:-edge, edge:-edge]
    return _mean_over(ssim_map(frames, source), inner)


def psnr(inputs: MetricInputs) -> MetricValue:
    """`psnr`: one value per frame."""
    return mean_of(psnr_series(inputs.frames, require_source("psnr", inputs)))


def psnr_background(inputs: MetricInputs) -> MetricValue:
    """`psnr/background`: one value per frame. NotAvailable without masks."""
    name = "psnr/background"
    return mean_of(psnr_series(inputs.frames, require_source(name, inputs), _outside(name, inputs)))


def ssim(inputs: MetricInputs) -> MetricValue:
    """`ssim`: one value per frame."""
    return mean_of(ssim_series(inputs.frames, require_source("ssim", inputs)))


def ssim_background(inputs: MetricInputs) -> MetricValue:
    """`ssim/background`: one value per frame. NotAvailable without masks."""
    name = "ssim/background"
    return mean_of(ssim_series(inputs.frames, require_source(name, inputs), _outside(name, inputs)))


def _outside(metric: str, inputs: MetricInputs) -> Tensor:
    if inputs.masks is None:
        what = "needs masks of the edited objects, and the clip has none"
        raise NotAvailable(metric, what, "use a rendered clip or a data set with masks")
    return ~inputs.masks


def _mean_over(values: Tensor, keep: Tensor | None) -> Tensor:
    """(f, h, w) -> (f,); NotAvailable when a frame has nothing to keep."""
    if keep is None:
        return values.mean((1, 2))
    counts = keep.sum((1, 2))
    if not counts.all():
        frame = int(torch.nonzero(counts == 0)[0])
        raise NotAvailable("psnr, ssim", f"the masks cover all of frame {frame}")
    return (values * keep).sum((1, 2)) / counts


def _blur(images: Tensor) -> Tensor:
    """(f, 3, h, w) -> (f, 3, h-10, w-10), Gaussian; shifted sums, as float64 has no fast conv2d."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    shares = (weights / weights.sum()).tolist()
    for axis in (-2, -1):
        length = images.shape[axis] - WINDOW + 1
        shifted = (share * images.narrow(axis, k, length) for k, share in enumerate(shares))
        images = functools.reduce(torch.add, shifted)
    return images


class PeakSignalToNoise(ClipMean):
    """`psnr`, `psnr/background` over clips: frames, source (f, 3, h, w), pixels that count."""

    higher_is_better = True
    series = staticmethod(psnr_series)


class StructuralSimilarity(ClipMean):
    """`ssim`, `ssim/background` over clips: frames, source (f, 3, h, w), pixels that count."""

    higher_is_better = True
    series = staticmethod(ssim_series)
