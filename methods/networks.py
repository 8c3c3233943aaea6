"""The networks of a run, inflated, with everything that stays the same from step to step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.axes import Attention, GroupNormMode
from methods.control import Branch, branch_residuals, residual_arguments
from methods.guidance import guide
from methods.inflation import FrameAttentionPlan, InflatedNet
from methods.patterns import parse_pattern


@dataclass(frozen=True)
class Networks:
    """Inflated networks with everything that stays the same during a run.

    text: states of [negative prompt, prompt], (2, n, c).
    """

    unet: InflatedNet
    branches: tuple[Branch, ...]
    text: Tensor

    def predict(self, latents: Tensor, timestep: int, scale: float) -> Tensor:
        """Return the guided output for latents (f, 4, h, w), float32.

        At scale 1 guidance is the conditional prediction, and the unconditional half is not run.
        """
        text = self.text[1:] if scale == 1 else self.text
        f, halves = len(latents), len(text)
        batch = latents.to(text.dtype).repeat(halves, 1, 1, 1)
        states = text.repeat_interleave(f, dim=0)
        residuals = [branch_residuals(b, batch, timestep, states) for b in self.branches]
        with self.unet.frames(f, timestep=timestep):
            output = self.unet.net(batch, timestep, states, **residual_arguments(residuals)).sample
        return guide(output.float(), scale, halves)


def attention_plan(
    attention: Attention,
    group_norm: GroupNormMode,
    residuals_in_place: bool = False,
) -> FrameAttentionPlan:
    """Return what `inflate` installs for these options."""
    return FrameAttentionPlan(
        pattern=parse_pattern(attention.pattern),
        alpha=attention.alpha,
        levels=attention.levels,
        blocks=attention.blocks,
        timesteps=attention.timesteps,
        group_norm=group_norm,
        residuals_in_place=residuals_in_place,
    )
