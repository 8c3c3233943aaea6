"""Rerender-A-Video's key frames, as far as they are here: attention and shape-aware fusion.

The released code draws one key frame after the other and keeps features of the first and the
previous one. A frame never depends on a later one, so that drawing all at once gives the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.errors import UserError
from crossframe.flow.fields import to_levels
from methods.backbones import Backbone, decode_latents, size_problems
from methods.base import Progress, SampleRequest
from methods.control import control_problems
from methods.ddim import make_schedule
from methods.denoising import denoise, first_latents, guidance_scales
from methods.fresco.between import fill_between, require_painter
from methods.keyframes import choose_keyframes, only_frames
from methods.networks import attention_plan, opened
from methods.rerender.config import RerenderConfig
from methods.rerender.fusion import carriers, shape_fusion


@torch.no_grad()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: RerenderConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Raises UserError when the backbone, the frames, the control maps, EbSynth or the flow cannot
    serve the options.
    """
    if backbone is None:
        raise ValueError("Rerender needs a backbone")
    problems = size_problems(backbone, request.frames)
    problems += control_problems(request.controls, config.controls, request.frames.shape)
    if problems:
        raise UserError(problems)
    keys = choose_keyframes(to_levels(request.frames), config.keyframes)
    require_painter(config.between, keys, len(request.frames))
    chosen = only_frames(request, keys)
    schedule = make_schedule(backbone.scheduler_config, config.steps, config.strength)
    scales = guidance_scales(config.guidance, len(schedule))
    latents = first_latents(
        backbone, chosen, schedule, noise=config.noise, strength=config.strength
    )
    height, width = latents.shape[-2:]
    flow, anchor = config.correspondence, config.fusion.anchor
    device = backbone.device
    ways = carriers(request, keys, flow, anchor, height, width, device) if config.fusion.on else ()
    fusion = shape_fusion(ways, len(schedule), config.fusion)
    with opened(backbone, chosen, config, attention_plan(config.attention, "per_frame")) as nets:
        latents = denoise(nets.predict, schedule, scales, latents, edit=fusion, progress=progress)
    drawn = decode_latents(backbone, latents)
    return fill_between(request, keys, drawn, flow, config.between, device)
