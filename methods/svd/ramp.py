"""Guidance scales of the frames of one step, (f,): Stable Video Diffusion guides each frame anew.

The paper's reason (arXiv 2311.15127, app. D.4): with too little guidance frames leave the image
that they start from, with too much they saturate; frames far from the image need more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.svd.options import FrameRamp, within

# Share of the way from min to max at u (f,), the position in the video from 0 to 1.
_SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda u: torch.full_like(u, 0.5),
    "cosine": lambda u: (1 - torch.cos(math.pi * u)) / 2,
    "triangle": lambda u: 1 - (2 * u - 1).abs(),
}


def frame_scales(ramp: FrameRamp, frames: int, step: int = 0, steps: int = 1) -> Tensor:
    """Return the guidance scale of each frame in one step, (frames,) float32 on the CPU.

    step: 0 .. steps-1, noisiest first. All ones outside of `ramp.steps`. A linear ramp is
    `torch.linspace(min, max, frames)`, as in diffusers; of a single frame the scale is `min`, or
    the midpoint if constant.

    Raises UserError when `ramp.values` are not as many as the frames, and when `ramp.mean` would
    shift a scale below 0.
    """
    if not within(ramp.steps, step, steps):
        return torch.ones(frames)
    scales = _course(ramp, frames)
    if ramp.reversed:
        scales = scales.flip(0)
    return scales if ramp.mean is None else _shifted(scales, ramp.mean)


def is_guided(scales: Tensor) -> bool:
    """Whether scales (f,) need the unconditional half: some frame's scale is not 1."""
    return bool((scales != 1).any())


def _course(ramp: FrameRamp, frames: int) -> Tensor:
    if ramp.values is not None:
        _check_count(ramp.values, frames)
        return torch.tensor(ramp.values, dtype=torch.float32)
    if ramp.shape == "linear":
        return torch.linspace(ramp.min, ramp.max, frames)
    share = _SHAPES[ramp.shape](torch.linspace(0, 1, frames))
    return ramp.min + (ramp.max - ramp.min) * share


def _shifted(scales: Tensor, mean: float) -> Tensor:
    """Scales (f,) moved to a mean, none below 0 beyond rounding."""
    least = float(scales.mean() - scales.min())
    if mean < least - 1e-6:
        what = f"a mean of {mean:g} makes scales of {len(scales)} frames negative"
        raise UserError(Problem("guidance.ramp.mean", what, f"at least {least:.3g}"))
    return (scales + (mean - scales.mean())).clamp(min=0)


def _check_count(values: tuple[float, ...], frames: int) -> None:
    if len(values) != frames:
        what = f"{len(values)} values for a video of {frames} frames"
        raise UserError(Problem("guidance.ramp.values", what, f"{frames} values"))
