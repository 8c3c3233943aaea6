"""FRESCO's sampler: key frames drawn in batches that hold together, the others blended.

Shapes: f frames of the clip, k key frames, n of a batch, latents (n, 4, h, w) float32. Networks see
(b n), guidance halves b outermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.flow.fields import to_levels
from methods.backbones import Backbone, decode_latents, size_problems
from methods.base import Progress, SampleRequest
from methods.control import control_problems
from methods.ddpm import ddpm_step, make_ddpm_schedule
from methods.denoising import guidance_scales
from methods.fresco.batches import Batch, make_batches
from methods.fresco.between import fill_between, require_painter
from methods.fresco.config import FrescoConfig
from methods.fresco.parts import (
    BatchParts,
    Run,
    batch_parts,
    edits_features,
    encode_keys,
    start,
)
from methods.keyframes import choose_keyframes, only_frames
from methods.networks import attention_plan, opened


@torch.no_grad()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: FrescoConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Raises UserError when the backbone, the frames, the control maps, the flow, the saliency or
    EbSynth cannot serve the options.
    """
    if backbone is None:
        raise ValueError("FRESCO needs a backbone")
    _check(backbone, request, config)
    keys = choose_keyframes(to_levels(request.frames), config.keyframes)
    require_painter(config.between, keys, len(request.frames))
    drawn = draw_keys(backbone, request, config, keys, progress)
    flow, device = config.correspondence, backbone.device
    return fill_between(request, keys, drawn, flow, config.between, device)


def draw_keys(
    backbone: Backbone,
    request: SampleRequest,
    config: FrescoConfig,
    keys: Sequence[int],
    progress: Progress,
) -> Tensor:
    """Draw the key frames of a clip, (k, 3, h, w) in [0, 1] on the CPU.

    keys: their indices, ascending. progress: called after each step of each batch. The request is
    told `attended_tokens`, the share of tokens that a query attends to, the mean over batches.
    """
    pictures: list[Tensor] = []
    anchors: list[Tensor] = []
    attended: list[float] = []
    with prepared(backbone, request, config, keys) as run:
        batches = make_batches(len(keys), config.batch)
        for number, batch in enumerate(batches):
            parts = batch_parts(backbone, run, request, config, batch.members)
            attended.append(parts.attended)
            shown = _part_of(progress, number, len(batches))
            with parts.optimising():
                latents, anchors = denoise_batch(run, batch, parts, anchors, shown)
            pictures.append(decode_latents(backbone, latents[batch.known :]))
    request.note("attended_tokens", fmean(attended))
    return torch.cat(pictures)


@contextmanager
def prepared(
    backbone: Backbone, request: SampleRequest, config: FrescoConfig, keys: Sequence[int]
) -> Iterator[Run]:
    """Inflate the networks for a run and compute what its batches share; undone on leaving.

    keys: indices of the key frames in the clip. The predicted clean latents are never clipped, as
    in the released step, whatever the backbone's scheduler says.
    """
    shown = only_frames(request, keys)
    schedule = make_ddpm_schedule(backbone.scheduler_config, config.steps, config.strength)
    schedule = replace(schedule, clip=None)
    clean = encode_keys(backbone, shown, config.encode)
    latents = start(clean, schedule, config, request.seed)
    scales = guidance_scales(config.guidance, len(schedule))
    plan = attention_plan(config.attention, "per_frame")
    with opened(backbone, shown, config, plan) as networks:
        yield Run(networks, schedule, scales, tuple(keys), clean, latents, request.seed, config)


def denoise_batch(
    run: Run,
    batch: Batch,
    parts: BatchParts,
    known: Sequence[Tensor],
    progress: Progress,
) -> tuple[Tensor, list[Tensor]]:
    """Run every step of a batch; returns latents (n, 4, h, w) and the anchors of the next batch.

    known: per step, latents (2, 4, h, w) of the clip's first and newest frame before that step;
    they take the place of the batch's own where it has such. The anchors returned are of this kind.
    """
    members, anchors = list(batch.members), []
    latents = run.latents[members]
    for index, (timestep, scale) in enumerate(zip(run.schedule.timesteps, run.scales, strict=True)):
        if batch.known:
            latents = torch.cat([known[index], latents[batch.known :]])
        anchors.append(latents[[0, -1]])
        guides = parts.guides(index, timestep)
        output = run.networks.predict_part(latents, timestep, scale, members, guides=guides)
        noise = run.noise(index)[members]
        latents = ddpm_step(run.schedule, index, latents, output, noise, edit=parts.edit)
        progress(index + 1, len(run.schedule))
    return latents, anchors


def _part_of(progress: Progress, number: int, count: int) -> Progress:
    """Report the progress of one of `count` parts as that of the whole."""
    return lambda done, total: progress(number * total + done, count * total)


def _check(backbone: Backbone, request: SampleRequest, config: FrescoConfig) -> None:
    problems = size_problems(backbone, request.frames)
    problems += control_problems(request.controls, config.controls, request.frames.shape)
    problems += _level_problems(backbone, request.frames, config)
    problems += _block_problems(backbone, config)
    if problems:
        raise UserError(problems)


def _level_problems(backbone: Backbone, frames: Tensor, config: FrescoConfig) -> list[Problem]:
    """Flow meets tokens and features on grids that divide the frame evenly."""
    multiple = backbone.factor * 2 ** _deepest_level(len(backbone.unet.up_blocks), config)
    height, width = frames.shape[-2:]
    if not (height % multiple or width % multiple):
        return []
    what = f"frames of {width}x{height} pixels do not divide into the tokens of the deepest level"
    fix = "less is enough without the lower levels (attention.levels, loss.layers)"
    return [Problem("clip.size", what, f"multiples of {multiple}", fix)]


def _deepest_level(blocks: int, config: FrescoConfig) -> int:
    """Return the lowest resolution that meets the flow, in halvings of the latents'."""
    levels = config.attention.levels
    deepest = blocks - 1 if levels is None else max(levels, default=0)
    edited = config.loss.layers if edits_features(config) else ()
    return max(deepest, 0, *(blocks - 1 - layer for layer in edited))


def _block_problems(backbone: Backbone, config: FrescoConfig) -> list[Problem]:
    count = len(backbone.unet.up_blocks)
    missing = [layer for layer in config.loss.layers if layer >= count]
    if not (missing and edits_features(config)):
        return []
    what = f"the network has no up block {', '.join(map(str, missing))}"
    return [Problem("loss.layers", what, f"0..{count - 1}, 0 = deepest")]
