"""Which pixel of a frame is which pixel of the next: flow from any source, and occlusion.

Shapes: n frames make n cyclic pairs, i -> i+1 mod n; frames (n, 3, H, W) in [0, 1]; flow
(n, 2, H, W) in pixels, (dx, dy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.flow.estimators import load_estimator
from crossframe.flow.fields import consistent, in_bounds, to_levels, warp_backward
from methods.base import SampleRequest
from methods.fresco.options import EXACT, Correspondence
from methods.fresco.warp import fit_flow, fit_occlusion, warp


@dataclass(frozen=True)
class Flows:
    """Flow of n cyclic pairs and the pixels where it leads nowhere.

    forward: (n, 2, H, W), frame i -> i+1 mod n, on the grid of i. backward: i+1 -> i, on the grid
    of i+1. hidden_forward: (n, H, W) bool or 0/1, pixels of i that i+1 does not show.
    hidden_backward: pixels of i+1 that i does not show. The last pair leads from the last frame
    to the first.
    """

    forward: Tensor
    backward: Tensor
    hidden_forward: Tensor
    hidden_backward: Tensor

    def __len__(self) -> int:
        return len(self.forward)

    def to(self, device: torch.device) -> Flows:
        """The same on another device."""
        parts = (self.forward, self.backward, self.hidden_forward, self.hidden_backward)
        return Flows(*(part.to(device) for part in parts))

    def at(self, height: int, width: int) -> Flows:
        """Return the flow of a feature level, (n, 2, h, w), and its hidden tokens as 0 and 1.

        Raises ValueError for a size that is no rounded-down share of the frames.
        """
        return Flows(
            fit_flow(self.forward, height, width),
            fit_flow(self.backward, height, width),
            fit_occlusion(self.hidden_forward, height, width),
            fit_occlusion(self.hidden_backward, height, width),
        )


def correspondence(
    request: SampleRequest, options: Correspondence, indices: Sequence[int] | None = None
) -> Flows:
    """Find the flow between chosen frames of a request, on the CPU.

    indices: the frames, in order; None: all. Estimated flow is that between these very frames;
    exact flow between frames further apart follows the flow of the frames in between.

    Raises UserError when exact flow is asked for and the clip has none, Unavailable when an
    estimator's weights or package are absent.
    """
    chosen = list(range(len(request.frames)) if indices is None else indices)
    frames = request.frames[chosen]
    if options.flow == EXACT:
        flows = _exact(request.truth, chosen)
    else:
        forward, backward = _shared_estimate(request, options.flow, chosen)
        flows = Flows(forward, backward, *[torch.zeros_like(forward[:, 0], dtype=torch.bool)] * 2)
    if options.occlusion != EXACT:
        rule = OCCLUSIONS[options.occlusion]
        hidden = rule(flows.forward, flows.backward), rule(flows.backward, flows.forward)
        flows = Flows(flows.forward, flows.backward, *hidden)
    return (
        flows
        if options.photometric is None
        else add_photometric(flows, frames, options.photometric)
    )


def inconsistent_linear(flow: Tensor, reverse: Tensor) -> Tensor:
    """Occlusion of GMFlow's released code, (n, 2, h, w) twice -> (n, h, w) bool.

    True where |F+B| > 0.01 (|F| + |B'|) + 0.5, with B = `reverse` at the target of F (zeros
    outside of the picture) and B' = `reverse` at the pixel itself.
    """
    gap = (flow + warp(reverse, flow)).square().sum(1).sqrt()
    lengths = flow.square().sum(1).sqrt() + reverse.square().sum(1).sqrt()
    return gap > 0.01 * lengths + 0.5


def inconsistent_squared(flow: Tensor, reverse: Tensor) -> Tensor:
    """Occlusion by Sundaram et al. (2010), or a target outside of the picture; shapes as above."""
    return ~(consistent(flow, reverse) & in_bounds(flow))


OCCLUSIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": inconsistent_linear,
    "squared": inconsistent_squared,
}
"""Occlusion rules by name: (flow, its reverse) -> hidden pixels."""


def add_photometric(flows: Flows, frames: Tensor, threshold: float) -> Flows:
    """Hide also the pixels whose colour the flow does not bring along.

    frames: (n, 3, H, W) in [0, 1]. threshold: of the mean of |difference| over RGB; the warped
    frame is black outside of the picture.
    """
    after = frames.roll(-1, 0)
    forward = (frames - warp(after, flows.forward)).abs().mean(1) > threshold
    backward = (after - warp(frames, flows.backward)).abs().mean(1) > threshold
    return Flows(
        flows.forward,
        flows.backward,
        flows.hidden_forward | forward,
        flows.hidden_backward | backward,
    )


def _shared_estimate(
    request: SampleRequest, name: str, indices: Sequence[int]
) -> tuple[Tensor, Tensor]:
    def make() -> dict[str, Tensor]:
        estimator = load_estimator(name)
        closed = to_levels(request.frames[[*indices, indices[0]]])
        backward = estimator.forward(closed[::-1]).flip(0)
        return {"forward": estimator.forward(closed), "backward": backward}

    made = request.shared("flow", ["fresco", name, list(indices), request.source_sha256], make)
    return made["forward"], made["backward"]


def _exact(truth: Mapping[str, Tensor], indices: Sequence[int]) -> Flows:
    if "flow_forward" not in truth:
        what = "this clip has no exact flow"
        fix = "use a clip of the world, or flow: dis"
        raise UserError(Problem("correspondence.flow", what, fix=fix))
    pairs = list(zip(indices, [*indices[1:], indices[0]], strict=True))
    forward, seen_forward = zip(*(follow(truth, a, b) for a, b in pairs), strict=True)
    backward, seen_backward = zip(*(follow(truth, b, a) for a, b in pairs), strict=True)
    return Flows(
        torch.cat(forward), torch.cat(backward), ~torch.cat(seen_forward), ~torch.cat(seen_backward)
    )


def follow(truth: Mapping[str, Tensor], start: int, end: int) -> tuple[Tensor, Tensor]:
    """Follow the pixels of frame `start` to frame `end` along the exact flow, either way.

    truth: as in `SampleRequest`. Returns flow (1, 2, H, W) and (1, H, W) bool, pixels that are
    inside and visible in every frame on the way.
    """
    way = "forward" if start <= end else "backward"
    steps, hidden = truth[f"flow_{way}"], truth[f"occluded_{way}"]
    order = range(start, end) if start <= end else range(start - 1, end - 1, -1)
    path = torch.zeros_like(steps[:1])
    seen = torch.ones_like(hidden[:1])
    for pair in order:
        step, valid = steps[pair, None], ~hidden[pair, None]
        # A pixel goes on only where all four neighbours of its position do.
        seen = seen & (warp_backward(valid[:, None].to(path), path)[:, 0] > 0.999)
        path = path + warp_backward(step, path)
        seen = seen & in_bounds(path)
    return path, seen
