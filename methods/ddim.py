"""DDIM (Song et al., arXiv 2010.02502) as small pure functions over a table of alpha-bars.

Timesteps and alpha-bars are those of diffusers' DDIMScheduler for the backbone's own scheduler
configuration; the step is written out so that a method can edit the predicted clean sample (the
interleaved-frame smoother does) between prediction and step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crossframe.errors import Problem, UserError

# (predicted clean latents, step index) -> the clean latents to step towards.
EditX0 = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Schedule:
    """The steps of one run, noisiest first; all tuples have one entry per step.

    timesteps: what the networks are told, 0 .. num_train_timesteps - 1.
    alpha_bar: cumulative signal variance at each timestep, in (0, 1).
    alpha_bar_next: the same where the step ends.
    prediction: what the network predicts, `epsilon`, `v_prediction` or `sample`.
    clip: bound of the predicted clean sample, or None.
    """

    timesteps: tuple[int, ...]
    alpha_bar: tuple[float, ...]
    alpha_bar_next: tuple[float, ...]
    prediction: str = "epsilon"
    clip: float | None = None

    def __len__(self) -> int:
        return len(self.timesteps)


def make_schedule(
    scheduler_config: Mapping[str, Any], steps: int, strength: float = 1.0
) -> Schedule:
    """Return the last `strength` of a DDIM run of `steps` steps, at least one.

    scheduler_config: contents of `scheduler_config.json`; settings of other schedulers are ignored.

    Raises UserError when the backbone was trained on fewer timesteps than `steps` needs, or asks
    for dynamic thresholding, which is for pixel-space models.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(scheduler_config))
    config = scheduler.config
    _require_possible(config, steps)
    scheduler.set_timesteps(steps)
    table = [float(value) for value in scheduler.alphas_cumprod.double()]
    _require_inside(scheduler.timesteps.tolist(), len(table), steps)
    timesteps = scheduler.timesteps.tolist()[steps - max(1, round(steps * strength)) :]
    ends = [t - config.num_train_timesteps // steps for t in timesteps]
    final = float(scheduler.final_alpha_cumprod)
    return Schedule(
        timesteps=tuple(timesteps),
        alpha_bar=tuple(table[t] for t in timesteps),
        alpha_bar_next=tuple(table[t] if t >= 0 else final for t in ends),
        prediction=config.prediction_type,
        clip=config.clip_sample_range if config.clip_sample else None,
    )


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Return sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise; both of one shape."""
    return math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise


def split(schedule: Schedule, index: int, latents: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return (clean, noise) as predicted by a network's `output` at step `index`, shapes as given.

    The clean part is clipped where the schedule says so, the noise is not (as in diffusers).
    """
    signal = math.sqrt(schedule.alpha_bar[index])
    sigma = math.sqrt(1 - schedule.alpha_bar[index])
    clean, noise = _PREDICTIONS[schedule.prediction](latents, output, signal, sigma)
    return (clean if schedule.clip is None else clean.clamp(-schedule.clip, schedule.clip)), noise


def ddim_step(
    schedule: Schedule,
    index: int,
    latents: Tensor,
    output: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    edit: EditX0 | None = None,
) -> Tensor:
    """Take step `index`: DDIM eq. 12, with sigma of eq. 16 times `eta`.

    Args:
        latents: before the step, any shape.
        output: what the network predicted for them, after guidance.
        eta: 0 (deterministic) .. 1 (as noisy as DDPM); above 0 `noise` is required.
        noise: standard normal, as `latents`.
        edit: replaces the predicted clean latents; the predicted noise stays as it is.
    """
    now, after = schedule.alpha_bar[index], schedule.alpha_bar_next[index]
    clean, direction = split(schedule, index, latents, output)
    if edit is not None:
        clean = edit(clean, index)
    variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
    stepped = math.sqrt(after) * clean + math.sqrt(max(1 - after - variance, 0)) * direction
    if variance <= 0:
        return stepped
    if noise is None:
        raise ValueError("a step with eta > 0 needs noise")
    return stepped + math.sqrt(variance) * noise


def _from_epsilon(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return (x - sigma * out) / signal, out


def _from_v(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return signal * x - sigma * out, signal * out + sigma * x


def _from_sample(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return out, (x - signal * out) / sigma


_PREDICTIONS = {
    "epsilon": _from_epsilon,
    "v_prediction": _from_v,
    "sample": _from_sample,
}


def _require_possible(config: Any, steps: int) -> None:
    problems = []
    if steps > config.num_train_timesteps:
        allowed = f"1..{config.num_train_timesteps}"
        problems.append(Problem("steps", f"{steps} exceed the trained timesteps", allowed))
    if config.prediction_type not in _PREDICTIONS:
        what = f"prediction_type {config.prediction_type!r} is not known"
        problems.append(Problem("backbone.scheduler", what, ", ".join(_PREDICTIONS)))
    if config.thresholding:
        what = "dynamic thresholding is for pixel-space models"
        problems.append(Problem("backbone.scheduler", what, "thresholding: false"))
    if problems:
        raise UserError(problems)


def _require_inside(timesteps: list[int], trained: int, steps: int) -> None:
    if max(timesteps) >= trained:
        what = f"{steps} steps with this scheduler's steps_offset reach timestep {max(timesteps)}"
        raise UserError(Problem("steps", what, f"timesteps 0..{trained - 1}", "use fewer steps"))
