"""DDIM inversion and sampling of a plain backbone: the baseline `ddim`.

Shapes: f frames, latents (f, 4, h, w) float32. Networks see (b f), guidance halves b outermost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.errors import UserError
from methods.backbones import Backbone, decode_latents, encode_frames, size_problems, text_states
from methods.base import Progress, SampleRequest
from methods.ddim import make_schedule
from methods.denoising import denoise, guidance_scales
from methods.inflation import inflate
from methods.inversion import inversion_problems, inversion_schedule, inverted_source
from methods.inversion_only.config import InversionOnlyConfig
from methods.networks import Networks, attention_plan
from methods.phases import Phases


@torch.inference_mode()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: InversionOnlyConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Raises UserError when the backbone or the frames cannot serve the options.
    """
    if backbone is None:
        raise ValueError("inversion needs a backbone")
    problems = size_problems(backbone, request.frames)
    if problems := [*problems, *inversion_problems(request, config.inversion)]:
        raise UserError(problems)
    schedule = make_schedule(backbone.scheduler_config, config.steps, config.strength)
    back = inversion_schedule(
        backbone.scheduler_config, config.inversion, config.steps, config.strength
    )
    phases = Phases(progress, {"inversion": len(back) + len(schedule), "sampling": len(schedule)})
    prompts = [request.negative_prompt or config.negative_prompt, request.prompt]
    text = text_states(backbone, prompts, request.shared)
    with inflate(backbone.unet, attention_plan(config.attention, config.group_norm)) as unet:
        latents = inverted_source(
            backbone,
            request,
            unet,
            config.inversion,
            back,
            schedule,
            lambda: encode_frames(backbone, request.frames),
            [config.attention, config.group_norm],
            phases.of("inversion"),
        )
        phases.finish("inversion")
        latents = denoise(
            Networks(unet, (), text).predict,
            schedule,
            guidance_scales(config.guidance, len(schedule)),
            latents,
            progress=phases.of("sampling"),
        )
    return decode_latents(backbone, latents)
