"""Shape-aware fusion of Rerender-A-Video (arXiv 2306.07954, eq. 7): latents carried by flow.

Shapes: k key frames, latents (k, 4, h, w), flow (2, h, w) in latent pixels on the grid of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import SampleRequest
from methods.ddim import EditX0
from methods.fresco.correspondence import correspondence
from methods.fresco.options import Correspondence
from methods.rerender.config import Fusion


@dataclass(frozen=True)
class Carrier:
    """From one key frame to its anchor.

    anchor: position among the key frames, before the frame's own. source: (h w,) int64, for each
    latent of the frame the latent of the anchor that is there. hidden: (h, w) bool, latents that
    the anchor does not show.
    """

    anchor: int
    source: Tensor
    hidden: Tensor


def carriers(
    request: SampleRequest,
    keys: Sequence[int],
    options: Correspondence,
    anchor: str,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> tuple[Carrier, ...]:
    """Find the way of every key frame but the first to its anchor, at the size of latents.

    keys: indices of the key frames in the clip. anchor: `first` or `previous`. device: where a
    network of optical flow runs.
    """
    found = []
    for number in range(1, len(keys)):
        before = 0 if anchor == "first" else number - 1
        pair = [keys[before], keys[number]]
        flows = correspondence(request, options, pair, cyclic=False, device=device)
        level = flows.at(height, width)
        source = nearest_source(level.backward[0])
        found.append(Carrier(before, source, level.hidden_backward[0] > 0.5))
    return tuple(found)


def nearest_source(flow: Tensor) -> Tensor:
    """Return the pixel nearest to each flow's end, (2, h, w) -> (h w,) int64, row-major.

    Ends outside of the picture take the pixel at its border.
    """
    _, height, width = flow.shape
    x = torch.arange(width) + flow[0]
    y = torch.arange(height)[:, None] + flow[1]
    column, row = x.round().clamp(0, width - 1), y.round().clamp(0, height - 1)
    return (row * width + column).long().flatten()


def shape_fusion(ways: Sequence[Carrier], steps: int, options: Fusion) -> EditX0:
    """Return the edit of predicted clean latents: visible parts are those of the anchor.

    ways: of the second key frame and all after it. steps: of the run.
    """
    start, end = options.steps

    def edit(clean: Tensor, index: int) -> Tensor:
        """Clean latents (f, 4, h, w) with those of the anchor carried in."""
        if not (options.on and start <= round(index / steps, 9) < end):
            return clean
        fused = [clean[0]]
        for own, way in zip(clean[1:], ways, strict=True):
            source, hidden = way.source.to(clean.device), way.hidden.to(clean.device)
            carried = fused[way.anchor].flatten(1)[:, source].view_as(own)
            fused.append(torch.where(hidden, own, carried))
        return torch.stack(fused)

    return edit
