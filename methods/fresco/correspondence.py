"""Which pixel of a frame is which pixel of the next: flow from any source, and occlusion.

Shapes: n pairs of frames; n frames make n cyclic pairs, i -> i+1 mod n, or n-1 consecutive ones.
Frames (.., 3, H, W) in [0, 1]; flow (n, 2, H, W) in pixels, (dx, dy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.flow.estimators import load_estimator
from crossframe.flow.fields import (
    consistent,
    consistent_linear,
    in_bounds,
    to_levels,
    warp_backward,
)
from crossframe.flow.table import flow_identity
from methods.base import SampleRequest
from methods.fresco.options import EXACT, Correspondence
from methods.fresco.warp import fit_flow, fit_occlusion


@dataclass(frozen=True)
class Flows:
    """Flow of n pairs and the pixels where it leads nowhere.

    forward: (n, 2, H, W), frame i -> i+1, on the grid of i. backward: i+1 -> i, on the grid of
    i+1. hidden_forward: (n, H, W) bool or 0/1, pixels of i that i+1 does not show.
    hidden_backward: pixels of i+1 that i does not show. Of cyclic pairs the last leads from the
    last frame to the first.
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

        Raises ValueError for a size that is no even share of the frames.
        """
        return Flows(
            fit_flow(self.forward, height, width),
            fit_flow(self.backward, height, width),
            fit_occlusion(self.hidden_forward, height, width),
            fit_occlusion(self.hidden_backward, height, width),
        )


def correspondence(
    request: SampleRequest,
    options: Correspondence,
    indices: Sequence[int] | None = None,
    *,
    cyclic: bool = True,
    device: torch.device | str = "cpu",
) -> Flows:
    """Find the flow between chosen frames of a request; returned on the CPU.

    indices: the frames, in order; None: all. Estimated flow is that between these very frames;
    exact flow between frames further apart follows the flow of the frames in between. cyclic:
    whether the last and the first are a pair too. device: where an estimator's network runs.

    Raises UserError when exact flow is asked for and the clip has none, NotAvailable when an
    estimator's weights or package are absent.
    """
    chosen = list(range(len(request.frames)) if indices is None else indices)
    order = [*chosen, *chosen[:1]] if cyclic else chosen
    if options.flow == EXACT:
        flows = _exact(request.truth, order)
    else:
        forward, backward = _shared_estimate(request, options.flow, order, device)
        flows = Flows(forward, backward, *[torch.zeros_like(forward[:, 0], dtype=torch.bool)] * 2)
    if options.occlusion != EXACT:
        agree = AGREEMENTS[options.occlusion]
        hidden = ~agree(flows.forward, flows.backward), ~agree(flows.backward, flows.forward)
        flows = Flows(flows.forward, flows.backward, *hidden)
    if options.photometric is None:
        return flows
    return add_photometric(flows, request.frames[order], options.photometric)


def _agree_squared(flow: Tensor, reverse: Tensor) -> Tensor:
    """Forward-backward check of Sundaram et al. (2010), and a target inside of the picture."""
    return consistent(flow, reverse) & in_bounds(flow)


AGREEMENTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": partial(consistent_linear, padding="zeros"),
    "squared": _agree_squared,
}
"""Rules of occlusion by name: (flow, its reverse), (n, 2, h, w) each -> pixels that are visible."""


def add_photometric(flows: Flows, frames: Tensor, threshold: float) -> Flows:
    """Hide also the pixels whose colour the flow does not bring along.

    frames: (n+1, 3, H, W) in [0, 1], the frames of the n pairs in order. threshold: of the mean of
    |difference| over RGB; the warped frame is black outside of the picture.
    """
    now, after = frames[:-1], frames[1:]
    forward = (now - warp_backward(after, flows.forward, "zeros")).abs().mean(1) > threshold
    backward = (after - warp_backward(now, flows.backward, "zeros")).abs().mean(1) > threshold
    return Flows(
        flows.forward,
        flows.backward,
        flows.hidden_forward | forward,
        flows.hidden_backward | backward,
    )


def _shared_estimate(
    request: SampleRequest, name: str, order: Sequence[int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Flow between each frame of `order` and the next, forth and back."""

    def make() -> dict[str, Tensor]:
        estimator = load_estimator(name, device)
        frames = to_levels(request.frames[list(order)])
        backward = estimator.forward(frames[::-1]).flip(0)
        return {"forward": estimator.forward(frames), "backward": backward}

    where = torch.device(device).type
    parts = ["fresco", flow_identity(name), where, list(order), request.source_sha256]
    made = request.shared("flow", parts, make)
    return made["forward"], made["backward"]


def _exact(truth: Mapping[str, Tensor], order: Sequence[int]) -> Flows:
    if "flow_forward" not in truth:
        what = "this clip has no exact flow"
        fix = "use a clip of the world, or flow: dis"
        raise UserError(Problem("correspondence.flow", what, fix=fix))
    pairs = list(pairwise(order))
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
