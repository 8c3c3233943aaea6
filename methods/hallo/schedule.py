"""Hallo's noise schedules: velocity prediction down to pure noise, betas of two kinds.

The released code trains on `scaled_linear` betas and samples on `linear` ones: the line of its
inference script that would change the schedule stands after the scheduler is made. Its authors keep
it so. At t = 749 the one leaves .033 of the signal's variance, the other .013.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.ddim import Schedule, make_schedule

Betas = Literal["linear", "scaled_linear"]
TRAINING: Betas = "scaled_linear"
SAMPLING: Betas = "linear"
TIMESTEPS = 1000


def scheduler_config(betas: Betas) -> dict[str, Any]:
    """Return the contents of a DDIM `scheduler_config.json` for either kind of betas.

    Zero terminal signal and trailing timesteps are those of Lin et al., arXiv 2305.08891.
    """
    return {
        "num_train_timesteps": TIMESTEPS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": betas,
        "clip_sample": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }


def alpha_bars(betas: Betas) -> Tensor:
    """Return the signal's variance at every timestep, (1000,) float32; the last one is 0."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return torch.as_tensor(DDIMScheduler.from_config(scheduler_config(betas)).alphas_cumprod)


def sampling_schedule(steps: int, betas: Betas = SAMPLING) -> Schedule:
    """Return the DDIM steps of one segment, t = 999 first.

    A step from t leads to t - 1000 // steps, which is not always the next entry of the list (it is
    not at 7 steps); below 0 all is signal.
    """
    return make_schedule(scheduler_config(betas), steps)
