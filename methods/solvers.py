"""Ways to take a step of `methods.denoising.denoise`: DDIM, DDPM and DPM-Solver++.

All run on the timesteps of `methods.ddim` and let a method edit the predicted clean latents.
Shapes: latents of any shape, of the network's output, of noise and of clean latents alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from methods.axes import SchedulerName
from methods.ddim import EditX0, Schedule, ddim_step, make_schedule, split
from methods.ddpm import ddpm_step, make_ddpm_schedule


class Step(Protocol):
    """Takes a step of a schedule."""

    def __call__(
        self,
        schedule: Schedule,
        index: int,
        latents: Tensor,
        output: Tensor,
        *,
        noise: Tensor | None = None,
        edit: EditX0 | None = None,
    ) -> Tensor:
        """Latents after step `index`, from those before it and the guided output for them."""


def schedule_for(
    name: SchedulerName, scheduler_config: Mapping[str, Any], steps: int, strength: float = 1.0
) -> Schedule:
    """Return the steps of a run; `make_schedule`, and for `ddpm` an end without noise."""
    make = make_ddpm_schedule if name == "ddpm" else make_schedule
    return make(scheduler_config, steps, strength)


def make_step(name: SchedulerName, eta: float) -> Step:
    """Return the step of one run: `dpmpp` remembers the step before. eta: DDIM's."""
    if name == "dpmpp":
        return DpmSolver()
    return _ancestral if name == "ddpm" else partial(ddim_step, eta=eta)


@dataclass(frozen=True)
class PlainAt:
    """Steps as `usual`, but DDIM's without noise at the steps with these indices."""

    usual: Step
    indices: Collection[int]

    def __call__(
        self,
        schedule: Schedule,
        index: int,
        latents: Tensor,
        output: Tensor,
        *,
        noise: Tensor | None = None,
        edit: EditX0 | None = None,
    ) -> Tensor:
        """A `Step`."""
        if index in self.indices:
            return ddim_step(schedule, index, latents, output, edit=edit)
        return self.usual(schedule, index, latents, output, noise=noise, edit=edit)


@dataclass
class DpmSolver:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2) over one run.

    The second order is a line through the clean latents of two steps. Of the step before, those
    after an edit count; of the present step those before it, and the edit is laid on top: so an
    edit is a correction and is never extrapolated itself. The first step and the last one are of
    first order, as is one whose predecessor was not taken here.
    """

    _before: tuple[int, Tensor] | None = field(default=None)

    def __call__(
        self,
        schedule: Schedule,
        index: int,
        latents: Tensor,
        output: Tensor,
        *,
        noise: Tensor | None = None,
        edit: EditX0 | None = None,
    ) -> Tensor:
        """A `Step`; there is no noise in it."""
        predicted, _ = split(schedule, index, latents, output)
        clean = predicted if edit is None else edit(predicted, index)
        target = clean
        if self._before is not None and self._before[0] == index - 1 < len(schedule) - 2:
            target = clean + slope(schedule, index) * (predicted - self._before[1])
        self._before = index, clean
        return towards(schedule, index, latents, target)


def towards(schedule: Schedule, index: int, latents: Tensor, clean: Tensor) -> Tensor:
    """Return latents after step `index` if the clean latents are `clean` all along it.

    The exact solution of the diffusion ODE for a constant prediction: eq. 9 of arXiv 2211.01095
    with its first term only; DDIM's step without noise.
    """
    now, after = schedule.alpha_bar[index], schedule.alpha_bar_next[index]
    ratio = math.sqrt((1 - after) / (1 - now))
    return ratio * latents + (math.sqrt(after) - ratio * math.sqrt(now)) * clean


def slope(schedule: Schedule, index: int) -> float:
    """Return 1 / (2 r) of step `index` > 0: half of its width over that of the step before.

    Widths are differences of log(signal / noise); noise must be left after the step.
    """
    before, now = schedule.alpha_bar[index - 1], schedule.alpha_bar[index]
    here = log_ratio(schedule.alpha_bar_next[index]) - log_ratio(now)
    return here / (2 * (log_ratio(now) - log_ratio(before)))


def log_ratio(alpha_bar: float) -> float:
    """Return log(signal / noise) = log(alpha_bar / (1 - alpha_bar)) / 2, for 0 < alpha_bar < 1."""
    return math.log(alpha_bar / (1 - alpha_bar)) / 2


def _ancestral(
    schedule: Schedule,
    index: int,
    latents: Tensor,
    output: Tensor,
    *,
    noise: Tensor | None = None,
    edit: EditX0 | None = None,
) -> Tensor:
    """DDPM's step as a `Step`."""
    if noise is None:
        raise ValueError("a step of DDPM needs noise")
    return ddpm_step(schedule, index, latents, output, noise, edit)
