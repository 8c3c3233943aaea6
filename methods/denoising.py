"""The sampling loop that methods share, and the latents it starts from.

The loop runs any `predict`; a method meets it half-way by replacing the predicted clean latents of
a step (`edit`). Shapes: latents (f, 4, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from methods.axes import Guidance, shared_fraction
from methods.backbones import Backbone, encode_frames
from methods.base import Progress, SampleRequest
from methods.ddim import EditX0, Schedule, add_noise
from methods.guidance import ramp_scales
from methods.noise import frame_noise
from methods.solvers import Step, make_step

# (latents (f, 4, h, w), timestep, guidance scale) -> guided network output, same shape, float32.
Predict = Callable[[Tensor, int, float], Tensor]
# (step index) -> standard normal noise for that step, (f, 4, h, w), or None.
StepNoise = Callable[[int], Tensor | None]


def denoise(
    predict: Predict,
    schedule: Schedule,
    scales: Sequence[float],
    latents: Tensor,
    *,
    step: Step | None = None,
    step_noise: StepNoise = lambda index: None,
    edit: EditX0 | None = None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Run every step of a schedule; latents (f, 4, h, w) before and after, any device.

    scales: guidance scale per step. step: DDIM's without noise, unless given (`make_step`). edit:
        see `ddim_step`. progress: called after each step.
    """
    take = step or make_step("ddim", eta=0.0)
    for index, (timestep, scale) in enumerate(zip(schedule.timesteps, scales, strict=True)):
        output = predict(latents, timestep, scale)
        noise = step_noise(index)
        latents = take(schedule, index, latents, output, noise=noise, edit=edit)
        progress(index + 1, len(schedule))
    return latents


def guidance_scales(guidance: Guidance, steps: int) -> tuple[float, ...]:
    """Return the guidance scale of each step, noisiest first."""
    ramp = guidance.ramp
    if ramp is None:
        return (guidance.scale,) * steps
    return ramp_scales(ramp.min, ramp.max, ramp.shape, steps)


def first_latents(
    backbone: Backbone, request: SampleRequest, schedule: Schedule, *, noise: str, strength: float
) -> Tensor:
    """Return the latents before the first step, (f, 4, h, w) float32 on the backbone's device.

    Pure noise at strength 1; otherwise the source, noised to the first timestep (SDEdit,
    arXiv 2108.01073). noise: `shared`, `independent` or `mixed:x`.
    """
    f, _, height, width = request.frames.shape
    shape = (backbone.unet.config.in_channels, height // backbone.factor, width // backbone.factor)
    drawn = frame_noise(request.seed, ("initial",), f, shape, shared_fraction(noise))
    drawn = drawn.to(backbone.device)
    if strength == 1:
        return drawn
    return add_noise(encode_frames(backbone, request.frames), drawn, schedule.alpha_bar[0])


def step_noise(request: SampleRequest, latents: Tensor, *, noise: str, noisy: bool) -> StepNoise:
    """Return the noise of each step for latents (f, 4, h, w); None for all unless steps are noisy.

    noise: `shared`, `independent` or `mixed:x`.
    """
    f, *shape = latents.shape
    fraction = shared_fraction(noise)

    def draw(index: int) -> Tensor | None:
        if not noisy:
            return None
        drawn = frame_noise(request.seed, ("step", index), f, tuple(shape), fraction)
        return drawn.to(latents.device)

    return draw
