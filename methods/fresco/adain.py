"""Adaptive instance normalisation (Huang and Belongie, arXiv 1703.06868): means and deviations."""

from __future__ import annotations

import torch
from torch import Tensor

STYLE_EPS = {"fixed": 1e-5, "repo": 1.0}
"""Added to the variance of the style. The released code passes another argument in its place."""


def statistics(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(unbiased variance + eps) of (b, c, h, w) over space, each (b, c, 1, 1).

    The variance of a single pixel is 0.
    """
    pixels = x.flatten(2)
    variance, mean = torch.var_mean(pixels, -1, correction=min(1, pixels.shape[-1] - 1))
    return mean[..., None, None], (variance + eps).sqrt()[..., None, None]


def adain(content: Tensor, style: Tensor, mode: str = "repo") -> Tensor:
    """Give (b, c, h, w) the channel statistics of `style`, same shape.

    mode: `fixed`, or `repo` for the released code, which gives sqrt(variance + 1) instead.
    """
    mean, deviation = statistics(content)
    style_mean, style_deviation = statistics(style, STYLE_EPS[mode])
    return (content - mean) / deviation * style_deviation + style_mean
