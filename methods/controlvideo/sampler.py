"""ControlVideo's sampler: one run over all frames of a clip (paper section 3, Algorithm 1).

The smoother edits the clean latents of some steps; the sampler for long videos is a way to predict.

Shapes: f frames, latents (f, 4, h, w) float32. Networks see (b f), guidance halves b outermost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from crossframe.errors import UserError
from methods.backbones import Backbone, decode_latents, size_problems
from methods.base import Progress, SampleRequest
from methods.control import control_problems
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.hierarchical import HierarchicalPrediction
from methods.controlvideo.layout import cut_video, window_of
from methods.controlvideo.options import Hierarchical
from methods.controlvideo.smoother import FrameSmoother, make_smoother
from methods.denoising import Predict, denoise, first_latents, guidance_scales, step_noise
from methods.networks import Networks, attention_plan, opened
from methods.solvers import PlainAt, Step, make_step, schedule_for


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
    schedule = schedule_for(
        config.scheduler, backbone.scheduler_config, config.steps, config.strength
    )
    scales = guidance_scales(config.guidance, len(schedule))
    latents = first_latents(
        backbone, request, schedule, noise=config.noise, strength=config.strength
    )
    smoother = make_smoother(backbone, request, config, len(schedule))
    with prepared(backbone, request, config) as networks:
        latents = denoise(
            _prediction(networks, len(latents), config.hierarchical),
            schedule,
            scales,
            latents,
            step=_step(config, smoother),
            step_noise=step_noise(request, latents, noise=config.step_noise, noisy=_noisy(config)),
            edit=smoother,
            progress=progress,
        )
    return decode_latents(backbone, latents)


@contextmanager
def prepared(
    backbone: Backbone, request: SampleRequest, config: ControlVideoConfig
) -> Iterator[Networks]:
    """Inflate the networks for a run and compute what does not change in it; undone on leaving."""
    plan = attention_plan(config.attention, config.group_norm, config.residuals_in_place)
    side = attention_plan(config.controlnet_attention, config.controlnet_group_norm)
    chunk = backbone.chunk if config.hierarchical.on else None
    with opened(backbone, request, config, plan, side, chunk) as networks:
        yield networks


def _noisy(config: ControlVideoConfig) -> bool:
    """Whether steps add noise."""
    return config.scheduler == "ddpm" or config.eta > 0


def _step(config: ControlVideoConfig, smoother: FrameSmoother | None) -> Step:
    """The scheduler's step; the released code takes smoothed ones by DDIM without noise."""
    usual = make_step(config.scheduler, config.eta)
    if smoother is None or config.smoother.step == "follow":
        return usual
    return PlainAt(usual, smoother.replaced)


def _prediction(networks: Networks, frames: int, chosen: Hierarchical) -> Predict:
    """All frames at once, or key frames and clips."""
    if not chosen.on:
        return networks.predict
    layout = cut_video(frames, window_of(frames, chosen.window))
    return HierarchicalPrediction(
        networks.predict_part, layout, chosen.inter_keys, chosen.reuse_keys
    )


def _check(backbone: Backbone, request: SampleRequest, config: ControlVideoConfig) -> None:
    problems = size_problems(backbone, request.frames)
    problems += control_problems(request.controls, config.controls, request.frames.shape)
    problems += config.frame_problems(len(request.frames))
    if problems:
        raise UserError(problems)
