"""Optical flow of a clip: exact or estimated, with the pixels where it can be trusted.

Shapes: n or p = f-1 pairs, c channels, h height, w width. Flow is (dx, dy) in pixels: the point at
(x, y) of the one frame is at (x+dx, y+dy) of the other. Pixel centres have integer coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable

Padding = Literal["border", "zeros"]
"""What lies outside of a picture: its border repeated, or zeros."""

SMALLEST_SIDE = 16  # pixels; OpenCV's DIS refuses pictures much below this


@dataclass(frozen=True)
class FlowFields:
    """Flow between consecutive frames.

    forward: (p, 2, h, w) float32, frame t -> t+1, on the grid of t. backward: (p, 2, h, w), frame
    t+1 -> t, on the grid of t+1. valid: (p, h, w) bool, pixels of t that are inside the picture
    and visible in t+1. valid_backward: the same for pixels of t+1. source: how it was obtained,
    "exact" or the name of an estimator.
    """

    forward: Tensor
    backward: Tensor
    valid: Tensor
    valid_backward: Tensor
    source: str

    @property
    def pair_coverage(self) -> Tensor:
        """(p,) share of valid pixels per pair, in [0, 1]."""
        return self.valid.double().mean((1, 2))

    @property
    def coverage(self) -> float:
        """Share of valid pixels of the whole clip, in [0, 1]."""
        return self.pair_coverage.mean().item()


def warp_backward(image: Tensor, flow: Tensor, padding: Padding = "border") -> Tensor:
    """Sample (n, c, h, w) at x + flow(x), bilinear; outside of the picture is `padding`.

    With `image` = frame t+1 and `flow` = (n, 2, h, w) of t -> t+1 the result shows frame t+1 as it
    would look at time t.
    """
    x, y = _targets(flow)
    height, width = flow.shape[-2:]
    # align_corners=True puts -1 and 1 on the centres of the outermost pixels.
    across, down = max(width - 1, 1), max(height - 1, 1)
    grid = torch.stack((2 * x / across - 1, 2 * y / down - 1), dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def in_bounds(flow: Tensor) -> Tensor:
    """(n, 2, h, w) -> (n, h, w) bool: the target lies between the outermost pixel centres."""
    x, y = _targets(flow)
    height, width = flow.shape[-2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def consistent(flow: Tensor, reverse: Tensor) -> Tensor:
    """Forward-backward check of Sundaram et al. (2010): (n, h, w) bool on the grid of `flow`.

    flow, reverse: (n, 2, h, w), each other's opposite direction. True where
    |F+B|^2 <= 0.01 (|F|^2 + |B|^2) + 0.5, with B = `reverse` at the target of F.
    """
    back = warp_backward(reverse, flow)
    gap = (flow + back).square().sum(1)
    return gap <= 0.01 * (flow.square().sum(1) + back.square().sum(1)) + 0.5


def consistent_linear(flow: Tensor, reverse: Tensor, padding: Padding = "border") -> Tensor:
    """Forward-backward check of GMFlow's released code: (n, h, w) bool on the grid of `flow`.

    True where |F+B| <= 0.01 (|F| + |B'|) + 0.5, with B = `reverse` at the target of F and B' =
    `reverse` at the pixel itself. Stricter than `consistent` for fast motion: at 20 pixels a gap
    of 0.9 passes instead of 2.9. Same arguments; padding: what B is outside of the picture.
    """
    gap = (flow + warp_backward(reverse, flow, padding)).square().sum(1).sqrt()
    lengths = flow.square().sum(1).sqrt() + reverse.square().sum(1).sqrt()
    return gap <= 0.01 * lengths + 0.5


CHECKS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sundaram": consistent,
    "gmflow": consistent_linear,
}
"""Forward-backward checks by name."""


def motion_boundary(flow: Tensor) -> Tensor:
    """Edges of the motion, (n, 2, h, w) -> (n, h, w) bool.

    True where |grad u|^2 + |grad v|^2 > 0.01 |F|^2 + 0.002, with forward differences that are zero
    in the last row and column (Lai et al. 2018, released code).
    """
    across, down = torch.zeros_like(flow), torch.zeros_like(flow)
    across[..., :-1] = flow.diff(dim=-1)
    down[..., :-1, :] = flow.diff(dim=-2)
    gradient = across.square().sum(1) + down.square().sum(1)
    return gradient > 0.01 * flow.square().sum(1) + 0.002


def visible_lai2018(forward: Tensor, backward: Tensor) -> Tensor:
    """Pixels that Lai et al. (2018) score: (p, h, w) bool on the grid of frame t.

    Consistent and off the motion's edges; pixels that leave the picture are not masked.
    """
    return consistent(forward, backward) & ~motion_boundary(forward)


def from_first(flow: FlowFields) -> tuple[Tensor, Tensor]:
    """Follow the pixels of frame 0 through the clip.

    Returns flow (p, 2, h, w) from frame 0 to frames 1..p, by adding up the steps along each path,
    and (p, h, w) bool, pixels that stay inside and visible at every step.
    """
    path, seen = flow.forward[:1], flow.valid[:1]
    paths, visible = [path], [seen]
    for step, valid in zip(flow.forward[1:, None], flow.valid[1:, None], strict=True):
        # A pixel goes on only where all four neighbours of its position do.
        ahead = warp_backward(valid[:, None].to(path), path)[:, 0] > 0.999
        path = path + warp_backward(step, path)
        seen = seen & ahead & in_bounds(path)
        paths.append(path)
        visible.append(seen)
    return torch.cat(paths), torch.cat(visible)


def exact_flow(
    flow_forward: np.ndarray,
    flow_backward: np.ndarray,
    occluded_forward: np.ndarray,
    occluded_backward: np.ndarray,
) -> FlowFields:
    """Wrap a renderer's truth: flows (p, h, w, 2) float, occlusions (p, h, w) bool."""
    forward, backward = _channels_first(flow_forward), _channels_first(flow_backward)
    return FlowFields(
        forward,
        backward,
        torch.from_numpy(~occluded_forward) & in_bounds(forward),
        torch.from_numpy(~occluded_backward) & in_bounds(backward),
        "exact",
    )


def checked_flow(
    forward: Tensor, backward: Tensor, source: str, check: str = "sundaram"
) -> FlowFields:
    """Pair two estimates, each (p, 2, h, w), and mark the pixels where they confirm each other.

    check: a name of `CHECKS`. Pixels that leave the picture are marked as not valid too.
    """
    agree = CHECKS[check]
    return FlowFields(
        forward,
        backward,
        agree(forward, backward) & in_bounds(forward),
        agree(backward, forward) & in_bounds(backward),
        source,
    )


def dis_flow(frames: np.ndarray) -> FlowFields:
    """Estimate the flow of (f, h, w, 3) uint8 RGB with OpenCV's DIS, in both directions.

    Raises NotAvailable when the frames are too few or too small.
    """
    return checked_flow(dis_forward(frames), dis_forward(frames[::-1]).flip(0), "dis")


def dis_forward(frames: np.ndarray) -> Tensor:
    """Flow (p, 2, h, w) from each of (f, h, w, 3) uint8 RGB to the next; DIS, medium preset, grey.

    Raises NotAvailable when the frames are too few or too small.
    """
    count, height, width, _ = frames.shape
    if count < 2 or min(height, width) < SMALLEST_SIDE:
        needs = f"needs 2 frames or more of {SMALLEST_SIDE} pixels or more a side"
        raise NotAvailable("optical flow", f"{needs}, not {count} of {width}x{height}")
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    dis = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    flows = [dis.calc(one, two, None) for one, two in pairwise(grey)]
    return _channels_first(np.stack(flows))


def to_levels(frames: Tensor) -> np.ndarray:
    """(f, 3, h, w) in [0, 1] -> (f, h, w, 3) uint8, rounded to the nearest level."""
    return frames.mul(255).round().byte().permute(0, 2, 3, 1).cpu().contiguous().numpy()


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute coordinates x and y, each (n, h, w), to which the flow points."""
    height, width = flow.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device).view(1, 1, -1)
    return columns + flow[:, 0], rows + flow[:, 1]


def _channels_first(flow: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(flow, dtype=np.float32)).permute(0, 3, 1, 2)
