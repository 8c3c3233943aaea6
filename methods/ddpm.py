"""Ancestral sampling (DDPM, Ho et al., arXiv 2006.11239) on the tables of `methods.ddim`.

Steps are those of diffusers' DDPMScheduler. Where the predicted clean latents are edited, the next
ones follow from the edited and the present latents (DDPM eq. 7); DDIM with eta 1 keeps the
predicted noise instead, and both agree only where nothing is edited.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from methods.ddim import EditX0, Schedule, make_schedule, split


def make_ddpm_schedule(
    scheduler_config: Mapping[str, Any], steps: int, strength: float = 1.0
) -> Schedule:
    """Return the last `strength` of a DDPM run of `steps` steps, at least one.

    As `make_schedule`, but that the last step ends without noise, whatever `set_alpha_to_one` says.
    Raises UserError where `make_schedule` does.
    """
    schedule = make_schedule(scheduler_config, steps, strength)
    return replace(schedule, alpha_bar_next=(*schedule.alpha_bar_next[:-1], 1.0))


def ddpm_step(
    schedule: Schedule,
    index: int,
    latents: Tensor,
    output: Tensor,
    noise: Tensor,
    edit: EditX0 | None = None,
) -> Tensor:
    """Take step `index`: mean and variance of DDPM eq. 7.

    Args:
        schedule: of `make_ddpm_schedule`.
        index: of the step, 0 = noisiest.
        latents: before the step, any shape.
        output: what the network predicted for them, after guidance.
        noise: standard normal, as `latents`; without effect in the last step.
        edit: replaces the predicted clean latents.
    """
    now, after = schedule.alpha_bar[index], schedule.alpha_bar_next[index]
    clean, _ = split(schedule, index, latents, output)
    if edit is not None:
        clean = edit(clean, index)
    kept = now / after  # alpha of this step; 1 - kept is its beta
    of_clean = math.sqrt(after) * (1 - kept) / (1 - now)
    of_latents = math.sqrt(kept) * (1 - after) / (1 - now)
    variance = (1 - after) / (1 - now) * (1 - kept)
    return of_clean * clean + of_latents * latents + math.sqrt(variance) * noise
