"""FRESCO's sampler: key frames drawn in batches that hold together, the others blended.

Shapes: f frames of the clip, k key frames, n of a batch, latents (n, 4, h, w) float32. Networks see
(b n), guidance halves b outermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.flow.fields import to_levels
from methods.backbones import Backbone, decode_latents, size_problems
from methods.base import Progress, SampleRequest
from methods.control import control_problems
from methods.ddpm import ddpm_step, make_ddpm_schedule
from methods.denoising import first_latents, guidance_scales
from methods.fresco.batches import Batch, make_batches
from methods.fresco.between import fill_between
from methods.fresco.config import FrescoConfig
from methods.fresco.parts import BatchParts, Run, batch_parts
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

    Raises UserError when the backbone, the frames, the control maps, the flow or the saliency
    cannot serve the options.
    """
    if backbone is None:
        raise ValueError("FRESCO needs a backbone")
    _check(backbone, request, config)
    keys = choose_keyframes(to_levels(request.frames), config.keyframes)
    drawn = draw_keys(backbone, request, config, keys, progress)
    return fill_between(request, keys, drawn, config.correspondence, config.between)


def draw_keys(
    backbone: Backbone,
    request: SampleRequest,
    config: FrescoConfig,
    keys: Sequence[int],
    progress: Progress,
) -> Tensor:
    """Draw the key frames of a clip, (k, 3, h, w) in [0, 1] on the CPU.

    keys: their indices, ascending. progress: called after each step of each batch.
    """
    pictures: list[Tensor] = []
    anchors: list[Tensor] = []
    with prepared(backbone, only_frames(request, keys), config) as run:
        batches = make_batches(len(keys), config.batch)
        for number, batch in enumerate(batches):
            members = [keys[member] for member in batch.members]
            parts = batch_parts(backbone, run, request, config, members)
            shown = _part_of(progress, number, len(batches))
            with parts.optimising():
                latents, anchors = denoise_batch(run, batch, parts, anchors, shown)
            pictures.append(decode_latents(backbone, latents[batch.known :]))
    return torch.cat(pictures)


@contextmanager
def prepared(backbone: Backbone, request: SampleRequest, config: FrescoConfig) -> Iterator[Run]:
    """Inflate the networks for a run and compute what its batches share; undone on leaving.

    request: of the key frames alone.
    """
    schedule = make_ddpm_schedule(backbone.scheduler_config, config.steps, config.strength)
    scales = guidance_scales(config.guidance, len(schedule))
    latents = first_latents(
        backbone, request, schedule, noise=config.noise, strength=config.strength
    )
    plan = attention_plan(config.attention, "per_frame")
    with opened(backbone, request, config, plan) as networks:
        yield Run(networks, schedule, scales, latents, request.seed, config.step_noise)


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
    """Flow meets tokens on grids that divide the frame evenly."""
    deepest = len(backbone.unet.config.block_out_channels) - 1
    multiple = backbone.factor * 2 ** max(config.attention.levels or (deepest,))
    height, width = frames.shape[-2:]
    if not (height % multiple or width % multiple):
        return []
    what = f"frames of {width}x{height} pixels do not divide into the tokens of attention"
    return [Problem("clip.size", what, f"multiples of {multiple}")]


def _block_problems(backbone: Backbone, config: FrescoConfig) -> list[Problem]:
    count = len(backbone.unet.up_blocks)
    missing = [layer for layer in config.loss.layers if layer >= count]
    if not (missing and config.loss.active):
        return []
    what = f"the network has no up block {', '.join(map(str, missing))}"
    return [Problem("loss.layers", what, f"0..{count - 1}, 0 = deepest")]
