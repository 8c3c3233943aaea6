"""The torchmetrics side of every metric: a mean over clips of per-clip means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from crossframe.errors import Problem, UserError


class ClipMean(Metric):
    """Average over clips; a long clip weighs as much as a short one. Sums across processes.

    Subclasses define `update` and end it with `self.add(series)`.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    clips: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, series: Tensor) -> None:
        """Count one clip, given its (n,) per-frame or per-pair values."""
        self.total += series.mean().to(self.total)
        self.clips += 1

    def compute(self) -> Tensor:
        """Return the mean over clips, a scalar. Raises UserError when no clip was given."""
        if not self.clips:
            raise UserError(Problem(type(self).__name__, "no clip was given to update()"))
        return self.total / self.clips
