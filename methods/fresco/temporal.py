"""The gradient of the temporal loss: one sparse matrix of differences and its transpose.

With v the visibility of a token and W the warp, the loss is a weighted sum of |v (f' - W f)|, and
both f' and W f are linear in the features: the loss is |D f| and its gradient D^T sign(D f).

Shapes: tokens (b n, d, c), guidance halves b outermost, n frames of d tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.fresco.correspondence import Flows
from methods.fresco.options import Losses
from methods.fresco.warp import Rows, neighbours


@dataclass(frozen=True)
class Temporal:
    """Differences along the flow of n frames of d tokens.

    steps: per direction, D (visible tokens x n d) and its transpose. elements: tokens that one
    direction has, hidden ones included. options: weight and reduction are used.
    """

    frames: int
    steps: tuple[tuple[Rows, Rows], ...]
    elements: int
    options: Losses

    @staticmethod
    def build(level: Flows, options: Losses) -> Temporal:
        """Prepare the loss for features of the size of `level` (`Flows.at`)."""
        n, _, height, width = level.forward.shape
        d, pairs = height * width, n if options.cyclic else n - 1
        ways = [(level.backward, level.hidden_backward, 1)]
        if options.direction == "both":
            ways.append((level.forward, level.hidden_forward, 0))
        steps = []
        for flow, hidden, target in ways:
            forwards = _differences(flow[:pairs], hidden[:pairs], target, n)
            steps.append((forwards, forwards.transposed(n * d)))
        return Temporal(n, tuple(steps), pairs * d, options)

    def add_gradient(self, tokens: Tensor, out: Tensor, *, with_loss: bool = False) -> Tensor:
        """Add the gradient at `tokens`, (b n, d, c) float, to `out`; return the loss, or 0.

        The loss costs one more pass over the features and is computed when asked for.
        """
        halves = tokens.unflatten(0, (-1, self.frames)).flatten(1, 2)
        sums = out.unflatten(0, (-1, self.frames)).flatten(1, 2)
        scale = self.scale(tokens)
        loss = torch.zeros((), device=tokens.device)
        for half, total in zip(halves, sums, strict=True):
            for difference, transposed in self.steps:
                change = difference(half)
                if with_loss:
                    loss += scale * change.abs().sum()
                total.add_(transposed(change.sign_()), alpha=scale)
        return loss

    def scale(self, tokens: Tensor) -> float:
        """Return the weight of a single element of the loss."""
        if self.options.reduction == "sum" or not self.elements:
            return self.options.temporal
        halves = len(tokens) // self.frames
        return self.options.temporal / (halves * self.elements * tokens.shape[-1])


def _differences(flow: Tensor, hidden: Tensor, target: int, n: int) -> Rows:
    """Rows v (f_target - W f_source) of pairs i -> i+1 mod n, for the visible tokens.

    flow: (pairs, 2, h, w) on the grid of frame i + target, target 0 or 1. hidden: (pairs, h, w).
    """
    pairs, d = len(flow), flow.shape[-2] * flow.shape[-1]
    visible = 1 - hidden.flatten().float()
    token = torch.arange(pairs * d, device=flow.device)

    def in_frame(column: Tensor, step: int) -> Tensor:
        return (column // d + step) % n * d + column % d

    read, weight = neighbours(flow)
    rows = torch.cat([token, token.repeat_interleave(4)])
    columns = torch.cat([in_frame(token, target), in_frame(read.flatten(), 1 - target)])
    weights = torch.cat([torch.ones_like(visible), -weight.flatten().float()]) * visible[rows]
    number = (visible > 0).cumsum(0) - 1
    return Rows.build(number[rows], columns, weights, int((visible > 0).sum()))
