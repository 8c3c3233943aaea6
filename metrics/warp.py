"""Warping error: how far a frame is from its successor, aligned by the source's flow.

Shapes: f frames, p = f-1 pairs, c channels, h height, w width.
"""

from __future__ import annotations

from torch import Tensor

from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.errors import MetricUnavailable
from metrics.flow import FlowFields, warp_backward
from metrics.shared import source_flow as flow_of_source

NAME = "warp/source_flow"
LEAST_COVERAGE = 0.3


def residual(frames: Tensor, forward: Tensor) -> Tensor:
    """(f, c, h, w), forward flow (p, 2, h, w) -> (p, c, h, w): warped frame t+1 minus frame t."""
    return warp_backward(frames[1:], forward) - frames[:-1]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(p, c, h, w), (p, h, w) bool -> (p,) float64 mean over channels and True pixels, or 0."""
    total = (values.double().mean(1) * mask).sum((1, 2))
    return total / mask.sum((1, 2)).clamp(min=1)


def warp_error(frames: Tensor, forward: Tensor, mask: Tensor) -> Tensor:
    """Mean squared warping error of each pair, (p,) float64, in [0, 1] for frames in [0, 1].

    frames: (f, c, h, w). forward: (p, 2, h, w) pixels, t -> t+1. mask: (p, h, w) bool, the pixels
    of frame t to be scored. E_warp of Lai et al. (2018), "Learning Blind Video Temporal
    Consistency", averaged over channels as their released code does.
    """
    return masked_mean(residual(frames, forward).square(), mask)


def source_flow(inputs: MetricInputs) -> MetricValue:
    """`warp/source_flow`: the warping error along the flow of the source, one value per pair.

    Raises MetricUnavailable for a single frame, or where too few pixels can be compared.
    """
    require_pairs(NAME, len(inputs.frames))
    flow = flow_of_source(inputs)
    require_coverage(flow)
    difference = residual(inputs.frames, flow.forward)
    return mean_of(
        masked_mean(difference.square(), flow.valid),
        flow=flow.source,
        coverage=flow.coverage,
        coverage_min=flow.pair_coverage.min().item(),
        mean_absolute=masked_mean(difference.abs(), flow.valid).mean().item(),
    )


def require_coverage(flow: FlowFields) -> None:
    """Raise MetricUnavailable when a pair has fewer than 30 % pixels that can be compared."""
    lowest, pair = flow.pair_coverage.min(0)
    if lowest < LEAST_COVERAGE:
        t = int(pair)
        raise MetricUnavailable(
            NAME,
            f"only {lowest:.0%} of the pixels of source frame {t} can be followed to frame {t + 1} "
            f"({LEAST_COVERAGE:.0%} are needed)",
            "there may be a cut or fast motion: choose other frames or a smaller clip.stride",
        )


class SourceFlowWarpError(ClipMean):
    """`warp/source_flow` over many clips."""

    higher_is_better = False

    def update(self, frames: Tensor, flow: FlowFields) -> None:
        """Add a clip: frames (f, 3, h, w) in [0, 1], flow of its source."""
        require_coverage(flow)
        self.add(warp_error(frames, flow.forward, flow.valid))
