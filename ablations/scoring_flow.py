"""Estimated flow for scoring: loaded when first wanted, and kept by what it was made from."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from crossframe.flow.estimators import FlowEstimator, both_ways, load_estimator
from crossframe.flow.fields import FlowFields
from crossframe.flow.table import FLOWS, flow_identity
from methods.base import Shared


class LateEstimator:
    """An estimator by name, loaded when it is first asked for a flow.

    So a metric that needs none is not stopped by absent weights. Raises UserError at once for a
    name that is not in `FLOWS`, and from `forward` as `load_estimator` does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.check: str = FLOWS.entry(name).extra["check"]

    @cached_property
    def _loaded(self) -> FlowEstimator:
        return load_estimator(self.name)

    def forward(self, frames: np.ndarray) -> Tensor:
        """(f, h, w, 3) uint8 RGB -> (p, 2, h, w) float32, from each frame to the next."""
        return self._loaded.forward(frames)


def estimated_flow(
    frames: np.ndarray, sha256: str, estimator: FlowEstimator, shared: Shared
) -> FlowFields:
    """Return the flow of (f, h, w, 3) uint8 RGB in both directions, from the stage cache or made.

    sha256: of the frames. shared: as in `methods.base`. Raises NotAvailable when the estimator
    lacks its weights or the frames are too few or too small.
    """

    def made() -> dict[str, Tensor]:
        fields = both_ways(estimator, frames)
        return {name: value for name, value in vars(fields).items() if isinstance(value, Tensor)}

    parts = [flow_identity(estimator.name), sha256]
    return FlowFields(**shared("flow", parts, made), source=estimator.name)
