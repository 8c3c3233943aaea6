"""Stable Video Diffusion (arXiv 2311.15127): a video from its first frame.

At its defaults the loop gives what diffusers' `StableVideoDiffusionPipeline` gives for the same
noise. Differences are the options, and what the pipeline gets wrong: whether a step is guided is
decided once, by its scales (there a falling ramp or a single frame fail), each video is decoded by
itself, images of any size reach CLIP, and a list of noise levels always ends at 0.

Shapes: latents (f, c, h, w) float32 of one video; the networks see (b, f, ...), b the halves of
guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.base import Progress, SampleRequest
from methods.noise import frame_noise
from methods.svd.alpha import blended
from methods.svd.backbone import SvdBackbone
from methods.svd.cache import Clock, cached
from methods.svd.conditioning import Conditions, conditions
from methods.svd.config import SvdConfig
from methods.svd.decoding import borders, decode
from methods.svd.long import fusion_weights, over_windows, reschedule, windows
from methods.svd.memory import spare
from methods.svd.ramp import frame_scales, is_guided
from methods.svd.schedule import first_noise, make_scheduler, take_step
from methods.svd.temporal import attending


def sample(
    backbone: SvdBackbone, request: SampleRequest, config: SvdConfig, progress: Progress
) -> Tensor:
    """Make a video that begins with the first frame of the request; see `methods.base.Sampler`.

    Raises UserError when options do not fit the number of frames, their size or the networks.
    """
    frames = _frames(backbone, request, config)
    parts = windows(frames, config.long.window, config.long.overlap)
    together = len(parts[0])
    with ExitStack() as stack:
        stack.enter_context(spare(backbone, backbone.memory, together))
        told = conditions(backbone, request, config, frames)
        stack.enter_context(blended(backbone.unet, config.alpha))
        stack.enter_context(blended(backbone.vae, config.alpha))
        stack.enter_context(attending(backbone.unet, config.attention, together))
        clock = stack.enter_context(cached(backbone.unet, config.cache))
        run = Run(backbone, config, told, clock, parts)
        latents = run(_noise(backbone, request, config, frames), request.seed, progress)
        video = decode(backbone, latents, config.decode)
    _note(request, backbone, run, frames)
    return video[: len(request.frames)]


@dataclass
class Run:
    """The denoising of one video.

    parts: the windows of frames that are predicted together. calls, rows: how often the UNet was
    called so far, and with how many frames in all, those of both halves counted.
    """

    backbone: SvdBackbone
    config: SvdConfig
    told: Conditions
    clock: Clock
    parts: Sequence[range]
    calls: int = 0
    rows: int = 0
    scheduler: Any = field(init=False)
    scales: Tensor = field(init=False)

    def __post_init__(self) -> None:
        config, frames = self.config, len(self.told.latents)
        self.scheduler = make_scheduler(
            self.backbone.scheduler_config, config.schedule, config.steps
        )
        steps = range(config.steps)
        ramps = [frame_scales(config.guidance.ramp, frames, i, config.steps) for i in steps]
        self.scales = torch.stack(ramps).to(self.backbone.device)

    def __call__(self, noise: Tensor, seed: int, progress: Progress) -> Tensor:
        """Denoise standard normal noise (f, c, h, w); the clean latents are scaled."""
        latents = first_noise(self.scheduler, noise)
        weights = fusion_weights(self.parts, len(latents), self.config.long.fusion)
        frames, shape, steps = len(latents), tuple(latents.shape[1:]), self.config.steps

        def draw(index: int) -> Tensor:
            """Noise of a step, each frame's its own."""
            return frame_noise(seed, ("step", index), frames, shape, 0.0)

        for index in range(steps):

            def predict(part_of: Tensor, part: range, step: int = index) -> Tensor:
                """The prediction for one window of this step."""
                return self.predict(part_of, part, step)

            output = over_windows(predict, latents, self.parts, weights)
            latents = take_step(
                self.scheduler, index, output, latents, self.config.schedule.sampler, draw
            )
            progress(index + 1, steps)
        return latents

    def predict(self, latents: Tensor, part: range, index: int) -> Tensor:
        """Return the guided output of step `index` for latents (k, c, h, w) of some frames."""
        scales = self.scales[index, part.start : part.stop]
        halves = 2 if is_guided(scales) else 1
        dtype, time = self.backbone.dtype, self.scheduler.timesteps[index]
        embeddings, image, numbers = self.told.of(part, halves)
        scaled = self.scheduler.scale_model_input(latents, time).to(dtype)
        seen = torch.cat([scaled.expand(halves, *scaled.shape), image], dim=2)
        self.clock.at(index, self.config.steps, self.parts.index(part))
        output = self.backbone.unet(
            seen,
            time.to(self.backbone.device),
            encoder_hidden_states=embeddings,
            added_time_ids=numbers,
            return_dict=False,
        )[0].float()
        self.calls, self.rows = self.calls + 1, self.rows + halves * len(part)
        return _guided(output, scales)


def _guided(output: Tensor, scales: Tensor) -> Tensor:
    """Combine predictions (halves, k, ...) into (k, ...): uncond + scale (cond - uncond)."""
    if len(output) == 1:
        return output[0]
    uncond, cond = output
    return uncond + scales.view(-1, 1, 1, 1) * (cond - uncond)


def _noise(backbone: SvdBackbone, request: SampleRequest, config: SvdConfig, frames: int) -> Tensor:
    """Return standard normal noise (f, c, h, w) on the backbone's device.

    It does not depend on the noise on the image, nor on the number of frames.
    """
    height, width = (side // backbone.factor for side in request.frames.shape[-2:])
    shape, long = (backbone.latent_channels, height, width), config.long
    noise = frame_noise(request.seed, ("initial",), frames, shape, 0.0)
    if long.noise == "rescheduled" and long.window is not None:
        noise = reschedule(noise, long.window, long.overlap, request.seed)
    return noise.to(backbone.device)


def _frames(backbone: SvdBackbone, request: SampleRequest, config: SvdConfig) -> int:
    """Return how many frames are made; raises UserError for what does not fit the request."""
    have, (height, width) = len(request.frames), request.frames.shape[-2:]
    problems = []
    if config.frames is not None and config.frames < have:
        what = f"{config.frames} frames are fewer than the clip's {have}"
        problems.append(Problem("frames", what, f"{have} and more", "or set clip.frames"))
    if height % backbone.factor or width % backbone.factor:
        what = f"frames of {width}x{height} pixels"
        problems.append(Problem("clip.size", what, f"multiples of {backbone.factor}"))
    if problems:
        raise UserError(problems)
    return config.frames or have


def _note(request: SampleRequest, backbone: SvdBackbone, run: Run, frames: int) -> None:
    """Tell how the sample was made: work done, and how memory was spared."""
    facts: dict[str, Any] = {
        "frames": frames,
        "trained_frames": backbone.trained_frames,
        "windows": len(run.parts),
        "unet_calls": run.calls,
        "unet_frames": run.rows,
    }
    request.note("svd", facts)
    kept = len(request.frames)
    request.note("decode_borders", [t for t in borders(frames, run.config.decode) if t < kept])
    request.note("memory", backbone.memory.model_dump())
