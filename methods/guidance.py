"""Classifier-free guidance (arXiv 2207.12598): a scale per step, and how two halves combine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

# Share of the way from min to max at x in [0, 1], the position in the run.
_SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda x: 0.5,
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


def ramp_scales(low: float, high: float, shape: str, steps: int) -> tuple[float, ...]:
    """Return one guidance scale per step, from `low` at the first (noisiest) to `high` at the last.

    shape: `linear`; `cosine`, flat at both ends; `constant`, the midpoint, which is the mean of the
        other two. A single step takes `low`, unless the shape is `constant`.
    """
    positions = [step / max(steps - 1, 1) for step in range(steps)]
    return tuple(low + (high - low) * _SHAPES[shape](x) for x in positions)


def guide(output: Tensor, scale: float, halves: int) -> Tensor:
    """Combine a prediction (halves f, ...) into (f, ...): uncond + scale (cond - uncond).

    halves: 2 for [uncond f, cond f], 1 for the conditional half alone, which is returned as it is.
    """
    if halves == 1:
        return output
    uncond, cond = output.chunk(2)
    return uncond + scale * (cond - uncond)
