"""The motion field of Text2Video-Zero: latents moved as a whole, and noise added back.

Written from the paper's equations (arXiv 2303.13439, section 3.3.1). Shapes: latents (n, c, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PICTURE = 512
"""Pixels along a side of the picture that motion is measured on."""


def moved(latents: Tensor, frame: int, x: float, y: float, grid: str = "centred") -> Tensor:
    """Return latents as frame `frame` shows them: position p takes what lay at p + frame (x, y).

    The nearest position counts, half a step towards zero; beyond the border the picture is
    mirrored, its outermost row included.

    Args:
        latents: (n, c, h, w).
        frame: index of the frame; 0 moves nothing.
        x, y: pixels per frame, of a picture of 512x512 whose latents these are.
        grid: `repo` reads half a pixel less, as the released code does: its coordinates count
            pixels' corners where the sampling counts their centres.
    """
    height, width = latents.shape[-2:]
    columns = _source(width, frame * x, grid).to(latents.device)
    rows = _source(height, frame * y, grid).to(latents.device)
    return latents[..., rows[:, None], columns]


def shift_of(size: int, pixels: float, grid: str) -> int:
    """Return by how many latent positions, of `size` along a side, a motion in pixels moves."""
    exact = (pixels - (0.5 if grid == "repo" else 0.0)) * size / PICTURE
    return int(math.copysign(math.ceil(abs(exact) - 0.5), exact))


def noised(latents: Tensor, noise: Tensor, kept: float) -> Tensor:
    """Return sqrt(kept) latents + sqrt(1 - kept) noise: the forward process of DDPM over a stretch.

    kept: share of the variance that stays, see `kept_between`.
    """
    return math.sqrt(kept) * latents + math.sqrt(1 - kept) * noise


def kept_between(scheduler_config: Mapping[str, Any], t0: int, t1: int, forward: str) -> float:
    """Return the product of alphas over timesteps t0+1 .. t1, in (0, 1).

    scheduler_config: contents of scheduler_config.json. forward: `repo` takes t0 .. t1-1.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    table = DDIMScheduler.from_config(dict(scheduler_config)).alphas_cumprod.double()
    if forward == "repo":
        return float(table[t1 - 1] / (table[t0 - 1] if t0 else 1.0))
    return float(table[t1] / table[t0])


def _source(size: int, pixels: float, grid: str) -> Tensor:
    """Positions from which 0 .. size-1 are taken, (size,) integers in 0 .. size-1."""
    wanted = (torch.arange(size) + shift_of(size, pixels, grid)) % (2 * size)
    return torch.minimum(wanted, 2 * size - 1 - wanted)
