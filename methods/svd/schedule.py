"""Noise levels of a run of Stable Video Diffusion, and the steps between them.

Noise levels, the network's time t = ln(sigma) / 4 and the Euler step are those of diffusers'
`EulerDiscreteScheduler` under the released configuration: 700 .. 0.002 spaced by Karras et al.
(arXiv 2206.00364, eq. 5, rho 7), v-prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.svd.config import DISTILLED, Schedule

RHO = 7

# (step index) -> standard normal noise for that step, shaped as the latents.
Draw = Callable[[int], Tensor]

SPACED: Mapping[str, Mapping[str, bool]] = {
    "karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
    "exponential": {"use_karras_sigmas": False, "use_exponential_sigmas": True},
}


def make_scheduler(config: Mapping[str, Any], schedule: Schedule, steps: int) -> Any:
    """Return an EulerDiscreteScheduler, set to its first step; one serves one sample.

    config: contents of `scheduler_config.json`.

    Raises UserError when the configuration is not one of a video model of this family, and when
    its ends with those of `schedule` leave no room between them.
    """
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    limits = {"sigma_max": schedule.sigma_max, "sigma_min": schedule.sigma_min}
    changed = {name: value for name, value in limits.items() if value is not None}
    spacing = SPACED.get(schedule.sigmas, {}) if isinstance(schedule.sigmas, str) else {}
    scheduler = EulerDiscreteScheduler.from_config({**config, **changed, **spacing})
    _require_continuous(scheduler.config)
    sigmas = _own_sigmas(schedule, steps, scheduler.config)
    if sigmas is None:
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(sigmas=sigmas)
    scheduler.set_begin_index(0)
    return scheduler


def interpolated(table: Sequence[float], steps: int) -> list[float]:
    """Return `steps` noise levels, log-linear between those of a table (which ends above 0).

    As the authors of Align Your Steps do for other numbers of steps (arXiv 2404.14507).
    """
    logs = [math.log(sigma) for sigma in table]
    found = []
    for step in range(steps):
        place = step * (len(logs) - 1) / max(steps - 1, 1)
        low = min(int(place), len(logs) - 2)
        found.append(math.exp(logs[low] + (place - low) * (logs[low + 1] - logs[low])))
    return found


def take_step(
    scheduler: Any, index: int, output: Tensor, latents: Tensor, sampler: str, draw: Draw
) -> Tensor:
    """Return the latents after step `index`, float32, shaped as before.

    output: guided network output. sampler: `euler`, or `consistency`: the predicted clean latents,
    noised anew to the next level by `draw(index)` (arXiv 2303.01469, algorithm 1; its epsilon is 0
    here, where v-prediction has the boundary).
    """
    made = scheduler.step(output, scheduler.timesteps[index], latents)
    if sampler == "euler":
        return made.prev_sample
    level = float(scheduler.sigmas[index + 1])
    clean: Tensor = made.pred_original_sample
    return clean + level * draw(index).to(clean) if level else clean


def distilled(first: float, last: float, steps: int) -> list[float]:
    """Return every (40 // steps)-th of 40 Karras levels (eq. 5, rho 7), `steps` <= 40 of them.

    As AnimateLCM-SVD's published scheduler: the levels on which a student was distilled, from the
    first, so that a few steps end well above `last`.
    """
    high, low = first ** (1 / RHO), last ** (1 / RHO)
    places = [step * (DISTILLED // steps) / (DISTILLED - 1) for step in range(steps)]
    return [(high + place * (low - high)) ** RHO for place in places]


def _ends(config: Any) -> tuple[float, float]:
    """First and last level above 0: the schedule's own over the checkpoint's."""
    first, last = config["sigma_max"], config["sigma_min"]
    if first is None or last is None or last >= first:
        what = f"noise levels from {first} to {last}, with what the checkpoint's scheduler says"
        raise UserError(Problem("schedule.sigma_max", what, "above sigma_min"))
    return first, last


def _own_sigmas(schedule: Schedule, steps: int, config: Any) -> list[float] | None:
    """Noise levels that the scheduler does not know itself, down to 0; None for its own."""
    if schedule.sigmas in (*SPACED, "distilled"):
        ends = _ends(config)
        return [*distilled(*ends, steps), 0.0] if schedule.sigmas == "distilled" else None
    if isinstance(schedule.sigmas, str):
        from diffusers.schedulers.scheduling_utils import AysSchedules

        table = AysSchedules["StableDiffusionVideoSigmas"]
        return [*interpolated([sigma for sigma in table if sigma > 0], steps), 0.0]
    return [*(sigma for sigma in schedule.sigmas if sigma > 0), 0.0]


def _require_continuous(config: Any) -> None:
    wanted = {"prediction_type": "v_prediction", "timestep_type": "continuous"}
    problems = [
        Problem("backbone.scheduler", f"{name} is {config[name]!r}", repr(value))
        for name, value in wanted.items()
        if config[name] != value
    ]
    if problems:
        raise UserError(problems)


def first_noise(scheduler: Any, noise: Tensor) -> Tensor:
    """Return standard normal noise scaled to the first level, of the same shape."""
    return noise * torch.as_tensor(scheduler.init_noise_sigma).to(noise)
