"""FRESCO's losses on features, written as they are defined (paper eqs. 4-6, released code).

Plain differentiable formulas. Optimisation computes the same gradients without automatic
differentiation: `methods.fresco.gram`, `methods.fresco.temporal`.

Shapes: features (b n, c, h, w), guidance halves b outermost, n frames; d = h w tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from crossframe.flow.fields import warp_backward
from methods.fresco.correspondence import Flows
from methods.fresco.options import Losses


def similarities(features: Tensor) -> Tensor:
    """Cosines between all tokens of each frame: (b n, c, h, w) -> (b n, d, d), float32."""
    unit = F.normalize(features.flatten(2).float(), dim=1)
    return unit.mT @ unit


def spatial_loss(features: Tensor, reference: Tensor, options: Losses) -> Tensor:
    """Weighted difference of the similarities of `features` from `reference`, (b n, d, d)."""
    difference = similarities(features) - reference
    size = difference.abs() if options.spatial_norm == "l1" else difference.square()
    return options.spatial * (size.mean() if options.reduction == "mean" else size.sum())


def temporal_loss(features: Tensor, level: Flows, options: Losses) -> Tensor:
    """Weighted absolute change of `features` along the flow where it is visible.

    level: flow at the size of the features (`Flows.at`). The mean runs over the elements of one
    direction, hidden ones included, and adds up both directions.
    """
    n = len(level)
    frames = features.float().unflatten(0, (-1, n))
    after = frames.roll(-1, 1)
    pairs = n if options.cyclic else n - 1
    change = _change(after, frames, level.backward, level.hidden_backward)[:, :pairs]
    if options.direction == "both":
        change = change + _change(frames, after, level.forward, level.hidden_forward)[:, :pairs]
    return options.temporal * (change.mean() if options.reduction == "mean" else change.sum())


def _change(target: Tensor, source: Tensor, flow: Tensor, hidden: Tensor) -> Tensor:
    """|target - warped source| where visible, (b, n, c, h, w)."""
    b = len(target)
    warped = warp_backward(source.flatten(0, 1), flow.repeat(b, 1, 1, 1), "zeros")
    change = (target - warped.unflatten(0, (b, -1))).abs()
    return change * (1 - hidden[:, None].float())
