"""What is measured on talking faces: mouth, head, likeness and continuity, from pixels alone.

Shapes: f frames, h height, w width. Frames are (f, 3, h, w) float32 in [0, 1]; `where` is the truth
about regions, never about what moves in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

REACH = 16
"""A head is looked for within this many pixels of where it is in the reference."""
LUMA = (0.299, 0.587, 0.114)
STILL = 1e-6
"""Standard deviation below which a series counts as constant."""


def correlation(found: Tensor, given: Tensor) -> float:
    """Pearson's correlation of two series (f,); 0 when either is constant."""
    centred = [series.double() - series.double().mean() for series in (found, given)]
    spreads = [series.square().mean().sqrt() for series in centred]
    if min(spreads) < STILL:
        return 0.0
    return float((centred[0] * centred[1]).mean() / (spreads[0] * spreads[1]))


def mouth_darkness(frames: Tensor, mouth: Tensor) -> Tensor:
    """How dark the region (f, h, w) bool that holds the mouth is, (f,): an open mouth is dark."""
    luma = (frames * frames.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1)
    return ((1 - luma) * mouth).sum((1, 2)) / mouth.sum((1, 2)).clamp(min=1)


def offsets(frames: Tensor, reference: Tensor, part: Tensor, reach: int = REACH) -> Tensor:
    """Where a part of a reference lies in each frame: (f, 2) pixels (x, y) from its own place.

    The least squared difference to the reference (3, h, w) inside `part` (h, w) bool, over
    shifts of up to `reach` pixels, refined by a parabola along either axis.
    """
    rows, columns = (torch.where(part.any(axis))[0] for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    bottom, right = int(rows[-1]) + 1, int(columns[-1]) + 1
    template = _hwc(reference)[top:bottom, left:right]
    mask = np.repeat(part[top:bottom, left:right].numpy().astype(np.float32)[..., None], 3, 2)
    found = []
    for frame in frames:
        padded = cv2.copyMakeBorder(_hwc(frame), *[reach] * 4, cv2.BORDER_REPLICATE)
        window = padded[top : bottom + 2 * reach, left : right + 2 * reach]
        error = cv2.matchTemplate(window, template, cv2.TM_SQDIFF, mask=mask)
        found.append(_minimum(error))
    return torch.tensor(found) - reach


def _minimum(error: np.ndarray) -> tuple[float, float]:
    """Place (x, y) of the least value of a map, refined by parabolas."""
    y, x = np.unravel_index(int(error.argmin()), error.shape)
    return _refined(error[y], int(x)), _refined(error[:, x], int(y))


def _refined(values: np.ndarray, at: int) -> float:
    if not 0 < at < len(values) - 1:
        return float(at)
    before, here, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return at + (0.5 * (before - after) / bend if bend > 0 else 0.0)


def _hwc(picture: Tensor) -> np.ndarray:
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy(), dtype=np.float32)


def psnr(frames: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean over frames of the PSNR in dB against `truth` (f, 3, h, w), inside `where` (f, h, w)."""
    error = (frames - truth).square().mean(1)
    if where is None:
        per_frame = error.mean((1, 2))
    else:
        per_frame = (error * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)
    return float((-10 * per_frame.clamp(min=1e-10).log10()).mean())


def changes(frames: Tensor) -> Tensor:
    """Mean absolute change from each frame to the next, (f - 1,)."""
    return (frames[1:] - frames[:-1]).abs().mean((1, 2, 3))


def border_jump(series: Sequence[Tensor], length: int) -> float:
    """Mean change across segment borders over the mean change within segments.

    series: `changes` of clips that were drawn in segments of `length` frames.
    """
    across, within = [], []
    for change in series:
        border = torch.arange(1, len(change) + 1) % length == 0
        across.append(change[border])
        within.append(change[~border])
    return float(torch.cat(across).mean() / torch.cat(within).mean())
