"""DDIM inversion: from clean latents to the noise that DDIM sampling would have started from.

A plain inversion step asks the network at the noise level it goes *to*, about the latents it comes
*from*, and takes the DDIM step backwards (diffusers' DDIMInverseScheduler; the same as the released
Tune-A-Video). Sampling would have asked about the latents it goes to, so errors add up. Fixed-point
inversion asks again about the result until both agree: AIDI (Pan et al., arXiv 2309.04907), fixed-
point inversion (Meiri et al., arXiv 2312.12540), ReNoise (Garibi et al., arXiv 2403.14602).

Shapes: latents (f, 4, h, w) float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem
from methods.backbones import Backbone, shared_by_weights, text_states
from methods.base import Progress, SampleRequest
from methods.ddim import Schedule, ddim_step, make_schedule, split
from methods.denoising import Predict, denoise
from methods.inflation import InflatedNet
from methods.inversion_config import Inversion
from methods.networks import Networks


def _quiet(done: int, total: int) -> None:
    """Report no progress."""


def inverse(schedule: Schedule) -> Schedule:
    """Return the steps of a schedule backwards: each from where it ended to its own timestep.

    `ddim_step` of the result is diffusers' DDIMInverseScheduler. The network is told the timestep
    that a step leads to.
    """
    return replace(
        schedule,
        timesteps=schedule.timesteps[::-1],
        alpha_bar=schedule.alpha_bar_next[::-1],
        alpha_bar_next=schedule.alpha_bar[::-1],
    )


def invert(
    predict: Predict,
    schedule: Schedule,
    latents: Tensor,
    *,
    iterations: int = 0,
    progress: Progress = _quiet,
) -> Tensor:
    """Run a schedule backwards on clean latents (f, 4, h, w), without guidance; same shape out.

    iterations: fixed-point iterations on each step, each one more call of the network. They
        converge where the network changes little within a step; what they leave of the error is
        what `reconstruct` measures. A bound on the clean sample (`schedule.clip`) is not inverted.
    """
    back = inverse(schedule)
    for index, timestep in enumerate(back.timesteps):
        reached = ddim_step(back, index, latents, predict(latents, timestep, 1.0))
        own = len(schedule) - 1 - index
        for _ in range(iterations):
            _, noise = split(schedule, own, reached, predict(reached, timestep, 1.0))
            reached = _renoised(latents, noise, back.alpha_bar[index], back.alpha_bar_next[index])
        latents = reached
        progress(index + 1, len(back))
    return latents


def reconstruct(
    predict: Predict, schedule: Schedule, latents: Tensor, progress: Progress = _quiet
) -> Tensor:
    """Sample back from inverted latents (f, 4, h, w) without guidance; same shape out."""
    scales = (1.0,) * len(schedule)
    return denoise(predict, schedule, scales, latents, progress=progress)


def inversion_schedule(
    scheduler_config: Mapping[str, Any], options: Inversion, steps: int, strength: float = 1.0
) -> Schedule:
    """Return the schedule to run backwards, when sampling has `steps` steps."""
    schedule = make_schedule(scheduler_config, options.steps or steps, strength)
    return replace(schedule, prediction="epsilon") if options.read_as_epsilon else schedule


def inverted_source(
    backbone: Backbone,
    request: SampleRequest,
    unet: InflatedNet,
    options: Inversion,
    schedule: Schedule,
    forward: Schedule,
    source: Callable[[], Tensor],
    parts: Any,
    progress: Progress = _quiet,
) -> Tensor:
    """Return the inverted source, (f, 4, h, w) float32 on the backbone's device, shared by parts.

    The error of sampling back without guidance, as `forward` samples, is kept with it and told as
    the note `inversion`: `rmse` in units of the latents, `relative` to their root mean square.

    Args:
        unet: the network, inflated as it will sample.
        schedule: of `inversion_schedule`, to run backwards.
        forward: of sampling, which may have fewer steps and read the network's output otherwise.
        source: returns the latents to invert; called only when they are needed.
        parts: what the result depends on beside backbone, clip, prompt, options and schedule.
    """
    prompt = request.source_prompt if options.prompt == "source" else ""

    def make() -> dict[str, Tensor]:
        """The inverted latents and what is measured of them."""
        text = text_states(backbone, ["", prompt], request.shared)
        networks, clean = Networks(unet, (), text), source()
        n, total = len(schedule), len(schedule) + len(forward)
        inverted = invert(
            networks.predict,
            schedule,
            clean,
            iterations=options.iterations,
            progress=lambda done, _: progress(done, total),
        )
        again = reconstruct(
            networks.predict, forward, inverted, lambda done, _: progress(n + done, total)
        )
        error, size = (x.square().mean().sqrt() for x in (again - clean, clean))
        return {"latents": inverted, "error": torch.stack([error, error / size])}

    whole = {
        "backbone": backbone_parts(backbone),
        "clip": request.source_sha256,
        "prompt": prompt,
        "options": options,
        "schedule": schedule,
        "forward": forward,
        "more": parts,
    }
    made = shared_by_weights(backbone, request.shared, "inversion", whole, make)
    rmse, relative = made["error"].tolist()
    request.note("inversion", {"rmse": rmse, "relative": relative})
    return made["latents"].to(backbone.device)


def inversion_problems(request: SampleRequest, options: Inversion) -> list[Problem]:
    """Return what keeps a clip from being inverted by these options."""
    if options.prompt == "empty" or request.source_prompt:
        return []
    what = "inversion.prompt is source, but nothing says what the clip shows"
    return [Problem("clip", what, fix="give the clip a caption, or set inversion.prompt: empty")]


def backbone_parts(backbone: Backbone) -> list[Any]:
    """Return what results of the UNet, the autoencoder and the text depend on, as plain data."""
    files = {
        name: sha256
        for name, sha256 in backbone.identity.items()
        if not name.startswith("controlnet")
    }
    return [files, str(backbone.dtype), backbone.device.type]


def _renoised(latents: Tensor, noise: Tensor, now: float, after: float) -> Tensor:
    """Take latents at alpha-bar `now` to `after` along a known noise."""
    clean = (latents - math.sqrt(1 - now) * noise) / math.sqrt(now)
    return math.sqrt(after) * clean + math.sqrt(1 - after) * noise
