"""Background smoothing: the background of each frame is drawn from the frame before it.

Shapes: n frames; samples (b n, c, h, w), guidance halves b outermost; background (n, 1, any h,
any w) in [0, 1], 1 = certainly background.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.flow.fields import warp_backward
from methods.base import SampleRequest
from methods.fresco.correspondence import Flows
from methods.fresco.options import EXACT

FOREGROUND_MARGIN, OCCLUSION_MARGIN = 7, 13  # sides of the boxes, in pixels of the frames


def background_weight(
    request: SampleRequest, saliency: str, indices: Sequence[int] | None = None
) -> Tensor | None:
    """Return the background of chosen frames, (n, 1, H, W) float32 in [0, 1]; None for `none`.

    It is 1 - foreground, after the foreground has grown by a box of 7 pixels.

    saliency: `none`, `exact` or `file:PATH.npy#HASH` (`options.Smoothing`).

    Raises UserError when the clip has no masks, or the file does not fit the clip.
    """
    if saliency == "none":
        return None
    count = len(request.frames)
    foreground = _masks(request) if saliency == EXACT else _file(saliency, count)
    chosen = list(range(count) if indices is None else indices)
    return 1 - dilate(foreground[chosen][:, None], FOREGROUND_MARGIN)


def dilate(mask: Tensor, size: int) -> Tensor:
    """Grow (n, 1, h, w) in [0, 1]: the sum over a box of odd side `size`, at most 1."""
    margin = size // 2
    padded = F.pad(mask.float(), (margin,) * 4, mode="replicate")
    return (F.avg_pool2d(padded, size, stride=1) * size**2).clamp(0, 1)


def smooth_background(sample: Tensor, flows: Flows, background: Tensor) -> Tensor:
    """Draw each frame's background from the frame before, already smoothed; same shape and type.

    Frame i+1 becomes (1-m) f_{i+1} + m W(f_i), with m the product of visibility, background there
    and warped background of frame i; at last the last frame is drawn to the first in the same way.
    Samples as large as the frames (pixels) take an occlusion grown by a box of 13 pixels.

    flows: of n cyclic pairs, at the size of the frames.
    """
    n, (height, width) = len(flows), sample.shape[-2:]
    level = flows.at(height, width)
    hidden_backward, hidden_forward = level.hidden_backward, level.hidden_forward
    if flows.forward.shape[-2:] == (height, width):
        hidden_backward, hidden_forward = (
            dilate(x[:, None], OCCLUSION_MARGIN)[:, 0] for x in (hidden_backward, hidden_forward)
        )
    weight = F.interpolate(
        background.float(), size=(height, width), mode="bilinear", align_corners=False
    )
    frames = sample.float().unflatten(0, (-1, n)).clone()
    steps = [(i + 1, i, level.backward[i], hidden_backward[i]) for i in range(n - 1)]
    steps.append((n - 1, 0, level.forward[-1], hidden_forward[-1]))
    for target, source, flow, hidden in steps:
        mixed = torch.cat([frames[:, source].flatten(0, 1), weight[source]])
        warped = warp_backward(mixed[None], flow[None], "zeros")[0]
        share = (1 - hidden) * weight[target, 0] * warped[-1]
        drawn = warped[:-1].unflatten(0, (-1, sample.shape[1]))
        frames[:, target] = frames[:, target].lerp(drawn, share.expand_as(drawn))
    return frames.flatten(0, 1).to(sample.dtype)


def _masks(request: SampleRequest) -> Tensor:
    if "masks" not in request.truth:
        what = "this clip has no exact masks"
        fix = "use a clip of the world, a file, or saliency: none"
        raise UserError(Problem("smoothing.saliency", what, fix=fix))
    return request.truth["masks"].any(1).float()


def _file(saliency: str, count: int) -> Tensor:
    path = Path(saliency.removeprefix("file:").rpartition("#")[0])
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        what = f"cannot be read: {error}"
        raise UserError(Problem(str(path), what, "a .npy file of numbers")) from error
    if found.ndim != 3 or len(found) != count:
        what = f"an array of shape {found.shape}"
        raise UserError(Problem(str(path), what, f"({count}, height, width), one per frame"))
    foreground = torch.from_numpy(found.astype(np.float32))
    if not (foreground >= 0).logical_and(foreground <= 1).all():
        raise UserError(Problem(str(path), "values outside of [0, 1]", "0..1, 1 = foreground"))
    return foreground
