"""Blending two pictures of one moment: by visibility, with contrast and gradients kept.

Pictures are (h, w, 3) float32 RGB in [0, 1]; shares are (h, w) in [0, 1], how much of the second
picture is in the result. Colours are treated in CIE Lab (L in 0..100).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from scipy import fft

Picture = np.ndarray[Any, Any]

GRADIENT_WEIGHTS = (2.5, 0.5, 0.5)
"""Weights of gradients against colours in L, a, b: the released settings of FRESCO and Rerender."""

FLAT = 1e-3  # deviation of a Lab channel below which it has no structure but rounding


def second_share(visible_first: Picture, visible_second: Picture, position: float) -> Picture:
    """Return the share of the second picture: all where it alone is visible, none where the other.

    visible_*: (h, w) bool. position: in [0, 1], the share where both or neither are visible.
    """
    share = np.full(visible_first.shape, position, np.float32)
    share[visible_second & ~visible_first] = 1
    share[visible_first & ~visible_second] = 0
    return share


def mix(first: Picture, second: Picture, share: Picture) -> Picture:
    """Return the linear mix of two pictures."""
    return first + share[..., None] * (second - first)


def histogram_mix(
    first: Picture, second: Picture, share: Picture, ends: Sequence[Picture], position: float
) -> Picture:
    """Return a mix whose colours are spread as those of two pictures, interpolated.

    Histogram-preserving blending (Heitz and Neyret 2018), with the histogram of a Lab channel taken
    as its mean and deviation, as FRESCO's released blending does: both pictures are brought to one
    histogram, mixed there, and the mix to that of the result. So neither a difference in tone shows
    as a seam, nor does a mix of what does not fit exactly become pale.

    ends: the two pictures whose histograms count. position: in [0, 1], from the one to the other.
    """
    one, two = (_standardised(_to_lab(picture)) for picture in (first, second))
    mixed = mix(one, two, share)
    moments = [_moments(_to_lab(picture)) for picture in ends]
    mean, deviation = (a + position * (b - a) for a, b in zip(*moments, strict=True))
    return _to_rgb(_standardised(mixed) * deviation + mean)


def poisson(mixed: Picture, first: Picture, second: Picture, share: Picture) -> Picture:
    """Return the picture that has the colours of `mixed` and the gradients of the better source.

    In each Lab channel the minimum of |x - mixed|^2 + w^2 |grad x - g|^2, where g is the gradient
    of `second` where its share exceeds one half, else of `first`; w of `GRADIENT_WEIGHTS`.
    Gradients are forward differences, none across the border. Solved exactly by cosine transforms.
    """
    colours, one, two = (_to_lab(picture) for picture in (mixed, first, second))
    chosen = (share > 0.5)[..., None]
    across, down = (np.where(chosen, b, a) for a, b in zip(_slopes(one), _slopes(two), strict=True))
    weight = np.square(np.array(GRADIENT_WEIGHTS, np.float32))
    target = colours + weight * _divergence(across, down)
    rows, columns = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in target.shape[:2])
    stiffness = (rows[:, None] + columns)[..., None]
    spectrum = fft.dctn(target, axes=(0, 1), norm="ortho") / (1 + weight * stiffness)
    return _to_rgb(fft.idctn(spectrum, axes=(0, 1), norm="ortho"))


def _slopes(picture: Picture) -> tuple[Picture, Picture]:
    """Forward differences to the right and downwards, zero in the last column and row."""
    across, down = np.zeros_like(picture), np.zeros_like(picture)
    across[:, :-1] = np.diff(picture, axis=1)
    down[:-1] = np.diff(picture, axis=0)
    return across, down


def _divergence(across: Picture, down: Picture) -> Picture:
    """Transpose of `_slopes`; the last column of `across` and row of `down` are zero or ignored."""
    out = np.zeros_like(across)
    out[:, :-1] -= across[:, :-1]
    out[:, 1:] += across[:, :-1]
    out[:-1] -= down[:-1]
    out[1:] += down[:-1]
    return out


def _moments(lab: Picture) -> tuple[Picture, Picture]:
    return lab.mean((0, 1)), lab.std((0, 1))


def _standardised(lab: Picture) -> Picture:
    """Mean 0 and deviation 1 in each channel; what varies less than can be seen counts as flat."""
    mean, deviation = _moments(lab)
    return (lab - mean) / np.maximum(deviation, FLAT)


def _to_lab(picture: Picture) -> Picture:
    return cv2.cvtColor(np.ascontiguousarray(picture, np.float32), cv2.COLOR_RGB2LAB)


def _to_rgb(lab: Picture) -> Picture:
    return cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_LAB2RGB).clip(0, 1)
