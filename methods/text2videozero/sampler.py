"""Text2Video-Zero's sampler: DDIM with attention to the first frame, with or without motion field.

Shapes: f frames, latents (f, 4, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossframe.errors import UserError
from methods.backbones import Backbone, decode_latents, size_problems
from methods.base import Progress, SampleRequest
from methods.control import control_problems
from methods.ddim import Schedule, make_schedule
from methods.denoising import denoise, first_latents, guidance_scales, step_noise
from methods.networks import Networks, attention_plan, opened
from methods.noise import frame_noise
from methods.solvers import make_step
from methods.text2videozero.config import Motion, Text2VideoZeroConfig
from methods.text2videozero.motion import kept_between, moved, noised


@torch.inference_mode()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: Text2VideoZeroConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Of the source only its length and size count, besides the control maps.

    Raises UserError when the backbone, the frames or the control maps cannot serve the options.
    """
    if backbone is None:
        raise ValueError("Text2Video-Zero needs a backbone")
    problems = size_problems(backbone, request.frames)
    problems += control_problems(request.controls, config.controls, request.frames.shape)
    if problems:
        raise UserError(problems)
    schedule = make_schedule(backbone.scheduler_config, config.steps)
    latents = first_latents(backbone, request, schedule, noise=config.noise, strength=1.0)
    plan = attention_plan(config.attention, "per_frame", config.residuals_in_place)
    side = attention_plan(config.controlnet_attention, "per_frame")
    with opened(backbone, request, config, plan, side) as networks:
        run = Run(networks, schedule, config, request, progress)
        if config.motion.on:
            latents = _with_motion(run, backbone, latents, config.motion)
        latents = run(latents, run.begin, len(schedule))
    return decode_latents(backbone, latents)


@dataclass
class Run:
    """Stretches of one schedule, over the first frames of the clip or over all of them."""

    networks: Networks
    schedule: Schedule
    config: Text2VideoZeroConfig
    request: SampleRequest
    progress: Progress
    done: int = 0

    @property
    def begin(self) -> int:
        """Index of the step at which all frames set out together."""
        motion = self.config.motion
        return len(self.schedule) - motion.t1 - 1 if motion.on else 0

    @property
    def meeting(self) -> int:
        """Index of the step at which the first frame, by itself, is moved for the others."""
        motion = self.config.motion
        return len(self.schedule) - motion.t0 - 1 if motion.on else 0

    @property
    def total(self) -> int:
        """Steps of all stretches together."""
        return self.meeting + len(self.schedule) - self.begin

    def __call__(self, latents: Tensor, first: int, last: int) -> Tensor:
        """Take steps first .. last-1 for latents (k, 4, h, w) of the first k frames."""
        frames, eta = range(len(latents)), self.config.eta
        draw = step_noise(self.request, latents, noise="independent", noisy=eta > 0)
        before = self.done
        latents = denoise(
            lambda x, t, scale: self.networks.predict_part(x, t, scale, frames),
            _cut(self.schedule, first, last),
            self._scales[first:last],
            latents,
            step=make_step("ddim", eta),
            step_noise=lambda index: draw(first + index),
            progress=lambda done, _: self.progress(before + done, self.total),
        )
        self.done = before + last - first
        return latents

    @property
    def _scales(self) -> Sequence[float]:
        return guidance_scales(self.config.guidance, len(self.schedule))


def _with_motion(run: Run, backbone: Backbone, latents: Tensor, motion: Motion) -> Tensor:
    """Return the latents of all frames at step `run.begin`, (f, 4, h, w).

    The first frame goes on alone from there to `run.meeting`; what it is then, moved, is noised
    back for each of the others.
    """
    first = run(latents[:1], 0, run.begin)
    cleaner = run(first, run.begin, run.meeting)
    noise = frame_noise(run.request.seed, ("motion",), len(latents), tuple(latents.shape[1:]), 0.0)
    times = run.schedule.timesteps
    kept = kept_between(
        backbone.scheduler_config, times[run.meeting], times[run.begin], motion.forward
    )
    others = [
        noised(
            moved(cleaner, frame, motion.x, motion.y, motion.grid),
            noise[frame : frame + 1].to(cleaner.device),
            kept,
        )
        for frame in range(1, len(latents))
    ]
    return torch.cat([first, *others])


def _cut(schedule: Schedule, first: int, last: int) -> Schedule:
    """Return steps first .. last-1 of a schedule."""
    part = slice(first, last)
    return replace(
        schedule,
        timesteps=schedule.timesteps[part],
        alpha_bar=schedule.alpha_bar[part],
        alpha_bar_next=schedule.alpha_bar_next[part],
    )
