"""The part of a flow that a picture can show.

Along an edge or a stripe, motion leaves no trace (the aperture problem), and an estimator fills in
whatever its smoothing likes: on a striped background it may wander eight pixels along the stripes
while the motion across them is right. Lengths of flow are therefore measured only in directions in
which the picture has contrast, which its structure tensor tells.

Shapes: n pictures, h height, w width. Flow is (dx, dy) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

WINDOW = 4.0
"""Standard deviation of the neighbourhood that is looked at, pixels: about DIS's patch of 8."""
FLAT = 0.25
"""Mean squared slope below which a direction shows nothing, (grey levels per pixel)^2."""
EDGE = 0.05
"""Share of the stronger direction's squared slope below which the weaker shows nothing."""


@dataclass(frozen=True)
class Contrast:
    """What the structure tensor says about each pixel of n pictures.

    angle: (n, h, w) radians, the direction of the strongest contrast. strong, weak: (n, h, w) mean
    squared slope along it and across it, (grey levels per pixel)^2.
    """

    angle: Tensor
    strong: Tensor
    weak: Tensor

    @property
    def shown(self) -> Tensor:
        """(n, h, w) bool: pixels with contrast in some direction."""
        return self.strong > FLAT

    @property
    def shown_fully(self) -> Tensor:
        """(n, h, w) bool: pixels with contrast in every direction."""
        return self.shown & (self.weak > (EDGE * self.strong).clamp(min=FLAT))


def contrast(pictures: np.ndarray) -> Contrast:
    """Return the contrast of (n, h, w, 3) uint8 RGB."""
    xx, xy, yy = (torch.from_numpy(part) for part in _structure(pictures))
    mean, half = (xx + yy) / 2, (xx - yy) / 2
    spread = (half.square() + xy.square()).sqrt()
    return Contrast(torch.atan2(2 * xy, 2 * half) / 2, mean + spread, mean - spread)


def observable(flow: Tensor, seen: Contrast) -> Tensor:
    """Project flow (n, 2, h, w) onto the directions in which the pictures have contrast.

    Returns (n, 2, h, w) in the frame of the structure tensor's eigenvectors: the component along
    the strongest contrast first. Components that cannot be seen are 0.
    """
    cos, sin = seen.angle.cos(), seen.angle.sin()
    across = flow[:, 0] * cos + flow[:, 1] * sin
    along = flow[:, 1] * cos - flow[:, 0] * sin
    return torch.stack((across * seen.shown, along * seen.shown_fully), dim=1)


def observable_length(flow: Tensor, seen: Contrast) -> Tensor:
    """Mean length, pixels, of the part of the flow (n, 2, h, w) that can be seen: (n,) float64.

    The mean is over pixels with contrast in some direction; 0 when there are none.
    """
    lengths = observable(flow, seen).double().square().sum(1).sqrt()
    return lengths.sum((1, 2)) / seen.shown.sum((1, 2)).clamp(min=1)


def _structure(pictures: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) uint8 -> (3, n, h, w) float32: smoothed products of slopes xx, xy, yy."""
    parts = []
    for picture in pictures:
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
        smooth = cv2.GaussianBlur(grey, (0, 0), 1)
        x, y = (cv2.Sobel(smooth, cv2.CV_32F, *axis, ksize=3) / 8 for axis in ((1, 0), (0, 1)))
        parts.append([cv2.GaussianBlur(part, (0, 0), WINDOW) for part in (x * x, x * y, y * y)])
    return np.array(parts, np.float32).transpose(1, 0, 2, 3)
