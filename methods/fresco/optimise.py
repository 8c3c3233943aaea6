"""Feature optimisation (paper section 4.2): Adam on the features that enter an up block.

Shapes: features (b n, c, h, w), guidance halves b outermost, n frames; tokens (b n, d, c).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.fresco.adain import adain
from methods.fresco.correspondence import Flows
from methods.fresco.gram import add_spatial_gradient, unit_tokens
from methods.fresco.options import Losses
from methods.fresco.temporal import Temporal

BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's defaults, which the released code keeps


@dataclass(frozen=True)
class Consistency:
    """The losses at one feature level, with everything that stays the same in a run.

    temporal: None when the term is off. reference: unit tokens (b n, d, any c) whose similarities
    are the goal of the spatial term, None when it is off.
    """

    options: Losses
    temporal: Temporal | None
    reference: Tensor | None

    @staticmethod
    def build(options: Losses, level: Flows, reference: Tensor | None) -> Consistency:
        """Prepare the losses for features of the size of `level` (`Flows.at`).

        reference: features (b n, any c, h, w) of the single step near t = 1.

        Raises ValueError when the spatial term is on and there is no reference.
        """
        if options.spatial and reference is None:
            raise ValueError("the spatial loss needs reference features")
        return Consistency(
            options,
            Temporal.build(level, options) if options.temporal else None,
            unit_tokens(reference) if options.spatial and reference is not None else None,
        )

    def gradient(self, tokens: Tensor, out: Tensor, *, with_loss: bool = False) -> Tensor:
        """Write the gradient at `tokens`, (b n, d, c), to `out`; return the loss, or 0."""
        out.zero_()
        loss = torch.zeros((), device=tokens.device)
        if self.temporal is not None:
            loss = loss + self.temporal.add_gradient(tokens, out, with_loss=with_loss)
        if self.reference is not None:
            loss = loss + add_spatial_gradient(
                tokens, self.reference, out, self.options, with_loss=with_loss
            )
        return loss


def optimise(features: Tensor, losses: Consistency, *, trace: list[float] | None = None) -> Tensor:
    """Return features that lower the losses; shape and type as given, on the same device.

    trace: gets the loss before each iteration and after the last.
    """
    height, width = features.shape[-2:]
    tokens = minimise(features.float().flatten(2).mT.contiguous(), losses, trace=trace)
    found = tokens.mT.unflatten(2, (height, width))
    if losses.options.adain != "none":
        found = adain(found, features.float(), losses.options.adain)
    return found.to(features.dtype).contiguous()


def minimise(tokens: Tensor, losses: Consistency, *, trace: list[float] | None = None) -> Tensor:
    """Run Adam (Kingma and Ba, arXiv 1412.6980) on `tokens`, (b n, d, c) float, in place."""
    gradient, mean, square = (torch.zeros_like(tokens) for _ in range(3))
    for step in range(1, losses.options.iterations + 1):
        loss = losses.gradient(tokens, gradient, with_loss=trace is not None)
        if trace is not None:
            trace.append(loss.item())
        _adam(tokens, gradient, mean, square, step, losses.options.lr)
    if trace is not None:
        trace.append(losses.gradient(tokens, gradient, with_loss=True).item())
    return tokens


def _adam(
    tokens: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, lr: float
) -> None:
    """Take one step in place; `gradient` is used up."""
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    unbias = [1 - beta**step for beta in BETAS]
    deviation = torch.sqrt(square, out=gradient).div_(unbias[1] ** 0.5).add_(EPS)
    tokens.addcdiv_(mean, deviation, value=-lr / unbias[0])
