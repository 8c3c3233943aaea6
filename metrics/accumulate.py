"""The torchmetrics side of every metric: a mean over clips of per-clip means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from crossframe.errors import Problem, UserError


class ClipMean(Metric):
    """Average over clips; a long clip weighs as much as a short one. Sums across processes.

    Subclasses name their pure function as `series`, whose arguments are those of `update`.
    """

    is_differentiable = False
    full_state_update = False
    series: ClassVar[Callable[..., Tensor]]
    total: Tensor
    clips: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, *clip: Any) -> None:
        """Add one clip, given as the arguments of the metric's pure function."""
        self.add(type(self).series(*clip))

    def add(self, series: Tensor) -> None:
        """Count one clip, given its (n,) per-frame or per-pair values."""
        self.total += series.double().mean().to(self.total)
        self.clips += 1

    def compute(self) -> Tensor:
        """Return the mean over clips, a scalar. Raises UserError when no clip was given."""
        if not self.clips:
            raise UserError(Problem(type(self).__name__, "no clip was given to update()"))
        return self.total / self.clips
