"""Tune-A-Video's sampler: tune on the clip, invert it, sample with another prompt.

Shapes: f frames, latents (f, 4, h, w) float32. Networks see (b f), guidance halves b outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.keys import derive_seed, identity
from methods.backbones import (
    Backbone,
    decode_latents,
    shared_by_weights,
    size_problems,
    text_states,
)
from methods.base import Progress, SampleRequest
from methods.ddim import make_schedule
from methods.denoising import Predict, denoise, first_latents, guidance_scales
from methods.inflation import InflatedNet
from methods.inversion import (
    backbone_parts,
    inversion_problems,
    inversion_schedule,
    inverted_source,
)
from methods.networks import Networks, attention_plan
from methods.phases import Phases
from methods.tuneavideo.adapters import adapter_problems
from methods.tuneavideo.config import TuneAVideoConfig
from methods.tuneavideo.network import at_full_weight, inflate_tuned, initial_tensors
from methods.tuneavideo.tuning import LOSSES, Lesson, make_lesson, tune


@torch.inference_mode(False)
@torch.no_grad()
def sample(
    backbone: Backbone | None,
    request: SampleRequest,
    config: TuneAVideoConfig,
    progress: Progress,
) -> Tensor:
    """Make one video, (f, 3, h, w) float32 in [0, 1] on the CPU; a `Sampler`.

    Tuning needs gradients, so this leaves the inference mode that it may be called in.
    Raises UserError when the backbone or the clip cannot serve the options.
    """
    if backbone is None:
        raise ValueError("Tune-A-Video needs a backbone")
    _check(backbone, request, config)
    return TunedSample(backbone, request, config, progress).frames()


class TunedSample:
    """One sample under way: tuned tensors, inverted latents, frames, each made when asked for."""

    def __init__(
        self,
        backbone: Backbone,
        request: SampleRequest,
        config: TuneAVideoConfig,
        progress: Progress,
    ) -> None:
        self.backbone, self.request, self.config = backbone, request, config
        self.plan = attention_plan(config.attention, config.group_norm)
        settings = backbone.scheduler_config
        self.schedule = make_schedule(settings, config.steps)
        self.back = inversion_schedule(settings, config.inversion, config.steps)
        inverts = config.start == "inversion"
        self.phases = Phases(
            progress,
            {
                "tuning": config.tuning.steps,
                "inversion": len(self.back) + len(self.schedule) if inverts else 0,
                "sampling": config.steps,
            },
        )

    def frames(self) -> Tensor:
        """Return the video, (f, 3, h, w) in [0, 1] on the CPU."""
        request, config = self.request, self.config
        tensors = self.tensors(self.phases.of("tuning"))
        self.phases.finish("tuning")
        prompts = [request.negative_prompt or config.negative_prompt, request.prompt]
        text = text_states(self.backbone, prompts, request.shared)
        with inflate_tuned(self.backbone.unet, self.plan, tensors, config.temporal.alpha) as unet:
            latents = self.first_latents(unet)
            self.phases.finish("inversion")
            run = _SAMPLERS[config.sampler]
            latents = run(self, Networks(unet, (), text).predict, latents)
        return decode_latents(self.backbone, latents)

    def tensors(self, progress: Progress) -> dict[str, Tensor]:
        """Return the tensors in which the network differs from the backbone, tuned unless shared.

        progress: of the steps of tuning alone.
        """
        start, request, parts = self.initial_tensors(), self.request, self.tuning_parts
        if self.config.tuning.steps == 0:
            return start

        def make() -> Mapping[str, Tensor]:
            """The tuned tensors, by released name."""
            unet, alpha = self.backbone.unet, self.config.temporal.alpha
            with inflate_tuned(unet, self.plan, start, alpha) as net:
                return tune(
                    net,
                    self.lesson,
                    self.config.tuning,
                    recompute=self.backbone.gradient_checkpointing,
                    checkpoint=self.checkpoint,
                    progress=progress,
                )

        made = dict(shared_by_weights(self.backbone, request.shared, "tuning", parts, make))
        request.note("tuning", {"losses": made.pop(LOSSES).tolist()})
        return {**start, **made}

    def first_latents(self, unet: InflatedNet) -> Tensor:
        """Return what sampling starts from, (f, 4, h, w): the inverted clip, or noise."""
        config, request = self.config, self.request
        if config.start == "noise":
            return first_latents(
                self.backbone, request, self.schedule, noise=config.noise, strength=1.0
            )
        return inverted_source(
            self.backbone,
            request,
            unet,
            config.inversion,
            self.back,
            self.schedule,
            lambda: self.lesson.latents(self._last_draw),
            self.tuning_parts,
            self.phases.of("inversion"),
        )

    @cached_property
    def lesson(self) -> Lesson:
        """The clip as the network sees it in tuning."""
        request = self.request
        text = text_states(self.backbone, [request.source_prompt], request.shared)
        latents = self.config.tuning.latents
        return make_lesson(self.backbone, request.frames, text, latents, request.seed)

    @property
    def checkpoint(self) -> Path | None:
        """File that keeps an unfinished tuning, if the request has a place for it."""
        folder, parts = self.request.scratch, self.tuning_parts
        if folder is None:
            return None
        endless = {**parts, "tuning": {**parts["tuning"], "steps": None}}
        return folder / f"tuning-{identity(endless)[:16]}.safetensors"

    @property
    def tuning_parts(self) -> dict[str, Any]:
        """All that the tuned tensors depend on, as plain data."""
        request = self.request
        return {
            "backbone": backbone_parts(self.backbone),
            "clip": request.source_sha256,
            "prompt": request.source_prompt,
            "seed": request.seed,
            **self.config.tuned_by(),
        }

    def initial_tensors(self) -> dict[str, Tensor]:
        """Return the added tensors before tuning: the backbone's own, if it was tuned before."""
        if self.backbone.temporal:
            return dict(self.backbone.temporal)
        seed = derive_seed(self.request.seed, "temporal")
        return initial_tensors(self.backbone.unet, self.config.temporal.init, seed)

    @property
    def _last_draw(self) -> int:
        """Index of the latents that the last step of tuning saw."""
        tuning = self.config.tuning
        last = max(tuning.steps - 1, 0)
        return last if tuning.repeat is None else last % tuning.repeat


def _ddim(run: TunedSample, predict: Predict, latents: Tensor) -> Tensor:
    scales = guidance_scales(run.config.guidance, len(run.schedule))
    progress = run.phases.of("sampling")
    return denoise(predict, run.schedule, scales, latents, progress=progress)


def _pndm(run: TunedSample, predict: Predict, latents: Tensor) -> Tensor:
    """Run diffusers' PNDM without its Runge-Kutta start, as Stable Diffusion 1.x is shipped."""
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    settings = {**run.backbone.scheduler_config, "skip_prk_steps": True}
    scheduler = PNDMScheduler.from_config(settings)
    scheduler.set_timesteps(run.config.steps)
    timesteps = scheduler.timesteps.tolist()
    scales = guidance_scales(run.config.guidance, len(timesteps))
    for index, (timestep, scale) in enumerate(zip(timesteps, scales, strict=True)):
        output = predict(latents, timestep, scale)
        latents = scheduler.step(output, timestep, latents).prev_sample
        run.phases.of("sampling")(min(index + 1, run.config.steps), run.config.steps)
    return latents


_SAMPLERS: Mapping[str, Callable[[TunedSample, Predict, Tensor], Tensor]] = {
    "ddim": _ddim,
    "pndm": _pndm,
}


def _check(backbone: Backbone, request: SampleRequest, config: TuneAVideoConfig) -> None:
    problems = size_problems(backbone, request.frames)
    if config.start == "inversion":
        problems += inversion_problems(request, config.inversion)
    if config.tuning.steps:
        problems += _tuning_problems(backbone, request, config)
    predicts_clean = backbone.scheduler_config.get("prediction_type") == "sample"
    if config.sampler == "pndm" and predicts_clean:
        what = "pndm cannot run a network that predicts the clean sample"
        problems.append(Problem("sampler", what, "ddim"))
    if problems:
        raise UserError(problems)


def _tuning_problems(
    backbone: Backbone, request: SampleRequest, config: TuneAVideoConfig
) -> list[Problem]:
    problems = adapter_problems() if config.tuning.train == "lora" else []
    if not request.source_prompt:
        what = "tuning needs to know what the clip shows"
        problems.append(Problem("clip", what, fix="give the clip a caption"))
    if backbone.dtype != torch.float32 and config.tuning.precision == "float32":
        what = f"float32 tuning of a backbone in {str(backbone.dtype).removeprefix('torch.')}"
        fix = "set backbone.dtype: float32, or tune in half precision"
        problems.append(Problem("tuning.precision", what, "float16, bfloat16", fix))
    return problems


def tuned_network(
    backbone: Backbone, request: SampleRequest, config: TuneAVideoConfig, progress: Progress
) -> dict[str, Tensor]:
    """Return the whole network that a sample runs, image UNet included, by released names.

    Tuned now, unless the request shares what was tuned before; `temporal.alpha` is part of the
    tensors. progress: of the steps of tuning. Raises UserError as `sample` does.
    """
    _check(backbone, request, config)
    with torch.inference_mode(False), torch.no_grad():
        tuned = TunedSample(backbone, request, config, progress).tensors(progress)
    return {**backbone.unet.state_dict(), **at_full_weight(tuned, config.temporal.alpha)}
