"""Hallo (arXiv 2406.08801): a portrait that speaks, drawn a segment at a time.

Of the request count the portrait (a frame of the clip), the voice, and as many frames as the clip
has; what else the clip shows is only measured against.

Shapes: f frames of the clip, g frames of a segment, n motion frames; pictures (., 3, h, w) in
[0, 1], latents (1 c g h w) float32, scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.axes import shared_fraction
from methods.backbones import decode_latents, encode_frames
from methods.base import Progress, SampleRequest
from methods.ddim import Schedule, make_schedule
from methods.denoising import StepNoise, guidance_scales
from methods.hallo.backbone import HalloBackbone
from methods.hallo.calls import HalloCall
from methods.hallo.config import HalloConfig
from methods.hallo.drawing import Conditions, draw_latents
from methods.hallo.portrait import Portrait, listen, look, on_device, require
from methods.hallo.segments import GREY, Segment, draw_segments, plan_segments
from methods.noise import frame_noise
from methods.patterns import parse_pattern


def sample(
    backbone: HalloBackbone, request: SampleRequest, config: HalloConfig, progress: Progress
) -> Tensor:
    """Draw the portrait speaking, as many frames as the clip has; see `methods.base.Sampler`.

    progress counts the steps of all segments. Raises UserError for a clip without a voice, at
    another rate than 25 frames per second or of another form, for a face of which nobody says where
    or whose it is, and for options that the networks cannot follow.
    """
    voice = require(backbone, request, config)
    frames, length = len(request.frames), config.segment.length
    portrait = look(backbone, request, config)
    heard = listen(backbone, request, voice, config)
    segments = plan_segments(frames, length)
    run = Run(backbone, config, request, portrait, heard, len(segments), progress)
    video = draw_segments(
        run, portrait.picture, frames, length, config.motion.frames, config.motion.source
    )
    borders = [segment.start for segment in segments[1:]]
    request.note("decode_borders", borders)
    request.note(
        "hallo",
        {
            "segments": len(segments),
            "frames_drawn": run.drawn,
            "network_calls": run.calls,
            "guided": config.guided,
        },
    )
    return video


@dataclass
class Run:
    """The drawing of one clip, segment by segment.

    heard: windows of sound (T, w, k, c). segments: how many there will be. calls: how often the
    denoising network was called so far; drawn: frames, those that are cut off included.
    """

    backbone: HalloBackbone
    config: HalloConfig
    request: SampleRequest
    portrait: Portrait
    heard: Tensor
    segments: int
    progress: Progress
    calls: int = 0
    drawn: int = 0

    def __call__(self, segment: Segment, motion: Tensor) -> Tensor:
        """Draw a segment after motion frames (n, 3, h, w): frames (g, 3, h, w)."""
        backbone: Any = self.backbone
        sound = self.heard[segment.frames]
        shown = torch.cat([self.portrait.picture[None], motion])
        if self.config.quirks.bright_twice and shown.min() >= GREY:
            shown = 2 * shown - 1
        images = encode_frames(backbone, shown)[None]
        given = Conditions(
            identity=self.portrait.identity,
            images=on_device(backbone, images),
            sound=on_device(backbone, sound[None]),
            masks=self.portrait.masks,
            face=self.portrait.face,
        )
        latents = self.latents(given, segment.index)
        self.drawn += len(sound)
        return decode_latents(backbone, latents[0].transpose(0, 1))

    def latents(self, given: Conditions, index: int) -> Tensor:
        """Draw the latents of segment `index` under its conditions."""
        config, frames, shape = self.config, given.sound.shape[1], tuple(given.images.shape[2:])
        noise = self.noise((index,), frames, shape, config.noise)
        schedule = schedule_of(self.backbone, config)

        def step_noise(step: int) -> Tensor | None:
            if config.eta == 0:
                return None
            return self.noise((index, "step", step), frames, shape, "independent")

        def told(done: int, total: int) -> None:
            self.calls += 1
            self.progress(index * total + done, self.segments * total)

        return run_latents(self.backbone, config, given, schedule, noise, step_noise, told)

    def noise(
        self, stream: tuple[str | int, ...], frames: int, shape: tuple[int, ...], kind: str
    ) -> Tensor:
        """Standard normal noise (1 c g h w) of a named stream."""
        drawn = frame_noise(
            self.request.seed, ("segment", *stream), frames, shape, shared_fraction(kind)
        )
        return drawn.transpose(0, 1)[None].to(self.backbone.device)


def run_latents(
    backbone: HalloBackbone,
    config: HalloConfig,
    given: Conditions,
    schedule: Schedule,
    noise: Tensor,
    step_noise: StepNoise = lambda index: None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Draw one segment's latents (1 c g h w) from noise as a configuration says."""
    quirks, guidance = config.quirks, config.guidance
    return draw_latents(
        backbone.nets,
        given,
        schedule,
        noise,
        guidance_scales(guidance, len(schedule)),
        call_of(config),
        half=quirks.half_bank,
        null=guidance,
        tokens_order=quirks.token_rows,
        eta=config.eta,
        step_noise=step_noise,
        progress=progress,
    )


def call_of(config: HalloConfig) -> HalloCall:
    """Return what a configuration tells the networks, besides a segment's conditions."""
    quirks, reference = config.quirks, config.reference
    scales = config.scales
    if config.regions.attention == "full":
        scales = scales.model_copy(update={"face": 0.0, "lip": 0.0})
    return HalloCall(
        frames=0,
        scales=scales,
        pattern=parse_pattern(reference.pattern),
        reference_levels=reference.levels if reference.on else (),
        order=quirks.reference_rows,
        motion_norm=quirks.motion_norm,
        dead_modules=quirks.dead_modules,
        evaluation=quirks.evaluation,
    )


def schedule_of(backbone: HalloBackbone, config: HalloConfig) -> Schedule:
    """Return the DDIM steps of a segment."""
    options = config.schedule
    own = {"beta_schedule": options.betas, "rescale_betas_zero_snr": options.zero_snr}
    return make_schedule({**backbone.scheduler_config, **own}, config.steps)
