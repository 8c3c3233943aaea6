"""ControlVideo's sampler: one DDIM run over all frames of a clip (paper section 3, Algorithm 1).

Shapes: f frames, b guidance halves, latents (f, 4, h, w) float32. Networks see (b f) with the
halves outermost, [uncond f, cond f].

The loop is split so that methods can meet it half-way: `denoise` runs any `predict`, and `edit`
replaces the predicted clean latents of a step.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossframe.errors import Problem, UserError
from methods.backbones import Backbone, decode_latents, encode_frames, text_states
from methods.base import Progress, SampleRequest
from methods.controlvideo.config import Attention, ControlVideoConfig, Guidance, shared_fraction
from methods.ddim import EditX0, Schedule, add_noise, ddim_step, make_schedule
from methods.guidance import guide, ramp_scales
from methods.inflation import FrameAttentionPlan, InflatedNet, inflate
from methods.noise import frame_noise
from methods.patterns import parse_pattern

# (latents (f, 4, h, w), timestep, guidance scale) -> guided network output, same shape, float32.
Predict = Callable[[Tensor, int, float], Tensor]
# (step index) -> standard normal noise for that step, (f, 4, h, w), or None.
StepNoise = Callable[[int], Tensor | None]
Residuals = tuple[list[Tensor], Tensor]


@torch.inference_mode()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: ControlVideoConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Raises UserError when the backbone, the frames or the control maps cannot serve the options.
    """
    if backbone is None:
        raise ValueError("ControlVideo needs a backbone")
    _check(backbone, request, config)
    schedule = make_schedule(backbone.scheduler_config, config.steps, config.strength)
    scales = guidance_scales(config.guidance, len(schedule))
    latents = first_latents(backbone, request, config, schedule)
    with prepared(backbone, request, config) as networks:
        latents = denoise(
            networks.predict,
            schedule,
            scales,
            latents,
            eta=config.eta,
            step_noise=_step_noise(request, config, latents),
            progress=progress,
        )
    return decode_latents(backbone, latents)


def denoise(
    predict: Predict,
    schedule: Schedule,
    scales: Sequence[float],
    latents: Tensor,
    *,
    eta: float = 0.0,
    step_noise: StepNoise = lambda index: None,
    edit: EditX0 | None = None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Run every step of a schedule; latents (f, 4, h, w) before and after, any device.

    scales: guidance scale per step. eta, edit: see `ddim_step`. progress: called after each step.
    """
    for index, (timestep, scale) in enumerate(zip(schedule.timesteps, scales, strict=True)):
        output = predict(latents, timestep, scale)
        noise = step_noise(index)
        latents = ddim_step(schedule, index, latents, output, eta=eta, noise=noise, edit=edit)
        progress(index + 1, len(schedule))
    return latents


def guidance_scales(guidance: Guidance, steps: int) -> tuple[float, ...]:
    """Return the guidance scale of each step, noisiest first."""
    ramp = guidance.ramp
    if ramp is None:
        return (guidance.scale,) * steps
    return ramp_scales(ramp.min, ramp.max, ramp.shape, steps)


def first_latents(
    backbone: Backbone, request: SampleRequest, config: ControlVideoConfig, schedule: Schedule
) -> Tensor:
    """Return the latents before the first step, (f, 4, h, w) float32 on the backbone's device.

    Pure noise at strength 1; otherwise the source, noised to the first timestep (SDEdit,
    arXiv 2108.01073).
    """
    f, _, height, width = request.frames.shape
    shape = (backbone.unet.config.in_channels, height // backbone.factor, width // backbone.factor)
    fraction = shared_fraction(config.noise)
    noise = frame_noise(request.seed, ("initial",), f, shape, fraction).to(backbone.device)
    if config.strength == 1:
        return noise
    return add_noise(encode_frames(backbone, request.frames), noise, schedule.alpha_bar[0])


@dataclass(frozen=True)
class Branch:
    """One ControlNet with its control maps.

    condition: the maps after the network's own embedding, (f, c, h, w): equal in every step and
        guidance half, so computed once.
    scale: weight of its residuals.
    """

    net: InflatedNet
    condition: Tensor
    scale: float


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
            output = self.unet.net(batch, timestep, states, **_as_arguments(residuals)).sample
        return guide(output.float(), scale, halves)


@contextmanager
def prepared(
    backbone: Backbone, request: SampleRequest, config: ControlVideoConfig
) -> Iterator[Networks]:
    """Inflate the networks for a run and compute what does not change in it; undone on leaving."""
    prompts = [
        request.negative_prompt or config.negative_prompt,
        request.prompt + config.prompt_suffix,
    ]
    text = text_states(backbone, prompts, request.shared)
    wanted = {kind: backbone.controlnet_for(kind) for kind in config.controls}
    conditions = {
        kind: embed_condition(backbone.controlnets[name], request.controls[kind])
        for kind, name in wanted.items()
    }
    plan = _plan(config.attention, config.group_norm, config.residuals_in_place)
    side_plan = _plan(config.controlnet_attention, config.controlnet_group_norm)
    with ExitStack() as stack:
        unet = stack.enter_context(inflate(backbone.unet, plan))
        nets = {}
        for name in dict.fromkeys(wanted.values()):
            net = backbone.controlnets[name]
            nets[name] = stack.enter_context(inflate(net, side_plan))
            stack.enter_context(takes_embedded_condition(net))
        branches = [
            Branch(nets[name], conditions[kind], config.controlnet_scale)
            for kind, name in wanted.items()
        ]
        yield Networks(unet, tuple(branches), text)


def embed_condition(net: Any, maps: Tensor) -> Tensor:
    """Return a ControlNet's embedding of control maps (f, 3, H, W): (f, c, h, w).

    A network that wants blue first flips the channels of whatever it is given, so the embedding is
    handed over flipped.
    """
    weight = next(net.controlnet_cond_embedding.parameters())
    maps = maps.to(weight.device, weight.dtype)
    if net.config.controlnet_conditioning_channel_order == "bgr":
        return net.controlnet_cond_embedding(maps.flip(1)).flip(1)
    return net.controlnet_cond_embedding(maps)


@contextmanager
def takes_embedded_condition(net: Any) -> Iterator[None]:
    """Inside the block a ControlNet's `controlnet_cond` is the embedding of the maps."""
    embedding = net.controlnet_cond_embedding
    net.controlnet_cond_embedding = nn.Identity()
    try:
        yield
    finally:
        net.controlnet_cond_embedding = embedding


def branch_residuals(branch: Branch, batch: Tensor, timestep: int, states: Tensor) -> Residuals:
    """Return (down residuals, mid residual) of one ControlNet for a batch (b f, 4, h, w)."""
    f = len(branch.condition)
    condition = branch.condition.repeat(len(batch) // f, 1, 1, 1)
    with branch.net.frames(f, timestep=timestep):
        down, mid = branch.net.net(
            batch, timestep, states, condition, conditioning_scale=branch.scale, return_dict=False
        )
    return list(down), mid


def _as_arguments(residuals: Sequence[Residuals]) -> dict[str, Any]:
    """Sum the residuals of several ControlNets into the arguments of a UNet call."""
    if not residuals:
        return {}
    downs, mids = zip(*residuals, strict=True)
    return {
        "down_block_additional_residuals": tuple(map(_sum, zip(*downs, strict=True))),
        "mid_block_additional_residual": _sum(mids),
    }


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.add, tensors)


def _plan(
    attention: Attention, group_norm: Any, residuals_in_place: bool = False
) -> FrameAttentionPlan:
    return FrameAttentionPlan(
        pattern=parse_pattern(attention.pattern),
        alpha=attention.alpha,
        levels=attention.levels,
        blocks=attention.blocks,
        timesteps=attention.timesteps,
        group_norm=group_norm,
        residuals_in_place=residuals_in_place,
    )


def _step_noise(request: SampleRequest, config: ControlVideoConfig, latents: Tensor) -> StepNoise:
    f, *shape = latents.shape
    fraction = shared_fraction(config.step_noise)

    def draw(index: int) -> Tensor | None:
        if config.eta == 0:
            return None
        noise = frame_noise(request.seed, ("step", index), f, tuple(shape), fraction)
        return noise.to(latents.device)

    return draw


def _check(backbone: Backbone, request: SampleRequest, config: ControlVideoConfig) -> None:
    problems = []
    height, width = request.frames.shape[-2:]
    if height % backbone.factor or width % backbone.factor:
        what = f"frames of {width}x{height} pixels"
        allowed = f"multiples of {backbone.factor}"
        problems.append(Problem("clip.size", what, allowed))
    problems += _control_problems(request.controls, config.controls, request.frames.shape)
    if problems:
        raise UserError(problems)


def _control_problems(
    maps: Mapping[str, Tensor], kinds: Sequence[str], shape: torch.Size
) -> list[Problem]:
    problems = []
    for kind in kinds:
        if kind not in maps:
            problems.append(Problem(f"controls: {kind}", "the request holds no such maps"))
        elif maps[kind].shape != shape:
            what = f"maps of shape {tuple(maps[kind].shape)} do not fit frames of {tuple(shape)}"
            problems.append(Problem(f"controls: {kind}", what))
    return problems
