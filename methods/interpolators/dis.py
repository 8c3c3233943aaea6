"""The middle picture by optical flow: every pixel of both pictures goes half its way.

Forward warping ("splatting", Niklaus and Liu, arXiv 2003.05534) with bilinear footprints. Pixels
whose flow the other direction does not confirm are hidden in the other picture; they weigh little,
so they show only where nothing confirmed lands: background that is being covered or uncovered is
taken from the one picture that has it. Where nothing lands at all, both pictures are averaged.

Shapes: n pairs, h height, w width; flow (n, 2, h, w) is (dx, dy) in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.flow.fields import consistent, dis_forward, to_levels

HIDDEN_WEIGHT = 1e-3
"""Weight of a pixel that is hidden in the other picture; a confirmed one weighs 1."""


class Dis:
    """Half-way pictures along DIS flow in both directions, on the CPU."""

    def __init__(self, device: torch.device) -> None:
        """`device` is taken for the interface's sake."""

    def middle(self, one: Tensor, two: Tensor) -> Tensor:
        """(n, 3, h, w) twice -> (n, 3, h, w). Raises NotAvailable below 16 pixels a side."""
        pairs = [to_levels(torch.stack(pair)) for pair in zip(one, two, strict=True)]
        forward = torch.cat([dis_forward(pair) for pair in pairs]).to(one)
        backward = torch.cat([dis_forward(pair[::-1]) for pair in pairs]).to(one)
        return middle_along(one, two, forward, backward)


def middle_along(one: Tensor, two: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return the picture half-way between (n, 3, h, w) `one` and `two`.

    forward: (n, 2, h, w), `one` -> `two`, on the grid of `one`. backward: the other way round.
    """
    shown_one, weight_one = splat(one, forward / 2, _trust(forward, backward))
    shown_two, weight_two = splat(two, backward / 2, _trust(backward, forward))
    weight = weight_one + weight_two
    moved = (shown_one + shown_two) / weight.clamp(min=1e-12)
    return torch.where(weight > HIDDEN_WEIGHT / 10, moved, (one + two) / 2)


def splat(image: Tensor, flow: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Move pixels of (n, c, h, w) along `flow` (n, 2, h, w); what leaves the picture is lost.

    weight: (n, 1, h, w), of each pixel. Returns the sums of weighted pixels (n, c, h, w) and of
    weights (n, 1, h, w) that land at each place, shared among the four nearest ones bilinearly.
    """
    c, height, width = image.shape[1:]
    carried = torch.cat([image * weight, weight], dim=1).flatten(2)
    landed = torch.zeros_like(carried)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device).view(1, 1, -1)
    x, y = columns + flow[:, 0], rows + flow[:, 1]
    for right in (0, 1):
        for below in (0, 1):
            i, j = x.floor() + right, y.floor() + below
            share = (1 - (x - i).abs()) * (1 - (y - j).abs())
            share = share * ((i >= 0) & (i < width) & (j >= 0) & (j < height))
            place = (j.clamp(0, height - 1) * width + i.clamp(0, width - 1)).long()
            index = place.flatten(1)[:, None].expand(-1, c + 1, -1)
            landed.scatter_add_(2, index, carried * share.flatten(1)[:, None])
    landed = landed.unflatten(2, (height, width))
    return landed[:, :c], landed[:, c:]


def _trust(flow: Tensor, reverse: Tensor) -> Tensor:
    seen = consistent(flow, reverse)[:, None].to(flow)
    return seen + (1 - seen) * HIDDEN_WEIGHT
