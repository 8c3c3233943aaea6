"""Trajectories of tokens through the frames of a clip (paper section 4.1), without loops.

Shapes: n frames, H W their size, h w the tokens of a level, d = h w, row-major.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.fresco.attention import Paths
from methods.fresco.correspondence import Flows


def trajectories(flows: Flows, frames: Tensor, scale: int) -> Paths:
    """Chain the links of consecutive frames; the pair from last to first is not used.

    frames: (n, 3, H, W), any range. scale: pixels per token; d = (H // scale) (W // scale).
    A trajectory is called after its token in frame 0 and broken wherever a link was not real.
    """
    links = [
        link(flows.backward[i, None], flows.hidden_backward[i, None], frames[i : i + 2], scale)
        for i in range(len(frames) - 1)
    ]
    height, width = (side // scale for side in frames.shape[-2:])
    forward = [torch.arange(height * width, device=frames.device)]
    breaks = [torch.zeros_like(forward[0])]
    for mapping, unlinked in links:
        breaks.append(breaks[-1] + unlinked[forward[-1]])
        forward.append(mapping[forward[-1]])
    tokens, piece = torch.stack(forward), torch.stack(breaks, dim=1)
    return Paths(tokens, tokens.argsort(1), piece[:, :, None] == piece[:, None])


def link(flow: Tensor, hidden: Tensor, frames: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Match the tokens of a frame i with those of the next.

    flow: (1, 2, H, W) from frame i+1 to i, on the grid of i+1. hidden: (1, H, W), pixels of i+1
    that i does not show. frames: (2, 3, H, W), the two. All three are resized bilinearly by
    1/scale, (i + 0.5) scale - 0.5, without antialiasing.

    Token p of frame i+1 points at round(p + flow / scale), halves to even. Where several point at
    one token, the nearest in colour is taken, of equals the first; tokens at which none points
    take those left over, in order.

    Returns mapping (d,) int64, a permutation from tokens of i to tokens of i+1, and (d,) bool,
    tokens of i without a real match.
    """
    field, occluded, colours = (_shrink(x, scale) for x in (flow, hidden[:, None], frames))
    target, points = _targets(field[0] / scale)
    points &= ~(occluded.flatten() > 0.5)
    now, after = colours.flatten(2)
    distance = (after - now[:, target]).square().mean(0)
    pointing = points.nonzero()[:, 0]
    pointing = pointing[distance[pointing].argsort(stable=True)]
    pointing = pointing[target[pointing].argsort(stable=True)]
    wanted = target[pointing]
    first = torch.ones_like(wanted, dtype=torch.bool)
    first[1:] = wanted[1:] != wanted[:-1]
    unlinked = torch.ones_like(points)
    unlinked[wanted] = False
    unused = torch.ones_like(points)
    unused[pointing[first]] = False
    mapping = torch.empty_like(target)
    mapping[wanted[first]] = pointing[first]
    mapping[unlinked] = unused.nonzero()[:, 0]
    return mapping, unlinked


def _targets(field: Tensor) -> tuple[Tensor, Tensor]:
    """(2, h, w) in tokens -> the token each points at, (d,) int64, and whether it exists."""
    _, height, width = field.shape
    x = (torch.arange(width, device=field.device) + field[0]).round()
    y = (torch.arange(height, device=field.device)[:, None] + field[1]).round()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    target = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    return target.flatten(), inside.flatten()


def _shrink(field: Tensor, scale: int) -> Tensor:
    field = field.float()
    if scale == 1:
        return field
    return F.interpolate(field, scale_factor=1 / scale, mode="bilinear", align_corners=False)
