"""The networks of a run, inflated, with everything that stays the same from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from methods.attention import KeyValue, TokenGuide
from methods.axes import Attention, ControlledConfig, GroupNormMode
from methods.backbones import Backbone, text_states
from methods.base import SampleRequest
from methods.control import Branch, branch_residuals, control_branches, residual_arguments
from methods.guidance import guide
from methods.inflation import FrameAttentionPlan, InflatedNet, inflate
from methods.patterns import INDIVIDUAL, Pattern, parse_pattern


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
        return self.predict_part(latents, timestep, scale, range(len(latents)))

    def predict_part(
        self,
        latents: Tensor,
        timestep: int,
        scale: float,
        frames: Sequence[int],
        *,
        pattern: Pattern | None = None,
        bank: Mapping[str, Tensor | KeyValue] | None = None,
        record: dict[str, KeyValue] | None = None,
        guides: Mapping[str, TokenGuide] | None = None,
    ) -> Tensor:
        """Return the guided output for some frames of the clip as if there were no others.

        latents: (k, 4, h, w), those of `frames`, in any order. pattern, bank, record, guides: of
        the UNet's attention, see `InflatedNet.frames`.
        """
        text, f = (self._prompt if scale == 1 else self.text), len(frames)
        batch = latents.to(text.dtype).repeat(len(text), 1, 1, 1)
        residuals = [
            branch_residuals(b, batch, timestep, b.net.text_of(text, f), frames)
            for b in self.branches
        ]
        states = self.unet.text_of(text, f)
        call = self.unet.frames(
            f, timestep=timestep, pattern=pattern, bank=bank, record=record, guides=guides
        )
        with call:
            output = self.unet.net(batch, timestep, states, **residual_arguments(residuals)).sample
        return guide(output.float(), scale, len(text))

    @cached_property
    def _prompt(self) -> Tensor:
        """The conditional half of the text: one tensor, so that its keys are projected once."""
        return self.text[1:]


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
        text_once=True,
    )


@contextmanager
def opened(
    backbone: Backbone,
    request: SampleRequest,
    options: ControlledConfig,
    plan: FrameAttentionPlan,
    side: FrameAttentionPlan | None = None,
    chunk: int | None = None,
) -> Iterator[Networks]:
    """Inflate the networks of a run and compute what does not change in it; undone on leaving.

    plan: of the UNet. side: of the ControlNets; None leaves their frames on their own. chunk: see
    `control_branches`.

    Raises UserError when the backbone has no ControlNet for a control.
    """
    prompts = [
        request.negative_prompt or options.negative_prompt,
        request.prompt + options.prompt_suffix,
    ]
    text = text_states(backbone, prompts, request.shared)
    side = side or FrameAttentionPlan(INDIVIDUAL, text_once=plan.text_once)
    kinds, scale = options.controls, options.controlnet_scale
    with (
        inflate(backbone.unet, plan) as unet,
        control_branches(backbone, request.controls, kinds, side, scale, chunk) as branches,
    ):
        yield Networks(unet, branches, text)
